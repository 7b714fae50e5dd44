"""Which events one subscriber was given: what its last message counts, and how far it has come.

The rules:

- An event counts when it is put into the subscriber's inbox, under the attempt that it was told of.
- An interaction that can be resumed goes on from attempt to attempt, so all of its events count that stand.
- A restart voids the events from its `resume_at` on. The cursor of the last one that stands is then not known any more.

Used with the session's lock held. `put` is written out in `Subscription`: it is done for every read.
"""

from __future__ import annotations

from typing import Any

from gemini_streams.messages import EventsDropped, StreamRestarting

__all__ = ["Given"]


class Given:
    """One subscription's."""

    __slots__ = ("_before", "_resumed", "attempt", "count", "first", "gaps", "mark", "top")

    def __init__(self) -> None:
        self.attempt = 0
        """Of the latest event."""
        self.count = 0
        """How many events of that attempt."""
        self.first: int | None = None
        """The lowest sequence number that stands."""
        self.top = -1
        """The highest one that stands, received here or, before the subscriber joined, elsewhere."""
        self.mark: Any = None
        """Of the event with that number."""
        self._before = -1  # `top` before the first event
        self._resumed = False  # known from an event that is void by now
        self.gaps: list[tuple[int, int]] = []
        """In an interaction, what was left out behind the first event: its first sequence number, and how many."""

    @property
    def resumes(self) -> bool:
        """Whether the events are those of an interaction that can be resumed."""
        return self._resumed or (self.mark is not None and self.mark[1] is not None)

    def events_count(self, attempt: int) -> int:
        """Return what a last message under this attempt counts."""
        if not self.resumes:
            return self.count if attempt == self.attempt else 0
        if self.first is None:
            return 0
        return max(
            0, self.top + 1 - self.first - sum(count for first, count in self.gaps if first < self.top)
        )

    def begin(self, sequence: int) -> None:
        """Take note of the first event, or of one that lies before it."""
        self._before = min(self.top if self.first is None else self._before, sequence - 1)
        self.first = sequence

    def gap(self, told: EventsDropped) -> None:
        """Take note of events that were left out."""
        if self.resumes and self.first is not None:
            self.gaps.append((told.first_sequence, told.count))

    def void(self, restart: StreamRestarting) -> bool:
        """Take note of a restart; whether it voids an event that was received."""
        at = restart.resume_at
        if self.gaps:
            self.gaps = [(first, min(count, at - first)) for first, count in self.gaps if first < at]
        if self.top < at:
            return False
        self._resumed = self.resumes
        top = at - 1
        for first, count in reversed(self.gaps):
            if first <= top < first + count:
                top = first - 1
        if self.first is not None and top < self.first:
            top, self.first, self.gaps = min(top, self._before), None, []
        self.top, self.mark = top, None
        return True
