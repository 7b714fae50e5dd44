"""`Supervisor`: a fixed list of children, started in order, ended in reverse, restarted by a strategy.

Decisions come from `planner` and `policy`; this module carries them out. The rules are those of
OTP's `supervisor`; docs/otp-rules.md sets each beside what stands for it here.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast, get_args

from .base import Child, SupervisorRef
from .cell import Cell
from .checks import check_choice
from .child import ChildSpec, ChildSpecLike, as_child_spec, as_child_specs
from .dispatch import Internal
from .errors import (
    AlreadyPresentError,
    AlreadyStartedError,
    ChildNotFoundError,
    ChildRestartingError,
    ChildRunningError,
    IgnoreStart,
    InvalidSpecError,
    StartError,
)
from .exits import GAVE_UP, Exit, Shutdown, StartFailed
from .incarnation import Incarnation
from .keeper import EXCEEDED, Keeper, start_root
from .links import link, refuse_outside_an_actor
from .observe import Feed, TreeObserver, as_observers
from .observing import observers_spec
from .planner import Strategy, plan_restart
from .policy import GIVE_UP, Intensity, RestartType
from .report import report
from .siblings import SiblingRestartingError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pykka

    from .clock import Clock
    from .ref import SupervisedRef

__all__ = ["AutoShutdown", "StaticSupervisorRef", "Supervisor"]

AutoShutdown = Literal["never", "any_significant", "all_significant"]


class _Ask(Internal):
    """`terminate_child`, `restart_child` and `delete_child`, by name."""

    __slots__ = ("child_id", "operation")

    def __init__(self, operation: str, child_id: str) -> None:
        self.operation = operation
        self.child_id = child_id

    def deliver(self, actor: Supervisor) -> Any:
        return getattr(actor, self.operation)(self.child_id)


class StaticSupervisorRef(SupervisorRef):
    """A ref to a `Supervisor`; see `SupervisorRef`."""

    def terminate_child(self, child_id: str) -> None:
        """End a child; its spec stays, but for a temporary one's. Nothing happens where it does not run.

        One that waits for its restart is not started again, nor are those that were to be started with it.
        ChildNotFoundError where there is none of this id.
        """
        self.ask(_Ask("terminate_child", child_id))

    def restart_child(self, child_id: str) -> SupervisedRef[Any]:
        """Start a child that does not run; it gets a new ref.

        ChildNotFoundError, ChildRunningError, ChildRestartingError, and what its start raises.
        """
        return cast("SupervisedRef[Any]", self.ask(_Ask("restart_child", child_id)))

    def delete_child(self, child_id: str) -> None:
        """Forget the spec of a child that does not run.

        ChildNotFoundError, ChildRunningError, ChildRestartingError.
        """
        self.ask(_Ask("delete_child", child_id))


class Supervisor(Keeper):
    """A fixed list of children, started in order, ended in reverse, restarted by a strategy."""

    ref_class: ClassVar[type[SupervisedRef[Any]]] = StaticSupervisorRef

    def __init__(
        self,
        children: Iterable[ChildSpecLike],
        *,
        strategy: Strategy = "one_for_one",
        max_restarts: int = 3,
        max_seconds: float = 5.0,
        auto_shutdown: AutoShutdown = "never",
        name: str | None = None,
        clock: Clock | None = None,
        observers: Iterable[TreeObserver] | Feed = (),
    ) -> None:
        check_choice("strategy", strategy, get_args(Strategy))
        check_choice("auto_shutdown", auto_shutdown, get_args(AutoShutdown))
        self._strategy: Strategy = strategy
        self._auto_shutdown: AutoShutdown = auto_shutdown
        self._intensity = Intensity(max_restarts, max_seconds)
        self._children: dict[str, Child] = {}
        self._by_cell: dict[Cell, Child] = {}
        self._specs = as_child_specs(children)
        seen: set[str] = set()
        for spec in self._specs:
            self._check(spec)
            if spec.key in seen:
                raise InvalidSpecError(f"two children have the id {spec.key!r}")
            seen.add(spec.key)
        feed = observers if isinstance(observers, Feed) else Feed(as_observers(observers))
        super().__init__(name=name, clock=clock)
        if feed.observers:
            self._taps = (*self._taps, feed)
            self._specs.insert(0, observers_spec(feed))

    @classmethod
    def start(
        cls,
        children: Iterable[ChildSpecLike],
        *,
        strategy: Strategy = "one_for_one",
        max_restarts: int = 3,
        max_seconds: float = 5.0,
        auto_shutdown: AutoShutdown = "never",
        name: str | None = None,
        clock: Clock | None = None,
        observers: Iterable[TreeObserver] | Feed = (),
        **more: Any,
    ) -> StaticSupervisorRef:
        """Start a tree and wait until all its children run.

        When one cannot be started, those before it are ended in reverse order, and what its
        `__init__` or `on_start` raised is raised here. `max_restarts` within `max_seconds` is the most
        that is put up with; OTP's default is 1 in 5 s, Elixir's, and this one's, 3 in 5 s. `clock` is
        for restarts, backoffs and hang detection, and becomes that of all supervisors below.
        `observers` are told of the starts, ends and restarts of all actors below, in the thread of an actor
        of their own, which is the first child (`observers`) and so the last one to end. `more` is for
        a subclass whose `__init__` takes more.
        """
        options: dict[str, Any] = {
            "strategy": strategy,
            "max_restarts": max_restarts,
            "max_seconds": max_seconds,
            "auto_shutdown": auto_shutdown,
            "name": name,
            "clock": clock,
            "observers": observers,
            **more,
        }
        return cast("StaticSupervisorRef", start_root(cls, (children,), options))

    @classmethod
    def start_link(cls, children: Iterable[ChildSpecLike], **options: Any) -> StaticSupervisorRef:
        """Start a tree as `start` does, and `link` it to the supervised actor in whose thread this is.

        Raises RuntimeError, and starts nothing, in any other thread.
        """
        refuse_outside_an_actor()
        ref = cls.start(children, **options)
        link(ref)
        return ref

    @classmethod
    def child_spec(
        cls,
        children: Iterable[ChildSpecLike] = (),
        *,
        id: str | None = None,  # noqa: A002
        restart: Literal["permanent", "transient", "temporary"] = "permanent",
        shutdown: float | None = 5.0,
        start_timeout: float | None = None,
        significant: bool = False,
        **options: Any,
    ) -> ChildSpec:
        """Specify the same tree as one child of another supervisor; `options` are those of `start`.

        `start_timeout=None` here means as long as its children are allowed together: it is waited for.
        """
        specs = as_child_specs(children)
        if start_timeout is None:
            start_timeout = sum(spec.start_timeout or 0.0 for spec in specs) + 5.0
        return ChildSpec(
            cls,
            (specs,),
            options,
            id=id or options.get("name") or cls.__name__,
            restart=restart,
            shutdown=shutdown,
            type="supervisor",
            significant=significant,
            start_timeout=start_timeout,
        )

    def on_start(self) -> None:
        """Start the children, in order."""
        for spec in self._specs:
            try:
                self._add(spec)
            except BaseException as error:
                with contextlib.suppress(Exception):
                    error.add_note(f"while {self.actor_ref} started its child {spec.key!r}")
                failed = StartFailed.of(error)
                report(self.actor_ref, "start_error", failed, offender=Child(spec).offender())
                raise

    def start_child(self, spec: ChildSpecLike) -> SupervisedRef[Any]:
        """Start one more child, after all others; in the supervisor's own thread.

        AlreadyStartedError where one of this id runs; AlreadyPresentError where one is known and does not
        run, or waits for its restart. A child whose
        `on_start` raises `IgnoreStart` is kept without an actor: the ref that is returned is dead.
        """
        self._refuse_when_closing()
        spec = as_child_spec(spec)
        self._check(spec)
        known = self._children.get(spec.key)
        if known is not None:
            cell = known.live_cell()
            if cell is not None and known.status == "running":
                raise AlreadyStartedError(spec.key, cell.ref)
            at = "waits for its restart" if known.status == "restarting" else "does not run"
            raise AlreadyPresentError(f"a child with id {spec.key!r} is known but {at}")
        return self._add(spec)

    def terminate_child(self, child_id: str) -> None:
        """See `StaticSupervisorRef.terminate_child`; in the supervisor's own thread."""
        child = self._find(child_id)
        ended = [child]
        if child.status == "restarting":
            # As in OTP: what was to be started again with it stays down.
            ended += [
                other
                for other in self._children.values()
                if other.leader is child and other.status == "restarting" and other is not child
            ]
        self._end_in_order(reversed(ended), final=True)
        if child.spec.restart == "temporary":
            self._forget(child)
        for one in ended:
            self._wake_those_waiting_for(one)

    def restart_child(self, child_id: str) -> SupervisedRef[Any]:
        """See `StaticSupervisorRef.restart_child`; in the supervisor's own thread."""
        self._refuse_when_closing()
        child = self._find(child_id)
        self._refuse_unless_stopped(child)
        with contextlib.suppress(IgnoreStart):
            self._start(child, first=True)
        return self._ref_of(child)

    def delete_child(self, child_id: str) -> None:
        """See `StaticSupervisorRef.delete_child`; in the supervisor's own thread."""
        child = self._find(child_id)
        self._refuse_unless_stopped(child)
        self._forget(child)

    # -- private

    def _check(self, spec: ChildSpec) -> None:
        if spec.significant and self._auto_shutdown == "never":
            raise InvalidSpecError(f"{spec.key!r} cannot be significant where auto_shutdown is 'never'")

    def _find(self, child_id: str) -> Child:
        try:
            return self._children[child_id]
        except KeyError:
            raise ChildNotFoundError(f"there is no child with id {child_id!r}") from None

    def _refuse_unless_stopped(self, child: Child) -> None:
        if child.status == "running":
            raise ChildRunningError(f"{child.spec.key!r} runs")
        if child.status == "restarting":
            raise ChildRestartingError(f"{child.spec.key!r} waits for its restart")

    def _ref_of(self, child: Child) -> SupervisedRef[Any]:
        cell = child.cell
        if cell is None or not hasattr(cell, "ref"):
            raise StartError(f"{child.spec.key!r} has never run")
        return cell.ref

    def _add(self, spec: ChildSpec) -> SupervisedRef[Any]:
        child = Child(spec)
        self._children[spec.key] = child
        try:
            self._start(child, first=True)
        except IgnoreStart:
            if spec.restart == "temporary":
                self._forget(child)
        except BaseException:
            self._forget(child)
            raise
        return self._ref_of(child)

    def _all_children(self) -> list[Child]:
        return list(self._children.values())

    def _child_of(self, cell: Cell) -> Child | None:
        return self._by_cell.get(cell)

    def _take_cell(self, child: Child, cell: Cell) -> None:
        if child.cell is not None:
            self._by_cell.pop(child.cell, None)
        child.cell = cell
        self._by_cell[cell] = child

    def _sibling(self, child_id: str) -> pykka.ActorRef[Any]:
        child = self._children.get(child_id)
        if child is not None and child.status == "restarting":
            raise SiblingRestartingError(child_id)
        cell = None if child is None or child.status != "running" else child.live_cell()
        if cell is None:
            raise StartError(f"there is no running sibling {child_id!r} that was started before")
        return cell.ref

    def _forget(self, child: Child) -> None:
        if self._children.get(child.spec.key) is child:
            del self._children[child.spec.key]
        if child.cell is not None:
            self._by_cell.pop(child.cell, None)

    def _end_all(self, children: list[Child], *, brutal: bool = False) -> None:
        if brutal:
            self._end_at_once(children, brutal=True)
        else:
            self._end_in_order(reversed(children), final=True)

    def _restart(self, child: Child, reason: Exit, incarnation: Incarnation | None) -> None:
        decision = self._decide(child, reason, incarnation, self._intensity)
        cell = child.live_cell()
        if decision is GIVE_UP:
            if cell is not None:
                self._let_go(child, cell, reason)
            return
        if decision == EXCEEDED:
            child.status = "stopped"
            report(self.actor_ref, "shutdown", "reached_max_restart_intensity", offender=child.offender())
            if cell is not None:
                cell.finish(reason)
            self._exit(GAVE_UP)
            return
        if cell is not None:
            cell.notify(reason, restarting=True)
        plan = plan_restart(self._strategy, self._affected(child), child.spec.key)
        for key in plan.stop:
            known = self._children[key]
            self._end_in_order([known], final=key in plan.forget)
        for key in plan.forget:
            self._forget(self._children[key])
        group = [self._children[key] for key in plan.start]
        self._schedule(group, child, decision, at_once=incarnation is not None)

    def _affected(self, child: Child) -> list[tuple[str, RestartType]]:
        """Find what a restart of this child may touch, in start order: no more is looked at than that."""
        children: Iterable[Child] = self._children.values()
        if self._strategy == "one_for_one":
            children = (child,)
        elif self._strategy == "rest_for_one":
            later = list(
                itertools.takewhile(lambda known: known is not child, reversed(self._children.values()))
            )
            children = (child, *reversed(later))
        return [(known.spec.key, known.spec.restart) for known in children]

    def _ended_by_itself(self, child: Child) -> None:
        if not child.spec.significant or self._auto_shutdown == "never":
            return
        if self._auto_shutdown == "all_significant" and any(
            other.spec.significant and other is not child and other.status != "stopped"
            for other in self._children.values()
        ):
            return
        report(self.actor_ref, "shutdown", self._auto_shutdown, offender=child.offender(), level="info")
        self._exit(Shutdown("auto_shutdown"))
