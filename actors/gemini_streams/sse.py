"""Server-sent events, without I/O: bytes in, the data of events out.

The rules (WHATWG HTML, 9.2.6 "Interpreting an event stream"):

- LF, CR and CRLF end a line, nothing else does; a CRLF may be cut between two reads, UTF-8 anywhere.
- One byte order mark at the start of the stream is dropped.
- A line is a field and its value, split at the first colon, one space behind it dropped; a line without a colon is a
  field with an empty value; a line that starts with a colon is a comment.
- `data` lines of one event are joined with LF. A blank line ends an event; an event without `data` is not dispatched.
- `id` (ignored if it holds NUL) and `retry` (digits only) are kept in `last_event_id` and `retry`; the event's type
  is not: Gemini's payloads name their own.

Where Gemini differs: a last event that no blank line closes counts, `end()` returns it. A line that is no field at
all (an error as bare JSON in the middle of a stream) is not dropped but kept in `stray`.

The decoder is bounded: an event whose lines are larger than `max_event_bytes` raises `EventTooLargeError`, in
whatever cuts it comes. Any cut of the same bytes gives the same events.

The mechanism: nearly every read of a real stream holds nothing but whole events of one `data: ` line each. Such a
run is recognised by counting its line ends and split by one call, without a step per event. Everything else goes
line by line through `_slowly`.
"""

from __future__ import annotations

import re

from gemini_streams.errors import EventTooLargeError

__all__ = ["Decoder"]

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"
_MAX_STRAY = 65536
_PREFIX = b"data: "


class Decoder:
    """Decodes one event stream; used by one thread at a time.

    `feed` takes bytes as they come, `take` gives back the data of finished events, in order; what was not taken
    waits. `end` tells that the stream has ended.
    """

    __slots__ = (
        "_at_start",
        "_data",
        "_max",
        "_next",
        "_ready",
        "_separator",
        "_size",
        "_skip_lf",
        "_tail",
        "last_event_id",
        "retry",
        "stray",
    )

    def __init__(self, max_event_bytes: int) -> None:
        self._max = max_event_bytes
        self._ready: list[bytes] = []
        self._next = 0  # first of _ready that was not taken
        self._tail = bytearray()  # what no line end has closed yet
        self._separator = b""  # a blank line as this stream writes it, LF or CRLF, once that is known
        self._data: list[bytes] | None = None  # data lines of the event under way
        self._size = 0  # bytes of the lines of the event under way
        self._skip_lf = False  # the last line ended with CR at the end of a read: an LF may follow
        self._at_start = True
        self.stray = bytearray()
        """Lines that are no field of SSE, joined with LF; at most the first 64 KiB."""
        self.last_event_id = ""
        self.retry: int | None = None
        """Milliseconds, where the server named them."""

    @property
    def waiting(self) -> int:
        """How many finished events have not been taken."""
        return len(self._ready) - self._next

    @property
    def unfinished(self) -> bool:
        """Whether the bytes so far end in the middle of an event."""
        return bool(self._tail) or self._data is not None

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the stream.

        Raises `EventTooLargeError`; the events before the large one can still be taken.
        """
        separator = self._separator
        if not separator and self._at_start and chunk.startswith(_PREFIX):
            line_end = chunk.find(b"\n")
            if line_end > 0:  # a guess, which the counts below hold to
                separator = b"\r\n\r\n" if chunk[line_end - 1] == 13 else b"\n\n"
        if (
            separator
            and not self._tail
            and self._data is None
            and not self._size
            and not self._skip_lf
            and chunk.startswith(_PREFIX)
            and chunk.endswith(separator)
            and chunk.count(b"\n") == 2
            and chunk.count(b"\r") == len(separator) - 2
            and len(chunk) <= self._max
        ):  # one event, the whole of it and nothing else: what a model in no hurry sends
            self._keep([chunk[6 : -len(separator)]])
            self._separator = separator
            self._at_start = False
            return
        if separator and self._data is None and not self._size and not self._skip_lf and separator in chunk:
            data = b"".join((self._tail, chunk)) if self._tail else chunk
            end = data.rfind(separator)
            if data.startswith(_PREFIX):
                body = data[6:end]
                payloads = body.split(separator + _PREFIX)
                ends = 2 * (len(payloads) - 1)
                if (
                    body.count(b"\n") == ends
                    and body.count(b"\r") == (ends if len(separator) == 4 else 0)
                    and (len(body) + 6 <= self._max or max(map(len, payloads)) + 6 <= self._max)
                ):
                    self._keep(payloads)
                    self._tail.clear()
                    self._separator = separator
                    self._at_start = False
                    chunk = data[end + len(separator) :]
        if b"\n" in chunk or b"\r" in chunk or self._at_start or self._skip_lf:
            self._slowly(chunk)
        else:
            self._tail += chunk
            if self._size + len(self._tail) > self._max:
                raise self._too_large()

    @property
    def next_size(self) -> int:
        """Bytes of the next event that was not taken; 0 where there is none."""
        return len(self._ready[self._next]) if self._next < len(self._ready) else 0

    @property
    def waiting_size(self) -> int:
        """Bytes of all finished events that have not been taken."""
        return sum(map(len, self._ready[self._next :] if self._next else self._ready))

    def take(self, count: int | None = None, room: int | None = None) -> list[bytes]:
        """Return the data of the next finished events, at most `count`, as many as fit `room` bytes together.

        The first one is given whatever its size. `None` is no limit.
        """
        ready, start = self._ready, self._next
        stop = len(ready) if count is None else min(len(ready), start + count)
        taken = ready[start:stop] if start or stop < len(ready) else ready
        if room is not None and taken and sum(map(len, taken)) > room:
            taken = _fitting(taken, room)
            stop = start + len(taken)
        if stop == len(ready):
            self._ready = []
            self._next = 0
        else:
            self._next = stop
        return taken

    def end(self) -> bytes | None:
        """Tell that the stream has ended; return the data of a last event that no blank line closed, if there is one.

        WHATWG drops it; Gemini's recorded bodies end so in places and the event counts.
        """
        if self._at_start:  # a stream of fewer than three bytes
            self._at_start = False
        if self._tail:
            line = bytes(self._tail)
            self._tail.clear()
            self._line(line)
        data, self._data = self._data, None
        self._size = 0
        return None if data is None else b"\n".join(data)

    def _keep(self, payloads: list[bytes]) -> None:
        if self._next == len(self._ready):
            self._ready = payloads
            self._next = 0
        else:
            self._ready.extend(payloads)

    def _too_large(self) -> EventTooLargeError:
        return EventTooLargeError(
            f"an event is larger than max_event_bytes={self._max}; raise that limit if such events are expected"
        )

    def _slowly(self, chunk: bytes) -> None:
        """Go line by line."""
        if self._skip_lf and chunk:
            self._skip_lf = False
            if chunk[:1] == b"\n":
                chunk = chunk[1:]
                self._separator = b"\r\n\r\n"
        tail = self._tail
        if self._at_start:
            tail += chunk
            if len(tail) < len(_BOM) and _BOM.startswith(tail):
                return
            self._at_start = False
            chunk = bytes(tail).removeprefix(_BOM)
            tail.clear()
        pos = 0
        for match in _LINE_END.finditer(chunk):
            line = chunk[pos : match.start()]
            pos = match.end()
            if tail:
                line = bytes(tail) + line
                tail.clear()
            end = match[0]
            if end != b"\r":
                self._separator = end + end
            elif pos == len(chunk):
                self._skip_lf = True  # half of a CRLF, or an end of its own
            if line:
                self._line(line)
            else:
                data, self._data = self._data, None
                self._size = 0
                if data is not None:
                    self._keep([b"\n".join(data)])
        tail += chunk[pos:]
        if self._size + len(tail) > self._max:
            raise self._too_large()

    def _line(self, line: bytes) -> None:
        name, colon, value = line.partition(b":")
        if colon and not name:
            return  # a comment
        self._size += len(line)
        if self._size > self._max:
            raise self._too_large()
        value = value.removeprefix(b" ")
        if name == b"data":
            if self._data is None:
                self._data = []
            self._data.append(value)
        elif name == b"id":
            if b"\0" not in value:
                self.last_event_id = value.decode("utf-8", "replace")
        elif name == b"retry":
            if value.isdigit():
                self.retry = int(value)
        elif name != b"event" and len(self.stray) < _MAX_STRAY:
            self.stray += line[: _MAX_STRAY - len(self.stray)] + b"\n"


def _fitting(payloads: list[bytes], room: int) -> list[bytes]:
    for index, payload in enumerate(payloads):
        room -= len(payload)
        if room < 0 and index:
            return payloads[:index]
    return payloads
