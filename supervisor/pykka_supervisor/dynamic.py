"""`DynamicSupervisor`: thousands of like children, each with an intensity of its own.

After Elixir's `DynamicSupervisor`, but for one rule: there one child that crashes in a loop ends the
supervisor and all its siblings with it. Here the intensity is each child's; who exceeds it is given
up alone.

A child that has ended for good is forgotten wholly. Starting one and forgetting one cost the same
however many there are. They are ended in parallel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from .base import Child, SupervisorRef
from .cell import Cell, cell_of
from .checks import check_count
from .child import ChildSpec, ChildSpecLike, as_child_spec
from .dispatch import Internal
from .errors import ChildNotFoundError, IgnoreStart, InvalidSpecError, MaxChildrenError, StartError
from .incarnation import KILL_GRACE, Incarnation
from .keeper import EXCEEDED, Keeper, start_root
from .links import link, refuse_outside_an_actor
from .policy import GIVE_UP, Intensity
from .ref import SupervisedRef
from .report import report

if TYPE_CHECKING:
    import pykka

    from .clock import Clock
    from .exits import Exit

__all__ = ["DynamicSupervisor", "DynamicSupervisorRef"]


class _TerminateChild(Internal):
    __slots__ = ("ref",)

    def __init__(self, ref: pykka.ActorRef[Any]) -> None:
        self.ref = ref

    def deliver(self, actor: DynamicSupervisor) -> None:
        actor.terminate_child(self.ref)


class DynamicSupervisorRef(SupervisorRef):
    """A ref to a `DynamicSupervisor`; see `SupervisorRef`."""

    def terminate_child(self, ref: pykka.ActorRef[Any]) -> None:
        """End a child and forget it. ChildNotFoundError where it is none, or no more."""
        self.ask(_TerminateChild(ref))


class DynamicSupervisor(Keeper):
    """Children that come and go; see the module's text.

    A subclass may define `on_receive` for messages of its own and, in it, call `self.start_child(spec)`
    and `self.terminate_child(ref)`.
    """

    ref_class: ClassVar[type[SupervisedRef[Any]]] = DynamicSupervisorRef

    def __init__(
        self,
        *,
        max_children: int | None = None,
        max_restarts: int = 3,
        max_seconds: float = 5.0,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        check_count("max_children", max_children, none="any number")
        Intensity(max_restarts, max_seconds)
        self._max_children = max_children
        self._max_restarts = max_restarts
        self._max_seconds = max_seconds
        self._children: dict[Cell, Child] = {}
        super().__init__(name=name, clock=clock)

    @classmethod
    def start(cls, **options: Any) -> DynamicSupervisorRef:
        """Start it at the top of a tree of its own.

        `max_children`: MaxChildrenError for one more. `max_restarts` within `max_seconds`: the most
        that is put up with, of each child. `name`, `clock`: as for `Supervisor.start`. A subclass's
        `__init__` may take more options.
        """
        return cast("DynamicSupervisorRef", start_root(cls, (), options))

    @classmethod
    def start_link(cls, **options: Any) -> DynamicSupervisorRef:
        """Start it as `start` does, and `link` it to the supervised actor in whose thread this is.

        Raises RuntimeError, and starts nothing, in any other thread.
        """
        refuse_outside_an_actor()
        ref = cls.start(**options)
        link(ref)
        return ref

    @classmethod
    def child_spec(
        cls,
        *,
        id: str | None = None,  # noqa: A002
        restart: Literal["permanent", "transient", "temporary"] = "permanent",
        shutdown: float | None = 5.0,
        start_timeout: float | None = 5.0,
        significant: bool = False,
        **options: Any,
    ) -> ChildSpec:
        """Specify it as a child of another supervisor; `options` are those of `start`."""
        return ChildSpec(
            cls,
            (),
            options,
            id=id or options.get("name") or cls.__name__,
            restart=restart,
            shutdown=shutdown,
            type="supervisor",
            significant=significant,
            start_timeout=start_timeout,
        )

    def start_child(self, spec: ChildSpecLike) -> SupervisedRef[Any]:
        """Start one more child; in the supervisor's own thread.

        Raises MaxChildrenError, and what its `__init__` or `on_start` raises. A child whose
        `on_start` raises `IgnoreStart` is forgotten: the ref that is returned is dead.
        """
        self._refuse_when_closing()
        spec = as_child_spec(spec)
        if spec.significant:
            raise InvalidSpecError("a dynamic supervisor has no significant children")
        if self._max_children is not None and len(self._children) >= self._max_children:
            raise MaxChildrenError(f"there are {len(self._children)} children already")
        child = Child(spec)
        try:
            self._start(child, first=True)
        except IgnoreStart:
            self._forget(child)
        except BaseException:
            self._forget(child)
            raise
        cell = child.cell
        if cell is None or not hasattr(cell, "ref"):
            raise StartError(f"a child of {spec.actor_class.__name__} has never run")
        return cell.ref

    def terminate_child(self, ref: pykka.ActorRef[Any]) -> None:
        """End a child and forget it; in the supervisor's own thread, which waits for its end.

        Raises ChildNotFoundError where it is none, or no more.
        """
        cell = cell_of(ref) if isinstance(ref, SupervisedRef) else None
        child = None if cell is None else self._children.get(cell)
        if child is None:
            raise ChildNotFoundError(f"{ref} is no child of {self.actor_ref}")
        self._end_in_order([child], final=True)
        self._forget(child)

    # -- private

    def _all_children(self) -> list[Child]:
        return list(self._children.values())

    def _child_of(self, cell: Cell) -> Child | None:
        return self._children.get(cell)

    def _take_cell(self, child: Child, cell: Cell) -> None:
        if child.cell is not None:
            self._children.pop(child.cell, None)
        child.cell = cell
        self._children[cell] = child

    def _supervised_forgets(self, cell: Cell) -> bool:
        child = self._children.get(cell)
        if child is None or self._closing or child.hang_timer is not None or child.restart_timer is not None:
            return False
        return self._children.pop(cell, None) is not None

    def _forget(self, child: Child) -> None:
        if child.cell is not None:
            self._children.pop(child.cell, None)

    def _end_all(self, children: list[Child], *, brutal: bool = False) -> None:
        self._end_at_once(children, brutal=brutal)

    def _restart(self, child: Child, reason: Exit, incarnation: Incarnation | None) -> None:
        if child.intensity is None:
            child.intensity = Intensity(self._max_restarts, self._max_seconds)
        decision = self._decide(child, reason, incarnation, child.intensity)
        cell = child.live_cell()
        if decision is GIVE_UP or decision == EXCEEDED:
            if decision == EXCEEDED:
                report(self.actor_ref, "given_up", "reached_max_restart_intensity", offender=child.offender())
            if cell is not None:
                self._let_go(child, cell, reason)
            return
        if cell is not None:
            cell.notify(reason, restarting=True)
        self._schedule([child], child, decision, at_once=incarnation is not None)

    def _let_go(self, child: Child, cell: Cell, reason: Exit) -> None:
        super()._let_go(child, cell, reason)
        self._forget(child)

    def _ignored(self, child: Child) -> None:
        super()._ignored(child)
        self._forget(child)

    def _ended_by_itself(self, child: Child) -> None:
        """Nothing follows from it here."""

    def _supervised_allowance(self) -> float | None:
        longest = 0.0
        for cell in list(self._children):
            allowed = cell.allowance()
            if allowed is None:
                return None
            longest = max(longest, allowed)
        return longest + KILL_GRACE
