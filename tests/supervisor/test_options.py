"""Options that cannot be right are refused at once, with what would be; nothing is taken for what it is not."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykka_supervisor import (
    AlreadyPresentError,
    AlreadyStartedError,
    Backoff,
    ChildSpec,
    DynamicSupervisor,
    InvalidSpecError,
    SupervisedActor,
    Supervisor,
    monitor,
    sibling,
    stop_on_signals,
)
from pykka_supervisor.cell import cell_of
from pykka_supervisor.checks import check_count, check_number, check_seconds
from pykka_supervisor.testing import TestClock
from supervisor.kit import Worker, crash, eventually

NO_NUMBERS = [True, False, "5", b"5", [5], math.nan, 1j]
TIMES: list[Any] = [*NO_NUMBERS, -1, -0.1, -math.inf]
COUNTS: list[Any] = [*NO_NUMBERS, -1, 1.5, 2.0, math.inf]
TEXTS: list[Any] = ["", 5, b"name", True, ("a", "b"), ["a"]]
FLAGS: list[Any] = [0, 1, "no", None]
WORDS: list[Any] = ["always", "", None, 5, ["permanent"], True]

OF_A_CHILD: dict[str, list[Any]] = {
    "args": [5, "ab", b"ab", {"a": 1}, {1, 2}, None, iter(())],
    "kwargs": [5, "ab", [("a", 1)], {1: 2}, {("a",): 1}],
    "id": TEXTS,
    "name": TEXTS,
    "restart": WORDS,
    "type": WORDS,
    "crash_on": WORDS,
    "significant": FLAGS,
    "shutdown": TIMES,
    "start_timeout": [*TIMES, 0],
    "hang_after": [*TIMES, 0],
    "max_buffered": COUNTS,
    "backoff": [5, 0.5, "exponential", (1, 2), True],
}
OF_A_BACKOFF: dict[str, list[Any]] = {
    "minimum": [*TIMES, None, math.inf, 31],
    "maximum": [*TIMES, None, math.inf, 0.05],
    "factor": [*TIMES, None, math.inf, 0.5],
    "jitter": [*TIMES, None, 1.1],
    "reset_after": TIMES,
}
OF_BOTH_SUPERVISORS: dict[str, list[Any]] = {
    "max_restarts": [*COUNTS, None],
    "max_seconds": [*TIMES, 0, math.inf, None],
    "name": TEXTS,
    "clock": [5, "system", object(), TestClock],
}
OF_A_SUPERVISOR: dict[str, list[Any]] = OF_BOTH_SUPERVISORS | {
    "strategy": WORDS,
    "auto_shutdown": WORDS,
    "children": [5, None, "ab", Worker, ChildSpec(Worker), {"a": Worker}, [5], ["a"], [(Worker, 5)], [int]],
}
OF_A_DYNAMIC_SUPERVISOR: dict[str, list[Any]] = OF_BOTH_SUPERVISORS | {"max_children": COUNTS}


@pytest.mark.parametrize("option", OF_A_CHILD)
def test_a_child_spec_refuses(option: str) -> None:
    for value in OF_A_CHILD[option]:
        with pytest.raises(InvalidSpecError, match=f"^{option} must be ") as refused:
            ChildSpec(Worker, **{"restart": "transient", option: value})
        assert repr(value) in str(refused.value)


@pytest.mark.parametrize("option", OF_A_BACKOFF)
def test_a_backoff_refuses(option: str) -> None:
    for value in OF_A_BACKOFF[option]:
        with pytest.raises(
            InvalidSpecError, match=r"^a backoff's (minimum|maximum|factor|jitter|reset_after) must"
        ):
            Backoff(**{option: value})


@pytest.mark.parametrize("option", OF_A_SUPERVISOR)
def test_a_supervisor_refuses(option: str) -> None:
    for value in OF_A_SUPERVISOR[option]:
        with pytest.raises(InvalidSpecError):
            Supervisor.start(**{"children": [], option: value})


def test_a_supervisor_refuses_as_a_child() -> None:
    sup = Supervisor.start([])
    for option, values in OF_A_SUPERVISOR.items():
        with pytest.raises(InvalidSpecError):
            sup.start_child(Supervisor.child_spec(**{"children": [], "id": "inner", option: values[0]}))
    sup.stop()


@pytest.mark.parametrize("option", OF_A_DYNAMIC_SUPERVISOR)
def test_a_dynamic_supervisor_refuses(option: str) -> None:
    for value in OF_A_DYNAMIC_SUPERVISOR[option]:
        with pytest.raises(InvalidSpecError):
            DynamicSupervisor.start(**{option: value})


def test_what_is_right_is_taken() -> None:
    spec = ChildSpec(Worker, ["a"], shutdown=math.inf, start_timeout=math.inf, hang_after=math.inf)  # type: ignore[arg-type]
    assert (spec.args, spec.shutdown, spec.hang_after) == (("a",), None, None), "for ever, and never"
    assert spec.start_timeout is not None
    ChildSpec(Worker, shutdown=0, start_timeout=1, hang_after=2, max_buffered=0, backoff=lambda _: 1.0)
    Backoff(0, 0, 1, 0, 0)
    Backoff(reset_after=math.inf)
    Supervisor.start([Worker], max_restarts=0, max_seconds=1).stop()
    DynamicSupervisor.start(max_children=0, clock=TestClock()).stop()


def test_a_sibling_has_an_id() -> None:
    for child_id in TEXTS:
        with pytest.raises(InvalidSpecError, match="a sibling's id must be a string"):
            sibling(child_id)


@pytest.mark.parametrize("wrong", [5, "ref", None, SupervisedActor])
def test_what_is_no_ref_is_refused_at_once(wrong: Any) -> None:
    before = signal.getsignal(signal.SIGTERM)
    for call in (lambda: monitor(wrong, notify=print), lambda: stop_on_signals(wrong)):
        with pytest.raises(TypeError, match=r"must be a pykka\.ActorRef"):
            call()
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("notify", [5, "me", (print,)])
def test_what_cannot_be_notified_is_refused_at_once(notify: Any) -> None:
    ref = Worker.start()
    with pytest.raises(TypeError, match="notify must be a function"):
        monitor(ref, notify=notify)
    assert cell_of(ref).monitors is None
    ref.stop()


@pytest.mark.parametrize("decision", [True, False])
def test_a_decision_hook_that_answers_yes_or_no_has_not_decided(decision: Any) -> None:
    sup = Supervisor.start([ChildSpec(Worker, backoff=lambda _: decision)])
    [child] = sup.which_children()
    assert child.ref is not None
    child.ref.tell(crash)
    assert child.ref.join(20)
    assert [child.status for child in sup.which_children()] == ["stopped"]
    sup.stop()


def test_start_child_says_whether_the_known_child_runs() -> None:
    clock = TestClock()
    spec = ChildSpec(Worker, id="a", backoff=Backoff(5, 60, jitter=0))
    sup = Supervisor.start([spec], clock=clock)
    ref = sup.which_children()[0].ref
    assert ref is not None
    with pytest.raises(AlreadyStartedError) as running:
        sup.start_child(spec)
    assert running.value.ref is ref
    ref.tell(crash)
    eventually(lambda: sup.which_children()[0].status == "restarting")
    with pytest.raises(AlreadyPresentError, match="waits for its restart"):
        sup.start_child(spec)
    clock.advance(5)
    eventually(lambda: sup.which_children()[0].status == "running")
    sup.terminate_child("a")
    with pytest.raises(AlreadyPresentError, match="does not run"):
        sup.start_child(spec)
    sup.stop()


# -- the checks themselves

ANYTHING: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.complex_numbers(),
    st.lists(st.integers()),
)


def accepted(check: Callable[[], None]) -> bool:
    try:
        check()
    except InvalidSpecError:
        return False
    return True


@given(ANYTHING, st.booleans(), st.booleans())
def test_seconds(value: Any, zero: bool, forever: bool) -> None:
    right = (
        type(value) in (int, float) and (value >= 0 if zero else value > 0) and (forever or value != math.inf)
    )
    assert accepted(lambda: check_seconds("it", value, zero=zero, forever=forever)) == right
    assert accepted(lambda: check_seconds("it", value, zero=zero, forever=forever, none="never")) == (
        right or value is None
    )


@given(ANYTHING)
def test_counts(value: Any) -> None:
    assert accepted(lambda: check_count("it", value)) == (type(value) is int and value >= 0)


@given(ANYTHING, st.integers(-5, 5), st.one_of(st.integers(-5, 5), st.just(math.inf)))
def test_numbers(value: Any, least: float, most: float) -> None:
    right = type(value) in (int, float) and least <= value <= most and value != math.inf
    assert accepted(lambda: check_number("it", value, least, most)) == right
