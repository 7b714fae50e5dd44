"""Many streams at once: killed at the same instant, and held back by the same 429."""

from __future__ import annotations

import time

import pytest

from gemini_streams import (
    ManagerActor,
    StreamEvent,
    StreamRestarting,
)
from gemini_streams.testing import Failure, Reply, check_history
from kit.helpers import eventually
from kit.scene import LAST, STEADY, Scene
from pykka_supervisor.testing import Probe, TestClock, kill


def test_two_hundred_killed_at_the_same_instant() -> None:
    with Scene(max_streams=200) as scene:
        scene.gemini.on("why", Reply("one two three", hold_after=2))
        started = [scene.start() for _ in range(200)]
        for _, probe in started:
            probe.expect(StreamEvent)
            probe.expect(StreamEvent)
        supervisor = scene.streams()
        refs = [scene.ref(stream_id) for stream_id, _ in started]
        for ref in refs:
            kill(ref)
        for _, probe in started:
            assert probe.expect(StreamRestarting, timeout=20).attempt == 2
            probe.expect(StreamEvent, timeout=20)
        assert scene.streams() is supervisor
        assert scene.manager.get_stats().restarts == 200
        scene.gemini.gate("why").open()
        for _, probe in started:
            assert probe.expect(LAST, timeout=20).attempts == 2
        assert scene.requests() == 400


@pytest.mark.parametrize("how", ["new streams", "streams in their backoff"])
def test_a_429_holds_back_two_managers_streams(how: str) -> None:
    clock = TestClock()
    with Scene(clock=clock, retry=STEADY) as scene:
        other = ManagerActor.start(endpoint=scene.gemini.endpoint, clock=clock, retry=STEADY)
        probes = [Probe() for _ in range(5)]
        try:
            scene.gemini.on("limited", Failure(429, retry_delay="20s"), Reply("one"))
            scene.gemini.on("backing off", Failure(503), Reply("two"))
            scene.gemini.on("another model", Reply("three"))
            if how == "streams in their backoff":
                other.start_stream("backing off", subscriber=probes[0].ref)
                assert probes[0].expect(StreamRestarting).delay == 0.5
            _, limited = scene.start("limited")
            assert limited.expect(StreamRestarting).delay == 20
            asked = scene.requests()
            if how == "new streams":
                for probe in probes[:4]:
                    other.start_stream("backing off", subscriber=probe.ref)
            other.start_stream("another model", subscriber=probes[4].ref, model="another")
            assert probes[4].expect(LAST).ok  # its quota is its own
            for _ in range(19):
                clock.advance(1)
                time.sleep(0.005)
            clock.advance(0.99)
            time.sleep(0.05)
            assert scene.requests() == asked + 1
            for _ in range(8):
                clock.advance(1)
                time.sleep(0.02)
            assert limited.expect(LAST).ok
            for probe in probes[:4] if how == "new streams" else probes[:1]:
                assert probe.expect(LAST).ok
                assert check_history(probe.messages, ended=True) == []
        finally:
            other.stop(timeout=20)
            for probe in probes:
                probe.stop()


def test_those_who_were_held_back_come_at_a_pace() -> None:
    clock = TestClock()
    with Scene(clock=clock, retry=STEADY) as scene:
        scene.gemini.on("limited", Failure(429, retry_after=10), Reply("one"))
        scene.gemini.on("why", Reply("one", headers_delay=60))
        _, limited = scene.start("limited")
        assert limited.expect(StreamRestarting).delay == 10
        probes = [scene.start()[1] for _ in range(30)]
        eventually(lambda: scene.held() == 30)
        clock.advance(9.99)
        time.sleep(0.02)
        assert scene.requests("why") == 0
        clock.advance(0.01)
        for let_out in (
            1,
            3,
            7,
            15,
        ):  # rounds of 1, 2, 4, 8, a second apart, for the server has answered none
            scene.gemini.wait_request(let_out, "why")
            clock.advance(0.99)
            time.sleep(0.02)
            assert scene.requests("why") == let_out
            clock.advance(0.01)
        scene.gemini.wait_request(30, "why")
        for stream_id in scene.manager.list_streams():
            scene.manager.stop_stream(stream_id)
        for probe in (limited, *probes):
            probe.expect(LAST)
