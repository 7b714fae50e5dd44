"""Faults made on purpose in one actor or one tree, and what a supervisor makes of each."""

from __future__ import annotations

import itertools
import logging
import socket
import sys
import threading
import time
from typing import Any

import pykka
import pytest

from pykka_supervisor import (
    Abandoned,
    Backoff,
    ChildSpec,
    Crash,
    Down,
    DynamicSupervisor,
    Gone,
    Killed,
    NoProc,
    Shutdown,
    StartError,
    StartFailed,
    StartTimeoutError,
    SupervisedActor,
    Supervisor,
    demonitor,
    kill,
    leaked_threads,
    monitor,
    snapshot,
    supervisor_of,
    whereis,
)
from pykka_supervisor.testing import Probe, TestClock, await_restart
from supervisor.kit import (
    Block,
    Boom,
    Log,
    PlainWorker,
    Worker,
    crash,
    crash_with,
    eventually,
    instance,
    stop,
)

MANY = 1_000_000
"""Restarts; more than any of these tests asks for."""


def only(sup: Any) -> Any:
    [info] = sup.which_children()
    return info.ref


def refs_of(sup: Any) -> dict[str, Any]:
    return {info.id: info.ref for info in sup.which_children()}


@pytest.mark.parametrize("worker", [Worker, PlainWorker])
def test_a_crash_gives_one_down_and_the_ref_answers_again(worker: type[Any]) -> None:
    sup = Supervisor.start([worker])
    ref = only(sup)
    before = ref.ask(instance)
    with Probe() as probe:
        monitor(ref, notify=probe.ref)
        crashed = time.monotonic()
        ref.tell(crash)
        assert ref.ask(lambda _: "there", timeout=20) == "there"
        assert time.monotonic() - crashed < 5, "50 ms on an idle machine"
        down = probe.expect(Down)
        assert isinstance(down.reason, Crash)
        assert isinstance(down.reason.exception, Boom)
        assert down.restarting
        assert down.ref is ref
        probe.expect_nothing(0.05)
    assert ref.ask(instance) != before
    assert ref.is_alive()
    sup.stop()


class FailsInOnStart(Worker):
    def on_start(self) -> None:
        raise self.notes["error"]


def test_on_start_raises_and_start_child_fails_at_once() -> None:
    sup = Supervisor.start([])
    with pytest.raises(Boom, match="no way"):
        sup.start_child(ChildSpec(FailsInOnStart, kwargs={"error": Boom("no way")}))
    assert pykka.ActorRegistry.get_all() == [sup]
    assert sup.which_children() == []
    sup.stop()


def test_on_start_raises_system_exit_and_no_other_actor_is_touched() -> None:
    plain = PlainWorker.start()
    sup = Supervisor.start([Worker])
    seen = []

    class Exits(SupervisedActor):
        def on_start(self) -> None:
            seen.append(self.actor_ref)
            raise SystemExit(3)

    with pytest.raises(StartError, match="SystemExit") as caught:
        sup.start_child(Exits)
    assert isinstance(caught.value.__cause__, SystemExit)
    assert not seen[0].is_alive()
    assert only(sup).ask(lambda _: 1) == 1
    assert plain.ask(lambda _: 1) == 1
    assert set(pykka.ActorRegistry.get_all()) == {plain, sup, only(sup)}
    sup.stop()
    plain.stop()


def test_on_start_outlasts_the_time_out_and_its_late_return_handles_nothing() -> None:
    sup = Supervisor.start([])
    block = Block()
    handled: list[Any] = []
    seen: list[Any] = []

    class Slow(SupervisedActor):
        def on_start(self) -> None:
            seen.append(self.actor_ref)
            self.actor_ref.tell("for nobody")
            block(self)

        def on_receive(self, message: Any) -> None:
            handled.append(message)

        def on_stop(self) -> None:
            handled.append("on_stop")

    with Probe() as probe:
        failed: list[BaseException] = []

        def start() -> None:
            try:
                sup.start_child(ChildSpec(Slow, start_timeout=0.1))
            except StartTimeoutError as error:
                failed.append(error)

        starter = threading.Thread(target=start)
        starter.start()
        assert block.entered.wait(20)
        monitor(seen[0], notify=probe.ref)
        starter.join(20)
        assert len(failed) == 1
        down = probe.expect(Down)
        assert isinstance(down.reason, StartFailed)
        assert not down.restarting
    assert len(leaked_threads()) == 1
    assert not seen[0].is_alive()
    assert seen[0].dead_letters == 1
    block.release.set()
    eventually(lambda: leaked_threads() == [])
    assert handled == []
    sup.stop()


def test_the_third_of_five_fails_and_the_first_two_are_stopped_in_reverse() -> None:
    log = Log()
    children: list[Any] = [ChildSpec(Worker, (name, log), id=name) for name in ("1", "2")]
    children += [ChildSpec(FailsInOnStart, ("3", log), {"error": Boom("third")}, id="3")]
    children += [ChildSpec(Worker, (name, log), id=name) for name in ("4", "5")]
    with pytest.raises(Boom, match="third") as caught:
        Supervisor.start(children)
    assert "child '3'" in caught.value.__notes__[0]
    assert log.entries == [("start", "1"), ("start", "2"), ("stop", "2"), ("stop", "1")]


def test_on_stop_raises_and_the_next_child_is_still_stopped() -> None:
    log = Log()

    class FailsInOnStop(Worker):
        def on_stop(self) -> None:
            raise Boom("in on_stop")

    sup = Supervisor.start(
        [ChildSpec(Worker, ("first", log)), ChildSpec(FailsInOnStop, id="last")],
    )
    with Probe() as probe:
        monitor(refs_of(sup)["last"], notify=probe.ref)
        assert sup.stop(timeout=20)
        assert probe.expect(Down).reason == Shutdown()
        probe.expect_nothing(0.02)
    assert log.of("stop") == ["first"]


def test_on_failure_raises_system_exit_and_every_ask_resolves() -> None:
    class FailsInOnFailure(Worker):
        def on_failure(self, *_: Any) -> None:
            raise SystemExit

    sup = Supervisor.start([ChildSpec(FailsInOnFailure, restart="temporary")])
    ref = only(sup)
    block = Block()
    with Probe() as probe:
        monitor(ref, notify=probe.ref)
        ref.tell(block)
        ref.tell(crash)
        asked = [ref.ask("x", block=False) for _ in range(20)]
        block.release.set()
        for future in asked:
            with pytest.raises(pykka.ActorDeadError):
                future.get(timeout=1)
        down = probe.expect(Down)
        assert isinstance(down.reason, Crash)
        assert isinstance(down.reason.exception, Boom)
        probe.expect_nothing(0.02)
    sup.stop()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_a_base_exception_on_a_tell_restarts_that_child_only(error: BaseException) -> None:
    plain = PlainWorker.start()
    sup = Supervisor.start([ChildSpec(Worker, id="a"), ChildSpec(PlainWorker, id="b")])
    refs = refs_of(sup)
    bystander = refs["b"].ask(instance)
    refs["a"].tell(crash_with(error))
    assert await_restart(refs["a"]) == 1
    assert refs["b"].ask(instance) == bystander
    assert plain.ask(lambda _: "there") == "there"
    assert refs["a"].ask(lambda _: "back") == "back"
    sup.stop()
    plain.stop()


def test_a_base_exception_on_an_ask_never_leaves_the_asker_waiting() -> None:
    sup = Supervisor.start([Worker])
    ref = only(sup)
    with pytest.raises(pykka.ActorDeadError, match="KeyboardInterrupt"):
        ref.ask(crash_with(KeyboardInterrupt()), timeout=20)
    assert await_restart(ref) == 1
    assert ref.ask(lambda _: "back") == "back"
    sup.stop()


def test_an_asker_that_answers_itself_does_no_harm() -> None:
    sup = Supervisor.start([Worker])
    ref = only(sup)
    before = ref.ask(instance)
    block = Block()
    future = ref.ask(block, block=False)
    assert block.entered.wait(20)
    future.set("my own")
    block.release.set()
    assert ref.ask(instance, timeout=20) == before
    assert future.get() == "my own"
    sup.stop()


def test_a_start_without_a_thread_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    sup = Supervisor.start([])
    real = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("Worker"):
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(StartError, match="can't start new thread"):
        sup.start_child(Worker)
    with pytest.raises(StartError, match="can't start new thread"):
        Worker.start()
    monkeypatch.undo()
    assert pykka.ActorRegistry.get_all() == [sup]
    assert pykka.ActorRegistry.stop_all(timeout=20) == [True]


def test_no_ask_is_lost_between_a_stop_and_its_handling() -> None:
    interval = sys.getswitchinterval()
    current: list[Any] = [Worker.start()]
    done = threading.Event()
    outcomes: list[str] = []

    def ask() -> None:
        while not done.is_set():
            try:
                current[0].ask("x", timeout=20)
                outcomes.append("answered")
            except pykka.ActorDeadError:
                outcomes.append("dead")
            except pykka.Timeout:
                outcomes.append("unresolved")

    askers = [threading.Thread(target=ask) for _ in range(3)]
    sys.setswitchinterval(1e-6)
    try:
        for asker in askers:
            asker.start()
        for _ in range(1500):
            ref = current[0]
            ref.stop(block=False)
            current[0] = Worker.start()
            assert ref.join(20)
    finally:
        done.set()
        sys.setswitchinterval(interval)
        for asker in askers:
            asker.join()
        current[0].stop()
    assert set(outcomes) == {"answered", "dead"}


def test_accepted_is_handled_plus_dead_letters_exactly() -> None:
    handled: list[int] = []

    class Counts(SupervisedActor):
        def on_receive(self, message: Any) -> None:
            if message == -1:
                time.sleep(0.2)
            else:
                handled.append(message)

    ref = Counts.start()
    ref.tell(-1)
    accepted = 0
    stopped = False
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            ref.tell(accepted)
        except pykka.ActorDeadError:
            break
        accepted += 1
        if accepted == 500 and not stopped:
            stopped = True
            ref.stop(block=False)
        if accepted % 100 == 0:
            time.sleep(0.001)
    assert ref.join(20)
    assert accepted > 500
    assert len(handled) == 500
    assert accepted == len(handled) + ref.dead_letters


def test_crashes_lose_nothing_but_the_message_that_killed() -> None:
    handled: list[int] = []
    poison: list[int] = []

    class Fragile(SupervisedActor):
        def on_receive(self, message: int) -> None:
            handled.append(message)
            if message % 200 == 199:
                poison.append(message)
                raise Boom(message)

    logging.getLogger("pykka_supervisor").setLevel(logging.CRITICAL)
    try:
        sup = Supervisor.start([Fragile], max_restarts=MANY)
        ref = only(sup)
        for number in range(20_000):
            ref.tell(number)
        ref.ask(20_000, timeout=20)
    finally:
        logging.getLogger("pykka_supervisor").setLevel(logging.NOTSET)
    assert handled == list(range(20_001))
    assert len(poison) == 100 == len(set(poison))
    assert await_restart(ref) == 100
    assert ref.dead_letters == 0
    sup.stop()


def test_a_bounded_buffer_during_a_restart() -> None:
    clock = TestClock()
    sup = Supervisor.start(
        [ChildSpec(Worker, backoff=Backoff(1, 1, jitter=0), max_buffered=10)],
        clock=clock,
    )
    ref = only(sup)
    got: list[int] = []
    ref.tell(crash)
    clock.wait_for_timer()
    for number in range(15):
        ref.tell(lambda _, number=number: got.append(number))
    assert ref.dead_letters == 5
    with pytest.raises(pykka.ActorDeadError, match="buffer is full"):
        ref.ask("no room", timeout=1)
    clock.advance(1)
    await_restart(ref)
    ref.ask("room again", timeout=20)
    assert got == list(range(10))
    assert ref.dead_letters == 6
    sup.stop()


def test_a_hang_is_abandoned_and_the_late_thread_takes_nothing() -> None:
    clock = TestClock()
    sup = Supervisor.start([ChildSpec(Worker, hang_after=10)], clock=clock)
    ref = only(sup)
    block = Block()
    late: list[str] = []

    def hang(actor: Worker) -> None:
        block(actor)
        late.append(f"retired: {actor.retired}")

    with Probe() as probe:
        monitor(ref, notify=probe.ref)
        ref.tell(hang)
        assert block.entered.wait(20)
        backlog = [ref.ask(instance, block=False) for _ in range(50)]
        clock.advance(9.9)
        probe.expect_nothing(0.02)
        clock.advance(0.2)
        down = probe.expect(Down)
        assert isinstance(down.reason, Abandoned)
        assert down.restarting
    answers = {future.get(timeout=20) for future in backlog}
    assert len(answers) == 1
    assert len(leaked_threads()) == 1
    assert snapshot(ref).abandoned == 1
    more = [ref.ask(instance, block=False) for _ in range(50)]
    block.release.set()
    eventually(lambda: leaked_threads() == [])
    assert late == ["retired: True"]
    assert {future.get(timeout=20) for future in more} == answers
    sup.stop()


def test_a_long_backlog_is_no_hang() -> None:
    clock = TestClock()
    sup = Supervisor.start([ChildSpec(Worker, hang_after=10)], clock=clock)
    ref = only(sup)
    before = ref.ask(instance)
    for _ in range(5):
        block = Block()
        ref.tell(block)
        assert block.entered.wait(20)
        ref.tell("more")
        clock.advance(6)
        block.release.set()
    assert ref.ask(instance, timeout=20) == before
    sup.stop()


def test_shutdown_with_a_child_stuck_in_a_system_call() -> None:
    log = Log()
    left, right = socket.socketpair()
    stuck = threading.Event()

    def receive(_actor: Any) -> None:
        stuck.set()
        left.recv(1)

    sup = Supervisor.start(
        [
            ChildSpec(Worker, ("a", log), id="a"),
            ChildSpec(Worker, ("stuck", log), id="stuck", shutdown=0.2),
            ChildSpec(Worker, ("b", log), id="b"),
        ]
    )
    refs_of(sup)["stuck"].tell(receive)
    assert stuck.wait(20)
    begun = time.monotonic()
    assert sup.stop(timeout=20)
    assert time.monotonic() - begun < 4, "400 ms on an idle machine"
    assert log.of("stop") == ["b", "a"]
    assert len(leaked_threads()) == 1
    right.close()
    eventually(lambda: leaked_threads() == [])
    left.close()
    assert log.of("stop") == ["b", "a"]


def test_the_fourth_crash_within_the_window_ends_the_supervisor() -> None:
    clock = TestClock()
    log = Log()
    sup = Supervisor.start(
        [ChildSpec(Worker, (name, log), id=name) for name in "abc"],
        max_restarts=3,
        max_seconds=5,
        clock=clock,
    )
    refs = refs_of(sup)
    with Probe() as probe:
        monitor(sup, notify=probe.ref)
        for count in (1, 2, 3):
            refs["b"].tell(crash)
            assert await_restart(refs["b"]) == count
            clock.advance(1)
        assert sup.is_alive()
        log.clear()
        refs["b"].tell(crash)
        down = probe.expect(Down)
        assert down.reason == Shutdown("reached_max_restart_intensity")
    assert sup.join(20)
    assert log.of("stop") == ["c", "a"]
    assert not any(ref.is_alive() for ref in refs.values())


def test_a_crash_that_has_aged_out_does_not_count() -> None:
    clock = TestClock()
    sup = Supervisor.start([Worker], max_restarts=3, max_seconds=5, clock=clock)
    ref = only(sup)
    for count in range(1, 9):
        ref.tell(crash)
        assert await_restart(ref) == count
        clock.advance(1.7)
    assert sup.is_alive()
    sup.stop()


class StartsOnce(Worker):
    def on_start(self) -> None:
        super().on_start()
        starts = self.notes["starts"]
        starts.append(self.notes["clock"].monotonic())
        if len(starts) > 1 and not self.notes.get("heals"):
            raise Boom("never again")


def test_the_gaps_of_a_backoff() -> None:
    clock = TestClock(start=1000.0)
    starts: list[float] = []
    sup = Supervisor.start(
        [
            ChildSpec(
                StartsOnce,
                kwargs={"starts": starts, "clock": clock},
                backoff=Backoff(0.1, 1.0, jitter=0),
            )
        ],
        clock=clock,
        max_restarts=MANY,
    )
    only(sup).tell(crash)
    for expected in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0):
        assert clock.wait_for_timer() == pytest.approx(expected)
        clock.advance(expected)
        eventually(lambda: bool(clock.next_due()))
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert gaps[:6] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    sup.stop()
    assert clock.pending() == 0


def test_quiet_resets_the_backoff() -> None:
    clock = TestClock()
    sup = Supervisor.start(
        [ChildSpec(Worker, backoff=Backoff(0.1, 10.0, jitter=0, reset_after=5.0))],
        clock=clock,
        max_restarts=MANY,
    )
    ref = only(sup)
    for expected in (0.1, 0.2, 0.4):
        ref.tell(crash)
        assert clock.wait_for_timer() == pytest.approx(expected)
        clock.advance(expected)
        await_restart(ref)
        clock.advance(4.9)
    clock.advance(0.2)
    ref.tell(crash)
    assert clock.wait_for_timer() == pytest.approx(0.1)
    sup.stop()


def test_a_supervisor_stopped_during_a_backoff_starts_nothing() -> None:
    clock = TestClock()
    log = Log()
    sup = Supervisor.start([ChildSpec(Worker, ("a", log), backoff=Backoff(1, 1, jitter=0))], clock=clock)
    ref = only(sup)
    ref.tell(crash)
    clock.wait_for_timer()
    sup.stop()
    assert not ref.is_alive()
    clock.advance(10)
    assert log.of("start") == ["a"]
    assert clock.pending() == 0


def test_one_for_all() -> None:
    log = Log()
    specs = [ChildSpec(Worker, (name, log), id=name) for name in "1234"]
    specs[3] = ChildSpec(Worker, ("4", log), id="4", restart="transient")
    specs.insert(2, ChildSpec(Worker, ("t", log), id="t", restart="temporary"))
    sup = Supervisor.start(specs, strategy="one_for_all")
    refs = refs_of(sup)
    log.clear()
    with Probe() as probe:
        for name in "134":
            monitor(refs[name], notify=probe.ref)
        kill(refs["2"])
        await_restart(refs["4"])
        downs = [probe.expect(Down) for _ in range(3)]
        assert [down.ref for down in downs] == [refs["4"], refs["3"], refs["1"]]
        assert {(down.reason, down.restarting) for down in downs} == {(Shutdown(), True)}
    assert log.of("stop") == ["4", "3", "t", "1"]
    assert log.of("start") == ["1", "2", "3", "4"]
    assert snapshot(sup).children[0].restarts == 1
    assert not refs["t"].is_alive()
    assert list(refs_of(sup)) == ["1", "2", "3", "4"]
    assert refs_of(sup) == {name: refs[name] for name in "1234"}
    sup.stop()


def test_rest_for_one() -> None:
    log = Log()
    sup = Supervisor.start(
        [ChildSpec(Worker, (name, log), id=name) for name in "1234"], strategy="rest_for_one"
    )
    refs = refs_of(sup)
    first = refs["1"].ask(instance)
    log.clear()
    kill(refs["2"])
    await_restart(refs["4"])
    assert log.of("stop") == ["4", "3"]
    assert log.of("start") == ["2", "3", "4"]
    assert refs["1"].ask(instance) == first
    sup.stop()


def test_an_actor_that_stops_itself() -> None:
    sup = Supervisor.start(
        [
            ChildSpec(Worker, id="transient", restart="transient"),
            ChildSpec(Worker, id="permanent"),
            ChildSpec(Worker, id="temporary", restart="temporary"),
        ]
    )
    refs = refs_of(sup)
    for ref in refs.values():
        ref.tell(stop)
    assert await_restart(refs["permanent"]) == 1
    assert refs["transient"].join(20)
    assert refs["temporary"].join(20)
    eventually(
        lambda: (
            {i.id: i.status for i in sup.which_children()}
            == {
                "transient": "stopped",
                "permanent": "running",
            }
        )
    )
    with pytest.raises(pykka.ActorDeadError):
        refs["transient"].tell("x")
    sup.stop()


@pytest.mark.parametrize("block", [True, False])
def test_stop_all_against_a_tree(block: bool) -> None:
    begun = time.monotonic()
    for round_ in range(60 if block else 20):
        log = Log()
        sup = Supervisor.start([ChildSpec(Worker, (name, log), id=name) for name in "12345"])
        nested = sup.start_child(Supervisor.child_spec([ChildSpec(Worker, ("6", log))], id="nested"))
        plain = PlainWorker.start()
        log.clear()
        if block:
            pykka.ActorRegistry.stop_all()
        else:
            futures = pykka.ActorRegistry.stop_all(block=False)
            for future in futures:
                future.get(timeout=20)  # False where its supervisor ended it first
            assert sup.join(20)
            plain.actor_stopped.wait(20)
        assert pykka.ActorRegistry.get_all() == [], round_
        assert log.of("stop") == ["6", "5", "4", "3", "2", "1"]
        assert log.of("start") == []
        assert not nested.is_alive()
    if block:
        assert time.monotonic() - begun < 40, "under 3 s on an idle machine"


def test_a_supervisor_below_the_root_crashes() -> None:
    log = Log()
    root = Supervisor.start(
        [
            Supervisor.child_spec(
                [
                    ChildSpec(Worker, ("a", log), id="a", name="case26-a"),
                    ChildSpec(Worker, ("b", log), id="b", name="case26-b"),
                ],
                id="inner",
                name="case26-inner",
            )
        ]
    )
    inner = whereis("case26-inner")
    assert inner is not None
    for ended_by in (lambda: inner.tell(crash_supervisor), lambda: kill(inner)):
        log.clear()
        old = whereis("case26-a")
        assert old is not None
        ended_by()
        await_restart(inner)
        assert log.entries == [("stop", "b"), ("stop", "a"), ("start", "a"), ("start", "b")]
        new = whereis("case26-a")
        assert new is not None
        assert new is not old
        assert not old.is_alive()
        assert supervisor_of(new) is inner
        assert whereis("case26-inner") is inner
    root.stop()
    assert whereis("case26-a") is None


class _CrashMessage:
    """Told to a supervisor: has it crash as by a bug of its own."""


crash_supervisor = _CrashMessage()


@pytest.fixture(autouse=True)
def _supervisors_can_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_receive(_self: Any, message: Any) -> None:
        if message is crash_supervisor:
            raise Boom("a bug in the supervisor")

    monkeypatch.setattr(Supervisor, "on_receive", on_receive)


def test_a_child_asks_the_supervisor_that_waits_for_it() -> None:
    answers: list[Any] = []

    class AsksAtTheEnd(SupervisedActor):
        def on_stop(self) -> None:
            above = supervisor_of(self.actor_ref)
            assert above is not None
            try:
                answers.append(above.ask("are you there?"))
            except pykka.ActorDeadError as error:
                answers.append(error)

    sup = Supervisor.start([ChildSpec(AsksAtTheEnd, shutdown=0.2)])
    begun = time.monotonic()
    sup.stop(timeout=20)
    eventually(lambda: len(answers) == 1)
    assert time.monotonic() - begun < 2
    assert isinstance(answers[0], pykka.ActorDeadError)
    eventually(lambda: leaked_threads() == [])


def test_a_plain_actor_is_monitored() -> None:
    stopped, crashed, zombie = (PlainWorker.start() for _ in range(3))
    with Probe() as probe:
        for ref in (stopped, crashed, zombie):
            monitor(ref, notify=probe.ref)
        begun = time.monotonic()
        stopped.stop()
        crashed.tell(crash)
        downs = {probe.expect(Down).ref for _ in range(2)}
        assert downs == {stopped, crashed}
        assert time.monotonic() - begun < 2, "within 1 s on an idle machine"
        # Its thread ends, and is_alive() goes on saying True.
        block = Block()
        future = zombie.ask(block, block=False)
        assert block.entered.wait(20)
        future.set("the asker's own")
        threading.excepthook, hook = lambda _: None, threading.excepthook
        try:
            block.release.set()
            down = probe.expect(Down)
        finally:
            threading.excepthook = hook
        assert down.ref is zombie
        assert down.reason == Gone(zombie=True)
        assert zombie.is_alive()
        probe.expect_nothing(0.3)
    pykka.ActorRegistry.unregister(zombie)


def test_the_dead_and_the_demonitored() -> None:
    dead = Worker.start()
    dead.stop()
    plain_dead = PlainWorker.start()
    plain_dead.stop()
    alive = Worker.start()
    plain = PlainWorker.start()
    with Probe() as probe:
        for ref in (dead, plain_dead):
            told: list[Down] = []
            watching = monitor(ref, notify=told.append)
            assert [(down.monitor, down.reason, down.restarting) for down in told] == [
                (watching, NoProc(), False)
            ]
        for ref in (alive, plain):
            watching = monitor(ref, notify=probe.ref)
            assert demonitor(watching)
            assert not demonitor(watching)
            ref.stop()
        probe.expect_nothing(0.6)


def test_the_new_on_start_begins_after_the_old_on_stop() -> None:
    port: list[int] = []

    class Binds(SupervisedActor):
        def on_start(self) -> None:
            self.socket = socket.socket()
            self.socket.bind(("127.0.0.1", port[0] if port else 0))
            self.socket.listen()
            port[:] = [self.socket.getsockname()[1]]

        def on_receive(self, message: Any) -> Any:
            return message(self)

        def on_stop(self) -> None:
            time.sleep(0.3)
            self.socket.close()

    sup = Supervisor.start(
        [ChildSpec(Binds), ChildSpec(Worker, id="other")],
        strategy="one_for_all",
    )
    refs = refs_of(sup)
    for _ in range(2):
        refs["other"].tell(crash)
        await_restart(refs["Binds"])
    assert refs["Binds"].ask(lambda actor: actor.socket.getsockname()[1]) == port[0]
    sup.stop()


def test_one_of_a_hundred_crashes_in_a_loop() -> None:
    sup = DynamicSupervisor.start(max_restarts=3, max_seconds=60)
    refs = [sup.start_child(Worker) for _ in range(100)]
    before = [ref.ask(instance) for ref in refs]
    bad = refs[37]
    for count in (1, 2, 3):
        bad.tell(crash)
        assert await_restart(bad) == count
    bad.tell(crash)
    assert bad.join(20)
    eventually(lambda: sup.count_children().specs == 99)
    for ref, instance_before in zip(refs, before, strict=True):
        if ref is not bad:
            assert ref.ask(instance) == instance_before
    sup.stop()


def test_killed_is_a_reason_of_its_own() -> None:
    ref = Worker.start()
    with Probe() as probe:
        monitor(ref, notify=probe.ref)
        assert kill(ref)
        assert probe.expect(Down).reason == Killed()
        assert not kill(ref)
    assert ref.join(20)
