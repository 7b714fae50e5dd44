"""`stream()` and `astream()`: a stream as an iterator, for programs that have no actor.

The rules:

- The stream starts when the iterator is entered, or first asked for an event.
- It gives `StreamEvent`, `StreamRestarting` and `EventsDropped` in the order of the contract's guarantees, and `None`
  after `heartbeat` seconds of silence. It ends with the stream: in order where that completed or `cancel()` ended
  it, by raising the stream's error where it failed, by `StreamEndedError` where somebody else stopped it.
- Left early (by `with`, or by dropping it) it stops the stream.
- It has no thread and no actor of its own: the stream's thread puts batches into an inbox, and having asked for the
  event behind a batch is the acknowledgement that flow control goes by. A loop that does not ask holds the stream back
  as any slow subscriber does.

`Reading` keeps what both have in common; `Stream` waits in the calling thread, `AsyncStream` on its event loop, which
is never blocked.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, ClassVar, Self

import pykka

from gemini_streams.answer import Answer
from gemini_streams.delivery import ControlBatch, EventBatch
from gemini_streams.errors import StreamEndedError
from gemini_streams.messages import (
    EventsDropped,
    LastMessage,
    StartStream,
    StopStream,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
)
from gemini_streams.options import seconds
from pykka_supervisor.mailbox import Envelope, Mailbox

__all__ = ["AsyncStream", "Stream", "astream", "stream"]

Item = StreamEvent | StreamRestarting | EventsDropped
_CANCELLED = object()
_LONGEST_RUN = 0.002
"""Seconds after which an asynchronous iterator that never has to wait lets the loop's other tasks run."""


def stream(
    manager: pykka.ActorRef[Any], contents: Any, *, heartbeat: float | None = None, **options: Any
) -> Stream:
    """Return a stream's events as an iterator and context manager; `options` are those of `StartStream`.

        with stream(manager, "Why is the sky blue?") as answer:
            for event in answer:
                print(event.text, end="")

    Starting raises what the manager refuses with; iterating raises the error of a stream that failed.
    """
    return Stream(manager, contents, heartbeat, options)


def astream(
    manager: pykka.ActorRef[Any], contents: Any, *, heartbeat: float | None = None, **options: Any
) -> AsyncStream:
    """Return a stream's events as an asynchronous iterator and context manager, for asyncio; see `stream`."""
    return AsyncStream(manager, contents, heartbeat, options)


class _Reader(pykka.Actor):
    """What subscribes for an iterator: a ref, an inbox and no thread."""

    takes_batches: ClassVar[bool] = True

    def __init__(self, inbox: Any, stopped: threading.Event) -> None:
        super().__init__()
        self.actor_inbox = self.actor_ref.actor_inbox = inbox
        self.actor_stopped = self.actor_ref.actor_stopped = stopped

    @staticmethod
    def _create_actor_inbox() -> Any:
        return None  # __init__ has it

    @staticmethod
    def _create_future() -> pykka.Future[Any]:
        return pykka.ThreadingFuture()

    def _start_actor_loop(self) -> None:
        """Whoever iterates is the loop."""


class Reading:
    """What `Stream` and `AsyncStream` have in common."""

    def __init__(
        self,
        manager: pykka.ActorRef[Any],
        contents: Any,
        heartbeat: float | None,
        options: dict[str, Any],
        reader: _Reader,
    ) -> None:
        self._reader = reader
        self._left = reader.actor_stopped
        self.stream_id: str | None = None
        """The stream's id, once it has started."""
        self.answer = Answer()
        """What has been received so far, folded."""
        self.result: LastMessage | None = None
        """The stream's last message, once it has ended."""
        self._manager = manager
        self._heartbeat = (
            None if heartbeat is None else min(seconds("heartbeat", heartbeat), threading.TIMEOUT_MAX)
        )
        self._request = StartStream(contents, subscriber=self._reader.actor_ref, **options)
        self._started = False
        self._cancelled = False
        self._batch: EventBatch | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.stream_id}>"

    def __del__(self) -> None:
        if not getattr(self, "_started", False) or threading.Event.is_set(self._left):
            return
        self._left.set()
        # In whatever thread drops the last reference, or collects the garbage: nothing here may wait for a lock.
        # Where the stop is not told, the stream's supervision notices within a second that its subscriber is gone.
        inbox = self._manager.actor_inbox
        if self.stream_id is not None and isinstance(inbox, Mailbox):
            with contextlib.suppress(pykka.ActorDeadError):
                inbox.try_put(Envelope(StopStream(self.stream_id)))

    def cancel(self) -> None:
        """Stop the stream and end the iteration, from any thread; returns at once."""
        self._cancelled = True
        self._leave()

    def _leave(self) -> None:
        """Leave the stream and have it stopped, if it has not ended."""
        if threading.Event.is_set(self._left):
            return
        self._left.set()
        self._stop()

    def _stop(self) -> None:
        if self.stream_id is not None:
            with contextlib.suppress(pykka.ActorDeadError):
                self._manager.tell(StopStream(self.stream_id))

    def _begun(self, stream_id: str) -> None:
        """Take note that the manager has started the stream; somebody may have left it meanwhile."""
        self.stream_id = stream_id
        if threading.Event.is_set(self._left):
            self._stop()

    @property
    def _over(self) -> bool:
        """Whether nothing more will come: the stream has ended, or was left."""
        return self._left.is_set()

    def _next_of_batch(self) -> StreamEvent | None:
        """Return the next event of the present batch; acknowledges the batch when it is exhausted."""
        batch = self._batch
        if batch is None:
            return None
        for event in batch.rest:
            self.answer.add(event)
            return event
        self._batch = None
        batch.subscription.acknowledge(batch.upto, batch.upto_bytes)
        return None

    def _take(self, message: Any) -> Item | None:
        """Take one message out of the inbox: returns the item it is, `None` for a batch or an end."""
        if isinstance(message, EventBatch):
            self._batch = message
            return self._next_of_batch()
        if isinstance(message, ControlBatch):
            said = message.message
            self.answer.add(said)
            if not isinstance(said, StreamComplete | StreamError | StreamStopped):
                item: Item = said
                return item
            self.result = said
            self._left.set()
        return None

    def _raise_failure(self) -> None:
        """Raise what the end of the stream has to say, where it is no good one."""
        result = self.result
        if self._cancelled:
            return
        if isinstance(result, StreamError):
            raise copy.copy(result.error)
        if isinstance(result, StreamStopped):
            raise StreamEndedError(f"the stream was stopped ({result.reason}) before its answer was complete")


class _Inbox:
    """A stream's inbox for a thread that waits in `get`."""

    __slots__ = ("_queue", "get")
    never_blocks: ClassVar[bool] = True

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.get = self._queue.get

    def put(self, envelope: Envelope[Any], /) -> None:
        self._queue.put(envelope.message)

    def empty(self) -> bool:
        return self._queue.empty()

    def qsize(self) -> int:
        return self._queue.qsize()


class Stream(Reading, Iterator[Item | None]):
    """A stream's events as a blocking iterator; see `stream`. One thread at a time may iterate."""

    def __init__(
        self, manager: pykka.ActorRef[Any], contents: Any, heartbeat: float | None, options: dict[str, Any]
    ) -> None:
        self._inbox = _Inbox()
        super().__init__(manager, contents, heartbeat, options, _Reader(self._inbox, threading.Event()))

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item | None:
        """Wait for the next event; `None` after `heartbeat` seconds of silence."""
        self._start()
        while not self._cancelled:
            event = self._next_of_batch()
            if event is not None:
                return event
            if self._over:
                break
            try:
                message = self._inbox.get(timeout=self._heartbeat)
            except queue.Empty:
                return None
            item = self._take(message)
            if item is not None:
                return item
        self._raise_failure()
        raise StopIteration

    def cancel(self) -> None:
        """Stop the stream and end the iteration, from any thread; returns at once."""
        super().cancel()
        self._inbox.put(Envelope(_CANCELLED))

    def _start(self) -> None:
        if self._started or self._cancelled:
            return
        self._started = True
        try:
            self._begun(self._manager.ask(self._request, block=True))
        except BaseException:
            self._leave()
            raise


class _AsyncInbox:
    """A stream's inbox for an event loop: a put wakes whoever awaits."""

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
        return not self._items

    def qsize(self) -> int:
        return len(self._items)

    async def get(self, patience: float | None) -> Any:
        """Wait for a message; raises `TimeoutError`."""
        while True:
            if self._items and time.monotonic() - self._paused_at > _LONGEST_RUN:
                # There may always be something: a loop over this alone would let no other task run.
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


class _LeftOrClosed(threading.Event):
    """Set when whoever iterates has left. It also counts where the loop that it iterated on has been closed."""

    def __init__(self, inbox: _AsyncInbox) -> None:
        super().__init__()
        self._inbox = inbox

    def is_set(self) -> bool:
        loop = self._inbox.loop
        return super().is_set() or (loop is not None and loop.is_closed())


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class _AnswerLater:
    """Where the manager puts its answer to a start, for an event loop.

    `unwanted` is told the id of a stream that was started for somebody who does not wait for it any more.
    """

    __slots__ = ("_future", "_loop", "_unwanted")

    def __init__(self, loop: asyncio.AbstractEventLoop, unwanted: Callable[[str], None]) -> None:
        self._loop = loop
        self._unwanted = unwanted
        self._future: asyncio.Future[str] = loop.create_future()

    def __await__(self) -> Any:
        return self._future.__await__()

    def set(self, value: Any = None) -> None:
        """Called in the manager's thread."""
        self._say(self._future.set_result, value, value)

    def set_exception(self, exc_info: Any = None) -> None:
        """Called in the manager's thread, or whichever ends it."""
        self._say(self._future.set_exception, exc_info[1], None)

    def _say(self, how: Any, what: Any, started: str | None) -> None:
        def say() -> None:
            if not self._future.done():
                how(what)
            elif started is not None:
                self._unwanted(started)

        try:
            self._loop.call_soon_threadsafe(say)
        except RuntimeError:  # the loop is closed: nobody awaits
            if started is not None:
                self._unwanted(started)


class AsyncStream(Reading, AsyncIterator[Item | None]):
    """A stream's events as an asynchronous iterator; see `astream`. For the task that iterates."""

    def __init__(
        self, manager: pykka.ActorRef[Any], contents: Any, heartbeat: float | None, options: dict[str, Any]
    ) -> None:
        self._inbox = _AsyncInbox()
        reader = _Reader(self._inbox, _LeftOrClosed(self._inbox))
        super().__init__(manager, contents, heartbeat, options, reader)

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item | None:
        """Await the next event; `None` after `heartbeat` seconds of silence."""
        await self._start()
        while not self._cancelled:
            event = self._next_of_batch()
            if event is not None:
                return event
            if self._over:
                break
            try:
                message = await self._inbox.get(self._heartbeat)
            except TimeoutError:
                return None
            item = self._take(message)
            if item is not None:
                return item
        self._raise_failure()
        raise StopAsyncIteration

    def cancel(self) -> None:
        """Stop the stream and end the iteration, from any thread; returns at once."""
        super().cancel()
        with contextlib.suppress(pykka.ActorDeadError):
            self._inbox.put(Envelope(_CANCELLED))

    async def _start(self) -> None:
        if self._started or self._cancelled:
            return
        self._started = True
        loop = self._inbox.loop = asyncio.get_running_loop()
        answer: Any = _AnswerLater(loop, self._begun)
        try:
            self._manager.actor_inbox.put(Envelope(self._request, reply_to=answer))
            self._begun(await answer)
        except BaseException:
            self._leave()
            raise
