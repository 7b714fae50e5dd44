"""`top`: a dashboard in a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from conftest import StartManager
from gemini_streams.cli.command import main
from gemini_streams.extras.dashboard import Dashboard, DashboardRef
from gemini_streams.testing import Failure, LocalGemini, Reply
from kit.command import command, environment
from kit.helpers import eventually, last_of
from pykka_supervisor import kill
from pykka_supervisor.testing import Probe

pytest.importorskip("rich")


@pytest.fixture
def board(gemini: LocalGemini, manager: StartManager, probe: Probe) -> Iterator[DashboardRef]:
    gemini.on("held", Reply("one two three", hold_after=1))
    gemini.on("bad", Failure(400))
    ref = manager(max_streams=7, linger=600)
    made = Dashboard.start(ref)
    last_of(probe, ref.start_stream("bad", subscriber=probe.ref, stream_id="b-failed"))
    ref.start_stream("held", subscriber=probe.ref, stream_id="a-held", tag="[red]\x1b[31mmine")
    eventually(lambda: ref.get_stream_info("a-held").events_count)
    yield made
    made.stop(timeout=20)


def test_once_prints_a_table_and_ends(
    board: DashboardRef, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "220")
    assert main(["top", board.url, "--once"]) == 0
    out = capsys.readouterr().out
    head, *rows = [line for line in out.splitlines() if line.strip()]
    assert "1 of 7 running, 0 queued, 0 restarting, 0 paused; 1 failed" in head
    held, failed = (next(row for row in rows if name in row) for name in ("a-held", "b-failed"))
    assert rows.index(held) < rows.index(failed)
    assert "[red][31mmine" in held
    assert "active" in held
    assert "\x1b" not in out
    assert "APIError: 400 INVALID_ARGUMENT" in failed


def test_a_narrow_terminal_and_every_order(
    board: DashboardRef, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    for sort in ("age", "rate", "events", "waiting", "paused", "model", "status"):
        assert main(["top", board.url.removeprefix("http://"), "--once", "--sort", sort]) == 0
        out = capsys.readouterr().out
        assert "a-held" in out
        assert max(map(len, out.splitlines()[2:])) <= 50


def test_an_actor_that_was_restarted_is_named(
    manager: StartManager, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    ref = manager()
    board = Dashboard.start(ref)
    kill(ref)
    ref.get_stats()  # the next incarnation's
    assert main(["top", board.url, "--once"]) == 0
    board.stop(timeout=20)
    assert "manager: restarts 1, last end Killed" in capsys.readouterr().out


def test_it_finds_a_dashboard_again_that_was_killed(
    board: DashboardRef, capsys: pytest.CaptureFixture[str]
) -> None:
    kill(board)

    def shown() -> bool:
        try:
            return main(["top", board.url, "--once"]) == 0
        finally:
            capsys.readouterr()

    eventually(shown)  # it is back at the same address


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("ftp://127.0.0.1/", 2, "the URL is the dashboard's"),
        ("http://127.0.0.1:port/", 2, "port"),
        ("http://127.0.0.1:1/", 1, "refused"),
    ],
)
def test_a_wrong_url_is_one_line(url: str, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", url, "--once"]) == code
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


def test_another_server_is_one_line(gemini: LocalGemini, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", gemini.url, "--once"]) == 1
    assert "answered 404" in capsys.readouterr().err


class Screen:
    """The command on a pseudo-terminal."""

    def __init__(self, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        more = {"TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
        self.process = subprocess.Popen(
            command(*arguments),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(None, more),
            start_new_session=True,
        )
        os.close(slave)
        self.output = ""

    def until(self, text: str) -> None:
        deadline = time.monotonic() + 20
        while text not in self.output:
            ready, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{text!r} did not come: {self.output[-500:]!r}"
            self.output += os.read(self.master, 65536).decode("utf-8", "replace")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def screen(board: DashboardRef) -> Iterator[Screen]:
    made = Screen("top", board.url, "--interval", "0.1")
    yield made
    made.close()


def test_on_a_terminal_it_is_live_says_when_the_dashboard_is_lost_and_ends_with_q(
    board: DashboardRef, gemini: LocalGemini, screen: Screen
) -> None:
    screen.until("a-held")
    screen.until("0.0 events/s")
    gemini.gate("held").open()
    screen.until("0 of 7 running")
    board.stop(timeout=20)
    screen.until("LOST")
    os.write(screen.master, b"q")
    while select.select([screen.master], [], [], 20)[0]:
        try:
            if not os.read(screen.master, 65536):
                break
        except OSError:
            break
    assert screen.process.wait(20) == 0
    assert "Traceback" not in screen.output


def test_without_rich_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert main(["top", "http://127.0.0.1:1/"]) == 1
    assert "gemini-streams[cli]" in capsys.readouterr().err
