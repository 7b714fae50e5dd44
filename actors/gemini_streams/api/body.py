"""The body of a request as JSON in pieces, made without holding the interpreter for long.

The rules:

- A body is one or more pieces of bytes. Joined, they are its JSON. A body without a large value is one piece.
- A text or bytes of `LARGE` or more are encoded a piece of 256 KiB at a time. Between two pieces the thread that
  encodes sleeps for a moment: one call for all of it would hold the interpreter lock, and every other thread up, for as
  long as it takes.
- The pieces are never put together again. The connection sends them one after another.
- The same values give the same pieces.

The mechanism: a large value becomes a `Large` while the request is read. The rest is encoded at once, with a NUL in
the place of each `Large`; the encoder itself never writes a NUL.
"""

from __future__ import annotations

import base64
import time
from typing import Any

import msgspec

__all__ = ["LARGE", "Body", "Large", "base64_large", "encode", "text_large"]

Body = tuple[bytes, ...]
"""A body's pieces."""

LARGE = 1 << 16
"""Bytes, or characters, from which on a value is encoded in pieces."""

_PIECE = 1 << 18
_BYTES = _PIECE // 4 * 3
"""Their base64 is a piece. No remainder: padding stands at the end alone."""
_CHARACTERS = _PIECE // 4
"""Of a text. Its JSON has up to six bytes for a character."""
_MOMENT = 0.0001
"""Seconds. With 0 the thread would often have the lock again before another one wakes."""


class Large:
    """A large text of a request, as the JSON that stands between its quotes."""

    __slots__ = ("pieces",)

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def __repr__(self) -> str:
        return f"<{sum(map(len, self.pieces))} bytes>"


def base64_large(data: bytes | bytearray) -> Large:
    """Encode bytes in the URL-safe alphabet."""
    pieces: list[bytes] = []
    for start in range(0, len(data), _BYTES):
        if pieces:
            time.sleep(_MOMENT)
        pieces.append(base64.urlsafe_b64encode(data[start : start + _BYTES]))
    return Large(pieces)


def text_large(text: str, *, is_base64: bool = False) -> Large:
    """Encode a text; `is_base64`: base64 of any alphabet becomes that of `base64_large`.

    Raises `UnicodeEncodeError` where it holds half a character.
    """
    pieces: list[bytes] = []
    for start in range(0, len(text), _CHARACTERS):
        if pieces:
            time.sleep(_MOMENT)
        part = text[start : start + _CHARACTERS]
        if is_base64:
            part = part.replace("+", "-").replace("/", "_")
        pieces.append(msgspec.json.encode(part)[1:-1])
    if is_base64:
        pieces.append(b"=" * (-len(text) % 4))
    return Large(pieces)


def encode(value: Any) -> Body:
    """Return a value that is known to be JSON, but for its `Large` texts, as a body."""
    found: list[Large] = []

    def hole(each: Any) -> msgspec.Raw:
        if not isinstance(each, Large):
            raise NotImplementedError
        found.append(each)
        return _HOLE

    whole = msgspec.json.encode(value, enc_hook=hole)
    if not found:
        return (whole,)
    first, *between = whole.split(b"\0")
    parts = [first]
    for large, behind in zip(found, between, strict=True):
        parts += [*large.pieces, behind]
    return tuple(_together(parts))


_HOLE = msgspec.Raw(b'"\0"')


def _together(parts: list[bytes]) -> list[bytes]:
    """Join small neighbours."""
    pieces: list[bytes] = []
    small: list[bytes] = []
    size = 0
    for part in parts:
        if size + len(part) > _PIECE and small:
            pieces.append(b"".join(small))
            small, size = [], 0
            time.sleep(_MOMENT)
        small.append(part)
        size += len(part)
    return [*pieces, b"".join(small)]
