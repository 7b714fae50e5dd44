"""Which process an actor lives in, and what that means in a child that was forked from it.

A forked child has the objects of its parent and none of the parent's threads but the one that forked. So
an actor of the parent's answers nothing in the child, and any lock may be found taken, by a thread that is
not there to release it. Nothing of the parent's may therefore be waited for, not even a lock.

Theory of operation
-------------------
All that belongs to one process shares one `Home`. A fork sets `forked` in the child's copy of it, and makes
a new one for what the child starts: one assignment, however many actors there are and whatever their
threads were doing. Whoever is about to take a lock, or to wait, looks at `home.forked` first.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import pykka

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Home", "here", "is_forked", "leave_home", "refusal"]


class Home:
    """A process, as what lives in it sees it. `forked`: this process is a child of that one."""

    __slots__ = ("forked",)

    def __init__(self) -> None:
        self.forked = False


_here = Home()
_plain_refs: weakref.WeakSet[pykka.ActorRef[Any]] = weakref.WeakSet()


def here() -> Home:
    """The present process."""
    return _here


def refusal(owner: object) -> pykka.ActorDeadError:
    """Make the error for a call on something of the parent's."""
    return pykka.ActorDeadError(
        f"{owner} lives in the process from which this one was forked: start one in this process"
    )


def is_forked(ref: pykka.ActorRef[Any]) -> bool:
    """Whether a plain Pykka actor was alive in the parent when this process was forked."""
    return ref in _plain_refs


def leave_home(refs: Iterable[pykka.ActorRef[Any]]) -> None:
    """In a forked child: nothing that was made before is of this process. `refs`: the actors that lived then."""
    global _here  # noqa: PLW0603
    _here.forked = True
    _here = Home()
    _plain_refs.update(refs)
