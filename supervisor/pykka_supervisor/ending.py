"""What an application wants done before the end of the process takes its actors away.

At the end of the process every actor gets a stop. Some work must come before the first of these stops:
a service tells all its clients that it ends, wherever in the process they are. `before_end` registers
such work.

Theory of operation
-------------------
Each registration has a daemon thread of its own, which sleeps until the process ends. From CPython 3.12
on no thread can be started at the end of a process, and callbacks that share a thread would share the
fate of the first one that hangs. `run()` wakes all the threads at once and waits for each of them, no
longer than its `timeout`.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from .errors import InvalidSpecError
from .log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BeforeEnd", "before_end", "forget_after_fork", "run"]

_log = get_logger("pykka_supervisor")

_lock = threading.Lock()
_registered: dict[BeforeEnd, None] = {}


class BeforeEnd:
    """What `before_end` returns: one callback that the end of the process will run."""

    __slots__ = ("_asleep", "_began_at", "_callback", "_done", "_gate", "_timeout")

    def __init__(self, callback: Callable[[], object], timeout: float) -> None:
        self._callback = callback
        self._timeout = timeout
        self._began_at = 0.0
        # Taken once, by the end of the process or by cancel(): a list's pop() is atomic.
        self._asleep = [True]
        self._gate = threading.Lock()
        self._gate.acquire()
        self._done = threading.Event()
        threading.Thread(target=self._live, name="pykka-supervisor-before-end", daemon=True).start()

    def cancel(self) -> bool:
        """Let the callback not be run, from any thread; False where it runs, has run or was cancelled."""
        with _lock:
            _registered.pop(self, None)
        try:
            self._asleep.pop()
        except IndexError:
            return False
        self._done.set()
        self._gate.release()
        return True

    def begin(self) -> None:
        """Run the callback in its thread; nothing happens the second time."""
        try:
            self._asleep.pop()
        except IndexError:
            return
        self._began_at = time.monotonic()
        self._gate.release()

    def wait(self) -> None:
        """Wait until the callback has returned, or has had its time."""
        left = self._began_at + self._timeout - time.monotonic()
        if not self._done.wait(max(0.0, left)):
            _log.warning("before_end_late", callback=repr(self._callback), timeout=self._timeout)

    def _live(self) -> None:
        self._gate.acquire()
        if self._done.is_set():
            return
        try:
            self._callback()
        except BaseException as error:  # noqa: BLE001 - the others and the trees still have their end to come
            _log.error("before_end_failed", callback=repr(self._callback), exc_info=error)
        finally:
            with _lock:
                _registered.pop(self, None)
            self._done.set()


def before_end(callback: Callable[[], object], *, timeout: float = 5.0) -> BeforeEnd:
    """At the end of the process, run `callback` before any actor is stopped; `cancel()` of the result undoes it.

    The end of the process is the end of the main thread (its last line, `sys.exit`, an uncaught error,
    Ctrl-C) once all non-daemon threads have ended, and a signal that `stop_on_signals` handles.
    `ActorRegistry.stop_all()` and the stop of a tree run no callback.

    All callbacks run at once, each in a daemon thread of its own, which this call starts. Actors get
    their stops when the last callback has returned. A callback that takes longer than `timeout` seconds
    is not waited for any more, and one that raises is reported; neither keeps the others from running.
    A callback runs once. It is not run in a process that was forked after this call.

    Raises InvalidSpecError, and RuntimeError where no thread can be started.
    """
    if not callable(callback):
        raise InvalidSpecError(f"before_end takes a function without arguments, not {callback!r}")
    within: object = timeout
    if isinstance(within, bool) or not isinstance(within, int | float) or not 0 < within <= 1e6:
        raise InvalidSpecError(f"timeout must be a number of seconds above 0 and up to 1e6, not {timeout!r}")
    registered = BeforeEnd(callback, timeout)
    with _lock:
        _registered[registered] = None
    return registered


def run() -> None:
    """Run what is registered, and wait for it; another thread that calls this meanwhile waits for the same."""
    with _lock:
        callbacks = list(_registered)
    for callback in callbacks:
        callback.begin()
    for callback in callbacks:
        callback.wait()


def forget_after_fork() -> None:
    """In a forked child nothing is registered: the threads are the parent's."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _registered.clear()
