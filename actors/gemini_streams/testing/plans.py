"""The bytes of an answer: its head, its framing and its pieces in order. Pure; `connection` writes them.

`plan_of` makes a `Plan` of an answer. `head` and `frame` say what of it goes on the wire.
"""

from __future__ import annotations

import gzip as gzip_module
import itertools
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec

from gemini_streams.testing.records import RequestRecord
from gemini_streams.testing.replies import (
    EVENT_STREAM,
    JSON,
    Body,
    End,
    Event,
    Failure,
    Framing,
    Reply,
    usage,
    words,
)

__all__ = ["PIECE", "Piece", "Plan", "compressed", "frame", "generated", "head", "plan_of"]

PIECE = 16 * 1024
"""Bytes handed to the socket at once: how fine `bytes_sent` is."""


class Piece(NamedTuple):
    """One write of the body, and the usage that it carries."""

    data: bytes
    usage: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A response: its body's pieces in order, and where to wait, stop and break off among them."""

    pieces: Iterable[Piece]
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
    segment: int = PIECE


def plan_of(answer: Reply | Failure | Body, record: RequestRecord, pace: float) -> Plan:
    """Return the response to this request; `pace` is the server's own, in seconds."""
    match answer:
        case Reply():
            return _plan_of_reply(answer, record, pace)
        case Failure():
            return _plan_of_failure(answer)
        case Body():
            return _plan_of_body(answer)


def _plan_of_reply(reply: Reply, record: RequestRecord, pace: float) -> Plan:
    return Plan(
        pieces=_pieces(reply, record),
        headers={"Content-Type": reply.content_type, **reply.headers},
        framing=reply.framing,
        gzip=reply.gzip,
        headers_delay=reply.headers_delay,
        hold_before_headers=reply.hold_before_headers,
        first_byte_after=reply.first_byte_after,
        pace=pace if reply.pace is None else reply.pace,
        hold_after=reply.hold_after,
        end=reply.end,
        end_after=reply.end_after,
        half=reply.half,
        segment=reply.segment or PIECE,
    )


def _pieces(reply: Reply, record: RequestRecord) -> Iterator[Piece]:
    blank = (reply.newline * 2).encode()
    limit = reply.error_after[0] if reply.error_after is not None else None
    for index, event in enumerate(generated(reply, record)):
        if index == limit:
            break
        usage = event.get("usageMetadata")
        yield Piece(b"data: " + msgspec.json.encode(event) + blank, usage)
    if reply.error_after is not None:
        told = reply.error_after[1]
        error = {"error": told.error if isinstance(told, Failure) else dict(told)}
        encoded = msgspec.json.encode(error)
        if reply.error_bare:
            lines = msgspec.json.format(encoded, indent=2)
            yield Piece(lines.replace(b"\n", reply.newline.encode()) + blank)
        else:
            yield Piece(b"data: " + encoded + blank)


def generated(reply: Reply, record: RequestRecord) -> Iterator[Event]:
    """Yield the reply's events in the words of generateContent."""
    if reply.events is not None:
        yield from reply.events
        return
    chunks = _chunks(reply)
    index, chunk = 0, next(chunks, None)
    if chunk is None and reply.finish_reason is not None:
        chunk = ""  # the answer is empty, its end is not
    while chunk is not None:
        following = next(chunks, None)
        if isinstance(chunk, dict):
            yield chunk
        else:
            part = {"text": chunk} if isinstance(chunk, str) else chunk.part
            yield _event(reply, record, index, part, last=following is None)
        index, chunk = index + 1, following


class _Part(NamedTuple):
    """A part that is no answer text."""

    part: Event


def _chunks(reply: Reply) -> Iterator[str | Event | _Part]:
    thoughts = words(reply.thoughts) if isinstance(reply.thoughts, str) else reply.thoughts
    for thought in thoughts:
        yield _Part({"text": thought, "thought": True})
    yield from words(reply.text) if isinstance(reply.text, str) else reply.text
    for call in reply.function_calls:
        yield _Part({"functionCall": dict(call)})


def _event(reply: Reply, record: RequestRecord, index: int, part: Event, *, last: bool) -> Event:
    candidate: Event = {"content": {"parts": [part], "role": "model"}}
    if last and reply.finish_reason is not None:
        candidate["finishReason"] = reply.finish_reason
    if index in reply.tokens:
        candidate["continuationToken"] = reply.tokens[index]
    candidate["index"] = 0
    event: Event = {"candidates": [candidate]}
    if reply.usage == "auto":
        event["usageMetadata"] = usage(record, index + 1)
    elif reply.usage is not None and last:
        event["usageMetadata"] = dict(reply.usage)
    event["modelVersion"] = record.model
    event["responseId"] = f"local-{record.number}"
    return event


def _plan_of_failure(failure: Failure) -> Plan:
    headers = {"Content-Type": failure.content_type, **failure.headers}
    if failure.retry_after is not None:
        after = failure.retry_after
        headers["Retry-After"] = after if isinstance(after, str) else f"{after:g}"
    body = failure.body
    if body is None:
        error = {"error": failure.error}
        body = (
            msgspec.json.format(msgspec.json.encode([error] if failure.as_list else error), indent=2) + b"\n"
        )
    return Plan(
        pieces=[Piece(body)] if body else [],
        status=failure.status,
        headers=headers,
        framing="length",
        headers_delay=failure.headers_delay,
        hold_before_headers=failure.hold_before_headers,
    )


def _plan_of_body(body: Body) -> Plan:
    own = JSON if body.status >= HTTPStatus.BAD_REQUEST else EVENT_STREAM
    headers = {
        "Content-Type": body.content_type if body.content_type is not None else own,
        **body.headers,
    }
    flush_each = body.gzip and body.cut == "event"
    data = body.data
    if body.gzip and not flush_each:
        data = gzip_module.compress(data)
        headers["Content-Encoding"] = "gzip"
    return Plan(
        pieces=[Piece(piece) for piece in _cut(body, data)],
        status=body.status,
        headers=headers,
        framing=body.framing,
        gzip=flush_each,
        pace=body.pace,
        hold_after=body.hold_after,
        end=body.end,
        end_after=body.end_after,
    )


def _cut(body: Body, data: bytes) -> list[bytes]:
    match body.cut:
        case "event":
            return re.findall(rb"(?s).+?(?:\r\n\r\n|\n\n|\r\r|\Z)", data)
        case "byte":
            return [data[at : at + 1] for at in range(len(data))]
        case "whole":
            return [data] if data else []
        case positions:
            edges = [0, *sorted({at for at in positions if 0 < at < len(data)}), len(data)]
            return [data[start:end] for start, end in itertools.pairwise(edges) if start < end]


def head(plan: Plan, pieces: Iterable[Piece], *, keep: bool) -> bytes:
    """Return the response's head; `keep`: the connection is kept after it."""
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


def frame(plan: Plan, data: bytes) -> bytes:
    """Return these bytes of the body as the framing writes them."""
    if plan.framing == "chunked":
        return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
    return data


def compressed(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Pack the pieces with gzip, each flushed so that it can be read by itself."""
    packer = zlib.compressobj(wbits=31)
    held: Piece | None = None
    for piece in pieces:
        if held is not None:
            yield held
        held = Piece(packer.compress(piece.data) + packer.flush(zlib.Z_SYNC_FLUSH), piece.usage)
    last = packer.flush(zlib.Z_FINISH)
    yield Piece(last) if held is None else Piece(held.data + last, held.usage)
