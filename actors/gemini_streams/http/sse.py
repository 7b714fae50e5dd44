"""Server-sent events, without I/O: bytes in, the data of events out.

The rules (WHATWG HTML, 9.2.6 "Interpreting an event stream"):

- LF, CR and CRLF end a line, nothing else does; a CRLF may be cut between two reads, UTF-8 anywhere.
- One byte order mark at the start of the stream is dropped.
- A line is a field and its value, split at the first colon, one space behind it dropped; a line without a colon is a
  field with an empty value; a line that starts with a colon is a comment.
- `data` lines of one event are joined with LF. A blank line ends an event; an event without `data` is not dispatched.
- `event`, `id` and `retry` are left out: Gemini's payloads name their own type, and the policy decides on retries.

Where Gemini differs: a last event that no blank line closes counts, `end()` returns it. JSON that stands outside of
any event (`strays`) is an event, at the place where it closes. So is what goes on, without `data:`, with the JSON of
an event under way. A body that begins with `<` is a page: `UnexpectedResponseError`.

The decoder is bounded: an event whose lines are larger than `max_event_bytes` raises `EventTooLargeError`, in
whatever cuts it comes. Any cut of the same bytes gives the same events.

The mechanism: nearly every read of a real stream holds nothing but whole events of one `data: ` line each, alone or
with `event: ` and `id: ` lines around it. Such a run is recognised by counting its lines and split by one call or two
(`_alone`, `_named`). Everything else goes line by line through `_slowly`.
"""

from __future__ import annotations

import re

from gemini_streams.errors import EventTooLargeError, UnexpectedResponseError
from gemini_streams.http.strays import StrayValue

__all__ = ["Decoder"]

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"
_FIELDS = (b"event", b"id", b"retry")
"""What is left out, beside comments."""
_PREFIX = b"data: "
_NAMED = (b"event: ", b"id: ")


class Decoder:
    """Decodes one event stream; used by one thread at a time.

    `feed` takes bytes as they come, `take` gives back the data of finished events, in order; what was not taken
    waits. `end` tells that the stream has ended.
    """

    __slots__ = (
        "_at_start",
        "_begun",
        "_data",
        "_judged",
        "_max",
        "_next",
        "_ready",
        "_separator",
        "_size",
        "_skip_lf",
        "_stray",
        "_tail",
    )

    def __init__(self, max_event_bytes: int) -> None:
        self._max = max_event_bytes
        self._ready: list[bytes] = []
        self._next = 0  # first of _ready that was not taken
        self._tail = bytearray()  # what no line end has closed yet
        self._separator = b""  # a blank line as this stream writes it, LF or CRLF, once that is known
        self._data: list[bytes] | None = None  # data lines of the event under way
        self._judged = False  # whether it was seen if its JSON is open
        self._size = 0  # bytes of the lines of the event under way
        self._skip_lf = False  # the last line ended with CR at the end of a read: an LF may follow
        self._at_start = True
        self._begun = False  # there was something else than blank lines
        self._stray: StrayValue | None = None  # the value under way that is in no event

    @property
    def waiting(self) -> int:
        """How many finished events have not been taken."""
        return len(self._ready) - self._next

    @property
    def unfinished(self) -> bool:
        """Whether the bytes so far end in the middle of an event."""
        return (
            self._data is not None
            or self._stray is not None
            or (bool(self._tail) and not self._tail.startswith(b":"))
        )

    @property
    def bare(self) -> bytes:
        """What has begun outside of any event, and has not closed: an error, perhaps, whose line has no end."""
        stray = b"" if self._stray is None else self._stray.piece
        return stray + bytes(self._tail)

    def only_event(self, chunk: bytes) -> bytes | None:
        """Return the data of the one event that these bytes are, where they are just that, and nothing is under way.

        `None`: they are something else, and `feed` takes them. A model in no hurry sends little else.
        """
        separator = self._separator
        if (
            separator
            and not self._tail
            and self._data is None
            and not self._size
            and not self._skip_lf
            and self._next == len(self._ready)
            and chunk.endswith(separator)
            and len(chunk) <= self._max
        ):
            if chunk.startswith(_PREFIX):
                if chunk.count(b"\n") == 2 and chunk.count(b"\r") == len(separator) - 2:
                    return chunk[6 : -len(separator)]
            elif chunk.startswith(_NAMED):
                payloads = _named(chunk[: -len(separator)], separator, self._max)
                return payloads[0] if payloads is not None and len(payloads) == 1 else None
        return None

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the stream.

        Raises `EventTooLargeError`; the events before the large one can still be taken.
        """
        separator = self._separator
        if not separator and self._at_start and chunk.startswith((_PREFIX, *_NAMED)):
            line_end = chunk.find(b"\n")
            if line_end > 0:  # a guess, which the counts hold to
                separator = b"\r\n\r\n" if chunk[line_end - 1] == 13 else b"\n\n"
        if separator and (self._data is not None or self._size or self._skip_lf):
            first = chunk.find(separator) + len(separator)
            if len(separator) <= first < len(chunk):  # what is under way, and then perhaps a run
                self._slowly(chunk[:first])
                chunk = chunk[first:]
        if separator and self._data is None and not self._size and not self._skip_lf and separator in chunk:
            data = b"".join((self._tail, chunk)) if self._tail else chunk
            end = data.rfind(separator)
            if data.startswith(_PREFIX):
                payloads = _alone(data[6:end], separator, self._max)
            elif data.startswith(_NAMED):
                payloads = _named(data[:end], separator, self._max)
            else:
                payloads = None
            if payloads is not None:
                self._keep(payloads)
                self._tail.clear()
                self._separator = separator
                self._at_start = False
                self._begun = True
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
        """Tell that the stream has ended; return the data of a last event that nothing closed, if there is one.

        WHATWG drops it; Gemini's recorded bodies end so in places and the event counts. It stands behind those that
        can still be taken. Raises as `feed` does.
        """
        if self._at_start:  # a stream of fewer than three bytes
            self._at_start = False
        if self._tail:
            line = bytes(self._tail)
            self._tail.clear()
            self._line(line)
        data, self._data = self._data, None
        stray, self._stray = self._stray, None
        self._size = 0
        if stray is not None and stray.size:
            return stray.piece
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
            elif self._stray is None:
                self._dispatch()
        tail += chunk[pos:]
        if not self._begun and tail:
            self._begin(tail)
        if self._size + len(tail) > self._max:
            raise self._too_large()

    def _dispatch(self) -> None:
        """End the event under way."""
        data, self._data = self._data, None
        self._size = 0
        if data is not None:
            self._keep([b"\n".join(data)])

    def _begin(self, start: bytes | bytearray) -> None:
        """Look at how the body begins."""
        start = start.lstrip(b" \t")
        if start.startswith(b"<"):
            raise UnexpectedResponseError(
                "the body is a page of HTML or XML, labelled as an event stream: does the base URL lead to the"
                " Gemini API, and is nothing in the way that wants a log-in?"
            )
        self._begun = bool(start)

    def _line(self, line: bytes) -> None:
        if not self._begun:
            self._begin(line)
        name, colon, value = line.partition(b":")
        if colon and not name:
            return  # a comment
        field = name == b"data" or name in _FIELDS
        if field and self._stray is not None:
            self._close_stray(self._stray)
        self._size += len(line)
        if self._size > self._max:
            raise self._too_large()
        if not field:
            self._line_of_no_field(line)
        elif name == b"data":
            if self._data is None:
                self._data = []
                self._judged = False
            self._data.append(value.removeprefix(b" "))

    def _line_of_no_field(self, line: bytes) -> None:
        if not StrayValue.may_go_on(line):
            return
        stray = self._stray
        if stray is None and self._data is not None and not self._judged:
            self._judged = True
            stray = self._left_open(self._data)
        if stray is None:
            if not StrayValue.begins(line):
                return
            self._dispatch()  # no blank line closed it
            stray = StrayValue()
        goes_on = stray.take(line)
        self._stray = stray if goes_on else None
        self._size = stray.size + 1 if goes_on else 0
        if stray.found:
            found, stray.found = stray.found, []
            self._keep(found)

    def _left_open(self, data: list[bytes]) -> StrayValue | None:
        """Return the value that the event under way is in the middle of, as one that goes on without `data:`."""
        stray = StrayValue()
        if not stray.begins(data[0]):
            return None
        for line in data:
            if not stray.take(line):
                return None
        self._data = None
        return stray

    def _close_stray(self, stray: StrayValue) -> None:
        """End a value that has not closed before the next field."""
        self._stray = None
        self._size = 0
        if stray.size:
            self._keep([stray.piece])


def _alone(body: bytes, separator: bytes, most: int) -> list[bytes] | None:
    """Return the data of events that are a `data: ` line each; `None` where there is anything else.

    `body` begins behind the first `data: ` and ends before the last blank line.
    """
    payloads = body.split(separator + _PREFIX)
    ends = 2 * (len(payloads) - 1)
    if (
        body.count(b"\n") == ends
        and body.count(b"\r") == (ends if len(separator) == 4 else 0)
        and (len(body) + 6 <= most or max(map(len, payloads)) + 6 <= most)
    ):
        return payloads
    return None


def _named(body: bytes, separator: bytes, most: int) -> list[bytes] | None:
    """Return the data of events that are one `data: ` line each, and `event: ` or `id: ` lines.

    `None` where there is anything else. `body` begins with one of the latter and ends before the last blank line.

    Why the counts suffice: each line of `body` but the first follows an LF. Where the blank ones are one less than the
    `data: ` lines, and these with the `event: ` and `id: ` lines are all the others, there are as many events as
    `data: ` lines. A blank line stands behind each of those before the next comes, so each event has one.
    """
    first, *rest = body.split(b"\ndata: ")
    datas = len(rest)
    ends = body.count(b"\n")
    lines = ends - datas + 2
    names = 1 + body.count(b"\nevent: ")
    if datas + names != lines and datas + names + body.count(b"\nid: ") != lines:
        return None
    if len(separator) == 4:
        if body.count(b"\r") != ends or body.count(b"\r\n") != ends:
            return None
        first = first.removesuffix(b"\r")
    elif b"\r" in body:
        return None
    last = rest.pop()
    payloads = []
    for part in rest:
        payload, blank, _ = part.partition(separator)
        if not blank:
            return None
        payloads.append(payload)
    payloads.append(last)
    if b"\n" in b"".join(payloads):
        line_end = separator[: len(separator) // 2]
        payloads = [payload.partition(line_end)[0] for payload in payloads]
    if len(body) > most and max(map(len, body.split(separator))) > most:
        return None
    return payloads


def _fitting(payloads: list[bytes], room: int) -> list[bytes]:
    for index, payload in enumerate(payloads):
        room -= len(payload)
        if room < 0 and index:
            return payloads[:index]
    return payloads
