"""Names of actors, each held by one live actor through all its restarts."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from .errors import NameTakenError

if TYPE_CHECKING:
    from .incarnation import Cell
    from .ref import SupervisedRef

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


def release(cell: Cell) -> None:
    """Take a name back from an actor that has ended."""
    if cell.name is None:
        return
    with _lock:
        if _cells.get(cell.name) is cell:
            del _cells[cell.name]


def whereis(name: str) -> SupervisedRef[Any] | None:
    """Find the ref of the live actor of this name; it stays the same when that actor is restarted."""
    cell = _cells.get(name)
    # A name is claimed before the actor is built.
    return getattr(cell, "ref", None)


def forget_after_fork() -> None:
    """In a forked child nobody has a name."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _cells.clear()
