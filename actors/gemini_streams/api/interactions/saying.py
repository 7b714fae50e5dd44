"""What one event of an interaction says. Every field of an event can be missing or of a wrong type. Pure.

The rules:

- The answer's text is the text of `model_output` steps: of their deltas, and of what their `step.start` carries.
- Thoughts are the summaries of `thought` steps.
- A function call is whole in the `step.stop` of its step: there it stands under `step` (`reading` puts it there).
- The status of `interaction.completed` is the finish reason.
"""

from __future__ import annotations

from typing import Any

from gemini_streams.api.interactions.units import COMPLETED, DELTA, START, STOP, units_of

__all__ = [
    "CALL",
    "finish_reason_of",
    "function_calls_of",
    "plain_text_of",
    "role_of",
    "text_of",
    "thoughts_of",
    "usage_of",
    "whole_parts_of",
]


CALL = "function_call"


def text_of(data: dict[str, Any]) -> str:
    """Return the answer's text in an event."""
    return _strings(data, "text")


def thoughts_of(data: dict[str, Any]) -> str:
    """Return the thought summaries in an event."""
    return _strings(data, "summary")


def function_calls_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the function call that an event completes."""
    step = data.get("step")
    if data.get("event_type") == STOP and isinstance(step, dict) and step.get("type") == CALL:
        return [step]
    return []


def finish_reason_of(data: dict[str, Any]) -> str | None:
    """Return the status of an interaction that an event ends."""
    if data.get("event_type") != COMPLETED:
        return None
    status = _interaction(data).get("status")
    return status if isinstance(status, str) else None


def usage_of(data: dict[str, Any]) -> dict[str, Any] | None:
    """Return the tokens of the interaction up to an event, as far as it names them."""
    metadata = data.get("metadata")
    for usage in (
        data.get("usage") if data.get("event_type") == "interaction.status_update" else None,
        _interaction(data).get("usage"),
        metadata.get("total_usage") if isinstance(metadata, dict) else None,
    ):
        if isinstance(usage, dict):
            return usage
    return None


def role_of(_data: dict[str, Any]) -> str | None:
    """Return `None`: steps have types in the place of roles."""
    return None


def plain_text_of(data: dict[str, Any]) -> str | None:
    """Return an event's text where a plain text is all it says."""
    delta = data.get("delta")
    if type(delta) is dict and delta.get("type") == "text" and data.get("event_type") == DELTA:
        text = delta.get("text")
        if type(text) is str:
            return text
    return None


def whole_parts_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return an event's texts, thoughts and whole function call, in the words of generateContent."""
    parts: list[dict[str, Any]] = []
    for unit in _units(data):
        if unit.kind == "text":
            parts.append({"text": unit.value})
        elif unit.kind == "summary":
            parts.append({"text": unit.value, "thought": True})
    for call in function_calls_of(data):
        said = {"id": call.get("id"), "name": call.get("name"), "args": call.get("arguments") or {}}
        parts.append({"functionCall": {name: value for name, value in said.items() if value is not None}})
    return parts


def _strings(data: dict[str, Any], kind: str) -> str:
    return "".join([unit.value for unit in _units(data) if unit.kind == kind])


def _units(data: dict[str, Any]) -> Any:
    return units_of(data) if data.get("event_type") in (DELTA, START) else ()


def _interaction(data: dict[str, Any]) -> dict[str, Any]:
    interaction = data.get("interaction")
    return interaction if isinstance(interaction, dict) else {}
