"""Log lines are written by a thread of their own: what an application's handler does holds nobody up."""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from pykka_supervisor import (
    GIVE_UP,
    SYSTEM_CLOCK,
    ChildSpec,
    DynamicSupervisor,
    Gone,
    Killed,
    Shutdown,
    Supervisor,
    kill,
    send_after,
)
from pykka_supervisor.log import LIMIT, flush, get_logger, plain
from pykka_supervisor.testing import Probe, await_restart, flush_logs
from supervisor.kit import Boom, Worker, crash, eventually

NAME = "pykka_supervisor.test"
log = get_logger(NAME)


class Keeps(logging.Handler):
    """Keeps the records; `first` is called with each, before."""

    def __init__(self, first: Callable[[logging.LogRecord], object] = lambda _: None) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.first = first

    def emit(self, record: logging.LogRecord) -> None:
        self.first(record)
        self.records.append(record)


@contextlib.contextmanager
def handling(handler: logging.Handler, level: int = logging.DEBUG) -> Iterator[None]:
    """The application's handler for all lines of this package."""
    logger = logging.getLogger("pykka_supervisor")
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        flush_logs()
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True


@contextlib.contextmanager
def blocked() -> Iterator[Keeps]:
    """A handler that blocks at its first line, until the block is left."""
    there, gate = threading.Event(), threading.Event()

    def wait(_: logging.LogRecord) -> None:
        there.set()
        gate.wait(30)

    keeps = Keeps(wait)
    with handling(keeps):
        log.info("the first")
        assert there.wait(20)
        try:
            yield keeps
        finally:
            gate.set()


def test_a_handler_that_blocks_holds_up_no_supervisor_no_timer_and_no_monitor() -> None:
    with blocked() as keeps, Probe() as probe:
        tree = Supervisor.start([ChildSpec(Worker, id="one"), ChildSpec(Worker, id="two")])
        one, two = (info.ref for info in tree.which_children())
        assert one is not None
        assert two is not None
        one.tell(crash)  # reported by the supervisor's thread
        kill(two)
        await_restart(one, timeout=20)
        SYSTEM_CLOCK.call_later(0, lambda: crash(None))  # reported by the clock's thread
        send_after(0, probe.ref, "rang")
        assert probe.expect(str, timeout=20) == "rang"
        assert one.ask("there", timeout=20) == "there"
        assert keeps.records == []
        begun = time.monotonic()
        tree.stop(timeout=0.5)  # it waits for its lines no longer than it may
        assert time.monotonic() - begun < 2
    events = [record.getMessage().split()[0] for record in keeps.records]
    assert {"supervisor_report", "timer_callback_failed"} <= set(events)


def test_a_handler_may_ask_the_supervisor_that_logs() -> None:
    answers: list[Any] = []
    tree = Supervisor.start([ChildSpec(Worker, id="one")])
    asks = Keeps(lambda _: answers.append(tree.which_children()))
    with handling(asks, logging.ERROR):
        [info] = tree.which_children()
        assert info.ref is not None
        info.ref.tell(crash)
        await_restart(info.ref, timeout=20)
        flush_logs()
    assert [[info.id for info in answer] for answer in answers] == [["one"]]
    tree.stop(timeout=20)


def test_a_handler_may_stop_the_tree() -> None:
    tree = Supervisor.start([ChildSpec(Worker, id="one")])
    stopped: list[bool] = []
    with handling(Keeps(lambda _: stopped.append(tree.stop(timeout=20))), logging.ERROR):
        [info] = tree.which_children()
        assert info.ref is not None
        info.ref.tell(crash)
        eventually(lambda: bool(stopped))
    assert stopped == [True]


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, KeyboardInterrupt])
def test_a_handler_that_raises_keeps_no_later_line_from_being_written(error: type[BaseException]) -> None:
    def fail(record: logging.LogRecord) -> None:
        if "bad" in record.getMessage():
            raise error

    keeps = Keeps(fail)
    with handling(keeps):
        for event in ("one", "bad", "two"):
            log.info(event)
    assert [record.getMessage() for record in keeps.records] == ["one", "two"]


def test_lines_are_written_in_order_with_the_time_thread_and_place_of_whoever_logged() -> None:
    keeps = Keeps()
    with handling(keeps):
        before = time.time()
        log.info("here", number=1)
        thread = threading.Thread(target=lambda: log.info("there"), name="another")
        thread.start()
        thread.join()
        after = time.time()
    here, there = keeps.records
    assert here.getMessage() == "here number=1"
    assert here.threadName == threading.current_thread().name
    assert here.thread == threading.get_ident()
    assert there.threadName == "another"
    assert before <= here.created <= there.created <= after
    assert here.pathname == __file__
    assert here.funcName == "test_lines_are_written_in_order_with_the_time_thread_and_place_of_whoever_logged"
    assert abs(here.msecs - here.created % 1 * 1000) < 1


def test_a_level_is_asked_for_when_the_line_is_logged() -> None:
    keeps = Keeps()
    with handling(keeps):
        log.info("kept")
        logging.getLogger("pykka_supervisor").setLevel(logging.ERROR)
        log.info("not kept")
        logging.getLogger(NAME).setLevel(logging.INFO)
        log.info("kept too")
        logging.disable(logging.WARNING)
        log.info("not kept either")
        log.error("kept last")
        logging.disable(logging.NOTSET)
        logging.getLogger(NAME).setLevel(logging.NOTSET)
    assert [record.getMessage() for record in keeps.records] == ["kept", "kept too", "kept last"]


def test_what_is_lost_behind_a_handler_that_blocks_is_told_in_one_line_and_warnings_are_lost_last() -> None:
    with blocked() as keeps:
        for number in range(LIMIT + 5):
            log.info("ordinary", number=number)
        for number in range(10):
            log.warning("important", number=number)
        log.info("too much")
    messages = [record.getMessage() for record in keeps.records]
    assert [m for m in messages if m.startswith("important")] == [f"important number={n}" for n in range(10)]
    ordinary = [m for m in messages if m.startswith("ordinary")]
    assert ordinary == [f"ordinary number={n}" for n in range(10, LIMIT)]
    assert "too much" not in messages
    [lost] = [record for record in keeps.records if "log_lines_lost" in record.getMessage()]
    assert lost.getMessage() == "log_lines_lost lines=16"
    assert (lost.name, lost.levelno) == ("pykka_supervisor", logging.WARNING)
    assert len(messages) == 1 + LIMIT + 1


def test_flush_waits_for_what_was_logged_before_and_not_for_longer_than_it_may() -> None:
    with blocked():
        begun = time.monotonic()
        assert not flush(0.05)
        assert time.monotonic() - begun < 2
        with pytest.raises(AssertionError, match="not written within"):
            flush_logs(0.01)
    assert flush(5)
    inside: list[bool] = []
    with handling(Keeps(lambda _: inside.append(flush(30)))):
        log.info("a handler's own flush waits for nothing")
    assert inside == [False]


def test_an_applications_context_variables_and_processors() -> None:
    """structlog's processors run with the context of the thread that logged."""
    lines: list[Any] = []

    def keep(_logger: Any, _method: str, event: Any) -> Any:
        lines.append(dict(event))
        raise structlog.DropEvent

    def bind(name: str) -> None:
        structlog.contextvars.bind_contextvars(tenant=name)
        log.info("hello")

    structlog.configure(processors=[structlog.contextvars.merge_contextvars, keep])
    try:
        for name in ("a", "b"):
            contextvars.copy_context().run(bind, name)
        flush_logs()
    finally:
        structlog.reset_defaults()
    assert [(line["event"], line["tenant"]) for line in lines] == [("hello", "a"), ("hello", "b")]


class Unshowable:
    def __str__(self) -> str:
        raise SystemExit


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Killed(), "Killed"),
        (Shutdown("why"), "Shutdown: why"),
        (Gone(zombie=True), "Gone: a zombie"),
        (Gone(), "Gone"),
        ({"a": (1, Killed()), 2: None}, {"a": [1, "Killed"], "2": None}),
        (True, True),
        (1.5, 1.5),
        (Boom("x"), "x"),
        (Unshowable(), "<a Unshowable that could not be shown>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_are_plain(value: Any, shown: Any) -> None:
    assert plain(value) == shown
    assert type(plain(value)) is type(shown)
    json.dumps(plain(value))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_writes_its_own_lines_and_not_its_parents() -> None:
    with blocked() as keeps:
        log.info("the parent's")
        child = os.fork()
        if not child:
            keeps.first = lambda _: None
            log.info("the child's")
            written = flush(5) and [record.getMessage() for record in keeps.records] == ["the child's"]
            os._exit(0 if written else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


PROGRAM = """
    import logging, sys
    from pykka_supervisor.log import get_logger
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    log = get_logger("pykka_supervisor.test")
    for number in range(2000):
        log.info("line", number=number)
    {end}
"""


@pytest.mark.parametrize("end", ["pass", "sys.exit(0)", "raise ValueError", "raise KeyboardInterrupt"])
def test_the_end_of_the_process_waits_for_its_lines(end: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM).format(end=end)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.stdout.splitlines() == [f"line number={number}" for number in range(2000)]


@pytest.mark.parametrize(("backoff", "level"), [(None, logging.ERROR), (lambda _: GIVE_UP, logging.DEBUG)])
def test_a_crash_in_the_moment_of_the_end_is_an_error_unless_the_owner_decides_about_crashes(
    backoff: Any, level: int
) -> None:
    reached, gate = threading.Event(), threading.Event()

    def late(actor: Any) -> None:
        reached.set()
        gate.wait(20)
        crash(actor)

    tree = DynamicSupervisor.start()
    keeps = Keeps()
    with handling(keeps, logging.DEBUG):
        ref = tree.start_child(ChildSpec(Worker, backoff=backoff))
        ref.tell(late)
        assert reached.wait(20)
        stopping = tree.stop(block=False)
        eventually(lambda: not ref.actor_inbox.empty())  # the stop stands behind what is being handled
        gate.set()
        stopping.get(timeout=20)
    told = [record for record in keeps.records if "context='shutdown_error'" in record.getMessage()]
    assert [record.levelno for record in told] == [level]


@pytest.mark.parametrize(("backoff", "level"), [(None, logging.ERROR), (lambda _: GIVE_UP, logging.DEBUG)])
def test_a_crash_that_a_dead_supervisor_cannot_be_told_is_an_error_unless_the_owner_decides(
    backoff: Any, level: int
) -> None:
    tree = DynamicSupervisor.start()
    keeps = Keeps()
    with handling(keeps, logging.DEBUG):
        ref = tree.start_child(ChildSpec(Worker, backoff=backoff))
        tree.actor_inbox.close()  # as it stands between a supervisor's death and the end of its children
        ref.tell(crash)
        eventually(lambda: not ref.is_alive())
        kill(tree)
        assert tree.join(20)
    said = [record for record in keeps.records if "context='child_terminated'" in record.getMessage()]
    told = [record for record in said if "Worker" in record.getMessage()]  # not the killed supervisor's own
    assert [record.levelno for record in told] == [level]
