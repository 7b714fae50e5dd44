"""One request and its answer over a connection: send it, read what the socket has, end it from another thread.

The rules:

- One thread sends and reads; any thread may `interrupt()`, at any moment. It shuts the exchange's own socket down in
  both directions, which wakes a blocked connect's handshake, send or read at once, and never blocks itself. Until
  the connect system call returns there is no socket to shut; the thread then notices when it does.
- A connection that has been given back is never touched again: giving it back and shutting it down exclude each other
  by a lock.
- A connection is kept only where its body was read to its framing's end, and nothing stands behind that: in what was
  read here, in what TLS has decrypted, or in what the system holds.
- While it waits for the server it can be lent to a thread that waits for many (`lend`, `reader`): that one reads,
  without ever blocking, until it is taken back.
- What goes wrong below leaves this module as an error of ours, holding plain text.
- The body is read from the socket itself, which costs a third of the way through urllib3.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from typing import Any

from gemini_streams.api.credentials import Fetch
from gemini_streams.api.endpoint import Target
from gemini_streams.api.protocol import Call
from gemini_streams.api.tokens import PATIENCE
from gemini_streams.errors import ConnectionLostError, GeminiStreamsError, MissingCredentialsError
from gemini_streams.http.chunked import ChunkedDecoder, ChunkedError
from gemini_streams.http.connection import SMALLEST_READ
from gemini_streams.http.connections import Connections
from gemini_streams.http.content_coding import ContentDecoder
from gemini_streams.http.failures import Interrupted, failure_of
from gemini_streams.http.http1 import Head

__all__ = ["Exchange"]

_LARGEST_READ = 262144
_CUT = "the connection was closed in the middle of the answer"
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER's value for a close that resets: an orderly one would wait behind what the server has not read yet."""


class Exchange:
    """One request and its answer. All but `interrupt` is for the one thread that sends and reads.

    `on_connected` is called in that thread when there is a connection and the request is about to be sent.
    """

    __slots__ = (
        "_answer",
        "_broken",
        "_coding",
        "_connected",
        "_connections",
        "_direct",
        "_filled",
        "_handshake",
        "_keeps",
        "_left",
        "_leftover",
        "_lock",
        "_on_connected",
        "_quick",
        "_read",
        "_size",
        "_sock",
        "_surplus",
        "_target",
        "_unchunk",
        "_waits",
        "generation",
        "headers",
        "interrupted",
        "lent",
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
        self._connections: Connections | None = None
        self._target: Target | None = None
        self._answer: Any = None
        self._coding: ContentDecoder | None = None
        self._unchunk: ChunkedDecoder | None = None
        self._left: int | None = None  # bytes of the body still to come, where the server said how many
        self._leftover = b""  # what came along with the headers
        self._direct = False  # whether the body can be read without waiting
        self._keeps = True  # whether the connection can be used again behind the body
        self._read: Callable[[int], bytes] | None = None
        self._size = SMALLEST_READ
        self._filled = False
        self._quick = False  # whether `_chunks_now` reads the body
        self._surplus = False
        self._broken: ChunkedError | None = None  # chunks that are none, behind what was returned
        self._waits: threading.Event | None = None  # what a wait for credentials ends with
        self.generation = 0
        """Of the credentials' headers that were sent."""
        self.interrupted = False
        self.lent = False
        """Whether another thread reads."""
        self.status = 0
        self.headers: Mapping[str, str] = {}

    # -- the sending and reading thread ------------------------------------------------------------------------------

    def send(self, connections: Connections, target: Target, call: Call) -> None:
        """Send the request, once its credentials are there, and wait for the answer's status and headers.

        Raises `Interrupted`, `MissingCredentialsError`, or what the table of errors says of connections.
        """
        failure: GeminiStreamsError | Interrupted
        try:
            credentials = target.credentials
            while (fetch := credentials.fetching()) is not None:
                self._wait_for(fetch)
            self.generation = credentials.generation
            answer = connections.send(self, target, call)
        except Exception as error:  # noqa: BLE001 - whatever the stack below raises is one failure of this exchange
            failure = self._failure(error, target)
        else:
            self.status = answer.status
            self.headers = answer.headers
            self._connections, self._target, self._answer = connections, target, answer
            return
        self.close()
        raise failure

    def _wait_for(self, fetch: Fetch) -> None:
        """Wait for the credentials' headers, which another thread fetches for all that wait."""
        waits = threading.Event()
        with self._lock:
            if self.interrupted:
                raise Interrupted
            self._waits = waits
        fetch.add(waits.set)
        waits.wait(PATIENCE)
        with self._lock:
            self._waits = None
            if self.interrupted:
                raise Interrupted
        if not fetch.done:
            raise MissingCredentialsError(
                f"the credentials got no access token within {PATIENCE:g} s", retryable=True
            )
        fetch.check()

    def has_more(self) -> bool:
        """Whether more is surely there already: the last read took all it could, and the socket has some."""
        sock = self._sock
        if not self._filled or not self._direct or self._coding is not None or sock is None:
            return False
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))

    def read(self) -> bytes:
        """Return the next bytes of the body, as many as there are; `b""` at its clean end. Blocks without a limit.

        Raises `Interrupted`, `ConnectionLostError`, `UnexpectedResponseError`.
        """
        try:
            take = self._next_bytes if self._coding is None else self._next_piece
            data = take(self._read, now=False)
        except Exception as error:  # noqa: BLE001
            failure = self._failure(error)
        else:
            return b"" if data is None else data
        raise failure

    def read_now(self) -> bytes | None:
        """Do the same without waiting for the server: `None` where nothing has come.

        TLS inside of TLS is waited for all the same; such an exchange cannot be lent.
        """
        try:
            if self._quick:
                return self._chunks_now()
            take = self._next_bytes if self._coding is None else self._next_piece
            return take(self._read_now, now=True)
        except BlockingIOError:  # of `_chunks_now`
            return None
        except Exception as error:  # noqa: BLE001
            failure = self._failure(error)
        raise failure

    def lend(self) -> bool:
        """Make this an exchange whose `read_now` never blocks, for another thread; `False` where it cannot be that."""
        sock = self._sock
        if not self._direct or self._coding is not None or sock is None:
            return False
        if isinstance(sock, ssl.SSLSocket):
            try:
                sock.settimeout(0)
            except OSError:
                return False
        self.lent = True
        return True

    def take_back(self) -> None:
        """Read on in this thread."""
        self.lent = False
        sock = self._sock
        if isinstance(sock, ssl.SSLSocket):
            with contextlib.suppress(OSError):
                sock.settimeout(None)

    @property
    def whole(self) -> bool:
        """Whether all has been read of the connection that is the body's: it is not to be waited for."""
        unchunk = self._unchunk
        return self._left == 0 or (unchunk is not None and (unchunk.done or self._broken is not None))

    def fileno(self) -> int:
        """Return the socket's descriptor; -1 where there is none."""
        sock = self._sock
        return -1 if sock is None else sock.fileno()

    def read_all(self, limit: int) -> bytes:
        """Return the body, or its first `limit` bytes; a broken end is an end.

        Where it was read to its clean end, the connection is given back.
        """
        body = bytearray()
        with contextlib.suppress(GeminiStreamsError):
            while len(body) < limit:
                data = self.read()
                if not data:
                    self.finish()
                    break
                body += data
        return bytes(body[:limit])

    def finish(self) -> None:
        """Give the connection back, to be kept where it can be."""
        answer, self._answer, self._read = self._answer, None, None
        with self._lock:
            interrupted, self._sock = self.interrupted, None
        if answer is None:
            return
        unchunk = self._unchunk
        surplus = self._surplus or self._leftover or (unchunk is not None and unchunk.surplus)
        # A server that says more than its answer is not to be listened to again.
        if interrupted or surplus or not self._keeps or self._broken or not self.whole or not self._direct:
            answer.connection.close()
        elif self._connections is not None and self._target is not None:
            self._connections.keep(answer, self._target)

    def close(self) -> None:
        """Close the connection."""
        answer, self._answer, self._read = self._answer, None, None
        self._on_connected = None
        with self._lock:
            sock, self._sock = self._sock, None
            handshake, self._handshake = self._handshake, None
        if answer is sock is handshake is None:
            return
        if handshake is not None:
            handshake.close()
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            if answer is not None:
                answer.connection.close()
            elif sock is not None:
                sock.close()

    # -- any thread --------------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """End the exchange: whatever it waits for ends at once, and it sends and reads nothing more."""
        with self._lock:
            self.interrupted = True
            if self._waits is not None:
                self._waits.set()
            for sock in (self._sock, self._handshake):
                if sock is not None:
                    with contextlib.suppress(OSError):
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                        # Past SSLSocket.shutdown, which would take the TLS state from under a blocked read.
                        socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def enough(self) -> None:
        """Break off the wait for a handshake, or for the rest of a body."""
        with self._lock:
            for sock in (self._sock, self._handshake):
                if sock is not None:
                    with contextlib.suppress(OSError):
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

    def bind(self, sock: Any) -> None:
        """Take note of the socket that this exchange uses from here on."""
        within = sock if isinstance(sock, socket.socket) else sock.socket  # of urllib3's TLS inside of TLS
        with self._lock:
            handshake, self._handshake = self._handshake, None
            if handshake is not None:
                handshake.close()
            interrupted = self.interrupted
            if not interrupted:
                self._sock = within
        if interrupted:
            sock.close()
            raise Interrupted
        self._read = sock.recv
        self._direct = sock is within
        self._connected = True
        on_connected, self._on_connected = self._on_connected, None  # its owner may hold this exchange
        if on_connected is not None:
            on_connected()

    def answered(self, head: Head, leftover: bytes) -> None:
        """Take note of the answer's head and what came along behind it; the body is read from the socket."""
        self._keeps = head.keeps
        self._left = head.length
        self._unchunk = ChunkedDecoder() if head.chunked else None
        self._coding = ContentDecoder(head.codings) if head.codings else None
        self._leftover = leftover
        self._quick = head.chunked and not head.codings and type(self._sock) is socket.socket and self._direct

    # --

    def _read_now(self, size: int) -> bytes | None:
        """Take what the socket has."""
        sock = self._sock
        if not self._direct or sock is None:
            return None if self._read is None else self._read(size)
        if isinstance(sock, ssl.SSLSocket):
            return self._read_now_decrypted(sock, size)
        try:
            return sock.recv(size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def _read_now_decrypted(self, sock: ssl.SSLSocket, size: int) -> bytes | None:
        """Do that where a record of which a part has come must not be waited for."""
        own = not self.lent
        try:
            if own:
                sock.settimeout(0)
            data = sock.recv(size)
            while sock.pending():  # of a record that was read in part, the socket tells nothing
                data += sock.recv(size)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLWantWriteError:  # it has something to say first, and nobody takes that
            if own:
                sock.settimeout(None)
                return sock.recv(size)
            self.lent = False  # waiting for that is not the reader's
            return None
        finally:
            if own:
                with contextlib.suppress(OSError):
                    sock.settimeout(None)
        return data

    def _next_piece(self, read: Callable[[int], bytes | None] | None, *, now: bool) -> bytes | None:
        """Do the same with a coded body: read until there is something of it as it was before it was coded."""
        coding = self._coding
        while coding is not None:
            if self.interrupted:  # what has come already can unfold to very much, and to no event at all
                raise Interrupted
            piece = coding.take()
            if piece:
                return piece
            if piece is None:
                continue
            data = self._next_bytes(read, now=now)
            if data is None:
                return None
            if not data:
                coding.end()
                return b""
            coding.feed(data)
        return b""

    def _next_bytes(self, read: Callable[[int], bytes | None] | None, *, now: bool) -> bytes | None:
        """Read until there is something of the body; `now`: once, whatever comes of it."""
        if read is None:
            return b""
        while True:
            unchunk = self._unchunk
            if self.whole:
                self._filled = False
                if self._broken is not None:
                    raise self._broken
                return b""
            if self._leftover:
                data, self._leftover = self._leftover, b""
                self._filled = False
            else:
                got = read(self._size)
                if got is None:
                    return None
                data = got
                self._adapt(len(data))
            if self.interrupted:
                raise Interrupted
            if unchunk is not None:
                if not data:
                    raise ConnectionLostError(_CUT)
                payload = self._unchunked(unchunk, data)
                if payload or unchunk.done:
                    return payload
                if now:  # whoever reads for many does not go on here for as long as a server sends nothing
                    return None
                continue
            if self._left is not None:
                if not data:
                    raise ConnectionLostError(_CUT)
                if len(data) > self._left:
                    data = data[: self._left]
                    self._surplus = True
                self._left -= len(data)
            return data

    def _chunks_now(self) -> bytes | None:
        """Do that for chunks over plain TCP, as most answers come, without a step for what cannot be.

        Raises BlockingIOError where nothing has come.
        """
        unchunk: Any = self._unchunk
        if self._leftover or unchunk.done or self._broken is not None:
            return self._next_bytes(self._read_now, now=True)
        sock: Any = self._sock
        if sock is None:
            raise Interrupted
        data = sock.recv(self._size, socket.MSG_DONTWAIT)
        self._adapt(len(data))
        if not data or self.interrupted:
            self._quick = False
            raise Interrupted if self.interrupted else ConnectionLostError(_CUT)
        payload = self._unchunked(unchunk, data)
        return payload if payload or unchunk.done else None

    def _unchunked(self, unchunk: ChunkedDecoder, data: bytes) -> bytes:
        try:
            return unchunk.feed(data)
        except ChunkedError as error:
            if not error.payload:
                raise
            self._broken = error  # told behind what came before it
            return error.payload

    def _adapt(self, got: int) -> None:
        """Read more at once where a read was filled, less where it was nearly empty."""
        size = self._size
        self._filled = got == size
        if self._filled:
            self._size = min(size * 4, _LARGEST_READ)
        elif got < size // 8 and size > SMALLEST_READ:
            self._size = size // 2

    def _failure(
        self, error: BaseException, target: Target | None = None
    ) -> GeminiStreamsError | Interrupted:
        """Say in our words, and in plain text, what went wrong below."""
        if self.interrupted:
            return Interrupted()
        return failure_of(error, target, connected=self._connected)
