"""A reply in the words of the Interactions API: the events of its run, their ids, their replay, the resource. Pure.

The rules:

- `events_of` translates what the reply says in the words of generateContent. A text part belongs to a `model_output`
  step, a thought to a `thought` step, and each function call is a step. Parts that have no counterpart are left out.
- An event that has an `event_type` already is sent as it stands; an `interaction.completed` among them ends the run.
- `replayed` cuts events differently and keeps their content. An event with an id is the last of its group, so that
  what follows an id is always the same.
"""

from __future__ import annotations

import base64
import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from gemini_streams.testing.interaction_options import Ids, Interaction
from gemini_streams.testing.plans import generated
from gemini_streams.testing.records import RequestRecord
from gemini_streams.testing.replies import Event, Reply

__all__ = ["COMPLETED", "encode", "event_id", "events_of", "has_id", "replayed", "steps_of", "usage_of"]

COMPLETED = "interaction.completed"

_STATUSES = {"STOP": "completed", "MAX_TOKENS": "incomplete", "CONTINUATION": "requires_continuation"}
_USAGE = {
    "promptTokenCount": "total_input_tokens",
    "candidatesTokenCount": "total_output_tokens",
    "thoughtsTokenCount": "total_thought_tokens",
    "cachedContentTokenCount": "total_cached_tokens",
    "toolUsePromptTokenCount": "total_tool_use_tokens",
    "totalTokenCount": "total_tokens",
}
_MEDIA = ("image", "audio", "video")


def usage_of(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Return a `usageMetadata` in the words of the Interactions API; its own words are kept."""
    return {_USAGE.get(name, name): value for name, value in usage.items()}


def events_of(
    reply: Reply, options: Interaction, record: RequestRecord, interaction: Mapping[str, Any]
) -> Iterator[Event]:
    """Yield the run's events, without ids. `interaction`: the fields that its lifecycle events carry."""
    yield {"event_type": "interaction.created", "interaction": {**interaction, "status": "in_progress"}}
    yield _update(interaction)
    writer = _Writer(options)
    reason: str | None = None
    token: str | None = None
    usage: dict[str, Any] | None = None
    for event in generated(reply, record):
        if "event_type" in event:
            yield from writer.close()
            yield event
            if event["event_type"] == COMPLETED:
                return
            continue
        usage = event.get("usageMetadata", usage)
        candidate = (event.get("candidates") or [{}])[0]
        for part in candidate.get("content", {}).get("parts") or []:
            yield from writer.part(part)
        reason = candidate.get("finishReason", reason)
        token = candidate.get("continuationToken")
        if token is not None and reason is None:
            yield {**_update(interaction), "continuation_token": token}
    yield from writer.close()
    if options.status is None and reason is None:
        return
    status = options.status or (
        "requires_action" if writer.calls and reason == "STOP" else _STATUSES.get(reason or "", "failed")
    )
    ended = {**interaction, "status": status}
    if usage is not None:
        ended["usage"] = usage_of(usage)
    if token is not None:
        ended["continuation_token"] = token
    yield {"event_type": COMPLETED, "interaction": ended}


def _update(interaction: Mapping[str, Any]) -> Event:
    return {
        "event_type": "interaction.status_update",
        "interaction_id": interaction["id"],
        "status": "in_progress",
    }


class _Writer:
    """Steps made of parts: which one is open, and its index."""

    def __init__(self, options: Interaction) -> None:
        self._options = options
        self._index = -1
        self._open: str | None = None
        self.calls = 0

    def part(self, part: Mapping[str, Any]) -> Iterator[Event]:
        signature = part.get("thoughtSignature")
        if part.get("thought"):
            yield from self._within("thought")
            text = part.get("text", "")
            yield self._delta({"type": "thought_summary", "content": {"type": "text", "text": text}})
        elif signature is not None:
            yield from self._within("thought")
        if signature is not None:
            yield self._delta({"type": "thought_signature", "signature": signature})
        if part.get("thought"):
            return
        if "functionCall" in part:
            yield from self._call(part["functionCall"])
        elif "inlineData" in part:
            mime = part["inlineData"].get("mimeType", "")
            kind = mime.partition("/")[0]
            yield from self._within("model_output")
            kind = kind if kind in _MEDIA else "document"
            yield self._delta({"type": kind, "data": part["inlineData"].get("data", ""), "mime_type": mime})
        elif "text" in part:
            content = {"type": "text", "text": part["text"]}
            if self._open != "model_output" and self._options.text_in_start:
                yield from self._start({"type": "model_output", "content": [content]})
            else:
                yield from self._within("model_output")
                yield self._delta(content)

    def _call(self, call: Mapping[str, Any]) -> Iterator[Event]:
        self.calls += 1
        step = {
            "type": "function_call",
            "id": call.get("id") or f"call_{self.calls}",
            "name": call.get("name", ""),
            "arguments": {},
        }
        yield from self._start(step)
        arguments = msgspec.json.encode(call.get("args") or {}).decode()
        half = len(arguments) // 2
        for piece in (arguments[:half], arguments[half:]):
            yield self._delta({"type": "arguments_delta", "arguments": piece})
        yield from self.close()

    def _within(self, kind: str) -> Iterator[Event]:
        if self._open != kind:
            yield from self._start({"type": kind})

    def _start(self, step: Event) -> Iterator[Event]:
        yield from self.close()
        self._index += 1
        self._open = step["type"]
        yield {"event_type": "step.start", "index": self._index, "step": step}

    def _delta(self, delta: Event) -> Event:
        return {"event_type": "step.delta", "index": self._index, "delta": delta}

    def close(self) -> Iterator[Event]:
        if self._open is not None:
            self._open = None
            yield {"event_type": "step.stop", "index": self._index}


# -- ids and bytes


def has_id(ids: Ids, event: Mapping[str, Any], number: int) -> bool:
    """Whether this event, the run's n-th from 0, gets an id."""
    match ids:
        case "all":
            return True
        case "none":
            return False
        case "first":
            return event.get("event_type") == "step.start"
        case int():
            return (number + 1) % ids == 0
        case _:
            return bool(ids(event))


def event_id(number: int, interaction_id: str) -> str:
    """Return the id of an interaction's event: opaque to a client, as the API's are."""
    return "v1_" + base64.urlsafe_b64encode(f"{number}_{interaction_id}".encode()).decode().rstrip("=")


def encode(event: Mapping[str, Any], newline: str, *, event_line: bool) -> bytes:
    """Return an event as it stands in a stream."""
    line = f"event: {event.get('event_type', 'message')}{newline}" if event_line else ""
    return line.encode() + b"data: " + msgspec.json.encode(event) + (newline * 2).encode()


# -- replay


def replayed(events: Iterable[Event], how: Literal["same", "merged"] | int) -> Iterator[Event]:
    """Yield events with the same content, cut differently; an event's id stands at the end of the same content."""
    if how == "same":
        yield from events
    elif how == "merged":
        yield from _merged(events)
    else:
        for event in events:
            yield from _split(event, how)


def _merged(events: Iterable[Event]) -> Iterator[Event]:
    held: Event | None = None
    for event in events:
        joined = _joined(held, event) if held is not None else None
        if joined is not None:
            held = joined
            continue
        if held is not None:
            yield held
        held = event
    if held is not None:
        yield held


def _joined(first: Event, second: Event) -> Event | None:
    """Return two events as one; `None` where that cannot be, or where an id stands between them."""
    if "event_id" in first or first.get("index") != second.get("index"):
        return None
    if second.get("event_type") != "step.delta" or "metadata" in first or "metadata" in second:
        return None
    delta = second["delta"]
    place = _string(delta)
    if place is None:
        return None
    joined = copy.deepcopy(first)
    if first.get("event_type") == "step.start":
        content = joined["step"].get("content")
        if delta["type"] != "text" or not content or content[-1].get("type") != "text":
            return None
        content[-1]["text"] += delta["text"]
    else:
        if first.get("event_type") != "step.delta" or first["delta"].get("type") != delta["type"]:
            return None
        into = _string(joined["delta"])
        if into is None:
            return None
        into[0][into[1]] += place[0][place[1]]
    if "event_id" in second:
        joined["event_id"] = second["event_id"]
    return joined


def _split(event: Event, size: int) -> Iterator[Event]:
    match event:
        case {
            "event_type": "step.start",
            "index": index,
            "step": {"content": [{"type": "text", "text": str(text)}]},
        }:
            first = copy.deepcopy(event)
            first["step"]["content"][0]["text"] = text[:size]
            rest: Event = {"event_type": "step.delta", "index": index, "delta": {"type": "text", "text": ""}}
            place: tuple[Event, str] | None = (rest["delta"], "text")
        case {"event_type": "step.delta", "delta": delta}:
            first, rest, place = copy.deepcopy(event), copy.deepcopy(event), _string(delta)
            if place is not None:
                text = place[0][place[1]]
                into, key = _string(first["delta"]) or place
                into[key] = text[:size]
        case _:
            place = None
    if place is None or len(text) <= size:
        yield event
        return
    first.pop("event_id", None)
    yield first
    for start in range(size, len(text), size):
        piece = copy.deepcopy(rest)
        into, key = _string(piece["delta"]) or place
        into[key] = text[start : start + size]
        piece.pop("event_id", None)
        if "event_id" in event and start + size >= len(text):
            piece["event_id"] = event["event_id"]
        yield piece


def _string(delta: Event) -> tuple[Event, str] | None:
    """Return where a delta's string stands, if it has one that may be cut."""
    match delta:
        case {"type": "text", "text": str()}:
            return delta, "text"
        case {"type": "thought_summary", "content": {"text": str()}}:
            return delta["content"], "text"
        case {"type": "arguments_delta", "arguments": str()}:
            return delta, "arguments"
    return None


# -- the resource


def steps_of(events: Sequence[Event]) -> list[Event]:
    """Return the steps that these events tell of, as a resource has them."""
    steps: dict[int, Event] = {}
    arguments: dict[int, str] = {}
    for event in events:
        if event.get("event_type") == "step.start":
            steps[event["index"]] = copy.deepcopy(event["step"])
        elif event.get("event_type") == "step.delta" and event["index"] in steps:
            _fold(steps[event["index"]], event["delta"], event["index"], arguments)
    for index, text in arguments.items():
        try:
            steps[index]["arguments"] = msgspec.json.decode(text)
        except msgspec.DecodeError:
            steps[index]["arguments"] = {}  # the call is not complete yet
    return [steps[index] for index in sorted(steps)]


def _fold(step: Event, delta: Event, index: int, arguments: dict[int, str]) -> None:
    kind = delta.get("type", "text")
    if kind == "text":
        _add_text(step.setdefault("content", []), delta.get("text", ""))
    elif kind == "thought_summary":
        _add_text(step.setdefault("summary", []), delta["content"].get("text", ""))
    elif kind == "thought_signature":
        step["signature"] = delta.get("signature", "")
    elif kind == "arguments_delta":
        if isinstance(delta.get("arguments"), str):
            arguments[index] = arguments.get(index, "") + delta["arguments"]
        else:
            step["arguments"] = delta.get("arguments")
    elif kind == "text_annotation_delta":
        content = step.setdefault("content", [{"type": "text", "text": ""}])
        content[-1].setdefault("annotations", []).extend(copy.deepcopy(delta.get("annotations", [])))
    elif step.get("type") == "model_output":
        step.setdefault("content", []).append(copy.deepcopy(delta))
    else:
        step.update(copy.deepcopy({name: value for name, value in delta.items() if name != "type"}))


def _add_text(content: list[Event], text: str) -> None:
    if content and content[-1].get("type") == "text":
        content[-1]["text"] += text
    else:
        content.append({"type": "text", "text": text})
