"""Subscribers and small waits for the tests of streams."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from gemini_streams import (
    EventsDropped,
    RetryPolicy,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
    SubscriberActor,
)
from gemini_streams.testing import check_history
from pykka_supervisor.testing import Probe

ONCE = RetryPolicy(attempts=1)
"""A failed stream ends in its error at once."""

LAST = (StreamComplete, StreamError, StreamStopped)


class _Batches(SubscriberActor):
    def __init__(self, probe: BatchProbe) -> None:
        super().__init__()
        self._probe = probe

    def _note(self, message: Any) -> None:
        self._probe._received(message)

    def on_stream_event(self, event: StreamEvent) -> None:
        self._note(event)

    def on_stream_restarting(self, message: StreamRestarting) -> None:
        self._note(message)

    def on_events_dropped(self, message: EventsDropped) -> None:
        self._note(message)

    def on_stream_complete(self, message: StreamComplete) -> None:
        self._note(message)

    def on_stream_error(self, message: StreamError) -> None:
        self._note(message)

    def on_stream_stopped(self, message: StreamStopped) -> None:
        self._note(message)


class BatchProbe(Probe):
    """A probe that subscribes on the fast path, as a `SubscriberActor`."""

    def __init__(self) -> None:
        super().__init__()
        self.ref.stop()
        self.ref = _Batches.start(self)


def last_of(
    probe: Probe, stream_id: str | None = None, timeout: float = 20.0, *, first: int | None = 0
) -> Any:
    """Wait for the last message of a stream; its history up to there must be right.

    `first`: the sequence number that its subscription began at, if known.
    """
    last = probe.expect(LAST, lambda m: stream_id in (None, m.stream_id), timeout)
    own = [m for m in probe.messages if m.stream_id == last.stream_id]
    assert check_history(own, first=first, ended=True) == []
    return last


def error_of(probe: Probe, stream_id: str | None = None, timeout: float = 20.0) -> Any:
    """Wait for a stream's end, which must be an error, and return that."""
    last = last_of(probe, stream_id, timeout)
    assert isinstance(last, StreamError), last
    return last.error


def events_of(probe: Probe, stream_id: str | None = None) -> list[StreamEvent]:
    return [m for m in probe.messages if isinstance(m, StreamEvent) and stream_id in (None, m.stream_id)]


def text_of(probe: Probe, stream_id: str | None = None) -> str:
    return "".join(event.text for event in events_of(probe, stream_id))


def eventually(
    condition: Callable[[], Any], timeout: float = 20.0, what: str | Callable[[], str] = ""
) -> Any:
    """Wait until something is so, and return it."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        if time.monotonic() >= deadline:
            said = what if isinstance(what, str) else what()
            raise AssertionError(said or "it did not become so in time")
        time.sleep(0.001)
    return found
