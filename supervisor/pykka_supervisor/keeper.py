"""What `Supervisor` and `DynamicSupervisor` share: starting a child, ending it, and what its end means.

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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NoReturn, cast

import pykka

from . import names
from ._pykka import Envelope, new_stop
from .actor import SupervisedActor, supervised_class
from .cell import Cell
from .checks import check_text
from .child import ChildSpec, ChildSpecLike
from .clock import Clock
from .dispatch import Internal
from .errors import IgnoreStart, InvalidSpecError, StartError, StartTimeoutError
from .exits import Abandoned, Exit, Killed, Shutdown, StartFailed, is_abnormal
from .incarnation import KILL_GRACE, Awaited, Incarnation
from .policy import GIVE_UP, Backoff, GiveUp, Intensity, wants_restart
from .ref import SupervisedRef
from .report import report
from .siblings import SiblingRestartingError

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable

    from .clock import Timer

__all__ = ["EXCEEDED", "BaseSupervisor", "Child", "ChildCounts", "ChildInfo", "SupervisorRef"]

ChildStatus = Literal["running", "restarting", "stopped"]

EXCEEDED: Final = "exceeded"
"""What a decision says when a restart would be one too many."""


@dataclass(frozen=True, slots=True)
class ChildInfo:
    """One line of `which_children()`. `ref` is None unless the child runs or is being restarted."""

    id: str
    ref: SupervisedRef[Any] | None
    status: ChildStatus
    actor_class: type[pykka.ThreadingActor]
    type: Literal["worker", "supervisor"]


@dataclass(frozen=True, slots=True)
class ChildCounts:
    """What `count_children()` answers; `active` are those that run now."""

    specs: int
    active: int
    supervisors: int
    workers: int


class Child:
    """What a supervisor knows of one child."""

    __slots__ = (
        "attempt",
        "cell",
        "generation",
        "hang_timer",
        "intensity",
        "last_reason",
        "leader",
        "restart_timer",
        "spec",
        "status",
    )

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.cell: Cell | None = None
        self.status: ChildStatus = "stopped"
        self.generation = 0
        self.attempt = 0
        """Restarts in a row, for the backoff."""
        self.last_reason: Exit | None = None
        self.leader: Child | None = None
        """While it waits for its restart: the child whose end or failed start that restart follows from."""
        self.intensity: Intensity | None = None
        self.restart_timer: Timer | None = None
        self.hang_timer: Timer | None = None

    def live_cell(self) -> Cell | None:
        """Its cell, unless that has ended for good."""
        cell = self.cell
        return None if cell is None or cell.reason is not None else cell

    def offender(self) -> dict[str, Any]:
        """How a report names it."""
        return {
            "id": self.spec.key,
            "ref": None if self.cell is None else str(self.cell),
            "class": self.spec.actor_class.__qualname__,
            "restart": self.spec.restart,
            "shutdown": self.spec.shutdown,
            "type": self.spec.type,
        }


class _StartChild(Internal):
    __slots__ = ("spec",)

    def __init__(self, spec: ChildSpecLike) -> None:
        self.spec = spec

    def deliver(self, actor: BaseSupervisor) -> SupervisedRef[Any]:
        return actor.start_child(self.spec)


class _WhichChildren(Internal):
    __slots__ = ()

    def deliver(self, actor: BaseSupervisor) -> list[ChildInfo]:
        return actor.which_children()


class _CountChildren(Internal):
    __slots__ = ()

    def deliver(self, actor: BaseSupervisor) -> ChildCounts:
        return actor.count_children()


class _RestartDue(Internal):
    __slots__ = ("children",)

    def __init__(self, children: list[tuple[Child, int]]) -> None:
        self.children = children

    def deliver(self, actor: BaseSupervisor) -> None:
        due = [child for child, generation in self.children if child.generation == generation]
        actor._start_again(due)  # noqa: SLF001


class _Hung(Internal):
    __slots__ = ("child", "incarnation", "since")

    def __init__(self, child: Child, incarnation: Incarnation, since: float) -> None:
        self.child = child
        self.incarnation = incarnation
        self.since = since

    def deliver(self, actor: BaseSupervisor) -> None:
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


class SupervisorRef(SupervisedRef[Any]):
    """A ref to a supervisor. Its methods ask the supervisor, and so wait while it starts or ends a child.

    A child must not call them in its `__init__` or `on_start`, for which the supervisor waits. They raise
    `pykka.ActorDeadError` when the supervisor is dead.
    """

    def start_child(self, spec: ChildSpecLike) -> SupervisedRef[Any]:
        """Start one more child and return its ref; what `__init__` or `on_start` raises is raised here.

        StartTimeoutError after its `start_timeout`; StartError where there is no exception to raise.
        """
        return cast("SupervisedRef[Any]", self.ask(_StartChild(spec)))

    def which_children(self) -> list[ChildInfo]:
        """All children, in start order."""
        return cast("list[ChildInfo]", self.ask(_WhichChildren()))

    def count_children(self) -> ChildCounts:
        """How many children there are, of which kind."""
        return cast("ChildCounts", self.ask(_CountChildren()))


class BaseSupervisor(SupervisedActor):
    """See `Supervisor` and `DynamicSupervisor`."""

    ref_class: ClassVar[type[SupervisedRef[Any]]] = SupervisorRef

    _is_supervisor: ClassVar[bool] = True

    def __init__(self, *, name: str | None, clock: Clock | None) -> None:
        check_text("name", name, none="no name")
        if clock is not None and (isinstance(clock, type) or not isinstance(clock, Clock)):
            raise InvalidSpecError(
                f"clock must have the methods of a pykka_supervisor.Clock, or be None; not {clock!r}"
            )
        super().__init__()
        cell = self._supervised_cell
        if clock is not None:
            cell.clock = clock
        if name is not None:
            names.claim(name, cell)
        self._closing = False
        self._waiting: threading.Lock | None = None
        self._stop_asked = False
        self._waiting_for: dict[str, list[tuple[Child, int]]] = {}
        """By the id of the sibling that they need: children whose restart waits for that one's."""

    # -- what the two kinds do differently

    def start_child(self, spec: ChildSpecLike) -> SupervisedRef[Any]:
        """See `SupervisorRef.start_child`; to be called in the supervisor's own thread."""
        raise NotImplementedError

    def _all_children(self) -> list[Child]:
        """In start order; may be called from any thread."""
        raise NotImplementedError

    def _child_of(self, cell: Cell) -> Child | None:
        raise NotImplementedError

    def _restart(self, child: Child, reason: Exit, incarnation: Incarnation | None) -> None:
        """Decide about a child that wants a restart: it has died, or failed to start again."""
        raise NotImplementedError

    def _forget(self, child: Child) -> None:
        """Let a child's spec go."""
        raise NotImplementedError

    def _ended_by_itself(self, child: Child) -> None:
        """See what follows from a child's end that nobody ordered and no restart follows."""
        raise NotImplementedError

    def _end_all(self, children: list[Child], *, brutal: bool = False) -> None:
        raise NotImplementedError

    def _supervised_allowance(self) -> float | None:
        """One after the other; a dynamic supervisor ends its children in parallel."""
        total = 0.0
        for child in self._all_children():
            cell = child.live_cell()
            allowed = child.spec.shutdown if cell is None else cell.allowance()
            if allowed is None:
                return None
            total += allowed + KILL_GRACE
        return total

    def _restarts_of(self, child: Child) -> int:
        """Restarts in the window that counts for a child, now; may be called from any thread."""
        raise NotImplementedError

    # -- asked by anybody

    def which_children(self) -> list[ChildInfo]:
        """See `SupervisorRef.which_children`; in the supervisor's own thread."""
        return [
            ChildInfo(
                child.spec.key,
                cell.ref if (cell := child.live_cell()) is not None and hasattr(cell, "ref") else None,
                child.status,
                child.spec.actor_class,
                child.spec.type,
            )
            for child in self._all_children()
        ]

    def count_children(self) -> ChildCounts:
        """See `SupervisorRef.count_children`; in the supervisor's own thread."""
        children = self._all_children()
        supervisors = sum(child.spec.type == "supervisor" for child in children)
        return ChildCounts(
            specs=len(children),
            active=sum(child.status == "running" for child in children),
            supervisors=supervisors,
            workers=len(children) - supervisors,
        )

    def interrupt(self) -> None:
        """Wait for a child's start no longer than for its end: a stop or a kill is queued."""
        self._stop_asked = True
        waiting = self._waiting
        if waiting is not None:
            with contextlib.suppress(RuntimeError):
                waiting.release()

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

    # -- ending

    def _begin_end(self, child: Child, *, final: bool, brutal: bool = False) -> Incarnation | None:
        """Ask a child to end; returns what is to be waited for."""
        child.generation += 1
        for timer in (child.restart_timer, child.hang_timer):
            if timer is not None:
                timer.cancel()
        child.restart_timer = child.hang_timer = None
        cell = child.live_cell()
        if cell is None:
            return None
        incarnation = cell.incarnation
        if incarnation is None:
            return None
        if not cell.end_for_good(incarnation, final=final):
            return None
        if brutal or child.spec.shutdown == 0:
            incarnation.command(Killed())
        elif final:
            # What was sent before is handled, as Pykka has it.
            incarnation.stop_as = Shutdown()
            with contextlib.suppress(pykka.ActorDeadError):
                cell.mailbox.put(new_stop())
            incarnation.interrupt()
        else:
            # What waits is for the next incarnation.
            incarnation.command(Shutdown())
        return incarnation

    def _await_end(self, incarnation: Incarnation | None, deadline: float | None) -> float:
        """Wait for an end until `deadline` (real, monotonic), then kill; returns until when to wait on."""
        if incarnation is None:
            return 0.0
        if not incarnation.join(None if deadline is None else max(0.0, deadline - time.monotonic())):
            incarnation.command(Killed())
        return time.monotonic() + KILL_GRACE

    def _settle_end(
        self,
        child: Child,
        incarnation: Incarnation | None,
        until: float,
        *,
        final: bool,
        brutal: bool = False,
    ) -> None:
        """Abandon what has not ended by then, and draw the conclusions."""
        child.status = "stopped"
        if incarnation is None:
            cell = child.live_cell()
            if cell is not None and final:
                cell.finish(cell.last_reason or Shutdown())
            # One that has just ended may still be at it: telling its monitors.
            ended = None if child.cell is None else child.cell.incarnation
            if ended is not None:
                ended.join(KILL_GRACE)
            return
        brutal = brutal or child.spec.shutdown == 0
        if not incarnation.join(max(0.0, until - time.monotonic())):
            allowed = "no time" if brutal else f"{child.spec.shutdown} s"
            incarnation.cell.abandon(incarnation, Abandoned(f"it was given {allowed} to end"))
        reason = incarnation.reason or Killed()
        child.last_reason = reason
        if final or incarnation.for_good:
            incarnation.cell.finish(reason)
        else:
            incarnation.cell.notify(reason, restarting=True)
        if is_abnormal(reason) and not (brutal and isinstance(reason, Killed)):
            # As in `_handle_end`; but a thread that is left behind is never what an owner has decided.
            decided = callable(child.spec.backoff) and not isinstance(reason, Abandoned)
            report(self.actor_ref, "shutdown_error", reason, offender=child.offender(), error=not decided)

    def _deadline(self, child: Child, *, brutal: bool = False) -> float | None:
        """Until when a child that has just been asked to end may take."""
        if brutal or child.spec.shutdown == 0:
            return time.monotonic() + KILL_GRACE
        cell = child.cell
        allowed = child.spec.shutdown if cell is None else cell.allowance()
        return None if allowed is None else time.monotonic() + allowed

    def _end_in_order(self, children: Iterable[Child], *, final: bool) -> None:
        """End one child after the other."""
        for child in children:
            incarnation = self._begin_end(child, final=final)
            until = self._await_end(incarnation, self._deadline(child))
            self._settle_end(child, incarnation, until, final=final)

    def _end_at_once(self, children: Iterable[Child], *, brutal: bool = False) -> None:
        """End all children for good, in parallel, each within its own limit."""
        ending = []
        for child in children:
            incarnation = self._begin_end(child, final=True, brutal=brutal)
            ending.append((child, incarnation, self._deadline(child, brutal=brutal)))
        until = 0.0
        for _, incarnation, deadline in ending:
            until = max(until, self._await_end(incarnation, deadline))
        for child, incarnation, _ in ending:
            self._settle_end(child, incarnation, until, final=True, brutal=brutal)

    def _supervised_wind_down(self) -> None:
        self._closing = True
        self._end_all(self._all_children())

    def _supervised_abandoned(self) -> None:
        self._closing = True
        self._end_all(self._all_children(), brutal=True)

    def _refuse_when_closing(self) -> None:
        if self._closing:
            raise pykka.ActorDeadError(f"{self._supervised_cell} not found")

    # -- what a child's end means

    def _on_child_end(self, incarnation: Incarnation) -> None:
        cell = incarnation.cell
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
            report(self.actor_ref, "child_terminated", reason, offender=child.offender(), error=not decided)
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
            due.append((child, child.generation))
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
        cell = incarnation.cell
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
    supervisor: type[BaseSupervisor],
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
    cell = incarnation.cell
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
