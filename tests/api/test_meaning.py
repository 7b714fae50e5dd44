"""What the events of a request mean together, read from their payloads: candidates, ends, what is no event."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_streams.api.generate.meaning import Meaning
from gemini_streams.api.generate.response import finish_reason_of, function_calls_of, text_of
from gemini_streams.api.json_values import MAX_DEPTH, decode
from gemini_streams.api.protocol import End
from gemini_streams.errors import EventTooLargeError, MalformedEventError, UnexpectedResponseError


def candidate(text: str | None = None, index: int | None = None, finish: str | None = None) -> dict[str, Any]:
    one: dict[str, Any] = {}
    if text is not None:
        one["content"] = {"parts": [{"text": text}]}
    if index is not None:
        one["index"] = index
    if finish is not None:
        one["finishReason"] = finish
    return one


def event(*candidates: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"candidates": list(candidates), **fields}


A = event(candidate("a"))
STOP = event(candidate("b", finish="STOP"))
BARE_STOP = event(candidate(finish="STOP"))
USAGE = {"usageMetadata": {"totalTokenCount": 7}}
PIECE = event({"content": {"parts": [{"functionCall": {"name": "f", "willContinue": True}}]}})


def payloads_of(*events: Any) -> list[bytes]:
    return [each if isinstance(each, bytes) else json.dumps(each).encode() for each in events]


def seen(*events: Any) -> Meaning:
    meaning = Meaning()
    meaning.read(payloads_of(*events))
    return meaning


# -- candidates ------------------------------------------------------------------------------------------------------


def test_candidate_0_is_known_by_its_index_wherever_it_stands() -> None:
    events = [
        event(candidate("B1", 1), candidate("A1", 0)),
        event(candidate("B2", 1, "MAX_TOKENS")),
        event(candidate("B3", 2), candidate("A2")),
        event(candidate("C", 2, "SAFETY"), candidate("A3", 0, "STOP")),
        event(candidate("D", 3, "OTHER")),
    ]
    assert [text_of(each) for each in events] == ["A1", "", "A2", "A3", ""]
    assert [finish_reason_of(each) for each in events] == [None, None, None, "STOP", None]
    meaning = seen(*events)
    assert meaning.finish_reason == "STOP"
    assert meaning.ending().end is End.COMPLETE


def test_a_clean_end_before_each_candidate_has_finished_is_a_truncated_answer() -> None:
    ending = seen(event(candidate("A", 0), candidate("B", 1)), event(candidate("A", 0, "STOP"))).ending()
    assert ending.end is End.TRUNCATED
    assert "each of its candidates" in ending.why


def test_an_unspecified_value_says_nothing() -> None:
    unspecified = event(candidate(finish="FINISH_REASON_UNSPECIFIED"))
    assert finish_reason_of(unspecified) is None
    assert seen(A, STOP, unspecified).finish_reason == "STOP"
    assert seen(A, unspecified).finish_reason is None
    blocked = {"promptFeedback": {"blockReason": "BLOCK_REASON_UNSPECIFIED"}}
    assert seen(blocked, A, STOP).block_reason is None
    assert seen(blocked, A, STOP).prompt_feedback
    assert seen({"promptFeedback": {"blockReason": "SAFETY"}}, blocked).block_reason == "SAFETY"


def test_the_message_is_that_of_the_finish_reason_that_counts() -> None:
    first = event({**candidate("a", finish="OTHER"), "finishMessage": "first"})
    second = event({**candidate("a", 1, "OTHER"), "finishMessage": "not candidate 0's"})
    assert seen(first, second).finish_message == "first"
    assert seen(first, STOP).finish_message is None


# -- an answer that needs no end -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "whole"),
    [
        ([A, STOP], True),
        ([A, A, BARE_STOP], True),
        ([A, STOP, USAGE], True),
        ([A, event(candidate("x", finish="MAX_TOKENS"))], True),
        ([event(candidate("A", 0), candidate("B", 1)), event(candidate("", 1, "STOP")), STOP], True),
        ([], False),
        ([A], False),
        ([STOP], False),
        ([BARE_STOP], False),
        ([STOP, STOP], False),
        ([STOP, A, STOP], False),
        ([A, STOP, A], False),
        ([A, STOP, STOP], False),
        ([A, STOP, event({"safetyRatings": []})], False),
        ([event(candidate("A", 0), candidate("B", 1)), STOP], False),
        ([A, event(candidate("x", finish="CONTINUATION"))], False),
        ([A, event(candidate("x", finish="FINISH_REASON_UNSPECIFIED"))], False),
        ([PIECE, event(candidate(finish="MAX_TOKENS"))], False),
        ([{"promptFeedback": {"blockReason": "SAFETY"}}], False),
        ([A, STOP, {"error": {"code": 503}}], False),
        ([A, STOP, b"{"], False),
    ],
)
def test_whether_an_answer_is_whole_without_a_mark_of_its_end(events: list[Any], whole: bool) -> None:
    assert seen(*events).whole is whole


# -- what is no event ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", [b"", b"[DONE]", b" [DONE] ", b"\n", b" "])
def test_what_is_no_event_is_no_error_and_counts_for_nothing(nothing: bytes) -> None:
    meaning = Meaning()
    given_ = payloads_of(A, nothing, STOP, nothing)
    assert meaning.read(given_) == ([A, STOP], payloads_of(A, STOP))
    assert (meaning.count, meaning.broken, meaning.error) == (2, None, None)
    assert meaning.ending().end is End.COMPLETE


@pytest.mark.parametrize(
    ("payload", "error", "says"),
    [
        (b"{", MalformedEventError, "event 1 of the answer is no JSON object"),
        (b"17", MalformedEventError, "no JSON object"),
        (b"[DONE", MalformedEventError, "no JSON object"),
        (b"[{}]", MalformedEventError, "no JSON object"),
        (b'{"a": NaN}', MalformedEventError, "no JSON object"),
        (b'{"a":' + b"[" * 500 + b"]" * 500 + b"}", MalformedEventError, "nested deeper"),
        (
            b'{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","partialArgs":[{"jsonPath":"a","nullValue":null}]}}]}}]}',
            MalformedEventError,
            "JSON path",
        ),
    ],
)
def test_what_is_no_events_json_ends_it_behind_what_came_before(
    payload: bytes, error: type[Exception], says: str
) -> None:
    meaning = Meaning()
    data, kept = meaning.read(payloads_of(A, payload, STOP))
    assert (data, kept) == ([A], payloads_of(A))
    assert type(meaning.broken) is error
    assert says in str(meaning.broken)


def test_an_array_in_place_of_the_stream_is_no_event_stream() -> None:
    assert type(seen(b'[{"candidates": []}]').broken) is UnexpectedResponseError
    assert seen(b'[{"error": {"code": 503}}]').error == {"code": 503}
    assert type(seen(A, b'[{"candidates": []}]').broken) is MalformedEventError


def test_what_is_read_ends_at_an_error() -> None:
    meaning = Meaning()
    assert meaning.read(payloads_of(A, {"error": {"code": 503}}, STOP)) == ([A], payloads_of(A))
    assert meaning.error == {"code": 503}


# -- in any cut ------------------------------------------------------------------------------------------------------

EVENTS = st.lists(
    st.sampled_from(
        [
            A,
            A,
            STOP,
            BARE_STOP,
            USAGE,
            {**A, **USAGE},
            PIECE,
            event(candidate("x", 1)),
            event(candidate("x", 0)),
            event({"content": {"parts": [{"text": "t", "thought": True}]}, "continuationToken": "t"}),
            event({"content": {"parts": [{"text": "half \ud83d"}]}}),
            event({"content": {"parts": [{"text": "\ude00"}]}}),
            {"promptFeedback": {}, **A},
            b"",
            b"{",
            17,
            {"error": {"code": 400}},
        ]
    ),
    max_size=8,
)


@given(EVENTS, st.lists(st.integers(0, 8), max_size=4))
def test_it_is_the_same_whatever_comes_together(events: list[Any], cuts: list[int]) -> None:
    def all_of(meaning: Meaning) -> dict[str, Any]:
        names = [name for name in Meaning.__slots__ if name not in ("_calls", "_halves", "open", "broken")]
        return {name: getattr(meaning, name) for name in names} | {"broken": str(meaning.broken)}

    payloads = payloads_of(*events)
    alone, together = Meaning(), Meaning()
    data: list[Any] = []
    kept: list[bytes] = []
    for payload in payloads:
        if alone.error is None and alone.broken is None:
            new = alone.read([payload])
            data += new[0]
            kept += new[1]
    edges = [0, *sorted(min(cut, len(payloads)) for cut in cuts), len(payloads)]
    at_once: list[Any] = []
    for start, end in itertools.pairwise(edges):
        if together.error is None and together.broken is None:
            at_once += together.read(payloads[start:end])[0]
    assert at_once == data
    assert all_of(together) == all_of(alone)
    assert [decode(payload) for payload in kept] == data


def test_what_is_kept_of_an_event_is_what_was_delivered() -> None:
    events = [
        event({"content": {"parts": [{"text": "half \ud83d"}]}}),
        A,
        event(
            {
                "content": {
                    "parts": [{"text": "\ude00"}, {"functionCall": {"name": "f", "willContinue": True}}]
                }
            }
        ),
        event({"content": {"parts": [{"functionCall": {"args": {"n": 1}}}]}, "score": 5}),
        STOP,
    ]
    payloads = [p.replace(b"5", b"1e400") for p in payloads_of(*events)]
    data, kept = Meaning().read(payloads)
    assert [text_of(each) for each in data] == ["half ", "\ufffda", "\ufffd", "", "b"]
    assert function_calls_of(data[3]) == [{"name": "f", "args": {"n": 1}}]
    assert [decode(payload) for payload in kept] == data
    assert kept[-1] is payloads[-1]


def test_a_call_in_pieces_is_bounded_in_size_and_depth() -> None:
    more = {"jsonPath": "$.a", "stringValue": "x" * 100}
    piece = event({"content": {"parts": [{"functionCall": {"partialArgs": [more], "willContinue": True}}]}})
    meaning = Meaning(room=2_000)
    data, _ = meaning.read(payloads_of(PIECE, *[piece] * 100))
    assert len(data) < 15
    assert type(meaning.broken) is EventTooLargeError
    deep = {"jsonPath": "$" + ".a" * 60, "structValue": json.loads('{"a":' * 450 + "1" + "}" * 450)}
    meaning = seen(event({"content": {"parts": [{"functionCall": {"name": "f", "partialArgs": [deep]}}]}}))
    assert type(meaning.broken) is MalformedEventError
    assert str(MAX_DEPTH) in str(meaning.broken)


def test_a_request_goes_on_with_what_was_in_pieces_at_its_checkpoint() -> None:
    token = {**PIECE["candidates"][0], "continuationToken": "t"}
    deep = json.loads("[" * 450 + "]" * 450)
    pieces = [{"jsonPath": "$.a", "stringValue": "x"}, {"jsonPath": "$.d", "listValue": deep}]
    token["content"] = {
        "parts": [
            {"functionCall": {"name": "f", "willContinue": True, "partialArgs": pieces}},
            {"text": "\ud83d"},
        ]
    }
    first = seen(
        event(token),
        event({"content": {"parts": [{"functionCall": {"args": {"void": 1}, "willContinue": True}}]}}),
    )
    more = {"jsonPath": "$.a", "stringValue": "y"}
    end = event({"content": {"parts": [{"text": "\ude00"}, {"functionCall": {"partialArgs": [more]}}]}})
    for _ in range(2):  # as often as it is tried
        data, _kept = Meaning(before=first.resume).read(payloads_of(end))
        assert function_calls_of(data[0]) == [{"name": "f", "args": {"a": "xy", "d": deep}}]
        assert text_of(data[0]) == "😀"


def test_a_clean_end_in_the_middle_of_a_call_is_a_truncated_answer() -> None:
    open_ = event({**PIECE["candidates"][0], "finishReason": "STOP"})
    ending = seen(open_).ending()
    assert (ending.end, "function call" in ending.why) == (End.TRUNCATED, True)
    assert seen(PIECE, event(candidate(finish="MAX_TOKENS"))).ending().end is End.COMPLETE
