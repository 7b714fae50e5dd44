"""JSON that stands in an event stream outside of any event is an event, and none of it is left out in silence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_streams.errors import EventTooLargeError, UnexpectedResponseError
from gemini_streams.http.sse import Decoder

LIMIT = 1 << 20


def decode(chunks: list[bytes], limit: int = LIMIT) -> tuple[list[bytes], bytes | None]:
    decoder = Decoder(limit)
    events: list[bytes] = []
    for chunk in chunks:
        decoder.feed(chunk)
        events += decoder.take()
    last = decoder.end()
    return events + decoder.take(), last


def cut(body: bytes, places: list[int]) -> list[bytes]:
    points = sorted({place % (len(body) + 1) for place in places})
    return [body[a:b] for a, b in zip([0, *points], [*points, len(body)], strict=True)]


OBJECTS = st.dictionaries(
    st.text(alphabet='a{}[]":\\é', max_size=3),
    st.recursive(
        st.text(alphabet='a{}[]"\\\n\u2028,', max_size=4) | st.integers() | st.none(),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("b"), inner, max_size=1),
        max_leaves=6,
    ),
    max_size=3,
)


def as_event(value: Any, end: str) -> str:
    return f"data: {json.dumps(value)}{end}{end}"


def as_bare_lines(value: Any, end: str) -> str:
    return json.dumps(value, indent=2).replace("\n", end) + end


def as_bare_line(value: Any, end: str) -> str:
    return "  " + json.dumps(value, ensure_ascii=False) + end + end


def as_list(value: Any, end: str) -> str:
    return "[" + json.dumps(value, indent=1).replace("\n", end) + end + "]" + end


def half_as_event(value: Any, end: str) -> str:
    return "data: " + json.dumps(value, indent=2).replace("\n", end) + end + end


WAYS = st.sampled_from([as_event, as_bare_lines, as_bare_line, as_list, half_as_event])
NO_FIELDS = st.sampled_from(["other", "unknown: {field}", "truer", "Infinity", " x: [", "a: {"])


@given(
    OBJECTS,
    st.lists(st.tuples(st.integers(0, 20), NO_FIELDS), max_size=4),
    st.booleans(),
    st.lists(st.integers(0, 400), max_size=5),
)
def test_a_line_that_is_nothing_is_left_out_wherever_it_stands(
    value: Any, places: list[tuple[int, str]], bare: bool, cuts: list[int]
) -> None:
    lines = [line if bare else f"data: {line}" for line in json.dumps(value, indent=1).split("\n")]
    for at, line in places:
        lines.insert(min(at, len(lines)), line)
    body = "\n".join([*lines, "", ""]).encode()
    for chunks in ([body], cut(body, cuts), [body[at : at + 1] for at in range(len(body))]):
        events, last = decode(chunks)
        assert ([json.loads(data) for data in events], last) == ([value], None)


BETWEEN = st.sampled_from(["", ": ping", "event: e", "retry: 10", "other", "a: {"])


@given(
    st.lists(st.tuples(OBJECTS, WAYS, BETWEEN), max_size=5),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(0, 4000), max_size=8),
)
def test_objects_are_events_in_their_order_however_they_are_written(
    objects: list[tuple[Any, Any, str]], end: str, places: list[int]
) -> None:
    body = "".join(way(value, end) + between + end for value, way, between in objects).encode()
    expected = [[value] if way is as_list else value for value, way, _ in objects]
    for chunks in ([body], cut(body, places), [body[at : at + 1] for at in range(len(body))]):
        events, last = decode(chunks)
        assert [json.loads(data) for data in events] == expected
        assert last is None


ERROR = {"error": {"code": 503, "message": 'a } in a "text"'}}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_last_one_may_have_no_line_end(indent: int | None, end: str) -> None:
    body = b"data: {}\n\n" + (json.dumps(ERROR, indent=indent) + end).encode()
    events, last = decode([body])
    assert ([json.loads(data) for data in events], last) == ([{}, ERROR], None)


def test_what_has_not_closed_can_be_looked_at() -> None:
    for text in (json.dumps(ERROR), json.dumps(ERROR, indent=2), "[" + json.dumps(ERROR, indent=2)):
        decoder = Decoder(LIMIT)
        decoder.feed(b"data: {}\n\n" + text.encode())
        assert decoder.unfinished
        assert json.loads(decoder.bare.removeprefix(b"[")) == ERROR


@pytest.mark.parametrize(
    ("body", "events", "last"),
    [
        (b'{"a": \ndata: {}\n\n', [b'{"a": \n', b"{}"], None),
        (b'{"a": \n: ping\n\n1}\n', [b'{"a": \n1}'], None),
        (b'data: {"a":\n"b"}\n\ndata: 1\n\n', [b'{"a":\n"b"}', b"1"], None),
        (b'data: {"a": 1}\n{"b": 2}\n\n', [b'{"a": 1}', b'{"b": 2}'], None),
        (b'data: {"a": 1}\n"b"}\n\n', [b'{"a": 1}'], None),
        (b'{"a": 1}{"b": 2},\n', [b'{"a": 1}', b'{"b": 2}'], None),
        (b'data: x\n\n[{"a": 1}\n,\n{"b": 2}]\n', [b"x", b'[{"a": 1}]', b'[{"b": 2}]'], None),
        (b"data: x\n\n[]\n", [b"x", b"[]"], None),
        (b"[2026-11-26] a line of a log\ndata: x\n\n", [b"x"], None),
        (b'data: x\n\n{"a":\n', [b"x"], b'{"a":\n'),
        (b'data: {"a":\n"b"', [], b'{"a":\n"b"\n'),
        (b"}\n]\n  5\ndata: x\n\n", [b"x"], None),
    ],
)
def test_what_belongs_to_a_value_and_what_does_not(
    body: bytes, events: list[bytes], last: bytes | None
) -> None:
    for chunks in ([body], [body[at : at + 1] for at in range(len(body))]):
        assert decode(chunks) == (events, last)


def test_it_is_bounded_and_costs_its_size_once() -> None:
    for body in (
        b'{"a": "' + b"x" * 100,
        b'{\n"a":\n' * 20,
        b"[" + b'{"a":1},' * 100 + b"\n" * 3 + b'{"' + b"b" * 99,
    ):
        for chunks in ([body], [body[at : at + 1] for at in range(len(body))]):
            with pytest.raises(EventTooLargeError, match="max_event_bytes=80"):
                decode(chunks, 80)
    assert len(decode([b'{"a": 1}' * 50_000 + b"\n"])[0]) == 50_000
    lines = b'{"a":\n' + b"[\n" * 1_000 + b"]\n" * 1_000 + b"}\n"
    assert [len(data) for data in decode([lines])[0]] == [len(lines) - 1]


@pytest.mark.parametrize(
    "page", [b"<html></html>", b"<!DOCTYPE html>\n", b"\r\n \r\n\t<?xml?>\n", b"\xef\xbb\xbf<p>\n"]
)
def test_a_page_is_no_event_stream(page: bytes) -> None:
    for chunks in ([page], [page[at : at + 1] for at in range(len(page))]):
        with pytest.raises(UnexpectedResponseError, match="HTML"):
            decode(chunks)
    assert decode([b"data: 1\n\n" + page])[0] == [b"1"]
    assert decode([b": a comment\n" + page])[0] == []
