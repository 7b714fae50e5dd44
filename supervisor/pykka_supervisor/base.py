"""What every part of a supervisor knows: its children, what it may be asked, and its state.

A supervisor is itself a supervised actor and does all its work in its own thread, one message after
another, so that nothing here is locked. `BaseSupervisor` has the state, `ShuttingDown` ends children, `Keeper`
starts them and decides about their ends, and `Supervisor` and `DynamicSupervisor` hold them.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import pykka

from . import names
from .actor import SupervisedActor
from .cell import Cell
from .checks import check_text
from .child import ChildSpec, ChildSpecLike
from .clock import Clock
from .dispatch import Internal
from .errors import InvalidSpecError
from .exits import Exit
from .incarnation import KILL_GRACE, Incarnation
from .observe import Tap
from .policy import Intensity
from .ref import SupervisedRef

if TYPE_CHECKING:
    import threading

    from .clock import Timer

__all__ = ["BaseSupervisor", "Child", "ChildCounts", "ChildInfo", "SupervisorRef"]

ChildStatus = Literal["running", "restarting", "stopped"]


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
        "restarts",
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
        self.restarts = 0
        """All its restarts."""
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
        self._taps: tuple[Tap, ...] = cell.taps
        """What is told of its children's starts, ends and restarts."""
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
