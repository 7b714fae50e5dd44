"""What predicts cost, counted: a change that makes an event, a read or a stream dearer is seen here, without a clock.

The calls of Python and C functions are counted, thread by thread, by a profile hook; reads, puts and locks are calls
too. The bounds stand a little above what was counted when they were written. If one is broken on purpose, measure with
`make bench`, and move the bound. What must not grow (with a stream's length, with the streams that there are, with
subscribers that have left, with attempts) is compared with itself.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pykka
import pytest
from pykka.messages import ProxyGetAttr

from conftest import StartManager
from gemini_streams import (
    FlowControl,
    ManagerRef,
    RetryPolicy,
    StreamComplete,
    StreamError,
    StreamEvent,
    SubscriberActor,
)
from gemini_streams.testing import Failure, LocalGemini, Raw, Reply
from kit.helpers import eventually
from kit.leftovers import descriptors

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
TEXT = "x" * 200

STREAM = "StreamActor, and the shared reader"

WIDE = FlowControl(window=100_000, max_bytes=1 << 30)
"""Nobody is ever full."""

CALLS_A_STREAM = 1_200
CALLS_A_READ = 90
CALLS_AN_EVENT = 7
CALLS_A_PLAIN_EVENT = 3
CALLS_A_PUT = 9
CALLS_A_SUBSCRIPTION = 25
CALLS_A_BATCH = 12
CALLS_A_DELIVERY = 1.1
LOCKS_A_STREAM = 40
LOCKS_A_READ = 5
PUTS_A_STREAM = 5
SMALLEST_BATCH = 120
CALLS_A_SHORT_STREAM = {"StreamActor": 700, "StreamSupervisor": 160, "ManagerActor": 250, "Sink": 35}
"""By thread; of three events."""


class Calls:
    """Counts what the threads that start meanwhile call: `calls["StreamActor"]["socket.recv"]`."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}

    def __getitem__(self, kind: str) -> Counter[str]:
        """`STREAM` is the stream's own thread and the shared reader, which works for it."""
        if kind == STREAM:
            return self["StreamActor"] + self["gemini-streams"]
        return self._counts.get(kind, Counter())

    def total(self, kind: str) -> int:
        return self[kind].total()

    def named(self, kind: str, *names: str) -> int:
        return sum(count for name, count in self[kind].items() if name in names)

    @property
    def reads(self) -> int:
        return self.named(STREAM, "socket.recv", "socket.recv_into")

    @property
    def puts(self) -> int:
        return self.named(STREAM, "Mailbox.put", "Mailbox.put_quietly", "Mailbox.put_many")

    def for_subscribers(self) -> int:
        """What is called for a subscriber: functions of these rooms, and the lock and deque of an inbox."""
        return sum(
            count
            for name, count in self[STREAM].items()
            if name.startswith(
                ("Subscription.", "EventBatch.", "ControlBatch.", "Envelope.", "Mailbox.", "Sessions.")
            )
            or name in ("deque.append", "lock.release", "iter")
        )

    @property
    def locks(self) -> int:
        return self.named(STREAM, "lock.acquire", "lock.__exit__", "RLock.acquire", "RLock.__exit__")

    def clear(self) -> None:
        self._counts.clear()

    def _hook(self, frame: Any, event: str, arg: Any) -> None:
        if event == "call":
            name = frame.f_code.co_qualname
        elif event == "c_call":
            name = getattr(arg, "__qualname__", "")
        else:
            return
        thread = threading._active.get(threading.get_ident())  # type: ignore[attr-defined]
        kind = "" if thread is None else thread.name.rpartition("-")[0]
        try:
            self._counts[kind][name] += 1
        except KeyError:
            self._counts[kind] = Counter({name: 1})


@pytest.fixture
def calls() -> Iterator[Calls]:
    """Counts in every thread that is started from here on."""
    counted = Calls()
    before = threading.getprofile()
    threading.setprofile(counted._hook)
    yield counted
    threading.setprofile(before)


class Seen:
    """What a subscriber has seen."""

    def __init__(self) -> None:
        self.count = 0
        self.attribute_requests = 0
        self.ends: list[Any] = []


class Sink(SubscriberActor):
    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen = seen

    def on_stream_event(self, event: StreamEvent) -> None:
        self.seen.count += 1

    def on_stream_complete(self, message: StreamComplete) -> None:
        self.seen.ends.append(message)

    def on_stream_error(self, message: StreamError) -> None:
        self.seen.ends.append(message)


class PlainSink(pykka.ThreadingActor):
    """Any Pykka actor."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen = seen

    def _handle_receive(self, message: Any) -> Any:
        self.seen.attribute_requests += isinstance(message, ProxyGetAttr)
        return super()._handle_receive(message)

    def on_receive(self, message: Any) -> None:
        if isinstance(message, StreamEvent):
            self.seen.count += 1
        else:
            self.seen.ends.append(message)


class Watcher(Sink):
    """Notes, at some counts, how many blocks of memory are allocated."""

    def __init__(self, seen: Seen, *counts: int) -> None:
        super().__init__(seen)
        self.counts = frozenset(counts)
        self.blocks: dict[int, int] = {}

    def on_stream_event(self, event: StreamEvent) -> None:
        self.seen.count += 1
        if self.seen.count in self.counts:
            self.blocks[self.seen.count] = sys.getallocatedblocks()


@pytest.fixture
def start() -> Iterator[Callable[..., Any]]:
    """Start subscribers; they are stopped after the test."""
    refs: list[Any] = []

    def begin(kind: type[pykka.Actor], *args: Any) -> Any:
        refs.append(kind.start(*args))
        return refs[-1]

    yield begin
    for ref in refs:
        ref.stop()


def event(index: int, *, last: bool) -> bytes:
    candidate: dict[str, Any] = {"content": {"parts": [{"text": TEXT}], "role": "model"}, "index": 0}
    if last:
        candidate["finishReason"] = "STOP"
    usage = {"promptTokenCount": 4, "candidatesTokenCount": index + 1, "totalTokenCount": index + 5}
    body = b"data: %s\r\n\r\n" % json.dumps({"candidates": [candidate], "usageMetadata": usage}).encode()
    return b"%x\r\n%s\r\n" % (len(body), body)


def answer(events: int) -> Raw:
    """As many events, each in a chunk, as fast as they can be read."""
    chunks = [event(index, last=index == events - 1) for index in range(events)]
    return Raw([HEAD + b"".join(chunks) + b"0\r\n\r\n"], close="keep")


def run(manager: ManagerRef, prompt: str, seen: Seen, refs: Any, **options: Any) -> Any:
    """Make one stream; returns its last message when nothing is done for it any more."""
    had = len(seen.ends)
    running = stream_threads()
    manager.start_stream(prompt, subscriber=refs, **options)
    eventually(lambda: len(seen.ends) > had)
    eventually(lambda: stream_threads() == running)
    manager.stop_stream("nothing")  # the manager has handled all that came before
    return seen.ends[-1]


def warm(manager: ManagerRef, calls: Calls, start: Callable[..., Any]) -> ManagerRef:
    """Make a first stream: what is done once for a process or a connection is not counted."""
    seen = Seen()
    run(manager, "a first one", seen, start(Sink, seen))
    calls.clear()
    return manager


def within(what: str, counted: float, most: float) -> None:
    """`pytest -s` shows how much of a bound is used."""
    told = f"{what}: {counted:,.0f} of {most:,.0f}"
    sys.stdout.write(told + "\n")
    assert counted <= most, told


def stream_threads() -> int:
    return sum(thread.name.startswith("StreamActor-") for thread in threading.enumerate())


# -- an event ---------------------------------------------------------------------------------------------------------


def test_events_that_come_together(
    calls: Calls, gemini: LocalGemini, manager: StartManager, start: Callable[..., Any]
) -> None:
    events = 3_000
    gemini.on("many", answer(events))
    seen = Seen()
    running = warm(manager(flow=WIDE), calls, start)
    assert run(running, "many", seen, start(Sink, seen)).events_count == seen.count == events
    reads = calls.reads
    within("reads", reads, events * len(event(0, last=False)) / 4096)
    within(
        "calls of the stream",
        calls.total(STREAM),
        CALLS_A_STREAM + CALLS_A_READ * reads + CALLS_AN_EVENT * events,
    )
    within("puts", calls.puts, reads + PUTS_A_STREAM)
    within("locks", calls.locks, LOCKS_A_STREAM + LOCKS_A_READ * reads)
    within(
        "calls of the subscriber",
        calls.total("Sink"),
        100 + CALLS_A_BATCH * reads + CALLS_A_DELIVERY * events,
    )


def test_events_that_come_alone(
    calls: Calls, gemini: LocalGemini, manager: StartManager, start: Callable[..., Any]
) -> None:
    events = 300
    gemini.on("slowly", Reply([TEXT] * events, pace=0.001))
    seen = Seen()
    run(warm(manager(), calls, start), "slowly", seen, start(Sink, seen))
    assert seen.count == events
    reads = calls.reads
    within("reads", reads, 1.1 * events + 10)
    within("reads that wake the stream's own thread", calls.named("StreamActor", "socket.recv"), 15)
    within(
        "calls of the stream",
        calls.total(STREAM),
        CALLS_A_STREAM + CALLS_A_READ * reads + CALLS_AN_EVENT * events,
    )
    within("puts", calls.puts, reads + PUTS_A_STREAM)
    within("locks", calls.locks, LOCKS_A_STREAM + LOCKS_A_READ * reads)
    within(
        "calls of the subscriber",
        calls.total("Sink"),
        CALLS_A_STREAM + (CALLS_A_BATCH + CALLS_A_DELIVERY) * events,
    )


def test_events_within_a_window(
    calls: Calls, gemini: LocalGemini, manager: StartManager, start: Callable[..., Any]
) -> None:
    """With the flow control that everybody has: batches stay large, and credit is asked for rarely."""
    events = 3_000
    gemini.on("many", answer(events))
    seen = Seen()
    running = warm(manager(), calls, start)
    run(running, "many", seen, [start(Sink, each) for each in (seen, *(Seen() for _ in range(9)))])
    assert seen.count == events
    within("puts", calls.puts, 10 * (events / SMALLEST_BATCH + PUTS_A_STREAM))


def test_a_plain_actor_acknowledges_each_half_window(
    calls: Calls, gemini: LocalGemini, manager: StartManager, start: Callable[..., Any]
) -> None:
    events = 2_000
    gemini.on("many", answer(events))
    seen = Seen()
    window = FlowControl().window
    run(warm(manager(), calls, start), "many", seen, start(PlainSink, seen))
    assert seen.count == events
    within("attribute requests", seen.attribute_requests, 2 * events / window + events / SMALLEST_BATCH + 2)
    most = (
        CALLS_A_STREAM
        + CALLS_A_READ * (calls.reads + events / 100)
        + (CALLS_AN_EVENT + CALLS_A_PLAIN_EVENT) * events
    )
    within("calls of the stream", calls.total(STREAM), most)


def test_one_more_subscriber_costs_a_put_a_read(
    calls: Calls, gemini: LocalGemini, manager: StartManager, start: Callable[..., Any]
) -> None:
    events = 2_000
    gemini.on("many", answer(events))
    running = warm(manager(flow=WIDE), calls, start)
    seen = Seen()
    refs = [start(Sink, seen), *(start(Sink, Seen()) for _ in range(20))]
    run(running, "many", seen, refs[:1])
    alone = calls.for_subscribers()
    calls.clear()
    run(running, "many", seen, refs)
    within(
        "calls for twenty more",
        calls.for_subscribers() - alone,
        20 * (CALLS_A_PUT * (calls.puts / 21) + CALLS_A_SUBSCRIPTION),
    )
    within("puts", calls.puts, 21 * (calls.reads + PUTS_A_STREAM))


# -- a stream ---------------------------------------------------------------------------------------------------------


def test_a_short_stream(
    calls: Calls, gemini: LocalGemini, manager: StartManager, start: Callable[..., Any]
) -> None:
    gemini.on("short", answer(3))
    running, seen = warm(manager(), calls, start), Seen()
    ref = start(Sink, seen)
    for _ in range(10):
        run(running, "short", seen, ref)
    for kind, most in CALLS_A_SHORT_STREAM.items():
        within(kind, calls.total(kind) / 10, most)
    # The subscriber is woken once for the events and the end, where both came in one read.
    assert calls.named("StreamActor", "Mailbox.put_quietly") >= 5
    assert {record.connection for record in gemini.requests} == {1}


def test_an_attempt_leaves_nothing_to_the_garbage_collector(
    gemini: LocalGemini, manager: StartManager, start: Callable[..., Any]
) -> None:
    gemini.on("short", answer(3))
    running, seen = manager(linger=60), Seen()
    ref = start(Sink, seen)
    run(running, "short", seen, ref)
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            run(running, "short", seen, ref)
        within("objects in cycles a stream", gc.collect() / 10, 3)
    finally:
        gc.enable()


def test_threads_descriptors_and_connections(
    gemini: LocalGemini, manager: StartManager, start: Callable[..., Any]
) -> None:
    gemini.on("held", Reply("one two", hold_after=1))
    running, seen = manager(), Seen()
    ref = start(Sink, seen)
    run(running, "warm up", seen, ref)
    threads, files, connections = threading.active_count(), len(descriptors()), gemini.connections_opened
    ids = [running.start_stream("held", subscriber=ref) for _ in range(20)]
    eventually(lambda: all(running.get_stream_info(stream_id).events_count for stream_id in ids))
    assert stream_threads() == 20
    assert threading.active_count() - threads <= 20 + 1  # the shared reader
    assert gemini.connections_opened - connections == 19  # one was there
    shared = 3  # the shared reader's
    assert len(descriptors()) - files in range(
        2 * 19, 2 * 19 + shared + 1
    )  # the server's ends are counted, too
    gemini.gate("held").open()
    eventually(lambda: len(seen.ends) == 21)
    eventually(lambda: stream_threads() == 0)
    for _ in ids:
        run(running, "again", seen, ref)
    assert gemini.connections_opened - connections == 19


# -- what must not grow -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("history", [0, 1 << 16])
def test_memory_does_not_grow_with_the_length_of_a_stream(
    gemini: LocalGemini, manager: StartManager, start: Callable[..., Any], history: int
) -> None:
    gemini.on("long", answer(6_000))
    seen = Seen()
    ref = start(Watcher, seen, 1_000, 6_000)
    run(manager(flow=FlowControl(window=16), history=history), "long", seen, ref)
    blocks = ref.proxy().blocks.get()
    within("blocks", blocks[6_000] - blocks[1_000], 2_000)  # 5,000 events that were kept are 50,000 and more


def test_an_event_costs_the_same_late_in_a_stream(
    calls: Calls, gemini: LocalGemini, manager: StartManager, start: Callable[..., Any]
) -> None:
    def cost(events: int) -> float:
        gemini.on(f"{events} events", answer(events))
        seen = Seen()
        calls.clear()
        run(running, f"{events} events", seen, start(Sink, seen))
        return calls.total(STREAM) / events

    running = manager(flow=WIDE)
    cost(10)
    short, long = cost(2_000), cost(8_000)
    within("calls an event", long, 1.25 * short)


def test_a_stream_costs_the_same_beside_many(
    calls: Calls, gemini: LocalGemini, manager: StartManager, start: Callable[..., Any]
) -> None:
    """Fifty that run and a hundred that linger make a start and an end no dearer, for nobody."""
    gemini.on("held", Reply("one two", hold_after=1))
    gemini.on("short", answer(3))
    running, seen = manager(linger=60, max_streams=200), Seen()
    ref = start(Sink, seen)

    kinds = ("ManagerActor", "StreamSupervisor", "StreamActor", "Sink")

    def cost() -> dict[str, int]:
        """The least of four: a thread that was kept from running costs others a wake-up."""
        seen_costs = []
        for _ in range(4):
            calls.clear()
            for _ in range(5):
                run(running, "short", seen, ref)
            seen_costs.append({kind: calls.total(kind) for kind in kinds})
        return {kind: min(each[kind] for each in seen_costs) for kind in kinds}

    cost()
    before = cost()
    for _ in range(100):
        run(running, "short", seen, ref)
    for _ in range(50):
        running.start_stream("held", subscriber=start(Sink, Seen()))
    eventually(lambda: running.get_stats().streams_by_status.get("active") == 50)
    eventually(lambda: stream_threads() == 50)
    after = cost()
    for kind, calls_before in before.items():
        within(kind, after[kind], 1.15 * calls_before + 100)


def test_subscribers_that_have_left_cost_nothing(
    calls: Calls, gemini: LocalGemini, manager: StartManager, start: Callable[..., Any]
) -> None:
    gemini.on("some", Reply([TEXT] * 200, pace=0.001, hold_after=1))

    def cost(leavers: int) -> float:
        seen = Seen()
        refs = [start(Sink, Seen()) for _ in range(leavers)]
        stream_id = running.start_stream("some", subscriber=start(Sink, seen))
        gemini.gate("some").reached()
        for ref in refs:
            running.subscribe_stream(stream_id, ref)
            running.unsubscribe_stream(stream_id, ref)
        calls.clear()
        gemini.gate("some").open()
        eventually(lambda: seen.ends)
        eventually(lambda: stream_threads() == 0)
        gemini.gate("some").close()
        return calls.total(STREAM) / max(calls.reads, 1)

    running = manager()
    cost(0)
    within("calls a read", cost(100), 1.1 * cost(0) + 2)


def test_a_later_attempt_costs_the_same(
    calls: Calls, gemini: LocalGemini, manager: StartManager, start: Callable[..., Any]
) -> None:
    policy = RetryPolicy(attempts=40, initial_delay=0, jitter=0)

    def cost(attempts: int) -> dict[str, float]:
        prompt = f"{attempts} attempts"
        gemini.on(prompt, *(Failure(503) for _ in range(attempts - 1)), answer(3))
        seen = Seen()
        calls.clear()
        assert run(running, prompt, seen, start(Sink, seen), retry=policy).attempts == attempts
        return {kind: calls.total(kind) / attempts for kind in ("StreamActor", "StreamSupervisor")}

    running = manager()
    cost(10)
    few, many = cost(10), cost(40)
    for kind, calls_before in few.items():
        within(kind, many[kind], 1.1 * calls_before + 10)
