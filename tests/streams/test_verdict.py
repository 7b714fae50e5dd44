"""`RetryPolicy.retryable` is an application's: it holds up its own stream, for five seconds at most, and no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gemini_streams import (
    APIError,
    GeminiStreamsError,
    RetryPolicy,
    StreamCrashedError,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
)
from gemini_streams.testing import Failure, Reply
from kit.helpers import eventually
from kit.scene import LAST, Scene, Slow
from pykka_supervisor.testing import TestClock, kill

WHOLE = Reply("one two")
Callback = Callable[[GeminiStreamsError], bool | None]


def policy(retryable: Callback, **more: Any) -> RetryPolicy:
    return RetryPolicy(**{"initial_delay": 0, "jitter": 0, "retryable": retryable, **more})


class Blocking:
    """A callable that does not answer until it is let go."""

    def __init__(self, answer: bool | None = True) -> None:
        self._go = threading.Event()
        self._answer = answer
        self.asked: list[GeminiStreamsError] = []
        self.threads: list[threading.Thread] = []

    def __call__(self, error: GeminiStreamsError) -> bool | None:
        self.asked.append(error)
        self.threads.append(threading.current_thread())
        assert self._go.wait(30)
        return self._answer

    def release(self) -> None:
        self._go.set()
        for thread in self.threads:
            thread.join(20)


@pytest.fixture
def blocking() -> Iterator[Blocking]:
    callback = Blocking()
    yield callback
    callback.release()


def test_it_holds_up_no_other_stream_and_not_the_manager(blocking: Blocking) -> None:
    with Scene(clock=TestClock(), retry=RetryPolicy(initial_delay=0, jitter=0)) as scene:
        scene.gemini.on("slow", Failure(503), WHOLE)
        scene.gemini.on("fast", Failure(503), Failure(503), WHOLE)
        _, slow = scene.start("slow", retry=policy(blocking))
        eventually(lambda: blocking.asked)
        for _ in range(3):
            _, fast = scene.start("fast")
            assert fast.expect(LAST, timeout=10).ok
        began = time.monotonic()
        scene.manager.get_stats(timeout=4)
        assert time.monotonic() - began < 4
        assert slow.messages == []
        blocking.release()
        assert slow.expect(LAST).attempts == 2
        [thread] = blocking.threads
        assert thread.name.startswith("StreamActor")


@pytest.mark.parametrize("table", [True, False])
def test_after_five_seconds_the_table_decides(blocking: Blocking, table: bool) -> None:
    clock = TestClock()
    with Scene(clock=clock) as scene:
        scene.gemini.on("why", Failure(503 if table else 404), WHOLE)
        stream_id, probe = scene.start(retry=policy(blocking))
        eventually(lambda: blocking.asked)
        clock.advance(4.99)
        time.sleep(0.02)
        assert probe.messages == []
        clock.advance(0.01)
        if table:
            restarting = probe.expect(StreamRestarting)
            assert isinstance(restarting.error, APIError)
            assert probe.expect(LAST).ok
        else:
            last = probe.expect(StreamError)
            assert isinstance(last.error, APIError)
            assert last.attempts == 1
        before = list(probe.messages)
        blocking.release()  # too late: nothing comes of it
        assert scene.status(stream_id) in ("completed", "error")
        assert probe.messages == before
        assert len(blocking.asked) == 1


@pytest.mark.parametrize("raised", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, BaseException])
def test_what_it_raises_is_no_answer(raised: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    def broken(_error: GeminiStreamsError) -> bool:
        raise raised

    with Scene() as scene:
        scene.gemini.on("why", Failure(503), Failure(404), WHOLE)
        _, probe = scene.start(retry=policy(broken))
        assert probe.expect(StreamRestarting).attempt == 2
        last = probe.expect(StreamError)
        assert (last.error.code, last.attempts) == (404, 2)  # type: ignore[attr-defined]
        assert scene.start("hello")[1].expect(LAST).ok
    assert sum("retry_policy_raised" in record.getMessage() for record in caplog.records) == 2


@pytest.mark.parametrize(("said", "attempts"), [(True, 2), (False, 1), (None, 1), ("yes", 2), (0, 1)])
def test_its_answer_has_the_first_word(said: Any, attempts: int) -> None:
    with Scene() as scene:
        scene.gemini.on("why", Failure(404), WHOLE)
        _, probe = scene.start(retry=policy(lambda _error: said))
        last = probe.expect(LAST)
        assert last.attempts == attempts


def test_it_may_ask_the_manager_and_stop_its_own_stream() -> None:
    """There is no lock of ours around it."""
    with Scene() as scene:
        seen: list[Any] = []

        def curious(_error: GeminiStreamsError) -> bool:
            [stream_id] = scene.manager.list_streams(timeout=20)
            seen.append(scene.manager.get_stream_info(stream_id, timeout=20).status)
            seen.append(scene.manager.stop_stream(stream_id, timeout=20))
            return True

        scene.gemini.on("why", Failure(503), WHOLE)
        _, probe = scene.start(retry=policy(curious))
        assert isinstance(probe.expect(LAST), StreamStopped)
        eventually(lambda: seen == ["starting", True])
        assert scene.requests() == 1


def test_a_stream_that_is_stopped_meanwhile_ends_at_once(blocking: Blocking) -> None:
    with Scene(shutdown=0.2) as scene:
        scene.gemini.on("why", Failure(503))
        stream_id, probe = scene.start(retry=policy(blocking))
        eventually(lambda: blocking.asked)
        assert scene.manager.stop_stream(stream_id, timeout=2)
        assert isinstance(probe.expect(LAST, timeout=10), StreamStopped)
        blocking.release()
        assert scene.requests() == 1


def test_the_tree_ends_meanwhile(blocking: Blocking) -> None:
    with Scene(shutdown=0.2) as scene:
        scene.gemini.on("why", Failure(503))
        _, probe = scene.start(retry=policy(blocking))
        eventually(lambda: blocking.asked)
        stopping = Slow(lambda: scene.manager.stop(timeout=20))
        assert isinstance(probe.expect(LAST, timeout=10), StreamStopped)
        stopping.join()
        blocking.release()


# -- the thread of the stream that failed is gone


@pytest.mark.parametrize(("said", "ends"), [(True, 2), (None, 2), (False, 1)])
def test_of_a_killed_stream_its_successors_thread_asks(said: bool | None, ends: int) -> None:
    asked: list[tuple[str, GeminiStreamsError]] = []

    def decide(error: GeminiStreamsError) -> bool | None:
        asked.append((threading.current_thread().name, error))
        return said

    with Scene() as scene:
        scene.gemini.on("why", Reply("one two", hold_after=1), WHOLE)
        stream_id, probe = scene.start(retry=policy(decide))
        probe.expect(StreamEvent)
        kill(scene.ref(stream_id))
        last = probe.expect(LAST)
        assert last.attempts == ends
        [(name, error)] = asked
        assert name.startswith("StreamActor")
        assert isinstance(error, StreamCrashedError)
        if ends == 1:
            assert last.error is error
        else:
            assert last.ok
            assert [m.attempt for m in probe.messages if isinstance(m, StreamRestarting)] == [2]
        assert scene.requests() == ends


def test_its_delay_is_kept_there_too() -> None:
    clock = TestClock()
    with Scene(clock=clock) as scene:
        scene.gemini.on("why", Reply("one two", hold_after=1), WHOLE)
        stream_id, probe = scene.start(retry=RetryPolicy(jitter=0, retryable=lambda _error: None))
        probe.expect(StreamEvent)
        kill(scene.ref(stream_id))
        assert scene.ride(stream_id, probe)[0] == [0.5]


def test_the_successors_thread_is_left_behind_as_well(blocking: Blocking) -> None:
    clock = TestClock()
    with Scene(clock=clock) as scene:
        scene.gemini.on("why", Reply("one two", hold_after=1), WHOLE)
        stream_id, probe = scene.start(retry=policy(blocking))
        probe.expect(StreamEvent)
        kill(scene.ref(stream_id))
        eventually(lambda: blocking.asked)
        clock.advance(5)
        assert probe.expect(StreamRestarting).attempt == 2
        assert probe.expect(LAST).ok
        blocking.release()


def test_a_kill_while_it_is_asked_leaves_it_to_the_table() -> None:
    """What is asked is asked once."""
    inside, go_on = threading.Event(), threading.Event()
    asked: list[GeminiStreamsError] = []

    def decide(error: GeminiStreamsError) -> bool | None:
        asked.append(error)
        inside.set()
        assert go_on.wait(20)
        return False

    with Scene(shutdown=0.1) as scene:
        scene.gemini.on("why", Failure(503), WHOLE)
        stream_id, probe = scene.start(retry=policy(decide))
        assert inside.wait(20)
        kill(scene.ref(stream_id))
        restarting = probe.expect(StreamRestarting)
        assert isinstance(restarting.error, APIError)
        assert probe.expect(LAST).ok
        go_on.set()
        assert len(asked) == 1


def test_killed_again_and_again_it_comes_to_an_end() -> None:
    """A stream whose successor dies as well, before it could ask."""
    with Scene() as scene:
        scene.gemini.on("why", Reply("one two", hold_after=1))
        stream_id, probe = scene.start(retry=policy(lambda _error: True))
        probe.wait(1)
        until = time.monotonic() + 30
        while not any(isinstance(message, LAST) for message in probe.messages):
            assert time.monotonic() < until
            kill(scene.ref(stream_id))
            time.sleep(0.002)
        last = probe.expect(LAST)
        assert isinstance(last.error, StreamCrashedError)
        assert last.attempts in (3, 4)  # the last one may have died before it began
