"""Whether and when a failed attempt is followed by another: the retry policy's rules, pure.

In this order:

1. An error that cannot be helped by trying again ends the stream (`RetryPolicy.retryable` has the first word, the
   table of errors the second; a silence before the first event is tried again once).
2. `attempts` counts all of them, over the stream's whole life, but for each 429 that named a wait which was kept:
   the service asked for nothing else. A 429 in the middle of an answer counts where the next attempt makes the first
   part of that answer void: the service bills that part. With `attempts=1` there is no second attempt whatever the
   service asks for.
3. `on_partial="fail"`: an attempt that has delivered what would become void is not repeated.
4. The policy's own wait is exponential with jitter, never more than `max_delay`. A wait that the server names is kept
   where it is longer, whatever `max_delay` is. The policy's own grows with the 429s in a row, too: a server that
   names a thousandth of a second again and again is asked less and less often.
5. Where the server names more than `max_retry_after`, or its waits come to more than `max_total_wait`, or the wait
   ends after `total_time` or the deadline, the stream fails at once: the caller learns at once what cannot be helped,
   and `retry_at` until when.

Where another endpoint comes next (`moves_on`), the error need not be one that trying again at the same place can help.
The only wait then is the one that the streams at the coming endpoint share. A 429 that is followed by such a wait does
not count.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gemini_streams.errors import (
    APIError,
    ConnectionFailedError,
    ConnectionLostError,
    FirstEventTimeoutError,
    GeminiStreamsError,
    IdleTimeoutError,
    MissingCredentialsError,
)
from gemini_streams.options import RetryPolicy

__all__ = ["TOO_MANY_REQUESTS", "Failed", "Wait", "backoff", "moves_on", "next_wait"]

TOO_MANY_REQUESTS = 429
_ELSEWHERE = frozenset({401, 403, 408, 429})
"""Statuses of one endpoint's own, besides those of the server's faults."""


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """What the policy needs to know of an attempt that failed."""

    error: GeminiStreamsError
    attempt: int
    """Its number, from 1."""
    elapsed: float
    """Seconds since the stream's start."""
    voids: bool
    """A restart would make something void that was delivered."""
    silences: int
    """How many attempts of this stream, this one included, ended in `FirstEventTimeoutError`."""
    verdict: bool | None = None
    """What `RetryPolicy.retryable` has said of the error."""
    asked: float = 0.0
    """Seconds from now until the server wants to be asked again; 0 where it named no time."""
    kept: int = 0
    """Attempts before this one that do not count: 429s whose wait was kept."""
    waited: float = 0.0
    """Seconds that the stream has spent in waits that a server named."""
    deadline: float | None = None
    """The stream's deadline, in seconds since its start."""
    counts: bool = True
    """Whether the attempt counts at all: one with which an answer has got on that goes on does not."""
    delay: float | None = None
    """Seconds that stand in place of the policy's own wait."""

    moves: float | None = None
    """Seconds for which the coming endpoint's streams share a wait, where another endpoint comes; `None`: none does."""

    @property
    def limited(self) -> bool:
        """Whether it was a 429 that named a wait."""
        kept = self.asked if self.moves is None else self.moves
        return is_limited(self.error, self.asked or kept) and kept > 0


class Wait(msgspec.Struct, frozen=True):
    """The next attempt begins after `delay` seconds."""

    delay: float
    counted: bool
    """Whether the attempt that has failed counts against `attempts`."""


def moves_on(error: GeminiStreamsError) -> bool:
    """Whether an error may be one endpoint's own, so that another one is worth asking."""
    if isinstance(error, APIError):
        return error.code in _ELSEWHERE or error.code >= 500
    return isinstance(
        error,
        ConnectionFailedError
        | ConnectionLostError
        | FirstEventTimeoutError
        | IdleTimeoutError
        | MissingCredentialsError,
    )


def is_limited(error: GeminiStreamsError, asked: float) -> bool:
    """Whether an error is a 429 that names a wait; `asked`: in how many seconds that is over."""
    return asked > 0 and isinstance(error, APIError) and error.code == TOO_MANY_REQUESTS and error.retryable


def backoff(policy: RetryPolicy, attempt: int, uniform: Callable[[float, float], float]) -> float:
    """Return the policy's own wait, in seconds, after attempt number `attempt`."""
    try:
        delay = policy.initial_delay * policy.exp_base ** (attempt - 1)
    except OverflowError:
        delay = policy.max_delay
    return min(delay + uniform(0, policy.jitter), policy.max_delay)


def next_wait(policy: RetryPolicy, failed: Failed, uniform: Callable[[float, float], float]) -> Wait | None:
    """Return the wait before the next attempt, or `None`: this error is the last word."""
    error = failed.error
    again = failed.verdict
    if again is None:
        silent = isinstance(error, FirstEventTimeoutError) and failed.silences > 1
        again = failed.moves is not None or (error.retryable and not silent)
    if not again or policy.attempts == 1:
        return None
    counted = failed.counts and (failed.voids or not failed.limited)
    if counted and failed.attempt - failed.kept >= policy.attempts:
        return None
    if failed.voids and policy.on_partial == "fail":
        return None
    asked = failed.asked if failed.moves is None else failed.moves
    if asked > policy.max_retry_after or (asked and failed.waited + asked > policy.max_total_wait):
        return None
    delay = failed.delay if failed.moves is None else 0.0
    if delay is None:
        delay = backoff(policy, failed.attempt - failed.kept if counted else failed.kept + 1, uniform)
    if asked:
        delay = max(delay, asked + uniform(0, policy.jitter))
    limits = (policy.total_time, failed.deadline)
    if any(limit is not None and failed.elapsed + delay >= limit for limit in limits):
        return None
    return Wait(delay, counted)
