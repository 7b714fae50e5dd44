"""What a browser is sent, for any messages: it can be read again, and says no more than it should."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gemini_streams import (
    APIError,
    EventsDropped,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
)
from gemini_streams.web.events import Events
from kit.browser import parsed


def event(sequence: int, text: str, attempt: int = 1) -> StreamEvent:
    data = {"candidates": [{"content": {"parts": [{"text": text}]}}]}
    return StreamEvent("a", attempt, sequence, data, None, "0123abcd")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_any_text_comes_out_as_it_went_in(texts: list[str]) -> None:
    body = Events().of([event(n, text) for n, text in enumerate(texts)])
    read = parsed(body)
    assert [json.loads(one.data)["text"] for one in read] == texts
    assert [one.id for one in read] == [f"0123abcd-1-{n}" for n in range(len(texts))]
    assert {one.event for one in read} <= {"event"}


def test_a_gap_is_told_once_and_a_restart_is_none() -> None:
    error = APIError(503, "UNAVAILABLE", "project 4711 is overloaded", [])
    events = Events()
    body = events.of([event(3, "x"), EventsDropped("a", 1, 4, 2), event(6, "y")])
    body += events.of([StreamRestarting("a", 2, 0, 0.5, error), event(0, "z", 2)])
    read = [(one.event, json.loads(one.data)) for one in parsed(body)]
    assert [name for name, _ in read] == ["dropped", "event", "dropped", "event", "restarting", "event"]
    assert read[0][1] == {"attempt": 1, "first_sequence": 0, "count": 3}
    assert read[2][1] == {"attempt": 1, "first_sequence": 4, "count": 2}
    assert read[4][1]["resume_at"] == 0
    assert (read[4][1]["error"], read[4][1]["code"]) == ("APIError", 503)
    assert b"4711" not in body


def test_each_end_says_how_it_went() -> None:
    def said(last: Any) -> Any:
        [end] = parsed(Events().end(last))
        assert (end.event, end.id) == ("end", "end")
        return json.loads(end.data)

    error = APIError(429, "RESOURCE_EXHAUSTED", "project 4711", [], retryable=True, retry_at=9.0)
    assert said(StreamComplete("a", 1, "STOP", None, None, 1, 0.1, 0.1)) == {
        "outcome": "complete",
        "ok": True,
        "finish_reason": "STOP",
    }
    assert said(StreamComplete("a", 1, None, "SAFETY", None, 1, 0.1, 0.1))["block_reason"] == "SAFETY"
    assert said(StreamStopped("a", "requested", 1, None, 1, 0.1))["reason"] == "requested"
    assert said(StreamError("a", error, 1, None, 1, 0.1)) == {
        "outcome": "error",
        "ok": False,
        "error": "APIError",
        "retryable": True,
        "code": 429,
        "retry_at": 9.0,
    }


def test_an_integer_of_any_length_in_a_call_is_sent() -> None:
    call = {"name": "f", "args": {"n": 10**60}}
    data = {"candidates": [{"content": {"parts": [{"functionCall": call}]}}]}
    [one] = parsed(Events().of([StreamEvent("a", 1, 0, data, None, "0123abcd")]))
    assert json.loads(one.data)["function_calls"] == [call]
