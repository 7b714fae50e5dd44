"""The subscribers of one stream as they join, give credit and leave.

The rules:

- A subscriber joins live, or behind a place of the present run that the history still has. What has become void since
  that place is told first (`StreamRestarting`), and then what it has missed is replayed.
- One who joins a stream that has ended is given what is kept and the last message.
- A subscriber leaves by asking, by dying, by an inbox that raises, or because it does not keep up. After that nothing
  more is put into its inbox.
- The leaving of the last one ends the stream, or lets it run on for `keep` seconds.

The manager's thread calls `subscribe`, `join` and `unsubscribe`; the thread that notices a subscriber's death calls
`unsubscribe`, too. The subscriber's thread calls `on_credit`. The thread that puts a message calls `lost`.
"""

from __future__ import annotations

import threading
from typing import Any

import pykka

from gemini_streams.api.chosen import unmarked
from gemini_streams.api.json_values import decode
from gemini_streams.delivery.history import ALL_KEPT
from gemini_streams.delivery.subscription import Subscription
from gemini_streams.errors import SlowSubscriberError, StreamCrashedError, StreamEndedError
from gemini_streams.messages import LastMessage, StreamEvent, StreamRestarting
from gemini_streams.options import FlowControl, Place
from gemini_streams.streams import ending, last_message
from gemini_streams.streams.attempt import Attempt
from gemini_streams.streams.state import State
from pykka_supervisor.log import get_logger

__all__ = ["Members"]

_log = get_logger(__name__)


class Members:
    """One stream's."""

    __slots__ = ("_stream", "lock", "stream_id", "tag")

    def __init__(self, stream: State) -> None:
        self._stream = stream
        self.lock: threading.Lock = stream.lock
        self.stream_id: str = stream.stream_id
        self.tag: Any = stream.tag

    # -- the manager's thread

    def subscribe(
        self, ref: pykka.ActorRef[Any], after: Place, flow: FlowControl | None
    ) -> Subscription | None:
        """Add a subscriber; `None` where it is one already.

        Raises `StreamEndedError`, `HistoryGoneError`, `InvalidRequestError`.
        """
        stream = self._stream
        with self.lock:
            if stream.audience.has(ref.actor_urn):
                return None
            subscription = Subscription(self, ref, flow or stream.options.flow)
            begun = stream.attempts
            void, missed = stream.history.missed(after, stream.attempt, stream.next_sequence, begun)
            if stream.ended and after is None:
                raise StreamEndedError(f"the stream {self.stream_id} has ended ({stream.status})")
            if isinstance(after, tuple):
                subscription.given.top = after[1]  # it has seen that much, elsewhere
            if void is not None:
                subscription.restart(self._restarting(begun if missed else stream.attempt, void))
            if missed is not None:
                subscription.replay(missed)
            if missed is not None and begun < stream.attempt:  # it has come between two attempts
                subscription.restart(self._restarting(stream.attempt, stream.next_sequence))
            if stream.ended:
                if stream.last is not None:
                    subscription.finish(stream.last)
                stream.audience.join_late(subscription)
            else:
                self._join(subscription)
            return subscription

    def join(self, ref: pykka.ActorRef[Any]) -> Subscription | None:
        """Add a subscriber by a start that found this stream running or lingering: it is given all that is kept.

        `None` where it is a subscriber already, or has been given the end.
        """
        return None if ref.actor_urn in self.told else self.subscribe(ref, ALL_KEPT, None)

    def unsubscribe(self, urn: str, *, gone: bool = False) -> bool:
        """Let a subscriber go without a last message; the last one's leaving ends the stream unless it is kept.

        After the stream's end a subscriber for which something is still buffered gets none of that. `gone`: the
        subscriber has died; the thread that notices the death calls this.
        """
        stream = self._stream
        with self.lock:
            subscription = stream.audience.find(urn)
            if subscription is None or (stream.ended and subscription.closed):
                return False
            subscription.close()
            interrupted = self.leave(subscription)
        ending.let_go(stream, interrupted)
        if gone:
            stream.table.observed.dropped(stream, urn, "died", "its actor is dead")
        _log.debug("subscriber_left", stream_id=self.stream_id, subscriber=urn, died=gone)
        return True

    def has(self, urn: str) -> bool:
        """Whether this actor is one: after the stream's end, whether something is still buffered for it."""
        return self._stream.audience.has(urn)

    @property
    def count(self) -> int:
        """How many there are."""
        return self._stream.audience.count

    @property
    def told(self) -> set[str]:
        """The URNs of the subscribers that were given this stream's last message."""
        with self.lock:
            return set(self._stream.audience.told or ())

    # -- a subscriber's thread, or the one that puts into its inbox

    def on_credit(self, subscription: Subscription) -> None:
        """Let a subscription that has drained take more."""
        stream = self._stream
        with self.lock:
            subscription.flush()
            if subscription.closed and not stream.ended:
                interrupted = self.leave(subscription)
            else:
                interrupted = None
                if stream.audience.go_on(subscription):
                    stream.wake()
        ending.let_go(self._stream, interrupted)

    def lost(self, subscription: Subscription, error: BaseException) -> None:
        """Let a subscriber leave whose inbox, of an application's own kind, has raised; in the thread that put."""
        with self.lock:
            subscription.close()
            interrupted = self.leave(subscription)
        stream = self._stream
        ending.let_go(stream, interrupted)
        stream.table.observed.dropped(stream, subscription.urn, "inbox", type(error).__name__)

    def cannot_tell(self, subscription: Subscription) -> LastMessage:
        """Return the last message of a subscriber whose own could not be made."""
        return last_message.unmade(self._stream, subscription)

    def event(self, attempt: int, sequence: int, payload: bytes) -> StreamEvent:
        """Decode an event of the history again."""
        payload, mark = unmarked(payload)
        return StreamEvent(
            self.stream_id, attempt, sequence, decode(payload), self.tag, self._stream.run, mark
        )

    # -- with the lock held

    def let_go(self, subscription: Subscription) -> Attempt | None:
        """End one subscription that does not keep up, or whose inbox is closed; returns the attempt to interrupt."""
        if subscription.closed:
            return self.leave(subscription)
        flow = subscription.flow
        late = (
            f"held the stream paused for {flow.stall_timeout:g} s"
            if subscription.pausing
            else f"had {flow.window} events or {flow.max_bytes} bytes on their way"
        )
        error = SlowSubscriberError(f"this subscriber {late} and was let go")
        subscription.finish(last_message.failed(self._stream, error), at_once=True)
        self._stream.table.observed.dropped(self._stream, subscription.urn, "slow", late)
        return self.leave(subscription)

    def leave(self, subscription: Subscription) -> Attempt | None:
        """Take a subscription out; returns the attempt to interrupt where that ended the stream."""
        stream = self._stream
        if not stream.audience.leave(subscription):
            return None
        stream.table.unwatch(subscription.ref, stream)
        stream.wake()
        if stream.audience.all or stream.ended:
            return None
        if stream.options.keep:
            stream.watchdog.keep_until = stream.clock.monotonic() + stream.options.keep
            stream.watchdog.arm()
            return None
        return self.forsake()

    def forsake(self) -> Attempt | None:
        """End the stream that has no subscriber left; returns the attempt to interrupt."""
        return ending.end(
            self._stream,
            "stopped",
            last_message.stopped(self._stream, "requested"),
            at_once=True,
            cancels="leave",
        )

    def _join(self, subscription: Subscription) -> None:
        stream = self._stream
        stream.audience.join(subscription)
        if subscription.pausing and stream.current is not None:
            stream.current.free = 0  # its window is another one
        stream.watchdog.keep_until = None

    def _restarting(self, attempt: int, resume_at: int) -> StreamRestarting:
        """Return the word of a restart for a subscriber that was not there."""
        error = self._stream.restart_error or StreamCrashedError("the stream was restarted meanwhile")
        endpoint = self._stream.target.name
        return StreamRestarting(self.stream_id, attempt, resume_at, 0.0, error, self.tag, endpoint=endpoint)
