"""A client for LocalGemini that hides nothing: http.client, or a bare socket where HTTP is not enough."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gemini_streams.testing import LocalGemini

PATH = "/v1beta/models/gemini-test:streamGenerateContent?alt=sse"
SOON = 0.25
"""Seconds in which what happens at once has happened, on a busy machine."""
HEADERS = {"x-goog-api-key": "local-key", "content-type": "application/json"}


def contents(text: str, **more: Any) -> bytes:
    return json.dumps({"contents": [{"role": "user", "parts": [{"text": text}]}], **more}).encode()


class Client:
    """One connection to a LocalGemini."""

    def __init__(self, gemini: LocalGemini) -> None:
        if gemini.ca_file is not None:
            context = ssl.create_default_context(cafile=gemini.ca_file)
            self.http: http.client.HTTPConnection = http.client.HTTPSConnection(
                "127.0.0.1", gemini.port, timeout=20, context=context
            )
        else:
            self.http = http.client.HTTPConnection("127.0.0.1", gemini.port, timeout=20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def send(self, text: str, *, path: str = PATH, headers: Mapping[str, str] = HEADERS, **more: Any) -> None:
        self.http.request("POST", path, contents(text, **more), dict(headers))

    def ask(self, text: str, **more: Any) -> http.client.HTTPResponse:
        self.send(text, **more)
        return self.http.getresponse()


def ask(gemini: LocalGemini, text: str, **more: Any) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Ask on a connection of its own and read to the end."""
    with Client(gemini) as client:
        response = client.ask(text, **more)
        return response.status, response.headers, response.read()


def events(body: bytes, newline: str = "\r\n") -> list[dict[str, Any]]:
    found = []
    for event in body.decode().split(newline * 2):
        if event:
            assert event.startswith("data: "), event
            found.append(json.loads(event[len("data: ") :]))
    return found


def text_of(body: bytes, newline: str = "\r\n") -> str:
    return "".join(
        part["text"] for event in events(body, newline) for part in event["candidates"][0]["content"]["parts"]
    )


def bare(gemini: LocalGemini, text: str) -> socket.socket:
    """Send a request over a bare socket and return it, unread."""
    body = contents(text)
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: x\r\nx-goog-api-key: local-key\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    sock = socket.create_connection(("127.0.0.1", gemini.port), timeout=20)
    sock.sendall(head.encode() + body)
    return sock


def read_until(sock: socket.socket, mark: bytes, count: int = 1) -> bytes:
    """Read until `mark` has come `count` times."""
    received = b""
    while received.count(mark) < count:
        piece = sock.recv(65536)
        assert piece, f"ended after {received!r}"
        received += piece
    return received


def read_all(sock: socket.socket) -> bytes:
    received = b""
    while piece := sock.recv(65536):
        received += piece
    return received


def elapsed(since: float) -> float:
    return time.monotonic() - since
