"""The table of statuses: what can follow what."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_streams.messages import Status
from gemini_streams.streams.status import ENDED, FOLLOWS, follow

STATUSES: tuple[Status, ...] = get_args(Status)


def reachable(start: Status) -> set[Status]:
    found: set[Status] = {start}
    edge = [start]
    while edge:
        new = FOLLOWS[edge.pop()] - found
        found |= new
        edge += new
    return found


def test_the_table_knows_every_status_and_no_other() -> None:
    assert set(FOLLOWS) == set(STATUSES)
    assert set().union(*FOLLOWS.values()) <= set(STATUSES)
    assert set(STATUSES) >= ENDED


def test_nothing_follows_an_end_and_only_an_end_is_one() -> None:
    assert {status for status in STATUSES if not FOLLOWS[status]} == ENDED


def test_every_status_can_be_reached_and_each_leads_to_every_end() -> None:
    assert reachable("queued") == set(STATUSES)
    for status in STATUSES:
        if status not in ENDED:
            assert reachable(status) >= ENDED


def test_what_has_run_never_waits_for_a_slot_again() -> None:
    for status in STATUSES:
        assert "queued" not in FOLLOWS[status]


def test_any_stream_can_be_stopped_or_fail_at_any_time() -> None:
    for status in set(STATUSES) - ENDED:
        assert FOLLOWS[status] >= {"stopped", "error"}


def test_only_an_attempt_completes() -> None:
    assert {status for status in STATUSES if "completed" in FOLLOWS[status]} == {"starting", "active"}


@given(st.sampled_from(STATUSES), st.sampled_from(STATUSES))
def test_follow_goes_by_the_table(now: Status, then: Status) -> None:
    if then in FOLLOWS[now]:
        assert follow(now, then) == then
    else:
        with pytest.raises(AssertionError, match=f"{now} cannot become {then}"):
            follow(now, then)
