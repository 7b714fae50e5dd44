"""What all tests share: nothing may be left behind, and the actors to test with."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

import pytest
from hypothesis import settings

from gemini_streams import ManagerActor, ManagerRef
from gemini_streams.testing import LocalGemini
from kit.helpers import BatchProbe
from kit.leftovers import Before
from pykka_supervisor.testing import Probe, TestClock, flush_logs

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that runs the tests in the background has them ignore Ctrl-C, and so would every program they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


settings.register_profile("crowded", deadline=None)  # how long one example takes is the machine's business
settings.load_profile("crowded")


class StartManager(Protocol):
    """The fixture `manager`: starts one with these options, on the local Gemini, and ends it after the test."""

    def __call__(self, *, endpoint: Any = ..., **options: Any) -> ManagerRef: ...


def pytest_collection_finish() -> None:
    """Spare the modules and tests themselves: each `gc.collect()` looks at what the tests have made, and is quick."""
    gc.collect()
    gc.freeze()


ONE_SERVER_A_MODULE = frozenset({"test_interaction_request", "test_request_like_google"})
"""Google's client keeps its connection, and a server its thread, from one test of these modules to the next."""


class FlushedLog:
    """pytest's `caplog`; each look at it waits until what was logged before is written."""

    def __init__(self, log: pytest.LogCaptureFixture) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        flush_logs()
        return getattr(self._log, name)


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    return cast("pytest.LogCaptureFixture", FlushedLog(caplog))


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """No thread, descriptor or actor outlives a test, and the process's logging is as it was."""
    if request.path.stem in ONE_SERVER_A_MODULE:
        yield
        return
    before = Before()
    yield
    flush_logs()
    before.check()


@pytest.fixture
def gemini() -> Iterator[LocalGemini]:
    with LocalGemini() as server:
        yield server


@pytest.fixture
def tls_gemini() -> Iterator[LocalGemini]:
    with LocalGemini(tls=True) as server:
        yield server


@pytest.fixture
def clock() -> TestClock:
    return TestClock()


@pytest.fixture
def manager(gemini: LocalGemini) -> Iterator[StartManager]:
    started: list[ManagerRef] = []

    def start(*, endpoint: Any = gemini.endpoint, **options: Any) -> ManagerRef:
        ref = ManagerActor.start(endpoint=endpoint, **options)
        started.append(ref)
        return ref

    yield start
    for ref in started:
        if ref.is_alive():
            ref.stop(timeout=20)


@pytest.fixture
def probes() -> Iterator[Callable[[], Probe]]:
    """Make plain subscribers; they are stopped after the test."""
    made: list[Probe] = []

    def make() -> Probe:
        made.append(Probe())
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def probe(probes: Callable[[], Probe]) -> Probe:
    """A plain actor that subscribes."""
    return probes()


@pytest.fixture
def batch_probe() -> Iterator[BatchProbe]:
    """A `SubscriberActor` that subscribes."""
    with BatchProbe() as made:
        yield made
