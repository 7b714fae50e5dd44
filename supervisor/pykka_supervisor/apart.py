"""Calls of an application's code that are not made in a thread that serves others.

The timer thread serves the whole process, a supervisor's thread all its children. An application's function, or an
inbox of its own kind, may block or raise there. So such a call is made in a thread of its own, which exists while
there is something to call. Calls for the same object are made one after another, in order.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import pykka

from .clock import SYSTEM_CLOCK
from .incarnation import current_incarnation
from .log import get_logger
from .ref import SupervisedRef

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["call_apart", "serves_others", "tell_apart"]

_log = get_logger(__name__)

_lock = threading.Lock()
_calls: dict[int, deque[Callable[[], object]]] = {}
"""By the `id()` of what they are for; each has a thread."""


def serves_others() -> bool:
    """Whether the calling thread is the timer thread or a supervisor's."""
    incarnation = current_incarnation()
    if incarnation is not None:
        return incarnation.cell.has_children()
    return SYSTEM_CLOCK.is_own_thread()


def call_apart(owner: object, call: Callable[[], object]) -> None:
    """Make a call for `owner` behind those made before, in a thread of its own; what it raises is logged."""
    with _lock:
        calls = _calls.get(id(owner))
        if calls is not None:
            calls.append(call)
            return
        calls = _calls[id(owner)] = deque([call])
    thread = threading.Thread(target=_run, args=(owner, calls), name="pykka-supervisor-apart", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        with _lock:
            _calls.pop(id(owner), None)
        _log.error("call_lost", exc_info=error)


def tell_apart(ref: pykka.ActorRef[Any], message: Any) -> None:
    """Tell any Pykka actor a message: at once where a put runs no code of the application's, else apart.

    Raises `pykka.ActorDeadError` where it is known at once.
    """
    if isinstance(ref, SupervisedRef):
        ref.tell(message)
        return
    inbox: Any = ref.actor_inbox
    if type(ref) is pykka.ActorRef and type(inbox) is queue.Queue and inbox.maxsize <= 0:
        ref.tell(message)
    else:
        call_apart(inbox, lambda: ref.tell(message))


def _run(owner: object, calls: deque[Callable[[], object]]) -> None:
    while True:
        with _lock:
            if not calls:
                _calls.pop(id(owner), None)
                return
            call = calls.popleft()
        try:
            call()
        except pykka.ActorDeadError:
            _log.debug("told_the_dead")
        except BaseException as error:  # noqa: BLE001 - the application's own code
            _log.error("call_failed", exc_info=error)
        del call


def _reset_after_fork() -> None:
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _calls.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
