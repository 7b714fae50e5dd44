"""The stream's actor is killed in every phase of its life; it hangs, crashes and is stopped, too."""

from __future__ import annotations

import queue
import socket
import threading
import time
from functools import partial
from typing import Any, cast

import pykka
import pytest

from gemini_streams import (
    FlowControl,
    Gemini,
    RetryPolicy,
    StreamComplete,
    StreamCrashedError,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
)
from gemini_streams.http.exchange import Exchange
from gemini_streams.streams.actor import StreamActor
from gemini_streams.streams.feed import Feed
from gemini_streams.streams.pump import Pump
from gemini_streams.testing import Raw, Reply, StallUpload, check_history, trickle
from kit.helpers import eventually
from kit.scene import AT_ONCE, LAST, STEADY, Scene, Slow, texts
from pykka_supervisor import leaked_threads
from pykka_supervisor.testing import Probe, TestClock, kill

TEXT = "one two three four five six"
WHOLE = Reply(TEXT)


def expect_restart(probe: Probe, resume_at: int = 0) -> StreamRestarting:
    restart = probe.expect(StreamRestarting)
    assert isinstance(restart.error, StreamCrashedError)
    assert restart.attempt == 2
    assert restart.resume_at == resume_at
    return restart


def expect_whole(probe: Probe, attempts: int = 2) -> None:
    last = probe.expect(LAST)
    assert isinstance(last, StreamComplete)
    assert (last.attempts, last.events_count) == (attempts, 6)
    assert texts(probe.messages) == TEXT


def test_killed_while_connecting() -> None:
    policy = RetryPolicy(attempts=2, initial_delay=0, jitter=0)
    with Scene(retry=policy, connect_timeout=1, shutdown=0.2) as scene:
        stream_id, probe = scene.start(
            endpoint=Gemini(api_key="k", base_url=scene.gemini.unconnectable_url())
        )
        session = scene.table.find(stream_id)
        eventually(lambda: session.current and session.current.exchange)
        time.sleep(0.05)
        began = time.monotonic()
        assert kill(scene.ref(stream_id))
        assert not expect_restart(probe).discard
        assert time.monotonic() - began < 0.8  # not when the connect comes back, but when its time is over
        last = probe.expect(StreamError)
        assert last.attempts == 2
        eventually(lambda: not leaked_threads())


def test_killed_while_resolving(monkeypatch: pytest.MonkeyPatch) -> None:
    held, arrived = threading.Event(), threading.Event()
    resolve = socket.getaddrinfo

    def slow(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not arrived.is_set():
            arrived.set()
            held.wait(20)
        return resolve(host, *args, **kwargs)

    with Scene(shutdown=0.1) as scene:
        scene.gemini.on("why", WHOLE)
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        stream_id, probe = scene.start()
        assert arrived.wait(20)
        kill(scene.ref(stream_id))
        expect_restart(probe)
        expect_whole(probe)
        assert scene.requests() == 1
        held.set()  # and the late thread asks nothing, delivers nothing
        eventually(lambda: not leaked_threads())
        assert scene.requests() == 1


def test_killed_in_a_stuck_upload() -> None:
    with Scene() as scene:
        scene.gemini.on("why", StallUpload(), WHOLE)
        stream_id, probe = scene.start("why " + "x" * 20_000_000)
        record = scene.gemini.wait_request(1)
        assert record.stalled
        time.sleep(0.05)
        began = time.monotonic()
        kill(scene.ref(stream_id))
        expect_restart(probe)
        assert time.monotonic() - began < 8
        scene.gemini.gate("why").open()
        expect_whole(probe)


@pytest.mark.parametrize(
    ("first", "seen", "reached"),
    [
        (Reply(TEXT, hold_before_headers=True), 0, True),
        (Reply(TEXT, hold_after=0), 0, True),
        (Reply(TEXT, hold_after=3), 3, True),
        (trickle(0.01), 0, False),
        (Raw(b"HTTP/1.1 200 OK\r\nContent-Ty", close="silent"), 0, False),
    ],
    ids=[
        "before the headers",
        "behind them",
        "between two events",
        "in the middle of a read",
        "in the headers",
    ],
)
def test_killed_while_it_waits_for_the_server(first: Any, seen: int, reached: bool) -> None:
    with Scene() as scene:
        scene.gemini.on("why", first, WHOLE)
        stream_id, probe = scene.start()
        record = scene.gemini.wait_request(1)
        if reached:
            scene.gemini.gate("why").reached()
        else:
            time.sleep(0.1)
        for _ in range(seen):
            probe.expect(StreamEvent)
        began = time.monotonic()
        kill(scene.ref(stream_id))
        assert expect_restart(probe).discard == (seen > 0)
        assert record.wait_closed() - began < 0.5
        assert record.client_closed
        expect_whole(probe)
        assert scene.requests() == 2


class _GatedInbox(queue.Queue[Any]):
    """The first event waits at a gate before it is in."""

    reached: threading.Event
    gate: threading.Event

    def _put(self, item: Any) -> None:
        if isinstance(item.message, StreamEvent) and not self.reached.is_set():
            self.reached.set()
            self.gate.wait(20)
        super()._put(item)


def test_killed_between_two_deliveries() -> None:
    reached, gate = threading.Event(), threading.Event()
    received: list[Any] = []

    class Second(pykka.ThreadingActor):
        @staticmethod
        def _create_actor_inbox() -> Any:
            inbox = _GatedInbox()
            inbox.reached, inbox.gate = reached, gate
            return inbox

        def on_receive(self, message: Any) -> None:
            received.append(message)

    second = Second.start()
    try:
        with Scene() as scene:
            scene.gemini.on("why", Reply(TEXT, hold_after=1), WHOLE)
            first = scene.probe()
            stream_id = scene.manager.start_stream("why", subscriber=[first.ref, second])
            assert reached.wait(20)
            assert first.expect(StreamEvent).sequence == 0
            killing = Slow(lambda: kill(scene.ref(stream_id)))
            time.sleep(0.05)
            gate.set()
            assert killing.join() is True
            expect_restart(first)
            expect_whole(first)
            eventually(lambda: received and isinstance(received[-1], LAST))
            assert check_history(received, ended=True) == []
            # Both have the same: a delivery is whole or it is not.
            assert [type(m) for m in received] == [type(m) for m in first.messages]
    finally:
        second.stop()


def test_killed_during_a_backoff() -> None:
    clock = TestClock()
    with Scene(clock=clock, retry=STEADY) as scene:
        scene.gemini.on("why", Reply(TEXT, end="cut", end_after=2), WHOLE)
        stream_id, probe = scene.start()
        restart = probe.expect(StreamRestarting)
        scene.await_status(stream_id, "restarting")
        assert kill(scene.ref(stream_id)) is False  # there is nobody to kill
        clock.wait_for_timer(within=0.5)
        clock.advance(restart.delay)
        expect_whole(probe)
        assert scene.requests() == 2


def test_killed_before_it_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    held, arrived = threading.Event(), threading.Event()
    begin = StreamActor.on_start

    def slow(actor: StreamActor) -> None:
        if actor._session.status == "restarting" and not arrived.is_set():
            arrived.set()
            held.wait(20)
        begin(actor)

    monkeypatch.setattr(StreamActor, "on_start", slow)
    with Scene() as scene:
        scene.gemini.on("why", Reply(TEXT, end="cut", end_after=2), WHOLE)
        stream_id, probe = scene.start()
        assert probe.expect(StreamRestarting).attempt == 2
        assert arrived.wait(20)
        kill(scene.ref(stream_id))
        held.set()
        assert probe.expect(StreamRestarting).attempt == 3
        expect_whole(probe, attempts=3)
        assert scene.requests() == 2


def test_killed_while_paused_by_flow_control() -> None:
    gate = threading.Event()

    def block(message: Any) -> None:
        if isinstance(message, StreamEvent) and message.attempt == 1:
            gate.wait(20)

    slow = Probe(block)
    try:
        with Scene() as scene:
            scene.gemini.on("why", WHOLE)
            stream_id = scene.manager.start_stream("why", subscriber=slow.ref, flow=FlowControl(window=2))
            session = scene.table.find(stream_id)
            eventually(lambda: session.audience.parked is not None)
            kill(scene.ref(stream_id))
            eventually(lambda: session.attempt == 2)
            time.sleep(0.05)
            assert scene.requests() <= 2
            gate.set()
            assert slow.expect(StreamRestarting).resume_at == 0
            expect_whole(slow)
            assert check_history(slow.messages, ended=True) == []
    finally:
        gate.set()
        slow.stop()


def test_killed_while_stopping() -> None:
    with Scene() as scene:
        scene.gemini.on("why", Reply(TEXT, hold_after=2))
        for _ in range(20):
            stream_id, probe = scene.start()
            probe.expect(StreamEvent)
            ref = scene.ref(stream_id)
            stopping = Slow(partial(scene.manager.stop_stream, stream_id))
            kill(ref)
            assert stopping.join() is True
            last = probe.expect(LAST)
            assert isinstance(last, StreamStopped)
            assert last.reason == "requested"
            ref.actor_stopped.wait(20)
        assert scene.manager.get_stats().stopped == 20


def test_killed_while_it_completes(monkeypatch: pytest.MonkeyPatch) -> None:
    complete = Feed.complete

    def killed(feed: Feed) -> None:
        Slow(partial(kill, cast("Any", feed.session.ref))).join()
        complete(feed)

    monkeypatch.setattr(Feed, "complete", killed)
    with Scene(retry=RetryPolicy(attempts=1)) as scene:
        scene.gemini.on("why", WHOLE)
        _, probe = scene.start()
        assert isinstance(probe.expect(LAST), StreamComplete)
        assert scene.requests() == 1


def test_a_late_thread_of_a_retired_attempt_delivers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    held, arrived, late = threading.Event(), threading.Event(), threading.Event()
    deliver = Pump._deliver

    def slow(pump: Pump, payloads: Any) -> None:
        if pump._attempt.number == 1:
            arrived.set()
            held.wait(20)
            try:
                deliver(pump, payloads)
            finally:
                late.set()
        else:
            deliver(pump, payloads)

    monkeypatch.setattr(Pump, "_deliver", slow)
    monkeypatch.setattr(Pump, "_lend", lambda *_: False)  # each attempt delivers in a thread of its own
    with Scene(shutdown=0.1) as scene:
        scene.gemini.on("why", WHOLE, Reply(TEXT, hold_after=3))
        stream_id, probe = scene.start()
        assert arrived.wait(20)
        kill(scene.ref(stream_id))
        expect_restart(probe)
        for _ in range(3):
            probe.expect(StreamEvent)
        before = len(probe.messages)
        held.set()
        assert late.wait(20)
        eventually(lambda: not leaked_threads())
        assert len(probe.messages) == before
        scene.gemini.gate("why").open()
        expect_whole(probe)


def test_a_hang_is_noticed_by_the_silence_and_overcome(monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()
    read = Exchange.read_now
    hung: list[Exchange] = []

    def hangs(exchange: Exchange) -> bytes | None:
        if not hung:  # its first read, in its own thread
            hung.append(exchange)
            held.wait(20)  # whatever interrupts it
        return read(exchange)

    monkeypatch.setattr(Exchange, "read_now", hangs)
    clock = TestClock()
    with Scene(clock=clock, shutdown=0.2, retry=AT_ONCE) as scene:
        scene.gemini.on("why", WHOLE)
        _, probe = scene.start(first_event_timeout=10)
        eventually(lambda: hung)
        clock.wait_for_timer(within=10)
        clock.advance(10)
        probe.expect_nothing(0.05)
        clock.advance(1)  # it has not come back: it is killed
        clock.advance(0.2)  # nor does that help: it is left behind
        restart = probe.expect(StreamRestarting)
        assert "first_event_timeout" in str(restart.error)
        expect_whole(probe)
        held.set()
        eventually(lambda: not leaked_threads())


def test_a_crash_is_told_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    deliver = Pump._deliver

    def crashes(pump: Pump, payloads: Any) -> None:
        deliver(pump, payloads)
        if pump._attempt.number == 1:
            raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr(Pump, "_deliver", crashes)
    monkeypatch.setattr(Pump, "_lend", lambda *_: False)  # in its own thread
    with Scene() as scene:
        scene.gemini.on("why", WHOLE)
        _, probe = scene.start()
        restart = expect_restart(probe)
        assert "ZeroDivisionError" in str(restart.error)
        assert restart.discard
        expect_whole(probe)
        scene.gemini.requests[0].wait_closed()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_nothing_that_is_raised_in_it_gets_further(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    answering = Feed.answering

    def raises(feed: Feed) -> None:
        if feed.attempt.number == 1:
            raise error
        answering(feed)

    monkeypatch.setattr(Feed, "answering", raises)
    with Scene() as scene:
        scene.gemini.on("why", WHOLE)
        _, probe = scene.start()
        expect_restart(probe)
        expect_whole(probe)
        assert scene.manager.is_alive()


def test_stopped_in_order_from_outside() -> None:
    with Scene() as scene:
        scene.gemini.on("why", Reply(TEXT, hold_after=2))
        stream_id, probe = scene.start()
        probe.expect(StreamEvent)
        probe.expect(StreamEvent)
        assert scene.ref(stream_id).stop(timeout=2) is True
        last = probe.expect(LAST)
        assert isinstance(last, StreamStopped)
        assert (last.reason, last.events_count, last.attempts) == ("requested", 2, 1)
        scene.gemini.requests[0].wait_closed()
        assert scene.status(stream_id) == "stopped"
        assert scene.requests() == 1


def test_every_attempt_killed_is_the_end() -> None:
    with Scene(retry=RetryPolicy(attempts=3, initial_delay=0, jitter=0)) as scene:
        scene.gemini.on("why", Reply(TEXT, hold_after=1))
        stream_id, probe = scene.start()
        for attempt in (1, 2, 3):
            assert probe.expect(StreamEvent).attempt == attempt
            kill(scene.ref(stream_id))
        last = probe.expect(LAST)
        assert isinstance(last, StreamError)
        assert isinstance(last.error, StreamCrashedError)
        assert (last.attempts, last.events_count) == (3, 1)
        assert scene.requests() == 3
