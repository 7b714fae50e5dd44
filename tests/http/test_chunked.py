"""The chunked transfer coding, in any cut of the bytes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_streams.http.chunked import ChunkedDecoder, ChunkedError

chunks = st.lists(st.binary(min_size=1, max_size=40), max_size=12)
extensions = st.sampled_from([b"", b";a=b", b" ; x", b'  ;n="v"', b'; a="b c"'])


def encode(payloads: list[bytes], extension: bytes = b"", trailers: bytes = b"") -> bytes:
    body = b"".join(b"%X%s\r\n%s\r\n" % (len(p), extension, p) for p in payloads)
    return body + b"0\r\n" + trailers + b"\r\n"


@given(
    chunks,
    extensions,
    st.sampled_from([b"", b"A: b\r\n", b"A: b\r\nC: d\r\n"]),
    st.lists(st.integers(0, 600), max_size=8),
)
def test_any_cut_gives_the_payload(
    payloads: list[bytes], extension: bytes, trailers: bytes, points: list[int]
) -> None:
    wire = encode(payloads, extension, trailers)
    places = sorted({p % (len(wire) + 1) for p in points})
    cuts = [wire[a:b] for a, b in zip([0, *places], [*places, len(wire)], strict=True)]
    for pieces in (cuts, [wire], [wire[i : i + 1] for i in range(len(wire))]):
        decoder = ChunkedDecoder()
        got = b""
        for index, piece in enumerate(pieces):
            assert not decoder.done or not b"".join(pieces[index:])
            got += decoder.feed(piece)
        assert got == b"".join(payloads)
        assert decoder.done


@given(chunks.filter(bool), st.data())
def test_a_cut_tail_is_never_taken_for_the_end(payloads: list[bytes], data: st.DataObject) -> None:
    wire = encode(payloads)
    decoder = ChunkedDecoder()
    decoder.feed(wire[: data.draw(st.integers(0, len(wire) - 1))])
    assert not decoder.done


def test_payload_is_given_before_its_chunk_is_whole() -> None:
    decoder = ChunkedDecoder()
    assert decoder.feed(b"a\r\n01234") == b"01234"
    assert decoder.feed(b"56789\r") == b"56789"
    assert decoder.feed(b"\n0\r\n\r\n") == b""
    assert decoder.done


@pytest.mark.parametrize(
    "wire",
    [
        b"-1\r\n",
        b"+5\r\nhello\r\n",
        b"1_0\r\n",
        b"\r\n",
        b"0x5\r\n",
        b"5\r\nhelloXX",
        b"ffffffffffffffff1\r\n",
        b"5\r\nhelloX",
    ],
)
def test_what_is_no_chunk_is_refused(wire: bytes) -> None:
    for pieces in ([wire], [wire[i : i + 1] for i in range(len(wire))]):
        decoder = ChunkedDecoder()
        with pytest.raises(ChunkedError):
            for piece in pieces:
                decoder.feed(piece)


@given(chunks, st.binary(min_size=1, max_size=60), st.booleans(), st.lists(st.integers(0, 600), max_size=4))
def test_what_stands_behind_the_body_is_no_part_of_it(
    payloads: list[bytes], behind: bytes, answer: bool, points: list[int]
) -> None:
    """Also where that is another whole answer."""
    if answer:
        behind = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(behind), behind)
    body = encode(payloads)
    wire = body + behind
    places = sorted({p % (len(body) + 1) for p in points})
    decoder = ChunkedDecoder()
    got = b""
    for start, end in zip([0, *places], [*places, len(wire)], strict=True):
        if not decoder.done:
            got += decoder.feed(wire[start:end])
    assert got == b"".join(payloads)
    assert decoder.done
    assert decoder.surplus or len(body) in places


def test_an_endless_size_line_is_refused() -> None:
    decoder = ChunkedDecoder()
    with pytest.raises(ChunkedError, match="too long"):
        for _ in range(100):
            decoder.feed(b"0" * 1000)


@given(
    st.lists(st.binary(min_size=1, max_size=30), max_size=5),
    st.sampled_from([b"zz\r\n", b"5\r\nabcdefg\r\n", b"-1\r\n\r\n", b"x" * 20_000]),
    st.lists(st.integers(0, 300), max_size=4),
)
def test_any_cut_gives_the_payload_in_front_of_what_is_no_chunk(
    payloads: list[bytes], broken: bytes, cuts: list[int]
) -> None:
    wire = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in payloads) + broken
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    decoder = ChunkedDecoder()
    found = b""
    with pytest.raises(ChunkedError) as raised:
        for start, end in itertools.pairwise(edges):
            found += decoder.feed(wire[start:end])
    found += raised.value.payload
    assert found.startswith(b"".join(payloads))
    assert len(found) <= sum(map(len, payloads)) + (5 if broken.startswith(b"5") else 0)
