from __future__ import annotations

import pickle
import re
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemini_streams import (
    APIError,
    ConnectionLostError,
    EventsDropped,
    IncompleteAnswerError,
    ManagerActor,
    MaxStreamsExceededError,
    RetryPolicy,
    StreamComplete,
    StreamEndedError,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
)
from gemini_streams.answer import Answer
from gemini_streams.api.generate.request import build_request
from gemini_streams.messages import LastMessage, SubscriberMessage
from gemini_streams.testing import LocalGemini, LongAnswer, Reply
from pykka_supervisor.testing import Probe

Part = dict[str, Any]


def data(*parts: Part, **more: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"role": "model", "parts": list(parts)}}], **more}


def event(sequence: int, *parts: Part | str, attempt: int = 1, **more: Any) -> StreamEvent:
    whole = [{"text": part} if isinstance(part, str) else part for part in parts]
    return StreamEvent("s", attempt, sequence, data(*whole, **more))


def restart(attempt: int, resume_at: int, *, discard: bool = True) -> StreamRestarting:
    return StreamRestarting("s", attempt, resume_at, 0.5, ConnectionLostError("lost"), None, discard)


def complete(reason: str | None = "STOP", block: str | None = None) -> StreamComplete:
    return StreamComplete("s", 1, reason, block, {"totalTokenCount": 9}, 1, 1.0, 0.1)


def folded(*messages: SubscriberMessage) -> Answer:
    answer = Answer()
    for message in messages:
        answer.add(message)
    return answer


# -- texts and ends --------------------------------------------------------------------------------------------------


def test_a_plain_answer() -> None:
    thought: Part = {"text": "hm", "thought": True}
    answer = folded(event(0, thought, "one "), event(1, "two"))
    assert (answer.text, answer.thoughts, answer.done, answer.ok) == ("one two", "hm", False, False)
    answer.add(complete())
    assert (answer.text, answer.done, answer.ok, answer.error) == ("one two", True, True, None)
    assert answer.usage == {"totalTokenCount": 9}
    assert answer.stream_id == "s"


def test_nothing_has_come_yet() -> None:
    answer = Answer()
    assert (answer.text, answer.thoughts, answer.function_calls, answer.usage) == ("", "", [], None)
    assert (answer.content, answer.done, answer.ok, answer.error) == (None, False, False, None)
    assert (answer.stream_id, answer.last, answer.missing) == (None, None, 0)


@pytest.mark.parametrize("reason", ["MAX_TOKENS", "SAFETY", None])
def test_only_stop_is_ok(reason: str | None) -> None:
    assert not folded(event(0, "one"), complete(reason)).ok


def test_a_blocked_prompt_is_not_ok() -> None:
    assert not folded(event(0), complete("STOP", "SAFETY")).ok


def test_a_failed_stream_has_an_error_and_keeps_its_text() -> None:
    error = APIError(503, "UNAVAILABLE", "overloaded")
    answer = folded(event(0, "one"), StreamError("s", error, 1, {"totalTokenCount": 3}, 4, 9.0))
    assert (answer.error, answer.done, answer.ok, answer.text) == (error, True, False, "one")
    assert answer.usage == {"totalTokenCount": 3}


def test_a_stopped_stream_is_done_and_its_half_answer_has_an_error() -> None:
    answer = folded(event(0, "one"), StreamStopped("s", "requested", 1, None, 1, 1.0))
    assert (answer.done, answer.ok, answer.text) == (True, False, "one")
    assert type(answer.error) is StreamEndedError
    assert "requested" in str(answer.error)


@pytest.mark.parametrize(
    ("messages", "reason", "said"),
    [
        ((0, complete("MAX_TOKENS")), "MAX_TOKENS", "ended with MAX_TOKENS"),
        ((0, complete("SAFETY")), "SAFETY", "ended with SAFETY"),
        ((0, complete("STOP", "OTHER")), "STOP", "blocked (OTHER)"),
        ((complete(None, "PROHIBITED_CONTENT"),), None, "blocked (PROHIBITED_CONTENT)"),
        ((0, EventsDropped("s", 1, 1, 3), complete()), "STOP", "3 of its events"),
        ((5, complete()), "STOP", "5 of its events"),
        ((complete(),), "STOP", "nothing"),
    ],
)
def test_an_answer_that_completed_and_is_not_whole_has_an_error(
    messages: tuple[Any, ...], reason: str | None, said: str
) -> None:
    answer = folded(*[event(m, "one") if isinstance(m, int) else m for m in messages])
    assert (answer.done, answer.ok, answer.finish_reason) == (True, False, reason)
    error = answer.error
    assert isinstance(error, IncompleteAnswerError)
    assert (error.finish_reason, error.retryable) == (reason, False)
    assert said in str(error)
    with pytest.raises(IncompleteAnswerError, match=re.escape(str(error))) as caught:
        answer.raise_for_error()
    assert caught.value.finish_reason == reason
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.args, again.__dict__) == (type(error), error.args, error.__dict__)


def test_a_whole_answer_raises_nothing() -> None:
    answer = folded(event(0, "one"))
    answer.raise_for_error()  # nothing has gone wrong so far
    assert (answer.error, answer.finish_reason) == (None, None)
    answer.add(complete())
    answer.raise_for_error()
    assert (answer.error, answer.finish_reason) == (None, "STOP")


def test_the_error_that_is_raised_is_a_copy() -> None:
    error = ConnectionLostError("lost")
    answer = folded(StreamError("s", error, 0, None, 1, 1.0))
    with pytest.raises(ConnectionLostError) as caught:
        answer.raise_for_error()
    assert caught.value is not error
    assert error.__traceback__ is None


def test_the_finish_message_is_the_streams() -> None:
    last = StreamComplete("s", 1, "SAFETY", None, None, 1, 1.0, 0.1, None, "The answer was about that.")
    assert folded(event(0, "one"), last).finish_message == "The answer was about that."
    assert (Answer().finish_message, folded(event(0, "one"), complete()).finish_message) == (None, None)


def test_the_tag_is_the_streams() -> None:
    tag = object()
    assert folded(StreamEvent("s", 1, 0, {}, tag)).tag is tag
    assert Answer().tag is None


def test_a_refused_request_has_an_answer_that_is_an_error() -> None:
    refusal = MaxStreamsExceededError("full")
    answer = Answer.refused(refusal, "mine")
    assert (answer.done, answer.ok, answer.error, answer.tag) == (True, False, refusal, "mine")
    assert (answer.text, answer.content, answer.usage, answer.last) == ("", None, None, None)
    with pytest.raises(MaxStreamsExceededError):
        answer.raise_for_error()
    with pytest.raises(ValueError, match="refused"):
        answer.add(event(0, "a"))


def test_while_it_runs_the_usage_is_the_latest_events() -> None:
    answer = folded(event(0, "one", usageMetadata={"totalTokenCount": 2}), event(1, "two"))
    assert answer.usage == {"totalTokenCount": 2}
    answer.add(restart(2, 0))
    assert answer.usage is None


# -- restarts --------------------------------------------------------------------------------------------------------


def test_a_restart_voids_what_lies_at_or_behind_resume_at_and_nothing_before() -> None:
    answer = folded(event(0, "a"), event(1, "b"), event(2, "c"))
    assert answer.text == "abc"
    answer.add(restart(2, 1))
    assert answer.text == "a"
    answer.add(event(1, "B", attempt=2))
    assert answer.text == "aB"


def test_a_restart_that_voids_nothing() -> None:
    answer = folded(event(0, "a"), restart(2, 1, discard=False), event(1, "b", attempt=2), complete())
    assert (answer.text, answer.ok) == ("ab", True)


def test_calls_of_a_voided_attempt_are_not_made() -> None:
    call: Part = {"functionCall": {"name": "delete_everything", "args": {}}}
    answer = folded(event(0, call), restart(2, 0), event(0, "no", attempt=2), complete())
    assert (answer.function_calls, answer.text, answer.ok) == ([], "no", True)


# -- what is missing -------------------------------------------------------------------------------------------------


def test_dropped_events_are_missing() -> None:
    answer = folded(event(0, "a"), EventsDropped("s", 1, 1, 3), event(4, "b"), complete())
    assert (answer.text, answer.missing, answer.ok) == ("ab", 3, False)


def test_who_joined_late_misses_the_beginning() -> None:
    answer = folded(event(5, "late"), complete())
    assert (answer.missing, answer.ok) == (5, False)


def test_who_joined_after_the_last_event_has_no_answer() -> None:
    assert not folded(complete()).ok


def test_a_restart_from_the_beginning_brings_what_was_missing() -> None:
    answer = folded(event(5, "late"), restart(2, 0), event(0, "whole", attempt=2), complete())
    assert (answer.text, answer.missing, answer.ok) == ("whole", 0, True)


def test_a_restart_within_a_gap_leaves_its_beginning_missing() -> None:
    answer = folded(event(0, "a"), EventsDropped("s", 1, 1, 9), restart(2, 3), event(3, "b", attempt=2))
    assert answer.missing == 2


# -- function calls --------------------------------------------------------------------------------------------------

CALL: Part = {"functionCall": {"name": "light", "args": {"on": True}}, "thoughtSignature": "c2ln"}


def test_function_calls_are_there_once_the_answer_is_complete() -> None:
    answer = folded(event(0, CALL), event(1, {"functionCall": {"name": "door"}}))
    assert answer.function_calls == []
    answer.add(complete())
    assert answer.function_calls == [{"name": "light", "args": {"on": True}}, {"name": "door"}]


@pytest.mark.parametrize(
    "last",
    [
        StreamError("s", ConnectionLostError("lost"), 1, None, 1, 1.0),
        StreamStopped("s", "requested", 1, None, 1, 1.0),
    ],
)
def test_there_are_none_where_the_stream_did_not_complete(last: LastMessage) -> None:
    assert folded(event(0, CALL), last).function_calls == []


def test_there_are_none_where_something_is_missing() -> None:
    assert folded(event(0, CALL), EventsDropped("s", 1, 1, 1), complete()).function_calls == []


# -- the model's turn ------------------------------------------------------------------------------------------------


def test_content_joins_texts_and_keeps_signed_parts_on_their_own() -> None:
    answer = folded(
        event(0, {"text": "I ", "thought": True}, {"text": "think", "thought": True}),
        event(1, "so "),
        event(2, "it ", "is"),
        event(3, {"text": " signed", "thoughtSignature": "c2ln"}),
        event(4, ""),
        event(5, " and"),
        event(6, " more", CALL),
        event(7, {"text": "", "thoughtSignature": "ZW5k"}),
    )
    assert answer.content == {
        "role": "model",
        "parts": [
            {"text": "I think", "thought": True},
            {"text": "so it is"},
            {"text": " signed", "thoughtSignature": "c2ln"},
            {"text": " and more"},
            CALL,
            {"text": "", "thoughtSignature": "ZW5k"},
        ],
    }


def test_content_is_a_copy() -> None:
    answer = folded(event(0, CALL), complete())
    content = answer.content
    assert content is not None
    content["parts"][0]["functionCall"]["args"]["on"] = False
    answer.function_calls[0]["args"]["on"] = False
    assert answer.content == {"role": "model", "parts": [CALL]}
    assert answer.function_calls == [CALL["functionCall"]]


@pytest.mark.parametrize("parts", [(), ("",), ({"thought": True},), ({"text": 7},), ({},)])
def test_there_is_no_content_where_nothing_was_said(parts: tuple[Any, ...]) -> None:
    assert folded(event(0, *parts), complete("SAFETY")).content is None


def test_content_can_be_sent_as_a_turn() -> None:
    turn = folded(event(0, "Because ", "of ..."), event(1, CALL), complete()).content
    answered = {"functionResponse": {"name": "light", "response": {"ok": True}}}
    body = build_request(["Why?", turn, answered], None).body
    assert [content["role"] for content in body["contents"]] == ["user", "model", "user"]
    assert body["contents"][1] == turn


# -- what is refused -------------------------------------------------------------------------------------------------


def test_another_streams_message_is_refused_and_changes_nothing() -> None:
    answer = folded(event(0, "a"))
    with pytest.raises(ValueError, match="stream s's and the message stream other's"):
        answer.add(StreamEvent("other", 1, 1, data({"text": "b"})))
    assert (answer.text, answer.stream_id, answer.missing) == ("a", "s", 0)


def test_nothing_comes_behind_the_last_message() -> None:
    answer = folded(event(0, "a"), complete())
    with pytest.raises(ValueError, match="make a new Answer"):
        answer.add(event(1, "b"))
    assert answer.text == "a"


@pytest.mark.parametrize("message", [None, "text", {"text": "a"}])
def test_what_is_no_message_is_refused(message: Any) -> None:
    with pytest.raises(TypeError, match=type(message).__name__):
        Answer().add(message)


# -- any history -----------------------------------------------------------------------------------------------------

texts = st.text("ab ", max_size=3)
parts = st.one_of(
    texts.map(lambda text: {"text": text}),
    texts.map(lambda text: {"text": text, "thought": True}),
    texts.map(lambda text: {"text": text, "thoughtSignature": "c2ln"}),
    st.just({"functionCall": {"name": "f"}}),
)
step = st.one_of(
    st.tuples(st.just("events"), st.lists(st.lists(parts, max_size=3), min_size=1, max_size=5)),
    st.tuples(st.just("dropped"), st.integers(1, 4)),
    st.tuples(st.just("restart"), st.integers(0, 12)),
    st.tuples(st.just("look"), st.none()),
)


def _plain(read: list[Part], *, thought: bool) -> str:
    return "".join(p["text"] for p in read if "text" in p and p.get("thought", False) is thought)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2), st.lists(step, max_size=14))
def test_an_answer_is_what_the_standing_events_say(first: int, steps: list[tuple[str, Any]]) -> None:
    """Restarts from the beginning, continuations from a checkpoint, gaps and late joining, and looks between."""
    answer = Answer()
    standing: dict[int, list[Part]] = {}
    following, attempt = first, 1
    for kind, what in steps:
        if kind == "events":
            for said in what:
                answer.add(event(following, *said, attempt=attempt))
                standing[following] = said
                following += 1
        elif kind == "dropped":
            answer.add(EventsDropped("s", attempt, following, what))
            following += what
        elif kind == "restart":
            following = min(what, following)
            attempt += 1
            void = any(sequence >= following for sequence in standing)
            answer.add(restart(attempt, following, discard=void))
            standing = {sequence: said for sequence, said in standing.items() if sequence < following}
        else:
            now = [part for said in standing.values() for part in said]
            assert answer.text == _plain(now, thought=False)
    answer.add(event(following, {"text": "end"}, attempt=attempt))
    standing[following] = [{"text": "end"}]
    answer.add(complete())

    read = [part for sequence in sorted(standing) for part in standing[sequence]]
    assert answer.text == _plain(read, thought=False)
    assert answer.thoughts == _plain(read, thought=True)
    assert answer.missing == following + 1 - len(standing)
    assert answer.ok is (answer.missing == 0) is (answer.error is None)
    calls = [part["functionCall"] for part in read if "functionCall" in part]
    assert answer.function_calls == (calls if answer.ok else [])
    content = answer.content
    assert content is not None
    turn: list[Part] = content["parts"]
    assert _plain(turn, thought=False) == answer.text
    assert _plain(turn, thought=True) == answer.thoughts
    signed: Callable[[Part], bool] = lambda part: "thoughtSignature" in part or "functionCall" in part  # noqa: E731
    assert [part for part in turn if signed(part)] == [part for part in read if signed(part)]


class Counted(dict[str, Any]):
    """An event's data that counts how often somebody reads it."""

    reads = 0

    def __getitem__(self, key: str) -> Any:
        Counted.reads += 1
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        Counted.reads += 1
        return super().get(key, default)


def test_looking_after_every_event_reads_each_event_once() -> None:
    answer = Answer()
    count = 2_000
    for sequence in range(count):
        answer.add(StreamEvent("s", 1, sequence, Counted(data({"text": "x"}))))
        assert len(answer.text) == sequence + 1
    assert Counted.reads <= 3 * count


def test_no_event_is_kept() -> None:
    """What stays of an event of plain text is that text: not its JSON, with its usage figures and the rest."""

    def kept(size: int) -> int:
        tracemalloc.start()
        answer = Answer()
        for sequence in range(2_000):
            said = f"{sequence:>{size}}"
            usage = {"promptTokenCount": sequence, "totalTokenCount": sequence + 300}
            answer.add(event(sequence, said, usageMetadata=usage, responseId=f"response-{sequence}"))
        current, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(answer.text) == 2_000 * size
        return current // 2_000

    assert kept(200) <= 200 + 49 + 8 + 8 + 16


def test_content_and_calls_of_any_depth_are_copied() -> None:
    deep: dict[str, Any] = {}
    for _ in range(50_000):
        deep = {"a": [deep, 1]}
    answer = folded(event(0, {"functionCall": {"name": "f", "args": deep}}), complete())
    content = answer.content
    assert content is not None
    [call] = answer.function_calls
    for args in (call["args"], content["parts"][0]["functionCall"]["args"]):
        given, copied, depth = deep, args, 0
        while given:
            assert copied is not given
            given, copied, depth = given["a"][0], copied["a"][0], depth + 1
        assert (copied, depth) == ({}, 50_000)


# -- with a real stream ----------------------------------------------------------------------------------------------


def test_a_stream_that_restarts_and_one_that_goes_on_from_a_checkpoint() -> None:
    words = " ".join(f"word{number}" for number in range(40))
    with LocalGemini() as gemini, Probe() as probe:
        gemini.on("again", Reply(words, end="reset", end_after=11), Reply(words))
        gemini.on("long", LongAnswer(words, hops=3, checkpoint_every=4, cut_at=[10, 26]))
        manager = ManagerActor.start(endpoint=gemini.endpoint, retry=RetryPolicy(initial_delay=0, jitter=0))
        for prompt in ("again", "long"):
            manager.start_stream(prompt, subscriber=probe.ref, stream_id=prompt)
        for _ in range(2):
            probe.expect((StreamComplete, StreamError))
        manager.stop()
    for prompt in ("again", "long"):
        answer = folded(*[message for message in probe.messages if message.stream_id == prompt])
        assert (answer.text, answer.ok, answer.missing) == (words, True, 0)
        assert answer.content == {"role": "model", "parts": [{"text": words}]}
