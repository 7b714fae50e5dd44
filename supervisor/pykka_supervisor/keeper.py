"""What `Supervisor` and `DynamicSupervisor` share: starting a child, and what its end means.

A supervisor is itself a supervised actor and does all its work in its own thread, one message after
another, so that nothing here is locked. It waits for two things only: for a child's `__init__` and
`on_start`, in the child's thread, at most `start_timeout`, and for a child's end, at most its `shutdown`
and `KILL_GRACE`. It never waits for a backoff.

Each `Child` has a `generation`, which every decision about it advances. A restart that is due later
carries the generation it was decided in, and is void when that has passed: what was terminated,
replaced or shut down meanwhile is not started again.
"""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any, Final, Literal, NoReturn

import pykka

from . import names
from ._pykka import Envelope
from .actor import supervised_class
from .base import Child
from .cell import Cell, cell_of
from .child import ChildSpec
from .dispatch import Internal
from .errors import IgnoreStart, StartError, StartTimeoutError
from .exits import Abandoned, Exit, Killed, Shutdown, StartFailed, is_abnormal
from .incarnation import KILL_GRACE, Awaited, Incarnation
from .observe import ChildGaveUpRecord, ChildRestartRecord
from .policy import GIVE_UP, Backoff, GiveUp, Intensity, wants_restart
from .ref import SupervisedRef
from .report import report
from .shutting_down import ShuttingDown
from .siblings import SiblingRestartingError

__all__ = ["EXCEEDED", "Keeper", "start_root"]

EXCEEDED: Final = "exceeded"
"""What a decision says when a restart would be one too many."""


class _RestartDue(Internal):
    __slots__ = ("children",)

    def __init__(self, children: list[tuple[Child, int]]) -> None:
        self.children = children

    def deliver(self, actor: Keeper) -> None:
        due = [child for child, generation in self.children if child.generation == generation]
        actor._start_again(due)  # noqa: SLF001


class _Hung(Internal):
    __slots__ = ("child", "incarnation", "since")

    def __init__(self, child: Child, incarnation: Incarnation, since: float) -> None:
        self.child = child
        self.incarnation = incarnation
        self.since = since

    def deliver(self, actor: Keeper) -> None:
        actor._on_hung(self.child, self.incarnation, self.since)  # noqa: SLF001


class _HangWatch:
    """Looks, in the clock's thread, whether a child has been at one message for too long."""

    __slots__ = ("_child", "_incarnation", "_limit", "_mailbox", "clock")

    def __init__(self, supervisor: Cell, child: Child, incarnation: Incarnation, limit: float) -> None:
        self.clock = supervisor.clock
        self._mailbox = supervisor.mailbox
        self._child = child
        self._incarnation = incarnation
        self._limit = limit

    def __call__(self) -> None:
        incarnation = self._incarnation
        if not incarnation.is_current():
            return
        since = incarnation.handling_since
        now = self.clock.monotonic()
        due = (now if since is None else since) + self._limit
        if since is not None and now >= due:
            with contextlib.suppress(pykka.ActorDeadError):
                self._mailbox.put(Envelope(_Hung(self._child, incarnation, since)))
            return
        # At least a millisecond: a sum of floats may come out a trifle early, again and again.
        self._child.hang_timer = self.clock.call_later(max(due - now, 0.001), self)


class Keeper(ShuttingDown):
    """A supervisor, as far as it starts children and decides what follows from their ends."""

    # -- starting

    def _new_cell(self, spec: ChildSpec) -> Cell:
        mine = self._supervised_cell
        cell = Cell(
            spec.actor_class,
            supervised_class(spec.actor_class),
            supervisor=mine,
            restart=spec.restart,
            shutdown=spec.shutdown,
            crash_on=spec.crash_on,
            clock=mine.clock,
            max_buffered=spec.max_buffered,
        )
        if spec.name is not None:
            names.claim(spec.name, cell)
        cell.owner_decides = callable(spec.backoff)
        cell.child_id = spec.key
        cell.taps = self._taps
        return cell

    def _sibling(self, child_id: str) -> pykka.ActorRef[Any]:
        raise StartError(f"there is no sibling {child_id!r} here")

    def _start(self, child: Child, *, first: bool) -> None:
        """Start a child's next incarnation and wait for what is to be awaited; it is in the book already.

        `first`: a failure ends its cell. Raises what the start raises; IgnoreStart too.
        """
        spec = child.spec
        child.generation += 1
        try:
            cell = child.live_cell()
            if cell is None:
                cell = self._new_cell(spec)
                self._take_cell(child, cell)
            args, kwargs = spec.arguments(self._sibling)
            # Without an `__init__` there is no ref: that of a first start is waited for in any case.
            awaited: Awaited = None if hasattr(cell, "ref") else "born"
            if spec.start_timeout is not None:
                awaited = "started"
            incarnation = cell.launch(args, kwargs, awaited=awaited, start_or_end=first)
            mine = self._supervised_incarnation
            if mine is not None and mine.abandoned:
                incarnation.final = True
                incarnation.command(Killed())
                raise pykka.ActorDeadError(f"{self._supervised_cell} not found")  # noqa: TRY301
            if awaited is not None:
                self._await_start(child, cell, incarnation)
        except BaseException as error:
            child.status = "stopped" if first else "restarting"
            if first and child.cell is not None:
                child.cell.finish(StartFailed.of(error))
            if not isinstance(error, Exception):
                # What ends a child does not end its supervisor.
                raise StartError(
                    f"the start of {spec.actor_class.__name__} raised {type(error).__name__}"
                ) from error
            raise
        child.status = "running"
        self._watch(child, incarnation)

    def _take_cell(self, child: Child, cell: Cell) -> None:
        child.cell = cell

    def _await_start(self, child: Child, cell: Cell, incarnation: Incarnation) -> None:
        """Wait for what is awaited, and raise what kept it from coming."""
        timeout = child.spec.start_timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        # Before the first look at `_stop_asked`: whoever sets that then wakes this.
        self._waiting = incarnation.gate
        try:
            self._await_gate(child, cell, incarnation, deadline)
        finally:
            self._waiting = None
        if not incarnation.is_awaited():
            return
        # Its thread is about to end; then nothing of it is left.
        incarnation.join(KILL_GRACE)
        raise_failed_start(incarnation)

    def _await_gate(self, child: Child, cell: Cell, incarnation: Incarnation, deadline: float | None) -> None:
        spec = child.spec
        hurried = False
        while incarnation.is_awaited() and incarnation.reason is None:
            if self._stop_asked and not hurried:
                hurried = True
                if spec.shutdown is not None:
                    latest = time.monotonic() + spec.shutdown
                    deadline = latest if deadline is None else min(deadline, latest)
            if deadline is None:
                incarnation.gate.acquire()
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                limit = "its supervisor was stopped" if hurried else f"{spec.start_timeout} s"
                error = StartTimeoutError(f"{cell} did not start within {limit}; its thread was abandoned")
                if cell.abandon(incarnation, StartFailed.of(error)):
                    incarnation.interrupt()
                    raise error
                return
            incarnation.gate.acquire(timeout=left)

    # -- what a child's end means

    def _on_child_end(self, incarnation: Incarnation) -> None:
        cell = cell_of(incarnation)
        child = self._child_of(cell)
        if child is None or child.cell is not cell or child.status != "running":
            return
        if cell.incarnation is not incarnation:
            return
        self._handle_end(child, cell, incarnation)

    def _handle_end(self, child: Child, cell: Cell, incarnation: Incarnation) -> None:
        reason = incarnation.reason or Killed()
        child.last_reason = reason
        child.generation += 1
        if child.hang_timer is not None:
            child.hang_timer.cancel()
            child.hang_timer = None
        if incarnation.ignored:
            self._ignored(child)
            return
        wanted = wants_restart(child.spec.restart, reason) and not incarnation.for_good
        if wanted or is_abnormal(reason):
            # An owner that decides itself also says itself what it makes of the end.
            decided = callable(child.spec.backoff)
            report(self.actor_ref, "child_terminated", reason, offender=child.offender(), expected=decided)
        if wanted:
            self._restart(child, reason, incarnation)
        else:
            self._let_go(child, cell, reason)

    def _ignored(self, child: Child) -> None:
        """Leave a child that says it is not needed without an actor; that is no end by itself."""
        child.status = "stopped"
        cell = child.live_cell()
        if cell is not None:
            cell.finish(Shutdown("ignore"))
        if child.spec.restart == "temporary":
            self._forget(child)
        self._wake_those_waiting_for(child)

    def _let_go(self, child: Child, cell: Cell, reason: Exit) -> None:
        """Leave a child that has ended as it is."""
        child.status = "stopped"
        cell.finish(reason)
        if child.spec.restart == "temporary":
            self._forget(child)
        self._wake_those_waiting_for(child)
        self._ended_by_itself(child)

    def _decide(
        self,
        child: Child,
        reason: Exit,
        incarnation: Incarnation | None,
        intensity: Intensity,
    ) -> float | GiveUp | Literal["exceeded"]:
        """How long to wait before a restart, or not to."""
        decision = self._decision(child, reason, incarnation, intensity)
        if self._taps and child.cell is not None and (decision is GIVE_UP or decision == EXCEEDED):
            why = "intensity" if decision == EXCEEDED else "decision"
            child.cell.observe(ChildGaveUpRecord, child.cell.generation, reason=str(reason), why=why)
        return decision

    def _decision(
        self,
        child: Child,
        reason: Exit,
        incarnation: Incarnation | None,
        intensity: Intensity,
    ) -> float | GiveUp | Literal["exceeded"]:
        backoff = child.spec.backoff
        if backoff is not None and not isinstance(backoff, Backoff):
            try:
                decision = backoff(reason)
                if decision is GIVE_UP:
                    return GIVE_UP
                if isinstance(decision, bool):
                    raise TypeError(f"a decision hook returns seconds or GIVE_UP, not {decision}")  # noqa: TRY301
                delay = float(decision)
                if not math.isfinite(delay):
                    raise ValueError(f"a decision hook returned {delay}")  # noqa: TRY301
            except BaseException as error:  # noqa: BLE001
                report(self.actor_ref, "decision_error", StartFailed.of(error), offender=child.offender())
                return GIVE_UP
            return max(0.0, delay)
        now = self._supervised_cell.clock.monotonic()
        if not intensity.add(now):
            return EXCEEDED
        if backoff is None:
            return 0.0
        if incarnation is not None and incarnation.started and backoff.is_quiet(now - incarnation.started_at):
            child.attempt = 0
        delay = backoff.delay(child.attempt)
        child.attempt += 1
        return delay

    def _schedule(self, children: list[Child], leader: Child, delay: float, *, at_once: bool) -> None:
        """Start these again after a delay, since the leader, one of them, needs it.

        `at_once`: nothing has to be handled before.
        """
        due: list[tuple[Child, int]] = []
        for child in children:
            child.generation += 1
            child.status = "restarting"
            child.leader = leader
            child.restarts += 1
            due.append((child, child.generation))
            if self._taps and child.cell is not None:
                told = str(leader.last_reason)
                child.cell.observe(
                    ChildRestartRecord, child.cell.generation, reason=told, delay=max(0.0, delay)
                )
        if delay <= 0 and at_once:
            self._start_again(children)
            return
        message = Envelope(_RestartDue(due))
        mailbox = self._supervised_cell.mailbox
        if delay <= 0:
            # After what has come meanwhile, a stop above all.
            mailbox.put(message)
            return

        def fire() -> None:
            with contextlib.suppress(pykka.ActorDeadError):
                mailbox.put(message)

        for child in children:
            child.restart_timer = None
        # Where the leader is ended, the others are not started either.
        leader.restart_timer = self._supervised_cell.clock.call_later(delay, fire)

    def _start_again(self, children: list[Child]) -> None:
        """Start these, in order; one that fails is decided about anew, and those after it wait for that.

        Where it is given up, they do not. One that needs a sibling which is being restarted waits for that.
        """
        for child in children:
            if child.status != "restarting":
                continue
            child.restart_timer = None
            try:
                self._start(child, first=False)
            except IgnoreStart:
                self._ignored(child)
            except SiblingRestartingError as waits:
                child.leader = child
                self._waiting_for.setdefault(waits.child_id, []).append((child, child.generation))
            except Exception as error:  # noqa: BLE001
                child.last_reason = reason = StartFailed.of(error)
                report(self.actor_ref, "start_error", reason, offender=child.offender())
                self._restart(child, reason, None)
                if self._closing or child.status == "restarting":
                    return
            else:
                self._wake_those_waiting_for(child)

    def _wake_those_waiting_for(self, child: Child) -> None:
        """Try those again that needed this child: it runs again, or never will."""
        due = self._waiting_for.pop(child.spec.key, None)
        if due is not None:
            with contextlib.suppress(pykka.ActorDeadError):
                self._supervised_cell.mailbox.put(Envelope(_RestartDue(due)))

    # -- hangs

    def _watch(self, child: Child, incarnation: Incarnation) -> None:
        limit = child.spec.hang_after
        if limit is None:
            return
        watch = _HangWatch(self._supervised_cell, child, incarnation, limit)
        child.hang_timer = timer = watch.clock.call_later(limit, watch)
        if incarnation.reason is not None:
            # It ended before there was a timer that its end could have taken back.
            timer.cancel()
            child.hang_timer = None

    def _on_hung(self, child: Child, incarnation: Incarnation, since: float) -> None:
        if child.status != "running" or not incarnation.is_current():
            return
        if incarnation.since != since:
            self._watch(child, incarnation)
            return
        cell = cell_of(incarnation)
        running = self._supervised_cell.clock.monotonic() - since
        if cell.abandon(incarnation, Abandoned(f"one message took more than {running:.3g} s")):
            incarnation.interrupt()
            self._handle_end(child, cell, incarnation)

    # -- its own end

    def _exit(self, reason: Exit) -> None:
        """End this supervisor after the message that it handles, children first."""
        self._closing = True
        incarnation = self._supervised_incarnation
        if incarnation is not None and incarnation.order is None:
            incarnation.order = reason


def start_root(
    supervisor: type[Keeper],
    args: tuple[Any, ...],
    options: dict[str, Any],
) -> SupervisedRef[Any]:
    """Start a supervisor at the top of a tree and wait until its children run; raises why they do not."""
    cell = Cell(supervisor, supervisor)
    try:
        incarnation = cell.launch(args, options, awaited="started")
        while not incarnation.started and incarnation.reason is None:
            incarnation.gate.acquire()
    except BaseException as error:
        # Not a failed start alone: a Ctrl-C in the main thread, too, leaves nothing behind.
        cell.kill()
        if cell.incarnation is not None:
            cell.incarnation.join(None)
        cell.finish(StartFailed.of(error))
        raise
    if not incarnation.started:
        incarnation.join(None)
        raise_failed_start(incarnation)
    return cell.ref


def raise_failed_start(incarnation: Incarnation) -> NoReturn:
    """Raise, at its starter's, what kept an incarnation from starting."""
    cell = cell_of(incarnation)
    error = incarnation.take_error()
    try:
        if isinstance(error, Exception):
            raise error
        if error is None:
            raise StartError(f"{cell} ended while it started: {incarnation.reason}")
        hook = "on_start" if incarnation.born else "__init__"
        raise StartError(f"{hook} of {cell} raised {type(error).__name__}") from error
    finally:
        del error  # its traceback holds this frame
