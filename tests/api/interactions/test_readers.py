"""The readers of an interaction's calls take any bytes: what is no event is an error of ours, and nothing is raised."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemini_streams.api.interactions.course import Course, onward
from gemini_streams.api.interactions.foreground import ForegroundReader
from gemini_streams.api.interactions.place import Place
from gemini_streams.api.interactions.reading import LookReader, PostReader, StreamReader, UsageReader
from gemini_streams.errors import (
    APIError,
    ConnectionLostError,
    GeminiStreamsError,
    IdleTimeoutError,
    InteractionGoneError,
    InteractionStalledError,
    ReplayMismatchError,
    StreamCrashedError,
    StreamTruncatedError,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
TYPES = st.sampled_from(
    [
        "interaction.created",
        "interaction.status_update",
        "interaction.completed",
        "step.start",
        "step.delta",
        "step.stop",
        "error",
        "heartbeat",
    ]
)
DELTAS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            [
                "text",
                "thought_summary",
                "thought_signature",
                "arguments_delta",
                "text_annotation_delta",
                "image",
            ]
        )
        | JSON
    },
    optional=dict.fromkeys(("text", "content", "signature", "arguments", "annotations", "data"), JSON),
)
STEPS = st.fixed_dictionaries(
    {"type": st.sampled_from(["model_output", "thought", "function_call", "google_search_call"]) | JSON},
    optional=dict.fromkeys(("content", "summary", "signature", "arguments", "id", "name"), JSON),
)
EVENTS = st.fixed_dictionaries(
    {"event_type": TYPES | JSON},
    optional={
        "index": st.integers(-1, 3) | JSON,
        "delta": DELTAS | JSON,
        "step": STEPS | JSON,
        "interaction": st.fixed_dictionaries({"id": JSON, "status": st.text(max_size=9) | JSON}) | JSON,
        "status": JSON,
        "event_id": st.text(max_size=4) | JSON,
        "metadata": JSON,
        "usage": JSON,
        "error": JSON,
    },
)
PAYLOADS = (EVENTS | JSON).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=12)


def at(now: float) -> Callable[[], float]:
    return lambda: now


def course(**fields: Any) -> Course:
    return Course("v1_L", Place("v1_L"), **fields)


@settings(max_examples=400, deadline=None)
@given(st.lists(PAYLOADS, max_size=8), st.booleans())
def test_any_payloads_are_events_or_an_error(payloads: list[bytes], foreground: bool) -> None:
    reader = (
        ForegroundReader(1 << 20, float, None)
        if foreground
        else StreamReader(1 << 20, float, course(), 1800.0)
    )
    for payload in payloads:
        data, kept = reader.read([payload])
        assert reader.marks is not None
        assert len(data) == len(kept) == len(reader.marks)
        assert all(json.loads(each) is not None for each in kept)
        if reader.broken is not None or reader.error is not None:
            break


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["id", "status", "steps", "usage", "updated"]), JSON) | JSON)
def test_any_document_is_read_or_refused(document: Any) -> None:
    body = json.dumps(document).encode()
    for reader in (
        PostReader(1 << 20, float),
        LookReader(1 << 20, float, course(look=True), 1800.0),
        UsageReader(1 << 20, float, course(status="completed"), 1800.0),
    ):
        try:
            payloads = reader.unfold(body)
            reader.read(payloads)
            reader.ending(half_event=False)
        except GeminiStreamsError:
            pass


def test_what_follows_each_failure() -> None:
    here = course(mismatches=1)
    cases: list[tuple[Course, GeminiStreamsError, bool, tuple[bool, int, bool, float | None]]] = [
        (here, ConnectionLostError(""), True, (True, 7, False, 0.0)),
        (here, ConnectionLostError(""), False, (True, 7, True, None)),
        (here, StreamCrashedError(""), True, (True, 7, False, 0.0)),
        (here._replace(pause=4.0), IdleTimeoutError(""), False, (True, 7, False, 4.0)),
        (here._replace(mismatches=2), ReplayMismatchError(""), True, (True, 0, True, None)),
        (here, InteractionGoneError(""), True, (False, 0, True, None)),
        (here._replace(given=True), InteractionGoneError(""), False, (True, 7, True, None)),
    ]
    for before, error, got_on, (goes_on, at, counted, delay) in cases:
        found = onward(before, 7, error, got_on=got_on)
        assert (found.resume is not None, found.resume_at, found.counted, found.delay) == (
            goes_on,
            at,
            counted,
            delay,
        )
        assert goes_on is not found.bills


def test_looks_stand_further_and_further_apart_until_the_stall() -> None:
    now = 0.0
    here = course(look=True, why=IdleTimeoutError("silent"), news=0.0)
    pauses: list[float | None] = []
    for _ in range(8):
        reader = LookReader(1 << 20, at(now), here, 100.0)
        assert reader.unfold(b'{"status": "in_progress", "updated": "then", "steps": []}') == []
        with pytest.raises(IdleTimeoutError):
            reader.ending(half_event=False)
        pauses.append(reader.resume.pause)
        here = reader.resume._replace(look=True, why=IdleTimeoutError("silent"), pause=None)
        now += 10
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    reader = LookReader(1 << 20, lambda: 101.0, here, 100.0)
    reader.unfold(b'{"status": "in_progress", "updated": "then", "steps": []}')
    with pytest.raises(InteractionStalledError):
        reader.ending(half_event=False)


def test_what_is_not_found_yet_is_waited_for_and_what_was_seen_is_gone() -> None:
    missing = APIError(404, "NOT_FOUND", "no such interaction")
    young = StreamReader(1 << 20, lambda: 9.0, course(began=0.0), 1800.0)
    with pytest.raises(APIError):
        young.failed(missing)
    assert young.resume.pause == 0.5
    for late in (course(began=-2.0), course(began=0.0, opened=True), course(began=0.0, given=True)):
        with pytest.raises(InteractionGoneError):
            StreamReader(1 << 20, lambda: 9.0, late, 1800.0).failed(missing)


def test_a_third_break_at_the_same_place_looks_at_the_resource() -> None:
    here = course(opened=True)
    for _ in range(2):
        reader = StreamReader(1 << 20, float, here, 1800.0)
        reader.answering()
        with pytest.raises(ConnectionLostError):
            reader.failed(ConnectionLostError("cut"))
        here = reader.resume
    reader = StreamReader(1 << 20, float, here, 1800.0)
    reader.answering()
    reader.failed(ConnectionLostError("cut"))
    assert reader.resume.look
    clean = StreamReader(1 << 20, float, course(opened=True), 1800.0)
    clean.answering()
    clean.failed(StreamTruncatedError("nothing came"))
    assert clean.resume.look
