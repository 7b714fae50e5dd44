"""`stream()` and `follow()`: a stream as a blocking iterator. The rules stand in `reading`."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar, Unpack, overload

import pykka

from gemini_streams.errors import GeminiStreamsError
from gemini_streams.iterate.reading import BUSY, SILENCE, Item, Reader, Reading, joining, starting
from gemini_streams.messages import Start, Subscribe
from gemini_streams.options import After, FlowControl, StreamOptions
from pykka_supervisor.mailbox import Envelope

__all__ = ["Stream", "follow", "stream"]

_WAKE = object()

ItemT_co = TypeVar("ItemT_co", bound=Item | None, covariant=True)


@overload
def stream(
    manager: pykka.ActorRef[Any],
    contents: Any,
    *,
    stream_id: str | None = ...,
    tag: Any = ...,
    heartbeat: None = ...,
    **options: Unpack[StreamOptions],
) -> Stream[Item]: ...


@overload
def stream(
    manager: pykka.ActorRef[Any],
    contents: Any,
    *,
    stream_id: str | None = ...,
    tag: Any = ...,
    heartbeat: float | None,
    **options: Unpack[StreamOptions],
) -> Stream[Item | None]: ...


def stream(
    manager: pykka.ActorRef[Any],
    contents: Any,
    *,
    stream_id: str | None = None,
    tag: Any = None,
    heartbeat: float | None = None,
    **options: Unpack[StreamOptions],
) -> Stream[Any]:
    """Return a stream as an iterator and context manager: of its text, or of its events.

        with stream(manager, "Why is the sky blue?") as events:
            for piece in events.text_stream:
                print(piece, end="", flush=True)

    `contents` is what google-genai takes, or a `StartStream`, `StartInteraction` or `ResumeInteraction`, which needs no
    subscriber here. The other parameters are those of `StartStream`. With `heartbeat` it gives `None` after so many
    seconds of silence.

    Starting raises what the manager refuses with; iterating raises the error of a stream that failed.
    """
    return Stream(manager, starting(contents, stream_id, tag, options), heartbeat)


@overload
def follow(
    manager: pykka.ActorRef[Any],
    stream_id: str,
    *,
    after: After = ...,
    flow: FlowControl | None = ...,
    heartbeat: None = ...,
) -> Stream[Item]: ...


@overload
def follow(
    manager: pykka.ActorRef[Any],
    stream_id: str,
    *,
    after: After = ...,
    flow: FlowControl | None = ...,
    heartbeat: float | None,
) -> Stream[Item | None]: ...


def follow(
    manager: pykka.ActorRef[Any],
    stream_id: str,
    *,
    after: After = None,
    flow: FlowControl | None = None,
    heartbeat: float | None = None,
) -> Stream[Any]:
    """Return a stream that exists as an iterator and context manager; `after` and `flow` are those of `Subscribe`.

    Joining it raises what the manager refuses with: `StreamNotFoundError`, `StreamEndedError`, `HistoryGoneError`.
    """
    return Stream(manager, joining(stream_id, after, flow), heartbeat)


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


class Stream(Reading, Iterator[ItemT_co], Generic[ItemT_co]):
    """A stream's events as a blocking iterator; see `stream`. One thread at a time may iterate."""

    def __init__(
        self, manager: pykka.ActorRef[Any], request: Start | Subscribe, heartbeat: float | None
    ) -> None:
        self._inbox = _Inbox()
        super().__init__(manager, request, heartbeat, Reader(self._inbox, threading.Event()))

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ItemT_co:
        """Wait for the next event; `None` after `heartbeat` seconds of silence."""
        if not self._turn.acquire(blocking=False):
            raise RuntimeError(f"{self!r} {BUSY.format('thread', 'follow')}")
        try:
            while True:
                batch = self._batch
                if batch is not None and not self._quit:
                    for event in batch.rest:
                        self.answer.add(event)
                        return event  # type: ignore[return-value]
                    self._acknowledge(batch)
                message = self._receive()
                if message is SILENCE:
                    return None  # type: ignore[return-value]
                item: Any = self._take(message)
                if item is not None:
                    return item  # type: ignore[no-any-return]
        finally:
            self._turn.release()

    @property
    def text_stream(self) -> Iterator[str]:
        """The pieces of text that stand, as they come.

        A restart before the first piece is silent. A restart that voids a piece raises the error that the attempt
        failed with, and events left out by flow control raise `IncompleteAnswerError`: what was given cannot be taken
        back. It iterates over this very stream: use one of the two.
        """
        return _Text(self)

    def close(self) -> None:
        """Leave the stream and end the iteration, from any thread; returns at once."""
        self._leave()
        self._inbox.put(Envelope(_WAKE))

    def cancel(self) -> None:
        """Stop the stream for all its subscribers and end the iteration, from any thread; returns at once."""
        super().cancel()
        self._inbox.put(Envelope(_WAKE))

    def _several(self) -> list[Any] | None:
        """Wait for all events of the next read, or for what is none; `None` after `heartbeat` seconds. Folds nothing.

        Having asked for the next ones is the acknowledgement, as it is of single events.
        """
        if not self._turn.acquire(blocking=False):
            raise RuntimeError(f"{self!r} {BUSY.format('thread', 'follow')}")
        try:
            while True:
                if self._batch is not None:
                    self._acknowledge(self._batch)
                message = self._receive()
                if message is SILENCE:
                    return None
                item = self._take(message)
                if item is not None:
                    return [item]
                if self._batch is not None:
                    return list(self._batch.rest)
        finally:
            self._turn.release()

    def _receive(self) -> Any:
        """Wait for a message; `SILENCE` after `heartbeat` seconds. Starts the stream, and raises its failure."""
        self._start()
        if self._over:
            self._raise_failure()
            raise StopIteration
        self._refuse_in_a_child()
        try:
            return self._inbox.get(timeout=self._heartbeat)
        except queue.Empty:
            return SILENCE

    def _start(self) -> None:
        if self._started or self._over:
            return
        self._started = True
        try:
            self._begun(self._manager.ask(self._request, block=True))
        except BaseException:
            self._leave()
            raise


class _Text(Iterator[str]):
    """The pieces of text of a stream, see `Stream.text_stream`."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream[Any]) -> None:
        self._stream = stream

    def __next__(self) -> str:
        stream = self._stream
        while True:
            item = next(stream)
            try:
                piece = stream._pieces.of(item)  # noqa: SLF001 - the stream's other half
            except GeminiStreamsError:
                stream.close()
                raise
            if piece:
                return piece
