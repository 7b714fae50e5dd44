"""Where a stream is with its interaction: the resume point that it keeps, and what follows an attempt that has failed.

The rules:

- A resumable interaction is begun by a POST that is answered at once with an id. From then on the stream only looks: at
  the interaction's stream, or at the resource (`look`).
- The first event that a broken stream goes on with is the one behind its place (`place`, `resume`). `first`: the server
  is asked from the interaction's first event on, and what was delivered is skipped.
- The policy counts the attempts that got nowhere. Behind one that has got on the next begins at once.
- A silence while the server says that it works is bounded by `max_silence` alone. The looks stand 1 s apart, then 2, up
  to 30.
- At a second contradiction the open steps become void, at a third everything. Each spends an attempt.
- An interaction that the server has forgotten is begun anew where this stream had begun it.

Pure.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from gemini_streams.api.interactions.place import Place, Tracker
from gemini_streams.api.protocol import Onward
from gemini_streams.errors import GeminiStreamsError, InteractionGoneError, ReplayMismatchError

__all__ = ["Course", "onward"]


class Course(NamedTuple):
    """Where a stream is. Immutable."""

    interaction_id: str
    place: Place
    began: float = 0.0
    """When it was asked for; this and all times are monotonic seconds."""
    given: bool = False
    """It was begun elsewhere: it is never begun anew."""
    opened: bool = False
    """A stream of it has been opened."""
    look: bool = False
    """The next call looks at the resource."""
    first: bool = False
    """The next stream is asked for from the first event."""
    why: GeminiStreamsError | None = None
    """What made the look necessary."""
    mismatches: int = 0
    """Contradictions so far."""
    breaks: int = 0
    """Breaks in a row at the same place."""
    looks: int = 0
    """Looks in a row that have found it in progress with nothing new."""
    stamp: tuple[Any, int] | None = None
    """What the latest look has found: `updated`, and how many steps."""
    news: float = 0.0
    """When something new was last seen of it."""
    pause: float | None = None
    """Seconds until the next attempt, which is not counted."""
    usage: dict[str, Any] | None = None
    status: str | None = None
    """How it has ended, where its tokens are still looked for."""
    hop: str | None = None
    """The token with which a foreground interaction goes on."""
    steps: int = 0
    """Its steps before that."""


def onward(course: Course, resume_at: int, error: GeminiStreamsError, *, got_on: bool) -> Onward:
    """Decide where the stream goes on behind an attempt that has failed of `error`."""
    if isinstance(error, ReplayMismatchError):
        tracker = Tracker(course.place)
        at = tracker.back_to_floor() if course.mismatches < 3 else tracker.back_to_start()
        return Onward(course._replace(place=tracker.place(), first=True), at, bills=False)
    if isinstance(error, InteractionGoneError) and not course.given:
        return Onward(None, 0)
    if course.pause is not None:
        return Onward(course._replace(pause=None), resume_at, bills=False, counted=False, delay=course.pause)
    if got_on:
        return Onward(course, resume_at, bills=False, counted=False, delay=0.0)
    return Onward(course, resume_at, bills=False)
