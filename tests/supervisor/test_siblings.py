"""Restarts that need a sibling which is itself being restarted, and where among the arguments a sibling may stand."""

from __future__ import annotations

import sys
import threading
import time
from collections import OrderedDict, defaultdict, deque, namedtuple
from typing import Any

import pykka
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykka_supervisor import (
    GIVE_UP,
    Backoff,
    ChildSpec,
    Down,
    DynamicSupervisor,
    IgnoreStart,
    InvalidSpecError,
    Shutdown,
    StartError,
    StartFailed,
    Supervisor,
    leaked_threads,
    monitor,
    sibling,
    snapshot,
)
from pykka_supervisor.siblings import Sibling, check_siblings, resolve_siblings
from pykka_supervisor.testing import Probe, TestClock, await_restart
from supervisor.kit import Log, Worker, crash, eventually

SLOW = Backoff(1, 1, jitter=0)
MANY = 1_000_000


def needs(actor: Any) -> Any:
    return actor.notes["db"]


def refs_of(sup: Any) -> dict[str, Any]:
    return {info.id: info.ref for info in sup.which_children()}


def statuses(sup: Any) -> dict[str, str]:
    return {info.id: info.status for info in sup.which_children()}


def db_and_user(log: Log | None = None, **more: Any) -> list[ChildSpec]:
    return [
        ChildSpec(Worker, ("db", log), id="db", backoff=SLOW, **more),
        ChildSpec(Worker, ("user", log), {"db": sibling("db")}, id="user"),
    ]


# -- a sibling in its backoff


@pytest.mark.parametrize("strategy", ["one_for_one", "rest_for_one", "one_for_all"])
def test_a_restart_waits_for_a_sibling_that_is_being_restarted(strategy: Any) -> None:
    clock = TestClock()
    sup = Supervisor.start(db_and_user(), strategy=strategy, max_restarts=2, clock=clock)
    db, user = refs_of(sup).values()
    db.tell(crash)
    clock.wait_for_timer()
    if strategy == "one_for_one":
        user.tell(crash)
        eventually(lambda: snapshot(sup).children[1].restarts == 1)
    waits = user.ask(needs, block=False)
    assert statuses(sup) == {"db": "restarting", "user": "restarting"}
    for method in (sup.restart_child, sup.delete_child):
        with pytest.raises(Exception, match="waits for its restart"):
            method("user")
    clock.advance(1)
    assert waits.get(timeout=20) is db
    assert statuses(sup) == {"db": "running", "user": "running"}
    assert snapshot(sup).children[1].restarts == 1
    assert clock.pending() == 0
    sup.stop()


def test_it_waits_for_as_long_as_the_sibling_takes() -> None:
    clock = TestClock()
    fails = [3]

    class Database(Worker):
        def on_start(self) -> None:
            if 0 < fails[0] < 3:
                fails[0] -= 1
                raise RuntimeError("not yet")

    specs = db_and_user()
    specs[0] = ChildSpec(Database, id="db", backoff=SLOW)
    sup = Supervisor.start(specs, max_restarts=4, max_seconds=100, clock=clock)
    db, user = refs_of(sup).values()
    db.tell(crash)
    clock.wait_for_timer()
    user.tell(crash)
    eventually(lambda: statuses(sup)["user"] == "restarting")
    fails[0] = 2
    answer = user.ask(needs, block=False)
    for _ in range(3):
        clock.wait_for_timer()
        clock.advance(1)
        eventually(lambda: clock.pending() == 1 or statuses(sup)["db"] == "running")
    assert answer.get(timeout=20) is db
    assert snapshot(sup).children[0].restarts == 3, "its own: not the user's"
    sup.stop()


def test_several_wait_and_wait_for_one_another() -> None:
    clock = TestClock()
    log = Log()
    specs = [
        *db_and_user(log),
        ChildSpec(Worker, ("web", log), {"db": [sibling("user"), {"also": sibling("db")}]}, id="web"),
    ]
    sup = Supervisor.start(specs, max_restarts=10, clock=clock)
    db, user, web = refs_of(sup).values()
    db.tell(crash)
    clock.wait_for_timer()
    user.tell(crash)
    web.tell(crash)
    answer = web.ask(needs, block=False)
    eventually(lambda: statuses(sup) == dict.fromkeys(("db", "user", "web"), "restarting"))
    log.clear()
    clock.advance(1)
    assert answer.get(timeout=20) == [user, {"also": db}]
    assert log.of("start") == ["db", "user", "web"]
    sup.stop()


@pytest.mark.parametrize("how", ["terminated", "given up", "not needed"])
def test_where_the_sibling_is_gone_the_restart_fails_and_counts(how: str) -> None:
    clock = TestClock()
    lives: list[int] = []

    class Database(Worker):
        def on_start(self) -> None:
            lives.append(1)
            if len(lives) > 1 and how == "not needed":
                raise IgnoreStart
            if len(lives) > 1:
                raise RuntimeError("no more")

    def decide(reason: Any) -> Any:
        return GIVE_UP if isinstance(reason, StartFailed) else 1.0

    specs = db_and_user()
    specs[0] = ChildSpec(Database, id="db", backoff=decide)
    sup = Supervisor.start(specs, max_restarts=2, max_seconds=100, clock=clock)
    db, user = refs_of(sup).values()
    db.tell(crash)
    clock.wait_for_timer()
    user.tell(crash)
    eventually(lambda: statuses(sup)["user"] == "restarting")
    with Probe() as probe:
        monitor(sup, notify=probe.ref)
        if how == "terminated":
            sup.terminate_child("db")
        else:
            clock.advance(1)
        assert probe.expect(Down).reason == Shutdown("reached_max_restart_intensity")
    assert sup.join(20)
    assert not user.is_alive()


def test_a_waiting_child_that_is_terminated_is_not_started() -> None:
    clock = TestClock()
    log = Log()
    sup = Supervisor.start(db_and_user(log), max_restarts=10, clock=clock)
    db, user = refs_of(sup).values()
    db.tell(crash)
    clock.wait_for_timer()
    user.tell(crash)
    eventually(lambda: statuses(sup)["user"] == "restarting")
    sup.terminate_child("user")
    log.clear()
    clock.advance(1)
    await_restart(db)
    assert statuses(sup) == {"db": "running", "user": "stopped"}
    assert log.of("start") == ["db"]
    assert sup.restart_child("user").ask(needs) is db
    sup.stop()


# -- the leader of a group


@pytest.mark.parametrize("strategy", ["rest_for_one", "one_for_all"])
def test_what_waits_for_a_failed_child_stays_down_when_that_is_terminated(strategy: Any) -> None:
    clock = TestClock()
    log = Log()
    specs = [ChildSpec(Worker, ("first", log), id="first"), *db_and_user(log)]
    sup = Supervisor.start(specs, strategy=strategy, clock=clock)
    first, db, user = refs_of(sup).values()
    db.tell(crash)
    clock.wait_for_timer()
    waits = user.ask("anybody?", block=False)
    downs: list[Down] = []
    monitor(user, notify=downs.append)
    sup.terminate_child("db")
    with pytest.raises(pykka.ActorDeadError):
        waits.get(timeout=20)
    assert [down.restarting for down in downs] == [False]
    left = {"db": "stopped", "user": "stopped"}
    assert statuses(sup) == {"first": "running" if strategy == "rest_for_one" else "stopped", **left}
    assert first.is_alive() == (strategy == "rest_for_one")
    log.clear()
    clock.advance(10)
    assert sup.is_alive()
    assert log.entries == []
    assert clock.pending() == 0
    with pytest.raises(StartError, match="no running sibling"):
        sup.restart_child("user")
    db = sup.restart_child("db")
    assert sup.restart_child("user").ask(needs) is db
    sup.stop()


def test_another_of_a_group_that_is_terminated_holds_up_none() -> None:
    clock = TestClock()
    sup = Supervisor.start(db_and_user(), strategy="rest_for_one", clock=clock)
    db, _user = refs_of(sup).values()
    db.tell(crash)
    clock.wait_for_timer()
    sup.terminate_child("user")
    clock.advance(1)
    assert db.ask("back", timeout=20) == "back"
    assert statuses(sup) == {"db": "running", "user": "stopped"}
    sup.stop()


@pytest.mark.parametrize("strategy", ["rest_for_one", "one_for_all"])
def test_what_waits_for_a_child_that_is_given_up_runs_without_it(strategy: Any) -> None:
    clock = TestClock()
    lives: list[int] = []

    class Fails(Worker):
        def on_start(self) -> None:
            lives.append(1)
            if len(lives) > 1:
                raise RuntimeError("no more")

    def decide(reason: Any) -> Any:
        return GIVE_UP if isinstance(reason, StartFailed) else 1.0

    specs = [ChildSpec(Fails, id="fails", backoff=decide), ChildSpec(Worker, id="later")]
    sup = Supervisor.start(specs, strategy=strategy, clock=clock)
    fails, later = refs_of(sup).values()
    fails.tell(crash)
    clock.wait_for_timer()
    answer = later.ask("back", block=False)
    clock.advance(1)
    assert answer.get(timeout=20) == "back"
    assert statuses(sup) == {"fails": "stopped", "later": "running"}
    assert not fails.is_alive()
    sup.stop()


# -- where a sibling may stand

Pair = namedtuple("Pair", ["left", "right"])  # noqa: PYI024 - of any types


@pytest.mark.parametrize(
    "make",
    [
        lambda one: [one],
        lambda one: (one, 1),
        lambda one: {"x": one},
        lambda one: {one: "x"},
        lambda one: {one},
        lambda one: frozenset([one]),
        lambda one: deque([one, 2], maxlen=5),
        lambda one: Pair(one, [one]),
        lambda one: [{"deep": ({"er": [one]},)}],
    ],
)
def test_a_sibling_in_a_container_becomes_a_ref_at_each_start(make: Any) -> None:
    given_as = make(sibling("db"))
    spec = ChildSpec(Worker, kwargs={"db": given_as}, id="user")
    sup = Supervisor.start([ChildSpec(Worker, id="db"), spec])
    db, user = refs_of(sup).values()
    for _ in range(2):
        found = user.ask(needs)
        assert found == make(db)
        assert type(found) is type(given_as)
        user.tell(crash)
        await_restart(user)
    sup.stop()


@pytest.mark.parametrize(
    "holder", [defaultdict(list, {"x": sibling("db")}), OrderedDict(x=[sibling("db")]), [sibling("db")]]
)
def test_a_sibling_that_could_not_be_replaced_is_refused(holder: Any) -> None:
    if isinstance(holder, list):
        holder.append(holder)
    with pytest.raises(InvalidSpecError, match=r"a sibling\(\) stands"):
        ChildSpec(Worker, kwargs={"db": holder})


def test_a_supervisors_children_have_siblings_of_their_own() -> None:
    children = [ChildSpec(Worker, id="db"), (Worker, {"db": [sibling("db")]})]
    sup = Supervisor.start([ChildSpec(Supervisor, (children,), id="in")])
    inner = refs_of(sup)["in"]
    db, user = refs_of(inner).values()
    assert user.ask(needs) == [db]
    sup.stop()


def test_a_dynamic_supervisor_has_no_siblings() -> None:
    sup = DynamicSupervisor.start()
    with pytest.raises(StartError, match="no sibling 'db'"):
        sup.start_child(ChildSpec(Worker, kwargs={"db": [sibling("db")]}))
    assert sup.which_children() == []
    sup.stop()


_leaves = st.one_of(st.integers(), st.text(max_size=3), st.builds(Sibling, st.sampled_from("abc")))
_nested = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=2), inner, max_size=3),
    ),
    max_leaves=12,
)


def _siblings_in(value: Any) -> list[str]:
    if isinstance(value, Sibling):
        return [value.id]
    if isinstance(value, dict):
        value = list(value.values())
    return [found for one in value for found in _siblings_in(one)] if isinstance(value, list | tuple) else []


@given(st.lists(_nested, max_size=3), st.dictionaries(st.text(max_size=2), _nested, max_size=3))
def test_each_sibling_is_replaced_and_all_else_is_as_it_was(args: list[Any], kwargs: dict[str, Any]) -> None:
    arguments = [*args, *kwargs.values()]
    wanted = _siblings_in(arguments)
    assert check_siblings(arguments, deep=True) == bool(wanted)
    asked: list[str] = []

    def find(child_id: str) -> Any:
        asked.append(child_id)
        return Sibling(child_id.upper())

    new_args, new_kwargs = resolve_siblings(tuple(args), kwargs, find, deep=True)
    assert sorted(asked) == sorted(wanted)
    assert repr([*new_args]) == repr(args) if not wanted else True
    assert _siblings_in([*new_args, *new_kwargs.values()]) == [one.upper() for one in wanted]
    for before, after in zip(arguments, [*new_args, *new_kwargs.values()], strict=True):
        assert (after is before) == (not _siblings_in(before))


def test_large_and_deep_arguments_without_a_sibling_are_not_copied() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    itself: list[Any] = []
    itself.append(itself)
    assert check_siblings([deep, itself], deep=True) is False
    while deep:
        deep = deep.pop()


# -- at a switch interval of a microsecond


def test_a_storm_of_crashes_ends_no_tree_of_siblings() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    specs = [
        ChildSpec(Worker, id="db", backoff=Backoff(0.002, 0.002)),
        ChildSpec(Worker, kwargs={"db": sibling("db")}, id="user"),
        ChildSpec(Worker, kwargs={"db": [sibling("user"), sibling("db")]}, id="web"),
    ]
    sup = Supervisor.start(specs, max_restarts=MANY)
    refs = refs_of(sup)
    done = threading.Event()
    hung: list[Any] = []

    def ask() -> None:
        while not done.is_set():
            for ref in refs.values():
                try:
                    ref.ask("x", timeout=20)
                except pykka.Timeout:
                    hung.append(ref)

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            for ref in refs.values():
                ref.tell(crash)
            time.sleep(0.001)
    finally:
        done.set()
        asker.join()
        sys.setswitchinterval(interval)
    assert hung == []
    assert refs["web"].ask(needs, timeout=20) == [refs["user"], refs["db"]]
    assert all(ref.dead_letters == 0 for ref in refs.values())
    assert sup.stop(timeout=20)
    assert leaked_threads() == []
