"""Subscribers of every kind, which keep what they receive: plain actors, `SubscriberActor`s, iterators in a thread."""

from __future__ import annotations

import threading
import time
from typing import Any

import pykka

from fuzz.plan import ReaderPlan
from gemini_streams import (
    EventsDropped,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
    SubscriberActor,
)
from gemini_streams import stream as iterate

__all__ = ["LAST", "Reader", "Record", "read_by_iterator", "start_reader"]

LAST = (StreamComplete, StreamError, StreamStopped)
_SLOW = 0.01
"""Seconds that a slow subscriber takes for an event."""


class Record:
    """What one subscriber has received of one stream, in order. Written by one thread, read by others."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.ended = threading.Event()

    def add(self, message: Any) -> None:
        self.messages.append(message)
        if isinstance(message, LAST):
            self.ended.set()


class _DiesError(RuntimeError):
    """Raised by a subscriber that is meant to die."""


def _handle(record: Record, plan: ReaderPlan, message: Any) -> None:
    record.add(message)
    if plan.kind == "slow" and isinstance(message, StreamEvent):
        time.sleep(_SLOW)
    if plan.kind == "dies" and len(record.messages) > (plan.patience or 0):
        raise _DiesError


class _Plain(pykka.ThreadingActor):
    use_daemon_thread = True

    def __init__(self, record: Record, plan: ReaderPlan) -> None:
        super().__init__()
        self._record = record
        self._plan = plan

    def on_receive(self, message: Any) -> None:
        _handle(self._record, self._plan, message)


class _Batches(SubscriberActor):
    def __init__(self, record: Record, plan: ReaderPlan) -> None:
        super().__init__()
        self._record = record
        self._plan = plan

    def on_stream_event(self, event: StreamEvent) -> None:
        _handle(self._record, self._plan, event)

    def on_stream_restarting(self, message: StreamRestarting) -> None:
        _handle(self._record, self._plan, message)

    def on_events_dropped(self, message: EventsDropped) -> None:
        _handle(self._record, self._plan, message)

    def on_stream_complete(self, message: StreamComplete) -> None:
        _handle(self._record, self._plan, message)

    def on_stream_error(self, message: StreamError) -> None:
        _handle(self._record, self._plan, message)

    def on_stream_stopped(self, message: StreamStopped) -> None:
        _handle(self._record, self._plan, message)


class Reader:
    """One subscriber of one stream, and how it came to it."""

    def __init__(self, stream: int, plan: ReaderPlan) -> None:
        self.stream = stream
        self.plan = plan
        self.record = Record()
        self.ref: pykka.ActorRef[Any] | None = None
        self.tenant: int | None = None
        """Which tenant it belongs to, where that is not the stream's."""
        self.after: Any = None
        self.first: int | None = 0
        """The sequence number that it began at; `None`: not known."""
        self.due = False
        """Whether it must receive its last message."""
        self.raised: BaseException | None = None
        """What an iterator's loop ended with."""

    @property
    def alive(self) -> bool:
        return self.ref is None or self.ref.is_alive()


def start_reader(stream: int, plan: ReaderPlan) -> Reader:
    """Start the actor of a subscriber."""
    reader = Reader(stream, plan)
    kind = _Batches if plan.kind == "batches" or (plan.kind != "plain" and stream % 2) else _Plain
    reader.ref = kind.start(reader.record, plan)
    return reader


def read_by_iterator(
    reader: Reader, manager: Any, contents: str, options: dict[str, Any]
) -> threading.Thread:
    """Iterate over a stream in a thread of its own, which starts it; it may leave early."""
    record, patience = reader.record, reader.plan.patience

    def read() -> None:
        events: Any = iterate(manager, contents, **options)
        try:
            with events:
                for item in events:
                    record.add(item)
                    if patience is not None and len(record.messages) > patience:
                        reader.due = False
                        break
        except BaseException as error:
            reader.raised = error
        if events.result is not None:
            record.add(events.result)
        record.ended.set()

    thread = threading.Thread(target=read, name="fuzz-iterator", daemon=True)
    thread.start()
    return thread
