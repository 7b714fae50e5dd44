"""JSON is what `json.loads` reads, without NaN and Infinity, halves of characters and depth apart."""

from __future__ import annotations

import itertools
import json
import math
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_streams.api import json_values
from gemini_streams.api.json_values import (
    MAX_DEPTH,
    TooDeepError,
    check_depth,
    copied,
    decode,
    encode,
    mended,
    read,
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**300, max_value=10**400)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.text(alphabet='[]{}"\\a\ud83d\ude00\u2028', max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


def reference(payload: bytes) -> Any:
    """`json.loads`, without its constants, every half of a character replaced."""

    def refuse(name: str) -> Any:
        raise ValueError(name)

    value = json.loads(payload.decode("utf-8", "replace"), parse_constant=refuse)
    return json.loads(
        json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )


def answer(decoded: Any, payload: bytes) -> Any:
    """What comes of it; of an error, which of the two it is."""
    try:
        return decoded(payload)
    except TooDeepError:
        return TooDeepError
    except ValueError:
        return ValueError


def written(value: Any) -> bytes:
    return json.dumps(value).replace("Infinity", "1e999").encode()


@given(VALUES)
def test_it_reads_what_json_loads_reads(value: Any) -> None:
    payload = written(value)
    assert answer(decode, payload) == answer(reference, payload)


@given(VALUES, st.data())
def test_it_refuses_what_json_loads_refuses(value: Any, data: st.DataObject) -> None:
    payload = bytearray(written(value))
    at = data.draw(st.integers(0, len(payload)))
    payload[at : at + 1] = data.draw(st.binary(max_size=2))
    assert answer(decode, bytes(payload)) == answer(reference, bytes(payload))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"\ud800"', "\ufffd"),
        (r'"\ude00\ud83d"', "\ufffd\ufffd"),
        (r'"\ud83d\ude00"', "😀"),
        (r'"\\ud83d"', "\\ud83d"),
        (r'{"\ud83dx": "y"}', {"\ufffdx": "y"}),
        ("1e400", math.inf),
        ("-1e400", -math.inf),
        ("1" * 400, int("1" * 400)),
        (" [1] ", [1]),
    ],
)
def test_what_a_stricter_parser_refuses_is_read(text: str, value: Any) -> None:
    assert decode(text.encode()) == value


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "-Infinity", '{"a": NaN}', "1" * 5000, "", "[DONE]", "{'a': 1}"]
)
def test_what_is_no_json_is_refused(text: str) -> None:
    assert answer(decode, text.encode()) is ValueError


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert decode(b'{"a": "\xff\xed\xa0\x80"}') == {"a": "\ufffd" * 4}
    assert decode(b"\xef\xbb\xbf{}") == {}


@given(VALUES)
def test_what_is_encoded_is_decoded_as_the_same(value: Any) -> None:
    plain = decode(written(value))
    assert decode(encode(plain)) == plain


@given(VALUES)
def test_a_copy_is_the_same_and_shares_nothing_that_can_change(value: Any) -> None:
    copy = copied(value)
    assert copy == value
    if isinstance(copy, list):
        copy.append(1)
        assert copy != value
    if isinstance(copy, dict):
        assert list(copy) == list(value)


@given(st.text(alphabet="a\ud83d\ude00é😀", max_size=8))
def test_halves_that_stand_side_by_side_are_joined(text: str) -> None:
    whole = mended(text)
    whole.encode()
    assert mended(whole) == whole
    assert len(text.encode("utf-16-le", "surrogatepass")) == len(whole.encode("utf-16-le"))


def test_halves_can_be_left_where_they_are() -> None:
    assert read(rb'["\ud83d"]') == (["\ud83d"], True)
    assert read(b'["x"]') == (["x"], False)


# -- depth -----------------------------------------------------------------------------------------------------------


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(VALUES, st.integers(0, 7), st.booleans())
def test_depth_is_counted_where_a_text_holds_brackets_too(value: Any, more: int, lists: bool) -> None:
    for _ in range(more):
        value = [value, 1] if lists else {'a"]': value}
    payload = json.dumps(value).encode()
    for limit in range(9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json_values, "MAX_DEPTH", limit)
            patch.setattr(json_values, "_PASSES", min(limit, 2))
            try:
                check_depth(payload)
            except TooDeepError:
                assert depth_of(value) > limit
            else:
                assert depth_of(value) <= limit


@pytest.mark.parametrize("shape", [(b"[", b"]"), (b'{"a":', b"}"), (b'[[],{"]":', b"}]")])
@pytest.mark.parametrize("pad", [b"", b" " * 5000, b" " * 100_000])
def test_the_limit_is_the_limit(shape: tuple[bytes, bytes], pad: bytes) -> None:
    levels = shape[0].count(b"[") - shape[0].count(b"[]") + shape[0].count(b"{")
    deepest = MAX_DEPTH // levels
    decode(shape[0] * deepest + b"0" + shape[1] * deepest + pad)
    for depth in (deepest + 1, 2 * deepest, 100_000):
        with pytest.raises(TooDeepError, match="deeper than 500"):
            decode(shape[0] * depth + b"0" + shape[1] * depth + pad)


@pytest.mark.parametrize(
    ("half", "what"),
    [
        (b"[" * 450 + b"]" * 400 + b"[" * 60, ValueError),
        (b"[" * 600, ValueError),
        (b"[" * 1100, TooDeepError),
        (b'[{"a":' * 300, TooDeepError),
        (b"]" * 600 + b"[" * 600, ValueError),
        (b'"' + b"[" * 600, ValueError),
    ],
)
def test_what_does_not_close_is_no_json(half: bytes, what: type[ValueError]) -> None:
    assert answer(decode, half) is what


def at_depth(frames: int, call: Any) -> Any:
    return call() if frames == 0 else at_depth(frames - 1, call)


def test_the_answer_does_not_depend_on_how_deep_the_threads_stack_is() -> None:
    used = next(n for n in itertools.count() if sys._getframe(n).f_back is None)
    room = sys.getrecursionlimit() - used
    value = decode(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    for left in (400, 100, 60):
        for payload in (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, rb'{"a": "\ud800"}', b"{"):
            shallow = answer(decode, payload)
            assert at_depth(room - left, lambda p=payload: answer(decode, p)) == shallow
        assert at_depth(room - left, lambda: depth(copied(value))) == MAX_DEPTH


def depth(value: Any) -> int:
    count = 0
    while isinstance(value, list):
        value = value[0] if value else None
        count += 1
    return count
