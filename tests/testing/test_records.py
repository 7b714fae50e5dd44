"""What a LocalGemini sees of a request, and tells of it."""

from __future__ import annotations

import itertools
import os
import socket
import struct
import threading
import time

import pytest

from gemini_streams.testing import (
    Failure,
    LocalGemini,
    Reply,
    RequestRecord,
    StallUpload,
)
from kit.client import (
    PATH,
    SOON,
    Client,
    contents,
    text_of,
)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("how", ["shutdown", "close", "reset"])
def test_the_server_sees_the_client_leave_in_every_phase(tls: bool, how: str) -> None:
    with LocalGemini(tls=tls) as gemini:
        gemini.on("headers", Reply("a b", hold_before_headers=True))
        gemini.on("first", Reply("a b", hold_after=0))
        gemini.on("middle", Reply("a b", hold_after=1))
        gemini.on("silent", Reply("a b", end="silent"))
        for phase in ("headers", "first", "middle", "silent"):
            client = Client(gemini)
            client.send(phase)
            record = gemini.wait_request(where=phase)
            if phase == "silent":
                client.http.getresponse().read1()
            else:
                gemini.gate(phase).reached()
            sock = client.http.sock
            left = time.monotonic()
            if how == "shutdown":
                sock.shutdown(socket.SHUT_RDWR)
            elif how == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if how != "shutdown":
                client.http.close()
                sock.close()
            assert record.wait_closed() - left < SOON
            client.http.close()
            assert record.client_closed
        gemini.wait_open_connections(0)


def test_bytes_sent_stop_where_the_client_does_not_read() -> None:
    with LocalGemini(sndbuf=8192) as gemini:
        gemini.on("", Reply(itertools.repeat("x" * 2000)))
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            sock.settimeout(5)
            sock.connect(("127.0.0.1", gemini.port))
            body = contents("x")
            sock.sendall(f"POST {PATH} HTTP/1.1\r\nx-goog-api-key: local-key\r\n".encode())
            sock.sendall(f"content-length: {len(body)}\r\n\r\n".encode() + body)
            record = gemini.wait_request()
            stuck, before = record.bytes_sent, -1
            while stuck != before or not stuck:
                time.sleep(0.1)
                before, stuck = stuck, record.bytes_sent
            assert stuck < 200_000
            received = 0
            while received < stuck + 100_000:
                received += len(sock.recv(65536))
            assert record.bytes_sent + 16384 >= received > stuck
        record.wait_closed()
        assert record.client_closed


@pytest.mark.parametrize("rcvbuf", [None, 65536])
@pytest.mark.parametrize("tls", [False, True])
def test_a_stalled_upload_goes_on_when_the_gate_is_opened(tls: bool, rcvbuf: int | None) -> None:
    size = 16 << 20
    with LocalGemini(tls=tls, rcvbuf=rcvbuf) as gemini:
        gemini.on('quoted "é"', StallUpload(then=Reply("thanks")), Reply("second"))
        with Client(gemini) as client:
            sender = threading.Thread(target=client.send, args=('quoted "é"' + "x" * size,))
            sender.start()
            record = gemini.wait_request()
            assert gemini.gate('quoted "é"').reached()
            assert record.stalled
            assert record.body is None
            sender.join(0.2)
            assert sender.is_alive(), "the upload is stuck"
            gemini.gate('quoted "é"').open()
            sender.join()
            assert text_of(client.http.getresponse().read()) == "thanks"
            assert len(record.text) == size + 10
            assert text_of(client.ask('quoted "é"').read()) == "second"
        assert [record.number for record in gemini.requests] == [1, 2]


def test_a_small_upload_is_held_as_well_and_a_callable_can_choose_it(gemini: LocalGemini) -> None:
    gemini.on("small", StallUpload())
    gemini.on(lambda record: record.body["x"] == 1, StallUpload(then=Failure(500)))
    with Client(gemini) as client:
        client.send("small")
        gemini.gate("small").reached()
        gemini.gate("small").open()
        assert client.http.getresponse().status == 200


@pytest.mark.parametrize(("tls", "reset"), [(False, True), (True, True), (False, False)])
def test_leaving_a_stalled_upload_is_seen_at_once_by_a_reset_else_when_read(tls: bool, reset: bool) -> None:
    with LocalGemini(tls=tls, rcvbuf=65536) as gemini:

        def by_model(record: RequestRecord) -> bool:
            return record.model == "gemini-test"

        gemini.on(by_model, StallUpload())
        client = Client(gemini)

        def send() -> None:
            with pytest.raises(OSError):
                client.send("x" * (16 << 20))

        sender = threading.Thread(target=send)
        sender.start()
        record = gemini.wait_request()
        sender.join(0.2)
        sock = client.http.sock
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw = socket.socket(fileno=os.dup(sock.fileno()))
        left = time.monotonic()
        raw.shutdown(socket.SHUT_RDWR)  # wakes the sender
        raw.close()
        sender.join()
        client.http.close()
        if not reset:
            with pytest.raises(TimeoutError):
                record.wait_closed(0.1)
            gemini.gate(by_model).open()
            left = time.monotonic()
        assert record.wait_closed() - left < 2 * SOON
        assert record.client_closed


def test_idle_connections_can_be_closed_from_here(gemini: LocalGemini) -> None:
    gemini.on("hold", Reply("a b", hold_after=1))
    with Client(gemini) as idle, Client(gemini) as busy:
        idle.ask("x").read()
        response = busy.ask("hold")
        gemini.gate("hold").reached()
        gemini.close_idle()
        gemini.wait_open_connections(1)
        gemini.gate("hold").open()
        assert text_of(response.read()) == "a b"
