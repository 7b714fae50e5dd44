"""A connection that ends too early: what is asked again at once, what costs an attempt, and what is no clean end."""

from __future__ import annotations

import gc
import select
import socket
import ssl
import struct
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import StartManager
from gemini_streams import (
    ConnectionLostError,
    Gemini,
    ManagerRef,
    RetryPolicy,
    StreamComplete,
    StreamError,
    StreamRestarting,
)
from gemini_streams.api.protocol import Call
from gemini_streams.http.connections import Connections
from gemini_streams.http.exchange import Exchange
from gemini_streams.http.idle import LOOK_EVERY, IdleConnections
from gemini_streams.testing import Body, LocalGemini, Raw
from kit.helpers import LAST, ONCE, eventually, last_of, text_of
from kit.raw import read_request, serving
from kit.replies import CHUNKED, answer, body, chunked
from pykka_supervisor import SYSTEM_CLOCK
from pykka_supervisor.testing import Probe, TestClock

trustme = pytest.importorskip("trustme", reason="the extra `tls` is not installed")

WHOLE = answer(CHUNKED) + chunked(body("fine"))
NOW = RetryPolicy(attempts=3, initial_delay=0, jitter=0)
SEES_ACKNOWLEDGEMENTS = sys.platform == "linux"
RESET = struct.pack("ii", 1, 0)


class Server:
    """Answers each request, but for those that a test does something else with, on the connection of its number."""

    def __init__(self, tls: tuple[ssl.SSLContext, str] | None) -> None:
        self.tls = tls
        self.connections = 0
        self.seen: list[int] = []
        """The connection of each request that was read to its end."""
        self.first_answered = threading.Event()
        self.go: dict[int, threading.Event] = defaultdict(threading.Event)
        """By the client's port: the connection is about to be used again."""
        self.instead: Callable[[socket.socket, int], bool] = lambda _sock, _number: False

    def serve(self, sock: socket.socket, number: int) -> None:
        self.connections = max(self.connections, number)
        while not self.instead(sock, number) and read_request(sock):
            self.seen.append(number)
            sock.sendall(WHOLE)
            self.first_answered.set()

    def endpoint(self, port: int) -> Gemini:
        scheme, verify = ("http", "") if self.tls is None else ("https", self.tls[1])
        return Gemini("k", f"{scheme}://127.0.0.1:{port}", verify=verify or True, proxies={})


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Server:
    if not request.param:
        return Server(None)
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(bundle)
    return Server((context, str(bundle)))


@pytest.fixture
def port(server: Server) -> Iterator[int]:
    with serving(server.serve, server.tls[0] if server.tls else None) as port:
        yield port


def ask(manager: ManagerRef, probe: Probe, endpoint: Gemini, prompt: Any = "why") -> Any:
    stream_id = manager.start_stream(prompt, subscriber=probe.ref, endpoint=endpoint)
    return last_of(probe, stream_id, timeout=20)


def restarts(probe: Probe) -> list[StreamRestarting]:
    return [m for m in probe.messages if isinstance(m, StreamRestarting)]


def leave(sock: socket.socket, *, reset: bool) -> None:
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


@pytest.fixture
def closed_in_between(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's end comes when the connection has been looked at and the request is about to be sent."""
    take = IdleConnections.take

    def taken(self: IdleConnections, owner: Any) -> Any:
        connection = take(self, owner)
        if connection is not None:
            server.go[connection.sock.getsockname()[1]].set()
            poll = select.poll()
            poll.register(connection.sock, select.POLLIN)
            assert poll.poll(5000)
        return connection

    monkeypatch.setattr(IdleConnections, "take", taken)


@pytest.mark.skipif(not SEES_ACKNOWLEDGEMENTS, reason="only Linux tells what was acknowledged")
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.usefixtures("closed_in_between")
def test_a_kept_connection_that_ends_as_the_request_is_sent_costs_no_attempt(
    server: Server, port: int, manager: StartManager, probe: Probe, reset: bool
) -> None:
    def instead(sock: socket.socket, number: int) -> bool:
        if number == 1 and server.first_answered.is_set():
            server.go[sock.getpeername()[1]].wait(20)
            leave(sock, reset=reset)
            return True
        return False

    server.instead = instead
    running = manager(retry=ONCE)
    for _ in range(2):
        last = ask(running, probe, server.endpoint(port))
        assert isinstance(last, StreamComplete), last
        assert last.attempts == 1
    assert restarts(probe) == []
    assert server.seen == [1, 2]


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_request_that_the_server_has_read_is_not_sent_again_unasked(
    server: Server, port: int, manager: StartManager, probe: Probe, reset: bool
) -> None:
    """It may have been billed: that is the policy's to decide, and told."""

    def instead(sock: socket.socket, number: int) -> bool:
        if number == 1 and server.first_answered.is_set():
            assert read_request(sock)
            server.seen.append(number)
            leave(sock, reset=reset)
            return True
        return False

    server.instead = instead
    running = manager(retry=NOW)
    assert ask(running, probe, server.endpoint(port)).attempts == 1
    last = ask(running, probe, server.endpoint(port))
    assert isinstance(last, StreamComplete)
    assert last.attempts == 2
    assert [type(m.error) for m in restarts(probe)] == [ConnectionLostError]
    assert server.seen == [1, 1, 2]


@pytest.mark.skipif(not SEES_ACKNOWLEDGEMENTS, reason="only Linux tells what was acknowledged")
@pytest.mark.usefixtures("closed_in_between")
def test_what_is_sent_a_second_time_is_sent_on_a_new_connection(
    server: Server, port: int, manager: StartManager, probe: Probe
) -> None:
    """Another idle one may be about to end, too: servers close them in rows."""
    both = threading.Barrier(2)

    def instead(sock: socket.socket, number: int) -> bool:
        if number > 2:
            return False
        assert read_request(sock)
        both.wait(20)
        sock.sendall(WHOLE)
        server.go[sock.getpeername()[1]].wait(20)
        leave(sock, reset=False)
        return True

    server.instead = instead
    running = manager(retry=ONCE)
    for _ in range(2):
        running.start_stream("why", subscriber=probe.ref, endpoint=server.endpoint(port))
    for _ in range(2):
        assert isinstance(probe.expect(LAST), StreamComplete)
    assert isinstance(ask(running, probe, server.endpoint(port)), StreamComplete)
    assert server.seen == [3]
    for go in server.go.values():
        go.set()


def test_an_upload_that_the_server_breaks_off_on_a_kept_connection_costs_no_attempt(
    server: Server, port: int, manager: StartManager, probe: Probe
) -> None:
    """It has not seen the whole of it, so it cannot have done what it asks for."""

    def instead(sock: socket.socket, number: int) -> bool:
        if number == 1 and server.first_answered.is_set():
            while not sock.recv(1000):
                pass
            leave(sock, reset=True)
            return True
        return False

    server.instead = instead
    running = manager(retry=ONCE)
    picture = {"inline_data": {"mime_type": "image/png", "data": b"\1" * 12_000_000}}
    for prompt in ("why", [picture]):
        last = ask(running, probe, server.endpoint(port), prompt)
        assert isinstance(last, StreamComplete), last
        assert last.attempts == 1
    assert restarts(probe) == []
    assert server.seen == [1, 2]


def test_a_new_connection_that_ends_without_an_answer_costs_an_attempt(
    server: Server, port: int, manager: StartManager, probe: Probe
) -> None:
    def instead(sock: socket.socket, _: int) -> bool:
        assert read_request(sock)
        leave(sock, reset=False)
        return True

    server.instead = instead
    last = ask(manager(retry=NOW), probe, server.endpoint(port))
    assert isinstance(last, StreamError)
    assert isinstance(last.error, ConnectionLostError)
    assert server.connections == 3


@pytest.mark.usefixtures("closed_in_between")
def test_what_is_sent_a_second_time_is_not_sent_a_third_time(
    server: Server, port: int, manager: StartManager, probe: Probe
) -> None:
    def instead(sock: socket.socket, number: int) -> bool:
        if number > 1 or server.first_answered.is_set():
            if number == 1:
                server.go[sock.getpeername()[1]].wait(20)
            else:
                assert read_request(sock)
            leave(sock, reset=False)
            return True
        return False

    server.instead = instead
    running = manager(retry=ONCE)
    assert isinstance(ask(running, probe, server.endpoint(port)), StreamComplete)
    last = ask(running, probe, server.endpoint(port))
    assert isinstance(last, StreamError)
    assert isinstance(last.error, ConnectionLostError)
    assert server.connections == (2 if SEES_ACKNOWLEDGEMENTS else 1)


def test_half_an_answers_head_on_a_kept_connection_costs_an_attempt(
    server: Server, port: int, manager: StartManager, probe: Probe
) -> None:
    def instead(sock: socket.socket, number: int) -> bool:
        if number == 1 and server.first_answered.is_set():
            assert read_request(sock)
            sock.sendall(b"HTTP/1.1 200 OK\r\n")
            leave(sock, reset=False)
            return True
        return False

    server.instead = instead
    running = manager(retry=NOW)
    assert ask(running, probe, server.endpoint(port)).attempts == 1
    assert ask(running, probe, server.endpoint(port)).attempts == 2
    assert "in the middle of the answer's head" in str(restarts(probe)[0].error)


def test_the_idle_connections_that_the_server_has_closed_are_closed_at_the_next_look(
    manager: StartManager, probe: Probe, clock: TestClock, gemini: LocalGemini
) -> None:
    """Without a stream that would use one of them."""
    running = manager(clock=clock, retry=ONCE)
    gemini.on("many", Body(body("fine"), hold_after=0))
    ids = [running.start_stream("many", subscriber=probe.ref) for _ in range(5)]
    gemini.gate("many").reached(n=5)
    gemini.gate("many").open()
    for _ in ids:
        assert isinstance(probe.expect(LAST), StreamComplete)
    sockets = our_sockets(gemini.port)
    assert len(sockets) == 5
    gemini.close()
    assert [sock for sock in sockets if sock.fileno() >= 0] == sockets
    eventually(lambda: all(readable(sock) for sock in sockets))
    clock.advance(LOOK_EVERY)
    assert [sock for sock in sockets if sock.fileno() >= 0] == []


def our_sockets(port: int) -> list[socket.socket]:
    """The client's ends of connections to a port of this machine."""
    found = []
    for candidate in gc.get_objects():
        if isinstance(candidate, socket.socket) and candidate.fileno() >= 0:
            try:
                if candidate.getpeername()[1] == port:
                    found.append(candidate)
            except (OSError, IndexError):
                pass
    return found


def readable(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def test_tcp_looks_after_silent_connections(
    gemini: LocalGemini, tls_gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    """A gateway forgets a connection that is silent for minutes, while a model thinks."""
    running = manager()
    for server in (gemini, tls_gemini):
        server.on("why", Raw([answer(CHUNKED)], "silent"))
        endpoint = Gemini("local-key", server.url, verify=server.ca_file or True, proxies={})
        stream_id = running.start_stream("why", subscriber=probe.ref, endpoint=endpoint)
        wait_until_active(running, stream_id)
        [sock] = our_sockets(server.port)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
        idle = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
        assert idle is not None
        assert sock.getsockopt(socket.IPPROTO_TCP, idle) == 60
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def wait_until_active(running: ManagerRef, stream_id: str) -> None:
    eventually(lambda: running.get_stream_info(stream_id).status == "active")


# -- what is no clean end ----------------------------------------------------------------------------------------------

HALF = body("half an answer", last=False)
UNENDED = {
    "chunks without the last one": answer(CHUNKED) + chunked(HALF)[:-5],
    "the last chunk without its end": answer(CHUNKED) + chunked(HALF)[:-2],
    "a chunk cut short": answer(CHUNKED) + chunked(HALF)[:-12],
    "a length": answer(b"Content-Length: %d" % (len(HALF) + 1)) + HALF,
}


@pytest.mark.parametrize("kind", UNENDED)
def test_a_body_without_its_framings_end_is_a_break(
    server: Server, port: int, manager: StartManager, probe: Probe, kind: str
) -> None:
    def instead(sock: socket.socket, _: int) -> bool:
        if read_request(sock):
            sock.sendall(UNENDED[kind])
            if isinstance(sock, ssl.SSLSocket):
                sock.unwrap()
        return True

    server.instead = instead
    last = ask(manager(retry=ONCE), probe, server.endpoint(port))
    assert isinstance(last, StreamError)
    assert isinstance(last.error, ConnectionLostError)
    assert text_of(probe) == ("" if kind == "a chunk cut short" else "half an answer")


def test_what_came_before_a_broken_chunk_is_delivered_first(
    server: Server, port: int, manager: StartManager, probe: Probe
) -> None:
    """In one write. The answer was whole by then, and is not asked for again."""

    def instead(sock: socket.socket, _: int) -> bool:
        if read_request(sock):
            sock.sendall(answer(CHUNKED) + chunked(HALF, body(", and the rest"))[:-5] + b"zz\r\n")
        return True

    server.instead = instead
    last = ask(manager(retry=NOW), probe, server.endpoint(port))
    assert isinstance(last, StreamComplete)
    assert text_of(probe) == "half an answer, and the rest"
    assert server.connections == 1


@pytest.mark.parametrize("whole", [True, False], ids=["with close_notify", "without"])
def test_over_tls_a_body_until_the_connections_end_needs_the_servers_word(
    server: Server, port: int, manager: StartManager, probe: Probe, whole: bool
) -> None:
    """Else whoever can cut the connection can make an answer end where he likes."""
    if server.tls is None:
        pytest.skip("plain HTTP cannot tell")

    def instead(sock: socket.socket, _: int) -> bool:
        if read_request(sock):
            sock.sendall(answer() + body("one", last=False))
            sock.sendall(body("two"))
            if whole and isinstance(sock, ssl.SSLSocket):
                sock.unwrap()
        return True

    server.instead = instead
    exchange = Exchange()
    connections = Connections(5, 1, SYSTEM_CLOCK)
    target = server.endpoint(port).resolve({})
    exchange.send(connections, target, Call("POST", target.model_url("m"), (b"{}",)))
    data = b""
    try:
        while piece := exchange.read():
            data += piece
        ended = True
        exchange.finish()
    except ConnectionLostError:
        ended = False
        exchange.close()
    assert data == body("one", last=False) + body("two")
    assert ended is whole
    assert len(connections.idle) == 0
    connections.close()
