"""For tests of actors, one's own and others': a probe, a clock to turn, kills and the restarts after them."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from .actor import SupervisedActor
from .cell import cell_of
from .clock import Timer, due_at
from .log import flush
from .ref import SupervisedRef, kill

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import pykka

__all__ = ["Probe", "TestClock", "await_restart", "flush_logs", "kill"]

T = TypeVar("T")


class TestClock:
    """A `Clock` that stands still until a test turns it.

    `advance()` runs what becomes due, in order, in its caller's thread, and moves the time to each
    point on the way. All methods may be called from any thread. `time()` starts at 1,000,000,000.
    """

    __test__ = False

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start
        self._wall = 1_000_000_000.0 - start
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._cancelled = 0  # at least so many of the heap will never fire
        self._changed = threading.Condition()

    def monotonic(self) -> float:
        """Seconds, which go on only by `advance`."""
        return self._now

    def time(self) -> float:
        """Wall-clock seconds, which go on only by `advance`."""
        return self._wall + self._now

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` in the thread of the `advance` that reaches it."""
        with self._changed:
            timer = Timer(due_at(self._now, delay), callback, self._forget_cancelled)
            heapq.heappush(self._heap, (timer.due, next(self._order), timer))
            self._changed.notify_all()
        return timer

    def advance(self, seconds: float) -> None:
        """Turn the clock, running what becomes due. Timers set on the way are run if due by then."""
        with self._changed:
            until = self._now + seconds
        while True:
            with self._changed:
                if not self._heap or self._heap[0][0] > until:
                    self._now = max(self._now, until)
                    return
                due, _, timer = heapq.heappop(self._heap)
                callback = timer.take()
                if callback is not None:
                    self._now = max(self._now, due)
            if callback is not None:
                callback()

    def pending(self) -> int:
        """How many timers are neither fired nor cancelled."""
        with self._changed:
            return sum(timer.pending for _, _, timer in self._heap)

    def next_due(self) -> float | None:
        """Seconds until the next timer, or None."""
        with self._changed:
            due = [timer.due for _, _, timer in self._heap if timer.pending]
            return min(due) - self._now if due else None

    def wait_for_timer(self, timeout: float = 20.0, *, within: float | None = None) -> float:
        """Wait, in real time, until somebody has set a timer; returns the seconds until the next one.

        `within`: only one that is due in at most so many seconds of this clock will do. Raises
        AssertionError after `timeout` real seconds.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                due = [timer.due - self._now for _, _, timer in self._heap if timer.pending]
                if due and (within is None or min(due) <= within):
                    return min(due)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"no timer within {within} was set in {timeout} s; pending: {due}")
                self._changed.wait(left)

    def _forget_cancelled(self) -> None:
        with self._changed:
            self._cancelled += 1
            if self._cancelled * 2 <= len(self._heap):
                return
            self._cancelled = 0
            self._heap = [entry for entry in self._heap if entry[2].pending]
            heapq.heapify(self._heap)


class _Inbox(SupervisedActor):
    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self._probe = probe

    def on_receive(self, message: Any) -> Any:
        return self._probe._received(message)  # noqa: SLF001


class Probe:
    """An inbox to look into: `probe.ref` is the ref of a real actor, to be used wherever one is.

    `answer(message)`, where given, makes the reply to an ask, in the probe's own thread. A context
    manager; `stop()` ends the actor.
    """

    def __init__(self, answer: Callable[[Any], Any] | None = None) -> None:
        self._answer = answer
        self._changed = threading.Condition()
        self._messages: list[Any] = []
        self._next = 0
        self.ref: SupervisedRef[Any] = _Inbox.start(self)

    @property
    def messages(self) -> list[Any]:
        """All that has been received so far, expected or not."""
        with self._changed:
            return list(self._messages)

    @overload
    def expect(self, kind: type[T], where: Callable[[T], bool] | None = None, timeout: float = 20.0) -> T: ...

    @overload
    def expect(
        self,
        kind: tuple[type[Any], ...],
        where: Callable[[Any], bool] | None = None,
        timeout: float = 20.0,
    ) -> Any: ...

    def expect(
        self,
        kind: type[Any] | tuple[type[Any], ...],
        where: Callable[[Any], bool] | None = None,
        timeout: float = 20.0,
    ) -> Any:
        """Wait for a message of this type, or one of these, for which `where` is true, and return it.

        What comes before it is passed over; the next call looks only behind it. Raises AssertionError
        after `timeout` seconds, saying what was received.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            position = self._next
            while True:
                while position < len(self._messages):
                    message = self._messages[position]
                    position += 1
                    if isinstance(message, kind) and (where is None or where(message)):
                        self._next = position
                        return message
                left = deadline - time.monotonic()
                if left <= 0:
                    seen = self._messages[self._next :]
                    raise AssertionError(f"no {kind} within {timeout} s; received: {seen!r}")
                self._changed.wait(left)

    def expect_nothing(self, for_seconds: float) -> None:
        """AssertionError if a message comes within so many seconds, or is there that was not expected yet."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._messages) > self._next, for_seconds)
            seen = self._messages[self._next :]
        if seen:
            raise AssertionError(f"expected nothing; received: {seen!r}")

    def wait(self, count: int, timeout: float = 20.0) -> list[Any]:
        """Wait until so many messages have been received in all, and return all of them."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._messages) >= count, timeout):
                raise AssertionError(f"{len(self._messages)} of {count} messages within {timeout} s")
            return list(self._messages)

    def stop(self) -> None:
        """End the probe's actor; what it has received stays."""
        self.ref.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _received(self, message: Any) -> Any:
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()
        return None if self._answer is None else self._answer(message)


_awaited: weakref.WeakKeyDictionary[SupervisedRef[Any], int] = weakref.WeakKeyDictionary()


def await_restart(ref: pykka.ActorRef[Any], timeout: float = 20.0) -> int:
    """Wait until an actor runs again after a restart that has not been awaited yet; returns how many it had.

    It does not matter whether the restart is over already when this is called. Raises AssertionError
    after `timeout` seconds, or as soon as the actor has ended for good.
    """
    if not isinstance(ref, SupervisedRef):
        raise TypeError(f"{ref} is not the ref of a supervised actor")
    cell = cell_of(ref)
    seen = _awaited.get(ref, 1)
    deadline = time.monotonic() + timeout
    while True:
        incarnation = cell.incarnation
        if incarnation is not None and incarnation.generation > seen and incarnation.started:
            _awaited[ref] = incarnation.generation
            return incarnation.generation - 1
        if cell.reason is not None:
            raise AssertionError(f"{ref} has ended: {cell.reason}")
        if time.monotonic() > deadline:
            raise AssertionError(f"{ref} was not restarted within {timeout} s")
        time.sleep(0.001)


def flush_logs(timeout: float = 20.0) -> None:
    """Wait until the log lines of both packages that were logged before this call are written.

    A thread of its own writes them: a test that looks at them calls this first. Raises AssertionError after
    `timeout` seconds: a handler or processor of the application's blocks.
    """
    if not flush(timeout):
        raise AssertionError(f"log lines were not written within {timeout} s")
