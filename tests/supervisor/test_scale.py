"""What one child costs does not depend on how many there are, nor one monitor on how many watch the same actor.

No clock is asked. What the interpreter does is counted, one bytecode after another, in all threads; and the
comparisons of refs, which a search through a list of C's own would make, are counted too.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, ClassVar

import pykka
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.interpreter import COUNTS_BYTECODES
from pykka_supervisor import (
    ChildSpec,
    DynamicSupervisor,
    MonitorRef,
    SupervisedActor,
    SupervisedRef,
    Supervisor,
    demonitor,
    kill,
    monitor,
)
from pykka_supervisor.registry import IndexedRefs
from supervisor.kit import eventually

FEW, MANY = 10, 500


class Work:
    """Counts the bytecodes of all threads, where it is told to, and comparisons of refs always."""

    def __init__(self) -> None:
        self.counting = False
        self.steps = 0
        self.compared = 0

    def tracer(self, frame: FrameType, event: str, _arg: Any) -> Any:
        if not self.counting:
            return None
        if event == "call":
            frame.f_trace_opcodes = True
        elif event == "opcode":
            self.steps += 1
        return self.tracer

    def of(self, call: Callable[[], object]) -> int:
        """The bytecodes of one call and of what it sets going in other threads until it returns."""
        self.steps = self.compared = 0
        self.counting = True
        sys.settrace(self.tracer)
        try:
            call()
        finally:
            sys.settrace(None)
            self.counting = False
        return self.steps


@pytest.fixture
def work() -> Iterator[Work]:
    if not COUNTS_BYTECODES:
        pytest.skip("CPython counts bytecodes reliably up to 3.11 only")
    counted = Work()
    before = threading.gettrace()
    threading.settrace(counted.tracer)
    Ref.work = counted
    logging.disable(logging.CRITICAL)  # the lines that tell of each crash cost what their texts are long
    yield counted
    logging.disable(logging.NOTSET)
    threading.settrace(before)


class Ref(SupervisedRef["Child"]):
    work: ClassVar[Work]

    def __eq__(self, other: object) -> bool:
        self.work.compared += 1
        return self is other

    def __hash__(self) -> int:
        return id(self)


class Child(SupervisedActor):
    ref_class = Ref

    def on_receive(self, message: Any) -> Any:
        if message == "crash":
            raise RuntimeError
        return message


def crash(ref: Any) -> None:
    ref.tell("crash")
    assert ref.ask("back", timeout=20) == "back"


def killed(ref: Any) -> None:
    kill(ref)
    assert ref.ask("back", timeout=20) == "back"


def least(measure: Callable[[], int], rounds: int = 5) -> int:
    """Of a few: who waits for whom, and how often it looks, is chance."""
    return min(measure() for _ in range(rounds))


class Dynamic:
    """The operations of a dynamic supervisor, on its oldest children."""

    def __init__(self, work: Work, count: int) -> None:
        self.work = work
        self.sup: Any = DynamicSupervisor.start(max_restarts=1_000)
        spec = ChildSpec(Child)
        self.refs = [self.sup.start_child(spec) for _ in range(count)]
        self.monitors = [monitor(self.refs[-1], notify=print) for _ in range(count)]

    def start_child(self) -> int:
        return self.work.of(lambda: self.sup.start_child(ChildSpec(Child)))

    def terminate_child(self) -> int:
        return self.work.of(lambda: self.sup.terminate_child(self.refs.pop(0)))

    def restart_after_a_crash(self) -> int:
        return self.work.of(lambda: crash(self.refs[0]))

    def restart_after_a_kill(self) -> int:
        return self.work.of(lambda: killed(self.refs[0]))

    def stop_of_a_temporary_child(self) -> int:
        ref = self.sup.start_child(ChildSpec(Child, restart="temporary"))
        return self.work.of(ref.stop)

    def monitor(self) -> int:
        return self.work.of(lambda: self.monitors.append(monitor(self.refs[-1], notify=print)))

    def demonitor(self) -> int:
        told: MonitorRef = self.monitors.pop(0)
        return self.work.of(lambda: demonitor(told))

    def end(self) -> None:
        for told in self.monitors:
            demonitor(told)
        self.sup.stop()


class Static:
    """The operations of a supervisor with a fixed list of children."""

    def __init__(self, work: Work, count: int, strategy: Any = "one_for_one") -> None:
        self.work = work
        self.sup: Any = Supervisor.start(
            [ChildSpec(Child, id=str(number)) for number in range(count)],
            strategy=strategy,
            max_restarts=1_000,
        )
        self.refs = [child.ref for child in self.sup.which_children()]
        self.next = count

    def start_child(self) -> int:
        self.next += 1
        spec = ChildSpec(Child, id=str(self.next))
        return self.work.of(lambda: self.sup.start_child(spec))

    def terminate_and_delete_child(self) -> int:
        def both() -> None:
            self.sup.terminate_child(str(self.next))
            self.sup.delete_child(str(self.next))

        self.start_child()
        return self.work.of(both)

    def restart_of_the_oldest(self) -> int:
        return self.work.of(lambda: crash(self.refs[0]))

    def restart_of_the_youngest(self) -> int:
        return self.work.of(lambda: crash(self.refs[-1]))

    def end(self) -> None:
        self.sup.stop()


def compare(work: Work, operation: str, make: Callable[[int], Any]) -> None:
    steps = []
    for count in (FEW, MANY):
        at = make(count)
        try:
            steps.append(least(getattr(at, operation)))
            assert work.compared == 0
        finally:
            at.end()
    assert steps[1] - steps[0] < MANY - FEW, f"less than one bytecode for each child more: {steps}"


@pytest.mark.parametrize(
    "operation",
    [
        "start_child",
        "terminate_child",
        "restart_after_a_crash",
        "restart_after_a_kill",
        "stop_of_a_temporary_child",
        "monitor",
        "demonitor",
    ],
)
def test_a_dynamic_supervisors_operation_costs_the_same(work: Work, operation: str) -> None:
    compare(work, operation, lambda count: Dynamic(work, count))


@pytest.mark.parametrize("operation", ["start_child", "terminate_and_delete_child", "restart_of_the_oldest"])
def test_a_supervisors_operation_costs_the_same(work: Work, operation: str) -> None:
    compare(work, operation, lambda count: Static(work, count))


def test_a_restart_by_rest_for_one_costs_what_comes_after_the_child(work: Work) -> None:
    compare(work, "restart_of_the_youngest", lambda count: Static(work, count, "rest_for_one"))


@pytest.mark.parametrize("kind", [Dynamic, Static])
def test_a_childs_share_of_the_end_is_the_same(work: Work, kind: Callable[[Work, int], Any]) -> None:
    shares = []
    for count in (FEW, MANY):
        at = kind(work, count)
        shares.append(work.of(at.end) / count)
        assert work.compared == 0
    assert shares[1] <= shares[0] * 1.2


def test_monitors_of_a_plain_actor_that_were_taken_back_leave_nothing() -> None:
    from pykka_supervisor.monitor import _sweeper  # noqa: PLC0415

    class Plain(pykka.ThreadingActor):
        pass

    ref = Plain.start()
    kept = monitor(ref, notify=print)
    for _ in range(50):
        demonitor(monitor(ref, notify=print))
    [watched] = _sweeper._watched.values()
    assert list(watched.monitors.values()) == [kept]
    kept.cancel()
    assert _sweeper._watched == {}
    ref.stop()
    eventually(lambda: _sweeper._timer is None)


# -- the list itself


class Thing:
    """Stands for a ref; equal to all others, which the list must not ask."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing)

    def __hash__(self) -> int:
        return 1


THINGS: list[Any] = [Thing() for _ in range(5)]
A_THING = st.sampled_from(THINGS)
INDEX = st.integers(-7, 7)
CUT = st.builds(slice, INDEX, INDEX)


def position(things: list[Any], thing: Any) -> int:
    return next(index for index, other in enumerate(things) if other is thing)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), A_THING),
            st.tuples(st.just("remove"), A_THING),
            st.tuples(st.just("insert"), INDEX, A_THING),
            st.tuples(st.just("__setitem__"), INDEX, A_THING),
            st.tuples(st.just("__setitem__"), CUT, st.lists(A_THING)),
            st.tuples(st.just("__delitem__"), INDEX),
            st.tuples(st.just("__delitem__"), CUT),
            st.tuples(st.just("clear")),
        )
    )
)
def test_it_is_a_list_by_identity(steps: list[Any]) -> None:
    model: list[Any] = []
    refs: Any = IndexedRefs()
    for step, *arguments in steps:
        if step == "remove" and not any(arguments[0] is other for other in model):
            with pytest.raises(ValueError, match="is not in the list"):
                refs.remove(arguments[0])
            continue
        try:
            if step == "remove":
                del model[position(model, arguments[0])]
            else:
                getattr(model, step)(*arguments)
        except IndexError:
            with pytest.raises(IndexError):
                getattr(refs, step)(*arguments)
        else:
            getattr(refs, step)(*arguments)
        for seen in (list(refs), refs[:], refs.copy(), list(reversed(list(reversed(refs))))):
            assert [id(thing) for thing in seen] == [id(thing) for thing in model]
        assert len(refs) == len(model)
        assert [thing in refs for thing in THINGS] == [
            any(thing is other for other in model) for thing in THINGS
        ]


def test_taking_one_out_of_many_is_no_search() -> None:
    def seconds(count: int) -> float:
        things: list[Any] = [object() for _ in range(count)]
        refs = IndexedRefs(things)
        best = 1.0
        for _ in range(5):
            some = things[count // 2 : count // 2 + 50]
            begun = time.perf_counter()
            for thing in some:
                assert thing in refs
                refs.remove(thing)
                refs.append(thing)
            best = min(best, time.perf_counter() - begun)
        return best

    assert seconds(100_000) < 20 * seconds(200), "a search would take 500 times as long"
