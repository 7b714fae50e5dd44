"""The head of an HTTP/1.1 request and of its answer, without I/O (RFC 9112, sections 2 to 6).

The rules:

- A head is taken as one only when its blank line has come. A connection that ends before it has told nothing.
- A head is bounded: `MOST_BYTES` together with the interim ones (1xx) in front of it, `MOST_HEADERS` lines.
- The headers that decide where the body ends are read strictly. Lengths that contradict each other, a length that is
  no number and a transfer coding other than `chunked` are a `HeadError`: a guess could take the rest of one body for
  the beginning of the next answer.
- Everything else is read leniently: lines may end with LF alone or be folded, and a line whose name is no name is left
  out.
- Where a length and `chunked` are both given, `chunked` counts and the connection is not used again.
- A `HeadError` quotes nothing of the head.

http.client takes and makes a head line by line, and reads it with a parser for e-mail: half of what a short stream
costs. Node's parser (httptools) would save 4 of 7 µs a head. But it refuses what is read leniently here, so there would
have to be two readers that agree on where a body ends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from gemini_streams.api.secret import Secret

__all__ = ["MOST_BYTES", "MOST_HEADERS", "Head", "HeadError", "HeadReader", "parse_head", "request_head"]

MOST_BYTES = 65536
"""Of a head and the interim ones in front of it."""
MOST_HEADERS = 256

_HEAD_END = re.compile(rb"\n\r?\n")
"""Behind the first of these the body begins, also where a server ends lines with LF alone."""
_START = b"HTTP/"
_STATUS_LINE = re.compile(r"HTTP/1\.([0-9])[ \t]+([1-9][0-9][0-9])(?:[ \t]([^\0]*))?")
_FOLD = re.compile(rb"[ \t]*\r?\n[ \t]+")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NOT_IN_A_PATH = re.compile(r"[^\x21-\x7e]")
_NO_BODY = (204, 304)
_SWITCHING = 101
_MOST_NAMES = 1024
_LONGEST_NAME = 64

_DECIDING = ("connection", "content-encoding", "content-length", "transfer-encoding")
_names: dict[str, tuple[str, str]] = {}
"""Checked names of headers, as servers send the same few: the name, and which of `_DECIDING` it is."""
_names_sent: set[str] = set()
"""The same of requests."""


class HeadError(ValueError):
    """The bytes are no head of an answer."""


class Head(NamedTuple):
    """The head of an answer."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    chunked: bool
    length: int | None
    """Bytes of the body; `None`: chunked, or all until the connection's end."""
    keeps: bool
    """Whether the connection can be used again behind the body."""
    codings: tuple[str, ...] = ()
    """The content codings in the order in which the server applied them, in lower case; `identity` left out."""


def request_head(method: str, path: str, host: str, headers: Mapping[str, str | Secret]) -> bytes | None:
    """Return a request's head, its blank line included; `None` where something in it is not fit to be sent.

    `host` is the Host header's value where `headers` has none.
    """
    if _NOT_IN_A_PATH.search(path) is not None:
        return None
    parts = [method, " ", path, " HTTP/1.1"]
    ends = len(headers) + 2
    if "host" not in map(str.lower, headers):
        parts += ("\r\nHost: ", host)
        ends += 1
    for name, value in headers.items():
        if name not in _names_sent:
            if _NAME.fullmatch(name) is None:
                return None
            if len(_names_sent) < _MOST_NAMES and len(name) <= _LONGEST_NAME:
                _names_sent.add(name)
        parts += ("\r\n", name, ": ", value.reveal() if isinstance(value, Secret) else value)
    parts.append("\r\n\r\n")
    try:
        head = "".join(parts).encode("latin-1")
    except UnicodeEncodeError:
        return None
    if head.count(b"\r") != ends or head.count(b"\n") != ends or b"\0" in head:
        return None
    return head


class HeadReader:
    """Takes an answer's head out of the bytes of a connection; used by one thread at a time."""

    __slots__ = ("_data", "_looked", "_taken", "leftover")

    def __init__(self) -> None:
        self._data = b""
        self._looked = 0  # up to here there is no end of a head
        self._taken = 0  # bytes of interim heads
        self.leftover = b""
        """The bytes that came along behind the head."""

    @property
    def begun(self) -> bool:
        """Whether a byte has come, be it of an interim head."""
        return bool(self._data) or self._taken > 0

    @property
    def inside(self) -> bool:
        """Whether a head has begun and not ended."""
        return bool(self._data)

    def feed(self, data: bytes) -> Head | None:
        """Take the next bytes; `None` while the head is not whole.

        Interim heads (1xx, but 101) are left out. Raises `HeadError`.
        """
        if self._data:
            data = self._data + data
        while True:
            end = _HEAD_END.search(data, self._looked)
            if end is None:
                if data[: len(_START)] != _START[: len(data)]:
                    raise HeadError("it does not begin as HTTP does")
                if self._taken + len(data) > MOST_BYTES:
                    raise HeadError(f"its head is larger than {MOST_BYTES} bytes")
                self._data = data
                self._looked = max(0, len(data) - 2)
                return None
            self._taken += end.end()
            self._looked = 0
            if self._taken > MOST_BYTES:
                raise HeadError(f"its head is larger than {MOST_BYTES} bytes")
            head = parse_head(data[: end.start()].removesuffix(b"\r"))
            if head.status >= 200 or head.status == _SWITCHING:
                self.leftover = data[end.end() :]
                self._data = b""
                return head
            data = self._data = data[end.end() :]


def parse_head(head: bytes) -> Head:
    """Parse the lines of a head, without the end of the last one and the blank one; raises `HeadError`."""
    if b"\n " in head or b"\n\t" in head:
        head = _FOLD.sub(b" ", head)
    text = head.decode("latin-1")
    lines = text.split("\r\n")
    plain = text.count("\n") == text.count("\r") == len(lines) - 1 and "\0" not in text
    if not plain:
        lines = [line.removesuffix("\r") for line in text.split("\n")]
    status_line = _STATUS_LINE.fullmatch(lines[0])
    if status_line is None:
        raise HeadError("its first line is no status of HTTP/1")
    if len(lines) > MOST_HEADERS + 1:
        raise HeadError(f"its head has more than {MOST_HEADERS} headers")
    status = int(status_line[2])
    headers: list[tuple[str, str]] = []
    framing: list[str] | None = None
    lengths: list[str] | None = None
    codings: list[str] | None = None
    keeps = status_line[1] != "0"
    for line in lines[1:]:
        raw_name, colon, value = line.partition(":")
        if not colon:
            raise HeadError("one of its lines has no colon")
        known = _names.get(raw_name) or _checked(raw_name)
        if known is None:
            continue
        name, deciding = known
        value = value.strip(" \t")
        if not plain:
            value = value.replace("\r", " ").replace("\0", " ").strip(" \t")
        headers.append((name, value))
        match deciding:
            case "":
                pass
            case "transfer-encoding":
                framing = [*(framing or ()), *_listed(value)]
            case "content-length":
                lengths = [*(lengths or ()), *value.split(",")]
            case "connection":
                keeps = keeps and "close" not in value.lower()
            case "content-encoding":
                codings = [*(codings or ()), *_listed(value)]
    chunked = False
    length: int | None = None
    if lengths is not None:
        length = _length(lengths)
    if framing:
        if framing != ["chunked"]:
            raise HeadError("it has a transfer coding that was not asked for")
        chunked = True
        keeps = keeps and length is None
        length = None
    if status < 200 or status in _NO_BODY:
        chunked, length, keeps = False, 0, False
    return Head(
        status,
        status_line[3] or "",
        headers,
        chunked,
        length,
        keeps and (chunked or length is not None),
        tuple(codings) if codings else (),
    )


def _listed(value: str) -> list[str]:
    """Return the names of codings in a header's value."""
    names = [name.strip(" \t").lower() for name in value.split(",")]
    return [name for name in names if name not in ("", "identity")]


def _length(values: list[str]) -> int:
    values = [value.strip(" \t") for value in values]
    first = values[0]
    if not (first.isascii() and first.isdigit()) or len(first) > 15:
        raise HeadError("its length is no number")
    if any(value != first for value in values):
        raise HeadError("its lengths contradict each other")
    return int(first)


def _checked(raw_name: str) -> tuple[str, str] | None:
    """Return what `_names` holds of a header's name; `None` where it can be none. Blanks behind it are dropped."""
    name = raw_name.rstrip(" \t")
    if _NAME.fullmatch(name) is None:
        return None
    lower = name.lower()
    known = (name, lower if lower in _DECIDING else "")
    if len(_names) < _MOST_NAMES and len(name) <= _LONGEST_NAME:
        _names[name] = known
    return known
