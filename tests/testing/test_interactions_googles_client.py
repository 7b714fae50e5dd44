"""Google's own client takes LocalGemini's interactions for the real ones."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest

from gemini_streams.testing import Failure, Interaction, LocalGemini, LongAnswer, Reply

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

genai = pytest.importorskip("google.genai")
MODEL = "gemini-test"


@pytest.fixture
def google(gemini: LocalGemini) -> Iterator[Any]:
    options = {"base_url": gemini.url, "api_version": "v1beta", "retry_options": {"attempts": 1}}
    with genai.Client(api_key="local-key", http_options=options) as client, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the client says that its interactions are new
        yield client.interactions


def text_of(events: Iterable[Any]) -> str:
    text = ""
    for event in events:
        if event.event_type == "step.start":
            text += "".join(content.text for content in getattr(event.step, "content", None) or [])
        elif event.event_type == "step.delta" and event.delta.type == "text":
            text += event.delta.text
    return text


def test_one_script_answers_both_apis(gemini: LocalGemini, google: Any) -> None:
    call = {"name": "tide", "args": {"coast": "west"}}
    gemini.on("why", Reply("one two three", thoughts="let me see"))
    gemini.on("call", Reply("first", function_calls=[call]))
    options = {"base_url": gemini.url, "api_version": "v1beta"}
    with genai.Client(api_key="local-key", http_options=options) as client:
        parts = [
            part
            for chunk in client.models.generate_content_stream(model=MODEL, contents="why")
            for part in chunk.candidates[0].content.parts
        ]
        assert "".join(part.text for part in parts if part.thought) == "let me see"
        assert "".join(part.text for part in parts if not part.thought) == "one two three"
        last = list(client.models.generate_content_stream(model=MODEL, contents="call"))[-1]
        assert (last.function_calls[0].name, last.function_calls[0].args) == ("tide", {"coast": "west"})

    whole = google.create(model=MODEL, input="why")
    assert (whole.status, whole.output_text, whole.usage.total_output_tokens) == (
        "completed",
        "one two three",
        6,
    )
    assert [step.type for step in whole.steps] == ["thought", "model_output"]
    assert whole.steps[0].summary[0].text == "let me see"
    events = list(google.create(model=MODEL, input="why", stream=True))
    assert text_of(events) == "one two three"
    assert [event.event_type for event in events[:3]] == [
        "interaction.created",
        "interaction.status_update",
        "step.start",
    ]
    assert events[-1].event_type == "interaction.completed"
    assert events[-1].interaction.usage.total_tokens == 7
    asked = google.create(model=MODEL, input="call")
    assert asked.status == "requires_action"
    assert (asked.steps[-1].name, asked.steps[-1].arguments) == ("tide", {"coast": "west"})


def test_a_background_run_is_read_resumed_chained_and_deleted(gemini: LocalGemini, google: Any) -> None:
    gemini.on("why", Reply("one two three four", interaction=Interaction(cuts=[4], ids=2)))
    gemini.on("more", Reply("five"))
    begun = google.create(model=MODEL, input="why", background=True)
    assert begun.status == "in_progress"
    first = list(google.get(id=begun.id, stream=True))
    ids = [event.event_id for event in first if event.event_id]
    rest = list(google.get(id=begun.id, stream=True, last_event_id=ids[-1]))
    assert text_of(first + rest) == "one two three four"
    assert (rest[0].event_type, rest[-1].event_type) == ("step.delta", "interaction.completed")
    found = google.get(id=begun.id)
    assert (found.status, found.output_text) == ("completed", "one two three four")
    assert [step.type for step in found.steps] == ["user_input", "model_output"]
    chained = google.create(model=MODEL, input="more", previous_interaction_id=begun.id)
    assert (chained.output_text, chained.previous_interaction_id) == ("five", begun.id)
    google.delete(id=begun.id)
    with pytest.raises(Exception, match="was not found"):
        google.get(id=begun.id)
    assert [(record.method, record.action, record.last_event_id) for record in gemini.requests] == [
        ("POST", "create", None),
        ("GET", "stream", None),
        ("GET", "stream", ids[-1]),
        ("GET", "get", None),
        ("POST", "create", None),
        ("DELETE", "delete", None),
        ("GET", "get", None),
    ]
    assert {r.interaction_id for r in gemini.requests} == {begun.id, chained.id}


def test_a_background_run_is_cancelled(gemini: LocalGemini, google: Any) -> None:
    gemini.on("deep", Reply("one two three", hold_after=4))
    begun = google.create(agent="deep-research-pro", input="deep", background=True)
    assert gemini.gate("deep").reached()
    assert google.cancel(id=begun.id).status == "cancelled"
    assert google.get(id=begun.id).status == "cancelled"
    assert list(google.get(id=begun.id, stream=True))[-1].interaction.status == "cancelled"


def test_function_results_are_given_to_the_call_that_asked_for_them(gemini: LocalGemini, google: Any) -> None:
    gemini.on("tide?", Reply(function_calls=[{"name": "tide", "args": {}, "id": "c1"}]))
    gemini.on("4 metres", Reply("High."))
    asked = google.create(model=MODEL, input="tide?")
    result = {"type": "function_result", "call_id": "c1", "name": "tide", "result": "4 metres"}
    answered = google.create(model=MODEL, input=[result], previous_interaction_id=asked.id)
    assert answered.output_text == "High."
    with pytest.raises(Exception, match="no function call c2"):
        google.create(model=MODEL, input=[{**result, "call_id": "c2"}], previous_interaction_id=asked.id)


def test_errors_reach_googles_client(gemini: LocalGemini, google: Any) -> None:
    gemini.on("limit", Failure(429, "slow down"))
    gemini.on("inside", Reply("one two", error_after=(3, Failure(504, "too late"))))
    with pytest.raises(Exception, match="slow down"):
        google.create(model=MODEL, input="limit")
    last = list(google.create(model=MODEL, input="inside", stream=True))[-1]
    assert (last.event_type, last.error.message) == ("error", "too late")


@pytest.mark.parametrize("store", [True, False])
def test_a_long_answer_goes_on_hop_by_hop(gemini: LocalGemini, google: Any, *, store: bool) -> None:
    text = " ".join(f"word{n}" for n in range(20))
    gemini.on("long", LongAnswer(text, hops=4))
    events = google.create(model="gemini-4-test", input="long", stream=True, store=store)
    assert text_of(events) == text
    assert [record.text for record in gemini.requests] == ["long"] * 4
