"""One subscription: how events reach one subscriber's inbox, and what happens when the subscriber does not keep up.

The rules:

- The events on their way to a subscriber, in its inbox or buffered here, stay within `window` events and within
  `max_bytes` bytes. One event larger than `max_bytes` goes alone.
- A subscriber gives credit back by handling events (`acknowledge`), in its own thread. No thread polls.
- `pause`: a full subscription has no room, and the stream takes no event that does not fit all subscribers that pause.
- `drop_newest`, `drop_oldest`: an event that does not fit is left out and counted. The `EventsDropped` that tells it
  stands exactly at the gap. `drop_oldest` keeps half of the window back in a buffer, since an event in an inbox cannot
  be taken out again.
- `disconnect`: the session lets the subscriber go.
- Control messages need no room, but never overtake an event that is buffered before them.
- Nothing here blocks: a thread of its own puts into an inbox that might (`carried`).
- A subscriber whose inbox is closed, or raises, is gone: its subscription closes, and the session lets it leave.

The backlog (`backlog`) holds what waits. `batches` says which messages are put and how they are acknowledged, `inbox`
how they are put.

The threads: the subscriber's thread calls `acknowledge`, without a lock. Everything else runs with the session's lock
held, in the thread that holds it: the stream's, the subscriber's (when credit empties the backlog), the supervisor's,
the manager's, the clock's. A position is a count of all events, or of their bytes, that were ever sent.

    field                             written by                              may be read without the lock by
    ref, urn, flow, pausing           no thread: they never change            any thread
    _acked, _acked_bytes              the subscriber's thread, without lock   any thread: credit only grows
    _sent, _sent_bytes, starving      a thread with the lock                  the subscriber's, in `acknowledge`
    closed                            a thread with the lock                  the manager's: it only becomes true
    all others                        a thread with the lock                  no thread
"""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import pykka

from gemini_streams.delivery.backlog import Backlog, Piece
from gemini_streams.delivery.batches import ControlBatch, EventBatch, mark
from gemini_streams.delivery.carried import CarriedInbox, never_blocks
from gemini_streams.delivery.given import Given
from gemini_streams.delivery.history import Replay
from gemini_streams.delivery.inbox import put_all
from gemini_streams.delivery.owner import LastMessageOf, Owner
from gemini_streams.delivery.replaying import Replaying
from gemini_streams.errand import Errand
from gemini_streams.messages import EventsDropped, StreamEvent, StreamRestarting
from gemini_streams.options import FlowControl
from gemini_streams.safely import safely
from pykka_supervisor.mailbox import Envelope, Mailbox

__all__ = ["NO_LIMIT", "Subscription", "common_room"]

NO_LIMIT = 1 << 62
"""Events or bytes that fit where no subscriber limits them."""


def common_room(subscriptions: Iterable[Subscription], size: int) -> tuple[list[Subscription], int, int]:
    """Return which of these have no room for an event of so many bytes, and how many events and bytes fit all of them.

    One pass without a call for each of them: it is made for every read. With the session's lock held.
    """
    full: list[Subscription] = []
    count = room = NO_LIMIT
    for s in subscriptions:
        if s.backlog.entries:
            full.append(s)
            count = room = 0
            continue
        in_flight = s._sent - s._acked  # noqa: SLF001 - this module's own
        free = s._inbox_window - in_flight  # noqa: SLF001
        free_bytes = s._inbox_bytes - (s._sent_bytes - s._acked_bytes)  # noqa: SLF001
        if free <= 0 or (in_flight and free_bytes < (size or 1)):
            full.append(s)
        count = min(count, free)
        room = min(room, free_bytes)
    return full, count, room


class Subscription:
    """One subscriber of one session."""

    __slots__ = (
        "_acked",
        "_acked_bytes",
        "_batched",
        "_errand",
        "_inbox",
        "_inbox_bytes",
        "_inbox_window",
        "_last",
        "_marked",
        "_marked_bytes",
        "_owner",
        "_sent",
        "_sent_bytes",
        "_told_at",
        "backlog",
        "closed",
        "flow",
        "given",
        "pausing",
        "ref",
        "replaying",
        "stalled_since",
        "starving",
        "unheard",
        "urn",
    )

    def __init__(self, owner: Owner, ref: pykka.ActorRef[Any], flow: FlowControl) -> None:
        self._owner = owner
        self.ref = ref
        self.urn = ref.actor_urn
        self.flow = flow
        self.pausing = flow.overflow == "pause"
        self._inbox: Any = ref.actor_inbox
        if not never_blocks(self._inbox):
            self._inbox = CarriedInbox(self._inbox, owner.lock, functools.partial(owner.lost, self))
        self._batched = getattr(ref.actor_class, "takes_batches", False)
        half = flow.overflow == "drop_oldest"
        self._inbox_window = (flow.window + 1) // 2 if half else flow.window
        self._inbox_bytes = (flow.max_bytes + 1) // 2 if half else flow.max_bytes
        # All that was ever sent, and how far of it has been acknowledged, or will be when the request for it comes
        # back: positions and not differences, so that an acknowledgement that is given twice says nothing new.
        self._sent = 0
        self._sent_bytes = 0
        self._acked = 0  # written by the subscriber's thread alone
        self._acked_bytes = 0
        self._marked = 0
        self._marked_bytes = 0
        self._told_at = 0  # what had been acknowledged when a gap was last told
        self.backlog = Backlog()
        self._errand: Errand | None = None  # that decodes a replay
        self._last: LastMessageOf | None = None
        self.replaying = False
        """It has not caught up yet with what came before it did."""
        self.starving = False
        """Somebody waits for this subscriber's credit."""
        self.stalled_since: float | None = None
        """When it began to hold the stream paused."""
        self.given = Given()
        self.unheard: int | None = None
        """The attempt of the first restart that was buffered, and that the last message came in place of."""
        self.closed = False
        """The last message has been put, or never will be."""

    def __repr__(self) -> str:
        return f"<Subscription of {self.ref} to {self._owner.stream_id}>"

    # -- the subscriber's thread, without the lock -------------------------------------------------------------------

    def acknowledge(self, upto: int, upto_bytes: int) -> None:
        """Give credit back: everything up to this position has been handled."""
        self._acked = upto
        self._acked_bytes = upto_bytes
        if (
            self.starving
            and (self._sent - self._acked) * 2 <= self._inbox_window
            and (self._sent_bytes - self._acked_bytes) * 2 <= self._inbox_bytes
        ):
            self._owner.on_credit(self)

    # -- with the session's lock held --------------------------------------------------------------------------------

    def has_room(self, size: int) -> bool:
        """Whether an event of so many bytes fits, or, for 0, whether any might; one alone always does."""
        return not common_room((self,), size)[0]

    def waiting(self) -> tuple[int, int]:
        """Return how many events the subscriber has not handled yet, and their bytes.

        A subscriber acknowledges many events at once. So those on their way to an inbox of Pykka's count only where
        that is not empty.
        """
        count, size = self._sent - self._acked, self._sent_bytes - self._acked_bytes
        if type(self._inbox) in (queue.Queue, Mailbox):
            there = self._inbox.qsize()
            if there == 0:
                count = size = 0
            elif not self._batched and there < count:
                count, size = there, size * there // count
        return count + self.backlog.count, size + self.backlog.size

    def takes(self, count: int, size: int) -> bool:
        """Whether so many events, `size` bytes together, can be put into the inbox at once."""
        in_flight = self._sent - self._acked
        return (
            not self.backlog.entries
            and count <= self._inbox_window - in_flight
            and (
                size <= self._inbox_bytes - (self._sent_bytes - self._acked_bytes)
                or (count == 1 and not in_flight)
            )
        )

    def push(
        self,
        events: list[StreamEvent],
        payloads: list[bytes],
        size: int,
        wakes: list[threading.Lock] | None = None,
    ) -> bool:
        """Send new events, all of one read, `size` bytes together; `False` where it must be let go, or is gone.

        `wakes` takes the lock on which the subscriber waits, where it may be woken later.
        """
        if self.takes(len(events), size):
            self._put_events(events, size, payloads, None, wakes)
            return not self.closed
        return self._push_slowly(events, [len(payload) for payload in payloads])

    def _push_slowly(self, events: list[StreamEvent], sizes: list[int]) -> bool:
        """Send what fits and treat the rest by the policy."""
        self.flush()
        fits = self._fitting(sizes) if self.backlog.only_a_gap else 0
        if fits:
            self._tell_gap()
            self._put_events(events[:fits], sum(sizes[:fits]), (), sizes[:fits])
        rest = events[fits:]
        if not rest:
            return not self.closed
        sizes = sizes[fits:]
        policy, backlog = self.flow.overflow, self.backlog
        # A subscriber that pauses has joined just now: only events that fit all of those are taken off the socket.
        # And no subscriber is called slow, or loses events, while a window of new events fits behind its replay.
        keeps = policy == "pause" or (
            self.replaying
            and backlog.count - backlog.replay_count + len(rest) <= self.flow.window
            and backlog.size - backlog.replay_size + sum(sizes) <= self.flow.max_bytes
        )
        if policy == "disconnect" and not keeps:
            return False
        if policy == "drop_newest" and not keeps:
            backlog.add_gap(rest[0].attempt, rest[0].sequence, len(rest))
        else:
            backlog.add(rest, sizes)
        self.flush()  # credit may have come since it was seen that they do not fit
        if policy == "drop_oldest" and not keeps and self._drop_oldest():
            self.flush()
        return not self.closed

    def _drop_oldest(self) -> bool:
        """Make the buffer fit the window again; whether something had to go for that."""
        in_flight = self._sent - self._acked
        return self.backlog.drop_oldest(
            max(self.flow.window - in_flight, 0),
            self.flow.max_bytes - (self._sent_bytes - self._acked_bytes),
            0 if in_flight else 1,
        )

    def replay(self, history: Replay) -> None:
        """Send what came before this subscriber did, as it drains: in a thread of its own, which decodes it."""
        self.backlog.begin(history)
        self.replaying = True
        self._errand = Errand(self._owner.lock, Replaying(self, self._owner).go_on, "gemini-streams-replay")
        self._errand.wake()

    def next_piece(self) -> tuple[Piece, int]:
        """Take what comes next of a replay and fits; it is empty where nothing does, or there is no more of it."""
        if self.backlog.entries:
            self.starve()  # as `flush`: before the counts are read
            self._send_waiting()
        return self.backlog.take_piece(
            self._fits, self._sent - self._acked, self._sent_bytes - self._acked_bytes
        )

    def put_piece(self, piece: Piece, events: list[StreamEvent]) -> bool:
        """Put a piece of a replay, decoded meanwhile; `False` where it has no place any more.

        The subscriber has left by then, or the stream was stopped.
        """
        waiting = self.backlog.entries
        if not waiting or waiting[0][3] is not piece:
            return False
        waiting.popleft()
        sizes = [len(payload) for _, payload in piece.payloads]
        self._put_events(events, sum(sizes), (), sizes)
        return True

    def restart(self, message: StreamRestarting) -> None:
        """Tell that the stream starts again; what is void by it leaves the buffer."""
        self.backlog.cut(message.resume_at)
        if self.backlog.only_a_gap:
            self._tell_gap()
            self._put_restart(message)
        else:
            self.backlog.add_restart(message)

    def finish(self, last: LastMessageOf, *, at_once: bool = False) -> None:
        """Put the last message, behind what is buffered or instead of it."""
        if self.closed:
            return
        if at_once:
            self.unheard = self.backlog.next_attempt
            self._emptied()
        if self.backlog.only_a_gap:
            self._tell_gap()
            self._put_last(last)
        else:
            self._last = last

    def close(self) -> None:
        """Put nothing more, not even a last message."""
        self.closed = True
        self._last = None
        self._emptied()
        if isinstance(self._inbox, CarriedInbox):
            self._inbox.clear()

    def flush(self) -> None:
        """Send of the buffer what fits by now."""
        backlog = self.backlog
        if backlog.entries is None and self._last is None:
            self.starving = False
            return
        moved = True
        while moved and backlog.entries:
            # Before the counts are read, so that credit that comes from now on calls again; and once more behind
            # what was sent, or nothing might be acknowledged any more.
            self.starve()
            moved = self._send_waiting()
        if backlog.entries:
            return
        self._emptied()
        if self._last is not None and not self.closed:
            self._put_last(self._last)

    def _send_waiting(self) -> bool:
        """Send what fits from the head of the buffer on; whether events were sent."""
        waiting = self.backlog.entries
        sent = False
        while waiting:
            sequence, count, size, item = waiting[0]
            if isinstance(item, int):
                # A gap is told with the entry behind it. Else a subscriber that does not read is told gap after gap.
                if len(waiting) > 1:
                    _, following, size, behind = waiting[1]
                    if isinstance(behind, Replay):
                        size = behind.next_size
                    told = not following or self._fits(
                        size, self._sent - self._acked, self._sent_bytes - self._acked_bytes
                    )
                else:
                    told = self._last is not None or self._drained_further()
                if not told:
                    break
                waiting.popleft()
                self._put_gap(item, sequence, count)
            elif isinstance(item, Piece):
                break
            elif isinstance(item, Replay):
                fits = self._fits(
                    item.next_size, self._sent - self._acked, self._sent_bytes - self._acked_bytes
                )
                if fits and self._errand is not None:
                    self._errand.wake()
                break
            elif not count:
                waiting.popleft()
                self._put_restart(item)
            else:
                run, sizes = self.backlog.take_events(
                    self._fits, self._sent - self._acked, self._sent_bytes - self._acked_bytes
                )
                if not run:
                    break
                self._put_events(run, sum(sizes), (), sizes)
                sent = True
        return sent

    def starve(self) -> None:
        """Ask for word of the next credit (`Owner.on_credit`)."""
        self.starving = True
        if self._marked != self._sent and not self._batched:
            self._put_all([self._mark(self._sent, self._sent_bytes)])

    def _drained_further(self) -> bool:
        """Whether half of the window is free, where `acknowledge` calls, and more is than when a gap was last told."""
        return self._acked == self._sent or (
            self._acked != self._told_at
            and (self._sent - self._acked) * 2 <= self._inbox_window
            and (self._sent_bytes - self._acked_bytes) * 2 <= self._inbox_bytes
        )

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

    def _tell_gap(self) -> None:
        """Tell the gap that waits alone, if there is one: the buffer is empty."""
        waiting = self.backlog.entries
        if waiting:
            sequence, count, _size, attempt = waiting.popleft()
            self._put_gap(attempt, sequence, count)
        self._emptied()

    def _emptied(self) -> None:
        self.backlog.clear()
        self.replaying = self.starving = False

    # -- into the inbox ----------------------------------------------------------------------------------------------

    def _put_events(
        self,
        events: list[StreamEvent],
        size: int,
        payloads: Sequence[bytes],
        sizes: Iterable[int] | None = None,
        wakes: list[threading.Lock] | None = None,
    ) -> None:
        count = len(events)
        self._sent += count
        self._sent_bytes += size
        last = events[-1]
        given = self.given
        if last.attempt != given.attempt:
            given.attempt, given.count = last.attempt, 0
        if given.first is None or events[0].sequence < given.first:
            given.begin(events[0].sequence)
        given.count += count
        given.top, given.mark = last.sequence, last.mark
        if self._batched:
            try:
                batch = Envelope(EventBatch(self, events, self._sent, self._sent_bytes))
                if wakes is None or type(self._inbox) is not Mailbox:
                    self._inbox.put(batch)
                else:
                    self._inbox.put_quietly(batch, wakes)
            except Exception:  # noqa: BLE001 - above all, it is closed
                self.close()
            return
        self._put_one_by_one(events, count, size, map(len, payloads) if sizes is None else sizes)

    def _put_one_by_one(self, events: list[StreamEvent], count: int, size: int, sizes: Iterable[int]) -> None:
        """Put messages for a plain actor, and requests for acknowledgement among them."""
        half = max(self._inbox_window // 2, 1)
        if (
            self._sent - self._marked < half
            and (self._sent_bytes - self._marked_bytes) * 2 < self._inbox_bytes
        ):
            self._put_all([Envelope(event) for event in events])
            return
        envelopes: list[Envelope[Any]] = []
        at, at_bytes = self._sent - count, self._sent_bytes - size
        for event, each in zip(events, sizes, strict=True):
            at += 1
            at_bytes += each
            envelopes.append(Envelope(event))
            if at - self._marked >= half or (at_bytes - self._marked_bytes) * 2 >= self._inbox_bytes:
                envelopes.append(self._mark(at, at_bytes))
        self._put_all(envelopes)

    def _mark(self, upto: int, upto_bytes: int) -> Envelope[Any]:
        self._marked = upto
        self._marked_bytes = upto_bytes
        return mark(self, upto, upto_bytes)

    def _put_all(self, envelopes: list[Envelope[Any]]) -> None:
        if not put_all(self._inbox, envelopes):
            self.close()

    def _put(self, message: Any) -> None:
        if self._batched:
            try:
                self._inbox.put(Envelope(ControlBatch(message)))
            except Exception:  # noqa: BLE001 - above all, it is closed
                self.close()
        else:
            self._put_all([Envelope(message)])

    def _put_last(self, last: LastMessageOf) -> None:
        self.closed = True
        self._put(safely(last, self) or self._owner.cannot_tell(self))

    def _put_gap(self, attempt: int, sequence: int, count: int) -> None:
        self._told_at = self._acked
        told = EventsDropped(self._owner.stream_id, attempt, sequence, count, self._owner.tag)
        self.given.gap(told)
        self._put(told)

    def _put_restart(self, message: StreamRestarting) -> None:
        void = self.given.void(message)
        self._put(
            StreamRestarting(
                message.stream_id,
                message.attempt,
                message.resume_at,
                message.delay,
                message.error,
                message.tag,
                discard=void,
                endpoint=message.endpoint,
            )
        )
