"""What an event of `streamGenerateContent` means. Pure; every field of an event can be missing.

An event can carry the answer's next parts, the finishReason, usage, an error, a continuation token: `Meaning` folds
the events of one attempt into what the stream's end depends on.
"""

from __future__ import annotations

from typing import Any

__all__ = ["finish_reason_of", "parts_of"]

_NOTHING: list[dict[str, Any]] = []


def candidate_of(data: dict[str, Any]) -> dict[str, Any] | None:
    """Candidate 0, or `None`."""
    candidates = data.get("candidates")
    if isinstance(candidates, list) and candidates and isinstance(candidates[0], dict):
        return candidates[0]
    return None


def parts_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Candidate 0's parts; empty where there are none."""
    candidate = candidate_of(data)
    if candidate is None:
        return _NOTHING
    content = candidate.get("content")
    if not isinstance(content, dict):
        return _NOTHING
    parts = content.get("parts")
    if not isinstance(parts, list):
        return _NOTHING
    return [part for part in parts if isinstance(part, dict)]


def finish_reason_of(data: dict[str, Any]) -> str | None:
    """Candidate 0's finishReason, or `None`."""
    candidate = candidate_of(data)
    reason = candidate.get("finishReason") if candidate is not None else None
    return reason if isinstance(reason, str) else None
