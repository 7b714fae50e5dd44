"""The kept-alive connections of one manager, over requests.

The rules:

- No redirect is followed and no cookie kept: requests would carry the key's header to the new host. So a requests
  transport adapter is used, not a `Session`.
- A connection is kept for the tenant that opened it (`idle`), and only where its answer was read to its framing's end
  and nothing stands behind it.
- A request is sent a second time only where the server cannot have seen the first: on a kept connection that ended
  without a byte of an answer, where the request did not leave as a whole, or the server closed the connection and its
  system had acknowledged none of it by then. Everything else is the retry policy's to decide.
- All connections that verify in the same way share one TLS context (`trust`).
- Each exception of requests, urllib3 or ssl becomes an error of ours that holds plain text (`failures`).

This module and `connection` are the only ones that know how requests, urllib3 and http.client hang together.
"""

from __future__ import annotations

import socket
from typing import Any, ClassVar

import requests
import requests.adapters
import urllib3

from gemini_streams.api.body import Body
from gemini_streams.api.endpoint import Target
from gemini_streams.api.protocol import Call
from gemini_streams.errors import ConnectionFailedError
from gemini_streams.http.connection import Answer, Connection, TLSConnection, User, current
from gemini_streams.http.idle import IdleConnections
from gemini_streams.http.reader import Reader
from gemini_streams.http.trust import Trust
from pykka_supervisor import Clock

__all__ = ["Connections"]

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


class _OurPool:
    """What our two kinds of pool have in common: idle connections are kept elsewhere, by tenant.

    A mixin in front of urllib3's pools, which make connections.
    """

    def _get_conn(self: Any, timeout: float | None = None) -> Any:  # noqa: ARG002 - urllib3's signature
        connection = None if current.idle is None else current.idle.take(current.route.target)
        return connection or self._new_conn()

    def _put_conn(self, connection: Any) -> None:
        """Close it: only an exchange knows whether a connection can be kept."""
        if connection is not None:
            connection.close()


class _Pool(_OurPool, urllib3.HTTPConnectionPool):
    ConnectionCls = Connection


class _TLSPool(_OurPool, urllib3.HTTPSConnectionPool):
    ConnectionCls = TLSConnection


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

    def __init__(self, route: _Route, method: str, body: Body) -> None:
        self.route = route
        self.method = method
        self.url = route.url
        self.headers = {**route.target.headers(), "Content-Length": str(sum(map(len, body)))}
        self.body = body


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

    def send(self, exchange: User, target: Target, call: Call) -> Answer:
        """Send the request in the calling thread and return when the headers of the answer have come."""
        route = self._routes.get((target, call.url))
        if route is None:
            if len(self._routes) >= self._MOST_ROUTES:
                self._routes.clear()
            route = self._routes[target, call.url] = _Route(target, call.url, self.trust)
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

    def _send(self, route: _Route, call: Call) -> Answer:
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

    def keep(self, answer: Answer, target: Target) -> None:
        """Keep the connection of an answer that was read to its framing's end, where nothing stands behind that."""
        self.idle.put(target, answer.connection)

    def close(self) -> None:
        """Close the idle connections and end the shared reader."""
        self.reader.close()
        self.idle.close()
        self._adapter.close()
        self._routes.clear()
