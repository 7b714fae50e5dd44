"""`StreamEvent.position`: a place in one run of a stream, to come back to."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import StartManager
from gemini_streams import (
    FROM_START,
    HistoryGoneError,
    InvalidRequestError,
    RetryPolicy,
    StreamComplete,
    StreamEvent,
    StreamRestarting,
    Subscribe,
    follow,
)
from gemini_streams.positions import Position
from gemini_streams.testing import LocalGemini, Reply, check_history
from kit.helpers import events_of, text_of
from pykka_supervisor.testing import Probe

KEPT = 1 << 20
Probes = Callable[[], Probe]


@given(st.integers(0, 2**32 - 1), st.integers(1, 999_999_999), st.integers(0, 10**15))
def test_a_position_is_read_as_it_was_written(run: int, attempt: int, sequence: int) -> None:
    position = Position(f"{run:08x}", attempt, sequence)
    text = str(position)
    assert Position.of(text) == position
    assert StreamEvent("s", attempt, sequence, {}, None, position.run).position == text
    assert re.fullmatch(r"[0-9a-f-]{12,40}", text)


@given(st.one_of(st.text(), st.from_regex(r"[0-9a-f]{7,9}-[0-9]{0,3}-[0-9]{0,3}")))
def test_anything_else_is_refused_in_words_that_are_short(text: str) -> None:
    try:
        assert str(Position.of(text)) == text
    except InvalidRequestError as refusal:
        assert len(str(refusal)) < 400  # noqa: PT017


def test_a_subscriber_comes_back_to_its_place(
    gemini: LocalGemini, manager: StartManager, probes: Probes
) -> None:
    gemini.on("why", Reply([f"{n} " for n in range(40)], hold_after=20))
    ref = manager(history=KEPT)
    first, second = probes(), probes()
    stream_id = ref.start_stream("why", subscriber=first.ref)
    first.expect(StreamEvent, lambda event: event.sequence == 19)
    seen = events_of(first)[7]
    ref.subscribe_stream(stream_id, second.ref, after=seen.position)
    gemini.gate("why").open()
    for probe in (first, second):
        probe.expect(StreamComplete)
    assert check_history(second.messages, after=seen.position, ended=True) == []
    assert [e.position for e in events_of(second)] == [e.position for e in events_of(first)[8:]]
    with follow(ref, stream_id, after=events_of(first)[37].position) as events:
        assert list(events.text_stream) == ["38 ", "39 "]


def test_a_place_whose_text_is_void_by_now_is_told_of_that(
    gemini: LocalGemini, manager: StartManager, probes: Probes
) -> None:
    gemini.on("why", Reply("a b c d", end="cut", end_after=3), Reply("e f g h", hold_after=2))
    ref = manager(history=KEPT, retry=RetryPolicy(initial_delay=0.0, jitter=0.0))
    first, back = probes(), probes()
    stream_id = ref.start_stream("why", subscriber=first.ref)
    seen = first.expect(StreamEvent, lambda event: event.sequence == 2)
    first.expect(StreamEvent, lambda event: (event.attempt, event.sequence) == (2, 1))
    ref.subscribe_stream(stream_id, back.ref, after=seen.position)
    restarting = back.expect(StreamRestarting)
    assert (restarting.attempt, restarting.resume_at, restarting.discard) == (2, 0, True)
    gemini.gate("why").open()
    back.expect(StreamComplete)
    assert text_of(back) == "e f g h"
    assert check_history(back.messages, after=seen.position, ended=True) == []


@pytest.mark.parametrize("ended", ["stopped", "forgotten"])
def test_a_place_in_another_run_is_gone(
    gemini: LocalGemini, manager: StartManager, probes: Probes, ended: str
) -> None:
    gemini.on("why", Reply("one two three", hold_after=2))
    ref = manager(history=KEPT, linger=60.0 if ended == "stopped" else 0.0)
    first, second = probes(), probes()
    ref.start_stream("why", subscriber=first.ref, stream_id="a")
    seen = first.expect(StreamEvent)
    assert ref.stop_stream("a")
    ref.start_stream("why", subscriber=second.ref, stream_id="a")
    again = second.expect(StreamEvent)
    assert (again.attempt, again.sequence) == (seen.attempt, seen.sequence)
    assert again.position != seen.position
    with Probe() as late:
        with pytest.raises(HistoryGoneError, match=r"earlier run.*FROM_START"):
            ref.subscribe_stream("a", late.ref, after=seen.position)
        with pytest.raises(HistoryGoneError):
            next(follow(ref, "a", after=seen.position))
        ref.subscribe_stream("a", late.ref, after=FROM_START)
        assert late.expect(StreamEvent).position == again.position


@pytest.mark.parametrize("after", ["", "nonsense", "00000000-0-0", "-1-0", (1,), (0, 0), 5, b"00000000-1-0"])
def test_what_is_no_place_is_refused(
    gemini: LocalGemini, manager: StartManager, probes: Probes, after: Any
) -> None:
    gemini.on("why", Reply("one", hold_after=0))
    ref = manager()
    stream_id = ref.start_stream("why", subscriber=probes().ref)
    with pytest.raises(InvalidRequestError, match="position"):
        ref.ask(Subscribe(stream_id, probes().ref, after))
