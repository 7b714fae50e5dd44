# ruff: noqa: SLF001 - server, connections, gates and records are parts of one thing and live in one file
"""LocalGemini: a Gemini on loopback, a real HTTP/1.1 server that tests, demos and examples run on.

The rules:

- Which answer a request gets depends on what it asks, not on when it arrives: `on(pattern, *answers)` names
  the prompts, the first registered pattern that matches wins, and its n-th matching request gets the n-th
  answer, the last one again and again. A prompt that no pattern matches is answered by a few sentences about
  itself.
- A test waits for what happened (`wait_request`, `gate(...).reached()`, `record.wait_closed()`), never for
  time.
- What stands in a `RequestRecord` is what the server saw: `closed_at` is when it saw the client leave, or its
  own exchange's end; `bytes_sent` is what the socket took.

One thread of its own runs everything on an event loop, one task a connection, so that thousands of
connections cost little. Methods may be called from any thread. `close()` leaves no thread, no socket and no
file.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip as gzip_module
import itertools
import json
import os
import re
import select
import socket
import ssl
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, cast

import msgspec

from gemini_streams.api.endpoint import Gemini
from gemini_streams.testing.masks import Masks

__all__ = [
    "Body",
    "Failure",
    "Gate",
    "LocalGemini",
    "LongAnswer",
    "Raw",
    "Reply",
    "RequestRecord",
    "Scripted",
    "StallUpload",
    "every_cut",
    "http_date",
    "trickle",
]

Framing = Literal["chunked", "length", "close"]
End = Literal["clean", "cut", "reset", "silent"]
Event = dict[str, Any]

_EVENT_STREAM = "text/event-stream"
_JSON = "application/json; charset=UTF-8"
_PIECE = 16 * 1024
"""Bytes handed to the socket at once: how fine `bytes_sent` is."""
_STALL_LOOK = 256 * 1024
"""A `StallUpload` looks for its pattern in this many bytes of the body."""

_STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


# -- answers: what a request gets. Pure: a plan of bytes, written by the connection --------------------------


class _Piece(NamedTuple):
    data: bytes
    usage: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A response: its body's pieces in order, and where to wait, stop and break off among them."""

    pieces: Iterable[_Piece]
    status: int = 200
    headers: Mapping[str, str]
    framing: Framing = "chunked"
    gzip: bool = False
    headers_delay: float = 0.0
    hold_before_headers: bool = False
    first_byte_after: float = 0.0
    pace: float = 0.0
    hold_after: int | None = None
    end: End = "clean"
    end_after: int | None = None
    half: bool = False
    segment: int = _PIECE


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of a 200 stream: one event a chunk; a `str` is split into one event a word, its spaces kept.

    A chunk that is a dict is the event's whole JSON, sent as it stands; so is everything in `events`. Times
    are seconds. Events are counted from 0, and "after n" means when n events have been sent.
    """

    text: str | Iterable[str | Event] = ""
    pace: float | None = None
    """Between two events; `None`: the server's own `pace`."""
    hold_after: int | None = None
    """Wait at the gate of the pattern after this many events; 0: between the headers and the first event."""
    first_byte_after: float = 0.0
    """Between the headers and the first event."""
    end: End = "clean"
    """`"cut"`: the connection is closed (FIN) without the body's end; `"reset"`: it is reset (RST);
    `"silent"`: nothing more comes, and it stays open until the client leaves."""
    end_after: int | None = None
    """End after this many events; `None`: after all of them."""
    half: bool = False
    """Send half of the next event before the end; for use with `end_after`."""
    finish_reason: str | None = "STOP"
    """On the last event; `None`: none."""
    usage: Mapping[str, Any] | Literal["auto"] | None = "auto"
    """`"auto"`: on every event, cumulative, one token each; a mapping: on the last one; `None`: none."""
    headers_delay: float = 0.0
    hold_before_headers: bool = False
    """Wait at the gate of the pattern before the headers are sent."""
    events: Iterable[Event] | None = None
    """Whole events instead of `text`."""
    framing: Framing = "chunked"
    gzip: bool = False
    newline: Literal["\r\n", "\n", "\r"] = "\r\n"
    error_after: tuple[int, Mapping[str, Any] | Failure] | None = None
    """`(n, error)`: after n events this error (a `Failure`, or what stands under "error") and the end."""
    error_bare: bool = False
    """That error as bare JSON over several lines, without `data:` in front."""
    tokens: Mapping[int, str] = field(default_factory=dict)
    """`continuationToken`s, by the number of the event that carries it. The API's are base64."""
    content_type: str = _EVENT_STREAM
    headers: Mapping[str, str] = field(default_factory=dict)
    segment: int | None = None
    """Write the socket this many bytes at a time, whatever the framing."""

    def _plan(self, record: RequestRecord, pace: float) -> _Plan:
        return _Plan(
            pieces=self._pieces(record),
            headers={"Content-Type": self.content_type, **self.headers},
            framing=self.framing,
            gzip=self.gzip,
            headers_delay=self.headers_delay,
            hold_before_headers=self.hold_before_headers,
            first_byte_after=self.first_byte_after,
            pace=pace if self.pace is None else self.pace,
            hold_after=self.hold_after,
            end=self.end,
            end_after=self.end_after,
            half=self.half,
            segment=self.segment or _PIECE,
        )

    def _pieces(self, record: RequestRecord) -> Iterator[_Piece]:
        blank = (self.newline * 2).encode()
        limit = self.error_after[0] if self.error_after is not None else None
        for index, event in enumerate(self._events(record)):
            if index == limit:
                break
            usage = event.get("usageMetadata")
            yield _Piece(b"data: " + msgspec.json.encode(event) + blank, usage)
        if self.error_after is not None:
            told = self.error_after[1]
            error = {"error": told.error if isinstance(told, Failure) else dict(told)}
            encoded = msgspec.json.encode(error)
            if self.error_bare:
                lines = msgspec.json.format(encoded, indent=2)
                yield _Piece(lines.replace(b"\n", self.newline.encode()) + blank)
            else:
                yield _Piece(b"data: " + encoded + blank)

    def _events(self, record: RequestRecord) -> Iterator[Event]:
        if self.events is not None:
            yield from self.events
            return
        chunks = iter(words(self.text) if isinstance(self.text, str) else self.text)
        index, chunk = 0, next(chunks, None)
        if chunk is None and self.finish_reason is not None:
            chunk = ""  # the answer is empty, its end is not
        while chunk is not None:
            following = next(chunks, None)
            if isinstance(chunk, dict):
                yield chunk
            else:
                yield self._event(record, index, chunk, last=following is None)
            index, chunk = index + 1, following

    def _event(self, record: RequestRecord, index: int, chunk: str, *, last: bool) -> Event:
        candidate: Event = {"content": {"parts": [{"text": chunk}], "role": "model"}}
        if last and self.finish_reason is not None:
            candidate["finishReason"] = self.finish_reason
        if index in self.tokens:
            candidate["continuationToken"] = self.tokens[index]
        candidate["index"] = 0
        event: Event = {"candidates": [candidate]}
        if self.usage == "auto":
            event["usageMetadata"] = _usage(record, index + 1)
        elif self.usage is not None and last:
            event["usageMetadata"] = dict(self.usage)
        event["modelVersion"] = record.model
        event["responseId"] = f"local-{record.number}"
        return event


@dataclass(frozen=True, slots=True)
class Failure:
    """An HTTP error in the API's JSON. `retry_delay` becomes a `RetryInfo` behind all other details."""

    status: int
    message: str | None = None
    status_name: str | None = None
    """Google's name for it; `None`: the usual one of this status."""
    retry_delay: str | None = None
    """As the API writes it: `"3s"`."""
    retry_after: str | float | None = None
    """The header `Retry-After`: seconds, or an HTTP date (see `http_date`)."""
    details: Sequence[Mapping[str, Any]] | None = None
    """`None`: those that a 429 has, none for other statuses."""
    quota_id: str = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
    """In a 429's own details; one with `PerDay` in it is a spent daily quota."""
    body: bytes | None = None
    """Instead of the JSON."""
    content_type: str = _JSON
    as_list: bool = False
    """The JSON object as the one element of a list."""
    headers: Mapping[str, str] = field(default_factory=dict)
    headers_delay: float = 0.0
    hold_before_headers: bool = False

    @property
    def error(self) -> dict[str, Any]:
        """What stands under "error"."""
        name = self.status_name if self.status_name is not None else _STATUS_NAMES.get(self.status, "UNKNOWN")
        error: dict[str, Any] = {
            "code": self.status,
            "message": self.message
            if self.message is not None
            else f"LocalGemini was told to answer {self.status}.",
            "status": name,
        }
        details = (
            [dict(detail) for detail in self.details] if self.details is not None else self._usual_details()
        )
        if self.retry_delay is not None:
            details.append(
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": self.retry_delay}
            )
        if details:
            error["details"] = details
        return error

    def _usual_details(self) -> list[dict[str, Any]]:
        if self.status != HTTPStatus.TOO_MANY_REQUESTS:
            return []
        violation = {
            "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
            "quotaId": self.quota_id,
            "quotaDimensions": {"location": "global", "model": "gemini"},
            "quotaValue": "10",
        }
        link = {
            "description": "Learn more about Gemini API quotas",
            "url": "https://ai.google.dev/gemini-api/docs",
        }
        return [
            {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]},
            {"@type": "type.googleapis.com/google.rpc.Help", "links": [link]},
        ]

    def _plan(self, _record: RequestRecord, _pace: float) -> _Plan:
        headers = {"Content-Type": self.content_type, **self.headers}
        if self.retry_after is not None:
            after = self.retry_after
            headers["Retry-After"] = after if isinstance(after, str) else f"{after:g}"
        body = self.body
        if body is None:
            error = {"error": self.error}
            body = (
                msgspec.json.format(msgspec.json.encode([error] if self.as_list else error), indent=2) + b"\n"
            )
        return _Plan(
            pieces=[_Piece(body)] if body else [],
            status=self.status,
            headers=headers,
            framing="length",
            headers_delay=self.headers_delay,
            hold_before_headers=self.hold_before_headers,
        )


@dataclass(frozen=True, slots=True)
class Body:
    """These bytes, unchanged, as the response's body, in a given cut.

    `cut`: `"event"` (an event a chunk), `"byte"` (one byte a chunk), `"whole"` (all at once), or the
    positions to cut at. With `gzip` it is the compressed bytes that are cut, but for `"event"`, where each
    event is flushed.
    """

    data: bytes
    cut: Literal["event", "byte", "whole"] | Sequence[int] = "event"
    framing: Framing = "chunked"
    gzip: bool = False
    status: int = 200
    content_type: str | None = None
    """`None`: `text/event-stream`, JSON where the status is an error's."""
    headers: Mapping[str, str] = field(default_factory=dict)
    pace: float = 0.0
    hold_after: int | None = None
    end: End = "clean"
    end_after: int | None = None
    """In pieces of the cut."""

    def _plan(self, _record: RequestRecord, _pace: float) -> _Plan:
        own = _JSON if self.status >= HTTPStatus.BAD_REQUEST else _EVENT_STREAM
        headers = {
            "Content-Type": self.content_type if self.content_type is not None else own,
            **self.headers,
        }
        flush_each = self.gzip and self.cut == "event"
        data = self.data
        if self.gzip and not flush_each:
            data = gzip_module.compress(data)
            headers["Content-Encoding"] = "gzip"
        return _Plan(
            pieces=[_Piece(piece) for piece in self._cut(data)],
            status=self.status,
            headers=headers,
            framing=self.framing,
            gzip=flush_each,
            pace=self.pace,
            hold_after=self.hold_after,
            end=self.end,
            end_after=self.end_after,
        )

    def _cut(self, data: bytes) -> list[bytes]:
        match self.cut:
            case "event":
                return re.findall(rb"(?s).+?(?:\r\n\r\n|\n\n|\r\r|\Z)", data)
            case "byte":
                return [data[at : at + 1] for at in range(len(data))]
            case "whole":
                return [data] if data else []
            case positions:
                edges = [0, *sorted({at for at in positions if 0 < at < len(data)}), len(data)]
                return [data[start:end] for start, end in itertools.pairwise(edges) if start < end]


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes put on the socket as they are, head and all; floats among them are pauses in seconds.

    `close`: `"keep"` (the next request is awaited), `"fin"`, `"reset"`, `"silent"` (nothing more comes, and
    the connection stays open until the client leaves). `Raw(b"", close="reset")` is a reset before the
    headers.
    """

    parts: bytes | Iterable[bytes | float]
    close: Literal["keep", "fin", "reset", "silent"] = "fin"


@dataclass(frozen=True, slots=True)
class StallUpload:
    """The server stops reading in the middle of the request's body, until the gate of the pattern is opened.

    Its pattern is looked for in the body's first 256 KiB as they stand on the wire; a callable sees a record
    without body and text. What the sockets' buffers hold is taken all the same, so a stuck upload needs some
    megabytes. Of a client that leaves in the meantime the server sees a reset at once, an orderly close only
    once it reads again.
    """

    then: Reply | Failure | Body | Raw = field(default_factory=lambda: Reply("The upload has arrived."))
    """The answer once the whole body was read."""


@dataclass(slots=True)
class LongAnswer:
    """One long answer in several hops, linked by continuation tokens. It goes by the request's token alone.

    Every hop but the last ends with the finishReason CONTINUATION. Its last event carries a token, and so
    does each `checkpoint_every`-th word before; a request with a token goes on behind the event that carried
    it, so what came after a checkpoint comes again. Usage is cumulative within a hop: one token a word.
    """

    text: str
    hops: int = 4
    checkpoint_every: int | None = None
    cut_at: Sequence[int] = ()
    """Break off where this many words of the whole answer have been sent; each once for each prompt."""
    cut_by: Literal["cut", "reset", "silent"] = "cut"
    token_at_end: bool = True
    """`False`: a hop's last event has no token; what came after its last checkpoint comes again."""
    pace: float | None = None
    hold_after: int | None = None
    """In words of each hop."""
    _cuts: dict[str, list[int]] = field(default_factory=dict, init=False, repr=False)

    def _reply_to(self, record: RequestRecord) -> Reply | Failure:
        chunks = words(self.text)
        total = len(chunks)
        if not total:
            return Reply()
        bounds = sorted({round(total * hop / self.hops) for hop in range(1, self.hops + 1)} - {0})
        start, hop = 0, -1
        token = record.body.get("continuationToken") if isinstance(record.body, dict) else None
        if token is not None:
            known = _read_token(token)
            if known is None or known[0] > total:
                return Failure(400, "The continuation token is not valid.")
            start, hop = known
        least = next((number for number, bound in enumerate(bounds) if bound > start), len(bounds) - 1)
        hop = least if self.token_at_end else min(max(least, hop + 1), len(bounds) - 1)
        stop = bounds[hop]
        waiting = self._cuts.setdefault(record.text, sorted(self.cut_at))
        cut = next((at for at in waiting if start <= at < stop), None)
        if cut is not None:
            waiting.remove(cut)
        events = []
        for at in range(start, stop):
            done = at + 1
            candidate: Event = {"content": {"parts": [{"text": chunks[at]}], "role": "model"}}
            if done == total:
                candidate["finishReason"] = "STOP"
            elif done == stop:
                candidate["finishReason"] = "CONTINUATION"
            checkpoint = self.checkpoint_every is not None and done % self.checkpoint_every == 0
            if done < total and ((done == stop and self.token_at_end) or (done < stop and checkpoint)):
                candidate["continuationToken"] = _token(done, hop)
            candidate["index"] = 0
            events.append({"candidates": [candidate], "usageMetadata": _usage(record, done - start)})
        return Reply(
            events=events,
            pace=self.pace,
            hold_after=self.hold_after,
            end="clean" if cut is None else self.cut_by,
            end_after=None if cut is None else cut - start,
        )


def _token(words_done: int, hop: int) -> str:
    return base64.b64encode(
        f"{words_done} words, {hop} hops".encode()
    ).decode()  # google-genai takes base64 only


def _read_token(token: Any) -> tuple[int, int] | None:
    try:
        padded = str(token).rstrip("=") + "=" * (-len(str(token).rstrip("=")) % 4)
        found = re.fullmatch(rb"(\d+) words, (\d+) hops", base64.urlsafe_b64decode(padded))
    except ValueError:
        return None
    return (int(found[1]), int(found[2])) if found is not None else None


Scripted = Reply | Failure | Body | Raw | StallUpload | LongAnswer
"""What a request can get; `on` also takes a callable of the request's record that returns one."""


def words(text: str) -> list[str]:
    """Split into words that keep the space before them: joined they are the text again."""
    return re.findall(r"\s*\S+(?:\s+\Z)?", text) or ([text] if text else [])


def every_cut(data: bytes, *, status: int = 200) -> dict[str, Body]:
    """Return the same body in every cut a server can send it in, by the cut's name."""
    third = max(len(data) // 3, 1)
    return {
        "an event a chunk": Body(data, "event", status=status),
        "a byte a chunk": Body(data, "byte", status=status),
        "all at once": Body(data, "whole", status=status),
        "in three": Body(data, [third, 2 * third], status=status),
        "gzip": Body(data, "event", gzip=True, status=status),
        "gzip, a byte a chunk": Body(data, "byte", gzip=True, status=status),
        "content-length": Body(data, "event", framing="length", status=status),
        "close-delimited": Body(data, "event", framing="close", status=status),
    }


def http_date(seconds_from_now: float) -> str:
    """Return a moment as an HTTP date, for `Failure(retry_after=...)`; its grain is one second."""
    return formatdate(time.time() + seconds_from_now, usegmt=True)


def trickle(every: float = 0.2, data: bytes = b"data: never an event's end ") -> Raw:
    """Return a 200 stream that sends one byte every so many seconds for ever and never ends an event."""

    def parts() -> Iterator[bytes | float]:
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        while True:
            for at in range(len(data)):
                yield every
                yield b"1\r\n" + data[at : at + 1] + b"\r\n"

    return Raw(_Again(parts))


class _Again(Iterable[bytes | float]):
    """An iterable that starts anew for each request."""

    def __init__(self, make: Callable[[], Iterator[bytes | float]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[bytes | float]:
        return self._make()


def _usage(record: RequestRecord, tokens: int) -> dict[str, Any]:
    prompt = max(len(record.text.split()), 1)
    return {"promptTokenCount": prompt, "candidatesTokenCount": tokens, "totalTokenCount": prompt + tokens}


def _echo(record: RequestRecord) -> Reply:
    asked = " ".join(record.text.split())
    short = asked if len(asked) <= 80 else asked[:79] + "…"
    count = len(asked.split())
    return Reply(
        f"You asked: {short} That is {count} {'word' if count == 1 else 'words'}. "
        f"I am a local stand-in for {record.model}, so this is all I know about it. "
        "The real one would go on from here, one event at a time, as I do."
    )


# -- what happened -------------------------------------------------------------------------------------------


class RequestRecord:
    """One request and what became of it, as the server saw it. Times are `time.monotonic()` seconds.

    It goes on changing until `closed_at` is set, which may be a moment after the client has read the last
    byte: `wait_closed` first. Reading it is safe from any thread.
    """

    def __init__(
        self, changed: threading.Condition, connection: int, path: str, headers: dict[str, str]
    ) -> None:
        self._changed = changed
        self.number = 0
        """Counted from 1 over the server's life."""
        self.connection = connection
        """The connection's number, from 1; requests of one number came over the same connection."""
        self.path = path
        """With its query. Keys are masked here, in the headers and in the body, wherever they stand."""
        self.headers = headers
        """Names in lower case."""
        self.key_number: int | None = None
        """Which of the server's `keys` came with it."""
        self.model = ""
        """The model's name; with `tunedModels/` in front where it is one."""
        self.body: Any = None
        """The decoded JSON."""
        self.text = ""
        """The text parts of `contents`, joined by line ends: what patterns are matched against."""
        self.pattern: str | Callable[[RequestRecord], bool] | None = None
        """The pattern that matched."""
        self.nth = 0
        """The how-manieth match of that pattern this is, from 1."""
        self.stalled = False
        self.opened_at = time.monotonic()
        self.closed_at: float | None = None
        """When the server saw the client leave, or the exchange's end."""
        self.aborted_at: float | None = None
        """`closed_at` where the client left in the middle."""
        self.ended: Literal["complete", "cut", "reset", "client", "server"] | None = None
        """Wholly answered, broken off as scripted (two ways), left by the client, or closed by `close()`."""
        self.status: int | None = None
        self.events_sent = 0
        """Of a `Body`: pieces of its cut."""
        self.bytes_sent = 0
        """Bytes of the response, its head included, that the socket took; as fine as 16 KiB (TLS: 80 KiB)."""
        self.usage: dict[str, Any] | None = None
        """The last `usageMetadata` that was sent."""

    @property
    def client_closed(self) -> bool:
        """Whether the client left in the middle."""
        return self.aborted_at is not None

    def wait_closed(self, timeout: float = 5.0) -> float:
        """Wait until the exchange has ended or the client has left; answer `closed_at`."""
        _await(self._changed, lambda: self.closed_at is not None, timeout, f"{self!r} is still open")
        return cast("float", self.closed_at)

    def __repr__(self) -> str:
        state = self.ended or "open"
        return (
            f"<request {self.number} on connection {self.connection}, {self.model}: {state},"
            f" {self.events_sent} events, {self.bytes_sent} bytes>"
        )

    def _end(self, how: Literal["complete", "cut", "reset", "client", "server"]) -> None:
        if self.closed_at is not None:
            return
        now = time.monotonic()
        with self._changed:
            self.closed_at, self.ended = now, how
            if how == "client":
                self.aborted_at = now
            self._changed.notify_all()


class Gate:
    """Where the replies of one pattern wait (`hold_after` and its like, `StallUpload`). Closed at first."""

    def __init__(self, changed: threading.Condition, name: str) -> None:
        self._changed = changed
        self._name = name
        self._open = False
        self._waiting: dict[asyncio.Future[None], asyncio.AbstractEventLoop] = {}
        self.arrivals = 0
        """How many have come to this gate so far; one that found it open counts too."""

    @property
    def waiting(self) -> int:
        """How many are held at it now."""
        return len(self._waiting)

    def reached(self, timeout: float = 5.0, n: int = 1) -> bool:
        """Wait until `n` have come to this gate since the start; `TimeoutError` where they do not."""
        text = f"fewer than {n} have come to the gate {self._name}"
        _await(self._changed, lambda: self.arrivals >= n, timeout, text)
        return True

    def open(self) -> None:
        """Let all that wait here go on, and those who come later pass."""
        with self._changed:
            self._open = True
            waiting, self._waiting = self._waiting, {}
        for future, loop in waiting.items():
            with contextlib.suppress(RuntimeError):  # the server is closed: nothing waits any more
                loop.call_soon_threadsafe(_resolve, future)

    def close(self) -> None:
        """Hold those who come from now on; who is on the way already stays so."""
        with self._changed:
            self._open = False

    async def _pass(self) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._changed:
            self.arrivals += 1
            self._changed.notify_all()
            if self._open:
                return
            self._waiting[future] = loop
        try:
            await future
        finally:
            with self._changed:
                self._waiting.pop(future, None)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _await(changed: threading.Condition, done: Callable[[], bool], timeout: float, text: str) -> None:
    with changed:
        if not changed.wait_for(done, timeout):
            raise TimeoutError(f"{text} after {timeout:g} s")


# -- the server ----------------------------------------------------------------------------------------------

Pattern = str | Callable[[RequestRecord], bool]
AnswerSource = Scripted | Callable[[RequestRecord], Scripted]


class _Rule:
    def __init__(self, pattern: Pattern, answers: tuple[AnswerSource, ...], gate: Gate) -> None:
        self.pattern = pattern
        self.answers = answers
        self.gate = gate
        self.matches = 0

    def fits(self, record: RequestRecord) -> bool:
        return self.pattern in record.text if isinstance(self.pattern, str) else bool(self.pattern(record))

    def fits_early(self, record: RequestRecord, start_of_body: bytes) -> bool:
        """Whether a request whose body is still coming belongs here, as far as that can be seen."""
        if isinstance(self.pattern, str):
            forms = (json.dumps(self.pattern), json.dumps(self.pattern, ensure_ascii=False))
            return any(form[1:-1].encode() in start_of_body for form in forms)
        try:
            return bool(self.pattern(record))
        except Exception:  # noqa: BLE001 - it may well look at a body that is not there yet
            return False

    @property
    def next(self) -> AnswerSource:
        return self.answers[min(self.matches, len(self.answers) - 1)]

    def take(self, record: RequestRecord) -> AnswerSource:
        answer = self.next
        self.matches += 1
        record.pattern, record.nth = self.pattern, self.matches
        return answer


class LocalGemini:
    """A Gemini on loopback: a context manager, or `start()` and `close()`.

    `tls=True`: over HTTPS, with a certificate authority made for the occasion (needs the extra `tls`).
    `keys`: the API keys it takes; `None`: any. `pace`: seconds between two events where a reply names none.
    `sndbuf`, `rcvbuf`: the sockets' buffers in bytes, for tests of back-pressure. `port=0`: a free one.
    """

    def __init__(
        self,
        *,
        tls: bool = False,
        keys: Collection[str] | None = ("local-key",),
        pace: float = 0.0,
        sndbuf: int | None = None,
        rcvbuf: int | None = None,
        port: int = 0,
    ) -> None:
        self.pace = pace
        self.keys = tuple(keys) if keys is not None else None
        self.ca_file: str | None = None
        """With TLS: the file of the authority to trust, until `close()`."""
        self._tls = tls
        self._sndbuf, self._rcvbuf = sndbuf, rcvbuf
        self._port = port
        self._changed = threading.Condition()
        self._rules: list[_Rule] = []
        self._gates: dict[Pattern, Gate] = {}
        self._records: list[RequestRecord] = []
        self._connections: set[_Connection] = set()
        self._connections_opened = 0
        self._failures: list[BaseException] = []
        self._held_sockets: list[socket.socket] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._listener: socket.socket | None = None

    # -- life

    def start(self) -> Self:
        """Listen; return this server. An error of binding, or a missing trustme, is raised here."""
        if self._thread is not None:
            raise RuntimeError("this LocalGemini was started before; make a new one")
        context = self._make_authority() if self._tls else None
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for option, size in ((socket.SO_SNDBUF, self._sndbuf), (socket.SO_RCVBUF, self._rcvbuf)):
                if size is not None:
                    listener.setsockopt(socket.SOL_SOCKET, option, size)
            listener.bind(("127.0.0.1", self._port))
            listener.listen(4096)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            self._remove_authority()
            raise
        self._listener = listener
        self._port = listener.getsockname()[1]
        ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(listener, context, ready)), name="LocalGemini", daemon=True
        )
        self._thread.start()
        ready.wait()
        return self

    def close(self) -> None:
        """End every exchange and connection, the thread and the files; a second call does nothing.

        An error in a test's own pattern or answer callable is raised here.
        """
        thread = self._thread
        if thread is not None and thread.is_alive():
            loop, stop = cast("asyncio.AbstractEventLoop", self._loop), cast("asyncio.Event", self._stop)
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(stop.set)
            thread.join()
        for held in self._held_sockets:
            held.close()
        self._held_sockets.clear()
        self._remove_authority()
        failures, self._failures = self._failures, []
        if failures:
            raise RuntimeError("LocalGemini's script failed") from failures[0]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: object, *_rest: object) -> None:
        try:
            self.close()
        except RuntimeError:
            if kind is None:
                raise

    # -- script

    def on(self, pattern: Pattern, *answers: AnswerSource) -> Self:
        """Answer the n-th request that matches with the n-th answer, all later ones with the last.

        `pattern`: a part of the prompt's text, or a callable of the request's record. The same pattern again:
        its answers are replaced, and it counts anew.
        """
        if not answers:
            raise ValueError("on() needs at least one answer")
        with self._changed:
            rule = _Rule(pattern, answers, self.gate(pattern))
            for index, known in enumerate(self._rules):
                if known.pattern == pattern:
                    self._rules[index] = rule
                    return self
            self._rules.append(rule)
            return self

    def gate(self, pattern: Pattern) -> Gate:
        """Return the gate of `on(pattern, ...)`; it may be asked for before."""
        with self._changed:
            if pattern not in self._gates:
                name = (
                    repr(pattern)
                    if isinstance(pattern, str)
                    else getattr(pattern, "__name__", "of a callable")
                )
                self._gates[pattern] = Gate(self._changed, name)
            return self._gates[pattern]

    # -- where it is

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def url(self) -> str:
        """The base URL."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def endpoint(self) -> Gemini:
        """The endpoint to give to a manager or a stream: this server with its first key."""
        key = self.keys[0] if self.keys else "local-key"
        return Gemini(
            api_key=key, base_url=self.url, verify=self.ca_file if self.ca_file is not None else True
        )

    def refused_url(self) -> str:
        """Return a URL whose port refuses every connection, until `close()`."""
        held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        held.bind(("127.0.0.1", 0))  # bound, so that nobody else takes it, and not listening
        self._held_sockets.append(held)
        return f"http://127.0.0.1:{held.getsockname()[1]}"

    def mute_url(self, *, tls: bool = False) -> str:
        """Return a URL that takes connections and never says a word (`tls`: no handshake)."""
        held = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._held_sockets.append(held)
        return f"{'https' if tls else 'http'}://127.0.0.1:{held.getsockname()[1]}"

    def unconnectable_url(self) -> str:
        """Return a URL where connecting neither succeeds nor fails (Linux), until `close()`."""
        held = socket.create_server(("127.0.0.1", 0), backlog=0)
        self._held_sockets.append(held)
        for _ in range(4):  # fill the queue of those who wait to be accepted
            filler = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self._held_sockets.append(filler)
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(held.getsockname())
        return f"http://127.0.0.1:{held.getsockname()[1]}"

    # -- what happened

    @property
    def requests(self) -> list[RequestRecord]:
        """All requests whose body has arrived (or was stalled), in that order; refused ones included."""
        with self._changed:
            return list(self._records)

    @property
    def connections_opened(self) -> int:
        """How many connections were accepted so far, failed handshakes included."""
        return self._connections_opened

    @property
    def open_connections(self) -> int:
        """How many are open now."""
        return len(self._connections)

    def wait_request(self, n: int = 1, where: Pattern | None = None, timeout: float = 5.0) -> RequestRecord:
        """Wait for the `n`-th request that `where` fits (a part of its text, or a callable): its record."""

        def found() -> list[RequestRecord]:
            if where is None:
                return self._records
            if isinstance(where, str):
                return [record for record in self._records if where in record.text]
            return [record for record in self._records if where(record)]

        _await(self._changed, lambda: len(found()) >= n, timeout, f"fewer than {n} such requests have come")
        with self._changed:
            return found()[n - 1]

    def wait_open_connections(self, n: int, timeout: float = 5.0) -> None:
        """Wait until exactly `n` connections are open."""
        text = f"not exactly {n} connections are open"
        _await(self._changed, lambda: len(self._connections) == n, timeout, text)

    def close_idle(self) -> None:
        """Close every kept-alive connection that waits for its next request, as a server may at any time."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        done = threading.Event()

        def drop() -> None:
            for connection in list(self._connections):
                if connection.idle:
                    connection.drop()
            done.set()

        loop.call_soon_threadsafe(drop)
        done.wait(5.0)

    # -- TLS

    def _make_authority(self) -> ssl.SSLContext:
        try:
            import trustme  # noqa: PLC0415 - an optional dependency
        except ImportError as missing:
            raise ImportError(
                'LocalGemini(tls=True) makes its certificates with trustme: pip install "gemini-streams[tls]"'
            ) from missing
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
        handle, self.ca_file = tempfile.mkstemp(prefix="local-gemini-", suffix=".pem")
        with os.fdopen(handle, "wb") as file:
            file.write(authority.cert_pem.bytes())
        return context

    def _remove_authority(self) -> None:
        if self.ca_file is not None:
            Path(self.ca_file).unlink(missing_ok=True)

    # -- in the server's thread

    async def _run(
        self, listener: socket.socket, context: ssl.SSLContext | None, ready: threading.Event
    ) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._unexpected)
        self._loop, self._stop = loop, asyncio.Event()
        ready.set()
        handshakes: set[asyncio.Task[None]] = set()
        self._accept(loop, listener, context, handshakes)
        await self._stop.wait()
        loop.remove_reader(listener)
        for task in handshakes:
            task.cancel()
        for connection in list(self._connections):
            connection.drop()
        exchanges = [connection.task for connection in self._connections if connection.task is not None]
        await asyncio.gather(*handshakes, *exchanges, return_exceptions=True)
        listener.close()
        for _ in range(100):  # transports close their sockets a turn of the loop later
            if not self._connections:
                break
            await asyncio.sleep(0.001)

    def _unexpected(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not isinstance(
            error, OSError
        ):  # a failed handshake is the client's business
            self._failures.append(error)

    def _accept(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        context: ssl.SSLContext | None,
        handshakes: set[asyncio.Task[None]],
    ) -> None:
        """Accept whoever comes, by a callback: a task that is cancelled may have a socket in hand."""

        def begin() -> None:
            if self._stop is not None and not self._stop.is_set():
                loop.add_reader(listener, accept)

        def accept() -> None:
            try:
                accepted, _ = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # out of descriptors, or the client has gone already
                loop.remove_reader(listener)
                loop.call_later(0.01, begin)
                return
            accepted.setblocking(False)
            with contextlib.suppress(OSError):  # each event leaves when it is written
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections_opened += 1
            task = asyncio.create_task(self._connect(accepted, context, self._connections_opened))
            handshakes.add(task)

            def done(task: asyncio.Task[None]) -> None:
                handshakes.discard(task)
                if task.cancelled():  # it may never have begun
                    accepted.close()

            task.add_done_callback(done)

        begin()

    async def _connect(self, accepted: socket.socket, context: ssl.SSLContext | None, number: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: _Connection(self, number), accepted, ssl=context)
        except OSError:
            accepted.close()
        except asyncio.CancelledError:
            accepted.close()
            raise

    def _joined(self, connection: _Connection) -> None:
        with self._changed:
            self._connections.add(connection)
            self._changed.notify_all()

    def _left(self, connection: _Connection) -> None:
        with self._changed:
            self._connections.discard(connection)
            self._changed.notify_all()

    def _arrived(self, record: RequestRecord) -> None:
        with self._changed:
            if record.number:
                return
            self._records.append(record)
            record.number = len(self._records)
            self._changed.notify_all()

    def _choose(self, record: RequestRecord) -> tuple[AnswerSource, Gate | None]:
        with self._changed:
            for rule in self._rules:
                if rule.fits(record):
                    return rule.take(record), rule.gate
        return _echo(record), None

    def _choose_stall(self, record: RequestRecord, start_of_body: bytes) -> tuple[StallUpload, Gate] | None:
        with self._changed:
            for rule in self._rules:
                if isinstance(rule.next, StallUpload) and rule.fits_early(record, start_of_body):
                    return cast("StallUpload", rule.take(record)), rule.gate
        return None

    def _refusal(self, method: str, target: str, record: RequestRecord, key: str | None) -> Failure | None:
        """Return what the API says to a request that it does not look into; else fill in the model."""
        path, _, query = target.partition("?")
        known = re.fullmatch(r"/v1(?:alpha|beta)?/(models|tunedModels)/([^/:]+):streamGenerateContent", path)
        if known is None or method != "POST":
            return Failure(404, f"LocalGemini knows no {method} {path}.")
        record.model = known[2] if known[1] == "models" else f"tunedModels/{known[2]}"
        if "alt=sse" not in query.split("&"):
            return Failure(400, "LocalGemini streams with alt=sse only.")
        if not key:
            return Failure(
                403,
                "Method doesn't allow unregistered callers (callers without established identity). Please"
                " use API Key or other form of API consumer identity to call this API.",
            )
        if self.keys is not None:
            if key not in self.keys:
                reason = {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "API_KEY_INVALID",
                    "domain": "googleapis.com",
                    "metadata": {"service": "generativelanguage.googleapis.com"},
                }
                return Failure(400, "API key not valid. Please pass a valid API key.", details=[reason])
            record.key_number = self.keys.index(key)
        return None


class _Connection(asyncio.Protocol):
    """One connection: a task that reads a request, answers it, and awaits the next.

    The socket is read all the time, so that a client's leaving is seen in every phase; it ends the task.
    """

    def __init__(self, server: LocalGemini, number: int) -> None:
        self._server = server
        self._number = number
        self._received = bytearray()
        self._more: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._record: RequestRecord | None = None
        self._written = 0
        self._ending = False
        self._writes = 0
        self.idle = True
        self.task: asyncio.Task[None] | None = None

    # -- callbacks of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=1, low=0)  # TLS takes 0 for always full
        self._server._joined(self)
        self.task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._more is not None:
            _resolve(self._more)

    def eof_received(self) -> None:
        self._client_left()

    def connection_lost(self, _error: Exception | None) -> None:
        self._client_left()
        self._server._left(self)

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._writable is not None:
            _resolve(self._writable)
        self._writable = None

    def _client_left(self) -> None:
        if not self._ending:
            self._ending = True
            if self._record is not None:
                self._count()
                self._record._end("client")
            self._abort()
        if self.task is not None:
            self.task.cancel()

    def drop(self) -> None:
        """Close from the server's side, whatever is under way."""
        self._ending = True
        if self._record is not None:
            self._record._end("server")
        self._abort()
        if self.task is not None:
            self.task.cancel()

    def _abort(self) -> None:
        self._ending = True
        self._transport.abort()

    # -- reading

    async def _receive(self) -> None:
        self._more = asyncio.get_running_loop().create_future()
        await self._more
        self._more = None

    async def _line_end(self, mark: bytes) -> bytes:
        """Take everything up to and including `mark`."""
        start = 0
        while (at := self._received.find(mark, start)) < 0:
            start = max(len(self._received) - len(mark) + 1, 0)
            await self._receive()
        return self._take(at + len(mark))

    def _take(self, size: int) -> bytes:
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    async def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            await self._receive()
        return self._take(size)

    async def _body(
        self, record: RequestRecord, headers: Mapping[str, str]
    ) -> tuple[bytes, StallUpload | None]:
        if headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = bytearray()
            while size := int((await self._line_end(b"\r\n")).split(b";")[0], 16):
                body += await self._exactly(size)
                await self._exactly(2)
            while await self._line_end(b"\r\n") != b"\r\n":
                pass
            return bytes(body), None
        size = int(headers.get("content-length", "0"))
        stall: StallUpload | None = None
        while len(self._received) < size:
            if stall is None and record.model and 0 < len(self._received) <= _STALL_LOOK:
                chosen = self._server._choose_stall(record, bytes(self._received))
                if chosen is not None:
                    stall, gate = chosen
                    await self._stall(record, gate)
                    continue
            await self._receive()
        return self._take(size), stall

    async def _stall(self, record: RequestRecord, gate: Gate) -> None:
        """Read nothing until the gate opens. Of a socket that is not read nobody tells the end: look."""
        sock = self._transport.get_extra_info("socket")
        self._transport.pause_reading()
        record.stalled = True
        self._record = record
        self._server._arrived(record)
        look = select.poll()
        look.register(sock.fileno(), getattr(select, "POLLRDHUP", 0))
        passing = asyncio.ensure_future(gate._pass())
        try:
            while not passing.done():
                if look.poll(0):
                    self._client_left()
                await asyncio.wait({passing}, timeout=0.001)
        finally:
            passing.cancel()
        record.stalled = False
        self._transport.resume_reading()

    # -- writing

    async def _send(self, data: bytes, segment: int = _PIECE) -> None:
        for start in range(0, len(data), segment):
            if self._transport.is_closing():
                await (
                    asyncio.get_running_loop().create_future()
                )  # the client has left: the task is being ended
            piece = data[start : start + segment]
            self._transport.write(piece)
            self._written += len(piece)
            self._count()
            if self._writable is not None:
                await self._writable
                self._count()
            self._writes += 1
            if segment < _PIECE or self._writes % 16 == 0:
                await asyncio.sleep(0)  # let the loop see who has left

    def _count(self) -> None:
        if self._record is not None:
            self._record.bytes_sent = self._written - self._transport.get_write_buffer_size()

    # -- exchanges

    async def _serve(self) -> None:
        try:
            while await self._exchange():
                self.idle = True
        except asyncio.CancelledError:
            pass
        except Exception as error:  # noqa: BLE001 - told by close(); the server goes on
            self._server._failures.append(error)
        finally:
            if self._record is not None:
                self._record._end("server")
            if not self._transport.is_closing():
                self._abort()

    async def _exchange(self) -> bool:
        """Answer one request; return whether the connection is kept."""
        head = await self._line_end(b"\r\n\r\n")
        self.idle = False
        lines = head.decode("latin-1").split("\r\n")
        method, target, version = [*lines[0].split(" "), "", ""][:3]
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:-2])
        }
        key = headers.get("x-goog-api-key")
        target = re.sub(r"^https?://[^/]*", "", target)  # as a proxy would be asked
        masks = Masks(target, headers, self._server.keys or ())
        record = RequestRecord(self._server._changed, self._number, masks.path, masks.headers)
        self._written = 0
        refusal = self._server._refusal(method, target, record, key)
        body, stall = await self._body(record, headers)
        if refusal is None:
            refusal = _decode(record, body, masks)
        self._record = record
        self._server._arrived(record)
        keep = headers.get("connection", "").lower() != "close" and version == "HTTP/1.1"
        gate: Gate | None = None
        source: AnswerSource
        if refusal is not None:
            source = refusal
        elif stall is not None:
            source = stall.then
        else:
            source, gate = self._server._choose(record)
        answer = source if isinstance(source, Scripted) else source(record)
        if isinstance(answer, StallUpload):  # the body was there before anybody could stall it
            if gate is not None:
                await gate._pass()
            answer = answer.then
        if isinstance(answer, LongAnswer):
            answer = answer._reply_to(record)
        kept = await (
            self._raw(answer) if isinstance(answer, Raw) else self._answer(answer, record, gate, keep=keep)
        )
        self._record = None
        return kept

    async def _answer(
        self, answer: Reply | Failure | Body, record: RequestRecord, gate: Gate | None, *, keep: bool
    ) -> bool:
        plan = answer._plan(record, self._server.pace)
        if plan.hold_before_headers and gate is not None:
            await gate._pass()
        if plan.headers_delay:
            await asyncio.sleep(plan.headers_delay)
        pieces = _compressed(plan.pieces) if plan.gzip else plan.pieces
        if plan.framing == "length":
            pieces = list(pieces)
        record.status = plan.status
        await self._send(_head(plan, pieces, keep=keep), plan.segment)
        if plan.hold_after == 0 and gate is not None:
            await gate._pass()
        for number, piece in enumerate(pieces):
            if number == plan.end_after:
                if plan.half:
                    await self._send(_frame(plan, piece.data[: len(piece.data) // 2]), plan.segment)
                break
            pause = plan.first_byte_after if number == 0 else plan.pace
            if pause:
                await asyncio.sleep(pause)
            await self._send(_frame(plan, piece.data), plan.segment)
            record.events_sent = number + 1 if plan.status == HTTPStatus.OK else 0
            if piece.usage is not None:
                record.usage = piece.usage
            if plan.hold_after == number + 1 and gate is not None:
                await gate._pass()
        return await self._finish(plan, record, keep=keep)

    async def _finish(self, plan: _Plan, record: RequestRecord, *, keep: bool) -> bool:
        match plan.end:
            case "clean":
                if plan.framing == "chunked":
                    await self._send(b"0\r\n\r\n", plan.segment)
                keep = keep and plan.framing != "close"
                if not keep:
                    self._ending = True
                    self._transport.close()
                record._end("complete")
                return keep
            case "silent":
                await asyncio.get_running_loop().create_future()  # until the client leaves
            case "cut" | "reset" as how:
                self._break(how)
                record._end(how)
        return False

    async def _raw(self, answer: Raw) -> bool:
        record = cast("RequestRecord", self._record)
        for part in [answer.parts] if isinstance(answer.parts, bytes) else answer.parts:
            if isinstance(part, bytes):
                await self._send(part)
            else:
                await asyncio.sleep(part)
        match answer.close:
            case "keep":
                record._end("complete")
                return True
            case "silent":
                await asyncio.get_running_loop().create_future()
            case "fin":
                self._break("cut")
                record._end("cut")
            case "reset":
                self._break("reset")
                record._end("reset")
        return False

    def _break(self, how: Literal["cut", "reset"]) -> None:
        self._ending = True
        if how == "reset":
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()  # everything was taken by the socket: this is a FIN


def _decode(record: RequestRecord, body: bytes, masks: Masks) -> Failure | None:
    try:
        record.body = masks.body(body, msgspec.json.decode(body))
    except msgspec.DecodeError:
        return Failure(400, "Invalid JSON payload received.")
    contents = record.body.get("contents") if isinstance(record.body, dict) else None
    if not contents:
        return Failure(400, "* GenerateContentRequest.contents: contents is not specified")
    texts = []
    for content in contents if isinstance(contents, list) else [contents]:
        parts = content.get("parts") if isinstance(content, dict) else None
        for part in parts if isinstance(parts, list) else [parts]:
            text = part.get("text") if isinstance(part, dict) else None
            if isinstance(text, str):
                texts.append(text)
    record.text = "\n".join(texts)
    return None


def _head(plan: _Plan, pieces: Iterable[_Piece], *, keep: bool) -> bytes:
    try:
        phrase = HTTPStatus(plan.status).phrase
    except ValueError:
        phrase = "Unknown"
    headers = {"Server": "LocalGemini", "Date": formatdate(usegmt=True), **plan.headers}
    if plan.gzip:
        headers["Content-Encoding"] = "gzip"
    match plan.framing:
        case "chunked":
            headers["Transfer-Encoding"] = "chunked"
        case "length":
            sizes = [len(piece.data) for piece in pieces]
            if plan.end == "clean" and plan.end_after is not None and plan.end_after < len(sizes):
                half = sizes[plan.end_after] // 2 if plan.half else 0
                sizes = [*sizes[: plan.end_after], half]
            headers["Content-Length"] = str(sum(sizes))
        case "close":
            keep = False
    if not keep:
        headers["Connection"] = "close"
    lines = [f"HTTP/1.1 {plan.status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _frame(plan: _Plan, data: bytes) -> bytes:
    if plan.framing == "chunked":
        return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
    return data


def _compressed(pieces: Iterable[_Piece]) -> Iterator[_Piece]:
    packer = zlib.compressobj(wbits=31)
    held: _Piece | None = None
    for piece in pieces:
        if held is not None:
            yield held
        held = _Piece(packer.compress(piece.data) + packer.flush(zlib.Z_SYNC_FLUSH), piece.usage)
    last = packer.flush(zlib.Z_FINISH)
    yield _Piece(last) if held is None else _Piece(held.data + last, held.usage)
