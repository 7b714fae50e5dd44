from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemini_streams.errors import APIError, ConnectionLostError, SlowSubscriberError
from gemini_streams.messages import (
    EventsDropped,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
)
from gemini_streams.options import FROM_START, After
from gemini_streams.testing import Violation, check_history

LOST = ConnectionLostError("lost")
quickly = settings(max_examples=60, deadline=None)


def event(sequence: int, attempt: int = 1, stream: str = "s", tag: Any = None, **data: Any) -> StreamEvent:
    return StreamEvent(stream, attempt, sequence, data, tag)


def run(start: int, stop: int, attempt: int = 1) -> list[object]:
    return [event(sequence, attempt) for sequence in range(start, stop)]


def restart(attempt: int, resume_at: int, discard: bool, stream: str = "s") -> StreamRestarting:
    return StreamRestarting(stream, attempt, resume_at, 0.5, LOST, None, discard)


def dropped(first: int, count: int, attempt: int = 1) -> EventsDropped:
    return EventsDropped("s", attempt, first, count)


def complete(
    events: int, attempts: int = 1, reason: str | None = "STOP", stream: str = "s"
) -> StreamComplete:
    return StreamComplete(stream, events, reason, None, None, attempts, 1.0, 0.1)


def failed(events: int, attempts: int = 1, error: Exception = LOST) -> StreamError:
    return StreamError("s", error, events, None, attempts, 1.0)  # type: ignore[arg-type]


def stopped(events: int, attempts: int = 1) -> StreamStopped:
    return StreamStopped("s", "requested", events, None, attempts, 1.0)


def broken(messages: Sequence[object], **how: Any) -> set[int]:
    return {violation.guarantee for violation in check_history(messages, **how)}


# -- histories that keep the guarantees


@pytest.mark.parametrize(
    ("messages", "how"),
    [
        ([], {}),
        (run(0, 3), {}),
        ([*run(0, 3), complete(3)], {"ended": True}),
        ([complete(0)], {"ended": ["s"]}),
        ([failed(0, error=APIError(404))], {"ended": True}),
        ([stopped(0, attempts=0)], {"ended": True}),
        ([object(), *run(0, 1), "anything", complete(1)], {"ended": True}),
        # restarts
        ([*run(0, 3), restart(2, 0, True), *run(0, 4, 2), complete(4, 2)], {"ended": True}),
        ([*run(0, 3), restart(2, 3, False), *run(3, 5, 2), complete(2, 2)], {"ended": True}),
        ([*run(0, 3), restart(2, 2, True), *run(2, 5, 2), complete(3, 2)], {"ended": True}),
        ([restart(2, 0, False), restart(3, 0, False), failed(0, 3)], {"ended": True}),
        ([*run(0, 3), restart(2, 0, True), stopped(3, 1)], {"ended": True}),
        ([*run(0, 3), restart(2, 0, True), stopped(0, 2)], {"ended": True}),
        # drops
        ([*run(0, 2), dropped(2, 3), *run(5, 7), complete(4)], {"ended": True}),
        ([dropped(0, 3), *run(3, 5), dropped(5, 1), dropped(6, 2), complete(2)], {"ended": True}),
        ([dropped(0, 5), restart(2, 3, False), *run(3, 5, 2), complete(2, 2)], {"ended": True}),
        ([*run(0, 2), dropped(2, 3), restart(2, 4, False), *run(4, 5, 2), complete(1, 2)], {"ended": True}),
        # those who come later
        ([*run(7, 9, 2), complete(2, 2)], {"first": None}),
        ([*run(7, 9), complete(2)], {"first": 7}),
        ([restart(3, 5, False), *run(5, 7, 3), complete(2, 3)], {"first": None}),
        ([complete(0, 3)], {"first": None}),
        ([*run(7, 9), restart(2, 8, True), *run(8, 9, 2), complete(1, 2)], {"first": None}),
        ([*run(0, 4, 3), complete(4, 3)], {"after": FROM_START}),
        ([*run(0, 2), *run(2, 4, 2), complete(4, 2)], {"after": FROM_START}),
        ([*run(5, 7), complete(2)], {"after": (1, 4)}),
        ([*run(5, 7), *run(7, 9, 2), complete(2, 2)], {"after": {"s": (1, 4), "t": None}}),
        ([restart(3, 2, True), *run(2, 9, 3), complete(7, 3)], {"after": (1, 4)}),
        ([complete(0, 2)], {"after": (1, 4)}),
        # the slow
        ([*run(0, 2), failed(2, error=SlowSubscriberError("slow"))], {"ended": True}),
    ],
)
def test_histories_that_keep_the_guarantees(messages: list[object], how: dict[str, Any]) -> None:
    assert check_history(messages, **how) == []


# -- histories that break one


@pytest.mark.parametrize(
    ("guarantee", "messages", "how"),
    [
        (0, [event(0, tag="a"), event(1, tag="b")], {}),
        (0, [event(0, tag="a"), complete(1)], {}),
        # one last message
        (1, run(0, 3), {"ended": True}),
        (1, [], {"ended": ["s"]}),
        (1, [*run(0, 1), complete(1), event(1)], {}),
        (1, [complete(0), complete(0)], {}),
        (1, [stopped(0), restart(2, 0, False)], {}),
        (1, [complete(0), dropped(0, 1)], {}),
        # order
        (2, [event(1)], {}),
        (2, [event(0, attempt=0)], {}),
        (2, [event(0, attempt=2)], {}),
        (2, [event(0), event(2)], {}),
        (2, [event(0), event(0)], {}),
        (2, [event(0), event(2), event(1)], {}),
        (2, [*run(0, 3), event(3, 2)], {}),
        (2, [*run(0, 3), *run(0, 3, 2)], {}),
        (2, [*run(0, 3), restart(2, 3, False), event(3, 1)], {}),
        (2, [*run(0, 3), restart(2, 1, True), *run(0, 2, 2)], {}),
        (2, [*run(0, 3), restart(2, 1, True), *run(3, 5, 2)], {}),
        (2, [*run(0, 3), restart(2, 4, False)], {}),
        (2, [*run(0, 3), restart(2, -1, True)], {}),
        (2, [*run(0, 3), restart(1, 3, False)], {}),
        (2, [restart(1, 0, False)], {"first": None}),
        (2, [*run(0, 3), restart(2, 0, True), restart(2, 0, False)], {}),
        (2, [*run(0, 3), restart(2, 0, False)], {}),
        (2, [*run(0, 3), restart(2, 3, True)], {}),
        (2, [restart(2, 0, False), dropped(0, 1, 1)], {}),
        (2, [*run(0, 3), complete(3, attempts=2)], {}),
        (2, [*run(0, 3), restart(2, 3, False), event(3, 2), complete(1, attempts=1)], {}),
        (2, [event(4)], {"first": 5}),
        (2, [event(6)], {"after": (1, 4)}),
        (2, [event(1)], {"after": FROM_START}),
        (2, [restart(2, 2, False)], {"after": (1, 4)}),
        (2, [*run(5, 7), event(9, 2)], {"after": (1, 4)}),
        (2, [restart(2, 5, False), *run(5, 6, 2), event(6, 3)], {"after": (1, 4)}),
        # nothing is left out in silence
        (3, [*run(0, 2), dropped(3, 1), event(4)], {}),
        (3, [*run(0, 2), dropped(1, 1), event(2)], {}),
        (3, [*run(0, 2), dropped(2, 0), event(2)], {}),
        (3, [*run(0, 2), complete(3)], {}),
        (3, [*run(0, 2), restart(2, 2, False), event(2, 2), complete(3, 2)], {}),
        (3, [*run(0, 2), complete(2, reason=None)], {}),
        # errors
        (4, [failed(0), failed(0)], {}),
        (4, [restart(3, 0, False)], {}),
        (4, [event(0, error={"code": 503})], {}),
        (4, [failed(0, error=None)], {}),  # type: ignore[arg-type]
        (4, [msgspec.structs.replace(restart(2, 0, False), error=None)], {}),
        # others' troubles
        (5, [*run(0, 2), failed(2, error=SlowSubscriberError("slow"))], {"quick": True}),
    ],
)
def test_histories_that_break_a_guarantee(
    guarantee: int, messages: list[object], how: dict[str, Any]
) -> None:
    found = broken(messages, **how)
    assert guarantee in found
    assert found <= {guarantee, 1} or guarantee in (2, 3), "and no other guarantee is blamed for it"


def test_a_violation_says_where() -> None:
    (violation,) = check_history([object(), event(0), event(2)])
    assert violation == Violation(2, "s", 2, violation.text)
    assert "guarantee 2, stream s, message 2: a gap: 1 event" in str(violation)


def test_streams_are_looked_at_one_by_one() -> None:
    mixed = [event(0), event(0, stream="t"), event(1, stream="t"), complete(1), event(3, stream="t")]
    assert [(v.stream_id, v.guarantee, v.index) for v in check_history(mixed, ended=True)] == [
        ("t", 2, 4),
        ("t", 1, 5),
    ]


# -- any history


@dataclass
class History:
    """What one subscriber received of one stream, and how it had subscribed."""

    messages: list[Any] = field(default_factory=list)
    first: int | None = 0
    after: After = None


JOINS = ("no", "no", "live", "known", "after")


@st.composite
def histories(draw: st.DrawFn, stream: str = "s", *, joins: tuple[str, ...] = JOINS) -> History:
    """Run a stream with faults and drops, and record what a subscriber that may join late receives."""
    tag = draw(st.sampled_from([None, "tag", 7]))
    attempts = draw(st.integers(1, 4))
    wire: list[Any] = []  # what the stream would put into an inbox that is there from the start
    upcoming = 0
    for attempt in range(1, attempts + 1):
        for _ in range(draw(st.integers(0, 5))):
            kind = draw(st.sampled_from(["event", "event", "event", "drop"]))
            if kind == "event":
                wire.append(StreamEvent(stream, attempt, upcoming, {}, tag))
                upcoming += 1
            else:
                count = draw(st.integers(1, 3))
                wire.append(EventsDropped(stream, attempt, upcoming, count, tag))
                upcoming += count
        if attempt < attempts:
            upcoming = draw(st.integers(0, upcoming))
            wire.append(StreamRestarting(stream, attempt + 1, upcoming, 0.0, LOST, tag))
    history = History()
    late = draw(st.sampled_from(joins))
    at = draw(st.integers(0, len(wire))) if late != "no" else 0
    seen: list[int] = []
    if late != "no":
        history.first = None
        rest = [message for message in wire[at:] if isinstance(message, StreamEvent)]
        before = [message for message in wire[:at] if isinstance(message, StreamEvent)]
        if late == "known" and rest and wire[at] is rest[0] and rest[0].sequence > 0:
            history.first = rest[0].sequence
        elif late == "after" and before and wire[at - 1] is before[-1]:
            history.after = (before[-1].attempt, before[-1].sequence)
            seen = [before[-1].sequence]
    for message in wire[at:]:
        taken = message
        if isinstance(message, StreamEvent):
            seen.append(message.sequence)
        elif isinstance(message, StreamRestarting):
            void = [sequence for sequence in seen if sequence >= message.resume_at]
            seen = [sequence for sequence in seen if sequence < message.resume_at]
            taken = msgspec.structs.replace(message, discard=bool(void))
        history.messages.append(taken)
    attempt = attempts
    if attempts > 1 and wire[-1].attempt == attempts and isinstance(wire[-1], StreamRestarting):
        attempt -= draw(st.integers(0, 1))  # ended while it waited: the announced attempt may count or not
    count = sum(isinstance(m, StreamEvent) and m.attempt == attempt for m in history.messages)
    last = draw(
        st.sampled_from(
            [
                StreamComplete(stream, count, "STOP", None, None, attempt, 1.0, None, tag),
                StreamComplete(stream, count, None, "SAFETY", None, attempt, 1.0, None, tag),
                StreamError(stream, LOST, count, None, attempt, 1.0, tag),
                StreamStopped(stream, "shutdown", count, None, attempt, 1.0, tag),
            ]
        )
    )
    history.messages.append(last)
    return history


@quickly
@given(histories())
def test_valid_histories_have_no_violations(history: History) -> None:
    assert check_history(history.messages, first=history.first, after=history.after, ended=True) == []


@quickly
@given(histories())
def test_every_beginning_of_a_valid_history_is_valid(history: History) -> None:
    for length in range(len(history.messages)):
        assert check_history(history.messages[:length], first=history.first, after=history.after) == []


@quickly
@given(
    histories("a", joins=("no", "after")),
    histories("b", joins=("no", "after")),
    st.randoms(use_true_random=False),
)
def test_streams_may_stand_between_each_other(one: History, two: History, random: Any) -> None:
    first = 0 if one.first == two.first == 0 else None
    mixed: list[Any] = []
    left = [list(one.messages), list(two.messages)]
    while any(left):
        mixed.append(random.choice([queue for queue in left if queue]).pop(0))
    assert check_history(mixed, first=first, after={"a": one.after, "b": two.after}, ended=True) == []


# Takes a history and an index; answers the guarantees one of which must be broken, None: not possible there.
Mutation = Callable[[list[Any], int], tuple[list[Any], set[int]] | None]


def goes_on(messages: list[Any], index: int) -> bool:
    """Whether an event or a drop follows at once: only then can it be told what stood at `index`."""
    return index + 1 < len(messages) and isinstance(messages[index + 1], StreamEvent | EventsDropped)


def again(messages: list[Any], index: int) -> tuple[list[Any], set[int]]:
    copy = messages[index]
    kind = (
        3 if isinstance(copy, EventsDropped) else 2 if isinstance(copy, StreamEvent | StreamRestarting) else 1
    )
    return [*messages[: index + 1], copy, *messages[index + 1 :]], {kind}


def left_out(messages: list[Any], index: int) -> tuple[list[Any], set[int]] | None:
    if isinstance(messages[index], StreamEvent | EventsDropped) and not goes_on(messages, index):
        return None  # the last of an attempt that failed: nobody can miss it
    if isinstance(messages[index], StreamRestarting) and index == len(messages) - 2:
        return None  # told or not, it did not begin
    return [*messages[:index], *messages[index + 1 :]], {1, 2, 3, 4}


def swapped(messages: list[Any], index: int) -> tuple[list[Any], set[int]] | None:
    if index == len(messages) - 1:
        return None
    return [*messages[:index], messages[index + 1], messages[index], *messages[index + 2 :]], {1, 2, 3, 4}


def with_fields(guarantees: set[int], kind: type, change: Callable[[Any], dict[str, Any]]) -> Mutation:
    def mutate(messages: list[Any], index: int) -> tuple[list[Any], set[int]] | None:
        if not isinstance(messages[index], kind):
            return None
        changed = msgspec.structs.replace(messages[index], **change(messages[index]))
        return [*messages[:index], changed, *messages[index + 1 :]], guarantees

    return mutate


def miscounted_drop(messages: list[Any], index: int) -> tuple[list[Any], set[int]] | None:
    if not goes_on(messages, index):
        return None
    return with_fields({2, 3}, EventsDropped, lambda m: {"count": m.count + 1})(messages, index)


MUTATIONS: dict[str, Mutation] = {
    "again": again,
    "left out": left_out,
    "swapped": swapped,
    "sequence up": with_fields({2}, StreamEvent, lambda m: {"sequence": m.sequence + 1}),
    "sequence down": with_fields({2}, StreamEvent, lambda m: {"sequence": m.sequence - 1}),
    "attempt up": with_fields({2}, StreamEvent, lambda m: {"attempt": m.attempt + 1}),
    "attempt down": with_fields({2}, StreamEvent, lambda m: {"attempt": m.attempt - 1}),
    "an error as event": with_fields({4}, StreamEvent, lambda _: {"data": {"error": {"code": 500}}}),
    "drop elsewhere": with_fields({3}, EventsDropped, lambda m: {"first_sequence": m.first_sequence + 1}),
    "drop miscounted": miscounted_drop,
    "discard": with_fields({2}, StreamRestarting, lambda m: {"discard": not m.discard}),
    "restart skips": with_fields({4}, StreamRestarting, lambda m: {"attempt": m.attempt + 1}),
    "restart repeats": with_fields({2}, StreamRestarting, lambda m: {"attempt": m.attempt - 1}),
    "another tag": with_fields({0}, StreamEvent, lambda _: {"tag": "another"}),
    "miscounted": lambda messages, index: (
        [*messages[:-1], msgspec.structs.replace(messages[-1], events_count=messages[-1].events_count + 1)],
        {3},
    ),
    "attempts": lambda messages, index: (
        [*messages[:-1], msgspec.structs.replace(messages[-1], attempts=messages[-1].attempts + 2)],
        {2},
    ),
    "no last message": lambda messages, index: (messages[:-1], {1}) if len(messages) > 1 else None,
    "more after the last": lambda messages, index: ([*messages, messages[0]], {1}),
    "truncated": lambda messages, index: (
        (
            [*messages[:-1], msgspec.structs.replace(messages[-1], finish_reason=None, block_reason=None)],
            {3},
        )
        if isinstance(messages[-1], StreamComplete)
        else None
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_valid_history_that_is_broken_has_a_violation(name: str) -> None:
    found = 0

    @quickly
    @given(histories(joins=("no",)), st.data())
    def check(history: History, data: st.DataObject) -> None:
        nonlocal found
        possible = [
            mutated
            for index in range(len(history.messages))
            if (mutated := MUTATIONS[name](history.messages, index)) is not None
        ]
        if possible:
            messages, guarantees = data.draw(st.sampled_from(possible))
            if name == "another tag" and len(messages) == 1:
                return
            assert guarantees & broken(messages, ended=["s"])
            found += 1

    check()
    assert found > 10
