"""What a test leaves: threads, actors, streams, and waits that a quota has imposed on later tests.

The pytest plugin looks with it after each test that uses one of its fixtures. A thread that the whole process shares by
design is never left over.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable

import pykka

from gemini_streams.manager import ManagerRef
from gemini_streams.messages import Status
from gemini_streams.streams import rate_limits

__all__ = ["SHARED_THREADS", "Before", "streams_left"]

SHARED_THREADS = frozenset(
    {
        "gemini-streams-refusals",
        "pykka-supervisor-timers",
        "pykka-supervisor-signals",
        "pykka-supervisor-log",
    }
)
"""Made once for the process, by design."""

_GRAIN = 0.002
_END = 5.0
"""Seconds that actors which a test has left have to end before the next test."""
_RUNNING: tuple[Status, ...] = ("queued", "starting", "active", "restarting")


class Before:
    """What there was before a test."""

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._actors = {ref.actor_urn for ref in pykka.ActorRegistry.get_all()}
        self._waits = rate_limits.shared_waits()

    def end_what_is_left(self, spared: Callable[[str], bool], patience: float) -> list[str]:
        """Wait until nothing is left; name what is after `patience` seconds, and end what of it can be ended.

        `spared`: whether a thread of this name may stay.
        """
        deadline = time.monotonic() + patience
        collected = False
        while left := self._left(spared):
            if time.monotonic() > deadline:
                break
            if not collected:
                gc.collect()  # what is garbage is not left
                collected = True
            time.sleep(_GRAIN)
        if left:
            for ref in self._actors_left():
                with contextlib.suppress(pykka.ActorDeadError):
                    ref.stop(block=False)
            deadline = time.monotonic() + _END
            while self._actors_left() and time.monotonic() < deadline:
                time.sleep(_GRAIN)
        rate_limits.forget(rate_limits.shared_waits() - self._waits)
        return left

    def _left(self, spared: Callable[[str], bool]) -> list[str]:
        actors = sorted(f"actor {ref.actor_class.__name__}" for ref in self._actors_left())
        threads = [
            f"thread {thread.name}"
            for thread in set(threading.enumerate()) - self._threads
            if thread.name not in SHARED_THREADS and not spared(thread.name)
        ]
        waits = len(rate_limits.shared_waits() - self._waits)
        return [
            *actors,
            *sorted(threads),
            *(["a wait that a quota has imposed on other streams"] * bool(waits)),
        ]

    def _actors_left(self) -> list[pykka.ActorRef[pykka.Actor]]:
        return [ref for ref in pykka.ActorRegistry.get_all() if ref.actor_urn not in self._actors]


def streams_left(manager: ManagerRef, patience: float) -> list[str]:
    """Wait until no stream of a manager runs; return those that run after `patience` seconds, in words.

    A manager that has ended has left none.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            stats = manager.get_stats(timeout=patience)
            if not sum(stats.streams_by_status.get(status, 0) for status in _RUNNING):
                return []
            if time.monotonic() > deadline:
                infos = [manager.get_stream_info(stream_id) for stream_id in manager.list_streams()]
                return [f"stream {i.stream_id} ({i.status})" for i in infos if i.status in _RUNNING]
        except pykka.ActorDeadError:
            return []
        time.sleep(_GRAIN)
