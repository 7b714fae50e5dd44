"""JSON that stands in an event stream outside of any event, without I/O.

Some servers, and what stands in front of them, write a JSON value into an event stream as it is, over several lines and
without `data:`; an error above all.

The rules:

- A value begins where a line begins with `{` or `[`, and goes on until that closes, over as many lines as it takes.
- An object is an event. In a list each element is one, and comes as a list of one.
- A line break cannot stand inside a text of JSON's. So a line that is a field of an event stream never belongs to a
  value. It ends a value that has not closed; what has come of that is an event too, and `meaning` refuses it.
- A line that JSON cannot go on with is left out, as WHATWG has it for lines that are no field.
"""

from __future__ import annotations

import re

__all__ = ["StrayValue"]

_OUTSIDE = re.compile(rb'["\[\]{}]')
_INSIDE = re.compile(rb'["\\]')
_TOKEN = re.compile(rb'[ \t]*(?:["{}\[\],0-9-]|(?:true|false|null)\b)')
_BETWEEN = re.compile(rb"[ \t\r\n,]*")


class StrayValue:
    """One value; takes the lines that it stands on, the first one first."""

    __slots__ = ("_depth", "_inside", "_list", "_piece", "found")

    def __init__(self) -> None:
        self._piece = bytearray()  # of the object under way
        self._depth = 0
        self._inside = False  # a text
        self._list = False
        self.found: list[bytes] = []
        """What has closed, as the data of events."""

    @staticmethod
    def begins(line: bytes) -> bool:
        """Whether a value begins on this line."""
        return line.lstrip(b" \t")[:1] in (b"{", b"[")

    @staticmethod
    def may_go_on(line: bytes) -> bool:
        """Whether this line can stand inside a value: it begins with something of JSON's."""
        return _TOKEN.match(line) is not None

    @property
    def piece(self) -> bytes:
        """What has not closed."""
        return bytes(self._piece)

    @property
    def size(self) -> int:
        """Bytes of what has not closed."""
        return len(self._piece)

    def take(self, line: bytes) -> bool:
        """Take the next line; `False` where the value has ended on it."""
        line += b"\n"
        at = 0
        while True:
            if not self._depth:
                at = self._next(line, at)
                if at == len(line):
                    return self._list
                if line.startswith(b"[", at) and not self._list:
                    self._list = True
                    at = self._next(line, at + 1)
                    if line.startswith(b"]", at):
                        self.found.append(b"[]")
                    continue
                if not line.startswith(b"{", at):  # the list's end, or what is no value
                    return False
            end = self._scan(line, at)
            self._piece += line[at:end]
            if self._depth:
                return True
            self.found.append(b"[%b]" % self.piece if self._list else self.piece)
            self._piece.clear()
            at = end

    @staticmethod
    def _next(line: bytes, at: int) -> int:
        """Return where the next thing between two values stands."""
        match = _BETWEEN.match(line, at)
        return at if match is None else match.end()

    def _scan(self, line: bytes, at: int) -> int:
        """Go on in the object under way; return where it closes, or where the line ends."""
        while True:
            match = (_INSIDE if self._inside else _OUTSIDE).search(line, at)
            if match is None:
                return len(line)
            at = match.end()
            mark = match[0]
            if self._inside:
                if mark == b"\\":
                    at += 1
                else:
                    self._inside = False
            elif mark == b'"':
                self._inside = True
            elif mark in (b"{", b"["):
                self._depth += 1
            else:
                self._depth -= 1
                if not self._depth:
                    return at
