"""The body of `POST /interactions`, from what google-genai's `interactions.create` takes. Pure.

The rules:

- `input` is a string, a content, a list of contents or of steps, as dicts or as google-genai's objects. A list of
  contents is one step of the user's.
- `config` has the other fields. Those of `generation_config` may stand beside them.
- `stream` and `background` are the stream's own business, and what would be lost without a word is refused.
- A value that cannot be sent raises `InvalidRequestError`.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from gemini_streams.api.body import LARGE, Body, Large, base64_large, encode, text_large
from gemini_streams.errors import InvalidRequestError, shown

__all__ = ["request_body"]

_GENERATION = frozenset(
    {
        "image_config",
        "max_output_tokens",
        "seed",
        "speech_config",
        "stop_sequences",
        "temperature",
        "thinking_level",
        "thinking_summaries",
        "tool_choice",
        "top_p",
        "transcription_config",
        "video_config",
    }
)
"""Fields of `generation_config`."""

_STEPS = frozenset({"user_input", "model_output", "thought"})
"""Types of steps, beside calls and results."""

_OWN = {
    "stream": "every interaction is streamed",
    "background": "resumable=True runs it in the background, resumable=False does not",
    "input": "the input is the first argument of StartInteraction",
    "model": "the model is an argument of StartInteraction or of the manager",
    "agent": "the agent is an argument of StartInteraction",
    "store": "store is an argument of StartInteraction",
    "previous_interaction_id": "it is an argument of StartInteraction",
    "continuation_token": "continuation tokens are followed by themselves",
    "http_options": "use Gemini(...) for where and how, idle_timeout and deadline for how long",
    "extra_headers": "use Gemini(headers=)",
    "extra_query": "it cannot be sent",
    "extra_body": "put its fields into the config itself",
    "timeout": "use first_event_timeout, idle_timeout and deadline",
}


def request_body(
    given: Any,
    config: Any = None,
    *,
    model: str | None = None,
    agent: str | None = None,
    previous_interaction_id: Any = None,
    store: bool = True,
    more: Mapping[str, Any] | None = None,
) -> Body:
    """Build a body; `more`: fields that the kind of call needs. Raises `InvalidRequestError`."""
    body: dict[str, Any] = dict(more or {})
    body.update({"model": model} if agent is None else {"agent": agent})
    body["input"] = _input(_json(given, "input"))
    fields = _fields(config)
    generation = fields.pop("generation_config", None) or {}
    for name in [name for name in fields if name in _GENERATION]:
        generation = {**generation, name: fields.pop(name)}
    if generation:
        if agent is not None:
            _refuse(
                "config", f"cannot have {', '.join(sorted(generation))}: agents take no generation_config"
            )
        body["generation_config"] = generation
    body.update(fields)
    if previous_interaction_id is not None:
        if not (isinstance(previous_interaction_id, str) and previous_interaction_id):
            _refuse("previous_interaction_id", "must be the id of an interaction")
        body["previous_interaction_id"] = previous_interaction_id
    body["store"] = store
    return encode(body)


def _input(given: Any) -> Any:
    """Return an input as google-genai sends it: a list of contents is one step of the user's."""
    if not given:
        _refuse("input", "is empty: give a string, contents or steps")
    if isinstance(given, str | Large):
        return given
    if isinstance(given, dict):
        return [given] if _is_step(given) else given
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        _refuse("input", "must be a string, a content, a list of contents or a list of steps")
    steps = [_is_step(item) for item in given]
    if all(steps):
        return given
    if any(steps):
        _refuse(
            "input", "mixes contents and steps: put the contents into {'type': 'user_input', 'content': […]}"
        )
    contents = [item if "type" in item else {"type": "text", **item} for item in given]
    return [{"type": "user_input", "content": contents}]


def _is_step(item: dict[str, Any]) -> bool:
    kind = item.get("type")
    return isinstance(kind, str) and (kind in _STEPS or kind.endswith(("_call", "_result")))


def _fields(config: Any) -> dict[str, Any]:
    fields = {} if config is None else _json(config, "config")
    if not isinstance(fields, dict):
        _refuse("config", f"must be a dict, not {type(config).__name__}")
    for name, instead in _OWN.items():
        if name in fields:
            _refuse(f"config.{name}", f"cannot be used: {instead}")
    return {name: value for name, value in fields.items() if value is not None}


def _json(value: Any, at: str, levels: int = 200) -> Any:
    """Return a value as JSON; pydantic's objects become dicts, bytes base64."""
    if levels <= 0:
        _refuse(at, "is nested too deep")
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return _json(dump(mode="python", by_alias=True, exclude_none=True), at, levels - 1)
    match value:
        case None | bool() | int() | float():
            if isinstance(value, float) and not math.isfinite(value):
                _refuse(at, "is no number that JSON has")
            return value
        case str():
            return _text(value, at)
        case bytes() | bytearray():
            return base64_large(value) if len(value) >= LARGE else base64.urlsafe_b64encode(value).decode()
        case Mapping():
            made = {}
            for name, each in value.items():
                if not isinstance(name, str):
                    _refuse(at, f"has a field whose name is no string: {shown(name)}")
                made[name] = _json(each, f"{at}.{name}", levels - 1)
            return made
        case list() | tuple():
            return [_json(each, f"{at}[{index}]", levels - 1) for index, each in enumerate(value)]
    if isinstance(value, type) or callable(value):
        _refuse(at, "is a class or a function: nothing here calls one; give its JSON schema")
    return _refuse(at, f"cannot be sent: a {type(value).__name__} is no JSON")


def _text(text: str, at: str) -> Any:
    try:
        if len(text) >= LARGE:
            return text_large(text)
        text.encode()
    except UnicodeEncodeError:
        _refuse(at, "holds half a character (a lone surrogate), which cannot be sent")
    return text


def _refuse(at: str, why: str) -> NoReturn:
    raise InvalidRequestError(f"{at} {why}")
