"""Slots, the queue for them, and Drain: `max_streams`, `max_waiting`."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import pykka
import pytest

from conftest import StartManager
from gemini_streams import (
    DeadlineExceededError,
    Drain,
    ManagerDrainingError,
    ManagerRef,
    MaxStreamsExceededError,
    StartStream,
    StreamComplete,
    StreamError,
    StreamStopped,
    SubscriberActor,
)
from gemini_streams.iterate import stream
from gemini_streams.testing import LocalGemini, Reply
from kit.helpers import LAST, eventually, last_of
from pykka_supervisor import kill
from pykka_supervisor.testing import Probe, TestClock


class Crowd:
    """How many requests the server had open at once, at most."""

    def __init__(self, server: LocalGemini) -> None:
        self.server = server
        self.most = 0

    def count(self) -> None:
        moments: list[tuple[float, int]] = []
        for record in self.server.requests:
            moments.append((record.opened_at, 1))
            if record.closed_at is not None:
                moments.append((record.closed_at, -1))
        now = 0
        for _, step in sorted(moments):
            now += step
            self.most = max(self.most, now)


def test_those_who_wait_start_in_the_order_of_asking(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("hold", Reply("x", hold_after=0))
    streams = manager(max_streams=1, max_waiting=10)
    first = streams.start_stream("hold", subscriber=probe.ref)
    ids = [streams.start_stream(f"number {n}", subscriber=probe.ref) for n in range(10)]
    assert [streams.get_stream_info(i).status for i in ids] == ["queued"] * 10
    assert streams.get_stats().streams_by_status["queued"] == 10
    with pytest.raises(MaxStreamsExceededError, match="10 wait"):
        streams.start_stream("one too many", subscriber=probe.ref)
    gemini.gate("hold").reached()
    assert len(gemini.requests) == 1
    gemini.gate("hold").open()
    for stream_id in [first, *ids]:
        assert last_of(probe, stream_id).ok
    assert [r.text for r in gemini.requests] == ["hold", *(f"number {n}" for n in range(10))]


def test_a_queued_stream_that_is_stopped_leaves_the_queue(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("hold", Reply("x", hold_after=0))
    streams = manager(max_streams=1, max_waiting=2)
    streams.start_stream("hold", subscriber=probe.ref)
    second = streams.start_stream("second", subscriber=probe.ref)
    third = streams.start_stream("third", subscriber=probe.ref)
    assert streams.stop_stream(second)
    assert isinstance(probe.expect(LAST, lambda m: m.stream_id == second), StreamStopped)
    fourth = streams.start_stream("fourth", subscriber=probe.ref)  # its place is free
    gemini.gate("hold").open()
    assert last_of(probe, third).ok
    assert last_of(probe, fourth).ok
    assert [r.text for r in gemini.requests] == ["hold", "third", "fourth"]


@pytest.mark.parametrize("how", ["unsubscribe", "death"])
def test_a_queued_stream_whose_subscriber_leaves_ends(
    gemini: LocalGemini, manager: StartManager, probe: Probe, how: str
) -> None:
    gemini.on("hold", Reply("x", hold_after=0))
    streams = manager(max_streams=1, max_waiting=2)
    streams.start_stream("hold", subscriber=probe.ref)
    with Probe() as leaving:
        second = streams.start_stream("second", subscriber=leaving.ref)
        if how == "unsubscribe":
            assert streams.unsubscribe_stream(second, leaving.ref)
    eventually(lambda: streams.get_stream_info(second).status == "stopped")
    gemini.gate("hold").open()
    assert last_of(probe).ok
    assert len(gemini.requests) == 1


def test_the_deadline_of_a_queued_stream_runs(
    gemini: LocalGemini, manager: StartManager, probe: Probe, clock: TestClock
) -> None:
    gemini.on("hold", Reply("x", hold_after=0))
    streams = manager(max_streams=1, max_waiting=2, clock=clock)
    streams.start_stream("hold", subscriber=probe.ref)
    second = streams.start_stream("second", subscriber=probe.ref, deadline=5)
    clock.advance(6)
    last = probe.expect(StreamError, lambda m: m.stream_id == second)
    assert isinstance(last.error, DeadlineExceededError)
    assert streams.get_stats().streams_by_status == {"starting": 1, "error": 1} or (
        streams.get_stats().streams_by_status == {"active": 1, "error": 1}
    )
    gemini.gate("hold").open()
    assert last_of(probe).ok
    assert len(gemini.requests) == 1


def test_the_queue_outlives_the_manager(gemini: LocalGemini, manager: StartManager, probe: Probe) -> None:
    gemini.on("hold", Reply("x", hold_after=0))
    streams = manager(max_streams=1, max_waiting=5)
    ids = [streams.start_stream("hold", subscriber=probe.ref)]
    ids += [streams.start_stream(f"number {n}", subscriber=probe.ref) for n in range(5)]
    kill(streams)
    assert streams.get_stats().streams_by_status["queued"] == 5
    gemini.gate("hold").open()
    for stream_id in ids:
        assert last_of(probe, stream_id).ok


def test_a_stop_of_the_manager_ends_those_who_wait(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("hold", Reply("x", hold_after=0))
    streams = manager(max_streams=1, max_waiting=5)
    ids = [streams.start_stream("hold", subscriber=probe.ref) for _ in range(6)]
    streams.stop(timeout=20)
    told = probe.wait(6)
    assert all(isinstance(message, StreamStopped) for message in told)
    assert sorted(message.stream_id for message in told) == sorted(ids)
    assert len(gemini.requests) <= 1


# -- Drain -------------------------------------------------------------------------------------------------------------


def test_drain_lets_those_who_run_and_wait_end(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("hold", Reply("x", hold_after=0))
    streams = manager(max_streams=2, max_waiting=5)
    ids = [streams.start_stream(f"hold {n}", subscriber=probe.ref) for n in range(4)]
    drained = streams.ask(Drain(30), block=False)
    for again in range(2):
        with pytest.raises(ManagerDrainingError):
            streams.start_stream(f"new {again}", subscriber=probe.ref)
    other = streams.ask(Drain(30), block=False)
    assert streams.get_stream_info(ids[0]).status in ("starting", "active")
    gemini.gate("hold").open()
    assert drained.get(timeout=20) == 0
    assert other.get(timeout=20) == 0
    for stream_id in ids:
        assert last_of_any(probe, stream_id).ok
    assert streams.ask(Drain(30), timeout=20) == 0
    with pytest.raises(ManagerDrainingError):
        streams.start_stream("new", subscriber=probe.ref)


def test_drain_answers_how_many_were_cut(
    gemini: LocalGemini, manager: StartManager, probe: Probe, clock: TestClock
) -> None:
    gemini.on("hold", Reply("x", hold_after=0))
    streams = manager(max_streams=3, max_waiting=5, clock=clock)
    ids = [streams.start_stream("hold", subscriber=probe.ref) for _ in range(5)]
    quick = streams.start_stream("quick", subscriber=probe.ref)
    drained = streams.ask(Drain(30), block=False)
    assert streams.stop_stream(ids[0])
    assert streams.stop_stream(ids[1])
    assert streams.stop_stream(ids[2])
    assert last_of(probe, quick).ok
    clock.advance(31)
    assert drained.get(timeout=20) == 2
    for stream_id in ids[3:]:
        assert last_of_any(probe, stream_id).reason == "shutdown"


def last_of_any(probe: Probe, stream_id: str) -> Any:
    return eventually(
        lambda: next((m for m in probe.messages if isinstance(m, LAST) and m.stream_id == stream_id), None)
    )


def test_a_drain_in_the_hands_of_a_manager_that_dies(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("hold", Reply("x", hold_after=0))
    streams = manager()
    streams.start_stream("hold", subscriber=probe.ref)
    drained = streams.ask(Drain(30), block=False)
    with pytest.raises(ManagerDrainingError):
        streams.start_stream("new", subscriber=probe.ref)
    kill(streams)
    with pytest.raises(pykka.ActorDeadError):
        drained.get(timeout=20)
    with pytest.raises(ManagerDrainingError):  # it goes on draining
        streams.start_stream("new", subscriber=probe.ref)
    again = streams.ask(Drain(30), block=False)
    gemini.gate("hold").open()
    assert again.get(timeout=20) == 0


# -- many --------------------------------------------------------------------------------------------------------------


class Counting(SubscriberActor):
    def __init__(self, wanted: int) -> None:
        super().__init__()
        self.left = wanted
        self.lost: list[Any] = []
        self.done = threading.Event()

    def on_stream_complete(self, message: StreamComplete) -> None:
        if message.events_count != 3:
            self.lost.append(message)
        self.left -= 1
        if not self.left:
            self.done.set()

    def on_stream_error(self, message: StreamError) -> None:
        self.lost.append(message)


def many_from_one_actor(gemini: LocalGemini, streams: ManagerRef, count: int, timeout: float) -> None:
    ref = Counting.start(count)
    actor: Any = ref.proxy()
    done, lost = actor.done.get(), actor.lost.get()
    try:
        for number in range(count):
            streams.tell(StartStream(f"why {number}", subscriber=ref))
        assert done.wait(timeout), streams.get_stats()
        assert lost == []
    finally:
        ref.stop()
    check_crowd(gemini, streams, count)


def check_crowd(gemini: LocalGemini, streams: ManagerRef, count: int) -> None:
    crowd = Crowd(gemini)
    crowd.count()
    assert len(gemini.requests) == count
    assert 1 < crowd.most <= 50, "never more than max_streams at the server"
    assert gemini.connections_opened <= 50
    eventually(lambda: streams.get_stats().completed == count)


def many_from_threads(gemini: LocalGemini, streams: ManagerRef, count: int) -> None:
    failed: list[Any] = []

    def run(first: int) -> None:
        for number in range(first, count, 50):
            try:
                with stream(streams, f"why {number}") as answer:
                    events = list(answer)
                assert len(events) == 3
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    check_crowd(gemini, streams, count)


def many_asked_at_once_from_threads(gemini: LocalGemini, streams: ManagerRef, count: int) -> None:
    """Each thread enters all its streams before it reads the first: all are asked for at once."""
    failed: list[Any] = []

    def run(first: int) -> None:
        try:
            answers = [stream(streams, f"why {number}").__enter__() for number in range(first, count, 50)]
            for answer in answers:
                assert len(list(answer)) == 3
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    check_crowd(gemini, streams, count)


@pytest.fixture
def fifty(gemini: LocalGemini, manager: StartManager) -> ManagerRef:
    gemini.on("why", Reply("one two three", pace=0.001))
    return manager(max_streams=50, max_waiting=5000, linger=0)


def test_1000_at_once_from_one_actor(gemini: LocalGemini, fifty: ManagerRef) -> None:
    many_from_one_actor(gemini, fifty, 1000, 50)


def test_1000_from_stream_in_50_threads(gemini: LocalGemini, fifty: ManagerRef) -> None:
    many_from_threads(gemini, fifty, 1000)


def test_500_at_once_from_stream_in_50_threads(gemini: LocalGemini, fifty: ManagerRef) -> None:
    many_asked_at_once_from_threads(gemini, fifty, 500)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_5000_at_once(gemini: LocalGemini, fifty: ManagerRef, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    many_from_one_actor(gemini, fifty, 5000, 200)
    with capsys.disabled():
        sys.stdout.write(f"\n5,000 streams from one actor, 50 at a time: {time.monotonic() - began:.1f} s\n")


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", [many_from_threads, many_asked_at_once_from_threads])
def test_5000_from_threads(gemini: LocalGemini, fifty: ManagerRef, how: Any) -> None:
    how(gemini, fifty, 5000)
