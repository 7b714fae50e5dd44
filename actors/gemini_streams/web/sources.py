"""`event_source()` and `aevent_source()`: a stream as the body of a response to a browser's `EventSource`.

The rules:

- The manager is asked at the call: what it refuses with raises there, before any status is sent.
- With `last_event_id` nothing is started: the stream is joined behind that event, or the browser is told that it is
  gone. So no answer is paid for twice because a connection was lost.
- Without it a request starts its stream, or joins it and is given all that is kept of it: a page that is loaded again.
- A browser that is full is let go: its body ends without `end`, so it comes back, and goes on behind its latest event.
- A body that ends, is closed or is dropped unsubscribes. The stream runs on for its `keep`.
- `aevent_source()` has no thread for a browser. `event_source()` runs in the thread of the server that iterates.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pykka

from gemini_streams.delivery.history import ALL_KEPT
from gemini_streams.errors import (
    GeminiStreamsError,
    HistoryGoneError,
    InvalidRequestError,
    SlowSubscriberError,
    StreamNotFoundError,
)
from gemini_streams.iterate.asynchronous import AsyncStream
from gemini_streams.iterate.blocking import Stream
from gemini_streams.iterate.reading import Reading, joining, starting
from gemini_streams.messages import Start, StreamError, Subscribe
from gemini_streams.options import FlowControl
from gemini_streams.positions import Position
from gemini_streams.web.events import ALIVE, END, GONE, OPENING, Events

__all__ = ["AsyncEventSource", "EventSource", "aevent_source", "event_source"]

_HISTORY = 4 << 20
_KEEP = 60.0
_FLOW = FlowControl(overflow="disconnect")

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


def event_source(
    manager: pykka.ActorRef[Any],
    what: Start | str,
    *,
    last_event_id: str | None = None,
    heartbeat: float = 15.0,
) -> EventSource:
    """Return a stream as the body of a response to a browser's `EventSource`, for Flask, Django or any WSGI server.

        source = event_source(
            manager,
            StartStream(question, stream_id=answer_id),
            last_event_id=request.headers.get("Last-Event-ID"),
        )
        return Response(source, status=source.status, headers=source.headers)

    `what` is a request for a stream with a `stream_id`, or the id of a stream that exists. `heartbeat` is in seconds:
    after so long a silence a comment is sent. Unless the request says otherwise, its stream has `history=4 MiB`,
    `keep=60` seconds, and lets a browser go that does not keep up.

    Raises what the manager refuses with, and `InvalidRequestError` for a request without `stream_id`.
    """
    request = _request(what, last_event_id)
    if request is None:
        return EventSource(None, Events())
    stream: Stream[Any] = Stream(manager, request, heartbeat)
    source = EventSource(stream, _events(request))
    try:
        stream._start()  # noqa: SLF001 - the iterator's other half
    except (StreamNotFoundError, HistoryGoneError, InvalidRequestError):
        if not last_event_id:
            raise
        source.tell_gone()
    return source


async def aevent_source(
    manager: pykka.ActorRef[Any],
    what: Start | str,
    *,
    last_event_id: str | None = None,
    heartbeat: float = 15.0,
) -> AsyncEventSource:
    """Do the same on asyncio, for FastAPI, Starlette or any ASGI server.

        source = await aevent_source(manager, StartStream(question, stream_id=answer_id), last_event_id=...)
        return StreamingResponse(source, status_code=source.status, headers=source.headers)

    No browser has a thread of its own.
    """
    request = _request(what, last_event_id)
    if request is None:
        return AsyncEventSource(None, Events())
    stream: AsyncStream[Any] = AsyncStream(manager, request, heartbeat)
    source = AsyncEventSource(stream, _events(request))
    try:
        await stream._start()  # noqa: SLF001 - the iterator's other half
    except (StreamNotFoundError, HistoryGoneError, InvalidRequestError):
        if not last_event_id:
            raise
        source.tell_gone()
    return source


class _Source:
    """What both kinds have in common."""

    def __init__(self, stream: Reading | None, events: Events) -> None:
        self.status: int = 204 if stream is None else 200
        """The response's status: 204 where nothing follows, which has a browser give up."""
        self.headers: dict[str, str] = {} if stream is None else dict(_HEADERS)
        """The response's headers."""
        self._events = events
        self._opened = stream is None
        self._over = stream is None
        self._body = OPENING

    def tell_gone(self) -> None:
        """Let the body say that the stream is gone, and nothing more."""
        self._body += GONE
        self._over = True

    def _open(self) -> bytes | None:
        """Return the first bytes, once."""
        if self._opened:
            return None
        self._opened = True
        return self._body

    def _said(self, items: list[Any] | None) -> bytes:
        return ALIVE if items is None else self._events.of(items)

    def _end(self, stream: Reading) -> bytes:
        """Return the last bytes; none where the browser was let go, or has left."""
        self._over = True
        last = stream.result
        if last is None or (isinstance(last, StreamError) and isinstance(last.error, SlowSubscriberError)):
            return b""
        return self._events.end(last)


class EventSource(_Source, Iterator[bytes]):
    """A stream as the body of a response; see `event_source`. One thread at a time iterates."""

    def __init__(self, stream: Stream[Any] | None, events: Events) -> None:
        super().__init__(stream, events)
        self._stream = stream

    def __iter__(self) -> EventSource:
        return self

    def __next__(self) -> bytes:
        """Wait for the next bytes."""
        if (first := self._open()) is not None:
            return first
        stream = self._stream
        if stream is not None and not self._over:
            try:
                return self._said(stream._several())  # noqa: SLF001 - the iterator's other half
            except (StopIteration, GeminiStreamsError):
                if last := self._end(stream):
                    return last
        raise StopIteration

    def close(self) -> None:
        """Unsubscribe, from any thread; WSGI servers call it. The stream runs on for its `keep`."""
        self._over = True
        if self._stream is not None:
            self._stream.close()


class AsyncEventSource(_Source, AsyncIterator[bytes]):
    """A stream as the body of a response; see `aevent_source`. One task at a time iterates."""

    def __init__(self, stream: AsyncStream[Any] | None, events: Events) -> None:
        super().__init__(stream, events)
        self._stream = stream

    def __aiter__(self) -> AsyncEventSource:
        return self

    async def __anext__(self) -> bytes:
        """Await the next bytes."""
        if (first := self._open()) is not None:
            return first
        stream = self._stream
        if stream is not None and not self._over:
            try:
                return self._said(await stream._several())  # noqa: SLF001 - the iterator's other half
            except (StopAsyncIteration, GeminiStreamsError):
                if last := self._end(stream):
                    return last
            except BaseException:  # the browser has left: the server cancels the task
                await self.aclose()
                raise
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Unsubscribe; does not wait. The stream runs on for its `keep`."""
        self._over = True
        if self._stream is not None:
            await self._stream.aclose()


def _request(what: Any, last_event_id: str | None) -> Start | Subscribe | None:
    """Return what the manager is asked; `None` where the browser has had the end."""
    if isinstance(what, Start):
        if what.stream_id is None:
            raise InvalidRequestError(
                f"a {type(what).__name__} for an event source needs a stream_id: a browser that comes back joins by it"
            )
        flow = _FLOW if isinstance(what.flow, msgspec.UnsetType) else what.flow
    elif isinstance(what, str):
        flow = _FLOW
    else:
        raise InvalidRequestError(
            f"an event source is of a request for a stream or of a stream's id, not of {type(what).__name__}"
        )
    stream_id = what if isinstance(what, str) else what.stream_id
    if last_event_id:
        return None if last_event_id == END else joining(stream_id or "", last_event_id, flow)
    if isinstance(what, str):
        return joining(what, ALL_KEPT, flow)
    return msgspec.structs.replace(
        starting(what, None, None, {}),
        flow=flow,
        history=_HISTORY if isinstance(what.history, msgspec.UnsetType) else what.history,
        keep=_KEEP if isinstance(what.keep, msgspec.UnsetType) else what.keep,
    )


def _events(request: Start | Subscribe) -> Events:
    after = request.after if isinstance(request, Subscribe) else None
    try:
        return Events(Position.of(after).sequence if isinstance(after, str) else -1)
    except InvalidRequestError:  # no position of ours: the stream is gone
        return Events()
