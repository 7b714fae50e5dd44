"""The dashboard's HTTP server: the standard library's request handler, and the bounds around it.

The rules:

- GET and HEAD alone, and only under a host name that is allowed. A page of another site, whose name was made to lead
  here, is refused for its `Host`.
- A browser that loads something of it into a page of another site is refused, by what it says in `Sec-Fetch-Site`.
- One connection, one request, one thread. At most `_CONNECTIONS` connections and `VIEWERS` viewers of `/events`; the
  next one is answered with 503.
- A connection that has not sent its request, or has not taken what it was sent, within `SLOW` seconds is closed. The
  actor's thread sees to that each second (`sweep`).
- Every answer has a content security policy that allows this server's own files alone, and no inline script.
- `close` leaves no thread and no socket.
"""

from __future__ import annotations

import contextlib
import http.server
import importlib.resources
import selectors
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from gemini_streams.extras.dashboard.view import View

__all__ = ["SLOW", "VIEWERS", "Server"]

VIEWERS = 8
SLOW = 15.0
"""Seconds; what takes as long is closed at the next look, at most a few seconds later."""
_CONNECTIONS = 64
_BUFFER = 1 << 17
_HEARTBEAT = 5.0
"""Seconds after which a viewer to whom nothing was sent is sent a comment."""

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_JSON = "application/json"


class _Connection:
    __slots__ = ("since", "socket", "thread")

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.since: float | None = time.monotonic()
        """Since when the client is waited for; `None` while it is not."""
        self.thread: threading.Thread | None = None


class Server:
    """Serves one view, from its making until `close`. Raises `OSError` where the address is not to be had."""

    def __init__(
        self,
        view: View,
        address: tuple[str, int],
        hosts: frozenset[str],
        metrics: Callable[[], Any] | None,
        came: Callable[[], None],
    ) -> None:
        self.view = view
        self.hosts = hosts
        self.metrics = metrics
        self.came = came
        """Called when a viewer has come; never blocks."""
        self.closed = threading.Event()
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()
        self._viewers = 0
        self._listener = socket.create_server(
            address, family=socket.AF_INET6 if ":" in address[0] else socket.AF_INET, backlog=32
        )
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._wake_in, self._wake_out = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name="gemini-streams-dashboard", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._close_sockets()
            raise

    # -- the actor's thread

    @property
    def watched(self) -> bool:
        """Whether a viewer is connected."""
        return self._viewers > 0

    def sweep(self) -> None:
        """Close the connections that were too slow."""
        late = time.monotonic() - SLOW
        with self._lock:
            slow = [c for c in self._connections if c.since is not None and c.since < late]
        for connection in slow:
            _hang_up(connection.socket)

    def close(self) -> None:
        """Close everything, and wait for its threads."""
        self.closed.set()
        with contextlib.suppress(OSError):
            self._wake_out.send(b"x")
        self._thread.join()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            _hang_up(connection.socket)
        with self.view.changed:
            self.view.changed.notify_all()
        for connection in connections:
            if connection.thread is not None:
                connection.thread.join(5.0)
        self._close_sockets()

    def _close_sockets(self) -> None:
        for sock in (self._listener, self._wake_in, self._wake_out):
            sock.close()

    # -- the thread that accepts

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake_in, selectors.EVENT_READ)
            while not self.closed.is_set():
                selector.select()
                if self.closed.is_set():
                    return
                try:
                    sock, peer = self._listener.accept()
                except OSError:  # the client has left; or descriptors ran out, and a moment helps
                    self.closed.wait(0.05)
                    continue
                self._serve(sock, peer)

    def _serve(self, sock: socket.socket, peer: Any) -> None:
        connection = _Connection(sock)
        with self._lock:
            full = len(self._connections) >= _CONNECTIONS
            if not full:
                self._connections.add(connection)
        if full:
            sock.close()
            return
        sock.settimeout(SLOW)
        with contextlib.suppress(OSError):  # what waits for a slow viewer is bounded
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        thread = connection.thread = threading.Thread(
            target=self._handle, args=(connection, peer), name="gemini-streams-dashboard-client", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # no thread is to be had
            self._leave(connection)

    def _leave(self, connection: _Connection) -> None:
        with self._lock:
            self._connections.discard(connection)
        connection.socket.close()

    # -- a client's thread

    def _handle(self, connection: _Connection, peer: Any) -> None:
        try:
            _Handler(self, connection, peer)
        except (OSError, ValueError):  # the client has left, was closed for its slowness, or speaks no HTTP
            pass
        finally:
            self._leave(connection)

    def enter(self) -> bool:
        """Take a viewer's place; `False` where there is none."""
        with self._lock:
            if self._viewers >= VIEWERS:
                return False
            self._viewers += 1
            return True

    def exit(self) -> None:
        """Give a viewer's place back."""
        with self._lock:
            self._viewers -= 1


def _hang_up(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


class _Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server_version = "gemini-streams"
    sys_version = ""

    def __init__(self, server: Server, connection: _Connection, peer: Any) -> None:
        self._server = server
        self._connection = connection
        super().__init__(connection.socket, peer, server)  # type: ignore[arg-type]

    def handle(self) -> None:
        """One alone."""
        self.close_connection = True
        self.handle_one_request()

    def log_message(self, *_: Any) -> None:
        """Log nothing: an application's standard error is its own."""

    def send_error(self, code: int, _message: str | None = None, _explain: str | None = None) -> None:
        """Answer with plain text, and not with what the client has sent."""
        if code == HTTPStatus.NOT_IMPLEMENTED:  # a method that there is no `do_…` for
            code = HTTPStatus.METHOD_NOT_ALLOWED
        self._answer(code, f"{HTTPStatus(code).phrase}\n".encode(), "text/plain; charset=utf-8")

    def do_HEAD(self) -> None:
        """As GET, without the body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer."""
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or _host_of(hosts[0]) not in self._server.hosts:
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and (
            self.headers.get("Sec-Fetch-Mode") != "navigate"
        ):  # a page of another site could read nothing of it, but would take viewers' places
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        parts = urlsplit(self.path)
        view = self._server.view
        match parts.path:
            case "/events":
                self._events()
            case "/streams.json":
                self._answer(200, view.streams_json(), _JSON)
            case "/tree.json":
                self._answer(200, view.tree_json(), _JSON)
            case "/stream.json":
                [run, *_] = parse_qs(parts.query).get("run", [""])
                found = view.stream_json(run)
                if found is None:
                    self.send_error(HTTPStatus.NOT_FOUND)
                else:
                    self._answer(200, found, _JSON)
            case "/metrics" if self._server.metrics is not None:
                self._answer(200, *self._server.metrics())
            case path if path in _FILES:
                name, kind = _FILES[path]
                folder = importlib.resources.files("gemini_streams.extras.dashboard") / "page"
                self._answer(200, (folder / name).read_bytes(), kind)
            case _:
                self.send_error(HTTPStatus.NOT_FOUND)

    def _head(self, code: int, kind: str, more: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**_HEADERS, "Content-Type": kind, "Connection": "close", **more}.items():
            self.send_header(name, value)
        self.end_headers()

    def _answer(self, code: int, body: bytes, kind: str) -> None:
        more = {"Content-Length": str(len(body))}
        if code == HTTPStatus.METHOD_NOT_ALLOWED:
            more["Allow"] = "GET, HEAD"
        if code == HTTPStatus.SERVICE_UNAVAILABLE:
            more["Retry-After"] = "10"
        self._head(code, kind, more)
        if getattr(self, "command", None) != "HEAD":
            self.wfile.write(body)

    def _events(self) -> None:
        server = self._server
        if self.command == "HEAD":
            self._head(200, "text/event-stream", {})
            return
        if not server.enter():
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        try:
            self._head(200, "text/event-stream", {"X-Accel-Buffering": "no"})
            self._send(b"retry: 1000\n\n")
            seen = server.view.number
            began = False
            server.came()
            while not server.closed.is_set():
                frame = server.view.after(seen, _HEARTBEAT, server.closed)
                if frame is None:
                    self._send(b": still here\n\n")
                    continue
                body = frame.change if began and frame.number == seen + 1 else frame.full
                self._send(b"data: " + body + b"\n\n")
                seen, began = frame.number, True
        finally:
            server.exit()

    def _send(self, data: bytes) -> None:
        self._connection.since = time.monotonic()
        self.wfile.write(data)
        self._connection.since = None


def _host_of(header: str) -> str:
    """Return the name in a Host header, without its port."""
    name = header.strip().lower()
    if name.startswith("["):
        address, closed, _port = name[1:].partition("]")
        return address if closed else ""
    return name.rpartition(":")[0] if ":" in name else name
