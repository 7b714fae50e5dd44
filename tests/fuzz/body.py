"""An answer's body: pieces written as server-sent events, in every way that the rules of SSE allow.

Pure. A `Body` knows where in its bytes the answer is finished and where it is spoilt, so that whoever cuts it knows
what a client can still have made of the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from fuzz.content import Piece

__all__ = ["Body", "written"]


@dataclass(frozen=True)
class Body:
    """The bytes of a body, not yet coded or framed."""

    data: bytes
    events: int
    """Events that a client has to deliver, where nothing is spoilt."""
    finished_at: int | None
    """Bytes up to the end of the first event that finishes the answer; `None`: it never does."""
    spoilt_at: int | None
    """Bytes up to where an error, or what nobody can read, is surely seen; `None`: nothing is spoilt."""

    def can_complete(self, received: bytes | int) -> bool:
        """Whether a client that got so many bytes, or these, can hold the answer for whole."""
        count = received if isinstance(received, int) else len(received)
        finished = self.finished_at is not None and count >= self.finished_at
        spoilt = self.spoilt_at is not None and count >= self.spoilt_at
        return finished and not spoilt


_BETWEEN = (
    ": a comment",
    ":",
    "event: message",
    "event",
    "id: 5",
    "id",
    "id: \x00",
    "id: " + "i" * 3000,
    "retry: 10",
    "retry: x",
    "retry: " + "9" * 5000,
    "retry:",
    "retry: -1",
    "retry: \u0663",
    "unknown: field",
    "another",
)


def written(rng: Random, pieces: Sequence[Piece], odd: float) -> Body:
    """Write the pieces; `odd`: how often a line is not written in the usual way."""
    style = "\r\n"
    if rng.random() < max(odd, 0.2):
        style = rng.choice(["\n", "\r", "\r\n", "mixed"])
    out = bytearray()
    if rng.random() < odd:
        out += b"\xef\xbb\xbf"

    def line(text: str) -> None:
        end = style if style != "mixed" else rng.choice(["\n", "\r\n"])
        out.extend((text + end).encode("utf-8"))

    events = 0
    finished_at = spoilt_at = None
    for number, piece in enumerate(pieces):
        for _ in range(rng.choice([0, 0, 1, 3]) if rng.random() < odd else 0):
            line(rng.choice(_BETWEEN))
        name = "" if piece.stray else rng.choice(["data: ", "data: ", "data:"] if odd else ["data: "])
        if piece.payload == "" and rng.random() < 0.5:
            name = "data"
        rows = piece.payload.split("\n")
        whole_at = 0
        for row in rows:
            line(name + row)
            whole_at = len(out) - 2  # the line's own end may be missing: what is whole is whole
            if not piece.stray and len(rows) > 1 and rng.random() < odd * 0.3:
                line(rng.choice(_BETWEEN))
        if piece.meaning in ("event", "finish"):
            events += 1
        if piece.meaning == "finish" and finished_at is None:
            finished_at = whole_at
        last = number == len(pieces) - 1
        if not (last and rng.random() < odd):
            line("")
            if rng.random() < odd * 0.3:
                line("")
        if piece.meaning in ("error", "bad") and spoilt_at is None:
            spoilt_at = len(out)
    return Body(bytes(out), events, finished_at, spoilt_at)
