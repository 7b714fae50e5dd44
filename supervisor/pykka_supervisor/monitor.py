"""Monitors: which actors and functions are told when an actor ends.

A monitor is one-way and gives one `Down` for each call, as OTP's does. A supervised actor's own
thread, or its supervisor's, gives it. A plain Pykka actor gives no notice; those are looked at four
times a second by one timer, which exists only while such an actor is monitored: does it say that it is
alive, and is its thread still there? A thread that is gone while `is_alive()` says True is a zombie.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pykka

from . import _pykka, forks
from .apart import call_apart, serves_others, tell_apart
from .cell import cell_of
from .clock import SYSTEM_CLOCK, Timer
from .exits import Exit, Gone, NoProc
from .incarnation import Incarnation, current_incarnation
from .log import get_logger
from .ref import SupervisedRef

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Down", "MonitorRef", "demonitor", "monitor", "monitor_directly"]

_log = get_logger(__name__)

_SWEEP_EVERY: Final = 0.25
"""Seconds; what is promised is to notice within one."""

_numbers = itertools.count(1)


class MonitorRef:
    """One call of `monitor`."""

    __slots__ = ("_live", "_notify", "_owner", "number", "ref")

    def __init__(
        self, ref: pykka.ActorRef[Any], notify: Callable[[Down], None], owner: Incarnation | None
    ) -> None:
        self.number = next(_numbers)
        self.ref = ref
        self._notify = notify
        self._owner = owner
        # Taken once, by whoever fires or cancels: a list's pop() is atomic.
        self._live = [True]

    def __repr__(self) -> str:
        return f"<MonitorRef {self.number} of {self.ref}>"

    def cancel(self) -> bool:
        """Take it back, as `demonitor` does."""
        return demonitor(self)

    def take(self) -> bool:
        """Claim the right to fire it, or to let it go, once; from any thread."""
        try:
            self._live.pop()
        except IndexError:
            return False
        owner, self._owner = self._owner, None
        if owner is not None:
            own = owner.monitors
            if own is not None:
                own.pop(self.number, None)
        return True

    @property
    def pending(self) -> bool:
        """Whether it has neither fired nor been cancelled."""
        return bool(self._live)

    def fire(self, reason: Exit, restarting: bool) -> None:  # noqa: FBT001
        """Give the `Down`, once."""
        if self.take():
            self._notify(Down(self, self.ref, reason, restarting))


@dataclass(frozen=True, slots=True)
class Down:
    """An actor has ended. `restarting`: its supervisor will start it again, under the same ref."""

    monitor: MonitorRef
    ref: pykka.ActorRef[Any]
    reason: Exit
    restarting: bool


def monitor(
    ref: pykka.ActorRef[Any],
    *,
    notify: Callable[[Down], None] | pykka.ActorRef[Any] | None = None,
) -> MonitorRef:
    """Be told once when the actor's present life ends; any Pykka ref will do.

    `notify` is a function, or the ref of an actor that is told the `Down`; None is the present incarnation
    of the calling actor, which must then be a supervised one (RuntimeError otherwise). A function is called
    exactly once: in the thread of the actor that ends, and in the caller's, before this returns, for one that is
    dead already: then the reason is `NoProc`. Where a supervisor or the timer thread notices the end, the function
    is called in a thread of its own, since those serve others.

    One-shot: who wants to follow an actor through its restarts calls it again at a `Down` with
    `restarting`. The end of a plain Pykka actor is noticed within a second; its reason is `Gone`.
    """
    return _monitor(ref, _apart(notify) if callable(notify) else notify)


def monitor_directly(ref: pykka.ActorRef[Any], notify: Callable[[Down], None]) -> MonitorRef:
    """As `monitor`, for a function of these packages' own, which never blocks: it is called where the end is noticed.

    That is the thread of the actor that ends, its supervisor's, or the timer thread.
    """
    return _monitor(ref, notify)


def _monitor(
    ref: pykka.ActorRef[Any], notify: Callable[[Down], None] | pykka.ActorRef[Any] | None
) -> MonitorRef:
    given: object = ref
    if not isinstance(given, pykka.ActorRef):
        raise TypeError(f"what is monitored must be a pykka.ActorRef, not {given!r}")
    if _is_forked(ref):
        raise forks.refusal(ref)
    notifier = _notifier(notify)
    owner = current_incarnation() if notify is None else None
    told = MonitorRef(ref, notifier, owner)
    if owner is not None:
        # In the owner's own thread: no other one adds to it.
        own = owner.monitors = owner.monitors or {}
        own[told.number] = told
    if not _watch(told):
        told.fire(NoProc(), restarting=False)
    elif owner is not None and owner.reason is not None:
        demonitor(told)  # the owner was abandoned meanwhile
    return told


def _is_forked(ref: pykka.ActorRef[Any]) -> bool:
    if isinstance(ref, SupervisedRef):
        return cell_of(ref).home.forked
    return forks.is_forked(ref)


def _watch(told: MonitorRef) -> bool:
    """Let the end of an actor fire this; False where it is dead."""
    ref = told.ref
    if not isinstance(ref, SupervisedRef):
        if not ref.is_alive():
            return False
        _sweeper.add(told)
        return True
    cell = cell_of(ref)
    with cell.lock:
        if cell.reason is not None:
            return False
        if cell.monitors is None:
            cell.monitors = {}
        cell.monitors[told.number] = told.fire
        return True


def demonitor(monitor_ref: MonitorRef) -> bool:
    """Take a monitor back: nothing comes after this has returned True.

    False: its `Down` was given, or is being given now. A `Down` that was told to an actor may still be
    in its inbox; OTP's `flush` has no counterpart here.
    """
    if not monitor_ref.take():
        return False
    ref = monitor_ref.ref
    if not isinstance(ref, SupervisedRef):
        _sweeper.remove(monitor_ref)
        return True
    cell = cell_of(ref)
    if not cell.home.forked:
        with cell.lock:
            if cell.monitors is not None:
                cell.monitors.pop(monitor_ref.number, None)
    return True


def _notifier(notify: Callable[[Down], None] | pykka.ActorRef[Any] | None) -> Callable[[Down], None]:
    if notify is None:
        current = current_incarnation()
        if current is None:
            raise RuntimeError("monitor() without notify= is for supervised actors, in their own thread")
        if not hasattr(current.cell, "ref"):
            raise RuntimeError("monitor() without notify= needs a ref to tell: call super().__init__() first")
        return _teller(current.cell.ref, current)
    if isinstance(notify, pykka.ActorRef):
        return _teller(notify, None)
    if not callable(notify):
        raise TypeError(f"notify must be a function, a pykka.ActorRef or None, not {notify!r}")
    return notify


def _apart(notify: Callable[[Down], None]) -> Callable[[Down], None]:
    def tell(down: Down) -> None:
        if serves_others():
            call_apart(notify, lambda: notify(down))
        else:
            notify(down)

    return tell


def _teller(target: pykka.ActorRef[Any], only: Incarnation | None) -> Callable[[Down], None]:
    def tell(down: Down) -> None:
        # As in OTP, the monitors that an actor made for itself end with it: its successor makes its own.
        if only is not None and not only.is_current():
            return
        try:
            tell_apart(target, down)
        except pykka.ActorDeadError:
            _log.debug("down_for_the_dead", target=target)

    return tell


class _Watched:
    """A plain Pykka actor that somebody monitors."""

    __slots__ = ("actor_id", "missing", "monitors", "ref", "thread")

    def __init__(self, ref: pykka.ActorRef[Any]) -> None:
        self.ref = ref
        self.monitors: dict[int, MonitorRef] = {}
        self.thread: threading.Thread | None = None
        self.missing = 0
        actor = _pykka.referenced_actor(ref)
        known = actor is not None and _pykka.runs_pykkas_own_loop(type(actor))
        self.actor_id = id(actor) if known else None


class _Sweeper:
    """Looks at plain Pykka actors from time to time, in the timer thread."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """At the start, and in a forked child."""
        self._lock = threading.Lock()
        self._watched: dict[int, _Watched] = {}
        self._timer: Timer | None = None

    def add(self, told: MonitorRef) -> None:
        """Watch one more."""
        key = id(told.ref)
        with self._lock:
            watched = self._watched.get(key)
            if watched is None:
                watched = self._watched[key] = _Watched(told.ref)
            watched.monitors[told.number] = told
            if self._timer is None:
                self._timer = SYSTEM_CLOCK.call_later(_SWEEP_EVERY, self._sweep)

    def remove(self, told: MonitorRef) -> None:
        """Forget one that was taken back."""
        key = id(told.ref)
        with self._lock:
            watched = self._watched.get(key)
            if watched is not None:
                watched.monitors.pop(told.number, None)
                if not watched.monitors:
                    del self._watched[key]

    def _sweep(self) -> None:
        with self._lock:
            all_watched = list(self._watched.values())
        ended: list[tuple[_Watched, Exit]] = []
        unknown: list[_Watched] = []
        for watched in all_watched:  # without the lock: a ref may be of the application's own kind
            if not _is_alive(watched.ref):
                ended.append((watched, Gone()))
            elif watched.thread is not None:
                if not watched.thread.is_alive() and _is_alive(watched.ref):
                    ended.append((watched, Gone(zombie=True)))
            elif watched.actor_id is not None:
                unknown.append(watched)
        if unknown:
            self._find_threads(unknown, ended)
        with self._lock:
            for watched, _ in ended:
                if self._watched.get(id(watched.ref)) is watched:
                    del self._watched[id(watched.ref)]
            self._timer = SYSTEM_CLOCK.call_later(_SWEEP_EVERY, self._sweep) if self._watched else None
        for watched, reason in ended:
            for told in list(watched.monitors.values()):
                try:
                    told.fire(reason, restarting=False)
                except BaseException as error:  # noqa: BLE001
                    _log.error("monitor_failed", actor=str(watched.ref), exc_info=error)

    def _find_threads(self, unknown: list[_Watched], ended: list[tuple[_Watched, Exit]]) -> None:
        threads = _pykka.own_threads()
        for watched in unknown:
            watched.thread = threads.get(watched.actor_id or 0)
            if watched.thread is not None or not _is_alive(watched.ref):
                continue
            # It may be registered and not quite started: once more, then it has none.
            watched.missing += 1
            if watched.missing > 1:
                ended.append((watched, Gone(zombie=True)))


def _is_alive(ref: pykka.ActorRef[Any]) -> bool:
    """Whether an actor says that it is alive; one that raises when it is asked does not."""
    try:
        return ref.is_alive()
    except BaseException as error:  # noqa: BLE001 - a ref of the application's own kind
        _log.warning("is_alive_failed", exc_info=error)
        return False


_sweeper = _Sweeper()


def reset_after_fork() -> None:
    """In a forked child nothing is monitored."""
    _sweeper.reset()
