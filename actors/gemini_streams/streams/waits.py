"""One stream and the waits that a server names: to the stream itself, and to others of its tenant and model.

The stream's thread asks before each attempt whether it is held back (`held_back`); the session says what became of the
request (`answered`, `refused`, `left`). What many streams share stands in `cooldowns`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Protocol

from gemini_streams.errors import APIError
from gemini_streams.options import Settings
from gemini_streams.streams.rate_limits import Cooldowns
from gemini_streams.streams.retry import TOO_MANY_REQUESTS
from pykka_supervisor import Clock, Timer

__all__ = ["Limited", "Waits"]

_GRAIN = 0.001
"""Seconds by which a look at a limit comes behind it, so that it is surely exceeded then."""


class Limited(Hashable, Protocol):
    """A stream, as far as its quota is concerned. It stands in `cooldowns` as itself."""

    @property
    def clock(self) -> Clock:
        """The manager's clock."""

    @property
    def options(self) -> Settings:
        """The stream's options; its policy and its deadline bound the waits."""

    @property
    def quota_key(self) -> Hashable:
        """The key of the quota that the stream shares with others."""

    @property
    def cooldowns(self) -> Cooldowns:
        """The waits that the stream shares with others."""

    @property
    def duration(self) -> float:
        """Seconds since the stream's start."""

    @property
    def ended(self) -> bool:
        """Whether the stream has ended."""


class Waits:
    """The waits of one stream, over all its attempts."""

    __slots__ = ("_session", "_timer", "kept", "seconds", "since")

    def __init__(self, session: Limited) -> None:
        self._session = session
        self.kept = 0
        """Attempts that do not count: 429s whose wait was kept."""
        self.seconds = 0.0
        """Spent in waits that a server named."""
        self.since: float | None = None
        """When the present attempt began to be held back; `None` where it is not."""
        self._timer: Timer | None = None

    def held_back(self, wake: Callable[[], None]) -> bool:
        """Whether the next attempt has to wait; `wake` is called, from any thread, when this is to be asked again.

        Raises `APIError` where the stream's policy or deadline does not allow that long a wait.
        """
        session = self._session
        shared = session.cooldowns
        if not shared.quotas:
            self._let_out()
            return False
        key, clock = session.quota_key, session.clock
        left = shared.admit(key, session, wake)
        if session.ended:  # and the thread that ended it may have been here before
            shared.done(key, session, answered=False)
            return False
        if left is None:
            self._let_out()
            return False
        now = clock.monotonic()
        if self.since is None:
            self.since = now
        policy = session.options.retry
        held = now - self.since
        own = policy.max_retry_after - held
        if own <= 0:
            shared.force(key, session)
            self._let_out()
            return False
        in_all = policy.max_total_wait - self.seconds - held
        limits = [limit for limit in (policy.total_time, session.options.deadline) if limit is not None]
        in_time = min((limit - session.duration for limit in limits), default=math.inf)
        wait = min(left, own)
        if wait >= in_time or wait > in_all:
            shared.done(key, session, answered=False)
            raise APIError(
                TOO_MANY_REQUESTS,
                "RESOURCE_EXHAUSTED",
                f"not asked: the server wants no request for this model in the next {left:.3g} s"
                if left
                else "not asked: too many streams wait for this model's quota",
                retryable=True,
                retry_at=clock.time() + left if left else None,
            )
        self._look_again(min(own, in_time, in_all + _GRAIN), wake)
        return True

    def answered(self) -> None:
        """Take note that the server has taken the request."""
        self._session.cooldowns.done(self._session.quota_key, self._session, answered=True)

    def refused(self, wait: float) -> None:
        """Take note of a 429; `wait`: the seconds that it names, 0 for none."""
        shared = self._session.cooldowns
        if wait or shared.quotas:
            shared.refused(self._session.quota_key, self._session, wait)

    def left(self) -> None:
        """Take note that the request has failed some other way, or that the stream is no more."""
        self._cancel()
        if self._session.cooldowns.quotas:
            self._session.cooldowns.done(self._session.quota_key, self._session, answered=False)

    def keep(self, wait: float, *, counted: bool) -> None:
        """Take note that the stream keeps a wait that the server has named to it."""
        self.seconds += wait
        self.kept += not counted

    def _let_out(self) -> None:
        self._cancel()
        since, self.since = self.since, None
        if since is not None:
            self.seconds += self._session.clock.monotonic() - since

    def _look_again(self, seconds: float, wake: Callable[[], None]) -> None:
        self._cancel()
        self._timer = self._session.clock.call_later(seconds, wake)
        if self._session.ended:  # meanwhile
            self._cancel()

    def _cancel(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
