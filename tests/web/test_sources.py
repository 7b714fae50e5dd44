"""A stream for browsers, over real connections, from a WSGI and an ASGI server."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING

import pytest

from gemini_streams import (
    FlowControl,
    Gemini,
    InvalidRequestError,
    MissingCredentialsError,
    StartStream,
    StreamExistsError,
    StreamNotFoundError,
)
from gemini_streams.testing import Failure, LocalGemini, Reply
from gemini_streams.web import event_source
from kit.browser import Sent, Tab, parsed
from kit.helpers import eventually
from kit.web import on_flask, on_starlette
from pykka_supervisor.testing import Probe

if TYPE_CHECKING:
    from conftest import StartManager

    OnServer = Callable[..., AbstractContextManager[str]]

both = pytest.mark.parametrize("on_server", [on_flask, on_starlette], ids=["wsgi", "asgi"])


def asks(name: str) -> StartStream | str:
    return name if name.startswith("by-id") else StartStream(f"why {name}", stream_id=name)


def text(events: list[Sent]) -> str:
    return "".join(one.json["text"] for one in events if one.event == "event")


@both
def test_a_browser_reads_an_answer_to_its_end(
    gemini: LocalGemini, manager: StartManager, on_server: OnServer
) -> None:
    gemini.on("why", Reply("one two three"))
    with on_server(manager(), asks) as url:
        tab = Tab(url, "/answer/a")
        assert tab.response.status == 200
        assert tab.response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert tab.response.headers["Cache-Control"] == "no-cache"
        assert tab.response.headers["X-Accel-Buffering"] == "no"
        *events, end = tab.events()
        assert text(events) == "one two three"
        assert end == Sent("end", end.data, "end")
        assert end.json == {"outcome": "complete", "ok": True, "finish_reason": "STOP"}
        tab.close()


@both
def test_a_lost_connection_goes_on_behind_the_latest_event(
    gemini: LocalGemini, manager: StartManager, on_server: OnServer
) -> None:
    gemini.on("why", Reply("one two three four", hold_after=2))
    ref = manager()
    with on_server(ref, asks) as url:
        tab = Tab(url, "/answer/a")
        events = tab.events()
        next(events)
        second = next(events)
        tab.close()
        eventually(lambda: ref.get_stats().total_subscribers == 0, what="leaving is noticed")
        tab = Tab(url, "/answer/a", second.id)
        gemini.gate("why").open()
        assert text(list(tab.events())) == " three four"
        tab.close()
    assert len(gemini.requests) == 1


@both
def test_a_page_that_is_loaded_again_and_a_second_tab_get_all_of_it(
    gemini: LocalGemini, manager: StartManager, on_server: OnServer
) -> None:
    gemini.on("why", Reply("one two three", hold_after=2))
    with on_server(manager(), asks) as url:
        first = Tab(url, "/answer/a")
        next(first.events())
        first.close()
        tabs = [Tab(url, "/answer/a") for _ in range(2)]
        gemini.gate("why").open()
        for tab in tabs:
            assert text(list(tab.events())) == "one two three"
            tab.close()
    assert len(gemini.requests) == 1


@both
def test_what_is_gone_is_told_and_never_asked_for_again(
    gemini: LocalGemini, manager: StartManager, on_server: OnServer
) -> None:
    with on_server(manager(), asks) as url:
        for position in ("0123abcd-1-4", "rubbish"):
            tab = Tab(url, "/answer/a", position)
            assert tab.response.status == 200
            gone, end = tab.events()
            assert (gone.event, end.event, end.id) == ("gone", "end", "end")
            tab.close()
        tab = Tab(url, "/answer/a", "end")
        assert tab.response.status == 204
        assert tab.response.read() == b""
        tab.close()
    assert gemini.requests == []


@both
def test_a_stream_that_exists_is_joined_by_its_id(
    gemini: LocalGemini, manager: StartManager, on_server: OnServer, probe: Probe
) -> None:
    gemini.on("why", Reply("one two three", hold_after=2))
    ref = manager()
    with on_server(ref, asks) as url:
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(url + "/answer/by-id")
        ref.start_stream("why", subscriber=probe.ref, stream_id="by-id", history=1 << 20)
        gemini.gate("why").reached()
        tab = Tab(url, "/answer/by-id")
        gemini.gate("why").open()
        assert text(list(tab.events())) == "one two three"
        tab.close()


@both
def test_a_restart_is_told(gemini: LocalGemini, manager: StartManager, on_server: OnServer) -> None:
    gemini.on("why", Reply("one two", end="reset", end_after=1), Reply("three four"))
    with on_server(manager(), asks) as url:
        tab = Tab(url, "/answer/a")
        events = list(tab.events())
        assert [one.event for one in events] == ["event", "restarting", "event", "event", "end"]
        assert events[1].json["resume_at"] == 0
        tab.close()


@both
def test_a_failure_is_told_by_name_and_code(
    gemini: LocalGemini, manager: StartManager, on_server: OnServer
) -> None:
    gemini.on("why", Failure(403, "project 4711 may not"))
    with on_server(manager(), asks) as url:
        tab = Tab(url, "/answer/a")
        [end] = tab.events()
        assert end.json == {
            "outcome": "error",
            "ok": False,
            "error": "APIError",
            "retryable": False,
            "code": 403,
        }
        tab.close()


def test_a_browser_that_stalls_is_let_go_and_holds_up_no_other(
    gemini: LocalGemini, manager: StartManager
) -> None:
    gemini.on("why", Reply([f"{n} " + "x" * 1000 for n in range(20_000)]))
    ref = manager(history=32 << 20)

    def ask(name: str) -> StartStream:
        return StartStream("why", stream_id="a", history=32 << 20)

    with on_starlette(ref, ask) as url:
        stalled, quick = Tab(url, "/answer/a"), Tab(url, "/answer/a")
        latest, got = None, 0
        while True:
            for one in quick.events():
                if one.event == "end":
                    break
                latest, got = one.id, got + 1
            else:  # let go: it comes back, as a browser does
                quick.close()
                quick = Tab(url, "/answer/a", latest)
                continue
            break
        assert got == 20_000
        quick.close()
        rest = list(stalled.events())
        assert 0 < len(rest) < 20_000
        assert rest[-1].event == "event"  # without an end: it would come back
        stalled.close()
    assert len(gemini.requests) == 1


def test_two_hundred_browsers_on_one_answer_have_no_thread_each(
    gemini: LocalGemini, manager: StartManager
) -> None:
    gemini.on("why", Reply([f"{n} " for n in range(50)], hold_after=10))
    ref = manager()
    with on_starlette(ref, asks) as url, ExitStack() as closing:
        before = threading.active_count()
        tabs = []
        for _ in range(200):
            tab = Tab(url, "/answer/a")
            closing.callback(tab.close)
            tabs.append(tab)
        assert ref.get_stats().total_subscribers == 200
        assert threading.active_count() - before < 10  # the stream's own, and the server's for what it reads
        gemini.gate("why").open()
        for tab in tabs:
            assert text(list(tab.events())) == "".join(f"{n} " for n in range(50))
    assert len(gemini.requests) == 1


def test_refusals_raise_before_the_status(gemini: LocalGemini, manager: StartManager) -> None:
    gemini.on("why", Reply("one", hold_after=0))
    ref = manager()
    with pytest.raises(InvalidRequestError, match="stream_id"):
        event_source(ref, StartStream("why"))
    with pytest.raises(InvalidRequestError, match="not of list"):
        event_source(ref, ["why"])  # type: ignore[arg-type]
    with pytest.raises(StreamNotFoundError):
        event_source(ref, "a")
    source = event_source(ref, StartStream("why", stream_id="a"))
    with pytest.raises(StreamExistsError):
        event_source(ref, StartStream("another", stream_id="a"))
    source.close()
    assert list(source) in ([], [b"retry: 1000\n\n"])
    ref.stop_stream("a")


def test_a_request_that_says_so_itself_is_left_alone(gemini: LocalGemini, manager: StartManager) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager()
    own = StartStream("why", stream_id="a", keep=0, flow=FlowControl(window=3))
    source = event_source(ref, own)
    next(source)
    assert parsed(next(source))[0].event == "event"
    source.close()
    eventually(lambda: ref.get_stats().stopped == 1)


def test_missing_credentials_raise(monkeypatch: pytest.MonkeyPatch, manager: StartManager) -> None:
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    with pytest.raises(MissingCredentialsError):
        event_source(manager(), StartStream("why", stream_id="a", endpoint=Gemini()))
