"""What an actor is while its last hooks run: dead, or, where a supervisor restarts it, held for its successor."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pykka
import pytest

from pykka_supervisor import (
    Abandoned,
    ChildSpec,
    Crash,
    Down,
    DynamicSupervisor,
    Killed,
    Normal,
    Shutdown,
    SupervisedActor,
    Supervisor,
    kill,
    leaked_threads,
    link,
    monitor,
    supervisor_of,
    whereis,
)
from pykka_supervisor.log import flush
from pykka_supervisor.testing import Probe, await_restart
from supervisor.kit import Block, Boom, Log, Worker, crash, eventually, instance, stop


class Lingers(Worker):
    """Stays in its last hook until it is released; `in_hook` is called there."""

    def __init__(self, who: str = "lingers", log: Log | None = None, **notes: Any) -> None:
        super().__init__(who, log, **notes)
        self.block: Block = notes["block"]

    def on_stop(self) -> None:
        super().on_stop()
        self.block(self)

    def on_failure(self, *_: Any) -> None:
        super().on_failure()
        self.block(self)


class LingersPlain(pykka.ThreadingActor):
    """The same, knowing nothing of supervision."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def on_receive(self, message: Any) -> Any:
        return message(self) if callable(message) else message

    def on_stop(self) -> None:
        self.block(self)

    def on_failure(self, *_: Any) -> None:
        self.block(self)


@pytest.fixture
def reports(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "pykka_supervisor")

    def said() -> list[str]:
        assert flush(5)
        return [
            record.getMessage() for record in caplog.records if "supervisor_report" in record.getMessage()
        ]

    return said


Start = Callable[[Block], Any]


def alone(block: Block) -> Any:
    return Lingers.start(block=block)


@pytest.fixture(params=["alone", "temporary", "transient", "unmodified", "dynamic"])
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Start an actor that is not restarted after an orderly end."""
    sup: Any = DynamicSupervisor.start() if request.param == "dynamic" else Supervisor.start([])

    def starting(block: Block) -> Any:
        match request.param:
            case "alone":
                return Lingers.start(block=block)
            case "unmodified":
                return sup.start_child(ChildSpec(LingersPlain, (block,), restart="temporary"))
            case "transient":
                return sup.start_child(ChildSpec(Lingers, kwargs={"block": block}, restart="transient"))
        return sup.start_child(ChildSpec(Lingers, kwargs={"block": block}, restart="temporary"))

    yield starting
    sup.stop()


def assert_dead(ref: Any) -> None:
    assert not ref.is_alive()
    assert ref not in pykka.ActorRegistry.get_all()
    with pytest.raises(pykka.ActorDeadError):
        ref.tell("x")
    with pytest.raises(pykka.ActorDeadError):
        ref.ask("x", timeout=20)
    assert ref.stop(timeout=20) is False


# -- a final end


def test_an_actor_is_dead_before_on_stop(start: Start) -> None:
    block, busy = Block(), Block()
    ref = start(block)
    downs: list[Down] = []
    monitor(ref, notify=downs.append)
    ref.tell(busy)
    assert busy.entered.wait(20)
    stopping = ref.stop(block=False)
    waits = [ref.ask("behind the stop", block=False) for _ in range(3)]
    again = ref.stop(block=False)
    busy.release.set()
    for future in waits:
        with pytest.raises(pykka.ActorDeadError):
            future.get(timeout=20)
    assert block.entered.wait(20)
    assert_dead(ref)
    assert downs == [], "it is told when the hook has returned"
    assert not ref.join(0.01)
    block.release.set()
    assert stopping.get(timeout=20) is True
    assert again.get(timeout=20) is True
    assert [down.reason for down in downs] == [Normal()]
    assert ref.dead_letters == 3


@pytest.mark.parametrize("how", [lambda ref: ref.tell(crash), kill])
def test_an_actor_is_dead_before_on_failure(how: Callable[[Any], Any]) -> None:
    sup = Supervisor.start([])
    for begin in (
        lambda block: Lingers.start(block=block),
        lambda block: sup.start_child(
            ChildSpec(Lingers, kwargs={"block": block}, id="t", restart="temporary")
        ),
    ):
        block = Block()
        ref = begin(block)
        downs: list[Down] = []
        monitor(ref, notify=downs.append)
        how(ref)
        assert block.entered.wait(20)
        assert_dead(ref)
        assert downs == []
        block.release.set()
        assert ref.join(20)
        assert [type(down.reason) for down in downs] == [Killed if how is kill else Crash]
    sup.stop()


def test_the_name_is_held_until_the_last_hook_has_returned() -> None:
    block = Block()
    sup = Supervisor.start([ChildSpec(Lingers, kwargs={"block": block}, name="ends", restart="temporary")])
    ref = whereis("ends")
    assert ref is not None
    held: list[Any] = []
    monitor(ref, notify=lambda _: held.append(whereis("ends")))
    ref.stop(block=False)
    assert block.entered.wait(20)
    assert whereis("ends") is ref
    block.release.set()
    assert ref.join(20)
    assert held == [None], "it is free when the end is told"
    sup.stop()


def test_what_was_deferred_fails_before_on_stop() -> None:
    block = Block()
    ref = Lingers.start(block=block)
    deferred = ref.ask(lambda actor: actor.defer_reply(), block=False)
    ref.stop(block=False)
    with pytest.raises(pykka.ActorDeadError):
        deferred.get(timeout=20)
    assert block.entered.wait(20)
    block.release.set()
    assert ref.join(20)


class _Batch:
    __actor_batch__ = True

    def __init__(self) -> None:
        self.discarded = 0

    def run(self, actor: Any) -> None:
        raise Boom

    def discard(self) -> None:
        self.discarded += 1


@pytest.mark.parametrize("restart", ["temporary", "permanent"])
def test_the_rest_of_a_batch_is_let_go_at_a_final_end_and_kept_for_a_restart(restart: Any) -> None:
    block = Block()
    sup = Supervisor.start([ChildSpec(Lingers, kwargs={"block": block}, restart=restart)], max_restarts=0)
    [info] = sup.which_children()
    assert info.ref is not None
    batch = _Batch()
    info.ref.tell(batch)
    assert block.entered.wait(20)
    assert batch.discarded == (restart == "temporary")
    block.release.set()
    assert info.ref.join(20)
    assert batch.discarded == 1
    sup.stop()


# -- nobody waits in a circle


class StopsAnother(SupervisedActor):
    other: Any = None
    answers: list[bool]

    def on_stop(self) -> None:
        if self.other is not None:
            self.answers.append(self.other.stop())


def stop_each_other() -> None:
    answers: list[bool] = []
    refs = [StopsAnother.start() for _ in range(3)]
    for ref, other in zip(refs, [*refs[1:], refs[0]], strict=True):
        ref.proxy().other = other
        ref.proxy().answers = answers
    assert refs[0].stop(timeout=30) is True
    assert sorted(answers) == [False, True, True]
    for ref in refs:
        assert ref.join(30)


def test_actors_that_stop_each_other_in_on_stop_do() -> None:
    stop_each_other()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_actors_that_are_to_be_restarted_may_stop_each_other_in_on_stop(count: int) -> None:
    """One alone stops itself there. The stops that nobody waits for are the successors' to handle."""
    tree = Supervisor.start(
        [ChildSpec(StopsAnother, id=str(number)) for number in range(count)], max_restarts=1000
    )
    refs: list[Any] = [info.ref for info in tree.which_children()]
    answers: list[bool] = []
    for ref, other in zip(refs, [*refs[1:], refs[0]], strict=True):
        ref.proxy().other = other
        ref.proxy().answers = answers
    for ref in refs:
        assert ref.proxy().other.get(timeout=30) is not None
    assert refs[0].stop(timeout=30) is True
    for ref in refs:
        assert ref.proxy().other.get(timeout=30) is None  # a successor
    assert answers == [True] * count
    assert tree.stop(timeout=30) is True


class AsksItsParent(SupervisedActor):
    def __init__(self, parent: Any, answers: list[Any]) -> None:
        super().__init__()
        self.parent = parent
        self.answers = answers

    def on_stop(self) -> None:
        try:
            self.answers.append(self.parent.ask("may I?"))
        except pykka.ActorDeadError:
            self.answers.append("dead")


class Parent(SupervisedActor):
    def __init__(self, answers: list[Any]) -> None:
        super().__init__()
        self.answers = answers

    def on_start(self) -> None:
        self.worker = AsksItsParent.start(self.actor_ref, self.answers)

    def on_stop(self) -> None:
        self.worker.stop()


@pytest.mark.parametrize("supervised", [True, False])
def test_a_parent_that_stops_a_worker_which_asks_the_parent(supervised: bool) -> None:
    answers: list[Any] = []
    if supervised:
        tree = Supervisor.start([ChildSpec(Parent, (answers,))])
        tree.stop(timeout=30)
    else:
        Parent.start(answers).stop(timeout=30)
    assert answers == ["dead"]
    assert leaked_threads() == []


def test_a_child_that_asks_its_supervisor_at_the_end_is_told_at_once_that_it_is_dead() -> None:
    answers: list[Any] = []

    class Asks(SupervisedActor):
        def on_stop(self) -> None:
            above = supervisor_of(self.actor_ref)
            assert above is not None
            try:
                answers.append(above.ask("are you there?"))
            except pykka.ActorDeadError as error:
                answers.append(error)

    tree = Supervisor.start([ChildSpec(Asks, shutdown=30), Supervisor.child_spec([ChildSpec(Asks)], id="in")])
    assert tree.stop(timeout=20)
    assert [type(answer) for answer in answers] == [pykka.ActorDeadError] * 2
    assert leaked_threads() == []


# -- an end after which it is restarted


def test_for_a_restart_the_inbox_is_held() -> None:
    block = Block()
    block.release.set()
    sup = Supervisor.start([ChildSpec(Lingers, kwargs={"block": block})], max_restarts=10)
    [info] = sup.which_children()
    ref = info.ref
    assert ref is not None
    for how in (crash, stop):
        before = ref.ask(instance)
        block.entered.clear()
        block.release.clear()
        ref.tell(how)
        assert block.entered.wait(20)
        assert ref.is_alive()
        answer = ref.ask(instance, block=False)
        block.release.set()
        assert answer.get(timeout=20) != before
    sup.stop()


def test_a_child_that_is_to_be_restarted_is_dead_as_soon_as_its_supervisor_ends() -> None:
    block = Block()
    sup = Supervisor.start([ChildSpec(Lingers, kwargs={"block": block}, shutdown=30)])
    [info] = sup.which_children()
    ref = info.ref
    assert ref is not None
    downs: list[Down] = []
    monitor(ref, notify=downs.append)
    ref.tell(crash)
    assert block.entered.wait(20)
    waits = ref.ask("for the successor", block=False)
    stopping = sup.stop(block=False)
    with pytest.raises(pykka.ActorDeadError):
        waits.get(timeout=20)
    assert_dead(ref)
    block.release.set()
    assert stopping.get(timeout=20)
    assert [(type(down.reason), down.restarting) for down in downs] == [(Crash, False)]


# -- what a hook raises, or how long it takes


@pytest.mark.parametrize("error", [Boom("in the hook"), SystemExit()])
@pytest.mark.parametrize("hook", ["on_stop", "on_failure"])
@pytest.mark.parametrize("restart", ["temporary", "transient", "permanent"])
def test_what_a_hook_raises_is_reported_once_and_changes_nothing(
    hook: str, restart: Any, error: BaseException, reports: Callable[[], list[str]]
) -> None:
    class Fails(Worker):
        def on_stop(self) -> None:
            if hook == "on_stop":
                raise error

        def on_failure(self, *_: Any) -> None:
            raise error

    sup = Supervisor.start([ChildSpec(Fails, restart=restart)])
    [info] = sup.which_children()
    ref = info.ref
    assert ref is not None
    with Probe() as probe:
        monitor(ref, notify=probe.ref)
        ref.tell(stop if hook == "on_stop" else crash)
        down = probe.expect(Down)
        assert isinstance(down.reason, Normal if hook == "on_stop" else Crash)
        if hook == "on_failure":
            assert "on purpose" in str(down.reason)
        back = restart == "permanent" or (restart == "transient" and hook == "on_failure")
        assert down.restarting == back
        if back:
            assert await_restart(ref) == 1
        else:
            assert ref.join(20)
        probe.expect_nothing(0.01)
    told = [line for line in reports() if f"'hook': '{hook}'" in line]
    assert len(told) == 1
    assert "context='shutdown_error'" in told[0]
    others = [line for line in reports() if "child_terminated" in line]
    assert len(others) == (hook == "on_failure" or restart == "permanent")
    before = len(reports())
    sup.stop()
    if not back:
        assert len(reports()) == before


def test_a_hook_that_raises_while_its_supervisor_ends_it_is_reported_once(
    reports: Callable[[], list[str]],
) -> None:
    class Fails(Worker):
        def on_stop(self) -> None:
            raise Boom("in on_stop")

    sup = Supervisor.start([ChildSpec(Fails, id="a"), ChildSpec(Fails, id="b")])
    sup.terminate_child("b")
    assert len(reports()) == 1
    sup.stop()
    assert len(reports()) == 2


def test_an_end_that_was_final_stays_so_when_its_hook_hangs() -> None:
    block = Block()
    sup = Supervisor.start([ChildSpec(Lingers, kwargs={"block": block}, restart="transient", shutdown=0.05)])
    [info] = sup.which_children()
    ref = info.ref
    assert ref is not None
    with Probe() as probe:
        monitor(ref, notify=probe.ref)
        ref.tell(stop)
        assert block.entered.wait(20)
        assert kill(ref)
        down = probe.expect(Down)
        assert isinstance(down.reason, Abandoned)
        assert not down.restarting
        probe.expect_nothing(0.02)
    assert ref.join(20)
    eventually(lambda: [child.status for child in sup.which_children()] == ["stopped"])
    assert len(leaked_threads()) == 1
    block.release.set()
    eventually(lambda: leaked_threads() == [])
    sup.stop()


def test_a_crash_while_the_supervisor_ends_others_is_reported_though_nobody_waits_for_it(
    reports: Callable[[], list[str]],
) -> None:
    block = Block()
    sup = Supervisor.start([ChildSpec(Worker, id="crashes"), ChildSpec(Lingers, kwargs={"block": block})])
    refs = {info.id: info.ref for info in sup.which_children()}
    crashes: Any = refs["crashes"]
    stopping = sup.stop(block=False)
    assert block.entered.wait(20)
    crashes.tell(crash)
    assert crashes.join(20)
    block.release.set()
    assert stopping.get(timeout=20)
    assert [line for line in reports() if "child_terminated" in line and "on purpose" in line] != []
    assert len(reports()) == 1


# -- trees that hang together, and the process


def test_a_linked_tree_in_its_last_hooks_is_waited_for() -> None:
    block, log = Block(), Log()

    class Owner(Worker):
        def on_start(self) -> None:
            self.tree = Lingers.start("tree", log, block=block)
            link(self.tree)

    owner = Owner.start("owner", log)
    tree = owner.ask(lambda actor: actor.tree, timeout=20)
    tree.stop(block=False)
    assert block.entered.wait(20)
    stopping = owner.stop(block=False)
    eventually(lambda: not owner.is_alive())
    assert not tree.join(0.02)
    assert log.of("stop") == ["tree"]
    block.release.set()
    assert stopping.get(timeout=20)
    assert log.of("stop") == ["tree", "owner"]


@pytest.mark.parametrize("tree", [True, False])
def test_the_end_of_the_process_waits_for_last_hooks_that_run_already(tree: bool) -> None:
    program = f"""
        import threading, time
        from pykka_supervisor import SupervisedActor, Supervisor

        begun = threading.Event()

        class Slow(SupervisedActor):
            def on_stop(self):
                begun.set()
                time.sleep(0.3)
                print("done", flush=True)

        ref = Supervisor.start([Slow]) if {tree} else Slow.start()
        ref.stop(block=False)
        begun.wait(20)
        assert not ref.is_alive()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_stop_all_while_a_tree_ends_waits_for_that() -> None:
    block = Block()
    sup = Supervisor.start([Worker, ChildSpec(Lingers, kwargs={"block": block}, shutdown=30)])
    sup.stop(block=False)
    assert block.entered.wait(20)
    threading.Timer(0.05, block.release.set).start()
    pykka.ActorRegistry.stop_all(timeout=20)
    assert sup.join(0.5)
    assert pykka.ActorRegistry.get_all() == []


# -- at a switch interval of a microsecond


@pytest.fixture
def hasty() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_no_ask_hangs_and_no_end_is_told_twice_in_a_storm_of_ends(hasty: None) -> None:
    for _ in range(30):
        stop_each_other()
    sup = DynamicSupervisor.start(max_restarts=1_000_000)
    done = threading.Event()
    current: list[Any] = []
    hung: list[Any] = []

    class AsksInItsHooks(Worker):
        def _ask(self) -> None:
            for ref in current[-3:]:
                try:
                    ref.ask("x", timeout=20)
                except pykka.ActorDeadError:
                    pass
                except pykka.Timeout:
                    hung.append(ref)

        def on_stop(self) -> None:
            self._ask()

    def ask() -> None:
        while not done.is_set():
            for ref in current[-4:]:
                try:
                    ref.ask("x", timeout=20)
                except pykka.ActorDeadError:
                    pass
                except pykka.Timeout:
                    hung.append(ref)

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    downs: dict[Any, list[Down]] = {}
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        ref = sup.start_child(ChildSpec(AsksInItsHooks, restart="temporary"))
        mine: list[Down] = []
        downs[ref] = mine
        monitor(ref, notify=mine.append)
        current.append(ref)
        if len(current) > 4:
            current.pop(0).stop(block=False)
    done.set()
    for asker in askers:
        asker.join()
    sup.stop(timeout=60)
    assert hung == []
    for ref in downs:
        assert ref.join(20)
    assert {len(mine) for mine in downs.values()} == {1}
    assert {type(mine[0].reason) for mine in downs.values()} <= {Normal, Shutdown}
    assert leaked_threads() == []
