"""Names of actors, each held by one live actor through all its restarts."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar, overload

import pykka

from .errors import NameTakenError

if TYPE_CHECKING:
    from .cell import Cell
    from .ref import SupervisedRef

    Ref = TypeVar("Ref", bound=SupervisedRef[Any])

__all__ = ["claim", "release", "whereis"]

_lock = threading.Lock()
_cells: dict[str, Cell] = {}


def claim(name: str, cell: Cell) -> None:
    """Give an actor its name; a second time changes nothing.

    Raises NameTakenError where another live actor has it.
    """
    with _lock:
        holder = _cells.setdefault(name, cell)
        if holder is not cell:
            raise NameTakenError(f"{holder} has the name {name!r}")
        cell.name = name
    if cell.reason is not None:
        # Its start was given up while its `__init__` ran.
        release(cell)
        raise pykka.ActorDeadError(f"{cell} has ended")


def release(cell: Cell) -> None:
    """Take a name back from an actor that has ended."""
    if cell.name is None:
        return
    with _lock:
        if _cells.get(cell.name) is cell:
            del _cells[cell.name]


@overload
def whereis(name: str) -> SupervisedRef[Any] | None: ...


@overload
def whereis(name: str, ref_class: type[Ref]) -> Ref | None: ...


def whereis(name: str, ref_class: type[Ref] | None = None) -> Ref | SupervisedRef[Any] | None:
    """Find the ref of the live actor of this name; it stays the same when that actor is restarted.

    `ref_class` is the class of that ref, for actors whose refs have methods of their own; a type checker then
    knows them. Raises TypeError where the ref is of another class.
    """
    cell = _cells.get(name)
    # A name is claimed before the actor is built.
    ref: SupervisedRef[Any] | None = getattr(cell, "ref", None)
    if ref is not None and ref_class is not None and not isinstance(ref, ref_class):
        raise TypeError(f"{name!r} is the name of {ref}, a {type(ref).__name__} and no {ref_class.__name__}")
    return ref


def forget_after_fork() -> None:
    """In a forked child nobody has a name."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _cells.clear()
