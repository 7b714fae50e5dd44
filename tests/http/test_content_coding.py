"""Content codings: any cut of a coded body gives the body, in bounded pieces; a cut one is never taken for whole."""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_streams.http.content_coding import PIECE, CodingError, ContentDecoder, CutError


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACK: dict[str, tuple[tuple[str, ...], Callable[[bytes], bytes]]] = {
    "gzip": (("gzip",), gzip.compress),
    "x-gzip": (("x-gzip",), gzip.compress),
    "deflate": (("deflate",), zlib.compress),
    "deflate without its format": (("deflate",), raw_deflate),
    "gzip of gzip": (("gzip", "gzip"), lambda data: gzip.compress(gzip.compress(data))),
    "gzip of deflate": (("deflate", "gzip"), lambda data: gzip.compress(zlib.compress(data))),
}


def unpack(decoder: ContentDecoder, coded: bytes, cuts: list[int]) -> bytes:
    edges = [0, *sorted(min(cut, len(coded)) for cut in cuts), len(coded)]
    found = []
    for start, end in itertools.pairwise(edges):
        decoder.feed(coded[start:end])
        while (piece := decoder.take()) != b"":
            if piece is not None:
                assert len(piece) <= PIECE
                found.append(piece)
    return b"".join(found)


bodies = st.one_of(
    st.binary(max_size=300),
    st.tuples(st.binary(min_size=1, max_size=20), st.integers(1, 20_000)).map(lambda t: t[0] * t[1]),
)


@pytest.mark.parametrize("kind", PACK)
@given(data=bodies, cuts=st.lists(st.integers(0, 400), max_size=5))
def test_any_cut_gives_the_body(kind: str, data: bytes, cuts: list[int]) -> None:
    codings, pack = PACK[kind]
    decoder = ContentDecoder(codings)
    assert unpack(decoder, pack(data), cuts) == data
    decoder.end()


@pytest.mark.parametrize("kind", PACK)
@given(data=bodies, at=st.integers(1, 10_000))
def test_a_cut_body_is_never_taken_for_a_whole_one(kind: str, data: bytes, at: int) -> None:
    codings, pack = PACK[kind]
    coded = pack(data)
    decoder = ContentDecoder(codings)
    found = unpack(decoder, coded[: at % len(coded) or 1], [])
    assert data.startswith(found)
    with pytest.raises(CutError):
        decoder.end()


@given(st.lists(bodies, max_size=4), st.sampled_from([b"", b"\0" * 30, b"garbage", b"\x1f"]))
def test_members_of_gzip_are_read_one_after_the_other_and_what_follows_is_dropped(
    members: list[bytes], behind: bytes
) -> None:
    decoder = ContentDecoder(["gzip"])
    coded = b"".join(map(gzip.compress, [b"first", *members])) + behind
    assert unpack(decoder, coded, []) == b"".join([b"first", *members])
    decoder.end()


@given(st.binary(min_size=1, max_size=200), st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_are_a_body_or_an_error(data: bytes, coding: str) -> None:
    decoder = ContentDecoder([coding])
    try:
        unpack(decoder, data, [])
        decoder.end()
    except (CodingError, CutError):
        pass


def test_a_body_of_nothing_is_whole() -> None:
    decoder = ContentDecoder(["gzip"])
    assert decoder.take() == b""
    decoder.end()


@pytest.mark.parametrize("codings", [["br"], ["zstd"], ["gzip", "compress"], ["gzip"] * 5])
def test_a_coding_that_is_unknown_or_piled_up_is_refused_at_the_first_byte(codings: list[str]) -> None:
    decoder = ContentDecoder(codings)
    assert decoder.take() == b""
    with pytest.raises(CodingError):
        decoder.feed(b"x")


def test_each_step_is_small_however_much_unfolds_to_nothing() -> None:
    """A stream can be stopped between two steps: here the last of three layers never gives a byte."""
    nothing = gzip.compress(b"") * 200_000
    decoder = ContentDecoder(["gzip", "gzip"])
    decoder.feed(gzip.compress(nothing))
    for _ in range(100):
        assert decoder.take() is None
