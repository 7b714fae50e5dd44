"""SubscriberActor: its callbacks, its batches, and what a crash, a kill or a hang in the middle of one loses."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from conftest import StartManager
from gemini_streams import (
    APIError,
    EventsDropped,
    FlowControl,
    RetryPolicy,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
    SubscriberActor,
)
from gemini_streams.delivery.batches import ControlBatch, EventBatch
from gemini_streams.testing import Failure, LocalGemini, Raw, Reply, check_history
from kit.helpers import LAST, ONCE, eventually
from kit.replies import answer, body, chunked
from pykka_supervisor import ChildSpec, Supervisor, kill

QUICK = RetryPolicy(initial_delay=0.0, jitter=0.0)


class Notes:
    """What outlives the incarnations of a subscriber."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.handled: list[Any] = []
        """Without those that killed it."""
        self.bad: set[Any] = set()
        """Sequence numbers, or kinds of message, that it crashes at."""
        self.hangs_at: int | None = None
        self.hold = threading.Event()
        self.incarnations: list[Any] = []
        self.by: list[Any] = []
        """Which of them had each event."""


class Noting(SubscriberActor):
    def __init__(self, notes: Notes) -> None:
        super().__init__()
        self.notes = notes
        notes.incarnations.append(self)

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, threading.Event):
            message.wait(20)
        return ("own", message)

    def on_stream_event(self, event: StreamEvent) -> None:
        notes = self.notes
        notes.seen.append(event)
        notes.by.append(self)
        if event.sequence == notes.hangs_at:
            notes.hold.wait(20)
        if event.sequence in notes.bad:
            notes.bad.discard(event.sequence)
            raise ZeroDivisionError
        notes.handled.append(event)

    def _note(self, message: Any) -> None:
        self.notes.seen.append(message)
        if type(message) in self.notes.bad:
            self.notes.bad.discard(type(message))
            raise ZeroDivisionError
        self.notes.handled.append(message)

    on_stream_restarting = on_stream_complete = on_stream_error = on_stream_stopped = _note
    on_events_dropped = _note


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def supervised(notes: Notes) -> Iterator[tuple[Any, Notes]]:
    """A subscriber under the application's own supervisor, which restarts it in place."""
    spec = ChildSpec(Noting, (notes,), hang_after=0.3, shutdown=0.3)
    supervisor = Supervisor.start([spec], max_restarts=1000)
    [info] = supervisor.which_children()
    yield info.ref, notes
    notes.hold.set()
    supervisor.stop(timeout=20)


def ended(notes: Notes, count: int = 1) -> None:
    eventually(lambda: sum(isinstance(m, LAST) for m in list(notes.seen)) == count, 10, "no last message")


def test_one_method_is_enough(gemini: LocalGemini, manager: StartManager) -> None:
    texts: list[str] = []

    class Printer(SubscriberActor):
        def on_stream_event(self, event: StreamEvent) -> None:
            texts.append(event.text)

    gemini.on("why", Reply("one two three", end="cut", end_after=2), Reply("one two three"))
    gemini.on("bad", Failure(400))
    ref = Printer.start()
    streams = manager(retry=QUICK)
    ids = [streams.start_stream("why", subscriber=ref), streams.start_stream("bad", subscriber=ref)]
    eventually(lambda: streams.get_stats().completed == streams.get_stats().failed == 1)
    ref.ask("is it there still", timeout=20)
    assert texts == ["one", " two", "one", " two", " three"]
    assert len(set(ids)) == 2
    ref.stop()


def test_each_message_has_its_callback(gemini: LocalGemini, manager: StartManager, notes: Notes) -> None:
    class Kinds(SubscriberActor):
        def on_stream_event(self, event: StreamEvent) -> None:
            notes.seen.append(("event", type(event)))

        def on_stream_restarting(self, message: StreamRestarting) -> None:
            notes.seen.append(("restarting", type(message)))

        def on_events_dropped(self, message: EventsDropped) -> None:
            notes.seen.append(("dropped", type(message)))

        def on_stream_complete(self, message: StreamComplete) -> None:
            notes.seen.append(("complete", type(message)))

        def on_stream_error(self, message: StreamError) -> None:
            notes.seen.append(("error", type(message)))

        def on_stream_stopped(self, message: StreamStopped) -> None:
            notes.seen.append(("stopped", type(message)))

    gemini.on("why", Failure(503), Reply([str(n) for n in range(5000)]))
    gemini.on("bad", Failure(400))
    gemini.on("hold", Reply("x", hold_after=0))
    ref = Kinds.start()
    streams = manager(retry=QUICK)
    streams.start_stream("why", subscriber=ref, flow=FlowControl(window=1, overflow="drop_newest"))
    streams.start_stream("bad", subscriber=ref)
    streams.stop_stream(streams.start_stream("hold", subscriber=ref))
    eventually(lambda: len([1 for name, _ in notes.seen if name in ("complete", "error", "stopped")]) == 3)
    assert set(notes.seen) == {
        ("event", StreamEvent),
        ("restarting", StreamRestarting),
        ("dropped", EventsDropped),
        ("complete", StreamComplete),
        ("error", StreamError),
        ("stopped", StreamStopped),
    }
    ref.stop()


def test_one_inbox_put_for_all_events_of_a_read(
    gemini: LocalGemini, manager: StartManager, notes: Notes
) -> None:
    events = [body(str(n), last=n == 199) for n in range(200)]
    gemini.on("why", Raw(answer(b"Transfer-Encoding: chunked") + chunked(*events), "keep"))  # in one write
    ref = Noting.start(notes)
    busy = threading.Event()
    try:
        ref.tell(busy)
        streams = manager()
        streams.start_stream("why", subscriber=ref)
        eventually(lambda: streams.get_stats().completed == 1)
        waiting = [envelope.message for envelope in ref.actor_inbox._items]
        batches = [message for message in waiting if isinstance(message, EventBatch)]
        assert sum(batch.rest.__length_hint__() for batch in batches) == 200  # type: ignore[attr-defined]
        assert len(waiting) == len(batches) + 1
        assert isinstance(waiting[-1], ControlBatch)
        assert len(batches) < 20  # reads: of 2 KiB, then of more
    finally:
        busy.set()
    ended(notes)
    assert check_history(notes.seen, ended=True) == []
    ref.stop()


def test_on_receive_is_free_also_for_asks_between_batches(
    gemini: LocalGemini, manager: StartManager, notes: Notes
) -> None:
    gemini.on("why", Reply([str(n) for n in range(2000)], pace=0.0002))
    ref = Noting.start(notes)
    manager().start_stream("why", subscriber=ref)
    asked = 0
    while not any(isinstance(m, LAST) for m in notes.seen):
        assert ref.ask(asked, timeout=20) == ("own", asked)
        asked += 1
    assert asked > 5
    assert check_history(notes.seen, ended=True) == []
    assert ref.proxy().notes.get() is notes
    ref.stop()


@pytest.mark.parametrize("window", [1, 20, 256])
def test_a_crash_loses_the_event_that_killed_it_and_no_other(
    gemini: LocalGemini, manager: StartManager, supervised: tuple[Any, Notes], window: int
) -> None:
    gemini.on("why", Reply([str(n) for n in range(300)]))
    ref, notes = supervised
    notes.bad = {0, 1, 50, 51, 149, 298, 299}
    bad = sorted(notes.bad)
    streams = manager(max_streams=3)
    stream_id = streams.start_stream("why", subscriber=ref, flow=FlowControl(window=window))
    ended(notes)
    assert check_history(notes.seen, ended=True) == []
    assert [e.sequence for e in notes.seen[:-1]] == list(range(300))
    assert [e.sequence for e in notes.handled[:-1]] == [n for n in range(300) if n not in bad]
    eventually(lambda: len(notes.incarnations) == len(bad) + 1)
    assert stream_id in streams.list_streams()
    again = streams.start_stream("why", subscriber=ref, flow=FlowControl(window=window))
    ended(notes, 2)
    assert check_history(notes.seen, ended=[stream_id, again]) == []


def test_a_crash_leaves_all_its_streams_subscribed(
    gemini: LocalGemini, manager: StartManager, supervised: tuple[Any, Notes]
) -> None:
    gemini.on("why", Reply([str(n) for n in range(100)], hold_after=50))
    ref, notes = supervised
    streams = manager()
    ids = [streams.start_stream(f"why {n}", subscriber=ref, flow=FlowControl(window=7)) for n in range(20)]
    gemini.gate("why").reached(n=20)
    for crash in range(5):
        notes.bad = {90 + crash}
        kill(ref)
        eventually(lambda: ref.ask("there", timeout=1))
    assert all(streams.get_stream_info(stream_id).subscribers == (ref,) for stream_id in ids)
    gemini.gate("why").open()
    ended(notes, 20)
    assert check_history(notes.seen, ended=ids) == []


@pytest.mark.parametrize("kind", [StreamComplete, StreamError, StreamRestarting])
def test_a_crash_in_a_callback_of_another_kind(
    gemini: LocalGemini, manager: StartManager, supervised: tuple[Any, Notes], kind: Any
) -> None:
    gemini.on("why", Failure(503), Reply("one two") if kind is not StreamError else Failure(400))
    ref, notes = supervised
    notes.bad = {kind}
    streams = manager(retry=QUICK)
    streams.start_stream("why", subscriber=ref)
    ended(notes)
    eventually(lambda: len(notes.incarnations) == 2)
    assert ref.ask("there", timeout=20)
    assert check_history(notes.seen, ended=True) == []
    assert sum(isinstance(m, kind) for m in notes.seen) == 1
    assert not any(isinstance(m, kind) for m in notes.handled)


def test_a_kill_in_the_middle_of_a_batch_ends_it_behind_the_event_in_hand(
    gemini: LocalGemini, manager: StartManager, supervised: tuple[Any, Notes]
) -> None:
    gemini.on("why", Reply([str(n) for n in range(200)]))
    ref, notes = supervised
    notes.hangs_at = 100
    manager().start_stream("why", subscriber=ref, flow=FlowControl(window=150))
    eventually(lambda: len(notes.seen) == 101)
    subscription = ref._cell.incarnation.batch.subscription
    killer = threading.Thread(target=lambda: kill(ref))
    killer.start()
    time.sleep(0.05)
    notes.hangs_at = None
    first = notes.incarnations[0]
    notes.hold.set()
    killer.join()
    ended(notes)
    assert len(notes.incarnations) == 2
    assert first.retired
    assert notes.by == [first] * 101 + [notes.incarnations[1]] * 99
    assert [m.sequence for m in notes.seen[:-1]] == list(range(200))
    eventually(lambda: subscription._acked == subscription._sent)
    assert subscription._acked_bytes == subscription._sent_bytes
    assert check_history(notes.seen, ended=True) == []


def test_a_thread_that_was_left_behind_handles_no_event_of_its_successor(
    gemini: LocalGemini, manager: StartManager, supervised: tuple[Any, Notes]
) -> None:
    gemini.on("why", Reply([str(n) for n in range(600)], hold_after=300))
    ref, notes = supervised
    notes.hangs_at = 10
    manager().start_stream("why", subscriber=ref, flow=FlowControl(window=100))
    eventually(lambda: len(notes.incarnations) == 2, 5, "it was not abandoned")
    hung = notes.incarnations[0]
    notes.hangs_at = None
    eventually(lambda: len(notes.seen) == 300)
    notes.hold.set()  # the late thread goes on, and finds nothing to do
    gemini.gate("why").open()
    ended(notes)
    assert [m.sequence for m in notes.seen[:-1]] == list(range(600))
    assert check_history(notes.seen, ended=True) == []
    assert hung.retired
    assert notes.by == [hung] * 11 + [notes.incarnations[1]] * 589


def test_one_that_is_given_up_counts_as_dead(
    gemini: LocalGemini, manager: StartManager, notes: Notes
) -> None:
    gemini.on("why", Reply([str(n) for n in range(100)], hold_after=50))
    notes.bad = set(range(100))
    supervisor = Supervisor.start([ChildSpec(Noting, (notes,))], max_restarts=3)
    [info] = supervisor.which_children()
    assert info.ref is not None
    streams = manager()
    streams.start_stream("why", subscriber=info.ref)
    record = gemini.wait_request(1)
    record.wait_closed(2)
    eventually(lambda: streams.get_stats().stopped == 1)
    assert [e.sequence for e in notes.seen] == [0, 1, 2, 3]
    eventually(lambda: not supervisor.is_alive())


def test_without_a_supervisor_a_crash_is_its_death(
    gemini: LocalGemini, manager: StartManager, notes: Notes
) -> None:
    gemini.on("why", Reply([str(n) for n in range(100)], hold_after=50))
    notes.bad = {7}
    ref = Noting.start(notes)
    streams = manager()
    streams.start_stream("why", subscriber=ref)
    gemini.wait_request(1).wait_closed(2)
    assert not ref.is_alive()
    assert len(notes.seen) == 8


def test_one_that_stops_itself_gets_nothing_more(
    gemini: LocalGemini, manager: StartManager, notes: Notes
) -> None:
    class Leaving(Noting):
        def on_stream_event(self, event: StreamEvent) -> None:
            super().on_stream_event(event)
            if event.sequence == 7:
                self.stop()

    gemini.on("why", Reply([str(n) for n in range(100)], pace=0.005))
    ref = Leaving.start(notes)
    manager().start_stream("why", subscriber=ref)
    gemini.wait_request(1).wait_closed(2)
    assert not ref.is_alive()
    assert 8 <= len(notes.seen) < 30


def test_the_slot_is_free_in_the_handler_of_a_last_message(
    gemini: LocalGemini, manager: StartManager
) -> None:
    """Also on the fast path: a chain of streams, one slot."""
    done = threading.Event()
    left = 30

    class Chain(SubscriberActor):
        def on_stream_complete(self, message: StreamComplete) -> None:
            nonlocal left
            left -= 1
            if left:
                streams.start_stream("bad" if left % 2 else "why", subscriber=self.actor_ref)
            else:
                done.set()

        def on_stream_error(self, message: StreamError) -> None:
            assert isinstance(message.error, APIError)
            self.on_stream_complete(message)  # type: ignore[arg-type]

    gemini.on("bad", Failure(400))
    streams = manager(max_streams=1, retry=ONCE)
    ref = Chain.start()
    streams.start_stream("why", subscriber=ref)
    assert done.wait(20), left
    ref.stop()
