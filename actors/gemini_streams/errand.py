"""Work that may take time, in a thread that serves nobody else and exists while there is some.

`wake` says that there is something to do; the thread then calls `work` until nobody has woken it meanwhile, waits a
moment for more, and ends. So what one errand waits for holds up nothing but that errand.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Errand"]

_LINGER = 0.2
"""Seconds that the thread waits for more."""


class Errand:
    """See the module's text. `lock` guards whatever `work` looks at for something to do."""

    __slots__ = ("_again", "_lock", "_name", "_parked", "_runs", "_work")

    def __init__(self, lock: threading.Lock, work: Callable[[], None], name: str) -> None:
        self._lock = lock
        self._work = work
        self._name = name
        self._runs = False
        self._again = False
        self._parked: threading.Lock | None = None

    def wake(self) -> None:
        """Have `work` called, with `lock` held; never waits. RuntimeError where no thread can be started."""
        if not self._runs:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
            self._runs = True
            return
        self._again = True
        parked, self._parked = self._parked, None
        if parked is not None:
            parked.release()

    def _run(self) -> None:
        while True:
            self._work()
            with self._lock:
                if self._again:
                    self._again = False
                    continue
                parked = self._parked = threading.Lock()
                parked.acquire()
            if parked.acquire(timeout=_LINGER):
                continue
            with self._lock:
                if self._parked is not None:
                    self._parked = None
                    self._runs = False
                    return
