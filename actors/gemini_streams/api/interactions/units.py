"""What an event of an interaction says, in units that stay the same however a server cuts its events. Pure.

The rules:

- An event of a step is a list of units: its start, strings (`text`, `summary`, `arguments`), whole things (a signature,
  an image, an annotation, arguments as an object, the fields of a call or a result, an unknown delta), its stop.
- A `step.start` that has content already is the start, then the deltas of that content.
- Empty strings, metadata and token counts are no units.
- Strings are measured and compared in UTF-16 units, since a server can cut an emoji into two deltas. A checksum goes
  on from one piece of a string to the next. Whole things are compared by the checksum of their JSON.
- Half a character at the end of a delta waits for the next delta of that step and kind (`Halves`). Where the step
  stops before, it is U+FFFD.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from gemini_streams.api.json_values import mend, mended

__all__ = [
    "COMPLETED",
    "DELTA",
    "START",
    "STOP",
    "STRINGS",
    "Halves",
    "Unit",
    "delta_event",
    "digest",
    "index_of",
    "measured",
    "split",
    "status_of",
    "step_units",
    "units_of",
]

START = "step.start"
DELTA = "step.delta"
STOP = "step.stop"
COMPLETED = "interaction.completed"
STRINGS = frozenset({"text", "summary", "arguments"})
"""The kinds of units that are strings. Every other kind is whole."""
_TAKEN = STRINGS | {"start", "stop", "signature", "annotation"}

_ASTRAL = re.compile("[\U00010000-\U0010ffff]")
_EMPTY: tuple[Any, ...] = (None, "", [], {})
_encode = msgspec.json.Encoder(order="deterministic").encode


class Unit(NamedTuple):
    """One unit of a step's event."""

    kind: str
    """`start`, `stop`, one of `STRINGS`, or the kind of something whole."""
    value: Any
    """The string, or what the checksum of something whole is made of."""
    delta: dict[str, Any] | None
    """The delta that says this unit and nothing else; `None` for a start and a stop."""


def index_of(data: dict[str, Any]) -> int | None:
    """Return the index of a step's event; `None` where it has none."""
    index = data.get("index")
    return index if type(index) is int and index >= 0 else None


def status_of(data: dict[str, Any]) -> str:
    """Return the status that an event or a resource names, or `""`."""
    inner = data.get("interaction")
    status = (inner if isinstance(inner, dict) else data).get("status")
    return status if isinstance(status, str) else ""


def units_of(data: dict[str, Any]) -> list[Unit]:
    """Return the units of a step's event."""
    match data.get("event_type"):
        case "step.start":
            step = data.get("step")
            step = step if isinstance(step, dict) else {}
            return [Unit("start", step.get("type"), None), *step_units(step)]
        case "step.delta":
            delta = data.get("delta")
            return _of_delta(delta) if isinstance(delta, dict) else []
        case "step.stop":
            return [Unit("stop", None, None)]
    return []


def step_units(step: dict[str, Any]) -> list[Unit]:
    """Return the units of what a step holds, without its start."""
    units: list[Unit] = []
    rest = {}
    for name, value in step.items():
        if name == "content" and isinstance(value, list):
            for item in value:
                units += _of_delta(item) if isinstance(item, dict) else [_whole("content", item)]
        elif name == "summary" and isinstance(value, list):
            for item in value:
                units += _of_delta({"type": "thought_summary", "content": item})
        elif name == "signature" and isinstance(value, str):
            units += _of_delta({"type": "thought_signature", "signature": value})
        elif name != "type" and value not in _EMPTY:
            rest[name] = value
    kind = step.get("type")
    if rest or kind == "function_call":
        kind = kind if isinstance(kind, str) else "step"
        units.insert(0, Unit(_free(kind), rest, {"type": kind, **rest}))
    return units


def _of_delta(delta: dict[str, Any]) -> list[Unit]:
    kind = delta.get("type")
    if kind == "text" or (kind is None and "text" in delta):
        text = delta.get("text")
        if isinstance(text, str):
            return _string("text", text, {"type": "text"}, delta) + _annotations(delta)
    elif kind == "thought_summary":
        content = delta.get("content")
        if isinstance(content, dict) and isinstance(content.get("text"), str):
            return _string("summary", content["text"], {"type": kind}, delta)
    elif kind == "arguments_delta":
        arguments = delta.get("arguments")
        if isinstance(arguments, str):
            return _string("arguments", arguments, {"type": kind}, delta)
    elif kind == "thought_signature":
        return [] if delta.get("signature") in _EMPTY else [Unit("signature", delta["signature"], delta)]
    elif kind == "text_annotation_delta":
        return _annotations(delta)
    return [] if not delta else [_whole(kind if isinstance(kind, str) else "delta", delta)]


def _whole(kind: str, value: Any) -> Unit:
    return Unit(_free(kind), value, value if isinstance(value, dict) else {"type": kind, kind: value})


def _free(kind: str) -> str:
    return f"{kind}*" if kind in _TAKEN else kind


def _string(kind: str, text: str, base: dict[str, Any], delta: dict[str, Any]) -> list[Unit]:
    return [Unit(kind, text, delta if len(delta) == 2 else _with_string(base, kind, text))] if text else []


def _annotations(delta: dict[str, Any]) -> list[Unit]:
    found = delta.get("annotations")
    return [
        Unit("annotation", each, {"type": "text_annotation_delta", "annotations": [each]})
        for each in (found if isinstance(found, list) else ())
    ]


def _with_string(base: dict[str, Any], kind: str, text: str) -> dict[str, Any]:
    if kind == "summary":
        return {"type": "thought_summary", "content": {"type": "text", "text": text}}
    return {**base, kind: text}


def delta_event(index: int, unit: Unit, text: str | None = None) -> dict[str, Any]:
    """Return the event of a unit that is neither start nor stop; `text`: the part of its string that it says."""
    delta = unit.delta or {}
    if text is not None:
        base = {"type": "arguments_delta" if unit.kind == "arguments" else unit.kind}
        delta = _with_string(base, unit.kind, text)
    return {"event_type": DELTA, "index": index, "delta": delta}


# -- measures


def measured(text: str) -> tuple[int, bytes]:
    """Return how many UTF-16 units a string has, and the bytes that its checksum is made of."""
    if text.isascii():
        return len(text), text.encode()
    if _ASTRAL.search(text) is not None:
        text = _ASTRAL.sub(_pair, text)
    return len(text), text.encode("utf-8", "surrogatepass")


def _pair(found: re.Match[str]) -> str:
    number = ord(found[0]) - 0x10000
    return chr(0xD800 + (number >> 10)) + chr(0xDC00 + (number & 0x3FF))


def split(text: str, units: int) -> tuple[str, str]:
    """Cut a string behind so many UTF-16 units."""
    if not text.isascii():
        raw = text.encode("utf-16-le", "surrogatepass")
        first, rest = raw[: 2 * units], raw[2 * units :]
        return first.decode("utf-16-le", "surrogatepass"), rest.decode("utf-16-le", "surrogatepass")
    return text[:units], text[units:]


def digest(value: Any, before: int) -> int:
    """Return the checksum of something whole that follows what has the checksum `before`."""
    return crc32(_encode(value), before)


# -- half characters


class Halves:
    """Mends the texts of one stream's events. Half a character waits for its other half."""

    __slots__ = ("held",)

    held: dict[tuple[int, str], str]
    """The halves that wait, by step and kind of unit."""

    def __init__(self) -> None:
        self.held = {}

    def mend(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        """Mend an event in place; return it, or none where it has only half a character, or one more in front of it.

        While a half waits, no event has an id: what follows that id would lack it.
        """
        index = index_of(data)
        kind = data.get("event_type")
        before: list[dict[str, Any]] = []
        if index is not None and kind in (START, DELTA):
            places = list(_places(data))
            for place, name, string in places:
                place[name] = self._whole(index, string, place[name])
            if kind == DELTA and places and index in {held[0] for held in self.held}:
                place, name, _ = places[0]
                if not place[name] and len(data["delta"]) == 2:
                    return []
        elif kind in (STOP, COMPLETED):
            for key in [key for key in self.held if kind == COMPLETED or key[0] == index]:
                del self.held[key]
                before.append(delta_event(key[0], Unit(key[1], "\ufffd", None), "\ufffd"))
        mend(data)
        if self.held:
            data.pop("event_id", None)
        return [*before, data]

    def _whole(self, index: int, kind: str, text: str) -> str:
        text = self.held.pop((index, kind), "") + text
        if text and "\ud800" <= text[-1] <= "\udbff":
            self.held[index, kind] = text[-1]
            text = text[:-1]
        return mended(text)


def _places(data: dict[str, Any]) -> list[tuple[dict[str, Any], str, str]]:
    """Return where an event's strings stand, and their kinds."""
    found: list[tuple[Any, str, str]] = []
    delta, step = data.get("delta"), data.get("step")
    if data.get("event_type") == DELTA and isinstance(delta, dict):
        match delta.get("type"):
            case "text" | None:
                found = [(delta, "text", "text")]
            case "thought_summary":
                found = [(delta.get("content"), "text", "summary")]
            case "arguments_delta":
                found = [(delta, "arguments", "arguments")]
    elif isinstance(step, dict):
        for field, kind in (("summary", "summary"), ("content", "text")):
            items = step.get(field)
            found += [
                (item, "text", kind)
                for item in (items if isinstance(items, list) else ())
                if isinstance(item, dict) and item.get("type", "text") == "text"
            ]
    return [each for each in found if isinstance(each[0], dict) and isinstance(each[0].get(each[1]), str)]
