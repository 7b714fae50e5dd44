"""What the process's own end, a fork and signals mean for the trees in it.

One `atexit` hook, registered when this module is first imported, runs what `before_end` was given. Then
it ends every tree and every supervised actor on its own, the last started first. Python runs it after
all non-daemon threads have ended: a plain Pykka actor that goes on living keeps it, and the program,
waiting.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, Self

import pykka

from . import _pykka, ending, forks, left_behind, names
from .incarnation import KILL_GRACE
from .log import get_logger
from .monitor import reset_after_fork as forget_monitors_after_fork
from .ref import SupervisedRef

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType, TracebackType

__all__ = ["SignalHandling", "stop_on_signals"]

_log = get_logger(__name__)


def end_all_trees() -> None:
    """Run what `before_end` was given, then end every tree in order.

    Each tree gets what its `shutdown`s allow; what is left of it then is killed.
    """
    ending.run()
    roots = [
        ref._cell  # noqa: SLF001
        for ref in pykka.ActorRegistry.get_all()
        if isinstance(ref, SupervisedRef) and ref._cell.supervisor is None  # noqa: SLF001
    ]
    # One that is in its last hooks is in Pykka's registry no more.
    for cell in [*reversed(roots), *left_behind.ending_roots()]:
        allowed = cell.allowance()
        try:
            if cell.ref.end(None if allowed is None else allowed + KILL_GRACE):
                continue
            _log.warning("tree_killed_at_exit", root=str(cell), allowed=allowed)
            cell.kill()
            if cell.incarnation is not None:
                cell.incarnation.join(KILL_GRACE)
        except Exception as error:  # noqa: BLE001
            _log.error("tree_end_failed", root=str(cell), exc_info=error)


def _after_fork_in_child() -> None:
    """No thread of the parent is here: every ref of the parent's is a dead actor's. Takes no lock."""
    refs = _pykka.forget_all_actors_after_fork()
    forks.leave_home(ref for ref in refs if not isinstance(ref, SupervisedRef))
    names.forget_after_fork()
    ending.forget_after_fork()
    forget_monitors_after_fork()
    left_behind.reset_after_fork()


atexit.register(end_all_trees)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class SignalHandling:
    """What `stop_on_signals` returns: `restore()`, or the end of its `with` block, restores the handlers."""

    def __init__(self, ref: pykka.ActorRef[Any], signals: Iterable[int]) -> None:
        self._ref = ref
        self._asked = threading.Lock()
        self._asked.acquire()
        self._signalled = False
        self._restored = False
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
        for number in signals:
            self._before[number] = signal.signal(number, self._handle)
        # The handler itself may interrupt a `put` in the main thread, which holds the inbox's lock.
        threading.Thread(target=self._wait, name="pykka-supervisor-signals", daemon=True).start()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._signalled = True
        if self._asked.locked():
            self._asked.release()
        raise SystemExit(128 + number)

    def _wait(self) -> None:
        self._asked.acquire()
        if self._signalled:
            ending.run()
            self._ref.stop(block=False)

    def restore(self) -> None:
        """Put the former handlers back; in the main thread."""
        if self._restored:
            return
        self._restored = True
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._asked.locked():
            self._asked.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.restore()


def stop_on_signals(
    ref: pykka.ActorRef[Any],
    signals: Iterable[int] = (signal.SIGTERM,),
) -> SignalHandling:
    """At one of these signals: begin to stop `ref`, and raise `SystemExit(128 + number)` in the main thread.

    For an application's main thread, while it waits or works; `signal.signal` raises ValueError in any
    other. What `before_end` was given runs first, in other threads. The tree ends while the main thread
    unwinds, and the `atexit` hook waits for it. Nothing in this package installs a handler unasked.
    """
    given: object = ref
    if not isinstance(given, pykka.ActorRef):
        raise TypeError(f"what is stopped must be a pykka.ActorRef, not {given!r}")
    return SignalHandling(ref, signals)
