"""An interaction's events folded into its steps, as the service's resource has them. Pure.

The rules:

- The steps are those of the model. Texts that follow each other in one step are one content, and so are summaries.
- A function call's arguments are an object once its step has stopped; before that the call has those of its start.
- A delta of a kind that is not known here is a content of its step as it stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gemini_streams.api.interactions.saying import CALL
from gemini_streams.api.interactions.units import index_of
from gemini_streams.api.json_values import copied

__all__ = ["said_by", "steps_of"]

Said = tuple[str, int, Any]
"""What an event says of a step: `start`, `delta` or `stop`, the step's index, and its value."""


def said_by(data: dict[str, Any]) -> Said | None:
    """Return what stays of an event for its steps; `None` where it says nothing of any."""
    match data.get("event_type"):
        case "step.delta":
            return ("delta", index_of(data) or 0, data.get("delta"))
        case "step.start":
            return ("start", index_of(data) or 0, data.get("step"))
        case "step.stop" if "step" in data:
            return ("stop", index_of(data) or 0, data["step"])
    return None


def steps_of(said: Iterable[Said]) -> list[dict[str, Any]]:
    """Return the steps that have been said so far, by their indices. Shares nothing with the events."""
    steps: dict[int, dict[str, Any]] = {}
    for kind, index, value in said:
        if not isinstance(value, dict):
            continue
        if kind == "delta":
            _add(steps.setdefault(index, {"type": "model_output"}), value)
        elif kind == "start" or value.get("type") == CALL:
            steps[index] = copied(value)
    return [steps[index] for index in sorted(steps)]


def _add(step: dict[str, Any], delta: Mapping[str, Any]) -> None:
    kind = delta.get("type")
    if kind == "thought_summary":
        _append(step.setdefault("summary", []), delta.get("content"))
    elif kind == "thought_signature":
        if delta.get("signature"):
            step["signature"] = delta["signature"]
    elif kind == "text_annotation_delta":
        contents = step.get("content")
        if isinstance(contents, list) and contents and isinstance(contents[-1], dict):
            contents[-1].setdefault("annotations", []).extend(copied(delta.get("annotations") or []))
    elif kind == "arguments_delta":
        if isinstance(delta.get("arguments"), dict):
            step["arguments"] = copied(delta["arguments"])
    elif kind == step.get("type"):  # a call or result of the server's own tools
        step.update(copied(dict(delta)))
    else:
        _append(step.setdefault("content", []), delta if kind is not None else {"type": "text", **delta})


def _append(contents: Any, content: Any) -> None:
    """Append a content; a text goes on with the text before it."""
    if not isinstance(contents, list) or not isinstance(content, dict):
        return
    text = content.get("text")
    last = contents[-1] if contents else None
    if (
        isinstance(text, str)
        and isinstance(last, dict)
        and isinstance(last.get("text"), str)
        and not last.get("annotations")
    ):
        last["text"] += text
        for annotation in copied(content.get("annotations") or []):
            last.setdefault("annotations", []).append(annotation)
    else:
        contents.append(copied(dict(content)))
