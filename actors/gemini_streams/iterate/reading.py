"""What the iterators over a stream have in common.

The rules:

- The stream starts, or is joined, when the iterator is entered or first asked for an event.
- It gives `StreamEvent`, `StreamRestarting` and `EventsDropped` in the order of the guarantees, and `None` after
  `heartbeat` seconds of silence. It ends with the stream: in order where that completed or `cancel()` ended it, by
  raising the stream's error where it failed, by `StreamEndedError` where it was stopped.
- Leaving it (by `with`, `close()`, or by dropping it) is unsubscribing: the stream ends where it has no other
  subscriber and no `keep`. `cancel()` stops the stream for all its subscribers.
- It has no thread and no actor of its own: the stream's thread puts batches into an inbox, and having asked for the
  event behind a batch is the acknowledgement that flow control goes by. A loop that does not ask holds the stream back
  as any slow subscriber does.
- One thread, or one task, iterates. A second one that asks meanwhile gets a `RuntimeError`.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Collection
from typing import Any, ClassVar, TypeAlias

import msgspec
import pykka

from gemini_streams.answer import Answer
from gemini_streams.delivery.batches import ControlBatch, EventBatch
from gemini_streams.errors import InvalidRequestError, StreamEndedError
from gemini_streams.iterate.pieces import Pieces
from gemini_streams.messages import (
    EventsDropped,
    LastMessage,
    Start,
    StartStream,
    StopStream,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
    Subscribe,
    Unsubscribe,
)
from gemini_streams.options import After, FlowControl, StreamOptions, seconds
from pykka_supervisor import forks
from pykka_supervisor.mailbox import Envelope, Mailbox

__all__ = ["Item", "Reader", "Reading", "joining", "starting"]

Item: TypeAlias = StreamEvent | StreamRestarting | EventsDropped
"""What an iterator over a stream gives."""

SILENCE = object()
"""Stands for no message within `heartbeat` seconds."""

BUSY = "is iterated over in another {} already: give each an iterator of its own, by {}()"


class Reader(pykka.Actor):
    """The subscriber of an iterator: a ref and an inbox, without a thread."""

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
        """The loop over the iterator is the actor's loop."""


def starting(
    contents: Any,
    stream_id: str | None,
    tag: Any,
    options: StreamOptions,
) -> Start:
    """Make the request that starts a stream, of contents, or of such a request.

    Raises `InvalidRequestError` where a request comes with options beside it.
    """
    if not isinstance(contents, Start):
        return StartStream(contents, subscriber=None, stream_id=stream_id, tag=tag, **options)
    beside = [
        *options,
        *(["stream_id"] if stream_id is not None else []),
        *(["tag"] if tag is not None else []),
    ]
    if beside:
        raise InvalidRequestError(
            f"{', '.join(beside)}: the options of a {type(contents).__name__} stand in it, not beside it"
        )
    return contents


def joining(stream_id: str, after: After, flow: FlowControl | None) -> Subscribe:
    """Make the request that joins a stream; the iterator puts its own ref into it."""
    unset: Any = None
    return Subscribe(stream_id, unset, after, flow)


class Reading:
    """What `Stream` and `AsyncStream` have in common, and `answers()` needs of each of its streams."""

    def __init__(
        self,
        manager: pykka.ActorRef[Any],
        request: Start | Subscribe,
        heartbeat: float | None,
        reader: Reader,
    ) -> None:
        self._reader = reader
        self._left = reader.actor_stopped
        self.stream_id: str | None = request.stream_id if isinstance(request, Subscribe) else None
        """The stream's id, once it has started."""
        self.answer = Answer()
        """What has been read so far, folded."""
        self.result: LastMessage | None = None
        """The stream's last message, once it has ended."""
        self._manager = manager
        self._home = forks.here()
        self._heartbeat = (
            None if heartbeat is None else min(seconds("heartbeat", heartbeat), threading.TIMEOUT_MAX)
        )
        self._request = msgspec.structs.replace(request, subscriber=self._subscribers(request))
        self._started = False
        self._quit = False  # left before the stream's end
        self._cancelled = False  # left by `cancel`
        self._batch: EventBatch | None = None
        self._pieces = Pieces()
        self._turn = threading.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.stream_id}>"

    def __del__(self) -> None:
        if not getattr(self, "_started", False) or threading.Event.is_set(self._left):
            return
        self._left.set()
        # In whatever thread drops the last reference, or collects the garbage: nothing here may wait for a lock.
        # Where the leaving is not told, the stream's supervision notices within a second that its subscriber is gone.
        inbox = self._manager.actor_inbox
        if self.stream_id is not None and isinstance(inbox, Mailbox):
            with contextlib.suppress(pykka.ActorDeadError):
                inbox.try_put(Envelope(self._farewell(self.stream_id)))

    def cancel(self) -> None:
        """Stop the stream for all its subscribers and end the iteration, from any thread; returns at once."""
        self._cancelled = True
        self._leave()

    def _leave(self) -> None:
        """Leave the stream, if it has not ended."""
        if threading.Event.is_set(self._left):
            return
        self._quit = True
        self.answer.leave()
        self._left.set()
        self._say_farewell()

    def _farewell(self, stream_id: str) -> StopStream | Unsubscribe:
        return StopStream(stream_id) if self._cancelled else Unsubscribe(stream_id, self._reader.actor_ref)

    def _say_farewell(self) -> None:
        if self.stream_id is not None and self._started:
            with contextlib.suppress(pykka.ActorDeadError):
                self._manager.tell(self._farewell(self.stream_id))

    def _begun(self, stream_id: str | None) -> None:
        """Take note that the manager has started the stream; the iterator may have been left meanwhile."""
        self.stream_id = stream_id or self.stream_id
        if threading.Event.is_set(self._left):
            self._say_farewell()

    def _subscribers(self, request: Start | Subscribe) -> Any:
        """Return this iterator's ref, and those that the request names itself."""
        given = request.subscriber
        if given is None or isinstance(request, Subscribe):
            return self._reader.actor_ref
        return [*(given if isinstance(given, Collection) else [given]), self._reader.actor_ref]

    def _refuse_in_a_child(self) -> None:
        """Raise `pykka.ActorDeadError` in a process that was forked meanwhile: nothing will come there."""
        if self._home.forked:
            raise forks.refusal(self)

    @property
    def _over(self) -> bool:
        """Whether nothing more will come: the stream has ended, or was left."""
        return self._left.is_set()

    def _acknowledge(self, batch: EventBatch) -> None:
        """Tell the stream that all events of the present batch are handled."""
        self._batch = None
        batch.subscription.acknowledge(batch.upto, batch.upto_bytes)

    def _take(self, message: Any) -> Item | None:
        """Take one message out of the inbox: returns the item that it is; `None` for a batch or an end."""
        if isinstance(message, EventBatch):
            self._batch = message
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
        """Raise the error of a stream that failed or was stopped; nothing where it completed."""
        result = self.result
        if self._cancelled:
            return
        if isinstance(result, StreamError):
            raise copy.copy(result.error)
        if isinstance(result, StreamStopped):
            raise StreamEndedError(f"the stream was stopped ({result.reason}) before its answer was complete")
