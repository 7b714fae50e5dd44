"""The rest of an interaction from its resource, as events of the shape that its stream has. Pure.

The rules:

- The resource's steps, the user's left out, are the steps of the stream in their order, from index 0.
- A step that had stopped at the floor is passed over. Of another one that has stopped, the strings are compared.
- Of a step that was cut, what was delivered is compared, and the rest becomes `step.delta` events and its `step.stop`.
- A call that was cut in its arguments cannot be compared: the resource spells their JSON differently. Nor can a call or
  a result whose fields came in several events. That is a `Contradiction`, whose `Tracker.contradicted` is asked at once
  for the second time: the step is void.
- While the interaction is in progress its last step is still being written: of that step only strings are taken, and
  neither its stop nor an end follows.
- `interaction.completed` is made of the resource without its steps and its input. These events have no ids.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

import msgspec

from gemini_streams.api.interactions.place import Place
from gemini_streams.api.interactions.resume import Contradiction
from gemini_streams.api.interactions.units import (
    COMPLETED,
    START,
    STOP,
    STRINGS,
    Unit,
    delta_event,
    digest,
    measured,
    split,
    status_of,
    step_units,
)

__all__ = ["UNDER_WAY", "rest_of"]

UNDER_WAY = frozenset({"queued", "in_progress", "idle"})
"""Statuses that are no ends."""


def rest_of(place: Place, resource: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events of a resource that follow a place; raises `Contradiction`. Each call makes new events."""
    given = resource.get("steps")
    steps = [
        step
        for step in (given if isinstance(given, list) else ())
        if isinstance(step, dict) and step.get("type") != "user_input"
    ]
    ended = status_of(resource) not in UNDER_WAY
    known = {index for index, _ in place.figures}
    closed = place.floor.closed
    if ended and max(known, default=-1) >= len(steps):
        raise Contradiction("the resource has fewer steps than were delivered")
    events: list[dict[str, Any]] = []
    for index, step in enumerate(steps):
        if index not in closed:
            whole = ended or index + 1 < len(steps)
            if not whole and not _is_parts(step):
                break
            events += _rest_of_step(place, index, step, whole=whole)
    if ended and not place.done:
        fields = {name: value for name, value in resource.items() if name not in ("steps", "input")}
        events.append({"event_type": COMPLETED, "interaction": fields})
    return events


def _rest_of_step(place: Place, index: int, step: dict[str, Any], *, whole: bool) -> list[dict[str, Any]]:
    had = {kind: figure for (each, kind), figure in place.figures.items() if each == index}
    events: list[dict[str, Any]] = []
    if not had.pop("start", None):
        events.append({"event_type": START, "index": index, "step": _begun(step)})
    stopped = had.pop("stop", None) is not None
    units = _units(index, step, had, stopped=stopped)  # takes out of `had` what cannot be compared
    left = {kind: [count, 0, crc] for kind, (count, crc) in had.items()}
    for unit in units:
        if not whole and unit.kind not in STRINGS:
            left.pop(unit.kind, None)
            continue
        events += _rest_of_unit(index, unit, left)
    if whole and any(kind in left for kind in STRINGS if not (stopped and kind == "arguments")):
        raise Contradiction(f"the resource has less of step {index} than was delivered")
    if stopped:
        if events:
            raise Contradiction(f"step {index} of the resource has more than was delivered to its stop")
        return []
    if whole and left:
        raise Contradiction(f"the resource has less of step {index} than was delivered")
    if whole:
        events.append({"event_type": STOP, "index": index})
    return events


def _is_parts(step: dict[str, Any]) -> bool:
    """Whether a step is made of contents or summaries, not of fields as calls and results are."""
    return step.get("type") in ("model_output", "thought")


def _begun(step: dict[str, Any]) -> dict[str, Any]:
    """Return what the `step.start` of a step says."""
    begun = {"type": step.get("type")}
    if not _is_parts(step):
        begun |= {name: value for name, value in step.items() if name != "arguments" or not _is_call(step)}
    return begun | ({"arguments": {}} if _is_call(step) else {})


def _is_call(step: dict[str, Any]) -> bool:
    return step.get("type") == "function_call"


def _units(index: int, step: dict[str, Any], had: dict[str, Any], *, stopped: bool) -> list[Unit]:
    """Return the units of a step that can be compared with what was delivered of it, and that may be new."""
    if _is_parts(step):
        units = step_units(step)
        if stopped:
            return [unit for unit in units if unit.kind in STRINGS]
        if had.get("signature") and step.get("signature"):  # the resource has the latest one alone
            units = [unit for unit in units if unit.kind != "signature"]
            had.pop("signature")
        return units
    if stopped:
        had.clear()
        return []
    if not _is_call(step):
        if had:
            raise Contradiction(f"step {index} was cut inside a {step.get('type')}, which cannot be compared")
        return []  # its start says it all
    if set(had) - {"function_call"}:
        raise Contradiction(f"step {index} was cut inside a call's arguments, which cannot be compared")
    arguments = step.get("arguments") or {}
    text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
    if had:
        without = {name: value for name, value in step.items() if name != "arguments"}
        for told, units in (
            (without, [Unit("arguments", text, {"type": "arguments_delta", "arguments": text})]),
            (step, []),
        ):
            if had["function_call"] == (1, digest(step_units(told)[0].value, 0)):
                had.clear()
                return units
        raise Contradiction(f"the call of step {index} is not what was delivered")
    return [Unit("arguments", text, {"type": "arguments_delta", "arguments": text})]


def _rest_of_unit(index: int, unit: Unit, left: dict[str, list[int]]) -> list[dict[str, Any]]:
    want = left.get(unit.kind)
    if want is None:
        return [delta_event(index, unit)]
    rest = ""
    if unit.kind in STRINGS:
        length, raw = measured(unit.value)
        if length > want[0]:
            first, rest = split(unit.value, want[0])
            length, raw = measured(first)
        want[1] = crc32(raw, want[1])
    else:
        length, want[1] = 1, digest(unit.value, want[1])
    want[0] -= length
    if not want[0]:
        if want[1] != want[2]:
            raise Contradiction(f"the {unit.kind} of step {index} is not what the resource has")
        del left[unit.kind]
    return [delta_event(index, unit, rest)] if rest else []
