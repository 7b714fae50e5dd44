"""Observers: what an application may do with each start, end and restart, and how it gets to know of them.

The rules:

- Each event is a record, frozen and plain. The thread in which something happens only puts the record into a bounded
  queue (`Feed`), and never waits.
- An `ObserverActor` takes the records out, in order, and calls the observers one after another in its own thread. So an
  observer that is slow holds up other observers of its tree, and nothing else.
- A full queue loses records, those of ends last. What is lost is counted (`Feed.lost`).
- What an observer raises is logged (`observer_failed`), and the next record is taken.
- A record is made only where an observer has the method for it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from .errors import InvalidSpecError
from .log import contain, get_logger
from .lossy import LossyQueue

__all__ = [
    "QUEUE",
    "ChildEndRecord",
    "ChildGaveUpRecord",
    "ChildRestartRecord",
    "ChildStartRecord",
    "Feed",
    "Record",
    "Tap",
    "TreeObserver",
    "as_observers",
    "hooks_of",
]

_log = get_logger("pykka_supervisor")

QUEUE = 10_000
"""Records that may wait for the observers."""


class Record(Protocol):
    """What an observer is given."""

    hook: ClassVar[str]
    """The observer's method for it."""
    important: ClassVar[bool]
    """Whether it is lost last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _ChildRecord:
    """What all four records have: which child, where, and when."""

    important: ClassVar[bool] = False

    at: float
    """Seconds since the epoch."""
    supervisor: str
    """The supervisor, as its ref prints."""
    child_id: str
    urn: str
    actor_class: str
    generation: int
    """Which incarnation, from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildStartRecord(_ChildRecord):
    """An incarnation runs: its `on_start` has returned."""

    hook: ClassVar[str] = "on_child_started"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildEndRecord(_ChildRecord):
    """An incarnation has ended, or was abandoned; once for each, however it ended."""

    hook: ClassVar[str] = "on_child_ended"
    important: ClassVar[bool] = True

    reason: str
    abnormal: bool
    final: bool
    """Whether the actor ends for good. A restart may still be given up: then `on_gave_up` follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildRestartRecord(_ChildRecord):
    """A child will be started again after `delay` seconds. `generation` is the incarnation that has ended."""

    hook: ClassVar[str] = "on_restart"

    reason: str
    delay: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildGaveUpRecord(_ChildRecord):
    """A child that wanted a restart gets none."""

    hook: ClassVar[str] = "on_gave_up"
    important: ClassVar[bool] = True

    reason: str
    """Of the child's end."""
    why: str
    """`intensity`: it died too often. `decision`: the `backoff` function of its specification said so."""


class TreeObserver:
    """What an application may do with what happens in a tree. Each method is optional.

    The methods run in the thread of the tree's observer actor. They may block: other observers of the same tree wait
    meanwhile, and nothing else does.
    """

    _observes_nothing: ClassVar[bool] = True
    """That the methods of this very class do nothing."""

    def on_child_started(self, record: ChildStartRecord) -> None:
        """An incarnation runs."""

    def on_child_ended(self, record: ChildEndRecord) -> None:
        """An incarnation has ended."""

    def on_restart(self, record: ChildRestartRecord) -> None:
        """A child will be started again."""

    def on_gave_up(self, record: ChildGaveUpRecord) -> None:
        """A child is not started again, though it died."""


class Tap(Protocol):
    """What is told of each record in the thread in which it happens: code of ours, that never blocks."""

    wanted: frozenset[str]
    """The hooks whose records it takes."""

    def put(self, record: Any) -> None:
        """Take a record."""


def hooks_of(observer: object) -> frozenset[str]:
    """Name the hooks for which an observer has a method of its own."""
    found = set()
    for name in dir(type(observer)):
        if name.startswith("on_"):
            owners = [kind for kind in type(observer).__mro__ if name in kind.__dict__]
            if owners and not owners[0].__dict__.get("_observes_nothing", False):
                found.add(name)
    return frozenset(found)


def as_observers(given: Any) -> tuple[TreeObserver, ...]:
    """Check what an application gave as `observers`. Raises InvalidSpecError."""
    if isinstance(given, TreeObserver) or not isinstance(given, Iterable):
        raise InvalidSpecError(f"observers must be a list of observers, not a {type(given).__name__}")
    observers = tuple(given)
    for observer in observers:
        if not isinstance(observer, TreeObserver):
            raise InvalidSpecError(
                f"an observer must be an instance of a subclass of TreeObserver, not {observer!r}"
            )
    return observers


class Feed:
    """The queue between the threads in which something happens and the observers of one tree. A `Tap`."""

    def __init__(
        self, observers: tuple[TreeObserver, ...], limit: int = QUEUE, shutdown: float = 5.0
    ) -> None:
        self.observers = observers
        self.shutdown = shutdown
        """Seconds that the end of the tree waits for the observers."""
        self.wanted = frozenset[str]().union(*map(hooks_of, observers))
        self.lost = 0
        """Records that no observer has seen, since the feed was made."""
        self._lock = threading.Lock()
        self._records: LossyQueue[Any] = LossyQueue(limit)
        # Records that gave way to others; no more than `limit` between two takes. The thread that takes lets go of
        # them: one may hold the last reference to an application's object, and a thread that puts may hold locks.
        self._gone: list[Any] = []
        self._wake: Any = None
        self._idle = True

    def attach(self, wake: Any) -> None:
        """Have `wake()` called when there is something to take; it must not block. At once, too, for what waits."""
        with self._lock:
            self._wake = wake
            self._idle = not self._records
            waits = not self._idle
        if waits:
            wake()

    def put(self, record: Any) -> None:
        """Take a record, from any thread; never waits. A full queue loses one."""
        with self._lock:
            lost = self._records.add(record.hook, record, important=record.important)
            if lost is not None:
                self.lost += 1
                if lost is not record:
                    self._gone.append(lost)
            wakes = self._idle and self._wake is not None
            self._idle = self._idle and not wakes
        if wakes:
            self._wake()

    def take(self) -> Any:
        """Take the oldest record out; None where there is none, and then the next one wakes again."""
        gone: list[Any] = []
        with self._lock:
            gone, self._gone = self._gone, gone
            try:
                return self._records.take()[1]
            except IndexError:
                self._idle = True
                return None

    def show_one(self) -> bool:
        """Give the observers the oldest record, in the calling thread; False where there is none."""
        record = self.take()
        if record is None:
            return False
        for observer in self.observers:
            try:
                getattr(observer, record.hook)(record)
            except BaseException as error:  # noqa: BLE001 - an application's own; the others see the record all the same
                contain(error)
                _log.error(
                    "observer_failed", observer=type(observer).__name__, hook=record.hook, exc_info=error
                )
        return True

    def flush(self) -> None:
        """Show what is left when the observer actor has ended, in a thread of its own; waits `shutdown` seconds."""
        with self._lock:
            if not self._records:
                return

        def rest() -> None:
            while self.show_one():
                pass

        thread = threading.Thread(target=rest, name="pykka-supervisor-observers", daemon=True)
        thread.start()
        thread.join(self.shutdown)
