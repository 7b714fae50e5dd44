"""One connection, to a server or to a proxy on the way: how it is made, and how a request's head gets its answer's.

The rules:

- `connect_timeout` bounds each step of a connection's making: each address's connect, a proxy's answer to CONNECT, each
  TLS handshake. (urllib3 would apply it to the upload too, and to each single read of a proxy's answer.) After that the
  socket has no time-out.
- The exchange that the connection is made for is shown the socket as soon as there is one, so that it can be
  interrupted in every step.
- Heads are read by `http1`. The body is read by the exchange, from the socket.
- A server may answer before it has read the whole request, and close the connection. So a request that it did not take
  is no failure yet: its answer may have come.
- Whether the server can have seen a request that failed is noted (`unseen`): one that it has seen may have been billed.
  Of a reset the system takes no acknowledgement, and an earlier one can have been put off for some 40 ms: a server that
  has read the request, and died of it, looks like one that has not.

The classes are urllib3's. It connects, to several addresses where a name has them, to a proxy and through it, and
verifies. What is sent and read then is ours.
"""

from __future__ import annotations

import errno
import socket
import ssl
import struct
import time
from collections.abc import Iterable
from typing import Any, Protocol

import urllib3.connection

from gemini_streams.api.body import Body
from gemini_streams.errors import ConnectionLostError, InvalidRequestError
from gemini_streams.http.http1 import Head, HeadError, HeadReader, request_head
from pykka_supervisor import SYSTEM_CLOCK

__all__ = ["SMALLEST_READ", "Answer", "Connection", "ProxyRefusedError", "TLSConnection", "User"]

SMALLEST_READ = 2048
"""Bytes; a waiting stream holds no more than that for what may come."""
_SMALL_BODY = 65536
"""Smaller ones are sent along with the head, in one system call."""
_NOT_TAKEN = (errno.EPIPE, errno.ECONNRESET, errno.EPROTOTYPE)
"""The other end has closed the connection; the last is macOS's word for the first."""
_STEPS_TO_A_PROXY = 3
"""Behind the connect, where TLS is spoken to the proxy and through it: a handshake, CONNECT, a handshake."""


class User(Protocol):
    """What uses a connection: an exchange. Called in the thread that sends."""

    interrupted: bool

    def connected(self, sock: socket.socket, *, encrypted: bool) -> None:
        """Take note of a new socket; while TLS wraps it, of a second handle on it."""

    def bind(self, sock: Any) -> None:
        """Take note of the socket that is used from here on."""

    def enough(self) -> None:
        """Break off the exchange's wait for a handshake or a body. From any thread."""

    def answered(self, head: Head, leftover: bytes) -> None:
        """Take note of the answer's head and of the bytes that came along behind it."""


class ProxyRefusedError(OSError):
    """The proxy has not connected us to the server."""


class _Ours:
    """What our two kinds of connection have in common.

    A mixin in front of urllib3's connection classes, which connect.
    """

    unseen = False
    """The last request failed, and the server cannot have seen it."""
    _user: User | None = None
    """What the connection is being made for."""
    _kept = False
    """An answer has been read here before."""

    def open(self: Any, user: User) -> None:
        """Connect, in the thread that sends, as far as the server: through a proxy's tunnel, TLS included."""
        self._user = user
        try:
            self.connect()
        finally:
            self._user = None
        self.sock.settimeout(None)

    def _new_conn(self: Any) -> socket.socket:
        sock: socket.socket = super()._new_conn()  # type: ignore[misc]
        self._user.connected(sock, encrypted=self.encrypted)
        return sock

    def _tunnel(self: Any) -> None:
        """Ask the proxy for a connection to the server, within `connect_timeout`."""
        ends = time.monotonic() + self.timeout
        host = self._tunnel_host
        where = f"[{host}]:{self._tunnel_port}" if ":" in host.strip("[]") else f"{host}:{self._tunnel_port}"
        head = request_head("CONNECT", where, where, self._tunnel_headers)
        if head is None:
            raise InvalidRequestError("the proxy's address or credentials cannot stand in a request to it")
        self.sock.sendall(head)
        reader = HeadReader()
        answer = None
        while answer is None:
            left = ends - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.sock.settimeout(left)
            data = self.sock.recv(SMALLEST_READ)
            if not data:
                raise ProxyRefusedError("the proxy closed the connection without an answer to CONNECT")
            try:
                answer = reader.feed(data)
            except HeadError:
                raise ProxyRefusedError("the proxy's answer to CONNECT is no HTTP") from None
        if not 200 <= answer.status < 300:
            raise ProxyRefusedError(
                f"the proxy answered CONNECT with {answer.status} {answer.reason.strip()}"
            )
        if reader.leftover:
            raise ProxyRefusedError("the proxy said more than its answer to CONNECT")
        self.sock.settimeout(self.timeout)

    def ask(self: Any, user: User, head: bytes, body: Body) -> Answer:
        """Send a request and return its answer's head.

        Where that fails, `unseen` says whether the server cannot have seen the request. Close the connection then.
        """
        sock = self.sock
        user.bind(sock)
        self.unseen = False
        reader = HeadReader()
        before = _acknowledged(sock) if self._kept else None
        sent = False
        try:
            if len(body) == 1 and len(body[0]) < _SMALL_BODY:
                sock.sendall(head + body[0])
            else:
                for piece in (head, *body):
                    sock.sendall(piece)
            sent = True
        except OSError as error:
            self.unseen = self._kept
            if error.errno not in _NOT_TAKEN:
                raise
        answer: Head | None = None
        in_order = True
        try:
            while answer is None:
                try:
                    data = sock.recv(SMALLEST_READ)
                except ssl.SSLEOFError as error:
                    in_order = error.reason is not None  # OpenSSL has a word for an end, and none for a reset
                    break
                if not data:
                    break
                self.unseen = False
                answer = reader.feed(data)
        except OSError:
            if self._kept and not reader.begun:
                self.unseen = not sent
            raise
        if answer is None:
            if self._kept and not reader.begun:
                self.unseen = not sent or (in_order and before is not None and before == _acknowledged(sock))
            raise ConnectionLostError(
                "the connection was closed in the middle of the answer's head"
                if reader.inside
                else "the connection was lost: the server closed it without an answer"
            )
        self._kept = True
        user.answered(answer, reader.leftover)
        return Answer(answer, self)


class Connection(_Ours, urllib3.connection.HTTPConnection):
    """Over plain TCP."""

    encrypted = False


class TLSConnection(_Ours, urllib3.connection.HTTPSConnection):
    """Over TLS."""

    encrypted = True

    def connect(self: Any) -> None:
        """Connect, in the sending thread, and shake hands."""
        limit = None
        if self._tunnel_scheme == "https":
            # urllib3's TLS inside of TLS bounds each read of its handshake, not the whole of it.
            limit = SYSTEM_CLOCK.call_later(_STEPS_TO_A_PROXY * float(self.timeout), self._user.enough)
        try:
            super().connect()
        finally:
            if limit is not None:
                limit.cancel()
        sock: Any = self.sock
        sock.suppress_ragged_eofs = (
            False  # or an end without the server's close_notify would pass for one with it
        )


def _acknowledged(sock: Any) -> int | None:
    """Return how many bytes the other end's system has acknowledged on this connection; `None`: it cannot be told."""
    info = getattr(socket, "TCP_INFO", None)
    if info is None or not isinstance(sock, socket.socket):
        return None
    try:
        told = sock.getsockopt(socket.IPPROTO_TCP, info, 128)
    except OSError:
        return None
    if len(told) < 128:
        return None
    acknowledged: int = struct.unpack_from("=Q", told, 120)[0]  # tcpi_bytes_acked, since Linux 4.1
    return acknowledged


class _Headers(dict[str, str]):
    """An answer's headers by their names in lower case; several of one name are joined as HTTP has it."""

    def __init__(self, headers: Iterable[tuple[str, str]]) -> None:
        super().__init__()
        for name, value in headers:
            key = name.lower()
            self[key] = f"{self[key]}, {value}" if key in self else value

    def __repr__(self) -> str:
        return f"<{len(self)} headers>"  # a server may say back what it was sent

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


class Answer:
    """An answer's head, and the connection that its body comes on."""

    __slots__ = ("connection", "headers", "status")

    def __init__(self, head: Head, connection: _Ours) -> None:
        self.status = head.status
        self.headers = _Headers(head.headers)
        self.connection: Any = connection
