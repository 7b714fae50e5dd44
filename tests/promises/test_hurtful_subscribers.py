"""Subscribers that block, raise, end or are slow: what the others see of it, which is nothing."""

from __future__ import annotations

import threading
import time
from typing import Any

import pykka
import pytest

from gemini_streams import (
    FlowControl,
    SlowSubscriberError,
    StreamComplete,
    StreamEvent,
)
from gemini_streams.testing import Reply
from kit.helpers import eventually
from kit.scene import LAST, STEADY, Scene, texts
from pykka_supervisor.testing import Probe, TestClock

LONG = " ".join(f"w{n}" for n in range(300))


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
def test_one_that_blocks_for_ever_is_nobody_elses_business(overflow: Any) -> None:
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


def test_under_pause_the_others_go_on_within_the_stall_timeout() -> None:
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
            eventually(lambda: session.audience.parked is not None)
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


def test_what_others_ask_of_a_subscriber_that_ends_is_answered() -> None:
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


def test_one_that_raises_at_each_event_is_gone_at_the_first() -> None:
    with Scene() as scene:
        scene.gemini.on("why", Reply(LONG, hold_after=3))
        quick = scene.probe()
        raises = _Raises.start()
        stream_id = scene.manager.start_stream("why", subscriber=[raises, quick.ref])
        quick.expect(StreamEvent)
        eventually(lambda: scene.manager.get_stream_info(stream_id).subscribers == (quick.ref,))
        scene.gemini.gate("why").open()
        assert quick.expect(StreamComplete).events_count == 300


def test_a_restart_under_back_pressure_loses_nothing_and_repeats_nothing() -> None:
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
