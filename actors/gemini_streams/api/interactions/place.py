"""How far an interaction has been delivered: a place that a resume goes on from, and its cursor. Pure.

The rules:

- `Tracker` counts what is delivered. It is told of each event in the moment in which the event gets its sequence
  number and goes to the subscribers. Events that were decoded and not delivered are not in it.
- The floor is the sequence number, and the set of steps that had stopped, when last no step was open. Since the floor,
  a figure is kept for each step and kind of unit: the length of a string, or the number of whole things, and a
  checksum.
- An event's id is taken when the event is delivered, unless a function call is open: a replay behind an id must bring
  a call as a whole. `resume.Replay` takes the id off an event that is no place to resume from.
- With the id the figures are kept as they were behind it. What lies between them and the present figures is what a
  replay behind that id brings again.
- A `Place` never changes. Its cursor is a short string of ASCII letters, digits, `-`, `_` and `.`, without content.

A live event costs a few dict look-ups. `Tracker.place` copies one small dict; the cursor is made when it is read.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any
from zlib import crc32

import msgspec

from gemini_streams.api.interactions.units import (
    COMPLETED,
    DELTA,
    START,
    STOP,
    STRINGS,
    digest,
    index_of,
    measured,
    status_of,
    units_of,
)

__all__ = ["Closed", "Floor", "Place", "Tracker", "is_cursor", "told_of"]

_PREFIX = "gi1."
Figures = dict[tuple[int, str], tuple[int, int]]
"""For each step and kind of unit: its length or count, and its checksum."""


class Closed(msgspec.Struct, frozen=True):
    """Indices of steps: all below a number, and some more."""

    below: int = 0
    more: frozenset[int] = frozenset()

    def __contains__(self, index: int) -> bool:
        return index < self.below or index in self.more

    def and_also(self, indices: set[int]) -> Closed:
        """Return these and those."""
        more = {index for index in self.more | indices if index >= self.below}
        below = self.below
        while below in more:
            more.remove(below)
            below += 1
        return Closed(below, frozenset(more))


class Floor(msgspec.Struct, frozen=True):
    """Where last no step was open."""

    sequence: int = 0
    closed: Closed = Closed()
    told: frozenset[tuple[str, str]] = frozenset()
    unknown: dict[str, int] = {}


class Place(msgspec.Struct, frozen=True):
    """The place behind one delivered event. Immutable: nothing may change what it holds."""

    interaction_id: str
    attempt: int = 1
    sequence: int = 0
    """The next event's sequence number."""
    event_id: str | None = None
    """Ask for what follows this event; `None`: from the first one."""
    floor: Floor = Floor()
    figures: Figures = {}
    figures_at_id: Figures = {}
    told: frozenset[tuple[str, str]] = frozenset()
    """Types and statuses of the life-cycle events so far."""
    unknown: dict[str, int] = {}
    """How many events there were of each type that is not known."""
    unknown_at_id: dict[str, int] = {}
    done: bool = False
    """Its last event, `interaction.completed`, has been delivered."""

    def __repr__(self) -> str:
        return f"<Place {self.sequence} of {self.interaction_id}>"

    @property
    def cursor(self) -> str:
        """The place as a string, from which `Place.parse` makes it again; made at each use."""
        floor = self.floor
        fields = (
            self.interaction_id,
            self.attempt,
            self.sequence,
            self.event_id,
            (floor.sequence, floor.closed.below, sorted(floor.closed.more)),
            _listed(self.figures),
            _listed(self.figures_at_id),
            sorted(self.told),
            sorted(floor.told),
            [dict(sorted(each.items())) for each in (self.unknown, self.unknown_at_id, floor.unknown)],
            self.done,
        )
        data = msgspec.json.encode(fields)
        data += b"%08x" % crc32(data)
        return _PREFIX + urlsafe_b64encode(data).decode("ascii").rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Place:
        """Make a place of its cursor; raises `ValueError`, which says what is wrong."""
        if not is_cursor(text):
            raise ValueError("is no cursor: give StreamEvent.cursor as it is, or an interaction's id")
        raw = text[len(_PREFIX) :]
        try:
            kept = _kept(urlsafe_b64decode(raw + "=" * (-len(raw) % 4)))
        except (ValueError, binascii.Error):
            raise ValueError("is a damaged cursor: give StreamEvent.cursor as it is, uncut") from None
        return cls(
            interaction_id=kept.interaction_id,
            attempt=kept.attempt,
            sequence=kept.sequence,
            event_id=kept.event_id,
            floor=Floor(
                kept.floor[0],
                Closed(kept.floor[1], frozenset(kept.floor[2])),
                kept.told_at_floor,
                kept.unknown[2],
            ),
            figures=_figures(kept.figures),
            figures_at_id=_figures(kept.figures_at_id),
            told=kept.told,
            unknown=kept.unknown[0],
            unknown_at_id=kept.unknown[1],
            done=kept.done,
        )


_Listed = list[tuple[int, str, int, int]]


class _Kept(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What a cursor holds."""

    interaction_id: str
    attempt: int
    sequence: int
    event_id: str | None
    floor: tuple[int, int, list[int]]
    figures: _Listed
    figures_at_id: _Listed
    told: frozenset[tuple[str, str]]
    told_at_floor: frozenset[tuple[str, str]]
    unknown: tuple[dict[str, int], dict[str, int], dict[str, int]]
    done: bool


def _kept(data: bytes) -> _Kept:
    if b"%08x" % crc32(data[:-8]) != data[-8:]:
        raise ValueError("another checksum")
    return msgspec.json.decode(data[:-8], type=_Kept)


def _listed(figures: Figures) -> list[tuple[int, str, int, int]]:
    return sorted((index, kind, count, crc) for (index, kind), (count, crc) in figures.items())


def _figures(listed: _Listed) -> Figures:
    return {(index, kind): (count, crc) for index, kind, count, crc in listed}


def is_cursor(text: str) -> bool:
    """Whether a string is meant as a cursor."""
    return text.startswith(_PREFIX)


def told_of(data: dict[str, Any]) -> tuple[str, str] | None:
    """Return the type and status of an event of the interaction's life cycle; `None` for other events."""
    kind = data.get("event_type")
    if isinstance(kind, str) and kind.startswith("interaction.") and kind != COMPLETED:
        return kind, status_of(data)
    return None


class Tracker:
    """Counts what is delivered of one interaction. Used under the session's lock."""

    __slots__ = (
        "_at_id",
        "_calls",
        "_copied",
        "_done",
        "_figures",
        "_floor",
        "_open",
        "_stopped",
        "_told",
        "_unknown",
        "_unknown_at_id",
        "attempt",
        "event_id",
        "interaction_id",
        "mismatches",
        "sequence",
    )

    attempt: int
    """Set by the stream."""
    sequence: int
    """The next event's sequence number."""
    event_id: str | None
    """The newest id to resume from."""
    mismatches: int
    """Replays that contradicted what was delivered."""

    def __init__(self, place: Place) -> None:
        self.interaction_id = place.interaction_id
        self.attempt = place.attempt
        self.mismatches = 0
        self._set(place)

    def _set(self, place: Place) -> None:
        self.sequence = place.sequence
        self.event_id = place.event_id
        self._floor = place.floor
        self._figures = place.figures.copy()
        self._copied: Figures | None = place.figures
        self._at_id = place.figures_at_id
        self._told = place.told
        self._unknown = place.unknown
        self._unknown_at_id = place.unknown_at_id
        self._done = place.done
        self._stopped = {index for index, kind in place.figures if kind == "stop"}
        self._open = {index for index, _ in place.figures} - self._stopped
        self._calls = {
            index for index, kind in place.figures if kind in ("function_call", "arguments")
        } - self._stopped

    def place(self) -> Place:
        """Return the place behind what has been delivered."""
        figures = self._copied
        if figures is None:
            figures = self._copied = self._figures.copy()
        return Place(
            self.interaction_id,
            self.attempt,
            self.sequence,
            self.event_id,
            self._floor,
            figures,
            self._at_id,
            self._told,
            self._unknown,
            self._unknown_at_id,
            self._done,
        )

    def delivered(self, data: dict[str, Any]) -> None:
        """Take the next event that is delivered."""
        self.sequence += 1
        self._copied = None
        try:
            delta = data["delta"]
            text = delta["text"]
            if delta["type"] == "text" and len(delta) == 2 and data["event_type"] == DELTA and text.isascii():
                key = (data["index"], "text")
                length, crc = self._figures[key]
                self._figures[key] = (length + len(text), crc32(text.encode(), crc))
            else:
                self._take(data)
        except (KeyError, TypeError, AttributeError):
            self._take(data)
        if "event_id" in data and not self._calls:
            event_id = data["event_id"]
            if isinstance(event_id, str) and event_id:
                self.event_id = event_id
                self._at_id = self._copied = self._figures.copy()
                self._unknown_at_id = self._unknown

    def _take(self, data: dict[str, Any]) -> None:
        kind, index = data.get("event_type"), index_of(data)
        if index is not None and kind in (START, DELTA, STOP):
            if index not in self._floor.closed:
                for unit in units_of(data):
                    self._count(index, unit.kind, unit.value)
        elif (told := told_of(data)) is not None:
            self._told |= {told}
        elif kind == COMPLETED:
            self._done = True
        else:
            name = str(kind)
            self._unknown = {**self._unknown, name: self._unknown.get(name, 0) + 1}
        if not self._open:
            self._floor = Floor(
                self.sequence, self._floor.closed.and_also(self._stopped), self._told, self._unknown
            )
            self._stopped.clear()
            self._figures.clear()
            self._at_id = {}

    def _count(self, index: int, kind: str, value: Any) -> None:
        figures = self._figures
        count, crc = figures.get((index, kind), (0, 0))
        if kind in STRINGS:
            length, raw = measured(value)
            figures[index, kind] = (count + length, crc32(raw, crc))
        else:
            figures[index, kind] = (count + 1, digest(value, crc))
        if kind == "stop":
            self._open.discard(index)
            self._calls.discard(index)
            self._stopped.add(index)
        elif index not in self._stopped:
            self._open.add(index)
            if kind in ("function_call", "arguments"):
                self._calls.add(index)

    def back_to_floor(self) -> int:
        """Take back what was delivered since no step was open, and forget the id; return the next sequence number."""
        floor = self._floor
        self._set(
            Place(
                self.interaction_id,
                sequence=floor.sequence,
                floor=floor,
                told=floor.told,
                unknown=floor.unknown,
            )
        )
        return floor.sequence

    def back_to_start(self) -> int:
        """Take everything back; return 0."""
        self._set(Place(self.interaction_id))
        return 0

    def contradicted(self) -> int | None:
        """Take note of a replay that contradicts what was delivered; return what the next attempt begins with.

        `None`, the first time: nothing is void, and the next GET is from the first event. The second time the sequence
        number of the floor, from then on 0: events from that number on are void.
        """
        self.mismatches += 1
        if self.mismatches == 1:
            return None
        return self.back_to_floor() if self.mismatches == 2 else self.back_to_start()
