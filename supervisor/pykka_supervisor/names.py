"""Names of actors, each held by one live actor through all its restarts."""

from __future__ import annotations

import threading
from typing import Protocol

import pykka

from .errors import NameTakenError
from .exits import Exit

__all__ = ["Named", "claim", "find", "release"]


class Named(Protocol):
    """A cell, as far as its name is concerned."""

    name: str | None
    reason: Exit | None


_lock = threading.Lock()
_cells: dict[str, Named] = {}


def claim(name: str, cell: Named) -> None:
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


def release(cell: Named) -> None:
    """Take a name back from an actor that has ended."""
    if cell.name is None:
        return
    with _lock:
        if _cells.get(cell.name) is cell:
            del _cells[cell.name]


def find(name: str) -> Named | None:
    """Find what has this name; it may not have its ref yet, since a name is claimed before the actor is built."""
    return _cells.get(name)


def forget_after_fork() -> None:
    """In a forked child nobody has a name."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _cells.clear()
