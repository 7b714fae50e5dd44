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
from kit.raw import serving
from pykka_supervisor.testing import Probe

trustme = pytest.importorskip("trustme", reason="the extra `tls` is not installed")


class Proxy:
    """Connects each CONNECT to the server, and passes each other request on as it is."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.heads: list[bytes] = []

    def __call__(self, sock: socket.socket, _: int) -> None:
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
