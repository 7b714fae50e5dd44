"""How a command ends when it is told to: SIGTERM is an exception in its main thread, as Ctrl-C is.

A signal that comes in the moment before the main thread blocks does not wake it up: Python runs a signal's handler only
once that thread goes on. So a timer interrupts the main thread now and then.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["INTERRUPTED", "TERMINATED", "Terminated", "termination"]

INTERRUPTED = 130
TERMINATED = 143


_LOOK = 0.5
"""Seconds that a signal may be late."""


class Terminated(BaseException):
    """SIGTERM has come."""


@contextlib.contextmanager
def termination() -> Iterator[None]:
    """Raise `Terminated` in the block when SIGTERM comes; a process that ignores SIGTERM goes on ignoring it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(*_: Any) -> None:
        raise Terminated

    with contextlib.ExitStack() as clearing:
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
            clearing.callback(_set, signal.SIGTERM, signal.signal(signal.SIGTERM, terminate))
        clearing.callback(_set, signal.SIGALRM, signal.signal(signal.SIGALRM, lambda *_: None))
        clearing.callback(signal.setitimer, signal.ITIMER_REAL, 0.0)
        signal.setitimer(signal.ITIMER_REAL, _LOOK, _LOOK)
        yield


def _set(number: signal.Signals, handler: Any) -> None:
    signal.signal(number, signal.SIG_DFL if handler is None else handler)
