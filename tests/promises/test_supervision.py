"""The deaths of docs/guarantees.md, row by row: which actor dies, which one notices, what a subscriber sees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from typing import Any, cast

import pykka
import pytest

from gemini_streams import (
    InvalidRequestError,
    ManagerActor,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamStopped,
    SubscriberActor,
)
from gemini_streams.testing import LocalGemini, Reply
from kit.helpers import eventually
from kit.scene import LAST, Scene, Slow
from pykka_supervisor import SYSTEM_CLOCK, ChildSpec, Supervisor
from pykka_supervisor.testing import Probe, await_restart, kill

TEXT = "one two three"
HELD = Reply(TEXT, hold_after=2)


# -- more often than the intensity allows


@pytest.mark.parametrize("victim", ["manager", "streams"])
def test_intensity_exceeded_ends_the_tree_in_order(victim: str) -> None:
    with Scene() as scene:
        scene.gemini.on("why", HELD)
        _, probe = scene.start()
        probe.expect(StreamEvent)
        probe.expect(StreamEvent)
        root = scene.root()
        ref = scene.manager if victim == "manager" else cast("Any", scene.streams())
        for _ in range(3):
            kill(ref)
            await_restart(ref)
        asks = [scene.manager.ask(object(), block=False) for _ in range(3)]
        kill(ref)
        for asked in asks:
            with pytest.raises((pykka.ActorDeadError, InvalidRequestError)):
                asked.get(timeout=2)
        assert root.actor_stopped.wait(20)
        last = probe.expect(LAST)
        if victim == "manager":
            assert isinstance(last, StreamStopped)
            assert last.reason == "shutdown"
        else:
            assert isinstance(last, StreamError)
        with pytest.raises(pykka.ActorDeadError):
            scene.manager.list_streams(timeout=10)
        with ManagerContext(scene.gemini) as again:  # a new one works at once
            assert again.list_streams() == []


class ManagerContext:
    def __init__(self, gemini: LocalGemini, **options: Any) -> None:
        self.manager = ManagerActor.start(endpoint=gemini.endpoint, **options)

    def __enter__(self) -> Any:
        return self.manager

    def __exit__(self, *_: object) -> None:
        self.manager.stop(timeout=20)


def test_asks_of_a_tree_that_ends_fail() -> None:
    with Scene() as scene:
        scene.gemini.on("why", HELD)
        scene.start()
        stopping = Slow(partial(scene.manager.stop, timeout=20))
        with pytest.raises(pykka.ActorDeadError):
            while True:
                scene.manager.get_stats(timeout=10)
        assert stopping.join() is True
        assert scene.manager.stop(timeout=1) is False


# -- a subscriber dies


class _Plain(pykka.ThreadingActor):
    use_daemon_thread = True

    def on_receive(self, message: Any) -> None:
        if message == "crash":
            raise ZeroDivisionError


@pytest.mark.parametrize("kind", ["plain, stopped", "plain, crashed", "supervised, killed"])
def test_a_dead_subscriber_is_dropped_within_a_second_and_the_last_one_closes_the_connection(
    kind: str,
) -> None:
    with Scene() as scene:
        scene.gemini.on("why", HELD)
        ref: Any = Probe().ref if kind == "supervised, killed" else _Plain.start()
        stays = scene.probe()
        alone = scene.manager.start_stream("why alone", subscriber=ref)
        shared = scene.manager.start_stream("why", subscriber=[ref, stays.ref])
        stays.expect(StreamEvent)
        scene.gemini.gate("why").reached(n=2)
        began = time.monotonic()
        if kind == "plain, stopped":
            ref.stop()
        elif kind == "plain, crashed":
            ref.tell("crash")
        else:
            kill(ref)
        scene.await_status(alone, "stopped")
        record = scene.gemini.wait_request(1, "alone")
        assert record.wait_closed() - began < 1
        assert record.client_closed
        eventually(lambda: scene.manager.get_stream_info(shared).subscribers == (stays.ref,))
        assert scene.status(shared) == "active"
        scene.gemini.gate("why").open()
        assert stays.expect(StreamComplete).ok
        assert scene.table._watched == {}


def test_with_keep_a_stream_outlives_its_last_subscriber_for_so_long() -> None:
    with Scene() as scene:
        scene.gemini.on("why", HELD)
        ref = _Plain.start()
        stream_id = scene.manager.start_stream("why", subscriber=ref, keep=1.5, history=10_000)
        scene.gemini.gate("why").reached()
        ref.stop()
        eventually(lambda: scene.manager.get_stream_info(stream_id).subscribers == ())
        assert scene.status(stream_id) == "active"
        scene.await_status(stream_id, "stopped")


def test_one_of_two_that_dies_while_the_stream_starts_leaves_the_other_its_stream() -> None:
    with Scene() as scene:
        scene.gemini.on("why", Reply(TEXT))
        for _ in range(20):
            dying, stays = Probe(), scene.probe()
            kill(dying.ref)
            try:
                stream_id = scene.manager.start_stream("why", subscriber=[dying.ref, stays.ref])
            except InvalidRequestError:  # it was dead already
                continue
            assert stays.expect(LAST).stream_id == stream_id
        eventually(lambda: scene.table._watched == {})


def test_a_subscriber_restarted_in_place_keeps_its_subscription() -> None:
    received: list[Any] = []

    class Fragile(SubscriberActor):
        def on_stream_event(self, event: StreamEvent) -> None:
            if event.sequence == 1:
                raise ZeroDivisionError
            received.append(event.sequence)

        def on_stream_complete(self, message: StreamComplete) -> None:
            received.append(message)

    app = Supervisor.start([ChildSpec(Fragile, id="fragile")])
    try:
        with Scene() as scene:
            scene.gemini.on("why", Reply("a b c d", pace=0.01))
            [child] = app.which_children()
            scene.manager.start_stream("why", subscriber=cast("Any", child.ref))
            eventually(lambda: len(received) == 4)
            assert received[:3] == [0, 2, 3]  # only the event that killed it is gone
            assert received[3].events_count == 4
    finally:
        app.stop(timeout=20)


# -- the end of the process


def test_stop_all_ends_it_in_order() -> None:
    with Scene() as scene:
        scene.gemini.on("why", HELD)
        started = [scene.start() for _ in range(20)]
        for _, probe in started:
            probe.expect(StreamEvent)
        received = [probe.messages for _, probe in started]
        began = time.monotonic()
        pykka.ActorRegistry.stop_all(timeout=20)
        assert time.monotonic() - began < 3
        for record in scene.gemini.requests:
            record.wait_closed()
        assert scene.requests() == 20
        assert scene.table._running == 0
        assert received
        with ManagerContext(scene.gemini) as again:
            assert again.list_streams() == []


def test_the_end_leaves_no_timer() -> None:
    before = [timer for _, _, timer in SYSTEM_CLOCK._heap]
    with Scene() as scene:
        scene.gemini.on("why", HELD)
        for _ in range(10):
            _, probe = scene.start(deadline=100, keep=50)
            probe.expect(StreamEvent)
        scene.manager.stop(timeout=20)
        left = [timer for _, _, timer in SYSTEM_CLOCK._heap if timer.pending and timer not in before]
        assert left == [], [timer._callback for timer in left]


CHILD = """
import atexit, sys, time

def check():  # after the tree's own hook: this one was registered before
    time.sleep(0.1)
    for record in gemini.requests:
        record.wait_closed(2)
    print("told", [[type(m).__name__, m.reason] for m in received], flush=True)
    print("closed", sum(record.client_closed for record in gemini.requests), flush=True)
    gemini.close()

atexit.register(check)
import pykka
from gemini_streams import *
from gemini_streams.testing import LocalGemini, Reply

received = []

class Listener(pykka.ThreadingActor):
    use_daemon_thread = True

    def on_receive(self, message):
        if not isinstance(message, StreamEvent):
            received.append(message)

gemini = LocalGemini().start()
gemini.on("why", Reply("one two three", hold_after=1))
manager = ManagerActor.start(endpoint=gemini.endpoint)
for _ in range(5):
    manager.start_stream("why", subscriber=Listener.start())
gemini.gate("why").reached(n=5)
{end}
"""

# A signal that comes between the interpreter's last look and the system call does not wake a sleep: many short ones.
WAIT = "print('ready', flush=True)\nfor _ in range(600): time.sleep(0.1)"
ENDS = {
    "the end of main": "print('ready', flush=True)",
    "sys.exit": "print('ready', flush=True); sys.exit(3)",
    "an uncaught error": "print('ready', flush=True); raise ZeroDivisionError('of the application')",
    "Ctrl-C": WAIT,
    "SIGTERM": f"from pykka_supervisor import root_of, stop_on_signals\nstop_on_signals(root_of(manager))\n{WAIT}",
}
CODES = {"sys.exit": 3, "an uncaught error": 1, "Ctrl-C": -signal.SIGINT, "SIGTERM": 128 + signal.SIGTERM}
SIGNALS = {"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM}


@pytest.mark.parametrize("how", ENDS)
def test_however_the_process_ends_it_is_told_closed_and_gone_in_time(how: str) -> None:
    code = CHILD.format(end=ENDS[how])
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline().strip() == "ready"
            began = time.monotonic()
            if how in SIGNALS:
                child.send_signal(SIGNALS[how])
            out, err = child.communicate(timeout=15)
        finally:
            child.kill()
    assert time.monotonic() - began < 5
    assert child.returncode == CODES.get(how, 0), err
    assert out.splitlines() == ["told " + str([["StreamStopped", "shutdown"]] * 5), "closed 5"], err
    assert err.count("Traceback") == (how in ("an uncaught error", "Ctrl-C")), err


def test_in_a_forked_child_every_ref_is_dead() -> None:
    with Scene() as scene:
        scene.gemini.on("why", HELD)
        stream_id, probe = scene.start()
        probe.expect(StreamEvent)
        stream = scene.ref(stream_id)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:  # pragma: no cover - in the child
            verdicts = []
            for ref in (scene.manager, stream, scene.streams(), scene.root(), probe.ref):
                try:
                    cast("Any", ref).ask("x", timeout=1)
                    verdicts.append("answered")
                except pykka.ActorDeadError:
                    verdicts.append("dead")
                except BaseException as error:
                    verdicts.append(repr(error))
            os.write(write, ",".join(verdicts).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as told:
            said = told.read().decode()
        os.waitpid(pid, 0)
        assert said == "dead,dead,dead,dead,dead"
        assert scene.status(stream_id) == "active"  # and the parent has not noticed
        scene.gemini.gate("why").open()
        assert probe.expect(StreamComplete).ok


def test_two_managers_of_one_process_know_nothing_of_each_other() -> None:
    with Scene() as scene, ManagerContext(scene.gemini) as other:
        scene.gemini.on("why", HELD)
        _, probe = scene.start()
        kill(cast("Any", scene.root()))
        probe.expect(StreamError)
        assert other.list_streams() == []
