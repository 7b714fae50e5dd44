"""`answers()` and `aanswers()`: many requests, at most so many at once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pykka
import pytest

from conftest import StartManager
from gemini_streams import (
    Answer,
    APIError,
    FlowControl,
    InvalidRequestError,
    ManagerDrainingError,
    ManagerRef,
    MaxStreamsExceededError,
    MissingCredentialsError,
    StartStream,
    StreamEndedError,
    StreamExistsError,
    aanswers,
    answers,
)
from gemini_streams.testing import Failure, Gate, LocalGemini, Reply, RequestRecord
from kit.helpers import ONCE, eventually
from pykka_supervisor.testing import Probe, TestClock

# -- both, by the same tests -----------------------------------------------------------------------------------------

Collect = Callable[..., list[tuple[Any, Answer]]]


def collect_blocking(manager: pykka.ActorRef[Any], requests: Any, **options: Any) -> list[tuple[Any, Answer]]:
    return list(answers(manager, requests, **options))


def collect_async(manager: pykka.ActorRef[Any], requests: Any, **options: Any) -> list[tuple[Any, Answer]]:
    async def main() -> list[tuple[Any, Answer]]:
        return [ended async for ended in aanswers(manager, requests, **options)]

    return asyncio.run(main())


async def one_by_one(requests: Any) -> AsyncIterator[Any]:
    for request in requests:
        await asyncio.sleep(0)
        yield request


def collect_from_an_async_iterable(
    manager: pykka.ActorRef[Any], requests: Any, **options: Any
) -> list[tuple[Any, Answer]]:
    return collect_async(manager, one_by_one(requests), **options)


both = pytest.mark.parametrize(
    "collect",
    [collect_blocking, collect_async, collect_from_an_async_iterable],
    ids=["answers", "aanswers", "async iterable"],
)


def echo(record: RequestRecord) -> Reply:
    return Reply(f"about {record.text}")


class AtOnce:
    """A script that holds its answers until `expected` requests are there, and notes how many were ever under way."""

    def __init__(self, gate: Gate, expected: int) -> None:
        self.most = 0
        self._gate = gate
        self._expected = expected
        self._now = 0

    def __call__(self, record: RequestRecord) -> Reply:
        self._now += 1
        self.most = max(self.most, self._now)
        if self._now == self._expected:  # one that is too many would come now
            asyncio.get_running_loop().call_later(0.05, self._gate.open)
        return Reply(self._words(record), hold_after=0)

    def _words(self, record: RequestRecord) -> Iterator[str]:
        yield f"about {record.text}"
        self._now -= 1


@both
def test_each_request_has_its_answer(gemini: LocalGemini, manager: StartManager, collect: Collect) -> None:
    gemini.on("", echo)
    requests = [f"question {n}" for n in range(60)]
    got = collect(manager(), requests, at_once=7)
    assert sorted(request for request, _ in got) == sorted(requests)
    for request, answer in got:
        assert (answer.text, answer.ok, answer.error) == (f"about {request}", True, None)


@both
def test_no_more_than_at_once_run(gemini: LocalGemini, manager: StartManager, collect: Collect) -> None:
    at_once = AtOnce(gemini.gate(""), 4)
    gemini.on("", at_once)
    assert len(collect(manager(), (f"q{n}" for n in range(30)), at_once=4)) == 30
    assert at_once.most == 4


@both
def test_nothing_to_do(manager: StartManager, collect: Collect) -> None:
    assert collect(manager(), []) == []


@both
def test_failed_and_refused_ones_have_an_error(
    gemini: LocalGemini, manager: StartManager, probe: Probe, collect: Collect
) -> None:
    gemini.on("fails", Failure(400, "no"))
    gemini.on("long", Reply("too long", finish_reason="MAX_TOKENS"))
    gemini.on("held", Reply("one", hold_after=0))
    gemini.on("fine", Reply("fine"))
    ref = manager(retry=ONCE)
    ref.start_stream("held", subscriber=probe.ref, stream_id="taken")
    requests: list[Any] = [
        "it fails",
        "a long one",
        StartStream("other contents", stream_id="taken", tag="a tag"),
        StartStream("q", model="no model/../at all"),
        "",
        "a fine one",
    ]
    got = {id(request): answer for request, answer in collect(ref, requests)}
    kinds = [type(got[id(request)].error) for request in requests]
    assert kinds[0] is APIError
    assert kinds[1].__name__ == "IncompleteAnswerError"
    assert kinds[2] is StreamExistsError
    assert kinds[3] is kinds[4] is InvalidRequestError
    assert kinds[5] is type(None)
    assert got[id(requests[2])].tag == "a tag"


@both
def test_they_wait_for_slots_instead_of_being_refused(
    gemini: LocalGemini, manager: StartManager, probe: Probe, collect: Collect
) -> None:
    gemini.on("held", Reply("one", hold_after=0))
    gemini.on("", echo)
    ref = manager(max_streams=2)
    ref.start_stream("held", subscriber=probe.ref)
    ref.start_stream("held", subscriber=probe.ref)
    gate: Gate = gemini.gate("held")

    def later() -> None:
        eventually(lambda: ref.get_stats().streams_by_status.get("queued") == 8)
        with pytest.raises(MaxStreamsExceededError):  # others are refused as ever
            ref.start_stream("another", subscriber=probe.ref)
        gate.open()

    helper = threading.Thread(target=later)
    helper.start()
    got = collect(ref, [f"q{n}" for n in range(20)], at_once=8)
    helper.join()
    assert sum(answer.ok for _, answer in got) == 20


@both
def test_their_time_begins_with_their_slot(
    gemini: LocalGemini, manager: StartManager, probe: Probe, clock: TestClock, collect: Collect
) -> None:
    gemini.on("first", Reply("one two", hold_after=0))
    gemini.on("second", Reply("one two", hold_after=1))
    ref = manager(max_streams=1, clock=clock)
    ref.start_stream("first", subscriber=probe.ref)

    def later() -> None:
        eventually(lambda: ref.get_stats().streams_by_status.get("queued") == 1)
        clock.advance(100)
        gemini.gate("first").open()
        gemini.gate("second").reached()
        clock.advance(20)
        gemini.gate("second").open()

    helper = threading.Thread(target=later)
    helper.start()
    [(_, answer)] = collect(ref, [StartStream("second", deadline=50)])
    helper.join()
    assert answer.ok
    assert answer.last is not None
    assert answer.last.duration == 20


@both
def test_missing_credentials_raise(
    gemini: LocalGemini, manager: StartManager, collect: Collect, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gemini_streams import Gemini  # noqa: PLC0415

    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(MissingCredentialsError):
        collect(manager(endpoint=Gemini(base_url=gemini.url)), ["q"] * 50)
    assert gemini.requests == []


@both
def test_an_exception_of_the_iterable_stops_what_runs_and_comes_behind_what_has_ended(
    gemini: LocalGemini, manager: StartManager, collect: Collect
) -> None:
    gemini.on("held", Reply("one two", hold_after=1))
    gemini.on("", echo)
    ref = manager()

    def requests() -> Iterator[str]:
        yield "quick"
        yield "held"
        gemini.gate("held").reached()
        eventually(lambda: ref.get_stats().completed == 1)
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        collect(ref, requests())
    eventually(lambda: ref.get_stats().stopped == 1)
    assert all(record.wait_closed(20) for record in gemini.requests if "held" in record.text)


@both
def test_a_manager_that_ends_raises(gemini: LocalGemini, manager: StartManager, collect: Collect) -> None:
    gemini.on("", Reply("one two", hold_after=1))
    ref = manager()
    threading.Timer(0.1, lambda: ref.stop(block=False)).start()

    def requests() -> Iterator[str]:
        yield "first"
        ref.actor_stopped.wait(20)
        yield "second"

    with pytest.raises(pykka.ActorDeadError):
        collect(ref, requests())


@both
def test_streams_that_are_stopped_have_an_error(
    gemini: LocalGemini, manager: StartManager, collect: Collect
) -> None:
    gemini.on("", Reply("one two", hold_after=1))
    ref = manager()

    def stop() -> None:
        gemini.gate("").reached()
        ref.stop_stream("mine")

    helper = threading.Thread(target=stop)
    helper.start()
    [(_, answer)] = collect(ref, [StartStream("q", stream_id="mine", tag=5)])
    helper.join()
    assert type(answer.error) is StreamEndedError
    assert answer.tag == 5


@both
def test_a_draining_manager_refuses(gemini: LocalGemini, manager: StartManager, collect: Collect) -> None:
    from gemini_streams import Drain  # noqa: PLC0415

    ref = manager()
    ref.ask(Drain(1))
    assert [type(answer.error) for _, answer in collect(ref, ["a", "b"])] == [ManagerDrainingError] * 2


@both
def test_the_same_stream_twice(gemini: LocalGemini, manager: StartManager, collect: Collect) -> None:
    """Starting again under an id joins the stream: both have the answer, and it is asked for once."""
    gemini.on("", echo)
    requests = [StartStream("q", stream_id="same", history=1 << 20) for _ in range(5)]
    for at_once in (1, 5):
        got = collect(manager(), requests, at_once=at_once)
        assert [answer.text for _, answer in got] == ["about q"] * 5
    assert len(gemini.requests) == 2


@both
def test_long_answers_are_folded_within_their_windows(
    gemini: LocalGemini, manager: StartManager, collect: Collect
) -> None:
    gemini.on("", Reply([f"{n} " for n in range(3000)]))
    got = collect(manager(flow=FlowControl(window=8)), ["a", "b", "c"])
    assert [answer.ok for _, answer in got] == [True] * 3


@pytest.mark.parametrize("requests", ["Why?", b"Why?", {"text": "Why?"}, StartStream("Why?")])
def test_one_request_is_refused(manager: StartManager, requests: Any) -> None:
    ref = manager()
    for start in (answers, aanswers):
        with pytest.raises(InvalidRequestError, match="give a list"):
            start(ref, requests)
        with pytest.raises(InvalidRequestError, match="at_once"):
            start(ref, [], at_once=0)
        with pytest.raises(TypeError):
            start(ref, 5)  # type: ignore[arg-type]


# -- while the loop's body runs --------------------------------------------------------------------------------------


def test_it_goes_on_while_the_body_runs(gemini: LocalGemini, manager: StartManager) -> None:
    """Up to `at_once` answers that nobody has taken; then no further request is read."""
    gemini.on("", echo)
    ref = manager()
    read: list[int] = []

    def requests() -> Iterator[str]:
        for number in range(100):
            read.append(number)
            yield f"q{number}"

    working = answers(ref, requests(), at_once=5)
    next(working)
    eventually(lambda: ref.get_stats().completed >= 6)
    time.sleep(0.1)
    assert 6 <= len(read) <= 1 + 5 + 5
    assert ref.get_stats().completed == len(read)
    assert len(list(working)) == 99


def test_answers_come_while_the_iterable_blocks(gemini: LocalGemini, manager: StartManager) -> None:
    gemini.on("", echo)
    more = threading.Event()

    def requests() -> Iterator[str]:
        yield "first"
        more.wait(20)
        yield "second"

    working = answers(manager(), requests())
    request, answer = next(working)
    assert (request, answer.text) == ("first", "about first")
    more.set()
    assert [request for request, _ in working] == ["second"]


def test_the_loop_is_not_blocked_and_goes_on_while_the_body_awaits(
    gemini: LocalGemini, manager: StartManager
) -> None:
    gemini.on("", echo)
    ref = manager()

    async def main() -> int:
        count = 0
        async for _ in aanswers(ref, (f"q{n}" for n in range(40)), at_once=5):
            count += 1
            if count == 1:
                completed = ref.get_stats().completed
                await asyncio.sleep(0.2)
                assert ref.get_stats().completed > completed
        return count

    assert asyncio.run(main()) == 40


# -- leaving ---------------------------------------------------------------------------------------------------------


def held(gemini: LocalGemini) -> Iterator[str]:
    """One request that ends, and three that do not."""
    yield "quick"
    for _ in range(3):
        yield "held"
    for _ in range(100):
        gemini.gate("held").reached(30)
        yield "held"


@pytest.mark.parametrize("way", ["break", "exception", "close", "collected", "cycle"])
@pytest.mark.parametrize("keep", [0.0, 60.0])
def test_leaving_stops_what_runs(gemini: LocalGemini, manager: StartManager, way: str, keep: float) -> None:
    gemini.on("held", Reply("one two", hold_after=1))
    gemini.on("quick", Reply("quick"))
    ref: ManagerRef = manager(keep=keep)

    def leave() -> None:
        working: Any = answers(ref, held(gemini), at_once=4)
        match way:
            case "break":
                for _ in working:
                    gemini.gate("held").reached(30)
                    break
            case "exception":
                with contextlib.suppress(ZeroDivisionError):
                    for _ in working:
                        gemini.gate("held").reached(30)
                        raise ZeroDivisionError
            case "close":
                next(working)
                gemini.gate("held").reached(30)
                working.close()
                assert list(working) == []
            case "collected":
                next(working)
                gemini.gate("held").reached(30)
            case "cycle":
                next(working)
                gemini.gate("held").reached(30)
                cycle = [working]
                cycle.append(cycle)

    leave()
    gc.collect()
    eventually(lambda: (stats := ref.get_stats()).stopped == stats.started - 1 > 0)
    assert all(record.wait_closed(20) for record in gemini.requests)
    # The thread that reads may be waiting in `held` for a request that was left before it came to the gate.
    eventually(lambda: not any(t.name == "gemini-streams-answers" for t in threading.enumerate()))


@pytest.mark.parametrize("way", ["break", "aclose", "cancelled", "loop closed"])
def test_leaving_an_async_one_stops_what_runs(gemini: LocalGemini, manager: StartManager, way: str) -> None:
    gemini.on("held", Reply("one two", hold_after=1))
    gemini.on("quick", Reply("quick"))
    ref = manager()
    outlives: list[Any] = []

    async def read() -> None:
        async for _ in aanswers(ref, ["quick", "held", "held"], at_once=4):
            if way == "break":
                break

    async def main() -> None:
        match way:
            case "aclose":
                working = aanswers(ref, ["quick", "held", "held"])
                await anext(working)
                await working.aclose()
            case "cancelled":
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(read(), 0.3)
            case "loop closed":
                working = aanswers(ref, ["quick", "held", "held"])
                outlives.append(working)
                await anext(working)
            case _:
                await read()
                await asyncio.sleep(0.05)

    asyncio.run(main())
    eventually(lambda: (stats := ref.get_stats()).stopped + stats.completed == stats.started)


def test_nothing_is_left_to_the_garbage_collector(gemini: LocalGemini, manager: StartManager) -> None:
    gemini.on("", echo)
    ref = manager()
    list(answers(ref, ["warm up"]))
    gc.collect()
    gc.disable()
    try:
        alive = sum(isinstance(thing, Answer) for thing in gc.get_objects())
        for _ in answers(ref, (f"q{n}" for n in range(30))):
            pass
        del _
        eventually(lambda: sum(isinstance(thing, Answer) for thing in gc.get_objects()) - alive <= 2)
    finally:
        gc.enable()
