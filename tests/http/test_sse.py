"""The SSE decoder holds WHATWG's rules in any cut of the bytes."""

from __future__ import annotations

import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_streams.errors import EventTooLargeError
from gemini_streams.http.sse import Decoder

LIMIT = 1 << 20


def decode(chunks: list[bytes], limit: int = LIMIT) -> tuple[list[bytes], bytes | None]:
    decoder = Decoder(limit)
    events: list[bytes] = []
    for chunk in chunks:
        decoder.feed(chunk)
        events += decoder.take()
    return events, decoder.end()


def reference(body: bytes) -> tuple[list[bytes], bytes | None]:
    """WHATWG's algorithm as plainly as it can be written, on the whole body."""
    body = body.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    *lines, rest = body.split(b"\n")
    events: list[bytes] = []
    data: list[bytes] = []
    for line in lines:
        if not line:
            if data:
                events.append(b"\n".join(data))
            data = []
        else:
            name, _, value = line.partition(b":")
            if name == b"data":
                data.append(value[1:] if value[:1] == b" " else value)
    if rest.partition(b":")[0] == b"data":
        value = rest.partition(b":")[2]
        data.append(value[1:] if value[:1] == b" " else value)
    return events, b"\n".join(data) if data else None


def cut(body: bytes, places: list[int]) -> list[bytes]:
    points = sorted({p % (len(body) + 1) for p in places})
    return [body[a:b] for a, b in zip([0, *points], [*points, len(body)], strict=True)]


fields = st.sampled_from(
    [
        b'data: {"a": 1}',
        b"data:x",
        b"data:  two spaces",
        b"data",
        b"data:",
        b": comment",
        b":",
        b"event: e",
        b"id: 7",
        b"retry: 10",
        b"other",
        b"data: \xe2\x80\xa8 \xc2\x85 \x0b inside",
        "data: schöne Grüße 🎉".encode(),
        b" data: not a field",
        b'  "error": {',
    ]
)
ends = st.sampled_from([b"\n", b"\r", b"\r\n"])
bodies = st.builds(
    lambda bom, parts, rest: (b"\xef\xbb\xbf" if bom else b"") + b"".join(parts) + rest,
    st.booleans(),
    st.lists(st.one_of(st.builds(lambda f, e: f + e, fields, ends), ends), max_size=20),
    st.one_of(st.just(b""), fields),
)
regular = st.builds(
    lambda payloads, end: b"".join(b"data: " + p + end + end for p in payloads),
    st.lists(st.sampled_from([b"{}", b'{"text": "hello"}', b"x" * 100]), max_size=30),
    st.sampled_from([b"\n", b"\r\n"]),
)
names = st.lists(
    st.sampled_from(
        [b"event: step.delta", b"id: v1_7", b"event: data: x", b"id: 7\rdata: y", b"data:y", b"data: z"]
    ),
    max_size=2,
)
named = st.builds(
    lambda events, end: b"".join(
        end.join([*before, *payload, *behind]) + end + end for before, payload, behind in events
    ),
    st.lists(
        st.tuples(
            st.one_of(st.just([b"event: step.delta"]), st.just([b"event: a", b"id: 1"]), names),
            st.sampled_from([[b"data: {}"], [b'data: {"text": "data: no field"}'], [b"data: "], []]),
            st.one_of(st.just([]), st.just([b"id: 1"]), names),
        ),
        max_size=30,
    ),
    st.sampled_from([b"\n", b"\r\n"]),
)
places = st.lists(st.integers(min_value=0, max_value=4000), max_size=12)


mixed = st.builds(lambda *parts: b"".join(parts), regular, bodies, named, bodies, named)


@given(st.one_of(bodies, regular, named, mixed), places)
def test_any_cut_gives_whatwgs_events(body: bytes, points: list[int]) -> None:
    expected = reference(body)
    assert decode([body]) == expected
    assert decode(cut(body, points)) == expected
    assert decode([body[i : i + 1] for i in range(len(body))]) == expected


@given(
    st.integers(min_value=0, max_value=60), places, st.sampled_from([b"\n", b"\r\n", b"\r"]), st.booleans()
)
def test_the_size_limit_is_the_same_in_any_cut(
    size: int, points: list[int], end: bytes, with_name: bool
) -> None:
    name = b"event: a" if with_name else b""
    start = name + end if name else b""
    ok = start + b"data: ok" + end + end
    body = ok * 2 + start + b"data: " + b"x" * size + end + end + ok
    fits = len(name) + size + 6 <= 50
    for chunks in ([body], cut(body, points), [body[i : i + 1] for i in range(len(body))]):
        if fits:
            assert len(decode(chunks, 50)[0]) == 4
        else:
            decoder = Decoder(50)
            with pytest.raises(EventTooLargeError, match="max_event_bytes=50"):
                for chunk in chunks:
                    decoder.feed(chunk)
            assert decoder.take() == [b"ok", b"ok"]


@given(st.one_of(regular, named), st.integers(1, 5), st.integers(1, 200))
def test_take_gives_every_event_once_in_order_and_within_the_room(body: bytes, count: int, room: int) -> None:
    decoder = Decoder(LIMIT)
    decoder.feed(body[:1])
    decoder.feed(body[1:])
    taken: list[bytes] = []
    while True:
        waiting = decoder.waiting
        got = decoder.take(count, room)
        assert len(got) <= count
        assert len(got) <= 1 or sum(map(len, got)) <= room
        taken += got
        assert decoder.waiting == waiting - len(got)
        if not got:
            break
    assert taken == reference(body)[0]


def test_no_count_takes_nothing_and_the_first_event_always_fits() -> None:
    decoder = Decoder(LIMIT)
    decoder.feed(b"data: 12345\n\ndata: 1\n\n")
    assert decoder.take(0) == []
    assert decoder.next_size == 5
    assert decoder.take(5, 4) == [b"12345"]
    assert decoder.take(5, 4) == [b"1"]
    assert decoder.next_size == 0


@given(named, st.integers(1, 3))
def test_an_event_that_comes_alone_is_the_same_in_the_short_way(body: bytes, reads: int) -> None:
    """`only_event` gives what `feed` and `take` would, where it gives anything."""
    end = b"\r\n\r\n" if b"\r\n" in body else b"\n\n"
    chunks = [event + end for event in body.split(end)[:-1]]
    decoder, events = Decoder(LIMIT), []
    for at in range(0, len(chunks), reads):
        chunk = b"".join(chunks[at : at + reads])
        only = decoder.only_event(chunk)
        if only is None:
            decoder.feed(chunk)
            events += decoder.take()
        else:
            events.append(only)
    assert (events, decoder.end()) == reference(body)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize(
    ("before", "behind"),
    [
        ([], []),
        ([b"event: step.delta"], []),
        ([b"event: step.delta", b"id: 7"], []),
        ([b"id: 7"], [b"event: e"]),
    ],
    ids=["data", "event", "event and id", "around"],
)
def test_an_event_of_a_run_costs_a_few_calls(before: list[bytes], behind: list[bytes], end: bytes) -> None:
    """Line by line it would be twenty; a read whose cuts lie anywhere ends one run and begins the next."""
    event = end.join([*before, b"data: " + b"x" * 200, *behind]) + end + end
    body = event * 2_000
    calls = 0

    def count(_frame: object, kind: str, _argument: object) -> None:
        nonlocal calls
        calls += kind in ("call", "c_call")

    decoder, taken = Decoder(LIMIT), 0
    sys.setprofile(count)
    try:
        for at in range(0, len(body), 16_001):
            decoder.feed(body[at : at + 16_001])
            taken += len(decoder.take())
    finally:
        sys.setprofile(None)
    assert taken == 2_000
    assert calls / taken < 5


@pytest.mark.parametrize("digits", [1, 5_000, 50_000])
def test_ids_and_retry_are_left_out_whatever_their_size(digits: int) -> None:
    number = b"9" * digits
    decoder = Decoder(LIMIT)
    decoder.feed(b"retry: %b\nid: %b\nevent: %b\ndata: 1\nid: a\0b\n\n" % (number, number, number))
    assert decoder.take() == [b"1"]
    assert not decoder.unfinished


def test_an_event_is_given_as_soon_as_its_blank_line_ends_even_with_cr_alone() -> None:
    decoder = Decoder(LIMIT)
    decoder.feed(b"data: 1\r\r")
    assert decoder.take() == [b"1"]
    decoder.feed(b"data: 2\r\n\r")
    assert decoder.take() == [b"2"]
    decoder.feed(b"\ndata: 3\r\n\r\n")
    assert decoder.take() == [b"3"]


def test_bare_json_is_an_event_where_it_closes() -> None:
    error = b'{\n  "error": {\n    "code": 503\n  }\n}'
    decoder = Decoder(LIMIT)
    decoder.feed(b"data: 1\n\n" + error + b"\ndata: 2\n\n")
    assert decoder.take() == [b"1", error, b"2"]
    assert decoder.end() is None


def test_a_large_event_in_small_reads_costs_its_size_once() -> None:
    decoder = Decoder(16 << 20)
    decoder.feed(b"data: 0\r\n\r\n")
    piece = b"x" * 1000
    tracemalloc.start()
    decoder.feed(b"data: ")
    for _ in range(8000):
        decoder.feed(piece)
    decoder.feed(b"\r\n\r\n")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [len(e) for e in decoder.take()] == [1, 8_000_000]
    assert peak < 60_000_000
