"""The other end of a TLS connection, without a socket of its own: its records are sent when a test says."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

import pytest

trustme = pytest.importorskip("trustme", reason="the extra `tls` is not installed")


class TLSServer:
    """The other end of a TLS connection, whose records can be sent in pieces."""

    def __init__(self, *, hold_tickets: bool = False) -> None:
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        trusting.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        near, self.far = socket.socketpair()
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self.tickets = b""
        """What the server says behind the handshake, where that is held back."""
        thread = threading.Thread(target=self._shake_hands, args=(hold_tickets,))
        thread.start()
        self.client = trusting.wrap_socket(near, server_hostname="localhost")
        thread.join()

    def _shake_hands(self, hold_tickets: bool) -> None:
        while True:
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            said = self._out.read()
            if done and hold_tickets:
                self.tickets = said
                return
            self.far.sendall(said)
            if done:
                return
            self._in.write(self.far.recv(65536))

    def record(self, data: bytes) -> bytes:
        self._tls.write(data)
        return self._out.read()

    def goodbye(self) -> bytes:
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        return self._out.read()

    def close(self) -> None:
        self.far.close()
        self.client.close()
