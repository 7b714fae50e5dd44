"""What a server or a proxy can make a stream hold, or wait for, is bounded."""

from __future__ import annotations

import gzip
import itertools
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from conftest import StartManager
from gemini_streams import (
    APIError,
    ConnectionFailedError,
    ConnectionLostError,
    EventTooLargeError,
    FirstEventTimeoutError,
    Gemini,
    RetryPolicy,
    StreamComplete,
    StreamRestarting,
    UnexpectedResponseError,
)
from gemini_streams.testing import Body, LocalGemini, Raw
from kit.helpers import LAST, ONCE, error_of, events_of, eventually, last_of
from kit.raw import read_request, serving
from kit.replies import CHUNKED, GZIP, answer, body, chunked, refusal
from pykka_supervisor.testing import Probe, TestClock

trustme = pytest.importorskip("trustme", reason="the extra `tls` is not installed")

MIB = 1 << 20
LARGE = 48 * MIB


def bomb(wbits: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    packed = packer.compress(b"data: ")
    zeros = b"0" * MIB
    return packed + b"".join(packer.compress(zeros) for _ in range(LARGE // MIB)) + packer.flush()


def comments(mebibytes: int) -> bytes:
    """A small body that unfolds to many lines, and to no event."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    lines = b": c\n" * (MIB // 4)
    return b"".join(packer.compress(lines) for _ in range(mebibytes)) + packer.flush()


BOMBS: dict[str, tuple[bytes, bytes]] = {
    "gzip": (b"gzip", bomb(31)),
    "deflate": (b"deflate", bomb(15)),
    "deflate without its format": (b"deflate", bomb(-15)),
    "gzip of gzip": (b"gzip, gzip", gzip.compress(bomb(31))),
}


def test_a_stream_stops_in_the_middle_of_what_unfolds_to_no_event(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    packed = gzip.compress(comments(64))  # so small that one read has all of it
    coding = b"Content-Encoding: gzip, gzip"
    gemini.on("why", Raw(answer(coding, b"Content-Length: %d" % len(packed)) + packed))
    running = manager(shutdown=2)
    stream_id = running.start_stream("why", subscriber=probe.ref)
    eventually(lambda: gemini.requests)
    actor: Any = running.get_stream_info(stream_id).stream_ref
    time.sleep(0.1)  # it is in the middle of it; too early is no harm
    running.stop_stream(stream_id)
    assert actor.join(1.5)


@pytest.mark.parametrize("framing", ["length", "one chunk"])
@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("coding", BOMBS)
def test_max_event_bytes_bounds_what_a_coded_body_takes(
    gemini: LocalGemini, manager: StartManager, probe: Probe, coding: str, status: int, framing: str
) -> None:
    name, packed = BOMBS[coding]
    how = CHUNKED if framing == "one chunk" else b"Content-Length: %d" % len(packed)
    head = (
        answer(b"Content-Encoding: " + name, how)
        if status == 200
        else refusal(b"Content-Encoding: " + name, how)
    )
    gemini.on("bomb", Raw(head + (chunked(packed) if framing == "one chunk" else packed)))
    running = manager(retry=ONCE, max_event_bytes=MIB)
    tracemalloc.start()
    try:
        running.start_stream("bomb", subscriber=probe.ref)
        error = error_of(probe)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(error, EventTooLargeError if status == 200 else APIError)
    assert peak < 12 * MIB


def test_events_that_unfold_in_thousands_wait_for_their_subscriber(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    """Nothing is lost of them, and the answer is whole."""
    packed = gzip.compress(body("word ", last=False) * 30_000 + body("end"))
    assert len(packed) < 20_000
    gemini.on("many", Raw(answer(GZIP, b"Content-Length: %d" % len(packed)) + packed, "keep"))
    manager(retry=ONCE).start_stream("many", subscriber=probe.ref)
    assert isinstance(last_of(probe, timeout=20), StreamComplete)
    assert len(events_of(probe)) == 30_001


def test_a_coded_answer_can_be_stopped_while_it_unfolds_to_nothing(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    nothing = gzip.compress(gzip.compress(gzip.compress(b"") * 1_000_000))
    packed = gzip.compress(nothing)
    gemini.on("nothing", Raw(answer(b"Content-Encoding: gzip, gzip, gzip, gzip", CHUNKED) + chunked(packed)))
    running = manager()
    stream_id = running.start_stream("nothing", subscriber=probe.ref)
    eventually(lambda: running.get_stream_info(stream_id).status == "active")
    running.stop_stream(stream_id)
    last_of(probe, stream_id)
    started = time.monotonic()
    running.stop(timeout=20)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("where", ["in the events", "in the trailer"])
def test_a_coded_body_that_stops_before_its_coding_is_cut_off(
    gemini: LocalGemini, manager: StartManager, probe: Probe, where: str
) -> None:
    """Under a clean end of HTTP's."""
    packed = gzip.compress(body("half an answer", last=False) + body("x"))
    cut = packed[: len(packed) // 2] if where == "in the events" else packed[:-3]
    gemini.on("cut", Raw(answer(GZIP, CHUNKED) + chunked(cut), "keep"), Body(body("whole")))
    running = manager(retry=RetryPolicy(attempts=2, initial_delay=0, jitter=0))
    running.start_stream("cut", subscriber=probe.ref)
    last = last_of(probe)
    assert isinstance(last, StreamComplete)
    restarts = [m for m in probe.messages if isinstance(m, StreamRestarting)]
    if where == "in the events":
        assert [type(m.error) for m in restarts] == [ConnectionLostError]
        assert "coding" in str(restarts[0].error)


@pytest.mark.parametrize("coding", [b"br", b"gzip, zstd"])
def test_an_unknown_coding_is_told_once(
    gemini: LocalGemini, manager: StartManager, probe: Probe, coding: bytes
) -> None:
    gemini.on("why", Raw(answer(b"Content-Encoding: " + coding, CHUNKED) + chunked(b"whatever"), "keep"))
    running = manager()
    running.start_stream("why", subscriber=probe.ref)
    error = error_of(probe)
    assert isinstance(error, UnexpectedResponseError)
    assert "coding" in str(error)
    gemini.on("no", Raw(refusal(b"Content-Encoding: " + coding, CHUNKED) + chunked(b"whatever"), "keep"))
    running.start_stream("no", subscriber=probe.ref)
    refused = error_of(probe)
    assert isinstance(refused, APIError)
    assert refused.code == 403
    assert len(gemini.requests) == 2


# -- heads ----------------------------------------------------------------------------------------------------


def endless(piece: bytes, start: bytes = b"HTTP/1.1 200 OK\r\n") -> Iterable[bytes]:
    return itertools.chain([start], itertools.repeat(piece, 1_000_000))


@pytest.mark.parametrize(
    "piece",
    [b"x" * 4096, b"X-Name: value\r\n" * 200, b"\r\nHTTP/1.1 103 Early Hints\r\n"],
    ids=["one line", "lines", "interim answers"],
)
def test_a_head_without_end_is_no_answer(
    gemini: LocalGemini, manager: StartManager, probe: Probe, piece: bytes
) -> None:
    start = b"HTTP/1.1 103 Early Hints\r\n" if b"103" in piece else b"HTTP/1.1 200 OK\r\n"
    gemini.on("endless", Raw(endless(piece, start)))
    manager().start_stream("endless", subscriber=probe.ref)
    error = error_of(probe)
    assert isinstance(error, UnexpectedResponseError)
    assert "head" in str(error)
    gemini.requests[0].wait_closed()
    assert gemini.requests[0].ended == "client"


def test_a_head_that_drips_is_waited_for_as_long_as_a_first_event(
    gemini: LocalGemini, manager: StartManager, probe: Probe, clock: TestClock
) -> None:
    def drip() -> Iterator[bytes | float]:
        yield b"HTTP/1.1 200 OK\r\nX: "
        while True:
            yield 0.01
            yield b"x"

    gemini.on("drip", Raw(drip()))
    running = manager(clock=clock, first_event_timeout=10, retry=ONCE)
    running.start_stream("drip", subscriber=probe.ref)
    eventually(lambda: gemini.requests and gemini.requests[0].bytes_sent > 25)
    clock.advance(11)
    assert isinstance(error_of(probe), FirstEventTimeoutError)


@pytest.mark.parametrize(
    "head",
    [
        b"HT",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-str",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 10",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n",
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n",
    ],
)
def test_half_a_head_is_no_head(
    gemini: LocalGemini, manager: StartManager, probe: Probe, head: bytes
) -> None:
    """http.client takes the end of the connection for the blank line."""
    gemini.on("half", Raw(head, "fin"))
    manager(retry=ONCE).start_stream("half", subscriber=probe.ref)
    error = error_of(probe)
    assert isinstance(error, ConnectionLostError)
    assert "in the middle of the answer's head" in str(error)


@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH\r\n", b"220 ready\r\n", b"\x16\x03\x01"])
def test_what_speaks_first_and_no_http_is_not_waited_for(
    gemini: LocalGemini, manager: StartManager, probe: Probe, greeting: bytes
) -> None:
    gemini.on("hello", Raw(greeting, "silent"))
    manager().start_stream("hello", subscriber=probe.ref)
    error = error_of(probe)
    assert isinstance(error, UnexpectedResponseError)
    assert "no HTTP" in str(error)


# -- an error's body ---------------------------------------------------------------------------------------------------


def unsaid(status: bytes, *pieces: bytes | float) -> Raw:
    head = answer(b"Content-Length: 1000", b"Retry-After: 7").replace(b"200 OK", status)
    return Raw([head, *pieces], "silent")


@pytest.mark.parametrize(
    ("status", "code"), [(b"503 Unavailable", 503), (b"429 Slow Down", 429), (b"400 Bad", 400)]
)
def test_an_error_status_is_told_where_its_body_never_comes(
    gemini: LocalGemini, manager: StartManager, probe: Probe, clock: TestClock, status: bytes, code: int
) -> None:
    gemini.on("why", unsaid(status, b'{"error": {'))
    running = manager(clock=clock, retry=ONCE)
    running.start_stream("why", subscriber=probe.ref)
    eventually(lambda: gemini.requests and gemini.requests[0].bytes_sent > 50)
    eventually(lambda: clock.pending() > 1)
    clock.advance(5)
    error = error_of(probe)
    assert isinstance(error, APIError)
    assert (error.code, error.retry_at is not None) == (code, True)
    gemini.requests[0].wait_closed()


def test_an_error_status_is_told_rather_than_the_silence_behind_it(
    gemini: LocalGemini, manager: StartManager, probe: Probe, clock: TestClock
) -> None:
    gemini.on("why", unsaid(b"503 Unavailable"))
    running = manager(clock=clock, retry=ONCE, first_event_timeout=2)
    running.start_stream("why", subscriber=probe.ref)
    eventually(lambda: gemini.requests and gemini.requests[0].bytes_sent > 50)
    eventually(lambda: clock.pending() > 1)
    clock.advance(2.5)
    error = error_of(probe)
    assert isinstance(error, APIError)
    assert error.code == 503


def test_the_body_of_an_error_that_drips_is_read_as_far_as_it_comes(
    gemini: LocalGemini, manager: StartManager, probe: Probe, clock: TestClock
) -> None:
    def drip() -> Iterator[bytes | float]:
        yield answer().replace(b"200 OK", b"503 Unavailable")
        yield b"the reason for it "
        while True:
            yield 0.01
            yield b"."

    gemini.on("why", Raw(drip()))
    running = manager(clock=clock, retry=ONCE)
    running.start_stream("why", subscriber=probe.ref)
    eventually(lambda: gemini.requests and gemini.requests[0].bytes_sent > 50)
    eventually(lambda: clock.pending() > 1)
    clock.advance(5)
    error = error_of(probe)
    assert isinstance(error, APIError)
    assert "the reason for it" in str(error)


def test_a_stop_ends_the_wait_for_an_errors_body(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("why", unsaid(b"503 Unavailable"))
    running = manager(retry=ONCE)
    stream_id = running.start_stream("why", subscriber=probe.ref)
    eventually(lambda: gemini.requests and gemini.requests[0].bytes_sent > 50)
    running.stop_stream(stream_id)
    assert type(probe.expect(LAST)).__name__ == "StreamStopped"
    gemini.requests[0].wait_closed()


# -- proxies ----------------------------------------------------------------------------------------------------


def through(port: int, scheme: str = "http", **more: Any) -> Gemini:
    return Gemini("k", "https://127.0.0.1:9", proxies={"https": f"{scheme}://127.0.0.1:{port}"}, **more)


def dripping(gone: threading.Event, sock: Any) -> None:
    read_request(sock)
    sock.sendall(b"HTTP/1.1 200 OK\r\n")
    try:
        while not gone.wait(0.05):
            sock.sendall(b"X: y\r\n")
    finally:
        gone.set()


def test_a_proxy_that_drips_its_answer_to_connect_is_left_at_connect_timeout(
    manager: StartManager, probe: Probe
) -> None:
    gone = threading.Event()
    with serving(lambda sock, _: dripping(gone, sock)) as port:
        started = time.monotonic()
        running = manager(connect_timeout=0.3, retry=ONCE)
        running.start_stream("why", subscriber=probe.ref, endpoint=through(port))
        error = error_of(probe)
        assert 0.3 <= time.monotonic() - started < 3
        assert isinstance(error, ConnectionFailedError)
        assert "connect_timeout passed" in str(error)
        assert gone.wait(20)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (b"HTTP/1.1 200 OK\r\n" + b"X-Name: value\r\n" * 10_000, "no HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, "no HTTP"),
        (b"SSH-2.0-x\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-", "closed the connection"),
        (b"HTTP/1.1 200 OK\r\n\r\nand more", "said more"),
        (b"HTTP/1.1 503 Busy\r\n\r\n", "503 Busy"),
        (b"", "closed the connection"),
    ],
    ids=["endless headers", "interim answers", "no HTTP", "half a head", "more", "a refusal", "nothing"],
)
def test_what_a_proxy_answers_to_connect(manager: StartManager, probe: Probe, said: bytes, text: str) -> None:
    def serve(sock: Any, _: int) -> None:
        read_request(sock)
        sock.sendall(said)

    with serving(serve) as port:
        running = manager(retry=ONCE)
        running.start_stream("why", subscriber=probe.ref, endpoint=through(port))
        error = error_of(probe)
    assert isinstance(error, ConnectionFailedError)
    assert text in str(error)
    assert error.retryable


def test_a_silent_tls_handshake_behind_a_proxy_is_left_at_connect_timeout(
    manager: StartManager, probe: Probe
) -> None:
    def serve(sock: Any, _: int) -> None:
        read_request(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while sock.recv(4096):
            pass

    with serving(serve) as port:
        running = manager(connect_timeout=0.2, retry=ONCE)
        running.start_stream("why", subscriber=probe.ref, endpoint=through(port))
        error = error_of(probe)
    assert isinstance(error, ConnectionFailedError)
    assert "connect_timeout passed" in str(error)
