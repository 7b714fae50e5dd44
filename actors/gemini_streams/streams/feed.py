"""An attempt's hold on its stream: what the stream's thread, or the shared reader for it, does with the events.

The rules:

- Only the present attempt may deliver. Each step looks at that under the lock, so that a late thread of a retired
  attempt is turned away: it gets `Retired`.
- Each event is numbered, remembered and given to all subscribers in the same moment.
- The wait for room is the stream's own thread's. The shared reader delivers only where nothing in it can take time.
"""

from __future__ import annotations

import re
import threading

from gemini_streams.api.chosen import marked
from gemini_streams.api.protocol import Call
from gemini_streams.delivery.subscription import common_room
from gemini_streams.messages import StreamEvent
from gemini_streams.streams import ending, last_message
from gemini_streams.streams.attempt import Attempt, Retired, hang_up
from gemini_streams.streams.session import Session
from gemini_streams.streams.status import follow

__all__ = ["Feed"]

_ENUM_VALUE = re.compile("[A-Z0-9_]{1,64}")


class Feed:
    """One attempt's. `attempt` and `session` never change."""

    __slots__ = ("_wakes", "attempt", "session")

    def __init__(self, session: Session, attempt: Attempt) -> None:
        self.session = session
        self.attempt = attempt
        self._wakes: list[threading.Lock] = []  # of subscribers that have the last events of an answer

    def calling(self, call: Call) -> None:
        """Take note of the call that is about to be made. Raises `Retired`."""
        with self.session.lock:
            self._check()
            self.attempt.call = call

    def heard(self) -> None:
        """Take note that the server has sent events of which nothing is new."""
        session, attempt = self.session, self.attempt
        with session.lock:
            self._check()
            attempt.heard_at = session.clock.monotonic()

    def heard_now(self) -> None:
        """Do the same where the lock is free, for the shared reader."""
        session = self.session
        if session.lock.acquire(blocking=False):
            self.attempt.heard_at = session.clock.monotonic()
            session.lock.release()

    def connected(self) -> None:
        """Take note that the request is about to be sent: from here on the server's silence counts."""
        session, attempt = self.session, self.attempt
        with session.lock:
            self._check()
            attempt.connected = True
            attempt.heard_at = session.clock.monotonic()
            session.watchdog.arm()
        session.table.launches.out(session)

    def answering(self) -> None:
        """Take note that the server has begun to answer."""
        session = self.session
        with session.lock:
            self._check()
            if session.status == "starting":
                session.status = follow(session.status, "active")
        if session.table.cooldowns.quotas:
            session.waits.answered()

    def room(self, size: int) -> tuple[int, int]:
        """Return how many events and bytes may be delivered now; waits while a subscriber that pauses is full.

        `size`: bytes of the next event where it is known, else 0. Raises `Retired`.
        """
        session, attempt = self.session, self.attempt
        while True:
            with session.lock:
                self._check()
                parked, count, room = session.audience.room(size, session.clock.monotonic)
                if parked is None:
                    attempt.free, attempt.free_bytes = count, room
                    return count, room
                session.watchdog.arm()
            self.wake()  # the subscriber that is waited for may be one of them
            parked.acquire()
            with session.lock:
                session.watchdog.arm()

    def deliver(self, events: list[StreamEvent], payloads: list[bytes], *, last: bool = False) -> None:
        """Give events to all subscribers. Raises `Retired`.

        `last`: the answer's end has been read too, so its subscribers are woken once for both, by `wake`.
        """
        session = self.session
        with session.lock:
            interrupted = self._deliver(
                events, payloads, sum(map(len, payloads)), self._wakes if last else None
            )
        if interrupted is not None:
            hang_up(interrupted)

    def wake(self) -> None:
        """Wake the subscribers that have the last events of an answer, and what followed from its end."""
        wakes = self._wakes
        while wakes:
            wakes.pop().release()

    def deliver_now(
        self, events: list[StreamEvent], payloads: list[bytes], wakes: list[threading.Lock]
    ) -> bool:
        """Do the same where nothing in it can take time, for the shared reader; else `False`, and nothing is done.

        Nothing can where the lock is free and no subscriber has to be let go. `wakes` takes the locks of consumers that
        are to be woken later.
        """
        session = self.session
        size = sum(map(len, payloads))
        if not session.lock.acquire(blocking=False):
            return False
        try:
            if not all(s.takes(len(events), size) for s in session.audience.strict):
                return False
            interrupted = self._deliver(events, payloads, size, wakes)
        finally:
            session.lock.release()
        if interrupted is not None:
            hang_up(interrupted)
        return True

    def _deliver(
        self,
        events: list[StreamEvent],
        payloads: list[bytes],
        size: int,
        wakes: list[threading.Lock] | None = None,
    ) -> Attempt | None:
        """With the lock held; returns the attempt to interrupt where that ended the stream."""
        session, attempt = self.session, self.attempt
        if session.current is not attempt:
            raise Retired
        slow = [s for s in session.audience.all if not s.push(events, payloads, size, wakes)]
        count = len(events)
        session.events_count += count
        attempt.received += count
        attempt.hop += count
        now = attempt.heard_at = session.heard_at = session.clock.monotonic()
        if session.first_event_at is None:
            session.first_event_at = now
            session.table.observed.first_event(session, now)
        first = session.next_sequence
        session.next_sequence = first + count
        _, attempt.free, attempt.free_bytes = common_room(session.audience.pausing, 0)
        if session.history.limit:
            session.history.remember(
                first, payloads if attempt.meaning.marks is None else _marked(events, payloads)
            )
        meaning = attempt.meaning
        if meaning.resume is not None:
            session.progress.reached(
                meaning.resume, session.next_sequence - (attempt.hop - meaning.resume_index)
            )
        interrupted = None
        for subscription in slow:
            interrupted = session.members.let_go(subscription) or interrupted
        return interrupted

    def settle(self) -> None:
        """Take note of where the answer can go on, once all that was read has been delivered. Raises `Retired`."""
        session, attempt = self.session, self.attempt
        with session.lock:
            self._check()
            if attempt.meaning.resume is not None:
                session.progress.resume = attempt.meaning.resume

    def next_call(self, *, asks: bool) -> None:
        """Take note that the answer goes on in another call of the same attempt; `asks`: for more of it.

        Raises `Retired`, or `StreamTruncatedError` where the stream's policy allows no more of them.
        """
        session, attempt = self.session, self.attempt
        with session.lock:
            self._check()
            if asks:
                session.progress.go_on(session.options.retry.max_continuations, session.usage())
            attempt.meaning = session.reader_of_events()
            attempt.hop = 0
            attempt.exchange = attempt.call = None
            attempt.error = None  # a silence that ended as it was noticed
            attempt.heard_at = session.clock.monotonic()

    def complete(self) -> None:
        """End the stream as the service wanted. Raises `Retired`."""
        session, attempt = self.session, self.attempt
        meaning = attempt.meaning
        first = session.first_event_at
        last = last_message.completed(
            session,
            finish_reason=self._said(meaning.finish_reason),
            block_reason=self._said(meaning.block_reason),
            finish_message=self._said(meaning.finish_message, 2000),
            first_event_after=None if first is None else first - session.started_mono,
        )
        reason = self._said(meaning.finish_reason)
        if not ending.finish(session, "completed", last, attempt=attempt, finish_reason=reason):
            raise Retired

    def _said(self, word: str | None, most: int = 300) -> str | None:
        """Return a server's word as a last message repeats it: an enum's value, or without our secrets and cut."""
        return word if word is None or _ENUM_VALUE.fullmatch(word) else self.session.target.words(word, most)

    def _check(self) -> None:
        """Raise `Retired` where the attempt's time is over; with the lock held."""
        if self.session.current is not self.attempt or self.attempt.interrupted:
            raise Retired


def _marked(events: list[StreamEvent], payloads: list[bytes]) -> list[bytes]:
    """Return payloads from which an event is made again with its cursor."""
    return [marked(payload, event.mark) for event, payload in zip(events, payloads, strict=True)]
