"""HTTP/1.1's chunked transfer coding, without I/O (RFC 9112, section 7.1), by Node's parser (httptools).

The rules:

- The parser is given a head of our own, and then the body's bytes as they come. So it reads the body alone: what an
  answer's head says is read by `http1`, which takes heads that the parser refuses.
- Payload is given before its chunk is whole. Chunk extensions and trailers are skipped.
- What is between two pieces of payload is bounded: `MOST_BETWEEN` bytes, beyond those of one read. The parser itself
  would go on for as long as a size line has no end.
- What came in front of an error is given with it (`ChunkedError.payload`).
- The parser goes on behind the body's end. What it finds there is no part of this answer; `surplus` says that
  there was something.
"""

from __future__ import annotations

import httptools

__all__ = ["MOST_BETWEEN", "ChunkedDecoder", "ChunkedError"]

MOST_BETWEEN = 65536
_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class ChunkedError(ValueError):
    """The bytes are no chunked body."""

    payload = b""
    """What came before that in the same bytes."""


class _Told:
    """What the parser tells of one body. A name that it does not find costs no call."""

    __slots__ = ("done", "on_body", "own", "pieces", "surplus")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.on_body = self.pieces.append
        self.done = False
        self.own = 0
        """How many of the last pieces are the body's: those behind its end are nobody's."""
        self.surplus = False

    def on_message_begin(self) -> None:
        self.surplus = self.done

    def on_message_complete(self) -> None:
        if not self.done:
            self.done = True
            self.own = len(self.pieces)


class ChunkedDecoder:
    """Takes the chunks of one body apart; used by one thread at a time."""

    __slots__ = ("_between", "_feed", "_pieces", "_told")

    def __init__(self) -> None:
        self._told = told = _Told()
        self._pieces = told.pieces
        self._between = 0
        parser = httptools.HttpResponseParser(told)
        parser.set_dangerous_leniencies(
            lenient_spaces_after_chunk_size=True
        )  # servers put one before an extension
        parser.feed_data(_HEAD)
        self._feed = parser.feed_data

    @property
    def done(self) -> bool:
        """Whether the last chunk and the trailers have been read."""
        return self._told.done

    @property
    def surplus(self) -> bool:
        """Whether more bytes have come than the body has."""
        return self._told.surplus

    def feed(self, data: bytes) -> bytes:
        """Return the payload in the next bytes of the body.

        Raises `ChunkedError`, which has the payload in front of what is wrong; the decoder is of no use after that.
        """
        pieces = self._pieces
        try:
            self._feed(data)
        except httptools.HttpParserError:
            if not self._told.done:
                error = ChunkedError(
                    "a chunk's size is no number, or the chunk does not end where its size says"
                )
                error.payload = b"".join(pieces)
                raise error from None
            self._told.surplus = True
        if self._told.done:
            del pieces[self._told.own :]
        if pieces:
            payload = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            self._between = 0
            return payload
        self._between += len(data)
        if self._between > MOST_BETWEEN:
            raise ChunkedError("a chunk's size line, or the trailers, are too long")
        return b""
