"""An application's code is not called in a thread that serves others: the timer thread, a supervisor's."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any, cast

import pykka
import pytest

from pykka_supervisor import (
    Backoff,
    ChildSpec,
    Down,
    NoProc,
    Supervisor,
    monitor,
    send_after,
)
from pykka_supervisor.testing import Probe, await_restart, kill
from supervisor.kit import PlainWorker, Worker, crash, eventually


class Gate:
    """What something that blocks waits at."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def wait(self, *_: object) -> None:
        self.reached.set()
        self.open.wait(30)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()
    eventually(lambda: not any(t.name == "pykka-supervisor-apart" for t in threading.enumerate()))


class Inbox(queue.Queue[Any]):
    """One of the application's own kind: what is not for Pykka itself waits at a gate, or raises."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: Gate | None = None
        self.error: BaseException | None = None

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if type(item.message).__module__ != "pykka.messages":
            if self.gate is not None:
                self.gate.wait()
            if self.error is not None:
                raise self.error
        super().put(item, block, timeout)


class Own(pykka.ThreadingActor):
    use_daemon_thread = True

    def __init__(self) -> None:
        super().__init__()
        self.received: list[Any] = []

    @staticmethod
    def _create_actor_inbox() -> Any:
        return Inbox()

    def on_receive(self, message: Any) -> None:
        self.received.append(message)


@pytest.fixture
def own() -> Iterator[pykka.ActorRef[Own]]:
    ref = Own.start()
    yield ref
    inbox_of(ref).gate = inbox_of(ref).error = None
    ref.stop(timeout=20)


def inbox_of(ref: pykka.ActorRef[Own]) -> Inbox:
    return cast("Inbox", ref.actor_inbox)


def the_clock_goes_on() -> None:
    with Probe() as probe:
        send_after(0, probe.ref, "on time")
        assert probe.expect(str, timeout=20) == "on time"


def test_a_timer_for_an_inbox_that_blocks_holds_up_no_other_timer(
    gate: Gate, own: pykka.ActorRef[Own]
) -> None:
    inbox_of(own).gate = gate
    received = own.proxy().received.get()
    for number in range(5):
        send_after(0.001 * number, own, number)
    assert gate.reached.wait(20)
    the_clock_goes_on()
    gate.open.set()
    eventually(lambda: received == [0, 1, 2, 3, 4])  # in their order


def test_a_timer_for_an_inbox_that_raises_is_that_ones_matter(own: pykka.ActorRef[Own]) -> None:
    for error in (queue.Full(), SystemExit(), RuntimeError("no room")):
        inbox_of(own).error = error
        send_after(0, own, "lost")
        the_clock_goes_on()
    inbox_of(own).error = None
    send_after(0, own, "kept")
    received = own.proxy().received.get()
    eventually(lambda: "kept" in received)


@pytest.mark.parametrize("way", ["function", "ref"])
def test_a_monitor_that_blocks_holds_up_no_supervisor(gate: Gate, own: pykka.ActorRef[Own], way: str) -> None:
    tree = Supervisor.start(
        [ChildSpec(Worker, id="one"), ChildSpec(Worker, id="two", backoff=Backoff(0.01, 0.01, jitter=0))]
    )
    one, two = (info.ref for info in tree.which_children())
    assert one is not None
    assert two is not None
    inbox_of(own).gate = gate
    for ref in (one, two):
        monitor(ref, notify=gate.wait if way == "function" else own)
    one.tell(crash)
    assert gate.reached.wait(20)
    await_restart(one, timeout=20)
    two.tell(crash)
    await_restart(two, timeout=20)
    assert one.ask("there", timeout=20) == "there"
    gate.open.set()
    assert tree.stop(timeout=20)


def test_a_monitor_of_a_plain_actor_that_blocks_holds_up_no_timer(gate: Gate) -> None:
    first, second = PlainWorker.start(), PlainWorker.start()
    downs: list[Down] = []
    monitor(first, notify=gate.wait)
    monitor(second, notify=downs.append)
    first.stop()
    assert gate.reached.wait(20)
    the_clock_goes_on()
    second.stop()
    eventually(lambda: len(downs) == 1)


def test_a_monitor_of_an_actor_on_its_own_is_told_in_that_ones_thread_and_of_a_dead_one_in_the_callers() -> (
    None
):
    threads: list[str] = []
    alone = Worker.start()
    monitor(alone, notify=lambda _: threads.append(threading.current_thread().name))
    alone.stop()
    assert [name.partition("-")[0] for name in threads] == ["Worker"]
    reasons: list[Any] = []
    monitor(alone, notify=lambda down: reasons.append((threading.current_thread(), down.reason)))
    assert reasons == [(threading.current_thread(), NoProc())]


def test_a_ref_that_raises_when_it_is_asked_counts_as_gone_and_the_others_are_still_looked_at() -> None:
    class Own(pykka.ActorRef[Any]):
        def is_alive(self) -> bool:
            if raises:
                raise SystemExit
            return super().is_alive()

    raises: list[bool] = []
    plain, other = PlainWorker.start(), PlainWorker.start()
    actor = cast("Any", plain)._actor_weakref()
    downs: list[Down] = []
    monitor(Own(actor), notify=downs.append)
    monitor(other, notify=downs.append)
    raises.append(True)
    eventually(lambda: len(downs) == 1)
    other.stop()
    eventually(lambda: len(downs) == 2)
    plain.stop()


def test_a_kill_is_noticed_as_ever(gate: Gate) -> None:
    """Also where what was told of an earlier one still waits."""
    tree = Supervisor.start([ChildSpec(Worker, id="one")])
    [info] = tree.which_children()
    assert info.ref is not None
    downs: list[Down] = []
    monitor(info.ref, notify=gate.wait)
    kill(info.ref)
    assert gate.reached.wait(20)
    await_restart(info.ref, timeout=20)
    monitor(info.ref, notify=downs.append)
    kill(info.ref)
    eventually(lambda: len(downs) == 1)
    assert downs[0].restarting
    gate.open.set()
    tree.stop(timeout=20)
