"""The testing kit tests itself, and the smaller things: hooks into Pykka, log lines, refs."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pykka
import pytest
import structlog

from pykka_supervisor import (
    ChildSpec,
    SupervisedActor,
    SupervisedRef,
    Supervisor,
    kill,
    root_of,
    supervisor_of,
)
from pykka_supervisor import _pykka as hooks
from pykka_supervisor.log import get_logger
from pykka_supervisor.testing import Probe, await_restart, flush_logs
from supervisor.kit import Block, Boom, PlainWorker, Worker, crash


def test_the_private_hooks_of_pykka_are_where_they_were() -> None:
    moved = hooks.missing_hooks()
    assert moved == [], f"Pykka {pykka.__file__} has moved {moved}; see pykka_supervisor/_pykka.py"


def test_a_moved_hook_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(hooks.PRIVATE_HOOKS, "pykka.Actor._gone", (pykka.Actor, "_gone"))
    assert hooks.missing_hooks() == ["pykka.Actor._gone"]


def test_nothing_but_one_module_touches_what_is_private_in_pykka() -> None:
    from pathlib import Path  # noqa: PLC0415

    package = Path(hooks.__file__).parent
    for module in package.glob("*.py"):
        if module.name != "_pykka.py":
            text = module.read_text()
            for name in (
                "pykka._",
                "_ActorStop",
                "_actor_refs",
                "_actor_weakref",
                "ActorRegistry._",
                "_create_future",
            ):
                assert name not in text.replace("from ._pykka", "").replace("import _pykka", ""), (
                    module,
                    name,
                )


def test_probe_finds_in_order_and_says_what_it_saw() -> None:
    with Probe(answer=lambda message: message * 2) as probe:
        assert isinstance(probe.ref, pykka.ActorRef)
        assert probe.ref.ask(21) == 42
        probe.ref.tell("a")
        probe.ref.tell("b")
        assert probe.expect(str, where=lambda text: text == "b") == "b"
        with pytest.raises(AssertionError, match=r"no .*int"):
            probe.expect(int, timeout=0.01)
        probe.expect_nothing(0.01)
        probe.ref.tell(1.5)
        assert probe.expect((int, float)) == 1.5
        probe.ref.tell("late")
        with pytest.raises(AssertionError, match="'late'"):
            probe.expect_nothing(1)
        assert probe.messages == [21, "a", "b", 1.5, "late"]
        assert len(probe.wait(5)) == 5
        with pytest.raises(AssertionError, match="5 of 6"):
            probe.wait(6, timeout=0.01)
    assert not probe.ref.is_alive()


def test_await_restart_says_when_there_will_be_none() -> None:
    ref = Worker.start()
    with pytest.raises(AssertionError, match="was not restarted"):
        await_restart(ref, timeout=0.01)
    ref.stop()
    with pytest.raises(AssertionError, match="has ended"):
        await_restart(ref)
    plain = PlainWorker.start()
    for refused in (await_restart, kill, root_of):
        with pytest.raises(TypeError):
            refused(plain)
    assert supervisor_of(plain) is None
    plain.stop()


class Typed(SupervisedRef[Any]):
    def hello(self) -> str:
        return f"hello {self.ask(lambda actor: actor.who)}"


class WithTypedRef(Worker):
    ref_class = Typed


def test_a_ref_class_of_ones_own() -> None:
    sup = Supervisor.start([])
    ref = sup.start_child(WithTypedRef)
    assert isinstance(ref, Typed)
    assert ref.hello() == "hello worker"
    assert repr(ref).startswith("<ActorRef for WithTypedRef (urn:uuid:")
    sup.stop()


def test_proxies_outlive_a_restart_and_the_registry_knows_one_ref() -> None:
    class Calls(Worker):
        def twice(self, number: int) -> int:
            return number * 2

    sup = Supervisor.start([Calls])
    [info] = sup.which_children()
    ref = info.ref
    assert ref is not None
    proxy = ref.proxy()
    assert proxy.twice(2).get() == 4
    ref.tell(crash)
    await_restart(ref)
    assert proxy.twice(3).get() == 6
    proxy.who = "changed"
    assert ref.proxy().who.get() == "changed"
    assert pykka.ActorRegistry.get_by_urn(ref.actor_urn) is ref
    assert pykka.ActorRegistry.get_by_class(Calls) == [ref]
    sup.stop()


def test_an_unmodified_class_gets_the_ref_it_keeps_in_its_own_init() -> None:
    class Registers(pykka.ThreadingActor):
        def __init__(self, seen: list[Any]) -> None:
            pykka.ThreadingActor.__init__(self)
            seen.append((self.actor_ref, self.actor_urn, self.actor_inbox))
            self._in_future = self.actor_ref.proxy()

        def crash(self) -> None:
            raise Boom("on purpose")

        def later(self) -> Any:
            return self._in_future.now()

        def now(self) -> str:
            return "now"

    seen: list[Any] = []
    sup = Supervisor.start([ChildSpec(Registers, (seen,))])
    [info] = sup.which_children()
    ref = info.ref
    assert ref is not None
    ref.proxy().crash.defer()
    await_restart(ref)
    assert seen[0] == seen[1] == (ref, ref.actor_urn, ref.actor_inbox)
    assert ref.proxy().later().get().get(timeout=20) == "now"
    assert ref.actor_class is Registers
    assert ref.ask is not None
    assert pykka.ActorRegistry.get_by_class(Registers) == [ref]
    assert pykka.ActorRegistry.get_by_class_name("Registers") == [ref]
    sup.stop()


def test_deferred_replies() -> None:
    class Defers(Worker):
        held: list[Any] = []  # noqa: RUF012

        def hold(self) -> str:
            self.held.append(self.defer_reply())
            return "this is not the answer"

        def hold_and_fail(self) -> None:
            self.held.append(self.defer_reply())
            raise Boom("after deferring")

        def defer_twice(self) -> None:
            self.held.append(self.defer_reply())
            self.held.append(self.defer_reply())

    ref = Defers.start()
    proxy = ref.proxy()
    first, second, third = proxy.hold(), proxy.hold(), proxy.hold()
    fails = proxy.hold_and_fail()
    ref.ask("handled by now")
    assert Defers.held[0].set("later")
    assert not Defers.held[0].set("again")
    thread = threading.Thread(target=lambda: Defers.held[1].set_exception(Boom("from another thread")))
    thread.start()
    assert first.get(timeout=20) == "later"
    with pytest.raises(Boom, match="another thread"):
        second.get(timeout=20)
    with pytest.raises(Boom, match="after deferring"):
        fails.get(timeout=20)
    assert not Defers.held[3].set("too late")
    twice = proxy.defer_twice()
    ref.ask("handled by now")
    assert not Defers.held[5].set("leads nowhere")
    assert Defers.held[4].set("the real one")
    assert twice.get(timeout=20) == "the real one"
    proxy.hold.defer()
    ref.ask("handled by now")
    assert not Defers.held[6].set("nobody asked")
    ref.stop()
    with pytest.raises(pykka.ActorDeadError):
        third.get(timeout=20)
    assert not Defers.held[2].set("too late")
    with pytest.raises(RuntimeError):
        Worker().defer_reply()
    thread.join()


def test_an_actor_built_by_hand_is_not_started_by_pykkas_own_way() -> None:
    actor = Worker()
    assert not actor.retired
    assert actor.actor_ref.actor_urn == actor.actor_urn
    with pytest.raises(TypeError, match="start"):
        actor._start_actor_loop()


def test_init_without_super_is_told() -> None:
    class Forgets(SupervisedActor):
        def __init__(self) -> None:
            pass

    with pytest.raises(pykka_error(), match="super"):
        Forgets.start()


def pykka_error() -> type[Exception]:
    from pykka_supervisor import StartError  # noqa: PLC0415

    return StartError


def test_retired_lets_a_long_handler_return() -> None:
    ref = Worker.start()
    block = Block()

    def work(actor: Worker) -> str:
        block.entered.set()
        while not actor.retired:
            time.sleep(0.001)
        return "left early"

    answer = ref.ask(work, block=False)
    assert block.entered.wait(20)
    kill(ref)
    assert answer.get(timeout=20) == "left early"
    assert ref.join(20)


def test_join_waits_for_the_end_only() -> None:
    ref = Worker.start()
    assert not ref.join(0.01)
    ref.stop(block=False)
    assert ref.join(20)
    assert ref.join()


def test_a_stop_that_takes_too_long_is_pykkas_time_out() -> None:
    ref = Worker.start()
    block = Block()
    ref.tell(block)
    with pytest.raises(pykka.Timeout):
        ref.stop(timeout=0.02)
    block.release.set()
    assert ref.join(20)


def test_lines_go_to_logging_where_nobody_has_configured_structlog(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    log = get_logger("pykka_supervisor.test")
    structlog.reset_defaults()
    with caplog.at_level(logging.DEBUG, logger="pykka_supervisor.test"):
        log.debug("quiet", a=1)
        log.info("fine", b="two")
        log.warning("careful")
        log.error("bad", exc_info=Boom("x"))
    assert [record.getMessage() for record in caplog.records] == [
        "quiet a=1",
        "fine b='two'",
        "careful",
        "bad",
    ]
    assert caplog.records[3].exc_info is not None
    assert capsys.readouterr().out == ""


def test_a_value_that_cannot_be_shown_ends_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Bad:
        def __repr__(self) -> str:
            raise Boom("no repr")

    get_logger("pykka_supervisor.test").warning("event", value=Bad())
    assert "could not be shown" in caplog.text


def test_reports_have_otps_form() -> None:
    sup = Supervisor.start([ChildSpec(Worker, id="reported")])
    [info] = sup.which_children()
    ref = info.ref
    assert ref is not None
    try:
        structlog.configure()
        with structlog.testing.capture_logs() as lines:
            ref.tell(crash)
            await_restart(ref)
            flush_logs()
    finally:
        structlog.reset_defaults()
    [line] = [line for line in lines if line["event"] == "supervisor_report"]
    assert line["context"] == "child_terminated"
    assert line["supervisor"] == str(sup)
    assert line["reason"] == "Crash: Boom: on purpose"
    assert line["offender"]["id"] == "reported"
    assert "Traceback" in line["trace"]
    assert line["log_level"] == "error"
    sup.stop()


def test_pykkas_own_traceback_is_kept_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        ref = Worker.start()
        ref.tell(crash)
        assert ref.join(20)
        with pytest.raises(Boom):
            other = Worker.start()
            try:
                other.ask(crash)
            finally:
                other.stop()
    assert [
        record for record in caplog.records if record.name == "pykka" and record.levelno > logging.DEBUG
    ] == []
    [reported] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert reported.getMessage().startswith("supervisor_report")
