"""Waits that many streams share: after a 429 nobody asks the same endpoint and model again before it is over.

One book for the process, since several managers can use one endpoint; kept by clock, so that a test's clock has its
own. Thread-safe.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

    from pykka_supervisor import Clock

__all__ = ["any_held", "hold", "remaining"]

_lock = threading.Lock()
_until: weakref.WeakKeyDictionary[Clock, dict[Hashable, float]] = weakref.WeakKeyDictionary()


def hold(clock: Clock, key: Hashable, seconds: float) -> None:
    """Hold back what shares `key` for at least `seconds` from now."""
    now = clock.monotonic()
    with _lock:
        book = _until.setdefault(clock, {})
        book[key] = max(book.get(key, 0.0), now + seconds)
        for past in [k for k, until in book.items() if until <= now]:
            del book[past]


def any_held() -> bool:
    """Whether there can be anything to remain: nobody has got a 429 yet otherwise."""
    return bool(_until)


def remaining(clock: Clock, key: Hashable) -> float:
    """Return the seconds for which `key` is still held back; 0 where it is not."""
    with _lock:
        until = _until.get(clock, {}).get(key)
    return 0.0 if until is None else max(0.0, until - clock.monotonic())


def _after_fork_in_child() -> None:
    """The lock may have been held by a thread that is not here. What was held back still is."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
