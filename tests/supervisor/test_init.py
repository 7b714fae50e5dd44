"""`__init__` is part of the start: where it runs, what bounds it, and what follows when it fails or hangs."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

import pykka
import pytest

from pykka_supervisor import (
    Backoff,
    ChildSpec,
    Down,
    DynamicSupervisor,
    IgnoreStart,
    Killed,
    NoProc,
    StartFailed,
    StartTimeoutError,
    SupervisedActor,
    Supervisor,
    kill,
    leaked_threads,
    link,
    monitor,
    whereis,
)
from pykka_supervisor.incarnation import current_incarnation
from pykka_supervisor.testing import Probe, TestClock, await_restart
from supervisor.kit import Block, Boom, Log, Worker, crash, eventually, instance

MANY = 1_000_000


class Trials:
    """What the n-th `__init__` of a class does; the classes below ask for it."""

    def __init__(self, *trials: Any, before_super: bool = False) -> None:
        self.trials = list(trials)
        self.before_super = before_super
        self.threads: list[threading.Thread] = []
        self.refs: list[Any] = []
        self.heard: list[Any] = []

    def next(self, actor: Any, *, before_super: bool) -> None:
        if before_super != self.before_super:
            return
        self.threads.append(threading.current_thread())
        if not before_super:
            self.refs.append(actor.actor_ref)
        trial = self.trials.pop(0) if self.trials else None
        if isinstance(trial, BaseException):
            raise trial
        if trial is not None:
            trial(actor)


class _Tries:
    def __init__(self, trials: Trials) -> None:
        self.trials = trials
        trials.next(self, before_super=True)
        super().__init__()
        trials.next(self, before_super=False)

    def on_start(self) -> None:
        self.trials.heard.append("on_start")

    def on_stop(self) -> None:
        self.trials.heard.append("on_stop")

    def on_failure(self, *_: Any) -> None:
        self.trials.heard.append("on_failure")

    def on_receive(self, message: Any) -> Any:
        return message(self) if callable(message) else message


class Tries(_Tries, SupervisedActor):
    pass


class TriesPlain(_Tries, pykka.ThreadingActor):
    use_daemon_thread = True


BOTH = pytest.mark.parametrize("actor_class", [Tries, TriesPlain])


@pytest.fixture(params=[Supervisor, DynamicSupervisor])
def sup(request: pytest.FixtureRequest) -> Iterator[Any]:
    ref = Supervisor.start([]) if request.param is Supervisor else DynamicSupervisor.start()
    yield ref
    ref.stop(timeout=20)


# -- where it runs


@BOTH
@pytest.mark.parametrize("start_timeout", [5.0, None])
def test_init_of_a_child_runs_in_the_childs_thread(sup: Any, actor_class: Any, start_timeout: Any) -> None:
    trials = Trials()
    ref = sup.start_child(ChildSpec(actor_class, (trials,), start_timeout=start_timeout))
    assert ref is trials.refs[0], "without waiting for on_start, there is a ref"
    ref.tell(crash)
    own = ref.ask(lambda _: threading.current_thread(), timeout=20)
    assert trials.threads[1] is own
    assert trials.threads[0] not in (own, threading.current_thread(), sup._cell.incarnation.thread)


def test_init_of_an_actor_on_its_own_runs_in_its_starters_thread_as_in_pykka() -> None:
    trials = Trials()
    Tries.start(trials).stop()
    Supervisor.start([]).stop()
    assert trials.threads == [threading.current_thread()]


@pytest.mark.parametrize("supervised", [True, False])
def test_what_init_starts_and_watches_belongs_to_the_new_actor(sup: Any, supervised: bool) -> None:
    log = Log()
    watched = Worker.start()
    heard: list[Any] = []

    class Owner(SupervisedActor):
        def __init__(self) -> None:
            with pytest.raises(RuntimeError, match="super"):
                monitor(watched)
            super().__init__()
            self.tree = Worker.start("tree", log)
            link(self.tree)
            monitor(watched)

        def on_receive(self, message: Any) -> Any:
            if isinstance(message, Down):
                heard.append(message.ref)
                return None
            return message(self)

    starter = sup.start_child(Worker)
    owner = sup.start_child(Owner) if supervised else starter.ask(lambda _: Owner.start())
    tree = owner.ask(lambda actor: actor.tree)
    watched.stop()
    eventually(lambda: heard == [watched])
    owner.stop()
    assert tree.join(20), "linked to its owner, not to whoever started that"
    assert starter.is_alive()


@pytest.mark.parametrize("supervised", [True, False])
def test_what_a_failed_init_has_linked_is_ended(sup: Any, supervised: bool) -> None:
    trees: list[Any] = []

    class Fails(SupervisedActor):
        def __init__(self) -> None:
            trees.append(Supervisor.start_link([Worker]))
            raise Boom

    with pytest.raises(Boom):
        sup.start_child(Fails) if supervised else Fails.start()
    assert trees[0].join(20)
    assert current_incarnation() is None


def test_an_actor_whose_linked_tree_dies_while_its_init_runs_dies_of_it() -> None:
    class Fails(SupervisedActor):
        def __init__(self) -> None:
            super().__init__()
            tree = Supervisor.start_link([])
            kill(tree)
            assert tree.join(20)

    ref = Fails.start()
    with Probe() as probe:
        monitor(ref, notify=probe.ref)
        assert type(probe.expect(Down).reason) in (Killed, NoProc)
    assert ref.join(20)


# -- how long it may take


@BOTH
@pytest.mark.parametrize("before_super", [True, False])
def test_start_timeout_bounds_init_and_its_late_return_does_nothing(
    sup: Any, actor_class: Any, before_super: bool
) -> None:
    block = Block()
    trials = Trials(block, before_super=before_super)
    begun = time.monotonic()
    with pytest.raises(StartTimeoutError):
        sup.start_child(ChildSpec(actor_class, (trials,), name="late", start_timeout=0.1))
    assert time.monotonic() - begun < 3
    assert whereis("late") is None
    assert sup.count_children().specs == 0
    assert len(leaked_threads()) == 1
    for ref in trials.refs:
        assert not ref.is_alive()
        with pytest.raises(pykka.ActorDeadError):
            ref.ask("x", timeout=20)
    other: Any = sup.start_child(ChildSpec(actor_class, (Trials(),), name="late"))
    block.release.set()
    eventually(lambda: leaked_threads() == [])
    assert trials.heard == []
    assert whereis("late") == other
    assert set(pykka.ActorRegistry.get_all()) == {sup, other}
    assert other.ask("there", timeout=20) == "there"


@BOTH
@pytest.mark.parametrize("before_super", [True, False])
def test_an_init_that_hangs_at_a_restart_freezes_nobody(
    sup: Any, actor_class: Any, before_super: bool
) -> None:
    block = Block()
    trials = Trials(None, block, before_super=before_super)
    ref = sup.start_child(ChildSpec(actor_class, (trials,), start_timeout=0.1))
    first = ref.ask(instance)
    ref.tell(crash)
    answer = ref.ask(instance, block=False)
    assert sup.count_children().specs == 1
    third = answer.get(timeout=20)
    assert third != first
    assert await_restart(ref) == 2
    assert len(leaked_threads()) == 1
    block.release.set()
    eventually(lambda: leaked_threads() == [])
    assert ref.ask(instance) == third
    assert ref.proxy()._actor is not None
    assert instance(ref.proxy()._actor) == third, "proxies look at the one that lives"
    assert trials.heard.count("on_start") == 2
    assert pykka.ActorRegistry.get_all().count(ref) == 1


@pytest.mark.parametrize("start_timeout", [30.0, None])
@pytest.mark.parametrize("end", ["stop", "kill", "stop_all"])
def test_a_tree_ends_while_an_init_hangs_at_a_restart(start_timeout: float | None, end: str) -> None:
    block = Block()
    trials = Trials(None, block)
    spec = ChildSpec(Tries, (trials,), start_timeout=start_timeout, shutdown=0.1)
    tree = Supervisor.start([spec, Supervisor.child_spec([], id="in")])
    ref: Any = tree.which_children()[0].ref
    ref.tell(crash)
    assert block.entered.wait(20)
    begun = time.monotonic()
    asked = ref.ask("x", block=False)
    if end == "stop":
        assert tree.stop(timeout=20)
    elif end == "stop_all":
        pykka.ActorRegistry.stop_all(timeout=20)
    else:
        kill(tree)
    assert tree.join(20)
    assert time.monotonic() - begun < 3
    with pytest.raises(pykka.ActorDeadError):
        asked.get(timeout=20)
    assert pykka.ActorRegistry.get_all() == []
    assert len(leaked_threads()) == 1
    block.release.set()
    eventually(lambda: leaked_threads() == [])
    assert "on_start" not in trials.heard[1:]


def test_the_end_of_the_process_waits_for_no_init() -> None:
    program = """
        import time
        from pykka_supervisor import ChildSpec, SupervisedActor, Supervisor

        class Hangs(SupervisedActor):
            made = 0
            def __init__(self):
                super().__init__()
                Hangs.made += 1
                if Hangs.made == 2:
                    print("hangs", flush=True)
                    time.sleep(1e6)
            def on_receive(self, message):
                raise RuntimeError(message)

        tree = Supervisor.start([ChildSpec(Hangs, start_timeout=60, shutdown=0.1)])
        tree.which_children()[0].ref.tell("crash")
        while Hangs.made < 2:
            time.sleep(0.001)
    """
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "hangs\n")
    assert time.monotonic() - begun < 4


def test_a_kill_of_a_child_whose_init_hangs_frees_its_supervisor() -> None:
    block = Block()
    trials = Trials(None, block)
    sup = Supervisor.start([ChildSpec(Tries, (trials,), start_timeout=60, shutdown=0.05)])
    ref: Any = sup.which_children()[0].ref
    ref.tell(crash)
    assert block.entered.wait(20)
    assert kill(ref)
    assert ref.ask("next life", timeout=20) == "next life"
    assert await_restart(ref) == 2
    block.release.set()
    eventually(lambda: leaked_threads() == [])
    assert sup.stop(timeout=20)


def test_a_child_that_is_told_to_end_while_its_init_runs_does_not_start() -> None:
    block = Block()
    trials = Trials(None, block)
    sup = Supervisor.start([ChildSpec(Tries, (trials,), start_timeout=60, shutdown=30)])
    ref: Any = sup.which_children()[0].ref
    ref.tell(crash)
    assert block.entered.wait(20)
    assert kill(ref)
    block.release.set()
    assert ref.ask("next life", timeout=20) == "next life"
    assert await_restart(ref) == 2
    assert trials.heard == ["on_start", "on_failure", "on_start"]
    sup.stop()


def test_an_interrupt_that_comes_while_init_runs_is_given_afterwards() -> None:
    block = Block()

    class Waits(SupervisedActor):
        def __init__(self) -> None:
            super().__init__()
            self.wake = threading.Event()
            block(self)

        def interrupt(self) -> None:
            self.wake.set()

        def on_start(self) -> None:
            assert self.wake.wait(20)

    sup = Supervisor.start([])
    starting = threading.Thread(
        target=lambda: sup.start_child(ChildSpec(Waits, name="waits", restart="temporary", start_timeout=60))
    )
    starting.start()
    assert block.entered.wait(20)
    ref = whereis("waits")
    assert ref is not None
    stopping = ref.stop(block=False)
    begun = time.monotonic()
    block.release.set()
    assert stopping.get(timeout=20) is True
    starting.join(20)
    assert time.monotonic() - begun < 5
    sup.stop()


def test_what_comes_while_an_init_hangs_is_bounded() -> None:
    block = Block()
    trials = Trials(None, block)
    sup = Supervisor.start([ChildSpec(Tries, (trials,), max_buffered=3)])
    ref: Any = sup.which_children()[0].ref
    ref.tell(crash)
    assert block.entered.wait(20)
    for number in range(5):
        ref.tell(number)
    assert ref.dead_letters == 2
    block.release.set()
    assert await_restart(ref) == 1
    sup.stop()


# -- what it raises


@BOTH
def test_what_init_raises_reaches_the_caller_and_a_ref_handed_out_is_dead(sup: Any, actor_class: Any) -> None:
    downs: list[Down] = []
    asked: list[Any] = []

    def hand_out(actor: Any) -> None:
        monitor(actor.actor_ref, notify=downs.append)
        asked.append(actor.actor_ref.ask("early", block=False))
        raise Boom("in init")

    with pytest.raises(Boom, match="in init") as caught:
        sup.start_child(ChildSpec(actor_class, (Trials(hand_out),), name="fails"))
    assert "hand_out" in [entry.name for entry in caught.traceback]
    eventually(lambda: len(downs) == 1)
    assert isinstance(downs[0].reason, StartFailed)
    assert isinstance(downs[0].reason.exception, Boom)
    assert not downs[0].restarting
    with pytest.raises(pykka.ActorDeadError):
        asked[0].get(timeout=20)
    assert whereis("fails") is None
    assert pykka.ActorRegistry.get_all() == [sup]


@pytest.mark.parametrize("start_timeout", [5.0, None])
def test_what_init_raises_at_a_restart_is_a_failed_restart(start_timeout: float | None) -> None:
    clock = TestClock()
    trials = Trials(None, Boom("second"), Boom("third"))
    spec = ChildSpec(
        Tries, (trials,), start_timeout=start_timeout, backoff=Backoff(1, 1, jitter=0, reset_after=100)
    )
    sup = Supervisor.start([spec], clock=clock, max_restarts=3, max_seconds=100)
    ref: Any = sup.which_children()[0].ref
    ref.tell(crash)
    answer = ref.ask("back", block=False)
    for _ in range(3):
        clock.wait_for_timer()
        clock.advance(1)
        eventually(lambda: len(trials.threads) > 1)
    assert answer.get(timeout=20) == "back"
    assert len(trials.threads) == 4
    sup.stop()


@pytest.mark.parametrize("where", ["init", "on_start"])
@pytest.mark.parametrize("start_timeout", [5.0, None])
def test_a_dynamic_child_that_is_not_needed_at_its_restart_is_forgotten(
    where: str, start_timeout: float | None
) -> None:
    lives: list[int] = []

    class NotNeeded(Worker):
        def __init__(self) -> None:
            super().__init__()
            lives.append(1)
            if len(lives) == 2 and where == "init":
                raise IgnoreStart

        def on_start(self) -> None:
            if len(lives) == 2 and where == "on_start":
                raise IgnoreStart

    sup = DynamicSupervisor.start(max_children=1)
    ref = sup.start_child(ChildSpec(NotNeeded, start_timeout=start_timeout, name="not-needed"))
    downs: list[Down] = []
    monitor(ref, notify=downs.append)
    ref.tell(crash)
    assert ref.join(20)
    eventually(lambda: sup.which_children() == [])
    assert sup.count_children().specs == 0
    assert [down.restarting for down in downs] == [True]
    other = sup.start_child(ChildSpec(NotNeeded, name="not-needed"))
    assert other.ask("there is room", timeout=20) == "there is room"
    sup.stop()


@pytest.mark.parametrize("start_timeout", [5.0, None])
def test_a_significant_child_that_is_not_needed_ends_nothing(start_timeout: float | None) -> None:
    lives: list[int] = []

    class NotNeeded(Worker):
        def on_start(self) -> None:
            lives.append(1)
            if len(lives) == 2:
                raise IgnoreStart

    spec = ChildSpec(NotNeeded, restart="transient", significant=True, start_timeout=start_timeout)
    sup = Supervisor.start([spec, Worker], auto_shutdown="any_significant")
    ref: Any = sup.which_children()[0].ref
    ref.tell(crash)
    assert ref.join(20)
    eventually(lambda: [child.status for child in sup.which_children()] == ["stopped", "running"])
    assert sup.stop(timeout=20)


def test_a_name_that_a_late_init_claims_stays_free() -> None:
    block = Block()

    class Late(DynamicSupervisor):
        def __init__(self) -> None:
            block(self)
            super().__init__(name="late-name")

    sup = Supervisor.start([])
    with pytest.raises(StartTimeoutError):
        sup.start_child(ChildSpec(Late, start_timeout=0.05))
    block.release.set()
    eventually(lambda: leaked_threads() == [])
    assert whereis("late-name") is None
    sup.stop()


# -- at a switch interval of a microsecond


def test_starts_that_time_out_at_any_moment_leave_nothing() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    downs: dict[Any, list[Down]] = {}

    class Slow(Worker):
        def __init__(self, seconds: float) -> None:
            time.sleep(seconds / 2)
            super().__init__()
            mine: list[Down] = []
            downs[self.actor_ref] = mine
            monitor(self.actor_ref, notify=mine.append)
            time.sleep(seconds / 2)

    sup = DynamicSupervisor.start()
    outcomes: list[str] = []
    try:
        until = time.monotonic() + 1.5
        number = 0
        while time.monotonic() < until:
            number += 1
            spec = ChildSpec(Slow, (0.002 + 0.0002 * (number % 10),), start_timeout=0.003, name="slow")
            try:
                ref = sup.start_child(spec)
            except StartTimeoutError:
                outcomes.append("late")
            else:
                outcomes.append("started")
                ref.tell(crash)
                sup.terminate_child(ref)
    finally:
        sys.setswitchinterval(interval)
    assert len(set(outcomes)) == 2, "some are in time and some are not"
    eventually(lambda: leaked_threads() == [], timeout=20)
    assert pykka.ActorRegistry.get_all() == [sup]
    assert whereis("slow") is None
    # A successor that was late before it could monitor itself has left the `restarting` of the one before it.
    eventually(lambda: all(downs.values()))
    assert {sum(not down.restarting for down in mine) for mine in downs.values()} <= {0, 1}
    assert sup.stop(timeout=20)
