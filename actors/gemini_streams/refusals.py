"""A program whose main thread dies of a refused start ends, though the start's subscriber waits for a stream.

The rules:

- A plain Pykka actor's thread keeps the interpreter alive. Where the main thread has died of the error that a start
  was refused with, or of one that was raised because of it, the subscribers of that start are stopped, unless they
  subscribe to another stream: nothing would ever tell them to end.
- A refusal that the program has caught changes nothing, and neither does one that another thread has died of.
- One daemon thread waits for the end of the main thread. It is made at the first refusal of a start with such a
  subscriber.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Collection, Iterator
from typing import Any

import pykka

from gemini_streams.errors import GeminiStreamsError
from gemini_streams.streams.registry import subscribes

__all__ = ["note"]

_lock = threading.Lock()
_refused: weakref.WeakKeyDictionary[GeminiStreamsError, list[pykka.ActorRef[Any]]] = (
    weakref.WeakKeyDictionary()
)
_watcher: threading.Thread | None = None


def note(error: GeminiStreamsError, subscriber: Any) -> None:
    """Remember the subscribers of a start that is about to be refused with this error. Any thread may call it."""
    refs = [ref for ref in _several(subscriber) if _keeps_the_program(ref)]
    if not refs or not threading.main_thread().is_alive():
        return
    global _watcher  # noqa: PLW0603 - one for the process
    with _lock:
        _refused[error] = refs
        if _watcher is None or not _watcher.is_alive():
            _watcher = threading.Thread(target=_watch, name="gemini-streams-refusals", daemon=True)
            _watcher.start()


def _several(subscriber: Any) -> Collection[Any]:
    return subscriber if isinstance(subscriber, list | tuple | set | frozenset) else (subscriber,)


def _keeps_the_program(ref: Any) -> bool:
    """Whether this is the ref of a live actor whose thread the interpreter waits for."""
    return (
        isinstance(ref, pykka.ActorRef)
        and getattr(ref.actor_class, "use_daemon_thread", True) is False
        and ref.is_alive()
    )


def _watch() -> None:
    threading.main_thread().join()
    died_of: BaseException | None = getattr(sys, "last_value", None)
    with _lock:
        refs = [ref for error in _chain(died_of) for ref in _refused.get(error, ())]
    for ref in refs:
        if not subscribes(ref.actor_urn):
            with contextlib.suppress(pykka.ActorDeadError):
                ref.stop(block=False)


def _chain(error: BaseException | None) -> Iterator[GeminiStreamsError]:
    """Give our errors among an error, what caused it, what was being handled then, and the members of a group."""
    left, seen = [error], set[int]()
    while left:
        each = left.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, GeminiStreamsError):
            yield each
        left += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions


def _after_fork_in_child() -> None:
    """Nothing was refused in this process yet, and a thread that is not here may have held the lock."""
    global _lock, _watcher  # noqa: PLW0603
    _lock = threading.Lock()
    _watcher = None
    _refused.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
