"""Places of one key at one endpoint: never more are taken than there are, and each line is served in order."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gemini_streams.streams.places import Place, Places

LIMITS = {"a": 1, "b": 2}
STREAMS = st.integers(0, 11)
PLACES: Any = st.tuples(st.sampled_from(["here", "there"]), st.sampled_from(["a", "b", "free"]))


class Lines(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.places = Places(LIMITS)
        self.having: dict[int, Place] = {}
        self.waiting: dict[Place, list[int]] = {}

    def wake(self, stream: int, place: Place) -> None:
        line = self.waiting[place]
        assert line.pop(0) == stream
        self.having[stream] = place

    def leave(self, stream: int) -> None:
        self.having.pop(stream, None)
        for line in self.waiting.values():
            if stream in line:
                line.remove(stream)

    @rule(stream=STREAMS, place=PLACES)
    def take(self, stream: int, place: Place) -> None:
        before = self.having.get(stream)
        waits = stream in self.waiting.get(place, [])
        if before != place and not waits:
            self.leave(stream)
        has = self.places.take(stream, place, lambda: self.wake(stream, place))
        if place[1] == "free" or before == place:
            assert has
        elif waits:
            assert not has
        elif has:
            assert not self.waiting.get(place)
            self.having[stream] = place
        else:
            self.waiting.setdefault(place, []).append(stream)

    @rule(stream=STREAMS)
    def give_up(self, stream: int) -> None:
        self.leave(stream)
        self.places.give_up(stream)

    @invariant()
    def none_is_lost(self) -> None:
        for where in ("here", "there"):
            for key, limit in LIMITS.items():
                taken = sum(place == (where, key) for place in self.having.values())
                assert taken <= limit
                assert taken == limit or not self.waiting.get((where, key))
        running, queued = self.places.figures()
        for key in LIMITS:
            assert running[key] == sum(place[1] == key for place in self.having.values())
            assert queued[key] == sum(len(line) for place, line in self.waiting.items() if place[1] == key)


TestLines = Lines.TestCase
