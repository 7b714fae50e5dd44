"""A whole answer as the fuzz server plays it: writes, pauses and an end, and what a client may make of it.

Pure: everything comes from one `Random`. What is expected is worked out from how the answer was made, by the rules of
HTTP, of content codings and of server-sent events, and never by asking a client.
"""

from __future__ import annotations

import base64
import html
import itertools
import json
from dataclasses import dataclass, replace
from random import Random
from typing import Literal
from urllib.parse import quote

from fuzz.body import written
from fuzz.coding import coded
from fuzz.content import Taste, error_object, pieces
from fuzz.framing import FLOOD, Framed, Head, framed, header_lines
from fuzz.marks import BEHIND, Mark

__all__ = ["LATE", "Afterwards", "Answer", "Write", "make_answer", "said_back"]

LATE = 999_998
"""The event number of what is sent on an idle connection, some time behind an answer."""
_RECORD = 16_000
"""Bytes that surely travel in one TLS record, and in one segment on loopback."""
_BOUNDARIES = (256, 512, 1024, 2048, 4096, 8192, 16384)
"""Buffers are mostly of these sizes."""

End = Literal["keep", "fin", "rst", "bare", "silence"]
"""How a connection goes on behind an answer. `bare`: closed without TLS's close_notify."""


IdleEnd = Literal["fin", "rst", "bare", "bytes"]
_IDLE_ENDS: tuple[IdleEnd, ...] = ("fin", "rst", "bare", "bytes", "bytes")
_CUT_ENDS: tuple[End, ...] = ("fin", "rst", "bare", "silence")
_MOSTLY_KEPT: tuple[End, ...] = ("keep", "keep", "keep", "keep", "keep", "keep", "keep", "fin", "bare")


@dataclass(frozen=True)
class Write:
    """Bytes that are sent by one call, and the pause behind it."""

    data: bytes
    pause: float = 0.0


@dataclass(frozen=True)
class Afterwards:
    """What happens to an idle connection unless the next request comes first."""

    delay: float
    what: IdleEnd
    data: bytes = b""


@dataclass(frozen=True)
class Answer:
    """One answer."""

    recipe: str
    """How it was made, in a few words, for a report."""
    writes: tuple[Write, ...]
    end: End
    events: int = 0
    """Events that the client has to deliver where the answer is `sound`."""
    sound: bool = False
    """Whether there is only one way to read it, and that way is a whole answer."""
    hops: bool = False
    """Whether it is one hop of a longer answer."""
    can_complete: bool = True
    """Whether a client may tell its subscribers that the answer is whole."""
    framed: bool = False
    """Whether there is only one place where it ends."""
    intact: bool = True
    """Whether every event in it is as it was made, and in its place."""
    behind: bool = False
    """Whether bytes that are nobody's follow in the write that holds its end."""
    afterwards: Afterwards | None = None

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return sum(len(write.data) for write in self.writes)


def make_answer(
    rng: Random, taste: Taste, mark: Mark, key: str, max_event_bytes: int, *, may_hop: bool, bombs: bool
) -> Answer:
    """Return the answer to a request of the stream that `mark` names; `key`: the API key that came with it."""
    sound = taste.sound
    if not sound:
        if rng.random() < 0.15:
            return _refusal(rng, mark, key, bombs=bombs)
        if rng.random() < 0.03:
            return _flood(rng, mark, key)
        if rng.random() < 0.02:
            return _noise(rng)
    found = pieces(rng, taste, mark, max_event_bytes, may_hop=may_hop)
    body = written(rng, found, taste.odd)
    hops = any('"CONTINUATION"' in piece.payload for piece in found)
    coding = coded(rng, body, sound=sound, bombs=bombs)
    wire = framed(rng, coding.data, sound=sound)
    head = header_lines(rng, key, sound=sound)
    head.lines += wire.headers
    if coding.header is not None:
        head.lines.append(b"Content-Encoding: " + coding.header.encode())
    rng.shuffle(head.lines)
    recipe = [f"{len(found)} pieces, {body.events} events"]
    if coding.header:
        recipe.append(coding.header)
    recipe.append(b", ".join(wire.headers).decode("latin-1")[:60] or "no length")
    recipe.append(head.status.decode("latin-1")[:40])
    aligned = ""
    if rng.random() < 0.3:
        aligned = _align(rng, head, wire)
        recipe.append(aligned)
    answer = Answer(
        ", ".join(recipe),
        (Write(head.data), Write(wire.data)),
        "fin" if wire.closes else rng.choice(_MOSTLY_KEPT),
        events=body.events,
        hops=hops,
        can_complete=coding.can_complete(body),
        framed=head.sound and wire.sound,
        intact=not coding.opaque,
        sound=head.sound and wire.sound and coding.sound and body.spoilt_at is None,
    )
    answer = replace(answer, sound=answer.sound and (hops or answer.can_complete))
    if not sound:
        choice = rng.random()
        if choice < 0.2:
            at = rng.randrange(len(head.data) + len(wire.data) + 1)
            count = wire.carried(max(0, at - len(head.data)))
            answer = _cut(rng, answer, at, can_complete=coding.can_complete(body, count))
        elif choice < 0.3:
            answer = _damaged(rng, answer)
        elif wire.closes and choice < 0.5:  # is that the end of the body?
            answer = replace(answer, end=rng.choice(["rst", "bare"]), sound=False)
    answer = _behind(rng, answer, mark, key, at_boundary=bool(aligned))
    return replace(answer, writes=_in_pieces(rng, answer, aligned=bool(aligned)))


def _align(rng: Random, head: Head, wire: Framed) -> str:
    """Make the answer, or its body, end where a client's buffer does."""
    boundary = rng.choice(_BOUNDARIES)
    off = rng.choice([0, 0, 0, 0, -1, 1])
    name = b"X-Pad: "
    over = (len(head.data) + len(wire.data) + len(name) + 2 - off) % boundary
    head.lines.append(name + b"p" * ((boundary - over) % boundary))
    return f"ends at {boundary}{off:+}" if off else f"ends at {boundary}"


def _cut(rng: Random, answer: Answer, at: int, *, can_complete: bool) -> Answer:
    left = at
    writes = []
    for write in answer.writes:
        writes.append(Write(write.data[:left]))
        left -= len(writes[-1].data)
    return replace(
        answer,
        recipe=f"{answer.recipe}, cut at {at} of {answer.size}",
        writes=tuple(writes),
        end=rng.choice(_CUT_ENDS),
        sound=False,
        can_complete=can_complete,
    )


def _damaged(rng: Random, answer: Answer) -> Answer:
    data = bytearray(b"".join(write.data for write in answer.writes))
    for _ in range(rng.choice([1, 1, 3, 20])):
        at = rng.randrange(len(data))
        some = data[at : at + rng.choice([1, 4, 50])]
        match rng.randrange(5):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + len(some)] = b""
            case 2:
                data[at:at] = some
            case 3:
                data[at:at] = rng.randbytes(rng.choice([1, 8, 300]))
            case 4:
                data[at:at] = rng.choice([b"\r\n", b"\n\n", b"\0", b"\r\n\r\n", b"0\r\n\r\n"])
        if not data:
            data = bytearray(b"\0")
    return replace(
        answer,
        recipe=f"{answer.recipe}, damaged",
        writes=(Write(bytes(data)),),
        end=rng.choice([answer.end, "fin", "silence"]),
        sound=False,
        can_complete=True,
        framed=False,
        intact=False,
    )


def _behind(rng: Random, answer: Answer, mark: Mark, key: str, *, at_boundary: bool) -> Answer:
    """Send more behind the answer's end: at once, in the same write, or later on the idle connection."""
    if answer.end != "keep":
        return answer
    if rng.random() < (0.6 if at_boundary else 0.12):
        extra = _nobodys(rng, mark._replace(event=BEHIND), key)
        writes = tuple(write for write in answer.writes if write.data)
        last = Write(writes[-1].data + extra)
        if len(last.data) <= _RECORD:
            return replace(
                answer,
                recipe=f"{answer.recipe}, {len(extra)} bytes behind it",
                writes=(*writes[:-1], last),
                behind=True,
            )
    if rng.random() < 0.12:
        what = rng.choice(_IDLE_ENDS)
        data = _nobodys(rng, mark._replace(event=LATE), key) if what == "bytes" else b""
        afterwards = Afterwards(rng.choice([0.0, 0.005, 0.03, 0.1]), what, data)
        return replace(answer, recipe=f"{answer.recipe}, afterwards {what}", afterwards=afterwards)
    return answer


def _nobodys(rng: Random, mark: Mark, key: str) -> bytes:
    """What would be somebody's answer, or spoil it, if anybody listened."""
    event = {
        "candidates": [{"content": {"parts": [{"text": f"{mark}"}]}, "finishReason": "STOP"}],
        "responseId": f"{mark}",
    }
    body = b"data: " + json.dumps(event).encode() + b"\r\n\r\n"
    kind = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    chunked = kind + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    length = kind + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    error = error_object(rng, mark).encode()
    refusal = b"HTTP/1.1 400 %s\r\nContent-Length: %d\r\n\r\n%s" % (str(mark).encode(), len(error), error)
    whole = rng.choice([chunked, chunked, length, refusal, b"HTTP/1.1 100 Continue\r\n\r\n" + length])
    match rng.randrange(8):
        case 0:
            return whole[: rng.randrange(1, len(whole))]
        case 1:
            return whole * rng.choice([2, 5])
        case 2:
            return rng.choice([b"\r\n", b"\0", b"x", b"0\r\n\r\n", rng.randbytes(50)])
        case 3:
            return rng.choice([b"\r\n", b"0\r\n\r\n", b"\r\n\r\n"]) + whole
        case 4:
            return kind + b"\r\n" + body  # until the end
        case 5:
            return body + whole
    return whole


def _in_pieces(rng: Random, answer: Answer, *, aligned: bool) -> tuple[Write, ...]:
    """Choose by which calls the bytes are sent."""
    writes = answer.writes
    data = b"".join(write.data for write in writes)
    last = len(writes[-1].data)
    kind = rng.choice(["one", "one", "head", "cuts", "cuts", "bytes"])
    if aligned and rng.random() < 0.7:
        kind = "one"
    if kind == "one" and (len(data) <= _RECORD or not answer.behind):
        return (Write(data),)
    if kind in ("one", "head") or (kind == "bytes" and len(data) > 3000):
        return tuple(replace(write, pause=rng.choice([0.0, 0.0, 0.01])) for write in writes if write.data)
    # What follows behind the answer stays in one write with its end.
    until = len(data) - (min(last, _RECORD) if answer.behind else 0)
    if kind == "bytes":
        step = rng.choice([1, 7, 100])
        cuts = list(range(step, until, step))
    else:
        cuts = sorted(rng.randrange(until + 1) for _ in range(rng.choice([1, 3, 8]))) if until else []
    cuts = sorted({0, *cuts, *([until] if answer.behind else []), len(data)})
    slowest = 0.1 / len(cuts)
    return tuple(Write(data[a:b], rng.choice([0.0, slowest])) for a, b in itertools.pairwise(cuts))


_STATUSES = (400, 401, 403, 404, 407, 408, 409, 418, 429, 429, 499, 500, 502, 503, 503, 504, 511, 599)
_AFTER = (
    b"0",
    b"1",
    b"9999999999",
    b"9" * 5000,
    b"-1",
    b"x",
    b"",
    b"Thu, 26 Nov 2099 01:00:00 GMT",
    b"1.5",
    b"nan",
)


def said_back(rng: Random, key: str) -> str:
    """The key as a server or a proxy may say it back."""
    return rng.choice(
        [
            key,
            quote(key),
            "".join(f"%{ord(c):02x}" for c in key),
            "".join(f"&#{ord(c)};" for c in key),
            "".join(f"&#x{ord(c):X};" for c in key),
            base64.b64encode(f"user:{key}".encode()).decode(),
            base64.b64encode(key.encode()).decode(),
            "".join(f"\\u{ord(c):04x}" for c in key),
            key[: len(key) // 2] + "&#8203;",
        ]
    )


def _refusal(rng: Random, mark: Mark, key: str, *, bombs: bool) -> Answer:
    """An error's status."""
    status = rng.choice(_STATUSES)
    said = said_back(rng, key)
    match rng.randrange(5):
        case 0:
            page = f"<html><head><title>{status} {said}</title></head><body><p>{mark} {said}</p>"
            body, kind = (page + "<p>x" * rng.choice([1, 5000])).encode(), b"text/html"
        case 1:
            body, kind = (
                json.dumps({"error": {"code": status, "message": said, "details": [said]}}).encode(),
                b"application/json",
            )
        case 2:
            body, kind = rng.choice([b"", b"\xff\xfe", html.escape(said).encode(), b"[", b"{}", b"[{}]"]), b""
        case _:
            body, kind = (
                error_object(rng, mark).encode(),
                rng.choice([b"application/json", b"text/event-stream"]),
            )
    head = Head(b"HTTP/1.1 %d %s" % (status, rng.choice([b"No", said.encode(), b""])))
    head.lines.append(b"Content-Type: " + kind)
    if rng.random() < 0.4:
        head.lines.append(b"Retry-After: " + rng.choice(_AFTER))
    if rng.random() < 0.2:
        head.lines.append(b"WWW-Authenticate: Basic " + said.encode())
    wire = framed(rng, body, sound=rng.random() < 0.8)
    data = wire.data
    head.lines += wire.headers
    if rng.random() < 0.1:
        packed = coded(rng, written(rng, [], 0), sound=False, bombs=bombs)
        if packed.header is not None:
            head.lines = [line for line in head.lines if line not in wire.headers]
            head.lines += [
                b"Content-Encoding: " + packed.header.encode(),
                b"Content-Length: %d" % len(packed.data),
            ]
            data = packed.data
    answer = Answer(
        f"status {status}, {len(body)} bytes of {kind.decode()}, {b', '.join(wire.headers).decode('latin-1')[:60]}",
        (Write(head.data), Write(data)),
        "fin" if wire.closes else "keep",
        can_complete=False,
        framed=wire.sound,
    )
    if rng.random() < 0.15:  # the body never comes
        return replace(answer, recipe=f"{answer.recipe}, no body", writes=(Write(head.data),), end="silence")
    aligned = rng.random() < 0.3
    if aligned:
        _align(rng, head, replace(wire, data=data))
        answer = replace(answer, writes=(Write(head.data), Write(data)))
    answer = _behind(rng, answer, mark, key, at_boundary=aligned)
    return replace(answer, writes=_in_pieces(rng, answer, aligned=aligned))


def _noise(rng: Random) -> Answer:
    """Random bytes, or what another protocol would say."""
    data = rng.choice(
        [
            rng.randbytes(rng.choice([1, 30, 3000, 100_000])),
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"220 mail.example ESMTP\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
            b"",
        ]
    )
    end = rng.choice(_CUT_ENDS)
    return Answer(f"noise, {len(data)} bytes", (Write(data),) if data else (), end, can_complete=False)


def _flood(rng: Random, mark: Mark, key: str) -> Answer:
    """A body that goes on and on, and says nothing."""
    unit = rng.choice(
        [
            b"a",
            b": c\n",
            b"\n",
            b"id: 1\n",
            b"data\n",
            b"data: \n\n",
            b"data: [DONE]\n\n",
            b'{"a": [',
            b'"x": 1,\n',
            b"\0",
        ]
    )
    start = rng.choice([b"data: ", b": ", b"", b"{\n"])
    head = Head()
    head.lines += [b"Content-Type: text/event-stream", b"Connection: close"]
    count = FLOOD // len(unit)
    return Answer(
        f"a flood of {start + unit!r} for {mark.request} of {key[:8]}",
        (Write(head.data + start), Write(unit * count)),
        rng.choice(["fin", "silence"]),
        can_complete=False,
    )
