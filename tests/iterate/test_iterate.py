"""`stream()` and `astream()`: streams for programs that have no actor."""

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
    APIError,
    ConnectionLostError,
    EventsDropped,
    FlowControl,
    InvalidRequestError,
    MaxStreamsExceededError,
    RetryPolicy,
    StartStream,
    StreamComplete,
    StreamEndedError,
    StreamError,
    StreamEvent,
    StreamExistsError,
    StreamRestarting,
    errors,
)
from gemini_streams import GeminiStreamsError as AnyError
from gemini_streams.delivery.batches import ControlBatch
from gemini_streams.iterate import AsyncStream, Stream, answers, astream, stream
from gemini_streams.iterate.asynchronous import AsyncInbox
from gemini_streams.testing import Failure, LocalGemini, Reply
from kit.helpers import ONCE, eventually
from pykka_supervisor import kill
from pykka_supervisor.mailbox import Envelope
from pykka_supervisor.testing import TestClock

QUICK = RetryPolicy(initial_delay=0.0, jitter=0.0)


def texts(items: list[Any]) -> str:
    return "".join(item.text for item in items if isinstance(item, StreamEvent))


# -- both, by the same tests: an AsyncStream is played by an event loop of its own ------------------------------------

Read = Callable[..., list[Any]]


def read_blocking(manager: pykka.ActorRef[Any], contents: Any, **options: Any) -> list[Any]:
    with stream(manager, contents, **options) as answer:
        return list(answer)


def read_async(manager: pykka.ActorRef[Any], contents: Any, **options: Any) -> list[Any]:
    async def main() -> list[Any]:
        async with astream(manager, contents, **options) as answer:
            return [item async for item in answer]

    return asyncio.run(main())


both = pytest.mark.parametrize("read", [read_blocking, read_async], ids=["stream", "astream"])


@both
def test_the_events_of_an_answer(gemini: LocalGemini, manager: StartManager, read: Read) -> None:
    gemini.on("why", Reply("one two three"))
    items = read(manager(), "why")
    assert texts(items) == "one two three"
    assert [item.sequence for item in items] == [0, 1, 2]


@both
def test_a_failed_stream_raises_a_fresh_copy_of_its_error(
    gemini: LocalGemini, manager: StartManager, read: Read
) -> None:
    gemini.on("why", Failure(400, "no such thing"))
    with pytest.raises(APIError, match="no such thing") as caught:
        read(manager(), "why")
    assert caught.value.code == 400
    assert caught.value.__traceback__ is not None


@both
def test_events_before_a_failure_are_given_first(
    gemini: LocalGemini, manager: StartManager, read: Read
) -> None:
    gemini.on("why", Reply("one two three", end="cut", end_after=2))
    got: list[Any] = []
    ref = manager(retry=ONCE)
    with pytest.raises(ConnectionLostError), stream(ref, "why") as answer:
        got.extend(answer)
    assert texts(got) == "one two"


@both
def test_a_restart_is_an_item(gemini: LocalGemini, manager: StartManager, read: Read) -> None:
    gemini.on("why", Reply("one two three", end="cut", end_after=2), Reply("one two three"))
    items = read(manager(retry=QUICK), "why")
    kinds = [type(item) for item in items]
    assert kinds == [StreamEvent] * 2 + [StreamRestarting] + [StreamEvent] * 3
    assert items[2].discard
    assert items[2].resume_at == 0


@both
def test_a_gap_is_an_item(gemini: LocalGemini, manager: StartManager, read: Read) -> None:
    gemini.on("why", Reply([f"{n} " for n in range(2000)]))
    items = read(manager(), "why", flow=FlowControl(window=4, overflow="drop_newest"))
    dropped = [item for item in items if isinstance(item, EventsDropped)]
    events = [item for item in items if isinstance(item, StreamEvent)]
    assert dropped
    assert sum(item.count for item in dropped) + len(events) == 2000


@both
def test_a_refused_start_raises(gemini: LocalGemini, manager: StartManager, read: Read) -> None:
    gemini.on("why", Reply("one", hold_after=0))
    gemini.on("what", Reply("two"))
    ref = manager(max_streams=1)
    with stream(ref, "why", stream_id="a"):
        with pytest.raises(MaxStreamsExceededError):
            read(ref, "what")
        with pytest.raises(StreamExistsError):
            read(ref, "what", stream_id="a")
    assert ref.get_stats().started == 1


@both
def test_a_dead_manager_raises(manager: StartManager, read: Read) -> None:
    ref = manager()
    ref.stop()
    with pytest.raises(pykka.ActorDeadError):
        read(ref, "why")


@both
def test_a_manager_that_is_stopped_in_mid_stream(
    gemini: LocalGemini, manager: StartManager, read: Read
) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager()
    threading.Timer(0.05, lambda: (gemini.gate("why").reached(), ref.stop(block=False))).start()
    with pytest.raises(StreamEndedError, match="shutdown"):
        read(ref, "why")


@both
def test_a_manager_that_is_killed_in_mid_stream_is_not_noticed(
    gemini: LocalGemini, manager: StartManager, read: Read
) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager()

    def then() -> None:
        gemini.gate("why").reached()
        kill(ref)
        ref.get_stats()
        gemini.gate("why").open()

    helper = threading.Thread(target=then)
    helper.start()
    assert texts(read(ref, "why")) == "one two"
    helper.join()


@both
def test_a_stop_by_somebody_else_raises(gemini: LocalGemini, manager: StartManager, read: Read) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager()

    def then() -> None:
        gemini.gate("why").reached()
        ref.stop_stream("a")

    helper = threading.Thread(target=then)
    helper.start()
    with pytest.raises(StreamEndedError, match="requested"):
        read(ref, "why", stream_id="a")
    helper.join()


@both
def test_silence_is_told_by_the_heartbeat(gemini: LocalGemini, manager: StartManager, read: Read) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    threading.Timer(0.15, gemini.gate("why").open).start()
    items = read(manager(), "why", heartbeat=0.02)
    assert items.count(None) >= 2
    assert items.count(None) <= 12
    assert texts(items) == "one two"
    first, second = (index for index, item in enumerate(items) if item is not None)
    assert None in items[first:second]


def all_errors() -> list[type[AnyError]]:
    return [
        kind
        for name in errors.__all__
        if isinstance(kind := getattr(errors, name), type) and issubclass(kind, AnyError)
    ]


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_can_be_raised_as_a_copy(
    gemini: LocalGemini, manager: StartManager, kind: type[AnyError]
) -> None:
    error = kind(429, "S", "m", ["d"], retry_at=3.0) if kind is APIError else kind("m", retry_at=3.0)
    gemini.on("why", Reply("one", hold_after=0))
    ref = manager()
    with stream(ref, "why") as answer:
        told = StreamError(str(answer.stream_id), error, 0, None, 1, 0.0)
        answer._inbox.put(Envelope(ControlBatch(told)))
        with pytest.raises(kind) as caught:
            next(answer)
        assert caught.value is not error
        assert type(caught.value) is kind
        assert (str(caught.value), caught.value.__dict__) == (str(error), error.__dict__)
        assert error.__traceback__ is None
        answer._left.clear()
        answer._leave()


# -- the blocking one --------------------------------------------------------------------------------


def test_what_can_be_read_off_it(gemini: LocalGemini, manager: StartManager) -> None:
    gemini.on("why", Reply("one two three"))
    answer = stream(manager(), "why", tag="mine")
    assert not answer.stream_id
    items = list(answer)
    assert isinstance(answer.result, StreamComplete)
    assert answer.result.tag == "mine"
    assert answer.result.events_count == 3
    assert answer.answer.text == texts(items) == "one two three"
    assert answer.answer.ok
    assert answer.stream_id == answer.result.stream_id
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(answer)


def test_it_starts_when_it_is_entered_or_asked(gemini: LocalGemini, manager: StartManager) -> None:
    ref = manager()
    first, second = stream(ref, "why one"), stream(ref, "why two")
    assert ref.get_stats().started == 0
    with first:
        assert ref.get_stats().started == 1
        next(second)
        assert ref.get_stats().started == 2
        second.cancel()
    never = stream(ref, "why three")
    never.cancel()
    assert list(never) == []
    assert ref.get_stats().started == 2


@pytest.mark.parametrize("way", ["with", "break", "exception", "close", "collected", "cycle", "cancel"])
@pytest.mark.parametrize("keep", [0.0, 60.0])
def test_left_early_it_ends_unless_it_is_kept(
    gemini: LocalGemini, manager: StartManager, way: str, keep: float
) -> None:
    gemini.on("why", Reply("one two three", hold_after=2))
    ref = manager(keep=keep)

    def leave() -> None:
        match way:
            case "with":
                with stream(ref, "why") as answer:
                    next(answer)
            case "break":
                for _ in stream(ref, "why"):
                    break
            case "exception":
                with contextlib.suppress(ZeroDivisionError), stream(ref, "why") as answer:
                    for _ in answer:
                        raise ZeroDivisionError
            case "collected":
                kept: Any = stream(ref, "why")
                next(kept)
                del kept
            case "cycle":
                cycle: Any = stream(ref, "why")
                next(cycle)
                cycle.itself = cycle
                del cycle
                gc.collect()
            case "cancel":
                answer = stream(ref, "why")
                next(answer)
                answer.cancel()
                assert list(answer) == []
            case "close":
                answer = stream(ref, "why")
                next(answer)
                answer.close()
                assert list(answer) == []

    began = time.monotonic()
    leave()
    record = gemini.wait_request(1)
    if keep and way != "cancel":
        [stream_id] = ref.list_streams()
        eventually(lambda: ref.get_stats().total_subscribers == 0)
        assert ref.get_stream_info(stream_id).status == "active"
        assert record.closed_at is None
        return
    record.wait_closed()
    assert record.client_closed
    assert record.closed_at is not None
    assert record.closed_at - began < 1.0
    eventually(lambda: ref.get_stats().stopped == 1)


def test_a_collection_waits_for_no_lock(gemini: LocalGemini, manager: StartManager) -> None:
    """The garbage collector may run in a thread that is just now putting into the manager's inbox."""
    gemini.on("why", Reply("one two three", hold_after=2))
    ref = manager()
    answer = stream(ref, "why")
    next(answer)
    inbox: Any = ref.actor_inbox
    with inbox._lock:
        del answer
    gemini.wait_request(1).wait_closed(2)  # its supervision has noticed


def test_cancel_from_another_thread(gemini: LocalGemini, manager: StartManager) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    answer = stream(manager(), "why")
    cancelled: list[float] = []

    def cancel() -> None:
        gemini.gate("why").reached()
        cancelled.append(time.monotonic())
        answer.cancel()

    helper = threading.Thread(target=cancel)
    helper.start()
    items = list(answer)
    assert time.monotonic() - cancelled[0] < 5
    helper.join()
    assert texts(items) in ("", "one")
    assert list(answer) == []
    gemini.wait_request(1).wait_closed()


def test_it_has_no_thread_and_no_actor_of_its_own(gemini: LocalGemini, manager: StartManager) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager()
    before = set(threading.enumerate())
    actors = len(pykka.ActorRegistry.get_all())
    with stream(ref, "why") as answer:
        next(answer)
        new = {t.name.rpartition("-")[0] for t in set(threading.enumerate()) - before}
        assert new - {"gemini-streams"} == {"StreamActor"}  # the manager's shared reader may have begun
        assert len(pykka.ActorRegistry.get_all()) == actors + 1


def test_a_loop_that_does_not_ask_holds_the_stream_back(manager: StartManager) -> None:
    with LocalGemini(sndbuf=8192) as server:
        server.on("why", Reply(["x" * 1000] * 5000))
        ref = manager(endpoint=server.endpoint)
        with stream(ref, "why", flow=FlowControl(window=16)) as answer:
            next(answer)
            record = server.wait_request(1)
            sent = settled(lambda: record.bytes_sent)
            assert sent < 3_000_000
            got = 1
            for item in answer:
                got += isinstance(item, StreamEvent)
                if got == 3000:
                    assert inbox_events(answer) <= 16
            assert got == 5000


def settled(look: Callable[[], int], still: float = 0.15, timeout: float = 10.0) -> int:
    """Wait until a figure does not change any more."""
    deadline = time.monotonic() + timeout
    last, since = look(), time.monotonic()
    while time.monotonic() - since < still:
        assert time.monotonic() < deadline
        time.sleep(0.01)
        now = look()
        if now != last:
            last, since = now, time.monotonic()
    return last


def inbox_events(answer: Stream[Any]) -> int:
    subscription: Any = answer._batch and answer._batch.subscription
    return 0 if subscription is None else subscription._sent - subscription._acked


def test_many_in_parallel(gemini: LocalGemini, manager: StartManager) -> None:
    gemini.on("why", Reply([f"{n} " for n in range(50)]))
    ref = manager(max_streams=50)
    results: list[str] = []

    def run() -> None:
        results.extend([texts(read_blocking(ref, "why")) for _ in range(4)])

    threads = [threading.Thread(target=run) for _ in range(25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["".join(f"{n} " for n in range(50))] * 100


def test_a_time_out_of_the_stream_raises(
    gemini: LocalGemini, manager: StartManager, clock: TestClock
) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager(clock=clock, deadline=7)
    with stream(ref, "why") as answer:
        next(answer)
        clock.advance(8)
        with pytest.raises(errors.DeadlineExceededError):
            next(answer)


def test_nonsense_is_refused_at_once(manager: StartManager) -> None:
    ref = manager()
    for heartbeat in (0, -1, float("nan"), "1"):
        with pytest.raises(errors.InvalidRequestError, match="heartbeat"):
            stream(ref, "why", heartbeat=heartbeat)  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidRequestError):
        next(stream(ref, "why", deadline=-1))
    with pytest.raises(TypeError):
        stream(ref, "why", subscriber=ref)  # type: ignore[call-overload]


# -- asyncio ----------------------------------------------------------------------------------------


class Ticker:
    """A task that wants to run every millisecond; `longest` is how long it had to wait."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.ticks = 0

    async def run(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.001)
            now = time.monotonic()
            self.longest = max(self.longest, now - last)
            self.ticks += 1
            last = now


@contextlib.asynccontextmanager
async def ticking() -> Any:
    ticker = Ticker()
    task = asyncio.create_task(ticker.run())
    yield ticker
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_the_loop_is_never_blocked(gemini: LocalGemini, manager: StartManager) -> None:
    gemini.on("why", Reply([f"{n} " for n in range(20_000)]))
    gemini.on("wait", Reply("one two", hold_after=1))
    ref = manager(max_waiting=5)

    async def main() -> None:
        async with ticking() as ticker:
            async with astream(ref, "why") as answer:
                got = 0
                async for _ in answer:  # a body that never awaits: there may always be a next event
                    got += 1
            assert got == 20_000
            assert ticker.ticks > 20
            async with astream(ref, "wait", heartbeat=0.01) as answer:
                ticks = ticker.ticks
                async for item in answer:
                    if item is None and ticker.ticks > ticks + 10:
                        gemini.gate("wait").open()
            assert ticker.longest < 0.25

    asyncio.run(main())


def test_an_inbox_that_never_runs_dry_leaves_the_loop_to_others() -> None:
    inbox = AsyncInbox()
    for number in range(200_000):
        inbox.put(Envelope(number))

    async def main() -> None:
        async with ticking() as ticker:
            for number in range(200_000):
                assert await inbox.get(None) == number
            assert ticker.ticks > 3  # a quick machine is done after a tenth of a second
            assert ticker.longest < 0.1

    asyncio.run(main())


def test_many_at_once_on_one_loop(gemini: LocalGemini, manager: StartManager) -> None:
    gemini.on("why", Reply([f"{n} " for n in range(100)]))
    ref = manager(max_streams=20, max_waiting=1000)
    threads = 0

    def others() -> int:
        return sum(not thread.name.startswith("StreamActor-") for thread in threading.enumerate())

    async def one() -> str:
        nonlocal threads
        async with astream(ref, "why") as answer:
            items = [item async for item in answer]
            threads = max(threads, others())
            return texts(items)

    async def main() -> list[str]:
        return await asyncio.gather(*(one() for _ in range(200)))

    before = others()
    assert asyncio.run(main()) == ["".join(f"{n} " for n in range(100))] * 200
    assert threads - before <= 22  # the streams' own, the shared reader, the timers


async def at_the_gate(gemini: LocalGemini) -> None:
    await asyncio.to_thread(gemini.gate("why").reached)


@pytest.mark.parametrize("keep", [0.0, 60.0])
@pytest.mark.parametrize("way", ["break", "cancelled", "timeout", "exception", "closed"])
def test_left_early_an_async_one_ends_unless_it_is_kept(
    gemini: LocalGemini, manager: StartManager, way: str, keep: float
) -> None:
    gemini.on("why", Reply("one two three", hold_after=2))
    ref = manager(keep=keep)
    outlives: list[Any] = []

    async def read() -> None:
        async with astream(ref, "why") as answer:
            async for _ in answer:
                if way == "break":
                    break
                if way == "exception":
                    raise ZeroDivisionError

    async def read_without_with() -> None:
        answer = astream(ref, "why")
        outlives.append(answer)
        async for _ in answer:
            pass

    async def main() -> None:
        match way:
            case "cancelled":
                task = asyncio.create_task(read())
                await at_the_gate(gemini)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            case "timeout":
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(read(), 0.2)
            case "exception":
                with pytest.raises(ZeroDivisionError):
                    await read()
            case "closed":
                outlives.append(asyncio.create_task(read_without_with()))
                await at_the_gate(gemini)
            case _:
                await read()

    asyncio.run(main())
    if keep:
        eventually(lambda: ref.get_stats().total_subscribers == 0)
        eventually(lambda: ref.get_stats().streams_by_status == {"active": 1})
        return
    gemini.wait_request(1).wait_closed(2)
    eventually(lambda: ref.get_stats().stopped == 1)


def test_a_closed_loop_leaves_nothing_also_while_events_pour_in(
    gemini: LocalGemini, manager: StartManager
) -> None:
    gemini.on("why", Reply(["x" * 100] * 100_000, pace=0.0005))
    ref = manager()
    outlives: list[Any] = []

    async def main() -> None:
        answer = astream(ref, "why")
        outlives.append(answer)
        await anext(answer)

    asyncio.run(main())
    gemini.wait_request(1).wait_closed(2)
    assert ref.get_stats().stopped == 1


@pytest.mark.parametrize("keep", [0.0, 60.0])
def test_a_task_that_is_cancelled_while_it_starts(
    gemini: LocalGemini, manager: StartManager, keep: float
) -> None:
    gemini.on("why", Reply("one two three", hold_after=2))
    ref = manager(keep=keep)

    async def read() -> None:
        async with astream(ref, "why"):
            pytest.fail("it was cancelled")

    async def main() -> None:
        task = asyncio.create_task(read())
        await asyncio.sleep(0)  # it has asked
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.3)

    asyncio.run(main())
    stats = ref.get_stats()
    assert stats.total_subscribers == 0
    assert stats.stopped == (0 if keep else stats.started)
    gemini.gate("why").open()


def test_cancel_of_an_async_one_from_another_thread(gemini: LocalGemini, manager: StartManager) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager()

    async def main() -> list[Any]:
        async with astream(ref, "why") as answer:
            threading.Timer(0.05, answer.cancel).start()
            return [item async for item in answer]

    assert texts(asyncio.run(main())) in ("", "one")
    gemini.wait_request(1).wait_closed()


def test_an_async_loop_that_does_not_ask_holds_the_stream_back(manager: StartManager) -> None:
    with LocalGemini(sndbuf=8192) as server:
        server.on("why", Reply(["x" * 1000] * 5000))
        ref = manager(endpoint=server.endpoint)

        async def main() -> int:
            got = 0
            async with ticking() as ticker, astream(ref, "why", flow=FlowControl(window=16)) as answer:
                async for _ in answer:
                    got += 1
                    if got == 1:
                        record = server.wait_request(1)
                        await asyncio.sleep(0.3)
                        before = record.bytes_sent
                        await asyncio.sleep(0.1)
                        assert record.bytes_sent == before < 3_000_000
                assert ticker.longest < 0.25
            return got

        assert asyncio.run(main()) == 5000


def test_used_after_its_end(gemini: LocalGemini, manager: StartManager) -> None:
    ref = manager()

    async def main() -> None:
        answer = astream(ref, "why")
        async for _ in answer:
            pass
        assert isinstance(answer.result, StreamComplete)
        for _ in range(2):
            with pytest.raises(StopAsyncIteration):
                await anext(answer)

    asyncio.run(main())


def test_both_are_what_they_say() -> None:
    assert issubclass(Stream, Iterator)
    assert issubclass(AsyncStream, AsyncIterator)


class Exhausted:
    """An application's object that an iterator's own end escapes from when it is read."""

    def __init__(self, end: type[Exception]) -> None:
        self.end = end

    def __repr__(self) -> str:
        raise self.end


@pytest.mark.parametrize("end", [StopIteration, StopAsyncIteration])
def test_an_object_that_raises_the_end_of_an_iteration_ends_no_loop_in_silence(
    manager: StartManager, end: type[Exception]
) -> None:
    ref = manager()
    bad: Any = Exhausted(end)
    with pytest.raises(InvalidRequestError, match=end.__name__):
        list(stream(ref, "why", idle_timeout=bad))

    async def main() -> None:
        with pytest.raises(InvalidRequestError, match=end.__name__):
            await anext(astream(ref, "why", idle_timeout=bad))

    asyncio.run(main())
    [(_, answer)] = answers(ref, [StartStream("why", idle_timeout=bad)])
    assert isinstance(answer.error, InvalidRequestError)
