"""Reads one event of `streamGenerateContent`. Every field of an event can be missing or of a wrong type. Pure.

The rules (Google's API reference, recorded streams):

- `index` tells candidates apart, and nothing else does; a missing one is 0. Candidate 0 is the answer.
- An enum value `…_UNSPECIFIED` says that nothing was said.
- An event can be an error (`failures.error_of`).
- `[DONE]`, and an event without anything in it, are no events and no errors.

`meaning` reads the events of a request together.
"""

from __future__ import annotations

from typing import Any

from gemini_streams.api.generate.pieces import index_of, is_fragment

__all__ = [
    "candidate_of",
    "finish_reason_of",
    "function_calls_of",
    "is_nothing",
    "parts_in",
    "parts_of",
    "plain_text_of",
    "role_of",
    "said",
    "text_of",
    "thoughts_of",
    "usage_of",
    "whole_parts_of",
]

_NOT_SET = "_UNSPECIFIED"
"""The end of an enum value's name that means: not set."""

_NOTHING: list[dict[str, Any]] = []


def candidate_of(data: dict[str, Any]) -> dict[str, Any] | None:
    """Candidate 0: the one whose `index` is 0 or missing, wherever it stands; or `None`."""
    candidates = data.get("candidates")
    if isinstance(candidates, list):
        for candidate in candidates:
            if isinstance(candidate, dict) and index_of(candidate) == 0:
                return candidate
    return None


def parts_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Candidate 0's parts; empty where there are none. Values of a wrong type are left out."""
    candidate = candidate_of(data)
    return _NOTHING if candidate is None else parts_in(candidate)


def parts_in(candidate: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parts of a candidate."""
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, dict) else None
    if not isinstance(parts, list):
        return _NOTHING
    return [_sound(part) for part in parts if isinstance(part, dict)]


def _sound(part: dict[str, Any]) -> dict[str, Any]:
    """Return a part without its fields of a wrong type: a caller that joins the texts must not fail over one."""
    if isinstance(part.get("text", ""), str) and isinstance(part.get("functionCall", part), dict):
        return part
    wrong = {"text": str, "functionCall": dict}
    return {name: value for name, value in part.items() if isinstance(value, wrong.get(name, object))}


def text_of(data: dict[str, Any]) -> str:
    """Candidate 0's text, thoughts left out; `""` where there is none."""
    return _texts(data, thought=False)


def thoughts_of(data: dict[str, Any]) -> str:
    """Candidate 0's thought summaries."""
    return _texts(data, thought=True)


def _texts(data: dict[str, Any], *, thought: bool) -> str:
    try:
        candidate = data["candidates"][0]
        [part] = candidate["content"]["parts"]
        text = part["text"]
        if (
            type(text) is str
            and "thought" not in part
            and ("index" not in candidate or candidate["index"] == 0)
        ):
            return "" if thought else text
    except (LookupError, TypeError, ValueError):
        pass
    # Rare: more or less than one text, or something missing or of a wrong type, and what is sound still counts.
    return "".join([p["text"] for p in parts_of(data) if "text" in p and bool(p.get("thought")) is thought])


def plain_text_of(data: dict[str, Any]) -> str | None:
    """The event's text, where all it has is one candidate with one part that is a plain text, as most events have.

    `None` elsewhere: `whole_parts_of` reads every event.
    """
    try:
        [candidate] = data["candidates"]
        [part] = candidate["content"]["parts"]
        text = part["text"]
        if type(text) is str and len(part) == 1 and ("index" not in candidate or candidate["index"] == 0):
            return text
    except (LookupError, TypeError, ValueError):
        pass
    return None


def whole_parts_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Candidate 0's parts without the pieces of function calls. The event of a call's last piece has the whole call."""
    return [
        part for part in parts_of(data) if "functionCall" not in part or not is_fragment(part["functionCall"])
    ]


def function_calls_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Candidate 0's function calls that are whole."""
    return [part["functionCall"] for part in whole_parts_of(data) if "functionCall" in part]


def finish_reason_of(data: dict[str, Any]) -> str | None:
    """Candidate 0's finishReason, or `None`."""
    candidate = candidate_of(data)
    return None if candidate is None else said(candidate, "finishReason")


def role_of(data: dict[str, Any]) -> str | None:
    """Return whose turn candidate 0 is part of: `model`, or `None` where nothing says so."""
    candidate = candidate_of(data)
    content = candidate.get("content") if candidate is not None else None
    role = content.get("role") if isinstance(content, dict) else None
    return role if isinstance(role, str) else None


def usage_of(data: dict[str, Any]) -> dict[str, Any] | None:
    """Return the usageMetadata, or `None`."""
    usage = data.get("usageMetadata")
    return usage if isinstance(usage, dict) else None


def said(message: dict[str, Any], field: str) -> str | None:
    """Return the value of an enum; `None` where it is not set, as it is where it is unspecified."""
    value = message.get(field)
    return value if isinstance(value, str) and value and not value.endswith(_NOT_SET) else None


def is_nothing(payload: bytes) -> bool:
    """Whether an event's data is no event: nothing at all, or the `[DONE]` that gateways send."""
    return payload.strip() in (b"", b"[DONE]")
