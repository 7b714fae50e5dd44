"""`concurrency`: so many streams of one key at once at one endpoint; the others are queued, and cost no thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from conftest import StartManager
from gemini_streams import (
    DeadlineExceededError,
    Gemini,
    GetStats,
    InvalidRequestError,
    ManagerRef,
    MaxStreamsExceededError,
    RetryPolicy,
    StartStream,
    StreamStopped,
    answers,
)
from gemini_streams.testing import Failure, LocalGemini, Reply
from kit.helpers import LAST, error_of, eventually, last_of
from pykka_supervisor.testing import Probe, TestClock, kill


class Counted:
    """Answers that count how many are under way at once, by model and key."""

    def __init__(self) -> None:
        self.most: dict[Any, int] = {}

    def watch(self, gemini: LocalGemini) -> None:
        """Look at what is open whenever a request comes."""

        def answer(record: Any) -> Reply:
            kind = (record.model, record.key_number)
            others = [r for r in gemini.requests if (r.model, r.key_number) == kind and r.closed_at is None]
            self.most[kind] = max(self.most.get(kind, 0), len(others))
            return Reply("one two three", pace=0.002)

        gemini.on("why", answer)


def ends_of(probe: Probe, count: int) -> list[Any]:
    return [probe.expect(LAST) for _ in range(count)]


def held(gemini: LocalGemini) -> None:
    gemini.on("why", Reply("one two", hold_after=1))


def statuses(ref: ManagerRef) -> dict[Any, int]:
    return ref.get_stats().streams_by_status


def test_never_more_than_the_limit_run_at_once(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.keys = ("local-key", "second-key")
    counted = Counted()
    counted.watch(gemini)
    ref = manager(max_streams=300, concurrency={"gemini-a": 3, "models/gemini-b": 1})
    second = Gemini("second-key", gemini.url)
    for number in range(120):
        model = ("gemini-a", "models/gemini-a", "gemini-b")[number % 3]
        endpoint = second if number % 2 else gemini.endpoint
        ref.start_stream("why", subscriber=probe.ref, model=model, endpoint=endpoint)
    assert all(last.ok for last in ends_of(probe, 120))
    assert counted.most == {
        ("gemini-a", 0): 3,
        ("gemini-a", 1): 3,
        ("gemini-b", 0): 1,
        ("gemini-b", 1): 1,
    }


def test_the_others_are_queued_and_have_no_thread(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    held(gemini)
    ref = manager(max_streams=50, concurrency={"gemini-a": 2})
    ids = [ref.start_stream("why", subscriber=probe.ref, model="gemini-a") for _ in range(30)]
    gemini.wait_request(2)
    infos = [ref.get_stream_info(stream_id) for stream_id in ids]
    assert [info.status == "queued" for info in infos] == [False] * 2 + [True] * 28
    assert [info.stream_ref is None for info in infos] == [False] * 2 + [True] * 28
    actors = [thread for thread in threading.enumerate() if thread.name.startswith("StreamActor")]
    assert len(actors) == 2
    stats = ref.ask(GetStats())
    assert stats.streams_by_status["queued"] == 28
    assert stats.concurrency_running == {"gemini-a": 2}
    assert stats.concurrency_queued == {"gemini-a": 28}
    gemini.gate("why").open()
    assert all(last.ok for last in ends_of(probe, 30))
    assert [record.model for record in gemini.requests] == ["gemini-a"] * 30
    stats = ref.ask(GetStats())
    assert (stats.concurrency_running, stats.concurrency_queued) == ({"gemini-a": 0}, {"gemini-a": 0})


def test_one_keys_line_holds_no_other_key_up(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    held(gemini)
    ref = manager(concurrency={"gemini-a": 1, "batch": 1})
    for _ in range(20):
        ref.start_stream("why", subscriber=probe.ref, model="gemini-a")
    other = ref.start_stream("hello", subscriber=probe.ref, model="gemini-b")
    assert last_of(probe, other).ok
    own = ref.start_stream("hello", subscriber=probe.ref, model="gemini-a", concurrency_key="batch")
    assert last_of(probe, own).ok
    free = ref.start_stream("hello", subscriber=probe.ref, model="gemini-a", concurrency_key="no limit")
    assert last_of(probe, free).ok
    gemini.gate("why").open()
    assert all(last.ok for last in ends_of(probe, 20))


def test_a_queued_stream_holds_its_slot(gemini: LocalGemini, manager: StartManager, probe: Probe) -> None:
    held(gemini)
    ref = manager(max_streams=3, concurrency={"gemini-a": 1})
    for _ in range(3):
        ref.start_stream("why", subscriber=probe.ref, model="gemini-a")
    with pytest.raises(MaxStreamsExceededError):
        ref.start_stream("why", subscriber=probe.ref, model="gemini-b")
    gemini.gate("why").open()
    assert all(last.ok for last in ends_of(probe, 3))


@pytest.mark.parametrize("waits_for", ["a place", "a slot"])
def test_when_a_deadline_begins(
    gemini: LocalGemini, manager: StartManager, probe: Probe, clock: TestClock, waits_for: str
) -> None:
    held(gemini)
    options: dict[str, Any] = (
        {"concurrency": {"gemini-a": 1}} if waits_for == "a place" else {"max_streams": 1, "max_waiting": 1}
    )
    ref = manager(clock=clock, model="gemini-a", idle_timeout=1e6, first_event_timeout=1e6, **options)
    ref.start_stream("why", subscriber=probe.ref)
    gemini.wait_request()
    second = ref.start_stream("hello", subscriber=probe.ref, deadline=10.0, keep=1000)
    assert ref.get_stream_info(second).status == "queued"
    ref.unsubscribe_stream(second, probe.ref)  # its timer is set for `keep`
    ref.subscribe_stream(second, probe.ref)
    clock.advance(60)
    if waits_for == "a slot":
        assert isinstance(error_of(probe, second), DeadlineExceededError)
        gemini.gate("why").open()
        return
    assert ref.get_stream_info(second).status == "queued"
    gemini.gate("why").open()
    lasts = {last.stream_id: last for last in ends_of(probe, 2)}
    assert lasts[second].ok
    assert lasts[second].duration < 10


ENDS: dict[str, Callable[[LocalGemini, ManagerRef, str], object]] = {
    "whole": lambda gemini, ref, stream_id: gemini.gate("why").open(),
    "stopped": lambda gemini, ref, stream_id: ref.stop_stream(stream_id),
}


@pytest.mark.parametrize("how", ENDS)
def test_an_end_launches_the_next(gemini: LocalGemini, manager: StartManager, probe: Probe, how: str) -> None:
    held(gemini)
    ref = manager(concurrency={"gemini-a": 1}, model="gemini-a")
    first = ref.start_stream("why", subscriber=probe.ref)
    gone = ref.start_stream("gone", subscriber=probe.ref)
    following = ref.start_stream("following", subscriber=probe.ref)
    gemini.wait_request()
    assert ref.stop_stream(gone)
    ENDS[how](gemini, ref, first)
    lasts = {last.stream_id: last for last in ends_of(probe, 3)}
    assert lasts[following].ok
    assert isinstance(lasts[gone], StreamStopped)
    assert "gone" not in [record.text for record in gemini.requests]


@pytest.mark.parametrize("failure", [Failure(400), Failure(503), Reply("one two", end="cut", end_after=1)])
def test_a_failure_launches_the_next(
    gemini: LocalGemini, manager: StartManager, probe: Probe, failure: Any
) -> None:
    gemini.on("why", failure)
    ref = manager(
        concurrency={"gemini-a": 1},
        model="gemini-a",
        retry=RetryPolicy(attempts=2, initial_delay=0.001, jitter=0),
    )
    for _ in range(10):
        ref.start_stream("why", subscriber=probe.ref)
    assert not any(last.ok for last in ends_of(probe, 10) if hasattr(last, "ok"))
    ref.start_stream("hello", subscriber=probe.ref)
    assert last_of(probe).ok


def test_a_killed_actors_stream_keeps_its_place(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    held(gemini)
    ref = manager(
        concurrency={"gemini-a": 1}, model="gemini-a", retry=RetryPolicy(initial_delay=0.001, jitter=0)
    )
    first = ref.start_stream("why", subscriber=probe.ref)
    second = ref.start_stream("hello", subscriber=probe.ref)
    gemini.wait_request()
    stream_ref: Any = ref.get_stream_info(first).stream_ref
    kill(stream_ref)
    gemini.wait_request(2)
    assert ref.get_stream_info(second).status == "queued"
    gemini.gate("why").open()
    lasts = ends_of(probe, 2)
    assert [last.stream_id for last in lasts] == [first, second]
    assert all(last.ok for last in lasts)


def test_the_end_of_the_manager_launches_none(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    held(gemini)
    ref = manager(concurrency={"gemini-a": 1}, model="gemini-a")
    for _ in range(10):
        ref.start_stream("why", subscriber=probe.ref)
    gemini.wait_request()
    ref.stop(timeout=20)
    assert {last.reason for last in ends_of(probe, 10)} == {"shutdown"}
    assert len(gemini.requests) == 1


def test_answers_keep_to_the_limit(gemini: LocalGemini, manager: StartManager) -> None:
    counted = Counted()
    counted.watch(gemini)
    ref = manager(concurrency={"gemini-a": 2}, model="gemini-a")
    told = list(answers(ref, [StartStream("why", tag=number) for number in range(20)], at_once=10))
    assert sorted(request.tag for request, answer in told if answer.error is None) == list(range(20))
    assert counted.most == {("gemini-a", 0): 2}


@pytest.fixture
def other() -> Iterator[LocalGemini]:
    with LocalGemini() as server:
        yield server


def test_a_stream_that_moves_on_waits_for_a_place_there(
    gemini: LocalGemini, other: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    other.on("why", Reply("one two", hold_after=1))
    gemini.on("moves", Failure(503))
    ref = manager(concurrency={"gemini-a": 1}, model="gemini-a")
    first = ref.start_stream("why", subscriber=probe.ref, endpoint=other.endpoint)
    other.wait_request()
    moving = ref.start_stream("moves", subscriber=probe.ref, endpoint=[gemini.endpoint, other.endpoint])
    eventually(lambda: ref.get_stats().concurrency_queued == {"gemini-a": 1})
    behind = ref.start_stream(
        "hello", subscriber=probe.ref, endpoint=gemini.endpoint
    )  # its place there is free
    assert last_of(probe, behind).ok
    assert len(other.requests) == 1
    other.gate("why").open()
    lasts = ends_of(probe, 2)
    assert [last.stream_id for last in lasts] == [first, moving]
    assert all(last.ok for last in lasts)


@pytest.mark.parametrize(
    "concurrency", [5, ["gemini-a"], {"gemini-a": 0}, {"gemini-a": 1.5}, {"gemini-a": None}, {5: 5}, {"": 5},
                    {"gemini-a": 1, "models/gemini-a": 2}],
)  # fmt: skip
def test_limits_that_cannot_be_right(manager: StartManager, concurrency: Any) -> None:
    with pytest.raises(InvalidRequestError, match="concurrency"):
        manager(concurrency=concurrency)


@pytest.mark.parametrize("key", ["", 5, b"x", ["a"]])
def test_keys_that_cannot_be_right(manager: StartManager, probe: Probe, key: Any) -> None:
    with pytest.raises(InvalidRequestError, match="concurrency_key"):
        manager().start_stream("why", subscriber=probe.ref, concurrency_key=key)
