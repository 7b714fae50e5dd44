"""docs/guarantees.md, its table of deaths: who dies, and what a subscriber sees."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any, Protocol

import pykka
import pytest

from gemini_streams import (
    ManagerRef,
    RetryPolicy,
    StreamComplete,
    StreamCrashedError,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
)
from gemini_streams.testing import LocalGemini, Reply, check_history
from pykka_supervisor import kill, root_of, supervisor_of
from pykka_supervisor.testing import Probe, await_restart

TEXT = "one two three four"
FAST = RetryPolicy(initial_delay=0.0, jitter=0.0)


class StartManager(Protocol):
    def __call__(self, **options: Any) -> ManagerRef: ...


class Running:
    """A stream that has delivered two events and waits at a gate."""

    def __init__(self, gemini: LocalGemini, start: StartManager, probe: Probe) -> None:
        self.gemini, self.probe = gemini, probe
        gemini.on("why", Reply(TEXT, hold_after=2))
        self.manager = start(retry=FAST)
        self.stream_id = self.manager.start_stream("why", subscriber=probe.ref)
        probe.expect(StreamEvent, lambda event: event.sequence == 1)

    @property
    def actor(self) -> pykka.ActorRef[Any]:
        ref = self.manager.get_stream_info(self.stream_id).stream_ref
        assert ref is not None
        return ref

    def go_on(self) -> None:
        self.gemini.gate("why").open()

    def last(self) -> Any:
        last = self.probe.expect((StreamComplete, StreamError, StreamStopped))
        assert check_history(self.probe.messages, ended=True) == []
        return last

    def still_works(self) -> None:
        """New streams are taken, within a second."""
        self.go_on()
        with Probe() as another:
            deadline = time.monotonic() + 1
            while True:
                try:
                    self.manager.start_stream("why", subscriber=another.ref, timeout=1)
                    break
                except pykka.ActorDeadError:
                    assert time.monotonic() < deadline
            assert another.expect(StreamComplete).ok


@pytest.fixture
def running(gemini: LocalGemini, manager: StartManager, probe: Probe) -> Running:
    return Running(gemini, manager, probe)


def test_the_streams_actor_is_killed(running: Running) -> None:
    kill(running.actor)
    restart = running.probe.expect(StreamRestarting)
    assert isinstance(restart.error, StreamCrashedError)
    running.go_on()
    assert running.last().attempts == 2


def test_the_streams_actor_is_stopped_in_order(running: Running) -> None:
    running.actor.stop()
    assert running.last().reason == "requested"


def test_the_manager_is_killed(running: Running) -> None:
    kill(running.manager)
    await_restart(running.manager)
    assert running.manager.list_streams(timeout=10) == [running.stream_id]
    assert running.manager.get_stats().streams_by_status == {"active": 1}
    running.go_on()
    last = running.last()
    assert (last.ok, last.attempts, last.events_count) == (True, 1, 4)


def test_the_supervisor_of_the_streams_is_killed(running: Running) -> None:
    supervisor = supervisor_of(running.actor)
    assert supervisor is not None
    kill(supervisor)
    assert isinstance(running.last().error, StreamCrashedError)
    running.still_works()


def test_the_root_is_killed(running: Running) -> None:
    kill(root_of(running.manager))
    assert isinstance(running.last().error, StreamCrashedError)
    with pytest.raises(pykka.ActorDeadError):
        running.manager.list_streams(timeout=10)


def test_the_last_subscriber_dies(running: Running) -> None:
    kill(running.probe.ref)
    record = running.gemini.requests[0]
    began = time.monotonic()
    assert record.wait_closed(1) - began < 1
    assert record.client_closed
    assert running.manager.get_stream_info(running.stream_id).status == "stopped"


def test_one_of_two_subscribers_dies(running: Running) -> None:
    with Probe() as other:
        running.manager.subscribe_stream(running.stream_id, other.ref)
        kill(other.ref)
    running.go_on()
    assert running.last().ok


def test_the_manager_dies_more_often_than_the_intensity_allows(running: Running) -> None:
    for _ in range(3):
        kill(running.manager)
        await_restart(running.manager)
    kill(running.manager)
    assert running.last().reason == "shutdown"
    running.manager.actor_stopped.wait(2)
    with pytest.raises(pykka.ActorDeadError):
        running.manager.list_streams(timeout=10)


@pytest.mark.parametrize("how", ["stop", "stop_all"])
def test_the_tree_ends_in_order(running: Running, how: str) -> None:
    if how == "stop":
        running.manager.stop(timeout=20)
    else:
        pykka.ActorRegistry.stop_all(block=True, timeout=20)
    assert running.last().reason == "shutdown"


PROGRAM = """
import os, sys, threading
from gemini_streams import ManagerActor, StreamEvent
from pykka_supervisor.testing import Probe
probe = Probe()
manager = ManagerActor.start()
manager.start_stream("why", subscriber=probe.ref)
probe.expect(StreamEvent, lambda event: event.sequence == 1)
"""

ENDS = {
    "end of main": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "an error": ("raise RuntimeError('uncaught')", 1),
    "Ctrl-C": ("import signal; signal.raise_signal(signal.SIGINT)", -2),
}


@pytest.mark.parametrize("how", ENDS)
def test_the_program_ends(gemini: LocalGemini, how: str) -> None:
    gemini.on("why", Reply(TEXT, hold_after=2))
    line, code = ENDS[how]
    env = os.environ | {"GEMINI_API_KEY": "local-key", "GOOGLE_GEMINI_BASE_URL": gemini.url}
    env.pop("GOOGLE_API_KEY", None)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + line], check=False, capture_output=True, env=env, timeout=20
    )
    assert time.monotonic() - began < 10
    assert done.returncode in (code, 128 - code)
    assert gemini.requests[0].wait_closed(20)
    assert gemini.requests[0].client_closed


def test_a_fork(gemini: LocalGemini) -> None:
    gemini.on("why", Reply(TEXT, hold_after=2))
    env = os.environ | {"GEMINI_API_KEY": "local-key", "GOOGLE_GEMINI_BASE_URL": gemini.url}
    env.pop("GOOGLE_API_KEY", None)
    fork = """
import pykka, warnings
pid = os.fork()
if pid == 0:
    try:
        manager.list_streams(timeout=10)
    except pykka.ActorDeadError:
        os._exit(7)
    os._exit(1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), len(manager.list_streams()))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM + fork],
        check=False,
        capture_output=True,
        text=True,
        env=env,
        timeout=20,
    )
    assert done.stdout.split() == ["7", "1"], done.stderr
