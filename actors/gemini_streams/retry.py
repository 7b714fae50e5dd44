"""Whether and when a failed attempt is followed by another: the retry policy's rules, pure.

In this order:

1. An error that cannot be helped by trying again ends the stream (`RetryPolicy.retryable` has the first word, the
   table of errors the second; a silence before the first event is tried again once).
2. `attempts` counts all of them, over the stream's whole life.
3. `on_partial="fail"`: an attempt that has delivered what would become void is not repeated.
4. The wait is exponential with jitter, never more than `max_delay`, and never less than what the server asks for.
5. Where the server asks for more than `max_delay`, or the wait ends after `total_time` or the deadline, the stream
   fails at once: the caller learns at once what cannot be helped, and `retry_at` until when.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gemini_streams.errors import FirstEventTimeoutError, GeminiStreamsError
from gemini_streams.options import RetryPolicy

__all__ = ["Failed", "backoff", "too_long", "wait_before_next"]


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
    asked: float = 0.0
    """Seconds from now until the server wants to be asked again."""
    deadline: float | None = None
    """The stream's deadline, in seconds since its start."""


def backoff(policy: RetryPolicy, attempt: int, uniform: Callable[[float, float], float]) -> float:
    """Return the seconds to wait after attempt number `attempt`."""
    try:
        delay = policy.initial_delay * policy.exp_base ** (attempt - 1)
    except OverflowError:
        delay = policy.max_delay
    return min(delay + uniform(0, policy.jitter), policy.max_delay)


def wait_before_next(
    policy: RetryPolicy, failed: Failed, uniform: Callable[[float, float], float]
) -> float | None:
    """Return the seconds to wait before the next attempt, or `None`: this error is the last word.

    What `policy.retryable` raises is raised.
    """
    error = failed.error
    verdict = policy.retryable(error) if policy.retryable is not None else None
    if verdict is None:
        verdict = error.retryable and not (isinstance(error, FirstEventTimeoutError) and failed.silences > 1)
    if not verdict or failed.attempt >= policy.attempts:
        return None
    if failed.voids and policy.on_partial == "fail":
        return None
    delay = backoff(policy, failed.attempt, uniform)
    if failed.asked > delay:
        delay = max(failed.asked, min(failed.asked + uniform(0, policy.jitter), policy.max_delay))
    return None if too_long(policy, delay, failed.elapsed, failed.deadline) else delay


def too_long(policy: RetryPolicy, wait: float, elapsed: float, deadline: float | None) -> bool:
    """Whether a stream that has run for `elapsed` seconds must not wait that long for its next attempt."""
    limits = (policy.total_time, deadline)
    return wait > policy.max_delay or any(limit is not None and elapsed + wait >= limit for limit in limits)
