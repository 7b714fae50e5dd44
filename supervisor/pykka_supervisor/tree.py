"""A snapshot of the live tree, as plain data; it never waits for an actor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from . import forks
from .base import BaseSupervisor, Child
from .cell import Cell, cell_of
from .left_behind import leaked_in
from .ref import SupervisedRef

if TYPE_CHECKING:
    import pykka

__all__ = ["Node", "snapshot"]


@dataclass(frozen=True, slots=True)
class Node:
    """One actor, or a child that does not run.

    `status`: `starting`, `running`, `restarting`, `stopped`. `generation`: which incarnation this is, from
    1; 0 where there was none. `restarts`: how often it was started again, for a sibling's sake too, since it
    is this supervisor's child. `last_reason`: the text of why its last incarnation ended. `running_for`: seconds
    for which it has been handling its present message, or None while it waits. `abandoned`: threads left behind that
    still run.
    """

    id: str
    type: Literal["worker", "supervisor"]
    actor_class: str
    urn: str | None
    name: str | None
    status: Literal["starting", "running", "restarting", "stopped"]
    generation: int
    restarts: int
    last_reason: str | None
    inbox: int
    dead_letters: int
    running_for: float | None
    abandoned: int
    children: tuple[Node, ...]


def snapshot(ref: pykka.ActorRef[Any]) -> Node:
    """Show the tree below an actor, itself included, as it is now, from any thread.

    Raises TypeError for the ref of a plain Pykka actor, and `pykka.ActorDeadError` in a forked child.
    """
    if not isinstance(ref, SupervisedRef):
        raise TypeError(f"{ref} is not the ref of a supervised actor")
    cell = cell_of(ref)
    if cell.home.forked:
        raise forks.refusal(ref)
    supervisor = None if cell.supervisor is None else _supervisor_in(cell.supervisor)
    child = None if supervisor is None else supervisor._child_of(cell)  # noqa: SLF001
    if supervisor is not None and child is not None:
        return _node_of_child(child)
    status: Literal["running", "stopped"] = "stopped" if cell.reason is not None else "running"
    kind: Literal["worker", "supervisor"] = (
        "supervisor" if issubclass(cell.run_class, BaseSupervisor) else "worker"
    )
    return _node(cell, cell.name or cell.actor_class.__name__, kind, status, 0)


def _supervisor_in(cell: Cell) -> BaseSupervisor | None:
    incarnation = cell.incarnation
    actor = None if incarnation is None else incarnation.actor
    return actor if isinstance(actor, BaseSupervisor) else None


def _node_of_child(child: Child) -> Node:
    spec = child.spec
    restarts = child.restarts
    cell = child.cell
    if cell is None or not hasattr(cell, "mailbox"):
        return Node(
            id=spec.key,
            type=spec.type,
            actor_class=spec.actor_class.__name__,
            urn=None,
            name=spec.name,
            status="starting" if child.status == "running" else child.status,
            generation=0,
            restarts=restarts,
            last_reason=_text(child.last_reason),
            inbox=0,
            dead_letters=0,
            running_for=None,
            abandoned=0,
            children=(),
        )
    return _node(cell, spec.key, spec.type, child.status, restarts)


def _node(
    cell: Cell,
    node_id: str,
    kind: Literal["worker", "supervisor"],
    status: Literal["running", "restarting", "stopped"],
    restarts: int,
) -> Node:
    shown: Literal["starting", "running", "restarting", "stopped"] = status
    incarnation = cell.incarnation
    running_for = None
    if incarnation is not None and incarnation.reason is None and cell.reason is None:
        # Its supervisor's own word for it comes a moment later.
        shown = "running" if incarnation.started else "starting"
        since = incarnation.handling_since
        if since is not None:
            running_for = max(0.0, cell.clock.monotonic() - since)
    supervisor = None if cell.reason is not None else _supervisor_in(cell)
    children: tuple[Node, ...] = ()
    if supervisor is not None:
        children = tuple(_node_of_child(child) for child in supervisor._all_children())  # noqa: SLF001
    return Node(
        id=node_id,
        type=kind,
        actor_class=cell.actor_class.__name__,
        urn=cell.urn,
        name=cell.name,
        status=shown,
        generation=cell.generation,
        restarts=restarts,
        last_reason=_text(cell.last_reason),
        inbox=cell.mailbox.qsize(),
        dead_letters=cell.mailbox.dead_letters,
        running_for=running_for,
        abandoned=leaked_in(cell),
        children=children,
    )


def _text(reason: object) -> str | None:
    return None if reason is None else str(reason)
