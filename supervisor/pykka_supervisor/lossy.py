"""A bounded queue between those who must not wait and one who may be slow.

The rules:

- It holds at most `limit` items. Adding to a full one never waits: something is lost.
- An item is ordinary or important. A full queue loses its oldest ordinary item for an important one; only where it
  holds none is the important item itself lost. A new ordinary item that finds no room is lost.
- What is not lost is taken in the order of adding.
- What is lost is counted, by its name, until the count is taken.

No thread and no lock: its owner has those.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Generic, TypeVar

__all__ = ["LossyQueue"]

T = TypeVar("T")


class LossyQueue(Generic[T]):
    """See the module's text."""

    __slots__ = ("_important", "_limit", "_lost", "_ordinary", "added")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # Each with its number; the two are merged by it.
        self._ordinary: deque[tuple[int, str, T]] = deque()
        self._important: deque[tuple[int, str, T]] = deque()
        self._lost: Counter[str] = Counter()
        self.added = 0
        """The number of the latest item; they are counted from 1, lost ones too."""

    def __len__(self) -> int:
        return len(self._ordinary) + len(self._important)

    def add(self, name: str, item: T, *, important: bool) -> T | None:
        """Add one, or lose one; `name` is what a loss is counted by. Returns the one that is lost."""
        self.added += 1
        lost: T | None = None
        if len(self) >= self._limit:
            if not important or not self._ordinary:
                self._lost[name] += 1
                return item
            _, name_of_lost, lost = self._ordinary.popleft()
            self._lost[name_of_lost] += 1
        (self._important if important else self._ordinary).append((self.added, name, item))
        return lost

    @property
    def oldest(self) -> int | None:
        """The number of the item that `take` returns next; `None` where there is none."""
        numbers = [items[0][0] for items in (self._ordinary, self._important) if items]
        return min(numbers, default=None)

    def take(self) -> tuple[int, T]:
        """Take the oldest item and its number; IndexError where there is none."""
        ordinary, important = self._ordinary, self._important
        first = important if not ordinary or (important and important[0] < ordinary[0]) else ordinary
        number, _, item = first.popleft()
        return number, item

    def take_lost(self) -> dict[str, int]:
        """Return how many were lost, by name, and begin to count anew; empty while the queue is more than half full.

        One that is full loses more at once: it is told when there is room again.
        """
        if not self._lost or len(self) * 2 > self._limit:
            return {}
        lost, self._lost = self._lost, Counter()
        return dict(lost)
