"""The pytest plugin, as it is installed: suites of applications that use it, each run by a pytest of its own."""

from __future__ import annotations

import os
import re

import pytest

from kit.command import KEYS

pytest_plugins = ["pytester"]

HEAD = """
import sys, threading
import pytest
"""

SUITE = """
from gemini_streams import MaxStreamsExceededError, StreamComplete, StreamRestarting
from gemini_streams.testing import Failure, Reply

def test_an_answer(local_gemini, gemini_manager, gemini_probe):
    local_gemini.on("sky", Reply("Blue."))
    gemini_manager.start_stream("sky", subscriber=gemini_probe.ref)
    assert gemini_probe.expect(StreamComplete).ok

def test_a_wait_of_a_minute_takes_no_time(gemini_manager, gemini_clock, local_gemini, gemini_probe):
    local_gemini.on("sky", Failure(429, retry_delay="60s"), Reply("Blue."))
    gemini_manager.start_stream("sky", subscriber=gemini_probe.ref)
    delay = gemini_probe.expect(StreamRestarting).delay
    gemini_clock.wait_for_timer(within=delay)
    gemini_clock.advance(delay)
    assert gemini_probe.expect(StreamComplete).ok

def test_a_stream_that_only_the_probe_reads_is_not_left(gemini_probe, gemini_manager, local_gemini):
    local_gemini.on("sky", Reply("Blue air.", hold_after=1))
    gemini_manager.start_stream("sky", subscriber=gemini_probe.ref)
    local_gemini.gate("sky").reached()

def test_the_manager_may_be_stopped(gemini_manager, local_gemini, gemini_probe):
    local_gemini.on("sky", Reply("Blue air.", hold_after=1))
    gemini_manager.start_stream("sky", subscriber=gemini_probe.ref, keep=60)
    gemini_manager.stop()

@pytest.mark.gemini(max_streams=2, model="models/mine")
class TestMarks:
    @pytest.mark.gemini(max_streams=1)
    def test_the_nearest_mark_wins_and_the_others_add_up(self, gemini_manager, gemini_probe, local_gemini):
        assert gemini_manager.get_stats().max_streams == 1
        local_gemini.on("sky", Reply("Blue.", hold_after=0))
        gemini_manager.start_stream("sky", subscriber=gemini_probe.ref)
        with pytest.raises(MaxStreamsExceededError):
            gemini_manager.start_stream("sea", subscriber=gemini_probe.ref)
        local_gemini.gate("sky").open()
        gemini_probe.expect(StreamComplete)
        assert local_gemini.requests[0].model == "mine"

    def test_a_class_marks_its_tests(self, gemini_manager):
        assert gemini_manager.get_stats().max_streams == 2

def test_without_a_mark(gemini_manager):
    assert gemini_manager.get_stats().max_streams == 100
"""


@pytest.fixture(autouse=True)
def no_settings_of_this_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*KEYS, *(name for name in os.environ if name.startswith("PYTEST_"))):
        monkeypatch.delenv(name, raising=False)


def run(pytester: pytest.Pytester, suite: str, *arguments: str) -> pytest.RunResult:
    pytester.makepyfile(test_suite=HEAD + suite)
    return pytester.runpytest_subprocess(
        "-W", "error", "-p", "no:cacheprovider", "--strict-markers", *arguments, timeout=60
    )


def test_a_suite_that_uses_all_of_it(pytester: pytest.Pytester) -> None:
    run(pytester, SUITE).assert_outcomes(passed=7)


def test_it_is_there_without_being_asked_for_and_imports_nothing_until_then(
    pytester: pytest.Pytester,
) -> None:
    suite = """
    HEAVY = {"gemini_streams", "pykka_supervisor", "pykka", "requests", "msgspec", "structlog"}

    def test_nothing_is_imported():
        assert "gemini_streams_pytest" in sys.modules
        assert HEAVY & set(sys.modules) == set()

    def test_a_fixture_imports_it(local_gemini):
        assert HEAVY <= set(sys.modules)
    """
    run(pytester, suite.replace("\n    ", "\n")).assert_outcomes(passed=2)


LEFT = {
    "an actor": (
        """
def test_it(gemini_manager):
    global actor
    from pykka_supervisor.testing import Probe
    actor = Probe().ref
""",
        "actor _Inbox, thread _Inbox*",
    ),
    "a thread": (
        """
def test_it(local_gemini):
    threading.Thread(target=threading.Event().wait, name="mine", daemon=True).start()
""",
        "thread mine",
    ),
    "a server": (
        """
def test_it(gemini_probe):
    from gemini_streams.testing import LocalGemini
    global server
    server = LocalGemini().start()
""",
        "thread LocalGemini",
    ),
    "a manager": (
        """
def test_it(local_gemini):
    from gemini_streams import ManagerActor
    global actor
    actor = ManagerActor.start(endpoint=local_gemini.endpoint)
""",
        "*actor ManagerActor*",
    ),
    "a stream": (
        """
def test_it(local_gemini, gemini_manager, gemini_probe):
    from gemini_streams.testing import Reply
    local_gemini.on("sky", Reply("Blue air.", hold_after=1))
    gemini_manager.start_stream("sky", subscriber=gemini_probe.ref, keep=60, stream_id="mine")
    local_gemini.gate("sky").reached()
""",
        "stream mine (active)",
    ),
    "a stream of an actor of its own": (
        """
def test_it(local_gemini, gemini_manager):
    from gemini_streams import StreamEvent
    from gemini_streams.testing import Reply
    from pykka_supervisor.testing import Probe
    global probe
    probe = Probe()
    local_gemini.on("sky", Reply("Blue air.", hold_after=1))
    gemini_manager.start_stream("sky", subscriber=probe.ref, stream_id="mine")
    probe.expect(StreamEvent)
""",
        "stream mine (active)",
    ),
}


@pytest.mark.parametrize(
    "what",
    [pytest.param(each, marks=[] if each in ("a thread", "a stream") else pytest.mark.long) for each in LEFT],
)
def test_a_test_that_leaves_something_fails_and_the_next_one_does_not(
    pytester: pytest.Pytester, what: str
) -> None:
    code, said = LEFT[what]
    following = """
def test_next(gemini_manager, gemini_probe):
    assert gemini_manager.get_stats().total_streams == 0
    assert sum(t.name.startswith("ManagerActor") for t in threading.enumerate()) == 1
"""
    result = run(pytester, code + following, "-o", "gemini_patience=1")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines([f"test_it left behind: {said}"])
    assert (
        len(result.stdout.get_lines_after("*ERRORS*")) < 30
    )  # a line that names it, and no trace of the plugin


def test_a_wait_that_a_quota_imposes_ends_with_its_test(pytester: pytest.Pytester) -> None:
    """A manager of the whole session: a 429 in one test would hold the next test's streams back."""
    suite = """
import time
from gemini_streams import ManagerActor, RetryPolicy, StreamComplete, StreamError
from gemini_streams.testing import Failure, LocalGemini, Reply

@pytest.fixture(scope="session")
def server():
    with LocalGemini() as server:
        yield server

@pytest.fixture(scope="session")
def manager(server):
    manager = ManagerActor.start(endpoint=server.endpoint, retry=RetryPolicy(max_retry_after=1.0))
    yield manager
    manager.stop()

def test_it(server, manager, gemini_probe):
    server.on("sky", Failure(429, retry_delay="50s"))
    manager.start_stream("sky", subscriber=gemini_probe.ref)
    gemini_probe.expect(StreamError)

def test_next(server, manager, gemini_probe):
    server.on("sky", Reply("Blue."))
    manager.start_stream("sky", subscriber=gemini_probe.ref, retry=RetryPolicy())  # it would wait for all of the 50 s
    assert gemini_probe.expect((StreamComplete, StreamError)).ok
"""
    result = run(pytester, suite, "-o", "gemini_patience=1")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["test_it left behind: *a wait that a quota has imposed on other streams"])


def test_what_was_there_before_and_what_is_spared_may_stay(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\ngemini_spared_threads =\n    pool-*\n    watcher\n")
    suite = """
from gemini_streams.testing import Reply
from gemini_streams import ManagerActor, StreamComplete

def thread(name):
    event = threading.Event()
    threading.Thread(target=event.wait, name=name, daemon=True).start()
    return event

@pytest.fixture(scope="module")
def of_the_module():
    event = thread("of the module")
    yield
    event.set()

@pytest.fixture
def application(local_gemini):
    manager = ManagerActor.start(endpoint=local_gemini.endpoint)
    yield manager
    manager.stop()

def test_it(application, gemini_probe, of_the_module):
    thread("pool-1")
    thread("watcher")
    application.start_stream("sky", subscriber=gemini_probe.ref)
    gemini_probe.expect(StreamComplete)

def test_what_uses_no_fixture_is_not_looked_at():
    thread("anything")
"""
    run(pytester, suite).assert_outcomes(passed=2)


def test_an_error_of_the_suites_own_teardown_is_the_one_that_is_told(pytester: pytest.Pytester) -> None:
    suite = """
@pytest.fixture
def broken(local_gemini):
    yield
    threading.Thread(target=threading.Event().wait, name="mine", daemon=True).start()
    raise ValueError("the suite's own")

def test_it(broken):
    pass
"""
    result = run(pytester, suite, "-o", "gemini_patience=1")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*ValueError: the suite's own"])
    result.stdout.no_fnmatch_line("*left behind*")


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ("max_streams=0", "*InvalidRequestError: max_streams*"),
        ("max_stream=1", "*max_stream*"),
        ("2", "*@pytest.mark.gemini takes options by name alone*"),
    ],
)
def test_a_mark_that_is_wrong_is_told(pytester: pytest.Pytester, mark: str, said: str) -> None:
    result = run(pytester, f"@pytest.mark.gemini({mark})\ndef test_it(gemini_manager):\n    pass\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([said])


def test_pytest_lists_the_fixtures_and_the_marker(pytester: pytest.Pytester) -> None:
    fixtures = pytester.runpytest_subprocess("--fixtures").stdout.str()
    for name in ("local_gemini", "gemini_manager", "gemini_probe", "gemini_clock"):
        described = re.search(rf"(?m)^{name} -- .*\n    (.*)$", fixtures)
        assert described is not None, name
        assert described[1].endswith(".") or described[1].endswith(","), described
    pytester.runpytest_subprocess("--markers").stdout.fnmatch_lines(["@pytest.mark.gemini(*): *"])


def test_it_can_be_left_out(pytester: pytest.Pytester) -> None:
    result = run(pytester, "def test_it(local_gemini):\n    pass\n", "-p", "no:gemini_streams")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'local_gemini' not found"])
