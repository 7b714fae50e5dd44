"""The time-outs of a stream, on a clock that only the test turns."""

from __future__ import annotations

import time
from typing import Any

import pytest

from conftest import StartManager
from gemini_streams import (
    ConnectionFailedError,
    DeadlineExceededError,
    FirstEventTimeoutError,
    Gemini,
    GeminiStreamsError,
    IdleTimeoutError,
    StreamComplete,
)
from gemini_streams.testing import LocalGemini, Raw, Reply, StallUpload
from kit.helpers import LAST, ONCE, error_of, eventually, last_of
from pykka_supervisor.testing import Probe, TestClock

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
SILENCES: dict[str, Any] = {
    "headers": Reply("late", hold_before_headers=True),
    "first event": Reply("late", hold_after=0),
    "upload": StallUpload(),
    "half an event": Raw([HEAD, b"20\r\ndata: half"], close="silent"),
    "comments only": Raw([HEAD, b"d\r\n: comment\r\n\r\n\r\n" * 3], close="silent"),
}


def waits_for(clock: TestClock, seconds: float) -> None:
    """The stream's own timer is set: it is due in so many seconds."""
    clock.wait_for_timer(within=seconds)


@pytest.mark.parametrize("phase", SILENCES)
def test_silence_before_the_first_event(
    gemini: LocalGemini, manager: StartManager, probe: Probe, clock: TestClock, phase: str
) -> None:
    gemini.on("why", SILENCES[phase])
    ref = manager(clock=clock, retry=ONCE, first_event_timeout=40, idle_timeout=3, linger=900)
    ref.start_stream("why" + "x" * (8_000_000 if phase == "upload" else 0), subscriber=probe.ref)
    record = gemini.wait_request()
    waits_for(clock, 40)
    if phase not in ("headers", "upload"):
        eventually(lambda: record.bytes_sent > 0)
        time.sleep(0.02)  # what was sent is read
    clock.advance(39.9)
    assert record.closed_at is None
    assert not any(isinstance(m, LAST) for m in probe.messages)
    clock.advance(0.2)
    error = error_of(probe)
    assert type(error) is FirstEventTimeoutError
    assert isinstance(error, TimeoutError)
    assert error.retryable
    assert "40 s" in str(error)
    assert "first_event_timeout" in str(error)
    record.wait_closed(1.0)


@pytest.mark.parametrize("after", [1, 2])
def test_silence_between_two_events(
    gemini: LocalGemini, manager: StartManager, probe: Probe, clock: TestClock, after: int
) -> None:
    gemini.on("why", Reply("one two three", hold_after=after))
    ref = manager(clock=clock, retry=ONCE, first_event_timeout=3, idle_timeout=40, linger=900)
    ref.start_stream("why", subscriber=probe.ref)
    probe.wait(after)
    waits_for(clock, 40)
    clock.advance(39.9)
    assert len(probe.messages) == after
    clock.advance(0.2)
    error = error_of(probe)
    assert type(error) is IdleTimeoutError
    assert isinstance(error, TimeoutError)
    assert error.retryable
    assert "40 s" in str(error)
    assert "idle_timeout" in str(error)
    gemini.wait_request().wait_closed(1.0)


def test_each_event_starts_the_silence_anew(
    gemini: LocalGemini, manager: StartManager, probe: Probe, clock: TestClock
) -> None:
    gemini.on("why", Reply("one two three four", hold_after=2))
    ref = manager(clock=clock, retry=ONCE, idle_timeout=10, linger=900)
    ref.start_stream("why", subscriber=probe.ref)
    probe.wait(2)
    clock.advance(9)
    gemini.gate("why").open()
    assert isinstance(last_of(probe), StreamComplete)
    clock.advance(100)
    probe.expect_nothing(0.02)


def test_comments_are_no_events(
    gemini: LocalGemini, manager: StartManager, probe: Probe, clock: TestClock
) -> None:
    """A server that only keeps the line open is silent."""
    comment = b"d\r\n: comment\r\n\r\n\r\n"
    event = b'data: {"candidates":[{"content":{"parts":[{"text":"one"}]}}]}\r\n\r\n'
    parts: list[bytes | float] = [HEAD, b"%x\r\n%s\r\n" % (len(event), event)]
    gemini.on("why", Raw(parts + [comment, 0.01] * 300, close="silent"))
    ref = manager(clock=clock, retry=ONCE, idle_timeout=10, linger=900)
    ref.start_stream("why", subscriber=probe.ref)
    probe.wait(1)
    for _ in range(12):
        clock.advance(1)
        time.sleep(0.02)  # comments come all the while
    assert type(error_of(probe)) is IdleTimeoutError


@pytest.mark.parametrize(
    "phase", ["headers", "first event", "silent body", "upload", "connecting", "handshake"]
)
def test_the_deadline(
    gemini: LocalGemini, manager: StartManager, probe: Probe, clock: TestClock, phase: str
) -> None:
    gemini.on("why", SILENCES.get(phase, Reply("one two", hold_after=1)))
    ref = manager(
        clock=clock, deadline=50, connect_timeout=1.0, linger=900
    )  # with the retries of the default
    endpoint = {
        "connecting": Gemini(api_key="k", base_url=gemini.unconnectable_url()),
        "handshake": Gemini(api_key="k", base_url=gemini.mute_url(tls=True)),
    }.get(phase, gemini.endpoint)
    contents = "why" + "x" * (8_000_000 if phase == "upload" else 0)
    stream_id = ref.start_stream(contents, subscriber=probe.ref, endpoint=endpoint)
    if endpoint is gemini.endpoint:
        gemini.wait_request()
    waits_for(clock, 50)
    clock.advance(49.9)
    assert not any(isinstance(m, LAST) for m in probe.messages)
    clock.advance(0.2)
    last = last_of(probe, stream_id)
    assert type(last.error) is DeadlineExceededError
    assert isinstance(last.error, TimeoutError)
    assert not last.error.retryable
    assert "50 s" in str(last.error)
    assert last.attempts == 1
    if endpoint is gemini.endpoint:
        gemini.wait_request().wait_closed(1.0)
    assert len(gemini.requests) <= 1


def test_the_deadline_of_one_stream_is_its_own(
    gemini: LocalGemini, manager: StartManager, probe: Probe, clock: TestClock
) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager(clock=clock, deadline=50, idle_timeout=500, linger=900)
    short = ref.start_stream("why", subscriber=probe.ref, deadline=5)
    endless = ref.start_stream("why", subscriber=probe.ref, deadline=None)
    usual = ref.start_stream("why", subscriber=probe.ref)
    gemini.gate("why").reached(n=3)
    probe.wait(3)
    clock.advance(5.1)
    assert probe.expect(LAST).stream_id == short
    clock.advance(45)
    assert probe.expect(LAST).stream_id == usual
    clock.advance(300)
    gemini.gate("why").open()
    last = probe.expect(LAST)
    assert (last.stream_id, type(last)) == (endless, StreamComplete)


@pytest.mark.parametrize("where", ["connecting", "handshake"])
def test_the_connect_timeout_is_real_time(
    gemini: LocalGemini, manager: StartManager, probe: Probe, where: str
) -> None:
    url = gemini.unconnectable_url() if where == "connecting" else gemini.mute_url(tls=True)
    ref = manager(connect_timeout=0.3, retry=ONCE)
    start = time.monotonic()
    ref.start_stream("why", subscriber=probe.ref, endpoint=Gemini(api_key="k", base_url=url))
    error = error_of(probe)
    assert 0.25 < time.monotonic() - start < 10
    assert type(error) is ConnectionFailedError
    assert isinstance(error, ConnectionError)
    assert error.retryable
    assert "connect_timeout" in str(error)


def test_the_connect_timeout_is_not_the_uploads(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    """urllib3 would put it on the body's sending, and on the wait for the answer."""
    gemini.on("large", StallUpload(then=Reply("fine", headers_delay=0.5)))
    ref = manager(connect_timeout=0.2, retry=ONCE)
    for _ in range(2):  # a new connection, and a kept one
        ref.start_stream("large" + "x" * 8_000_000, subscriber=probe.ref)
        gemini.gate("large").reached()
        time.sleep(0.5)
        gemini.gate("large").open()
        assert isinstance(probe.expect(LAST), StreamComplete)
    assert gemini.connections_opened == 1


def test_timers_of_streams_that_ended_are_gone(
    gemini: LocalGemini, manager: StartManager, probe: Probe, clock: TestClock
) -> None:
    ref = manager(clock=clock, deadline=500, linger=3)
    for number in range(20):
        ref.start_stream("hello", subscriber=probe.ref)
        probe.expect(LAST)
        if number == 9:
            clock.advance(2)
    assert clock.pending() == 2  # one for all that linger, one for idle connections
    assert len(ref.list_streams()) == 20
    clock.advance(1.1)
    assert len(ref.list_streams()) == 10  # each for as long as the others
    assert clock.pending() == 2
    clock.advance(2)
    assert ref.list_streams() == []
    eventually(lambda: clock.pending() == 1)
    clock.advance(120)  # no connection is idle for so long
    assert clock.pending() == 0


def test_a_late_timer_ends_no_stream_that_is_complete(
    gemini: LocalGemini, manager: StartManager, probe: Probe, clock: TestClock
) -> None:
    """The end and the time-out race: one last message, whichever it is, and a pool that is sound."""
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager(clock=clock, retry=ONCE, idle_timeout=10, linger=0)
    kinds = set()
    for n in range(60):
        gemini.gate("why").close()
        stream_id = ref.start_stream("why", subscriber=probe.ref)
        gemini.gate("why").reached(n=n + 1)
        probe.expect(object, lambda m, i=stream_id: m.stream_id == i)  # type: ignore[misc]
        gemini.gate("why").open()
        time.sleep((n % 10) * 0.0002)
        clock.advance(11)
        last = last_of(probe, stream_id)
        kinds.add(type(getattr(last, "error", last)))
        ref.start_stream("hello", subscriber=probe.ref)
        assert isinstance(probe.expect(LAST), StreamComplete)
    assert kinds <= {StreamComplete, IdleTimeoutError}
    assert issubclass(IdleTimeoutError, GeminiStreamsError)


def test_a_tree_that_has_ended_leaves_no_timer(
    gemini: LocalGemini, manager: StartManager, probe: Probe, clock: TestClock
) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager(clock=clock, deadline=500, linger=300)
    ref.start_stream("hello", subscriber=probe.ref)
    probe.expect(LAST)
    ref.start_stream("why", subscriber=probe.ref)
    gemini.gate("why").reached()
    assert clock.pending() >= 2
    ref.stop(timeout=20)
    eventually(lambda: clock.pending() == 0)
