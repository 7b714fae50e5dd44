"""The body of an interaction is google-genai's own for the same input, caught from its real client on loopback."""

from __future__ import annotations

import http.server
import json
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemini_streams import function_result
from gemini_streams.api.interactions.request import request_body
from gemini_streams.errors import InvalidRequestError

genai = pytest.importorskip("google.genai")

MODEL = "gemini-x"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
TEXT = {"type": "text", "text": "Why?"}
IMAGE = {"type": "image", "data": PIXEL, "mime_type": "image/png"}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"type": "function", "name": "look", "description": "Looks.", "parameters": CITY}

CALL = {"type": "function_call", "id": "c1", "name": "look", "arguments": {"city": "Rome"}}

INPUTS: list[Any] = [
    "Why is the sky blue?",
    "ümläut 🌊 \u2028 \x00",
    TEXT,
    [TEXT],
    [TEXT, IMAGE],
    [TEXT, {"type": "image", "uri": "https://example.com/a.png", "mime_type": "image/png"}],
    [{"type": "audio", "data": PIXEL, "mime_type": "audio/wav"}],
    [{"type": "audio", "uri": "gs://bucket/a.wav", "mime_type": "audio/wav"}],
    [{"type": "video", "uri": "https://example.com/v.mp4", "mime_type": "video/mp4"}],
    [{"type": "document", "data": PIXEL, "mime_type": "application/pdf"}],
    [{"type": "document", "uri": "https://example.com/a.pdf", "mime_type": "application/pdf"}],
    [{"type": "image", "data": PIXEL, "mime_type": "image/png", "resolution": "low"}],
    [{"type": "user_input", "content": [TEXT]}],
    [{"type": "user_input", "content": [TEXT, IMAGE]}],
    [
        {"type": "user_input", "content": [TEXT]},
        {"type": "model_output", "content": [{"type": "text", "text": "Because."}]},
        {"type": "user_input", "content": [{"type": "text", "text": "And then?"}]},
    ],
    [{"type": "thought", "signature": "c2ln", "summary": [TEXT]}, {"type": "user_input", "content": [TEXT]}],
    [{"type": "function_result", "call_id": "c1", "name": "look", "result": "17 degrees"}],
    [{"type": "function_result", "call_id": "c1", "name": "look", "result": {"celsius": 17}}],
    [{"type": "function_result", "call_id": "c1", "result": [TEXT]}],
    [{"type": "function_result", "call_id": "c1", "result": "no", "is_error": True}],
    [
        {"type": "function_call", "id": "c1", "name": "look", "arguments": {"city": "Rome"}},
        {"type": "function_result", "call_id": "c1", "name": "look", "result": "17"},
    ],
    [{"type": "text", "text": "x", "annotations": []}],
    [function_result(CALL, "17 degrees")],
    [function_result(CALL, {"celsius": 17}), function_result({**CALL, "id": "c2"}, "no", is_error=True)],
    [function_result(CALL, [TEXT, IMAGE])],
    [function_result(CALL, [1, 2])],
    [function_result(CALL, None)],
]
CONFIGS: list[dict[str, Any]] = [
    {"system_instruction": "Be brief."},
    {"generation_config": {"temperature": 0.5}},
    {"generation_config": {"top_p": 0.5, "seed": 3}},
    {"generation_config": {"max_output_tokens": 100, "stop_sequences": ["END"]}},
    *({"generation_config": {"thinking_level": level}} for level in ("minimal", "low", "medium", "high")),
    {"generation_config": {"thinking_summaries": "auto"}},
    {"generation_config": {"thinking_summaries": "none"}},
    *({"generation_config": {"tool_choice": choice}} for choice in ("auto", "any", "none", "validated")),
    {"generation_config": {"tool_choice": {"allowed_tools": {"mode": "any", "tools": ["look"]}}}},
    {"generation_config": {"speech_config": [{"voice": "Kore", "language": "en-US"}]}},
    {"generation_config": {"image_config": {"aspect_ratio": "16:9", "image_size": "2K"}}},
    {"tools": [FUNCTION]},
    {"tools": [{"type": "google_search"}]},
    {"tools": [{"type": "code_execution"}]},
    {"tools": [{"type": "url_context"}, FUNCTION]},
    {"tools": [{"type": "file_search", "file_search_store_names": ["stores/a"]}]},
    {"tools": [{"type": "mcp_server", "name": "m", "url": "https://example.com/mcp"}]},
    {"tools": [{"type": "computer_use", "environment": "browser"}]},
    {"response_format": {"type": "text", "mime_type": "application/json", "schema": CITY}},
    {"response_format": [{"type": "text"}, {"type": "image"}]},
    {"response_format": {"type": "audio"}},
    {"response_modalities": ["text"]},
    *({"service_tier": tier} for tier in ("flex", "standard", "priority")),
    {"previous_interaction_id": "v1_abc"},
    {"system_instruction": "Be brief.", "tools": [FUNCTION], "generation_config": {"temperature": 0}},
    {"labels": {"team": "tides"}},
    {"webhook_config": {"uris": ["https://example.com/hook"], "user_metadata": {"a": "b"}}},
    {"safety_settings": [{"type": "hate_speech", "threshold": "off", "method": "severity"}]},
    {"cached_content": "cachedContents/1"},
]
AGENTS: list[dict[str, Any]] = [
    {},
    {"agent_config": {"type": "deep-research", "thinking_summaries": "auto"}},
    {"agent_config": {"type": "deep-research", "visualization": "auto"}},
    {"agent_config": {"type": "dynamic"}},
    {"tools": [{"type": "google_search"}]},
    {"system_instruction": "Be brief."},
]

Google = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def google() -> Iterator[Google]:
    """google-genai's body for some arguments of `interactions.create`."""
    caught: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            caught.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            body = b'{"id": "v1_1", "status": "in_progress", "object": "interaction"}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    options = {"base_url": f"http://127.0.0.1:{server.server_port}", "api_version": "v1beta"}
    client = genai.Client(api_key="not-a-key", http_options=options)

    def body(given: Any, **config: Any) -> dict[str, Any]:
        caught.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            client.interactions.create(input=given, background=True, store=True, **config)
        found: dict[str, Any] = caught[0]
        return found

    yield body
    client.close()
    server.shutdown()
    server.server_close()
    thread.join()


def ours(given: Any, config: dict[str, Any] | None = None, **named: Any) -> dict[str, Any]:
    body = request_body(given, config, more={"background": True}, **named)
    found: dict[str, Any] = json.loads(b"".join(body))
    return found


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for body in (one, other):
        if body.get("stream") is False:
            del body["stream"]  # what is left out means the same
    assert one == other


@pytest.mark.parametrize("given", INPUTS, ids=range(len(INPUTS)))
def test_inputs(google: Google, given: Any) -> None:
    same(ours(given, model=MODEL), google(given, model=MODEL))


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_configs(google: Google, config: dict[str, Any]) -> None:
    mine = dict(config)
    previous = mine.pop("previous_interaction_id", None)
    same(
        ours("Why?", mine, model=MODEL, previous_interaction_id=previous),
        google("Why?", model=MODEL, **config),
    )


@pytest.mark.parametrize("config", AGENTS, ids=range(len(AGENTS)))
def test_agents(google: Google, config: dict[str, Any]) -> None:
    agent = "deep-research-pro-preview"
    same(ours("Why?", config, model=MODEL, agent=agent), google("Why?", agent=agent, **config))


def test_generation_options_may_stand_beside_each_other() -> None:
    flat = ours(
        "Why?", {"temperature": 0.5, "generation_config": {"seed": 3}, "labels": {"a": "b"}}, model=MODEL
    )
    assert flat["generation_config"] == {"temperature": 0.5, "seed": 3}
    assert flat["labels"] == {"a": "b"}


def test_pictures_are_sent_in_pieces() -> None:
    data = bytes(range(256)) * 8_000
    body = request_body([{"type": "image", "data": data, "mime_type": "image/png"}], model=MODEL)
    assert len(body) > 5
    assert max(map(len, body)) <= 1 << 20


def test_a_result_is_what_the_service_takes() -> None:
    step = {"type": "function_result", "call_id": "c1", "name": "look"}
    for taken in ("17", "", {"celsius": 17}, {}, [TEXT], [TEXT, IMAGE]):
        assert function_result(CALL, taken) == {**step, "result": taken}
    for other in (17, 1.5, True, None, [], [1, "a"], [{"celsius": 17}], [TEXT, 7]):
        assert function_result(CALL, other) == {**step, "result": {"result": other}}
    assert function_result(CALL, "no", is_error=True) == {**step, "result": "no", "is_error": True}


def test_a_result_may_be_an_object_of_google_genais() -> None:
    types = pytest.importorskip("google.genai.interactions")
    text = types.TextContent(text="17")
    assert ours([function_result(CALL, [text])], model=MODEL)["input"] == [
        {
            "type": "function_result",
            "call_id": "c1",
            "name": "look",
            "result": [{"type": "text", "text": "17"}],
        }
    ]


@pytest.mark.parametrize(
    "call", [{"name": "look", "args": {}}, {"type": "function_call", "id": ""}, {"type": "text"}, None, "c1"]
)
def test_what_is_no_call_has_no_result(call: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"Answer\.function_calls"):
        function_result(call, "17")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=100)
@given(JSON)
def test_any_json_is_sent_as_it_is(value: Any) -> None:
    assert ours([{"type": "function_result", "call_id": "c", "result": value}], model=MODEL)["input"] == [
        {"type": "function_result", "call_id": "c", "result": value}
    ]


@pytest.mark.parametrize(
    ("given", "config"),
    [
        ("", None),
        ([], None),
        (["Why?"], None),
        (7, None),
        ([TEXT, {"type": "function_result", "call_id": "c1", "result": "x"}], None),
        (object(), None),
        ("\ud800", None),
        ({"type": "text", 1: 2}, None),
        ([float("nan")], None),
        ("Why?", "brief"),
        ("Why?", {"tools": [print]}),
        ("Why?", {"stream": False}),
        ("Why?", {"http_options": {}}),
    ],
)
def test_what_cannot_be_sent_is_refused(given: Any, config: Any) -> None:
    with pytest.raises(InvalidRequestError):
        request_body(given, config, model=MODEL)
