"""A slow subscriber on a fast stream of 2 KB an event. Nothing grows, nothing is lost, the server waits."""

from __future__ import annotations

import gc
import resource
import threading
import time
from pathlib import Path
from typing import Any

import pykka
import pytest

from conftest import StartManager
from gemini_streams import (
    EventsDropped,
    FlowControl,
    StreamComplete,
    StreamError,
    StreamEvent,
    SubscriberActor,
)
from gemini_streams.testing import LocalGemini, Reply

SIZE = 2000


def resident() -> int:
    """Bytes of this process in memory now."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except OSError:
        return 0  # only Linux tells


class Tally:
    """What a slow subscriber has handled."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.events = 0
        self.dropped = 0
        self.last: Any = None
        self.wrong: list[Any] = []
        self.done = threading.Event()
        self._next = 0
        self._ends: list[Any] = []

    def take(self, message: Any) -> None:
        match message:
            case StreamEvent():
                time.sleep(self.delay)
                self.events += 1
                if message.sequence != self._next:
                    self.wrong.append(message.sequence)
                self._next = message.sequence + 1
            case EventsDropped():
                if message.first_sequence != self._next:
                    self.wrong.append(message)
                self.dropped += message.count
                self._next = message.first_sequence + message.count
            case _:
                self.last = message
                self.done.set()


class Plain(pykka.ThreadingActor):
    use_daemon_thread = True

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self.tally = tally

    def on_receive(self, message: Any) -> None:
        self.tally.take(message)


class Batched(SubscriberActor):
    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self.tally = tally

    def on_stream_event(self, event: StreamEvent) -> None:
        self.tally.take(event)

    def on_stream_message(self, message: Any) -> None:
        self.tally.take(message)


def depth(ref: Any) -> int:
    """Events in an inbox that have not been begun."""
    inbox = ref.actor_inbox
    items = list(inbox.queue if hasattr(inbox, "queue") else inbox._items)
    return sum(
        e.message.rest.__length_hint__() if hasattr(e.message, "rest") else isinstance(e.message, StreamEvent)
        for e in items
    )


def run(
    server: LocalGemini, streams: Any, kind: Any, *, events: int, delay: float, flow: FlowControl
) -> tuple[Tally, dict[str, int]]:
    """Let a slow subscriber read a stream; returns its tally, and the most of what was seen meanwhile."""
    server.on("warm", Reply(["x" * SIZE] * 600))
    server.on("why", Reply(["x" * SIZE] * events))
    warm = Tally(0)
    ref = kind.start(warm)
    streams.start_stream("warm", subscriber=ref, flow=flow)
    assert warm.done.wait(30)
    ref.stop()
    tally = Tally(delay)
    ref = kind.start(tally)
    gc.collect()
    before = resident()
    most = {"depth": 0, "rss": 0, "ahead": 0}
    streams.start_stream("why", subscriber=ref, flow=flow)
    record = server.wait_request(2)
    while not tally.done.wait(0.01):
        most["depth"] = max(most["depth"], depth(ref))
        most["rss"] = max(most["rss"], resident() - before)
        if flow.overflow == "pause":
            most["ahead"] = max(most["ahead"], record.bytes_sent // SIZE - tally.events)
    ref.stop()
    return tally, most


def judge(tally: Tally, most: dict[str, int], flow: FlowControl, events: int) -> None:
    assert tally.wrong == []
    assert most["depth"] <= min(flow.window, flow.max_bytes // SIZE)
    assert most["rss"] < 5_000_000, most
    if flow.overflow == "disconnect":
        assert isinstance(tally.last, StreamError)
        return
    assert isinstance(tally.last, StreamComplete)
    assert tally.events + tally.dropped == events
    assert tally.last.events_count == tally.events
    if flow.overflow == "pause":
        assert tally.dropped == 0
        # What is on the way beyond the window stands in the system's own buffers, which grow with use (tcp_rmem).
        assert most["ahead"] * SIZE < 20_000_000 < events * SIZE, "the server is held back"
    else:
        assert tally.dropped > 0


@pytest.mark.parametrize("kind", [Plain, Batched])
@pytest.mark.parametrize("overflow", ["pause", "drop_oldest", "drop_newest", "disconnect"])
def test_a_slow_subscriber(manager: StartManager, kind: Any, overflow: Any) -> None:
    """20,000 events, and 10 ms scaled down to what is still slow."""
    with LocalGemini(sndbuf=65536) as server:
        flow = FlowControl(overflow=overflow)
        delay = 0.00002 if overflow == "pause" else 0.001
        streams = manager(endpoint=server.endpoint)
        tally, most = run(server, streams, kind, events=20_000, delay=delay, flow=flow)
        judge(tally, most, flow, 20_000)


@pytest.mark.soak
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", [Plain, Batched])
def test_at_its_full_length(manager: StartManager, kind: Any) -> None:
    with LocalGemini() as server:
        flow = FlowControl()
        streams = manager(endpoint=server.endpoint)
        tally, most = run(server, streams, kind, events=20_000, delay=0.01, flow=flow)
        judge(tally, most, flow, 20_000)
