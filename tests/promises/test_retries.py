"""Each way a server can fail, how often it is asked again and at what distance.

The distances are those of the policy's clock; `Scene.ride` looks at each wait from both sides.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from gemini_streams import (
    APIError,
    ConnectionFailedError,
    ConnectionLostError,
    DeadlineExceededError,
    EventTooLargeError,
    FirstEventTimeoutError,
    Gemini,
    GeminiStreamsError,
    IdleTimeoutError,
    MalformedEventError,
    RetryPolicy,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamTruncatedError,
    UnexpectedResponseError,
)
from gemini_streams.testing import Body, Failure, Raw, Reply, http_date, trickle
from kit.scene import STEADY, Scene, texts
from pykka_supervisor.testing import TestClock

TEN = "zero one two three four five six seven eight nine"
USUAL = [0.5, 1.0, 2.0]
GOOD = b'data: {"candidates":[{"content":{"parts":[{"text":"a"}]}}]}\r\n\r\n'


def fail(answer: Any, **options: Any) -> tuple[list[float], StreamError, Any, int]:
    """Ride a stream that gets this answer each time to its end: distances, last message, probe, requests."""
    clock = TestClock()
    with Scene(clock=clock, retry=STEADY) as scene:
        scene.gemini.on("why", answer)
        stream_id, probe = scene.start(**options)
        distances, last = scene.ride(stream_id, probe)
        assert isinstance(last, StreamError)
        return distances, last, probe, scene.requests()


# -- 33


@pytest.mark.parametrize(
    ("answer", "error", "seen"),
    [
        (Raw(b"", close="reset"), ConnectionLostError, 0),
        (Raw(b"", close="fin"), ConnectionLostError, 0),
        (Reply(TEN, end="reset", end_after=3), ConnectionLostError, 3),
        (Reply(TEN, end="cut", end_after=3), ConnectionLostError, 3),
        (Reply(TEN, end="cut", end_after=3, half=True), ConnectionLostError, 3),
        (Reply(TEN, end="cut", end_after=3, framing="length"), ConnectionLostError, 3),
        (Reply(TEN, end_after=3), StreamTruncatedError, 3),
        (Reply(TEN, end_after=0), StreamTruncatedError, 0),
        (Reply(TEN, end_after=3, framing="close"), StreamTruncatedError, 3),
        (Body(GOOD, "byte", end="reset", end_after=90), ConnectionLostError, 1),
    ],
    ids=[
        "reset before the headers",
        "closed before the headers",
        "reset after 3 of 10",
        "cut after 3 of 10",
        "cut in the middle of an event",
        "cut short of its length",
        "an early clean end",
        "a clean end at once",
        "an early end that only the closing marks",
        "a reset between two bytes",
    ],
)
def test_a_broken_answer_is_asked_for_four_times(
    answer: Any, error: type[GeminiStreamsError], seen: int
) -> None:
    distances, last, probe, requests = fail(answer)
    assert distances == USUAL
    assert requests == 4
    assert type(last.error) is error
    assert last.attempts == 4
    events = [m for m in probe.messages if isinstance(m, StreamEvent)]
    if not isinstance(answer, Body) and "reset" not in str(getattr(answer, "end", "")):
        assert len(events) == 4 * seen  # a reset may throw away what was on its way
    restarts = [m for m in probe.messages if isinstance(m, StreamRestarting)]
    assert [m.attempt for m in restarts] == [2, 3, 4]
    assert all(type(m.error) is error and m.resume_at == 0 for m in restarts)


def test_a_refused_connection_is_tried_four_times() -> None:
    with Scene(clock=TestClock(), retry=STEADY) as scene:
        endpoint = Gemini(api_key="k", base_url=scene.gemini.refused_url())
        stream_id, probe = scene.start(endpoint=endpoint)
        distances, last = scene.ride(stream_id, probe)
        assert distances == USUAL
        assert isinstance(last.error, ConnectionFailedError)
        assert isinstance(last.error, ConnectionError)


def test_a_certificate_that_does_not_verify_is_not_tried_again() -> None:
    with Scene(tls=True, clock=TestClock(), retry=STEADY) as scene:
        endpoint = Gemini(api_key="local-key", base_url=scene.gemini.url)
        stream_id, probe = scene.start(endpoint=endpoint)
        distances, last = scene.ride(stream_id, probe)
        assert distances == []
        assert isinstance(last.error, ConnectionFailedError)
        assert not last.error.retryable


def _silent(answer: Any, after: float, **options: Any) -> tuple[list[float], Any, int, Scene]:
    """Ride a stream whose server falls silent, by turning the clock past the silence each time."""
    clock = TestClock()
    with Scene(clock=clock, retry=STEADY) as scene:
        scene.gemini.on("why", answer)
        stream_id, probe = scene.start(**options)
        distances: list[float] = []
        for attempt in range(1, 6):
            scene.gemini.wait_request(attempt)
            events = answer.end_after or 0
            for _ in range(events):
                probe.expect(StreamEvent)
            clock.wait_for_timer(within=after)
            clock.advance(after - 0.5)
            time.sleep(0.02)
            assert scene.status(stream_id) != "restarting"  # it has its time
            clock.advance(0.5)
            message = probe.expect((StreamRestarting, StreamError))
            if isinstance(message, StreamError):
                return distances, message.error, scene.requests(), scene
            distances.append(message.delay)
            clock.advance(message.delay)
        raise AssertionError("it went on for ever")


def test_silence_before_the_headers_is_tried_once_more() -> None:
    distances, error, requests, _ = _silent(Reply(TEN, hold_before_headers=True), 300)
    assert isinstance(error, FirstEventTimeoutError)
    assert isinstance(error, TimeoutError)
    assert (distances, requests) == ([0.5], 2)


def test_silence_after_the_headers_is_tried_once_more() -> None:
    distances, error, requests, _ = _silent(Reply(TEN, end="silent", end_after=0), 7, first_event_timeout=7)
    assert isinstance(error, FirstEventTimeoutError)
    assert (distances, requests) == ([0.5], 2)


def test_silence_after_three_events_is_tried_four_times() -> None:
    distances, error, requests, _ = _silent(Reply(TEN, end="silent", end_after=3), 30)
    assert isinstance(error, IdleTimeoutError)
    assert isinstance(error, TimeoutError)
    assert (distances, requests) == (USUAL, 4)


def test_a_byte_every_now_and_then_is_no_event() -> None:
    policy = RetryPolicy(initial_delay=0, jitter=0)
    with Scene(retry=policy) as scene:
        scene.gemini.on("why", trickle(0.05))
        began = time.monotonic()
        _, probe = scene.start(first_event_timeout=0.4)
        last = probe.expect(StreamError)
        assert isinstance(last.error, FirstEventTimeoutError)
        assert scene.requests() == 2
        assert 0.8 <= time.monotonic() - began < 3
        for record in scene.gemini.requests:
            record.wait_closed()


def test_comments_are_no_events() -> None:
    with Scene(retry=RetryPolicy(attempts=1)) as scene:

        def comments() -> Any:
            yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
            yield GOOD
            for _ in range(100):
                yield 0.05
                yield b": still here\r\n\r\n"

        scene.gemini.on("why", lambda _record: Raw(comments()))
        _, probe = scene.start(idle_timeout=0.4)
        assert isinstance(probe.expect(StreamError).error, IdleTimeoutError)


def test_the_deadline_ends_it_at_once_whatever_it_does() -> None:
    for answer in (Reply(TEN, end="silent", end_after=3), Failure(503), Reply(TEN, hold_before_headers=True)):
        clock = TestClock()
        with Scene(clock=clock, retry=RetryPolicy(attempts=99, jitter=0, exp_base=1)) as scene:
            scene.gemini.on("why", answer)
            stream_id, probe = scene.start(deadline=0.4)
            scene.gemini.wait_request(1)
            if isinstance(answer, Failure):
                last = probe.expect(StreamError)
                assert isinstance(last.error, APIError)  # 0.5 s from now would be too late: known at once
                assert clock.monotonic() == 1000
            else:
                clock.wait_for_timer(within=0.4)
                clock.advance(0.4)
                last = probe.expect(StreamError)
                assert isinstance(last.error, DeadlineExceededError)
                assert isinstance(last.error, TimeoutError)
                scene.gemini.requests[0].wait_closed()
            assert last.attempts == 1
            assert scene.requests() == 1
            assert stream_id in scene.manager.list_streams()


# -- 34


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 501])
def test_what_cannot_be_helped_is_asked_once(code: int) -> None:
    distances, last, _, requests = fail(Failure(code))
    assert (distances, requests) == ([], 1)
    assert isinstance(last.error, APIError)
    assert last.error.code == code
    assert not last.error.retryable
    assert (last.attempts, last.events_count) == (1, 0)


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_what_can_be_gone_in_a_moment_is_asked_four_times(code: int) -> None:
    distances, last, _, requests = fail(Failure(code))
    assert (distances, requests) == (USUAL, 4)
    assert isinstance(last.error, APIError)
    assert last.error.code == code


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        (Failure(429, retry_after=2), 2, 2),
        (Failure(429, retry_delay="3s"), 3, 3),
        (Failure(503, retry_after=7.5), 7.5, 7.5),
    ],
    ids=["Retry-After: 2", "RetryInfo behind two other details", "of a 503 too"],
)
def test_the_servers_wish_is_the_least_wait(asked: Failure, least: float, most: float) -> None:
    clock = TestClock()
    with Scene(clock=clock, retry=STEADY) as scene:
        scene.gemini.on("why", asked, asked, Reply("at last"))
        stream_id, probe = scene.start()
        distances, last = scene.ride(stream_id, probe)
        assert distances == pytest.approx([least, least])
        assert isinstance(last, StreamComplete)
        assert (last.attempts, scene.requests()) == (3, 3)


def test_an_http_date_is_understood() -> None:
    with Scene(retry=STEADY) as scene:
        scene.gemini.on("why", lambda _record: Failure(429, retry_after=http_date(2)), Reply("there"))
        began = time.time()
        _, probe = scene.start()
        restart = probe.expect(StreamRestarting)
        assert 0.9 <= restart.delay <= 2  # its grain is a second
        probe.expect(StreamComplete)
        assert time.time() - began >= 1


def test_a_503_twice_and_then_success() -> None:
    with Scene(clock=TestClock(), retry=STEADY) as scene:
        scene.gemini.on("why", Failure(503), Failure(503), Reply("one two"))
        stream_id, probe = scene.start()
        distances, last = scene.ride(stream_id, probe)
        assert distances == [0.5, 1.0]
        assert last.ok
        assert texts(probe.messages) == "one two"
        assert not any(m.discard for m in probe.messages if isinstance(m, StreamRestarting))


# -- 35


@pytest.mark.parametrize("bare", [False, True], ids=["as data", "as bare JSON"])
@pytest.mark.parametrize("first", [0, 2], ids=["at once", "after two events"])
def test_an_error_inside_a_200_stream(bare: bool, first: int) -> None:
    failure = Failure(503, "overloaded")
    distances, last, probe, requests = fail(Reply(TEN, error_after=(first, failure), error_bare=bare))
    assert (distances, requests) == (USUAL, 4)
    assert isinstance(last.error, APIError)
    assert (last.error.code, last.error.status) == (503, "UNAVAILABLE")
    assert len([m for m in probe.messages if isinstance(m, StreamEvent)]) == 4 * first


def test_a_hopeless_one_is_told_at_once() -> None:
    distances, last, _, requests = fail(Reply(TEN, error_after=(2, Failure(400))))
    assert (distances, requests) == ([], 1)
    assert isinstance(last.error, APIError)
    assert last.events_count == 2


_BODIES: dict[str, tuple[Any, type[GeminiStreamsError], int]] = {
    "malformed JSON": (Body(GOOD + b"data: {nonsense}\r\n\r\n" + GOOD), MalformedEventError, 1),
    "JSON that is no object": (Body(GOOD + b"data: 17\r\n\r\n"), MalformedEventError, 1),
    "an event over the limit": (
        Body(GOOD + b'data: {"x":"' + b"y" * 70_000 + b'"}\r\n\r\n'),
        EventTooLargeError,
        1,
    ),
    "an event over the limit that never ends": (
        Body(GOOD + b"data: " + b"y" * 70_000, "whole"),
        EventTooLargeError,
        1,
    ),
    "no event stream": (Body(b"<html>Hello</html>", content_type="text/html"), UnexpectedResponseError, 0),
    "a redirect": (
        Body(b"", status=307, headers={"Location": "http://127.0.0.1:9/"}),
        UnexpectedResponseError,
        0,
    ),
    "another status": (Body(b"", status=204), UnexpectedResponseError, 0),
}


@pytest.mark.parametrize("name", _BODIES)
def test_what_is_no_answer_is_not_asked_for_again(name: str) -> None:
    answer, error, seen = _BODIES[name]
    clock = TestClock()
    with Scene(clock=clock, retry=STEADY, max_event_bytes=65_536) as scene:
        scene.gemini.on("why", answer)
        stream_id, probe = scene.start()
        distances, last = scene.ride(stream_id, probe)
        assert (distances, scene.requests()) == ([], 1)
        assert type(last.error) is error, last.error
        assert last.events_count == seen
        scene.gemini.requests[0].wait_closed()


@pytest.mark.parametrize(
    "answer",
    [
        Body(GOOD + b'data: {"candidates":[{"content', "whole"),
        Body(GOOD + b'data: {"candidates":[{"content', "byte", framing="close"),
        Body(GOOD),
    ],
    ids=["half an event", "half an event, closed", "neither a finishReason nor a blockReason"],
)
def test_half_an_answer_is_asked_for_again(answer: Any) -> None:
    distances, last, _, requests = fail(answer)
    assert (distances, requests) == (USUAL, 4)
    assert isinstance(last.error, StreamTruncatedError)
