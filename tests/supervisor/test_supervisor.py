"""`Supervisor`: its child API with OTP's errors, significant children, hooks, siblings, nesting, names."""

from __future__ import annotations

import threading
import time
from typing import Any

import pykka
import pytest

from pykka_supervisor import (
    GIVE_UP,
    AlreadyPresentError,
    AlreadyStartedError,
    Backoff,
    ChildCounts,
    ChildNotFoundError,
    ChildRestartingError,
    ChildRunningError,
    ChildSpec,
    Crash,
    Down,
    DynamicSupervisor,
    Exit,
    GiveUp,
    IgnoreStart,
    Killed,
    NameTakenError,
    Shutdown,
    StartError,
    StartFailed,
    StaticSupervisorRef,
    SupervisedActor,
    Supervisor,
    kill,
    leaked_threads,
    monitor,
    root_of,
    sibling,
    snapshot,
    supervisor_of,
    whereis,
)
from pykka_supervisor.testing import Probe, TestClock, await_restart
from supervisor.kit import Block, Boom, Log, PlainWorker, Worker, crash, eventually, instance, stop


def refs_of(sup: Any) -> dict[str, Any]:
    return {info.id: info.ref for info in sup.which_children()}


def statuses(sup: Any) -> dict[str, str]:
    return {info.id: info.status for info in sup.which_children()}


def test_a_list_of_children_takes_specs_classes_tuples_and_what_has_a_child_spec() -> None:
    class Own(SupervisedActor):
        @classmethod
        def child_spec(cls, *, id: str = "own") -> ChildSpec:  # noqa: A002
            return ChildSpec(cls, id=id)

    class Maker:
        def child_spec(self) -> ChildSpec:
            return ChildSpec(Worker, id="made")

    sup = Supervisor.start(
        [
            ChildSpec(Worker, ("x",), id="spec"),
            PlainWorker,
            (Worker, {"who": "tuple"}),
            Own,
            (Own, {"id": "own-2"}),
            Maker(),
        ]
    )
    assert list(refs_of(sup)) == ["spec", "PlainWorker", "Worker", "own", "own-2", "made"]
    assert refs_of(sup)["Worker"].ask(lambda actor: actor.who) == "tuple"
    assert sup.count_children() == ChildCounts(specs=6, active=6, supervisors=0, workers=6)
    sup.stop()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ChildSpec(int),  # type: ignore[arg-type]
        lambda: ChildSpec(Worker, restart="often"),  # type: ignore[arg-type]
        lambda: ChildSpec(Worker, shutdown=-1),
        lambda: ChildSpec(Worker, start_timeout=0),
        lambda: ChildSpec(Worker, hang_after=0),
        lambda: ChildSpec(Worker, max_buffered=-1),
        lambda: ChildSpec(Worker, backoff=3),  # type: ignore[arg-type]
        lambda: ChildSpec(Worker, crash_on="never"),  # type: ignore[arg-type]
        lambda: ChildSpec(Worker, type="boss"),  # type: ignore[arg-type]
        lambda: ChildSpec(Worker, significant=True),
        lambda: Supervisor.start([Worker, Worker]),
        lambda: Supervisor.start(["Worker"]),
        lambda: Supervisor.start([(Worker, 3)]),
        lambda: Supervisor.start([Worker], strategy="one_for_none"),  # type: ignore[arg-type]
        lambda: Supervisor.start([Worker], auto_shutdown="always"),  # type: ignore[arg-type]
        lambda: Supervisor.start([Worker], max_restarts=-1),
        lambda: Supervisor.start([ChildSpec(Worker, restart="transient", significant=True)]),
        lambda: DynamicSupervisor.start(max_children=-1),
    ],
)
def test_what_cannot_be_right_is_refused_at_once(make: Any) -> None:
    with pytest.raises(ValueError):
        make()


def test_start_child_terminate_restart_delete_with_otps_errors() -> None:
    clock = TestClock()
    sup = Supervisor.start([], clock=clock)
    ref = sup.start_child(ChildSpec(Worker, id="a", backoff=Backoff(1, 1, jitter=0)))
    with pytest.raises(AlreadyStartedError) as started:
        sup.start_child(ChildSpec(Worker, id="a"))
    assert started.value.ref is ref
    for refused in (sup.delete_child, sup.restart_child):
        with pytest.raises(ChildRunningError):
            refused("a")
    sup.terminate_child("a")
    sup.terminate_child("a")
    assert not ref.is_alive()
    assert statuses(sup) == {"a": "stopped"}
    with pytest.raises(AlreadyPresentError):
        sup.start_child(ChildSpec(Worker, id="a"))
    again = sup.restart_child("a")
    assert again is not ref
    assert again.ask("x") == "x"
    again.tell(crash)
    clock.wait_for_timer()
    for refused in (sup.delete_child, sup.restart_child):
        with pytest.raises(ChildRestartingError):
            refused("a")
    assert statuses(sup) == {"a": "restarting"}
    sup.terminate_child("a")
    clock.advance(5)
    assert statuses(sup) == {"a": "stopped"}, "a terminated child is not resurrected by its pending restart"
    assert not again.is_alive()
    sup.delete_child("a")
    for unknown in (sup.delete_child, sup.restart_child, sup.terminate_child):
        with pytest.raises(ChildNotFoundError):
            unknown("a")
    temporary = sup.start_child(ChildSpec(Worker, id="t", restart="temporary"))
    sup.terminate_child("t")
    assert statuses(sup) == {}
    assert not temporary.is_alive()
    assert clock.pending() == 0
    sup.stop()


def test_a_terminated_child_that_is_started_again_is_not_started_twice_by_an_old_timer() -> None:
    clock = TestClock()
    log = Log()
    sup = Supervisor.start(
        [ChildSpec(Worker, ("a", log), id="a", backoff=Backoff(1, 1, jitter=0))], clock=clock
    )
    refs_of(sup)["a"].tell(crash)
    clock.wait_for_timer()
    sup.terminate_child("a")
    sup.restart_child("a")
    clock.advance(10)
    assert statuses(sup) == {"a": "running"}
    assert log.of("start") == ["a", "a"]
    sup.stop()


def test_ignore_keeps_the_spec_without_an_actor() -> None:
    class NotToday(Worker):
        def on_start(self) -> None:
            raise IgnoreStart

    sup = Supervisor.start([NotToday, Worker])
    assert statuses(sup) == {"NotToday": "stopped", "Worker": "running"}
    ref = sup.start_child(ChildSpec(NotToday, id="t", restart="temporary"))
    assert not ref.is_alive()
    assert "t" not in statuses(sup)
    assert len(pykka.ActorRegistry.get_all()) == 2
    sup.stop()


@pytest.mark.parametrize("mode", ["any_significant", "all_significant"])
def test_auto_shutdown(mode: Any) -> None:
    log = Log()
    sup = Supervisor.start(
        [
            ChildSpec(Worker, ("a", log), id="a", restart="transient", significant=True),
            ChildSpec(Worker, ("b", log), id="b", restart="temporary", significant=True),
            ChildSpec(Worker, ("c", log), id="c"),
        ],
        auto_shutdown=mode,
    )
    refs = refs_of(sup)
    refs["a"].tell(crash)
    await_restart(refs["a"])
    assert sup.is_alive(), "it was restarted, it has not ended"
    with Probe() as probe:
        monitor(sup, notify=probe.ref)
        log.clear()
        refs["a"].tell(stop)
        if mode == "all_significant":
            assert refs["a"].join(20)
            assert sup.count_children().specs == 3
            refs["b"].tell(crash)
        assert probe.expect(Down).reason == Shutdown("auto_shutdown")
    assert sup.join(20)
    assert log.of("stop") == (["a", "c", "b"] if mode == "any_significant" else ["a", "c"])


def test_auto_shutdown_is_not_fired_by_terminate_child() -> None:
    sup = Supervisor.start(
        [ChildSpec(Worker, id="a", restart="transient", significant=True)], auto_shutdown="any_significant"
    )
    sup.terminate_child("a")
    assert sup.count_children().active == 0
    sup.stop()


def test_the_owners_hook_decides_from_the_reason() -> None:
    clock = TestClock()
    seen: list[tuple[Exit, int]] = []
    decisions: list[float | GiveUp] = [2.5, 0.0, 0, GIVE_UP]

    def decide(reason: Exit) -> float | GiveUp:
        seen.append((reason, threading.get_ident()))
        return decisions[len(seen) - 1]

    sup = Supervisor.start([ChildSpec(Worker, backoff=decide)], max_restarts=0, clock=clock)
    [ref] = refs_of(sup).values()
    downs: list[Down] = []
    monitor(ref, notify=downs.append)
    ref.tell(crash)
    assert clock.wait_for_timer() == 2.5
    assert downs[0].restarting
    clock.advance(2.5)
    await_restart(ref)
    kill(ref)
    await_restart(ref)
    ref.tell(stop)
    await_restart(ref)
    monitor(ref, notify=downs.append)
    ref.tell(crash)
    assert ref.join(20)
    eventually(lambda: len(downs) == 2)
    assert not downs[1].restarting
    eventually(lambda: statuses(sup) == {"Worker": "stopped"})
    assert [type(reason).__name__ for reason, _ in seen] == ["Crash", "Killed", "Normal", "Crash"]
    assert {thread for _, thread in seen} == {sup._cell.incarnation.thread.ident}  # type: ignore[union-attr]
    sup.stop()


@pytest.mark.parametrize("wrong", [Boom("hook"), float("nan"), "soon"])
def test_a_hook_that_fails_gives_up(wrong: Any) -> None:
    def decide(_reason: Exit) -> float:
        if isinstance(wrong, Exception):
            raise wrong
        return wrong  # type: ignore[no-any-return]

    sup = Supervisor.start([ChildSpec(Worker, backoff=decide)])
    [ref] = refs_of(sup).values()
    ref.tell(crash)
    assert ref.join(20)
    eventually(lambda: statuses(sup) == {"Worker": "stopped"})
    sup.stop()


def test_a_sibling_is_looked_up_at_each_start() -> None:
    class Needs(Worker):
        pass

    specs = [
        ChildSpec(Worker, id="mixer"),
        ChildSpec(Needs, ("needs",), {"other": sibling("mixer")}, id="needs"),
    ]
    sup = Supervisor.start(specs, strategy="rest_for_one")
    refs = refs_of(sup)
    assert refs["needs"].ask(lambda actor: actor.notes["other"]) is refs["mixer"]
    sup.terminate_child("needs")
    sup.terminate_child("mixer")
    with pytest.raises(StartError, match="no running sibling 'mixer'"):
        sup.restart_child("needs")
    mixer = sup.restart_child("mixer")
    needs = sup.restart_child("needs")
    assert needs.ask(lambda actor: actor.notes["other"]) is mixer
    sup.stop()
    with pytest.raises(StartError, match="no running sibling 'mixer'"):
        Supervisor.start(list(reversed(specs)))


def test_a_restart_that_fails_counts_again_and_ends_the_supervisor() -> None:
    starts: list[int] = []

    class OnlyOnce(Worker):
        def on_start(self) -> None:
            starts.append(1)
            if len(starts) > 1:
                raise Boom("never again")

    sup = Supervisor.start([OnlyOnce], max_restarts=3, max_seconds=60)
    [ref] = refs_of(sup).values()
    with Probe() as probe:
        monitor(sup, notify=probe.ref)
        ref.tell(crash)
        assert probe.expect(Down).reason == Shutdown("reached_max_restart_intensity")
    assert sup.join(20)
    assert len(starts) == 4
    assert not ref.is_alive()


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
def test_a_group_restart_in_which_one_fails_is_tried_again(strategy: Any) -> None:
    log = Log()
    fail = [0]

    class Sometimes(Worker):
        def on_start(self) -> None:
            if fail[0]:
                fail[0] -= 1
                self.log.add("failed", self.who)  # type: ignore[union-attr]
                raise Boom("not yet")
            super().on_start()

    sup = Supervisor.start(
        [
            ChildSpec(Worker, ("a", log), id="a"),
            ChildSpec(Sometimes, ("b", log), id="b"),
            ChildSpec(Worker, ("c", log), id="c"),
        ],
        strategy=strategy,
        max_restarts=10,
    )
    refs = refs_of(sup)
    log.clear()
    fail[0] = 2
    refs["a"].tell(crash)
    await_restart(refs["c"])
    if strategy == "one_for_all":
        assert log.entries[1:] == [
            ("stop", "c"),
            ("stop", "b"),
            ("start", "a"),
            ("failed", "b"),
            ("stop", "a"),
            ("start", "a"),
            ("failed", "b"),
            ("stop", "a"),
            ("start", "a"),
            ("start", "b"),
            ("start", "c"),
        ]
    else:
        assert log.of("stop") == ["c", "b"]
        assert log.of("start") == ["a", "b", "c"]
    assert snapshot(sup).children[0].restarts == (3 if strategy == "one_for_all" else 1)
    sup.stop()


def test_nested_supervisors_escalate() -> None:
    log = Log()
    root = Supervisor.start(
        [
            ChildSpec(Worker, ("outer", log), id="outer"),
            Supervisor.child_spec(
                [ChildSpec(Worker, (name, log), id=name) for name in "ab"], id="inner", max_restarts=1
            ),
        ],
    )
    inner = refs_of(root)["inner"]
    a, b = refs_of(inner).values()
    assert supervisor_of(a) == inner
    assert supervisor_of(inner) is root
    assert supervisor_of(root) is None
    assert root_of(a) is root
    assert root.count_children() == ChildCounts(specs=2, active=2, supervisors=1, workers=1)
    log.clear()
    a.tell(crash)
    await_restart(a)
    a.tell(crash)
    await_restart(inner)
    assert log.of("stop") == ["b"]
    assert log.of("start") == ["a", "a", "b"]
    assert not a.is_alive()
    assert not b.is_alive()
    assert all(ref.is_alive() for ref in refs_of(inner).values())
    log.clear()
    root.stop()
    assert log.of("stop") == ["b", "a", "outer"]


def test_a_transient_supervisor_that_gave_up_is_not_restarted() -> None:
    root = Supervisor.start(
        [Supervisor.child_spec([Worker], id="inner", max_restarts=0, restart="transient")]
    )
    inner = refs_of(root)["inner"]
    refs_of(inner)["Worker"].tell(crash)
    assert inner.join(20)
    eventually(lambda: statuses(root) == {"inner": "stopped"})
    root.stop()


def test_a_hung_supervisor_is_abandoned_with_its_children_ended() -> None:
    block = Block()
    log = Log()

    class Hangs(DynamicSupervisor):
        def on_receive(self, message: Any) -> Any:
            return message(self)

    root = Supervisor.start([ChildSpec(Hangs, id="hangs", shutdown=0.1)])
    inner = refs_of(root)["hangs"]
    child = inner.start_child(ChildSpec(Worker, ("child", log), shutdown=0.1))
    inner.tell(block)
    assert block.entered.wait(20)
    kill(inner)
    await_restart(inner)
    assert not child.is_alive()
    assert inner.count_children().specs == 0
    assert len(leaked_threads()) == 1
    block.release.set()
    eventually(lambda: leaked_threads() == [])
    root.stop()


def test_names() -> None:
    sup = Supervisor.start([ChildSpec(Worker, name="the-worker")], name="the-supervisor")
    ref = whereis("the-worker")
    assert ref is not None
    assert whereis("the-supervisor") is sup
    assert whereis("the-supervisor", StaticSupervisorRef) is sup
    with pytest.raises(TypeError, match="no StaticSupervisorRef"):
        whereis("the-worker", StaticSupervisorRef)
    with pytest.raises(NameTakenError):
        sup.start_child(ChildSpec(Worker, id="other", name="the-worker"))
    with pytest.raises(NameTakenError):
        Supervisor.start([], name="the-supervisor")
    ref.tell(crash)
    await_restart(ref)
    assert whereis("the-worker") is ref
    sup.terminate_child("Worker")
    assert whereis("the-worker") is None
    sup.stop()
    assert whereis("the-supervisor") is None


def test_a_name_is_free_again_when_the_start_fails_early() -> None:
    class Forgets(SupervisedActor):
        def __init__(self) -> None:
            raise Boom("before super().__init__()")

    sup = Supervisor.start([])
    for _ in range(2):
        with pytest.raises(Boom):
            sup.start_child(ChildSpec(Forgets, name="free-again"))
        assert whereis("free-again") is None
    sup.stop()


@pytest.mark.parametrize("final", [True, False])
def test_an_actor_knows_whether_its_supervisor_ends_it(final: bool) -> None:
    seen: list[bool] = []

    class Asks(Worker):
        def on_stop(self) -> None:
            seen.append(self.shut_down)

    sup = Supervisor.start([Asks, Worker], strategy="one_for_all")
    refs = refs_of(sup)
    refs["Asks"].stop()
    await_restart(refs["Asks"])
    assert seen == [False]
    if final:
        sup.stop()
    else:
        refs["Worker"].tell(crash)
        await_restart(refs["Asks"])
        sup.terminate_child("Asks")
        sup.stop()
    assert seen == ([False, True] if final else [False, True, True])


def test_crash_on_any_ends_the_actor_at_an_answered_exception() -> None:
    sup = Supervisor.start([ChildSpec(Worker, crash_on="any"), ChildSpec(Worker, id="pykka")])
    refs = refs_of(sup)
    unharmed = refs["pykka"].ask(instance)
    for ref in refs.values():
        with pytest.raises(Boom):
            ref.ask(crash)
        with pytest.raises(AttributeError):
            ref.ask(lambda actor: actor.nothing)
    assert await_restart(refs["Worker"]) >= 1
    assert refs["pykka"].ask(instance) == unharmed
    sup.stop()


def test_an_asynchronous_start_does_not_wait_and_its_failure_is_an_end_like_any_other() -> None:
    block = Block()
    fails = [True]

    class Slow(Worker):
        def on_start(self) -> None:
            block(self)
            if fails.pop() if fails else False:
                raise Boom("the first time")

    clock = TestClock()
    sup = Supervisor.start(
        [ChildSpec(Slow, start_timeout=None, backoff=Backoff(1, 1, jitter=0))], clock=clock
    )
    [ref] = refs_of(sup).values()
    assert ref.is_alive()
    assert snapshot(ref).status == "starting"
    downs: list[Down] = []
    monitor(ref, notify=downs.append)
    answer = ref.ask("through", block=False)
    block.release.set()
    clock.wait_for_timer()
    assert isinstance(downs[0].reason, StartFailed)
    assert downs[0].restarting
    clock.advance(1)
    assert answer.get(timeout=20) == "through"
    sup.stop()


def test_brutal_kill_and_for_ever() -> None:
    log = Log()
    block = Block()
    sup = Supervisor.start(
        [
            ChildSpec(Worker, ("patient", log), id="patient", shutdown=None),
            ChildSpec(Worker, ("brutal", log), id="brutal", shutdown=0),
        ]
    )
    refs = refs_of(sup)
    with Probe() as probe:
        monitor(refs["brutal"], notify=probe.ref)
        refs["patient"].tell(block)
        stopping = sup.stop(block=False)
        assert probe.expect(Down).reason == Killed()
        with pytest.raises(pykka.Timeout):
            stopping.get(timeout=0.1)
        block.release.set()
        assert stopping.get(timeout=20)
    assert log.entries[2:] == [("failure", "brutal"), ("stop", "patient")]


def test_interrupt_frees_what_a_child_waits_on_at_shutdown() -> None:
    threads: list[int] = []

    class Waits(SupervisedActor):
        def __init__(self) -> None:
            super().__init__()
            self.wake = threading.Event()

        def on_receive(self, message: Any) -> Any:
            assert self.wake.wait(20)
            return "woken"

        def interrupt(self) -> None:
            threads.append(threading.get_ident())
            self.wake.set()

    sup = Supervisor.start([Waits])
    [ref] = refs_of(sup).values()
    answer = ref.ask("wait", block=False)
    eventually(ref.actor_inbox.empty)
    begun = time.monotonic()
    sup.stop(timeout=20)
    assert time.monotonic() - begun < 2
    assert answer.get(timeout=1) == "woken"
    assert threads == [sup._cell.incarnation.thread.ident]  # type: ignore[union-attr]


def test_a_stop_during_a_slow_start_waits_no_longer_than_for_an_end() -> None:
    block = Block()

    class Slow(SupervisedActor):
        def on_start(self) -> None:
            block(self)

    sup = Supervisor.start([])
    failed: list[BaseException] = []

    def start() -> None:
        try:
            sup.start_child(ChildSpec(Slow, start_timeout=30, shutdown=0.1))
        except Exception as error:
            failed.append(error)

    starter = threading.Thread(target=start)
    starter.start()
    assert block.entered.wait(20)
    begun = time.monotonic()
    assert sup.stop(timeout=20)
    assert time.monotonic() - begun < 2
    starter.join(20)
    assert isinstance(failed[0], TimeoutError)
    block.release.set()
    eventually(lambda: leaked_threads() == [])


def test_the_clock_is_that_of_all_supervisors_below() -> None:
    clock = TestClock()
    root = Supervisor.start(
        [Supervisor.child_spec([ChildSpec(Worker, backoff=Backoff(7, 7, jitter=0))], id="inner")], clock=clock
    )
    [worker] = refs_of(refs_of(root)["inner"]).values()
    worker.tell(crash)
    assert clock.wait_for_timer() == 7
    clock.advance(7)
    await_restart(worker)
    root.stop()


def test_snapshot_is_plain_data_and_waits_for_nobody() -> None:
    clock = TestClock()
    block = Block()
    sup = Supervisor.start(
        [
            ChildSpec(Worker, id="busy", name="busy-one"),
            ChildSpec(Worker, id="crashed"),
            DynamicSupervisor.child_spec(id="pool"),
        ],
        name="top",
        clock=clock,
    )
    refs = refs_of(sup)
    refs["pool"].start_child(Worker)
    refs["crashed"].tell(crash)
    await_restart(refs["crashed"])
    refs["busy"].tell(block)
    assert block.entered.wait(20)
    refs["busy"].tell("one")
    refs["busy"].tell("two")
    clock.advance(3)
    node = snapshot(sup)
    assert (node.id, node.type, node.status, node.name) == ("top", "supervisor", "running", "top")
    busy, crashed, pool = node.children
    assert (busy.name, busy.inbox, busy.running_for, busy.generation) == ("busy-one", 2, 3.0, 1)
    assert (crashed.generation, crashed.restarts, crashed.running_for) == (2, 1, None)
    assert crashed.last_reason is not None
    assert "on purpose" in crashed.last_reason
    assert [child.actor_class for child in pool.children] == ["Worker"]
    assert snapshot(refs["busy"]) == busy
    block.release.set()
    sup.stop()
    assert snapshot(sup).status == "stopped"
    with pytest.raises(TypeError):
        plain = PlainWorker.start()
        try:
            snapshot(plain)
        finally:
            plain.stop()


def test_stop_of_a_child_ends_its_incarnation_and_the_ref_lives_on() -> None:
    sup = Supervisor.start([Worker])
    [ref] = refs_of(sup).values()
    before = ref.ask(instance)
    assert ref.stop(timeout=20)
    assert ref.ask(instance, timeout=20) != before
    sup.stop()


def test_a_crash_while_the_supervisor_is_blocked_is_not_lost() -> None:
    block = Block()

    class Slow(SupervisedActor):
        def on_start(self) -> None:
            block(self)

    sup = Supervisor.start([Worker])
    [ref] = refs_of(sup).values()
    starter = threading.Thread(target=sup.start_child, args=(Slow,))
    starter.start()
    assert block.entered.wait(20)
    ref.tell(crash)
    answer = ref.ask("waits in the inbox", block=False)
    block.release.set()
    starter.join(20)
    assert answer.get(timeout=20) == "waits in the inbox"
    sup.stop()


def test_a_failed_start_tells_what_was_raised_with_its_traceback() -> None:
    class Fails(Worker):
        def on_start(self) -> None:
            raise Boom("deep down")

    with pytest.raises(Boom) as caught:
        Supervisor.start([Fails])
    assert "on_start" in [entry.name for entry in caught.traceback]
    assert Crash.of(ValueError("x")) == Crash.of(ValueError("x"))
