"""Puts together what comes in pieces over several events: calls of functions, and halves of characters. Pure.

The rules for a call whose arguments are streamed (`functionCall` with `partialArgs`, `willContinue`; Vertex AI):

- A piece with `willContinue: true` is to be followed by another one of the same call; one without completes the call.
  Only the first piece need have a name. A piece with an `id` belongs to the open call of that id, a piece without a
  name to the latest open call of its candidate, and so does one that repeats that call's name.
- `partialArgs` name where a value stands by a JSON path (`$.a.b[0]`). Texts at the same path are appended to each
  other; any other value replaces what stood there.
- The event that completes a call gets the whole call in place of the last piece: `name`, `args`, `id` if it had one,
  and what else the pieces' parts had (a thought signature). So a subscriber that joins late has it whole, and so has a
  replay.
  A `STOP` that brings no piece completes the one call that is open.
- A piece that is no call, and never becomes one, is a fragment (`is_fragment`).
- A path that leads nowhere is a `ValueError`.

The rules for halves of characters (an emoji is two escapes in JSON, and can be cut between them):

- Half a character at the end of what an event says is held back, and stands in front of the candidate's next text of
  that kind (answer, or thought). At a finishReason there is no next one, and U+FFFD takes its place.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from gemini_streams.api.json_values import copied, mended

__all__ = ["Calls", "Halves", "index_of", "is_fragment"]

_STEP = re.compile(
    r"""\.(?P<name>[^.\[\]]+) | \[(?P<index>[0-9]{1,9})\]
    | \['(?P<single>(?:[^'\\]|\\.)*)'\] | \["(?P<double>(?:[^"\\]|\\.)*)"\]""",
    re.VERBOSE | re.DOTALL,
)
_MOST_STEPS = 64
_LAST_HIGH = re.compile("[\ud800-\udbff]\\Z")
REPLACEMENT = "\ufffd"


def index_of(candidate: dict[str, Any]) -> int:
    """Return which candidate it is; 0 where it does not say."""
    index = candidate.get("index")
    return index if type(index) is int else 0


def is_fragment(call: dict[str, Any]) -> bool:
    """Whether a `functionCall` is only a piece of a call, or nothing at all."""
    return not _word(call, "name") or "partialArgs" in call or call.get("willContinue") is True


def _word(call: dict[str, Any], field: str) -> str:
    """Return a text field of a call; `""` where it has none."""
    value = call.get(field)
    return value if isinstance(value, str) else ""


def _candidates(data: dict[str, Any]) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    """Go through the candidates of an event and their parts."""
    candidates = data.get("candidates")
    if isinstance(candidates, list):
        for candidate in candidates:
            if isinstance(candidate, dict):
                content = candidate.get("content")
                parts = content.get("parts") if isinstance(content, dict) else None
                yield candidate, parts if isinstance(parts, list) else []


def _in_front(candidate: dict[str, Any], parts: list[Any], part: dict[str, Any]) -> None:
    """Put a part before the others of a candidate, which may have none."""
    if not isinstance(candidate.get("content"), dict):
        candidate["content"] = {"role": "model"}
    parts.insert(0, part)
    candidate["content"]["parts"] = parts


class _Text(list[str]):
    """A text that grows: its pieces."""


class _Open:
    """A call that is not complete."""

    __slots__ = ("args", "call", "part")

    def __init__(self) -> None:
        self.part: dict[str, Any] = {}
        self.call: dict[str, Any] = {}
        self.args: dict[str, Any] = {}

    def copy(self) -> _Open:
        copy = _Open()
        copy.part, copy.call, copy.args = copied(self.part), copied(self.call), copied(self.args)
        return copy

    def add(self, part: dict[str, Any], call: dict[str, Any]) -> None:
        self.part.update(part)
        self.call.update((name, value) for name, value in call.items() if value not in (None, ""))
        args = call.get("args")
        if isinstance(args, dict):
            self.args.update(copied(args))  # the event's own are its subscribers'
        pieces = call.get("partialArgs")
        for piece in pieces if isinstance(pieces, list) else ():
            if isinstance(piece, dict):
                _place(self.args, piece)

    def whole(self) -> dict[str, Any]:
        call = {
            name: value
            for name, value in self.call.items()
            if name not in ("args", "partialArgs", "willContinue")
        }
        return {**self.part, "functionCall": {**call, "args": _joined(self.args)}}


class Calls:
    """Joins the calls of one request."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: dict[int, list[_Open]] = {}  # of each candidate, in the order they began

    def __bool__(self) -> bool:
        """Whether a call is open."""
        return bool(self._open)

    def copy(self) -> Calls:
        """Return these calls as they are now."""
        copy = Calls()
        copy._open = {index: [one.copy() for one in each] for index, each in self._open.items()}
        return copy

    def see(self, data: dict[str, Any]) -> bool:
        """Take the next event and put into it the calls that it completes; returns whether it held a piece.

        Raises `ValueError`.
        """
        found = False
        for candidate, parts in _candidates(data):
            index = index_of(candidate)
            pieces = False
            for at, part in enumerate(parts):
                call = part.get("functionCall") if isinstance(part, dict) else None
                if isinstance(call, dict) and (index in self._open or is_fragment(call)):
                    pieces = True
                    whole = self._take(index, part, call)
                    if whole is not None:
                        parts[at] = whole
            left = self._open.get(index, ())
            if len(left) == 1 and not pieces and candidate.get("finishReason") == "STOP":
                _in_front(candidate, parts, self._close(index, left[0]))
                pieces = True
            found = found or pieces
        return found

    def _take(self, index: int, part: dict[str, Any], call: dict[str, Any]) -> dict[str, Any] | None:
        """Take a piece; returns the part that stands in its place where it completes a call."""
        goes_on = call.get("willContinue") is True
        one = self._find(index, call)
        if one is None:
            if not _word(call, "name") or not (goes_on or "partialArgs" in call):
                return None
            one = _Open()
            self._open.setdefault(index, []).append(one)
        one.add(part, call)
        return None if goes_on else self._close(index, one)

    def _find(self, index: int, call: dict[str, Any]) -> _Open | None:
        """Return the open call that a piece belongs to."""
        there = self._open.get(index)
        if not there:
            return None
        name, its_id = _word(call, "name"), _word(call, "id")
        if its_id:
            for one in there:
                if _word(one.call, "id") == its_id:
                    return one
        latest = there[-1]
        if its_id and _word(latest.call, "id"):
            return None
        return latest if name in ("", _word(latest.call, "name")) else None

    def _close(self, index: int, one: _Open) -> dict[str, Any]:
        self._open[index].remove(one)
        if not self._open[index]:
            del self._open[index]
        return one.whole()


class Halves:
    """Holds halves of characters back."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[tuple[int, bool], str] = {}  # by candidate and whether it is a thought's

    def __bool__(self) -> bool:
        """Whether half a character is held."""
        return bool(self._held)

    def copy(self) -> Halves:
        """Return what is held now."""
        copy = Halves()
        copy._held = dict(self._held)
        return copy

    def see(self, data: dict[str, Any]) -> None:
        """Take the next event: put what was held into it, and take what is half at its end out of it."""
        for candidate, parts in _candidates(data):
            ends = bool(candidate.get("finishReason"))
            for thought in (True, False):
                key = (index_of(candidate), thought)
                half = self._held.pop(key, "")
                texts = [
                    part
                    for part in parts
                    if isinstance(part, dict)
                    and isinstance(part.get("text"), str)
                    and bool(part.get("thought")) is thought
                ]
                for part in texts:
                    text = half + part["text"]
                    half = text[-1] if _LAST_HIGH.search(text) else ""
                    part["text"] = text[:-1] if half else text
                if half and not ends:
                    self._held[key] = half
                elif half and texts:
                    texts[-1]["text"] += REPLACEMENT
                elif half:
                    alone: dict[str, Any] = {"text": REPLACEMENT}
                    _in_front(candidate, parts, {**alone, "thought": True} if thought else alone)


# -- arguments -------------------------------------------------------------------------------------------------------


def _place(args: dict[str, Any], piece: dict[str, Any]) -> None:
    """Put the value of a piece where its path says."""
    for name in ("stringValue", "numberValue", "boolValue", "nullValue", "structValue", "listValue"):
        if name in piece:
            value = None if name == "nullValue" else copied(piece[name])
            break
    else:
        return  # it only says that something will follow
    steps = _steps(piece.get("jsonPath"))
    node: Any = args
    for step, following in itertools.pairwise(steps):
        inner = _at(node, step)
        if inner is None:
            inner = {} if isinstance(following, str) else []
            _set(node, step, inner)
        node = inner
    last = steps[-1]
    if isinstance(value, str):
        there = _at(node, last)
        if type(there) is _Text:
            there.append(value)
            return
        value = _Text([there, value] if isinstance(there, str) else [value])
    _set(node, last, value)


def _steps(path: Any) -> list[str | int]:
    """Return the names and indices of a JSON path."""
    if not isinstance(path, str) or not path.startswith("$"):
        raise ValueError("a piece of an argument has no JSON path")
    steps: list[str | int] = []
    at = 1
    while at < len(path):
        step = _STEP.match(path, at)
        if step is None or len(steps) == _MOST_STEPS:
            raise ValueError("a JSON path that leads nowhere")
        at = step.end()
        if step["name"] is not None:
            steps.append(step["name"])
        elif step["index"] is not None:
            steps.append(int(step["index"]))
        else:
            steps.append(_unquoted(step["single"], step["double"]))
    if not steps or not isinstance(steps[0], str):
        raise ValueError("a JSON path to no argument")
    return steps


def _unquoted(single: str | None, double: str | None) -> str:
    text = double if single is None else single.replace("\\'", "'").replace('"', '\\"')
    value = json.loads(f'"{text}"')
    return str(value)


def _at(node: Any, step: str | int) -> Any:
    """Return what stands at a step; `None` where nothing does, and a `ValueError` where nothing can."""
    if isinstance(step, str) and type(node) is dict:
        return node.get(step)
    if isinstance(step, int) and type(node) is list and step <= len(node):
        return node[step] if step < len(node) else None
    raise ValueError("a JSON path that leads nowhere")


def _set(node: Any, step: Any, value: Any) -> None:
    _at(node, step)
    if type(node) is list and step == len(node):
        node.append(value)
    else:
        node[step] = value


def _joined(args: dict[str, Any]) -> dict[str, Any]:
    """Put the texts together, in place."""
    todo: list[Any] = [args]
    while todo:
        node = todo.pop()
        for key, inner in list(node.items() if isinstance(node, dict) else enumerate(node)):
            if type(inner) is _Text:
                node[key] = mended("".join(inner))
            elif isinstance(inner, dict | list):
                todo.append(inner)
    return args
