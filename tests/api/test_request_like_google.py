"""The body of a request is google-genai's own for the same input.

google-genai's is caught on a real HTTP server that its real client talks to. It spells the names of fields partly in
snake_case and partly in camelCase, which the API reads alike; here they are camelCase throughout, so that
its body is compared after its field names were turned to camelCase. Nothing else is touched.
"""

from __future__ import annotations

import copy
import datetime as dt
import enum
import http.server
import io
import json
import re
import threading
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pydantic
import pytest
from google import genai
from google.genai import types
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemini_streams.api.body import encode
from gemini_streams.api.generate.request import build_request

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

Google = Callable[..., dict[str, Any]]

REPLY = b'data: {"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP"}]}\n\n'


@pytest.fixture(scope="module")
def google() -> Iterator[Google]:
    """google-genai's body for some contents and config."""
    caught: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or the body waits for the acknowledgement of its headers, 40 ms

        def log_message(self, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            caught.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Content-Length", str(len(REPLY)))
            self.end_headers()
            self.wfile.write(REPLY)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    client = genai.Client(api_key="not-a-key", http_options=types.HttpOptions(base_url=url))

    def body(contents: Any, config: Any = None) -> dict[str, Any]:
        caught.clear()
        for _ in client.models.generate_content_stream(model="gemini-x", contents=contents, config=config):
            pass
        found: dict[str, Any] = caught[0]
        return found

    yield body
    client.close()
    server.shutdown()
    server.server_close()
    thread.join()


DATA = {
    "args",
    "default",
    "example",
    "labels",
    "part_metadata",
    "partMetadata",
    "parameters_json_schema",
    "response_json_schema",
    "responseJsonSchema",
}


def camel(value: Any, path: tuple[str, ...] = ()) -> Any:
    """google-genai's body with the names of its fields in camelCase, data left alone."""
    if isinstance(value, list):
        return [camel(item, path) for item in value]
    if not isinstance(value, dict) or (path and path[-1] in DATA):
        return value
    if path[-1:] == ("response",) and path[-2] in ("functionResponse", "toolResponse", "tool_response"):
        return value
    named = path[-1:] == ("properties",)
    return {
        key if named else re.sub("_([a-z])", lambda m: m[1].upper(), key): camel(item, (*path, key))
        for key, item in value.items()
    }


Part = types.Part
RAW = bytes(range(256))
PNG = io.BytesIO()
PIL.Image.new("RGB", (3, 2), (200, 10, 30)).save(PNG, "PNG")
JPEG = io.BytesIO()
PIL.Image.new("RGB", (8, 8), (1, 2, 3)).save(JPEG, "JPEG")
PHOTO = PIL.Image.open(JPEG)
FILE = types.File(name="files/a", uri="https://x.test/files/a", mime_type="application/pdf", size_bytes=3)
CALL = types.FunctionCall(id="1", name="f", args={"a_b": {"c_d": [1, None, {"e_f": None}]}})
DECLARATION: dict[str, Any] = {
    "name": "f",
    "description": "d",
    "parameters": {"type": "OBJECT", "properties": {"my_key": {"type": "string", "max_length": 3}}},
}
JSON_DECLARATION: dict[str, Any] = {
    "name": "g",
    "parameters_json_schema": {
        "type": "object",
        "properties": {"my_key": {"default": None, "max_length": 1}},
    },
}


def add_numbers(one: int, two: int) -> int:
    return one + two


CONTENTS: list[Any] = [
    "Why is the sky blue?",
    "ümlaut \U0001f600 \u2028 \x00",
    ["one"],
    ["one", "two", "three"],
    ("one", "two"),
    ["", "two"],
    [["one", "two"], "three"],
    ["one", ["two", {"function_call": {"name": "f"}}], "three"],
    # parts
    {"text": "x"},
    [{"text": "x"}, "y", {"text": "z", "thought": True}],
    Part(text="x"),
    Part.from_text(text="x"),
    [Part(text="x"), "y"],
    [Part.from_bytes(data=RAW, mime_type="image/png"), "what is this?"],
    {"inline_data": {"data": RAW, "mime_type": "image/png"}},
    {"inlineData": {"data": RAW, "mimeType": "image/png", "displayName": "n"}},
    {"inlineData": {"data": "/+8=", "mimeType": "image/png"}},
    [{"inlineData": {"data": "_-8", "mimeType": "image/png"}}],
    Part.from_uri(file_uri="gs://b/x.jpg", mime_type="image/jpeg"),
    {"file_data": {"file_uri": "gs://b/x.jpg", "mime_type": "image/jpeg"}},
    {"fileData": {"fileUri": "gs://b/x.jpg", "mimeType": "image/jpeg", "displayName": "n"}},
    Part(text="x", thought_signature=RAW),
    {"text": "x", "thoughtSignature": "+/+/"},
    {"text": "x", "thought_signature": b"\xff\xfe"},
    {"text": "x", "video_metadata": {"start_offset": "1s", "end_offset": "2s", "fps": 1.5}},
    {"text": None, "inline_data": {"data": b"1", "mime_type": "a/b"}},
    {"part_metadata": {"a_b": {"c_d": None}}, "text": "t"},
    {"text": "x", "media_resolution": {"level": "MEDIA_RESOLUTION_LOW"}},
    Part.from_executable_code(code="print(1)", language=types.Language.PYTHON),
    [Part.from_code_execution_result(outcome=types.Outcome.OUTCOME_OK, output="1")],
    {"tool_call": {"tool_type": "GOOGLE_SEARCH_WEB", "args": {"a_b": 1}}},
    # files
    FILE,
    [FILE, "sum it up"],
    ["sum it up", FILE, ["and", FILE]],
    {"uri": "https://x.test/files/a", "mime_type": "a/b", "name": "files/a"},
    [{"uri": "https://x.test/files/a", "mimeType": "a/b"}, "x"],
    # pictures
    PIL.Image.open(PNG),
    ["x", PIL.Image.new("L", (2, 2))],
    [PHOTO],
    # function calls and responses
    Part(function_call=CALL),
    [Part(function_call=CALL), Part(function_call=CALL), "text"],
    ["u", Part(function_call=CALL), "v", "w", Part(function_call=CALL)],
    Part.from_function_call(name="f", args={"a": 1}),
    Part.from_function_response(name="f", response={"r_x": [{"y_z": None}]}),
    {"function_call": {"name": "f", "args": {"a_b": None}}},
    {"functionCall": {"name": "f", "args": {"a_b": None, "aB": 1}, "id": "7"}},
    [{"function_call": {"name": "f"}}, {"function_response": {"name": "f", "response": {"a_b": 1}}}],
    {
        "function_response": {
            "name": "f",
            "response": {"out": 1},
            "scheduling": "SILENT",
            "will_continue": True,
        }
    },
    {
        "function_response": {
            "name": "f",
            "response": {},
            "parts": [{"inline_data": {"mime_type": "a/b", "data": RAW, "display_name": "d"}}],
        }
    },
    [{"function_call": {"name": "f", "args": {"at": dt.datetime(2020, 1, 2, 3, 4, 5, tzinfo=dt.UTC)}}}],
    # contents
    {"parts": [{"text": "x"}]},
    {"role": "model", "parts": [{"text": "x"}, {"text": "y"}]},
    types.Content(role="user", parts=[Part(text="a"), Part.from_uri(file_uri="gs://x", mime_type="a/b")]),
    types.Content(parts=[Part(text="a")]),
    types.UserContent([Part(text="a"), Part(text="b")]),
    types.ModelContent("m"),
    [types.UserContent("u"), types.ModelContent("m"), types.UserContent("v")],
    [{"role": "user", "parts": [{"text": "u"}]}, {"role": "model", "parts": [{"text": "m"}]}, "v", "w"],
    ["u", types.ModelContent("m"), "v", {"role": "model", "parts": [Part(function_call=CALL)]}, "w"],
    [{"role": "model", "parts": [Part(text="x")]}, {"role": "user", "parts": [{"text": "y"}]}],
    [{"role": "model", "parts": []}, "x"],
    [{"role": "model"}, "x"],
]


@pytest.mark.parametrize("contents", CONTENTS, ids=lambda c: re.sub(r"\s+", " ", repr(c))[:50])
def test_contents(google: Google, contents: Any) -> None:
    assert build_request(contents).body == camel(google(contents))


def test_a_photo_from_a_file(google: Google, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    PIL.Image.new("RGB", (8, 8), (1, 2, 3)).save(path, "JPEG", quality=30)
    with PIL.Image.open(path) as photo:
        body = build_request(["what is this?", photo]).body
        assert body["contents"][0]["parts"][1]["inlineData"]["mimeType"] == "image/jpeg"
        assert body == camel(google(["what is this?", photo]))


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Inner(pydantic.BaseModel):
    a_b: int | None = None
    lit: typing.Literal["x"]


class Recipe(pydantic.BaseModel):
    """A recipe."""

    name: str
    inner: list[Inner]
    colour: Colour
    other: Inner | None = pydantic.Field(default=None, description="another")
    either: str | int


class Node(pydantic.BaseModel):
    value: int
    children: list["Node"]  # noqa: UP037 - a cycle


Schema = types.Schema
Type = types.Type
HARASSMENT = types.SafetySetting(
    category=types.HarmCategory.HARM_CATEGORY_HARASSMENT,
    threshold=types.HarmBlockThreshold.BLOCK_NONE,
)
CONFIGS: list[Any] = [
    {},
    {"temperature": 0.5},
    {"temperature": 0, "topP": 0.25, "top_k": 40, "max_output_tokens": 100, "seed": 7, "candidate_count": 1},
    {"stop_sequences": ["a", "b_c"], "response_logprobs": True, "logprobs": 3},
    {"presence_penalty": 0.5, "frequencyPenalty": -0.5, "temperature": None},
    {"system_instruction": "Be brief."},
    {"systemInstruction": ["Be brief.", "Be kind."]},
    {"system_instruction": {"parts": [{"text": "Be brief."}]}},
    {"system_instruction": {"text": "Be brief."}},
    {"system_instruction": types.Content(role="system", parts=[Part(text="x")])},
    {"system_instruction": Part(text="x")},
    {"safety_settings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]},
    {
        "safety_settings": [
            types.SafetySetting(
                category=types.HarmCategory.HARM_CATEGORY_HATE_SPEECH,
                threshold=types.HarmBlockThreshold.OFF,
            )
        ]
    },
    {"tools": [{"google_search": {}}, {"codeExecution": {}}, {"url_context": {}}]},
    {"tools": [types.Tool(google_search=types.GoogleSearch())]},
    {"tools": [{"function_declarations": [DECLARATION]}]},
    {"tools": [{"function_declarations": [DECLARATION]}, {"function_declarations": [JSON_DECLARATION]}]},
    {"tools": [{"function_declarations": [DECLARATION], "google_search": {}}, {"code_execution": {}}]},
    {"tools": [{"functionDeclarations": [{"name": "f", "parametersJsonSchema": {"type": "object"}}]}]},
    {"tools": [types.Tool(function_declarations=[types.FunctionDeclaration.model_validate(DECLARATION)])]},
    {
        "tools": [
            types.Tool(
                function_declarations=[
                    types.FunctionDeclaration(
                        name="f",
                        behavior=types.Behavior.NON_BLOCKING,
                        parameters=Schema(type=Type.OBJECT, properties={"my_key": Schema(type=Type.INTEGER)}),
                        response=Schema(type=Type.STRING, enum=["a_b"], default="a_b"),
                    )
                ]
            )
        ]
    },
    {
        "tools": [
            {"google_maps": {"enable_widget": True}},
            {"file_search": {"file_search_store_names": ["a_b"]}},
        ]
    },
    {"tools": []},
    {"tools": [{}, {"google_search": {}}]},
    {
        "tools": [
            {
                "mcp_servers": [
                    {"name": "n", "streamable_http_transport": {"url": "https://x", "headers": {"a": "b"}}}
                ]
            }
        ]
    },
    {"tool_config": {"function_calling_config": {"mode": "ANY", "allowed_function_names": ["f_g"]}}},
    {
        "toolConfig": {
            "retrievalConfig": {"latLng": {"latitude": 1.5, "longitude": 2.5}, "languageCode": "de"}
        }
    },
    {
        "tool_config": types.ToolConfig(
            function_calling_config=types.FunctionCallingConfig(mode=types.FunctionCallingConfigMode.AUTO)
        )
    },
    {"cached_content": "cachedContents/abc"},
    {"cached_content": "abc"},
    {"labels": {"a_b": "c", "dE": "f"}},
    {"labels": {}},
    {"response_mime_type": "application/json", "response_schema": {"type": "OBJECT", "properties": {}}},
    {
        "response_schema": {
            "type": "object",
            "properties": {"a_b": {"type": "string"}, "c": {"type": "integer"}},
        }
    },
    {
        "response_schema": {
            "type": "object",
            "properties": {"x": {"$ref": "#/$defs/A"}},
            "$defs": {"A": {"type": "string"}},
        }
    },
    {
        "response_schema": {
            "type": "array",
            "items": {"any_of": [{"type": "null"}, {"type": "string"}]},
            "minItems": 2,
        }
    },
    {"response_schema": {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]}},
    {"response_schema": {"type": "STRING", "enum": ["a_b", "c"], "title": "T", "example": {"a_b": None}}},
    {"response_schema": {"type": "string", "const": "x"}},
    {"responseSchema": {"type": "STRING"}},
    {
        "response_schema": Schema(
            type=Type.OBJECT, properties={"a_b": Schema(type=Type.STRING), "c": Schema(type=Type.STRING)}
        )
    },
    {"response_schema": Recipe},
    {"response_schema": Inner},
    {"response_schema": Node},
    {"response_schema": Colour},
    {
        "response_json_schema": {
            "type": "object",
            "properties": {"a_b": {"type": "null"}, "d": {"default": None}},
        }
    },
    {"response_modalities": ["TEXT", "AUDIO"]},
    {"media_resolution": "MEDIA_RESOLUTION_LOW"},
    {"media_resolution": types.MediaResolution.MEDIA_RESOLUTION_HIGH},
    {"speech_config": "Kore"},
    {"speechConfig": {"languageCode": "de", "voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore"}}}},
    {
        "speech_config": types.SpeechConfig(
            multi_speaker_voice_config=types.MultiSpeakerVoiceConfig(
                speaker_voice_configs=[
                    types.SpeakerVoiceConfig(
                        speaker="A",
                        voice_config=types.VoiceConfig(
                            prebuilt_voice_config=types.PrebuiltVoiceConfig(voice_name="Kore")
                        ),
                    )
                ]
            )
        )
    },
    {"thinking_config": {"include_thoughts": True, "thinking_budget": 0}},
    {"thinkingConfig": types.ThinkingConfig(thinking_level=types.ThinkingLevel.LOW)},
    {"image_config": {"aspect_ratio": "1:1", "image_size": "2K"}},
    {"enable_enhanced_civic_answers": True, "audio_transcription_config": {}},
    {"service_tier": "flex", "store": False},
    {"automatic_continuation": False, "temperature": 1},
    {"automatic_continuation": True},
    {"continuation_token": b"\xff\xfe"},
    {"automatic_function_calling": {"disable": True}},
    types.GenerateContentConfig(),
    types.GenerateContentConfig(
        temperature=0.5,
        system_instruction=["a", Part(text="b")],
        tools=[types.Tool(code_execution=types.ToolCodeExecution())],
        response_schema=Recipe,
        response_mime_type="application/json",
        thinking_config=types.ThinkingConfig(thinking_budget=1),
        labels={"a_b": "c"},
        automatic_continuation=False,
    ),
    types.GenerateContentConfig(
        response_schema=Schema(type=types.Type.ARRAY, items=Schema(type=types.Type.STRING), max_items=3),
        safety_settings=[HARASSMENT],
        tool_config=types.ToolConfig(include_server_side_tool_invocations=True),
    ),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: re.sub(r"\s+", " ", repr(c))[:60])
def test_config(google: Google, config: Any) -> None:
    before = copy.deepcopy(config)
    ours = build_request("x", config).body
    assert config == before
    assert ours == camel(google("x", config))


def test_python_types_as_schemas(google: Google) -> None:
    """google-genai names the schema of a bare type after a class of its own; that name is not copied."""
    for schema in (list[Recipe], list[str], str, int | None, typing.Literal["a", "b"]):
        config = {"response_schema": schema}
        theirs = camel(google("x", config))
        if theirs["generationConfig"]["responseSchema"].get("title") == "Placeholder":
            del theirs["generationConfig"]["responseSchema"]["title"]
        assert build_request("x", config).body == theirs


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
leaf = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
)
json_values = st.recursive(
    leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=6
)
data = st.dictionaries(text, json_values, max_size=3)
calls = st.builds(lambda args: {"function_call": {"name": "f", "args": args}}, data)
responses = st.builds(lambda r: {"functionResponse": {"name": "f", "response": r}}, data)
blobs = st.builds(lambda b: {"inline_data": {"data": b, "mime_type": "a/b"}}, st.binary(max_size=20))
part_dicts = st.one_of(st.builds(lambda t: {"text": t}, text), calls, responses, blobs)
turns = st.builds(
    lambda role, parts: {"role": role, "parts": parts},
    st.sampled_from(["user", "model"]),
    st.lists(part_dicts, min_size=1, max_size=3),
)
part_objects = st.builds(Part.model_validate, part_dicts) | st.just(FILE)
turn_objects = st.builds(types.Content.model_validate, turns)


def contents_of(parts: st.SearchStrategy[Any], turns: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    items = text | parts | turns | st.lists(text | parts, min_size=1, max_size=3)
    return text | parts | turns | st.lists(items, min_size=1, max_size=5)


# google-genai fails over some lists in which dicts stand beside objects of its own.
contents = contents_of(part_dicts, turns) | contents_of(part_objects, turn_objects)
configs = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 2),
        "topK": st.integers(1, 100),
        "stop_sequences": st.lists(text, max_size=2),
        "labels": st.dictionaries(text, text, max_size=2),
        "system_instruction": text | st.lists(text, min_size=1, max_size=2) | turns,
        "response_json_schema": data,
        "thinkingConfig": st.fixed_dictionaries({}, optional={"includeThoughts": st.booleans()}),
        "seed": st.none() | st.integers(0, 1000),
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(contents=contents, config=st.none() | configs)
def test_any_contents_and_config(google: Google, contents: Any, config: Any) -> None:
    body = build_request(contents, config).body
    assert json.loads(b"".join(encode(body))) == body
    assert body == camel(google(contents, config))
