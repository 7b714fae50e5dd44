"""An exchange that must not wait does not, whatever has come of what."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest

from gemini_streams.http.exchange import Exchange
from gemini_streams.http.http1 import Head
from streams.helpers import eventually

trustme = pytest.importorskip("trustme", reason="the extra `tls` is not installed")

UNTIL_THE_END = Head(200, "OK", [], chunked=False, length=None, keeps=False)


class Server:
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


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.mark.parametrize("lent", [False, True], ids=["own thread", "lent"])
def test_half_a_tls_record_is_not_waited_for(server: Server, lent: bool) -> None:
    exchange = Exchange()
    exchange.bind(server.client)
    exchange.answered(UNTIL_THE_END, b"")
    one, two = server.record(b"1" * 100), server.record(b"2" * 100)
    if lent:
        assert exchange.lend()
    server.far.sendall(one + two[:20])
    assert eventually(exchange.read_now) == b"1" * 100
    found: list[bytes | None] = []
    thread = threading.Thread(target=lambda: found.append(exchange.read_now()), daemon=True)
    thread.start()
    thread.join(2)
    waited = thread.is_alive()
    server.far.sendall(two[20:])
    thread.join(5)
    assert not waited
    assert found == [None]
    with contextlib.ExitStack() as stack:
        if lent:
            stack.callback(exchange.take_back)
        assert eventually(exchange.read_now) == b"2" * 100
    assert server.client.gettimeout() is None


def test_what_is_left_of_a_record_is_taken_with_it(server: Server) -> None:
    """The socket tells nothing of it, so nobody would be woken."""
    exchange = Exchange()
    exchange.bind(server.client)
    exchange.answered(UNTIL_THE_END, b"")
    assert exchange.lend()
    server.far.sendall(server.record(b"x" * 10_000))  # one record, and the first read is of 2 KiB
    assert eventually(exchange.read_now) == b"x" * 10_000
    assert exchange.read_now() is None
    exchange.take_back()
