"""`astream()` and `afollow()`: a stream as an asynchronous iterator, for asyncio. The rules stand in `reading`.

The event loop is never blocked: the manager's answer and the events are awaited. Everything but `cancel()` is for the
tasks of one loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar, Unpack, overload

import pykka

from gemini_streams.errors import GeminiStreamsError
from gemini_streams.iterate.reading import BUSY, SILENCE, Item, Reader, Reading, joining, starting
from gemini_streams.messages import Start, Subscribe
from gemini_streams.options import After, FlowControl, StreamOptions
from pykka_supervisor.mailbox import Envelope

__all__ = ["AsyncInbox", "AsyncStream", "LeftOrClosed", "afollow", "ask", "astream"]

_WAKE = object()
_LONGEST_RUN = 0.002
"""Seconds after which an iterator that never has to wait lets the loop's other tasks run."""

ItemT_co = TypeVar("ItemT_co", bound=Item | None, covariant=True)


@overload
def astream(
    manager: pykka.ActorRef[Any],
    contents: Any,
    *,
    stream_id: str | None = ...,
    tag: Any = ...,
    heartbeat: None = ...,
    **options: Unpack[StreamOptions],
) -> AsyncStream[Item]: ...


@overload
def astream(
    manager: pykka.ActorRef[Any],
    contents: Any,
    *,
    stream_id: str | None = ...,
    tag: Any = ...,
    heartbeat: float | None,
    **options: Unpack[StreamOptions],
) -> AsyncStream[Item | None]: ...


def astream(
    manager: pykka.ActorRef[Any],
    contents: Any,
    *,
    stream_id: str | None = None,
    tag: Any = None,
    heartbeat: float | None = None,
    **options: Unpack[StreamOptions],
) -> AsyncStream[Any]:
    """Return a stream as an asynchronous iterator and context manager, for asyncio; see `stream`."""
    return AsyncStream(manager, starting(contents, stream_id, tag, options), heartbeat)


@overload
def afollow(
    manager: pykka.ActorRef[Any],
    stream_id: str,
    *,
    after: After = ...,
    flow: FlowControl | None = ...,
    heartbeat: None = ...,
) -> AsyncStream[Item]: ...


@overload
def afollow(
    manager: pykka.ActorRef[Any],
    stream_id: str,
    *,
    after: After = ...,
    flow: FlowControl | None = ...,
    heartbeat: float | None,
) -> AsyncStream[Item | None]: ...


def afollow(
    manager: pykka.ActorRef[Any],
    stream_id: str,
    *,
    after: After = None,
    flow: FlowControl | None = None,
    heartbeat: float | None = None,
) -> AsyncStream[Any]:
    """Return a stream that exists as an asynchronous iterator and context manager, for asyncio; see `follow`."""
    return AsyncStream(manager, joining(stream_id, after, flow), heartbeat)


class AsyncInbox:
    """A stream's inbox for an event loop: a put wakes the task that awaits a message."""

    __slots__ = ("_items", "_lock", "_paused_at", "_waiter", "loop")
    never_blocks: ClassVar[bool] = True

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._items: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._paused_at = 0.0  # when it last let the loop's other tasks run

    def put(self, envelope: Envelope[Any], /) -> None:
        """Add a message, from any thread; raises `pykka.ActorDeadError` where the loop is gone."""
        loop = self.loop
        with self._lock:
            self._items.append(envelope.message)
            waiter, self._waiter = self._waiter, None
        if loop is None or not loop.is_closed():
            if waiter is None or loop is None:
                return
            with contextlib.suppress(RuntimeError):  # it was closed in this moment
                loop.call_soon_threadsafe(_wake, waiter)
                return
        raise pykka.ActorDeadError("the event loop of this iterator is closed")

    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._items

    def qsize(self) -> int:
        """How many messages wait."""
        return len(self._items)

    async def get(self, patience: float | None) -> Any:
        """Wait for a message; raises `TimeoutError`."""
        while True:
            if self._items and time.monotonic() - self._paused_at > _LONGEST_RUN:
                # Messages may always wait: a loop that only reads them would let no other task run.
                await asyncio.sleep(0)
                self._paused_at = time.monotonic()
            with self._lock:
                if self._items:
                    return self._items.popleft()
                waiter = self._waiter = asyncio.get_running_loop().create_future()
            if patience is None:
                await waiter
            else:
                async with asyncio.timeout(patience):
                    await waiter
            self._paused_at = time.monotonic()


class LeftOrClosed(threading.Event):
    """Set when the iterator has been left. It also counts where the loop that it iterated on has been closed."""

    def __init__(self, inbox: AsyncInbox) -> None:
        super().__init__()
        self._inbox = inbox

    def is_set(self) -> bool:
        """Whether the iterator was left, or its event loop was closed."""
        loop = self._inbox.loop
        return super().is_set() or (loop is not None and loop.is_closed())


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def ask(
    manager: pykka.ActorRef[Any],
    request: Any,
    loop: asyncio.AbstractEventLoop,
    unwanted: Callable[[str | None], None],
) -> Any:
    """Ask the manager, without blocking the loop; what is returned can be awaited once.

    `unwanted` is given the answer where the task that asked has stopped waiting for it, in any thread.
    """
    prepared = getattr(
        manager, "prepared", None
    )  # a ManagerRef's: what the request holds is read in this thread
    if prepared is not None:
        request = prepared(request)
    answer: Any = _AnswerLater(loop, unwanted)
    manager.actor_inbox.put(Envelope(request, reply_to=answer))
    return answer


class _AnswerLater:
    """Where the manager puts its answer, for an event loop."""

    __slots__ = ("_future", "_loop", "_unwanted")

    def __init__(self, loop: asyncio.AbstractEventLoop, unwanted: Callable[[str | None], None]) -> None:
        self._loop = loop
        self._unwanted = unwanted
        self._future: asyncio.Future[str | None] = loop.create_future()

    def __await__(self) -> Any:
        return self._future.__await__()

    def set(self, value: Any = None) -> None:
        """Called in the manager's thread."""
        self._say(lambda: self._future.set_result(value), lambda: self._unwanted(value))

    def set_exception(self, exc_info: Any = None) -> None:
        """Called in the manager's thread, or in the one that ends it."""
        self._say(lambda: self._future.set_exception(exc_info[1]), lambda: None)

    def _say(self, tell: Callable[[], None], unwanted: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(lambda: unwanted() if self._future.done() else tell())
        except RuntimeError:  # the loop is closed: no task awaits it
            unwanted()


class AsyncStream(Reading, AsyncIterator[ItemT_co], Generic[ItemT_co]):
    """A stream's events as an asynchronous iterator; see `astream`. One task at a time may iterate."""

    def __init__(
        self, manager: pykka.ActorRef[Any], request: Start | Subscribe, heartbeat: float | None
    ) -> None:
        self._inbox = AsyncInbox()
        super().__init__(manager, request, heartbeat, Reader(self._inbox, LeftOrClosed(self._inbox)))

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ItemT_co:
        """Await the next event; `None` after `heartbeat` seconds of silence."""
        if not self._turn.acquire(blocking=False):
            raise RuntimeError(f"{self!r} {BUSY.format('task', 'afollow')}")
        try:
            while True:
                batch = self._batch
                if batch is not None and not self._quit:
                    for event in batch.rest:
                        self.answer.add(event)
                        return event  # type: ignore[return-value]
                    self._acknowledge(batch)
                message = await self._receive()
                if message is SILENCE:
                    return None  # type: ignore[return-value]
                item: Any = self._take(message)
                if item is not None:
                    return item  # type: ignore[no-any-return]
        finally:
            self._turn.release()

    @property
    def text_stream(self) -> AsyncIterator[str]:
        """The pieces of text that stand, as they come; see `Stream.text_stream`."""
        return _AsyncText(self)

    async def aclose(self) -> None:
        """Leave the stream and end the iteration; does not wait."""
        self._leave()
        self._wake()

    def cancel(self) -> None:
        """Stop the stream for all its subscribers and end the iteration, from any thread; returns at once."""
        super().cancel()
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(pykka.ActorDeadError):
            self._inbox.put(Envelope(_WAKE))

    async def _several(self) -> list[Any] | None:
        """Await all events of the next read, or what is none; see `Stream._several`."""
        if not self._turn.acquire(blocking=False):
            raise RuntimeError(f"{self!r} {BUSY.format('task', 'afollow')}")
        try:
            while True:
                if self._batch is not None:
                    self._acknowledge(self._batch)
                message = await self._receive()
                if message is SILENCE:
                    return None
                item = self._take(message)
                if item is not None:
                    return [item]
                if self._batch is not None:
                    return list(self._batch.rest)
        finally:
            self._turn.release()

    async def _receive(self) -> Any:
        """Await a message; `SILENCE` after `heartbeat` seconds. Starts the stream, and raises its failure."""
        await self._start()
        if self._over:
            self._raise_failure()
            raise StopAsyncIteration
        try:
            return await self._inbox.get(self._heartbeat)
        except TimeoutError:
            return SILENCE

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        if self._inbox.loop not in (None, loop):
            raise RuntimeError(f"{self!r} belongs to another event loop: join the stream there by afollow()")
        if self._started or self._over:
            return
        self._started = True
        self._inbox.loop = loop
        try:
            self._begun(await ask(self._manager, self._request, loop, self._begun))
        except BaseException:
            self._leave()
            raise


class _AsyncText(AsyncIterator[str]):
    """The pieces of text of a stream, see `AsyncStream.text_stream`."""

    __slots__ = ("_stream",)

    def __init__(self, stream: AsyncStream[Any]) -> None:
        self._stream = stream

    async def __anext__(self) -> str:
        stream = self._stream
        while True:
            item = await anext(stream)
            try:
                piece = stream._pieces.of(item)  # noqa: SLF001 - the stream's other half
            except GeminiStreamsError:
                await stream.aclose()
                raise
            if piece:
                return piece
