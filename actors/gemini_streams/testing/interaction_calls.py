"""The server's side of the Interactions API: its addresses, and what it says to a request. Pure.

The rules:

- `call_of` reads a request's method and address; `None` where they are not of this API.
- `refused` is what the API says to the body of a POST, as far as that is known: unknown fields, both or neither of
  `model` and `agent`, a missing input, options that exclude each other.
- `text_of` is what a script's patterns are matched against.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec

from gemini_streams.testing.records import Action
from gemini_streams.testing.replies import Failure

__all__ = ["Call", "call_of", "calls_answered", "no_such", "place_of", "refused", "text_of"]

_ADDRESS = re.compile(
    r"/(?:v1|v1alpha|v1beta|v1beta1/projects/[^/]+/locations/[^/]+)/interactions(?:/([^/]+)(/cancel)?)?"
)
_PLACE = re.compile(r"/v[^/]+/projects/([^/]+)/locations/([^/]+)/")
_FIELDS = frozenset(
    {
        "model",
        "agent",
        "input",
        "stream",
        "store",
        "background",
        "previous_interaction_id",
        "continuation_token",
        "system_instruction",
        "generation_config",
        "tools",
        "safety_settings",
        "response_format",
        "service_tier",
        "labels",
        "environment",
        "webhook_config",
        "agent_config",
        "response_mime_type",
        "response_modalities",
        "cached_content",
    }
)


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the Interactions API."""

    action: Action
    interaction_id: str | None = None
    last_event_id: str | None = None
    include_input: bool = False
    masked: bool = False
    """It has `fields=`, which the service refuses."""


def place_of(target: str) -> tuple[bool, str | None, str | None]:
    """Return whether an address is Vertex AI's, and the project and location in it."""
    found = _PLACE.match(target)
    return (False, None, None) if found is None else (True, found[1], found[2])


def call_of(method: str, target: str) -> Call | None:
    """Return the call that this request is."""
    path, _, query = target.partition("?")
    found = _ADDRESS.fullmatch(path)
    if found is None:
        return None
    given = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
    name, cancel = found[1], found[2]
    interaction_id = unquote(name) if name is not None else None
    match method, name is not None, cancel is not None:
        case "POST", False, False:
            return Call("create")
        case "POST", True, True:
            return Call("cancel", interaction_id)
        case "DELETE", True, False:
            return Call("delete", interaction_id)
        case "GET", True, False:
            return Call(
                "stream" if given.get("stream") == "true" else "get",
                interaction_id,
                last_event_id=given.get("last_event_id"),
                include_input=given.get("include_input") == "true",
                masked="fields" in given,
            )
    return None


def no_such(interaction_id: str | None) -> Failure:
    """Return the error for an interaction that the server does not know, or has forgotten."""
    return Failure(404, f"Interaction {interaction_id} was not found.")


def refused(body: Any) -> Failure | None:
    """Return the API's error for the body of a POST that it does not take."""
    if not isinstance(body, dict):
        return Failure(400, "Invalid JSON payload received.")
    for name in body:
        if name not in _FIELDS:
            return Failure(400, f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.')
    agent = body.get("agent")
    if (body.get("model") is None) == (agent is None):
        return Failure(400, "Exactly one of model and agent is required.")
    goes_on = body.get("continuation_token") is not None and body.get("previous_interaction_id") is not None
    if body.get("input") in (None, "", []) and not goes_on:
        return Failure(400, "The input is required.")
    if agent is not None and body.get("generation_config") is not None:
        return Failure(400, "generation_config cannot be used with an agent.")
    if body.get("background"):
        if body.get("store") is False:
            return Failure(400, "background=true requires store=true.")
    elif isinstance(agent, str) and agent.startswith("deep-research"):
        return Failure(400, f"The agent {agent} requires background=true.")
    if body.get("store") is False and body.get("previous_interaction_id") is not None:
        return Failure(400, "previous_interaction_id requires store=true.")
    return None


def text_of(given: Any) -> str:
    """Return the texts and function results of an input, joined by line ends."""
    return "\n".join(_texts(given))


def _texts(given: Any) -> Iterator[str]:
    match given:
        case str():
            yield given
        case list():
            for item in given:
                yield from _texts(item)
        case {"type": "function_result", "result": result}:
            if isinstance(result, str | list):
                yield from _texts(result)
            else:
                yield msgspec.json.encode(result).decode()
        case {"text": str(text)}:
            yield text
        case {"content": content}:
            yield from _texts(content)


def calls_answered(given: Any) -> list[str]:
    """Return the ids of the function calls that an input has results for."""
    items = given if isinstance(given, list) else [given]
    return [
        str(item.get("call_id"))
        for item in items
        if isinstance(item, dict) and item.get("type") == "function_result"
    ]
