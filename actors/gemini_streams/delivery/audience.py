"""All subscribers of one stream, and how the stream's thread waits for room at those that pause.

The rules:

- A subscriber is in `all` from its joining until it leaves. After the stream's end only those stay for which something
  is still buffered.
- The stream's thread waits for room (`room`) while a subscriber that pauses is full. A subscriber that drains, leaves
  or is let go takes itself off the count of those that hold the stream; the last of them wakes it (`go_on`, `wake`).
- A look at the room is made twice: credit that came before a full subscription asked for it (`starve`) wakes no thread.

The session's lock is held in every method. Each tuple is replaced and never changed, so a thread without the lock
reads one that was right a moment ago:

    field                written by                                             may be read without the lock by
    all                  the thread of a join, a leaving or the end             the manager's, for `has` and `count`
    strict, pausing      the same threads                                       no thread
    parked               the stream's thread; the thread that wakes it          no thread
    _holding, _next_size the stream's thread; `_holding` also a subscriber's    no thread
    told                 the thread that ends the stream; of a late join        no thread
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from gemini_streams.delivery.subscription import Subscription, common_room

__all__ = ["Audience"]


class Audience:
    """One stream's."""

    __slots__ = ("_holding", "_next_size", "all", "parked", "pausing", "strict", "told")

    def __init__(self) -> None:
        self.all: tuple[Subscription, ...] = ()
        self.strict: tuple[Subscription, ...] = ()
        """Those that are let go as soon as something does not fit."""
        self.pausing: tuple[Subscription, ...] = ()
        """Those that the stream waits for."""
        self.parked: threading.Lock | None = None
        """The lock on which the stream's thread waits for room."""
        self._holding = 0  # subscriptions for whose credit the stream's thread waits
        self._next_size = 0  # bytes of the event it waits with
        self.told: set[str] | None = None
        """The URNs of those that were given the stream's last message; `None` until the stream has ended."""

    # -- joining and leaving

    def find(self, urn: str) -> Subscription | None:
        """Return an actor's subscription."""
        return next((s for s in self.all if s.urn == urn), None)

    def has(self, urn: str) -> bool:
        """Whether an actor is a subscriber; after the stream's end, whether something is still buffered for it."""
        return any(s.urn == urn for s in self.present())

    def present(self) -> Iterable[Subscription]:
        """Return the subscribers; after the stream's end, those for which something is still buffered."""
        return self.all if self.told is None else [s for s in self.all if not s.closed]

    @property
    def count(self) -> int:
        """How many subscribers there are."""
        return len(self.all) if self.told is None else sum(not s.closed for s in self.all)

    def join(self, subscription: Subscription) -> None:
        """Add a subscription to a stream that goes on."""
        self.all = (*self.all, subscription)
        if subscription.flow.overflow == "disconnect":
            self.strict = (*self.strict, subscription)
        if subscription.pausing:
            self.pausing = (*self.pausing, subscription)

    def join_late(self, subscription: Subscription) -> None:
        """Add a subscription to a stream that has ended; it stays while something is buffered for it."""
        if self.told is not None:
            self.told.add(subscription.urn)
        if not subscription.closed:
            self.all = (*(s for s in self.all if not s.closed), subscription)

    def leave(self, subscription: Subscription) -> bool:
        """Take a subscription out; `False` where it has left."""
        if subscription not in self.all:
            return False
        self.all = tuple(s for s in self.all if s is not subscription)
        self.pausing = tuple(s for s in self.pausing if s is not subscription)
        self.strict = tuple(s for s in self.strict if s is not subscription)
        return True

    def dismiss(self) -> tuple[Subscription, ...]:
        """Take all out, for the stream has ended: they are to be given their last messages, then `linger` is called."""
        self.told = {subscription.urn for subscription in self.all}
        subscriptions, self.all, self.pausing = self.all, (), ()
        return subscriptions

    def linger(self, subscriptions: Iterable[Subscription]) -> None:
        """Keep those of the dismissed for which something is still buffered."""
        self.all = tuple(s for s in subscriptions if not s.closed)

    # -- room

    def room(self, size: int, monotonic: Callable[[], float]) -> tuple[threading.Lock | None, int, int]:
        """Return how many events and bytes may be delivered now; or the lock that the stream's thread is to wait on.

        `size`: bytes of the next event where it is known, else 0. `monotonic` is the manager's clock.
        """
        full, count, room = common_room(self.pausing, size)
        if full:
            for subscription in full:
                subscription.starve()
            # Credit may have come before a subscription asked for it.
            full, count, room = common_room(self.pausing, size)
        if not full:
            return None, count, room
        now = monotonic()
        for subscription in self.pausing:
            if subscription not in full:
                subscription.stalled_since = None
            elif subscription.stalled_since is None:
                subscription.stalled_since = now
        self._holding = len(full)
        self._next_size = size
        parked = self.parked = threading.Lock()
        parked.acquire()
        return parked, 0, 0

    def go_on(self, subscription: Subscription) -> bool:
        """Take note that a subscription has drained; whether the stream that it has held may go on."""
        if subscription.stalled_since is None:
            return False
        if not subscription.has_room(self._next_size):
            subscription.starve()  # for the next credit, not this one
            if not subscription.has_room(self._next_size):
                return False  # and it goes on holding the stream
        subscription.stalled_since = None
        self._holding -= 1
        return self._holding <= 0

    def wake(self) -> None:
        """Let the stream's thread go on where it waits for room."""
        parked, self.parked = self.parked, None
        if parked is not None:
            parked.release()

    def stalls(self) -> list[float]:
        """Return when each subscription that holds the stream will have held it for too long."""
        return [s.stalled_since + s.flow.stall_timeout for s in self.pausing if s.stalled_since is not None]

    @property
    def paused_since(self) -> float | None:
        """When the first of the subscriptions that hold the stream began to."""
        return min((s.stalled_since for s in self.pausing if s.stalled_since is not None), default=None)

    def stalled(self, now: float) -> list[Subscription]:
        """Return the subscriptions that have held the stream for too long."""
        return [
            s
            for s in self.pausing
            if s.stalled_since is not None and now >= s.stalled_since + s.flow.stall_timeout
        ]
