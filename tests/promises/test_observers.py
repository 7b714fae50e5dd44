"""Observers: told of what happens, in order; they hold up nothing, and what is lost is counted."""

from __future__ import annotations

import contextvars
import threading
from typing import Any

import pykka
import pytest

from conftest import StartManager
from gemini_streams import FlowControl, InvalidRequestError, Observer, RetryPolicy
from gemini_streams.testing import Failure, LocalGemini, Reply
from kit.helpers import eventually, last_of
from pykka_supervisor import kill, root_of, snapshot, supervisor_of
from pykka_supervisor.testing import Probe

AT_ONCE = RetryPolicy(initial_delay=0, jitter=0)
asker: contextvars.ContextVar[str] = contextvars.ContextVar("asker", default="nobody")


class Keeps(Observer):
    def __init__(self) -> None:
        self.records: list[Any] = []

    def on_stream_started(self, record: Any) -> None:
        self.records.append(record)

    on_attempt = on_first_event = on_restarting = on_paused = on_stream_started
    on_subscriber_dropped = on_ended = on_stream_started

    def named(self, hook: str) -> list[Any]:
        return [record for record in self.records if record.hook == hook]


class Blocks(Observer):
    def __init__(self) -> None:
        self.reached, self.gate = threading.Event(), threading.Event()
        self.ended: list[str] = []

    def on_stream_started(self, record: Any) -> None:
        self.reached.set()
        self.gate.wait(30)

    def on_ended(self, record: Any) -> None:
        self.ended.append(record.stream_id)


class Raises(Observer):
    def on_ended(self, record: Any) -> None:
        raise SystemExit("an observer's own")


def test_a_stream_is_told_from_its_start_to_its_end(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("why", Failure(503), Reply("one two three"))
    keeps = Keeps()
    ref = manager(observers=[keeps], retry=AT_ONCE, model="gemini-test")
    token = asker.set("the test")
    stream_id = ref.start_stream("why", subscriber=probe.ref, tag={"mine": 1})
    asker.reset(token)
    last = last_of(probe)
    ref.stop(timeout=20)
    hooks = [record.hook for record in keeps.records]
    assert hooks == [
        "on_stream_started",
        "on_attempt",
        "on_restarting",
        "on_attempt",
        "on_first_event",
        "on_ended",
    ]
    assert [record.attempt for record in keeps.records] == [1, 1, 2, 2, 2, 2]
    for record in keeps.records:
        assert (record.stream_id, record.tag, record.model) == (stream_id, {"mine": 1}, "gemini-test")
        assert record.endpoint == "127.0.0.1"
        assert record.context.run(asker.get) == "the test"
        assert "why" not in repr(record)
    end = keeps.records[-1]
    assert (end.status, end.error, end.events, end.finish_reason) == ("completed", None, 3, "STOP")
    assert (end.input_tokens, end.total_tokens) == (
        last.usage["promptTokenCount"],
        last.usage["totalTokenCount"],
    )
    assert 0 < end.first_event_after <= end.duration


def test_an_observer_that_blocks_holds_up_nothing_and_what_it_loses_is_counted(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    blocks = Blocks()
    ref = manager(observers=[blocks], observer_queue=4)
    ids = []
    for _ in range(6):
        ids.append(ref.start_stream("hello", subscriber=probe.ref))
        assert last_of(probe).ok
        assert blocks.reached.wait(20)
    # One is in the observer's hands and four wait. Ends are lost last.
    assert ref.get_stats().observer_lost == 12 - 5
    blocks.gate.set()
    ref.stop(timeout=20)
    assert blocks.ended == ids[:4]


def test_an_observer_that_raises_is_reported_and_the_others_go_on(
    gemini: LocalGemini, manager: StartManager, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    keeps = Keeps()
    ref = manager(observers=[Raises(), keeps])
    for _ in range(2):
        ref.start_stream("hello", subscriber=probe.ref)
        last_of(probe)
    ref.stop(timeout=20)
    assert len(keeps.named("on_ended")) == 2
    failed = [record for record in caplog.records if record.getMessage().startswith("observer_failed")]
    assert len(failed) == 2
    assert vars(failed[0])["hook"] == "on_ended"


def test_the_observers_actor_may_die(gemini: LocalGemini, manager: StartManager, probe: Probe) -> None:
    keeps = Keeps()
    ref = manager(observers=[keeps])
    tree = supervisor_of(ref)
    assert tree is not None
    [first, *_] = tree.which_children()  # type: ignore[attr-defined]
    assert first.id == "observers"
    kill(first.ref)
    eventually(lambda: snapshot(tree).children[0].restarts == 1)
    ref.start_stream("hello", subscriber=probe.ref)
    last_of(probe)
    eventually(lambda: keeps.named("on_ended"))


@pytest.mark.parametrize("whole", [False, True], ids=["the manager", "its tree"])
def test_the_end_of_the_tree_is_seen(
    gemini: LocalGemini, manager: StartManager, probe: Probe, whole: bool
) -> None:
    gemini.on("held", Reply("one two", hold_after=1))
    keeps = Keeps()
    ref = manager(observers=[keeps])
    ref.start_stream("held", subscriber=probe.ref)
    probe.wait(1)
    (root_of(ref) if whole else ref).stop()
    eventually(lambda: not ref.is_alive())
    eventually(lambda: [record.status for record in keeps.named("on_ended")] == ["stopped"])


def test_a_pause_is_told_once(gemini: LocalGemini, manager: StartManager) -> None:
    gemini.on("long", Reply("one two three four five"))
    keeps = Keeps()
    ref = manager(observers=[keeps], flow=FlowControl(window=1))
    gate = threading.Event()

    class Slow(pykka.ThreadingActor):
        def on_receive(self, message: Any) -> None:
            gate.wait(30)

    slow = Slow.start()
    ref.start_stream("long", subscriber=slow)
    eventually(lambda: keeps.named("on_paused"))
    gate.set()
    eventually(lambda: keeps.named("on_ended"))
    slow.stop()
    [pause] = keeps.named("on_paused")
    assert pause.seconds >= 1
    assert pause.subscribers == 1


def test_the_tree_names_its_streams(gemini: LocalGemini, manager: StartManager, probe: Probe) -> None:
    gemini.on("held", Reply("one two", hold_after=1))
    ref = manager()
    ref.start_stream("held", subscriber=probe.ref, stream_id="the tides")
    probe.wait(1)
    streams = next(child for child in snapshot(root_of(ref)).children if child.id == "streams")
    assert [child.id for child in streams.children] == ["the tides"]


@pytest.mark.parametrize("observers", [Keeps(), [object()], Keeps, 7, ["on_ended"]])
def test_what_is_no_list_of_observers_is_refused(manager: StartManager, observers: Any) -> None:
    with pytest.raises(InvalidRequestError, match="observer"):
        manager(observers=observers)
