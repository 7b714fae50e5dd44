"""Iterators that leave, join and share a stream: leaving is unsubscribing; a start that joins is given what is kept."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from conftest import StartManager
from gemini_streams import (
    FROM_START,
    FlowControl,
    HistoryGoneError,
    InvalidRequestError,
    StartStream,
    StreamComplete,
    StreamEndedError,
    StreamEvent,
    StreamNotFoundError,
    StreamRestarting,
    StreamStopped,
    afollow,
    astream,
    follow,
    stream,
)
from gemini_streams.testing import LocalGemini, Reply, check_history
from kit.helpers import LAST, eventually, last_of
from pykka_supervisor.testing import Probe

KEPT = 1 << 20


def texts(items: list[Any]) -> str:
    return "".join(item.text for item in items if isinstance(item, StreamEvent))


# -- leaving ---------------------------------------------------------------------------------------------------------


def _break_stream(manager: Any, **how: Any) -> None:
    with stream(manager, "why", **how) as events:
        next(events)


def _break_astream(manager: Any, **how: Any) -> None:
    async def main() -> None:
        async with astream(manager, "why", **how) as events:
            await anext(events)

    asyncio.run(main())


leaves = pytest.mark.parametrize("leave", [_break_stream, _break_astream], ids=["stream", "astream"])


@leaves
def test_one_that_leaves_ends_nobody_elses_stream(
    gemini: LocalGemini, manager: StartManager, probe: Probe, leave: Callable[..., None]
) -> None:
    gemini.on("why", Reply("one two three", hold_after=1))
    ref = manager(history=KEPT)
    ref.start_stream("why", subscriber=probe.ref, stream_id="shared")
    probe.expect(StreamEvent)
    leave(ref, stream_id="shared")
    eventually(lambda: ref.get_stats().total_subscribers == 1)
    gemini.gate("why").open()
    assert isinstance(last_of(probe), StreamComplete)
    assert len(gemini.requests) == 1


@leaves
def test_the_last_one_that_leaves_ends_it(
    gemini: LocalGemini, manager: StartManager, leave: Callable[..., None]
) -> None:
    gemini.on("why", Reply("one two three", hold_after=1))
    ref = manager()
    leave(ref)
    gemini.wait_request(1).wait_closed()
    assert gemini.requests[0].client_closed
    eventually(lambda: ref.get_stats().stopped == 1)


def test_cancel_ends_it_for_everybody(gemini: LocalGemini, manager: StartManager, probe: Probe) -> None:
    gemini.on("why", Reply("one two three", hold_after=1))
    ref = manager(keep=60.0)
    with stream(ref, StartStream("why", subscriber=probe.ref)) as events:
        next(events)
        events.cancel()
        assert list(events) == []
    last = last_of(probe)
    assert (type(last), last.reason) == (StreamStopped, "requested")


def test_a_kept_stream_is_joined_again(gemini: LocalGemini, manager: StartManager) -> None:
    gemini.on("why", Reply("one two three", hold_after=1))
    ref = manager(keep=60.0, history=KEPT)
    with stream(ref, "why", stream_id="a") as events:
        assert isinstance(next(events), StreamEvent)
    eventually(lambda: ref.get_stats().total_subscribers == 0)
    gemini.gate("why").open()
    with stream(ref, "why", stream_id="a") as events:
        assert texts(list(events)) == "one two three"
        assert events.answer.ok
    assert len(gemini.requests) == 1


def test_closed_and_left_twice(gemini: LocalGemini, manager: StartManager) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager()
    with stream(ref, "why") as events:
        next(events)
        events.close()
        events.close()
        with pytest.raises(StopIteration):
            next(events)
    never = stream(ref, "why")
    never.close()
    assert list(never) == []
    assert ref.get_stats().started == 1

    async def main() -> None:
        events = astream(ref, "why")
        await anext(events)
        await events.aclose()
        await events.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(events)

    asyncio.run(main())
    eventually(lambda: ref.get_stats().stopped == 2)


def test_close_wakes_a_thread_that_waits(gemini: LocalGemini, manager: StartManager) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    events = stream(manager(), "why")
    got: list[Any] = []
    helper = threading.Thread(target=lambda: got.extend(events))
    helper.start()
    eventually(lambda: got)
    events.close()
    helper.join(20)
    assert not helper.is_alive()
    assert texts(got) == "one"


# -- a start that joins ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ended", [False, True])
def test_a_start_that_joins_is_given_what_is_kept(
    gemini: LocalGemini, manager: StartManager, probes: Callable[[], Probe], ended: bool
) -> None:
    gemini.on("why", Reply("one two three", hold_after=2))
    ref = manager(history=KEPT)
    first, second = probes(), probes()
    ref.start_stream("why", subscriber=first.ref, stream_id="a")
    first.expect(StreamEvent, lambda event: event.sequence == 1)
    if ended:
        gemini.gate("why").open()
        first.expect(StreamComplete)
    ref.start_stream("why", subscriber=second.ref, stream_id="a")
    ref.start_stream("why", subscriber=second.ref, stream_id="a")  # its answer was lost: once more
    gemini.gate("why").open()
    second.expect(StreamComplete)
    eventually(lambda: any(isinstance(message, StreamComplete) for message in first.messages))
    for probe in (first, second):
        assert check_history(probe.messages, after=FROM_START, ended=True) == []
        assert texts(probe.messages) == "one two three"
    ref.start_stream("why", subscriber=second.ref, stream_id="a")  # it has had the end
    ref.get_stats()
    assert sum(isinstance(message, LAST) for message in second.messages) == 1
    assert len(gemini.requests) == 1


@pytest.mark.parametrize("history", [0, 300])
def test_a_start_that_joins_is_given_the_rest_where_the_start_is_not_kept(
    gemini: LocalGemini, manager: StartManager, probes: Callable[[], Probe], history: int
) -> None:
    gemini.on("why", Reply("a b c d e f", hold_after=5))
    ref = manager(history=history)
    first = probes()
    ref.start_stream("why", subscriber=first.ref, stream_id="a")
    first.expect(StreamEvent, lambda event: event.sequence == 4)
    with stream(ref, "why", stream_id="a") as events:
        gemini.gate("why").open()
        items: list[Any] = list(events)
        assert items[-1].sequence == 5
        assert check_history(items, first=None) == []
        assert events.answer.missing == items[0].sequence > 0
        assert events.answer.error is not None
    last_of(first)


def test_a_start_that_joins_after_a_restart_is_given_the_present_attempt(
    gemini: LocalGemini, manager: StartManager, probes: Callable[[], Probe]
) -> None:
    gemini.on("why", Reply("a b c", end="reset", end_after=2), Reply("d e f", hold_after=2))
    ref = manager(history=KEPT)
    first, second = probes(), probes()
    ref.start_stream("why", subscriber=first.ref, stream_id="a")
    first.expect(StreamEvent, lambda event: (event.attempt, event.sequence) == (2, 1), timeout=20)
    ref.start_stream("why", subscriber=second.ref, stream_id="a")
    gemini.gate("why").open()
    second.expect(StreamComplete)
    assert check_history(second.messages, after=FROM_START, ended=True) == []
    assert texts(second.messages) == "d e f"
    assert not any(isinstance(message, StreamRestarting) for message in second.messages)
    last_of(first)


# -- following -------------------------------------------------------------------------------------------------------


def read_follow(manager: Any, stream_id: str, **how: Any) -> list[Any]:
    with follow(manager, stream_id, **how) as events:
        assert events.stream_id == stream_id
        return list(events)


def read_afollow(manager: Any, stream_id: str, **how: Any) -> list[Any]:
    async def main() -> list[Any]:
        async with afollow(manager, stream_id, **how) as events:
            return [item async for item in events]

    return asyncio.run(main())


follows = pytest.mark.parametrize("read", [read_follow, read_afollow], ids=["follow", "afollow"])


@follows
def test_a_stream_is_followed_from_its_start(
    gemini: LocalGemini, manager: StartManager, probe: Probe, read: Callable[..., list[Any]]
) -> None:
    gemini.on("why", Reply("one two three", hold_after=1))
    ref = manager(history=KEPT)
    stream_id = ref.start_stream("why", subscriber=probe.ref)
    seen = probe.expect(StreamEvent)
    threading.Timer(0.05, gemini.gate("why").open).start()
    items = read(ref, stream_id, after=FROM_START, flow=FlowControl(window=1), heartbeat=0.01)
    assert texts(items) == "one two three"
    assert None in items
    assert texts(read(ref, stream_id, after=(seen.attempt, seen.sequence))) == " two three"  # it lingers
    assert isinstance(last_of(probe), StreamComplete)


@follows
def test_what_cannot_be_followed_is_refused(
    gemini: LocalGemini, manager: StartManager, probe: Probe, read: Callable[..., list[Any]]
) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager()
    with pytest.raises(StreamNotFoundError):
        read(ref, "nothing")
    stream_id = ref.start_stream("why", subscriber=probe.ref)
    probe.expect(StreamEvent)
    with pytest.raises(HistoryGoneError):
        read(ref, stream_id, after=FROM_START)
    gemini.gate("why").open()
    last_of(probe)


def test_one_that_follows_leaves_and_can_stop_the_stream(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("why", Reply("one two three", hold_after=1))
    ref = manager(history=KEPT)
    stream_id = ref.start_stream("why", subscriber=probe.ref)
    probe.expect(StreamEvent)
    with follow(ref, stream_id, after=FROM_START) as events:
        next(events)
        assert ref.get_stats().total_subscribers == 2
    eventually(lambda: ref.get_stats().total_subscribers == 1)
    assert ref.get_stream_info(stream_id).status == "active"
    follow(ref, stream_id).close()  # it never began
    events = follow(ref, stream_id, after=FROM_START)
    next(events)
    events.cancel()
    assert isinstance(last_of(probe), StreamStopped)


def test_half_an_answer_has_an_error_when_its_iterator_was_left(
    gemini: LocalGemini, manager: StartManager
) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager()
    cancelled = stream(ref, "why")
    next(cancelled)
    assert cancelled.answer.error is None  # it is being read
    cancelled.cancel()
    assert list(cancelled) == []
    with pytest.raises(StreamEndedError):
        cancelled.answer.raise_for_error()
    with stream(ref, "why") as left:
        next(left)
    assert isinstance(left.answer.error, StreamEndedError)
    assert not left.answer.ok

    async def main() -> None:
        async with astream(ref, "why") as events:
            await anext(events)
        assert isinstance(events.answer.error, StreamEndedError)

    asyncio.run(main())
    gemini.gate("why").open()
    with stream(ref, "why") as whole:
        assert texts(list(whole)) == "one two"
    assert whole.answer.error is None
    assert whole.answer.ok


# -- requests --------------------------------------------------------------------------------------------------------


def test_a_request_is_iterated_over_as_contents_are(
    gemini: LocalGemini, manager: StartManager, probes: Callable[[], Probe]
) -> None:
    gemini.on("why", Reply("one two three"))
    ref = manager()
    first, second = probes(), probes()
    with stream(ref, StartStream("why", subscriber=[first.ref, second.ref], tag=7, stream_id="a")) as events:
        assert events.stream_id == "a"
        assert texts(list(events)) == "one two three"
        assert events.answer.tag == 7
    for probe in (first, second):
        assert isinstance(last_of(probe), StreamComplete)
    assert texts(list(stream(ref, StartStream("why", model="gemini-of-mine")))) == "one two three"
    assert gemini.requests[-1].model == "gemini-of-mine"


def test_options_beside_a_request_are_refused(manager: StartManager, probe: Probe) -> None:
    ref = manager()
    with pytest.raises(InvalidRequestError, match="model, tag: the options of a StartStream stand in it"):
        stream(ref, StartStream("why"), model="m", tag=1)
    with pytest.raises(InvalidRequestError, match="stream_id: "):
        astream(ref, StartStream("why"), stream_id="m")
    with pytest.raises(InvalidRequestError, match="at least one subscriber"):
        ref.ask(StartStream("why"))


# -- one at a time ---------------------------------------------------------------------------------------------------


def test_a_second_thread_on_one_iterator_is_an_error(gemini: LocalGemini, manager: StartManager) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    events = stream(manager(), "why")
    got: list[Any] = []
    helper = threading.Thread(target=lambda: got.extend(events))
    helper.start()
    eventually(lambda: got)
    with pytest.raises(RuntimeError, match=r"another thread already.*follow"):
        next(events)
    with pytest.raises(RuntimeError, match="another thread"):
        next(events.text_stream)
    gemini.gate("why").open()
    helper.join()
    assert texts(got) == "one two"


def test_a_second_task_on_one_iterator_is_an_error(gemini: LocalGemini, manager: StartManager) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager()

    async def main() -> None:
        async with astream(ref, "why") as events:

            async def read() -> str:
                return texts([item async for item in events])

            first = asyncio.create_task(read())
            await asyncio.to_thread(gemini.gate("why").reached)
            with pytest.raises(RuntimeError, match=r"another task already.*afollow"):
                await anext(events)
            with pytest.raises(RuntimeError, match="another task"):
                await anext(events.text_stream)
            gemini.gate("why").open()
            assert await first == "one two"

    asyncio.run(main())


def test_a_task_that_was_cancelled_leaves_the_iterator_to_the_next(
    gemini: LocalGemini, manager: StartManager
) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager()

    async def main() -> None:
        async with astream(ref, "why") as events:
            await anext(events)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(events), 0.05)
            gemini.gate("why").open()
            assert texts([item async for item in events]) == " two"

    asyncio.run(main())


def test_an_iterator_stays_on_its_event_loop(gemini: LocalGemini, manager: StartManager) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager()

    async def main() -> None:
        events = astream(ref, "why")
        await anext(events)

        def elsewhere() -> None:
            with pytest.raises(RuntimeError, match=r"another event loop.*afollow"):
                asyncio.run(anext(events))

        await asyncio.to_thread(elsewhere)
        await events.aclose()

    asyncio.run(main())
