"""An inbox of an application's own kind may block, raise or ask: it holds up its own subscription and nothing else."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pykka
import pytest

from conftest import StartManager
from gemini_streams import (
    FROM_START,
    Drain,
    FlowControl,
    RetryPolicy,
    StreamComplete,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
)
from gemini_streams.messages import SubscriberMessage
from gemini_streams.testing import Failure, LocalGemini, Reply, check_history
from kit.helpers import LAST, ONCE, eventually, last_of
from pykka_supervisor import SupervisedActor
from pykka_supervisor.testing import Probe, kill


class Inbox:
    """An application's own; `before` is called with each message of ours, in the thread that puts it."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Any] = queue.Queue()
        self.get, self.empty, self.qsize = self._queue.get, self._queue.empty, self._queue.qsize
        self.before: Callable[[Any], object] = lambda _: None

    def put(self, envelope: Any) -> None:
        if isinstance(envelope.message, SubscriberMessage):
            self.before(envelope.message)
        self._queue.put(envelope)


class Own(pykka.ThreadingActor):
    use_daemon_thread = True

    def __init__(self) -> None:
        super().__init__()
        self.received: list[Any] = []

    @staticmethod
    def _create_actor_inbox() -> Any:
        return Inbox()

    def on_receive(self, message: Any) -> None:
        self.received.append(message)


class Dying(SupervisedActor):
    """At its end its inbox is closed and its last hook runs: it is no subscriber any more, and its thread is there."""

    def __init__(self, ending: threading.Event, gate: threading.Event) -> None:
        super().__init__()
        self.ending, self.gate = ending, gate

    def on_stop(self) -> None:
        self.ending.set()
        self.gate.wait(30)


class Subscriber:
    """An `Own` from outside."""

    def __init__(self) -> None:
        self.ref: pykka.ActorRef[Own] = Own.start()
        self.inbox: Inbox = cast("Inbox", self.ref.actor_inbox)
        self.received: list[Any] = self.ref.proxy().received.get()
        self.reached, self.gate = threading.Event(), threading.Event()

    def block(self, kind: Any = SubscriberMessage) -> None:
        """Let the put of a message of this type wait at the gate."""

        def wait(message: Any) -> None:
            if isinstance(message, kind):
                self.reached.set()
                self.gate.wait(30)

        self.inbox.before = wait

    def fail(self, error: BaseException, kind: Any = SubscriberMessage) -> None:
        """Let the put of a message of this type raise."""

        def fail(message: Any) -> None:
            if isinstance(message, kind):
                self.reached.set()
                raise error

        self.inbox.before = fail

    def last(self) -> Any:
        """Wait for the last message; what has come up to there must be right."""
        eventually(lambda: self.received and isinstance(self.received[-1], LAST))
        assert check_history(self.received, ended=True) == []
        return self.received[-1]


@pytest.fixture
def own() -> Iterator[Subscriber]:
    made = Subscriber()
    yield made
    made.gate.set()
    made.inbox.before = lambda _: None
    made.ref.stop(timeout=20)


def test_everything_comes_in_order(gemini: LocalGemini, manager: StartManager, own: Subscriber) -> None:
    words = [f"{n} " for n in range(200)]
    gemini.on("why", Reply(words, end="cut", end_after=60), Reply(words))
    ref = manager(retry=RetryPolicy(initial_delay=0, jitter=0), flow=FlowControl(window=16))
    ref.start_stream("why", subscriber=own.ref)
    last = own.last()
    assert isinstance(last, StreamComplete)
    assert last.events_count == 200
    assert sum(isinstance(message, StreamRestarting) for message in own.received) == 1


ENDS: dict[str, Callable[[Any, str], Any]] = {
    "StopStream": lambda ref, stream_id: ref.stop_stream(stream_id, timeout=20),
    "Unsubscribe": lambda ref, stream_id: ref.get_stats(timeout=20),
    "Drain": lambda ref, _: ref.ask(Drain(0), timeout=20),
    "manager.stop": lambda ref, _: ref.stop(timeout=8),
    "kill": lambda ref, stream_id: kill(ref.get_stream_info(stream_id, timeout=20).stream_ref),
}


@pytest.mark.parametrize("way", ENDS)
def test_one_that_blocks_holds_up_neither_its_fellows_nor_other_streams_nor_the_manager(
    gemini: LocalGemini, manager: StartManager, probes: Callable[[], Probe], own: Subscriber, way: str
) -> None:
    gemini.on("blocked", Reply("one two", hold_after=1))
    gemini.on("other", Reply("one two"))
    ref = manager(retry=ONCE, shutdown=2.0)
    fellow, other = probes(), probes()
    own.block()
    stream_id = ref.start_stream("blocked", subscriber=[own.ref, fellow.ref])
    assert own.reached.wait(20)
    fellow.expect(StreamEvent)
    ref.start_stream("other", subscriber=other.ref, timeout=20)
    assert isinstance(last_of(other), StreamComplete)
    if way == "Unsubscribe":
        assert ref.unsubscribe_stream(stream_id, own.ref, timeout=20)
    ENDS[way](ref, stream_id)
    if way == "Unsubscribe":
        gemini.gate("blocked").open()
    fellow.expect(LAST)
    own.gate.set()
    if way != "Unsubscribe":
        own.last()
    else:
        eventually(lambda: own.received)
        ref.stop(timeout=20)
        assert [type(message) for message in own.received] == [StreamEvent]  # the put that was under way


def test_one_that_blocks_at_a_last_message(
    gemini: LocalGemini, manager: StartManager, probe: Probe, own: Subscriber
) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager()
    own.block(StreamStopped)
    ids = [ref.start_stream("why", subscriber=own.ref) for _ in range(2)]
    eventually(lambda: len(own.received) == 2)
    begun = ref.start_stream("why", subscriber=probe.ref)
    probe.expect(StreamEvent)
    ref.stop(timeout=20)  # all three end, and none waits for another
    assert last_of(probe, begun).reason == "shutdown"
    own.gate.set()
    eventually(lambda: sum(isinstance(message, StreamStopped) for message in own.received) == 2)
    assert check_history(own.received, ended=ids) == []


@pytest.mark.parametrize(
    "error",
    [queue.Full(), asyncio.CancelledError(), SystemExit()],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize(
    "kind", [StreamEvent, StreamRestarting, LAST], ids=["event", "restart", "last message"]
)
def test_one_that_raises_is_gone_and_harms_nobody(
    gemini: LocalGemini,
    manager: StartManager,
    probe: Probe,
    own: Subscriber,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
    kind: Any,
) -> None:
    gemini.on("why", Failure(503), Reply("one two three", hold_after=2))
    ref = manager(retry=RetryPolicy(initial_delay=0, jitter=0))
    own.fail(error, kind)
    stream_id = ref.start_stream("why", subscriber=[own.ref, probe.ref])
    probe.wait(3)
    if kind != LAST:
        assert own.reached.wait(20)
        eventually(lambda: ref.get_stream_info(stream_id).subscribers == (probe.ref,))
    gemini.gate("why").open()
    last = last_of(probe)
    assert isinstance(last, StreamComplete)
    assert last.attempts == 2  # nothing was started again for it
    assert own.reached.wait(20)
    eventually(lambda: not any(thread.name == "gemini-streams-inbox" for thread in threading.enumerate()))
    assert not any(isinstance(message, kind) for message in own.received)
    [line] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert line.getMessage().startswith("subscriber_lost")
    assert type(error).__name__ in line.getMessage()


def test_the_last_one_that_raises_ends_its_stream(
    gemini: LocalGemini, manager: StartManager, own: Subscriber
) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager()
    own.fail(queue.Full())
    stream_id = ref.start_stream("why", subscriber=own.ref)
    eventually(lambda: ref.get_stream_info(stream_id).status == "stopped")
    gemini.wait_request(where="why").wait_closed()


def test_one_that_asks_the_manager_while_a_message_is_put(
    gemini: LocalGemini, manager: StartManager, own: Subscriber
) -> None:
    """No lock is held, and the manager waits for none of its puts."""
    gemini.on("why", Reply("one two"))
    ref = manager()
    statuses: list[str] = []
    own.inbox.before = lambda message: statuses.append(
        ref.get_stream_info(message.stream_id, timeout=20).status
    )
    ref.start_stream("why", subscriber=own.ref)
    own.last()
    assert statuses[-1] == "completed"
    assert len(statuses) == 3


def test_it_pauses_its_stream_as_any_inbox_does(
    gemini: LocalGemini, manager: StartManager, own: Subscriber
) -> None:
    """What waits to be put into it is on its way, and counts in its window."""
    gemini.on("why", Reply([f"{n} " for n in range(100)]))
    ref = manager(flow=FlowControl(window=4))
    own.block(StreamEvent)
    stream_id = ref.start_stream("why", subscriber=own.ref)
    assert own.reached.wait(20)
    eventually(lambda: ref.get_stream_info(stream_id).events_count == 4)
    own.gate.set()
    assert own.last().events_count == 100


def test_a_replay_into_it(gemini: LocalGemini, manager: StartManager, probe: Probe, own: Subscriber) -> None:
    gemini.on("why", Reply([f"{n} " for n in range(100)]))
    ref = manager(history=1 << 20, linger=60.0)
    stream_id = ref.start_stream("why", subscriber=probe.ref)
    last_of(probe)
    ref.subscribe_stream(stream_id, own.ref, after=FROM_START)
    assert own.last().events_count == 100


def test_a_closed_inbox_counts_as_gone_at_the_next_put(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    """Nobody has to notice first that its actor has died: an actor in its last hooks is alive and takes nothing."""
    gemini.on("why", Reply("one two three", hold_after=1))
    ref = manager(retry=ONCE)
    ending, gate = threading.Event(), threading.Event()
    dying = Dying.start(ending, gate)
    stream_id = ref.start_stream("why", subscriber=[dying, probe.ref])
    probe.expect(StreamEvent)
    stopping = dying.stop(block=False)
    assert ending.wait(20)
    gemini.gate("why").open()
    probe.expect(StreamEvent)
    assert dying not in ref.get_stream_info(stream_id).subscribers
    assert isinstance(last_of(probe), StreamComplete)
    gate.set()
    stopping.get(timeout=20)
