"""How many streams of one key run at once at one endpoint (the manager's `concurrency`).

The rules:

- A key is a model's name, or what a stream names itself (`concurrency_key`). A key without a limit has no places here.
- Each endpoint identity has places of its own for each key.
- A stream takes a place before its first attempt, and gives it up at its end. One that has none is `queued`: it has no
  thread, and is launched when its turn has come.
- Each key has a line of its own, in the order of asking. So no key's line holds another key up.
- A stream that moves on to another endpoint gives its place up and takes one there. Where none is free, its actor waits
  in that line.

Thread-safe. The lock is held for a moment only; a stream is woken without it.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import TypeAlias

__all__ = ["Place", "Places"]

Place: TypeAlias = tuple[Hashable, str]
"""An endpoint's identity, and a key."""
Wake = Callable[[], object]


class Places:
    """The places of one manager's tree."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self.limits = limits
        """How many of each key, at each endpoint."""
        self._lock = threading.Lock()
        self._taken: Counter[Place] = Counter()
        self._lines: dict[Place, OrderedDict[Hashable, Wake]] = {}
        self._of: dict[Hashable, tuple[Place, bool]] = {}  # each stream's, and whether it has it or waits

    def take(self, stream: Hashable, place: Place, wake: Wake) -> bool:
        """Give a stream a place, for the one that it has elsewhere; `False`: `wake` is called when it has one.

        `wake` is called from any thread. A stream that has this place already keeps it.
        """
        woken: list[Wake] = []
        with self._lock:
            known = self._of.get(stream)
            if known is not None and known[0] == place:
                if not known[1]:
                    self._lines[place][stream] = wake
                return known[1]
            if known is not None:
                woken = self._leave(stream)
            has = self._enter(stream, place, wake)
        for other in woken:
            other()
        return has

    def give_up(self, stream: Hashable) -> None:
        """Take note that a stream has ended."""
        with self._lock:
            woken = self._leave(stream)
        for wake in woken:
            wake()

    def figures(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return how many streams of each key have a place, and how many wait for one, over all endpoints."""
        taken, waiting = dict.fromkeys(self.limits, 0), dict.fromkeys(self.limits, 0)
        with self._lock:
            for (_, key), count in self._taken.items():
                taken[key] += count
            for (_, key), line in self._lines.items():
                waiting[key] += len(line)
        return taken, waiting

    # -- with the lock held

    def _enter(self, stream: Hashable, place: Place, wake: Wake) -> bool:
        limit = self.limits.get(place[1])
        if limit is None:
            return True
        has = self._taken[place] < limit
        self._of[stream] = place, has
        if has:
            self._taken[place] += 1
        else:
            self._lines.setdefault(place, OrderedDict())[stream] = wake
        return has

    def _leave(self, stream: Hashable) -> list[Wake]:
        """Let a stream leave its place or its line; returns what wakes the one that has the place now."""
        place, has = self._of.pop(stream, (None, False))
        if place is None:
            return []
        line = self._lines.get(place)
        if not has:
            if line is not None:
                line.pop(stream, None)
                if not line:
                    del self._lines[place]
            return []
        if line is None:
            self._taken[place] -= 1
            if not self._taken[place]:
                del self._taken[place]
            return []
        following, wake = line.popitem(last=False)
        if not line:
            del self._lines[place]
        self._of[following] = place, True
        return [wake]
