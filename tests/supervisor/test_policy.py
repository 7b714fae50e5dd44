"""The pure part, against a simple model: who is restarted, how often, after how long, in which order."""

from __future__ import annotations

import gc
import pickle
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pykka_supervisor import (
    Abandoned,
    Backoff,
    Crash,
    Exit,
    Gone,
    Killed,
    NoProc,
    Normal,
    RemoteError,
    Shutdown,
    StartFailed,
    is_abnormal,
)
from pykka_supervisor.planner import Plan, Strategy, plan_restart
from pykka_supervisor.policy import Intensity, RestartType, wants_restart

REASONS: list[Exit] = [
    Normal(),
    Shutdown(),
    Shutdown("detail"),
    Crash.of(ValueError("x")),
    Killed(),
    StartFailed.of(ValueError("x")),
    Abandoned("detail"),
    NoProc(),
    Gone(),
]


@pytest.mark.parametrize("reason", REASONS, ids=str)
def test_reasons_are_values(reason: Exit) -> None:
    assert pickle.loads(pickle.dumps(reason)) == reason
    assert hash(reason) == hash(pickle.loads(pickle.dumps(reason)))


def test_a_crash_whose_exception_does_not_pickle_keeps_its_text() -> None:
    class Local(Exception):  # noqa: N818
        pass

    crash = pickle.loads(pickle.dumps(Crash.of(Local("what happened"))))
    assert isinstance(crash.exception, RemoteError)
    assert "what happened" in str(crash.exception)
    assert "what happened" in crash.cause


def test_a_crash_keeps_the_traceback_as_text_only() -> None:
    try:
        raise ValueError("here")
    except ValueError as error:
        crash = Crash.of(error)
    assert crash.exception is not None
    assert crash.exception.__traceback__ is None
    assert "test_policy.py" in crash.trace
    assert "trace" not in repr(crash)


@pytest.mark.parametrize("reason", REASONS, ids=str)
def test_restart_types(reason: Exit) -> None:
    orderly = isinstance(reason, (Normal, Shutdown))
    assert is_abnormal(reason) is not orderly
    assert wants_restart("permanent", reason)
    assert wants_restart("transient", reason) is not orderly
    assert not wants_restart("temporary", reason)


@given(
    st.lists(st.floats(0, 20, allow_nan=False), max_size=30),
    st.integers(0, 5),
    st.floats(0.1, 10),
)
def test_intensity_is_a_sliding_window(gaps: list[float], most: int, seconds: float) -> None:
    intensity = Intensity(most, seconds)
    now = 0.0
    times: list[float] = []
    for gap in gaps:
        now += gap
        times.append(now)
        in_window = sum(now - then <= seconds for then in times)
        assert intensity.add(now) is (in_window <= most)
        assert intensity.count(now) == intensity.peek(now) == in_window


def test_intensity_is_looked_at_while_a_restart_is_counted() -> None:
    intensity = Intensity(10**6, 1e9)
    for _ in range(100):
        intensity.add(1.0)

    def count_one_more(phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            intensity.add(1.0)

    # A collection may begin, and another thread run, wherever an object is made.
    before = gc.get_threshold()
    gc.callbacks.append(count_one_more)
    gc.set_threshold(1)
    try:
        for _ in range(200):
            assert 100 <= intensity.peek(1.0) <= intensity.count(1.0)
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(count_one_more)


@given(
    st.floats(0, 10),
    st.floats(0, 100),
    st.floats(1, 4),
    st.floats(0, 1),
    st.integers(0, 2000),
    st.floats(0, 1),
)
def test_backoff_stays_within_its_bounds(
    minimum: float, more: float, factor: float, jitter: float, attempt: int, at: float
) -> None:
    backoff = Backoff(minimum, minimum + more, factor, jitter)
    delay = backoff.delay(attempt, lambda: at)
    assert 0 <= delay <= backoff.maximum
    plain = Backoff(minimum, minimum + more, factor, 0.0)
    assert plain.delay(attempt) <= plain.delay(attempt + 1)
    assert abs(delay - plain.delay(attempt)) <= jitter * plain.delay(attempt) + 1e-9


@pytest.mark.parametrize(
    "options",
    [
        {"minimum": -1},
        {"minimum": 2, "maximum": 1},
        {"maximum": float("inf")},
        {"factor": 0.5},
        {"jitter": 2},
        {"reset_after": -1},
    ],
)
def test_a_backoff_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"backoff|reset_after"):
        Backoff(**options)


@pytest.mark.parametrize("options", [(-1, 5.0), (3, 0.0)])
def test_an_intensity_that_cannot_be(options: tuple[int, float]) -> None:
    with pytest.raises(ValueError, match="max_"):
        Intensity(*options)


def test_plans_as_otp_has_them() -> None:
    children: list[tuple[str, RestartType]] = [
        ("a", "permanent"),
        ("b", "permanent"),
        ("t", "temporary"),
        ("c", "transient"),
    ]
    assert plan_restart("one_for_one", children, "b") == Plan((), (), ("b",))
    assert plan_restart("one_for_all", children, "b") == Plan(("c", "t", "a"), ("t",), ("a", "b", "c"))
    assert plan_restart("rest_for_one", children, "b") == Plan(("c", "t"), ("t",), ("b", "c"))


class Planning(RuleBasedStateMachine):
    """A supervisor without actors: `planner` and `policy` carried out on sets, beside a naive model of OTP.

    The model: an ordered list of children, each alive or not. After a death it computes the group that
    the strategy names, and counts restarts by looking at all their times.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.children: list[tuple[str, RestartType]] = []
        self.alive: set[str] = set()
        self.model_alive: set[str] = set()
        self.deaths: list[float] = []
        self.up = True
        self.made = 0

    @initialize(
        strategy=st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"]),
        most=st.integers(0, 4),
        seconds=st.sampled_from([1.0, 5.0]),
        first=st.lists(st.sampled_from(["permanent", "transient", "temporary"]), min_size=1, max_size=5),
    )
    def begin(self, strategy: Strategy, most: int, seconds: float, first: list[RestartType]) -> None:
        self.strategy = strategy
        self.most, self.seconds = most, seconds
        self.intensity = Intensity(most, seconds)
        for restart in first:
            self.add(restart)

    @precondition(lambda self: self.up)
    @rule(restart=st.sampled_from(["permanent", "transient", "temporary"]))
    def add(self, restart: RestartType) -> None:
        self.made += 1
        name = str(self.made)
        self.children.append((name, restart))
        self.alive.add(name)
        self.model_alive.add(name)

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.up and self.alive)
    @rule(data=st.data(), reason=st.sampled_from(REASONS))
    def die(self, data: st.DataObject, reason: Exit) -> None:
        name = data.draw(st.sampled_from(sorted(self.alive)))
        restart = dict(self.children)[name]
        names = [known for known, _ in self.children]
        before = set(self.alive)
        # As a supervisor does it.
        self.alive.discard(name)
        if not wants_restart(restart, reason):
            if restart == "temporary":
                self.children = [child for child in self.children if child[0] != name]
        elif not self.intensity.add(self.now):
            self.alive.clear()
            self.up = False
        else:
            plan = plan_restart(self.strategy, self.children, name)
            stopped = [known for known in plan.stop if known in self.alive]
            assert stopped == [known for known in reversed(names) if known in stopped], "reverse order"
            self.alive -= set(stopped)
            assert plan.start == tuple(known for known in names if known in plan.start), "start order"
            assert not set(plan.start) & self.alive, "nobody is started twice"
            self.alive |= set(plan.start)
            self.children = [child for child in self.children if child[0] not in plan.forget]
        # As the rules say it.
        self.model(name, restart, reason, names, before)

    def model(
        self, name: str, restart: RestartType, reason: Exit, names: list[str], before: set[str]
    ) -> None:
        orderly = type(reason) in (Normal, Shutdown)
        if restart == "temporary" or (restart == "transient" and orderly):
            self.model_alive = before - {name}
            return
        self.deaths.append(self.now)
        if len([then for then in self.deaths if self.now - then <= self.seconds]) > self.most:
            self.model_alive = set()
            return
        at = names.index(name)
        group = {
            "one_for_one": {name},
            "one_for_all": set(names),
            "rest_for_one": set(names[at:]),
        }[self.strategy]
        types = self.types_before
        self.model_alive = (before - group) | {known for known in group if types[known] != "temporary"}

    @property
    def types_before(self) -> dict[str, RestartType]:
        known = dict(self.children)
        return {str(number): known.get(str(number), "temporary") for number in range(1, self.made + 1)}

    @invariant()
    def agree(self) -> None:
        assert self.alive == self.model_alive
        known = {name for name, _ in self.children}
        assert self.alive <= known
        temporary: Literal["temporary"] = "temporary"
        assert {name for name, restart in self.children if restart == temporary} <= self.alive or not self.up


TestPlanning = Planning.TestCase
TestPlanning.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
