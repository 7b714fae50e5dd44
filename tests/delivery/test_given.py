"""What a last message counts: of a stream the events of its attempt, of an interaction all that stand."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gemini_streams.delivery.given import Given
from gemini_streams.errors import ConnectionLostError
from gemini_streams.messages import EventsDropped, StreamRestarting

STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "gap", "restart"]), st.integers(1, 4), st.integers(0, 6)), max_size=14
)


def put(into: Given, attempt: int, sequences: list[int], mark: object) -> None:
    """Do what a subscription does at each put."""
    if into.attempt != attempt:
        into.attempt, into.count = attempt, 0
    if into.first is None or sequences[0] < into.first:
        into.begin(sequences[0])
    into.count += len(sequences)
    into.top, into.mark = sequences[-1], mark


@settings(max_examples=300)
@given(STEPS, st.integers(0, 3))
def test_an_interaction_counts_what_stands(steps: list[tuple[str, int, int]], begins: int) -> None:
    counted = Given()
    stands: list[int] = []
    attempt, following = 1, begins
    for what, count, back in steps:
        if what == "put":
            sequences = list(range(following, following + count))
            put(counted, attempt, sequences, ("v1", object()))
            stands += sequences
            following += count
        elif what == "gap":
            counted.gap(EventsDropped("s", attempt, following, count))
            following += count
        else:
            attempt += 1
            following = max(begins, following - back)
            restart = StreamRestarting("s", attempt, following, 0.0, ConnectionLostError("cut"))
            assert counted.void(restart) == any(sequence >= following for sequence in stands)
            stands = [sequence for sequence in stands if sequence < following]
        if stands and max(stands) == counted.top:
            assert counted.events_count(attempt) == len(stands)


def test_any_other_stream_counts_its_attempt() -> None:
    counted = Given()
    put(counted, 1, [0, 1, 2], None)
    assert (counted.events_count(1), counted.events_count(2)) == (3, 0)
    counted.gap(EventsDropped("s", 1, 3, 2))
    assert counted.gaps == []  # or they grow for as long as the stream runs
    assert counted.void(StreamRestarting("s", 2, 0, 0.0, ConnectionLostError("cut")))
    put(counted, 2, [0], None)
    assert counted.events_count(2) == 1
