"""One subscription: how events reach one subscriber's inbox, and what happens when it does not keep up.

The rules (contract, section 8):

- What is on its way to a subscriber, in its inbox or buffered here, stays within `window` events and `max_bytes`
  bytes, whichever is met first; one event larger than `max_bytes` goes alone.
- A subscriber gives credit back by handling events (`acknowledge`), in its own thread. Nobody polls.
- `pause`: a full subscription has no room, and the stream takes no event that does not fit everybody who pauses.
- `drop_newest`, `drop_oldest`: what does not fit is left out and counted; the `EventsDropped` that tells it stands
  exactly at the gap. `drop_oldest` keeps half of the window back in a buffer, since what is in an inbox cannot be
  taken out again. `disconnect`: the subscriber is let go.
- Control messages need no room, but never overtake what is buffered before them.

Everything here but `acknowledge` runs with the session's lock held, in whichever thread holds it: the stream's, the
subscriber's (when credit lets the buffer flow), the supervisor's. Nothing here blocks.

How a message is put depends on the subscriber. A `SubscriberActor` and an iterator take all events of a read as one
batch and acknowledge it when they have handled it. Any other Pykka actor gets each event as a message of its own,
and behind every half window an attribute request that Pykka itself answers, in the actor's thread, unseen by
`on_receive`: that answer is the acknowledgement.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

import pykka
from pykka.messages import ProxyGetAttr

from gemini_streams.messages import EventsDropped, LastMessage, StreamEvent, StreamRestarting
from gemini_streams.options import FlowControl
from pykka_supervisor.mailbox import Envelope, Mailbox

__all__ = ["ControlBatch", "EventBatch", "Owner", "Subscription"]

_ASK_FOR_URN = ProxyGetAttr(attr_path=("actor_urn",))

LastMessageOf = Callable[["Subscription"], LastMessage]
"""Makes a subscription's last message when it is put: what it counts is known only then."""


class Owner(Protocol):
    """What a subscription needs of its session."""

    stream_id: str
    tag: Any

    def on_credit(self, subscription: Subscription) -> None:
        """Take note, in the subscriber's thread, that a starved subscription has drained."""

    def event(self, attempt: int, sequence: int, payload: bytes) -> StreamEvent:
        """Decode an event of the history again."""


class EventBatch:
    """Events of one read for one subscriber: one message. Handled by `run`, in the subscriber's thread.

    The iterator remembers how far it came: after a crash `run` goes on behind the event that caused it.
    """

    __slots__ = ("count", "rest", "size", "subscription")
    __actor_batch__: ClassVar[bool] = True

    def __init__(self, subscription: Subscription, events: Sequence[StreamEvent], size: int) -> None:
        self.subscription = subscription
        self.rest: Iterator[StreamEvent] = iter(events)
        self.count = len(events)
        self.size = size

    def run(self, actor: Any) -> None:
        """Give each event to the actor's `on_stream_event`, then acknowledge them all."""
        handle = actor.on_stream_event
        for event in self.rest:
            handle(event)
        self.subscription.acknowledge(self.count, self.size)

    def discard(self) -> None:
        """Nobody will handle the rest."""


class ControlBatch:
    """One message that is no event, for a subscriber that takes batches."""

    __slots__ = ("message",)
    __actor_batch__: ClassVar[bool] = True

    def __init__(self, message: Any) -> None:
        self.message: Any = message

    def run(self, actor: Any) -> None:
        """Give the message to the actor's callback for it; once, also when that crashes."""
        message, self.message = self.message, None
        if message is not None:
            actor.on_stream_message(message)

    def discard(self) -> None:
        """Nobody will handle it."""


class _Credit:
    """Stands where Pykka puts the answer to an attribute request: an acknowledgement from a plain actor."""

    __slots__ = ("count", "size", "subscription")

    def __init__(self, subscription: Subscription, count: int, size: int) -> None:
        self.subscription = subscription
        self.count = count
        self.size = size

    def set(self, _value: object = None) -> None:
        """Called by Pykka in the subscriber's thread when everything before it has been handled."""
        self.subscription.acknowledge(self.count, self.size)

    def set_exception(self, _exc_info: object = None) -> None:
        """Called by Pykka when the subscriber has died; the session's monitor takes care of that."""


# What waits in a subscription's buffer: (sequence, count of events, bytes, item). An item is a StreamEvent, a payload
# of the history (attempt, bytes), a StreamRestarting (of no events), or, for a gap, the attempt it lies in.
_Waiting = tuple[int, int, int, Any]


class Subscription:
    """One subscriber of one session."""

    __slots__ = (
        "_acked",
        "_acked_bytes",
        "_batched",
        "_inbox",
        "_inbox_bytes",
        "_inbox_window",
        "_last",
        "_mark_bytes",
        "_mark_count",
        "_owner",
        "_sent",
        "_sent_bytes",
        "_waiting",
        "_waiting_bytes",
        "_waiting_count",
        "closed",
        "count",
        "flow",
        "pausing",
        "ref",
        "replaying",
        "stalled_since",
        "starving",
        "top",
        "urn",
    )

    def __init__(self, owner: Owner, ref: pykka.ActorRef[Any], flow: FlowControl) -> None:
        self._owner = owner
        self.ref = ref
        self.urn = ref.actor_urn
        self.flow = flow
        self.pausing = flow.overflow == "pause"
        self._inbox: Any = ref.actor_inbox
        self._batched = getattr(ref.actor_class, "takes_batches", False)
        half = flow.overflow == "drop_oldest"
        self._inbox_window = (flow.window + 1) // 2 if half else flow.window
        self._inbox_bytes = (flow.max_bytes + 1) // 2 if half else flow.max_bytes
        self._sent = 0
        self._sent_bytes = 0
        self._acked = 0  # written by the subscriber's thread alone
        self._acked_bytes = 0
        self._mark_count = 0  # sent to a plain actor since the last request for an acknowledgement
        self._mark_bytes = 0
        self._waiting: deque[_Waiting] | None = None
        self._waiting_count = 0
        self._waiting_bytes = 0
        self._last: LastMessageOf | None = None
        self.replaying = False
        """The buffer holds what came before this subscriber did."""
        self.starving = False
        """Somebody waits for this subscriber's credit."""
        self.stalled_since: float | None = None
        """When it began to hold the stream paused."""
        self.count = 0
        """Events of the present attempt put into the inbox."""
        self.top = -1
        """The highest sequence number put into the inbox that still stands."""
        self.closed = False
        """The last message has been put, or never will be."""

    def __repr__(self) -> str:
        return f"<Subscription of {self.ref} to {self._owner.stream_id}>"

    # -- the subscriber's thread, without the lock -------------------------------------------------------------------

    def acknowledge(self, count: int, size: int) -> None:
        """Give credit back for events that have been handled."""
        self._acked += count
        self._acked_bytes += size
        if (
            self.starving
            and (self._sent - self._acked) * 2 <= self._inbox_window
            and (self._sent_bytes - self._acked_bytes) * 2 <= self._inbox_bytes
        ):
            self._owner.on_credit(self)

    # -- with the session's lock held --------------------------------------------------------------------------------

    def room(self) -> tuple[int, int, bool]:
        """How many events and bytes fit, and whether the first may be larger than that."""
        if self._waiting:
            return 0, 0, False
        in_flight = self._sent - self._acked
        return (
            self._inbox_window - in_flight,
            self._inbox_bytes - (self._sent_bytes - self._acked_bytes),
            not in_flight,
        )

    def push(self, events: list[StreamEvent], payloads: list[bytes], size: int) -> bool:
        """Send new events, all of one read, `size` bytes together; `False` where this subscriber must be let go."""
        if self._waiting:
            self.flush()
        count = len(events)
        in_flight = self._sent - self._acked
        if (
            not self._waiting
            and count <= self._inbox_window - in_flight
            and (
                size <= self._inbox_bytes - (self._sent_bytes - self._acked_bytes)
                or (count == 1 and not in_flight)
            )
        ):
            self._put_events(events, size)
            return True
        sizes = [len(payload) for payload in payloads]
        if self.pausing:  # only what fits is taken for those who pause, but this one may have joined just now
            self._buffer(events, sizes)
            return True
        return self._overflow(events, sizes)

    def _overflow(self, events: list[StreamEvent], sizes: list[int]) -> bool:
        """Send what fits and treat the rest by the policy."""
        fits = 0 if self._waiting else self._fitting(sizes)
        if fits:
            self._put_events(events[:fits], sum(sizes[:fits]))
        rest = events[fits:]
        if not rest:
            return True
        policy = self.flow.overflow
        keeps = self.replaying and self._waiting_bytes < 2 * self.flow.max_bytes
        if policy == "disconnect" and not keeps:
            return False
        if policy == "drop_newest" and not keeps:
            self._gap(rest[0].attempt, rest[0].sequence, len(rest))
            return True
        self._buffer(rest, sizes[fits:])
        if policy == "drop_oldest" and not keeps:
            self._drop_oldest()
        return True

    def _drop_oldest(self) -> None:
        """Make the buffer fit the window again."""
        waiting = self._waiting
        if waiting is None:
            return
        in_flight = self._sent - self._acked
        limit = max(self.flow.window - in_flight, 0)
        limit_bytes = self.flow.max_bytes - (self._sent_bytes - self._acked_bytes)
        least = 0 if in_flight else 1
        stays: list[_Waiting] = []
        gap: _Waiting | None = None
        while self._waiting_count > limit or (
            self._waiting_bytes > limit_bytes and self._waiting_count > least
        ):
            sequence, count, size, item = waiting.popleft()
            if not count:
                stays += [gap] if gap else []
                stays.append((sequence, count, size, item))
                gap = None
                continue
            attempt = item
            if not isinstance(item, int):
                attempt = item.attempt if isinstance(item, StreamEvent) else item[0]
                self._waiting_count -= 1
                self._waiting_bytes -= size
            gap = (gap[0], gap[1] + count, 0, gap[3]) if gap else (sequence, count, 0, attempt)
        if gap:
            if waiting and isinstance(waiting[0][3], int):
                gap = (gap[0], gap[1] + waiting.popleft()[1], 0, gap[3])
            stays.append(gap)
        waiting.extendleft(reversed(stays))

    def _gap(self, attempt: int, sequence: int, count: int) -> None:
        waiting = self._waiting
        if waiting is None:
            waiting = self._waiting = deque()
        if waiting and isinstance(waiting[-1][3], int):
            sequence, before, _size, _attempt = waiting.pop()
            count += before
        waiting.append((sequence, count, 0, attempt))
        self.starve()

    def _buffer(self, events: list[StreamEvent], sizes: list[int]) -> None:
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.extend(
            (event.sequence, 1, size, event) for event, size in zip(events, sizes, strict=True)
        )
        self._waiting_count += len(events)
        self._waiting_bytes += sum(sizes)
        self.starve()

    def replay(self, history: Sequence[tuple[int, bytes]], attempt: int) -> None:
        """Send what came before this subscriber did, as it drains."""
        if not history:
            return
        self._waiting = deque((sequence, 1, len(p), (attempt, p)) for sequence, p in history)
        self._waiting_count = len(history)
        self._waiting_bytes = sum(len(p) for _, p in history)
        self.replaying = True
        self.flush()

    def restart(self, message: StreamRestarting) -> None:
        """Tell that the stream starts again; what is void by it leaves the buffer."""
        waiting = self._waiting
        resume_at = message.resume_at
        while waiting and waiting[-1][0] + waiting[-1][1] > resume_at:
            sequence, count, size, item = waiting.pop()
            if not isinstance(item, int):
                self._waiting_count -= count
                self._waiting_bytes -= size
            elif sequence < resume_at:
                waiting.append((sequence, resume_at - sequence, 0, item))
                break
        if self._empty_but_for_a_gap():
            self._put_restart(message)
        elif self._waiting is not None:
            self._waiting.append((resume_at, 0, 0, message))

    def finish(self, last: LastMessageOf, *, at_once: bool = False) -> None:
        """Put the last message, behind what is buffered or instead of it."""
        if self.closed:
            return
        if at_once:
            self._waiting = None
        if self._empty_but_for_a_gap():
            self.closed = True
            self._put(last(self))
        else:
            self._last = last

    def close(self) -> None:
        """Put nothing more, not even a last message."""
        self.closed = True
        self._waiting = None
        self._last = None
        self.starving = False

    def flush(self) -> None:
        """Send of the buffer what fits by now."""
        waiting = self._waiting
        if waiting is None and self._last is None:
            self.starving = False
            return
        self.starve()  # before the counts are read: credit that comes from now on calls again
        while waiting:
            sequence, count, _size, item = waiting[0]
            if isinstance(item, int):
                if len(waiting) == 1 and not self._fits(0, self._sent - self._acked):
                    return
                waiting.popleft()
                self._put_gap(item, sequence, count)
            elif not count:
                waiting.popleft()
                self._put_restart(item)
            else:
                run, size = self._run(waiting)
                if not run:
                    return
                self._put_events(run, size)
        self._emptied()
        if self._last is not None and not self.closed:
            self.closed = True
            self._put(self._last(self))

    def starve(self) -> None:
        """Ask for word of the next credit (`Owner.on_credit`)."""
        self.starving = True
        if self._mark_count:
            self._put_all([self._mark()])

    def _run(self, waiting: deque[_Waiting]) -> tuple[list[StreamEvent], int]:
        """Take the events at the head of the buffer that fit."""
        run: list[StreamEvent] = []
        run_size = 0
        in_flight = self._sent - self._acked
        in_flight_bytes = self._sent_bytes - self._acked_bytes
        while waiting:
            sequence, count, size, item = waiting[0]
            if isinstance(item, int) or not count or not self._fits(size, in_flight, in_flight_bytes):
                break
            waiting.popleft()
            self._waiting_count -= 1
            self._waiting_bytes -= size
            in_flight += 1
            in_flight_bytes += size
            run_size += size
            run.append(
                item if isinstance(item, StreamEvent) else self._owner.event(item[0], sequence, item[1])
            )
        return run, run_size

    def _fits(self, size: int, in_flight: int, in_flight_bytes: int = 0) -> bool:
        """Whether one more event fits the inbox; one alone always does."""
        return not in_flight or (
            in_flight < self._inbox_window and in_flight_bytes + size <= self._inbox_bytes
        )

    def _fitting(self, sizes: list[int]) -> int:
        """How many events of these sizes fit the inbox."""
        in_flight = self._sent - self._acked
        in_flight_bytes = self._sent_bytes - self._acked_bytes
        for index, size in enumerate(sizes):
            if not self._fits(size, in_flight + index, in_flight_bytes):
                return index
            in_flight_bytes += size
        return len(sizes)

    def _empty_but_for_a_gap(self) -> bool:
        """Whether the buffer is empty, once a gap that stands in it alone has been told."""
        waiting = self._waiting
        if waiting and len(waiting) == 1 and isinstance(waiting[0][3], int):
            sequence, count, _size, attempt = waiting.popleft()
            self._put_gap(attempt, sequence, count)
        if waiting:
            return False
        self._emptied()
        return True

    def _emptied(self) -> None:
        self._waiting = None
        self._waiting_count = self._waiting_bytes = 0
        self.replaying = self.starving = False

    # -- into the inbox ----------------------------------------------------------------------------------------------

    def _put_events(self, events: list[StreamEvent], size: int) -> None:
        count = len(events)
        self._sent += count
        self._sent_bytes += size
        self.count += count
        self.top = events[-1].sequence
        if self._batched:
            try:
                self._inbox.put(Envelope(EventBatch(self, events, size)))
            except pykka.ActorDeadError:
                self.close()
            return
        self._put_one_by_one(events, count, size)

    def _put_one_by_one(self, events: list[StreamEvent], count: int, size: int) -> None:
        """Put messages for a plain actor, and requests for acknowledgement among them."""
        half = max(self._inbox_window // 2, 1)
        envelopes: list[Envelope[Any]] = []
        if self._mark_count + count < half and (self._mark_bytes + size) * 2 < self._inbox_bytes:
            envelopes = [Envelope(event) for event in events]
            self._mark_count += count
            self._mark_bytes += size
        else:
            each = size // count
            for event in events:
                envelopes.append(Envelope(event))
                self._mark_count += 1
                self._mark_bytes += each
                if self._mark_count >= half or self._mark_bytes * 2 >= self._inbox_bytes:
                    envelopes.append(self._mark())
            rest = size - each * count
            self._mark_bytes += rest
        self._put_all(envelopes)

    def _mark(self) -> Envelope[Any]:
        credit: Any = _Credit(self, self._mark_count, self._mark_bytes)
        self._mark_count = 0
        self._mark_bytes = 0
        return Envelope(_ASK_FOR_URN, reply_to=credit)

    def _put_all(self, envelopes: list[Envelope[Any]]) -> None:
        inbox = self._inbox
        try:
            if isinstance(inbox, Mailbox):
                inbox.put_many(envelopes)
            elif type(inbox) is queue.Queue:
                # All at once, and never blocking: nobody may hold a stream up by a bounded queue.
                with inbox.mutex:
                    inbox.queue.extend(envelopes)
                    inbox.unfinished_tasks += len(envelopes)
                    inbox.not_empty.notify()
            else:
                for envelope in envelopes:
                    inbox.put(envelope)
        except pykka.ActorDeadError:
            self.close()

    def _put(self, message: Any) -> None:
        if self._batched:
            try:
                self._inbox.put(Envelope(ControlBatch(message)))
            except pykka.ActorDeadError:
                self.close()
        else:
            self._put_all([Envelope(message)])

    def _put_gap(self, attempt: int, sequence: int, count: int) -> None:
        self._put(EventsDropped(self._owner.stream_id, attempt, sequence, count, self._owner.tag))

    def _put_restart(self, message: StreamRestarting) -> None:
        void = self.top >= message.resume_at
        self.top = min(self.top, message.resume_at - 1)
        self.count = 0
        self._put(
            StreamRestarting(
                message.stream_id,
                message.attempt,
                message.resume_at,
                message.delay,
                message.error,
                message.tag,
                discard=void,
            )
        )
