"""The dashboard's page in a real browser: only by `make test-browser`, with a Chromium on the machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Browser, Page, expect

from gemini_streams import RetryPolicy
from gemini_streams.extras.dashboard import Dashboard, DashboardRef
from gemini_streams.testing import Failure, LocalGemini, Reply
from kit.browser import BROWSER, Tab
from kit.helpers import last_of
from pykka_supervisor import kill
from pykka_supervisor.testing import Probe

if TYPE_CHECKING:
    from conftest import StartManager

pytestmark = pytest.mark.skipif(not BROWSER, reason="a real browser: run by `make test-browser`")

HOSTILE = "<img src=x onerror=hurt()><script>hurt()</script>"


class Board:
    """A dashboard, and pages of it that may not complain of anything."""

    def __init__(self, browser: Browser, ref: DashboardRef) -> None:
        self.browser, self.ref = browser, ref
        self.complaints: list[str] = []

    def opened(self, place: str = "", **context: Any) -> Page:
        page = self.browser.new_context(**context).new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "console",
            lambda said: (
                self.complaints.append(said.text) if "Content Security Policy" in said.text else None
            ),
        )
        page.goto(self.ref.url + place)
        page.wait_for_selector("#link[data-state=live]")
        return page


@pytest.fixture
def board(gemini: LocalGemini, manager: StartManager, probe: Probe, browser: Browser) -> Iterator[Board]:
    gemini.on("held", Reply("one two three", hold_after=1))
    gemini.on("bad", Failure(503), Failure(400))
    ref = manager(retry=RetryPolicy(attempts=2, initial_delay=0, jitter=0), linger=600)
    board = Board(browser, Dashboard.start(ref))
    last_of(probe, ref.start_stream("bad", subscriber=probe.ref, stream_id="b-failed"))
    ref.start_stream("held", subscriber=probe.ref, stream_id=HOSTILE, tag=HOSTILE)
    ref.start_stream("held", subscriber=probe.ref, stream_id="a-held")
    yield board
    for context in browser.contexts:
        context.close()
    board.ref.stop(timeout=20)
    assert board.complaints == []


def ids(page: Page) -> list[str]:
    return page.locator("#streams tbody td.id").all_inner_texts()


def test_a_hostile_id_and_tag_are_text(board: Board) -> None:
    page = board.opened()
    page.evaluate("void (window.hurt = () => { window.hurting = true })")
    expect(page.get_by_role("link", name=HOSTILE)).to_be_visible()
    expect(page.locator("td.tag", has_text=HOSTILE)).to_be_visible()
    page.get_by_role("link", name=HOSTILE).click()
    expect(page.locator("#h-stream")).to_have_text(HOSTILE)
    assert page.evaluate("window.hurting") is None
    assert page.locator("main img, main script").count() == 0


def test_the_table_is_sorted_and_filtered_by_keyboard(board: Board) -> None:
    page = board.opened()
    expect(page.locator("#streams tbody tr")).to_have_count(3)
    assert ids(page)[-1] == "b-failed"  # running streams stand first
    head = page.get_by_role("columnheader", name="Stream", exact=True)
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    expect(head).to_have_attribute("aria-sort", "ascending")
    assert ids(page) == sorted(ids(page), key=str.lower)
    page.keyboard.press("Space")
    expect(head).to_have_attribute("aria-sort", "descending")
    page.get_by_label("Filter").fill("400")
    expect(page.locator("#streams tbody tr")).to_have_count(1)
    assert ids(page) == ["b-failed"]
    page.get_by_label("Filter").fill("")
    page.locator("#status").select_option("active")
    expect(page.locator("#streams tbody tr")).to_have_count(2)


def test_a_focused_row_keeps_its_focus_while_the_page_is_live(board: Board) -> None:
    page = board.opened()
    link = page.get_by_role("link", name="a-held")
    link.focus()
    heard = page.evaluate("state.heard")
    page.wait_for_function("(heard) => state.heard > heard + 1500", arg=heard)
    expect(link).to_be_focused()


def test_a_streams_page_has_its_time_line_and_the_failures_their_causes(board: Board) -> None:
    page = board.opened("#/failures")
    expect(page.locator("#causes li")).to_have_count(2)
    expect(page.locator("#chart svg")).to_have_attribute("role", "img")
    page.get_by_role("link", name="b-failed").first.click()
    expect(page.locator("#steps li b")).to_have_text(["started", "attempt", "restart", "attempt", "error"])
    page.get_by_role("link", name="Tree").click()
    expect(page.locator("#tree")).to_contain_text("StreamSupervisor")


def test_a_page_goes_on_behind_the_dashboards_own_crash(board: Board) -> None:
    page = board.opened()
    heard = page.evaluate("state.heard")
    kill(board.ref)
    page.wait_for_function("(heard) => state.heard > heard + 2500 && state.rows.size == 3", arg=heard)
    expect(page.locator("#link")).to_have_text("live")


def test_the_ninth_viewer_is_told_and_let_in_when_there_is_a_place(board: Board) -> None:
    viewers = [Tab(board.ref.url.rstrip("/"), "/events") for _ in range(8)]
    page = board.browser.new_page()
    page.goto(board.ref.url)
    expect(page.locator("#link")).to_contain_text("places for viewers are taken", timeout=20_000)
    for viewer in viewers:
        viewer.close()
    expect(page.locator("#link")).to_have_text("live", timeout=30_000)


@pytest.mark.parametrize("place", ["#/streams", "#/tree", "#/failures"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_need_not_be_scrolled_sideways(board: Board, place: str, scheme: str) -> None:
    page = board.opened(place, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    # Text and ground differ enough to be read (WCAG's 4.5 to 1).
    assert page.evaluate(CONTRAST) >= 4.5


CONTRAST = """() => {
  const light = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
      .map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = light(getComputedStyle(document.body).backgroundColor);
  let least = 99;
  for (const element of document.querySelectorAll("main *, header *, #figures *")) {
    if (!element.checkVisibility() || !element.textContent.trim() || element.closest("svg")) continue;
    const text = light(getComputedStyle(element).color);
    least = Math.min(least, (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05));
  }
  return least;
}"""
