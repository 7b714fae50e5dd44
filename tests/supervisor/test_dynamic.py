"""`DynamicSupervisor`: many children, each with its own intensity, forgotten when they end."""

from __future__ import annotations

import gc
import time
import weakref
from typing import Any

import pykka
import pytest

from pykka_supervisor import (
    ChildNotFoundError,
    ChildSpec,
    Down,
    DynamicSupervisor,
    InvalidSpecError,
    Killed,
    MaxChildrenError,
    SupervisedActor,
    kill,
    leaked_threads,
    monitor,
)
from pykka_supervisor.testing import Probe, await_restart
from supervisor.kit import Block, Boom, Log, Worker, crash, eventually, instance, stop


def test_max_children_and_terminate_child() -> None:
    sup = DynamicSupervisor.start(max_children=2)
    first, second = sup.start_child(Worker), sup.start_child(Worker)
    with pytest.raises(MaxChildrenError):
        sup.start_child(Worker)
    sup.terminate_child(first)
    assert not first.is_alive()
    with pytest.raises(ChildNotFoundError):
        sup.terminate_child(first)
    third = sup.start_child(Worker)
    assert {info.ref for info in sup.which_children()} == {second, third}
    stranger = Worker.start()
    with pytest.raises(ChildNotFoundError):
        sup.terminate_child(stranger)
    stranger.stop()
    with pytest.raises(InvalidSpecError):
        sup.start_child(ChildSpec(Worker, restart="transient", significant=True))
    sup.stop()


class Pool(DynamicSupervisor):
    """A subclass with messages of its own, which never asks super()."""

    def __init__(self, *, greeting: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.greeting = greeting
        self.ended: list[Any] = []

    def on_receive(self, message: Any) -> Any:
        match message:
            case "new":
                return self.start_child(ChildSpec(Worker, (self.greeting,), restart="temporary"))
            case ("end", ref):
                return self.terminate_child(ref)
            case Down():
                self.ended.append(message.ref)
        return self.ended


def test_a_subclass_starts_children_in_its_own_handlers() -> None:
    pool = Pool.start(greeting="hello", max_children=3)
    ref = pool.ask("new")
    assert ref.ask(lambda actor: actor.who) == "hello"
    pool.ask(("end", ref))
    assert not ref.is_alive()
    other = pool.ask("new")
    monitor(other, notify=pool)
    other.tell(crash)
    eventually(lambda: pool.ask("ended?") == [other])
    assert pool.count_children().specs == 0
    pool.stop()


@pytest.mark.parametrize("end", [lambda ref: ref.stop(), lambda ref: ref.tell(crash), kill])
def test_a_temporary_child_that_ended_is_forgotten_wholly(end: Any) -> None:
    sup = DynamicSupervisor.start()
    refs = [sup.start_child(ChildSpec(Worker, restart="temporary")) for _ in range(20)]
    actors = [weakref.ref(ref._cell.incarnation.actor) for ref in refs]  # type: ignore[union-attr]
    cells = [weakref.ref(ref._cell) for ref in refs]
    for ref in refs:
        end(ref)
        assert ref.join(20)
    eventually(lambda: sup.count_children().specs == 0)
    # The supervisor's thread lets go of the last message when it takes the next.
    assert sup.which_children() == []
    del refs, ref
    gc.collect()
    assert [actor() for actor in actors] == [None] * 20
    assert [cell() for cell in cells if cell() is not None] == []
    sup.stop()


def test_a_transient_child_that_stops_itself_is_forgotten_and_restarts_after_a_crash() -> None:
    sup = DynamicSupervisor.start()
    ref = sup.start_child(ChildSpec(Worker, restart="transient"))
    ref.tell(crash)
    await_restart(ref)
    ref.tell(stop)
    assert ref.join(20)
    eventually(lambda: sup.which_children() == [])
    sup.stop()


def test_children_end_in_parallel_under_their_own_limits() -> None:
    sup = DynamicSupervisor.start()
    blocks = [Block() for _ in range(10)]
    refs = [sup.start_child(ChildSpec(Worker, shutdown=0.3)) for _ in blocks]
    quick = [sup.start_child(Worker) for _ in range(10)]
    for ref, block in zip(refs, blocks, strict=True):
        ref.tell(block)
        assert block.entered.wait(20)
    begun = time.monotonic()
    sup.stop(timeout=20)
    assert time.monotonic() - begun < 3, "0.4 s on an idle machine; one after the other 4 s"
    assert not any(ref.is_alive() for ref in refs + quick)
    for block in blocks:
        block.release.set()
    eventually(lambda: leaked_threads() == [])


def test_a_start_that_fails_leaves_nothing() -> None:
    class Fails(SupervisedActor):
        def on_start(self) -> None:
            raise Boom("no")

    sup = DynamicSupervisor.start()
    for _ in range(5):
        with pytest.raises(Boom):
            sup.start_child(Fails)
    assert sup.which_children() == []
    assert pykka.ActorRegistry.get_all() == [sup]
    sup.stop()


def test_killing_the_supervisor_ends_its_children_before_it_is_gone() -> None:
    log = Log()
    sup = DynamicSupervisor.start()
    refs = [sup.start_child(ChildSpec(Worker, (str(n), log))) for n in range(5)]
    with Probe() as probe:
        monitor(sup, notify=probe.ref)
        kill(sup)
        assert probe.expect(Down).reason == Killed()
    assert sorted(log.of("stop")) == ["0", "1", "2", "3", "4"]
    assert not any(ref.is_alive() for ref in refs)
    assert sup.join(20)
    with pytest.raises(pykka.ActorDeadError):
        sup.start_child(Worker)


def test_two_hundred_killed_at_once_are_two_hundred_restarts() -> None:
    sup = DynamicSupervisor.start(max_restarts=1)
    refs = [sup.start_child(Worker) for _ in range(200)]
    before = [ref.ask(instance) for ref in refs]
    for ref in refs:
        kill(ref)
    assert [await_restart(ref) for ref in refs] == [1] * 200
    assert all(ref.ask(lambda actor: actor._supervised_incarnation.generation) == 2 for ref in refs), (
        "each is a new instance"
    )
    assert len(before) == 200
    assert sup.count_children().active == 200
    sup.stop()
