"""`StopStream` in each phase of a stream: one last message, the connection closed, no restart."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from gemini_streams import (
    FlowControl,
    Gemini,
    RetryPolicy,
    StreamComplete,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
)
from gemini_streams.testing import Reply, StallUpload
from kit.helpers import eventually
from kit.scene import LAST, Scene
from pykka_supervisor.testing import Probe, TestClock

LONG = " ".join(f"w{n}" for n in range(300))


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
def test_a_stop_is_the_end_in_every_phase(phase: str) -> None:
    with Scene(connect_timeout=3) as scene:
        probe = scene.probe()
        stream_id = PHASES[phase](scene, probe)
        before = scene.requests()
        began = time.monotonic()
        assert scene.manager.stop_stream(stream_id, timeout=2.5) is True
        last = probe.expect(LAST)
        assert time.monotonic() - began < 2.5
        assert isinstance(last, StreamStopped)
        assert last.reason == "requested"
        for record in scene.gemini.requests:
            record.wait_closed()
        assert scene.manager.stop_stream(stream_id) is False
        time.sleep(0.05)
        assert scene.requests() == before
        stats = scene.manager.get_stats()
        assert (stats.stopped, stats.restarts) == (1, phase == "restarting")


def test_while_paused() -> None:
    gate = threading.Event()
    blocking = Probe(lambda _message: gate.wait(20))
    try:
        with Scene() as scene:
            scene.gemini.on("why", Reply(LONG, end="silent"))
            stream_id = scene.manager.start_stream("why", subscriber=blocking.ref, flow=FlowControl(window=4))
            session = scene.table.find(stream_id)
            eventually(lambda: session.audience.parked is not None)
            assert scene.manager.stop_stream(stream_id, timeout=1) is True
            scene.gemini.requests[0].wait_closed()
            gate.set()
            last = blocking.expect(LAST)
            assert (type(last), last.events_count) == (StreamStopped, 4)
            assert scene.requests() == 1
    finally:
        gate.set()
        blocking.stop()


def test_while_it_lingers() -> None:
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
