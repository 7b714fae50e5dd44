"""Building requests: what is refused, where it says so, and what is kept apart."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import sys
import types as pytypes
from decimal import Decimal
from typing import Any

import pydantic
import pytest
from google.genai import types

from gemini_streams.api.body import encode
from gemini_streams.api.generate.request import build_request, with_token
from gemini_streams.errors import InvalidRequestError

SECRET = "the prompt nobody may see"


def part(value: Any) -> dict[str, Any]:
    return {"function_response": {"name": "f", "response": {"value": value}}}


def itself() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["me"] = value
    return value


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@dataclasses.dataclass
class Foreign:
    text: str = SECRET


def function(city: str) -> str:
    """Tell the weather."""
    return city


VALUE = "contents.function_response.response.value"

BAD_CONTENTS: list[tuple[Any, str, str]] = [
    (None, "contents", "empty"),
    ([], "contents", "empty"),
    ((), "contents", "empty"),
    ("", "contents", "say nothing"),
    (["", {"text": ""}], "contents", "say nothing"),
    ([[]], "contents", "say nothing"),
    ({"role": "user", "parts": []}, "contents", "say nothing"),
    ({"role": "user"}, "contents", "say nothing"),
    ({}, "contents", "is empty"),
    (["a", {}], "contents[1]", "is empty"),
    ({"text": None}, "contents", "is empty"),
    (5, "contents", "of type int"),
    (["a", None], "contents[1]", "of type NoneType"),
    ([SECRET, 5], "contents[1]", "of type int"),
    ([SECRET, Foreign()], "contents[1]", "of type Foreign"),
    ([[SECRET, 5.0]], "contents[0][1]", "of type float"),
    ({SECRET}, "contents", "of type set"),
    (iter([SECRET]), "contents", "list_iterator"),
    (b"\x89PNG", "contents", "inline_data"),
    ([SECRET, bytearray(b"x")], "contents[1]", "mime_type"),
    ({"foo": SECRET}, "contents", "neither a part nor a content"),
    ([{"role": "user", "content": SECRET}], "contents[0]", "has a role but no parts"),
    ([{"role": "user", "text": SECRET}], "contents[0]", "has a role but no parts"),
    ({"role": "user", "parts": SECRET}, "contents.parts", "must be a list"),
    ({"role": "user", "parts": {"text": SECRET}}, "contents.parts", "must be a list"),
    ({"role": 3, "parts": [{"text": SECRET}]}, "contents.role", "must be"),
    (["a", {"role": "user", "parts": [{"text": SECRET}, 7]}], "contents[1].parts[1]", "of type int"),
    ({"parts": [{"parts": [{"text": SECRET}]}]}, "contents.parts[0]", "a part is wanted"),
    ([[{"role": "user", "parts": [{"text": SECRET}]}]], "contents[0][0]", "a part is wanted"),
    ({"text": 5}, "contents.text", "must be a string"),
    ({"text": [SECRET]}, "contents.text", "must be a string"),
    ({"inline_data": b"x"}, "contents.inline_data", "must be a dict"),
    ({"functionCall": [1]}, "contents.function_call", "must be a dict"),
    (types.File(name="files/a"), "contents", "upload it first"),
    ({"uri": "https://x"}, "contents", "upload it first"),
    ({1: "x"}, "contents", "keys are strings"),
    ({"inline_data": {}, "inlineData": {}}, "contents.inlineData", "given twice"),
    ("a\ud800" + SECRET, "contents", "surrogate"),
    # data that JSON does not have
    (part(float("nan")), VALUE, "nan"),
    (part(float("-inf")), VALUE, "-inf"),
    (part({1, 2}), VALUE, "of type set"),
    (part(object()), VALUE, "of type object"),
    (part(Decimal(1)), VALUE, "of type Decimal"),
    (part(1j), VALUE, "of type complex"),
    (part(Foreign), VALUE, "of type type"),
    (part(Foreign()), VALUE, "of type Foreign"),
    (part([1, {"x": {3}}]), VALUE + "[1].x", "of type set"),
    (part({2: SECRET}), VALUE, "keys are strings"),
    (part({"a": {b"k": 1}}), VALUE + ".a", "keys are strings"),
    (part({SECRET: {1}}), VALUE + ".[...]", "of type set"),
    (part({"\ud800": 1}), VALUE, "surrogate"),
    (part(["\udfff"]), VALUE + "[0]", "surrogate"),
    (part(itself()), (VALUE + ".me" * 20)[:80], "nested deeper"),
    (part(deep(200)), (VALUE + "[0]" * 20)[:80], "nested deeper"),
    (deep(200), "contents[0][0]", "of type list"),
]


@pytest.mark.parametrize(("contents", "at", "says"), BAD_CONTENTS)
def test_contents_that_cannot_be_sent(contents: Any, at: str, says: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        build_request(contents)
    message = str(caught.value)
    assert re.match(re.escape(at) + r"[.]{0,3} \w", message), message
    assert says in message
    assert SECRET not in message
    assert len(message) < 600


BAD_CONFIGS: list[tuple[Any, str, str]] = [
    ("temperature", "config", "must be a dict"),
    (5, "config", "must be a dict"),
    ([], "config", "must be a dict"),
    ({1: 2}, "config", "keys are strings"),
    ({"top_p": 1, "topP": 1}, "config.topP", "given twice"),
    ({"http_options": {"timeout": 5}}, "config.http_options", "Gemini("),
    ({"httpOptions": {"timeout": 5}}, "config.http_options", "first_event_timeout"),
    (
        types.GenerateContentConfig(http_options=types.HttpOptions(timeout=1)),
        "config.http_options",
        "Gemini(",
    ),
    ({"should_return_http_response": True}, "config.should_return_http_response", "StreamEvent"),
    ({"generation_config": {"temperature": 1}}, "config.generation_config", "flat"),
    ({"contents": "x"}, "config.contents", "StartStream"),
    ({"model": "x"}, "config.model", "StartStream"),
    ({"automatic_continuation": "no"}, "config.automatic_continuation", "True or False"),
    ({"automatic_continuation": 0}, "config.automatic_continuation", "True or False"),
    ({"automatic_continuation": 0.5}, "config.automatic_continuation", "True or False"),
    ({"automatic_function_calling": {"disable": False}}, "config.automatic_function_calling", "disable"),
    (
        {"automatic_function_calling": {"maximum_remote_calls": 3}},
        "config.automatic_function_calling",
        "declare",
    ),
    ({"automatic_function_calling": True}, "config.automatic_function_calling", "disable"),
    ({"tools": [function]}, "config.tools[0]", "function_declarations"),
    ({"tools": [{"google_search": {}}, function]}, "config.tools[1]", "is a function"),
    ({"tools": [lambda: 1]}, "config.tools[0]", "is a function"),
    ({"tools": [str.upper]}, "config.tools[0]", "is a function"),
    (
        {"tools": [{"function_declarations": [function]}]},
        "config.tools[0].function_declarations[0]",
        "is a function",
    ),
    (types.GenerateContentConfig(tools=[function]), "config.tools[0]", "is a function"),
    ({"tools": function}, "config.tools", "must be a list"),
    ({"tools": [5]}, "config.tools[0]", "cannot be sent"),
    ({"tools": [None]}, "config.tools[0]", "cannot be sent"),
    ({"tools": [{"name": "mcp", "inputSchema": {}}]}, "config.tools[0]", "cannot be sent"),
    ({"response_schema": "object"}, "config.response_schema", "must be a schema"),
    ({"response_schema": 5}, "config.response_schema", "must be a schema"),
    ({"response_schema": pytypes.SimpleNamespace}, "config.response_schema", "response_json_schema"),
    ({"response_schema": {"$ref": "#/$defs/A"}}, "config.response_schema", "$defs"),
    ({"response_json_schema": {"a": {1}}}, "config.response_json_schema.a", "of type set"),
    ({"system_instruction": 5}, "config.system_instruction", "of type int"),
    ({"system_instruction": ["a", 5]}, "config.system_instruction[1]", "of type int"),
    ({"labels": {"a": object()}}, "config.labels.a", "of type object"),
    ({"temperature": float("nan")}, "config.temperature", "nan"),
    ({"stop_sequences": {"a"}}, "config.stop_sequences", "of type set"),
    ({"unknown_field": object()}, "config.unknown_field", "of type object"),
]


@pytest.mark.parametrize(("config", "at", "says"), BAD_CONFIGS)
def test_configs_that_cannot_be_sent(config: Any, at: str, says: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        build_request("x", config)
    message = str(caught.value)
    assert message.startswith(at + " "), message
    assert says in message
    assert len(message) < 600


def test_references_that_multiply_are_refused_in_time() -> None:
    defs = {f"D{n}": {"anyOf": [{"$ref": f"#/$defs/D{n + 1}"}] * 4} for n in range(60)} | {
        "D60": {"type": "string"}
    }
    with pytest.raises(InvalidRequestError, match="references"):
        build_request("x", {"response_schema": {"$ref": "#/$defs/D0", "$defs": defs}})


def test_unknown_fields_are_the_apis_to_refuse() -> None:
    config = {"some_new_field": {"inner_field": [{"a_b": 1}]}, "temperature": 1}
    assert build_request("x", config).body["generationConfig"] == {
        "someNewField": {"innerField": [{"aB": 1}]},
        "temperature": 1,
    }
    assert build_request({"text": "x", "newKind": {"a_b": 1}}).body["contents"][0]["parts"] == [
        {"text": "x", "newKind": {"aB": 1}}
    ]


def test_keys_that_are_data_stay() -> None:
    value = {"snake_key": {"inner_key": None, "camelKey": 1}, "$ref": "x", "": 0}
    body = build_request(
        [
            {"function_call": {"name": "f", "args": value}},
            {"function_response": {"name": "f", "response": value}},
        ],
        {
            "labels": {"my_label": "x"},
            "response_json_schema": value,
            "tools": [
                {
                    "function_declarations": [
                        {
                            "name": "f",
                            "parameters_json_schema": value,
                            "response": {"type": "object", "properties": {"my_key": {"min_items": 1}}},
                        }
                    ]
                }
            ],
        },
    ).body
    assert body["contents"][0]["parts"][0]["functionCall"]["args"] == value
    assert body["contents"][1]["parts"][0]["functionResponse"]["response"] == value
    assert body["labels"] == {"my_label": "x"}
    assert body["generationConfig"]["responseJsonSchema"] == value
    declaration = body["tools"][0]["functionDeclarations"][0]
    assert declaration["parametersJsonSchema"] == value
    assert declaration["response"] == {"type": "OBJECT", "properties": {"my_key": {"minItems": 1}}}


def test_fields_that_are_null_are_left_out() -> None:
    body = build_request(
        {"text": "x", "inline_data": None},
        {"temperature": None, "http_options": None, "thinking_config": {"thinking_budget": None}},
    ).body
    assert body["contents"][0]["parts"] == [{"text": "x"}]
    assert body["generationConfig"] == {"thinkingConfig": {}}


def test_the_switch_for_continuation_is_not_sent() -> None:
    for key in ("automatic_continuation", "automaticContinuation"):
        built = build_request("x", {key: False, "seed": 1})
        assert built.automatic_continuation is False
        assert built.body["generationConfig"] == {"seed": 1}
    assert (
        build_request("x", types.GenerateContentConfig(automatic_continuation=False)).automatic_continuation
        is False
    )
    assert build_request("x").automatic_continuation is True
    assert build_request("x", {"automatic_continuation": None}).automatic_continuation is True


def test_a_token_goes_beside_the_contents() -> None:
    body = build_request("x", {"seed": 1}).body
    assert json.loads(b"".join(with_token(encode(body), "dG9r"))) == {**body, "continuationToken": "dG9r"}
    assert "continuationToken" not in body


def test_the_body_shares_nothing_with_what_it_was_made_from() -> None:
    args = {"list": [1]}
    turn = {"role": "user", "parts": [{"function_call": {"name": "f", "args": args}}]}
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}}
    config = {"response_schema": schema, "stop_sequences": ["a"]}
    body = build_request([turn], config).body
    sent = encode(body)
    args["list"].append(2)
    turn["parts"] = []
    schema["properties"]["b"] = {}
    config["stop_sequences"] = []
    assert encode(body) == sent


def test_a_models_turn_goes_back_as_it_came() -> None:
    turn = {
        "role": "model",
        "parts": [
            {"text": "thinking", "thought": True},
            {"functionCall": {"name": "f", "args": {"a_b": 1}}, "thoughtSignature": "YWJj"},
        ],
    }
    assert build_request(["hi", turn]).body["contents"][1] == turn


def test_subclasses_and_foreign_containers_become_plain_json() -> None:
    class Name(str):
        __slots__ = ()

    class Model(pydantic.BaseModel):
        a_b: int = 1
        none: None = None

    body = build_request(
        part(
            {
                "name": Name("n"),
                "frozen": pytypes.MappingProxyType({"a": (1, 2)}),
                "model": Model(),
                "b": b"\xff",
            }
        )
    ).body
    response = body["contents"][0]["parts"][0]["functionResponse"]["response"]["value"]
    assert response == {"name": "n", "frozen": {"a": [1, 2]}, "model": {"a_b": 1}, "b": "_w=="}
    assert json.loads(b"".join(encode(body))) == body


def test_objects_that_refuse_to_be_json() -> None:
    class Stubborn(pydantic.BaseModel):
        @pydantic.model_serializer
        def dump(self) -> dict[str, Any]:
            raise RuntimeError(SECRET)

        @classmethod
        def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
            raise RuntimeError(SECRET)

    for contents, config in ((part(Stubborn()), None), ("x", {"response_schema": Stubborn})):
        with pytest.raises(InvalidRequestError) as caught:
            build_request(contents, config)
        assert SECRET not in str(caught.value)


def test_large_integers_are_kept() -> None:
    body = build_request(part(2**80)).body
    assert json.loads(b"".join(encode(body))) == body


def test_a_built_request_does_not_print_its_body() -> None:
    assert SECRET not in repr(build_request(SECRET))


def _at(frames: int, call: Any) -> Any:
    return call() if frames == 0 else _at(frames - 1, call)


def test_what_is_deeper_than_the_stack_is_an_invalid_request() -> None:
    links = {
        f"d{n}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}}} for n in range(900)
    }
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": links | {"d900": {}}}
    with pytest.raises(InvalidRequestError, match="nested deeper"):
        build_request("hi", {"response_schema": schema})
    args: Any = 1
    for _ in range(90):
        args = {"a": args}
    call = [{"function_call": {"name": "f", "args": args}}]
    build_request(call)
    # From Python 3.12 on the recursion of C functions is counted apart, and so deep in the stack it is still built.
    refused = pytest.raises(InvalidRequestError, match="nested deeper")
    with refused if sys.version_info < (3, 12) else contextlib.nullcontext():
        _at(sys.getrecursionlimit() - 150, lambda: build_request(call))
