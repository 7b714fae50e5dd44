"""HTTP/1.1 around a body: its head, its framing, in sound and in hostile ways.

Pure. A `Framed` knows which bytes of the wire carry which bytes of the body, so that whoever cuts the wire knows how
much of the body has come.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from random import Random

__all__ = ["FLOOD", "Framed", "Head", "framed", "header_lines"]

FLOOD = 6_000_000
"""Bytes of something that ought to be small."""


@dataclass(frozen=True)
class Framed:
    """A framed body."""

    headers: tuple[bytes, ...]
    """The head's lines that frame it."""
    data: bytes
    spans: tuple[tuple[int, int], ...] = ()
    """(bytes of `data`, bytes of the body that have come by then), rising; between two the bytes run alike."""
    sound: bool = True
    """Whether there is one way to read it."""
    closes: bool = False
    """Whether only the connection's end ends it."""

    def carried(self, count: int) -> int:
        """How many bytes of the body the first `count` bytes carry."""
        at = bisect_right(self.spans, (count, 1 << 60))
        if at == 0:
            return 0
        wire, body = self.spans[at - 1]
        if at == len(self.spans):
            return body
        return min(body + count - wire, self.spans[at][1])


@dataclass
class Head:
    """An answer's head, line by line."""

    status: bytes = b"HTTP/1.1 200 OK"
    lines: list[bytes] = field(default_factory=list)
    end: bytes = b"\r\n"
    sound: bool = True
    before: bytes = b""
    """Interim answers in front of it."""

    @property
    def data(self) -> bytes:
        return self.before + self.end.join([self.status, *self.lines, b"", b""])


def _chunks(rng: Random, body: bytes, *, sound: bool) -> Framed:
    out = bytearray()
    spans = [(0, 0)]
    at = 0
    most = rng.choice([len(body) or 1, 50, 500, 5000])
    oddly = rng.random() < 0.2
    while at < len(body):
        size = min(len(body) - at, rng.randint(1, most))
        number = b"%x" % size
        if oddly:
            number = rng.choice([number.upper(), number.zfill(rng.choice([2, 8])), number])
            number += rng.choice([b"", b"", b";a", b";a=b", b'; a="b c"', b";" + b"x" * 500])
        out += number + b"\r\n"
        spans.append((len(out), at))
        out += body[at : at + size]
        at += size
        spans.append((len(out), at))
        out += b"\r\n"
    out += b"0" if not oddly else rng.choice([b"0", b"000", b"0;last"])
    out += b"\r\n"
    if oddly:
        out += b"X-Trailer: yes\r\n" * rng.choice([0, 1, 20])
    out += b"\r\n"
    return Framed((b"Transfer-Encoding: chunked",), bytes(out), tuple(spans))


def framed(rng: Random, body: bytes, *, sound: bool) -> Framed:
    """Frame a body; `sound`: in one of the ways that every client reads alike."""
    whole = ((0, 0), (len(body), len(body)))
    length = b"Content-Length: %d" % len(body)
    choice = rng.random()
    if sound or choice < 0.7:
        match rng.choice(["chunked", "chunked", "chunked", "length", "length", "close"]):
            case "length":
                return Framed((length,), body, whole)
            case "close":
                return Framed(rng.choice([(), (b"Connection: close",)]), body, whole, closes=True)
        return _chunks(rng, body, sound=sound)
    chunked = _chunks(rng, body, sound=False)
    if choice < 0.85:
        return _hostile_length(rng, body, chunked, length, whole)
    return _hostile_chunks(rng, body, chunked)


def _hostile_length(
    rng: Random, body: bytes, chunked: Framed, length: bytes, whole: tuple[tuple[int, int], ...]
) -> Framed:
    other = rng.choice([b"0", b"1", b"%d" % (len(body) // 2), b"%d" % (len(body) + 50), b"9" * 30])
    odd = rng.choice(
        [b"-1", b"+5", b"0x10", b"1e3", b"", b" ", b"5, 5", b"\xb2", b"%d, %d" % (len(body), len(body))]
    )
    match rng.randrange(8):
        case 0:
            headers = [length, length]
        case 1:
            headers = [length, b"Content-Length: " + other]
        case 2:
            headers = [b"Content-Length: " + other]
        case 3:
            headers = [b"Content-Length: " + odd]
        case 4:
            headers = [*chunked.headers, rng.choice([length, b"Content-Length: " + other])]
            rng.shuffle(headers)
            return Framed(tuple(headers), chunked.data, chunked.spans, sound=False)
        case 5:
            headers = [*chunked.headers, b"Content-Length: " + other]
            return Framed(tuple(headers), body, whole, sound=False)
        case 6:
            coding = rng.choice(
                [b"identity", b"gzip, chunked", b"chunked, chunked", b"xchunked", b"chunked\x0b", b""]
            )
            return Framed((b"Transfer-Encoding: " + coding,), chunked.data, chunked.spans, sound=False)
        case _:
            headers = [b"Content-Length : %d" % len(body), b"Content-length: %d" % len(body)]
    return Framed(tuple(headers), body, whole, sound=False)


def _hostile_chunks(rng: Random, body: bytes, chunked: Framed) -> Framed:
    data = chunked.data
    match rng.randrange(9):
        case 0:
            data = b"%x;%s\r\n" % (len(body), b"e" * rng.choice([20_000, FLOOD])) + body
        case 1:
            data = b"0" * rng.choice([20_000, FLOOD]) + data
        case 2:
            size = rng.choice(
                [b"f" * 16, b"-5", b"0x5", b"", b" 5", b"5 5", b"g", b"7fffffffffffffff", b"\xb2"]
            )
            data = size + b"\r\n" + body + b"\r\n0\r\n\r\n"
        case 3:
            data = b"%x\r\n" % len(body) + body + b"0\r\n\r\n"  # no line end behind the chunk
        case 4:
            data = b"%x\n" % len(body) + body + b"\n0\n\n"
        case 5:
            data = data.removesuffix(b"0\r\n\r\n")
        case 6:
            data = data.removesuffix(b"\r\n") + b"T: " + b"t" * rng.choice([20_000, FLOOD]) + b"\r\n\r\n"
        case 7:
            data = data.removesuffix(b"\r\n") + b"T: t\r\n" * rng.choice([20_000, FLOOD // 6]) + b"\r\n"
        case _:
            data = b"%x\r\n" % (len(body) + rng.choice([-1, 1])) + body + b"\r\n0\r\n\r\n"
    # Whatever is read of it, it can at most be the whole body at once.
    return Framed(chunked.headers, data, ((0, len(body)),), sound=False)


_KINDS = (
    b"Content-Type: text/event-stream",
    b"Content-Type: text/event-stream; charset=utf-8",
    b"Content-Type: Text/Event-Stream",
    b"content-type:text/event-stream",
    b"Content-Type:   text/event-stream\t",
)
_ODD_KINDS = (
    b"Content-Type: application/json",
    b"Content-Type: text/html; charset=nonsense",
    b"Content-Type: text/event-stream, text/html",
    b"Content-Type: ",
    b"Content-Type: \xff\xfe",
    b"Content-Type: " + b"x" * 5000,
    b"Content-Type: ;",
)
_HARMLESS = (
    b"Server: fuzz",
    b"Date: Thu, 26 Nov 2026 01:00:00 GMT",
    b"X-Empty:",
    b"X-Latin: \xe4\xf6",
    b"Vary: a\r\nVary: b",
    b'Alt-Svc: h3=":443"',
    b"Connection: keep-alive",
    b"Keep-Alive: timeout=1000",
    b"Set-Cookie: a=b",
)


def header_lines(rng: Random, key: str, *, sound: bool) -> Head:
    """Return a head without its framing; `key`: the request's, which a hostile server says back."""
    head = Head()
    head.lines.append(rng.choice(_KINDS))
    head.lines += rng.sample(_HARMLESS, rng.choice([0, 0, 1, 3]))
    if rng.random() < 0.1:
        head.before = rng.choice(
            [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"]
        ) * rng.choice([1, 2])
    if sound or rng.random() < 0.75:
        return head
    head.sound = False
    secret = key.encode()
    match rng.randrange(16):
        case 0:
            head.lines[0] = rng.choice([*_ODD_KINDS, b"Content-Type: text/" + secret])
        case 1:
            del head.lines[0]
        case 2:
            head.lines.append(b"X-Folded: a\r\n  b")
        case 3:
            head.lines.append(
                rng.choice([b"no colon", b" leading: x", b": no name", b"a b: c", b"X\0: y", b"X: \0"])
            )
        case 4:
            head.lines += [b"X-%d: y" % n for n in range(rng.choice([150, 3000]))]
        case 5:
            head.lines.append(b"X-Large: " + b"l" * rng.choice([17_000, 70_000, FLOOD]))
        case 6:
            head.end = b"\n"
        case 7:
            head.before = b"HTTP/1.1 102 Processing\r\n\r\n" * rng.choice([20, 2000, 200_000])
        case 8:
            head.before = rng.choice(
                [
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
                    b"HTTP/1.1 100 " + secret,
                    b"\r\n\r\n",
                    b"\0",
                ]
            )
        case 9:
            head.status = rng.choice(
                [
                    b"HTTP/1.0 200 OK",
                    b"HTTP/1.1 200",
                    b"HTTP/1.1 0200 OK",
                    b"HTTP/1.1 20 OK",
                    b"HTTP/2 200 OK",
                    b"http/1.1 200 ok",
                    b"ICY 200 OK",
                    b"HTTP/1.1  200 OK",
                    b"HTTP/1.1 200 " + secret * 3,
                    b"HTTP/1.1 " + secret,
                    b"HTTP/9.9 200 OK",
                    b"HTTP/1.1 999 What",
                    b"HTTP/1.1 200 " + b"r" * 70_000,
                    secret,
                    b"\x15\x03\x01\x00\x02\x02\x28",
                ]
            )
        case 10:
            head.status = rng.choice(
                [
                    b"HTTP/1.1 204 No Content",
                    b"HTTP/1.1 304 Not Modified",
                    b"HTTP/1.1 206 Partial",
                    b"HTTP/1.1 202 OK",
                ]
            )
        case 11:
            head.lines.append(b"Connection: close")
        case 12:
            head.lines.append(b"Connection: upgrade\r\nUpgrade: h2c")
        case 13:
            head.lines.append(b"Location: https://" + secret + b".example/")
            head.status = rng.choice(
                [b"HTTP/1.1 301 Moved", b"HTTP/1.1 307 Temporary", b"HTTP/1.1 308 Permanent"]
            )
        case 14:
            head.lines.insert(0, b"Content-Type: " + rng.choice([b"text/html", b"text/event-stream"]))
        case 15:
            head.lines += [b"X: " + b"x" * 60_000] * 90
    return head
