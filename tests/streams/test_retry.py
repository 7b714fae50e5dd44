"""The retry policy's rules, pure, under Hypothesis; and the book of shared waits."""

from __future__ import annotations

import gc
import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gemini_streams import (
    APIError,
    ConnectionFailedError,
    ConnectionLostError,
    DeadlineExceededError,
    EventTooLargeError,
    FirstEventTimeoutError,
    GeminiStreamsError,
    IdleTimeoutError,
    MalformedEventError,
    RetryPolicy,
    StreamCrashedError,
    StreamTruncatedError,
    UnexpectedResponseError,
    cooldowns,
)
from gemini_streams.retry import Failed, backoff, wait_before_next
from pykka_supervisor.testing import TestClock

HELPED = [
    APIError(503, "UNAVAILABLE", "", retryable=True),
    ConnectionFailedError("x"),
    ConnectionLostError("x"),
    FirstEventTimeoutError("x"),
    IdleTimeoutError("x"),
    StreamCrashedError("x"),
    StreamTruncatedError("x"),
]
HOPELESS: list[GeminiStreamsError] = [
    APIError(404, "NOT_FOUND", ""),
    ConnectionFailedError("certificate", retryable=False),
    DeadlineExceededError("x"),
    EventTooLargeError("x"),
    MalformedEventError("x"),
    UnexpectedResponseError("x"),
]

times = st.floats(0, 1e4, allow_nan=False)


@st.composite
def policies(draw: st.DrawFn, /, **fixed: Any) -> RetryPolicy:
    values: dict[str, Any] = {
        "attempts": draw(st.integers(1, 30)),
        "initial_delay": draw(st.floats(0, 100)),
        "max_delay": draw(st.floats(0, 1000)),
        "exp_base": draw(st.floats(1, 100)),
        "jitter": draw(st.floats(0, 100)),
        "total_time": draw(st.none() | st.floats(0.01, 1e4)),
        "on_partial": draw(st.sampled_from(["restart", "fail"])),
    }
    return RetryPolicy(**{**values, **fixed})


@st.composite
def failures(draw: st.DrawFn, /, **fixed: Any) -> Failed:
    values: dict[str, Any] = {
        "error": draw(st.sampled_from(HELPED + HOPELESS)),
        "attempt": draw(st.integers(1, 40)),
        "elapsed": draw(times),
        "voids": draw(st.booleans()),
        "silences": draw(st.integers(1, 3)),
        "asked": draw(st.just(0.0) | times),
        "deadline": draw(st.none() | st.floats(0.01, 1e4)),
    }
    return Failed(**{**values, **fixed})


@st.composite
def draws(draw: st.DrawFn) -> Any:
    share = draw(st.floats(0, 1))
    return lambda low, high: low + (high - low) * share


@given(policies(), failures(), draws())
def test_every_rule(policy: RetryPolicy, failed: Failed, uniform: Any) -> None:
    wait = wait_before_next(policy, failed, uniform)
    error = failed.error
    again = error.retryable and not (isinstance(error, FirstEventTimeoutError) and failed.silences > 1)
    left = failed.attempt < policy.attempts
    partial = failed.voids and policy.on_partial == "fail"
    limits = [limit for limit in (policy.total_time, failed.deadline) if limit is not None]
    if wait is not None:
        assert again
        assert left
        assert not partial
        assert failed.asked <= wait <= policy.max_delay
        assert wait >= min(backoff(policy, failed.attempt, lambda low, _high: low), policy.max_delay)
        assert all(failed.elapsed + wait < limit for limit in limits)
    elif again and left and not partial:
        longest = max(failed.asked, backoff(policy, failed.attempt, lambda _low, high: high))
        assert failed.asked > policy.max_delay or any(
            failed.elapsed + longest + policy.jitter >= limit for limit in limits
        )


@given(policies(), failures(), draws())
def test_on_a_last_attempt_nothing_helps(policy: RetryPolicy, failed: Failed, uniform: Any) -> None:
    assume(failed.attempt >= policy.attempts)
    assert wait_before_next(policy, failed, uniform) is None


@given(policies(attempts=40, total_time=None, on_partial="restart"), failures(deadline=None), st.booleans())
def test_the_callable_has_the_first_word(policy: RetryPolicy, failed: Failed, verdict: bool) -> None:
    assume(failed.attempt < 40 and failed.asked <= policy.max_delay)
    asked: list[GeminiStreamsError] = []

    def decide(error: GeminiStreamsError) -> bool | None:
        asked.append(error)
        return verdict

    told = wait_before_next(
        RetryPolicy(**{**_fields(policy), "retryable": decide}), failed, lambda low, _high: low
    )
    assert (told is not None) is verdict
    assert asked == [failed.error]


@given(policies(), failures())
def test_none_from_the_callable_is_the_table(policy: RetryPolicy, failed: Failed) -> None:
    mute = RetryPolicy(**{**_fields(policy), "retryable": lambda _error: None})
    low = lambda low, _high: low  # noqa: E731
    assert wait_before_next(mute, failed, low) == wait_before_next(policy, failed, low)


def test_what_the_callable_raises_is_raised() -> None:
    def broken(_error: GeminiStreamsError) -> bool:
        raise ZeroDivisionError

    failed = Failed(error=HELPED[0], attempt=1, elapsed=0, voids=False, silences=0)
    with pytest.raises(ZeroDivisionError):
        wait_before_next(RetryPolicy(retryable=broken), failed, lambda low, _high: low)


@given(policies(), st.integers(1, 5000), draws())
def test_backoff_grows_to_max_delay(policy: RetryPolicy, attempt: int, uniform: Any) -> None:
    now, then = (backoff(policy, n, uniform) for n in (attempt, attempt + 1))
    assert 0 <= now <= then <= policy.max_delay
    assert math.isfinite(then)


def test_the_default_waits() -> None:
    policy = RetryPolicy(jitter=0)
    assert [backoff(policy, n, lambda low, _high: low) for n in (1, 2, 3, 8)] == [0.5, 1.0, 2.0, 30.0]


@pytest.mark.parametrize("error", HELPED, ids=lambda error: type(error).__name__)
def test_what_the_table_tries_again(error: GeminiStreamsError) -> None:
    failed = Failed(error=error, attempt=1, elapsed=0, voids=True, silences=1)
    assert wait_before_next(RetryPolicy(jitter=0), failed, lambda low, _high: low) == 0.5


@pytest.mark.parametrize("error", HOPELESS, ids=lambda error: type(error).__name__)
def test_what_the_table_does_not(error: GeminiStreamsError) -> None:
    failed = Failed(error=error, attempt=1, elapsed=0, voids=True, silences=1)
    assert wait_before_next(RetryPolicy(jitter=0), failed, lambda low, _high: low) is None


def _fields(policy: RetryPolicy) -> dict[str, Any]:
    return {name: getattr(policy, name) for name in policy.__struct_fields__}


# -- shared waits


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0.1, 100), st.floats(0, 50)), max_size=20),
    st.sampled_from("ab"),
)
def test_a_wait_lasts_as_long_as_the_longest(holds: list[tuple[str, float, float]], key: str) -> None:
    clock = TestClock()
    until = 0.0
    for held, length, passing in holds:
        cooldowns.hold(clock, held, length)
        if held == key:
            until = max(until, clock.monotonic() + length)
        clock.advance(passing)
        left = cooldowns.remaining(clock, key)
        assert left == pytest.approx(max(0.0, until - clock.monotonic()))


def test_each_clock_and_key_has_its_own_wait() -> None:
    one, two = TestClock(), TestClock()
    cooldowns.hold(one, "key", 5)
    assert cooldowns.remaining(one, "key") == 5
    assert cooldowns.remaining(one, "other") == 0
    assert cooldowns.remaining(two, "key") == 0


def test_what_is_over_is_forgotten() -> None:
    clock = TestClock()
    for key in range(100):
        cooldowns.hold(clock, key, 1)
    clock.advance(2)
    cooldowns.hold(clock, "last", 1)
    assert len(cooldowns._until[clock]) == 1
    known = len(cooldowns._until)
    del clock
    gc.collect()
    assert len(cooldowns._until) < known
