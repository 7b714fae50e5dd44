"""Addresses where no request is ever answered. Each holds its sockets until `close`."""

from __future__ import annotations

import contextlib
import socket

__all__ = ["DeadEnds"]


class DeadEnds:
    """Makes the addresses and holds their sockets. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def close(self) -> None:
        """Close every socket."""
        for held in self._held:
            held.close()
        self._held.clear()

    def refused_url(self) -> str:
        """Return a URL whose port refuses every connection, until `close()`."""
        held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        held.bind(("127.0.0.1", 0))  # bound, so that no other program takes it, and not listening
        self._held.append(held)
        return f"http://127.0.0.1:{held.getsockname()[1]}"

    def mute_url(self, *, tls: bool = False) -> str:
        """Return a URL that takes connections and never says a word (`tls`: no handshake)."""
        held = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._held.append(held)
        return f"{'https' if tls else 'http'}://127.0.0.1:{held.getsockname()[1]}"

    def unconnectable_url(self) -> str:
        """Return a URL where connecting neither succeeds nor fails (Linux), until `close()`."""
        held = socket.create_server(("127.0.0.1", 0), backlog=0)
        self._held.append(held)
        for _ in range(4):  # fill the queue of connections that wait to be accepted
            filler = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self._held.append(filler)
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(held.getsockname())
        return f"http://127.0.0.1:{held.getsockname()[1]}"
