"""Whatever a step of one stream's end raises, that end is complete, other streams end, and requests are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from conftest import StartManager
from gemini_streams import (
    Drain,
    InvalidRequestError,
    ManagerActor,
    ManagerRef,
    StreamCrashedError,
    StreamError,
    StreamEvent,
    StreamStopped,
)
from gemini_streams.delivery.given import Given
from gemini_streams.delivery.subscription import Subscription
from gemini_streams.streams.registry import Sessions
from gemini_streams.streams.session import Session
from gemini_streams.testing import LocalGemini, Reply
from kit.helpers import LAST, eventually
from pykka_supervisor import SYSTEM_CLOCK
from pykka_supervisor.testing import Probe, TestClock

STEPS = [
    (Session, "usage"),
    (Sessions, "ended"),
    (Sessions, "unwatch"),
    (Sessions, "_pass_on"),
    (Sessions, "_tell"),
    (Subscription, "finish"),
]
"""What an end calls."""

WAYS: dict[str, Callable[[ManagerRef, str], Any]] = {
    "StopStream": lambda ref, stream_id: ref.stop_stream(stream_id, timeout=20),
    "Drain": lambda ref, _: ref.ask(Drain(0), timeout=20),
    "manager.stop": lambda ref, _: ref.stop(timeout=8),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("owner", "name"), STEPS, ids=[f"{owner.__name__}.{name}" for owner, name in STEPS])
def test_a_step_that_raises_in_one_end(
    gemini: LocalGemini,
    manager: StartManager,
    probes: Callable[[], Probe],
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    way: str,
) -> None:
    gemini.on("", Reply("one two", hold_after=1))
    ref = manager(shutdown=1.0)
    first, second = probes(), probes()
    stream_id = ref.start_stream("first", subscriber=first.ref)
    others = [ref.start_stream("second", subscriber=second.ref) for _ in range(2)]
    first.wait(1)
    second.wait(2)
    failing = [True]
    original = getattr(owner, name)

    def fails_once(self: Any, *args: Any, **kwargs: Any) -> Any:
        if failing:
            failing.clear()
            raise asyncio.CancelledError("this step")
        return original(self, *args, **kwargs)

    with monkeypatch.context() as broken:
        broken.setattr(owner, name, fails_once)
        WAYS[way](ref, stream_id)
        if name != "finish":  # whose own last message is what fails there
            first.expect(LAST)
    if way != "StopStream":
        for _ in others:
            assert isinstance(second.expect(LAST), StreamStopped)
    else:
        assert ref.get_stream_info(stream_id, timeout=20).status == "stopped"
        assert ref.get_stats(timeout=20).total_streams == 3


def test_a_last_message_that_cannot_be_made_is_told_as_a_crash(
    gemini: LocalGemini, manager: StartManager, probes: Callable[[], Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other subscribers of the same stream have their own."""
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager()
    first, second = probes(), probes()
    stream_id = ref.start_stream("why", subscriber=[first.ref, second.ref])
    first.wait(1)
    second.wait(1)
    events_count, failing = Given.events_count, [True]

    def fails_once(self: Given, attempt: int) -> int:
        if failing:
            failing.clear()
            raise OverflowError("too large")
        return events_count(self, attempt)

    monkeypatch.setattr(Given, "events_count", fails_once)
    assert ref.stop_stream(stream_id)
    told = first.expect(StreamError)
    assert isinstance(told.error, StreamCrashedError)
    assert told.events_count == 1
    assert isinstance(second.expect(StreamStopped), StreamStopped)


def test_a_slot_is_free_where_the_table_could_not_launch_the_next_stream(
    gemini: LocalGemini, manager: StartManager, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager(max_streams=1)
    stream_id = ref.start_stream("why", subscriber=probe.ref)
    probe.wait(1)
    with monkeypatch.context() as broken:

        def fails(self: Sessions, message: Any) -> None:
            raise OverflowError

        broken.setattr(Sessions, "_tell", fails)
        ref.stop_stream(stream_id)
    ref.start_stream("why", subscriber=probe.ref, timeout=20)
    probe.expect(StreamEvent)


class _Raises:
    """An object that raises when it is read, as a cancelled task's may."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __iter__(self) -> Any:
        raise self.error

    def __len__(self) -> int:
        raise self.error

    def __getitem__(self, key: Any) -> Any:
        raise self.error

    def __hash__(self) -> int:
        raise self.error

    def __eq__(self, other: object) -> bool:
        raise self.error

    def __getattr__(self, name: str) -> Any:
        raise self.error

    def __contains__(self, item: object) -> bool:
        raise self.error


@pytest.mark.parametrize("part", ["contents", "config", "endpoint", "subscriber", "stream_id", "after"])
def test_an_object_of_a_request_that_raises_is_answered_to_the_asker(
    gemini: LocalGemini, manager: StartManager, probe: Probe, part: str
) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager(history=1 << 16)
    running = ref.start_stream("why", subscriber=probe.ref)
    errors: list[type[BaseException]] = [asyncio.CancelledError, SystemExit, RuntimeError]
    if part == "after":  # the others are read in the asker's own thread: there a Ctrl-C is the program's
        errors.append(KeyboardInterrupt)
    for error in errors:
        raises: Any = _Raises(error)
        options: dict[str, Any] = {"contents": "why", "subscriber": probe.ref}
        with pytest.raises((InvalidRequestError, RuntimeError)):
            if part == "after":
                ref.subscribe_stream(running, probe.ref, after=raises, timeout=20)
            else:
                options[part] = [raises] if part == "contents" else raises
                ref.start_stream(options.pop("contents"), timeout=20, **options)
    assert ref.get_stats(timeout=20).started == 1
    assert ref.is_alive()
    eventually(lambda: any(isinstance(message, StreamEvent) for message in probe.messages))


class _Text(str):
    """A string that an application may give a name as; what compares it fails."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise SystemExit

    def __ne__(self, other: object) -> bool:
        raise SystemExit

    def __hash__(self) -> int:
        raise SystemExit


def test_names_are_plain_strings(gemini: LocalGemini, manager: StartManager, probe: Probe) -> None:
    """They are keys of tables, which are looked up with a lock held."""
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager()
    stream_id = ref.start_stream(
        "why", subscriber=probe.ref, stream_id=_Text("mine"), model=_Text("gemini-test")
    )
    assert type(stream_id) is str
    assert stream_id == "mine"
    assert type(probe.expect(StreamEvent).stream_id) is str
    assert ref.get_stream_info(_Text("mine")).status == "active"
    assert ref.stop_stream(_Text("mine"))
    assert isinstance(probe.expect(StreamStopped), StreamStopped)


class _Session:
    """As far as the table looks at one. What it holds may run code of the application's when it is let go."""

    slot, patient, ref, events_count, status = False, False, None, 0, "completed"

    def __init__(self, stream_id: str, let_go: Callable[[], object]) -> None:
        self.stream_id = stream_id
        self.let_go = let_go

    def __del__(self) -> None:
        self.let_go()


@pytest.mark.parametrize("way", ["linger", "end of the tree"])
def test_what_a_stream_lets_go_runs_under_no_lock(way: str) -> None:
    clock, locked = TestClock(), list[bool]()
    table = Sessions(max_streams=5, max_waiting=0, linger=5.0, clock=clock)
    for number in range(3):
        session: Any = _Session(f"{number}", lambda: locked.append(table._lock.locked()))
        table.add(session)
        table.ended(session, idle=False)
    del session
    assert not locked
    if way == "linger":
        clock.advance(6.0)
    else:
        table.forget_all()
    assert locked == [False] * 3


@pytest.mark.parametrize(
    "clock", [None, "now", object(), type("Own", (), dict.fromkeys(("monotonic", "time", "call_later")))()]
)
def test_a_manager_takes_no_clock_of_an_application_s_own(clock: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"SYSTEM_CLOCK or a .*TestClock"):
        ManagerActor.start(clock=clock)


def test_the_systems_clock_and_a_tests_clock_are_taken(manager: StartManager) -> None:
    for clock in (SYSTEM_CLOCK, TestClock()):
        manager(clock=clock).stop(timeout=20)
