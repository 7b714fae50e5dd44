"""LocalGemini: a Gemini on loopback, a real HTTP/1.1 server that tests, demos and examples run on.

It speaks streamGenerateContent and the Interactions API, at the paths of the Gemini Developer API (`v1`, `v1beta`) and
of Vertex AI (with a project and a location, or as in Express mode); the same scripts answer all.

One thread of its own runs everything on an event loop, one task a connection, so that thousands of connections cost
little. Methods may be called from any thread. `close()` leaves no thread, no socket and no file.

Where what stands: the rules by which a request gets its answer in `script`, the answers in `replies`, their bytes in
`plans`, the words of streamGenerateContent in `generate`, those of the Interactions API in the modules named
`interaction…`, one connection in `connection`, what a test can see in `records`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Collection
from typing import Any, Self, cast

from gemini_streams.api.endpoint import Gemini
from gemini_streams.testing.authority import make_authority, remove_authority
from gemini_streams.testing.connection import Connection
from gemini_streams.testing.dead_ends import DeadEnds
from gemini_streams.testing.interaction_options import Interaction
from gemini_streams.testing.interactions import Interactions
from gemini_streams.testing.records import Book, Gate, RequestRecord, await_
from gemini_streams.testing.replies import AnswerSource
from gemini_streams.testing.script import Pattern, Script

__all__ = ["LocalGemini"]


class LocalGemini:
    """A Gemini on loopback: a context manager, or `start()` and `close()`.

    `tls=True`: over HTTPS, with a certificate authority made for the occasion (needs the extra `tls`).
    `keys`: the API keys it takes. `tokens`: the access tokens it takes at Vertex AI's paths. `None`: any.
    `pace`: seconds between two events where a reply names none.
    `interaction`: how its interactions behave where a reply does not say (`Interaction`).
    `sndbuf`, `rcvbuf`: the sockets' buffers in bytes, for tests of back-pressure. `port=0`: a free one. `host`: the
    address to listen at; anyone who reaches it is answered.
    """

    def __init__(
        self,
        *,
        tls: bool = False,
        keys: Collection[str] | None = ("local-key",),
        tokens: Collection[str] | None = ("local-token",),
        pace: float = 0.0,
        interaction: Interaction | None = None,
        sndbuf: int | None = None,
        rcvbuf: int | None = None,
        port: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        self.pace = pace
        self.interaction = interaction or Interaction()
        self.keys = tuple(keys) if keys is not None else None
        self.tokens = tuple(tokens) if tokens is not None else None
        self.ca_file: str | None = None
        """With TLS: the file of the authority to trust, until `close()`."""
        self._tls = tls
        self._sndbuf, self._rcvbuf = sndbuf, rcvbuf
        self._host, self._port = host, port
        self._book = Book()
        self._script = Script(self._book.changed)
        self._interactions = Interactions(self._book)
        self._dead_ends = DeadEnds()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._listener: socket.socket | None = None

    # -- life

    def start(self) -> Self:
        """Listen; return this server. An error of binding, or a missing trustme, is raised here."""
        if self._thread is not None:
            raise RuntimeError("this LocalGemini was started before; make a new one")
        context: ssl.SSLContext | None = None
        family, kind, protocol, _, address = socket.getaddrinfo(
            self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        if self._tls:
            context, self.ca_file = make_authority()
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for option, size in ((socket.SO_SNDBUF, self._sndbuf), (socket.SO_RCVBUF, self._rcvbuf)):
                if size is not None:
                    listener.setsockopt(socket.SOL_SOCKET, option, size)
            listener.bind(address)
            listener.listen(4096)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            remove_authority(self.ca_file)
            raise
        self._listener = listener
        self._port = listener.getsockname()[1]
        ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(listener, context, ready)), name="LocalGemini", daemon=True
        )
        self._thread.start()
        ready.wait()
        return self

    def close(self) -> None:
        """End every exchange and connection, the thread and the files; a second call does nothing.

        An error in a test's own pattern or answer callable is raised here.
        """
        thread = self._thread
        if thread is not None and thread.is_alive():
            loop, stop = cast("asyncio.AbstractEventLoop", self._loop), cast("asyncio.Event", self._stop)
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(stop.set)
            thread.join()
        self._dead_ends.close()
        remove_authority(self.ca_file)
        failures, self._book.failures = self._book.failures, []
        if failures:
            raise RuntimeError("LocalGemini's script failed") from failures[0]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: object, *_rest: object) -> None:
        try:
            self.close()
        except RuntimeError:
            if kind is None:
                raise

    # -- script

    def on(self, pattern: Pattern, *answers: AnswerSource) -> Self:
        """Answer the n-th request that matches with the n-th answer, all later ones with the last.

        `pattern`: a part of the prompt's text, or a callable of the request's record. The same pattern again:
        its answers are replaced, and it counts anew.
        """
        self._script.on(pattern, answers)
        return self

    def gate(self, pattern: Pattern) -> Gate:
        """Return the gate of `on(pattern, ...)`; it may be asked for before."""
        return self._script.gate(pattern)

    # -- where it is

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def url(self) -> str:
        """The base URL; on this machine, where it listens at every address."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self._host, self._host)  # noqa: S104
        return f"{'https' if self._tls else 'http'}://{f'[{host}]' if ':' in host else host}:{self._port}"

    @property
    def endpoint(self) -> Gemini:
        """The endpoint to give to a manager or a stream: this server with its first key."""
        key = self.keys[0] if self.keys else "local-key"
        return Gemini(
            api_key=key, base_url=self.url, verify=self.ca_file if self.ca_file is not None else True
        )

    def refused_url(self) -> str:
        """Return a URL whose port refuses every connection, until `close()`."""
        return self._dead_ends.refused_url()

    def mute_url(self, *, tls: bool = False) -> str:
        """Return a URL that takes connections and never says a word (`tls`: no handshake)."""
        return self._dead_ends.mute_url(tls=tls)

    def unconnectable_url(self) -> str:
        """Return a URL where connecting neither succeeds nor fails (Linux), until `close()`."""
        return self._dead_ends.unconnectable_url()

    # -- what happened

    @property
    def requests(self) -> list[RequestRecord]:
        """All requests whose body has arrived (or was stalled), in that order; refused ones included."""
        with self._book.changed:
            return list(self._book.records)

    @property
    def connections_opened(self) -> int:
        """How many connections the server has accepted so far, failed handshakes included."""
        return self._book.connections_opened

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._book.connections)

    def wait_request(self, n: int = 1, where: Pattern | None = None, timeout: float = 20.0) -> RequestRecord:
        """Wait for the `n`-th request that `where` fits, and return its record.

        `where`: a part of the request's text, or a callable of its record. `TimeoutError` after `timeout` seconds.
        """

        def fits(record: RequestRecord) -> bool:
            if where is None:
                return True
            return where in record.text if isinstance(where, str) else where(record)

        return self._book.wait_request(n, fits, timeout)

    def wait_open_connections(self, n: int, timeout: float = 20.0) -> None:
        """Wait until exactly `n` connections are open."""
        text = f"not exactly {n} connections are open"
        await_(self._book.changed, lambda: len(self._book.connections) == n, timeout, text)

    def close_idle(self) -> None:
        """Close every kept-alive connection that waits for its next request, as a server may at any time."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        done = threading.Event()

        def drop() -> None:
            for connection in list(self._book.connections):
                if connection.idle:
                    connection.drop()
            done.set()

        loop.call_soon_threadsafe(drop)
        done.wait(5.0)

    # -- in the server's thread

    async def _run(
        self, listener: socket.socket, context: ssl.SSLContext | None, ready: threading.Event
    ) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._unexpected)
        self._loop, self._stop = loop, asyncio.Event()
        ready.set()
        handshakes: set[asyncio.Task[None]] = set()
        self._accept(loop, listener, context, handshakes)
        await self._stop.wait()
        loop.remove_reader(listener)
        for task in handshakes:
            task.cancel()
        for connection in list(self._book.connections):
            connection.drop()
        exchanges = [connection.task for connection in self._book.connections if connection.task is not None]
        await asyncio.gather(*handshakes, *exchanges, return_exceptions=True)
        await self._interactions.close()
        listener.close()
        for _ in range(100):  # transports close their sockets a turn of the loop later
            if not self._book.connections:
                break
            await asyncio.sleep(0.001)

    def _unexpected(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not isinstance(error, OSError):  # a failed handshake is the client's fault
            self._book.failures.append(error)

    def _accept(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        context: ssl.SSLContext | None,
        handshakes: set[asyncio.Task[None]],
    ) -> None:
        """Accept connections, by a callback: a task that is cancelled may have a socket in hand."""

        def begin() -> None:
            if self._stop is not None and not self._stop.is_set():
                loop.add_reader(listener, accept)

        def accept() -> None:
            try:
                accepted, _ = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # out of descriptors, or the client has gone already
                loop.remove_reader(listener)
                loop.call_later(0.01, begin)
                return
            accepted.setblocking(False)
            with contextlib.suppress(OSError):  # each event leaves when it is written
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._book.connections_opened += 1
            task = asyncio.create_task(self._connect(accepted, context, self._book.connections_opened))
            handshakes.add(task)

            def done(task: asyncio.Task[None]) -> None:
                handshakes.discard(task)
                if task.cancelled():  # it may never have begun
                    accepted.close()

            task.add_done_callback(done)

        begin()

    async def _connect(self, accepted: socket.socket, context: ssl.SSLContext | None, number: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                lambda: Connection(self._book, self._script, self._interactions, self, number),
                accepted,
                ssl=context,
            )
        except OSError:
            accepted.close()
        except asyncio.CancelledError:
            accepted.close()
            raise
