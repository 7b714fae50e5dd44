"""Clocks: one thread with a heap for the whole process, only while a timer is pending.

`SYSTEM_CLOCK` is real time. `pykka_supervisor.testing.TestClock` is one that a test turns.
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from .log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SYSTEM_CLOCK", "Clock", "SystemClock", "Timer", "due_at"]

_log = get_logger(__name__)


class Timer:
    """A callback that is due at a point of a clock's monotonic time, in seconds."""

    __slots__ = ("_callback", "_on_cancel", "due")

    def __init__(
        self,
        due: float,
        callback: Callable[[], None],
        on_cancel: Callable[[], None],
    ) -> None:
        self.due = due
        # Taken exactly once, by whoever fires or cancels: a list's pop() is atomic.
        self._callback: list[Callable[[], None]] = [callback]
        self._on_cancel = on_cancel

    def cancel(self) -> bool:
        """Keep the callback from running, from any thread; False when it ran, runs or was cancelled."""
        try:
            self._callback.pop()
        except IndexError:
            return False
        self._on_cancel()
        return True

    @property
    def pending(self) -> bool:
        """Whether it has neither fired nor been cancelled."""
        return bool(self._callback)

    def take(self) -> Callable[[], None] | None:
        """Take the callback, once: for a clock that fires it."""
        try:
            return self._callback.pop()
        except IndexError:
            return None


@runtime_checkable
class Clock(Protocol):
    """What supervisors, backoffs and time-outs ask for the time."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    def time(self) -> float:
        """Wall-clock seconds since the epoch."""
        ...

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` in `delay` seconds, in the clock's thread; it must not block."""
        ...


def due_at(now: float, delay: float) -> float:
    """Add a delay to a point of time; ValueError for what a heap could not put in order."""
    due = now + delay
    if math.isnan(due):
        raise ValueError(f"a timer cannot be due in {delay} s")
    return due


class SystemClock:
    """Real time. Its daemon thread starts with the first timer and ends soon after the last."""

    _LINGER: Final = 0.2
    _COMPACT_FROM: Final = 64

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    def __init__(self) -> None:
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._cancelled = 0
        self._thread: threading.Thread | None = None
        self._sleeping_until = 0.0

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` in `delay` seconds in the timer thread.

        It must not block; an exception it raises is logged. Raises RuntimeError where the timer
        thread cannot be started, ValueError for a delay that is no number.
        """
        due = due_at(time.monotonic(), delay)
        timer = Timer(due, callback, self._note_cancelled)
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="pykka-supervisor-timers", daemon=True)
                thread.start()
                self._thread = thread
            heapq.heappush(self._heap, (due, next(self._order), timer))
            if due < self._sleeping_until:
                self._changed.notify()
        return timer

    def is_own_thread(self) -> bool:
        """Whether this is called in the timer thread."""
        return self._thread is threading.current_thread()

    def pending(self) -> int:
        """How many timers are neither fired nor cancelled."""
        with self._changed:
            return sum(timer.pending for _, _, timer in self._heap)

    def _note_cancelled(self) -> None:
        # Called without the lock held: a timer may be cancelled from a callback.
        with self._changed:
            self._cancelled += 1
            crowded = self._cancelled > self._COMPACT_FROM and self._cancelled * 2 > len(self._heap)
            if crowded or self._cancelled >= len(self._heap):
                self._heap = [entry for entry in self._heap if entry[2].pending]
                heapq.heapify(self._heap)
                self._cancelled = 0
                if not self._heap:
                    # The thread sleeps until a time that means nothing any more: it shall end.
                    self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                callback = self._next()
            if callback is None:
                return
            try:
                callback()
            except BaseException as error:  # noqa: BLE001
                # SystemExit as well: this thread is everybody's.
                _log.error("timer_callback_failed", callback=callback, exc_info=error)
            del callback

    def _next(self) -> Callable[[], None] | None:
        """Wait, with the lock held, for the next due callback; None when the thread shall end."""
        idle_since: float | None = None
        while True:
            now = time.monotonic()
            while self._heap and (not self._heap[0][2].pending or self._heap[0][0] <= now):
                _, _, timer = heapq.heappop(self._heap)
                callback = timer.take()
                if callback is not None:
                    return callback
                self._cancelled = max(0, self._cancelled - 1)
            if self._heap:
                idle_since = None
                self._sleeping_until = self._heap[0][0]
            else:
                if idle_since is None:
                    idle_since = now
                elif now - idle_since >= self._LINGER:
                    self._thread = None
                    return None
                self._sleeping_until = idle_since + self._LINGER
            self._changed.wait(min(self._sleeping_until - now, threading.TIMEOUT_MAX))
            self._sleeping_until = 0.0


SYSTEM_CLOCK: Final = SystemClock()
"""The process's real clock."""
