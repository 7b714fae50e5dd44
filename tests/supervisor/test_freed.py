"""However an incarnation ends, it and what it owns are freed at once, without a cyclic collection."""

from __future__ import annotations

import gc
import itertools
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pykka
import pytest

from pykka_supervisor import (
    ChildSpec,
    Down,
    DynamicSupervisor,
    StartError,
    StartFailed,
    StartTimeoutError,
    SupervisedActor,
    Supervisor,
    kill,
    leaked_threads,
    link,
    monitor,
)
from pykka_supervisor.incarnation import Incarnation
from pykka_supervisor.log import flush
from pykka_supervisor.testing import TestClock, await_restart
from supervisor.kit import Block, Boom, Worker, eventually

MANY = 1_000_000


class Descriptor:
    """A file descriptor that is closed when nothing refers to it any more, as a forgotten socket is."""

    def __init__(self) -> None:
        self.number = os.open(os.devnull, os.O_RDONLY)

    def __del__(self) -> None:
        os.close(self.number)


class Lives:
    """Weak references to every instance that was made, and to what it owns."""

    def __init__(self) -> None:
        self.actors: list[weakref.ref[Any]] = []
        self.owned: list[weakref.ref[Any]] = []

    def living(self) -> list[int]:
        """Which instances are in memory, or what they own.

        A thread that has told of its end is not gone: it lets go of its actor as it unwinds, without a collection.
        """
        return [
            number
            for number, refs in enumerate(itertools.zip_longest(self.actors, self.owned))
            if any(ref is not None and ref() is not None for ref in refs)
        ]


class _Owns:
    """Owns a descriptor, and works on local variables that hold it."""

    def __init__(self, lives: Lives, init: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self.lives = lives
        self.owned = Descriptor()
        lives.actors.append(weakref.ref(self))
        lives.owned.append(weakref.ref(self.owned))
        if init is not None:
            init(self)

    def on_receive(self, message: Any) -> Any:
        held = self.owned
        result = message(self) if callable(message) else message
        del held
        return result


class Owns(_Owns, SupervisedActor):
    pass


class OwnsPlain(_Owns, pykka.ThreadingActor):
    use_daemon_thread = True


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()


@pytest.fixture
def lives() -> Lives:
    return Lives()


def incarnations(of: str = "Owns") -> int:
    """Count those in memory, of actors of these tests."""
    flush(5)
    return sum(
        isinstance(one, Incarnation) and one.cell.actor_class.__name__.startswith(of)
        for one in gc.get_objects()
    )


def raise_boom(actor: Any) -> None:
    held = actor.owned
    raise Boom(str(held is not None))


def raise_in_a_chain(actor: Any) -> None:
    try:
        raise_boom(actor)
    except Boom as first:
        try:
            raise ExceptionGroup("both", [first, ValueError("second")])
        except ExceptionGroup as group:
            raise RuntimeError("last") from group


def exit_(actor: Any) -> None:
    raise SystemExit(str(actor.owned is not None))


def _ask(message: Callable[[Any], Any], error: type[BaseException]) -> Callable[[Any], None]:
    def act(ref: Any) -> None:
        with pytest.raises(error):
            ref.ask(message, timeout=20)

    return act


def _call(ref: Any) -> None:
    future = ref.proxy().on_receive(raise_boom)
    with pytest.raises(Boom):
        future.get(timeout=20)


def _survives_first(ref: Any) -> None:
    for _ in range(3):
        with pytest.raises((Boom, RuntimeError)):
            ref.ask(raise_in_a_chain, timeout=20)
    ref.stop(block=False)


def _deferred(ref: Any) -> None:
    ref.ask(lambda actor: actor.defer_reply(), block=False)
    ref.tell(raise_boom)


WAYS: dict[str, Callable[[Any], Any]] = {
    "stop": lambda ref: ref.stop(block=False),
    "stops itself": lambda ref: ref.tell(lambda actor: actor.stop()),
    "crash": lambda ref: ref.tell(raise_boom),
    "crash in a chain": lambda ref: ref.tell(raise_in_a_chain),
    "exit": lambda ref: ref.tell(exit_),
    "exit in an ask": _ask(exit_, pykka.ActorDeadError),
    "kill": kill,
    "asks that failed before": _survives_first,
    "a deferred reply": _deferred,
}


@pytest.mark.parametrize("kind", ["alone", "supervised", "unmodified", "dynamic"])
@pytest.mark.parametrize("way", WAYS)
def test_an_actor_is_freed_before_its_end_is_told(way: str, kind: str, lives: Lives) -> None:
    if kind == "unmodified" and way == "a deferred reply":
        pytest.skip("a plain actor knows no deferred replies")
    sup: Any = DynamicSupervisor.start() if kind == "dynamic" else Supervisor.start([])
    actor_class: Any = OwnsPlain if kind == "unmodified" else Owns
    if kind == "alone":
        ref: Any = Owns.start(lives)
    else:
        ref = sup.start_child(ChildSpec(actor_class, (lives,), restart="temporary"))
    at_the_end: list[list[int]] = []
    monitor(ref, notify=lambda _: at_the_end.append(lives.living()))
    eventually(lambda: lives.living() == [0])
    WAYS[way](ref)
    assert ref.join(20)
    assert at_the_end == [[]]
    sup.stop()


@pytest.mark.parametrize("kind", [Supervisor, DynamicSupervisor])
@pytest.mark.parametrize("way", WAYS)
def test_an_incarnation_is_freed_before_its_successor_is_made(way: str, kind: Any, lives: Lives) -> None:
    others: list[list[int]] = []
    sup: Any = (
        Supervisor.start([], max_restarts=MANY)
        if kind is Supervisor
        else DynamicSupervisor.start(max_restarts=MANY)
    )
    before = incarnations()
    ref = sup.start_child(ChildSpec(Owns, (lives, lambda actor: others.append(actor.lives.living()))))
    for count in range(1, 6):
        WAYS[way](ref)
        assert await_restart(ref) == count
    assert others == [[number] for number in range(6)]
    eventually(lambda: incarnations() == before + 1)
    sup.stop()


@pytest.mark.parametrize("how", [_ask(raise_boom, Boom), _ask(raise_in_a_chain, RuntimeError), _call])
def test_a_crash_that_is_also_an_answer(how: Callable[[Any], None], lives: Lives) -> None:
    sup = Supervisor.start([ChildSpec(Owns, (lives,), id="a", crash_on="any")], max_restarts=MANY)
    ref: Any = sup.which_children()[0].ref
    for count in range(1, 4):
        how(ref)
        assert await_restart(ref) == count
        eventually(lambda count=count: lives.living() == [count])  # type: ignore[misc]
    sup.stop()


def test_an_asker_keeps_the_traceback_of_what_ended_the_actor(lives: Lives) -> None:
    sup = Supervisor.start([ChildSpec(Owns, (lives,), id="a", crash_on="any")], max_restarts=MANY)
    ref: Any = sup.which_children()[0].ref
    downs: list[Down] = []
    monitor(ref, notify=downs.append)
    with pytest.raises(Boom) as caught:
        ref.ask(raise_boom, timeout=20)
    await_restart(ref)
    assert "raise_boom" in [entry.name for entry in caught.traceback]
    reason: Any = downs[0].reason
    assert type(reason.exception) is Boom
    assert reason.exception.args == ("True",)
    assert reason.exception.__traceback__ is None
    assert "raise_boom" in reason.trace
    eventually(lambda: lives.living() == [1])
    sup.stop()


# -- starts that fail


@pytest.mark.parametrize("hook", ["init", "on_start", "init exits", "on_start exits"])
@pytest.mark.parametrize("kind", ["alone", "supervised", "dynamic", "in a tree"])
def test_what_could_not_be_started(kind: str, hook: str, lives: Lives) -> None:
    act = exit_ if "exits" in hook else raise_in_a_chain

    class OwnsNot(Owns):
        def __init__(self, lives: Lives) -> None:
            super().__init__(lives, act if hook.startswith("init") else None)

        def on_start(self) -> None:
            act(self)

    sup: Any = DynamicSupervisor.start() if kind == "dynamic" else Supervisor.start([])
    spec = ChildSpec(OwnsNot, (lives,))
    failed = 0
    for _ in range(3):
        try:
            if kind == "alone":
                assert OwnsNot.start(lives).join(20)
            elif kind == "in a tree":
                Supervisor.start([Worker, Supervisor.child_spec([spec], id="in")])
            else:
                sup.start_child(spec)
        except (RuntimeError, SystemExit, StartError):
            failed += 1
    assert failed == (0 if kind == "alone" and hook.startswith("on_start") else 3)
    flush(5)
    eventually(lambda: lives.living() == [])
    assert len(lives.actors) == 3
    sup.stop()


@pytest.mark.parametrize("where", ["init", "on_start"])
@pytest.mark.parametrize("start_timeout", [5.0, None])
def test_restarts_that_fail(where: str, start_timeout: float | None, lives: Lives) -> None:
    counts: list[list[int]] = []

    class OwnsSeldom(Owns):
        def __init__(self, lives: Lives) -> None:
            super().__init__(lives)
            counts.append(lives.living())
            if where == "init":
                self.perhaps()

        def on_start(self) -> None:
            if where == "on_start":
                self.perhaps()

        def perhaps(self) -> None:
            if len(counts) % 3:
                raise_in_a_chain(self)

    sup = Supervisor.start([], max_restarts=MANY)
    counts += [[], []]
    ref = sup.start_child(ChildSpec(OwnsSeldom, (lives,), start_timeout=start_timeout))
    before = incarnations()
    for _ in range(3):
        answered = len(counts)
        ref.tell(raise_boom)
        assert ref.ask("again", timeout=20) == "again"
        assert len(counts) == answered + 3
    assert [len(count) for count in counts[2:]] == [1] * 10
    eventually(lambda: incarnations() == before)
    sup.stop()


# -- threads that were left behind


def test_an_abandoned_one_is_freed_when_its_thread_returns(lives: Lives) -> None:
    clock = TestClock()
    sup = Supervisor.start([ChildSpec(Owns, (lives,), hang_after=10)], clock=clock, max_restarts=MANY)
    ref: Any = sup.which_children()[0].ref
    for count in range(1, 4):
        block = Block()
        ref.tell(block)
        assert block.entered.wait(20)
        clock.advance(11)
        assert await_restart(ref) == count
        eventually(lambda count=count: lives.living() == [count - 1, count])  # type: ignore[misc]
        block.release.set()
        eventually(lambda: leaked_threads() == [])
        eventually(lambda count=count: lives.living() == [count])  # type: ignore[misc]
    eventually(lambda: incarnations() == 1)
    sup.stop()


@pytest.mark.parametrize("fails", [True, False])
def test_an_init_that_was_given_up_is_freed_when_it_returns(fails: bool, lives: Lives) -> None:
    block = Block()

    def init(actor: Any) -> None:
        block(actor)
        if fails:
            raise_boom(actor)

    sup = Supervisor.start([])
    with pytest.raises(StartTimeoutError):
        sup.start_child(ChildSpec(Owns, (lives, init), start_timeout=0.05))
    eventually(lambda: lives.living() == [0])
    block.release.set()
    eventually(lambda: leaked_threads() == [])
    eventually(lambda: lives.living() == [])
    sup.stop()


# -- actors that hang together


def test_one_that_is_linked_and_watches_itself(lives: Lives) -> None:
    def init(actor: Any) -> None:
        tree = Worker.start()
        link(tree)
        actor.watching = monitor(actor.actor_ref)
        actor.tree = tree

    sup = Supervisor.start([ChildSpec(Owns, (lives, init), hang_after=30)], max_restarts=MANY)
    ref: Any = sup.which_children()[0].ref
    for count in range(1, 4):
        ref.tell(raise_boom)
        assert await_restart(ref) == count
        eventually(lambda count=count: lives.living() == [count])  # type: ignore[misc]
    eventually(lambda: incarnations() == 1)
    sup.stop()


def test_a_supervisor_that_is_restarted(lives: Lives) -> None:
    class OwnsChildren(Supervisor):
        def __init__(self, children: Any) -> None:
            super().__init__(children)
            self.owned = Descriptor()
            lives.actors.append(weakref.ref(self))
            lives.owned.append(weakref.ref(self.owned))

        def on_receive(self, message: Any) -> Any:
            return message(self)

    inner = ChildSpec(OwnsChildren, ([Worker, ChildSpec(Worker, id="other")],))
    sup = Supervisor.start([inner], max_restarts=MANY)
    ref: Any = sup.which_children()[0].ref
    for count, way in enumerate((kill, WAYS["crash"], WAYS["stop"], WAYS["crash in a chain"]), 1):
        way(ref)
        assert await_restart(ref) == count
        eventually(lambda count=count: lives.living() == [count])  # type: ignore[misc]
    sup.stop()
    eventually(lambda: lives.living() == [])


def test_a_reason_that_is_kept_keeps_no_actor(lives: Lives) -> None:
    sup = Supervisor.start([], max_restarts=MANY)
    ref = sup.start_child(ChildSpec(Owns, (lives,)))
    downs: list[Down] = []

    def watch(down: Down) -> None:
        downs.append(down)

    for way in ("crash in a chain", "exit", "kill"):
        monitor(ref, notify=watch)
        WAYS[way](ref)
        await_restart(ref)
    assert len(downs) == 3
    eventually(lambda: lives.living() == [3])
    failed = StartFailed.of(Boom("x"))
    assert type(failed.exception) is Boom
    sup.stop()
