"""A place in a stream as a short string: which run of it, which attempt, which event. Pure.

The rules:

- A run is one stream from its start to its end. Started again under the same `stream_id` it is another run, whose
  events are others, so a position of one run means nothing in another.
- A position is plain ASCII without spaces: it can be a browser's `Last-Event-ID`. What is in it may change.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from gemini_streams.errors import InvalidRequestError

__all__ = ["Position"]

_TEXT = re.compile(r"([0-9a-f]{8})-([1-9][0-9]{0,8})-(0|[1-9][0-9]{0,15})", re.ASCII)


class Position(NamedTuple):
    """The place behind one event."""

    run: str
    attempt: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.run}-{self.attempt}-{self.sequence}"

    @classmethod
    def of(cls, text: str) -> Position:
        """Read what `str` has written; raises `InvalidRequestError`."""
        found = _TEXT.fullmatch(text)
        if found is None:
            raise InvalidRequestError(
                f"after={text[:60]!r} is no position: give a StreamEvent.position as it is"
            )
        run, attempt, sequence = found.groups()
        return cls(run, int(attempt), int(sequence))
