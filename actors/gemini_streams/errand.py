"""Work that may take time, in a thread that serves nobody else and exists while there is some.

What one errand waits for holds up nothing but that errand.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Errand"]


class Errand:
    """Calls `work` in a thread of its own after each `wake`; several wakes may be one call.

    `lock` guards whatever `work` looks at for something to do.
    """

    __slots__ = ("_again", "_lock", "_name", "_runs", "_work")

    def __init__(self, lock: threading.Lock, work: Callable[[], None], name: str) -> None:
        self._lock = lock
        self._work = work
        self._name = name
        self._runs = False
        self._again = False

    def wake(self) -> None:
        """Have `work` called, with `lock` held; never waits. RuntimeError where no thread can be started."""
        if self._runs:
            self._again = True
            return
        threading.Thread(target=self._run, name=self._name, daemon=True).start()
        self._runs = True

    def _run(self) -> None:
        while True:
            self._work()
            with self._lock:
                if not self._again:
                    self._runs = False
                    return
                self._again = False
