"""The kept-alive connections of one manager, over requests.

The rules:

- Sockets have no read time-out. `connect_timeout` bounds each step of a connection's making: each address's connect,
  a proxy's answer to CONNECT, each TLS handshake. (urllib3 would apply it to the upload too, and to each single read of
  a proxy's answer.)
- No redirect is followed and no cookie kept: requests would carry the key's header to the new host. So a requests
  transport adapter is used, not a `Session`.
- A connection is kept for the tenant that opened it (`idle`), and only where its answer was read to its framing's end
  and nothing stands behind it.
- A request is sent a second time only where the server cannot have seen the first: on a kept connection that ended
  without a byte of an answer, where the request did not leave as a whole, or the server closed the connection and its
  system had acknowledged none of it by then. Everything else is the retry policy's to decide: a request that was seen
  may have been billed.
- All connections that verify in the same way share one TLS context (`trust`).
- Each exception of requests, urllib3 or ssl becomes an error of ours that holds plain text (`failures`).

This is the only module that knows how requests, urllib3 and http.client hang together: the connection classes below
show the thread's exchange (`exchange`) the socket as soon as there is one. Heads are made and read here, by `http1`;
the body is read by the exchange, from the socket.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterable
from typing import Any, ClassVar, Protocol
from urllib.parse import urlsplit

import requests
import requests.adapters
import urllib3
import urllib3.connection
import urllib3.exceptions

from gemini_streams.api.endpoint import Target
from gemini_streams.api.protocol import Call
from gemini_streams.errors import (
    ConnectionFailedError,
    ConnectionLostError,
    InvalidRequestError,
)
from gemini_streams.http.http1 import Head, HeadError, HeadReader, request_head
from gemini_streams.http.idle import IdleConnections
from gemini_streams.http.reader import Reader
from gemini_streams.http.trust import Trust
from pykka_supervisor import SYSTEM_CLOCK, Clock

__all__ = ["SMALLEST_READ", "Connections", "User"]

SMALLEST_READ = 2048
"""Bytes; a waiting stream holds no more than that for what may come."""
_SMALL_BODY = 65536
"""Smaller ones are sent along with the head, in one system call."""

_STEPS_TO_A_PROXY = 3
"""Behind the connect, where TLS is spoken to the proxy and through it: a handshake, CONNECT, a handshake."""

_KEEP_ALIVE_IDLE = 60
"""Seconds of silence until TCP asks whether the other end is still there: gateways forget connections that are silent
for some minutes, and a model may think for that long."""
_SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (
            ("TCP_KEEPIDLE", _KEEP_ALIVE_IDLE),
            ("TCP_KEEPALIVE", _KEEP_ALIVE_IDLE),  # what macOS calls the same
            ("TCP_KEEPINTVL", 15),
            ("TCP_KEEPCNT", 4),
        )
        if hasattr(socket, name)
    ),
]


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


class _Current(threading.local):
    """The request that this thread sends."""

    exchange: User | None = None
    route: Any = None
    idle: IdleConnections | None = None
    """Where to take a connection from; `None`: a new one is wanted."""
    unseen = False
    """The request failed, and the server cannot have seen it."""


_current = _Current()


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
        if _current.exchange is not None:
            _current.exchange.connected(sock, encrypted=self.encrypted)
        return sock

    def connect(self: Any) -> None:
        super().connect()  # type: ignore[misc]
        sock = self.sock
        sock.settimeout(None)
        if _current.exchange is not None:
            _current.exchange.bind(sock)

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
        if _current.exchange is not None:
            _current.exchange.bind(self.sock)
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
            self.sock.sendall(head + body if len(body) < _SMALL_BODY else head)
            if len(body) >= _SMALL_BODY:
                self.sock.sendall(body)
        except OSError:
            _current.unseen = self._kept
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
                _current.unseen = False
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
        if _current.exchange is not None:
            _current.exchange.answered(head, reader.leftover)
        return _Answer(head, self)

    def _ended(self: Any, reader: HeadReader, *, in_order: bool) -> None:
        """Take note that the connection has ended before the answer's head; `in_order`: it was closed, not reset.

        Of a reset the system takes no acknowledgement, and an earlier one can have been put off for some 40 ms: a
        server that has read the request, and died of it, looks like one that has not.
        """
        if self._kept and not reader.begun:
            before = self._acknowledged
            _current.unseen = not self._sent or (
                in_order and before is not None and before == _acknowledged(self.sock)
            )


class _Connection(_Ours, urllib3.connection.HTTPConnection):
    encrypted = False


class _TLSConnection(_Ours, urllib3.connection.HTTPSConnection):
    encrypted = True

    def connect(self: Any) -> None:
        self._trust(_current.route)
        limit = None
        if self._tunnel_scheme == "https" and _current.exchange is not None:
            # urllib3's TLS inside of TLS bounds each read of its handshake, not the whole of it.
            limit = SYSTEM_CLOCK.call_later(
                _STEPS_TO_A_PROXY * float(self.timeout or 0), _current.exchange.enough
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

    def _trust(self: Any, route: _Route) -> None:
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


class _OurPool:
    """What our two kinds of pool have in common: idle connections are kept elsewhere, by tenant.

    A mixin in front of urllib3's pools, which make connections.
    """

    def _get_conn(self: Any, timeout: float | None = None) -> Any:  # noqa: ARG002 - urllib3's signature
        current = _current
        connection = None if current.idle is None else current.idle.take(current.route.target)
        return connection or self._new_conn()

    def _put_conn(self, connection: Any) -> None:
        """Close it: only an exchange knows whether a connection can be kept."""
        if connection is not None:
            connection.close()


class _Pool(_OurPool, urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(_OurPool, urllib3.HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class _Route:
    """Where requests of one target and URL go: all that is the same for each of them."""

    __slots__ = ("cert", "path", "pool", "proxies", "target", "trust", "url", "verify")

    def __init__(self, target: Target, url: str, trust: Trust) -> None:
        self.target = target
        self.url = url
        self.trust = trust
        self.verify = target.verify
        self.cert = target.cert
        self.proxies: Any = target.proxies  # secrets, revealed where the route's pool is made
        self.pool: Any = None
        self.path = ""


class _Request:
    """A request on a route, as `HTTPAdapter.send` takes it: a `PreparedRequest` would be a tenth of a short stream."""

    def __init__(self, route: _Route, method: str, body: bytes) -> None:
        self.route = route
        self.method = method
        self.url = route.url
        self.headers = {**route.target.headers(), "Content-Length": str(len(body))}
        self.body = body


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


class _Answer:
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


class _Adapter(requests.adapters.HTTPAdapter):
    """A transport adapter that finds a route's pool once and gives the answer back as it came."""

    _pool_classes: ClassVar[dict[str, Any]] = {"http": _Pool, "https": _TLSPool}

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, socket_options=_SOCKET_OPTIONS, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pool_classes

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        if proxy.lower().startswith("socks"):
            raise ConnectionFailedError(
                "SOCKS proxies are not supported: give an HTTP proxy", retryable=False
            )
        manager = super().proxy_manager_for(proxy, socket_options=_SOCKET_OPTIONS, **kwargs)
        manager.pool_classes_by_scheme = self._pool_classes
        return manager

    def get_connection_with_tls_context(
        self, request: Any, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        route: _Route = request.route
        if route.pool is None:
            whole = requests.PreparedRequest()
            whole.method, whole.url = request.method, request.url
            plain = {scheme: url.reveal() for scheme, url in proxies.items()}
            pool = super().get_connection_with_tls_context(whole, verify, plain, cert)
            # By the pool's scheme: to a proxy over TLS the server's may be plain HTTP, and the proxy is to be verified.
            super().cert_verify(pool, f"{pool.scheme}://", verify, cert)  # type: ignore[no-untyped-call]
            route.path = super().request_url(whole, plain)
            route.pool = pool
        return route.pool

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing: the pool's was set when the route was made."""

    def request_url(self, request: Any, proxies: Any) -> str:  # noqa: ARG002 - requests' signature
        route: _Route = request.route
        return route.path

    def build_response(self, req: Any, resp: Any) -> Any:  # noqa: ARG002
        """Nothing is made of urllib3's: a `requests.Response` is for its own body."""
        return resp


class Connections:
    """The connections of one manager; thread-safe.

    `size` is how many idle ones are kept: at least the number of streams that run at once. `clock` tells their age.
    """

    _MOST_ROUTES = 1024

    def __init__(self, connect_timeout: float, size: int, clock: Clock) -> None:
        # No pool is ever put out for another one: a stream may be using it. It keeps no connection.
        self._adapter = _Adapter(pool_connections=1 << 16, pool_maxsize=1, max_retries=0)
        self._timeout = (connect_timeout, None)
        self.idle = IdleConnections(size, clock)
        """Those that wait for their tenant's next request."""
        self.reader = Reader()
        """Reads for all streams that wait for their server."""
        self.trust = Trust()
        """The TLS contexts that all connections share."""
        self._routes: dict[tuple[Target, str], _Route] = {}

    def send(self, exchange: User, target: Target, call: Call) -> _Answer:
        """Send the request in the calling thread and return when the headers of the answer have come."""
        route = self._routes.get((target, call.url))
        if route is None:
            if len(self._routes) >= self._MOST_ROUTES:
                self._routes.clear()
            route = self._routes[target, call.url] = _Route(target, call.url, self.trust)
        current = _current
        current.exchange, current.route, current.idle, current.unseen = exchange, route, self.idle, False
        try:
            try:
                return self._send(route, call)
            except Exception:
                if not current.unseen or exchange.interrupted:
                    raise
            current.idle = None
            return self._send(route, call)
        finally:
            current.exchange = current.route = current.idle = None

    def _send(self, route: _Route, call: Call) -> _Answer:
        request: Any = _Request(route, call.method, call.body)
        answer: Any = self._adapter.send(
            request,
            stream=True,
            timeout=self._timeout,
            verify=route.verify,
            cert=route.cert,
            proxies=route.proxies,
        )
        return answer  # type: ignore[no-any-return]

    def keep(self, answer: _Answer, target: Target) -> None:
        """Keep the connection of an answer that was read to its framing's end, where nothing stands behind that."""
        self.idle.put(target, answer.connection)

    def close(self) -> None:
        """Close the idle connections and end the shared reader."""
        self.reader.close()
        self.idle.close()
        self._adapter.close()
        self._routes.clear()
