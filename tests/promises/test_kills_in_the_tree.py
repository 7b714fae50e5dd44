"""The manager, the supervisor of the streams and the root are killed with 50 streams running."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any, cast

import pykka
import pytest

from gemini_streams import (
    Drain,
    Gemini,
    ManagerActor,
    ManagerRef,
    RetryPolicy,
    StartStream,
    StreamComplete,
    StreamCrashedError,
    StreamError,
    StreamEvent,
    StreamStopped,
)
from gemini_streams.testing import LocalGemini, Reply, check_history
from kit.helpers import eventually
from kit.scene import LAST, Scene, Slow, table_of, texts
from pykka_supervisor import (
    ChildSpec,
    StaticSupervisorRef,
    SupervisedActor,
    Supervisor,
    leaked_threads,
    root_of,
    supervisor_of,
    whereis,
)
from pykka_supervisor.testing import Probe, await_restart, kill

MANY = 50
LONG = " ".join(f"w{n}" for n in range(60))


class Owner(SupervisedActor):
    """An application's actor that starts a manager of its own."""

    def __init__(self, endpoint: Gemini, managers: list[ManagerRef], **options: Any) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._managers = managers
        self._options = options

    def on_start(self) -> None:
        self._managers.append(ManagerActor.start_link(endpoint=self._endpoint, **self._options))


def own(gemini: LocalGemini, **options: Any) -> tuple[StaticSupervisorRef, list[ManagerRef]]:
    managers: list[ManagerRef] = []
    app = Supervisor.start(
        [ChildSpec(Owner, (gemini.endpoint, managers), options, id="owner")], max_restarts=10
    )
    return app, managers


def test_the_manager_is_killed_and_nobody_misses_an_event(gemini: LocalGemini) -> None:
    gemini.on("why", Reply(LONG, pace=0.01))
    app, [manager] = own(gemini)
    probes = [Probe() for _ in range(MANY)]
    late = Probe()
    try:
        ids = [manager.start_stream("why", subscriber=probe.ref) for probe in probes]
        for probe in probes:
            probe.expect(StreamEvent)
        for _ in range(3):
            began = time.monotonic()
            assert kill(manager)
            stats = manager.get_stats(timeout=10)
            assert manager.list_streams(timeout=10) == ids
            assert manager.get_stream_info(ids[0], timeout=1).status == "active"
            assert time.monotonic() - began < 1
            assert (stats.total_streams, stats.total_subscribers, stats.started) == (MANY, MANY, MANY)
            assert stats.streams_by_status == {"active": MANY}
            await_restart(manager)
            time.sleep(0.1)
        manager.subscribe_stream(ids[1], late.ref, timeout=1)
        assert manager.stop_stream(ids[0], timeout=1) is True
        assert isinstance(probes[0].expect(LAST), StreamStopped)
        for probe in probes[1:]:
            last = probe.expect(LAST, timeout=20)
            assert isinstance(last, StreamComplete)
            assert (last.attempts, last.events_count) == (1, 60)
            assert texts(probe.messages) == LONG
            assert check_history(probe.messages, ended=True, quick=True) == []
        late.expect(StreamComplete)
        assert check_history(late.messages, first=None, ended=True) == []
        stats = manager.get_stats(timeout=10)
        assert (stats.completed, stats.stopped, stats.restarts) == (MANY - 1, 1, 0)
        assert len(gemini.requests) == MANY
    finally:
        app.stop(timeout=20)
        for probe in (*probes, late):
            probe.stop()


class _Resolving:
    """An endpoint whose credentials take their time."""

    def __init__(self, endpoint: Gemini, arrived: threading.Event, gate: threading.Event) -> None:
        self._endpoint, self._arrived, self._gate = endpoint, arrived, gate

    def resolve(self) -> Any:
        self._arrived.set()
        self._gate.wait(20)
        return self._endpoint.resolve()


def test_what_it_has_in_its_hands_fails_and_what_waits_is_answered() -> None:
    with Scene(shutdown=0.2) as scene:
        scene.gemini.on("why", Reply("one", hold_after=1))
        running, probe = scene.start()
        probe.expect(StreamEvent)
        arrived, gate = threading.Event(), threading.Event()
        slow = cast("Gemini", _Resolving(scene.gemini.endpoint, arrived, gate))
        nobody = Probe()
        # Past the ref that reads a request in the asker's thread: the manager's own reads this one.
        in_hand = pykka.ActorRef.ask(
            scene.manager,
            StartStream("never", subscriber=nobody.ref, endpoint=slow, stream_id="never"),
            block=False,
        )
        assert arrived.wait(20)
        waiting = [Slow(lambda: scene.manager.list_streams(timeout=10)) for _ in range(3)]
        queued = Slow(lambda: scene.manager.start_stream("why not", subscriber=nobody.ref, stream_id="x"))
        time.sleep(0.05)
        began = time.monotonic()
        kill(scene.manager)
        with pytest.raises(pykka.ActorDeadError):
            in_hand.get(timeout=2)
        for asked in waiting:
            assert running in asked.join(2)
        assert queued.join(2) == "x"
        assert time.monotonic() - began < 1.2
        gate.set()  # and the one in its hands has done nothing, even now
        eventually(lambda: not leaked_threads())
        assert scene.manager.list_streams() == [running, "x"]
        assert scene.requests("never") == 0
        scene.manager.stop_stream("x")
        nobody.expect(StreamStopped)
        nobody.stop()


@pytest.mark.parametrize("victim", ["streams", "root"])
def test_each_of_fifty_gets_one_last_message(victim: str) -> None:
    with Scene() as scene:
        scene.gemini.on("why", Reply(LONG, hold_after=3))
        started = [scene.start() for _ in range(MANY)]
        for _, probe in started:
            for _ in range(3):
                probe.expect(StreamEvent)
        began = time.monotonic()
        kill(scene.streams() if victim == "streams" else scene.root())
        for _, probe in started:
            last = probe.expect(LAST)
            assert isinstance(last, StreamError)
            assert isinstance(last.error, StreamCrashedError)
            assert (last.events_count, last.attempts) == (3, 1)
        assert time.monotonic() - began < 2
        for record in scene.gemini.requests:
            record.wait_closed()
        assert scene.requests() == MANY  # nothing was started again
        if victim == "root":
            assert scene.root().actor_stopped.wait(20)
            with pytest.raises(pykka.ActorDeadError):
                scene.manager.get_stats(timeout=10)
            return
        scene.gemini.on("new", Reply("one two"))
        _, probe = scene.start("new")
        assert probe.expect(LAST).ok
        stats = scene.manager.get_stats(timeout=10)
        assert (stats.failed, stats.completed) == (MANY, 1)


def test_a_stream_in_its_backoff_is_told_too() -> None:
    with Scene(retry=RetryPolicy(initial_delay=20)) as scene:
        scene.gemini.on("why", Reply("one two", end="cut", end_after=1))
        stream_id, probe = scene.start()
        scene.await_status(stream_id, "restarting")
        kill(scene.streams())
        last = probe.expect(LAST)
        assert isinstance(last.error, StreamCrashedError)
        assert last.attempts == 1


def test_a_start_that_waits_for_the_supervisor_is_not_lost() -> None:
    with Scene() as scene:
        scene.gemini.on("why", Reply("one two"))
        for _ in range(3):
            kill(scene.streams())
            _, probe = scene.start()  # before or after its successor is there
            assert isinstance(probe.expect(LAST), StreamComplete | StreamError)


def test_below_an_applications_supervisor_the_whole_tree_comes_back(gemini: LocalGemini) -> None:
    gemini.on("why", Reply(LONG, hold_after=2))
    gemini.on("new", Reply("one two"))
    spec = ManagerActor.child_spec(name="gemini", endpoint=gemini.endpoint, id="streams of the app")
    app = Supervisor.start([spec])
    probe = Probe()
    try:
        manager = whereis("gemini", ManagerRef)
        assert manager is not None
        assert root_of(manager) == app
        [child] = app.which_children()
        assert (child.id, child.type) == ("streams of the app", "supervisor")
        for _ in range(3):
            stream_id = manager.start_stream("why", subscriber=probe.ref)
            assert probe.expect(StreamEvent).stream_id == stream_id
            tree = supervisor_of(manager)
            assert tree is not None
            kill(tree)
            last = probe.expect(StreamError)
            assert (last.stream_id, type(last.error)) == (stream_id, StreamCrashedError)
            manager = eventually(partial(_another, manager))
            assert manager.list_streams(timeout=10) == []
            manager.start_stream("new", subscriber=probe.ref, timeout=1)
            assert probe.expect(StreamComplete).ok
        assert check_history(probe.messages, ended=True) == []
        assert table_of(manager)._running == 0

        assert manager.ask(Drain(1), timeout=2) == 0
        assert manager.stop(timeout=20) is True  # in order: the application's supervisor lets it be
        assert app.is_alive()
        [child] = app.which_children()
        assert child.status == "stopped"
        assert whereis("gemini") is None
        app.restart_child("streams of the app")
        manager = whereis("gemini", ManagerRef)
        assert manager is not None
        manager.start_stream("new", subscriber=probe.ref, timeout=1)
        assert probe.expect(StreamComplete).ok
    finally:
        app.stop(timeout=20)
        probe.stop()


def _await_managers(managers: list[ManagerRef], count: int) -> None:
    eventually(lambda: len(managers) == count)


def _another(old: ManagerRef) -> ManagerRef | None:
    now = whereis("gemini", ManagerRef)
    return now if now is not None and now is not old and now.is_alive() else None


def test_start_link_ends_with_its_owner(gemini: LocalGemini) -> None:
    gemini.on("why", Reply(LONG, hold_after=2))
    app, managers = own(gemini)
    probe = Probe()
    try:
        for round_ in range(3):
            manager = managers[round_]
            manager.start_stream("why", subscriber=probe.ref)
            probe.expect(StreamEvent)
            [owner] = app.which_children()
            kill(cast("Any", owner.ref))
            last = probe.expect(LAST)
            assert isinstance(last, StreamStopped)
            assert last.reason == "shutdown"
            _await_managers(managers, round_ + 2)
            assert not manager.is_alive()  # before the owner's successor began
            assert not root_of(manager).is_alive()
        app.stop(timeout=20)
        assert not any(one.is_alive() for one in managers)
    finally:
        app.stop(timeout=20)
        probe.stop()


def test_start_link_takes_its_owner_along(gemini: LocalGemini) -> None:
    app, managers = own(gemini)
    try:
        kill(root_of(managers[0]))
        _await_managers(managers, 2)
        for _ in range(4):  # more often than the intensity allows
            if kill(managers[1]):
                time.sleep(0.02)
        _await_managers(managers, 3)
        managers[2].stop(timeout=20)  # in order: that is no reason to die
        time.sleep(0.05)
        assert len(managers) == 3
        [owner] = app.which_children()
        assert owner.status == "running"
    finally:
        app.stop(timeout=20)


def test_start_link_outside_of_an_actor_is_start(gemini: LocalGemini) -> None:
    manager = ManagerActor.start_link(endpoint=gemini.endpoint)
    assert manager.list_streams() == []
    manager.stop(timeout=20)
    assert not manager.is_alive()
