"""An exchange that must not wait does not, whatever has come of what."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from gemini_streams.http.exchange import Exchange
from gemini_streams.http.http1 import Head
from kit.helpers import eventually
from kit.tls import TLSServer

UNTIL_THE_END = Head(200, "OK", [], chunked=False, length=None, keeps=False)


@pytest.fixture
def server() -> Iterator[TLSServer]:
    made = TLSServer()
    yield made
    made.close()


@pytest.mark.parametrize("lent", [False, True], ids=["own thread", "lent"])
def test_half_a_tls_record_is_not_waited_for(server: TLSServer, lent: bool) -> None:
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
    thread.join(20)
    assert not waited
    assert found == [None]
    with contextlib.ExitStack() as stack:
        if lent:
            stack.callback(exchange.take_back)
        assert eventually(exchange.read_now) == b"2" * 100
    assert server.client.gettimeout() is None


def test_what_is_left_of_a_record_is_taken_with_it(server: TLSServer) -> None:
    """The socket tells nothing of it, so nobody would be woken."""
    exchange = Exchange()
    exchange.bind(server.client)
    exchange.answered(UNTIL_THE_END, b"")
    assert exchange.lend()
    server.far.sendall(server.record(b"x" * 10_000))  # one record, and the first read is of 2 KiB
    assert eventually(exchange.read_now) == b"x" * 10_000
    assert exchange.read_now() is None
    exchange.take_back()
