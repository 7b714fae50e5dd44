"""What the first users' programs met: connections that are refused, deep JSON, policies that exit, long heartbeats."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from conftest import StartManager
from gemini_streams import (
    ConnectionFailedError,
    ConnectionLostError,
    Gemini,
    MalformedEventError,
    RetryPolicy,
    StreamComplete,
    StreamEvent,
    UnexpectedResponseError,
    astream,
    stream,
)
from gemini_streams.errors import GeminiStreamsError
from gemini_streams.testing import Body, Failure, LocalGemini, Raw, Reply, check_history
from kit.helpers import ONCE, error_of, last_of
from pykka_supervisor.testing import Probe

KEY = "local-key"
"""The one that LocalGemini takes."""
TWICE = RetryPolicy(attempts=2, initial_delay=0.01, jitter=0)


@contextlib.contextmanager
def a_proxy(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that says the same to everybody: its URL, and what it was asked."""
    asked: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                asked.append(connection.recv(65536))
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(20)


class TestConnections:
    def test_a_proxy_that_makes_no_tunnel_just_now_is_asked_again(
        self, manager: StartManager, probe: Probe
    ) -> None:
        # The error looks like requests' word for a certificate bundle that is missing, which is final.
        with a_proxy(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n") as (url, asked):
            endpoint = Gemini(api_key=KEY, base_url="https://127.0.0.1:9", proxies={"https": url})
            manager().start_stream("Why?", subscriber=probe.ref, endpoint=endpoint, retry=TWICE)
            error = error_of(probe)
        assert isinstance(error, ConnectionFailedError)
        assert "503" in str(error)
        assert error.retryable
        assert len(asked) == 2

    def test_a_bundle_that_is_not_there_is_not_tried_again(self, manager: StartManager, probe: Probe) -> None:
        endpoint = Gemini(api_key=KEY, base_url="https://127.0.0.1:9", verify="/does/not/exist.pem")
        manager().start_stream("Why?", subscriber=probe.ref, endpoint=endpoint, retry=TWICE)
        error = error_of(probe)
        assert isinstance(error, ConnectionFailedError)
        assert not error.retryable

    def test_a_proxy_that_repeats_its_password_does_not_get_it_into_the_error(
        self, manager: StartManager, probe: Probe
    ) -> None:
        with a_proxy(b"HTTP/1.1 407 not with hunter-2-hunter\r\nContent-Length: 0\r\n\r\n") as (url, _):
            through = url.replace("//", "//me:hunter-2-hunter@")
            endpoint = Gemini(api_key=KEY, base_url="https://127.0.0.1:9", proxies={"https": through})
            manager().start_stream("Why?", subscriber=probe.ref, endpoint=endpoint, retry=ONCE)
            error = error_of(probe)
        assert "407" in str(error)
        assert "hunter" not in repr(error)

    def test_a_status_line_without_a_status_is_no_http_and_is_not_quoted(
        self, gemini: LocalGemini, manager: StartManager, probe: Probe
    ) -> None:
        gemini.on("Why?", Raw(f"HTTP/1.1 {KEY}\r\n\r\n".encode()))
        manager().start_stream("Why?", subscriber=probe.ref, retry=ONCE)
        error = error_of(probe)
        assert isinstance(error, UnexpectedResponseError)
        assert KEY not in repr(error)

    def test_a_chunk_without_a_size_is_not_quoted_where_urllib3_reads(
        self, gemini: LocalGemini, manager: StartManager, probe: Probe
    ) -> None:
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n"
        gemini.on("Why?", Raw(f"{head}Transfer-Encoding: chunked\r\n\r\n{KEY}\r\n".encode()))
        manager().start_stream("Why?", subscriber=probe.ref, retry=ONCE)
        error = error_of(probe)
        assert isinstance(error, ConnectionLostError)
        assert "chunks are broken" in str(error)
        assert KEY not in repr(error)


@pytest.mark.parametrize("end", [b"\r\n\r\n", b""], ids=["closed", "at the end of the body"])
def test_an_event_nested_too_deep_to_decode_is_malformed_and_not_asked_for_again(
    gemini: LocalGemini, manager: StartManager, probe: Probe, end: bytes
) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    gemini.on("Why?", Body(b'data: {"candidates": ' + deep + b"}" + end))
    manager().start_stream("Why?", subscriber=probe.ref, retry=TWICE)
    assert isinstance(error_of(probe), MalformedEventError)
    assert len(gemini.requests) == 1


def _exits(error: GeminiStreamsError) -> bool:
    sys.exit(f"no more of {error}")


def test_a_retry_policy_that_exits_ends_its_own_stream_only(
    gemini: LocalGemini, manager: StartManager, probes: Callable[[], Probe]
) -> None:
    gemini.on("bystander", Reply("one two", hold_after=1))
    gemini.on("Why?", Failure(503))
    ref = manager()
    bystander, probe = probes(), probes()
    ref.start_stream("a bystander", subscriber=bystander.ref)
    bystander.expect(StreamEvent)
    ref.start_stream("Why?", subscriber=probe.ref, retry=RetryPolicy(retryable=_exits))
    assert error_of(probe).code == 503
    gemini.gate("bystander").open()
    assert isinstance(last_of(bystander), StreamComplete)


@pytest.mark.parametrize("error", [b"null", b"{}", b"false"])
def test_an_event_whose_error_says_nothing_is_none_for_the_checker_either(
    gemini: LocalGemini, manager: StartManager, probe: Probe, error: bytes
) -> None:
    gemini.on(
        "Why?", Body(b'data: {"error": ' + error + b', "candidates": [{"finishReason": "STOP"}]}\r\n\r\n')
    )
    manager().start_stream("Why?", subscriber=probe.ref, retry=ONCE)
    assert isinstance(last_of(probe), StreamComplete)
    reported = [StreamEvent("s", 1, 0, {"error": {"code": 503}})]
    assert [violation.guarantee for violation in check_history(reported)] == [4]


class TestHeartbeat:
    def test_one_longer_than_a_thread_can_wait_is_no_heartbeat(
        self, gemini: LocalGemini, manager: StartManager
    ) -> None:
        gemini.on("Why?", Reply("one two"))
        with stream(manager(), "Why?", heartbeat=1e300) as events:
            assert len(list(events)) == 2

    def test_nor_than_an_event_loop_can(self, gemini: LocalGemini, manager: StartManager) -> None:
        gemini.on("Why?", Reply("one two"))
        ref = manager()

        async def read() -> int:
            async with astream(ref, "Why?", heartbeat=1e300) as events:
                return len([event async for event in events])

        assert asyncio.run(read()) == 2
