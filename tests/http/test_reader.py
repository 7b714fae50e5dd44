"""The shared reader: who lends a source gets it back, whatever happens, and nobody waits for somebody else's."""

from __future__ import annotations

import gc
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pykka
import pytest

import gemini_streams.http.reader as reader_module
from conftest import StartManager
from gemini_streams import FlowControl, StreamComplete, StreamEvent, StreamStopped, SubscriberActor
from gemini_streams.http.reader import Reader
from gemini_streams.streams.pump import Pump
from gemini_streams.streams.session import Session
from gemini_streams.testing import LocalGemini, Raw, Reply
from kit.helpers import LAST, ONCE, error_of, eventually, last_of, text_of
from kit.leftovers import descriptors
from kit.replies import answer, body
from pykka_supervisor import kill
from pykka_supervisor.testing import Probe

THREAD = "gemini-streams-reader"
CHUNKED = b"Transfer-Encoding: chunked"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


class Source:
    """Lends its socket; gives it back at a byte `q`, or at its end."""

    def __init__(self, log: list[str] | None = None, name: str = "") -> None:
        self.here, self.there = socket.socketpair()
        self.got = b""
        self.name = name
        self.log = log if log is not None else []
        self.threads: set[str] = set()
        self.fails = False

    def fileno(self) -> int:
        return self.here.fileno()

    def receive(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.log.append(f"receive {self.name}")
        self.got += self.here.recv(100) or b"q"

    def turn(self, wakes: list[Any]) -> bool:
        self.log.append(f"turn {self.name}")
        if self.fails:
            raise ZeroDivisionError("a bug")
        return b"q" not in self.got

    def close(self) -> None:
        self.here.close()
        self.there.close()


class Lender(threading.Thread):
    """A stream's thread, as far as lending goes."""

    def __init__(self, reader: Reader, source: Source) -> None:
        super().__init__(daemon=True)
        self.reader = reader
        self.source = source
        self.lent: bool | None = None
        self.start()

    def run(self) -> None:
        self.lent = self.reader.read_for(self.source)

    def returned(self) -> bool | None:
        self.join(20)
        assert not self.is_alive(), "it was never given back"
        return self.lent


@pytest.fixture
def reader() -> Iterator[Reader]:
    made = Reader()
    yield made
    made.close()


@pytest.fixture
def sources() -> Iterator[Callable[..., Source]]:
    made: list[Source] = []

    def make(*args: Any) -> Source:
        made.append(Source(*args))
        return made[-1]

    yield make
    for source in made:
        source.close()


def test_one_thread_reads_for_all(reader: Reader, sources: Callable[..., Source]) -> None:
    lenders = [Lender(reader, sources()) for _ in range(150)]
    for lender in lenders:
        lender.source.there.send(b"a")
    eventually(lambda: all(lender.source.got == b"a" for lender in lenders))
    assert [lender.is_alive() for lender in lenders] == [True] * 150
    assert len(reader_threads()) == 1
    for lender in lenders:
        lender.source.there.send(b"q")
    assert [lender.returned() for lender in lenders] == [True] * 150
    assert {name for lender in lenders for name in lender.source.threads} == {THREAD}


def test_all_is_received_before_anything_is_made_of_it(
    reader: Reader, sources: Callable[..., Source]
) -> None:
    log: list[str] = []
    busy = sources(log, "busy")
    held = threading.Event()
    busy.turn = lambda _wakes: held.wait(20) and False  # type: ignore[method-assign,assignment]
    first = Lender(reader, busy)
    busy.there.send(b"a")
    eventually(lambda: log)
    others = [Lender(reader, sources(log, str(n))) for n in range(3)]
    for lender in others:
        lender.source.there.send(b"q")
    eventually(lambda: len(reader._loop.selector.get_map()) == 5)  # type: ignore[union-attr]
    held.set()
    for lender in (first, *others):
        assert lender.returned()
    assert [line.split()[0] for line in log[1:]] == ["receive"] * 3 + ["turn"] * 3


def test_a_source_that_has_come_to_its_end_is_given_back(
    reader: Reader, sources: Callable[..., Source]
) -> None:
    lender = Lender(reader, sources())
    lender.source.there.close()
    assert lender.returned()


def test_the_thread_ends_when_nothing_is_lent_and_comes_again(
    reader: Reader, sources: Callable[..., Source]
) -> None:
    before = descriptors().keys()
    for _ in range(3):
        lender = Lender(reader, sources())
        lender.source.there.send(b"q")
        assert lender.returned()
        eventually(lambda: not reader_threads())
    left = descriptors().keys() - before
    assert len(left) == 6  # the sources' own


def test_close_gives_all_back_and_leaves_nothing(reader: Reader, sources: Callable[..., Source]) -> None:
    before = descriptors().keys()
    lenders = [Lender(reader, sources()) for _ in range(5)]
    eventually(lambda: reader._loop is not None and len(reader._loop.selector.get_map()) == 6)
    reader.close()
    assert not reader_threads()
    assert [lender.returned() for lender in lenders] == [True] * 5
    assert len(descriptors().keys() - before) == 10
    again = Lender(reader, sources())
    again.source.there.send(b"q")
    assert again.returned()


def test_a_bug_gives_all_back_and_the_next_one_goes_on(
    reader: Reader, sources: Callable[..., Source], caplog: pytest.LogCaptureFixture
) -> None:
    lenders = [Lender(reader, sources()) for _ in range(3)]
    eventually(lambda: reader._loop is not None and len(reader._loop.selector.get_map()) == 4)
    lenders[1].source.fails = True
    lenders[1].source.there.send(b"a")
    assert [lender.returned() for lender in lenders] == [True] * 3
    assert "shared_reader_failed" in caplog.text
    after = Lender(reader, sources())
    after.source.there.send(b"q")
    assert after.returned()


def test_what_cannot_be_lent_is_not(
    reader: Reader, sources: Callable[..., Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = sources()
    closed.close()
    assert reader.read_for(closed) is False
    reader.close()
    before = descriptors().keys()
    source = sources()

    class NoThread(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading, "Thread", NoThread)
        assert reader.read_for(source) is False
    assert len(descriptors().keys() - before) == 2
    assert reader.read_for(source) is False  # not tried again at once
    reader._not_before = 0.0
    lender = Lender(reader, source)
    source.there.send(b"q")
    assert lender.returned()


def test_in_a_forked_child_it_begins_anew(reader: Reader, sources: Callable[..., Source]) -> None:
    lender = Lender(reader, sources())
    eventually(lambda: reader._loop is not None and len(reader._loop.selector.get_map()) == 2)
    mine = sources()
    pid = os.fork()
    if pid == 0:  # pragma: no cover - in the child
        status = 1
        try:
            mine.there.send(b"q")
            status = 0 if reader.read_for(mine) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert lender.is_alive()  # and the parent has not noticed
    lender.source.there.send(b"q")
    assert lender.returned()


# -- streams that lend ------------------------------------------------------------------------------------------------


def session_of(stream_id: str) -> Session:
    """Find a stream's session where it lives."""
    return next(s for s in gc.get_objects() if isinstance(s, Session) and s.stream_id == stream_id)


def lent(count: int = 1) -> None:
    """Wait until so many streams are with the shared reader."""

    def they_are() -> bool:
        loops = [reader._loop for reader in list(reader_module._all)]
        return sum(len(loop.selector.get_map()) - 1 for loop in loops if loop is not None) >= count

    eventually(they_are, what="no stream was lent")


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_stream_that_waits_is_read_by_the_shared_thread(
    request: pytest.FixtureRequest, manager: StartManager, probes: Callable[[], Probe], tls: bool
) -> None:
    gemini = request.getfixturevalue("tls_gemini" if tls else "gemini")
    words = [f"{n} " for n in range(40)]
    gemini.on("why", Reply(words, pace=0.002))
    gemini.on("much", Reply(["y" * 3_000] * 300))
    running = manager(endpoint=gemini.endpoint, retry=ONCE)
    asked = [probes() for _ in range(5)]
    for probe in asked:
        running.start_stream("why", subscriber=probe.ref)
    lent()
    assert len(reader_threads()) == 1
    for probe in asked:
        assert isinstance(last_of(probe), StreamComplete)
        assert text_of(probe) == "".join(words)
    # And the connection, back in the pool, is one that waits for what it sends and reads.
    for _ in range(5):
        running.start_stream("much", subscriber=asked[0].ref)
        assert isinstance(asked[0].expect(LAST), StreamComplete)
    assert gemini.connections_opened == 5


@pytest.mark.parametrize("cut", range(-12, 1))
def test_the_end_that_comes_along_with_the_last_event(
    gemini: LocalGemini, manager: StartManager, probe: Probe, cut: int
) -> None:
    """The socket says nothing more: nobody may wait for it. Cut anywhere around the last chunk."""
    rest = chunk(body("two")) + b"0\r\n\r\n"
    at = len(rest) + cut
    gemini.on(
        "why",
        Raw([answer(CHUNKED) + chunk(body("one", last=False)), 0.02, rest[:at], 0.02, rest[at:]], "keep"),
    )
    manager(retry=ONCE).start_stream("why", subscriber=probe.ref)
    assert isinstance(last_of(probe), StreamComplete)
    assert text_of(probe) == "onetwo"


def test_a_body_of_a_known_length_ends_with_its_last_byte(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    one, two = body("one", last=False), body("two")
    head = answer(b"Content-Length: %d" % (len(one) + len(two)))
    gemini.on("why", Raw([head + one, 0.02, two], "keep"))
    running = manager(retry=ONCE)
    for _ in range(2):
        running.start_stream("why", subscriber=probe.ref)
        assert isinstance(probe.expect(LAST), StreamComplete)
    assert gemini.connections_opened == 1


def test_what_is_broken_while_it_is_lent_is_told(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    head = answer(CHUNKED) + chunk(body("one", last=False))
    ends: dict[str, tuple[Any, str]] = {
        "reset": (Raw([head, 0.02], "reset"), "ConnectionLostError"),
        "early end": (Raw([head, 0.02]), "ConnectionLostError"),
        "no JSON": (Raw([head, 0.02, chunk(b"data: {no\n\n")], "keep"), "MalformedEventError"),
        "too large": (Raw([head, 0.02, chunk(b"data: " + b"x" * 5_000)], "silent"), "EventTooLargeError"),
        "no chunk": (Raw([head, 0.02, b"zz\r\n"], "silent"), "ConnectionLostError"),
        "truncated": (Raw([head, 0.02, b"0\r\n\r\n"], "keep"), "StreamTruncatedError"),
    }
    running = manager(retry=ONCE, max_event_bytes=4_000)
    for kind, (said, error) in ends.items():
        gemini.on(kind, said)
        stream_id = running.start_stream(kind, subscriber=probe.ref)
        assert type(error_of(probe, stream_id)).__name__ == error, kind
        assert text_of(probe, stream_id) == "one"


def test_an_event_and_then_a_break_in_one_read(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    """What came before the failure is delivered first."""
    head = answer(CHUNKED) + chunk(body("one", last=False))
    gemini.on("why", Raw([head, 0.02, chunk(body("two", last=False)) + chunk(b"data: {no\n\n")], "keep"))
    stream_id = manager(retry=ONCE).start_stream("why", subscriber=probe.ref)
    error_of(probe, stream_id)
    assert text_of(probe) == "onetwo"


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("how", ["StopStream", "kill", "the tree's end"])
def test_a_lent_stream_obeys_at_once(
    request: pytest.FixtureRequest, manager: StartManager, probe: Probe, how: str, tls: bool
) -> None:
    gemini = request.getfixturevalue("tls_gemini" if tls else "gemini")
    gemini.on("why", Reply("one two", hold_after=1))
    running = manager(endpoint=gemini.endpoint, retry=ONCE)
    stream_id = running.start_stream("why", subscriber=probe.ref)
    probe.expect(StreamEvent)
    lent()
    match how:
        case "StopStream":
            running.stop_stream(stream_id)
        case "kill":
            ref = running.get_stream_info(stream_id).stream_ref
            assert ref is not None  # there from before the first event
            kill(ref)
        case _:
            running.stop(timeout=20)
            assert not reader_threads()
    probe.expect(LAST)
    gemini.requests[0].wait_closed()


def test_the_reader_dies_and_the_streams_go_on(
    gemini: LocalGemini, manager: StartManager, probes: Callable[[], Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"{n} " for n in range(60)]
    gemini.on("why", Reply(words, pace=0.005))
    running = manager(retry=ONCE)
    asked = [probes() for _ in range(10)]
    for probe in asked:
        running.start_stream("why", subscriber=probe.ref)
    lent(5)
    served = Reader._serve
    broken = threading.Event()

    def breaks(reader: Reader, loop: Any) -> bool:
        if not broken.is_set():
            broken.set()
            raise ZeroDivisionError("a bug")
        return served(reader, loop)

    monkeypatch.setattr(Reader, "_serve", breaks)
    assert broken.wait(20)
    for probe in asked:
        assert isinstance(last_of(probe), StreamComplete)
        assert text_of(probe) == "".join(words)


def test_a_subscriber_who_blocks_holds_nobody_elses_stream(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gate, stopped = threading.Event(), threading.Event()

    class Blocked(SubscriberActor):
        def on_stream_event(self, event: StreamEvent) -> None:
            gate.wait(20)

        def on_stream_stopped(self, message: StreamStopped) -> None:
            stopped.set()

    gemini.on("many", Reply([f"{n} " for n in range(100)], pace=0.001))
    gemini.on("held", Reply([f"{n} " for n in range(1_000)], pace=0.001))
    running = manager(retry=ONCE, flow=FlowControl(window=4))
    slow = Blocked.start()
    try:
        stream_id = running.start_stream("held", subscriber=slow)
        began = time.monotonic()
        for _ in range(3):
            running.start_stream("many", subscriber=probe.ref)
            assert isinstance(probe.expect(LAST), StreamComplete)
        assert time.monotonic() - began < 5
        assert running.stop_stream(stream_id)
    finally:
        gate.set()
        assert stopped.wait(20)
        slow.stop()


def test_an_inbox_of_an_applications_own_is_never_put_into_by_the_shared_thread(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    """It might block: that holds up its own subscription and nothing else."""
    threads: set[str] = set()

    class Inbox(queue.Queue[Any]):
        def _put(self, item: Any) -> None:
            threads.add(threading.current_thread().name)
            super()._put(item)

    class Own(pykka.ThreadingActor):
        @staticmethod
        def _create_actor_inbox() -> Any:
            return Inbox()

    gemini.on("why", Reply([f"{n} " for n in range(20)], pace=0.005))
    own = Own.start()
    try:
        running = manager(retry=ONCE)
        stream_id = running.start_stream("why", subscriber=probe.ref)
        lent()
        running.subscribe_stream(stream_id, own)
        assert isinstance(last_of(probe), StreamComplete)
        eventually(own.actor_inbox.empty)
        assert threads == {"gemini-streams-inbox"}
    finally:
        own.stop()


def test_a_delivery_that_might_take_time_is_the_streams_own(
    gemini: LocalGemini, manager: StartManager, probes: Callable[[], Probe]
) -> None:
    """Somebody has the session's lock, or somebody has to be let go, which is logged: nobody else waits for that."""
    words = [f"{n} " for n in range(30)]
    gemini.on("held", Reply(words, hold_after=1))
    gemini.on("why", Reply(words, pace=0.002))
    running = manager(retry=ONCE)
    locked, other = probes(), probes()
    stream_id = running.start_stream("held", subscriber=locked.ref)
    locked.expect(StreamEvent)
    lent()
    session = session_of(stream_id)
    with session.lock:
        gemini.gate("held").open()
        running.start_stream("why", subscriber=other.ref)
        assert isinstance(other.expect(LAST), StreamComplete)
    assert isinstance(locked.expect(LAST), StreamComplete)
    assert text_of(locked) == "".join(words)


def test_who_has_to_be_let_go_is_let_go_by_the_streams_own_thread(
    gemini: LocalGemini, manager: StartManager, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()
    errors: list[Any] = []

    class Slow(SubscriberActor):
        def on_stream_event(self, event: StreamEvent) -> None:
            gate.wait(20)

        def on_stream_error(self, message: Any) -> None:
            errors.append(message.error)

    gemini.on("why", Reply([f"{n} " for n in range(100)], pace=0.002))
    slow = Slow.start()
    try:
        flow = FlowControl(window=4, overflow="disconnect")
        manager(retry=ONCE).start_stream("why", subscriber=slow, flow=flow)
        lent()
        eventually(lambda: [r for r in caplog.records if "subscriber_let_go" in r.getMessage()])
        assert {r.threadName for r in caplog.records if "let_go" in r.getMessage()}.isdisjoint({THREAD})
    finally:
        gate.set()
        eventually(lambda: errors)
        slow.stop()


def test_a_server_that_sends_nothing_but_trailers_holds_nobody_else(
    gemini: LocalGemini, manager: StartManager, probe: Probe, probes: Callable[[], Probe]
) -> None:
    """And not its own stream for ever: they are bounded."""
    trailers = [b"X-Trailer: " + b"x" * 1_000 + b"\r\n"] * 100
    gemini.on("evil", Raw([answer(CHUNKED) + chunk(body("one")), 0.02, b"0\r\n", *trailers], "silent"))
    evil = probes()
    running = manager(retry=ONCE)
    stream_id = running.start_stream("evil", subscriber=evil.ref)
    assert "chunks are broken" in str(error_of(evil, stream_id))


@pytest.mark.parametrize("behind", [1, 2])
def test_an_event_is_not_held_back_by_the_end_of_its_chunk(
    gemini: LocalGemini, manager: StartManager, probes: Callable[[], Probe], behind: int
) -> None:
    """With many subscribers the socket is looked at for more behind a filled read: here, the rest of a line end."""
    filled = 2_048 + 8_192 + 32_768  # as the reads grow
    text = "x" * (filled + behind - len(chunk(body("x" * 42_000, last=False))) + 42_000)
    framed = chunk(body(text, last=False))
    assert len(framed) == filled + behind
    gemini.on("why", Raw([answer(CHUNKED), 0.05, framed], "silent"))
    crowd = [probes() for _ in range(9)]
    manager(retry=ONCE).start_stream("why", subscriber=[probe.ref for probe in crowd])
    for probe in crowd:
        probe.expect(StreamEvent)


def test_what_was_received_is_not_lost_with_the_reader(
    gemini: LocalGemini, manager: StartManager, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies between its two phases."""
    words = [f"{n} " for n in range(40)]
    gemini.on("why", Reply(words, pace=0.005))
    turn = Pump.turn
    deaths: list[int] = []

    def dies(pump: Pump, wakes: list[Any]) -> bool:
        if len(deaths) < 3:
            deaths.append(1)
            raise MemoryError
        return turn(pump, wakes)

    monkeypatch.setattr(Pump, "turn", dies)
    manager(retry=ONCE).start_stream("why", subscriber=probe.ref)
    assert isinstance(last_of(probe), StreamComplete)
    assert text_of(probe) == "".join(words)
    assert len(deaths) == 3


def test_consumers_are_woken_when_the_whole_turn_is_over(
    reader: Reader, sources: Callable[..., Source]
) -> None:
    """Also where a source in it fails, and once each."""
    log: list[str] = []
    gates: list[threading.Lock] = []

    class Telling(Source):
        def turn(self, wakes: list[Any]) -> bool:
            gate = threading.Lock()
            gate.acquire()
            gates.append(gate)
            wakes.append(gate)
            self.log.append("asleep" if all(each.locked() for each in wakes) else "woken")
            return super().turn(wakes)

    made = [Telling(log, str(n)) for n in range(3)]
    made[2].fails = True
    busy = sources(log, "busy")
    held, entered = threading.Event(), threading.Event()

    def turn(_wakes: list[Any]) -> bool:
        entered.set()
        held.wait(20)
        return False

    busy.turn = turn  # type: ignore[method-assign,assignment]
    try:
        lenders = [Lender(reader, source) for source in [busy, *made]]
        busy.there.send(b"x")
        assert entered.wait(20)
        for source in made:  # so that the three are ready together
            source.there.send(b"x")
        held.set()
        assert [lender.returned() for lender in lenders] == [True] * 4  # the reader has died of one of them
        assert gates
        assert all(gate.acquire(timeout=20) for gate in gates)
        assert "woken" not in log
    finally:
        for source in made:
            source.close()


def test_turns_that_follow_one_another_take_more_at_a_time(
    reader: Reader, sources: Callable[..., Source]
) -> None:
    """A source that has something every tenth of a millisecond is looked at every two, where it is not alone."""
    other = Lender(reader, sources())
    source = sources()
    lender = Lender(reader, source)
    began = time.monotonic()
    while time.monotonic() - began < 0.2:
        source.there.send(b"x")
        time.sleep(0.0001)
    took = time.monotonic() - began
    source.there.send(b"q")
    assert lender.returned()
    assert source.log.count("turn ") <= took / 0.002 + 3
    other.source.there.send(b"q")
    assert other.returned()


def test_a_source_that_is_lent_alone_waits_for_no_pause(
    reader: Reader, sources: Callable[..., Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "_PAUSE", 10.0)
    lender = Lender(reader, sources())
    began = time.monotonic()
    for seen in (b"a", b"aa", b"aaq"):
        lender.source.there.send(seen[-1:])
        eventually(lambda seen=seen: lender.source.got == seen)  # type: ignore[misc]
    assert lender.returned()
    assert time.monotonic() - began < 5
