"""What events mean: texts, ends, checkpoints, usage."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from google.genai import _extra_utils, types
from hypothesis import given
from hypothesis import strategies as st

from gemini_streams.api.generate.meaning import Meaning
from gemini_streams.api.generate.response import (
    finish_reason_of,
    function_calls_of,
    parts_of,
    plain_text_of,
    text_of,
    thoughts_of,
    whole_parts_of,
)
from gemini_streams.api.protocol import End
from gemini_streams.api.usage import add_usage

RECORDED = Path(__file__).parents[3] / "shared" / "recorded"


def checkpoint(meaning: Meaning) -> tuple[str | None, int]:
    resume = meaning.resume
    return (None if resume is None else resume.token, meaning.resume_index)


def chunk(*texts: str, **candidate: Any) -> dict[str, Any]:
    return {
        "candidates": [{"content": {"parts": [{"text": t} for t in texts], "role": "model"}, **candidate}]
    }


def seen(*events: Any, follows: bool = True) -> Meaning:
    meaning = Meaning(follows=follows)
    for event in events:
        meaning.see(event)
    return meaning


STOP = chunk("x", finishReason="STOP")
BLOCKED = {"promptFeedback": {"blockReason": "SAFETY"}}
TOKEN = chunk("x", continuationToken="t1")
HOP = chunk("x", continuationToken="t1", finishReason="CONTINUATION")
BARE_HOP = chunk("x", finishReason="CONTINUATION")
ERROR = {"error": {"code": 503, "message": "m", "status": "UNAVAILABLE"}}


# -- one event -----------------------------------------------------------------------------------------------


def test_what_an_event_says() -> None:
    data = {
        "candidates": [
            {
                "content": {
                    "parts": [
                        {"text": "hm", "thought": True},
                        {"text": "a"},
                        {"functionCall": {"name": "f", "args": {}}},
                        {"text": "b", "thought": False},
                    ]
                },
                "finishReason": "STOP",
            },
            chunk("other", finishReason="OTHER")["candidates"][0],
        ]
    }
    assert text_of(data) == "ab"
    assert thoughts_of(data) == "hm"
    assert function_calls_of(data) == [{"name": "f", "args": {}}]
    assert finish_reason_of(data) == "STOP"
    assert len(parts_of(data)) == 4


ODD: list[Any] = [
    {},
    {"candidates": None},
    {"candidates": []},
    {"candidates": {}},
    {"candidates": "finishReason"},
    {"candidates": 5},
    {"candidates": [None]},
    {"candidates": ["finishReason continuationToken"]},
    {"candidates": [[]]},
    {"candidates": [{"content": None, "finishReason": None}]},
    {"candidates": [{"content": [], "finishReason": 3}]},
    {"candidates": [{"content": {"parts": None}, "finishReason": ""}]},
    {"candidates": [{"content": {"parts": "text"}, "finishReason": ["STOP"], "continuationToken": 5}]},
    {"candidates": [{"content": {"parts": {"text": "x"}}, "continuationToken": ""}]},
    {
        "candidates": [
            {"content": {"parts": [None, 5, "x", [], {"text": None}, {"text": 5}, {"functionCall": "f"}]}}
        ]
    },
    {"candidates": [{"content": {"parts": [{"functionCall": None, "text": ["x"]}]}}]},
    {"usageMetadata": "many", "promptFeedback": "no", "error": None},
    {"usageMetadata": None, "promptFeedback": None, "error": 5},
    {"promptFeedback": {"blockReason": None}, "error": []},
    [],
    [[]],
    None,
    5,
    "candidates",
    True,
]


@pytest.mark.parametrize("data", ODD)
def test_fields_that_are_missing_or_of_a_wrong_type(data: Any) -> None:
    meaning = seen(data)
    assert meaning.count == 1
    assert (meaning.finish_reason, meaning.block_reason, meaning.resume, meaning.usage, meaning.error) == (
        None,
    ) * 5
    if isinstance(data, dict):
        assert text_of(data) == ""
        assert thoughts_of(data) == ""
        assert function_calls_of(data) == []
        assert finish_reason_of(data) is None
        assert "".join(p["text"] for p in parts_of(data) if "text" in p) == ""


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "candidates",
                    "content",
                    "parts",
                    "text",
                    "thought",
                    "functionCall",
                    "finishReason",
                    "continuationToken",
                    "usageMetadata",
                    "promptFeedback",
                    "blockReason",
                    "error",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(st.lists(json_values, max_size=4), st.booleans())
def test_no_event_is_too_odd(events: list[Any], half: bool) -> None:
    meaning = seen(*events)
    assert meaning.count == len(events)
    assert meaning.ending(half_event=half).end in End
    for data in events:
        if isinstance(data, dict):
            assert isinstance(text_of(data) + thoughts_of(data), str)
            assert all(isinstance(call, dict) for call in function_calls_of(data))


# -- one request ---------------------------------------------------------------------------------------------


def test_the_last_finish_reason_counts() -> None:
    assert (
        seen(STOP, chunk("y"), chunk("z", finishReason="MAX_TOKENS", finishMessage="m")).finish_reason
        == "MAX_TOKENS"
    )
    assert seen(STOP, chunk("y")).finish_reason == "STOP"
    assert seen(STOP, {"candidates": [{"finishReason": None}]}).finish_reason == "STOP"
    meaning = seen(chunk("z", finishReason="OTHER", finishMessage="m"))
    assert meaning.finish_message == "m"
    assert seen(chunk(finishReason="SOMETHING_NEW")).finish_reason == "SOMETHING_NEW"


def test_the_latest_usage_counts_on_whatever_event_it_comes() -> None:
    one, two = {"totalTokenCount": 1}, {"totalTokenCount": 2}
    assert seen({**chunk("x"), "usageMetadata": one}, {"usageMetadata": two}, chunk("y")).usage == two
    assert seen({"usageMetadata": one, **BLOCKED}).usage == one
    assert seen({"candidates": [], "usageMetadata": one}).usage == one


def test_prompt_feedback_beside_candidates() -> None:
    meaning = seen({**chunk("x"), "promptFeedback": {"safetyRatings": []}})
    assert meaning.prompt_feedback
    assert meaning.block_reason is None
    assert seen({**chunk("x"), **BLOCKED}).block_reason == "SAFETY"


def test_a_checkpoint_knows_how_much_stands() -> None:
    meaning = seen(chunk("a"), TOKEN, chunk("b"), chunk("c"))
    assert (*checkpoint(meaning), meaning.count) == ("t1", 2, 4)
    meaning.see(chunk("d", continuationToken="t2"))
    assert checkpoint(meaning) == ("t2", 5)


@pytest.mark.parametrize("data", [ERROR, [ERROR], {**chunk("x"), **ERROR}, {"candidates": [], **ERROR}])
def test_an_event_that_is_an_error(data: Any) -> None:
    assert seen(chunk("a"), data).error == ERROR["error"]
    assert seen(chunk("a"), data, chunk("b")).error == ERROR["error"]


def test_an_error_that_is_a_string() -> None:
    assert seen({"error": "overloaded"}).error == {"message": "overloaded"}


# -- the end -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "end"),
    [
        ([chunk("a"), STOP], End.COMPLETE),
        ([STOP, chunk("a")], End.COMPLETE),
        ([chunk(finishReason="SAFETY")], End.COMPLETE),
        ([chunk(finishReason="FINISH_REASON_UNSPECIFIED")], End.TRUNCATED),
        ([BLOCKED], End.COMPLETE),
        ([BLOCKED, BARE_HOP], End.COMPLETE),
        ([TOKEN, STOP], End.COMPLETE),
        ([], End.TRUNCATED),
        ([chunk("a"), chunk("b")], End.TRUNCATED),
        ([{"promptFeedback": {}}, chunk("b")], End.TRUNCATED),
        ([chunk("a"), BARE_HOP], End.TRUNCATED),
        ([chunk("a"), TOKEN, chunk("b")], End.TRUNCATED),
        ([chunk("a"), HOP], End.CONTINUES),
        ([TOKEN, BARE_HOP], End.TRUNCATED),
        ([{"promptFeedback": {}}, HOP], End.COMPLETE),
    ],
)
def test_a_clean_end(events: list[Any], end: End) -> None:
    ending = seen(*events).ending()
    assert ending.end is end
    assert bool(ending.why) is (end is End.TRUNCATED)


@pytest.mark.parametrize(
    ("events", "token", "stand"),
    [
        ([chunk("a"), STOP], None, 0),
        ([chunk("a"), TOKEN, chunk("b")], "t1", 2),
        ([chunk("a"), HOP], "t1", 2),
        ([TOKEN, BARE_HOP], "t1", 1),
        ([TOKEN, chunk("a"), ERROR], "t1", 1),
        ([TOKEN, chunk("a"), chunk("b")], "t1", 1),
        ([TOKEN, STOP], None, 1),
    ],
)
def test_where_an_answer_can_go_on(events: list[Any], token: str | None, stand: int) -> None:
    assert checkpoint(seen(*events)) == (token, stand)


def test_an_answer_has_got_on_where_its_token_is_another_one() -> None:
    one, same, other = seen(TOKEN), seen(chunk("a"), TOKEN), seen(chunk("x", continuationToken="t2"))
    assert one.resume == same.resume
    assert hash(one.resume) == hash(same.resume)
    assert one.resume != other.resume
    assert one.resume is not None


def test_half_an_event_is_a_truncated_answer() -> None:
    ending = seen(STOP).ending(half_event=True)
    assert ending.end is End.TRUNCATED
    assert "middle of an event" in ending.why


def test_continuation_switched_off() -> None:
    meaning = seen(HOP, follows=False)
    assert (meaning.ending().end, meaning.resume) == (End.COMPLETE, None)
    assert seen(BARE_HOP, follows=False).ending().end is End.COMPLETE
    assert seen(TOKEN, follows=False).resume is None
    assert seen(TOKEN, follows=False).ending().end is End.TRUNCATED


@given(
    st.lists(
        st.sampled_from(
            [chunk("a"), TOKEN, HOP, BARE_HOP, STOP, BLOCKED, chunk("b", continuationToken="t2")]
        ),
        max_size=6,
    ),
    st.booleans(),
)
def test_a_first_request_goes_on_where_google_genais_does(events: list[Any], clean: bool) -> None:
    """The same decision as its own state machine's, for the first request of a stream.

    It takes a clean end after a checkpoint, but without a finishReason, for a reason to go on in silence; here that
    is a truncated answer that can go on from the token, and is told.
    """
    state = _extra_utils.StreamContinuation(None)
    state.start_hop()
    for event in events:
        state.observe(
            types.GenerateContentResponse.model_validate(
                json.loads(json.dumps(event).replace('"t1"', '"dDEx"').replace('"t2"', '"dDIy"'))
            )
        )
    try:
        goes_on = state.end_hop(None if clean else ConnectionError())
    except ConnectionError:
        goes_on = False
    meaning = seen(*events)
    ours = meaning.resume is not None and not meaning.prompt_feedback
    assert (ours and meaning.finish_reason in (None, "CONTINUATION")) is goes_on


# -- usage ---------------------------------------------------------------------------------------------------


def test_usage_adds_up_over_requests() -> None:
    one = {
        "promptTokenCount": 5,
        "totalTokenCount": 7,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 5}],
        "trafficType": "A",
        "nested": {"x": 1},
    }
    two = {
        "promptTokenCount": 6,
        "candidatesTokenCount": 2,
        "promptTokensDetails": [
            {"modality": "IMAGE", "tokenCount": 1},
            {"modality": "TEXT", "tokenCount": 4},
            {"modality": "VIDEO"},
        ],
        "trafficType": "B",
        "nested": {"x": 1.5, "y": True},
    }
    before = json.dumps([one, two])
    assert add_usage(one, two) == {
        "promptTokenCount": 11,
        "totalTokenCount": 7,
        "candidatesTokenCount": 2,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": 9},
            {"modality": "IMAGE", "tokenCount": 1},
            {"modality": "VIDEO"},
        ],
        "trafficType": "B",
        "nested": {"x": 2.5, "y": True},
    }
    assert json.dumps([one, two]) == before
    assert add_usage(None, one) == one
    assert add_usage(one, None) == one
    assert add_usage(None, one) is not one
    assert add_usage(None, None) == {}


def test_usage_of_odd_types_is_kept() -> None:
    assert add_usage({"a": 1, "l": [1]}, {"a": "x", "l": ["y"]}) == {"a": "x", "l": [1, "y"]}
    assert add_usage({"a": None, "b": 1}, {"a": 2, "b": None}) == {"a": 2, "b": 1}
    assert add_usage({"a": True}, {"a": True}) == {"a": True}
    assert add_usage({"l": [{"modality": 5}]}, {"l": []}) == {"l": [{"modality": 5}]}


# -- recorded ------------------------------------------------------------------------------------------------


def recorded_streams() -> list[dict[str, Any]]:
    if not (RECORDED / "manifest.json").exists():
        return []
    files: list[dict[str, Any]] = json.loads((RECORDED / "manifest.json").read_text())["files"]
    return [entry for entry in files if entry["sse"]]


@pytest.mark.skipif(
    not recorded_streams(), reason="the recorded streams lie beside the repository, and are not there"
)
def test_recorded_streams() -> None:
    for entry in recorded_streams():
        raw = (RECORDED / entry["name"]).read_text("utf-8").replace("\r\n", "\n")
        events = [json.loads(data) for data in re.findall(r"^data: ?(.*)$", raw, re.MULTILINE)]
        meaning = seen(*events)
        assert meaning.count == entry["expect"]["stream_events"], entry["name"]
        assert meaning.finish_reason == entry["final_finish_reason"]
        assert meaning.block_reason == (entry["block_reasons"] or [None])[-1]
        assert len("".join(map(text_of, events))) == entry["text_chars"]
        complete = entry["expect"]["ending"] == "StreamComplete"
        assert (meaning.ending().end is End.COMPLETE) is complete, entry["name"]


# -- the quick way of most events ------------------------------------------------------------------------------------

_odd: st.SearchStrategy[Any] = st.sampled_from([None, 0, 1, False, 0.0, "", "x", [], {}, "0"])
_some_part = st.one_of(
    st.fixed_dictionaries({"text": st.text(max_size=2)}, optional={"thought": st.booleans()}),
    st.fixed_dictionaries({"text": _odd}),
    _odd,
)
_some_content = st.fixed_dictionaries({"parts": st.one_of(st.lists(_some_part, max_size=2), _odd)})
_some_candidate = st.one_of(
    st.fixed_dictionaries(
        {"content": st.one_of(_some_content, _odd)},
        optional={"index": _odd, "finishReason": st.just("STOP")},
    ),
    _odd,
)


@given(
    st.fixed_dictionaries({}, optional={"candidates": st.one_of(st.lists(_some_candidate, max_size=2), _odd)})
)
def test_a_plain_text_is_what_the_parts_say(data: dict[str, Any]) -> None:
    plain = plain_text_of(data)
    if plain is not None:
        assert whole_parts_of(data) == [{"text": plain}]


def test_most_events_are_plain() -> None:
    data = {"candidates": [{"content": {"parts": [{"text": "one"}]}, "index": 0}], "usageMetadata": {}}
    assert plain_text_of(data) == "one"
    assert plain_text_of({"candidates": [{"content": {"parts": [{"text": ""}]}}]}) == ""
