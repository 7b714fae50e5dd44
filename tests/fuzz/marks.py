"""Marks: what the fuzz server writes into everything it says, so that each byte's owner can be told later.

A mark names the case, the tenant, the stream, the request of that stream and the event in the request's answer. What
stands behind an answer, where nobody may listen any more, has the event number `BEHIND`. A checksum makes a mark that
was damaged on its way no mark at all.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = ["BEHIND", "Mark", "marks_in", "strings_in"]

BEHIND = 999_999
"""The event number of what is sent behind an answer's end."""

_MARK = re.compile(r"fz-(\d+)-(\d+)-(\d+)-(\d+)-(\d+)-([0-9a-f]{8})")


class Mark(NamedTuple):
    """Who may see the bytes that carry it: the subscribers of this stream, in the answer to this request."""

    case: int
    tenant: int
    stream: int
    request: int
    """Which request of the stream; the first is 0."""
    event: int
    """Which event of the answer; the first is 0."""

    def __str__(self) -> str:
        numbers = "-".join(str(number) for number in self)
        return f"fz-{numbers}-{zlib.crc32(numbers.encode()):08x}"


def marks_in(text: str) -> list[Mark]:
    """Return the sound marks in a text, in order."""
    found = []
    for match in _MARK.finditer(text):
        numbers = match[0].removeprefix("fz-").rpartition("-")[0]
        if match[6] == f"{zlib.crc32(numbers.encode()):08x}":
            found.append(Mark(*(int(match[n]) for n in range(1, 6))))
    return found


def strings_in(data: Any) -> Iterator[str]:
    """Give all strings in decoded JSON, names included, however deep it is nested."""
    stack = [data]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, list | tuple):
            stack.extend(item)
