"""Clocks, timers, `send_after`, and the thread that comes and goes."""

from __future__ import annotations

import functools
import threading
import time
from typing import Any

import pytest

from pykka_supervisor import (
    SYSTEM_CLOCK,
    ChildSpec,
    Clock,
    SupervisedActor,
    Supervisor,
    SystemClock,
    cancel_timer,
    send_after,
)
from pykka_supervisor.testing import Probe, TestClock, await_restart
from supervisor.kit import Boom, crash, eventually

_NAME = "pykka-supervisor-timers"


def running() -> bool:
    return any(thread.name == _NAME for thread in threading.enumerate())


def test_both_clocks_are_clocks() -> None:
    assert isinstance(SYSTEM_CLOCK, Clock)
    assert isinstance(TestClock(), Clock)
    assert abs(SYSTEM_CLOCK.time() - time.time()) < 5
    assert TestClock().time() >= 1_000_000_000


def test_timers_fire_in_the_order_of_their_time() -> None:
    fired: list[int] = []
    done = threading.Event()
    for number in (3, 1, 2):
        SYSTEM_CLOCK.call_later(0.02 * number, functools.partial(fired.append, number))
    SYSTEM_CLOCK.call_later(0.1, done.set)
    assert done.wait(20)
    assert fired == [1, 2, 3]


def test_the_thread_is_there_only_while_a_timer_is() -> None:
    eventually(lambda: not running())
    timer = SYSTEM_CLOCK.call_later(60, lambda: None)
    assert running()
    assert timer.pending
    assert timer.cancel()
    assert not timer.cancel()
    eventually(lambda: not running(), timeout=20)
    done = threading.Event()
    SYSTEM_CLOCK.call_later(0, done.set)
    assert done.wait(20)


def test_an_earlier_timer_wakes_the_thread() -> None:
    late = SYSTEM_CLOCK.call_later(60, lambda: None)
    done = threading.Event()
    begun = time.monotonic()
    SYSTEM_CLOCK.call_later(0.01, done.set)
    assert done.wait(20)
    assert time.monotonic() - begun < 2
    late.cancel()


def test_cancelled_timers_are_thrown_away() -> None:
    clock = SystemClock()
    timers = [clock.call_later(60, lambda: None) for _ in range(1000)]
    for timer in timers[:900]:
        timer.cancel()
    assert clock.pending() == 100
    assert len(clock._heap) < 250
    for timer in timers:
        timer.cancel()
    assert clock.pending() == 0
    eventually(lambda: clock._thread is None)


def test_a_callback_that_raises_ends_nothing() -> None:
    done = threading.Event()

    def fails() -> None:
        raise Boom("in a callback")

    SYSTEM_CLOCK.call_later(0, fails)
    SYSTEM_CLOCK.call_later(0.01, done.set)
    assert done.wait(20)


def test_the_test_clock_runs_what_is_due_in_order_at_its_time() -> None:
    clock = TestClock(start=100)
    seen: list[tuple[str, float]] = []

    def first() -> None:
        seen.append(("first", clock.monotonic()))
        clock.call_later(1, lambda: seen.append(("nested", clock.monotonic())))

    clock.call_later(5, lambda: seen.append(("second", clock.monotonic())))
    clock.call_later(2, first)
    cancelled = clock.call_later(3, lambda: seen.append(("never", 0)))
    assert cancelled.cancel()
    assert clock.pending() == 2
    assert clock.next_due() == 2
    clock.advance(10)
    assert seen == [("first", 102), ("nested", 103), ("second", 105)]
    assert clock.monotonic() == 110
    assert clock.next_due() is None
    with pytest.raises(AssertionError, match="no timer"):
        clock.wait_for_timer(0.01)
    clock.call_later(9, lambda: None)
    with pytest.raises(AssertionError, match="within 5"):
        clock.wait_for_timer(0.01, within=5)
    assert clock.wait_for_timer(1, within=9) == 9


class Ticks(SupervisedActor):
    def __init__(self) -> None:
        super().__init__()
        self.got: list[Any] = []

    def on_receive(self, message: Any) -> Any:
        match message:
            case ("after", delay, what):
                return send_after(delay, self.actor_ref, what)
            case ("cancel", timer):
                return cancel_timer(timer)
            case "got":
                return list(self.got)
            case "crash":
                crash(self)
        self.got.append(message)
        return None


def test_send_after_and_cancel_timer_on_the_supervisors_clock() -> None:
    clock = TestClock()
    sup = Supervisor.start([Ticks], clock=clock)
    [info] = sup.which_children()
    ref = info.ref
    assert ref is not None
    ref.ask(("after", 2, "two"))
    three = ref.ask(("after", 3, "three"))
    clock.advance(1)
    assert ref.ask(("cancel", three)) == 2
    assert ref.ask(("cancel", three)) is None
    clock.advance(5)
    assert ref.ask("got") == ["two"]
    sup.stop()


def test_an_actors_own_timer_dies_with_its_incarnation() -> None:
    clock = TestClock()
    sup = Supervisor.start([ChildSpec(Ticks)], clock=clock)
    [info] = sup.which_children()
    ref = info.ref
    assert ref is not None
    ref.ask(("after", 2, "for the first incarnation"))
    send_after(2, ref, "for whoever lives", clock=clock)
    ref.tell("crash")
    await_restart(ref)
    clock.advance(3)
    assert ref.ask("got") == ["for whoever lives"]
    ref.ask(("after", 2, "mine"))
    clock.advance(3)
    assert ref.ask("got") == ["for whoever lives", "mine"]
    sup.stop()


def test_a_timer_for_the_dead_is_dropped() -> None:
    clock = TestClock()
    probe = Probe()
    timer = send_after(1, probe.ref, "x", clock=clock)
    probe.stop()
    clock.advance(2)
    assert not timer.pending
    assert probe.messages == []


def test_from_a_plain_thread_it_is_the_system_clock() -> None:
    with Probe() as probe:
        timer = send_after(0.01, probe.ref, "x")
        assert probe.expect(str) == "x"
        assert cancel_timer(timer) is None
        later = send_after(60, probe.ref, "y")
        left = cancel_timer(later)
        assert left is not None
        assert 50 < left <= 60
