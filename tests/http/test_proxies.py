"""Streams through proxies: forwarding, tunnelling, over TLS to the proxy."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

from conftest import StartManager
from gemini_streams import ConnectionFailedError, Gemini, StreamComplete
from gemini_streams.testing import LocalGemini, Reply
from kit.helpers import ONCE, error_of, last_of, text_of
from kit.raw import read_request, serving
from kit.replies import CHUNKED, answer, body, chunked
from pykka_supervisor.testing import Probe

trustme = pytest.importorskip("trustme", reason="the extra `tls` is not installed")


class Proxy:
    """Connects each CONNECT to the server, and passes each other request on as it is."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.heads: list[bytes] = []
        self.shown: list[Any] = []
        """The client's certificate on each connection; `None`: it has shown none."""

    def __call__(self, sock: socket.socket, _: int) -> None:
        if isinstance(sock, ssl.SSLSocket):
            self.shown.append(sock.getpeercert(binary_form=True))
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(65536)
        self.heads.append(head)
        with socket.create_connection(("127.0.0.1", self.port)) as server:
            if head.startswith(b"CONNECT "):
                sock.sendall(b"HTTP/1.1 200 Connection established\r\nVia: a proxy\r\n\r\n")
            else:
                server.sendall(head)
            self._splice(sock, server)

    @staticmethod
    def _splice(one: socket.socket, other: socket.socket) -> None:
        while True:
            pending = isinstance(one, ssl.SSLSocket) and one.pending() > 0
            ready = [one] if pending else select.select([one, other], [], [])[0]
            for sock in ready:
                data = sock.recv(65536)
                if not data:
                    return
                (other if sock is one else one).sendall(data)


@pytest.fixture
def authority(tmp_path: Path) -> Any:
    made = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.issue_cert("127.0.0.1").configure_cert(context)
    bundle = tmp_path / "both.pem"
    bundle.write_bytes(made.cert_pem.bytes())
    return context, bundle


@pytest.mark.parametrize("to_proxy", ["http", "https"])
@pytest.mark.parametrize("to_server", ["http", "https"])
def test_a_stream_goes_through_a_proxy(
    manager: StartManager, probe: Probe, authority: Any, to_proxy: str, to_server: str
) -> None:
    context, bundle = authority
    with contextlib.ExitStack() as stack:
        gemini = stack.enter_context(LocalGemini(tls=to_server == "https"))
        if gemini.ca_file is not None:
            bundle.write_bytes(bundle.read_bytes() + Path(gemini.ca_file).read_bytes())
        gemini.on("why", Reply("one two three", pace=0.01))
        proxy = Proxy(gemini.port)
        port = stack.enter_context(serving(proxy, context if to_proxy == "https" else None))
        endpoint = Gemini(
            api_key="local-key",
            base_url=gemini.url,
            verify=str(bundle),
            proxies={to_server: f"{to_proxy}://user:secret@127.0.0.1:{port}"},
        )
        running = manager(retry=ONCE)
        for _ in range(2):
            stream_id = running.start_stream("why", subscriber=probe.ref, endpoint=endpoint)
            last = last_of(probe, stream_id)
            assert isinstance(last, StreamComplete), last
            assert text_of(probe, stream_id) == "one two three"
        # A connection within TLS to a proxy cannot be looked into: it is not kept.
        kept = (to_proxy, to_server) != ("https", "https")
        assert len(proxy.heads) == (1 if kept else 2)
        assert b"\r\nProxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n" in proxy.heads[0]
        where = f"127.0.0.1:{gemini.port}".encode()
        start = b"CONNECT %b HTTP/1.1\r\n" if to_server == "https" else b"POST http://%b/v1beta/"
        assert proxy.heads[0].startswith(start % where)
        assert b"\r\nHost: %b\r\n" % where in proxy.heads[0]
        assert {record.headers["host"] for record in gemini.requests} == {where.decode()}
        running.stop(timeout=20)


@pytest.mark.parametrize("to_proxy", ["http", "https"])
@pytest.mark.parametrize("to_server", ["http", "https"])
def test_a_client_certificate_is_for_the_server_and_not_for_its_proxy(
    manager: StartManager, probe: Probe, tmp_path: Path, to_proxy: str, to_server: str
) -> None:
    authority, clients, mine = trustme.CA(), trustme.CA(), tmp_path / "client.pem"
    clients.issue_cert("client@example.com").private_key_and_cert_chain_pem.write_to_path(mine)
    bundle = tmp_path / "bundle.pem"
    authority.cert_pem.write_to_path(bundle)
    contexts = []
    for mode in (ssl.CERT_REQUIRED, ssl.CERT_OPTIONAL):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        clients.configure_trust(context)
        context.verify_mode = mode
        contexts.append(context)

    def serve(sock: socket.socket, _: int) -> None:
        assert read_request(sock)
        sock.sendall(answer(CHUNKED) + chunked(body("fine")))

    with (
        serving(serve, contexts[0] if to_server == "https" else None) as server,
        serving(proxy := Proxy(server), contexts[1] if to_proxy == "https" else None) as port,
    ):
        endpoint = Gemini(
            "k",
            f"{to_server}://127.0.0.1:{server}",
            verify=str(bundle),
            cert=str(mine),
            proxies={to_server: f"{to_proxy}://127.0.0.1:{port}"},
        )
        running = manager(retry=ONCE)
        stream_id = running.start_stream("why", subscriber=probe.ref, endpoint=endpoint)
        assert isinstance(last_of(probe, stream_id), StreamComplete)
        assert text_of(probe, stream_id) == "fine"
        assert len(proxy.heads) == 1
        assert proxy.shown == ([None] if to_proxy == "https" else [])
        running.stop(timeout=20)


@pytest.mark.parametrize("wrong", ["the server's name", "the server's authority", "the proxy's authority"])
def test_the_server_and_its_proxy_are_verified(
    manager: StartManager, probe: Probe, authority: Any, wrong: str
) -> None:
    context, bundle = authority
    known = trustme.CA()
    bundle.write_bytes(bundle.read_bytes() + known.cert_pem.bytes())
    to_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issuer = trustme.CA() if wrong == "the server's authority" else known
    issuer.issue_cert("example.com" if wrong == "the server's name" else "127.0.0.1").configure_cert(
        to_server
    )
    if wrong == "the proxy's authority":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    seen: list[int] = []
    with (
        serving(lambda _, number: seen.append(number), to_server) as server,
        serving(Proxy(server), context) as port,
    ):
        endpoint = Gemini(
            "k",
            f"https://127.0.0.1:{server}",
            verify=str(bundle),
            proxies={"https": f"https://127.0.0.1:{port}"},
        )
        running = manager(retry=ONCE)
        running.start_stream("why", subscriber=probe.ref, endpoint=endpoint)
        error = error_of(probe)
        assert isinstance(error, ConnectionFailedError)
        assert not error.retryable
        assert "certificate" in str(error)
        assert seen == []
        running.stop(timeout=20)


def test_a_proxy_that_refuses_is_asked_again(manager: StartManager, probe: Probe) -> None:
    def serve(sock: socket.socket, _: int) -> None:
        assert sock.recv(65536)
        sock.sendall(b"HTTP/1.1 503 Busy\r\n\r\n")

    with serving(serve) as port:
        endpoint = Gemini("k", "https://127.0.0.1:9", proxies={"https": f"http://127.0.0.1:{port}"})
        running = manager(retry=ONCE)
        running.start_stream("why", subscriber=probe.ref, endpoint=endpoint)
        error = error_of(probe)
        assert isinstance(error, ConnectionFailedError)
        assert error.retryable
        assert str(error).endswith("127.0.0.1:9: the proxy answered CONNECT with 503 Busy")
        running.stop(timeout=20)


def test_a_proxy_over_tls_that_drips_the_servers_handshake_is_left(
    manager: StartManager, probe: Probe, authority: Any
) -> None:
    context, bundle = authority
    gone = threading.Event()

    def serve(sock: socket.socket, _: int) -> None:
        assert sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        assert sock.recv(65536)
        sock.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")  # a ServerHello of 16 KiB
        try:
            while not gone.wait(0.02):
                sock.sendall(b"\x03")
        finally:
            gone.set()

    with serving(serve, context) as port:
        endpoint = Gemini(
            "k", "https://127.0.0.1:9", verify=str(bundle), proxies={"https": f"https://127.0.0.1:{port}"}
        )
        running = manager(retry=ONCE, connect_timeout=0.3)
        running.start_stream("why", subscriber=probe.ref, endpoint=endpoint)
        assert isinstance(error_of(probe), ConnectionFailedError)
        assert gone.wait(20)


def test_a_stream_through_tls_inside_of_tls_can_be_stopped(
    manager: StartManager, probe: Probe, authority: Any
) -> None:
    context, bundle = authority
    with LocalGemini(tls=True) as gemini, serving(proxy := Proxy(gemini.port), context) as port:
        assert gemini.ca_file is not None
        bundle.write_bytes(bundle.read_bytes() + Path(gemini.ca_file).read_bytes())
        gemini.on("why", Reply("one two three", hold_after=1))
        endpoint = Gemini(
            "local-key", gemini.url, verify=str(bundle), proxies={"https": f"https://127.0.0.1:{port}"}
        )
        running = manager()
        stream_id = running.start_stream("why", subscriber=probe.ref, endpoint=endpoint)
        probe.wait(1)
        running.stop_stream(stream_id)
        gemini.requests[0].wait_closed()
        assert len(proxy.heads) == 1
        running.stop(timeout=20)
