"""What a LocalGemini has seen: a record of each request, the gates where replies wait, and the open connections.

The rules:

- A test waits for what happened (`wait_request`, `gate(...).reached()`, `record.wait_closed()`), never for time.
- A record says what the server saw. `closed_at` is when it saw the client leave, or its own exchange's end;
  `bytes_sent` is what the socket took.
- The server's thread writes, any thread reads. Every wait of a test is one on the condition `changed`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol, cast

__all__ = ["Action", "Book", "Droppable", "Gate", "RequestRecord", "await_", "resolve"]

Action = Literal["generate", "create", "get", "stream", "cancel", "delete"]


class RequestRecord:
    """One request and what became of it, as the server saw it. Times are `time.monotonic()` seconds.

    The server's thread alone writes it, until `closed_at` is set. That may be a moment after the client has read
    the last byte: call `wait_closed` first. Any thread may read it, without the lock.
    """

    def __init__(
        self,
        changed: threading.Condition,
        connection: int,
        path: str,
        headers: dict[str, str],
        method: str = "POST",
    ) -> None:
        self._changed = changed
        self.number = 0
        """Counted from 1 over the server's life."""
        self.connection = connection
        """The connection's number, from 1; requests of one number came over the same connection."""
        self.method = method
        """The HTTP method."""
        self.action: Action | None = None
        """What it asks for; `None`: an address that the server does not know. `"create"` and its like are those of the
        Interactions API, `"stream"` a GET with `stream=true`."""
        self.interaction_id: str | None = None
        """The interaction that a request names, or that a POST has made; `None` where it is not stored."""
        self.last_event_id: str | None = None
        """Behind which event a GET asks for the stream."""
        self.path = path
        """With its query. Keys are masked here, in the headers and in the body, wherever they stand."""
        self.headers = headers
        """Names in lower case."""
        self.key_number: int | None = None
        """Which of the server's `keys` came with it."""
        self.token_number: int | None = None
        """Which of the server's `tokens` came with it."""
        self.vertex = False
        """Whether its path is Vertex AI's."""
        self.project: str | None = None
        """Of a path of Vertex AI; `None` in Express mode."""
        self.location: str | None = None
        self.model = ""
        """The model's name, with `tunedModels/` in front where it is one; an interaction's agent where it has one."""
        self.body: Any = None
        """The decoded JSON."""
        self.text = ""
        """The text parts of `contents`, joined by line ends: what patterns are matched against. Of an interaction: its
        `input`'s texts and function results; of one that only goes on with a token, the text of the one before."""
        self.pattern: str | Callable[[RequestRecord], bool] | None = None
        """The pattern that matched."""
        self.nth = 0
        """Which match of its pattern this request is; the first is 1."""
        self.stalled = False
        self.opened_at = time.monotonic()
        self.closed_at: float | None = None
        """When the server saw the client leave, or the exchange's end."""
        self.aborted_at: float | None = None
        """`closed_at` where the client left in the middle."""
        self.ended: Literal["complete", "cut", "reset", "client", "server"] | None = None
        """Wholly answered, broken off as scripted (two ways), left by the client, or closed by `close()`."""
        self.status: int | None = None
        self.events_sent = 0
        """Of a `Body`: pieces of its cut."""
        self.bytes_sent = 0
        """Bytes of the response, its head included, that the socket took; as fine as 16 KiB (TLS: 80 KiB)."""
        self.usage: dict[str, Any] | None = None
        """The last `usageMetadata` or `usage` that was sent."""

    @property
    def client_closed(self) -> bool:
        """Whether the client left in the middle."""
        return self.aborted_at is not None

    def wait_closed(self, timeout: float = 20.0) -> float:
        """Wait until the exchange has ended or the client has left; answer `closed_at`."""
        await_(self._changed, lambda: self.closed_at is not None, timeout, f"{self!r} is still open")
        return cast("float", self.closed_at)

    def __repr__(self) -> str:
        state = self.ended or "open"
        return (
            f"<request {self.number} on connection {self.connection}, {self.model}: {state},"
            f" {self.events_sent} events, {self.bytes_sent} bytes>"
        )

    def end(self, how: Literal["complete", "cut", "reset", "client", "server"]) -> None:
        """Write down how the exchange ended; the server's thread calls it, and the first call counts."""
        if self.closed_at is not None:
            return
        now = time.monotonic()
        with self._changed:
            self.closed_at, self.ended = now, how
            if how == "client":
                self.aborted_at = now
            self._changed.notify_all()


class Gate:
    """Where the replies of one pattern wait (`hold_after` and its like, `StallUpload`). Closed at first."""

    def __init__(self, changed: threading.Condition, name: str) -> None:
        self._changed = changed
        self._name = name
        self._open = False
        self._waiting: dict[asyncio.Future[None], asyncio.AbstractEventLoop] = {}
        self.arrivals = 0
        """Replies that have come to this gate so far, those that found it open included."""

    @property
    def waiting(self) -> int:
        """How many replies the gate holds now."""
        return len(self._waiting)

    def reached(self, timeout: float = 20.0, n: int = 1) -> bool:
        """Wait until `n` replies have come to this gate since the start; `TimeoutError` after `timeout` s."""
        text = f"fewer than {n} have come to the gate {self._name}"
        await_(self._changed, lambda: self.arrivals >= n, timeout, text)
        return True

    def open(self) -> None:
        """Let every reply that waits here go on, and every later one pass."""
        with self._changed:
            self._open = True
            waiting, self._waiting = self._waiting, {}
        for future, loop in waiting.items():
            with contextlib.suppress(RuntimeError):  # the server is closed: nothing waits any more
                loop.call_soon_threadsafe(resolve, future)

    def close(self) -> None:
        """Hold the replies that come from now on. A reply that has passed is not called back."""
        with self._changed:
            self._open = False

    async def pass_through(self) -> None:
        """Wait here until the gate is open. A coroutine of the server's thread."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._changed:
            self.arrivals += 1
            self._changed.notify_all()
            if self._open:
                return
            self._waiting[future] = loop
        try:
            await future
        finally:
            with self._changed:
                self._waiting.pop(future, None)


def resolve(future: asyncio.Future[None]) -> None:
    """Set the future, unless its waiter was cancelled."""
    if not future.done():
        future.set_result(None)


def await_(changed: threading.Condition, done: Callable[[], bool], timeout: float, text: str) -> None:
    """Wait until `done()`, which is called under the lock; `TimeoutError` with this text after `timeout` seconds."""
    with changed:
        if not changed.wait_for(done, timeout):
            raise TimeoutError(f"{text} after {timeout:g} s")


class Book:
    """What one server has seen. The server's thread writes it, tests' threads read it.

    | field                | written by                  | read                                              |
    |----------------------|-----------------------------|---------------------------------------------------|
    | `records`            | the server's thread, locked | under the lock                                    |
    | `connections`        | the server's thread, locked | under the lock; its length by any thread without  |
    | `connections_opened` | the server's thread         | by any thread without the lock                    |
    | `failures`           | the server's thread         | after the thread has ended                        |

    The lock is `changed`'s; each change that a test can wait for notifies it.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.records: list[RequestRecord] = []
        self.connections: set[Droppable] = set()
        self.connections_opened = 0
        self.failures: list[BaseException] = []
        """Errors of the test's own patterns and callables, and of this server."""

    def joined(self, connection: Droppable) -> None:
        """Note that a connection is open."""
        with self.changed:
            self.connections.add(connection)
            self.changed.notify_all()

    def left(self, connection: Droppable) -> None:
        """Note that a connection is closed."""
        with self.changed:
            self.connections.discard(connection)
            self.changed.notify_all()

    def arrived(self, record: RequestRecord) -> None:
        """Number a request and list it; a second call for the same one does nothing."""
        with self.changed:
            if record.number:
                return
            self.records.append(record)
            record.number = len(self.records)
            self.changed.notify_all()

    def wait_request(self, n: int, fits: Callable[[RequestRecord], bool], timeout: float) -> RequestRecord:
        """Wait for the `n`-th request that fits. `fits` is called under the lock."""

        def found() -> list[RequestRecord]:
            return [record for record in self.records if fits(record)]

        await_(self.changed, lambda: len(found()) >= n, timeout, f"fewer than {n} such requests have come")
        with self.changed:
            return found()[n - 1]


class Droppable(Protocol):
    """What others need to know of an open connection."""

    task: asyncio.Task[None] | None
    idle: bool
    """It waits for its next request."""

    def drop(self) -> None:
        """Close it, whatever is under way. In the server's thread."""
