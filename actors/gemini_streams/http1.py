"""The head of an HTTP/1.1 request and of its answer, without I/O (RFC 9112, sections 2 to 6).

http.client takes and makes a head line by line, and reads it with a parser for e-mail: half of what a short stream
costs. Nearly every answer's head is plain; what is not is left to http.client, which knows the rest:

- `request_head` returns `None` where a header is not what a header can be.
- `parse_head` returns `None` for a change of protocol, an answer without a body, HTTP/1.0, folded or malformed
  lines, a transfer coding other than chunked, a content coding, lengths that contradict each other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["HEAD_END", "Head", "is_interim", "parse_head", "request_head"]

HEAD_END = re.compile(rb"\n\r?\n")
"""Behind the first of these the body begins, also where a server ends lines with LF alone."""

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?")
_INTERIM = re.compile(rb"HTTP/1\.[01] 1(?!01)[0-9][0-9][ \r\n]")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NOT_IN_A_PATH = re.compile(r"[^\x21-\x7e]")
_NAME_TO_SEND = re.compile(_NAME.pattern.decode())
_NO_BODY = (204, 205, 304)
_MOST_NAMES = 1024
_LONGEST_NAME = 64

_names: dict[bytes, str] = {}
"""Names of headers that have been checked: servers send the same few."""


class Head(NamedTuple):
    """The head of an answer whose body can be read from the socket."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    chunked: bool
    length: int | None
    """Bytes of the body; `None`: chunked, or all until the connection's end."""
    keeps: bool
    """Whether the connection can be used again behind the body."""


def request_head(method: str, path: str, host: str, headers: Mapping[str, str]) -> bytes | None:
    """Return a request's head, its blank line included; `None` where something in it is not fit to be sent."""
    if _NOT_IN_A_PATH.search(path) is not None:
        return None
    parts = [method, " ", path, " HTTP/1.1\r\nHost: ", host]
    for name, value in headers.items():
        if name.lower() == "host" or _NAME_TO_SEND.fullmatch(name) is None:
            return None
        parts += ("\r\n", name, ": ", value)  # joined, not formatted: a secret shows itself in no other way
    parts.append("\r\n\r\n")
    try:
        head = "".join(parts).encode("latin-1")
    except UnicodeEncodeError:
        return None
    ends = len(headers) + 3
    if head.count(b"\r") != ends or head.count(b"\n") != ends or b"\0" in head:
        return None
    return head


def is_interim(head: bytes) -> bool:
    """Whether it is the head of a 1xx answer, behind which the real one comes (RFC 9110, 15.2); not a 101."""
    return _INTERIM.match(head) is not None


def parse_head(head: bytes) -> Head | None:
    """Parse the lines of a head, without the blank line that ends it; `None` where http.client should."""
    first, *lines = head.split(b"\r\n")
    status_line = _STATUS_LINE.fullmatch(first)
    if status_line is None or head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
        return None
    status = int(status_line[1])
    if status in _NO_BODY:
        return None
    headers: list[tuple[str, str]] = []
    chunked = False
    length: int | None = None
    keeps = True
    for line in lines:
        raw_name, colon, raw_value = line.partition(b":")
        name = _names.get(raw_name) or _checked(raw_name)
        if not colon or name is None or b"\0" in raw_value:
            return None
        value = raw_value.strip(b" \t").decode("latin-1")
        headers.append((name, value))
        match name.lower():
            case "transfer-encoding":
                if chunked or value.lower() != "chunked":
                    return None
                chunked = True
            case "content-length":
                if length is not None or not (value.isascii() and value.isdigit() and len(value) < 16):
                    return None
                length = int(value)
            case "connection":
                keeps = keeps and "close" not in value.lower()
            case "content-encoding":
                if value.lower() not in ("", "identity"):
                    return None
    if chunked and length is not None:
        return None
    return Head(
        status,
        (status_line[2] or b"").decode("latin-1"),
        headers,
        chunked,
        length,
        keeps and (chunked or length is not None),
    )


def _checked(name: bytes) -> str | None:
    if _NAME.fullmatch(name) is None:
        return None
    text = name.decode("ascii")
    if len(_names) < _MOST_NAMES and len(name) <= _LONGEST_NAME:
        _names[name] = text
    return text
