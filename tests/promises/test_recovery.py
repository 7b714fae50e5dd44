"""What linked subscribers are told of a restart, and when the policy gives up."""

from __future__ import annotations

import pickle
import threading
import time
from typing import Any, cast

import pytest

from gemini_streams import (
    FROM_START,
    APIError,
    ConnectionLostError,
    DeadlineExceededError,
    FirstEventTimeoutError,
    GeminiStreamsError,
    RetryPolicy,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
)
from gemini_streams.streams.registry import StartSession
from gemini_streams.testing import Failure, Reply
from kit.helpers import eventually
from kit.scene import LAST, STEADY, Scene, texts
from pykka_supervisor.cell import Cell
from pykka_supervisor.testing import TestClock, await_restart, kill

TEXT = "one two three four five six"
CUT = Reply(TEXT, end="cut", end_after=2)
WHOLE = Reply(TEXT)


def code_of(last: StreamError) -> int:
    assert isinstance(last.error, APIError)
    return last.error.code


def test_a_restart_says_what_where_and_when() -> None:
    with Scene(clock=TestClock(), retry=STEADY) as scene:
        scene.gemini.on("why", Failure(503, "busy"), CUT, WHOLE)
        stream_id, probe = scene.start(tag=("a", "tag"))
        distances, last = scene.ride(stream_id, probe)
        first, second = (m for m in probe.messages if isinstance(m, StreamRestarting))
        assert (first.attempt, first.resume_at, first.delay, first.discard) == (2, 0, 0.5, False)
        assert isinstance(first.error, APIError)
        assert (second.attempt, second.resume_at, second.delay, second.discard) == (3, 0, 1.0, True)
        assert isinstance(second.error, ConnectionLostError)
        assert {m.tag for m in probe.messages} == {("a", "tag")}
        assert pickle.loads(pickle.dumps(second)) is not None
        assert (last.attempts, last.events_count, last.ok) == (3, 6, True)
        assert distances == [0.5, 1.0]
        assert texts(probe.messages) == TEXT
        info = scene.manager.get_stream_info(stream_id)
        assert (info.status, info.attempt, info.events_count) == ("completed", 3, 8)
        assert scene.manager.get_stats().restarts == 2


def test_each_subscriber_is_told_what_is_void_for_it() -> None:
    with Scene() as scene:
        scene.gemini.on("why", Reply(TEXT, hold_after=2, end="cut", end_after=3), WHOLE)
        stream_id, early = scene.start()
        early.expect(StreamEvent)
        early.expect(StreamEvent)
        late = scene.probe(first=None)
        scene.manager.subscribe_stream(stream_id, late.ref)
        scene.gemini.gate("why").open()
        early.expect(StreamComplete)
        late.expect(StreamComplete)
        assert [m.sequence for m in late.messages if isinstance(m, StreamEvent)] in (
            [2, 0, 1, 2, 3, 4, 5],
            [0, 1, 2, 3, 4, 5],
        )


def test_one_that_joins_during_restarting_gets_the_new_attempt_whole_and_nothing_of_the_old() -> None:
    clock = TestClock()
    with Scene(clock=clock, retry=STEADY) as scene:
        scene.gemini.on("why", CUT, WHOLE)
        stream_id, early = scene.start(history=100_000)
        early.expect(StreamRestarting)
        scene.await_status(stream_id, "restarting")
        live, replaying = scene.probe(first=None), scene.probe(first=None)
        scene.manager.subscribe_stream(stream_id, live.ref)
        scene.manager.subscribe_stream(stream_id, replaying.ref, after=FROM_START)
        clock.wait_for_timer(within=0.5)
        clock.advance(0.5)
        for probe in (early, live, replaying):
            probe.expect(StreamComplete)
        for probe in (live, replaying):
            assert all(m.attempt == 2 for m in probe.messages if isinstance(m, StreamEvent))
            assert not any(isinstance(m, StreamRestarting) for m in probe.messages)
            assert [m.sequence for m in probe.messages[:-1]] == list(range(6))


def test_one_that_has_seen_what_is_void_is_told_so_when_it_comes_back() -> None:
    with Scene() as scene:
        scene.gemini.on("why", Reply(TEXT, end="cut", end_after=3), Reply(TEXT, hold_after=4))
        stream_id, early = scene.start(history=100_000)
        early.expect(StreamEvent, lambda m: (m.attempt, m.sequence) == (2, 3))
        back = scene.probe(after=(1, 2))
        scene.manager.subscribe_stream(stream_id, back.ref, after=(1, 2))
        restart = back.expect(StreamRestarting)
        assert (restart.attempt, restart.resume_at, restart.discard) == (2, 0, True)
        scene.gemini.gate("why").open()
        back.expect(StreamComplete)
        assert texts(back.messages) == TEXT


@pytest.mark.parametrize("events", [0, 2])
def test_on_partial_fail_repeats_only_what_nobody_has_seen(events: int) -> None:
    policy = RetryPolicy(initial_delay=0, jitter=0, on_partial="fail")
    with Scene(retry=policy) as scene:
        scene.gemini.on("why", Reply(TEXT, end="cut", end_after=events), WHOLE)
        _, probe = scene.start()
        last = probe.expect(LAST)
        if events:
            assert isinstance(last, StreamError)
            assert isinstance(last.error, ConnectionLostError)
            assert (last.attempts, last.events_count, scene.requests()) == (1, 2, 1)
            assert last.usage is not None  # what was billed and stands
            assert last.usage["candidatesTokenCount"] == 2
        else:
            assert (last.ok, last.attempts) == (True, 2)


def test_total_time_is_no_deadline_but_the_last_moment_of_a_start() -> None:
    clock = TestClock()
    policy = RetryPolicy(attempts=99, jitter=0, exp_base=1, initial_delay=1, total_time=3.5)
    with Scene(clock=clock, retry=policy) as scene:
        scene.gemini.on("why", Failure(500))
        stream_id, probe = scene.start()
        distances, last = scene.ride(stream_id, probe)
        assert distances == [1, 1, 1]
        assert (last.attempts, scene.requests()) == (4, 4)
        assert isinstance(last.error, APIError)


def test_the_deadline_lasts_over_all_attempts() -> None:
    clock = TestClock()
    with Scene(clock=clock, retry=RetryPolicy(attempts=99, jitter=0, exp_base=1, initial_delay=2)) as scene:
        scene.gemini.on("why", Failure(500), Failure(500), Reply(TEXT, hold_after=1))
        stream_id, probe = scene.start(deadline=5)
        for _ in range(2):
            assert probe.expect(StreamRestarting).delay == 2
            clock.wait_for_timer(within=2)
            clock.advance(2)
        probe.expect(StreamEvent)
        clock.advance(0.999)
        assert scene.status(stream_id) == "active"
        clock.advance(0.001)
        last = probe.expect(StreamError)
        assert isinstance(last.error, DeadlineExceededError)
        assert (last.attempts, last.events_count) == (3, 1)
        assert last.duration == pytest.approx(5)
        scene.gemini.requests[2].wait_closed()


def test_the_deadline_can_pass_in_a_backoff_and_in_the_queue() -> None:
    clock = TestClock()
    with Scene(
        clock=clock, retry=RetryPolicy(initial_delay=4, jitter=0), max_streams=1, max_waiting=1
    ) as scene:
        scene.gemini.on("why", Failure(500))
        scene.gemini.on("other", Reply(TEXT, hold_after=1))
        running, occupant = scene.start("other")
        occupant.expect(StreamEvent)
        queued, waiting = scene.start(deadline=3)
        assert scene.status(queued) == "queued"
        clock.advance(3)
        last = waiting.expect(StreamError)
        assert isinstance(last.error, DeadlineExceededError)
        assert scene.requests("why") == 0
        scene.manager.stop_stream(running)
        # 500, then 4 s: within a deadline of 5 s; at 4.5 s the second attempt waits 8 s: too long, known at once
        backing_off, probe = scene.start(deadline=5)
        probe.expect(StreamRestarting)
        clock.wait_for_timer(within=4)
        clock.advance(4)
        assert isinstance(probe.expect(StreamError).error, APIError)
        assert scene.status(backing_off) == "error"


def test_the_policys_callable_decides_and_a_bug_in_it_leaves_it_to_the_table() -> None:
    asked: list[GeminiStreamsError] = []

    def decide(error: GeminiStreamsError) -> bool | None:
        asked.append(error)
        assert threading.current_thread().name.startswith("StreamActor")
        return {404: True, 500: False, 418: None}.get(getattr(error, "code", 0))

    policy = RetryPolicy(initial_delay=0, jitter=0, retryable=decide)
    with Scene(retry=policy) as scene:
        scene.gemini.on("why", Failure(404), Failure(404), Failure(500))
        _, probe = scene.start()
        last = probe.expect(StreamError)
        assert (code_of(last), last.attempts) == (500, 3)
        scene.gemini.on("tea", Failure(418))
        _, probe = scene.start("tea")
        assert probe.expect(StreamError).attempts == 1
        assert len(asked) == 4

        def broken(_error: GeminiStreamsError) -> bool:
            raise ZeroDivisionError

        scene.gemini.on("bug", Failure(503), Failure(404))
        _, probe = scene.start("bug", retry=RetryPolicy(initial_delay=0, jitter=0, retryable=broken))
        last = probe.expect(StreamError)
        assert (code_of(last), last.attempts) == (404, 2)
        _, probe = scene.start("hello")  # and nobody else notices
        assert probe.expect(LAST).ok


# -- 429


def test_a_wait_longer_than_max_retry_after_fails_at_once_and_says_until_when() -> None:
    clock = TestClock()
    with Scene(clock=clock, retry=RetryPolicy(jitter=0, max_retry_after=30)) as scene:
        scene.gemini.on("why", Failure(429, retry_after=31))
        stream_id, probe = scene.start()
        last = probe.expect(StreamError)
        assert last.attempts == 1
        assert last.error.retry_at == pytest.approx(clock.time() + 31)
        assert cast("Any", pickle.loads(pickle.dumps(last.error))).retry_at == last.error.retry_at
        assert scene.status(stream_id) == "error"
        # A stream that has no time for it learns the same without asking.
        clock.advance(0.5)
        for limit in ({"deadline": 20}, {"retry": RetryPolicy(total_time=20)}):
            _, probe = scene.start(**limit)
            last = probe.expect(StreamError)
            assert isinstance(last.error, APIError)
            assert last.error.code == 429
            assert last.error.retry_at == pytest.approx(clock.time() + 30.5)
        assert scene.requests() == 1
        # Another waits for as long as its own policy allows, and then asks.
        scene.gemini.on("why", WHOLE)
        _, probe = scene.start()
        eventually(lambda: scene.held() == 1)
        clock.advance(29.9)
        assert scene.requests() == 1
        clock.advance(0.1)
        assert probe.expect(LAST).ok
        # It was answered: so the wait is over.
        _, probe = scene.start()
        assert probe.expect(LAST).ok


def test_a_spent_daily_quota_is_not_asked_again_and_holds_nobody_back() -> None:
    with Scene(clock=TestClock(), retry=STEADY) as scene:
        daily = Failure(429, retry_delay="20s", quota_id="GenerateRequestsPerDayPerProjectPerModel-FreeTier")
        scene.gemini.on("why", daily, WHOLE)
        _, probe = scene.start()
        last = probe.expect(StreamError)
        assert (last.attempts, last.error.retryable) == (1, False)
        assert last.error.retry_at is not None
        _, probe = scene.start()
        assert probe.expect(LAST).ok


def test_a_stream_that_is_stopped_while_it_is_held_back_leaves_no_actor() -> None:
    clock = TestClock()
    with Scene(clock=clock, retry=STEADY) as scene:
        scene.gemini.on("why", Failure(429, retry_after=10))
        _, first = scene.start()
        first.expect(StreamRestarting)
        held, probe = scene.start()
        clock.wait_for_timer(within=10)
        ref = scene.ref(held)
        assert scene.manager.stop_stream(held) is True
        assert isinstance(probe.expect(LAST), StreamStopped)
        assert ref.actor_stopped.wait(20)
        assert scene.requests() == 1


# -- stops and starts in between


def test_a_stop_in_a_backoff_is_the_end_of_it() -> None:
    clock = TestClock()
    with Scene(clock=clock, retry=STEADY) as scene:
        scene.gemini.on("why", CUT)
        stream_id, probe = scene.start()
        probe.expect(StreamRestarting)
        scene.await_status(stream_id, "restarting")
        ref = scene.ref(stream_id)
        assert scene.manager.stop_stream(stream_id) is True
        last = probe.expect(StreamStopped)
        assert (last.attempts, last.events_count) == (1, 2)
        assert ref.actor_stopped.wait(20)
        clock.advance(100)
        time.sleep(0.05)
        assert scene.requests() == 1
        assert scene.manager.stop_stream(stream_id) is False


def test_the_last_subscriber_leaves_in_a_backoff() -> None:
    clock = TestClock()
    with Scene(clock=clock, retry=STEADY) as scene:
        scene.gemini.on("why", CUT)
        stream_id, probe = scene.start()
        probe.expect(StreamRestarting)
        probe.stop()
        scene.await_status(stream_id, "stopped")
        clock.advance(100)
        time.sleep(0.05)
        assert scene.requests() == 1


def test_no_thread_for_an_attempt_is_a_failed_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = Cell.launch
    refused: list[int] = []

    def refuses(cell: Cell, *args: Any, **kwargs: Any) -> Any:
        if cell.actor_class.__name__ == "StreamActor" and cell.generation == 1 and len(refused) < 2:
            refused.append(1)
            raise RuntimeError("can't start new thread")
        return launch(cell, *args, **kwargs)

    monkeypatch.setattr(Cell, "launch", refuses)
    with Scene() as scene:
        scene.gemini.on("why", CUT, WHOLE)
        _, probe = scene.start()
        assert [probe.expect(StreamRestarting).attempt for _ in range(3)] == [2, 3, 4]
        assert probe.expect(LAST).ok


def test_no_thread_for_the_first_attempt_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = Cell.launch

    def refuses(cell: Cell, *args: Any, **kwargs: Any) -> Any:
        if cell.actor_class.__name__ == "StreamActor":
            raise RuntimeError("can't start new thread")
        return launch(cell, *args, **kwargs)

    with Scene() as scene:
        with monkeypatch.context() as patch:
            patch.setattr(Cell, "launch", refuses)
            _, probe = scene.start()
            assert isinstance(probe.expect(LAST), StreamError)
        scene.gemini.on("why", WHOLE)
        _, probe = scene.start()
        assert probe.expect(LAST).ok


def test_a_bug_in_the_recovery_itself_still_gives_a_last_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("gemini_streams.streams.recovery._restart", broken)
    with Scene() as scene:
        scene.gemini.on("why", CUT)
        _, probe = scene.start()
        last = probe.expect(LAST)
        assert isinstance(last, StreamError)
        assert "ZeroDivisionError" in str(last.error)


def test_each_request_of_a_long_answer_has_its_time_for_the_first_event() -> None:
    clock = TestClock()
    with Scene(clock=clock, retry=RetryPolicy(attempts=1)) as scene:
        scene.gemini.on(
            "why",
            Reply("one two", finish_reason="CONTINUATION", tokens={1: "t1"}),
            Reply("three", hold_before_headers=True),
        )
        _, probe = scene.start(idle_timeout=10, first_event_timeout=100)
        scene.gemini.gate("why").reached()
        clock.wait_for_timer(within=100)
        clock.advance(60)
        probe.expect(StreamEvent)
        probe.expect(StreamEvent)
        probe.expect_nothing(0.05)
        clock.advance(40)
        assert isinstance(probe.expect(StreamError).error, FirstEventTimeoutError)


def test_a_start_told_twice_begins_once() -> None:
    with Scene() as scene:
        scene.gemini.on("why", Reply(TEXT, hold_after=1))
        stream_id, probe = scene.start()
        session = scene.table.find(stream_id)
        for _ in range(3):
            scene.streams().tell(StartSession(session))
        scene.gemini.gate("why").open()
        assert probe.expect(LAST).ok
        assert scene.requests() == 1


def test_many_kills_never_end_the_supervisor_of_the_streams() -> None:
    with Scene(retry=RetryPolicy(attempts=100, initial_delay=0, jitter=0)) as scene:
        scene.gemini.on("why", Reply(TEXT, hold_after=1))
        stream_id, probe = scene.start()
        supervisor = scene.streams()
        for attempt in range(1, 60):
            assert probe.expect(StreamEvent).attempt == attempt
            kill(scene.ref(stream_id))
        assert scene.streams() is supervisor
        with pytest.raises(AssertionError):
            await_restart(supervisor, timeout=0.05)
        scene.gemini.gate("why").open()
        assert probe.expect(LAST).ok
