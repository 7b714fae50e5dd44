"""A service with a quota: every stream gets its answer by the default policy, and the quota is hardly asked in vain."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import pykka
import pytest

from gemini_streams import (
    APIError,
    Gemini,
    ManagerActor,
    ManagerRef,
    RetryPolicy,
    StreamComplete,
    StreamError,
    StreamRestarting,
    StreamStopped,
)
from gemini_streams.testing import Failure, LocalGemini, Reply
from kit.helpers import eventually
from kit.scene import LAST, STEADY, Scene, table_of
from pykka_supervisor.testing import TestClock, kill


class Quota:
    """So many requests a window of the clock; what comes beyond is told when the next window begins."""

    def __init__(self, clock: TestClock, *, most: int, window: float) -> None:
        self._clock = clock
        self._most = most
        self._window = window
        self._lock = threading.Lock()
        self._taken: dict[int, int] = {}
        self.refused = 0

    def __call__(self, _record: Any) -> Reply | Failure:
        with self._lock:
            now = self._clock.monotonic()
            window = math.floor(now / self._window)
            taken = self._taken[window] = self._taken.get(window, 0) + 1
            if taken <= self._most:
                return Reply("one two")
            self._taken[window] -= 1
            self.refused += 1
            left = (window + 1) * self._window - now
            return Failure(429, retry_delay=f"{math.ceil(left)}s")  # as the API says it: whole seconds


class Crowd(pykka.ThreadingActor):
    """Starts streams, a number of them at once, until each has ended."""

    use_daemon_thread = True

    def __init__(self, manager: ManagerRef, total: int, at_once: int) -> None:
        super().__init__()
        self._manager = manager
        self._left = total
        self._at_once = at_once
        self._running = 0
        self.ended: list[Any] = []
        self.restarts = 0

    def on_start(self) -> None:
        self._fill()

    def _fill(self) -> None:
        while self._left and self._running < self._at_once:
            self._left -= 1
            self._running += 1
            self._manager.start_stream("why", subscriber=self.actor_ref)

    def on_receive(self, message: Any) -> None:
        if isinstance(message, LAST):
            self.ended.append(message)
            self._running -= 1
            self._fill()
        elif isinstance(message, StreamRestarting):
            self.restarts += 1


def _turn(clock: TestClock, manager: ManagerRef, crowd: Any, total: int) -> None:
    """Turn the clock on, a second at a time, whenever no stream is at work: all that are left wait for the time."""
    table = table_of(manager)
    deadline = time.monotonic() + 50
    while len(crowd.ended.get()) < total:
        assert time.monotonic() < deadline, len(crowd.ended.get())
        # Asked first: by its answer the supervisor has started each attempt whose time had come.
        children: Any = table.supervisor
        backing_off = {child.ref for child in children.which_children() if child.status == "restarting"}
        waiting = {
            stream for quota in list(table.cooldowns.quotas.values()) for stream in list(quota.waiting)
        }
        if all(s.ended or s in waiting or (s.ref in backing_off) for s in table.all()):
            clock.advance(1)
        time.sleep(0.0005)


@pytest.mark.parametrize(("most", "at_once"), [(10, 40), (10, 10), (3, 100)])
def test_none_fails_for_a_quota_under_the_default_policy(
    gemini: LocalGemini, most: int, at_once: int
) -> None:
    clock = TestClock()
    total = 300 if at_once == 40 else 60
    window = 30.0 if at_once == 100 else 60.0
    quota = Quota(clock, most=most, window=window)
    gemini.on("why", quota)
    manager = ManagerActor.start(endpoint=gemini.endpoint, clock=clock, max_streams=at_once, linger=0)
    ref = Crowd.start(manager, total, at_once)
    try:
        _turn(clock, manager, ref.proxy(), total)
        ended = ref.proxy().ended.get()
        windows = math.ceil(total / most)
        failed = [message for message in ended if not isinstance(message, StreamComplete)]
        assert failed == [], (len(failed), quota.refused)
        # The first burst is refused, and in each window the last round; together they would all be, each time.
        assert quota.refused <= at_once + windows * (2 * most + 4)
    finally:
        ref.stop()
        manager.stop(timeout=20)


def test_a_wait_of_43_seconds_is_kept_as_often_as_it_takes() -> None:
    clock = TestClock()
    with Scene(clock=clock, retry=RetryPolicy(jitter=0)) as scene:
        scene.gemini.on("why", *[Failure(429, retry_delay="43s")] * 8, Reply("one"))
        stream_id, probe = scene.start()
        waits, last = scene.ride(stream_id, probe)
        assert waits == [43.0] * 8
        assert (last.ok, last.attempts) == (True, 9)


def test_it_ends_where_the_waits_come_to_more_than_max_total_wait() -> None:
    clock = TestClock()
    with Scene(clock=clock, retry=RetryPolicy(jitter=0, max_total_wait=100)) as scene:
        scene.gemini.on("why", Failure(429, retry_delay="43s"))
        stream_id, probe = scene.start()
        waits, last = scene.ride(stream_id, probe)
        assert waits == [43.0, 43.0]
        assert isinstance(last, StreamError)
        assert last.error.retry_at == pytest.approx(clock.time() + 43)


def test_other_failures_among_them_count_as_ever() -> None:
    clock = TestClock()
    with Scene(clock=clock, retry=RetryPolicy(jitter=0, attempts=3)) as scene:
        limited, broken = Failure(429, retry_delay="43s"), Failure(503)
        scene.gemini.on("why", limited, broken, limited, broken, limited, broken)
        stream_id, probe = scene.start()
        waits, last = scene.ride(stream_id, probe)
        assert waits == [43.0, 0.5, 43.0, 1.0, 43.0]
        assert (last.error.code, last.attempts) == (503, 6)


@pytest.mark.parametrize("limit", [{"deadline": 100}, {"retry": RetryPolicy(jitter=0, total_time=100)}])
def test_total_time_and_deadline_bound_it(limit: dict[str, Any]) -> None:
    clock = TestClock()
    with Scene(clock=clock, retry=RetryPolicy(jitter=0)) as scene:
        scene.gemini.on("why", Failure(429, retry_delay="43s"))
        stream_id, probe = scene.start(**limit)
        waits, last = scene.ride(stream_id, probe)
        assert waits == [43.0, 43.0]
        assert isinstance(last.error, APIError)
        assert clock.monotonic() == 1086


def test_a_wait_that_a_503_names_is_kept_and_counts() -> None:
    clock = TestClock()
    with Scene(clock=clock, retry=RetryPolicy(jitter=0, attempts=2)) as scene:
        scene.gemini.on("why", Failure(503, retry_after=60))
        stream_id, probe = scene.start()
        waits, last = scene.ride(stream_id, probe)
        assert waits == [60.0]
        assert last.error.code == 503


def test_one_absurd_wait_holds_nobody_for_longer_than_its_own_policy_says() -> None:
    clock = TestClock()
    with Scene(clock=clock, retry=STEADY) as scene:
        scene.gemini.on("absurd", Failure(429, retry_after="9999999999"))
        scene.gemini.on("why", Reply("one"))
        _, absurd = scene.start("absurd")
        assert isinstance(absurd.expect(LAST), StreamError)
        _, first = scene.start()
        _, second = scene.start(retry=RetryPolicy(max_retry_after=5))
        eventually(lambda: scene.held() == 2)
        clock.advance(4.99)
        assert scene.requests("why") == 0
        clock.advance(0.01)
        assert second.expect(LAST).ok
        assert first.expect(LAST).ok  # the server answers, so there is no wait any more
        assert scene.start()[1].expect(LAST).ok
        assert not scene.table.cooldowns.quotas


def test_a_wait_is_one_tenants_and_one_models() -> None:
    clock = TestClock()
    with Scene(clock=clock, retry=STEADY) as scene:
        scene.gemini.keys = None
        scene.gemini.on("limited", Failure(429, retry_delay="20s"))
        scene.gemini.on("why", Reply("one"))
        _, limited = scene.start("limited")
        limited.expect(StreamRestarting)
        url = scene.gemini.url
        for options in (
            {"model": "another"},
            {"endpoint": Gemini(api_key="another-tenants-key", base_url=url)},
            {"endpoint": Gemini(api_key="local-key", base_url=url, headers={"X-Tenant": "another"})},
        ):
            assert scene.start(**options)[1].expect(LAST).ok
        stream_id, same = scene.start(model="models/gemini-flash-latest")
        eventually(lambda: scene.held() == 1)
        scene.manager.stop_stream(stream_id)
        assert isinstance(same.expect(LAST), StreamStopped)
        assert scene.held() == 0


def test_a_killed_stream_that_is_held_back_keeps_its_place() -> None:
    clock = TestClock()
    with Scene(clock=clock, retry=STEADY) as scene:
        scene.gemini.on("limited", Failure(429, retry_delay="20s"))
        scene.gemini.on("why", Reply("one"))
        _, limited = scene.start("limited")
        limited.expect(StreamRestarting)
        stream_id, probe = scene.start()
        eventually(lambda: scene.held() == 1)
        kill(scene.ref(stream_id))
        assert probe.expect(StreamRestarting).attempt == 2
        clock.advance(0.5)
        eventually(lambda: scene.held() == 1)
        clock.advance(19.5)
        assert probe.expect(LAST).ok


def test_what_is_held_back_costs_nobody_its_place_in_the_launch() -> None:
    """More than are launched at once, all held back: one of another model is launched at once."""
    clock = TestClock()
    with Scene(clock=clock, retry=STEADY, max_streams=200) as scene:
        scene.gemini.on("limited", Failure(429, retry_delay="20s"))
        scene.gemini.on("why", Reply("one"))
        _, limited = scene.start("limited")
        limited.expect(StreamRestarting)
        for _ in range(100):
            scene.start()
        _, other = scene.start(model="another")
        assert other.expect(LAST).ok
        eventually(lambda: scene.held() == 100)
