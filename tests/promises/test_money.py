"""What costs money is bounded: requests that go on with an answer, and answers whose end counts as a failure."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import pytest

from gemini_streams import (
    Answer,
    BadFinishError,
    RetryPolicy,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamTruncatedError,
)
from gemini_streams.testing import LongAnswer, Reply
from kit.scene import AT_ONCE, LAST, Scene, texts


def endless() -> Any:
    """Each answer ends with CONTINUATION and a token that was never seen before."""
    number = itertools.count()
    return lambda _record: Reply("more", finish_reason="CONTINUATION", tokens={0: f"t{next(number)}"})


@pytest.mark.parametrize("most", [0, 3, None])
def test_an_answer_without_an_end_is_bounded(most: int | None) -> None:
    policy = AT_ONCE if most is None else RetryPolicy(initial_delay=0, jitter=0, max_continuations=most)
    with Scene(retry=policy) as scene:
        scene.gemini.on("why", endless())
        _, probe = scene.start()
        last = probe.expect(LAST)
        assert isinstance(last, StreamError)
        assert isinstance(last.error, StreamTruncatedError)
        assert not last.error.retryable
        most = 16 if most is None else most
        assert f"after {most} requests" in str(last.error)
        assert "max_continuations" in str(last.error)
        assert (scene.requests(), last.attempts) == (1 + most, 1)
        assert texts(probe.messages) == "more" * (1 + most)  # what has come stands
        assert last.usage is not None


def test_it_is_bounded_over_the_streams_whole_life() -> None:
    """Hops before and after a restart count together, and what was a restart is none of them."""
    words = " ".join(f"w{n}" for n in range(60))
    for most, whole in ((5, True), (4, False)):
        policy = RetryPolicy(initial_delay=0, jitter=0, attempts=10, max_continuations=most)
        with Scene(retry=policy) as scene:
            scene.gemini.on("why", LongAnswer(words, hops=6, cut_at=[15, 35], checkpoint_every=5))
            _, probe = scene.start()
            last = probe.expect(LAST)
            assert len([m for m in probe.messages if isinstance(m, StreamRestarting)]) == 2
            if whole:
                assert isinstance(last, StreamComplete)
                assert texts(probe.messages) == words
            else:
                assert isinstance(last.error, StreamTruncatedError)


def test_as_many_as_allowed_are_no_failure() -> None:
    words = " ".join(f"w{n}" for n in range(68))
    with Scene() as scene:
        scene.gemini.on("why", LongAnswer(words, hops=17))
        _, probe = scene.start()
        assert probe.expect(LAST).ok
        assert texts(probe.messages) == words
        assert scene.requests() == 17


# -- retry_finish

BAD = Reply("half a call", finish_reason="MALFORMED_FUNCTION_CALL")
POLICY = RetryPolicy(initial_delay=0, jitter=0, retry_finish={"MALFORMED_FUNCTION_CALL", "OTHER"})


def test_a_bad_finish_is_a_failed_attempt_and_its_answer_is_void() -> None:
    with Scene(retry=POLICY) as scene:
        scene.gemini.on("why", BAD, Reply("one", finish_reason="OTHER"), Reply("one two"))
        _, probe = scene.start()
        last = probe.expect(LAST)
        assert (last.ok, last.attempts) == (True, 3)
        assert texts(probe.messages) == "one two"
        restarts = [m for m in probe.messages if isinstance(m, StreamRestarting)]
        assert [(m.resume_at, m.discard) for m in restarts] == [(0, True), (0, True)]
        assert [m.error.finish_reason for m in restarts if isinstance(m.error, BadFinishError)] == [
            "MALFORMED_FUNCTION_CALL",
            "OTHER",
        ]
        answer = Answer()
        for message in probe.messages:
            answer.add(message)
        assert answer.text == "one two"


def test_the_last_one_is_told() -> None:
    with Scene(retry=POLICY) as scene:
        scene.gemini.on("why", BAD)
        _, probe = scene.start()
        last = probe.expect(LAST)
        assert isinstance(last, StreamError)
        assert isinstance(last.error, BadFinishError)
        assert (last.error.finish_reason, last.attempts, scene.requests()) == (
            "MALFORMED_FUNCTION_CALL",
            4,
            4,
        )
        assert "MALFORMED_FUNCTION_CALL" in str(last.error)
        again = pickle.loads(pickle.dumps(last.error))
        assert (again.finish_reason, again.retryable, str(again)) == (
            "MALFORMED_FUNCTION_CALL",
            True,
            str(last.error),
        )


def test_a_subscriber_that_cannot_take_text_back_gets_what_there_is() -> None:
    policy = RetryPolicy(on_partial="fail", retry_finish=["MALFORMED_FUNCTION_CALL"])
    with Scene(retry=policy) as scene:
        scene.gemini.on("why", BAD)
        _, probe = scene.start()
        last = probe.expect(LAST)
        assert isinstance(last.error, BadFinishError)
        assert scene.requests() == 1
        assert texts(probe.messages) == "half a call"


@pytest.mark.parametrize("reason", ["STOP", "MAX_TOKENS", "SAFETY", "SOMETHING_NEW"])
def test_by_default_no_finish_is_a_failure(reason: str) -> None:
    with Scene(retry=AT_ONCE) as scene:
        scene.gemini.on("why", Reply("one", finish_reason=reason))
        _, probe = scene.start()
        last = probe.expect(LAST)
        assert isinstance(last, StreamComplete)
        assert (last.finish_reason, scene.requests()) == (reason, 1)


def test_the_last_finish_reason_is_the_one_that_counts() -> None:
    """Some streams carry a finishReason on every event."""

    def reply(first: str, last: str) -> Any:
        return Reply(
            [
                {"candidates": [{"content": {"parts": [{"text": text}]}, "finishReason": reason}]}
                for text, reason in (("a", first), ("b", last))
            ],
            finish_reason=None,
        )

    with Scene(retry=POLICY) as scene:
        scene.gemini.on("why", reply("OTHER", "STOP"))
        _, probe = scene.start()
        assert probe.expect(LAST).ok
        assert [m.finish_reason for m in probe.messages if isinstance(m, StreamEvent)] == ["OTHER", "STOP"]
        assert scene.requests() == 1
