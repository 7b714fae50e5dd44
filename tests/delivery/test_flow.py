"""Windows and overflow policies over real HTTP (docs/flow-control.md)."""

from __future__ import annotations

import queue
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pykka
import pytest

from conftest import StartManager
from gemini_streams import (
    FROM_START,
    DeadlineExceededError,
    EventsDropped,
    FlowControl,
    ManagerRef,
    SlowSubscriberError,
    StartStream,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamStopped,
    Subscribe,
    SubscriberActor,
)
from gemini_streams.testing import LocalGemini, Reply, check_history
from kit.helpers import LAST, eventually
from pykka_supervisor import SupervisedActor, kill
from pykka_supervisor.testing import TestClock

SIZE = 1000


class Desk:
    """What a test sees and steers of one slow actor: `allow(n)` lets it handle that many messages more."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.times: list[float] = []
        self._allowed = threading.Semaphore(0)
        self._free = False
        self.crashes = False
        self.pause = 0.0

    def handle(self, message: Any) -> None:
        if not self._free:
            self._allowed.acquire()
        if self.pause:
            time.sleep(self.pause)
        if self.crashes:
            raise ZeroDivisionError
        self.seen.append(message)
        self.times.append(time.monotonic())

    def allow(self, count: int) -> None:
        self._allowed.release(count)

    def free(self) -> None:
        self._free = True
        self._allowed.release(100_000)

    @property
    def events(self) -> list[StreamEvent]:
        return [m for m in self.seen if isinstance(m, StreamEvent)]

    @property
    def dropped(self) -> list[EventsDropped]:
        return [m for m in self.seen if isinstance(m, EventsDropped)]

    def wait(self, count: int) -> None:
        eventually(lambda: len(self.seen) >= count)
        assert len(self.seen) == count

    def wait_last(self, timeout: float = 10.0) -> None:
        eventually(lambda: any(isinstance(m, LAST) for m in list(self.seen)), timeout, "no last message")

    def last(self, timeout: float = 10.0) -> Any:
        """Wait for the last message; the history up to there must be right."""
        self.wait_last(timeout)
        assert check_history(self.seen, ended=True) == []
        return self.seen[-1]


class Plain(pykka.ThreadingActor):
    use_daemon_thread = True

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk

    def on_receive(self, message: Any) -> None:
        self.desk.handle(message)


class Bounded(Plain):
    @staticmethod
    def _create_actor_inbox() -> Any:
        return queue.Queue(maxsize=3)


class OwnQueue(queue.Queue[Any]):
    """One of another order would do the same."""


class BoundedOwnQueue(Plain):
    @staticmethod
    def _create_actor_inbox() -> Any:
        return OwnQueue(maxsize=3)


class Supervised(SupervisedActor):
    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk

    def on_receive(self, message: Any) -> None:
        self.desk.handle(message)


class Batched(SubscriberActor):
    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk

    def on_stream_event(self, event: StreamEvent) -> None:
        self.desk.handle(event)

    def on_stream_message(self, message: Any) -> None:
        self.desk.handle(message)


KINDS: list[Any] = [Plain, Bounded, BoundedOwnQueue, Supervised, Batched]
any_kind = pytest.mark.parametrize("kind", KINDS)

Start = Callable[..., tuple[Any, Desk]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a slow actor; it is let go and stopped after the test."""
    started: list[tuple[Any, Desk]] = []

    def make(kind: Any = Plain) -> tuple[Any, Desk]:
        desk = Desk()
        started.append((kind.start(desk), desk))
        return started[-1]

    yield make
    for ref, desk in started:
        desk.free()
        if ref.is_alive():
            ref.stop(timeout=20)


@pytest.fixture
def narrow() -> Iterator[LocalGemini]:
    """A server whose socket takes little, so that it is soon held back."""
    with LocalGemini(sndbuf=8192) as server:
        yield server


def waiting_in(ref: Any) -> int:
    """How many events are in an inbox; a batch counts what it still holds."""
    inbox = ref.actor_inbox
    items = list(inbox.queue if isinstance(inbox, queue.Queue) else inbox._items)
    return sum(
        e.message.rest.__length_hint__() if hasattr(e.message, "rest") else isinstance(e.message, StreamEvent)
        for e in items
    )


def settled(look: Callable[[], int], still: float = 0.06, timeout: float = 10.0) -> int:
    """Wait until a figure does not change any more."""
    deadline = time.monotonic() + timeout
    last, since = look(), time.monotonic()
    while time.monotonic() - since < still:
        assert time.monotonic() < deadline, "it goes on changing"
        time.sleep(0.01)
        now = look()
        if now != last:
            last, since = now, time.monotonic()
    return last


# -- windows ---------------------------------------------------------------------------------------------


@any_kind
@pytest.mark.parametrize(
    "flow", [FlowControl(window=16), FlowControl(max_bytes=20_000), FlowControl(window=1)]
)
def test_a_window_holds_and_reaches_back_to_the_server(
    narrow: LocalGemini, manager: StartManager, start: Start, kind: Any, flow: FlowControl
) -> None:
    total = 6000
    narrow.on("why", Reply(["x" * SIZE] * total))
    ref, desk = start(kind)
    most = min(flow.window, flow.max_bytes // SIZE)
    streams = manager(endpoint=narrow.endpoint)
    streams.start_stream("why", subscriber=ref, flow=flow)
    record = narrow.wait_request(1)
    sent = settled(lambda: record.bytes_sent)
    assert sent < 4_000_000, "the server is held back"
    assert waiting_in(ref) + 1 <= most + 1
    deepest = 0
    for _ in range(40):
        desk.allow(5)
        time.sleep(0.001)
        deepest = max(deepest, waiting_in(ref))
    assert deepest <= most
    desk.free()
    assert desk.last(30).events_count == total
    assert len(desk.events) == total
    assert record.ended == "complete"


def test_one_event_larger_than_the_window_goes_alone(
    gemini: LocalGemini, manager: StartManager, start: Start
) -> None:
    gemini.on("why", Reply(["x" * 5000] * 10))
    ref, desk = start()
    manager().start_stream("why", subscriber=ref, flow=FlowControl(max_bytes=100))
    for count in range(1, 10):
        desk.allow(1)
        desk.wait(count)
        settled(lambda: waiting_in(ref), 0.02)
        assert waiting_in(ref) <= 1
    desk.free()
    assert desk.last().events_count == 10


def test_draining_resumes_at_once(narrow: LocalGemini, manager: StartManager, start: Start) -> None:
    narrow.on("why", Reply(["x" * SIZE] * 6000))
    ref, desk = start()
    manager(endpoint=narrow.endpoint).start_stream("why", subscriber=ref, flow=FlowControl(window=100))
    record = narrow.wait_request(1)
    settled(lambda: record.bytes_sent)
    delays: list[float] = []
    for _ in range(10):
        seen = len(desk.seen)
        desk.allow(99)
        desk.wait(seen + 99)
        drained = time.monotonic()
        eventually(lambda: waiting_in(ref) >= 50)
        delays.append(time.monotonic() - drained)
    assert sorted(delays)[5] < 0.1, delays


def test_paused_streams_take_no_cpu(narrow: LocalGemini, manager: StartManager, start: Start) -> None:
    narrow.on("why", Reply(["x" * SIZE] * 6000))
    streams = manager(endpoint=narrow.endpoint)
    ref, _ = start()
    for number in range(50):
        streams.start_stream(f"why {number}", subscriber=ref, flow=FlowControl(window=10))
    eventually(lambda: waiting_in(ref) >= 499)
    eventually(lambda: streams.get_stats().events == 500)
    settled(lambda: sum(record.bytes_sent for record in narrow.requests))
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.05


@pytest.mark.parametrize("kinds", [KINDS, [Plain], [Batched]], ids=["mixed", "plain", "batched"])
def test_no_wake_up_is_lost(
    gemini: LocalGemini, manager: StartManager, start: Start, kinds: list[Any]
) -> None:
    """Random speeds, windows and sizes at a switch interval of 1 µs: all is delivered, and nobody stays asleep."""
    chance = random.Random(5)
    sizes = [chance.choice([1, 10, 200, 3000]) for _ in range(300)]
    gemini.on("why", Reply(["x" * size for size in sizes]))
    streams = manager(max_streams=30)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    people: list[tuple[Any, Desk]] = []
    try:
        for round_ in range(24):
            several = []
            for _ in range(chance.randint(1, 3)):
                ref, desk = start(chance.choice(kinds))
                desk.free()
                desk.pause = chance.choice([0.0, 0.0, 0.0002])
                several.append(ref)
                people.append((ref, desk))
            flow = FlowControl(
                window=chance.choice([1, 2, 7, 50]), max_bytes=chance.choice([1, 500, 5000, 1 << 20])
            )
            streams.start_stream(f"why {round_}", subscriber=several, flow=flow)
        for _, desk in people:
            assert isinstance(desk.last(40), StreamComplete)
            assert len(desk.events) == 300
    finally:
        sys.setswitchinterval(interval)


# -- policies --------------------------------------------------------------------------------------------


@any_kind
@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_what_is_dropped_is_counted_and_told_at_the_gap(
    gemini: LocalGemini, manager: StartManager, start: Start, kind: Any, overflow: Any
) -> None:
    total = 3000
    gemini.on("why", Reply([f"{n} " for n in range(total)]))
    ref, desk = start(kind)
    flow = FlowControl(window=20, overflow=overflow)
    streams = manager()
    streams.start_stream("why", subscriber=ref, flow=flow)
    eventually(lambda: streams.get_stats().completed == 1)  # nobody was held back
    assert waiting_in(ref) <= 20
    items = ref.actor_inbox.qsize()
    assert items <= 30, "an inbox that nobody reads does not grow by being told so"
    desk.free()
    last = desk.last()
    assert isinstance(last, StreamComplete)
    assert len(desk.events) + sum(d.count for d in desk.dropped) == total
    assert last.events_count == len(desk.events) <= 21
    if overflow == "drop_newest":
        assert [e.sequence for e in desk.events] == list(range(len(desk.events)))
        assert isinstance(desk.seen[-2], EventsDropped)
    else:
        assert desk.events[-1].sequence == total - 1, "what is newest is there"
    assert len(desk.dropped) == 1


@any_kind
def test_who_is_disconnected_has_its_error_at_once_and_alone(
    gemini: LocalGemini, manager: StartManager, start: Start, kind: Any
) -> None:
    gemini.on("why", Reply([f"{n} " for n in range(100)], pace=0.001, hold_after=50))
    slow, slow_desk = start(kind)
    quick, quick_desk = start()
    quick_desk.free()
    streams = manager()
    stream_id = streams.start_stream("why", subscriber=quick)
    streams.subscribe_stream(stream_id, slow, flow=FlowControl(window=10, overflow="disconnect"))
    eventually(lambda: slow not in streams.get_stream_info(stream_id).subscribers)
    assert not streams.unsubscribe_stream(stream_id, slow)
    assert gemini.gate("why").reached()
    gemini.gate("why").open()
    slow_desk.free()
    eventually(lambda: slow_desk.seen and isinstance(slow_desk.seen[-1], StreamError))
    error = slow_desk.seen[-1].error
    assert isinstance(error, SlowSubscriberError)
    assert "10 events" in str(error)
    assert check_history(slow_desk.seen, first=None, ended=True) == []
    assert quick_desk.last().ok
    assert len(quick_desk.events) == 100


def test_mixed_policies_on_one_stream(gemini: LocalGemini, manager: StartManager, start: Start) -> None:
    total = 2000
    gemini.on("why", Reply([f"{n} " for n in range(total)], hold_after=0))
    people = {name: start(kind) for name, kind in zip(("pause", "old", "new", "cut"), KINDS[1:], strict=True)}
    streams = manager()
    stream_id = streams.start_stream("why", subscriber=people["pause"][0], flow=FlowControl(window=50))
    for name, overflow in (("old", "drop_oldest"), ("new", "drop_newest"), ("cut", "disconnect")):
        flow = FlowControl(window=10, overflow=overflow)  # type: ignore[arg-type]
        streams.subscribe_stream(stream_id, people[name][0], flow=flow)
    people["pause"][1].free()
    gemini.gate("why").open()
    assert people["pause"][1].last().ok
    assert len(people["pause"][1].events) == total
    for name in ("old", "new", "cut"):
        people[name][1].free()
        last = people[name][1].last()
        assert isinstance(last, StreamError if name == "cut" else StreamComplete)
    for name in ("old", "new"):
        desk = people[name][1]
        assert len(desk.events) + sum(d.count for d in desk.dropped) == total


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "disconnect"])
@any_kind
def test_a_blocked_one_delays_no_other(
    gemini: LocalGemini, manager: StartManager, start: Start, kind: Any, overflow: Any
) -> None:
    gemini.on("why", Reply([f"{n} " for n in range(300)], pace=0.001))
    blocked, _ = start(kind)
    quick, desk = start()
    desk.free()
    streams = manager(history=1 << 20)
    stream_id = streams.start_stream(
        "why", subscriber=blocked, flow=FlowControl(window=20, overflow=overflow), keep=60
    )
    # With room for all: on a busy machine 20 events come before the quick one's thread runs, and it is not at fault.
    room = FlowControl(window=1000, overflow=overflow)
    streams.subscribe_stream(stream_id, quick, after=FROM_START, flow=room)
    assert desk.last().ok
    assert len(desk.events) == 300
    gaps = [b - a for a, b in zip(desk.times, desk.times[1:], strict=False)]
    assert sorted(gaps)[150] < 0.2


# -- ends ------------------------------------------------------------------------------------------------


@any_kind
def test_at_a_normal_end_what_is_buffered_comes_first(
    gemini: LocalGemini, manager: StartManager, start: Start, kind: Any
) -> None:
    gemini.on("why", Reply([f"{n} " for n in range(40)]))
    ref, desk = start(kind)
    streams = manager(linger=0)
    streams.start_stream("why", subscriber=ref, flow=FlowControl(window=40, overflow="drop_oldest"))
    eventually(lambda: streams.get_stats().completed == 1)
    assert waiting_in(ref) <= 20
    assert not any(isinstance(m, StreamComplete) for m in desk.seen)
    desk.free()
    assert desk.last().events_count == 40


def test_an_ended_stream_that_drains_lets_who_unsubscribes_go(
    gemini: LocalGemini, manager: StartManager, start: Start
) -> None:
    gemini.on("why", Reply([f"{n} " for n in range(40)]))
    ref, desk = start()
    streams = manager()
    stream_id = streams.start_stream(
        "why", subscriber=ref, flow=FlowControl(window=40, overflow="drop_oldest")
    )
    eventually(lambda: streams.get_stats().completed == 1)
    assert streams.get_stats().total_subscribers == 1
    before = ref.actor_inbox.qsize()
    assert streams.unsubscribe_stream(stream_id, ref)
    assert streams.get_stats().total_subscribers == 0
    assert ref.actor_inbox.qsize() <= before
    desk.free()
    assert ref.ask("still there", timeout=20) is None
    assert len(desk.events) <= 21
    assert not any(isinstance(m, LAST) for m in desk.seen)


def paused(server: LocalGemini, streams: ManagerRef, *refs: Any, stream_id: str = "s", **options: Any) -> Any:
    """Start a stream and wait until it is paused by the first of these; returns the server's record."""
    server.on("why", Reply(["x" * SIZE] * 6000))
    options = {"flow": FlowControl(window=10), **options}
    streams.ask(StartStream("why", subscriber=list(refs), stream_id=stream_id, **options))
    record = server.wait_request(1)
    settled(lambda: record.bytes_sent)
    return record


@any_kind
@pytest.mark.parametrize("how", ["stop", "unsubscribe", "death", "kill", "shutdown", "deadline"])
def test_a_paused_stream_obeys_at_once(
    narrow: LocalGemini, manager: StartManager, start: Start, clock: TestClock, kind: Any, how: str
) -> None:
    streams = manager(endpoint=narrow.endpoint, clock=clock, deadline=1000, linger=1e6)
    slow, slow_desk = start(kind)
    quick, desk = start()
    desk.free()
    record = paused(narrow, streams, slow, quick, flow=FlowControl(window=10, stall_timeout=1e5))
    seen = len(desk.events)
    assert seen <= 11
    began = time.monotonic()
    match how:
        case "stop":
            assert streams.stop_stream("s")
            last = desk.last()
            assert isinstance(last, StreamStopped)
        case "unsubscribe":
            inbox = slow.actor_inbox.qsize()
            assert streams.unsubscribe_stream("s", slow)
            assert slow.actor_inbox.qsize() == inbox
            eventually(lambda: len(desk.events) > seen + 500)
            assert desk.last(20).ok
            return
        case "death":
            slow_desk.crashes = True
            slow_desk.allow(1)
            eventually(lambda: not slow.is_alive())
            eventually(lambda: len(desk.events) > seen + 500)
            assert time.monotonic() - began < 8
            return
        case "kill":
            info = streams.get_stream_info("s")
            assert info.stream_ref is not None
            kill(info.stream_ref)
            eventually(lambda: streams.get_stream_info("s").status == "restarting")
            streams.stop_stream("s")
            eventually(lambda: isinstance(desk.seen[-1], StreamStopped))
            assert desk.seen[-1].attempts == 1
        case "shutdown":
            assert streams.stop(timeout=20)
            assert isinstance(desk.last(), StreamStopped)
        case "deadline":
            clock.advance(1001)
            assert isinstance(desk.last().error, DeadlineExceededError)
    record.wait_closed(1)
    assert record.client_closed
    assert time.monotonic() - began < 8


@any_kind
def test_at_stop_stream_the_buffer_is_dropped(
    narrow: LocalGemini, manager: StartManager, start: Start, kind: Any
) -> None:
    narrow.on("why", Reply(["x" * SIZE] * 40, hold_after=30))
    streams = manager(endpoint=narrow.endpoint)
    slow, desk = start(kind)
    flow = FlowControl(window=10, overflow="drop_oldest")
    streams.start_stream("why", subscriber=slow, stream_id="s", flow=flow)
    eventually(lambda: streams.get_stats().events == 30)
    streams.stop_stream("s")
    held = waiting_in(slow)
    assert held <= 5
    desk.free()
    assert isinstance(desk.last(), StreamStopped)
    assert desk.last().events_count == len(desk.events) <= 6


@any_kind
def test_who_holds_a_stream_too_long_is_let_go(
    narrow: LocalGemini, manager: StartManager, start: Start, clock: TestClock, kind: Any
) -> None:
    streams = manager(endpoint=narrow.endpoint, clock=clock, idle_timeout=5, first_event_timeout=5)
    slow, slow_desk = start(kind)
    quick, desk = start()
    desk.free()
    flow = FlowControl(window=10, stall_timeout=40)
    record = paused(narrow, streams, slow, quick, flow=flow)
    seen = len(desk.events)
    clock.advance(39)
    assert settled(lambda: len(desk.events), 0.05) == seen, "the server's silence is not counted meanwhile"
    clock.advance(2)
    assert desk.last(20).ok
    assert record.ended == "complete"
    slow_desk.free()
    eventually(lambda: slow_desk.seen and isinstance(slow_desk.seen[-1], StreamError))
    assert isinstance(slow_desk.seen[-1].error, SlowSubscriberError)
    assert check_history(slow_desk.seen, ended=True) == []


def test_the_end_of_a_pause_is_not_taken_for_silence(
    narrow: LocalGemini, manager: StartManager, start: Start, clock: TestClock
) -> None:
    """The timer may ring between the credit and the stream's thread."""
    streams = manager(endpoint=narrow.endpoint, clock=clock, idle_timeout=5)
    slow, desk = start()
    paused(narrow, streams, slow)
    for _ in range(20):
        clock.advance(50)
        seen = len(desk.seen)
        desk.allow(9)
        desk.wait(seen + 9)
        clock.advance(0)
        settled(lambda: waiting_in(slow), 0.01)
    desk.free()
    assert desk.last(20).ok


def test_the_last_one_who_holds_it_ends_it(
    narrow: LocalGemini, manager: StartManager, start: Start, clock: TestClock
) -> None:
    streams = manager(endpoint=narrow.endpoint, clock=clock)
    slow, desk = start()
    record = paused(narrow, streams, slow)
    clock.advance(61)
    record.wait_closed(1)
    assert streams.get_stream_info("s").status == "stopped"
    desk.free()
    assert isinstance(desk.last().error, SlowSubscriberError)


# -- subscribers that block, raise or die ------------------------------------------------------------


class Raises(Plain):
    def on_receive(self, message: Any) -> None:
        if isinstance(message, StreamEvent):
            raise ZeroDivisionError


class RaisesSupervised(Supervised):
    def on_receive(self, message: Any) -> None:
        if isinstance(message, StreamEvent):
            raise ZeroDivisionError


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("kind", [Raises, RaisesSupervised])
@pytest.mark.parametrize("overflow", ["pause", "drop_oldest", "drop_newest", "disconnect"])
def test_one_that_raises_is_dropped_and_nobody_sees_it(
    gemini: LocalGemini, manager: StartManager, start: Start, kind: Any, overflow: Any
) -> None:
    gemini.on("why", Reply([f"{n} " for n in range(500)], pace=0.002))
    bad, _ = start(kind)
    quick, desk = start()
    desk.free()
    streams = manager()
    window = 100 if overflow == "pause" else 5_000  # the quick one may be kept from reading for a while
    stream_id = streams.start_stream(
        "why", subscriber=[bad, quick], flow=FlowControl(window=window, overflow=overflow)
    )
    eventually(lambda: streams.get_stream_info(stream_id).subscribers == (quick,))
    assert desk.last().ok
    assert len(desk.events) == 500


# -- one actor on many streams, joins and leaves ---------------------------------------------------------


@any_kind
def test_one_actor_on_many_streams(
    gemini: LocalGemini, manager: StartManager, start: Start, kind: Any
) -> None:
    gemini.on("why", Reply([f"{n} " for n in range(100)]))
    ref, desk = start(kind)
    desk.free()
    streams = manager(max_streams=100)
    ids = [streams.start_stream(f"why {n}", subscriber=ref, flow=FlowControl(window=5)) for n in range(100)]
    eventually(lambda: sum(isinstance(m, LAST) for m in list(desk.seen)) == 100, 30)
    assert check_history(desk.seen, ended=ids) == []
    assert len(desk.events) == 100 * 100


def test_joins_and_leaves_while_it_runs(gemini: LocalGemini, manager: StartManager, start: Start) -> None:
    chance = random.Random(7)
    gemini.on("why", Reply([f"{n} " for n in range(1500)], pace=0.0005))
    anchor, anchor_desk = start()
    anchor_desk.free()
    streams = manager()
    stream_id = streams.start_stream("why", subscriber=anchor)
    inside: list[tuple[Any, Desk]] = []
    past: list[Desk] = []
    while not any(isinstance(m, LAST) for m in anchor_desk.seen):
        if len(past) >= 60:
            time.sleep(0.01)
        elif len(inside) < 8:
            ref, desk = start(chance.choice(KINDS))
            desk.free()
            try:
                streams.ask(Subscribe(stream_id, ref, None, FlowControl(window=chance.choice([1, 5, 50]))))
            except Exception:
                break
            inside.append((ref, desk))
        else:
            ref, desk = inside.pop(chance.randrange(8))
            if streams.unsubscribe_stream(stream_id, ref):
                ref.ask("that is all there is", timeout=20)
                count = len(desk.seen)
                assert check_history(desk.seen, first=None) == []
                past.append(desk)
                assert len(desk.seen) == count
    assert anchor_desk.last().ok
    assert len(anchor_desk.events) == 1500
    for _, desk in inside:
        desk.wait_last()
        assert check_history(desk.seen, first=None, ended=True) == []
    for desk in past:
        assert not any(isinstance(m, LAST) for m in desk.seen)
