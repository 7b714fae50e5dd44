"""What an actor monitors for itself ends with its incarnation, whichever way that ends, and leaves nothing."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import pykka
import pytest

from pykka_supervisor import ChildSpec, Down, SupervisedActor, Supervisor, demonitor, kill, monitor
from pykka_supervisor.cell import cell_of
from pykka_supervisor.monitor import _sweeper
from pykka_supervisor.testing import Probe, await_restart
from supervisor.kit import Block, Worker, crash, eventually


class Plain(pykka.ThreadingActor):
    pass


def watching(ref: pykka.ActorRef[Any]) -> int:
    """How many monitors are kept of an actor."""
    if isinstance(ref, SupervisedActor.ref_class):
        return len(cell_of(ref).monitors or ())
    return sum(len(watched.monitors) for watched in _sweeper._watched.values() if watched.ref is ref)


def own(ref: Any) -> int:
    return len(ref._cell.incarnation.monitors or ())


@pytest.fixture(params=[Worker, Plain])
def watched(request: pytest.FixtureRequest) -> Any:
    ref = request.param.start()
    yield ref
    ref.stop()
    eventually(lambda: _sweeper._timer is None)


@pytest.mark.parametrize("end", [lambda ref: ref.tell(crash), kill, lambda ref: ref.stop()])
def test_of_an_actor_that_is_restarted_again_and_again(watched: Any, end: Callable[[Any], Any]) -> None:
    sup = Supervisor.start([Worker], max_restarts=100)
    ref: Any = sup.which_children()[0].ref
    for _ in range(10):
        for _ in range(3):
            ref.ask(lambda _: monitor(watched))
        assert watching(watched) == own(ref) == 3
        end(ref)
        await_restart(ref)
        assert watching(watched) == 0
    sup.stop()


def test_of_an_actor_that_is_abandoned(watched: Any) -> None:
    block = Block()

    def blocked_between(actor: Any) -> None:
        monitor(watched)
        block(actor)
        monitor(watched)

    sup = Supervisor.start([ChildSpec(Worker, hang_after=0.05)])
    ref: Any = sup.which_children()[0].ref
    ref.tell(blocked_between)
    await_restart(ref)
    assert watching(watched) == 0
    late = [thread for thread in threading.enumerate() if thread.name.startswith("Worker-")]
    block.release.set()
    eventually(lambda: any(not thread.is_alive() for thread in late))
    assert watching(watched) == 0
    sup.stop()


def test_one_that_has_fired_or_was_taken_back_is_kept_by_nobody() -> None:
    told: list[Any] = []

    class Watcher(Worker):
        def on_receive(self, message: Any) -> Any:
            if isinstance(message, Down):
                return told.append(message)
            return super().on_receive(message)

    watcher: Any = Watcher.start()
    others = [Worker.start() for _ in range(5)]
    for other in others:
        watcher.ask(lambda _, other=other: monitor(other))
    assert own(watcher) == 5
    for other in others[:3]:
        other.stop()
    eventually(lambda: len(told) == 3)
    assert own(watcher) == 2
    watcher.ask(lambda _: monitor(others[0]))  # dead: told at once
    eventually(lambda: len(told) == 4)
    assert own(watcher) == 2
    assert watcher.ask(lambda _: demonitor(monitor(others[3])))
    assert own(watcher) == 2
    for ref in (*others[3:], watcher):
        ref.stop()


def test_monitors_set_and_taken_back_while_the_actor_dies_fire_once_or_never() -> None:
    """10 threads, 300 deaths: each `Down` is given once, unless its monitor was taken back."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        lost = doubled = after = 0
        for _ in range(300):
            ref = Worker.start()
            fired: list[Any] = []
            made: list[Any] = []
            taken: list[Any] = []

            def storm(ref: Any = ref, fired: Any = fired, made: Any = made, taken: Any = taken) -> None:
                for number in range(4):
                    told = monitor(ref, notify=fired.append)
                    (taken if number % 2 and demonitor(told) else made).append(told)

            threads = [threading.Thread(target=storm) for _ in range(10)]
            for thread in threads:
                thread.start()
            ref.stop()
            for thread in threads:
                thread.join()
            given = [down.monitor for down in fired]
            lost += len(set(made) - set(given))
            doubled += len(given) - len(set(given))
            after += len(set(taken) & set(given))
            assert watching(ref) == 0
        assert (lost, doubled, after) == (0, 0, 0)
    finally:
        sys.setswitchinterval(interval)


def test_a_probe_that_monitors_for_another_is_no_owner(watched: Any) -> None:
    with Probe() as probe:
        told = monitor(watched, notify=probe.ref)
        assert watching(watched) == 1
        assert own(probe.ref) == 0
        told.cancel()
