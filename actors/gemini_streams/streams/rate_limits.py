"""Waits that many streams share: after a 429 none of them asks the same tenant's same model before it is over.

The rules:

- What shares a wait is named by a key: base URL, API key and headers, model (`Target.quota_key`).
- Streams that are held back go in the order of their coming, at a `Pace`. Each may look again as soon as it is let
  out, and goes all the same when it has waited as long as its own policy allows.
- A stream that was refused keeps its wait elsewhere, and then goes at the same pace. So the pace lasts until each of
  these has come back, or has ended.
- One book a clock, for several managers can use one endpoint; it ends, and with it every wait, when the last
  manager's tree on that clock has ended.

Thread-safe. The lock is held for a moment only; a stream is woken without it.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable

from gemini_streams.streams.pace import Pace
from pykka_supervisor import Clock, Timer

__all__ = ["Cooldowns", "forget", "join", "leave", "shared_waits"]

LONGEST = 86_400.0
"""Seconds; a wait that a server names is shared for a day at most."""

_MOMENT = 0.001
"""Seconds."""

Wake = Callable[[], None]


class _Quota:
    """One key's pace and the streams that it holds back."""

    __slots__ = ("coming", "let_out", "pace", "timer", "waiting")

    def __init__(self) -> None:
        self.pace = Pace()
        self.waiting: OrderedDict[Hashable, Wake] = OrderedDict()
        self.coming: set[Hashable] = set()
        """Refused, and not back yet: each comes when its own wait is over."""
        self.let_out: set[Hashable] = set()
        """Since the last refusal, and not answered yet."""
        self.timer: Timer | None = None


class Cooldowns:
    """The waits of all streams on one clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.quotas: dict[Hashable, _Quota] = {}
        """Empty where there is no wait: looked at before anything else is asked."""

    def refused(self, key: Hashable, stream: Hashable, wait: float) -> None:
        """Take note that a stream was refused; `wait`: the seconds that the server has named, 0 for none."""
        with self._lock:
            quota = self.quotas.get(key)
            if quota is None:
                if not wait:
                    return
                quota = self.quotas[key] = _Quota()
            quota.pace.refused(self._clock.monotonic(), min(wait, LONGEST))
            quota.let_out.clear()
            quota.waiting.pop(stream, None)
            quota.coming.add(stream)
            self._look_later(key, quota)

    def admit(self, key: Hashable, stream: Hashable, wake: Wake) -> float | None:
        """Let a stream out, `None`; or hold it back: the seconds that are left of the wait itself.

        A stream that is held back is woken once it is let out, and then asks again.
        """
        with self._lock:
            quota = self.quotas.get(key)
            if quota is None:
                return None
            quota.coming.discard(stream)
            if stream in quota.let_out:
                return None
            now = self._clock.monotonic()
            if not quota.waiting and quota.pace.take(now):
                quota.let_out.add(stream)
                return None
            quota.waiting[stream] = wake
            self._look_later(key, quota)
            return max(0.0, quota.pace.until - now)

    def left(self, key: Hashable) -> float:
        """Return the seconds that are left of a wait, or a moment where only others stand before; 0: there is none."""
        if not self.quotas:
            return 0.0
        with self._lock:
            quota = self.quotas.get(key)
            if quota is None:
                return 0.0
            left = quota.pace.until - self._clock.monotonic()
            return max(left, _MOMENT) if quota.waiting else max(left, 0.0)

    def force(self, key: Hashable, stream: Hashable) -> None:
        """Take note that a stream goes, whatever it was told."""
        with self._lock:
            quota = self.quotas.get(key)
            if quota is not None and quota.waiting.pop(stream, None) is not None:
                quota.pace.force()
                quota.let_out.add(stream)

    def done(self, key: Hashable, stream: Hashable, *, answered: bool) -> None:
        """Take note that a stream's request was answered; or that it has ended some other way, or the stream has."""
        with self._lock:
            quota = self.quotas.get(key)
            if quota is None:
                return
            quota.waiting.pop(stream, None)
            quota.coming.discard(stream)
            if stream in quota.let_out:
                quota.let_out.discard(stream)
                if answered:
                    quota.pace.answered(self._clock.monotonic())
                else:
                    quota.pace.gone()
            wakes = self._let_out(key, quota)
        for wake in wakes:
            wake()

    def close(self) -> None:
        """Forget all waits."""
        with self._lock:
            quotas, self.quotas = list(self.quotas.values()), {}
        for quota in quotas:
            if quota.timer is not None:
                quota.timer.cancel()

    def forget(self, key: Hashable) -> None:
        """End a wait: the streams that it holds back are woken, and go when they ask again."""
        with self._lock:
            quota = self.quotas.pop(key, None)
            wakes = [] if quota is None else list(quota.waiting.values())
        if quota is not None and quota.timer is not None:
            quota.timer.cancel()
        for wake in wakes:
            wake()

    # -- with the lock held

    def _let_out(self, key: Hashable, quota: _Quota) -> list[Wake]:
        """Let out as many as may go; returns what wakes them."""
        now = self._clock.monotonic()
        wakes: list[Wake] = []
        while quota.waiting and quota.pace.take(now):
            stream, wake = quota.waiting.popitem(last=False)
            quota.let_out.add(stream)
            wakes.append(wake)
        self._look_later(key, quota)
        return wakes

    def _look_later(self, key: Hashable, quota: _Quota) -> None:
        """Set the timer for the next that may go; forget a quota that holds nothing back any more."""
        now = self._clock.monotonic()
        timer = quota.timer
        if quota.waiting or now < quota.pace.until:
            due = quota.pace.due(now)
            if timer is not None and timer.pending and timer.due <= now + due:
                return  # it rings early enough, and looks again
            quota.timer = self._clock.call_later(due, lambda: self._ring(key, quota))
        elif not quota.let_out and not quota.coming:
            del self.quotas[key]
            quota.timer = None
        if timer is not None:
            timer.cancel()

    # -- the clock's thread

    def _ring(self, key: Hashable, quota: _Quota) -> None:
        with self._lock:
            wakes = self._let_out(key, quota) if self.quotas.get(key) is quota else []
        for wake in wakes:
            wake()


# -- the books -------------------------------------------------------------------------------------------------------

_lock = threading.Lock()
_books: dict[Clock, tuple[Cooldowns, weakref.WeakSet[object]]] = {}


def join(clock: Clock, user: object) -> Cooldowns:
    """Return the book of a clock; it is kept until the last of its users has left. Joining twice is joining once."""
    with _lock:
        book, users = _books.setdefault(clock, (Cooldowns(clock), weakref.WeakSet()))
        users.add(user)
        return book


def leave(clock: Clock, user: object) -> None:
    """End a use; with the last one all waits end."""
    with _lock:
        book, users = _books.get(clock, (None, weakref.WeakSet[object]()))
        users.discard(user)
        if book is None or users:
            return
        del _books[clock]
    book.close()


def shared_waits() -> set[tuple[Clock, Hashable]]:
    """Name the waits that there are in this process, for tests."""
    with _lock:
        books = [(clock, book) for clock, (book, _) in _books.items()]
    return {(clock, key) for clock, book in books for key in list(book.quotas)}


def forget(waits: set[tuple[Clock, Hashable]]) -> None:
    """End these waits: what they hold back is woken and goes."""
    for clock, key in waits:
        with _lock:
            book, _ = _books.get(clock, (None, None))
        if book is not None:
            book.forget(key)


def _after_fork_in_child() -> None:
    """No manager of the parent's runs here, and a thread that is not here may have held a lock."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _books.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
