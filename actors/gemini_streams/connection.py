"""One request over requests: send it, read what the socket has, end it from another thread.

The rules:

- One thread sends and reads; any thread may `interrupt()`, at any moment. It shuts the exchange's own socket down in
  both directions, which wakes a blocked connect's handshake, send or read at once, and never blocks itself. Until
  the connect system call returns there is no socket to shut; the thread then notices when it does.
- A connection that has gone back to the pool is never touched again: giving it back and shutting it down exclude
  each other by a lock.
- Sockets have no read time-out; `connect_timeout` bounds each address's connect and the handshake, nothing else.
  (urllib3 would apply it to the upload too.)
- A connection goes back to the pool only when its body was read to the end.
- No redirect is followed and no cookie kept: requests would carry the key's header to the new host. So a requests
  transport adapter is used, not a `Session`.
- Whatever requests, urllib3 and ssl raise leaves this module as an error of ours, holding plain text.

This is the only module that knows how requests, urllib3 and http.client hang together: the connection classes below
show the thread's exchange the socket as soon as there is one, and the body is read from that socket past urllib3
(a quarter of its cost). A body with a content coding goes through urllib3, which knows them.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import requests
import requests.adapters
import urllib3
import urllib3.connection
import urllib3.exceptions

from gemini_streams.chunked import ChunkedDecoder, ChunkedError
from gemini_streams.errors import (
    ConnectionFailedError,
    ConnectionLostError,
    GeminiStreamsError,
    UnexpectedResponseError,
)
from gemini_streams.gemini.endpoint import Target

__all__ = ["Connections", "Exchange", "Interrupted"]

_SMALLEST_READ = 2048
_LARGEST_READ = 262144
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER's value for a close that resets: an orderly one would wait behind what the server has not read yet."""


class Interrupted(Exception):  # noqa: N818 - it is no error: somebody asked for it
    """The exchange was interrupted from another thread."""


class _Current(threading.local):
    exchange: Exchange | None = None


_current = _Current()


class _FileMaker:
    """A socket as http.client's response takes it: something to make a file of, here with a small buffer.

    Only the headers go through it; a waiting stream would hold 8 KiB for nothing.
    """

    __slots__ = ("_sock",)

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def makefile(self, mode: str) -> Any:
        return self._sock.makefile(mode, _SMALLEST_READ)  # type: ignore[call-overload]


class _Response(http.client.HTTPResponse):
    """Shows itself to the thread's exchange: from here the body is read."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(_FileMaker(sock), *args, **kwargs)  # type: ignore[arg-type]
        if _current.exchange is not None:
            _current.exchange.response = self


class _Connection(urllib3.connection.HTTPConnection):
    response_class = _Response

    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        if _current.exchange is not None:
            _current.exchange.connected(sock, encrypted=False)
        return sock

    def connect(self) -> None:
        super().connect()
        _settled(self)

    def request(self, *args: Any, **kwargs: Any) -> None:
        _about_to_send(self)
        super().request(*args, **kwargs)


class _TLSConnection(urllib3.connection.HTTPSConnection):
    response_class = _Response

    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        if _current.exchange is not None:
            _current.exchange.connected(sock, encrypted=True)
        return sock

    def connect(self) -> None:
        super().connect()
        _settled(self)

    def request(self, *args: Any, **kwargs: Any) -> None:
        _about_to_send(self)
        super().request(*args, **kwargs)


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


class _Request(requests.PreparedRequest):
    """A POST on a route. Prepared without what requests would find out anew for each: a third of a short stream."""

    def __init__(self, route: _Route, body: bytes) -> None:
        super().__init__()
        self.route = route
        self.method = "POST"
        self.url = route.url
        headers: Any = {**route.headers, "Content-Length": str(len(body))}
        self.headers = headers
        self.body = body


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
            pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
            super().cert_verify(pool, request.url, verify, cert)  # type: ignore[no-untyped-call]
            route.path = super().request_url(request, proxies)
            route.pool = pool
        return route.pool

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing: the pool's was set when the route was made."""

    def request_url(self, request: Any, proxies: Any) -> str:  # noqa: ARG002 - requests' signature
        route: _Route = request.route
        return route.path

    def build_response(self, req: Any, resp: Any) -> requests.Response:  # noqa: ARG002
        response = requests.Response()
        response.status_code = resp.status
        response.headers = resp.headers
        response.raw = resp
        return response


class Connections:
    """The kept-alive connections of one manager; thread-safe.

    `size` is how many idle connections are kept for one host: at least the number of streams that run at once.
    """

    _MOST_ROUTES = 1024

    def __init__(self, connect_timeout: float, size: int) -> None:
        # No pool is ever put out for another one: a stream may be using it.
        self._adapter = _Adapter(pool_connections=1 << 16, pool_maxsize=size, max_retries=0)
        self._timeout = (connect_timeout, None)
        self._routes: dict[tuple[Target, str], _Route] = {}

    def send(self, exchange: Exchange, target: Target, url: str, body: bytes) -> requests.Response:
        """Send the request in the calling thread and return when the headers of the answer have come."""
        route = self._routes.get((target, url))
        if route is None:
            if len(self._routes) >= self._MOST_ROUTES:
                self._routes.clear()
            route = self._routes[target, url] = _Route(target, url)
        _current.exchange = exchange
        try:
            return self._adapter.send(
                _Request(route, body),
                stream=True,
                timeout=self._timeout,
                verify=route.verify,
                proxies=route.proxies,
            )
        finally:
            _current.exchange = None

    def close(self) -> None:
        """Close the idle connections."""
        for manager in (self._adapter.poolmanager, *self._adapter.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118 - urllib3's container cannot be iterated
                pool = manager.pools.get(key)
                if pool is not None:
                    pool.close()  # urllib3 waits for it to be garbage, which somebody's traceback may delay
        self._adapter.close()
        self._routes.clear()


class Exchange:
    """One request and its answer. All but `interrupt` is for the one thread that sends and reads.

    `on_connected` is called in that thread when there is a connection and the request is about to be sent.
    """

    __slots__ = (
        "_connected",
        "_filled",
        "_handshake",
        "_left",
        "_lock",
        "_on_connected",
        "_raw",
        "_read",
        "_size",
        "_sock",
        "_surplus",
        "_unchunk",
        "headers",
        "interrupted",
        "response",
        "status",
    )

    def __init__(self, on_connected: Callable[[], None] | None = None) -> None:
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None  # what interrupt() shuts down
        self._handshake: socket.socket | None = (
            None  # a second handle on the socket while TLS wraps the first
        )
        self._on_connected = on_connected
        self._connected = False
        self._raw: Any = None
        self._unchunk: ChunkedDecoder | None = None
        self._left: int | None = None  # bytes of the body still to come, where the server said how many
        self._read: Callable[[int], bytes] | None = None
        self._size = _SMALLEST_READ
        self._filled = False
        self._surplus = False
        self.response: http.client.HTTPResponse | None = None
        self.interrupted = False
        self.status = 0
        self.headers: Mapping[str, str] = {}

    # -- the sending and reading thread ------------------------------------------------------------------------------

    def send(self, connections: Connections, target: Target, url: str, body: bytes) -> None:
        """Send the request and wait for the answer's status and headers.

        Raises `Interrupted`, or what the table of errors says of connections.
        """
        failure: GeminiStreamsError | Interrupted
        try:
            answer = connections.send(self, target, url, body)
        except Exception as error:  # noqa: BLE001 - whatever the stack below raises is one failure of this exchange
            failure = self._failure(error, target)
        else:
            self.status = answer.status_code
            self.headers = answer.headers
            self._raw = answer.raw
            self._prepare()
            return
        self.close()
        raise failure

    def has_more(self) -> bool:
        """Whether more bytes are surely there already: the last read took all it could, and the socket has some."""
        sock = self._sock
        if not self._filled or sock is None:
            return False
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))

    def read(self) -> bytes:
        """Return the next bytes of the body, as many as there are; `b""` at its clean end. Blocks without a limit.

        Raises `Interrupted`, `ConnectionLostError`, `UnexpectedResponseError`.
        """
        try:
            return self._next_bytes()
        except Exception as error:  # noqa: BLE001
            failure = self._failure(error)
        self.close()
        raise failure

    def read_all(self, limit: int) -> bytes:
        """Return the body, or its first `limit` bytes; a broken end is an end.

        Read to its clean end, the connection goes back to the pool.
        """
        body = b""
        with contextlib.suppress(GeminiStreamsError):
            while len(body) < limit:
                data = self.read()
                if not data:
                    self.finish()
                    break
                body += data
        return body[:limit]

    def finish(self) -> None:
        """Give the connection back to the pool; the body must have been read to its clean end."""
        raw, response = self._raw, self.response
        with self._lock:
            interrupted, self._sock = self.interrupted, None
        surplus = self._surplus or (self._unchunk is not None and self._unchunk.surplus)
        self._raw = self._read = self.response = None
        if raw is not None:
            if response is not None:
                response.close()
            if (
                interrupted or surplus
            ):  # a server that says more than its answer is not to be listened to again
                raw.close()
            raw.release_conn()

    def close(self) -> None:
        """Close the connection."""
        raw, response = self._raw, self.response
        with self._lock:
            sock, self._sock = self._sock, None
            handshake, self._handshake = self._handshake, None
        self._raw = self._read = self.response = None
        if handshake is not None:
            handshake.close()
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        if response is not None:
            with contextlib.suppress(OSError, ValueError):
                response.close()
        if raw is not None:
            with contextlib.suppress(OSError, ValueError, urllib3.exceptions.HTTPError):
                raw.close()
        elif sock is not None:
            with contextlib.suppress(OSError):
                sock.close()

    # -- any thread --------------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """End the exchange: whatever it waits for ends at once, and it sends and reads nothing more."""
        with self._lock:
            self.interrupted = True
            for sock in (self._sock, self._handshake):
                if sock is not None:
                    with contextlib.suppress(OSError):
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                        # Past SSLSocket.shutdown, which would take the TLS state from under a blocked read.
                        socket.socket.shutdown(sock, socket.SHUT_RDWR)

    # -- called by the connection classes above, in the sending thread -----------------------------------------------

    def connected(self, sock: socket.socket, *, encrypted: bool) -> None:
        """Take note of a new socket; while TLS wraps it, of a second handle on it (wrapping takes the first away)."""
        if encrypted:
            try:
                with self._lock:
                    if not self.interrupted:
                        self._handshake = sock.dup()
                        return
            except OSError:  # no descriptor left
                sock.close()
                raise
        else:
            self.bind(sock)
            return
        sock.close()
        raise Interrupted

    def bind(self, sock: socket.socket) -> None:
        """Take note of the socket that this exchange uses from here on."""
        with self._lock:
            handshake, self._handshake = self._handshake, None
            if handshake is not None:
                handshake.close()
            interrupted = self.interrupted
            if not interrupted:
                self._sock = sock
        if interrupted:
            sock.close()
            raise Interrupted
        if not self._connected:
            self._connected = True
            if self._on_connected is not None:
                self._on_connected()

    # --

    def _prepare(self) -> None:
        """Choose how to read the body."""
        response = self.response
        coding = self.headers.get("Content-Encoding", "").strip().lower()
        if coding not in ("", "identity"):
            self._read = _decoded(self._raw)
            return
        if response is None or response.fp is None:
            self._read = lambda _size: b""
            return
        if response.chunked:
            self._unchunk = ChunkedDecoder()
        else:
            self._left = response.length
        self._read = response.fp.read1  # what came along with the headers, then the socket itself
        return

    def _next_bytes(self) -> bytes:
        read = self._read
        if read is None:
            return b""
        while True:
            unchunk = self._unchunk
            if self._left == 0 or (unchunk is not None and unchunk.done):
                self._filled = False
                return b""
            size = self._size
            data = read(size)
            got = len(data)
            if self.interrupted:
                raise Interrupted
            self._filled = got == size
            if self._filled:
                self._size = min(size * 4, _LARGEST_READ)
            elif got < size // 8 and size > _SMALLEST_READ:
                self._size = size // 2
            if unchunk is not None:
                if not data:
                    raise ConnectionLostError("the connection was closed in the middle of the answer")
                payload = unchunk.feed(data)
                if payload or unchunk.done:
                    self._straight()
                    return payload
                continue
            if self._left is not None:
                if not data:
                    raise ConnectionLostError("the connection was closed in the middle of the answer")
                if got > self._left:
                    data = data[: self._left]
                    self._surplus = True
                self._left -= len(data)
            self._straight()
            return data

    def _straight(self) -> None:
        """Read from the socket from here on: the response's own buffer is empty after one read."""
        response = self.response
        if self._sock is not None and response is not None and response.fp is not None:
            fp = response.fp
            if self._read == fp.read1:
                self._read = self._sock.recv

    def _failure(
        self, error: BaseException, target: Target | None = None
    ) -> GeminiStreamsError | Interrupted:
        """Say in our words, and in plain text, what went wrong below."""
        if self.interrupted:
            return Interrupted()
        if isinstance(error, GeminiStreamsError | Interrupted):
            return error.with_traceback(None)
        cause = _root(error)
        text = _in_plain_words(cause)
        if target is not None:
            text = target.scrub(text)  # it can quote the server or a proxy, which may quote our headers
        text = text[:200]  # only now: half a key is one too
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
        if not self._connected:
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


def _decoded(raw: Any) -> Callable[[int], bytes]:
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
