"""Slots: free at once after every kind of end, and given to the stream that has waited longest."""

from __future__ import annotations

import threading
from typing import Any

import pykka
import pytest

from gemini_streams import (
    MaxStreamsExceededError,
    RetryPolicy,
    StreamError,
    StreamStopped,
)
from gemini_streams.testing import Body, Failure, Raw, Reply
from kit.scene import LAST, Scene

LONG = " ".join(f"w{n}" for n in range(300))


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


def test_after_every_kind_of_failure_the_slots_are_free_at_once() -> None:
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


def test_the_handler_of_the_last_message_can_start_the_next_stream() -> None:
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
        scene.manager.stop(timeout=20)
        chain.stop()


def test_who_waits_for_a_slot_has_it_next() -> None:
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
