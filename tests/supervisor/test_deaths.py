"""Every way in which a Pykka actor can die, one row each: one Down, the true reason, nobody left waiting.

The rows are those of Pykka's own behaviour, in which ten of fifteen are reported and five leave a
zombie or an asker that waits for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pykka
import pytest

from pykka_supervisor import (
    Abandoned,
    ChildSpec,
    Crash,
    Down,
    DynamicSupervisor,
    Exit,
    Killed,
    NoProc,
    Normal,
    StartError,
    StartFailed,
    SupervisedActor,
    kill,
    leaked_threads,
    monitor,
)
from pykka_supervisor.testing import Probe, TestClock
from supervisor.kit import Block, Boom, Log, PlainWorker, Worker, crash, crash_with, eventually


@dataclass
class Ways:
    """How an actor of this row is made to misbehave, and what is to be seen."""

    act: Callable[[Any], Any] = lambda ref: ref.stop(block=False)
    on_start: BaseException | None = None
    on_stop: BaseException | None = None
    on_failure: BaseException | None = None
    init: BaseException | None = None
    reason: type[Exit] | None = Normal
    raised: type[BaseException] | None = None
    hooks: list[str] = field(default_factory=lambda: ["start", "stop"])


def _crash_by_proxy(ref: Any) -> None:
    ref.proxy().misbehave.defer()


def _raise_in_ask(ref: Any) -> None:
    with pytest.raises(Boom):
        ref.ask(crash)


def _raise_in_proxy_call(ref: Any) -> None:
    with pytest.raises(Boom):
        ref.proxy().misbehave().get()


def _exit_in_ask(ref: Any) -> None:
    with pytest.raises(pykka.ActorDeadError):
        ref.ask(crash_with(SystemExit()), timeout=20)


def _asker_answers_itself(ref: Any) -> None:
    block = Block()
    future = ref.ask(block, block=False)
    assert block.entered.wait(20)
    future.set(None)
    block.release.set()


class _NoText(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise Boom("not even its text")


ROWS: dict[str, Ways] = {
    "stopped": Ways(),
    "stops itself": Ways(lambda ref: ref.ask(lambda actor: actor.stop())),
    "raises in a tell": Ways(lambda ref: ref.tell(crash), reason=Crash, hooks=["start", "failure"]),
    "raises in a deferred proxy call": Ways(_crash_by_proxy, reason=Crash, hooks=["start", "failure"]),
    "raises in an ask": Ways(_raise_in_ask, reason=None, hooks=["start"]),
    "raises in a proxy call": Ways(_raise_in_proxy_call, reason=None, hooks=["start"]),
    "raises in __init__": Ways(init=Boom("init"), raised=Boom, reason=StartFailed, hooks=[]),
    "raises in on_start": Ways(on_start=Boom("start"), raised=Boom, reason=StartFailed, hooks=[]),
    "raises SystemExit in on_start": Ways(
        on_start=SystemExit(), raised=StartError, reason=StartFailed, hooks=[]
    ),
    "raises in on_stop": Ways(on_stop=Boom("stop"), hooks=["start"]),
    "raises in on_failure": Ways(
        lambda ref: ref.tell(crash), on_failure=ValueError("failure"), reason=Crash, hooks=["start"]
    ),
    "raises SystemExit in on_stop": Ways(on_stop=SystemExit(), hooks=["start"]),
    "raises SystemExit in a tell": Ways(
        lambda ref: ref.tell(crash_with(SystemExit())), reason=Crash, hooks=["start", "failure"]
    ),
    "raises KeyboardInterrupt in a tell": Ways(
        lambda ref: ref.tell(crash_with(KeyboardInterrupt())), reason=Crash, hooks=["start", "failure"]
    ),
    "raises SystemExit in an ask": Ways(_exit_in_ask, reason=Crash, hooks=["start", "failure"]),
    "has an asker that answers itself": Ways(_asker_answers_itself, reason=None, hooks=["start"]),
    "raises what has no text": Ways(
        lambda ref: ref.tell(crash_with(_NoText())), reason=Crash, hooks=["start", "failure"]
    ),
    "has a __str__ that raises": Ways(lambda ref: ref.tell(crash), reason=Crash, hooks=["start", "failure"]),
    "is killed": Ways(kill, reason=Killed, hooks=["start", "failure"]),
}


class _Misbehaving:
    row: str
    ways: Ways

    def _make(self, row: str) -> None:
        self.row = row
        self.ways = ROWS[row]
        if self.ways.init is not None:
            raise self.ways.init

    def misbehave(self) -> None:
        raise Boom("by proxy")

    def on_start(self) -> None:
        if self.ways.on_start is not None:
            raise self.ways.on_start
        super().on_start()  # type: ignore[misc]

    def on_stop(self) -> None:
        if self.ways.on_stop is not None:
            raise self.ways.on_stop
        super().on_stop()  # type: ignore[misc]

    def on_failure(self, *args: Any) -> None:
        if self.ways.on_failure is not None:
            raise self.ways.on_failure
        super().on_failure(*args)  # type: ignore[misc]

    def __str__(self) -> str:
        if "__str__" in self.row:
            raise Boom("its __str__ raises")
        return self.row


class Supervised(_Misbehaving, Worker):
    def __init__(self, row: str, log: Log) -> None:
        super().__init__(row, log)
        self._make(row)


class Plain(_Misbehaving, PlainWorker):
    def __init__(self, row: str, log: Log) -> None:
        super().__init__(row, log)
        self._make(row)


@pytest.fixture
def bystander() -> Iterator[Any]:
    plain, supervised = PlainWorker.start(), Worker.start()
    yield plain
    assert plain.ask("still", timeout=20) == "still"
    assert supervised.ask("there", timeout=20) == "there"
    plain.stop()
    supervised.stop()


@pytest.mark.parametrize("kind", ["alone", "supervised", "unmodified"])
@pytest.mark.parametrize("row", list(ROWS))
def test_each_way_of_death_gives_one_down(row: str, kind: str, bystander: Any) -> None:
    ways = ROWS[row]
    log = Log()
    sup = DynamicSupervisor.start()
    actor_class: type[Any] = Plain if kind == "unmodified" else Supervised
    downs: list[Down] = []
    try:
        if ways.init is not None or (ways.on_start is not None and kind != "alone"):
            assert ways.raised is not None
            with pytest.raises(ways.raised):
                if kind == "alone":
                    actor_class.start(row, log)
                else:
                    sup.start_child(ChildSpec(actor_class, (row, log), restart="temporary"))
            eventually(lambda: len(pykka.ActorRegistry.get_all()) == 3)
            assert log.entries == []
            return
        if kind == "alone":
            ref = actor_class.start(row, log)
        else:
            ref = sup.start_child(ChildSpec(actor_class, (row, log), restart="temporary"))
        monitor(ref, notify=downs.append)
        if ways.on_start is None:
            ways.act(ref)
        asked = [ref.ask("after", block=False) for _ in range(5)]
        if ways.reason is None:
            assert [future.get(timeout=20) for future in asked] == ["after"] * 5
            assert ref.is_alive()
            assert downs == []
            assert ref in pykka.ActorRegistry.get_all()
            assert ref.stop(timeout=20)
        else:
            for future in asked:
                with pytest.raises(pykka.ActorDeadError):
                    future.get(timeout=20)
        assert ref.join(20)
        assert not ref.is_alive()
        assert ref not in pykka.ActorRegistry.get_all()
        assert ref.stop(timeout=20) is False
        with pytest.raises(pykka.ActorDeadError):
            ref.tell("late")
        [down] = downs
        expected_reason = ways.reason or Normal
        if ways.on_start is not None:
            # Started alone it may be dead before it is monitored; the next test has it in between.
            assert type(down.reason) in (expected_reason, NoProc)
        else:
            assert type(down.reason) is expected_reason
        assert not down.restarting
        expected = ways.hooks if ways.reason is not None else [*ways.hooks, "stop"]
        assert [what for what, _ in log.entries] == expected
    finally:
        sup.stop()


@pytest.mark.parametrize("kind", ["alone", "supervised"])
def test_cannot_start_its_thread(kind: str, bystander: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sup = DynamicSupervisor.start()
    real = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("Supervised-"):
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(StartError):
        if kind == "alone":
            Supervised.start("stopped", Log())
        else:
            sup.start_child(ChildSpec(Supervised, ("stopped", Log())))
    monkeypatch.undo()
    assert len(pykka.ActorRegistry.get_all()) == 3
    sup.stop()


@pytest.mark.parametrize("kind", ["alone", "supervised"])
def test_never_returns_from_a_handler(kind: str, bystander: Any) -> None:
    clock = TestClock()
    log = Log()
    block = Block()
    sup = DynamicSupervisor.start(clock=clock)

    class Alone(Supervised):
        pass

    if kind == "alone":
        ref: Any = Alone.start("stopped", log)
        ref._cell.clock = clock
    else:
        ref = sup.start_child(ChildSpec(Supervised, ("stopped", log), restart="temporary"))
    with Probe() as probe:
        monitor(ref, notify=probe.ref)
        in_hand = ref.ask(block, block=False)
        assert block.entered.wait(20)
        queued = ref.ask("queued", block=False)
        stopping = ref.stop(block=False)
        assert kill(ref)
        clock.advance(4.9)
        probe.expect_nothing(0.02)
        clock.advance(0.2)
        assert isinstance(probe.expect(Down).reason, Abandoned)
        for future in (in_hand, queued):
            with pytest.raises(pykka.ActorDeadError):
                future.get(timeout=20)
        assert stopping.get(timeout=20) is True
        assert len(leaked_threads()) == 1
        block.release.set()
        eventually(lambda: leaked_threads() == [])
        probe.expect_nothing(0.02)
    assert [what for what, _ in log.entries] == ["start"]
    sup.stop()


def test_on_start_that_fails_alone_is_a_down() -> None:
    entered, go = threading.Event(), threading.Event()

    class Fails(SupervisedActor):
        def on_start(self) -> None:
            entered.set()
            assert go.wait(20)
            raise Boom("late")

    ref = Fails.start()
    with Probe() as probe:
        monitor(ref, notify=probe.ref)
        future = ref.ask("x", block=False)
        go.set()
        down = probe.expect(Down)
        assert isinstance(down.reason, StartFailed)
        assert isinstance(down.reason.exception, Boom)
        with pytest.raises(pykka.ActorDeadError):
            future.get(timeout=20)
    assert ref.join(20)
