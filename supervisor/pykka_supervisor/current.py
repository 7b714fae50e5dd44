"""Which incarnation runs in the calling thread.

The incarnation sets it, in its own thread: from before its `__init__` until its thread is about to end.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .incarnation import Incarnation

__all__ = ["CURRENT", "current_incarnation"]


class _Current(threading.local):
    incarnation: Incarnation | None = None


CURRENT = _Current()
"""The calling thread's; only the module `incarnation` sets it."""


def current_incarnation() -> Incarnation | None:
    """Tell in which supervised actor's thread this is called; None for any other thread."""
    return CURRENT.incarnation
