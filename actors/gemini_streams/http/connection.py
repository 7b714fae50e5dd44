"""One connection, to a server or to a proxy on the way: how it is made, and how a request's head gets its answer's.

The rules:

- `connect_timeout` bounds each step of a connection's making: each address's connect, a proxy's answer to CONNECT, each
  TLS handshake. (urllib3 would apply it to the upload too, and to each single read of a proxy's answer.) After that the
  socket has no time-out.
- The exchange that the connection is made for is shown the socket as soon as there is one, so that it can be
  interrupted in every step.
- Heads are made and read by `http1`. The body is read by the exchange, from the socket.
- Whether the server can have seen a request that failed is noted (`Current.unseen`): one that it has seen may have been
  billed.

The classes are urllib3's, with our steps in the place of its own. The thread that sends a request says in `current` for
which exchange and route it does.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterable
from typing import Any, Protocol
from urllib.parse import urlsplit

import urllib3.connection

from gemini_streams.api.endpoint import Target
from gemini_streams.errors import ConnectionLostError, InvalidRequestError
from gemini_streams.http.http1 import Head, HeadError, HeadReader, request_head
from gemini_streams.http.idle import IdleConnections
from gemini_streams.http.trust import Certificate, Trust
from pykka_supervisor import SYSTEM_CLOCK

__all__ = ["SMALLEST_READ", "Answer", "Connection", "Route", "TLSConnection", "User", "current"]

SMALLEST_READ = 2048
"""Bytes; a waiting stream holds no more than that for what may come."""
_SMALL_BODY = 65536
"""Smaller ones are sent along with the head, in one system call."""

_STEPS_TO_A_PROXY = 3
"""Behind the connect, where TLS is spoken to the proxy and through it: a handshake, CONNECT, a handshake."""


class Route(Protocol):
    """Where a request goes, as far as its connection is concerned."""

    target: Target
    trust: Trust
    verify: bool | str
    cert: Certificate


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


class Current(threading.local):
    """The request that this thread sends."""

    exchange: User | None = None
    route: Any = None
    idle: IdleConnections | None = None
    """Where to take a connection from; `None`: a new one is wanted."""
    unseen = False
    """The request failed, and the server cannot have seen it."""


current = Current()


class _Ours:
    """What our two kinds of connection have in common.

    A mixin in front of urllib3's connection classes, which connect.
    """

    _kept = False
    """An answer has been read here before."""
    _sent = False
    """The request has left as a whole."""
    _acknowledged: int | None = None
    """Bytes that the server's system had acknowledged before the request was sent on a kept connection."""

    def _new_conn(self: Any) -> socket.socket:
        sock: socket.socket = super()._new_conn()  # type: ignore[misc]
        if current.exchange is not None:
            current.exchange.connected(sock, encrypted=self.encrypted)
        return sock

    def connect(self: Any) -> None:
        super().connect()  # type: ignore[misc]
        sock = self.sock
        sock.settimeout(None)
        if current.exchange is not None:
            current.exchange.bind(sock)

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
                raise OSError("the proxy closed the connection without an answer to CONNECT")
            try:
                answer = reader.feed(data)
            except HeadError:
                raise OSError("the proxy's answer to CONNECT is no HTTP") from None
        if not 200 <= answer.status < 300:
            raise OSError(f"Tunnel connection failed: {answer.status} {answer.reason.strip()}")
        if reader.leftover:
            raise OSError("the proxy said more than its answer to CONNECT")
        self.sock.settimeout(self.timeout)

    def request(
        self: Any, method: str, url: str, body: Any = None, headers: Any = None, **_options: Any
    ) -> None:
        if self.sock is None:
            self.connect()
        if current.exchange is not None:
            current.exchange.bind(self.sock)
        if url.startswith("/"):
            host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host
            if self.port != self.default_port:
                host = f"{host}:{self.port}"
        else:  # as a forwarding proxy is asked
            host = urlsplit(url).netloc
        head = request_head(method, url, host, headers)
        if head is None:
            raise InvalidRequestError(
                "the URL or a header cannot stand in an HTTP request: check the endpoint's base URL and headers"
            )
        self._sent = False
        self._acknowledged = _acknowledged(self.sock) if self._kept else None
        try:
            if len(body) == 1 and len(body[0]) < _SMALL_BODY:
                self.sock.sendall(head + body[0])
            else:
                for piece in (head, *body):
                    self.sock.sendall(piece)
        except OSError:
            current.unseen = self._kept
            raise  # or, where urllib3 says so, see whether the server has answered all the same
        self._sent = True

    def getresponse(self: Any) -> Any:
        reader = HeadReader()
        head: Head | None = None
        in_order = True
        try:
            while head is None:
                try:
                    data = self.sock.recv(SMALLEST_READ)
                except ssl.SSLEOFError as error:
                    in_order = error.reason is not None  # OpenSSL has a word for an end, and none for a reset
                    break
                if not data:
                    break
                current.unseen = False
                head = reader.feed(data)
        except OSError:
            self._ended(reader, in_order=False)
            raise
        if head is None:
            self._ended(reader, in_order=in_order)
            raise ConnectionLostError(
                "the connection was closed in the middle of the answer's head"
                if reader.inside
                else "the connection was lost: the server closed it without an answer"
            )
        self._kept = True
        if current.exchange is not None:
            current.exchange.answered(head, reader.leftover)
        return Answer(head, self)

    def _ended(self: Any, reader: HeadReader, *, in_order: bool) -> None:
        """Take note that the connection has ended before the answer's head; `in_order`: it was closed, not reset.

        Of a reset the system takes no acknowledgement, and an earlier one can have been put off for some 40 ms: a
        server that has read the request, and died of it, looks like one that has not.
        """
        if self._kept and not reader.begun:
            before = self._acknowledged
            current.unseen = not self._sent or (
                in_order and before is not None and before == _acknowledged(self.sock)
            )


class Connection(_Ours, urllib3.connection.HTTPConnection):
    """Over plain TCP."""

    encrypted = False


class TLSConnection(_Ours, urllib3.connection.HTTPSConnection):
    """Over TLS."""

    encrypted = True

    def connect(self: Any) -> None:
        """Connect, in the sending thread, and shake hands."""
        self._trust(current.route)
        limit = None
        if self._tunnel_scheme == "https" and current.exchange is not None:
            # urllib3's TLS inside of TLS bounds each read of its handshake, not the whole of it.
            limit = SYSTEM_CLOCK.call_later(
                _STEPS_TO_A_PROXY * float(self.timeout or 0), current.exchange.enough
            )
        try:
            super().connect()
        finally:
            if limit is not None:
                limit.cancel()
        sock: Any = self.sock
        sock.suppress_ragged_eofs = (
            False  # or an end without the server's close_notify would pass for one with it
        )

    def _trust(self: Any, route: Route) -> None:
        """Use the manager's contexts, for the server and for a proxy that speaks TLS; load nothing once more."""
        self.ssl_context = route.trust.context(route.verify, route.cert)
        self.ca_certs = self.ca_cert_dir = self.cert_file = self.key_file = None
        if self.proxy_config is not None:  # the client certificate is meant for the server
            self.proxy_config = self.proxy_config._replace(ssl_context=route.trust.context(route.verify))


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
    """An answer's head, and as much of a response as urllib3's pool needs of it."""

    __slots__ = ("_connection", "_pool", "connection", "headers", "retries", "status")

    version_string = "HTTP/1.1"
    length_remaining = None

    def __init__(self, head: Head, connection: _Ours) -> None:
        self.status = head.status
        self.headers = _Headers(head.headers)
        self.connection: Any = connection
        self.retries: Any = None
        self._pool: Any = None
        self._connection: Any = None
