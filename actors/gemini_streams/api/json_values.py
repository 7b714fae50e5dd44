"""JSON as the whole package reads and writes it. Pure.

The rules:

- JSON is what Python's `json.loads` reads, without NaN and Infinity: integers of up to 4,300 digits; `1e400`, which is
  infinite; escapes that name half a character (a lone surrogate), which become U+FFFD.
- Bytes that are no UTF-8 become U+FFFD, as WHATWG has it for event streams.
- What nests deeper than `MAX_DEPTH` is refused, by `TooDeepError`. So the answer depends neither on the thread nor on
  how deep its stack is.
- `decode(encode(value))` is `value`, infinite numbers included. Nothing here recurses in Python.

The mechanism: msgspec reads nearly everything. Where it refuses, the standard library's parser reads again. The depth
is only counted where a payload is long enough to be that deep. What is large is decoded with the garbage collector off
(`collector`).
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from gemini_streams.api.collector import LARGE, collector_off

__all__ = [
    "COULD_BE_DEEP",
    "MAX_DEPTH",
    "TooDeepError",
    "check_depth",
    "copied",
    "decode",
    "decode_large",
    "decode_plain",
    "encode",
    "mend",
    "mended",
    "read",
]

MAX_DEPTH = 500
"""Levels of lists and objects."""
COULD_BE_DEEP = 2 * (MAX_DEPTH + 1)
"""Bytes that a value of more levels has at least."""

_PASSES = 8
_RUN = re.compile(rb"\[+|\]+")
_NO_BRACKETS = bytes(set(range(256)) - set(b'[]{}"'))
_AS_LISTS = bytes.maketrans(b"{}", b"[]")
_HALF = re.compile("[\ud800-\udfff]")
_INFINITE = msgspec.Raw(b"1e999")
_MINUS_INFINITE = msgspec.Raw(b"-1e999")


class TooDeepError(ValueError):
    """The value nests deeper than `MAX_DEPTH`."""


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


decode_plain: Callable[[bytes], Any] = msgspec.json.Decoder().decode
"""Decodes what msgspec reads. Raises `ValueError` for the rest, and `RecursionError`. It knows no `MAX_DEPTH`."""
_decode_slowly = json.JSONDecoder(parse_constant=_no_constant).decode


def decode_large(payload: bytes) -> Any:
    """Do what `decode_plain` does with a payload of `LARGE` bytes or more."""
    with collector_off():
        return decode_plain(payload)


def decode(payload: bytes) -> Any:
    """Decode a value; raises `ValueError` for what is no JSON, and `TooDeepError`."""
    value, halves = read(payload)
    return mend(value) if halves else value


def read(payload: bytes) -> tuple[Any, bool]:
    """Decode a value and leave half characters in its texts; return it, and whether it may have such halves.

    Raises as `decode` does.
    """
    if len(payload) >= COULD_BE_DEEP:
        check_depth(payload)
    try:
        if len(payload) < LARGE:
            return _read(payload)
        with collector_off():
            return _read(payload)
    except RecursionError:  # not for its depth: too little is left of this thread's stack
        return _on_a_stack_of_its_own(payload)


def check_depth(payload: bytes) -> None:
    """Raise `TooDeepError` where a value nests too deep, `ValueError` where its brackets do not close."""
    # To take them out is a quarter of the cost of counting them, and a tenth in a long text.
    without = len(payload.replace(b"{", b"")) + len(payload.replace(b"[", b""))
    if 2 * len(payload) - without <= MAX_DEPTH:
        return
    unescaped = payload.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = unescaped.translate(_AS_LISTS, _NO_BRACKETS).replace(b'""', b"")
    if b'"' in brackets:  # texts that hold brackets
        brackets = b"".join(brackets.split(b'"')[::2])
    for _ in range(_PASSES):  # each takes the innermost lists away: what is wide is soon gone
        brackets = brackets.replace(b"[]", b"")
    depth = 0
    for run in _RUN.finditer(brackets):
        length = run.end() - run.start()
        depth += length if run[0].startswith(b"[") else -length
        if depth > MAX_DEPTH - _PASSES:
            raise TooDeepError(f"nested deeper than {MAX_DEPTH} levels")
        if depth < 0:
            break
    if depth:
        raise ValueError("brackets that do not close")


def encode(value: Any) -> bytes:
    """Return a value as JSON that `decode` reads as the same value. It must hold no half characters."""
    return msgspec.json.encode(copied(value, _written))


def copied(value: Any, leaf: Callable[[Any], Any] | None = None) -> Any:
    """Return a deep copy of a decoded value; `leaf` is asked what stands in place of each text and number."""
    top: list[Any] = [None]
    todo: list[tuple[Any, Any, Any]] = [(top, 0, value)]
    while todo:
        into, key, each = todo.pop()
        made: Any
        if isinstance(each, dict):
            made = dict.fromkeys(each)
            todo += [(made, name, inner) for name, inner in each.items()]
        elif isinstance(each, list):
            made = type(each)([None] * len(each))
            todo += [(made, index, inner) for index, inner in enumerate(each)]
        else:
            made = each if leaf is None else leaf(each)
        into[key] = made
    return top[0]


def mended(text: str) -> str:
    """Join halves of characters that stand side by side, and put U+FFFD where one stands alone."""
    if _HALF.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def mend(value: Any) -> Any:
    """Mend every text of a decoded value, keys included, in place; return the value."""
    if isinstance(value, str):
        return mended(value)
    todo = [value]
    while todo:
        each = todo.pop()
        if isinstance(each, dict):
            if any(map(_HALF.search, each)):
                items = [(mended(name), inner) for name, inner in each.items()]
                each.clear()
                each.update(items)
            pairs: Any = list(each.items())
        elif isinstance(each, list):
            pairs = enumerate(each)
        else:
            continue
        for key, inner in pairs:
            if isinstance(inner, str):
                each[key] = mended(inner)
            else:
                todo.append(inner)
    return value


def _read(payload: bytes) -> tuple[Any, bool]:
    try:
        return decode_plain(payload), False
    except ValueError:
        value = _decode_slowly(payload.decode("utf-8", "replace").removeprefix("\ufeff"))
        return value, b"\\u" in payload


def _on_a_stack_of_its_own(payload: bytes) -> tuple[Any, bool]:
    answers: list[tuple[Any, bool]] = []
    errors: list[ValueError] = []

    def answer() -> None:
        try:
            answers.append(_read(payload))
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=answer, name="gemini-streams-json", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return answers[0]


def _written(value: Any) -> Any:
    if isinstance(value, float) and math.isinf(value):
        return _INFINITE if value > 0 else _MINUS_INFINITE
    return value
