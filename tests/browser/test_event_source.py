"""A real browser's `EventSource`: only by `make test-browser`, with a Chromium on the machine."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Browser, Page

from gemini_streams import StartStream
from gemini_streams.testing import LocalGemini, Reply
from kit.browser import BROWSER
from kit.helpers import eventually
from kit.web import on_starlette

if TYPE_CHECKING:
    from conftest import StartManager

pytestmark = pytest.mark.skipif(not BROWSER, reason="a real browser: run by `make test-browser`")


def asks(name: str) -> StartStream:
    return StartStream(f"why {name}", stream_id=name, history=64 << 20)


def opened(browser: Browser, url: str, name: str = "a") -> Page:
    page = browser.new_page()
    page.goto(f"{url}/#{name}")
    return page


def heard(page: Page, name: str) -> Any:
    """Wait until a message of that name has come."""
    page.wait_for_function("(name) => said.some(([heard]) => heard == name)", arg=name, timeout=20_000)
    return page.evaluate("(name) => said.find(([heard]) => heard == name)[1]", name)


def settled(page: Page) -> None:
    """Wait until the browser does not come back any more."""
    page.wait_for_function("() => source.readyState == EventSource.CLOSED", timeout=20_000)


def test_an_answer_that_has_ended_is_not_asked_for_again(
    gemini: LocalGemini, manager: StartManager, browser: Browser
) -> None:
    gemini.on("why", Reply("one two three"))
    with on_starlette(manager(linger=0), asks) as url:
        page = opened(browser, url)
        assert heard(page, "end")["ok"]
        settled(page)  # the page has not closed it: the browser came back, and was told 204
        assert page.evaluate("text()") == "one two three"
        page.close()
    assert len(gemini.requests) == 1


def test_a_page_that_is_loaded_again_and_a_second_tab_have_all_of_it(
    gemini: LocalGemini, manager: StartManager, browser: Browser
) -> None:
    gemini.on("why", Reply("one two three", hold_after=2))
    with on_starlette(manager(), asks) as url:
        page = opened(browser, url)
        heard(page, "event")
        page.reload()
        heard(page, "event")
        second = opened(browser, url)
        heard(second, "event")
        gemini.gate("why").open()
        for each in (page, second):
            assert heard(each, "end")["ok"]
            assert each.evaluate("text()") == "one two three"
            each.close()
    assert len(gemini.requests) == 1


def test_a_server_that_is_started_again_says_that_the_answer_is_gone(
    gemini: LocalGemini, manager: StartManager, browser: Browser
) -> None:
    gemini.on("why", Reply("one two three", hold_after=2))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    first = manager()
    with on_starlette(first, asks, port=port) as url:
        page = opened(browser, url)
        heard(page, "event")
    with on_starlette(manager(), asks, port=port):
        heard(page, "gone")
        settled(page)
        page.close()
    assert len(gemini.requests) == 1


def test_a_lost_connection_goes_on_without_a_word_twice(
    gemini: LocalGemini, manager: StartManager, browser: Browser
) -> None:
    gemini.on("why", Reply("one two three", hold_after=2))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ref = manager()
    with on_starlette(ref, asks, port=port) as url:
        page = opened(browser, url)
        page.wait_for_function("() => said.length == 2")
    eventually(lambda: ref.get_stats().total_subscribers == 0)
    with on_starlette(ref, asks, port=port):  # the web server was another one, the manager is the same
        gemini.gate("why").open()
        assert heard(page, "end")["ok"]
        assert page.evaluate("text()") == "one two three"
        assert page.evaluate("errors") >= 1
        page.close()
    assert len(gemini.requests) == 1


def test_a_stalled_tab_holds_no_quick_one_up(
    gemini: LocalGemini, manager: StartManager, browser: Browser
) -> None:
    gemini.on("why", Reply([f"{n} " + "x" * 2000 for n in range(5_000)], hold_after=1))
    with on_starlette(manager(), asks) as url:
        # Another site, and so another process of the browser: a page that computes holds its own process up.
        stalled = opened(browser, url.replace("127.0.0.1", "localhost"))
        heard(stalled, "event")
        quick = opened(browser, url)
        heard(quick, "event")
        stalled.evaluate(
            "() => { setTimeout(() => { for (const t = Date.now(); Date.now() - t < 4000;); }) }"
        )
        gemini.gate("why").open()
        assert heard(quick, "end")["ok"]
        assert heard(stalled, "end")["ok"]
        for page in (quick, stalled):
            assert page.evaluate("new Set(said.map(([_, data]) => data.sequence)).size") >= 5_000
            page.close()
    assert len(gemini.requests) == 1
