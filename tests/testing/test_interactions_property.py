"""Any script, with any options: cut, replayed and resumed, its content is received once."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemini_streams.testing import Failure, Interaction, LocalGemini, Reply
from gemini_streams.testing.interaction_events import replayed
from kit.interactions import Content, begin, create, events, read_resuming, stream

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXTS = st.text(alphabet="ab \n🌊é", max_size=40)
CALLS = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["tide", "wind"]), "args": st.dictionaries(TEXTS, st.integers())}
    ),
    max_size=2,
)
IDS = st.one_of(
    st.sampled_from(["all", "first", "none"]),
    st.integers(1, 7),
    st.just(lambda event: event["event_type"] == "step.delta"),
)
REPLAY = st.one_of(st.sampled_from(["same", "merged"]), st.integers(1, 5))


def content_of(found: list[dict[str, Any]]) -> Content:
    content = Content()
    for event in found:
        content.add(event)
    return content


@st.composite
def scripts(draw: st.DrawFn) -> dict[str, Any]:
    return {"text": draw(TEXTS), "thoughts": draw(TEXTS), "function_calls": draw(CALLS)}


def numbered() -> Iterator[str]:
    return (f"<{number}>" for number in itertools.count())


PROMPTS = numbered()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    script=scripts(),
    ids=IDS,
    replay=REPLAY,
    cuts=st.lists(st.integers(0, 12), max_size=5),
    cut_by=st.sampled_from(["array", "clean", "cut"]),
    end=st.sampled_from(["clean", "cut"]),
    end_after=st.none() | st.integers(0, 9),
    half=st.booleans(),
    error_after=st.none() | st.integers(0, 9),
    in_start=st.booleans(),
    background=st.booleans(),
)
def test_a_run_cut_and_resumed_is_the_scripts_content(
    gemini: LocalGemini,
    script: dict[str, Any],
    ids: Any,
    replay: Any,
    cuts: list[int],
    cut_by: Any,
    end: Any,
    end_after: int | None,
    half: bool,
    error_after: int | None,
    in_start: bool,
    background: bool,
) -> None:
    prompt = next(PROMPTS)
    gemini.on(f"whole {prompt}", Reply(**script, interaction=Interaction(text_in_start=in_start)))
    whole = content_of(events(create(gemini, f"whole {prompt}", stream=True)[1]))
    error = (error_after, Failure(504)) if error_after is not None else None
    options = Interaction(ids=ids, replay=replay, cuts=cuts, cut_by=cut_by, text_in_start=in_start)
    gemini.on(
        f"cut {prompt}",
        Reply(**script, end=end, end_after=end_after, half=half, error_after=error, interaction=options),
    )
    if background:
        name, body = begin(gemini, f"cut {prompt}"), None
    else:
        _, body = create(gemini, f"cut {prompt}", stream=True)
        name = str(gemini.requests[-1].interaction_id)
    assert read_resuming(gemini, name, body) == whole
    assert whole.strings.get((0, "thought_summary"), "") == script["thoughts"]
    assert script["text"] in {"", *whole.strings.values()}


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=scripts(), ids=IDS, replay=REPLAY)
def test_a_replay_behind_an_id_starts_exactly_behind_it(
    gemini: LocalGemini, script: dict[str, Any], ids: Any, replay: Any
) -> None:
    prompt = next(PROMPTS)
    gemini.on(prompt, Reply(**script, interaction=Interaction(ids=ids, replay=replay)))
    name = begin(gemini, prompt)
    live = events(stream(gemini, name)[1])
    for number, event in enumerate(live):
        if "event_id" in event:
            rest = events(stream(gemini, name, event["event_id"])[1])
            assert content_of(rest) == content_of(live[number + 1 :])
            assert [e["event_id"] for e in rest if "event_id" in e] == [
                e["event_id"] for e in live[number + 1 :] if "event_id" in e
            ]


DELTAS = st.lists(
    st.tuples(st.sampled_from(["text", "thought_summary", "arguments_delta", "image"]), TEXTS, st.booleans()),
    max_size=12,
)


@given(DELTAS, REPLAY)
def test_each_id_of_a_replay_stands_behind_the_same_content(
    deltas: list[tuple[str, str, bool]], how: Any
) -> None:
    told: list[dict[str, Any]] = []
    for number, (kind, text, marked) in enumerate(deltas):
        delta: dict[str, Any] = {"type": kind}
        match kind:
            case "thought_summary":
                delta["content"] = {"type": "text", "text": text}
            case "arguments_delta":
                delta["arguments"] = text
            case "text":
                delta["text"] = text
            case _:
                delta["data"] = text
        told.append({"event_type": "step.delta", "index": 0, "delta": delta})
        if marked:
            told[-1]["event_id"] = f"id{number}"

    def at_ids(found: list[dict[str, Any]]) -> dict[str, Content]:
        return {
            event["event_id"]: content_of(found[: number + 1])
            for number, event in enumerate(found)
            if "event_id" in event
        }

    again = list(replayed(told, how))
    assert at_ids(again) == at_ids(told)
    assert content_of(again) == content_of(told)
    if how == "merged":
        assert len(again) <= len(told)
