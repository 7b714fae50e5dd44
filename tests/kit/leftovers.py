"""What a test may not leave behind: threads, descriptors, actors, and changes to the process's logging."""

from __future__ import annotations

import gc
import logging
import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pykka
import structlog

from gemini_streams.testing.leftovers import SHARED_THREADS

_PATIENCE = 5.0


class Before:
    """What there was before a test; `left()` names what has come since."""

    def __init__(self) -> None:
        self.threads = set(threading.enumerate())
        self.descriptors = descriptors()
        self.actors = {ref.actor_urn for ref in pykka.ActorRegistry.get_all()}
        self.logging = _logging_state()

    def left(self) -> list[str]:
        """What is there now and was not there before, by name."""
        found = [
            f"thread {thread.name}"
            for thread in set(threading.enumerate()) - self.threads
            if thread.name not in SHARED_THREADS
        ]
        now = descriptors()
        found += [f"descriptor {key[0]}: {now[key]}" for key in now.keys() - self.descriptors.keys()]
        found += [f"actor {ref}" for ref in pykka.ActorRegistry.get_all() if ref.actor_urn not in self.actors]
        return sorted(found)

    def check(self) -> None:
        """Wait until nothing is left; AssertionError, naming it, where something stays."""
        deadline = time.monotonic() + _PATIENCE
        collected = False
        while left := self.left():
            if time.monotonic() > deadline:
                pykka.ActorRegistry.stop_all(block=False)  # one test's failure is not to be the next one's
                raise AssertionError("left behind: " + ", ".join(left))
            if not collected:
                gc.collect()  # what is garbage is not left; an unclosed socket is still a ResourceWarning
                collected = True
            time.sleep(0.002)
        changed = {
            name: (was, now)
            for name, now in _logging_state().items()
            if (was := self.logging.get(name)) != now and was is not None
        }
        assert not changed, f"the application's logging was changed: {changed}"


def descriptors() -> dict[tuple[int, int, int], str]:
    """Find the open descriptors, by number and inode."""
    found = {}
    for entry in Path("/dev/fd").iterdir():
        try:
            status = os.fstat(int(entry.name))
        except OSError:  # the descriptor of the listing itself
            continue
        kind = "a socket" if stat.S_ISSOCK(status.st_mode) else stat.filemode(status.st_mode)
        found[int(entry.name), status.st_dev, status.st_ino] = kind
    return found


def _logging_state() -> dict[str, Any]:
    state: dict[str, Any] = {
        "structlog": structlog.is_configured(),
        "structlog processors": tuple(structlog.get_config()["processors"]),
        "logging.disable": logging.root.manager.disable,
    }
    for name in ("", "gemini_streams", "pykka_supervisor", "pykka", "urllib3", "requests"):
        logger = logging.getLogger(name)
        handlers = tuple(h for h in logger.handlers if not type(h).__module__.startswith("_pytest."))
        state[f"logger {name or 'root'}"] = (logger.level, handlers, logger.propagate, logger.disabled)
    return state
