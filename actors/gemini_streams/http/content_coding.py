"""The content codings of an answer's body, without I/O: gzip and deflate (RFC 9110, 8.4.1), undone in bounded pieces.

We ask for no coding (`Accept-Encoding: identity`); some servers and proxies compress all the same.

The rules:

- At most `PIECE` bytes are unpacked at a time, however much the body unfolds to. So a body takes no more memory than
  one read of the socket and one piece for each coding.
- Every call does a bounded amount of work, so that a stream can be stopped between two of them: bytes can unfold to
  very much that unfolds to nothing.
- A body that ends before its coding does is cut off: `end` raises `CutError`.
- Behind the end of the data, padding and garbage are dropped, as gunzip does; another gzip member is read on.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

__all__ = ["PIECE", "CodingError", "ContentDecoder", "CutError"]

PIECE = 65536
"""Bytes that are unpacked at once, at most."""
_MOST_STACKED = 4
_GZIP = b"\x1f\x8b"


class CodingError(ValueError):
    """The body is not in the coding that its head names, or that coding is unknown here."""


class CutError(ValueError):
    """The body ended before its coding did."""


class _Inflater:
    """Undoes one gzip or deflate coding."""

    __slots__ = ("_ended", "_gzip", "_input", "_more", "_unpacker")

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._input = b""
        self._more = False  # the last piece was full: there may be more without more input
        self._ended = False  # the end has been seen; what follows is dropped, but for another gzip member
        self._unpacker: zlib._Decompress | None = None

    @property
    def hungry(self) -> bool:
        """Whether there is nothing to do without more input."""
        return not self._more and len(self._input) < (2 if self._unpacker is None else 1)

    @property
    def whole(self) -> bool:
        """Whether the bytes so far are nothing at all, or whole."""
        return self._unpacker is None and (self._ended or not self._input)

    def feed(self, data: bytes) -> None:
        self._input += data

    def take(self) -> bytes:
        """Unpack a piece; it may be empty."""
        unpacker = self._unpacker
        if unpacker is None:
            if self._ended and not (self._gzip and self._input.startswith(_GZIP)):
                self._input = b""
                return b""
            unpacker = self._unpacker = self._begin(self._input)
        try:
            data = unpacker.decompress(self._input, PIECE)
        except zlib.error:
            raise CodingError("the answer's content coding is broken") from None
        self._input = unpacker.unconsumed_tail
        self._more = len(data) == PIECE
        if unpacker.eof:
            self._input = unpacker.unused_data
            self._ended, self._more, self._unpacker = True, False, None
        return data

    def _begin(self, head: bytes) -> zlib._Decompress:
        if self._gzip:
            return zlib.decompressobj(zlib.MAX_WBITS | 16)
        # In zlib's format by the RFC, without it by some servers.
        in_zlibs = head[0] & 0x0F == 8 and (head[0] << 8 | head[1]) % 31 == 0
        return zlib.decompressobj(zlib.MAX_WBITS if in_zlibs else -zlib.MAX_WBITS)


class ContentDecoder:
    """Undoes the codings of one body; used by one thread at a time.

    `feed` takes bytes as they come; then `take` gives back one piece after the other. `codings` are in lower case, in
    the order in which the server applied them. One that is unknown here raises `CodingError` at the first `feed`.
    """

    __slots__ = ("_refusal", "_stages")

    def __init__(self, codings: Sequence[str]) -> None:
        self._refusal: str | None = None
        if len(codings) > _MOST_STACKED:
            self._refusal = (
                f"the answer's body has more than {_MOST_STACKED} content codings, one on the other"
            )
        elif not all(name in ("gzip", "x-gzip", "deflate") for name in codings):
            self._refusal = "the answer has a content coding that was not asked for and is unknown here"
        self._stages = [_Inflater(gzip=name != "deflate") for name in reversed(codings)]

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body; only when `take` has given back `b""`. Raises `CodingError`."""
        if self._refusal is not None:
            raise CodingError(self._refusal)
        self._stages[0].feed(data)

    def take(self) -> bytes | None:
        """Return the next piece; `None`: call again; `b""`: there is none without more bytes. Raises `CodingError`."""
        last = len(self._stages) - 1
        for index in range(
            last, -1, -1
        ):  # the stages behind it are hungry: none is ever fed more than a piece
            stage = self._stages[index]
            if not stage.hungry:
                data = stage.take()
                if index == last:
                    return data or None
                if data:
                    self._stages[index + 1].feed(data)
                return None
        return b""

    def end(self) -> None:
        """Tell that the body has ended; raises `CutError` where its coding has not."""
        if not all(stage.whole for stage in self._stages):
            raise CutError("the answer stops before its content coding ends")
