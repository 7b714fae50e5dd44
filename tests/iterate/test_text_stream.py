"""`text_stream`: pieces of text that stand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import StartManager
from gemini_streams import (
    ConnectionLostError,
    EventsDropped,
    FlowControl,
    GeminiStreamsError,
    IncompleteAnswerError,
    RetryPolicy,
    StreamEvent,
    StreamRestarting,
    astream,
    stream,
)
from gemini_streams.iterate.pieces import Pieces
from gemini_streams.testing import Failure, LocalGemini, LongAnswer, Reply
from kit.helpers import eventually

QUICK = RetryPolicy(initial_delay=0.0, jitter=0.0)


def read_blocking(manager: Any, got: list[str], **options: Any) -> None:
    with stream(manager, "why", **options) as events:
        for piece in events.text_stream:
            got.append(piece)  # noqa: PERF402 - what had come before an error counts
        assert events.answer.ok


def read_async(manager: Any, got: list[str], **options: Any) -> None:
    async def main() -> None:
        async with astream(manager, "why", **options) as events:
            async for piece in events.text_stream:
                got.append(piece)  # noqa: PERF401
            assert events.answer.ok

    asyncio.run(main())


both = pytest.mark.parametrize("read", [read_blocking, read_async], ids=["stream", "astream"])
Read = Callable[..., None]


@both
def test_the_pieces_are_the_answer(gemini: LocalGemini, manager: StartManager, read: Read) -> None:
    thought = {"candidates": [{"content": {"parts": [{"text": "hm", "thought": True}]}}]}
    gemini.on("why", Reply([thought, "one", " two", " three"]))
    got: list[str] = []
    read(manager(), got, heartbeat=0.001)
    assert got == ["one", " two", " three"]


@both
def test_restarts_before_the_first_piece_are_silent(
    gemini: LocalGemini, manager: StartManager, read: Read
) -> None:
    thought = {"candidates": [{"content": {"parts": [{"text": "hm", "thought": True}]}}]}
    gemini.on(
        "why", Failure(503), Reply([thought, "one", " two"], end="reset", end_after=1), Reply("three four")
    )
    got: list[str] = []
    read(manager(retry=QUICK), got)
    assert got == ["three", " four"]


@both
def test_a_restart_that_voids_text_raises_what_broke_the_stream_and_leaves_it(
    gemini: LocalGemini, manager: StartManager, read: Read
) -> None:
    gemini.on("why", Reply("one two three", end="reset", end_after=2), Reply("four five", hold_after=1))
    ref = manager(retry=RetryPolicy(initial_delay=30.0, jitter=0.0))
    got: list[str] = []
    with pytest.raises(ConnectionLostError) as caught:
        read(ref, got)
    assert got == ["one", " two"]
    assert "is void" in caught.value.__notes__[0]
    eventually(lambda: ref.get_stats().stopped == 1)
    assert len(gemini.requests) == 1  # nobody waits for the second attempt: it is not paid for


def test_what_raises_has_left_the_stream_also_without_with(
    gemini: LocalGemini, manager: StartManager
) -> None:
    gemini.on("why", Reply("one two three", end="reset", end_after=2), Reply("four five", hold_after=1))
    ref = manager(retry=RetryPolicy(initial_delay=30.0, jitter=0.0))

    events = stream(ref, "why")
    with pytest.raises(ConnectionLostError):
        list(events.text_stream)
    eventually(lambda: ref.get_stats().stopped == 1)

    async def main() -> None:
        events = astream(ref, "why")
        with pytest.raises(ConnectionLostError):
            async for _ in events.text_stream:
                pass
        await asyncio.to_thread(lambda: eventually(lambda: ref.get_stats().stopped == 2))

    gemini.on("why", Reply("one two three", end="reset", end_after=2))
    asyncio.run(main())


@both
def test_a_restart_that_voids_nothing_that_was_given_is_silent(
    gemini: LocalGemini, manager: StartManager, read: Read
) -> None:
    """A continuation token: the answer goes on behind it."""
    text = " ".join(f"w{n}" for n in range(30))
    gemini.on("why", LongAnswer(text, hops=1, checkpoint_every=5, cut_at=[15]))
    got: list[str] = []
    read(manager(retry=QUICK), got)
    assert "".join(got) == text


@both
def test_dropped_events_raise(gemini: LocalGemini, manager: StartManager, read: Read) -> None:
    gemini.on("why", Reply([f"{n} " for n in range(2000)]))
    with pytest.raises(IncompleteAnswerError, match="left out by flow control"):
        read(manager(), [], flow=FlowControl(window=4, overflow="drop_newest"))


@both
def test_a_stream_that_fails_raises_its_error(gemini: LocalGemini, manager: StartManager, read: Read) -> None:
    gemini.on("why", Reply("one two", end="cut", end_after=1))
    got: list[str] = []
    with pytest.raises(ConnectionLostError):
        read(manager(retry=RetryPolicy(attempts=1)), got)
    assert got == ["one"]


def test_it_needs_no_with_and_can_be_taken_up_again(gemini: LocalGemini, manager: StartManager) -> None:
    gemini.on("why", Reply("one two three"))
    assert list(stream(manager(), "why").text_stream) == ["one", " two", " three"]
    events = stream(manager(), "why")
    assert next(events.text_stream) == "one"
    assert next(iter(events.text_stream)) == " two"
    assert list(events.text_stream) == [" three"]
    assert events.answer.text == "one two three"


# -- any history -----------------------------------------------------------------------------------------------------

step = st.one_of(
    st.tuples(st.just("event"), st.sampled_from(["a", "b", ""])),
    st.tuples(st.just("restart"), st.integers(0, 8)),
    st.tuples(st.just("silence"), st.none()),
    st.tuples(st.just("dropped"), st.integers(1, 3)),
)


@given(st.lists(step, max_size=20))
def test_what_was_given_always_stands(steps: list[tuple[str, Any]]) -> None:
    pieces, given_text = Pieces(), ""
    standing: dict[int, str] = {}
    following, attempt = 0, 1
    for kind, what in steps:
        item: Any = None
        must_raise = False
        if kind == "event":
            parts = [{"text": what}] if what else []
            item = StreamEvent("s", attempt, following, {"candidates": [{"content": {"parts": parts}}]})
            standing[following] = what
            following += 1
        elif kind == "restart":
            resume_at, attempt = min(what, following), attempt + 1
            item = StreamRestarting("s", attempt, resume_at, 0.0, ConnectionLostError("lost"))
            must_raise = any(text for sequence, text in standing.items() if sequence >= resume_at)
            standing = {n: text for n, text in standing.items() if n < resume_at}
            following = resume_at
        elif kind == "dropped":
            item, must_raise = EventsDropped("s", attempt, following, what), True
        if must_raise:
            with pytest.raises(GeminiStreamsError):
                pieces.of(item)
            return
        given_text += pieces.of(item)
        assert given_text == "".join(standing[n] for n in sorted(standing))
