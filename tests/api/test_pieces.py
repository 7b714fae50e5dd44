"""What comes in pieces over several events is put together: calls of functions, and halves of characters."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_streams.api.generate.pieces import Calls, Halves
from gemini_streams.api.generate.response import function_calls_of, text_of, thoughts_of, whole_parts_of
from gemini_streams.api.json_values import mend


def event(*parts: dict[str, Any], index: int | None = None, finish: str | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}}
    if index is not None:
        candidate["index"] = index
    if finish is not None:
        candidate["finishReason"] = finish
    return {"candidates": [candidate]}


def piece(*args: dict[str, Any], more: bool = True, **call: Any) -> dict[str, Any]:
    if args:
        call["partialArgs"] = list(args)
    if more:
        call["willContinue"] = True
    return {"functionCall": call}


def arg(path: str, text: str, more: bool = False) -> dict[str, Any]:
    return {"jsonPath": path, "stringValue": text, **({"willContinue": True} if more else {})}


def calls_of(*events: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The calls that each event completes."""
    calls = Calls()
    found = []
    for each in events:
        calls.see(each)
        found.append(function_calls_of(each))
    return found


END = piece(more=False)


def test_a_call_is_in_the_event_that_completes_it_and_in_no_other() -> None:
    assert calls_of(
        event(piece(name="w", id="7")),
        event(piece(arg("$.city", "New ", more=True))),
        event(piece(arg("$.city", "York"), {"jsonPath": "$.days", "numberValue": 3})),
        event({"text": "hm", "thought": True}),
        event(END, finish="STOP"),
    ) == [[], [], [], [], [{"name": "w", "id": "7", "args": {"city": "New York", "days": 3}}]]


def test_every_kind_of_value_at_every_kind_of_path() -> None:
    args = [
        arg("$.a.b[0]", "x", more=True),
        arg("$.a.b[0]", "y"),
        {"jsonPath": "$.a.b[1]", "boolValue": False},
        {"jsonPath": "$.a.b[2].c", "nullValue": None},
        {"jsonPath": "$.a.b[2].d", "nullValue": "NULL_VALUE"},
        {"jsonPath": "$['it\\'s']", "numberValue": 1.5},
        {"jsonPath": '$["x.y"][0][0]', "numberValue": 2},
        {"jsonPath": "$.s", "structValue": {"k": [1]}},
        {"jsonPath": "$.l", "listValue": [1, "2"]},
        {"jsonPath": "$.announced", "willContinue": True},
    ]
    expected = {
        "a": {"b": ["xy", False, {"c": None, "d": None}]},
        "it's": 1.5,
        "x.y": [[2]],
        "s": {"k": [1]},
        "l": [1, "2"],
    }
    assert calls_of(event(piece(*args, name="f", more=False))) == [[{"name": "f", "args": expected}]]


def test_an_event_that_was_delivered_does_not_change_any_more() -> None:
    first = event(piece({"jsonPath": "$.s", "structValue": {"k": {}}}, name="f", args={"a": {}}))
    before = json.dumps(first)
    rest = event(piece(arg("$.a.b", "x"), arg("$.s.k.l", "y"), more=False))
    assert calls_of(first, rest)[1] == [{"name": "f", "args": {"a": {"b": "x"}, "s": {"k": {"l": "y"}}}}]
    assert json.dumps(first) == before


def test_what_stands_beside_a_call_stays_with_it() -> None:
    events = [
        event({**piece(name="f"), "thoughtSignature": "sig"}),
        event({**piece(arg("$.a", "1")), "partMetadata": {"m": 1}}),
        event({"text": "and"}, END),
    ]
    calls_of(*events)
    assert [whole_parts_of(each) for each in events] == [
        [],
        [],
        [
            {"text": "and"},
            {
                "functionCall": {"name": "f", "args": {"a": "1"}},
                "thoughtSignature": "sig",
                "partMetadata": {"m": 1},
            },
        ],
    ]


def test_a_whole_call_is_left_as_it_is() -> None:
    whole = {"functionCall": {"name": "g", "args": {"a": 1}, "id": "2"}}
    assert calls_of(event(whole, whole)) == [[whole["functionCall"]] * 2]
    assert calls_of(event(piece(name="f")), event(whole), event(END)) == [
        [],
        [whole["functionCall"]],
        [{"name": "f", "args": {}}],
    ]


@pytest.mark.parametrize(
    "call",
    [{}, {"args": {"a": 1}}, {"name": ""}, {"name": 5}, {"partialArgs": [arg("$.a", "x")]}, {"name": None}],
)
def test_a_fragment_without_a_name_is_never_a_call(call: dict[str, Any]) -> None:
    alone = event({"functionCall": call})
    assert calls_of(alone) == [[]]
    assert whole_parts_of(alone) == []


def test_calls_with_ids_can_come_side_by_side() -> None:
    assert calls_of(
        event(piece(name="f", id="1"), piece(name="f", id="2")),
        event(piece(arg("$.a", "two"), id="2")),
        event(piece(arg("$.a", "one"), id="1", more=False)),
        event(piece(id="2", more=False)),
    ) == [
        [],
        [],
        [{"name": "f", "id": "1", "args": {"a": "one"}}],
        [{"name": "f", "id": "2", "args": {"a": "two"}}],
    ]


def test_a_piece_that_repeats_the_name_belongs_to_the_open_call() -> None:
    assert calls_of(
        event(piece(name="f")), event(piece(arg("$.a", "x"), name="f")), event(piece(name="f", more=False))
    ) == [[], [], [{"name": "f", "args": {"a": "x"}}]]


def test_candidates_do_not_share_their_calls() -> None:
    first, second = event(piece(name="f")), event(piece(name="g"), index=1)
    both = {"candidates": [*event(END, index=1)["candidates"], *event(END)["candidates"]]}
    assert calls_of(first, second, both) == [[], [], [{"name": "f", "args": {}}]]
    assert both["candidates"][0]["content"]["parts"] == [{"functionCall": {"name": "g", "args": {}}}]


def test_a_stop_that_brings_no_piece_completes_the_call() -> None:
    begun = [piece(name="f"), piece(arg("$.a", "x"))]
    for last in ({"candidates": [{"finishReason": "STOP"}]}, event({"text": ""}, finish="STOP")):
        assert calls_of(event(*begun), last)[1] == [{"name": "f", "args": {"a": "x"}}]
    for last in (
        event(piece(arg("$.a", "y")), finish="STOP"),
        {"candidates": [{"finishReason": "MAX_TOKENS"}]},
    ):
        calls = Calls()
        calls.see(event(*begun))
        calls.see(last)
        assert function_calls_of(last) == []
        assert calls


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a",
        "$",
        "$.",
        "$.a[",
        "$.a[1]",
        "$.a[-1]",
        "$.a[99999999]",
        "$[0]",
        "$..a",
        "$.t.x",
        "$.l.x",
        None,
        5,
        "$" + ".a" * 65,
        "$.l['x']",
        r'$["\x"]',
    ],
)
def test_a_path_that_leads_nowhere(path: Any) -> None:
    there = [arg("$.t", "text"), {"jsonPath": "$.l[0]", "boolValue": True}]
    with pytest.raises(ValueError, match=r"path|piece|argument|escape"):
        calls_of(event(piece(*there, {"jsonPath": path, "stringValue": "x"}, name="f", more=False)))


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["f", "$.a", "$.a[0]", "STOP", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "candidates",
                    "content",
                    "parts",
                    "functionCall",
                    "name",
                    "args",
                    "id",
                    "partialArgs",
                    "jsonPath",
                    "willContinue",
                    "stringValue",
                    "numberValue",
                    "finishReason",
                    "index",
                    "text",
                    "thought",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(st.sampled_from(["candidates"]), ODD, max_size=1), max_size=4))
def test_no_event_is_too_odd(events: list[dict[str, Any]]) -> None:
    calls, halves = Calls(), Halves()
    for each in events:
        try:
            calls.see(each)
        except ValueError:
            return
        halves.see(each)
        assert all(call["name"] for call in function_calls_of(each))


LEAVES = st.text(max_size=6) | st.booleans() | st.none() | st.integers()
NAMES = st.text(alphabet="ab_é", min_size=1, max_size=2)
ARGS = st.dictionaries(
    NAMES,
    st.recursive(
        LEAVES,
        lambda inner: (
            st.lists(inner, min_size=1, max_size=3) | st.dictionaries(NAMES, inner, min_size=1, max_size=3)
        ),
        max_leaves=8,
    ),
    max_size=4,
)


def partial_args(value: Any, path: str) -> list[dict[str, Any]]:
    """Write a value as a server would: one argument for each leaf, texts a unit of UTF-16 at a time."""
    if isinstance(value, dict):
        return [each for name, inner in value.items() for each in partial_args(inner, f"{path}.{name}")]
    if isinstance(value, list):
        return [each for at, inner in enumerate(value) for each in partial_args(inner, f"{path}[{at}]")]
    if isinstance(value, str):
        units = value.encode("utf-16-le", "surrogatepass")
        halves = [units[at : at + 2].decode("utf-16-le", "surrogatepass") for at in range(0, len(units), 2)]
        return [arg(path, half, more=True) for half in halves] + [arg(path, "")]
    field = "nullValue" if value is None else "boolValue" if isinstance(value, bool) else "numberValue"
    return [{"jsonPath": path, field: value}]


@given(ARGS, st.lists(st.integers(0, 40), max_size=6))
def test_arguments_in_any_cut_are_the_same(args: dict[str, Any], cuts: list[int]) -> None:
    pieces = partial_args(args, "$")
    edges = [0, *sorted(min(cut, len(pieces)) for cut in cuts), len(pieces)]
    events = [event(piece(name="f"))]
    events += [event(piece(*pieces[a:b])) for a, b in itertools.pairwise(edges)]
    # Half a character can be an escape on the wire, and the joined call is read as JSON again.
    events = [json.loads(json.dumps(each)) for each in [*events, event(END)]]
    assert calls_of(*events)[-1] == [{"name": "f", "args": args}]


# -- halves of characters --------------------------------------------------------------------------------------------


def said(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    halves = Halves()
    told = []
    for each in events:
        halves.see(each)
        mend(each)
        told.append((text_of(each), thoughts_of(each)))
    return told


def text(value: str, **part: Any) -> dict[str, Any]:
    return {"text": value, **part}


def test_an_emoji_in_two_events_is_one() -> None:
    assert said([event(text("hi \ud83d")), event(text("\ude00!"), finish="STOP")]) == [
        ("hi ", ""),
        ("😀!", ""),
    ]
    assert said([event(text("\ud83d", thought=True), text("x")), event(text("\ude00", thought=True))]) == [
        ("x", ""),
        ("", "😀"),
    ]
    assert said([event(text("a\ud83d"), text("\ude00b"))]) == [("a😀b", "")]


def test_half_a_character_that_stays_alone_is_replaced() -> None:
    assert said([event(text("a\ud83d")), event(text("b"))]) == [("a", ""), ("\ufffdb", "")]
    assert said([event(text("a\ud83d"), finish="STOP")]) == [("a\ufffd", "")]
    assert said([event(text("\ude00a"))]) == [("\ufffda", "")]
    assert said([event(text("a\ud83d")), {"candidates": [{"finishReason": "STOP"}]}]) == [
        ("a", ""),
        ("\ufffd", ""),
    ]
    both = [event(text("\ud83d", thought=True), text("\ud83d")), {"candidates": [{"finishReason": "STOP"}]}]
    assert said(both) == [("", ""), ("\ufffd", "\ufffd")]


def test_half_a_character_waits_through_what_says_nothing() -> None:
    events = [event(text("\ud83d")), {"usageMetadata": {}}, event(text("x"), index=1), event(text("\ude00"))]
    assert said(events) == [("", ""), ("", ""), ("", ""), ("😀", "")]


@given(st.text(alphabet="a😀é🎉", max_size=10), st.lists(st.integers(0, 20), max_size=5))
def test_a_text_in_any_cut_is_the_same(whole: str, cuts: list[int]) -> None:
    units = whole.encode("utf-16-le")
    edges = [0, *sorted(2 * min(cut, len(units) // 2) for cut in cuts), len(units)]
    events = [
        event(text(units[a:b].decode("utf-16-le", "surrogatepass"))) for a, b in itertools.pairwise(edges)
    ]
    events[-1]["candidates"][0]["finishReason"] = "STOP"
    assert "".join(told for told, _ in said(events)) == whole
