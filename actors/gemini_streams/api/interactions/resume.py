"""How a resumed interaction goes on exactly: what of each event of a replay is new. Pure.

Built on one fact: a GET behind an event's id begins exactly behind that event. Ids are optional, and a replay may be
cut into other deltas than the live stream. So a replay is compared with the place (`place`), by unit (`units`).

The rules. `want` is the place's figures less the figures at its id, or all of them for a GET from the first event:

    in the replay                                   is
    a unit of a step that had stopped at the floor  skipped
    a unit not in `want`                            new; a contradiction if its step's stop was delivered
    a string                                        skipped to the length in `want`, where the checksum is compared;
                                                    the rest is new
    something whole, a start, a stop                skipped and counted; compared where the count is full
    stop(i) while `want` holds something else of i  a contradiction
    completed while `want` holds anything           a contradiction; skipped where it was delivered
    an event of which nothing is new                no event; its token counts are still the caller's to read
    an event of which a part is new                 a changed event with the rest; a start's rest is step.delta events
    created, status_update and the like             passed once for each type and status, until the first new unit
    an unknown event type                           as many as were delivered since the id are skipped, until then
    error                                           never passed: look at the resource

Everything behind the first new unit passes once `want` is empty: `passing` says so.

A contradiction is `Contradiction`. `Tracker.contradicted` says what follows. What this cannot see is a server that
rewrites steps that have stopped, or content that it does not replay.

How a stream uses it::

    tracker = Tracker(Place(interaction_id))            # or Place.parse(cursor)
    replay = Replay(tracker.place())                    # each GET: behind replay.event_id, None: from the first event
    for data in events:                                 # decoded JSON; halves: json_values.read said so
        for new, changed in replay.take(data, halves=False):
            tracker.delivered(new)                      # in the moment in which it goes out
            place = tracker.place()                     # place.cursor, where a subscriber reads it
    rest_of(tracker.place(), resource)                  # `rest`: the rest from the resource, as events

`changed` events are to be encoded again for the history. An `event_id` on an event from `take` is one to resume from;
where that is not so, `take` has taken it off.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

from gemini_streams.api.interactions.place import Place, told_of
from gemini_streams.api.interactions.units import (
    COMPLETED,
    DELTA,
    START,
    STOP,
    STRINGS,
    Halves,
    Unit,
    delta_event,
    digest,
    index_of,
    measured,
    split,
    units_of,
)

__all__ = ["Contradiction", "Replay"]


class Contradiction(Exception):  # noqa: N818 - what it is; the stream's error for it is another
    """A replay, or a resource, is not what was delivered; the text says where, and holds no content."""


class Replay:
    """Reads the events of one GET's stream. `from_first`: that GET ignores the place's event id."""

    __slots__ = (
        "_closed",
        "_done",
        "_fresh",
        "_halves",
        "_skip",
        "_stopped",
        "_told",
        "_want",
        "event_id",
        "passing",
    )

    event_id: str | None
    """The id behind which to ask; `None`: from the first event."""
    passing: bool
    """Whether the next event passes as it is, unless it is an error or has half a character."""

    def __init__(self, place: Place, *, from_first: bool = False) -> None:
        self.event_id = None if from_first else place.event_id
        behind = self.event_id is not None
        at_id = place.figures_at_id if behind else {}
        self._want = {
            key: [figure[0] - at_id.get(key, (0, 0))[0], at_id.get(key, (0, 0))[1], figure[1]]
            for key, figure in place.figures.items()
            if figure[0] > at_id.get(key, (0, 0))[0]
        }
        seen = place.unknown_at_id if behind else {}
        self._skip = {name: count - seen.get(name, 0) for name, count in place.unknown.items()}
        self._stopped = {index for index, kind in place.figures if kind == "stop"}
        self._closed = place.floor.closed
        self._told = place.told
        self._done = place.done
        self._fresh = False  # a unit was new
        self._halves = Halves()
        self.passing = False

    def take(self, data: dict[str, Any], *, halves: bool = False) -> list[tuple[dict[str, Any], bool]]:
        """Return the new events that an event amounts to, and for each whether it is another than came.

        `halves`: its texts may have half characters. Then the event is changed in place. Raises `Contradiction`.
        """
        found = self._taken(data, halves=halves)
        self.passing = self._fresh and not self._want and not self._halves.held
        return found

    def _taken(self, data: dict[str, Any], *, halves: bool) -> list[tuple[dict[str, Any], bool]]:
        kind = data.get("event_type")
        if kind == "error":
            return []
        if halves or self._halves.held:
            found: list[tuple[dict[str, Any], bool]] = []
            for each in self._halves.mend(data):
                found += [(new, True) for new, _ in self._new(each)]
            return found
        return [(data, False)] if self._fresh and not self._want else self._new(data)

    def _new(self, data: dict[str, Any]) -> list[tuple[dict[str, Any], bool]]:
        if self._fresh and not self._want:
            return [(data, False)]
        kind, index = data.get("event_type"), index_of(data)
        if index is not None and kind in (START, DELTA, STOP):
            return self._of_step(data, index)
        if kind == COMPLETED:
            if self._done:
                return []
            if self._want:
                raise Contradiction("the replay ends before what was delivered")
            return [(data, False)]
        if self._fresh:
            return self._without_id(data)
        told = told_of(data)
        if told is not None:
            if told in self._told:
                return []
            self._told |= {told}
        elif self._skip.get(str(kind), 0) > 0:
            self._skip[str(kind)] -= 1
            return []
        return self._without_id(data)

    def _without_id(self, data: dict[str, Any]) -> list[tuple[dict[str, Any], bool]]:
        """Pass an event; its id is no place to resume from while something is left to skip."""
        if self._want and "event_id" in data:
            return [({name: value for name, value in data.items() if name != "event_id"}, True)]
        return [(data, False)]

    def _of_step(self, data: dict[str, Any], index: int) -> list[tuple[dict[str, Any], bool]]:
        units = units_of(data)
        if index in self._closed:
            return []
        new: list[tuple[Unit, str | None]] = []
        for unit in units:
            rest = self._rest_of(index, unit)
            if rest is not None:
                if index in self._stopped:
                    raise Contradiction(f"step {index} goes on behind its stop")
                self._fresh = True
                new.append((unit, rest if rest is not True and rest != unit.value else None))
        if not new:
            return []
        if len(new) == len(units) and all(rest is None for _, rest in new):
            return self._without_id(data)
        made = [delta_event(index, unit, rest) for unit, rest in new]
        beside = ("event_type", "index", "step", "delta") + (("event_id",) if self._want else ())
        made[-1].update({name: value for name, value in data.items() if name not in beside})
        return [(each, True) for each in made]

    def _rest_of(self, index: int, unit: Unit) -> Any:
        """Return what of a unit is new: a string's rest, or the value of something whole; `None`: nothing."""
        kind, key = unit.kind, (index, unit.kind)
        whole: Any = unit.value if kind in STRINGS else True
        want = self._want.get(key)
        if kind == "stop" and any(other[0] == index and other != key for other in self._want):
            raise Contradiction(f"step {index} stops before what was delivered of it")
        if want is None:
            return whole
        left, crc, target = want
        rest: Any = None
        if kind in STRINGS:
            length, raw = measured(whole)
            if length > left:
                first, rest = split(whole, left)
                length, raw = measured(first)
            crc = crc32(raw, crc)
        else:
            length, crc = 1, digest(unit.value, crc)
        want[0], want[1] = left - length, crc
        if not want[0]:
            if crc != target:
                raise Contradiction(f"the {kind} of step {index} is not what was delivered")
            del self._want[key]
        return rest
