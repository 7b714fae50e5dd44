"""The retry policy's rules, pure, under Hypothesis."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gemini_streams import (
    APIError,
    BadFinishError,
    ConnectionFailedError,
    ConnectionLostError,
    DeadlineExceededError,
    EventTooLargeError,
    FirstEventTimeoutError,
    GeminiStreamsError,
    IdleTimeoutError,
    InvalidRequestError,
    MalformedEventError,
    RetryPolicy,
    StreamCrashedError,
    StreamTruncatedError,
    UnexpectedResponseError,
)
from gemini_streams.streams.retry import Failed, Wait, backoff, next_wait

HELPED = [
    BadFinishError("x", "OTHER"),
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
LIMITED = APIError(429, "RESOURCE_EXHAUSTED", "", retryable=True)


@st.composite
def policies(draw: st.DrawFn, /, **fixed: Any) -> RetryPolicy:
    values: dict[str, Any] = {
        "attempts": draw(st.integers(1, 30)),
        "initial_delay": draw(st.floats(0, 100)),
        "max_delay": draw(st.floats(0, 1000)),
        "exp_base": draw(st.floats(1, 100)),
        "jitter": draw(st.floats(0, 100)),
        "max_retry_after": draw(st.floats(0, 1e4)),
        "max_total_wait": draw(st.floats(0, 1e5)),
        "total_time": draw(st.none() | st.floats(0.01, 1e4)),
        "on_partial": draw(st.sampled_from(["restart", "fail"])),
    }
    return RetryPolicy(**{**values, **fixed})


@st.composite
def failures(draw: st.DrawFn, /, **fixed: Any) -> Failed:
    attempt = draw(st.integers(1, 40))
    values: dict[str, Any] = {
        "error": draw(st.sampled_from([*HELPED, *HOPELESS, LIMITED])),
        "attempt": attempt,
        "elapsed": draw(times),
        "voids": draw(st.booleans()),
        "silences": draw(st.integers(1, 3)),
        "verdict": draw(st.none() | st.booleans()),
        "asked": draw(st.just(0.0) | times),
        "kept": draw(st.integers(0, attempt - 1)),
        "waited": draw(st.just(0.0) | times),
        "deadline": draw(st.none() | st.floats(0.01, 1e4)),
    }
    return Failed(**{**values, **fixed})


@st.composite
def draws(draw: st.DrawFn) -> Any:
    share = draw(st.floats(0, 1))
    return lambda low, high: low + (high - low) * share


def low(low: float, _high: float) -> float:
    return low


@given(policies(), failures(), draws())
def test_every_rule(policy: RetryPolicy, failed: Failed, uniform: Any) -> None:
    wait = next_wait(policy, failed, uniform)
    error = failed.error
    again = error.retryable and not (isinstance(error, FirstEventTimeoutError) and failed.silences > 1)
    if failed.verdict is not None:
        again = failed.verdict
    free = error is LIMITED and failed.asked > 0 and not failed.voids
    left = policy.attempts > 1 and (free or failed.attempt - failed.kept < policy.attempts)
    partial = failed.voids and policy.on_partial == "fail"
    named = failed.asked <= policy.max_retry_after and (
        not failed.asked or failed.waited + failed.asked <= policy.max_total_wait
    )
    limits = [limit for limit in (policy.total_time, failed.deadline) if limit is not None]
    number = failed.kept + 1 if free else failed.attempt - failed.kept
    if wait is not None:
        assert again
        assert left
        assert named
        assert not partial
        assert wait.counted is not free
        assert failed.asked <= wait.delay <= max(policy.max_delay, failed.asked + policy.jitter)
        assert wait.delay >= min(backoff(policy, number, low), policy.max_delay)
        assert all(failed.elapsed + wait.delay < limit for limit in limits)
    elif again and left and named and not partial:
        longest = max(failed.asked, backoff(policy, number, lambda _low, high: high))
        assert any(failed.elapsed + longest + policy.jitter >= limit for limit in limits)


@given(policies(), failures(error=HELPED[0], verdict=None), draws())
def test_on_a_last_attempt_nothing_helps(policy: RetryPolicy, failed: Failed, uniform: Any) -> None:
    assume(failed.attempt - failed.kept >= policy.attempts)
    assert next_wait(policy, failed, uniform) is None


@given(policies(attempts=1), failures(), draws())
def test_one_attempt_is_one_request(policy: RetryPolicy, failed: Failed, uniform: Any) -> None:
    assert next_wait(policy, failed, uniform) is None


@given(policies(total_time=None, on_partial="restart", max_retry_after=120.0, max_total_wait=3600.0), draws())
def test_a_429_whose_wait_is_kept_costs_no_attempt(policy: RetryPolicy, uniform: Any) -> None:
    assume(policy.attempts > 1)
    waited = 0.0
    for kept in range(80):  # 43 s each: 3,440 s in all
        failed = Failed(
            error=LIMITED,
            attempt=kept + 1,
            elapsed=waited,
            voids=False,
            silences=0,
            asked=43.0,
            kept=kept,
            waited=waited,
        )
        wait = next_wait(policy, failed, uniform)
        if wait is None:  # jitter and backoff may be long
            assert waited + 43.0 > policy.max_total_wait
            return
        assert not wait.counted
        waited += wait.delay
    assert waited >= 80 * 43


@given(policies(), failures(error=LIMITED, verdict=None, voids=True), draws())
def test_a_429_in_the_middle_of_an_answer_costs_an_attempt(
    policy: RetryPolicy, failed: Failed, uniform: Any
) -> None:
    """The service bills the part that becomes void: that must not happen more often than `attempts` says."""
    wait = next_wait(policy, failed, uniform)
    if failed.attempt - failed.kept >= policy.attempts:
        assert wait is None
    assert wait is None or wait.counted


def test_a_server_that_names_next_to_nothing_again_and_again_is_asked_less_and_less_often() -> None:
    policy = RetryPolicy(jitter=0)
    waits = []
    for kept in range(10):
        failed = Failed(
            error=LIMITED, attempt=kept + 1, elapsed=0, voids=False, silences=0, asked=1e-3, kept=kept
        )
        wait = next_wait(policy, failed, low)
        assert wait is not None
        waits.append(wait.delay)
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]


def test_the_defaults_hold_a_wait_of_two_minutes_and_an_hour_in_all() -> None:
    def wait(asked: float, waited: float = 0.0) -> Wait | None:
        failed = Failed(
            error=LIMITED, attempt=1, elapsed=0, voids=False, silences=0, asked=asked, waited=waited
        )
        return next_wait(RetryPolicy(jitter=0), failed, low)

    assert wait(43) == Wait(43, False)
    assert wait(120) == Wait(120, False)
    assert wait(120.5) is None
    assert wait(100, waited=3500) == Wait(100, False)
    assert wait(100.5, waited=3500) is None
    assert wait(9_999_999_999) is None


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
    assert next_wait(RetryPolicy(jitter=0), failed, low) == Wait(0.5, True)


@pytest.mark.parametrize("error", HOPELESS, ids=lambda error: type(error).__name__)
def test_what_the_table_does_not(error: GeminiStreamsError) -> None:
    failed = Failed(error=error, attempt=1, elapsed=0, voids=True, silences=1)
    assert next_wait(RetryPolicy(jitter=0), failed, low) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_retry_after": -1},
        {"max_total_wait": math.inf},
        {"max_retry_after": "2"},
        {"max_continuations": -1},
        {"max_continuations": True},
        {"retry_finish": "STOP"},
        {"retry_finish": [""]},
        {"retry_finish": {5}},
        {"retry_finish": 5},
    ],
    ids=str,
)
def test_values_that_cannot_be_right(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match=rf"RetryPolicy\.{next(iter(wrong))} must be"):
        RetryPolicy(**wrong)
