"""Subscribers of every kind, which keep what they receive: plain actors, `SubscriberActor`s, iterators in a thread."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pykka

import gemini_streams
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

__all__ = ["LAST", "Reader", "Record", "can_follow", "read_by_iterator", "start_reader"]

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
        self.thread: threading.Thread | None = None
        """An iterator's."""
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


def read_by_iterator(reader: Reader, manager: Any, contents: str | None, options: dict[str, Any]) -> None:
    """Iterate in a thread of its own over a stream that this starts, or (no contents) joins; it may leave early."""
    thread = threading.Thread(
        target=_read, args=(reader, manager, contents, options), name="fuzz-iterator", daemon=True
    )
    reader.thread = thread
    thread.start()


def can_follow() -> bool:
    """Whether iterators can join a stream in the version that is looked at."""
    return hasattr(gemini_streams, "follow")


def _read(reader: Reader, manager: Any, contents: str | None, options: dict[str, Any]) -> None:
    asynchronous = reader.plan.kind == "async"
    name = "follow" if contents is None else "stream"
    first = str(reader.stream) if contents is None else contents
    opened: Any = getattr(gemini_streams, f"a{name}" if asynchronous else name)
    events: Any = None
    try:
        events = opened(manager, first, **options)
        if asynchronous:
            asyncio.run(_read_async(reader, events))
        else:
            with events:
                for item in events:
                    if _enough(reader, item):
                        break
    except BaseException as error:
        reader.raised = error
    if events is not None and events.result is not None:
        reader.record.add(events.result)
    reader.record.ended.set()


async def _read_async(reader: Reader, events: Any) -> None:
    async with events:
        async for item in events:
            if _enough(reader, item):
                break


def _enough(reader: Reader, item: Any) -> bool:
    reader.record.add(item)
    patience = reader.plan.patience
    if patience is None or len(reader.record.messages) <= patience:
        return False
    reader.due = False
    return True
