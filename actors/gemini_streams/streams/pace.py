"""The pace at which requests that share a quota are let out after a wait that the server has named. Pure.

The rules:

- Before the wait is over none is let out.
- Then they are let out in rounds: one, two, four, and so on. A round follows when all of the round before have been
  answered, or `STEP` seconds after it has begun: a server refuses at once, but may think long before it answers.
- A refusal starts over: the wait that it names, or `STEP` seconds, and then a round of one.
- A request that was let out and is answered ends the wait, however long the server had named it.

Times are seconds of one monotonic clock.
"""

from __future__ import annotations

__all__ = ["STEP", "Pace"]

STEP = 1.0
_LARGEST_ROUND = 1 << 20


class Pace:
    """One quota's pace."""

    __slots__ = ("_left", "_out", "_round_ends", "_size", "until")

    def __init__(self) -> None:
        self.until = 0.0
        """When the wait is over."""
        self._size = 0  # of the present round
        self._left = 0  # of it, not let out yet
        self._out = 0  # let out since the last refusal, and not answered yet
        self._round_ends = 0.0

    def refused(self, now: float, wait: float) -> None:
        """Take note of a refusal that names a wait; 0 where it names none."""
        self.until = max(self.until, now + (wait or STEP))
        self._size = self._left = self._out = 0

    def take(self, now: float) -> bool:
        """Let one request out; `False` where none may go now."""
        if now < self.until:
            return False
        if not self._left:
            if self._out and now < self._round_ends:
                return False
            self._size = self._left = min(2 * self._size, _LARGEST_ROUND) or 1
            self._round_ends = now + STEP
        self._left -= 1
        self._out += 1
        return True

    def force(self) -> None:
        """Take note that one goes whatever the rules say, for it has waited as long as it will."""
        self._out += 1

    def answered(self, now: float) -> None:
        """Take note that one of those let out since the last refusal was answered."""
        self._out -= 1
        self.until = min(self.until, now)

    def gone(self) -> None:
        """Take note that one of those let out since the last refusal has ended some other way, or never went."""
        self._out -= 1

    def due(self, now: float) -> float:
        """Return the seconds after which `take` lets one out at the latest, whatever is answered meanwhile."""
        if now < self.until:
            return self.until - now
        return max(0.0, self._round_ends - now) if self._out and not self._left else 0.0
