"""The six guarantees of a subscriber (docs/guarantees.md), as a function over what one probe received.

What one history can show, by the number of the guarantee:

1. One last message a stream and nothing after it. Whether it has to be there yet says `ended`.
2. Within an attempt sequence numbers go on one by one, but for an `EventsDropped` exactly at the gap. They go
   back only by a `StreamRestarting`, to its `resume_at`, under a higher attempt, and nothing of a retired
   attempt follows. `discard` says whether something that this subscriber has received became void.
3. What is left out is counted: an `EventsDropped` stands at the gap and names its size, `events_count` is the
   number of events received under the attempt that the last message names, and an answer that ended with
   neither a finishReason nor a blockReason is no `StreamComplete`. Of an interaction that can be resumed, it is the
   number of events received that stand.
4. An error is told once, as the last message; a failed attempt is told by its own `StreamRestarting`, so
   attempts go up one by one; an error inside the stream is no `StreamEvent`.
5. Seen from one subscriber: one that is known to be quick is not let go for being slow (`quick=True`). The
   rest of the fifth is that the others' histories have no violations, with `ended=True`.

6. The content of an interaction's events is received once (`interaction_histories`).

And 0: a stream's `tag` is the same in all its messages.

A clean continuation is neither announced nor counted, so nothing of it shows here. Where a subscriber joined
late with a replay (`after`), what it replays may come from several attempts that stand: until its first
`StreamRestarting`, the attempt may then go up without one, as long as the sequence goes on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemini_streams.api.failures import error_of
from gemini_streams.errors import SlowSubscriberError
from gemini_streams.messages import (
    EventsDropped,
    LastMessage,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
    SubscriberMessage,
)
from gemini_streams.options import FROM_START, After
from gemini_streams.positions import Position
from gemini_streams.testing.interaction_histories import OnceOnly

__all__ = ["Violation", "check_history"]


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken guarantee. `index`: the message's place in the history; its length where one is missing."""

    guarantee: int
    stream_id: str
    index: int
    text: str

    def __str__(self) -> str:
        return f"guarantee {self.guarantee}, stream {self.stream_id}, message {self.index}: {self.text}"


def check_history(
    messages: Sequence[object],
    *,
    after: After | Mapping[str, After] = None,
    first: int | None = 0,
    ended: bool | Collection[str] = False,
    quick: bool = False,
    steps: Mapping[str, Sequence[dict[str, Any]]] | None = None,
) -> list[Violation]:
    """Return what is wrong in the messages one subscriber received, in their order; empty where nothing is.

    Messages of several streams may stand between each other, and anything else among them is left out.

    `first`: the sequence its subscription began at; `None` where it joined a running stream and that is not
    known. `after`: with what it subscribed, for all streams or for some by their ids; then `first` is not
    looked at. `ended`: whether every stream must have its last message, or the ids of those that must, even
    if nothing else came.
    """
    streams: dict[str, _Stream] = {}
    for index, message in enumerate(messages):
        if not isinstance(message, SubscriberMessage):
            continue
        known = streams.get(message.stream_id)
        if known is None:
            joined = after.get(message.stream_id) if isinstance(after, Mapping) else after
            known = streams[message.stream_id] = _Stream(message, joined, first, quick=quick)
            known.once = OnceOnly((steps or {}).get(message.stream_id), whole=joined is None and first == 0)
        known.take(index, message)
    violations = [violation for stream in streams.values() for violation in stream.violations]
    must_end: Collection[str] = streams if ended is True else ended or ()
    violations += [
        Violation(1, stream_id, len(messages), "has no last message")
        for stream_id in must_end
        if stream_id not in streams or streams[stream_id].last is None
    ]
    return sorted(violations, key=lambda violation: violation.index)


_Wrong = Callable[[int, str], None]


def _same(tag: object, other: object) -> bool:
    return tag is other or bool(tag == other)


class _Stream:
    """One stream's messages, one after another. After a violation it goes on from what was received."""

    def __init__(self, opening: SubscriberMessage, joined: After, first: int | None, *, quick: bool) -> None:
        self.violations: list[Violation] = []
        self.once = OnceOnly(None, whole=False)
        self.last: LastMessage | None = None
        self._id = opening.stream_id
        self._tag = opening.tag
        self._quick = quick
        self._counts: Counter[int] = Counter()
        """Events received under each attempt."""
        self._errors = 0
        self._replays = joined is not None
        self._seen_from = 0
        """The first sequence number that it can have received itself."""
        self._standing: list[int] = []
        """Sequence numbers received (or seen before it joined) that are not void, rising."""
        self._attempt: int | None = None
        """`None`: not known yet."""
        self._expected: int | None = first
        """The next sequence number; `None`: any."""
        self._announced = False
        """Whether the attempt has been announced and nothing of it has come yet."""
        if isinstance(joined, str):
            joined = Position.of(joined)[1:]
        if joined is FROM_START:
            self._expected = 0
        elif isinstance(joined, tuple):
            self._attempt, seen = joined
            self._standing, self._expected, self._seen_from = [seen], seen + 1, seen + 1
        elif first == 0:
            self._attempt = 1

    def take(self, index: int, message: SubscriberMessage) -> None:
        def wrong(guarantee: int, text: str) -> None:
            self.violations.append(Violation(guarantee, self._id, index, text))

        name = type(message).__name__
        if not _same(message.tag, self._tag):
            wrong(0, f"{name} has another tag than the stream's first message")
        if isinstance(message, StreamError):
            self._errors += 1
            if self._errors > 1:
                wrong(4, "a second StreamError")
        if self.last is not None:
            wrong(1, f"{name} after the last message ({type(self.last).__name__})")
            return
        match message:
            case StreamEvent():
                self._event(message, wrong)
            case EventsDropped():
                self._dropped(message, wrong)
            case StreamRestarting():
                self._restarting(message, wrong)
            case StreamComplete() | StreamError() | StreamStopped():
                self._end(message, wrong)

    def _event(self, event: StreamEvent, wrong: _Wrong) -> None:
        retired = self._is_retired(event.attempt, event.sequence, "an event", wrong)
        if retired:
            return
        if self._expected is not None and event.sequence != self._expected:
            if event.sequence > self._expected:
                missing = event.sequence - self._expected
                wrong(2, f"a gap: {missing} events from {self._expected} on are missing and nobody said so")
            else:
                wrong(2, f"event {event.sequence} where {self._expected} was next: repeated or out of order")
        if error_of(event.data):
            wrong(4, f"event {event.sequence} is an error; it should have ended the attempt")
        self.once.event(event, wrong)
        self._counts[event.attempt] += 1
        del self._standing[bisect_left(self._standing, event.sequence) :]
        self._standing.append(event.sequence)
        self._expected = event.sequence + 1

    def _dropped(self, dropped: EventsDropped, wrong: _Wrong) -> None:
        if self._is_retired(dropped.attempt, dropped.first_sequence, "EventsDropped", wrong):
            return
        if dropped.count < 1:
            wrong(3, f"EventsDropped counts {dropped.count} events")
            return
        if self._expected is not None and dropped.first_sequence != self._expected:
            wrong(3, f"EventsDropped begins at {dropped.first_sequence}; here {self._expected} is the next")
        self.once.dropped(dropped)
        self._expected = dropped.first_sequence + dropped.count

    def _is_retired(self, attempt: int, sequence: int, what: str, wrong: _Wrong) -> bool:
        """Follow the attempt; whether the message is of one that is over."""
        current = self._attempt
        if attempt < 1:
            wrong(2, f"{what} of attempt {attempt}; they count from 1")
        if current is not None and attempt < current:
            wrong(2, f"{what} of attempt {attempt}, which is over: {current} has begun")
            return True
        stands = self._replays and sequence == self._expected
        if current is not None and attempt > current and not stands:
            wrong(2, f"{what} of attempt {attempt} without a StreamRestarting; {current} was running")
        self._attempt = attempt
        self._announced = False
        return False

    def _restarting(self, restart: StreamRestarting, wrong: _Wrong) -> None:
        current = self._attempt
        if current is not None and restart.attempt <= current:
            wrong(2, f"StreamRestarting to attempt {restart.attempt}; {current} has begun already")
        elif current is not None and restart.attempt > current + 1 and not self._replays:
            wrong(4, f"StreamRestarting to attempt {restart.attempt}; nobody told how {current + 1} ended")
        elif restart.attempt < 2:
            wrong(2, f"StreamRestarting to attempt {restart.attempt}; the first attempt is no restart")
        if restart.resume_at < 0:
            wrong(2, f"resume_at is {restart.resume_at}")
        elif self._expected is not None and restart.resume_at > self._expected:
            wrong(2, f"resume_at is {restart.resume_at}, but {self._expected} has not come yet")
        self.once.restarting(restart, self._expected, wrong)
        error: object = restart.error
        if not isinstance(error, Exception):
            wrong(4, "StreamRestarting names no error")
        stands = bisect_left(self._standing, restart.resume_at)
        void = len(self._standing) > stands
        if restart.discard != void:
            what = "something" if void else "nothing"
            wrong(2, f"discard is {restart.discard}, but {what} of what was received is void")
        del self._standing[stands:]
        self._attempt, self._expected = restart.attempt, restart.resume_at
        self._announced, self._replays = True, False

    def _end(self, last: LastMessage, wrong: _Wrong) -> None:
        self.last = last
        self.once.end(last, wrong)
        current = self._attempt
        began = current is not None and not (last.attempts == 0 and not self._seen)
        if current is not None and began:
            least = current - 1 if self._announced else current  # what is announced may not begin any more
            if last.attempts < least or (last.attempts > current and not self._replays):
                wrong(2, f"the last message counts {last.attempts} attempts, the history {current}")
        if self.once.goes_on:  # an interaction goes on from attempt to attempt
            counts = {sum(self._seen_from <= sequence for sequence in self._standing)}
        else:
            counts = {self._counts[last.attempts]}
        if self._replays:
            counts.add(self._counts.total())
        if last.events_count not in counts:
            told = " or ".join(map(str, sorted(counts)))
            wrong(3, f"events_count is {last.events_count}; of attempt {last.attempts} came {told}")
        if isinstance(last, StreamComplete) and last.finish_reason is None and last.block_reason is None:
            wrong(3, "StreamComplete with neither a finishReason nor a blockReason: the answer was truncated")
        if isinstance(last, StreamError):
            error: object = last.error
            if not isinstance(error, Exception):
                wrong(4, "StreamError names no error")
            if self._quick and isinstance(error, SlowSubscriberError):
                wrong(5, "let go for being slow, which it was not")

    @property
    def _seen(self) -> bool:
        return bool(self._counts) or self._announced
