"""After each test of the supervisor nothing may be left: no actor, no thread, no timer, no name."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pykka
import pytest

from pykka_supervisor import SYSTEM_CLOCK, leaked_threads, names

_SHARED_THREADS = frozenset({"pykka-supervisor-timers", "pykka-supervisor-log"})


def _others() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name not in _SHARED_THREADS}


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = _others()
    timers = SYSTEM_CLOCK.pending()  # a sweep of what ran before may still be due
    assert pykka.ActorRegistry.get_all() == []
    yield
    deadline = time.monotonic() + 3
    while _others() - before and time.monotonic() < deadline:
        time.sleep(0.005)
    left = pykka.ActorRegistry.get_all()
    threads = _others() - before
    if left:  # so that one test's failure is not the next one's
        pykka.ActorRegistry.stop_all(block=False)
    assert left == []
    assert threads == set()
    assert leaked_threads() == []
    assert SYSTEM_CLOCK.pending() <= timers
    assert names._cells == {}
