"""Decodes something large with Python's garbage collector off.

The rules:

- A large event of many small lists makes millions of objects in one call. The collector then walks the new objects
  again and again: four fifths of the time. No other thread runs meanwhile, since the call holds the interpreter lock.
- The collector is off while `LARGE` bytes or more are decoded. For less it is not worth the trouble.
- Before it is on again, all objects are put into its oldest generation (`gc.freeze()` and `gc.unfreeze()` only relink
  lists). Otherwise the first collection behind the event would walk all of it once more.
- Nothing is done where the application has switched the collector off. Nothing is done where objects are frozen: an
  application that froze them before a fork must not find them thawed.
- Threads that decode at once are counted. The first one switches the collector off, the last one on.
- A child that is forked meanwhile has the collector on.

The price: cycles of garbage that are young at that moment wait for the next full collection. And an application that
switches the collector off while a large event is decoded finds it on afterwards.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Iterator

__all__ = ["LARGE", "collector_off"]

LARGE = 1 << 18
"""Bytes of JSON for which the collector is switched off."""


class _State:
    """How many decode now. The lock is reentrant: a collection in the middle of `enter` may run a finalizer."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.count = 0

    def enter(self) -> bool:
        """Switch the collector off; `False` where it stays as it is."""
        with self.lock:
            if not self.count and (not gc.isenabled() or gc.get_freeze_count()):
                return False
            self.count += 1  # first, for a fork in between
            gc.disable()
            return True

    def leave(self) -> None:
        """Switch it on again, where no other thread decodes."""
        with self.lock:
            if self.count == 1:
                if not gc.get_freeze_count():
                    gc.freeze()
                    gc.unfreeze()
                gc.enable()
            self.count -= 1

    def forget_after_fork(self) -> None:
        """In a forked child: the threads that decoded are in the parent."""
        self.lock = threading.RLock()
        if self.count:
            self.count = 0
            gc.enable()


_state = _State()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_state.forget_after_fork)


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """Have the collector off within the `with` block, as far as the rules allow. Any thread."""
    off = _state.enter()
    try:
        yield
    finally:
        if off:
            _state.leave()
