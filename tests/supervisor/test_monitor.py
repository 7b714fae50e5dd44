"""Monitors and links beyond the numbered cases."""

from __future__ import annotations

import threading
import time
from typing import Any

import pykka
import pytest

from pykka_supervisor import (
    SYSTEM_CLOCK,
    ChildSpec,
    Crash,
    Down,
    DynamicSupervisor,
    Gone,
    Killed,
    Normal,
    SupervisedActor,
    Supervisor,
    demonitor,
    kill,
    leaked_threads,
    link,
    monitor,
    whereis,
)
from pykka_supervisor.cell import cell_of
from pykka_supervisor.testing import Probe, TestClock, await_restart
from supervisor.kit import Block, Boom, Log, PlainWorker, Worker, crash, eventually, stop


class Watcher(SupervisedActor):
    def __init__(self) -> None:
        super().__init__()
        self.downs: list[Down] = []

    def on_receive(self, message: Any) -> Any:
        match message:
            case Down():
                self.downs.append(message)
            case ("watch", ref):
                return monitor(ref)
            case "downs":
                return list(self.downs)
        return None


def test_without_notify_the_calling_actor_is_told() -> None:
    watcher, watched = Watcher.start(), Worker.start()
    watching = watcher.ask(("watch", watched))
    watched.stop()
    eventually(lambda: len(watcher.ask("downs")) == 1)
    [down] = watcher.ask("downs")
    assert (down.monitor, down.ref, down.reason, down.restarting) == (watching, watched, Normal(), False)
    watcher.stop()
    with pytest.raises(RuntimeError, match="supervised actors"):
        monitor(watched)


def test_an_actors_own_monitors_end_with_its_incarnation() -> None:
    sup = Supervisor.start([Watcher])
    [info] = sup.which_children()
    watcher = info.ref
    assert watcher is not None
    watched = Worker.start()
    watcher.ask(("watch", watched))
    kill(watcher)
    await_restart(watcher)
    watched.stop()
    assert watcher.ask("downs") == []
    sup.stop()


def test_an_abandoned_owner_takes_its_linked_tree_along() -> None:
    clock = TestClock()
    log = Log()
    sup = Supervisor.start([ChildSpec(Owner, (log,), restart="temporary", hang_after=1)], clock=clock)
    [info] = sup.which_children()
    owner = info.ref
    assert owner is not None
    tree = owner.ask(lambda actor: actor.tree)
    block = Block()
    owner.tell(block)
    assert block.entered.wait(20)
    clock.advance(2)
    assert tree.join(20)
    block.release.set()
    eventually(lambda: leaked_threads() == [])
    assert log.of("stop") == ["linked"]
    sup.stop()


def test_one_down_for_each_call_and_one_life() -> None:
    sup = Supervisor.start([Worker])
    [info] = sup.which_children()
    ref = info.ref
    assert ref is not None
    downs: list[Down] = []
    first = monitor(ref, notify=downs.append)
    second = monitor(ref, notify=downs.append)
    ref.tell(crash)
    await_restart(ref)
    assert [down.monitor for down in downs] == [first, second]
    ref.tell(crash)
    await_restart(ref)
    assert len(downs) == 2, "a monitor is for one life; it is not renewed by itself"
    assert not first.pending
    sup.stop()


def test_a_function_that_raises_keeps_nobody_else_from_being_told() -> None:
    ref = Worker.start()
    downs: list[Down] = []

    def raises(_down: Down) -> None:
        raise Boom("in notify")

    monitor(ref, notify=raises)
    monitor(ref, notify=downs.append)
    ref.stop()
    assert len(downs) == 1


def test_a_dead_monitoring_actor_does_no_harm() -> None:
    probe = Probe()
    ref = Worker.start()
    monitor(ref, notify=probe.ref)
    probe.stop()
    assert ref.stop()


def test_monitors_that_were_taken_back_do_not_pile_up() -> None:
    ref = Worker.start()
    for _ in range(1000):
        demonitor(monitor(ref, notify=lambda _: None))
    assert not cell_of(ref).monitors
    ref.stop()


def test_many_plain_actors_are_watched_by_one_timer() -> None:
    refs = [PlainWorker.start() for _ in range(100)]
    downs: list[Down] = []
    for ref in refs:
        for _ in range(2):
            monitor(ref, notify=downs.append)
    assert SYSTEM_CLOCK.pending() == 1
    threads = threading.active_count()
    for ref in refs:
        ref.stop(block=False)
    eventually(lambda: len(downs) == 200)
    assert {down.ref for down in downs} == set(refs)
    assert {down.reason for down in downs} == {Gone()}
    eventually(lambda: SYSTEM_CLOCK.pending() == 0)
    assert threading.active_count() <= threads


def test_a_sweep_of_a_thousand_plain_actors_costs_little() -> None:
    from pykka_supervisor import _pykka  # noqa: PLC0415
    from pykka_supervisor.monitor import _sweeper  # noqa: PLC0415

    ref = PlainWorker.start()
    watching = [monitor(ref, notify=lambda _: None)]
    actor = _pykka.referenced_actor(ref)
    assert actor is not None
    for number in range(1000):
        clone = pykka.ActorRef(actor)
        clone.actor_urn = f"urn:{number}"
        watching.append(monitor(clone, notify=lambda _: None))
    _sweeper._sweep()
    begun = time.thread_time()
    for _ in range(10):
        _sweeper._sweep()
    each = (time.thread_time() - begun) / 10
    assert each < 0.05, "about 1 ms on an idle machine, four times a second"
    for one in watching:
        demonitor(one)
    ref.stop()
    eventually(lambda: SYSTEM_CLOCK.pending() == 0)


class Owner(SupervisedActor):
    """Starts a tree of its own and is linked to it."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self.log = log
        self.tree: Any = None

    def on_start(self) -> None:
        self.tree = Supervisor.start_link(
            [ChildSpec(Worker, ("linked", self.log))], max_restarts=0, name="linked-tree"
        )

    def on_stop(self) -> None:
        self.log.add("stop", "owner")

    def on_failure(self, *_: Any) -> None:
        self.log.add("failure", "owner")

    def on_receive(self, message: Any) -> Any:
        return message(self)


@pytest.mark.parametrize(
    ("end", "hook"),
    [(lambda ref: ref.tell(stop), "stop"), (lambda ref: ref.tell(crash), "failure"), (kill, "failure")],
)
def test_a_linked_tree_ends_with_its_owner_before_the_next_incarnation(end: Any, hook: str) -> None:
    log = Log()
    sup = Supervisor.start([ChildSpec(Owner, (log,))])
    [info] = sup.which_children()
    owner = info.ref
    assert owner is not None
    first = owner.ask(lambda actor: actor.tree)
    end(owner)
    await_restart(owner)
    second = owner.ask(lambda actor: actor.tree)
    assert second is not first
    assert not first.is_alive()
    assert log.entries == [("start", "linked"), ("stop", "linked"), (hook, "owner"), ("start", "linked")]
    sup.stop()
    assert not second.is_alive()


def test_a_linked_tree_that_gives_up_takes_its_owner_along() -> None:
    log = Log()
    sup = Supervisor.start([ChildSpec(Owner, (log,))])
    [info] = sup.which_children()
    owner = info.ref
    assert owner is not None
    [linked] = owner.ask(lambda actor: actor.tree).which_children()
    linked.ref.tell(crash)
    await_restart(owner)
    assert log.of("failure") == ["linked", "owner"]
    assert whereis("linked-tree") is owner.ask(lambda actor: actor.tree)
    sup.stop()


def test_start_link_outside_an_actor_starts_nothing() -> None:
    for start in (lambda: Supervisor.start_link([Worker]), DynamicSupervisor.start_link):
        with pytest.raises(RuntimeError):
            start()
    assert pykka.ActorRegistry.get_all() == []


def test_a_dynamic_supervisor_is_linked_the_same_way() -> None:
    owner = Worker.start()
    tree = owner.ask(lambda _: DynamicSupervisor.start_link(max_children=1))
    child = tree.start_child(Worker)
    owner.stop()
    assert not tree.is_alive()
    assert not child.is_alive()


def test_a_linked_actor_that_ends_abnormally_takes_its_owner_along() -> None:
    with Probe() as probe:
        linked = Worker.start()
        orderly = Worker.start()

        def tie(_actor: Any) -> None:
            link(linked)
            link(orderly)

        owner = Worker.start()
        owner.ask(tie)
        monitor(owner, notify=probe.ref)
        orderly.stop()
        probe.expect_nothing(0.05)
        linked.tell(crash)
        assert probe.expect(Down).reason == Killed()
    assert owner.join(20)
    with pytest.raises(RuntimeError):
        link(owner)


def test_a_child_of_a_supervisor_that_crashes_in_a_handler_of_a_down() -> None:
    """A Down is a message like any other: what kills its receiver is its receiver's crash."""
    sup = Supervisor.start([Watcher], max_restarts=5)
    [info] = sup.which_children()
    watcher = info.ref
    assert watcher is not None
    block = Block()
    watched = Worker.start()
    monitor(watched, notify=watcher)
    watched.tell(block)
    block.release.set()
    watched.tell(crash)
    eventually(lambda: len(watcher.ask("downs")) == 1)
    assert isinstance(watcher.ask("downs")[0].reason, Crash)
    sup.stop()
