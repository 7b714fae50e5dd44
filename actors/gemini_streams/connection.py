"""The kept-alive connections of one manager, over requests.

The rules:

- Sockets have no read time-out; `connect_timeout` bounds each address's connect and the handshake, nothing else.
  (urllib3 would apply it to the upload too.)
- No redirect is followed and no cookie kept: requests would carry the key's header to the new host. So a requests
  transport adapter is used, not a `Session`.
- Whatever requests, urllib3 and ssl raise becomes an error of ours, holding plain text (`failure_of`).

This is the only module that knows how requests, urllib3 and http.client hang together: the connection classes below
show the thread's exchange (`exchange`) the socket as soon as there is one. A plain head is made and read here, by
`http1`; any other goes through http.client, a body with a content coding through urllib3.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Protocol

import requests
import requests.adapters
import urllib3
import urllib3.connection
import urllib3.exceptions

from gemini_streams.chunked import ChunkedError
from gemini_streams.errors import (
    ConnectionFailedError,
    ConnectionLostError,
    GeminiStreamsError,
    UnexpectedResponseError,
)
from gemini_streams.gemini.endpoint import Target
from gemini_streams.http1 import HEAD_END, Head, is_interim, parse_head, request_head
from gemini_streams.reader import Reader

__all__ = ["SMALLEST_READ", "Connections", "Interrupted", "User", "close_quietly", "decoded", "failure_of"]

SMALLEST_READ = 2048
"""Bytes; a waiting stream holds no more than that for what may come."""
_LARGEST_HEAD = 16384
"""Of an answer that is parsed here; http.client has limits of its own."""
_SMALL_BODY = 65536
"""Smaller ones are sent along with the head, in one system call."""


class User(Protocol):
    """What uses a connection: an exchange. Called in the thread that sends."""

    response: Any

    def connected(self, sock: socket.socket, *, encrypted: bool) -> None:
        """Take note of a new socket; while TLS wraps it, of a second handle on it."""

    def bind(self, sock: socket.socket) -> None:
        """Take note of the socket that is used from here on."""

    def answered(self, head: Head, leftover: bytes) -> None:
        """Take note of a plain head and what came along behind it."""


class Interrupted(Exception):  # noqa: N818 - it is no error: somebody asked for it
    """The exchange was interrupted from another thread."""


class _Current(threading.local):
    exchange: User | None = None


_current = _Current()


class _Replayed(io.RawIOBase):
    """What was read of a socket, and then the socket: http.client takes a head over that was begun elsewhere."""

    def __init__(self, data: bytes, raw: Any) -> None:
        super().__init__()
        self._data = data
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        data = self._data
        if data:
            count = min(len(data), len(buffer))
            buffer[:count] = data[:count]
            self._data = data[count:]
            return count
        read: int | None = self._raw.readinto(buffer)
        return read

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _FileMaker:
    """A socket as http.client's response takes it: something to make a file of, here with a small buffer.

    Only the headers go through it; a waiting stream would hold 8 KiB for nothing.
    """

    __slots__ = ("_data", "_sock")

    def __init__(self, sock: socket.socket, data: bytes = b"") -> None:
        self._sock = sock
        self._data = data

    def makefile(self, mode: str) -> Any:
        raw: Any = self._sock.makefile(mode, 0)  # type: ignore[call-overload]
        return io.BufferedReader(_Replayed(self._data, raw) if self._data else raw, SMALLEST_READ)


class _Response(http.client.HTTPResponse):
    """Shows itself to the thread's exchange: from here the body is read."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        maker = sock if isinstance(sock, _FileMaker) else _FileMaker(sock)
        super().__init__(maker, *args, **kwargs)  # type: ignore[arg-type]
        if _current.exchange is not None:
            _current.exchange.response = self


class _Plain:
    """What our two kinds of connection have in common: requests and answers with a plain head, at a third of the cost.

    A mixin in front of urllib3's connection classes, which do what is not plain.
    """

    _sent: str | None = None
    """The method of the request that was sent here and not answered yet."""

    def request(
        self: Any, method: str, url: str, body: Any = None, headers: Any = None, **options: Any
    ) -> None:
        if self.sock is None:
            self.connect()  # http.client would, in the middle of the request
        _about_to_send(self)
        if self.proxy is None and type(body) is bytes and headers is not None and url.startswith("/"):
            host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host
            if self.port != self.default_port:
                host = f"{host}:{self.port}"
            head = request_head(method, url, host, headers)
            if head is not None:
                self._sent = method
                self.sock.sendall(head + body if len(body) < _SMALL_BODY else head)
                if len(body) >= _SMALL_BODY:
                    self.sock.sendall(body)
                return
        super().request(method, url, body=body, headers=headers, **options)  # type: ignore[misc]

    def getresponse(self: Any) -> Any:
        method, self._sent = self._sent, None
        if method is None:
            # Past urllib3's own, which logs the lines of a head that it cannot read.
            return _wrapped(http.client.HTTPConnection.getresponse(self), None)
        data = b""
        while True:
            end = HEAD_END.search(data)
            if end is not None and is_interim(data):
                data = data[end.end() :]
                continue
            if end is not None or len(data) > _LARGEST_HEAD:
                break
            more = self.sock.recv(SMALLEST_READ)
            if not more:
                break
            data += more
        head = None
        if end is not None and data[end.start() - 1 : end.end()] == b"\r\n\r\n":
            head = parse_head(data[: end.start() - 1])
        if head is None or end is None:
            return self._unusual(method, data)
        exchange = _current.exchange
        if exchange is not None:
            exchange.answered(head, data[end.end() :])
        return _Answer(head)

    def _unusual(self: Any, method: str, data: bytes) -> Any:
        """Let http.client parse the head that begins with `data`."""
        response = self.response_class(_FileMaker(self.sock, data), method=method)
        try:
            response.begin()
        except BaseException:
            response.close()
            raise
        if response.will_close:
            self.close()
        return _wrapped(response, method)

    def connect(self: Any) -> None:
        super().connect()  # type: ignore[misc]
        _settled(self)


def _wrapped(response: http.client.HTTPResponse, method: str | None) -> urllib3.HTTPResponse:
    """Return http.client's answer as urllib3's pool knows it."""
    return urllib3.HTTPResponse(
        body=response,
        headers=urllib3.HTTPHeaderDict(response.msg.items()),
        status=response.status,
        version=response.version,
        reason=response.reason,
        preload_content=False,
        decode_content=False,
        original_response=response,
        request_method=method,
    )


class _Connection(_Plain, urllib3.connection.HTTPConnection):
    response_class = _Response

    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        if _current.exchange is not None:
            _current.exchange.connected(sock, encrypted=False)
        return sock


class _TLSConnection(_Plain, urllib3.connection.HTTPSConnection):
    response_class = _Response

    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        if _current.exchange is not None:
            _current.exchange.connected(sock, encrypted=True)
        return sock


def _settled(connection: _Connection | _TLSConnection) -> None:
    if connection.sock is not None:
        connection.sock.settimeout(None)
        if _current.exchange is not None:
            _current.exchange.bind(connection.sock)


def _about_to_send(connection: _Connection | _TLSConnection) -> None:
    if connection.sock is not None:
        connection.timeout = None  # or urllib3 would put the connect time-out on the upload
        if _current.exchange is not None:
            _current.exchange.bind(connection.sock)


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class _Route:
    """Where requests of one target and URL go: all that is the same for each of them."""

    __slots__ = ("headers", "path", "pool", "proxies", "url", "verify")

    def __init__(self, target: Target, url: str) -> None:
        self.url = url
        self.headers = target.headers()
        self.verify = target.verify
        self.proxies = target.proxies
        self.pool: Any = None
        self.path = ""


class _Request:
    """A POST on a route, as `HTTPAdapter.send` takes it: a `PreparedRequest` would be a tenth of a short stream."""

    method = "POST"

    def __init__(self, route: _Route, body: bytes) -> None:
        self.route = route
        self.url = route.url
        self.headers = {**route.headers, "Content-Length": str(len(body))}
        self.body = body


class _Headers(dict[str, str]):
    """An answer's headers by their names in lower case; several of one name are joined as HTTP has it."""

    def __init__(self, headers: Iterable[tuple[str, str]]) -> None:
        super().__init__()
        for name, value in headers:
            key = name.lower()
            self[key] = f"{self[key]}, {value}" if key in self else value

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


class _Answer:
    """An answer with a plain head: as much of a response as urllib3's pool and our exchange need of it."""

    __slots__ = ("_connection", "_pool", "headers", "retries", "status")

    version_string = "HTTP/1.1"
    length_remaining = None

    def __init__(self, head: Head) -> None:
        self.status = head.status
        self.headers = _Headers(head.headers)
        self.retries: Any = None
        self._pool: Any = None
        self._connection: Any = None

    def close(self) -> None:
        self._connection.close()

    def release_conn(self) -> None:
        self._pool._put_conn(self._connection)  # noqa: SLF001


class _Adapter(requests.adapters.HTTPAdapter):
    """A transport adapter that finds a route's pool once and gives the answer back as it came."""

    _pool_classes: ClassVar[dict[str, Any]] = {"http": _Pool, "https": _TLSPool}

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pool_classes

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        if proxy.lower().startswith("socks"):
            raise ConnectionFailedError(
                "SOCKS proxies are not supported: give an HTTP proxy", retryable=False
            )
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = self._pool_classes
        return manager

    def get_connection_with_tls_context(
        self, request: Any, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        route: _Route = request.route
        if route.pool is None:
            whole = requests.PreparedRequest()
            whole.method, whole.url = request.method, request.url
            pool = super().get_connection_with_tls_context(whole, verify, proxies, cert)
            super().cert_verify(pool, request.url, verify, cert)  # type: ignore[no-untyped-call]
            route.path = super().request_url(whole, proxies)
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
    """The kept-alive connections of one manager; thread-safe.

    `size` is how many idle connections are kept for one host: at least the number of streams that run at once.
    """

    _MOST_ROUTES = 1024

    def __init__(self, connect_timeout: float, size: int) -> None:
        # No pool is ever put out for another one: a stream may be using it.
        self._adapter = _Adapter(pool_connections=1 << 16, pool_maxsize=size, max_retries=0)
        self._timeout = (connect_timeout, None)
        self.reader = Reader()
        """Reads for all streams that wait for their server."""
        self._routes: dict[tuple[Target, str], _Route] = {}

    def send(self, exchange: User, target: Target, url: str, body: bytes) -> Any:
        """Send the request in the calling thread and return when the headers of the answer have come."""
        route = self._routes.get((target, url))
        if route is None:
            if len(self._routes) >= self._MOST_ROUTES:
                self._routes.clear()
            route = self._routes[target, url] = _Route(target, url)
        _current.exchange = exchange
        try:
            request: Any = _Request(route, body)
            return self._adapter.send(
                request,
                stream=True,
                timeout=self._timeout,
                verify=route.verify,
                proxies=route.proxies,
            )
        finally:
            _current.exchange = None

    def close(self) -> None:
        """Close the idle connections and end the shared reader."""
        self.reader.close()
        for manager in (self._adapter.poolmanager, *self._adapter.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118 - urllib3's container cannot be iterated
                pool = manager.pools.get(key)
                if pool is not None:
                    pool.close()  # urllib3 waits for it to be garbage, which somebody's traceback may delay
        self._adapter.close()
        self._routes.clear()


def close_quietly(response: Any) -> None:
    """Close a response of urllib3 or http.client, whatever state it is in."""
    with contextlib.suppress(OSError, ValueError, urllib3.exceptions.HTTPError):
        response.close()


def failure_of(
    error: BaseException, target: Target | None = None, *, connected: bool
) -> GeminiStreamsError | Interrupted:
    """Say in our words, and in plain text, what requests, urllib3, http.client or ssl raised.

    `connected`: the request had a connection.
    """
    if isinstance(error, GeminiStreamsError | Interrupted):
        return error.with_traceback(None)
    cause = _root(error)
    text = _in_plain_words(cause)
    if target is not None:
        text = target.words(text)  # it can quote the server or a proxy, which may quote our headers
    number = cause.errno if isinstance(cause, OSError) else None
    if number in (errno.EMFILE, errno.ENFILE):
        return ConnectionFailedError(
            "no file descriptor left for a connection: raise the soft limit (`ulimit -n`) or lower max_streams"
        )
    if isinstance(cause, ssl.SSLCertVerificationError):
        return ConnectionFailedError(
            f"the server's certificate does not verify: {cause.verify_message}", retryable=False
        )
    if isinstance(cause, ChunkedError):
        return ConnectionLostError(f"the answer's chunks are broken: {text}")
    if isinstance(cause, urllib3.exceptions.InvalidChunkLength):  # its text quotes what stands there
        return ConnectionLostError("the answer's chunks are broken")
    if not connected:
        where = "" if target is None else f" to {target.base_url}"
        return ConnectionFailedError(
            f"no connection{where}: {text}",
            retryable=not _is_about_a_bundle(error, cause),
        )
    if isinstance(cause, http.client.HTTPException) and not isinstance(cause, ConnectionError):
        if isinstance(cause, http.client.IncompleteRead):
            return ConnectionLostError("the connection was closed in the middle of the answer")
        return UnexpectedResponseError(f"the answer is no HTTP: {type(cause).__name__}")
    if isinstance(error, urllib3.exceptions.DecodeError):
        return UnexpectedResponseError("the answer's content coding is broken")
    return ConnectionLostError(f"the connection was lost: {text}")


def decoded(raw: Any) -> Callable[[int], bytes]:
    """Read a body with a content coding, through urllib3."""
    chunks: Iterator[bytes] | None = raw.stream(None, decode_content=True) if raw.chunked else None

    def read(size: int) -> bytes:
        if chunks is not None:
            return next((chunk for chunk in chunks if chunk), b"")
        while True:
            data: bytes = raw.read1(size, decode_content=True)
            if data or raw.closed or not raw.length_remaining:
                return data

    return read


def _is_about_a_bundle(error: BaseException, cause: BaseException) -> bool:
    """Whether it is `verify=` that is wrong: a file that is not there (requests' own word), or is no PEM.

    http.client says of a proxy's refusal what looks the same; it comes wrapped, requests' own word does not.
    """
    if isinstance(cause, ssl.SSLError):
        return cause.library == "X509"
    return type(error) is OSError and error.errno is None


def _root(error: BaseException) -> BaseException:
    """Return the exception that began it: requests wraps what urllib3 wrapped of what the system said."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, http.client.HTTPException):
            break  # what it stumbled over below is a parser's, and quotes what the server sent
        reason = getattr(error, "reason", None)
        inner = error.__cause__ or error.__context__
        if isinstance(reason, BaseException):
            inner = reason
        elif inner is None:
            inner = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
        if inner is None:
            break
        error = inner
    return error


def _in_plain_words(cause: BaseException) -> str:
    if isinstance(cause, TimeoutError) and cause.errno is None:
        return "connect_timeout passed"
    if isinstance(cause, http.client.RemoteDisconnected):
        return "the server closed it without an answer"
    if isinstance(cause, OSError) and cause.strerror:
        return str(cause.strerror)
    return f"{type(cause).__name__}: {cause}"
