"""Whose connection is whose, which of them are kept, and for how long."""

from __future__ import annotations

import gzip
import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from conftest import StartManager
from gemini_streams import APIError, Gemini, ManagerRef, StreamComplete, StreamError
from gemini_streams.http.connection import SMALLEST_READ
from gemini_streams.http.idle import KEEP, LOOK_EVERY, IdleConnections, is_quiet
from gemini_streams.testing import LocalGemini, Raw
from kit.helpers import LAST, ONCE, eventually, text_of
from kit.replies import CHUNKED, GZIP, answer, body, chunked, refusal
from kit.tls import TLSServer
from pykka_supervisor.testing import Probe, TestClock

MINE, STOLEN = body("mine"), body("stolen")
PACKED = gzip.compress(MINE)
ERROR = json.dumps({"error": {"code": 403, "message": "mine", "status": "PERMISSION_DENIED"}}).encode()


def length(data: bytes) -> bytes:
    return b"Content-Length: %d" % len(data)


NEXT = answer(length(STOLEN)) + STOLEN
"""A whole answer that nobody has asked for."""

FRAMINGS: dict[str, bytes] = {
    "a length": answer(length(MINE)) + MINE,
    "chunks": answer(CHUNKED) + chunked(MINE),
    "chunks and trailers": answer(CHUNKED) + chunked(MINE)[:-2] + b"X-Trailer: a\r\n\r\n",
    "gzip of a length": answer(GZIP, length(PACKED)) + PACKED,
    "gzip in chunks": answer(GZIP, CHUNKED) + chunked(PACKED[:9], PACKED[9:]),
    "an error of a length": refusal(length(ERROR)) + ERROR,
    "an error in chunks": refusal(CHUNKED) + chunked(ERROR),
    "an error in gzip": refusal(GZIP, length(gzip.compress(ERROR))) + gzip.compress(ERROR),
    "an error without a body": refusal(b"Content-Length: 0"),
    "a folded head": answer(b"X: a\r\n b", length(MINE)) + MINE,
    "line feeds": answer(length(MINE), end=b"\n") + MINE,
    "an interim answer": b"HTTP/1.1 103 Early Hints\r\n\r\n" + answer(length(MINE)) + MINE,
    "one length twice": answer(length(MINE), length(MINE)) + MINE,
    "a length and chunks": answer(b"Content-Length: 5", CHUNKED) + chunked(MINE),
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "a redirect": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n",
}


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def server(request: pytest.FixtureRequest) -> Iterator[LocalGemini]:
    with LocalGemini(tls=request.param, keys=None) as made:
        yield made


def tenant(server: LocalGemini, key: str) -> Gemini:
    return Gemini(api_key=key, base_url=server.url, verify=server.ca_file or True, proxies={})


def ask(manager: ManagerRef, probe: Probe, prompt: str, endpoint: Gemini) -> str:
    stream_id = manager.start_stream(prompt, subscriber=probe.ref, endpoint=endpoint)
    last = probe.expect(LAST, lambda m: m.stream_id == stream_id)
    if isinstance(last, StreamError):
        return last.error.message if isinstance(last.error, APIError) else type(last.error).__name__
    assert isinstance(last, StreamComplete)
    return text_of(probe, stream_id)


def filled(whole: bytes, size: int) -> bytes:
    """The same answer, made so long that it ends where a read of `size` bytes ends."""
    start, end, rest = whole.rpartition(b"HTTP/1.1")
    line, line_end, rest = rest.partition(b"\n")
    pad = b"X-Pad: " + b"x" * (size - len(whole) - 8) + b"\n"
    assert len(start + end + line + line_end + pad + rest) == size
    return start + end + line + line_end + pad + rest


@pytest.mark.parametrize("surplus", ["in one read", "in one record", "later"])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_bytes_behind_an_answer_are_nobodys(
    server: LocalGemini, manager: StartManager, probe: Probe, framing: str, surplus: str
) -> None:
    """Over TLS those of the same record wait decrypted, where the socket tells nothing of them."""
    whole = FRAMINGS[framing]
    match surplus:
        case "in one read":
            sent: list[bytes | float] = [whole + NEXT]
        case "in one record":
            sent = [filled(whole, SMALLEST_READ) + NEXT]
        case _:
            sent = [whole, 0.01, NEXT]
    server.on("first", Raw(sent, "keep"))
    server.on("second", Raw(answer(CHUNKED) + chunked(body("theirs")), "keep"))
    running = manager(retry=ONCE)
    one, other = tenant(server, "key-one"), tenant(server, "key-two")
    assert "stolen" not in ask(running, probe, "first", one)
    server.requests[0].wait_closed()
    assert ask(running, probe, "second", other) == "theirs"
    assert ask(running, probe, "second", one) == "theirs"
    assert ask(running, probe, "second", other) == "theirs"
    numbers = [record.connection for record in server.requests]
    assert numbers[1] == numbers[3]  # an answer with nothing behind it keeps its connection
    assert len({numbers[0], numbers[1], numbers[2]}) == 3


def test_two_tenants_share_no_connection(server: LocalGemini, manager: StartManager, probe: Probe) -> None:
    """What a server sends in the moment of a request cannot be told from an answer to it."""
    server.on("", Raw(answer(CHUNKED) + chunked(body("fine")), "keep"))
    running = manager(retry=ONCE)
    for _ in range(3):
        for key in ("key-one", "key-two"):
            assert ask(running, probe, "why", tenant(server, key)) == "fine"
    assert [record.connection for record in server.requests] == [1, 2] * 3
    assert server.connections_opened == 2


def test_one_tenants_streams_share_one_connection(
    server: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    """Over TLS, too: the server's session tickets make its socket readable."""
    running = manager(retry=ONCE)
    for framing in ("chunks", "gzip in chunks", "a folded head", "an error of a length"):
        server.on(framing, Raw(FRAMINGS[framing], "keep"))
        for _ in range(3):
            assert ask(running, probe, framing, tenant(server, "key")) == "mine"
    assert server.connections_opened == 1


# -- idle connections -------------------------------------------------------------------------------------------------


class Connection:
    """As much of a connection as can be kept."""

    def __init__(self) -> None:
        self.sock: Any
        self.sock, self.far = socket.socketpair()

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()
        self.sock = None


@pytest.fixture
def connections() -> Iterator[Callable[[], Connection]]:
    made: list[Connection] = []

    def make() -> Connection:
        made.append(Connection())
        return made[-1]

    yield make
    for one in made:
        one.close()
        one.far.close()


def test_the_one_used_last_is_taken_first(connections: Callable[[], Connection], clock: TestClock) -> None:
    idle = IdleConnections(10, clock)
    one, two, others = connections(), connections(), connections()
    idle.put("a", one)
    idle.put("a", two)
    idle.put("b", others)
    assert [idle.take("a"), idle.take("a"), idle.take("a"), idle.take("c")] == [two, one, None, None]
    idle.close()
    assert others.sock is None
    idle.put("a", one)
    assert one.sock is None
    assert clock.pending() == 0


@pytest.mark.parametrize("happens", ["bytes", "end"])
def test_what_is_not_quiet_is_closed_when_it_is_put_taken_or_looked_at(
    connections: Callable[[], Connection], clock: TestClock, happens: str
) -> None:
    def happen(connection: Connection) -> None:
        if happens == "bytes":
            connection.far.send(b"H")
        else:
            connection.far.close()

    idle = IdleConnections(10, clock)
    at_put, at_take, at_look, quiet = (connections() for _ in range(4))
    happen(at_put)
    idle.put("a", at_put)
    assert at_put.sock is None
    assert len(idle) == 0

    for connection in (quiet, at_take):
        idle.put("a", connection)
    idle.put("b", at_look)
    happen(at_take)
    happen(at_look)
    assert idle.take("a") is quiet
    assert at_take.sock is None
    idle.put("a", quiet)
    clock.advance(LOOK_EVERY)
    assert at_look.sock is None
    assert quiet.sock is not None
    assert len(idle) == 1
    idle.close()


def test_a_connection_grows_old(connections: Callable[[], Connection], clock: TestClock) -> None:
    idle = IdleConnections(10, clock)
    old, young = connections(), connections()
    idle.put("a", old)
    clock.advance(KEEP - LOOK_EVERY)
    idle.put("a", young)
    clock.advance(LOOK_EVERY)
    assert old.sock is None
    assert young.sock is not None
    clock.advance(KEEP)
    assert young.sock is None
    assert clock.pending() == 0


def test_a_connection_that_has_grown_old_between_two_looks_is_not_taken(
    connections: Callable[[], Connection], clock: TestClock
) -> None:
    idle = IdleConnections(10, clock)
    idle.put("b", connections())
    clock.advance(1)
    last = connections()
    idle.put("a", last)
    clock.advance(KEEP)
    assert last.sock is not None
    assert idle.take("a") is None
    assert last.sock is None
    idle.close()


def test_one_too_many_puts_the_oldest_out(connections: Callable[[], Connection], clock: TestClock) -> None:
    idle = IdleConnections(2, clock)
    made = [connections() for _ in range(3)]
    for owner, connection in zip("aba", made, strict=True):
        idle.put(owner, connection)
    assert made[0].sock is None
    assert len(idle) == 2
    assert idle.take("a") is made[2]
    assert idle.take("b") is made[1]
    assert idle.take("a") is None
    idle.close()


def test_idle_connections_are_put_and_taken_by_many(
    connections: Callable[[], Connection], clock: TestClock
) -> None:
    """No connection is ever two threads'."""
    idle = IdleConnections(6, clock)
    in_use: set[int] = set()
    twice: list[Connection] = []

    def use(owner: str) -> None:
        for _ in range(200):
            connection = idle.take(owner) or connections()
            if id(connection) in in_use:
                twice.append(connection)
            in_use.add(id(connection))
            in_use.discard(id(connection))
            idle.put(owner, connection)

    threads = [threading.Thread(target=use, args=(owner,)) for owner in "aabbc"]
    for thread in threads:
        thread.start()
    for _ in range(50):
        clock.advance(LOOK_EVERY)
    for thread in threads:
        thread.join(20)
    assert not twice
    assert len(idle) <= 6
    idle.close()


def test_tickets_do_not_disturb_the_quiet_over_tls() -> None:
    server = TLSServer(hold_tickets=True)
    try:
        assert is_quiet(server.client)
        server.far.sendall(server.tickets)
        poll = select.poll()
        poll.register(server.client, select.POLLIN)
        assert poll.poll(5000)
        assert is_quiet(server.client)
        assert server.client.gettimeout() is None
        server.far.sendall(server.record(b"H")[:9])
        assert is_quiet(server.client)  # nobody can see half a record
        server.far.sendall(server.record(b"H"))
        server.far.close()
        assert not is_quiet(server.client)
    finally:
        server.close()


@pytest.mark.parametrize("end", ["decrypted", "one record", "close_notify", "no close_notify"])
def test_over_tls_what_has_come_is_seen_decrypted_or_not(end: str) -> None:
    server = TLSServer()
    server.client.suppress_ragged_eofs = False  # type: ignore[attr-defined]
    try:
        match end:
            case "decrypted":
                server.far.sendall(server.record(b"answer and more"))
                assert server.client.recv(6) == b"answer"
            case "one record":
                server.far.sendall(server.record(b"more"))
            case "close_notify":
                server.far.sendall(server.goodbye())
            case "no close_notify":
                server.far.close()
        eventually(lambda: not is_quiet(server.client))
    finally:
        server.close()


def test_a_connection_without_a_socket_is_not_quiet() -> None:
    assert not is_quiet(None)
    near, far = socket.socketpair()
    near.close()
    assert not is_quiet(near)
    far.close()
