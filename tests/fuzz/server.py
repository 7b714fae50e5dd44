"""The hostile server: plays a case's answers on raw sockets, plain or TLS, byte for byte and write for write.

A thread accepts, and a thread serves each connection, request after request. `close` ends all of them. What the
server saw stands in `requests` and `complaints`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import re
import select
import shutil
import socket
import ssl
import struct
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme

from fuzz.answer import Afterwards, Answer
from fuzz.plan import Case, answer_to, greeting_of, key_of, refusal_of

__all__ = ["HostileServer", "Played", "prompt"]

_RESET = struct.pack("ii", 1, 0)
_STUCK = 5.0
"""Seconds that a write or a read waits for the client."""
_ASKED = re.compile(rb"this is fuzz stream (\d+) of case (\d+)")


_TUNNEL = b"HTTP/1.1 200 Connection established\r\n\r\n"
_NOT_YOURS = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
"""What a tenant gets who starts a stream with another's id and contents."""


def prompt(case: int, stream: int) -> str:
    """Return what a stream asks, so that the server knows it."""
    return f"this is fuzz stream {stream} of case {case}"


@dataclass
class Played:
    """One answer as it was played."""

    stream: int
    request: int
    answer: Answer
    connection: int
    whole: bool = False
    """Whether all of it was sent."""


@functools.cache
def _certificate(version: str) -> tuple[ssl.SSLContext, str]:
    """Return a server's context and the path of the authority that a client has to trust; made once a process."""
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion[version.replace(".", "_")]
    authority.issue_cert("127.0.0.1", key_type=trustme.KeyType.ECDSA).configure_cert(context)
    folder = tempfile.mkdtemp(prefix="fuzz-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return context, str(path)


class HostileServer:
    """Serves one case; a context manager."""

    def __init__(self, case: Case, *, bombs: bool = True) -> None:
        self._case = case
        self._bombs = bombs
        self._context: ssl.SSLContext | None = None
        self.authority = ""
        """The path of the certificates that a client has to trust; empty where the server speaks plain HTTP."""
        if case.tls:
            self._context, self.authority = _certificate(case.tls)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._nth: Counter[int] = Counter()
        self._connections = 0
        self.played: list[Played] = []
        self.complaints: list[str] = []
        """What no client may do."""

    @property
    def url(self) -> str:
        """The base URL."""
        return f"{'https' if self._context else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all connections and threads."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
            threads = list(self._threads)
        for thread in threads:
            thread.join(10)

    # --

    def _spawn(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name="fuzz-server", daemon=True)  # type: ignore[arg-type]
        with self._lock:
            self._threads = [one for one in self._threads if one.is_alive()]
            self._threads.append(thread)
            thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._spawn(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with self._lock:
            self._connections += 1
            number = self._connections
            self._open.add(sock)
            closing = self._closing.is_set()
        connection = _Connection(sock, self._closing)
        try:
            if closing:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(_STUCK)
            if not self._begin(connection, number):
                return
            if self._context is not None:
                with self._lock:
                    self._open.discard(sock)
                    connection.sock = sock = self._context.wrap_socket(
                        sock, server_side=True, do_handshake_on_connect=False
                    )
                    self._open.add(sock)
                sock.do_handshake()
            while self._one_request(connection, number):
                pass
        except (OSError, ssl.SSLError, ValueError):
            pass  # the client has left, or the case is over
        finally:
            with self._lock:
                self._open.discard(sock)
            connection.end("rst" if self._closing.is_set() else "bare")

    def _begin(self, connection: _Connection, number: int) -> bool:
        """Do what comes before a connection's first request, or its handshake; whether it can be used."""
        case = self._case
        greeting = greeting_of(case, number)
        if greeting not in ("", "refuse"):
            connection.greet(greeting)
            return False
        if case.proxied and (case.tls or greeting):
            request = connection.read_request()
            if request is None:
                return False
            if case.tls and not request[0].startswith(b"CONNECT "):
                self.complaints.append(f"the proxy was asked for {request[0][:50]!r}")
            connection.write(_TUNNEL if not greeting else refusal_of(case, number), 0)
        return not greeting

    def _one_request(self, connection: _Connection, number: int) -> bool:
        request = connection.read_request()
        if request is None:
            return False
        head, body = request
        asked = _ASKED.search(body)
        case = self._case
        if asked is None or int(asked[2]) != case.number:
            self.complaints.append(f"a request that nobody made: {head[:100]!r}")
            return False
        stream = int(asked[1])
        key = key_of(case.number, case.streams[stream].tenant).encode()
        asked_with = re.findall(rb"(?i)\r\nx-goog-api-key: *([^\r]*)", head)
        if asked_with != [key]:
            if not any(deed.what == "again" and deed.stream == stream for deed in case.deeds):
                self.complaints.append(f"stream {stream} asked with another tenant's key")
            connection.write(_NOT_YOURS, 0)
            return True
        with self._lock:
            nth = self._nth[stream]
            self._nth[stream] += 1
        answer = answer_to(case, stream, nth, bombs=self._bombs)
        played = Played(stream, nth, answer, number)
        self.played.append(played)
        for write in answer.writes:
            connection.write(write.data, write.pause)
        played.whole = True
        if answer.end == "silence":
            connection.wait_for_the_end()
            return False
        if answer.end != "keep":
            connection.end(answer.end)
            return False
        return answer.afterwards is None or connection.afterwards(answer.afterwards)


class _Connection:
    """One accepted socket."""

    def __init__(self, sock: socket.socket, closing: threading.Event) -> None:
        self.sock = sock
        self._closing = closing
        self._read = b""

    def greet(self, greeting: str) -> None:
        """End the connection before its first request."""
        match greeting:
            case "silence":
                self.wait_for_the_end()
            case "garbage":
                self.write(b"220 no HTTP\r\n\x15\x03\x01\x00", 0)
            case "cut":
                self._more()
                self.write(b"\x16\x03\x03\x00\x7a\x02", 0)
        self.end("rst" if greeting == "rst" else "bare")

    def read_request(self) -> tuple[bytes, bytes] | None:
        """Return the next request's head and body; `None` where the client has closed."""
        while b"\r\n\r\n" not in self._read:
            if not self._more():
                return None
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        length = int(found[1]) if found else 0
        while len(self._read) < length:
            if not self._more():
                return None
        body, self._read = self._read[:length], self._read[length:]
        return head, body

    def _more(self) -> bool:
        try:
            data = self.sock.recv(65536)
        except TimeoutError:
            return not self._closing.is_set()
        self._read += data
        return bool(data)

    def write(self, data: bytes, pause: float) -> None:
        """Send by one call, then wait."""
        self.sock.sendall(data)
        if pause:
            self._closing.wait(pause)

    def wait_for_the_end(self) -> None:
        """Say nothing until the client goes away."""
        while self._more() and not self._closing.is_set():
            self._read = b""

    def afterwards(self, then: Afterwards) -> bool:
        """Do something to the idle connection, unless a request comes before; whether it goes on."""
        tls = isinstance(self.sock, ssl.SSLSocket)
        if self._read or (tls and self.sock.pending()):  # type: ignore[attr-defined]
            return True
        if select.select([self.sock], [], [], then.delay)[0]:
            return True
        if then.what == "bytes":
            self.write(then.data, 0)
            return True
        self.end(then.what)
        return False

    def end(self, how: str) -> None:
        """Close: in order, with a reset, or (`bare`) without saying so in TLS."""
        sock = self.sock
        with contextlib.suppress(OSError, ValueError):
            if how == "rst":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            elif how == "fin":
                if isinstance(sock, ssl.SSLSocket):
                    sock.settimeout(0.2)
                    sock.unwrap()  # sends close_notify, and waits for the other side's
                else:
                    sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            sock.close()
