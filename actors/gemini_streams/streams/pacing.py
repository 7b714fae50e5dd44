"""The pace at which streams are launched.

A stream's thread needs half a millisecond of the interpreter until its request is out. Started faster than that, a
thousand of them stand in line for the interpreter lock, and each wakes at every switch interval (5 ms) only to ask
for it again: the core is full of wake-ups, and no stream gets on.

The rules:

- No more than `AT_ONCE` streams are between their thread's start and their request. The others wait here, where they
  cost no thread.
- They are launched by turns: each tenant of each service (`Target.identity`) gets its turn, and its streams are
  launched in the order of asking.
- A tenant takes at most four fifths of the places that all the others leave. So a tenant whose service swallows
  connects leaves places for the others, and its streams that wait are passed over.
- A stream that hangs in a resolver or a connect does not use the interpreter. Where no stream that waits has a place,
  one is launched all the same after `PATIENCE` seconds. A stream that has hung for `STUCK` seconds holds no place any
  more.
- What waits here outlives the supervisor.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

from gemini_streams.api.endpoint import Target
from pykka_supervisor.clock import SYSTEM_CLOCK

__all__ = ["Launched", "Launches"]

AT_ONCE = 40
PATIENCE = 0.02
STUCK = 0.1
"""Ten times what a launch takes where many are made: fewer, and a slow machine would launch all at once."""


class Launched(Protocol):
    """A stream, as far as its launch is concerned."""

    @property
    def target(self) -> Target:
        """The service that the stream asks."""


StreamT = TypeVar("StreamT", bound=Launched)


class Launches(Generic[StreamT]):
    """The streams that are being launched and those that wait for it.

    The supervisor's thread calls `add` and `next`; any thread calls `out`. `wake` has the supervisor call `next`
    again; any thread may call `wake`.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        # Written by the supervisor's thread: the streams that wait, by tenant; the tenant whose turn it is comes first.
        self._waiting: OrderedDict[Hashable, deque[StreamT]] = OrderedDict()
        # When each was launched, and for which tenant; any thread takes one out.
        self._under_way: dict[StreamT, tuple[float, Hashable]] = {}
        self._latest = 0.0
        self._woken = False
        self._timed = False

    def add(self, session: StreamT) -> None:
        """Queue a session; in the supervisor's thread."""
        tenant = session.target.identity
        queue = self._waiting.get(tenant)
        if queue is None:
            queue = self._waiting[tenant] = deque()
        queue.append(session)

    def next(self) -> StreamT | None:
        """Take the session that is to be launched now, if one is; in the supervisor's thread."""
        self._woken = False
        if not self._waiting:
            return None
        now = time.monotonic()
        under_way = self._under_way
        tenant: Hashable | None = next(iter(self._waiting))
        if len(under_way) >= AT_ONCE // 2:
            tenant = self._with_a_place()
            if tenant is None:
                for hanging, (since, _) in under_way.copy().items():
                    if now - since >= STUCK:
                        under_way.pop(hanging, None)
                tenant = self._with_a_place()
        if tenant is None:
            left = self._latest + PATIENCE - now
            if left > 0:
                if not self._timed:
                    self._timed = True
                    SYSTEM_CLOCK.call_later(left, self._ring)
                return None
            tenant = next(iter(self._waiting))
        self._latest = now
        queue = self._waiting.pop(tenant)
        session = queue.popleft()
        if queue:
            self._waiting[tenant] = queue  # behind the other tenants
        under_way[session] = now, tenant
        return session

    def _with_a_place(self) -> Hashable | None:
        """Return the first tenant in turn of which one more stream may be under way; `None`: of none."""
        taken = Counter(tenant for _, tenant in self._under_way.copy().values())
        places = AT_ONCE - taken.total()
        if places <= 0:
            return None
        for tenant in self._waiting:  # no more than `AT_ONCE` of them are passed over
            own = taken[tenant]
            if 5 * own < 4 * (places + own):
                return tenant
        return None

    def out(self, session: StreamT) -> None:
        """Take note, from any thread, that a session's request is out, or never will be."""
        self._under_way.pop(session, None)
        if self._waiting and len(self._under_way) < AT_ONCE // 2:
            self._wake_once()

    def _ring(self) -> None:
        self._timed = False
        self._wake_once()

    def _wake_once(self) -> None:
        if not self._woken:
            self._woken = True
            self._wake()
