"""docs/errors.md: what the table says of a failure is what a subscriber is told, and whether it is tried again."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from gemini_streams import (
    FlowControl,
    Gemini,
    ManagerRef,
    RetryPolicy,
    StreamComplete,
    StreamError,
    StreamEvent,
    errors,
)
from gemini_streams.testing import Body, Failure, LocalGemini, Raw, Reply
from pykka_supervisor.testing import Probe, kill

DOC = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
TWICE = RetryPolicy(attempts=2, initial_delay=0.0, jitter=0.0)

Table = list[list[str]]


class StartManager(Protocol):
    def __call__(self, **options: Any) -> ManagerRef: ...


def rows() -> Table:
    """The cells of all rows of all tables."""
    lines = [line for line in DOC.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if not set(row[0]) <= {"-", ":", "|", " "}]


def said(kind: str) -> list[str]:
    """What the table of failures says of this error in its column "Tried again?"."""
    return [row[2] for row in rows() if len(row) == 4 and f"`{kind}`" in row[1]]


def test_every_error_is_in_a_table() -> None:
    named = set(re.findall(r"`(\w+Error)`", "\n".join(" ".join(row) for row in rows())))
    ours = {name for name in errors.__all__ if name != "GeminiStreamsError"}
    assert ours == {name for name in named if hasattr(errors, name)}


@pytest.mark.parametrize(
    "name", [name for name in errors.__all__ if name not in {"GeminiStreamsError", "APIError"}]
)
def test_what_else_an_error_is_stands_beside_it(name: str) -> None:
    kind = getattr(errors, name)
    builtin = {
        base.__name__
        for base in (ConnectionError, TimeoutError, LookupError, ValueError)
        if issubclass(kind, base)
    }
    beside = re.findall(rf"`{name}` \(also `(\w+)`\)", DOC)
    assert set(beside) == builtin


def _reply(**how: Any) -> Callable[[LocalGemini], Any]:
    return lambda gemini: gemini.on("why", Reply("one two three", **how))


def _answer(answer: Any) -> Callable[[LocalGemini], Any]:
    return lambda gemini: gemini.on("why", answer)


DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
SILENT: dict[str, Any] = {"end": "silent", "end_after": 1}
Options = dict[str, Any]

FAILURES: list[tuple[str, str, bool, Callable[[LocalGemini], Any], Options]] = [
    ("no reason to end", "StreamTruncatedError", True, _reply(finish_reason=None), {}),
    ("half an event", "StreamTruncatedError", True, _reply(end_after=1, half=True), {}),
    ("no token", "StreamTruncatedError", True, _reply(finish_reason="CONTINUATION"), {}),
    *[
        (f"HTTP {code}", "APIError", True, _answer(Failure(code)), {})
        for code in (408, 429, 500, 502, 503, 504)
    ],
    *[(f"HTTP {code}", "APIError", False, _answer(Failure(code)), {}) for code in (400, 401, 403, 404, 501)],
    ("in the stream", "APIError", True, _reply(error_after=(1, Failure(503))), {}),
    ("in the stream, for good", "APIError", False, _reply(error_after=(1, Failure(400))), {}),
    ("daily quota", "APIError", False, _answer(Failure(429, quota_id=DAY)), {}),
    ("too long a wait", "APIError", False, _answer(Failure(429, retry_delay="121s")), {}),
    ("reset", "ConnectionLostError", True, _reply(end="reset", end_after=1), {}),
    ("cut", "ConnectionLostError", True, _reply(end="cut", end_after=1), {}),
    (
        "no first event",
        "FirstEventTimeoutError",
        True,
        _reply(end="silent", end_after=0),
        {"first_event_timeout": 0.2},
    ),
    ("silence", "IdleTimeoutError", True, _reply(**SILENT), {"idle_timeout": 0.2}),
    ("deadline", "DeadlineExceededError", False, _reply(**SILENT), {"deadline": 0.3}),
    ("no JSON", "MalformedEventError", False, _answer(Body(b"data: {none\n\n")), {}),
    ("too large", "EventTooLargeError", False, _answer(Reply("x" * 5_000)), {}),
    (
        "redirect",
        "UnexpectedResponseError",
        False,
        _answer(Body(b"", status=302, headers={"Location": "/"})),
        {},
    ),
    ("a page", "UnexpectedResponseError", False, _answer(Body(b"<html>", content_type="text/html")), {}),
    ("no HTTP", "UnexpectedResponseError", False, _answer(Raw(b"SSH-2.0-none\r\n\r\n")), {}),
]


@pytest.mark.parametrize(
    ("what", "kind", "again", "script", "options"), FAILURES, ids=[f[0] for f in FAILURES]
)
def test_a_failure_is_told_as_the_table_says(
    gemini: LocalGemini,
    manager: StartManager,
    probe: Probe,
    what: str,
    kind: str,
    again: bool,
    script: Callable[[LocalGemini], Any],
    options: Options,
) -> None:
    script(gemini)
    streams = manager(retry=TWICE, max_event_bytes=4_000)
    streams.start_stream("why", subscriber=probe.ref, **options)
    told = probe.expect((StreamError, StreamComplete))
    assert type(told.error).__name__ == kind
    assert len(gemini.requests) == (2 if again else 1)
    assert any(("yes" if again else "no") in answer for answer in said(kind))


def _ends(manager: ManagerRef, probe: Probe, **options: Any) -> Any:
    manager.start_stream("why", subscriber=probe.ref, retry=TWICE, **options)
    return probe.expect((StreamError, StreamComplete))


def test_nobody_there(gemini: LocalGemini, manager: StartManager, probe: Probe) -> None:
    told = _ends(manager(), probe, endpoint=Gemini(api_key="local-key", base_url=gemini.refused_url()))
    assert (type(told.error).__name__, told.error.retryable, told.attempts) == (
        "ConnectionFailedError",
        True,
        2,
    )


def test_a_certificate_that_does_not_verify(
    tls_gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    told = _ends(manager(), probe, endpoint=Gemini(api_key="local-key", base_url=tls_gemini.url))
    assert (type(told.error).__name__, told.error.retryable, told.attempts) == (
        "ConnectionFailedError",
        False,
        1,
    )


def test_a_killed_actor(gemini: LocalGemini, manager: StartManager, probe: Probe) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    streams = manager()
    stream_id = streams.start_stream("why", subscriber=probe.ref, retry=RetryPolicy(attempts=1))
    probe.expect(StreamEvent)
    ref = streams.get_stream_info(stream_id).stream_ref
    assert ref is not None
    kill(ref)
    assert type(probe.expect(StreamError).error).__name__ == "StreamCrashedError"


def test_a_slow_subscriber(gemini: LocalGemini, manager: StartManager) -> None:
    gemini.on("why", Reply("one two three four five six"))
    release = threading.Event()
    with Probe(answer=lambda _: release.wait(20)) as slow:
        flow = FlowControl(window=2, overflow="disconnect")
        manager().start_stream("why", subscriber=slow.ref, flow=flow)
        gemini.wait_request().wait_closed()
        release.set()
        assert type(slow.expect(StreamError).error).__name__ == "SlowSubscriberError"
