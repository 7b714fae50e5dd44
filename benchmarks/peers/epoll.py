"""A bare epoll loop: one thread, non-blocking sockets, no HTTP client. As little as Python can do for many streams.

It knows how the benchmark's server writes its chunks, and reads no other server.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import orjson

from benchmarks.kit import KEY, Delays, Figures, Footprint, Meter, Work

END = b"0\r\n\r\n"


class Stream:
    def __init__(self, work: Work, context: ssl.SSLContext | None) -> None:
        self.rest = b""
        self.begun = False
        host, port = work.url.partition("//")[2].split(":")
        sock = socket.create_connection((host, int(port)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock if context is None else context.wrap_socket(sock, server_hostname=host)
        path = work.endpoint.removeprefix(work.url)
        self.sock.sendall(
            f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
            f"x-goog-api-key: {KEY}\r\nContent-Length: {len(work.body)}\r\n\r\n".encode()
            + work.body
        )
        self.sock.setblocking(False)

    def received(self) -> bytes:
        """What the socket has; `b""` at its end."""
        data = b""
        try:
            data = self.sock.recv(65536)
            while isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():
                data += self.sock.recv(65536)
        except ssl.SSLWantReadError:
            return b" "
        return data

    def read(self, handle: Callable[[Any], None]) -> bool:
        """Take what has come; `False` at the end."""
        data = self.received()
        if data == b" ":
            return True
        *whole, rest = (self.rest + data).split(b"\r\n\r\n")
        self.rest = rest
        for piece in whole:
            start = piece.find(b"data: ")
            if start >= 0:
                handle(orjson.loads(piece[start + 6 :]))
            elif piece.startswith(b"HTTP/1.1 200"):
                self.begun = True
            elif piece.strip() == b"0":
                return False
            else:
                raise ValueError(piece[:100])
        return bool(data)


def loop(streams: list[Stream], handle: Callable[[Any], None], *, until: float) -> int:
    """Read all of them to their ends; returns how many did not get there in time."""
    poller = select.epoll()
    open_ones = {stream.sock.fileno(): stream for stream in streams}
    for descriptor in open_ones:
        poller.register(descriptor, select.EPOLLIN)
    ends = time.monotonic() + until
    while open_ones and time.monotonic() < ends:
        for descriptor, _ in poller.poll(1.0, 4096):
            if not open_ones[descriptor].read(handle):
                poller.unregister(descriptor)
                del open_ones[descriptor]
    return len(open_ones)


def ignored(_event: Any) -> None:
    """Take an event of no account."""


def many(work: Work) -> Figures:
    context = work.context
    loop([Stream(work.with_(events=3, delay=0), context)], ignored, until=30)
    delays = Delays()
    footprint = Footprint() if work.footprint else None
    meter = Meter()
    streams = [Stream(work, context) for _ in range(work.streams)]
    values = footprint.values(work.streams) if footprint is not None else {}
    late = loop(streams, delays.see, until=work.until)
    sample = meter.stop(delays.count)
    return Figures(
        expected=work.events * work.streams,
        samples=[sample],
        values=delays.values() | values,
        notes=[f"{late} did not end"] if late else [],
    )


def started(work: Work) -> Figures:
    """Streams one after another until the head of the last answer has come."""
    context = work.context
    meter = Meter()
    streams = [Stream(work, context) for _ in range(work.streams)]
    poller = select.epoll()
    waiting = {stream.sock.fileno(): stream for stream in streams}
    for descriptor in waiting:
        poller.register(descriptor, select.EPOLLIN)
    while waiting:
        for descriptor, _ in poller.poll(1.0, 4096):
            waiting[descriptor].read(ignored)
            if waiting[descriptor].begun or waiting[descriptor].rest:
                poller.unregister(descriptor)
                del waiting[descriptor]
    return Figures(expected=work.streams, samples=[meter.stop(work.streams)])


def connections(work: Work) -> Figures:
    """Short streams one after another, each on a new connection."""
    context = work.context
    sample = Meter().stop()
    for streams in (1, work.streams):
        meter = Meter()
        for _ in range(streams):
            one = Stream(work, context)
            loop([one], ignored, until=30)
            one.sock.close()
        sample = meter.stop(work.events * streams)
    return Figures(expected=work.events * work.streams, samples=[sample])
