"""Long answers in several hops, linked by continuation tokens: whole, once and in order, wherever they break."""

from __future__ import annotations

import base64
import random
import re
from typing import Any

import pytest

from gemini_streams import (
    APIError,
    RetryPolicy,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamTruncatedError,
)
from gemini_streams.testing import Failure, LongAnswer, Reply
from kit.scene import AT_ONCE, LAST, Scene, texts
from pykka_supervisor.testing import kill

WORDS = [f"w{n}" for n in range(80)]
LONG = " ".join(WORDS)


def _run(answer: LongAnswer, **options: Any) -> tuple[Any, list[Any], Scene]:
    policy = options.pop("retry", RetryPolicy(attempts=20, initial_delay=0, jitter=0))
    with Scene(retry=policy) as scene:
        scene.gemini.on("why", answer)
        _, probe = scene.start(**options)
        return probe.expect(LAST, timeout=20), probe.messages, scene


def test_four_hops_are_one_answer_that_nobody_hears_of() -> None:
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
def test_cut_at_random_the_answer_is_whole_and_once(seed: int) -> None:
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


def test_a_break_between_two_checkpoints_goes_on_from_the_latest() -> None:
    last, messages, scene = _run(LongAnswer(LONG, hops=1, checkpoint_every=10, cut_at=[35]))
    [restart] = [m for m in messages if isinstance(m, StreamRestarting)]
    assert (restart.resume_at, restart.discard, restart.attempt) == (30, True, 2)
    again = [m.sequence for m in messages if isinstance(m, StreamEvent) and m.attempt == 2]
    assert again == list(range(30, 80))
    assert (last.ok, last.events_count) == (True, 50)
    assert texts(messages) == LONG
    assert last.usage["candidatesTokenCount"] == 35 + 50
    assert _position(scene.gemini.requests[1].body["continuationToken"]) == 30


def test_a_break_right_behind_a_checkpoint_makes_nothing_void() -> None:
    last, messages, _ = _run(
        LongAnswer(LONG, hops=1, checkpoint_every=10, cut_at=[40]),
        retry=RetryPolicy(initial_delay=0, jitter=0, on_partial="fail"),
    )
    [restart] = [m for m in messages if isinstance(m, StreamRestarting)]
    assert (restart.resume_at, restart.discard) == (40, False)
    assert (last.ok, last.attempts) == (True, 2)
    assert [m.sequence for m in messages if isinstance(m, StreamEvent)] == list(range(80))


def test_a_killed_actors_successor_takes_over_the_token() -> None:
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


def test_a_hop_that_ends_behind_its_token_is_told() -> None:
    last, messages, _ = _run(LongAnswer(LONG, hops=2, checkpoint_every=15, token_at_end=False))
    [restart] = [m for m in messages if isinstance(m, StreamRestarting)]
    assert isinstance(restart.error, StreamTruncatedError)
    assert (restart.resume_at, restart.discard) == (30, True)
    assert texts(messages) == LONG
    assert (last.ok, last.attempts) == (True, 2)


def test_without_automatic_continuation_the_first_hop_is_the_answer() -> None:
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


def test_hops_that_bear_no_fruit_are_bounded() -> None:
    stuck = Reply("again", finish_reason="CONTINUATION", tokens={0: "the same"})
    with Scene(retry=RetryPolicy(attempts=1)) as scene:
        scene.gemini.on("why", stuck)
        _, probe = scene.start()
        last = probe.expect(LAST)
        assert isinstance(last, StreamError)
        assert isinstance(last.error, StreamTruncatedError)
        assert scene.requests() == 4  # the one that brought the token, and three that brought no new one


def test_continuation_without_a_token_is_a_truncated_answer() -> None:
    with Scene(retry=AT_ONCE) as scene:
        scene.gemini.on("why", Reply("one two", finish_reason="CONTINUATION"))
        _, probe = scene.start()
        last = probe.expect(LAST)
        assert isinstance(last.error, StreamTruncatedError)
        assert (last.attempts, scene.requests()) == (4, 4)


def test_an_error_between_two_hops_goes_on_where_it_was() -> None:
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
