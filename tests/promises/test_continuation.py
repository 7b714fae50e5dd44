"""Cases 44 to 46: everybody at once, long answers by continuation tokens, requests that are refused."""

from __future__ import annotations

import base64
import random
import re
import time
from typing import Any, cast

import pytest

from gemini_streams import (
    APIError,
    InvalidRequestError,
    ManagerActor,
    RetryPolicy,
    StartStream,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamNotFoundError,
    StreamRestarting,
    StreamTruncatedError,
    Subscribe,
)
from gemini_streams.testing import Failure, LongAnswer, Reply, check_history
from kit.helpers import eventually
from kit.scene import AT_ONCE, LAST, STEADY, Scene, texts
from pykka_supervisor.testing import Probe, TestClock, kill

# -- 44


def test_case_44_two_hundred_killed_at_the_same_instant() -> None:
    with Scene(max_streams=200) as scene:
        scene.gemini.on("why", Reply("one two three", hold_after=2))
        started = [scene.start() for _ in range(200)]
        for _, probe in started:
            probe.expect(StreamEvent)
            probe.expect(StreamEvent)
        supervisor = scene.streams()
        refs = [scene.ref(stream_id) for stream_id, _ in started]
        for ref in refs:
            kill(ref)
        for _, probe in started:
            assert probe.expect(StreamRestarting, timeout=10).attempt == 2
            probe.expect(StreamEvent, timeout=10)
        assert scene.streams() is supervisor
        assert scene.manager.get_stats().restarts == 200
        scene.gemini.gate("why").open()
        for _, probe in started:
            assert probe.expect(LAST, timeout=10).attempts == 2
        assert scene.requests() == 400


@pytest.mark.parametrize("how", ["new streams", "streams in their backoff"])
def test_case_44_a_429_holds_back_two_managers_streams(how: str) -> None:
    clock = TestClock()
    with Scene(clock=clock, retry=STEADY) as scene:
        other = ManagerActor.start(endpoint=scene.gemini.endpoint, clock=clock, retry=STEADY)
        probes = [Probe() for _ in range(5)]
        try:
            scene.gemini.on("limited", Failure(429, retry_delay="20s"), Reply("one"))
            scene.gemini.on("backing off", Failure(503), Reply("two"))
            scene.gemini.on("another model", Reply("three"))
            if how == "streams in their backoff":
                other.start_stream("backing off", subscriber=probes[0].ref)
                assert probes[0].expect(StreamRestarting).delay == 0.5
            _, limited = scene.start("limited")
            assert limited.expect(StreamRestarting).delay == 20
            asked = scene.requests()
            if how == "new streams":
                for probe in probes[:4]:
                    other.start_stream("backing off", subscriber=probe.ref)
            other.start_stream("another model", subscriber=probes[4].ref, model="another")
            assert probes[4].expect(LAST).ok  # its quota is its own
            for _ in range(19):
                clock.advance(1)
                time.sleep(0.005)
            clock.advance(0.99)
            time.sleep(0.05)
            assert scene.requests() == asked + 1
            for _ in range(8):
                clock.advance(1)
                time.sleep(0.02)
            assert limited.expect(LAST).ok
            for probe in probes[:4] if how == "new streams" else probes[:1]:
                assert probe.expect(LAST).ok
                assert check_history(probe.messages, ended=True) == []
        finally:
            other.stop(timeout=5)
            for probe in probes:
                probe.stop()


def test_case_44_those_who_were_held_back_come_at_a_pace() -> None:
    clock = TestClock()
    with Scene(clock=clock, retry=STEADY) as scene:
        scene.gemini.on("limited", Failure(429, retry_after=10), Reply("one"))
        scene.gemini.on("why", Reply("one", headers_delay=60))
        _, limited = scene.start("limited")
        assert limited.expect(StreamRestarting).delay == 10
        probes = [scene.start()[1] for _ in range(30)]
        eventually(lambda: scene.held() == 30)
        clock.advance(9.99)
        time.sleep(0.02)
        assert scene.requests("why") == 0
        clock.advance(0.01)
        for let_out in (
            1,
            3,
            7,
            15,
        ):  # rounds of 1, 2, 4, 8, a second apart, for the server has answered none
            scene.gemini.wait_request(let_out, "why")
            clock.advance(0.99)
            time.sleep(0.02)
            assert scene.requests("why") == let_out
            clock.advance(0.01)
        scene.gemini.wait_request(30, "why")
        for stream_id in scene.manager.list_streams():
            scene.manager.stop_stream(stream_id)
        for probe in (limited, *probes):
            probe.expect(LAST)


# -- 45

WORDS = [f"w{n}" for n in range(80)]
LONG = " ".join(WORDS)


def _run(answer: LongAnswer, **options: Any) -> tuple[Any, list[Any], Scene]:
    policy = options.pop("retry", RetryPolicy(attempts=20, initial_delay=0, jitter=0))
    with Scene(retry=policy) as scene:
        scene.gemini.on("why", answer)
        _, probe = scene.start(**options)
        return probe.expect(LAST, timeout=10), probe.messages, scene


def test_case_45_four_hops_are_one_answer_that_nobody_hears_of() -> None:
    last, messages, scene = _run(LongAnswer(LONG, hops=4))
    assert isinstance(last, StreamComplete)
    assert (last.ok, last.attempts, last.events_count) == (True, 1, 80)
    assert [m.sequence for m in messages[:-1]] == list(range(80))
    assert texts(messages) == LONG
    assert last.usage == {
        "promptTokenCount": 4,
        "candidatesTokenCount": 80,
        "totalTokenCount": 84,
    }
    bodies = [record.body for record in scene.gemini.requests]
    assert len(bodies) == 4
    assert all(body["contents"] == bodies[0]["contents"] for body in bodies)
    assert ["continuationToken" in body for body in bodies] == [False, True, True, True]
    assert scene.gemini.connections_opened == 1


@pytest.mark.parametrize("seed", range(12))
def test_case_45_cut_at_random_the_answer_is_whole_and_once(seed: int) -> None:
    rng = random.Random(seed)
    every = rng.choice([None, 3, 7])
    cuts = sorted(rng.sample(range(1, 79), rng.randint(1, 6)))
    by: Any = rng.choice(["cut", "reset"])
    last, messages, scene = _run(
        LongAnswer(LONG, hops=rng.randint(1, 4), checkpoint_every=every, cut_at=cuts, cut_by=by)
    )
    assert isinstance(last, StreamComplete), (seed, last)
    assert texts(messages) == LONG
    restarts = [m for m in messages if isinstance(m, StreamRestarting)]
    assert last.attempts == 1 + len(restarts)
    for restart in restarts:
        assert restart.resume_at in _checkpoints(scene)
    assert last.usage is not None
    if by == "cut":  # a reset may take away what was on its way
        assert last.usage["candidatesTokenCount"] == _billed(scene)


def _checkpoints(scene: Scene) -> set[int]:
    found = {0}
    for record in scene.gemini.requests:
        token = record.body.get("continuationToken")
        if token is not None:
            found.add(_position(token))
    return found


def _position(token: str) -> int:
    plain = base64.b64decode(token + "==").decode() if "continue" not in token else token
    return int(re.findall(r"\d+", plain)[0])


def _billed(scene: Scene) -> int:
    """The tokens of the requests that the final answer is made of: what was started over does not count."""
    total = 0
    for record in scene.gemini.requests:
        if "continuationToken" not in record.body:
            total = 0
        total += (record.usage or {}).get("candidatesTokenCount", 0)
    return total


def test_case_45_a_break_between_two_checkpoints_goes_on_from_the_latest() -> None:
    last, messages, scene = _run(LongAnswer(LONG, hops=1, checkpoint_every=10, cut_at=[35]))
    [restart] = [m for m in messages if isinstance(m, StreamRestarting)]
    assert (restart.resume_at, restart.discard, restart.attempt) == (30, True, 2)
    again = [m.sequence for m in messages if isinstance(m, StreamEvent) and m.attempt == 2]
    assert again == list(range(30, 80))
    assert (last.ok, last.events_count) == (True, 50)
    assert texts(messages) == LONG
    assert last.usage["candidatesTokenCount"] == 35 + 50
    assert _position(scene.gemini.requests[1].body["continuationToken"]) == 30


def test_case_45_a_break_right_behind_a_checkpoint_makes_nothing_void() -> None:
    last, messages, _ = _run(
        LongAnswer(LONG, hops=1, checkpoint_every=10, cut_at=[40]),
        retry=RetryPolicy(initial_delay=0, jitter=0, on_partial="fail"),
    )
    [restart] = [m for m in messages if isinstance(m, StreamRestarting)]
    assert (restart.resume_at, restart.discard) == (40, False)
    assert (last.ok, last.attempts) == (True, 2)
    assert [m.sequence for m in messages if isinstance(m, StreamEvent)] == list(range(80))


def test_case_45_a_killed_actors_successor_takes_over_the_token() -> None:
    with Scene() as scene:
        scene.gemini.on("why", LongAnswer(LONG, hops=2, checkpoint_every=10, hold_after=25))
        stream_id, probe = scene.start()
        probe.expect(StreamEvent, lambda m: m.sequence == 24)
        kill(scene.ref(stream_id))
        restart = probe.expect(StreamRestarting)
        assert (restart.resume_at, restart.discard) == (20, True)
        scene.gemini.gate("why").open()
        last = probe.expect(LAST)
        assert (last.ok, last.attempts) == (True, 2)
        assert texts(probe.messages) == LONG


def test_case_45_a_hop_that_ends_behind_its_token_is_told() -> None:
    last, messages, _ = _run(LongAnswer(LONG, hops=2, checkpoint_every=15, token_at_end=False))
    [restart] = [m for m in messages if isinstance(m, StreamRestarting)]
    assert isinstance(restart.error, StreamTruncatedError)
    assert (restart.resume_at, restart.discard) == (30, True)
    assert texts(messages) == LONG
    assert (last.ok, last.attempts) == (True, 2)


def test_case_45_without_automatic_continuation_the_first_hop_is_the_answer() -> None:
    last, messages, scene = _run(LongAnswer(LONG, hops=4), config={"automatic_continuation": False})
    assert isinstance(last, StreamComplete)
    assert (last.finish_reason, last.ok, last.events_count) == ("CONTINUATION", False, 20)
    assert len(scene.gemini.requests) == 1
    last, messages, scene = _run(
        LongAnswer(LONG, hops=4, checkpoint_every=5, cut_at=[12]), config={"automatic_continuation": False}
    )
    [restart] = [m for m in messages if isinstance(m, StreamRestarting)]
    assert restart.resume_at == 0
    assert all("continuationToken" not in record.body for record in scene.gemini.requests)


def test_case_45_hops_that_bear_no_fruit_are_bounded() -> None:
    stuck = Reply("again", finish_reason="CONTINUATION", tokens={0: "the same"})
    with Scene(retry=RetryPolicy(attempts=1)) as scene:
        scene.gemini.on("why", stuck)
        _, probe = scene.start()
        last = probe.expect(LAST)
        assert isinstance(last, StreamError)
        assert isinstance(last.error, StreamTruncatedError)
        assert scene.requests() == 4  # the one that brought the token, and three that brought no new one


def test_case_45_continuation_without_a_token_is_a_truncated_answer() -> None:
    with Scene(retry=AT_ONCE) as scene:
        scene.gemini.on("why", Reply("one two", finish_reason="CONTINUATION"))
        _, probe = scene.start()
        last = probe.expect(LAST)
        assert isinstance(last.error, StreamTruncatedError)
        assert (last.attempts, scene.requests()) == (4, 4)


def test_case_45_an_error_between_two_hops_goes_on_where_it_was() -> None:
    first = LongAnswer(LONG, hops=2)
    with Scene() as scene:
        scene.gemini.on("why", first, Failure(503), first)
        _, probe = scene.start()
        restart = probe.expect(StreamRestarting)
        assert isinstance(restart.error, APIError)
        assert (restart.resume_at, restart.discard) == (40, False)
        last = probe.expect(LAST)
        assert (last.ok, last.attempts, last.events_count) == (True, 2, 40)
        assert texts(probe.messages) == LONG
        assert last.usage["candidatesTokenCount"] == 80


# -- 46


def test_case_46_what_is_refused_or_unknown_is_said_once_and_the_manager_lives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Scene() as scene:
        probe = scene.probe()
        wrong: list[tuple[Any, type[Exception]]] = [
            (Subscribe("nobody", probe.ref), StreamNotFoundError),
            (StartStream("why", subscriber=cast("Any", "nobody")), InvalidRequestError),
            (StartStream("why", subscriber=probe.ref, idle_timeout=-1), InvalidRequestError),
            (StartStream(cast("Any", 17), subscriber=probe.ref), InvalidRequestError),
            (StartStream("why", subscriber=probe.ref, stream_id=cast("Any", 17)), InvalidRequestError),
            ("a text", InvalidRequestError),
            (None, InvalidRequestError),
            ({"command": "stop"}, InvalidRequestError),
            (object(), InvalidRequestError),
            (StartStream, InvalidRequestError),
        ]
        for message, error in wrong:
            with pytest.raises(error):
                scene.manager.ask(message, timeout=2)
        assert caplog.records == []
        for message, _ in wrong:
            scene.manager.tell(message)
        assert scene.manager.list_streams() == []
        assert [record.levelname for record in caplog.records] == ["WARNING"] * len(wrong)
        assert all("request_refused" in record.getMessage() for record in caplog.records)
        assert scene.manager._cell.generation == 1
