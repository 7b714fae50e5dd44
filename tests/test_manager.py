"""Every request to the manager and its answer, slots, names, figures; and what cannot be asked."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import pykka
import pytest
from pykka.messages import ProxyCall

from conftest import StartManager
from gemini_streams import (
    Drain,
    GeminiStreamsError,
    GetStats,
    GetStreamInfo,
    InvalidRequestError,
    ListStreams,
    ManagerRef,
    ManagerStats,
    MaxStreamsExceededError,
    StartStream,
    StopStream,
    StreamComplete,
    StreamEndedError,
    StreamEvent,
    StreamExistsError,
    StreamInfo,
    StreamNotFoundError,
    StreamStopped,
    Subscribe,
    Unsubscribe,
)
from gemini_streams.testing import Failure, LocalGemini, Reply, StallUpload
from kit.helpers import LAST, ONCE, BatchProbe, error_of, events_of, eventually, last_of, text_of
from pykka_supervisor.testing import Probe, TestClock

Probes = Callable[[], Probe]

# -- one stream, from the start to what lingers ----------------------------------------------------------------------


@pytest.mark.parametrize("subscriber", ["probe", "batch_probe"])
def test_a_stream_from_start_to_end(
    gemini: LocalGemini, manager: StartManager, subscriber: str, request: pytest.FixtureRequest
) -> None:
    probe: Probe = request.getfixturevalue(subscriber)
    gemini.on("why", Reply("one two three", hold_after=2, usage={"totalTokenCount": 7}))
    ref = manager(model="gemini-test")
    tag = object()
    before = time.time()
    stream_id = ref.ask(StartStream("why", subscriber=probe.ref, tag=tag, config={"temperature": 0.5}))
    assert isinstance(stream_id, str)
    assert ref.ask(ListStreams()) == [stream_id]

    gemini.gate("why").reached()
    probe.wait(2)
    info = ref.ask(GetStreamInfo(stream_id))
    assert isinstance(info, StreamInfo)
    assert info.stream_id == stream_id
    assert info.stream_ref is not None
    assert info.stream_ref.is_alive()
    assert info.model == "gemini-test"
    assert info.request_body == {
        "contents": [{"role": "user", "parts": [{"text": "why"}]}],
        "generationConfig": {"temperature": 0.5},
    }
    assert info.status == "active"
    assert info.error is None
    assert before - 0.01 <= info.started_at <= time.time()
    assert info.subscribers == (probe.ref,)
    assert info.events_count == 2
    assert info.last_event_at is not None
    assert info.started_at <= info.last_event_at <= time.time() + 0.01
    assert info.config == {"temperature": 0.5}
    assert info.attempt == 1
    assert info.tag is tag
    stats = ref.ask(GetStats())
    assert stats == ManagerStats(
        total_streams=1,
        max_streams=100,
        streams_by_status={"active": 1},
        total_subscribers=1,
        started=1,
        completed=0,
        failed=0,
        stopped=0,
        restarts=0,
        events=2,
    )

    gemini.gate("why").open()
    last = last_of(probe)
    assert isinstance(last, StreamComplete)
    assert (last.stream_id, last.events_count, last.finish_reason, last.block_reason, last.attempts) == (
        stream_id,
        3,
        "STOP",
        None,
        1,
    )
    assert last.ok
    assert last.usage == {"totalTokenCount": 7}
    assert last.tag is tag
    assert last.first_event_after is not None
    assert 0 < last.first_event_after <= last.duration < 5
    events = events_of(probe)
    assert [(e.stream_id, e.attempt, e.sequence, e.tag) for e in events] == [
        (stream_id, 1, n, tag) for n in range(3)
    ]
    assert text_of(probe) == "one two three"

    info = ref.ask(GetStreamInfo(stream_id))
    assert (info.status, info.events_count, info.subscribers, info.error) == ("completed", 3, (), None)
    assert ref.ask(GetStats()) == ManagerStats(1, 100, {"completed": 1}, 0, 1, 1, 0, 0, 0, 3)


def test_statuses_and_error_in_the_info(
    gemini: LocalGemini, manager: StartManager, probe: Probe, clock: TestClock
) -> None:
    gemini.on("headers", Reply("late", hold_before_headers=True))
    gemini.on("bad", Failure(400, "no such thing"))
    ref = manager(retry=ONCE, linger=5.0, clock=clock)
    waiting = ref.start_stream("headers", subscriber=probe.ref)
    gemini.gate("headers").reached()
    assert ref.get_stream_info(waiting).status == "starting"
    assert ref.get_stream_info(waiting).last_event_at is None
    failed = ref.start_stream("bad", subscriber=probe.ref)
    error = error_of(probe, failed)
    info = ref.get_stream_info(failed)
    assert info.status == "error"
    assert info.error is error
    assert ref.stop_stream(waiting) is True
    assert ref.get_stream_info(waiting).status == "stopped"
    stats = ref.get_stats()
    assert stats.streams_by_status == {"error": 1, "stopped": 1}
    assert (stats.started, stats.completed, stats.failed, stats.stopped) == (2, 0, 1, 1)
    clock.advance(5.0)
    assert ref.list_streams() == []
    stats = ref.get_stats()
    assert (stats.total_streams, stats.streams_by_status, stats.started, stats.failed) == (0, {}, 2, 1)


def test_what_lingers_is_visible_for_so_long_and_no_longer(
    gemini: LocalGemini, manager: StartManager, probes: Probes, clock: TestClock
) -> None:
    first, second = probes(), probes()
    ref = manager(linger=7.0, clock=clock)
    stream_id = ref.start_stream("hello", subscriber=first.ref)
    last_of(first)
    clock.advance(6.9)
    assert ref.list_streams() == [stream_id]
    assert ref.stop_stream(stream_id) is False
    assert ref.unsubscribe_stream(stream_id, first.ref) is False
    with pytest.raises(StreamEndedError):
        ref.subscribe_stream(stream_id, second.ref)
    events = ref.get_stats().events
    clock.advance(0.2)
    assert ref.list_streams() == []
    assert ref.get_stats().events == events > 0
    assert ref.stop_stream(stream_id) is False
    assert ref.unsubscribe_stream(stream_id, first.ref) is False
    for gone in (GetStreamInfo(stream_id), Subscribe(stream_id, second.ref)):
        with pytest.raises(StreamNotFoundError):
            ref.ask(gone)
    assert second.messages == []


def test_without_linger_an_end_is_forgotten_at_once(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    ref = manager(linger=0)
    stream_id = ref.start_stream("hello", subscriber=probe.ref)
    last_of(probe)
    assert ref.list_streams() == []
    with pytest.raises(LookupError):
        ref.get_stream_info(stream_id)


def test_the_typed_methods_say_what_the_requests_say(
    gemini: LocalGemini, manager: StartManager, probes: Probes
) -> None:
    one, two = probes(), probes()
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager()
    stream_id = ref.start_stream("why", subscriber=one.ref, tag="t", timeout=20)
    one.expect(StreamEvent)
    assert ref.list_streams(timeout=20) == [stream_id] == ref.ask(ListStreams())
    assert ref.get_stats(timeout=20) == ref.ask(GetStats())
    assert ref.get_stream_info(stream_id, timeout=20) == ref.ask(GetStreamInfo(stream_id))
    ref.subscribe_stream(stream_id, two.ref, timeout=20)
    assert ref.get_stream_info(stream_id).subscribers == (one.ref, two.ref)
    assert ref.unsubscribe_stream(stream_id, two.ref, timeout=20) is True
    assert ref.unsubscribe_stream(stream_id, two.ref) is False
    assert ref.stop_stream(stream_id, timeout=20) is True
    assert ref.stop_stream(stream_id) is False
    assert last_of(one).reason == "requested"
    assert two.messages == []


# -- subscribers -----------------------------------------------------------------------------------------------------


def test_one_stream_to_several_subscribers(
    gemini: LocalGemini, manager: StartManager, probes: Probes, batch_probe: BatchProbe
) -> None:
    gemini.on("why", Reply("one two three four", hold_after=2))
    early, late = probes(), probes()
    ref = manager()
    stream_id = ref.start_stream("why", subscriber=[early.ref, batch_probe.ref, early.ref])
    early.wait(2)
    ref.subscribe_stream(stream_id, late.ref)
    ref.subscribe_stream(stream_id, late.ref)  # changes nothing
    assert ref.get_stats().total_subscribers == 3
    gemini.gate("why").open()
    assert [last_of(p).events_count for p in (early, batch_probe)] == [4, 4]
    assert last_of(late, first=2).events_count == 2
    assert [text_of(p) for p in (early, batch_probe, late)] == ["one two three four"] * 2 + [" three four"]
    assert [e.sequence for e in events_of(late)] == [2, 3]
    assert events_of(early)[3].data is events_of(batch_probe)[3].data
    for one in (early, batch_probe, late):
        one.expect_nothing(0)


def test_stop_tells_every_subscriber(gemini: LocalGemini, manager: StartManager, probes: Probes) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    subscribers = [probes() for _ in range(3)]
    ref = manager()
    stream_id = ref.start_stream("why", subscriber=tuple(p.ref for p in subscribers), tag=7)
    for probe in subscribers:
        probe.expect(StreamEvent)
    assert ref.ask(StopStream(stream_id)) is True
    for probe in subscribers:
        last = last_of(probe)
        assert isinstance(last, StreamStopped)
        assert (last.stream_id, last.reason, last.events_count, last.attempts, last.tag) == (
            stream_id,
            "requested",
            1,
            1,
            7,
        )
        assert last.usage is not None
    gemini.wait_request().wait_closed()


class Stuck(pykka.ThreadingActor):
    """Handles nothing until it is let go."""

    use_daemon_thread = True

    def __init__(self) -> None:
        super().__init__()
        self.hold = threading.Event()

    def on_receive(self, message: Any) -> None:
        self.hold.wait(20)


def test_after_unsubscribe_nothing_more_comes(gemini: LocalGemini, manager: StartManager) -> None:
    """Not only not handled: not put. So the inbox of a subscriber that handles nothing is looked at."""
    gemini.on("why", Reply(["word "] * 2000, hold_after=None))
    ref = manager()
    with Probe() as stays:
        for _ in range(20):
            stuck = Stuck.start()
            hold = stuck.proxy().hold.get()
            stream_id = ref.start_stream("why", subscriber=[stuck, stays.ref])
            stays.expect(StreamEvent)
            assert ref.ask(Unsubscribe(stream_id, stuck)) is True
            depth = cast("Any", stuck.actor_inbox).qsize()
            assert isinstance(last_of(stays, stream_id), StreamComplete)
            assert cast("Any", stuck.actor_inbox).qsize() <= depth  # it may have taken one
            hold.set()
            stuck.stop()


def test_the_last_one_to_leave_ends_the_stream(
    gemini: LocalGemini, manager: StartManager, probes: Probes
) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    one, two = probes(), probes()
    ref = manager()
    stream_id = ref.start_stream("why", subscriber=[one.ref, two.ref])
    one.expect(StreamEvent)
    assert ref.unsubscribe_stream(stream_id, one.ref) is True
    assert ref.get_stream_info(stream_id).status == "active"
    assert ref.unsubscribe_stream(stream_id, two.ref) is True
    assert ref.get_stream_info(stream_id).status == "stopped"
    gemini.wait_request().wait_closed()
    assert not any(isinstance(m, StreamStopped) for p in (one, two) for m in p.messages)


@pytest.mark.parametrize("way", ["stop", "crash"])
def test_a_dead_subscriber_has_left(
    gemini: LocalGemini, manager: StartManager, probe: Probe, way: str
) -> None:
    class Mortal(pykka.ThreadingActor):
        use_daemon_thread = True

        def on_receive(self, message: Any) -> None:
            if message == "crash":
                raise RuntimeError("on purpose")

    gemini.on("alone", Reply("one two", hold_after=1))
    gemini.on("shared", Reply("one two", hold_after=1))
    ref = manager()
    mortal = Mortal.start()
    alone = ref.start_stream("alone", subscriber=mortal)
    shared = ref.start_stream("shared", subscriber=[mortal, probe.ref])
    gemini.gate("alone").reached()
    gemini.gate("shared").reached()
    logging.getLogger("pykka").disabled = True
    try:
        mortal.stop() if way == "stop" else mortal.tell("crash")
        eventually(lambda: ref.get_stream_info(alone).status == "stopped")
        eventually(lambda: ref.get_stream_info(shared).subscribers == (probe.ref,))
    finally:
        logging.getLogger("pykka").disabled = False
    gemini.wait_request(where="alone").wait_closed()
    gemini.gate("shared").open()
    assert isinstance(last_of(probe), StreamComplete)


# -- names -----------------------------------------------------------------------------------------------------------


def test_an_own_stream_id_makes_a_start_repeatable(
    gemini: LocalGemini, manager: StartManager, probes: Probes, clock: TestClock
) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    one, two = probes(), probes()
    ref = manager(clock=clock)
    request = StartStream("why", subscriber=one.ref, stream_id="mine", config={"seed": 1})
    assert ref.ask(request) == "mine"
    one.expect(StreamEvent)
    assert ref.ask(request) == "mine"
    same = StartStream(
        [{"role": "user", "parts": [{"text": "why"}]}],
        subscriber=two.ref,
        stream_id="mine",
        config={"seed": 1},
    )
    assert ref.ask(same) == "mine"
    assert ref.get_stream_info("mine").subscribers == (one.ref, two.ref)
    others: list[dict[str, Any]] = [{"contents": "why not"}, {"config": {"seed": 2}}, {"model": "another"}]
    for other in others:
        contents = other.pop("contents", "why")
        asked = {"config": {"seed": 1}, **other}
        with pytest.raises(StreamExistsError):
            ref.start_stream(contents, subscriber=one.ref, stream_id="mine", **asked)
    gemini.gate("why").open()
    assert last_of(one).events_count == 2
    assert last_of(two, first=1).events_count == 1
    assert ref.ask(request) == "mine"  # it lingers
    with pytest.raises(StreamExistsError):
        ref.start_stream("why not", subscriber=one.ref, stream_id="mine")
    assert len(gemini.requests) == 1
    assert ref.get_stats().started == 1
    clock.advance(5.0)
    assert ref.ask(request) == "mine"  # forgotten: a new stream
    one.expect(StreamComplete)
    assert len(gemini.requests) == 2


def test_who_starts_what_lingers_is_told_its_end(
    gemini: LocalGemini, manager: StartManager, probes: Probes
) -> None:
    """A start is answered with an id whose subscriber has or gets one last message: nobody waits for ever."""
    one, two = probes(), probes()
    ref = manager()
    ref.start_stream("hello", subscriber=one.ref, stream_id="mine")
    last = last_of(one)
    assert ref.start_stream("hello", subscriber=[one.ref, two.ref], stream_id="mine") == "mine"
    told = two.expect(StreamComplete)
    assert (told.finish_reason, told.events_count) == (last.finish_reason, 0)
    assert ref.start_stream("hello", subscriber=[one.ref, two.ref], stream_id="mine") == "mine"
    one.expect_nothing(0.05)
    two.expect_nothing(0)


def test_ids_made_here_are_unique_over_managers(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    refs = [manager(), manager()]
    ids = [ref.start_stream("hello", subscriber=probe.ref) for ref in refs for _ in range(10)]
    assert len(set(ids)) == 20
    for _ in ids:
        probe.expect(StreamComplete)
    assert all(len(i) >= 22 for i in ids)


# -- slots -----------------------------------------------------------------------------------------------------------


class Chain(pykka.ThreadingActor):
    """Starts the next stream in the handler of each last message."""

    use_daemon_thread = True

    def __init__(self, left: int, done: threading.Event) -> None:
        super().__init__()
        self.manager: ManagerRef | None = None
        self.left = left
        self.done = done
        self.failed: list[BaseException] = []

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, ManagerRef):
            self.manager = message
        if isinstance(message, StreamEvent):
            return
        assert self.manager is not None
        if not self.left:
            self.done.set()
            return
        self.left -= 1
        kinds = itertools.cycle(("fine", "bad", "truncated", "cut"))
        kind = list(itertools.islice(kinds, self.left % 4 + 1))[-1]
        try:
            self.manager.start_stream(kind, subscriber=self.actor_ref)
        except BaseException as error:
            self.failed.append(error)
            self.done.set()


def test_a_slot_is_free_before_the_last_message(gemini: LocalGemini, manager: StartManager) -> None:
    gemini.on("fine", Reply("fine"))
    gemini.on("bad", Failure(400))
    gemini.on("truncated", Reply("half", finish_reason=None))
    gemini.on("cut", Reply("one two", end="cut", end_after=1))
    ref = manager(max_streams=1, retry=ONCE)
    done = threading.Event()
    chain = Chain.start(60, done)
    try:
        chain.tell(ref)
        assert done.wait(20)
        assert chain.proxy().failed.get() == []
    finally:
        chain.stop()
    stats = ref.get_stats()
    assert (stats.started, stats.completed, stats.failed) == (60, 15, 45)


class Eager(queue.Queue[Any]):
    """An inbox that starts the next stream at the very moment at which a last message is put into it."""

    start: Callable[[], Any] | None = None
    outcome: Any = None

    def _put(self, item: Any) -> None:
        start = self.start
        if start is not None and isinstance(item.message, LAST):
            self.start = None
            try:
                self.outcome = start()
            except BaseException as error:
                self.outcome = error
        super()._put(item)


class EagerActor(pykka.ThreadingActor):
    use_daemon_thread = True

    @staticmethod
    def _create_actor_inbox() -> Any:
        return Eager()

    def on_receive(self, message: Any) -> None:
        pass


@pytest.mark.parametrize("way", ["completed", "error", "stopped"])
def test_the_slot_is_free_when_the_last_message_is_put(
    gemini: LocalGemini, manager: StartManager, probe: Probe, way: str
) -> None:
    gemini.on("why", Failure(400) if way == "error" else Reply("one two", hold_after=1))
    ref = manager(max_streams=1, retry=ONCE)
    eager = EagerActor.start()
    inbox = cast("Eager", eager.actor_inbox)
    inbox.start = lambda: ref.start_stream("next", subscriber=probe.ref, timeout=3)
    stream_id = ref.start_stream("why", subscriber=eager)
    if way == "stopped":
        kill_from_outside = ref.get_stream_info(stream_id).stream_ref or eventually(
            lambda: ref.get_stream_info(stream_id).stream_ref
        )
        kill_from_outside.stop()  # not by the manager, which would wait for itself here
    else:
        gemini.gate("why").open()
    try:
        eventually(lambda: inbox.outcome)
    finally:
        eager.stop()
    assert isinstance(inbox.outcome, str), inbox.outcome
    assert isinstance(last_of(probe, inbox.outcome), StreamComplete)


@pytest.mark.parametrize("way", ["completed", "error", "stopped", "unsubscribed", "subscriber died"])
def test_every_kind_of_end_frees_the_slot(
    gemini: LocalGemini, manager: StartManager, probes: Probes, way: str
) -> None:
    gemini.on("completed", Reply("fine"))
    gemini.on("error", Failure(403))
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager(max_streams=2, retry=ONCE)
    for _ in range(3):
        pair = [probes(), probes()]
        ids = [
            ref.start_stream(way if way in ("completed", "error") else "why", subscriber=p.ref) for p in pair
        ]
        if way in ("completed", "error"):
            for probe in pair:
                last_of(probe)
            continue
        with pytest.raises(MaxStreamsExceededError, match="max_streams"):
            ref.start_stream("hello", subscriber=pair[0].ref)
        for probe, stream_id in zip(pair, ids, strict=True):
            probe.expect(StreamEvent)
            if way == "stopped":
                ref.stop_stream(stream_id)
            elif way == "unsubscribed":
                ref.unsubscribe_stream(stream_id, probe.ref)
            else:
                probe.stop()
        eventually(lambda: set(ref.get_stats().streams_by_status) <= {"stopped"})
    stats = ref.get_stats()
    assert (stats.started, stats.total_subscribers) == (6, 0)


def test_a_refused_start_leaves_no_trace(gemini: LocalGemini, manager: StartManager, probe: Probe) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager(max_streams=1)
    running = ref.start_stream("why", subscriber=probe.ref)
    refused: list[StartStream] = [
        StartStream("hello", subscriber=probe.ref),
        StartStream("hello", subscriber=probe.ref, stream_id="mine"),
        StartStream("", subscriber=probe.ref),
        StartStream("hello", subscriber=probe.ref, model="a/../b"),
    ]
    for request in refused:
        with pytest.raises(GeminiStreamsError):
            ref.ask(request)
    assert ref.list_streams() == [running]
    assert ref.get_stats().started == 1


# -- what cannot be asked --------------------------------------------------------------------------------------------


def wrong_requests(
    alive: pykka.ActorRef[Any], dead: pykka.ActorRef[Any]
) -> list[tuple[Any, type[Exception]]]:
    anything: Any = object()
    wrong_type: Any
    requests: list[tuple[Any, type[Exception]]] = [
        ("a string", InvalidRequestError),
        (None, InvalidRequestError),
        (anything, InvalidRequestError),
        ({"command": "start_stream"}, InvalidRequestError),
        (StartStream, InvalidRequestError),
        (Subscribe("unknown", alive), StreamNotFoundError),
        (Subscribe("unknown", dead), InvalidRequestError),
        (GetStreamInfo("unknown"), StreamNotFoundError),
    ]
    for wrong_type in (5, None, [], {}, b"x", alive):
        requests += [
            (StopStream(wrong_type), InvalidRequestError),
            (GetStreamInfo(wrong_type), InvalidRequestError),
            (Subscribe(wrong_type, alive), InvalidRequestError),
            (Unsubscribe(wrong_type, alive), InvalidRequestError),
        ]
        if wrong_type is not None:
            requests.append((StartStream("x", subscriber=alive, stream_id=wrong_type), InvalidRequestError))
    for wrong_type in (None, 5, "me", [], [alive, None], {}, object(), [dead], dead, [alive, dead]):
        requests.append((StartStream("x", subscriber=wrong_type), InvalidRequestError))
    for wrong_type in (None, 5, "me", [], object()):
        requests += [
            (Subscribe("unknown", wrong_type), InvalidRequestError),
            (Unsubscribe("unknown", wrong_type), InvalidRequestError),
        ]
    for wrong_type in (None, "x", -1, float("nan"), []):
        requests.append((Drain(wrong_type), InvalidRequestError))
    return requests


def test_what_cannot_be_right_is_refused_at_the_asker_and_the_manager_goes_on(
    gemini: LocalGemini, manager: StartManager, probes: Probes, caplog: pytest.LogCaptureFixture
) -> None:
    alive, dead = probes(), probes()
    dead.stop()
    ref = manager()
    running = ref.get_stats()
    with caplog.at_level(logging.DEBUG):
        for request, expected in wrong_requests(alive.ref, dead.ref):
            with pytest.raises(expected) as refusal:
                ref.ask(request, timeout=2)
            assert isinstance(refusal.value, GeminiStreamsError), request
            assert str(refusal.value)
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
    assert ref.get_stats() == running


def test_what_is_told_and_refused_is_one_warning_line_each(
    gemini: LocalGemini, manager: StartManager, probes: Probes, caplog: pytest.LogCaptureFixture
) -> None:
    alive, dead = probes(), probes()
    dead.stop()
    ref = manager()
    for request, _ in wrong_requests(alive.ref, dead.ref):
        caplog.clear()
        ref.tell(request)
        assert ref.get_stats().started == 0  # and so it has been handled
        lines = [r for r in caplog.records if r.levelno >= logging.WARNING]
        assert len(lines) == 1, (request, [r.getMessage() for r in lines])
        assert lines[0].levelno == logging.WARNING
        assert lines[0].name.startswith("gemini_streams")
        assert lines[0].exc_info is None
        assert type(request).__name__ in lines[0].getMessage()


def test_told_requests_are_done(gemini: LocalGemini, manager: StartManager, probe: Probe) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager()
    ref.tell(StartStream("why", subscriber=probe.ref, stream_id="mine"))
    probe.expect(StreamEvent)
    ref.tell(StopStream("mine"))
    assert isinstance(last_of(probe), StreamStopped)


def test_a_told_proxy_call_that_raises_ends_nothing(
    gemini: LocalGemini, manager: StartManager, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    """Pykka's rule, and OTP's, is that it ends the actor; the manager is not ended by any message."""
    ref = manager()
    for _ in range(6):  # more often than any intensity allows
        ref.tell(ProxyCall(attr_path=("on_receive",), args=(), kwargs={}))
        ref.tell(ProxyCall(attr_path=("no_such_thing",), args=(), kwargs={}))
    ref.start_stream("hello", subscriber=probe.ref)
    assert isinstance(last_of(probe), StreamComplete)
    assert "child_terminated" not in caplog.text


# -- no handler ever waits -------------------------------------------------------------------------------------------


def test_the_manager_answers_while_streams_hang(
    gemini: LocalGemini, manager: StartManager, probes: Probes
) -> None:
    gemini.on("upload", StallUpload())
    gemini.on("headers", Reply("late", hold_before_headers=True))
    gemini.on("silent", Reply("one", end="silent"))
    probe, other = probes(), probes()
    ref = manager(connect_timeout=1.0, shutdown=2.0)
    unconnectable = type(gemini.endpoint)(api_key="k", base_url=gemini.unconnectable_url())
    mute = type(gemini.endpoint)(api_key="k", base_url=gemini.mute_url(tls=True))
    large = "upload " + "x" * 8_000_000
    ids = []
    for _ in range(4):
        ids += [
            ref.start_stream("connect", subscriber=probe.ref, endpoint=unconnectable),
            ref.start_stream("handshake", subscriber=probe.ref, endpoint=mute),
            ref.start_stream("headers", subscriber=probe.ref),
            ref.start_stream("silent", subscriber=probe.ref),
        ]
    ids += [ref.start_stream(large, subscriber=probe.ref) for _ in range(4)]
    gemini.gate("upload").reached(n=4)
    gemini.gate("headers").reached(n=4)
    slowest = 0.0

    def timed(request: Any) -> Any:
        nonlocal slowest
        start = time.perf_counter()
        answer = ref.ask(request, timeout=20)
        slowest = max(slowest, time.perf_counter() - start)
        return answer

    for stream_id in ids:
        timed(GetStreamInfo(stream_id)) if stream_id not in ids[-4:] else None  # decoding 8 MB takes its time
        timed(Subscribe(stream_id, other.ref))
        timed(GetStats())
        timed(ListStreams())
        timed(Unsubscribe(stream_id, other.ref))
    for stream_id in ids:
        assert timed(StopStream(stream_id)) is True
    for _ in ids:
        assert isinstance(probe.expect(StreamStopped, timeout=0.5), StreamStopped)
    assert slowest < 0.1, slowest


def test_two_managers_are_independent(gemini: LocalGemini, manager: StartManager, probe: Probe) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    one, two = manager(), manager()
    stream_id = one.start_stream("why", subscriber=probe.ref)
    assert two.list_streams() == []
    assert two.stop_stream(stream_id) is False
    two.stop(timeout=20)
    with pytest.raises(pykka.ActorDeadError):
        two.list_streams()
    gemini.gate("why").open()
    assert isinstance(last_of(probe), StreamComplete)


def test_stop_ends_everything_and_a_new_start_works(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager()
    ref.start_stream("why", subscriber=probe.ref)
    probe.expect(StreamEvent)
    ref.stop(timeout=20)
    assert not [t for t in threading.enumerate() if "StreamActor" in t.name]
    assert last_of(probe).reason == "shutdown"
    again = manager()
    again.start_stream("hello", subscriber=probe.ref)
    assert isinstance(last_of(probe), StreamComplete)
