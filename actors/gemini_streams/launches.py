"""The pace at which streams are launched.

A stream's thread needs half a millisecond of the interpreter until its request is out. Started faster than that, a
thousand of them stand in line for the interpreter lock, and each wakes at every switch interval (5 ms) only to ask
for it again: the core is full of wake-ups, and nobody gets on.

The rules:

- No more than `AT_ONCE` streams are between their thread's start and their request. The others wait here, where they
  cost no thread.
- Who hangs there, in a resolver or a connect, holds the others up for `PATIENCE` seconds and no longer.
- In the order of asking. What waits here outlives the supervisor.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from pykka_supervisor.timers import SYSTEM_CLOCK

if TYPE_CHECKING:
    from gemini_streams.session import Session

__all__ = ["Launches"]

AT_ONCE = 32
PATIENCE = 0.02


class Launches:
    """Who is being launched and who waits for it. `wake` has the supervisor call `next` again; from any thread."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._waiting: deque[Session] = deque()  # the supervisor's
        self._under_way: set[Session] = set()
        self._latest = 0.0
        self._woken = False
        self._timed = False

    def add(self, session: Session) -> None:
        """Queue a session; in the supervisor's thread."""
        self._waiting.append(session)

    def next(self) -> Session | None:
        """Take the session that is to be launched now, if one is; in the supervisor's thread."""
        self._woken = False
        if not self._waiting:
            return None
        now = time.monotonic()
        if len(self._under_way) >= AT_ONCE:
            left = self._latest + PATIENCE - now
            if left > 0:
                if not self._timed:
                    self._timed = True
                    SYSTEM_CLOCK.call_later(left, self._ring)
                return None
        self._latest = now
        session = self._waiting.popleft()
        self._under_way.add(session)
        return session

    def out(self, session: Session) -> None:
        """Take note, from any thread, that a session's request is out, or never will be."""
        self._under_way.discard(session)
        if self._waiting and len(self._under_way) < AT_ONCE // 2:
            self._wake_once()

    def _ring(self) -> None:
        self._timed = False
        self._wake_once()

    def _wake_once(self) -> None:
        if not self._woken:
            self._woken = True
            self._wake()
