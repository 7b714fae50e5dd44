"""What a request of LocalGemini can get: the answers that a script names. Data alone; `plans` makes bytes of them.

The rules:

- Times are seconds. Events are counted from 0, and "after n" means when n events have been sent.
- An answer is used for as many requests as its script says, so that none keeps anything of a request. `LongAnswer` is
  the exception: it remembers which of its cuts are used up.
"""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from itertools import count
from typing import Any, Literal

from gemini_streams.testing.interaction_options import Interaction
from gemini_streams.testing.records import RequestRecord

__all__ = [
    "EVENT_STREAM",
    "JSON",
    "AnswerSource",
    "Body",
    "End",
    "Event",
    "Failure",
    "Framing",
    "LongAnswer",
    "Raw",
    "Reply",
    "Scripted",
    "StallUpload",
    "every_cut",
    "http_date",
    "trickle",
    "usage",
    "words",
]

Framing = Literal["chunked", "length", "close"]
End = Literal["clean", "cut", "reset", "silent"]
Event = dict[str, Any]

EVENT_STREAM = "text/event-stream"
JSON = "application/json; charset=UTF-8"

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
    content_type: str = EVENT_STREAM
    headers: Mapping[str, str] = field(default_factory=dict)
    segment: int | None = None
    """Write the socket this many bytes at a time, whatever the framing."""
    thoughts: str | Iterable[str] = ""
    """Thought summaries in front of the text: one event a word, or a chunk."""
    function_calls: Sequence[Mapping[str, Any]] = ()
    """Behind the text, one event each: `{"name": …, "args": {…}}`, with an `"id"` where a test names it."""
    interaction: Interaction | None = None
    """How it behaves as an interaction, and what goes wrong with it; `None`: the server's own `interaction`."""

    def __post_init__(self) -> None:
        """Keep what a generator yields, for the requests behind the first one."""
        for name in ("text", "events", "thoughts"):
            given = getattr(self, name)
            if isinstance(given, Iterator):
                object.__setattr__(self, name, _Repeatable(given))


class _Repeatable:
    """The items of an iterator, each pulled once and kept: every request gets all of them, in any thread."""

    def __init__(self, source: Iterator[Any]) -> None:
        self._source = source
        self._pulled: list[Any] = []
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Any]:
        for index in count():
            if index >= len(self._pulled):
                with self._lock:
                    if index >= len(self._pulled):
                        try:
                            self._pulled.append(next(self._source))
                        except StopIteration:
                            return
            yield self._pulled[index]


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
    content_type: str = JSON
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

    def reply_to(self, record: RequestRecord) -> Reply | Failure:
        """Return the hop that this request asks for. In the server's thread; a cut is used up by it."""
        chunks = words(self.text)
        total = len(chunks)
        if not total:
            return Reply()
        bounds = sorted({round(total * hop / self.hops) for hop in range(1, self.hops + 1)} - {0})
        start, hop = 0, -1
        body = record.body if isinstance(record.body, dict) else {}
        token = body.get("continuationToken", body.get("continuation_token"))
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
            events.append({"candidates": [candidate], "usageMetadata": usage(record, done - start)})
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

AnswerSource = Scripted | Callable[[RequestRecord], Scripted]
"""What `on` takes: an answer, or a callable of a record that returns one, run in the server's thread."""


def words(text: str) -> list[str]:
    """Split into words that keep the space before them: joined they are the text again."""
    return re.findall(r"\s*\S+(?:\s+\Z)?", text) or ([text] if text else [])


def usage(record: RequestRecord, tokens: int) -> dict[str, Any]:
    """Return an event's `usageMetadata`: one token a word of the prompt."""
    prompt = max(len(record.text.split()), 1)
    return {"promptTokenCount": prompt, "candidatesTokenCount": tokens, "totalTokenCount": prompt + tokens}


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
