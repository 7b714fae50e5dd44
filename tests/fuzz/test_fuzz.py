"""Some seconds of the fuzz run, and what it rests on: plans that repeat, expectations that hold, a judge that sees.

`make fuzz` runs it for minutes; `make fuzz SEED=… CASE=…` runs one case alone. `FUZZ_SEED` gives these tests another
seed.
"""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
import zlib
from random import Random
from typing import Any

import pytest

from fuzz.answer import Answer
from fuzz.body import written
from fuzz.campaign import findings_of
from fuzz.content import Taste, pieces
from fuzz.drive import Evidence
from fuzz.framing import framed
from fuzz.marks import BEHIND, Mark, marks_in
from fuzz.oracle import MOST_MEMORY, judge, reveals
from fuzz.plan import ReaderPlan, answer_to, key_of, make_case
from fuzz.readers import Reader
from fuzz.server import Played
from gemini_streams import APIError, StreamComplete, StreamError, StreamEvent

# CPython's own: a socket that the other side resets between connecting and TLS is left for the garbage collection.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")

SEED = int(os.environ.get("FUZZ_SEED") or 20261126)
CASES = range(12)


@pytest.mark.parametrize("number", CASES)
def test_a_case_has_no_findings(number: int) -> None:
    found = findings_of(SEED, number, small=True, bombs=False)
    assert not found, f"FUZZ_SEED={SEED}, case {number}: {found[:5]}"


# -- the plan --------------------------------------------------------------------------------------------------------


def _digest() -> str:
    whole = [
        (case := make_case(7, number), answer_to(case, 0, 0), answer_to(case, 1, 1)) for number in range(6)
    ]
    return hashlib.sha256(repr(whole).encode()).hexdigest()


def test_a_seed_decides_everything() -> None:
    """Also in another process, whose hashes are others."""
    code = "from fuzz.test_fuzz import _digest; print(_digest())"
    environment = {**os.environ, "PYTHONHASHSEED": "5", "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert told.stdout.decode().strip() == _digest()
    assert make_case(7, 1) != make_case(8, 1) != make_case(8, 2)


def test_a_sound_stream_is_answered_soundly() -> None:
    for number in range(8):
        case = make_case(3, number)
        for stream in case.streams:
            for request in range(4):
                answer = answer_to(case, stream.number, request, bombs=False)
                assert answer.sound or not (stream.taste.sound or request == 3), answer.recipe


# -- what is expected ------------------------------------------------------------------------------------------------


def _dechunked(data: bytes) -> bytes:
    """Return the payload of whole and broken-off chunks."""
    payload = b""
    while b"\r\n" in data:
        line, _, data = data.partition(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        if not size:
            break
        payload += data[:size]
        data = data[size + 2 :]
    return payload


def test_what_a_cut_wire_has_carried() -> None:
    for seed in range(60):
        rng = Random(seed)
        body = rng.randbytes(rng.choice([0, 1, 300, 3000]))
        wire = framed(rng, body, sound=True)
        chunked = b"chunked" in b"".join(wire.headers)
        for at in [0, len(wire.data), *(rng.randrange(len(wire.data) + 1) for _ in range(40))]:
            came = _dechunked(wire.data[:at]) if chunked else wire.data[:at]
            assert wire.carried(at) == len(came), (seed, at)


def test_a_body_knows_where_its_answer_is_whole() -> None:
    for seed in range(60):
        rng = Random(seed)
        taste = Taste(odd=0.5, usage=0.5, hops=False, sound=True)
        found = pieces(rng, taste, Mark(1, 0, 0, 0, 0), 10_000, may_hop=False)
        body = written(rng, found, 0.5)
        assert body.events == sum(piece.meaning in ("event", "finish") for piece in found)
        assert body.finished_at is not None
        assert body.can_complete(len(body.data))
        assert not body.can_complete(body.finished_at - 1)
        seen = marks_in(body.data.decode())
        assert {mark.event for mark in seen} == set(range(body.events))


# -- the judge -------------------------------------------------------------------------------------------------------


def test_a_mark_that_was_damaged_is_none() -> None:
    mark = Mark(3, 1, 4, 1, 5)
    assert marks_in(f"a{mark}b {mark}") == [mark, mark]
    assert marks_in(str(mark).replace("-4-", "-5-")) == []


@pytest.mark.parametrize(
    "shown",
    [
        "{key}",
        "%41%49%7a%61%46%75%7a%7a%30%30%30%30%30%30%30%31%54%65%6e%61%6e%74%30%30%5f",
        "&#65;&#73;&#122;&#97;&#70;",
    ],
)
def test_a_key_is_seen_in_every_coding(shown: str) -> None:
    key = key_of(1, 0)
    if shown.startswith("%"):
        shown = "".join(f"%{ord(c):02x}" for c in key)
    elif shown.startswith("&"):
        shown = "".join(f"&#{ord(c)};" for c in key)
    assert reveals(f"what the server said: {shown.format(key=key)}", key)
    assert not reveals("what the server said: [key]", key)


class _Scene:
    """Evidence made by hand: one stream of a case, and what its subscriber has received."""

    def __init__(self, *, sound: bool) -> None:
        self.case, self.stream, self.answer = self._find(sound)
        self.reader = Reader(self.stream, ReaderPlan("plain"))
        self.reader.due = True
        self.evidence = Evidence(self.case, False, [self.reader], {self.stream})
        self.evidence.played = [Played(self.stream, 0, self.answer, 1, whole=True)]
        self.mark = Mark(self.case.number, self.case.streams[self.stream].tenant, self.stream, 0, 0)

    @staticmethod
    @functools.cache
    def _find(sound: bool) -> tuple[Any, int, Answer]:
        for number in range(100):
            case = make_case(5, number)
            for stream in case.streams:
                answer = answer_to(case, stream.number, 0, bombs=False)
                plain = (
                    stream.overflow == "pause"
                    and not case.rough
                    and case.stop_at is None
                    and not any(deed.stream == stream.number for deed in case.deeds)
                )
                if (
                    plain
                    and answer.framed
                    and answer.intact
                    and answer.sound is sound is stream.taste.sound
                    and not answer.hops
                ):
                    if sound and answer.events > 1:
                        return case, stream.number, answer
                    if not sound and not answer.can_complete:
                        return case, stream.number, answer
        raise AssertionError("no such case")

    def event(self, sequence: int, mark: Mark | None = None, attempt: int = 1) -> StreamEvent:
        data = {"responseId": str(mark or self.mark._replace(event=sequence))}
        return StreamEvent(str(self.stream), attempt, sequence, data)

    def complete(self, count: int) -> StreamComplete:
        return StreamComplete(str(self.stream), count, "STOP", None, None, 1, 1.0, 0.1)

    def found(self, *messages: Any) -> str:
        for message in messages:
            self.reader.record.add(message)
        return "\n".join(judge(self.evidence))


def test_a_right_history_has_no_findings() -> None:
    scene = _Scene(sound=True)
    events = [scene.event(number) for number in range(scene.answer.events)]
    assert scene.found(*events, scene.complete(len(events))) == ""


def test_foreign_bytes_are_found() -> None:
    scene = _Scene(sound=True)
    assert "another tenant" in scene.found(scene.event(0, scene.mark._replace(tenant=9, stream=99)))
    scene = _Scene(sound=True)
    assert "another stream" in scene.found(scene.event(0, scene.mark._replace(stream=99, event=BEHIND)))
    scene = _Scene(sound=True)
    assert "stood behind" in scene.found(scene.event(0, scene.mark._replace(event=BEHIND)))


def test_events_that_are_missing_are_found() -> None:
    scene = _Scene(sound=True)
    assert "has no last message" in scene.found(scene.event(0))
    scene = _Scene(sound=True)
    told = scene.found(scene.event(0), scene.event(1, scene.mark._replace(event=5)), scene.complete(2))
    assert "beside what came before it" in told
    assert "told that the answer is whole; of its" in told


def test_an_answer_that_is_not_whole_is_found() -> None:
    assert "and it is not" in _Scene(sound=False).found(_Scene(sound=False).complete(0))


def test_an_error_of_a_sound_answer_and_a_key_in_it_are_found() -> None:
    scene = _Scene(sound=True)
    error = APIError(500, "", f"page: {zlib.crc32(b'')} {key_of(scene.case.number, 0)}")
    told = scene.found(StreamError(str(scene.stream), error, 0, None, 1, 1.0))
    assert "failed though all answers were sound" in told
    assert "an error shows a key" in told


def test_memory_and_what_was_seen_on_the_way_are_found() -> None:
    scene = _Scene(sound=True)
    scene.evidence.grown = MOST_MEMORY + 1
    scene.evidence.wrong.append("left behind: a thread")
    told = scene.found(scene.event(0))
    assert "memory grew" in told
    assert "left behind" in told
