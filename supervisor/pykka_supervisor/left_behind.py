"""What a process's end and a fork have to look for beside Pykka's registry: threads left behind, and last hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .incarnation import CURRENT

if TYPE_CHECKING:
    from .incarnation import Incarnation
    from .ref import Body

__all__ = ["ENDING", "LEAKED", "ending_roots", "leaked_in", "leaked_threads", "reset_after_fork"]

LEAKED: set[Incarnation] = set()
"""Abandoned incarnations whose threads still run."""

ENDING: set[Body] = set()
"""Actors without a supervisor that are dead while their last hooks run."""


def leaked_threads() -> list[str]:
    """Name the threads that were abandoned and still run, in the whole process."""
    return sorted(incarnation.thread.name for incarnation in tuple(LEAKED) if incarnation.thread.is_alive())


def ending_roots() -> list[Body]:
    """List the actors without a supervisor that are dead, and so in no registry, while their last hooks still run."""
    return list(ENDING)


def leaked_in(cell: Body) -> int:
    """Count the abandoned threads of this actor that still run."""
    return sum(incarnation.cell.ref is cell.ref for incarnation in tuple(LEAKED))


def reset_after_fork() -> None:
    """In a forked child: the thread that forked is no actor's any more, and no thread is left behind here."""
    forking, CURRENT.incarnation = CURRENT.incarnation, None
    if forking is not None:
        # Should its handler return here, then it takes no message and calls no hook: all that is the parent's.
        forking.retired = forking.abandoned = True
        forking.reply_to = forking.deferring = forking.batch = None
    LEAKED.clear()
    ENDING.clear()
