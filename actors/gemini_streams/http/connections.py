"""The kept-alive connections of one manager.

The rules:

- requests decides which way a request goes (straight, to a proxy, through one, with which credentials), once for each
  target and URL. It carries no request: a short stream would cost half as much again.
- No redirect is followed and no cookie kept: the key's header would go along to the new host.
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
from typing import Any
from urllib.parse import urlsplit

import requests
import requests.adapters
from urllib3.connection import port_by_scheme

from gemini_streams.api.endpoint import Target
from gemini_streams.api.protocol import Call
from gemini_streams.errors import ConnectionFailedError, InvalidRequestError
from gemini_streams.http.connection import Answer, Connection, TLSConnection, User
from gemini_streams.http.http1 import request_head
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


class _Adapter(requests.adapters.HTTPAdapter):
    """Tells which way requests would go; it carries nothing itself."""

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        if proxy.lower().startswith("socks"):
            raise ConnectionFailedError(
                "SOCKS proxies are not supported: give an HTTP proxy", retryable=False
            )
        return super().proxy_manager_for(proxy, **kwargs)


class _Route:
    """Where requests of one target and URL go: all that is the same for each of them."""

    __slots__ = ("_host", "_method", "_options", "_path", "_pool", "_port", "_target", "_trust", "_tunnels")

    def __init__(self, adapter: _Adapter, trust: Trust, target: Target, call: Call, timeout: float) -> None:
        whole = requests.PreparedRequest()
        whole.method, whole.url = call.method, call.url
        proxies = {scheme: url.reveal() for scheme, url in target.proxies.items()}
        pool: Any = adapter.get_connection_with_tls_context(whole, target.verify, proxies, target.cert)
        # By the pool's scheme: to a proxy over TLS the server's may be plain HTTP, and the proxy is to be verified.
        adapter.cert_verify(pool, f"{pool.scheme}://", target.verify, target.cert)  # type: ignore[no-untyped-call]
        self._target = target
        self._trust = trust
        self._method = call.method
        self._path = adapter.request_url(whole, proxies)
        self._pool = pool
        self._tunnels = pool.proxy is not None and self._path.startswith("/")
        at = pool.proxy if self._tunnels else pool
        self._host, self._port = at.host, at.port
        self._options: Any = {"timeout": timeout, "socket_options": _SOCKET_OPTIONS}
        if pool.proxy is not None:
            self._options |= {"proxy": pool.proxy, "proxy_config": pool.proxy_config}

    def open(self, user: User) -> Any:
        """Connect, in the calling thread."""
        connection = self._made()
        try:
            if self._tunnels:
                pool = self._pool
                connection.set_tunnel(
                    pool.host,
                    pool.port,
                    headers=pool.proxy_headers,
                    scheme="https" if pool.proxy.scheme == "https" else "http",
                )
            connection.open(user)
        except BaseException:
            connection.close()
            raise
        return connection

    def _made(self) -> Any:
        if self._pool.scheme == "http":
            return Connection(self._host, self._port, **self._options)
        verify, cert = self._target.verify, self._target.cert
        options = self._options
        if self._pool.proxy is not None:  # the client certificate is meant for the server
            to_proxy = self._trust.context(verify)
            if not self._tunnels:
                return TLSConnection(self._host, self._port, ssl_context=to_proxy, **options)
            options = {**options, "proxy_config": self._pool.proxy_config._replace(ssl_context=to_proxy)}
        return TLSConnection(self._host, self._port, ssl_context=self._trust.context(verify, cert), **options)

    def head(self, call: Call) -> bytes:
        """Return a request's head; raises `InvalidRequestError`."""
        pool = self._pool
        headers = self._target.headers()
        if call.body:
            headers["Content-Length"] = str(sum(map(len, call.body)))
        else:
            headers.pop("Content-Type", None)
        if not call.streams:
            headers["Accept"] = "application/json"
        if self._path.startswith("/"):
            host = f"[{pool.host.partition('%')[0]}]" if ":" in pool.host else pool.host
            if pool.port != port_by_scheme[pool.scheme]:
                host = f"{host}:{pool.port}"
        else:  # as a forwarding proxy is asked
            host = urlsplit(self._path).netloc
            headers.update(pool.proxy_headers)
        head = request_head(self._method, self._path, host, headers)
        if head is None:
            raise InvalidRequestError(
                "the URL or a header cannot stand in an HTTP request: check the endpoint's base URL and headers"
            )
        return head


class Connections:
    """The connections of one manager; thread-safe.

    `size` is how many idle ones are kept: at least the number of streams that run at once. `clock` tells their age.
    """

    _MOST_ROUTES = 1024

    def __init__(self, connect_timeout: float, size: int, clock: Clock) -> None:
        self._adapter = _Adapter()
        self._timeout = connect_timeout
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
            route = _Route(self._adapter, self.trust, target, call, self._timeout)
            if call.asks:  # the URL of a look is that of one interaction and one place in it
                if len(self._routes) >= self._MOST_ROUTES:
                    self._routes.clear()
                self._routes[target, call.url] = route
        head = route.head(call)
        connection = self.idle.take(target) or route.open(exchange)
        answer: Answer
        try:
            answer = connection.ask(exchange, head, call.body)
        except BaseException:
            connection.close()
            if not connection.unseen or exchange.interrupted:
                raise
        else:
            return answer
        connection = route.open(exchange)
        try:
            answer = connection.ask(exchange, head, call.body)
        except BaseException:
            connection.close()
            raise
        return answer

    def keep(self, answer: Answer, target: Target) -> None:
        """Keep the connection of an answer that was read to its framing's end, where nothing stands behind that."""
        self.idle.put(target, answer.connection)

    def close(self) -> None:
        """Close the idle connections and end the shared reader."""
        self.reader.close()
        self.idle.close()
        self._adapter.close()
        self._routes.clear()
