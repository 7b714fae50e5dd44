"""Cases 39 to 42: subscribers that hurt, stops in every phase, slots after every kind of end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pykka
import pytest

from gemini_streams import (
    FlowControl,
    Gemini,
    MaxStreamsExceededError,
    RetryPolicy,
    SlowSubscriberError,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
)
from gemini_streams.testing import Body, Failure, Raw, Reply, StallUpload
from kit.helpers import eventually
from kit.scene import LAST, STEADY, Scene, texts
from pykka_supervisor.testing import Probe, TestClock

LONG = " ".join(f"w{n}" for n in range(300))


# -- 39


class _Blocks(pykka.ThreadingActor):
    use_daemon_thread = True
    gate = threading.Event()

    def on_receive(self, message: Any) -> None:
        self.gate.wait(20)


class _Raises(pykka.ThreadingActor):
    use_daemon_thread = True

    def on_receive(self, message: Any) -> None:
        raise ZeroDivisionError


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "disconnect"])
def test_case_39_one_that_blocks_for_ever_is_nobody_elses_business(overflow: Any) -> None:
    _Blocks.gate = threading.Event()
    blocks: Any = _Blocks.start()
    try:
        with Scene() as scene:
            scene.gemini.on("why", Reply(LONG, hold_after=1))
            stream_id, quick = scene.start()
            scene.manager.subscribe_stream(stream_id, blocks, flow=FlowControl(window=8, overflow=overflow))
            scene.gemini.gate("why").open()
            last = quick.expect(StreamComplete)
            assert last.events_count == 300
            assert texts(quick.messages) == LONG
            _, other = scene.start("another")
            assert other.expect(LAST).ok
    finally:
        _Blocks.gate.set()
        blocks.stop()


def test_case_39_under_pause_the_others_go_on_within_the_stall_timeout() -> None:
    clock = TestClock()
    gate = threading.Event()
    blocking = Probe(lambda _message: gate.wait(20))
    try:
        with Scene(clock=clock) as scene:
            scene.gemini.on("why", Reply(LONG, hold_after=1))
            quick = scene.probe()
            flow = FlowControl(window=8, stall_timeout=60)
            stream_id = scene.manager.start_stream("why", subscriber=[quick.ref, blocking.ref], flow=flow)
            scene.gemini.gate("why").open()
            session = scene.table.find(stream_id)
            eventually(lambda: session._parked is not None)
            stalled = len(quick.wait(8))
            _, other = scene.start("another")  # another stream notices nothing
            assert other.expect(LAST).ok
            clock.advance(59)
            time.sleep(0.02)
            assert len(quick.messages) == stalled
            clock.advance(1)
            assert quick.expect(StreamComplete).events_count == 300
            gate.set()
            last = blocking.expect(LAST)
            assert isinstance(last.error, SlowSubscriberError)
            assert [m.sequence for m in blocking.messages[:-1]] == list(range(8))
    finally:
        gate.set()
        blocking.stop()


def test_case_39_what_others_ask_of_a_subscriber_that_ends_is_answered() -> None:
    _Blocks.gate = threading.Event()
    blocks: Any = _Blocks.start()
    with Scene() as scene:
        scene.gemini.on("why", Reply(LONG, end="silent"))
        scene.manager.start_stream("why", subscriber=blocks, flow=FlowControl(window=8))
        eventually(lambda: blocks.actor_inbox.qsize() >= 8)  # events, and requests for acknowledgement
        blocks.stop(block=False)
        scene.manager.start_stream("why", subscriber=blocks, flow=FlowControl(window=8))
        eventually(lambda: blocks.actor_inbox.qsize() >= 16)
        asked = blocks.ask("something", block=False)
        _Blocks.gate.set()
        with pytest.raises(pykka.ActorDeadError):
            asked.get(timeout=2)


def test_case_39_one_that_raises_at_each_event_is_gone_at_the_first() -> None:
    with Scene() as scene:
        scene.gemini.on("why", Reply(LONG, hold_after=3))
        quick = scene.probe()
        raises = _Raises.start()
        stream_id = scene.manager.start_stream("why", subscriber=[raises, quick.ref])
        quick.expect(StreamEvent)
        eventually(lambda: scene.manager.get_stream_info(stream_id).subscribers == (quick.ref,), timeout=1.5)
        scene.gemini.gate("why").open()
        assert quick.expect(StreamComplete).events_count == 300


# -- 40

Setup = Callable[[Scene, Probe], str]


def _start(scene: Scene, probe: Probe, text: str = "why", **options: Any) -> str:
    return scene.manager.start_stream(text, subscriber=probe.ref, **options)


def _connecting(scene: Scene, probe: Probe) -> str:
    stream_id = _start(scene, probe, endpoint=Gemini(api_key="k", base_url=scene.gemini.unconnectable_url()))
    session = scene.table.find(stream_id)
    eventually(lambda: session.current and session.current.exchange)
    return stream_id


def _uploading(scene: Scene, probe: Probe) -> str:
    scene.gemini.on("why", StallUpload())
    stream_id = _start(scene, probe, "why " + "x" * 20_000_000)
    scene.gemini.wait_request(1)
    return stream_id


def _waiting_for_headers(scene: Scene, probe: Probe) -> str:
    scene.gemini.on("why", Reply(LONG, hold_before_headers=True))
    stream_id = _start(scene, probe)
    scene.gemini.gate("why").reached()
    return stream_id


def _in_the_middle(scene: Scene, probe: Probe) -> str:
    scene.gemini.on("why", Reply(LONG, pace=0.01))
    stream_id = _start(scene, probe)
    probe.expect(StreamEvent)
    return stream_id


def _silent(scene: Scene, probe: Probe) -> str:
    scene.gemini.on("why", Reply(LONG, end="silent", end_after=2))
    stream_id = _start(scene, probe)
    probe.expect(StreamEvent)
    return stream_id


def _restarting(scene: Scene, probe: Probe) -> str:
    scene.gemini.on("why", Reply(LONG, end="reset", end_after=2))
    stream_id = _start(scene, probe, retry=RetryPolicy(initial_delay=20, jitter=0))
    probe.expect(StreamRestarting)
    return stream_id


PHASES: dict[str, Setup] = {
    "connecting": _connecting,
    "in a stuck upload": _uploading,
    "waiting for the headers": _waiting_for_headers,
    "in the middle": _in_the_middle,
    "silent": _silent,
    "restarting": _restarting,
}


@pytest.mark.parametrize("phase", PHASES)
def test_case_40_a_stop_is_the_end_in_every_phase(phase: str) -> None:
    with Scene(connect_timeout=1) as scene:
        probe = scene.probe()
        stream_id = PHASES[phase](scene, probe)
        before = scene.requests()
        began = time.monotonic()
        assert scene.manager.stop_stream(stream_id, timeout=1) is True
        last = probe.expect(LAST)
        assert time.monotonic() - began < 0.5
        assert isinstance(last, StreamStopped)
        assert last.reason == "requested"
        for record in scene.gemini.requests:
            record.wait_closed()
        assert scene.manager.stop_stream(stream_id) is False
        time.sleep(0.05)
        assert scene.requests() == before
        stats = scene.manager.get_stats()
        assert (stats.stopped, stats.restarts) == (1, phase == "restarting")


def test_case_40_while_paused() -> None:
    gate = threading.Event()
    blocking = Probe(lambda _message: gate.wait(20))
    try:
        with Scene() as scene:
            scene.gemini.on("why", Reply(LONG, end="silent"))
            stream_id = scene.manager.start_stream("why", subscriber=blocking.ref, flow=FlowControl(window=4))
            session = scene.table.find(stream_id)
            eventually(lambda: session._parked is not None)
            assert scene.manager.stop_stream(stream_id, timeout=1) is True
            scene.gemini.requests[0].wait_closed()
            gate.set()
            last = blocking.expect(LAST)
            assert (type(last), last.events_count) == (StreamStopped, 4)
            assert scene.requests() == 1
    finally:
        gate.set()
        blocking.stop()


def test_case_40_while_it_lingers() -> None:
    clock = TestClock()
    with Scene(clock=clock, linger=5) as scene:
        scene.gemini.on("why", Reply("one"))
        stream_id, probe = scene.start()
        probe.expect(StreamComplete)
        assert scene.manager.stop_stream(stream_id) is False
        assert scene.manager.list_streams() == [stream_id]
        clock.advance(5)
        assert scene.manager.list_streams() == []
        assert scene.manager.stop_stream(stream_id) is False


# -- 41

FAILURES: list[Any] = [
    Failure(400),
    Failure(500),
    Failure(429, retry_after=1000),
    Raw(b"", close="reset"),
    Raw(b"HTTP/1.1 200 OK\r\n\r\n"),
    Reply(LONG, end="reset", end_after=2),
    Reply(LONG, end="cut", end_after=2),
    Reply(LONG, end_after=2),
    Reply(LONG, error_after=(1, Failure(503))),
    Body(b"data: no JSON\r\n\r\n"),
    Body(b"data: " + b"x" * 20_000 + b"\r\n\r\n"),
    Body(b"<html>", content_type="text/html"),
    Body(b"", status=301),
]


def test_case_41_after_every_kind_of_failure_the_slots_are_free_at_once() -> None:
    count = len(FAILURES)
    policy = RetryPolicy(attempts=2, initial_delay=0, jitter=0, max_retry_after=0.05)
    with Scene(max_streams=count, max_event_bytes=10_000, retry=policy) as scene:
        for number, failure in enumerate(FAILURES):
            scene.gemini.on(f"case {number:02}", failure)
        for _ in range(3):
            models = [f"model-{number}" for number in range(count)]  # one's 429 is not the others'
            probes = [
                scene.start(f"case {number:02}", model=models[number], retry=policy)[1]
                for number in range(count)
            ]
            for probe in probes:
                assert isinstance(probe.expect(LAST), StreamError)
            stats = scene.manager.get_stats()
            assert scene.table._running == 0
            assert set(stats.streams_by_status) == {"error"}
        started = [scene.start(f"good {number}")[1] for number in range(count)]
        for probe in started:
            assert probe.expect(LAST).ok


def test_case_41_the_handler_of_the_last_message_can_start_the_next_stream() -> None:
    started: list[str] = []
    refused: list[BaseException] = []
    done = threading.Event()

    with Scene(max_streams=1) as scene:

        class Chain(pykka.ThreadingActor):
            use_daemon_thread = True

            def on_receive(self, message: Any) -> None:
                if isinstance(message, LAST):
                    try:
                        started.append(scene.manager.start_stream("why", subscriber=self.actor_ref))
                    except MaxStreamsExceededError as error:
                        refused.append(error)
                    if len(started) == 30:
                        done.set()

        scene.gemini.on("why", Reply("one"), Failure(400), Reply("two", end="cut", end_after=0))
        chain = Chain.start()
        scene.manager.start_stream("why", subscriber=chain, retry=RetryPolicy(attempts=1))
        assert done.wait(20)
        assert refused == []
        scene.manager.stop(timeout=5)
        chain.stop()


def test_case_41_who_waits_for_a_slot_has_it_next() -> None:
    with Scene(max_streams=2, max_waiting=3) as scene:
        scene.gemini.on("why", Reply("one two", hold_after=1))
        running = [scene.start() for _ in range(2)]
        waiting = [scene.start("short") for _ in range(3)]
        with pytest.raises(MaxStreamsExceededError):
            scene.start()
        assert [scene.status(stream_id) for stream_id, _ in waiting] == ["queued"] * 3
        assert scene.manager.stop_stream(waiting[1][0]) is True  # one that has not begun
        assert isinstance(waiting[1][1].expect(LAST), StreamStopped)
        scene.manager.stop_stream(running[0][0])
        for _, probe in (waiting[0], waiting[2]):
            assert probe.expect(LAST).ok
        assert scene.requests("short") == 2


# -- 42, as far as restarts go


def test_case_42_a_restart_under_back_pressure_loses_nothing_and_repeats_nothing() -> None:
    def slow(_message: Any) -> None:
        time.sleep(0.0005)

    slowly = Probe(slow)
    try:
        with Scene(clock=TestClock(), retry=STEADY) as scene:
            scene.gemini.on("why", Reply(LONG, end="cut", end_after=250), Reply(LONG))
            stream_id = scene.manager.start_stream("why", subscriber=slowly.ref, flow=FlowControl(window=16))
            distances, last = scene.ride(stream_id, slowly)
            assert distances == [0.5]
            assert (last.ok, last.events_count) == (True, 300)
            assert texts(slowly.messages) == LONG
            assert sum(isinstance(m, StreamEvent) for m in slowly.messages) == 550
    finally:
        slowly.stop()
