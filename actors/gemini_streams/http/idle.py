"""The idle connections of one manager: kept alive for the next request of the same tenant.

The rules:

- A connection is kept for the tenant that opened it: the same base URL, key, headers, proxies and certificates. Bytes
  that a server sends unasked, before a request or behind an answer, can only reach the tenant of that connection.
- A connection on which bytes (decrypted or not) or the server's end have come while it was idle is closed, not used.
  It is looked at when it is put here, when it is taken, and every `LOOK_EVERY` seconds.
- Over TLS a readable socket proves nothing: session tickets and new keys come as records of their own. So the TLS
  layer is asked for a byte, not the socket.
- A connection is closed after `KEEP` seconds, by the manager's clock. There are at most `most`: one too many closes
  the one that has been here longest.
- No thread of its own: the clock's looks, without blocking, and only while there is something to look at.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Hashable
from typing import Any, NamedTuple, Protocol

from pykka_supervisor import Clock, Timer

__all__ = ["KEEP", "LOOK_EVERY", "IdleConnections", "Kept", "is_quiet"]

KEEP = 90.0
"""Seconds."""
LOOK_EVERY = 30.0
"""Seconds."""


class Kept(Protocol):
    """A connection that can be kept."""

    sock: Any

    def close(self) -> None:
        """Close it; never blocks."""


class _Idle(NamedTuple):
    owner: Hashable
    connection: Kept
    since: float
    """Monotonic seconds of the manager's clock."""


class IdleConnections:
    """Connections that wait for their owner's next request; thread-safe."""

    def __init__(self, most: int, clock: Clock) -> None:
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._all: dict[int, _Idle] = {}  # by number, the oldest first
        self._numbers: dict[Hashable, dict[int, None]] = {}  # of each owner's, the oldest first
        self._next = 0
        self._timer: Timer | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._all)

    def take(self, owner: Hashable) -> Any:
        """Take the owner's connection that was used last; `None` where none of them is fit to be used."""
        while True:
            with self._lock:
                numbers = self._numbers.get(owner)
                if not numbers:
                    return None
                idle = self._remove(next(reversed(numbers)))
            if self._clock.monotonic() - idle.since < KEEP and is_quiet(idle.connection.sock):
                return idle.connection
            idle.connection.close()

    def put(self, owner: Hashable, connection: Kept) -> None:
        """Keep a connection whose answer has been read to its end, or close it."""
        if not is_quiet(connection.sock):
            connection.close()
            return
        surplus: Kept | None = None
        with self._lock:
            if self._closed:
                surplus = connection
            else:
                if len(self._all) >= self._most:
                    surplus = self._remove(next(iter(self._all))).connection
                self._add(_Idle(owner, connection, self._clock.monotonic()))
            unwatched = self._timer is None and not self._closed
        if surplus is not None:
            surplus.close()
        if unwatched:
            self._look_later()

    def close(self) -> None:
        """Close them all, and every one that is put here from now on."""
        with self._lock:
            self._closed = True
            idle = list(self._all.values())
            self._all.clear()
            self._numbers.clear()
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        for one in idle:
            one.connection.close()

    # -- the clock's thread

    def _look(self) -> None:
        """Close the connections that are too old or no longer quiet."""
        oldest = self._clock.monotonic() - KEEP
        poll = select.poll()
        suspects: list[_Idle] = []
        with self._lock:
            self._timer = None
            numbers: dict[int, int] = {}
            for number, idle in list(self._all.items()):
                descriptor = -1 if idle.connection.sock is None else idle.connection.sock.fileno()
                if idle.since <= oldest or descriptor < 0:
                    suspects.append(self._remove(number))
                else:
                    numbers[descriptor] = number
                    poll.register(descriptor, select.POLLIN)
            suspects += [self._remove(numbers[descriptor]) for descriptor, _ in poll.poll(0)]
        for idle in suspects:
            if idle.since > oldest and is_quiet(idle.connection.sock):
                with self._lock:
                    if not self._closed and len(self._all) < self._most:
                        self._add(idle)
                        continue
            idle.connection.close()
        if self._all:
            self._look_later()

    # --

    def _look_later(self) -> None:
        try:
            timer = self._clock.call_later(LOOK_EVERY, self._look)
        except RuntimeError:  # no thread left for the clock: the next one that is put here tries again
            return
        with self._lock:
            if self._timer is None and not self._closed:
                self._timer = timer
                return
        timer.cancel()

    def _add(self, idle: _Idle) -> None:
        """With the lock held."""
        self._all[self._next] = idle
        self._numbers.setdefault(idle.owner, {})[self._next] = None
        self._next += 1

    def _remove(self, number: int) -> _Idle:
        """With the lock held."""
        idle = self._all.pop(number)
        numbers = self._numbers[idle.owner]
        del numbers[number]
        if not numbers:
            del self._numbers[idle.owner]
        return idle


def is_quiet(sock: Any) -> bool:
    """Whether the connection is open and nothing has come on it. Never blocks.

    It reads a byte to find out, which is lost: close a connection that is not quiet.
    """
    try:
        if isinstance(sock, ssl.SSLSocket):
            sock.settimeout(0)
            try:
                sock.recv(1)
            except ssl.SSLWantReadError:
                return True
            finally:
                sock.settimeout(None)
        elif isinstance(sock, socket.socket):
            sock.recv(1, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    except (OSError, ValueError):
        pass
    return False
