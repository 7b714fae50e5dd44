"""What stands of an answer over a stream's requests: where it goes on, and which tokens count."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_streams.errors import ConnectionLostError, FirstEventTimeoutError, StreamTruncatedError
from gemini_streams.streams.progress import Progress

POINT = cast("Any", object())
COUNTS = st.integers(1, 1000)


def tokens(count: int) -> dict[str, Any]:
    return {"totalTokenCount": count}


def test_without_a_resume_point_nothing_stands() -> None:
    progress = Progress()
    assert progress.resume_at == 0
    progress.reached(POINT, 7)
    assert (progress.resume, progress.resume_at) == (POINT, 7)


@given(st.lists(COUNTS, min_size=1, max_size=6))
def test_the_tokens_of_all_requests_that_go_on_with_an_answer_count(counts: list[int]) -> None:
    progress = Progress()
    for count in counts[:-1]:
        progress.go_on(100, progress.usage(tokens(count)))
    assert progress.usage(tokens(counts[-1])) == tokens(sum(counts))


@given(COUNTS, COUNTS, st.integers(0, 5))
def test_a_failed_request_counts_where_a_part_of_its_answer_stands(
    one: int, two: int, resume_at: int
) -> None:
    progress = Progress()
    progress.go_on(1, tokens(one))
    progress.keep(tokens(two), resume_at)
    assert progress.usage(None) == (tokens(one + two) if resume_at else None)


def test_no_more_requests_than_the_policy_allows_go_on_with_an_answer() -> None:
    progress = Progress()
    progress.go_on(2, None)
    progress.go_on(2, None)
    with pytest.raises(StreamTruncatedError, match="max_continuations") as refused:
        progress.go_on(2, None)
    assert not refused.value.retryable


def test_only_a_silence_before_the_first_event_is_one() -> None:
    progress = Progress()
    progress.failed(ConnectionLostError("cut"))
    progress.failed(FirstEventTimeoutError("silent"))
    assert progress.silences == 1
