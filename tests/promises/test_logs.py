"""One line at a stream's end; through structlog where it is configured, else through `logging`, never to stdout."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import pytest
import structlog

from conftest import StartManager
from gemini_streams import (
    DeadlineExceededError,
    FlowControl,
    RetryPolicy,
    StreamComplete,
    StreamError,
    StreamEvent,
)
from gemini_streams.testing import Failure, LocalGemini, Reply
from kit.helpers import LAST, ONCE, eventually, last_of
from pykka_supervisor import kill
from pykka_supervisor.testing import Probe, flush_logs

Lines = list[dict[str, Any]]


@pytest.fixture
def configured() -> Iterator[Lines]:
    """An application's structlog, that keeps the lines."""
    lines: Lines = []

    def keep(_logger: Any, method: str, event: MutableMapping[str, Any]) -> Any:
        lines.append({"level": method, **event})
        raise structlog.DropEvent

    structlog.configure(processors=[keep])
    try:
        yield lines
    finally:
        structlog.reset_defaults()


def ends(lines: Lines) -> Lines:
    flush_logs()
    return [line for line in lines if line["event"] == "stream_ended"]


@pytest.mark.parametrize(
    ("answer", "status", "events"),
    [
        (Reply("one two three"), "completed", 3),
        (Failure(400), "error", 0),
        (Reply("one two", end="cut", end_after=1, pace=0.01), "error", 1),
        (Reply("one two", hold_after=1), "stopped", 1),
    ],
)
def test_one_line_at_the_end(
    gemini: LocalGemini,
    manager: StartManager,
    probe: Probe,
    configured: Lines,
    answer: Any,
    status: str,
    events: int,
) -> None:
    gemini.on("why", answer)
    ref = manager(retry=ONCE, model="gemini-test")
    stream_id = ref.start_stream("why", subscriber=probe.ref)
    if status == "stopped":
        probe.wait(1)
        ref.stop_stream(stream_id)
    last = last_of(probe)
    ref.stop(timeout=20)
    [line] = ends(configured)
    assert line["level"] == ("warning" if status == "error" else "info")
    assert line["stream_id"] == stream_id
    assert line["model"] == "gemini-test"
    assert line["attempt"] == 1
    assert line["status"] == status
    assert line["events"] == events
    assert abs(line["duration"] - last.duration) < 0.01
    assert (line.get("error") is not None) is (status == "error")
    assert [
        other for other in configured if other["level"] not in ("info", "debug") and other is not line
    ] == []


def test_the_attempt_is_the_last_one(
    gemini: LocalGemini, manager: StartManager, probe: Probe, configured: Lines
) -> None:
    gemini.on("why", Failure(503), Reply("one two three", end="cut", end_after=2, pace=0.01), Reply("fine"))
    ref = manager(retry=RetryPolicy(initial_delay=0, jitter=0))
    ref.start_stream("why", subscriber=probe.ref)
    assert isinstance(last_of(probe), StreamComplete)
    [line] = ends(configured)
    assert (line["attempt"], line["status"], line["events"]) == (3, "completed", 3)
    restarts = [line for line in configured if line["event"] == "stream_restarting"]
    assert [line["attempt"] for line in restarts] == [2, 3]
    for line in (*restarts, *ends(configured)):
        assert {"stream_id", "model", "attempt"} <= line.keys()


def test_one_line_for_each_of_many(
    gemini: LocalGemini, manager: StartManager, probe: Probe, configured: Lines
) -> None:
    ref = manager()
    ids = [ref.start_stream("hello", subscriber=probe.ref) for _ in range(20)]
    for _ in ids:
        probe.expect(LAST)
    assert sorted(line["stream_id"] for line in ends(configured)) == sorted(ids)


def test_without_structlog_the_line_goes_to_logging(
    gemini: LocalGemini,
    manager: StartManager,
    probe: Probe,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert not structlog.is_configured()
    ref = manager(retry=ONCE)
    with caplog.at_level(logging.INFO, "gemini_streams"):
        stream_id = ref.start_stream("hello", subscriber=probe.ref)
        last_of(probe)
        ref.tell("nonsense")
        ref.list_streams()
    [line] = [record for record in caplog.records if record.getMessage().startswith("stream_ended")]
    assert line.levelno == logging.INFO
    assert line.name.startswith("gemini_streams")
    for part in (stream_id, "model=", "attempt=1", "status='completed'", "events=", "duration="):
        assert part in line.getMessage()
    assert capfd.readouterr().out == ""


class Blocks(logging.Handler):
    """An application's handler that blocks at its first line."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.gate = threading.Event(), threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.reached.set()
        self.gate.wait(30)


def test_a_handler_that_blocks_holds_up_no_stream_no_time_out_and_no_request(
    gemini: LocalGemini, manager: StartManager, probes: Callable[[], Probe]
) -> None:
    """Lines of an end, of a restart, of a subscriber that is let go, of a refusal: each is logged in another thread."""
    gemini.on("fine", Reply("one two"))
    gemini.on("again", Failure(503), Reply("one two"))
    gemini.on("silent", Reply("one two", hold_after=1))
    logger, blocks = logging.getLogger("gemini_streams"), Blocks()
    logger.addHandler(blocks)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        ref = manager(retry=RetryPolicy(initial_delay=0, jitter=0), shutdown=0.5)
        first, second, third = probes(), probes(), probes()
        ref.start_stream("fine", subscriber=first.ref)
        assert isinstance(last_of(first), StreamComplete)
        assert blocks.reached.wait(20)
        ref.start_stream("again", subscriber=first.ref)
        ref.start_stream("fine", subscriber=second.ref, flow=FlowControl(window=1, overflow="disconnect"))
        ref.start_stream("silent", subscriber=third.ref, deadline=0.2)
        ref.tell("nonsense")
        assert isinstance(first.expect(StreamComplete), StreamComplete)
        second.expect((StreamComplete, StreamError))
        assert isinstance(third.expect(StreamError).error, DeadlineExceededError)
        assert ref.get_stats(timeout=20).restarts == 1
        begun = time.monotonic()
        ref.stop(timeout=20)
        assert time.monotonic() - begun < 5
    finally:
        blocks.gate.set()
        logger.removeHandler(blocks)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True


def test_a_handler_may_ask_the_manager_about_the_stream_that_logs(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    class Asks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said = record.getMessage()
            if said.startswith("stream_ended"):
                stream_id = said.split("stream_id='")[1].split("'")[0]
                statuses.append(ref.get_stream_info(stream_id, timeout=20).status)

    statuses: list[str] = []
    ref = manager()
    logger, asks = logging.getLogger("gemini_streams"), Asks()
    logger.addHandler(asks)
    logger.setLevel(logging.INFO)
    try:
        ref.start_stream("hello", subscriber=probe.ref)
        last_of(probe)
        eventually(lambda: statuses)
    finally:
        logger.removeHandler(asks)
        logger.setLevel(logging.NOTSET)
    assert statuses == ["completed"]


def test_every_value_is_plain(
    gemini: LocalGemini, manager: StartManager, probe: Probe, configured: Lines
) -> None:
    """As JSON renderers that write objects in a way of their own need it."""
    gemini.on("why", Failure(503), Reply("one two", hold_after=1))
    ref = manager(retry=RetryPolicy(initial_delay=0, jitter=0))
    ref.start_stream("why", subscriber=probe.ref)
    probe.expect(StreamEvent)
    kill(ref)
    ref.tell("nonsense")
    ref.list_streams()
    ref.stop(timeout=20)
    reports = [line for line in configured if line["event"] == "supervisor_report"]
    assert [line["reason"] for line in reports if "Killed" in line["reason"]]
    for line in configured:
        line.pop("exc_info", None)
        assert json.loads(json.dumps(line)) == line


@pytest.mark.parametrize(
    ("tag", "shown"),
    [(None, None), (7, 7), ("a tag", "a tag"), ("x" * 999, "x" * 200), ({"prompt": "secret"}, "<a dict>")],
)
def test_a_line_shows_a_tag_and_calls_nothing_of_it(
    gemini: LocalGemini, manager: StartManager, probe: Probe, configured: Lines, tag: Any, shown: Any
) -> None:
    gemini.on("why", Reply("one two"))
    ref = manager()
    ref.start_stream("why", subscriber=probe.ref, tag=tag)
    last_of(probe)
    ref.stop(timeout=20)
    assert [line["tag"] for line in configured if line["event"] == "stream_ended"] == [shown]


PROGRAM = """
    import logging, sys, threading
    import pykka
    from gemini_streams import ManagerActor, RetryPolicy, StreamComplete, StreamError, StreamEvent
    from gemini_streams.testing import Failure, LocalGemini

    class Silent(pykka.ThreadingActor):
        def on_receive(self, message):
            if not isinstance(message, StreamEvent):
                done.release()

    done = threading.Semaphore(0)
    root = logging.getLogger()
    with LocalGemini() as gemini:
        gemini.on("bad", Failure(400))
        manager = ManagerActor.start(endpoint=gemini.endpoint, retry=RetryPolicy(attempts=1))
        subscriber = Silent.start()
        for prompt in ("fine", "bad"):
            manager.start_stream(prompt, subscriber=subscriber)
            assert done.acquire(timeout=20)
        manager.tell("nonsense")
        manager.list_streams()
        subscriber.stop()
        manager.stop()
    assert root.handlers == [] and root.level == logging.WARNING
    assert not logging.getLogger("gemini_streams").handlers
"""


def test_an_application_that_configures_nothing_sees_warnings_alone_and_nothing_on_stdout() -> None:
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    [failed, refused] = run.stderr.splitlines()
    assert failed.startswith("stream_ended")
    assert "code=400" in failed
    assert refused.startswith("request_refused")
