"""Interactions: each event's content is received once, whatever dies on our side and wherever the server cuts."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pykka
import pytest
from msgspec.structs import replace

from gemini_streams import (
    FROM_START,
    Answer,
    EventsDropped,
    FlowControl,
    InteractionFailedError,
    InteractionGoneError,
    InteractionOptions,
    InteractionStalledError,
    InvalidRequestError,
    ReplayMismatchError,
    ResumeInteraction,
    ResumeOptions,
    RetryPolicy,
    StartInteraction,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
    function_result,
    stream,
)
from gemini_streams.testing import Body, Failure, Interaction, Reply, check_history
from kit.helpers import eventually
from kit.scene import LAST, Scene
from pykka_supervisor.testing import Probe, TestClock, kill

TEXT = "one two three four five six"
WORDS = [f"w{number} " for number in range(500)]
EVENTS = 3 + 6 + 1
"""Of `TEXT`: created, status_update, completed; a start with the first word and five deltas; stop."""


def begin(scene: Scene, text: Any = "why", **options: Any) -> tuple[str, Probe]:
    probe = scene.probe()
    return scene.manager.start_interaction(text, subscriber=probe.ref, **options), probe


def answer_of(probe: Probe) -> Answer:
    """Fold what was received; every message must fit."""
    answer = Answer()
    for message in probe.messages:
        answer.add(message)
    return answer


def actions(scene: Scene) -> list[str]:
    return [str(record.action) for record in scene.gemini.requests]


def whole(probe: Probe, text: str = TEXT) -> StreamComplete:
    last = probe.expect(LAST, timeout=60)
    assert isinstance(last, StreamComplete), last
    assert last.ok
    assert answer_of(probe).text == text
    assert not [m for m in probe.messages if isinstance(m, StreamRestarting) and m.discard]
    return last


class Killer(pykka.ThreadingActor):
    """Kills the stream's actor behind each event, and keeps what it has received."""

    use_daemon_thread = True

    def __init__(self, scene: Scene, every: int = 1) -> None:
        super().__init__()
        self.scene = scene
        self.every = every
        self.messages: list[Any] = []

    def on_receive(self, message: Any) -> None:
        self.messages.append(message)
        if isinstance(message, StreamEvent) and message.sequence % self.every == 0:
            ref = self.scene.table.find(message.stream_id).ref
            if ref is not None:
                kill(ref)


# -- it goes as it should


def test_two_steps_each_event_once_and_its_end() -> None:
    with Scene() as scene:
        scene.gemini.on("why", Reply(TEXT))
        _, probe = begin(scene, tag="t")
        last = whole(probe)
        assert actions(scene) == ["create", "stream"]
        assert scene.gemini.requests[0].body == {
            "stream": False,
            "background": True,
            "model": "gemini-flash-latest",
            "input": "why",
            "store": True,
        }
        assert (last.events_count, last.attempts, last.finish_reason) == (EVENTS, 1, "completed")
        assert last.usage is not None
        assert last.interaction_id == scene.gemini.requests[0].interaction_id
        events = [m for m in probe.messages if isinstance(m, StreamEvent)]
        assert events[0].event_type == "interaction.created"
        assert events[0].cursor
        assert last.cursor == events[-1].cursor
        assert answer_of(probe).steps == [
            {"type": "model_output", "content": [{"type": "text", "text": TEXT}]}
        ]


def test_the_first_event_is_delivered_before_the_stream_is_asked_for() -> None:
    """A subscriber that stores cursors has this one even where no stream of the interaction is ever opened."""
    with Scene(retry=RetryPolicy(attempts=1)) as scene:
        scene.gemini.on("why", Reply(TEXT, interaction=Interaction(gets=[Failure(500)])))
        _, probe = begin(scene)
        first = probe.expect(StreamEvent)
        assert (first.event_type, first.sequence) == ("interaction.created", 0)
        assert first.cursor
        last = probe.expect(StreamError)
        assert last.cursor == first.cursor
        assert last.interaction_id == scene.gemini.requests[0].interaction_id


@pytest.mark.parametrize(
    ("reply", "status", "ok"),
    [
        (Reply(TEXT), "completed", True),
        (Reply(TEXT, finish_reason="MAX_TOKENS"), "incomplete", False),
        (Reply(TEXT, interaction=Interaction(status="requires_action")), "requires_action", True),
        (Reply(TEXT, interaction=Interaction(status="never_heard_of")), "never_heard_of", False),
    ],
)
def test_ends_by_status(reply: Reply, status: str, ok: bool) -> None:
    with Scene() as scene:
        scene.gemini.on("why", reply)
        _, probe = begin(scene)
        last = probe.expect(LAST)
        assert isinstance(last, StreamComplete)
        assert (last.finish_reason, last.ok) == (status, ok)


@pytest.mark.parametrize("status", ["failed", "cancelled", "budget_exceeded"])
def test_an_end_without_an_answer_is_an_error(status: str) -> None:
    with Scene() as scene:
        scene.gemini.on("why", Reply(TEXT, interaction=Interaction(status=status)))
        _, probe = begin(scene)
        last = probe.expect(LAST)
        assert isinstance(last, StreamError)
        assert isinstance(last.error, InteractionFailedError)
        assert last.error.status == status
        assert last.cursor
        assert actions(scene).count("create") == 1


CALLS = [{"name": "look", "args": {"city": city}} for city in ("Oslo", "Rome")]
ASKS = Reply("Let me see.", thoughts="They want two.", function_calls=CALLS)
QUESTION = {"type": "user_input", "content": [{"type": "text", "text": "weather"}]}


def look(city: str) -> dict[str, Any]:
    return {"celsius": {"Rome": 17}[city]}


def results_of(answer: Answer) -> list[dict[str, Any]]:
    """Call what the model asked for, as an application does; one of the calls fails."""
    results = []
    for call in answer.function_calls:
        assert (call["type"], call["name"]) == ("function_call", "look")
        try:
            results.append(function_result(call, look(**call["arguments"])))
        except KeyError as error:
            results.append(function_result(call, repr(error), is_error=True))
    return results


@pytest.mark.parametrize("ids", ["all", 4])
@pytest.mark.parametrize("cuts", [(), (3, 6, 9, 12, 15), *((cut,) for cut in range(10, 19))])
def test_a_tool_loop_chained_by_id(cuts: Any, ids: Any) -> None:
    """Arguments that a cut leaves half said are whole at the end."""
    with Scene() as scene:
        asks = dataclasses.replace(
            ASKS, interaction=Interaction(cuts=cuts, ids=ids, replay=3, cut_by="clean")
        )
        scene.gemini.on("weather", asks)
        scene.gemini.on("celsius", Reply("It is warm in Rome."))
        _, probe = begin(scene, "weather")
        last = probe.expect(LAST)
        assert isinstance(last, StreamComplete)
        assert (last.finish_reason, last.ok) == ("requires_action", True)
        answer = answer_of(probe)
        assert [call["arguments"] for call in answer.function_calls] == [{"city": "Oslo"}, {"city": "Rome"}]
        _, again = begin(scene, results_of(answer), previous_interaction_id=answer.interaction_id)
        assert whole(again, "It is warm in Rome.").finish_reason == "completed"
        body = [record for record in scene.gemini.requests if record.action == "create"][-1].body
        assert body["previous_interaction_id"] == last.interaction_id
        one, other = (call["id"] for call in answer.function_calls)
        said = {"type": "function_result", "name": "look"}
        assert body["input"] == [
            {**said, "call_id": one, "result": "KeyError('Oslo')", "is_error": True},
            {**said, "call_id": other, "result": {"celsius": 17}},
        ]
        assert actions(scene).count("create") == 2


def test_a_tool_loop_where_the_server_keeps_nothing() -> None:
    """The steps of the answer, thoughts and calls and all, stand in the next input as the server has sent them."""
    with Scene() as scene:
        scene.gemini.on("weather", ASKS, Reply("It is warm in Rome."))
        alone: dict[str, Any] = {"store": False, "resumable": False}
        _, probe = begin(scene, [QUESTION], **alone)
        assert probe.expect(LAST).finish_reason == "requires_action"
        answer = answer_of(probe)
        assert answer.interaction_id is None
        assert [step["type"] for step in answer.steps] == ["thought", "model_output", *["function_call"] * 2]
        results = results_of(answer)
        _, again = begin(scene, [QUESTION, *answer.steps, *results], **alone)
        assert again.expect(LAST).finish_reason == "completed"
        assert answer_of(again).text == "It is warm in Rome."
        assert [record.body["input"] for record in scene.gemini.requests] == [
            [QUESTION],
            [QUESTION, *answer.steps, *results],
        ]
        assert [record.body["store"] for record in scene.gemini.requests] == [False, False]


def test_the_turn_of_an_interaction_goes_on_in_a_stream_of_generate_content() -> None:
    with Scene() as scene:
        scene.gemini.on("weather", ASKS)
        scene.gemini.on("How is it", Reply("It is warm."))
        _, probe = begin(scene, "weather")
        probe.expect(LAST)
        answer = answer_of(probe)
        ids = [call["id"] for call in answer.function_calls]
        turn = {
            "role": "model",
            "parts": [
                {"text": "They want two.", "thought": True},
                {"text": "Let me see."},
                *({"functionCall": {"id": name, **call}} for name, call in zip(ids, CALLS, strict=True)),
            ],
        }
        assert answer.content == turn
        responses = [
            {"functionResponse": {"id": name, "name": "look", "response": {"celsius": 17}}} for name in ids
        ]
        contents = [
            {"role": "user", "parts": [{"text": "How is it?"}]},
            answer.content,
            {"role": "user", "parts": responses},
        ]
        with stream(scene.manager, contents) as events:
            assert "".join(events.text_stream) == "It is warm."
        assert scene.gemini.requests[-1].body["contents"][1] == turn


# -- whatever dies


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.soak)])
@pytest.mark.parametrize("replay", ["same", "merged", 3])
@pytest.mark.parametrize("ids", ["all", 7, "first", "none"])
def test_killed_behind_each_event(ids: Any, replay: Any, count: int) -> None:
    """The content once, in order, and one POST."""
    words = WORDS[:count]
    with Scene(max_streams=4) as scene:
        scene.gemini.on("why", Reply(words, interaction=Interaction(ids=ids, replay=replay)))
        killer = Killer.start(scene)
        try:
            scene.manager.start_interaction("why", subscriber=killer, flow=FlowControl(window=1))
            messages = killer.proxy().messages
            eventually(
                lambda: isinstance(messages.get()[-1:][0] if messages.get() else None, LAST), timeout=60
            )
            received = messages.get()
        finally:
            killer.stop()
        answer = Answer()
        for message in received:
            answer.add(message)
        assert isinstance(received[-1], StreamComplete)
        assert answer.text == "".join(words)
        assert answer.ok
        assert actions(scene).count("create") == 1
        assert check_history(received, ended=True) == []
        restarts = [m for m in received if isinstance(m, StreamRestarting)]
        assert len(restarts) > (2 if replay == "merged" else 20)
        assert not any(restart.discard for restart in restarts)


def test_the_manager_is_killed() -> None:
    with Scene() as scene:
        scene.gemini.on("why", Reply(WORDS[:100], pace=0.002, interaction=Interaction(ids=7)))
        _, probe = begin(scene)
        for _ in range(3):
            probe.expect(StreamEvent, lambda event: event.sequence % 20 == 19)
            kill(scene.manager)
            scene.manager.get_stats(timeout=20)
        whole(probe, "".join(WORDS[:100]))
        assert actions(scene).count("create") == 1


PROGRAM = """
import sys, time
from gemini_streams import Gemini, ManagerActor, StartInteraction, stream
manager = ManagerActor.start(endpoint=Gemini(api_key="local-key", base_url=sys.argv[1]))
with stream(manager, StartInteraction("why")) as events:
    for event in events:
        print(event.sequence, event.cursor, event.text.strip(), flush=True)
"""


@pytest.mark.parametrize("ids", ["all", 7, "none"])
def test_the_process_is_killed_and_another_one_goes_on(ids: Any) -> None:
    words = WORDS[:80]
    with Scene() as scene:
        scene.gemini.on("why", Reply(words, pace=0.005, interaction=Interaction(ids=ids, replay=4)))
        base = scene.gemini.endpoint.base_url
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(base)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(40)]
            os.kill(child.pid, signal.SIGKILL)
        last = lines[-1].split()
        printed = "".join(line.split(" ", 2)[2].strip() + " " for line in lines[2:])
        probe = scene.probe(first=int(last[0]) + 1)
        scene.manager.resume_interaction(last[1], subscriber=probe.ref)
        end = probe.expect(LAST)
        assert isinstance(end, StreamComplete)
        rest = [m for m in probe.messages if isinstance(m, StreamEvent)]
        assert rest[0].sequence == int(last[0]) + 1
        assert printed + "".join(event.text for event in rest) == "".join(words)
        assert actions(scene).count("create") == 1


def planted(change: Any) -> list[int]:
    """Return the guarantees that are found broken in a good history that was changed."""
    with Scene() as scene:
        scene.gemini.on("why", Reply(TEXT, interaction=Interaction(cuts=[4], cut_by="reset")))
        stream_id, probe = begin(scene)
        whole(probe)
        history = list(probe.messages)
        steps = {stream_id: [{"type": "model_output", "content": [{"type": "text", "text": TEXT}]}]}
        assert check_history(history, ended=True, steps=steps) == []
        change(history)
        return [violation.guarantee for violation in check_history(history, ended=True, steps=steps)]


def _again(history: list[Any], kind: str) -> None:
    """Have an event's content come a second time, under the numbers that follow."""
    at = next(n for n, m in enumerate(history) if isinstance(m, StreamEvent) and m.event_type == kind)
    history.insert(at + 1, history[at])
    sequence = 0
    for number, message in enumerate(history):
        if isinstance(message, StreamEvent):
            history[number] = replace(message, sequence=sequence)
            sequence += 1
        elif isinstance(message, StreamRestarting):
            history[number] = replace(message, resume_at=sequence)
        elif isinstance(message, StreamComplete):
            history[number] = replace(message, events_count=sequence)


@pytest.mark.parametrize(
    "kind", ["interaction.created", "step.start", "step.delta", "step.stop", "interaction.completed"]
)
def test_content_that_comes_twice_is_seen(kind: str) -> None:
    assert 6 in planted(lambda history: _again(history, kind))


def test_a_break_that_voids_something_is_seen() -> None:
    def void(history: list[Any]) -> None:
        at = next(n for n, m in enumerate(history) if isinstance(m, StreamRestarting))
        history[at] = replace(history[at], resume_at=history[at].resume_at - 1, discard=True)

    assert 6 in planted(void)


def test_content_that_is_lost_is_seen() -> None:
    def lose(history: list[Any]) -> None:
        at = next(n for n, m in enumerate(history) if isinstance(m, StreamEvent) and m.text == " three")
        history[at] = replace(history[at], data={**history[at].data, "delta": {"type": "text", "text": ""}})

    assert planted(lose) == [6]


def test_a_step_whose_start_was_left_out_is_no_violation_and_its_repetition_is() -> None:
    def leave_out(history: list[Any]) -> None:
        at = next(
            n for n, m in enumerate(history) if isinstance(m, StreamEvent) and "start" in str(m.event_type)
        )
        left: StreamEvent = history[at]
        history[at] = EventsDropped(left.stream_id, left.attempt, left.sequence, 1)
        history[-1] = replace(history[-1], events_count=history[-1].events_count - 1)

    def leave_out_and_repeat(history: list[Any]) -> None:
        leave_out(history)
        _again(history, "step.stop")

    assert planted(leave_out) == []
    assert 6 in planted(leave_out_and_repeat)


# -- wherever the server cuts


@pytest.mark.parametrize("cut_by", ["array", "clean", "cut", "reset"])
@pytest.mark.parametrize("ids", ["all", 3, "none"])
def test_a_cut_stream_goes_on(cut_by: Any, ids: Any) -> None:
    with Scene() as scene:
        scene.gemini.on("why", Reply(TEXT, interaction=Interaction(cuts=[4, 9, 12], ids=ids, cut_by=cut_by)))
        _, probe = begin(scene)
        whole(probe)
        assert actions(scene).count("create") == 1
        for restart in [m for m in probe.messages if isinstance(m, StreamRestarting)]:
            assert not restart.discard


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_what_a_slow_subscriber_is_spared_counts_as_delivered(overflow: Any) -> None:
    """The scene's end judges `events_count`, the gaps and the order."""
    words = WORDS[:200]
    with Scene() as scene:
        options = Interaction(cuts=[60, 120], ids=7, cut_by="reset")
        scene.gemini.on("why", Reply(words, pace=0.001, interaction=options))
        _, probe = begin(scene, flow=FlowControl(window=4, overflow=overflow))
        assert isinstance(probe.expect(LAST), StreamComplete)
        assert actions(scene).count("create") == 1


def test_a_break_whose_events_become_void_before_they_are_read() -> None:
    """Events and a restart behind them wait for a subscriber, and a second restart takes the events out again."""
    awake = threading.Event()
    with Scene() as scene, Probe(answer=lambda _: awake.wait(20)) as sleeper:
        forgets = Interaction(cuts=[14], cut_by="cut", forget_after=1)
        scene.gemini.on("why", Reply(WORDS[:20], interaction=forgets), Reply(WORDS[:20]))
        flow = FlowControl(window=16, overflow="drop_oldest")
        stream_id = scene.manager.start_interaction("why", subscriber=sleeper.ref, flow=flow)
        scene.await_status(stream_id, "completed")
        awake.set()
        sleeper.expect(StreamComplete)
        restarts = [m for m in sleeper.messages if isinstance(m, StreamRestarting)]
        assert [(m.resume_at, m.discard) for m in restarts] == [(8, False), (0, True)]
        assert check_history(sleeper.messages, ended=True) == []


def test_a_hundred_at_once_through_cuts_and_kills() -> None:
    words = WORDS[:50]
    cuts = Interaction(cuts=[10, 25, 40, 55], ids=5, replay="merged", cut_by="reset")
    with Scene(max_streams=100) as scene:
        scene.gemini.on("why", Reply(words, pace=0.001, interaction=cuts))
        began = [begin(scene, f"why {number}") for number in range(100)]
        for stream_id, probe in began[::3]:
            probe.expect(StreamEvent)
            kill(scene.ref(stream_id))
        for _, probe in began:
            whole(probe, "".join(words))
        assert actions(scene).count("create") == 100


def test_a_cut_at_the_same_place_is_read_from_the_resource() -> None:
    with Scene(retry=RetryPolicy(attempts=8, initial_delay=0, jitter=0)) as scene:
        scene.gemini.on("why", Reply(TEXT, interaction=Interaction(cut_at=6)))
        _, probe = begin(scene)
        whole(probe)
        assert actions(scene)[-1] == "get"
        assert actions(scene).count("create") == 1


def test_a_resume_that_goes_silent_is_read_from_the_resource() -> None:
    with Scene(idle_timeout=0.3) as scene:
        options = Interaction(cuts=[6], resume_silent_after=2)
        scene.gemini.on("why", Reply(TEXT, interaction=options))
        _, probe = begin(scene)
        whole(probe)
        assert "get" in actions(scene)


def test_a_zombie_is_told() -> None:
    with Scene(idle_timeout=0.1) as scene:
        scene.gemini.on("why", Reply(TEXT, interaction=Interaction(zombie_after=4)))
        _, probe = begin(scene, max_silence=1.5)
        last = probe.expect(LAST)
        assert isinstance(last, StreamError)
        assert isinstance(last.error, InteractionStalledError)
        assert last.cursor
        assert actions(scene).count("create") == 1


def test_forgotten_is_an_ordinary_restart_told_as_such() -> None:
    with Scene() as scene:
        forgets = Interaction(cuts=[5], forget_after=1)
        scene.gemini.on("why", Reply(TEXT, interaction=forgets), Reply(TEXT))
        _, probe = begin(scene)
        last = probe.expect(LAST)
        assert isinstance(last, StreamComplete)
        restart = next(
            m
            for m in probe.messages
            if isinstance(m, StreamRestarting) and isinstance(m.error, InteractionGoneError)
        )
        assert (restart.resume_at, restart.discard) == (0, True)
        assert answer_of(probe).text == TEXT
        assert actions(scene).count("create") == 2


def test_not_found_at_first_is_waited_out() -> None:
    with Scene() as scene:
        late = Interaction(gets=[Failure(404), Failure(404)])
        scene.gemini.on("why", Reply(TEXT, interaction=late))
        _, probe = begin(scene)
        whole(probe)
        assert actions(scene).count("create") == 1


def test_an_error_event_is_not_delivered_and_the_resource_decides() -> None:
    with Scene() as scene:
        scene.gemini.on(
            "why", Reply(TEXT, error_after=(4, Failure(504)), interaction=Interaction(string_codes=True))
        )
        _, probe = begin(scene)
        whole(probe)
        assert not [m for m in probe.messages if isinstance(m, StreamEvent) and m.event_type == "error"]
        assert "get" in actions(scene)


def _stream_of(*events: dict[str, Any]) -> Body:
    lines = b"".join(b"data: %s\r\n\r\n" % json.dumps(event).encode() for event in events)
    return Body(lines, content_type="text/event-stream")


def test_a_server_that_contradicts_itself_voids_the_open_step_at_the_second_time() -> None:
    said = _stream_of(
        {"event_type": "interaction.created", "interaction": {"id": "v1_L1", "status": "in_progress"}},
        {"event_type": "interaction.status_update", "interaction_id": "v1_L1", "status": "in_progress"},
        {"event_type": "step.start", "index": 0, "step": {"type": "model_output"}},
        {
            "event_type": "step.delta",
            "index": 0,
            "delta": {"type": "text", "text": "quite another text than that"},
        },
    )
    with Scene() as scene:
        options = Interaction(cuts=[5], cut_by="reset", ids="none", gets=[None, said, said])
        scene.gemini.on("why", Reply(TEXT, interaction=options))
        _, probe = begin(scene)
        last = probe.expect(LAST)
        assert isinstance(last, StreamComplete)
        assert answer_of(probe).text == TEXT
        restarts = [m for m in probe.messages if isinstance(m, StreamRestarting)]
        assert [(restart.resume_at, restart.discard) for restart in restarts] == [(5, False), (2, True)]
        assert isinstance(restarts[1].error, ReplayMismatchError)
        assert actions(scene) == ["create", "stream", "stream", "stream", "stream"]


def test_a_server_that_refuses_an_event_id_is_asked_from_the_first_event() -> None:
    with Scene() as scene:
        options = Interaction(cuts=[5], cut_by="reset", gets=[None, Failure(400)])
        scene.gemini.on("why", Reply(TEXT, interaction=options))
        _, probe = begin(scene)
        whole(probe)
        asked = [
            record.last_event_id is not None for record in scene.gemini.requests if record.action == "stream"
        ]
        assert asked == [False, True, False]
        assert len([m for m in probe.messages if isinstance(m, StreamRestarting)]) == 1


def test_late_usage_is_waited_for() -> None:
    with Scene() as scene:
        scene.gemini.on("why", Reply(TEXT, interaction=Interaction(usage_late=0.0)))
        _, probe = begin(scene)
        last = whole(probe)
        assert last.usage is not None
        assert actions(scene) == ["create", "stream", "get"]
        asked = [record.headers for record in scene.gemini.requests]
        assert [headers["accept"] for headers in asked] == [
            "application/json",
            "text/event-stream",
            "application/json",
        ]
        assert ["content-length" in headers for headers in asked] == [True, False, False]


def test_a_model_that_refuses_background_says_what_to_do() -> None:
    with Scene() as scene:
        scene.gemini.on("why", Reply(TEXT, interaction=Interaction(no_background=True)))
        _, probe = begin(scene)
        last = probe.expect(LAST)
        assert isinstance(last, StreamError)
        assert "resumable=False" in str(last.error)
        assert len(scene.gemini.requests) == 1


def test_a_post_whose_answer_is_lost_is_told() -> None:
    with Scene() as scene:
        scene.gemini.on("why", Reply(TEXT, interaction=Interaction(post_lost=True)), Reply(TEXT))
        _, probe = begin(scene)
        restart = probe.expect(StreamRestarting)
        assert "may have started work at the server" in str(restart.error)
        whole(probe)


# -- not resumable


def test_not_resumable_is_one_post_and_restarts_from_the_beginning() -> None:
    with Scene() as scene:
        scene.gemini.on("why", Reply(TEXT, interaction=Interaction(cuts=[5])), Reply(TEXT))
        _, probe = begin(scene, resumable=False)
        last = probe.expect(LAST)
        assert isinstance(last, StreamComplete)
        assert last.ok
        restart = next(m for m in probe.messages if isinstance(m, StreamRestarting))
        assert (restart.resume_at, restart.discard) == (0, True)
        assert answer_of(probe).text == TEXT
        assert actions(scene) == ["create", "create"]
        assert scene.gemini.requests[0].body["stream"] is True
        assert last.cursor is None


# -- whose work is cancelled


@pytest.mark.parametrize(("cancel_on", "cancelled"), [("stop", True), ("leave", True), ("never", False)])
def test_a_stop_cancels_the_work_at_the_server(cancel_on: Any, cancelled: bool) -> None:
    with Scene() as scene:
        scene.gemini.on("why", Reply(TEXT, hold_after=5))
        stream_id, probe = begin(scene, cancel_on=cancel_on)
        probe.expect(StreamEvent, lambda event: event.sequence == 4)
        assert scene.manager.stop_stream(stream_id)
        last = probe.expect(StreamStopped)
        assert last.cursor
        if cancelled:
            eventually(lambda: actions(scene)[-1] == "cancel")
        else:
            scene.manager.stop()
            assert "cancel" not in actions(scene)


@pytest.mark.parametrize(("cancel_on", "cancelled"), [("stop", False), ("leave", True)])
def test_the_leaving_of_the_last_one_cancels_where_that_was_asked_for(
    cancel_on: Any, cancelled: bool
) -> None:
    with Scene(clock=TestClock()) as scene:
        scene.gemini.on("why", Reply(TEXT, hold_after=5))
        with Probe() as probe:
            stream_id = scene.manager.start_interaction("why", subscriber=probe.ref, cancel_on=cancel_on)
            probe.expect(StreamEvent, lambda event: event.sequence == 4)
            assert scene.manager.unsubscribe_stream(stream_id, probe.ref)
        scene.clock.advance(0.9)
        assert "cancel" not in actions(scene)
        scene.clock.advance(0.2)
        if cancelled:
            eventually(lambda: actions(scene)[-1] == "cancel")
        else:
            scene.manager.stop()
            assert "cancel" not in actions(scene)


def test_a_stop_during_the_post_tells_at_once_and_cancels_what_it_had_begun() -> None:
    with Scene() as scene:
        scene.gemini.on("why", Reply(TEXT, headers_delay=0.5, hold_after=5))
        stream_id, probe = begin(scene)
        eventually(lambda: scene.gemini.requests)
        began = time.monotonic()
        assert scene.manager.stop_stream(stream_id)
        probe.expect(StreamStopped)
        assert time.monotonic() - began < 0.25
        eventually(lambda: actions(scene)[-1] == "cancel")


def test_the_end_of_the_manager_cancels_nothing() -> None:
    with Scene() as scene:
        scene.gemini.on("why", Reply(TEXT, hold_after=5))
        _, probe = begin(scene, cancel_on="leave")
        probe.expect(StreamEvent, lambda event: event.sequence == 4)
        scene.manager.stop()
        assert probe.expect(StreamStopped).cursor
        assert "cancel" not in actions(scene)


# -- resuming by hand


def test_an_id_replays_from_the_first_event_and_a_cursor_at_the_end_brings_nothing() -> None:
    with Scene() as scene:
        scene.gemini.on("why", Reply(TEXT))
        _, probe = begin(scene)
        last = whole(probe)
        again = scene.probe()
        scene.manager.resume_interaction(str(last.interaction_id), subscriber=again.ref)
        whole(again)
        end = scene.probe(first=EVENTS)
        scene.manager.resume_interaction(str(last.cursor), subscriber=end.ref)
        message = end.expect(LAST)
        assert isinstance(message, StreamComplete)
        assert [m for m in end.messages if isinstance(m, StreamEvent)] == []
        assert actions(scene).count("create") == 1


def test_one_that_is_forgotten_is_gone_and_nothing_is_bought() -> None:
    with Scene() as scene:
        probe = scene.probe(first=None)
        scene.manager.resume_interaction("v1_nobody", subscriber=probe.ref)
        last = probe.expect(LAST)
        assert isinstance(last, StreamError)
        assert isinstance(last.error, InteractionGoneError)
        assert actions(scene) == ["stream"]


def test_no_policy_has_something_bought_for_one_that_was_begun_elsewhere() -> None:
    always = RetryPolicy(attempts=3, initial_delay=0, jitter=0, retryable=lambda _: True)
    with Scene(retry=always) as scene:
        probe = scene.probe(first=None)
        scene.manager.resume_interaction("v1_nobody", subscriber=probe.ref)
        assert isinstance(probe.expect(StreamError).error, InteractionGoneError)
        assert actions(scene) == ["stream"] * 3


@pytest.mark.parametrize(
    "request_",
    [
        StartInteraction(""),
        StartInteraction("why", store=False),
        StartInteraction("why", cancel_on="sometimes"),  # type: ignore[arg-type]
        StartInteraction("why", config={"stream": True}),
        StartInteraction("why", config={"background": True}),
        StartInteraction("why", agent="deep-research", config={"temperature": 1}),
        StartInteraction("why", max_silence=0),
        ResumeInteraction("gi1.nonsense"),
        ResumeInteraction("no id at all"),
        ResumeInteraction(".."),
        ResumeInteraction(""),
    ],
)
def test_bad_input_is_refused(request_: Any) -> None:
    with Scene() as scene, Probe() as probe:
        with pytest.raises(InvalidRequestError):
            scene.manager.ask(replace(request_, subscriber=probe.ref))
        assert scene.gemini.requests == []


def test_the_typed_options_are_those_of_the_messages() -> None:
    for options, message in ((InteractionOptions, StartInteraction), (ResumeOptions, ResumeInteraction)):
        fields = set(message.__struct_fields__) - {"input", "cursor", "subscriber"}
        assert set(options.__annotations__) == fields


# -- the iterator, and the history


def test_an_iterator_and_a_history_have_cursors() -> None:
    with Scene(history=1 << 20) as scene:
        scene.gemini.on("why", Reply(TEXT, interaction=Interaction(ids=4)))
        with stream(
            scene.manager,
            StartInteraction("why"),
        ) as events:
            live = [event for event in events if isinstance(event, StreamEvent)]
            answer = events.answer
        assert answer.text == TEXT
        assert answer.interaction_id == scene.gemini.requests[0].interaction_id
        late = scene.probe(after=None)
        scene.manager.subscribe_stream(str(events.stream_id), late.ref, after=FROM_START)
        late.expect(LAST)
        replayed = [m for m in late.messages if isinstance(m, StreamEvent)]
        assert [event.cursor for event in replayed] == [event.cursor for event in live]
