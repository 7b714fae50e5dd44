"""Pure: when is a child restarted, how often, and after how long. No clock, no thread, no actor.

Two rules. A restart *type* and a reason say whether a child is to be restarted. An `Intensity` says
whether its supervisor may: more than `max_restarts` within `max_seconds` and it gives up. `Backoff`
only says how long to wait.
"""

from __future__ import annotations

import enum
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from .checks import check_count, check_number, check_seconds
from .exits import Exit, is_abnormal

__all__ = [
    "GIVE_UP",
    "RESTART_TYPES",
    "Backoff",
    "Decision",
    "GiveUp",
    "Intensity",
    "RestartType",
    "wants_restart",
]

RestartType: TypeAlias = Literal["permanent", "transient", "temporary"]
RESTART_TYPES: Final[tuple[RestartType, ...]] = get_args(RestartType)


class GiveUp(enum.Enum):
    """The type of `GIVE_UP`."""

    GIVE_UP = "give up"


GIVE_UP: Final = GiveUp.GIVE_UP
"""What a decision hook returns for a child that is not to be restarted."""

Decision: TypeAlias = Callable[[Exit], "float | GiveUp"]
"""A child's owner decides from the reason: seconds to wait before the restart, or `GIVE_UP`."""


def wants_restart(restart: RestartType, reason: Exit) -> bool:
    """OTP: permanent always, transient after an abnormal end, temporary never."""
    if restart == "permanent":
        return True
    return restart == "transient" and is_abnormal(reason)


class Intensity:
    """Counts restarts within a sliding window, as OTP's `add_restart` does."""

    __slots__ = ("_times", "max_restarts", "max_seconds")

    def __init__(self, max_restarts: int, max_seconds: float) -> None:
        check_count("max_restarts", max_restarts)
        check_seconds("max_seconds", max_seconds)
        self.max_restarts = max_restarts
        self.max_seconds = max_seconds
        self._times: deque[float] | None = None

    def add(self, now: float) -> bool:
        """Count a restart at `now` (monotonic seconds); False when it is one too many."""
        if self._times is None:
            self._times = deque()
        self._times.append(now)
        return self.count(now) <= self.max_restarts

    def count(self, now: float) -> int:
        """How many restarts lie in the window that ends at `now`."""
        times = self._times
        if times is None:
            return 0
        # OTP's in_period: a restart exactly `max_seconds` ago still counts.
        while times and now - times[0] > self.max_seconds:
            times.popleft()
        return len(times)

    def peek(self, now: float) -> int:
        """Count, from another thread: nothing is changed."""
        times = self._times
        if times is None:
            return 0
        while True:
            try:
                return sum(now - then <= self.max_seconds for then in list(times))
            except RuntimeError:  # the supervisor has counted one more meanwhile
                continue


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before the n-th restart in a row; OTP itself waits not at all, this is Akka's.

    `minimum`, `maximum`: seconds. `factor`: each wait is this many times the one before. `jitter`:
    the wait is spread evenly over ± this share of it, and stays within `maximum`. `reset_after`: a
    child that has run this many seconds starts again from `minimum`; None takes `maximum`.
    """

    minimum: float = 0.1
    maximum: float = 30.0
    factor: float = 2.0
    jitter: float = 0.2
    reset_after: float | None = None

    def __post_init__(self) -> None:
        check_number("a backoff's minimum", self.minimum, 0, math.inf)
        check_number("a backoff's maximum", self.maximum, self.minimum, math.inf)
        check_number("a backoff's factor", self.factor, 1, math.inf)
        check_number("a backoff's jitter", self.jitter, 0, 1)
        check_seconds("a backoff's reset_after", self.reset_after, zero=True, forever=True, none="`maximum`")

    def delay(self, attempt: int, spread: Callable[[], float] = random.random) -> float:
        """Seconds before restart number `attempt` (from 0) in a row; `spread` gives 0 to 1."""
        try:
            wait = self.minimum * self.factor**attempt
        except OverflowError:
            wait = self.maximum
        wait = min(wait, self.maximum)
        if self.jitter:
            wait *= 1 + self.jitter * (2 * spread() - 1)
        return min(wait, self.maximum)

    def is_quiet(self, ran_for: float) -> bool:
        """Whether a child that ran this long before it died starts again from `minimum`."""
        return ran_for >= (self.maximum if self.reset_after is None else self.reset_after)
