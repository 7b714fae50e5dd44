"""HTTP/1.1's chunked transfer coding, without I/O (RFC 9112, section 7.1).

http.client and urllib3 read a chunked body line by line through two layers, at a third of an event's whole cost.
Here the bytes that a socket has are taken apart in one loop. Chunk extensions and trailers are skipped.

httptools (Node's parser) would take half the time, and refuses bodies that are sound: blanks are allowed in front of a
chunk extension and behind its semicolon (RFC 9112, section 7.1.1). It also sets no limit to a size line.
"""

from __future__ import annotations

import re

__all__ = ["ChunkedDecoder", "ChunkedError"]

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")
_MAX_LINE = 16384
_MAX_TRAILERS = 65536


class ChunkedError(ValueError):
    """The bytes are no chunked body."""

    payload = b""
    """What came before that in the same bytes."""


class ChunkedDecoder:
    """Takes the chunks of one body apart; used by one thread at a time."""

    __slots__ = ("_left", "_line", "_sizes", "_skipped", "_trailers", "done", "surplus")

    def __init__(self) -> None:
        self._left = 0  # bytes of the present chunk still to come, its CRLF included
        self._line = b""  # the beginning of a size line or trailer line
        self._sizes: dict[bytes, int] = {}  # size lines seen: most chunks of a stream are of a few sizes
        self._trailers = False
        self._skipped = 0  # bytes of trailers
        self.done = False
        """The last chunk and the trailers have been read."""
        self.surplus = False
        """More bytes have come than the body has."""

    def feed(self, data: bytes) -> bytes:
        """Return the payload in the next bytes of the body.

        Raises `ChunkedError`, which has the payload in front of what is wrong; the decoder is of no use after that.
        """
        if not data:
            return b""
        if not self._left and not self._line and not self._trailers:
            eol = data.find(b"\r\n")
            size = self._sizes.get(data[:eol])
            if size and len(data) == eol + size + 4 and data.endswith(b"\r\n"):  # one chunk, the whole of it
                return data[eol + 2 : -2]
        pieces: list[bytes] = []
        try:
            self._take_apart(data, pieces)
        except ChunkedError as error:
            error.payload = b"".join(pieces)
            raise
        return b"".join(pieces)

    def _take_apart(self, data: bytes, pieces: list[bytes]) -> None:
        end = len(data)
        pos = 0
        left = self._left
        if left:
            if left > end:
                self._left = left - end
                pieces.append(self._cut(data, left))
                return
            if left > 2:
                pieces.append(data[: left - 2])
            if data[max(left - 2, 0) : left] != b"\r\n"[-min(left, 2) :]:
                raise ChunkedError("a chunk does not end where its size says")
            pos = left
            self._left = 0
        elif self._line:
            data = self._line + data
            end = len(data)
            self._line = b""
        sizes = self._sizes
        find = data.find
        while pos < end and not self._trailers:
            eol = find(b"\r\n", pos)
            if eol < 0:
                self._line = data[pos:]
                if len(self._line) > _MAX_LINE:
                    raise ChunkedError("a chunk's size line is too long")
                return
            line = data[pos:eol]
            size = sizes.get(line)
            if size is None:
                size = self._size(line)
            start = eol + 2
            if not size:
                self._trailers = True
                pos = start
                break
            pos = start + size + 2
            if pos > end:
                self._left = pos - end
                pieces.append(self._cut(data[start:], size + 2))
                return
            pieces.append(data[start : pos - 2])
            if data[pos - 2 : pos] != b"\r\n":
                raise ChunkedError("a chunk does not end where its size says")
        if self._trailers and not self.done:
            self._skip_trailers(data[pos:])

    @staticmethod
    def _cut(data: bytes, left: int) -> bytes:
        """Return what of `data` is payload where `left` bytes, CRLF included, were still to come and `data` is less."""
        over = len(data) - (left - 2)
        if over <= 0:
            return data
        if data[-1:] != b"\r":  # over is 1: the CRLF itself is cut
            raise ChunkedError("a chunk does not end where its size says")
        return data[:-over]

    def _size(self, line: bytes) -> int:
        match = _SIZE.fullmatch(line)
        if match is None:
            raise ChunkedError("a chunk's size is no hexadecimal number")
        size = int(match[1], 16)
        if len(self._sizes) < 1024 and len(line) <= 16:
            self._sizes[line] = size
        return size

    def _skip_trailers(self, data: bytes) -> None:
        self._skipped += len(data)
        if self._skipped > _MAX_TRAILERS:
            raise ChunkedError("the trailers are too long")
        data = self._line + data
        self._line = b""
        while True:
            eol = data.find(b"\r\n")
            if eol < 0:
                self._line = data
                if len(data) > _MAX_LINE:
                    raise ChunkedError("a trailer line is too long")
                return
            if eol == 0:
                self.done = True
                self.surplus = len(data) > 2
                return
            data = data[eol + 2 :]
