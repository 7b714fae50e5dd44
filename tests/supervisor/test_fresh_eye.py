"""What a first-time user's hostile programs found: other people's exceptions, classes, clocks, loggers and limits."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pykka
import pytest
import structlog

from pykka_supervisor import (
    SYSTEM_CLOCK,
    AlreadyStartedError,
    Backoff,
    ChildSpec,
    Crash,
    Down,
    DynamicSupervisor,
    IgnoreStart,
    Mailbox,
    Normal,
    Shutdown,
    StartError,
    SupervisedActor,
    Supervisor,
    kill,
    monitor,
    send_after,
    snapshot,
)
from pykka_supervisor._pykka import Envelope
from pykka_supervisor.testing import Probe, TestClock, await_restart

from .kit import eventually

NOT_EXCEPTIONS = [SystemExit, KeyboardInterrupt, GeneratorExit]


class Worker(pykka.ThreadingActor):
    """Raises what it is told, calls what can be called, answers with the rest."""

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, BaseException):
            raise message
        return message() if callable(message) else message


def only_child(tree: Any) -> Any:
    return tree.which_children()[0].ref


def start_empty(kind: Any) -> Any:
    return kind.start([]) if kind is Supervisor else kind.start()


def assert_timers_run() -> None:
    with Probe() as probe:
        send_after(0.01, probe.ref, "due")
        probe.expect(str)


# -- what somebody else's function raises


@pytest.mark.parametrize("error", NOT_EXCEPTIONS)
@pytest.mark.parametrize("kind", [Supervisor, DynamicSupervisor])
def test_what_init_raises_does_not_end_the_supervisor(kind: Any, error: type[BaseException]) -> None:
    class Unborn(pykka.ThreadingActor):
        def __init__(self) -> None:
            raise error

    tree = start_empty(kind)
    with pytest.raises(StartError) as raised:
        tree.start_child(Unborn)
    assert isinstance(raised.value.__cause__, error)
    assert tree.count_children().specs == 0
    tree.stop()


def test_what_init_raises_at_a_restart_is_one_more_failed_restart() -> None:
    built: list[int] = []

    class SecondFails(Worker):
        def __init__(self) -> None:
            super().__init__()
            built.append(1)
            if len(built) == 2:
                raise SystemExit

    tree = Supervisor.start([SecondFails])
    ref = only_child(tree)
    ref.tell(ValueError())
    assert ref.ask("still here", timeout=20) == "still here"
    assert len(built) == 3
    tree.stop()


@pytest.mark.parametrize("error", [ValueError, *NOT_EXCEPTIONS])
def test_what_interrupt_raises_does_not_end_the_supervisor(error: type[BaseException]) -> None:
    class Touchy(SupervisedActor):
        def interrupt(self) -> None:
            raise error

    downs: list[Down] = []
    tree = Supervisor.start([Touchy])
    monitor(tree, notify=downs.append)
    tree.terminate_child("Touchy")
    tree.restart_child("Touchy")
    tree.stop()
    assert [down.reason for down in downs] == [Normal()]


@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
@pytest.mark.parametrize("error", [ValueError, *NOT_EXCEPTIONS])
@pytest.mark.parametrize("kind", [Supervisor, DynamicSupervisor])
def test_what_notify_raises_hits_no_bystander(kind: Any, error: type[BaseException], restart: Any) -> None:
    def fail(_down: Down) -> None:
        raise error

    tree = start_empty(kind)
    ref = tree.start_child(ChildSpec(Worker, restart=restart))
    downs: list[Down] = []
    monitor(ref, notify=fail)
    monitor(ref, notify=downs.append)
    ref.tell(ValueError())
    eventually(lambda: len(downs) == 1)
    eventually(lambda: tree.count_children().active == (restart != "temporary"))
    tree.stop()


def test_what_notify_raises_in_the_timer_thread_does_not_end_that() -> None:
    def fail(_down: Down) -> None:
        raise SystemExit

    plain = Worker.start()
    downs: list[Down] = []
    monitor(plain, notify=fail)
    monitor(plain, notify=downs.append)
    plain.stop()
    eventually(lambda: len(downs) == 1)
    done = threading.Event()
    SYSTEM_CLOCK.call_later(0, lambda: fail(downs[0]))
    SYSTEM_CLOCK.call_later(0.01, done.set)
    assert done.wait(20)


@pytest.mark.parametrize("error", NOT_EXCEPTIONS)
def test_what_a_decision_hook_raises_gives_up_that_child_alone(error: type[BaseException]) -> None:
    def decide(_reason: object) -> float:
        raise error

    tree = DynamicSupervisor.start()
    other = tree.start_child(Worker)
    tree.start_child(ChildSpec(Worker, backoff=decide)).tell(ValueError())
    eventually(lambda: tree.count_children().specs == 1)
    assert other.ask(1) == 1
    tree.stop()


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    """An exception that refuses every attribute, `__traceback__` and `__notes__` among them."""

    code: int = 7


def test_a_frozen_exception_is_the_reason_itself() -> None:
    class Supervised(Worker, SupervisedActor):
        pass

    class Unborn(pykka.ThreadingActor):
        def on_start(self) -> None:
            raise FrozenError

    downs: list[Down] = []
    ref = Supervised.start()
    monitor(ref, notify=downs.append)
    ref.tell(FrozenError())
    eventually(lambda: len(downs) == 1)
    reason = downs[0].reason
    assert isinstance(reason, Crash)
    assert reason.exception == FrozenError()
    assert reason.exception.__traceback__ is None
    with pytest.raises(FrozenError):
        Supervisor.start([Unborn])


class UnspeakableError(Exception):
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise SystemExit

    __str__ = __repr__


def test_what_cannot_be_shown_is_still_reported_and_looked_at() -> None:
    tree = Supervisor.start([Worker])
    ref = only_child(tree)
    ref.tell(UnspeakableError())
    assert await_restart(ref) == 1
    assert "UnspeakableError" in str(snapshot(ref).last_reason)
    tree.stop()


@pytest.mark.parametrize("kind", [Supervisor, DynamicSupervisor])
def test_init_may_say_that_it_is_not_needed_before_all_else(kind: Any) -> None:
    class Unneeded(pykka.ThreadingActor):
        def __init__(self) -> None:
            raise IgnoreStart

    tree = start_empty(kind)
    ref = tree.start_child(Unneeded)
    assert not ref.is_alive()
    with pytest.raises(pykka.ActorDeadError):
        ref.ask(None)
    assert tree.count_children().specs == (kind is Supervisor)
    tree.stop()

    with_one = Supervisor.start([Unneeded, Worker])
    assert [child.status for child in with_one.which_children()] == ["stopped", "running"]
    with_one.stop()


def test_already_started_pickles_without_its_ref() -> None:
    tree = Supervisor.start([Worker])
    with pytest.raises(AlreadyStartedError) as raised:
        tree.start_child(Worker)
    copied = pickle.loads(pickle.dumps(raised.value))
    assert type(copied) is AlreadyStartedError
    assert str(copied) == str(raised.value)
    assert not hasattr(copied, "ref")
    tree.stop()


# -- the application's logging


@contextlib.contextmanager
def failing_structlog(error: type[BaseException]) -> Iterator[None]:
    def fail(*_: Any) -> Any:
        raise error

    structlog.configure(processors=[fail])
    try:
        yield
    finally:
        structlog.reset_defaults()


@contextlib.contextmanager
def failing_filter(error: type[BaseException]) -> Iterator[None]:
    class Fails(logging.Filter):
        def filter(self, _record: logging.LogRecord) -> bool:
            raise error

    broken = Fails()
    logger = logging.getLogger("pykka_supervisor")
    logger.addFilter(broken)
    try:
        yield
    finally:
        logger.removeFilter(broken)


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
@pytest.mark.parametrize("broken", [failing_structlog, failing_filter])
def test_logging_that_fails_ends_nobody(broken: Callable[..., Any], error: type[BaseException]) -> None:
    with broken(error):
        tree = Supervisor.start([Worker])
        ref = only_child(tree)
        ref.tell(ValueError())
        assert ref.ask("still here", timeout=20) == "still here"
        assert tree.stop(timeout=20)


# -- times


@pytest.mark.parametrize("start", [0.0, -1.0, -1000.0])
def test_a_clock_may_count_from_any_point(start: float) -> None:
    clock = TestClock(start)
    tree = Supervisor.start([ChildSpec(Worker, hang_after=5)], clock=clock)
    ref = only_child(tree)
    release = threading.Event()
    begun = threading.Event()

    def hang() -> None:
        begun.set()
        release.wait(30)

    ref.tell(hang)
    assert begun.wait(20)
    clock.advance(1)
    assert snapshot(ref).running_for == 1
    clock.advance(4)
    assert await_restart(ref) == 1
    release.set()

    # From the actor's own thread: it must not wait for itself.
    ref.tell(lambda: kill(ref))
    assert await_restart(ref) == 2
    tree.stop()


@pytest.mark.parametrize("seconds", [1e12, math.inf])
def test_times_beyond_all_bounds(seconds: float) -> None:
    with Probe() as probe:
        far = send_after(seconds, probe.ref, "never")
        assert_timers_run()
        far.cancel()
    spec = ChildSpec(Worker, shutdown=seconds, start_timeout=seconds, hang_after=seconds)
    assert spec.shutdown is None
    for tree in (Supervisor.start([]), DynamicSupervisor.start()):
        ref = tree.start_child(spec)
        kill(ref)
        assert await_restart(ref) == 1
        tree.stop(timeout=20)
    assert_timers_run()


def test_a_timer_that_is_due_at_no_time_at_all() -> None:
    with Probe() as probe:
        for clock in (SYSTEM_CLOCK, TestClock()):
            with pytest.raises(ValueError, match="due"):
                send_after(math.nan, probe.ref, "never", clock=clock)


def test_a_child_that_ends_while_it_starts_leaves_no_timer() -> None:
    class Brief(pykka.ThreadingActor):
        def on_start(self) -> None:
            self.stop()

    clock = TestClock()
    tree = DynamicSupervisor.start(clock=clock)
    for _ in range(200):
        tree.start_child(ChildSpec(Brief, restart="temporary", hang_after=30))
    eventually(lambda: tree.count_children().specs == 0)
    assert clock.pending() == 0
    tree.stop()


# -- inboxes


def test_a_stop_request_finds_room_in_a_full_buffer() -> None:
    clock = TestClock()
    tree = Supervisor.start([ChildSpec(Worker, max_buffered=1, backoff=Backoff(5, 5, jitter=0))], clock=clock)
    ref = only_child(tree)
    ref.tell(ValueError())
    clock.wait_for_timer()
    ref.tell("fills it")
    stopped = ref.stop(block=False)
    assert ref.dead_letters == 0
    clock.advance(5)
    assert stopped.get(timeout=20) is True
    tree.stop()


def test_a_bound_holds_for_many_at_once_and_whoever_is_refused_may_send_again() -> None:
    mailbox = Mailbox()

    class Persistent(pykka.ThreadingFuture[Any]):
        def set_exception(self, _exc_info: Any = None) -> None:
            mailbox.put(Envelope("another"))

    mailbox.bound(2)
    mailbox.put_many([Envelope(number) for number in range(5)])
    assert (mailbox.qsize(), mailbox.dead_letters) == (2, 3)
    done = threading.Event()

    def ask() -> None:
        mailbox.put(Envelope("ask", Persistent()))
        done.set()

    threading.Thread(target=ask, daemon=True).start()
    assert done.wait(20)
    assert (mailbox.qsize(), mailbox.dead_letters) == (2, 5)


class Unhashable(type):
    """A metaclass with an `__eq__` and no hash."""

    def __eq__(cls, other: object) -> bool:
        return cls is other

    __hash__ = None  # type: ignore[assignment]


def test_an_ask_whose_message_has_an_odd_class_is_answered() -> None:
    class Odd(metaclass=Unhashable):
        pass

    message = Odd()
    tree = Supervisor.start([Worker])
    assert only_child(tree).ask(message, timeout=20) is message
    tree.stop()


# -- plain Pykka classes, unchanged


@pytest.mark.parametrize(
    "name",
    ["retired", "shut_down", "_cell", "_incarnation", "_wind_down", "_abandoned", "_children_allowance"],
)
def test_a_plain_actor_may_have_attributes_of_its_own(name: str) -> None:
    class Plain(pykka.ThreadingActor):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, name, "mine")

        def on_receive(self, _message: Any) -> Any:
            return getattr(self, name)

    called: list[str] = []
    method = type("Method", (Worker,), {name: lambda *_: called.append(name)})
    downs: list[Down] = []
    tree = Supervisor.start([Plain, method])
    for child in tree.which_children():
        monitor(child.ref, notify=downs.append)  # type: ignore[arg-type]
    assert only_child(tree).ask(None, timeout=20) == "mine"
    tree.stop()
    assert [down.reason for down in downs] == [Shutdown(), Shutdown()]
    assert called == []


def test_a_class_made_for_a_plain_actor_is_not_announced_to_it() -> None:
    made: list[type] = []

    class Plugin(Worker):
        def __init_subclass__(cls, *, kind: str) -> None:
            super().__init_subclass__()
            made.append(cls)
            cls.kind = kind  # type: ignore[attr-defined]

    class Printer(Plugin, kind="printer"):
        def on_receive(self, _message: Any) -> Any:
            return self.kind  # type: ignore[attr-defined]

    tree = Supervisor.start([Printer])
    assert only_child(tree).ask(None, timeout=20) == "printer"
    assert made == [Printer]
    tree.stop()


# -- the process


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_starts_with_nothing_monitored_and_says_nothing() -> None:
    program = """
        import os, pykka, warnings
        from pykka_supervisor import DynamicSupervisor, monitor, link, send_after
        from pykka_supervisor.incarnation import current_incarnation
        warnings.simplefilter("ignore")

        class Worker(pykka.ThreadingActor):
            use_daemon_thread = True
            def on_receive(self, message):
                return message()

        def fork():
            pid = os.fork()
            if pid == 0:
                seen = []
                try:
                    plain = Worker.start()
                    monitor(plain, notify=seen.append)
                    plain.stop()
                    for _ in range(100):
                        if seen or signal_wait():
                            break
                finally:
                    os._exit(7 if seen and current_incarnation() is None else 1)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        def signal_wait():
            import time
            time.sleep(0.05)

        watched = Worker.start()
        monitor(watched, notify=print)     # so that the parent's sweep is under way
        tree = DynamicSupervisor.start()
        assert tree.start_child(Worker).ask(fork) == 7
        tree.stop()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_tree_that_has_stopped_has_no_thread_left() -> None:
    for kind in (Supervisor, DynamicSupervisor):
        told: list[object] = []

        def slow(down: Down, told: list[object] = told) -> None:
            time.sleep(0.03)
            told.append(down)

        tree = start_empty(kind)
        ref = tree.start_child(ChildSpec(Worker, restart="temporary"))
        monitor(ref, notify=slow)
        ended = ref.stop(block=False)
        assert ref.actor_stopped.wait(20)
        tree.stop()
        assert len(told) == 1
        ended.get(timeout=20)
