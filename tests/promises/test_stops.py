"""Whoever ends a stream, in whatever phase: its connection is closed within milliseconds, and nothing is left.

The milliseconds until the server saw the close are written to `stop-latency.txt` in pytest's base directory for
temporary files.
"""

from __future__ import annotations

import itertools
import random
import socket
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from conftest import StartManager
from gemini_streams import (
    Gemini,
    ManagerActor,
    ManagerRef,
    StreamComplete,
    StreamError,
    StreamStopped,
)
from gemini_streams.testing import Body, LocalGemini, Raw, Reply, StallUpload, check_history
from kit.helpers import LAST, ONCE, BatchProbe, eventually, last_of
from kit.leftovers import descriptors
from pykka_supervisor.testing import Probe

LIMIT = 0.05
REPEATS = 3

_numbers = itertools.count(1)
_latencies: dict[tuple[str, str], list[float]] = defaultdict(list)


@pytest.fixture(scope="module", autouse=True)
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield
    lines = [f"{'phase':<18} {'scheme':<6} {'n':>4} {'median ms':>10} {'max ms':>8}"]
    lines += [
        f"{phase:<18} {scheme:<6} {len(v):>4} {statistics.median(v) * 1e3:>10.2f} {max(v) * 1e3:>8.2f}"
        for (phase, scheme), v in _latencies.items()
    ]
    (tmp_path_factory.getbasetemp() / "stop-latency.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, LocalGemini]]:
    with LocalGemini() as plain, LocalGemini(tls=True) as tls:
        yield {"plain": plain, "tls": tls}


# -- the phases: each starts a stream, waits until it is there, and returns how to see the close ---------------------

Seen = Callable[[], float]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"candidates":[{"content":{"parts":[{"text":"one"}]}}]}\r\n\r\n'


class Handshake:
    """A listener that takes the connection and never answers the handshake."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(5)
        self.accepted: socket.socket | None = None

    def endpoint(self) -> Gemini:
        return Gemini(api_key="k", base_url=f"https://127.0.0.1:{self.listener.getsockname()[1]}")

    def reached(self) -> None:
        self.accepted, _ = self.listener.accept()
        self.accepted.settimeout(5)
        assert self.accepted.recv(65536)  # the client's hello

    def seen(self) -> float:
        assert self.accepted is not None
        try:
            while self.accepted.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return time.monotonic()

    def close(self) -> None:
        if self.accepted is not None:
            self.accepted.close()
        self.listener.close()


ANSWERS: dict[str, Any] = {
    "upload": StallUpload(),
    "headers": Reply("late", hold_before_headers=True),
    "first event": Reply("one two", hold_after=0),
    "silent body": Reply("one two", hold_after=1),
    "mid-chunk": Raw([HEAD, b"100\r\n" + EVENT, b"data: half"], close="silent"),
    "mid-size-line": Raw([HEAD, b"%x\r\n%s\r\n1" % (len(EVENT), EVENT)], close="silent"),
    "gzip": Body(EVENT * 2, gzip=True, hold_after=1),
    "error body": Raw(
        b"HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{", close="silent"
    ),
}
HAS_GATE = ("upload", "headers", "first event", "silent body", "gzip")
HAS_EVENT = ("silent body", "mid-chunk", "mid-size-line", "gzip")
PHASES = [("handshake", "tls"), *itertools.product(ANSWERS, ("plain", "tls"))]


def reach(
    phase: str, server: LocalGemini, manager: ManagerRef, probe: Probe
) -> tuple[str, Seen, Callable[[], None]]:
    if phase == "handshake":
        listener = Handshake()
        stream_id = manager.start_stream("hello", subscriber=probe.ref, endpoint=listener.endpoint())
        listener.reached()
        return stream_id, listener.seen, listener.close
    prompt = f"{phase} {next(_numbers)}."
    server.on(prompt, ANSWERS[phase])
    contents = prompt + "x" * (8_000_000 if phase == "upload" else 0)
    before = len(server.requests)
    stream_id = manager.start_stream(contents, subscriber=probe.ref, endpoint=server.endpoint)
    record = server.wait_request(before + 1)
    if phase in HAS_GATE:
        server.gate(prompt).reached()
    if phase in HAS_EVENT:
        probe.wait(1)
    if phase == "error body":
        eventually(lambda: record.bytes_sent > 0)
    return stream_id, record.wait_closed, lambda: server.gate(prompt).open()


def actor_of(manager: ManagerRef, stream_id: str) -> Any:
    return eventually(lambda: manager.get_stream_info(stream_id).stream_ref)


def gone(ref: Any) -> None:
    eventually(lambda: not ref.is_alive(), 1.0, "its actor is still there")


def end(way: str, manager: ManagerRef, stream_id: str, probe: Probe) -> None:
    if way == "stop":
        assert manager.stop_stream(stream_id) is True
    elif way == "unsubscribe":
        assert manager.unsubscribe_stream(stream_id, probe.ref) is True
    elif way == "manager stops":
        manager.stop(timeout=20)
    else:
        probe.stop()


@pytest.mark.parametrize("way", ["stop", "unsubscribe", "manager stops", "subscriber dies"])
@pytest.mark.parametrize(("phase", "scheme"), PHASES)
def test_the_server_sees_the_close(
    servers: dict[str, LocalGemini], phase: str, scheme: str, way: str
) -> None:
    taken = [end_in(phase, servers[scheme], way) for _ in range(REPEATS)]
    _latencies[phase, scheme] += taken
    assert statistics.median(taken) <= LIMIT, taken


def end_in(phase: str, server: LocalGemini, way: str) -> float:
    """End a stream in a phase; return the seconds until the server saw it."""
    manager = ManagerActor.start(endpoint=server.endpoint, retry=ONCE)
    try:
        with Probe() as probe:
            stream_id, seen, release = reach(phase, server, manager, probe)
            ref = actor_of(manager, stream_id)
            asked = time.monotonic()
            end(way, manager, stream_id, probe)
            taken = seen() - asked
            if way in ("stop", "manager stops"):
                last = last_of(probe, stream_id)
                assert isinstance(last, StreamStopped)
                assert last.reason == ("requested" if way == "stop" else "shutdown")
            else:
                assert not any(isinstance(m, LAST) for m in probe.messages)
            gone(ref)
            release()
        assert way == "manager stops" or manager.get_stats().stopped == 1
    finally:
        if manager.is_alive():
            manager.stop(timeout=20)
    return taken


@pytest.mark.parametrize("way", ["stop", "manager stops"])
def test_while_connecting_the_subscribers_are_told_at_once(
    gemini: LocalGemini, manager: StartManager, probe: Probe, way: str
) -> None:
    """No server has seen the connection yet; the system call is waited for by the stream's thread alone."""
    endpoint = Gemini(api_key="k", base_url=gemini.unconnectable_url())
    taken = []
    for _ in range(3):
        ref = manager(connect_timeout=0.3, retry=ONCE)
        stream_id = ref.start_stream("hello", subscriber=probe.ref, endpoint=endpoint)
        actor = actor_of(ref, stream_id)
        time.sleep(0.05)  # nobody can see a connect that hangs
        asked = time.monotonic()
        if way == "stop":
            ref.stop_stream(stream_id)
        else:
            ref.stop(block=False)
        last_of(probe, stream_id)
        taken.append(time.monotonic() - asked)
        gone(actor)
    _latencies["connecting (told)", "plain"] += taken
    assert statistics.median(taken) < LIMIT


# -- after the end ---------------------------------------------------------------------------------------------------


def test_a_stopped_stream_takes_no_connection_of_the_pool_along(
    gemini: LocalGemini, manager: StartManager
) -> None:
    """Many short streams whose stop races their end: no next stream on a connection ever loses it."""
    gemini.on("short", Reply("one two three"))
    gemini.on("after", Reply("fine"))
    ref = manager(retry=ONCE, max_streams=200)
    jitter = random.Random(7)
    limit = 0.002
    ends: dict[str, int] = defaultdict(int)
    with Probe() as probe, BatchProbe() as batch:
        for n in range(250):
            subscriber = (probe, batch)[n % 2]
            stream_id = ref.start_stream("short", subscriber=subscriber.ref)
            spin = time.perf_counter() + jitter.random() * limit
            while time.perf_counter() < spin:
                pass
            ref.stop_stream(stream_id)
            last = last_of_one(subscriber, stream_id)
            ends[type(last).__name__] += 1
            limit *= 1.1 if isinstance(last, StreamStopped) else 0.9  # stay where the two race
            following = ref.start_stream("after", subscriber=probe.ref)
            last = last_of_one(probe, following)
            assert isinstance(last, StreamComplete), last
        for subscriber in (probe, batch):
            assert check_history(subscriber.messages, ended=True) == []
    assert set(ends) == {"StreamComplete", "StreamStopped"}
    assert min(ends.values()) >= 10, ends  # or the two did not race


def last_of_one(probe: Probe, stream_id: str) -> Any:
    return probe.expect(LAST, lambda m: m.stream_id == stream_id)


def test_an_interrupt_at_any_moment_leaves_a_sound_pool(gemini: LocalGemini, manager: StartManager) -> None:
    """From four threads at once, over the same few connections."""
    gemini.on("short", Reply("one two three"))
    ref = manager(retry=ONCE)
    failed: list[Any] = []

    def work(seed: int) -> None:
        jitter = random.Random(seed)
        with Probe() as probe:
            for n in range(60):
                stream_id = ref.start_stream("short", subscriber=probe.ref)
                if n % 3 < 2:
                    time.sleep(jitter.random() * 0.006)
                    ref.stop_stream(stream_id)
                last = last_of_one(probe, stream_id)
                if isinstance(last, StreamError):
                    failed.append(last)
            failed.extend(check_history(probe.messages, ended=True))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


# -- keep-alive ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["plain", "tls"])
@pytest.mark.parametrize("framing", ["chunked", "length", "gzip"])
def test_fifty_streams_one_after_another_use_one_connection(
    servers: dict[str, LocalGemini], probe: Probe, scheme: str, framing: str
) -> None:
    server = servers[scheme]
    prompt = f"keep {framing} {next(_numbers)}."
    server.on(
        prompt,
        Reply("one two", gzip=True)
        if framing == "gzip"
        else Reply("one two", framing="length" if framing == "length" else "chunked"),
    )
    manager = ManagerActor.start(endpoint=server.endpoint, retry=ONCE)
    before = server.connections_opened
    for _ in range(
        50
    ):  # the connection is in the pool before the last message is put: the next start finds it
        manager.start_stream(prompt, subscriber=probe.ref)
        assert isinstance(probe.expect(LAST), StreamComplete)
    assert server.connections_opened - before == 1
    manager.stop(timeout=20)
    server.wait_open_connections(0)


def test_a_body_that_is_not_read_to_its_end_costs_its_connection(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager(retry=ONCE)
    for number in (1, 2):
        stream_id = ref.start_stream("why", subscriber=probe.ref)
        gemini.gate("why").reached(n=number)
        ref.stop_stream(stream_id)
        last_of_one(probe, stream_id)
        gemini.wait_request(number).wait_closed()
    assert gemini.connections_opened == 2
    gemini.wait_open_connections(0)


def open_sockets() -> int:
    return sum(kind == "a socket" for kind in descriptors().values())


def closed_one_of(count: int) -> None:
    eventually(lambda: open_sockets() < count)


def test_a_connection_that_the_server_has_closed_meanwhile_is_not_used(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    ref = manager(retry=ONCE)
    for _ in range(5):
        ref.start_stream("hello", subscriber=probe.ref)
        assert isinstance(probe.expect(LAST), StreamComplete)
        both_ends = open_sockets()
        gemini.close_idle()
        closed_one_of(both_ends)
    assert gemini.connections_opened == 5


@pytest.mark.parametrize("extra", [b"garbage", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_what_comes_behind_an_answer_is_not_the_next_ones(
    gemini: LocalGemini, manager: StartManager, probe: Probe, extra: bytes, framing: str
) -> None:
    body = b'data: {"candidates":[{"content":{"parts":[{"text":"one"}]},"finishReason":"STOP"}]}\r\n\r\n'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    if framing == "chunked":
        answer = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    else:
        answer = head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    gemini.on("smuggle", Raw([answer + extra], close="keep"))
    gemini.on("after", Reply("fine"))
    ref = manager(retry=ONCE)
    for _ in range(3):
        first = ref.start_stream("smuggle", subscriber=probe.ref)
        assert isinstance(last_of_one(probe, first), StreamComplete)
        second = ref.start_stream("after", subscriber=probe.ref)
        last = last_of_one(probe, second)
        assert isinstance(last, StreamComplete), last
        assert last.events_count == 1
