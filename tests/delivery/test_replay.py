"""Replay from the history: no gap and no repeat at the seam, whatever happens meanwhile."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from conftest import StartManager
from gemini_streams import (
    FROM_START,
    FlowControl,
    HistoryGoneError,
    InvalidRequestError,
    RetryPolicy,
    StreamComplete,
    StreamCrashedError,
    StreamEndedError,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
    SubscriberActor,
)
from gemini_streams.streams.members import Members
from gemini_streams.testing import Body, LocalGemini, LongAnswer, Reply, check_history
from kit.helpers import LAST, events_of, eventually, last_of, text_of
from pykka_supervisor.testing import Probe, TestClock

QUICK = RetryPolicy(initial_delay=0.0, jitter=0.0)
KEPT = 1 << 20
Probes = Callable[[], Probe]


def last_seen(probe: Probe) -> tuple[int, int]:
    event = events_of(probe)[-1]
    return event.attempt, event.sequence


def after_it(after: Any) -> int:
    """The sequence number of the first event that follows."""
    return after[1] + 1 if isinstance(after, tuple) else 0


def judge(probe: Probe, after: Any, *, ended: bool = True) -> None:
    assert check_history(probe.messages, after=after, first=None, ended=ended) == []


def test_from_start_after_a_place_and_live(
    gemini: LocalGemini, manager: StartManager, probes: Probes
) -> None:
    gemini.on("why", Reply([f"{n} " for n in range(100)], hold_after=50))
    streams = manager(history=KEPT)
    first = probes()
    stream_id = streams.start_stream("why", subscriber=first.ref)
    first.expect(StreamEvent, lambda e: e.sequence == 49)
    joined = {after: probes() for after in (None, FROM_START, (1, -1), (1, 0), (1, 30), (1, 49))}
    for after, probe in joined.items():
        streams.subscribe_stream(stream_id, probe.ref, after=after)
    gemini.gate("why").open()
    for after, probe in joined.items():
        probe.expect(StreamComplete)
        start = 50 if after is None else after_it(after)
        assert [e.sequence for e in events_of(probe)] == list(range(start, 100))
        judge(probe, after)
    assert last_of(first).ok


def test_the_seam_while_events_pour_in(gemini: LocalGemini, manager: StartManager, probes: Probes) -> None:
    chance = random.Random(3)
    gemini.on("why", Reply([f"{n} " for n in range(3000)], pace=0.0002))
    streams = manager(history=KEPT)
    first = probes()
    stream_id = streams.start_stream("why", subscriber=first.ref)
    joined: list[tuple[Any, Probe]] = []
    while len(joined) < 25 and not any(isinstance(m, LAST) for m in first.messages):
        seen = events_of(first)
        after = chance.choice([FROM_START, (1, chance.randrange(len(seen))) if seen else FROM_START])
        probe = probes()
        flow = FlowControl(window=chance.choice([1, 10, 256]))
        streams.subscribe_stream(stream_id, probe.ref, after=after, flow=flow)
        joined.append((after, probe))
        time.sleep(0.002)
    assert last_of(first, timeout=20).ok
    for after, probe in joined:
        probe.expect(StreamComplete, timeout=20)
        start = after_it(after)
        assert [e.sequence for e in events_of(probe)] == list(range(start, 3000))
        judge(probe, after)


@pytest.mark.parametrize("overflow", ["pause", "drop_oldest", "drop_newest", "disconnect"])
def test_a_replay_of_more_than_a_window_is_nobodys_fault(
    gemini: LocalGemini, manager: StartManager, probes: Probes, overflow: Any
) -> None:
    """Live events that come meanwhile wait behind it, up to a window."""
    gemini.on("why", Reply([f"{n} " for n in range(505)], pace=0.001, hold_after=500))
    streams = manager(history=KEPT)
    first, late = probes(), probes()
    stream_id = streams.start_stream("why", subscriber=first.ref)
    first.expect(StreamEvent, lambda e: e.sequence == 499)
    flow = FlowControl(window=20, overflow=overflow)
    streams.subscribe_stream(stream_id, late.ref, after=FROM_START, flow=flow)
    gemini.gate("why").open()
    late.expect(StreamComplete)
    assert [e.sequence for e in events_of(late)] == list(range(505))
    judge(late, FROM_START)


def test_while_attempts_change(gemini: LocalGemini, manager: StartManager, probes: Probes) -> None:
    text = [f"{n} " for n in range(40)]
    gemini.on(
        "why",
        *(Reply(text, pace=0.001, end="cut", end_after=10 + 5 * n) for n in range(5)),
        Reply(text, pace=0.001),
    )
    streams = manager(history=KEPT, retry=RetryPolicy(attempts=9, initial_delay=0.01, jitter=0.0))
    first = probes()
    stream_id = streams.start_stream("why", subscriber=first.ref)
    joined: list[tuple[Any, Probe]] = []
    while not any(isinstance(m, LAST) for m in first.messages):
        after = last_seen(first) if events_of(first) and len(joined) % 2 else FROM_START
        probe = probes()
        try:
            streams.subscribe_stream(stream_id, probe.ref, after=after)
        except StreamEndedError:
            break
        joined.append((after, probe))
        time.sleep(0.004)
    assert last_of(first).attempts == 6
    assert len(joined) > 8
    for after, probe in joined:
        probe.expect(StreamComplete)
        judge(probe, after)
        standing: dict[int, str] = {}
        for message in probe.messages:
            if isinstance(message, StreamRestarting):
                standing = {n: t for n, t in standing.items() if n < message.resume_at}
            elif isinstance(message, StreamEvent):
                standing[message.sequence] = message.text
        if after is FROM_START:
            assert [standing[n] for n in range(40)] == text


def test_what_was_seen_and_is_void_is_told_first(
    gemini: LocalGemini, manager: StartManager, probes: Probes
) -> None:
    gemini.on("why", Reply("a b c d", end="cut", end_after=3), Reply("e f g h", hold_after=2))
    streams = manager(history=KEPT, retry=QUICK)
    first, back, there = probes(), probes(), probes()
    stream_id = streams.start_stream("why", subscriber=first.ref)
    first.expect(StreamEvent, lambda e: (e.attempt, e.sequence) == (2, 1))
    streams.subscribe_stream(stream_id, back.ref, after=(1, 2))
    streams.subscribe_stream(stream_id, there.ref, after=(2, 0))
    restarting = back.expect(StreamRestarting)
    assert (restarting.attempt, restarting.resume_at, restarting.discard) == (2, 0, True)
    gemini.gate("why").open()
    for probe, after in ((back, (1, 2)), (there, (2, 0))):
        probe.expect(StreamComplete)
        judge(probe, after)
    assert text_of(back) == "e f g h"
    assert text_of(there) == " f g h"


def test_with_continuation_tokens_only_what_is_void_is_sent_again(
    gemini: LocalGemini, manager: StartManager, probes: Probes
) -> None:
    text = " ".join(f"w{n}" for n in range(30))
    gemini.on("why", LongAnswer(text, hops=1, checkpoint_every=5, cut_at=[13], hold_after=20))
    streams = manager(history=KEPT, retry=QUICK)
    first = probes()
    gemini.gate("why").open()
    stream_id = streams.start_stream("why", subscriber=first.ref)
    last = last_of(first)
    assert last.ok
    assert last.attempts == 2
    afters: list[Any] = [FROM_START, (1, 4), (1, 9), (1, 12), (2, 15)]
    for after in afters:
        back = probes()
        streams.subscribe_stream(stream_id, back.ref, after=after)
        back.expect(StreamComplete)
        judge(back, after)
        restarts = [m for m in back.messages if isinstance(m, StreamRestarting)]
        if after == (1, 12):
            assert [m.resume_at for m in restarts] == [10]
        else:
            assert restarts == []
        start = 10 if after == (1, 12) else after_it(after)
        assert [e.sequence for e in events_of(back)] == list(range(start, 30))


def test_a_stream_that_lingers_replays_its_last_message_included(
    gemini: LocalGemini, manager: StartManager, probes: Probes, clock: TestClock
) -> None:
    gemini.on("why", Reply([f"{n} " for n in range(600)]))
    streams = manager(history=KEPT, clock=clock, linger=5)
    first = probes()
    stream_id = streams.start_stream("why", subscriber=first.ref)
    assert last_of(first).ok
    for after in (FROM_START, (1, 100), (1, 599)):
        probe = probes()
        streams.subscribe_stream(stream_id, probe.ref, after=after)
        probe.expect(StreamComplete)
        judge(probe, after)
        assert len(events_of(probe)) == 600 - after_it(after)
    with pytest.raises(StreamEndedError):
        streams.subscribe_stream(stream_id, probes().ref)
    clock.advance(5)
    with pytest.raises(LookupError):
        streams.subscribe_stream(stream_id, probes().ref, after=FROM_START)


def test_a_second_subscribe_while_it_drains_changes_nothing(
    gemini: LocalGemini, manager: StartManager
) -> None:
    gemini.on("why", Reply([f"{n} " for n in range(600)]))
    seen: list[Any] = []

    class Slow(SubscriberActor):
        def on_stream_event(self, event: StreamEvent) -> None:
            time.sleep(0.0005)
            seen.append(event)

        def on_stream_complete(self, message: StreamComplete) -> None:
            seen.append(message)

    streams = manager(history=KEPT)
    with Probe() as probe:
        stream_id = streams.start_stream("why", subscriber=probe.ref)
        assert last_of(probe).ok
    slow = Slow.start()
    for _ in range(20):
        streams.subscribe_stream(stream_id, slow, after=FROM_START, flow=FlowControl(window=10))
        assert streams.get_stream_info(stream_id).subscribers == (slow,)
    eventually(lambda: seen and isinstance(seen[-1], StreamComplete))
    assert check_history(seen, after=FROM_START, ended=True) == []
    assert streams.get_stream_info(stream_id).subscribers == ()
    slow.stop()


def test_what_is_gone_is_refused(gemini: LocalGemini, manager: StartManager, probes: Probes) -> None:
    gemini.on("why", Reply([f"{n} " * 20 for n in range(200)], hold_after=100))
    streams = manager(history=5000)
    first = probes()
    stream_id = streams.start_stream("why", subscriber=first.ref)
    first.expect(StreamEvent, lambda e: e.sequence == 99)
    for after in (FROM_START, (1, 0), (1, 50)):
        with pytest.raises(HistoryGoneError, match="5000"):
            streams.subscribe_stream(stream_id, probes().ref, after=after)
    ok = probes()
    streams.subscribe_stream(stream_id, ok.ref, after=(1, 95))
    gemini.gate("why").open()
    ok.expect(StreamComplete)
    judge(ok, (1, 95))


def test_without_history_only_what_is_not_missed(
    gemini: LocalGemini, manager: StartManager, probes: Probes
) -> None:
    gemini.on("why", Reply("a b c", hold_after=0))
    streams = manager()
    first, second, third = probes(), probes(), probes()
    stream_id = streams.start_stream("why", subscriber=first.ref)
    gemini.gate("why").reached()
    streams.subscribe_stream(stream_id, second.ref, after=FROM_START)  # nothing has come yet
    gemini.gate("why").open()
    assert last_of(first).ok
    second.expect(StreamComplete)
    assert text_of(second) == "a b c"
    with pytest.raises(HistoryGoneError):
        streams.subscribe_stream(stream_id, third.ref, after=FROM_START)
    streams.subscribe_stream(stream_id, third.ref, after=(1, 2))
    third.expect(StreamComplete)
    assert events_of(third) == []


@pytest.mark.parametrize(
    "after",
    [(2, 0), (1, 2), (1, 10**9), (0, 0), (1, -2), (1,), (1, 2, 3), ("1", 0), (True, 1), 5, "start", 1.0],
)
def test_nonsense_is_refused(gemini: LocalGemini, manager: StartManager, probe: Probe, after: Any) -> None:
    gemini.on("why", Reply("a b c", hold_after=2))
    streams = manager(history=KEPT)
    with Probe() as first:
        stream_id = streams.start_stream("why", subscriber=first.ref)
        first.expect(StreamEvent, lambda e: e.sequence == 1)
        with pytest.raises(InvalidRequestError, match="after"):
            streams.subscribe_stream(stream_id, probe.ref, after=after)
        assert streams.get_stream_info(stream_id).subscribers == (first.ref,)


def test_the_history_is_bounded_in_bytes(gemini: LocalGemini, manager: StartManager, probe: Probe) -> None:
    gemini.on("why", Reply(["x" * (n % 700) for n in range(3000)]))
    streams = manager(history=20_000)
    stream_id = streams.start_stream("why", subscriber=probe.ref)
    assert last_of(probe).ok
    session = streams._cell.incarnation.actor._table.find(stream_id)  # type: ignore[union-attr]
    assert 19_000 < session.history.cost <= 20_000


@pytest.mark.parametrize("way", ["more requests", "unsubscribe", "stop"])
def test_a_replay_is_decoded_where_it_holds_up_nobody(
    gemini: LocalGemini, manager: StartManager, probes: Probes, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """In a thread of its own, with no lock held; and what is decoded when its subscriber has left is not put."""
    gemini.on("why", Reply([f"{n} " for n in range(300)], hold_after=200))
    streams = manager(history=KEPT)
    first, late = probes(), probes()
    stream_id = streams.start_stream("why", subscriber=first.ref)
    first.expect(StreamEvent, lambda e: e.sequence == 199)
    reached, gate, names = threading.Event(), threading.Event(), set()
    original = Members.event

    def event(self: Members, attempt: int, sequence: int, payload: bytes) -> StreamEvent:
        names.add(threading.current_thread().name)
        if sequence == 100:
            reached.set()
            gate.wait(30)
        return original(self, attempt, sequence, payload)

    monkeypatch.setattr(Members, "event", event)
    streams.subscribe_stream(stream_id, late.ref, after=FROM_START, timeout=20)
    assert reached.wait(20)
    info = streams.get_stream_info(stream_id, timeout=20)
    assert late.ref in info.subscribers
    assert streams.get_stats(timeout=20).total_subscribers == 2
    match way:
        case "unsubscribe":
            assert streams.unsubscribe_stream(stream_id, late.ref, timeout=20)
            late.wait(64)
        case "stop":
            assert streams.stop_stream(stream_id, timeout=20)
            late.expect(StreamStopped)
    gate.set()
    gemini.gate("why").open()
    last_of(first)
    assert names == {"gemini-streams-replay"}
    eventually(lambda: not any(t.name == "gemini-streams-replay" for t in threading.enumerate()))
    if way == "unsubscribe":
        assert len(late.messages) == 64  # the pieces before the one in hand
        return
    if way == "more requests":
        late.expect(LAST)
    judge(late, FROM_START)


def test_a_long_replay_leaves_the_interpreter_to_others(
    gemini: LocalGemini, manager: StartManager, probes: Probes
) -> None:
    gemini.on("why", Reply([f"{n} " for n in range(20_000)]))
    streams = manager(history=1 << 25, linger=60)
    first, late = probes(), probes()
    stream_id = streams.start_stream("why", subscriber=first.ref)
    first.expect(StreamComplete, timeout=60)
    ticks = 0
    interval = sys.getswitchinterval()
    wide = FlowControl(window=100_000, max_bytes=1 << 30)
    sys.setswitchinterval(5.0)  # a thread that does not let go keeps the interpreter for all of the replay
    try:
        streams.subscribe_stream(stream_id, late.ref, after=FROM_START, flow=wide, timeout=20)
        while not any(isinstance(m, LAST) for m in late.messages[-1:]):
            time.sleep(0.001)
            ticks += 1
    finally:
        sys.setswitchinterval(interval)
    assert ticks > 20
    judge(late, FROM_START)


def test_an_event_that_cannot_be_read_again_is_an_end_and_no_silence(
    gemini: LocalGemini, manager: StartManager, probes: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    gemini.on("why", Reply("a b c", hold_after=2))
    streams = manager(history=KEPT)
    first, late = probes(), probes()
    stream_id = streams.start_stream("why", subscriber=first.ref)
    first.wait(2)

    def event(self: Members, attempt: int, sequence: int, payload: bytes) -> StreamEvent:
        raise RecursionError

    monkeypatch.setattr(Members, "event", event)
    streams.subscribe_stream(stream_id, late.ref, after=FROM_START)
    assert isinstance(late.expect(StreamError).error, StreamCrashedError)
    eventually(lambda: streams.get_stream_info(stream_id).subscribers == (first.ref,))
    gemini.gate("why").open()
    assert isinstance(last_of(first), StreamComplete)


def test_an_event_that_is_not_quite_utf8_is_replayed(
    gemini: LocalGemini, manager: StartManager, probes: Probes
) -> None:
    event = b'data: {"candidates":[{"content":{"parts":[{"text":"caf\xe9"}]},"finishReason":"STOP"}]}\n\n'
    gemini.on("why", Body(event))
    streams = manager(history=KEPT)
    first, late = probes(), probes()
    stream_id = streams.start_stream("why", subscriber=first.ref)
    assert last_of(first).ok
    streams.subscribe_stream(stream_id, late.ref, after=FROM_START)
    late.expect(StreamComplete)
    assert text_of(first) == text_of(late) == "caf\ufffd"


@pytest.mark.parametrize("how", ["unsubscribe", "die"])
def test_a_browser_that_reconnects_finds_its_place(
    gemini: LocalGemini, manager: StartManager, probes: Probes, how: str
) -> None:
    """It closes at random moments and comes back with what it saw last; attempts change meanwhile."""
    chance = random.Random(11)
    text = [f"{n} " for n in range(400)]
    gemini.on(
        "why",
        Reply(text, pace=0.001, end="cut", end_after=150),
        Reply(text, pace=0.001, end="reset", end_after=250),
        Reply(text, pace=0.001),
    )
    streams = manager(history=KEPT, keep=10, retry=QUICK)
    browser = probes()
    stream_id = streams.start_stream("why", subscriber=browser.ref)
    standing: dict[int, str] = {}
    last: tuple[int, int] | None = None
    after: Any = None
    visits = 0
    while True:
        visits += 1
        time.sleep(chance.uniform(0, 0.03))
        done = any(isinstance(m, LAST) for m in browser.messages)
        if how == "unsubscribe":
            streams.unsubscribe_stream(stream_id, browser.ref)
        browser.stop()
        assert check_history(browser.messages, after=after, first=0 if visits == 1 else None) == []
        for message in browser.messages:
            if isinstance(message, StreamRestarting):
                standing = {n: t for n, t in standing.items() if n < message.resume_at}
            elif isinstance(message, StreamEvent):
                assert message.sequence not in standing, "twice"
                standing[message.sequence] = message.text
                last = message.attempt, message.sequence
        if done:
            break
        browser = probes()
        after = last or FROM_START
        streams.subscribe_stream(stream_id, browser.ref, after=after)
    assert visits > 5
    assert [standing[n] for n in range(len(standing))] == text


def test_keep_lets_it_run_on_and_ends_it_then(
    gemini: LocalGemini, manager: StartManager, probes: Probes, clock: TestClock
) -> None:
    gemini.on("why", Reply("a b c d e f", hold_after=2))
    streams = manager(history=KEPT, keep=10, clock=clock)
    first, second = probes(), probes()
    stream_id = streams.start_stream("why", subscriber=first.ref)
    first.expect(StreamEvent, lambda e: e.sequence == 1)
    assert streams.unsubscribe_stream(stream_id, first.ref)
    clock.advance(9)
    streams.subscribe_stream(stream_id, second.ref, after=(1, 0))
    clock.advance(9)
    assert streams.get_stream_info(stream_id).status == "active"
    second.expect(StreamEvent)
    assert streams.unsubscribe_stream(stream_id, second.ref)
    clock.advance(11)
    gemini.wait_request(1).wait_closed()
    assert streams.get_stream_info(stream_id).status == "stopped"
    third = probes()
    streams.subscribe_stream(stream_id, third.ref, after=FROM_START)
    assert third.expect(StreamStopped).reason == "requested"
    judge(third, FROM_START)
