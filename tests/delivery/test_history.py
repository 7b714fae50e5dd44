"""A stream's history against a plain list: what is kept, what it costs, what a replay gives, cuts and drops."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_streams import FROM_START, HistoryGoneError
from gemini_streams.delivery import history as module
from gemini_streams.delivery.history import ALL_KEPT, History, Replay

SIZES = st.lists(st.sampled_from([1, 2, 2, 2, 7, 30, 300]), min_size=1, max_size=9)
STEPS = st.lists(
    st.one_of(st.tuples(st.just("remember"), SIZES), st.tuples(st.just("restart"), st.integers(0, 60))),
    max_size=25,
)


def payload(number: int, size: int) -> bytes:
    return (b"%d," % number * size)[:size]


def replayed(replay: Replay | None) -> list[tuple[int, bytes]]:
    """All of a replay, one by one; what it says of itself must be right at each step."""
    found: list[tuple[int, bytes]] = []
    while replay is not None and replay.count:
        first, count, size, next_size = replay.first, replay.count, replay.size, replay.next_size
        taken = replay.take()
        assert (len(taken), replay.count, replay.size) == (next_size, count - 1, size - next_size)
        found.append((first, taken))
    return found


@pytest.mark.parametrize("events", [2, 3, 2048])
@given(steps=STEPS, limit=st.sampled_from([0, 1, 20, 100, 1000]), data=st.data())
def test_it_is_a_list_of_the_latest_events(
    events: int, steps: list[tuple[str, Any]], limit: int, data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_EVENTS", events)
        history = History(limit)
        kept: list[tuple[int, bytes]] = []
        number, attempt, total = 0, 1, 0
        for step, value in steps:
            if step == "remember":
                new = [(number + n, payload(total + n, size)) for n, size in enumerate(value)]
                history.remember(number, [each for _, each in new])
                number += len(value)
                total += len(value)
                kept += new
            else:
                number = min(value, number)
                attempt += 1
                history.restart(attempt, number)
                kept = [entry for entry in kept if entry[0] < number]
            oldest = number if history.oldest is None else history.oldest
            before = len(kept)
            kept = [entry for entry in kept if entry[0] >= oldest]
            size = sum(len(each) for _, each in kept)
            assert [entry[0] for entry in kept] == list(range(oldest, number))
            assert size <= history.cost <= limit
            assert size + 4 * len(kept) >= history.cost
            if before > len(kept):  # no more than has to is left out
                assert history.cost + 300 + 4 * 9 > limit
            _, replay = history.missed(ALL_KEPT, attempt, number, attempt)
            assert replayed(replay) == kept
            if oldest and number:
                with pytest.raises(HistoryGoneError):
                    history.missed(FROM_START, attempt, number, attempt)
        if not kept:
            return
        start = data.draw(st.integers(kept[0][0], number - 1))
        _, replay = history.missed((attempt, start - 1), attempt, number, attempt)
        assert replay is not None
        assert (replay.first, replay.count, replay.attempt) == (start, number - start, attempt)
        model = [entry for entry in kept if entry[0] >= start]
        for _ in range(data.draw(st.integers(0, 3))):
            if not model:
                break
            what = data.draw(st.sampled_from(["take", "cut", "drop"]))
            if what == "take":
                assert (replay.first, replay.take()) == model.pop(0)
            elif what == "cut":
                end = data.draw(st.integers(model[0][0], model[-1][0] + 2))
                void = [entry for entry in model if entry[0] >= end]
                model = [entry for entry in model if entry[0] < end]
                assert replay.cut(end) == sum(len(each) for _, each in void)
            else:
                count, size, most = (data.draw(st.integers(0, 400)) for _ in range(3))
                dropped, dropped_bytes = replay.drop(count, size, most)
                gone, model = model[:dropped], model[dropped:]
                assert dropped <= most
                assert dropped_bytes == sum(len(each) for _, each in gone)
                enough = dropped >= count and dropped_bytes >= size
                assert enough or dropped == most or not model
                if dropped and (dropped > count):  # the last one was still wanted
                    assert dropped_bytes - len(gone[-1][1]) < size
            assert replay.count == len(model)
            assert replay.size == sum(len(each) for _, each in model)
        assert replayed(replay) == model
        _, untouched = history.missed(ALL_KEPT, attempt, number, attempt)
        assert replayed(untouched) == kept  # what one subscriber takes is another's as well


@pytest.mark.parametrize("sizes", [[2], [2, 3], [300, 2], [250], [70_000]], ids=str)
def test_it_costs_what_it_counts_but_for_a_constant(sizes: list[int]) -> None:
    limit = 1 << 19
    gc.collect()
    tracemalloc.start()
    try:
        history = History(limit)
        number = 0
        while number * sum(sizes) / len(sizes) < 1.5 * limit:
            payloads = [payload(number + n, sizes[n % len(sizes)]) for n in range(40)]
            history.remember(number, payloads)
            number += len(payloads)
        del payloads
        gc.collect()
        memory, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.8 * limit < history.cost <= limit
    assert memory < 1.2 * limit + 200_000
