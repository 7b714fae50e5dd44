"""The pytest plugin: fixtures for tests of applications that use `gemini_streams`. docs/testing.md is its guide.

The rules:

- pytest imports this module in every project that `gemini_streams` is installed in. So the module is no part of that
  package, and imports it only when a test uses a fixture.
- A test that uses a fixture leaves nothing: no thread, no actor, no stream, no wait that a quota has imposed. What is
  left is an error of that test's teardown, and is ended, as far as it can be, before the next test.
- What there was before the first of these fixtures is not looked at. Neither is what fixtures of a wider scope made:
  pytest sets them up first.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gemini_streams import ManagerRef
    from gemini_streams.testing import LocalGemini
    from gemini_streams.testing.leftovers import Before
    from pykka_supervisor.testing import Probe, TestClock

__all__ = ["gemini_clock", "gemini_manager", "gemini_probe", "local_gemini"]

_MARKER = "gemini(**options): options of the fixture `gemini_manager`, as ManagerActor.start takes them"
_SPARED = "gemini_spared_threads"
_SPARED_HELP = (
    "names (or patterns, as worker-*) of threads that a test with gemini_streams' fixtures may leave"
)
_before: pytest.StashKey[Before] = pytest.StashKey()
_PATIENCE = "gemini_patience"
_PATIENCE_HELP = "seconds that what such a test began has for its end, once its fixtures have ended (5)"
_STOP = 20.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the settings of the configuration file."""
    parser.addini(_SPARED, _SPARED_HELP, type="linelist", default=[])
    parser.addini(_PATIENCE, _PATIENCE_HELP, default="5")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", _MARKER)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    """Look, once all fixtures of the test have ended, at what it leaves."""
    try:
        result = yield
    except BaseException:
        _end_what_is_left(item)  # the error that is there already is the one to tell
        raise
    left = _end_what_is_left(item)
    if left:
        pytest.fail(f"{item.name} left behind: {', '.join(left)}", pytrace=False)
    return result


def _end_what_is_left(item: pytest.Item) -> list[str]:
    before = item.stash.get(_before, None)
    if before is None:
        return []
    del item.stash[_before]
    patterns = item.config.getini(_SPARED)
    return before.end_what_is_left(
        lambda name: any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns), _patience(item)
    )


def _patience(item: pytest.Item) -> float:
    given = item.config.getini(_PATIENCE)
    try:
        return float(given)
    except ValueError:
        raise pytest.UsageError(f"{_PATIENCE} is a number of seconds, not {given!r}") from None


@pytest.fixture
def _gemini_before(request: pytest.FixtureRequest) -> None:
    """See what there is before the test's own fixtures; every fixture of this module asks for this one."""
    from gemini_streams.testing.leftovers import Before  # noqa: PLC0415 - see the module's first rule

    request.node.stash[_before] = Before()


@pytest.fixture
def _gemini_probes(_gemini_before: None) -> Iterator[list[Probe]]:
    """Keep the test's probe; it ends before the manager looks at its streams."""
    made: list[Probe] = []
    yield made
    for probe in made:
        probe.stop()


@pytest.fixture
def local_gemini(_gemini_before: None) -> Iterator[LocalGemini]:
    """Run a `LocalGemini`, a Gemini on loopback, for the test."""
    from gemini_streams.testing import LocalGemini  # noqa: PLC0415 - see the module's first rule

    with LocalGemini() as server:
        yield server


@pytest.fixture
def gemini_clock(_gemini_before: None) -> TestClock:
    """Make a `TestClock`. Where a test asks for it and for `gemini_manager`, it is the manager's clock."""
    from pykka_supervisor.testing import TestClock  # noqa: PLC0415 - see the module's first rule

    return TestClock()


@pytest.fixture
def gemini_probe(_gemini_probes: list[Probe]) -> Probe:
    """Start a `Probe`, a subscriber to look into."""
    from pykka_supervisor.testing import Probe  # noqa: PLC0415 - see the module's first rule

    probe = Probe()
    _gemini_probes.append(probe)
    return probe


@pytest.fixture
def gemini_manager(
    request: pytest.FixtureRequest, local_gemini: LocalGemini, _gemini_probes: list[Probe]
) -> Iterator[ManagerRef]:
    """Start a manager on `local_gemini`, with the options of the test's `@pytest.mark.gemini(...)`.

    The marks of a test, its class and its module add up; the nearest one wins. A stream that still runs at the test's
    end, though the probe has left it, is an error.
    """
    from gemini_streams import ManagerActor  # noqa: PLC0415 - see the module's first rule
    from gemini_streams.testing.leftovers import streams_left  # noqa: PLC0415 - see the module's first rule

    options = _options(request.node)
    options.setdefault("endpoint", local_gemini.endpoint)
    if "gemini_clock" in request.fixturenames:
        options.setdefault("clock", request.getfixturevalue("gemini_clock"))
    manager = ManagerActor.start(**options)
    yield manager
    for probe in _gemini_probes:
        probe.stop()
    left = streams_left(manager, _patience(request.node))
    manager.stop(timeout=_STOP)
    if left:
        pytest.fail(f"{request.node.name} left behind: {', '.join(left)}", pytrace=False)


def _options(item: pytest.Item) -> dict[str, Any]:
    """Return the options of a test's marks, the nearest mark first."""
    options: dict[str, Any] = {}
    for mark in item.iter_markers("gemini"):
        if mark.args:
            raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.gemini takes options by name alone")
        options = {**mark.kwargs, **options}
    return options
