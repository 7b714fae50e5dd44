"""Answers written by hand, for servers on a bare socket: heads, bodies, chunks."""

from __future__ import annotations

import json
from typing import Any

CHUNKED = b"Transfer-Encoding: chunked"
GZIP = b"Content-Encoding: gzip"


def body(text: str, *, last: bool = True) -> bytes:
    candidate: dict[str, Any] = {"content": {"parts": [{"text": text}], "role": "model"}}
    if last:
        candidate["finishReason"] = "STOP"
    return b"data: " + json.dumps({"candidates": [candidate]}).encode() + b"\r\n\r\n"


def chunked(*bodies: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(b), b) for b in bodies) + b"0\r\n\r\n"


def answer(*lines: bytes, end: bytes = b"\r\n") -> bytes:
    return end.join([b"HTTP/1.1 200 OK", b"Content-Type: text/event-stream", *lines, b"", b""])


def refusal(*lines: bytes) -> bytes:
    return (
        answer(*lines).replace(b"200 OK", b"403 Forbidden").replace(b"text/event-stream", b"application/json")
    )
