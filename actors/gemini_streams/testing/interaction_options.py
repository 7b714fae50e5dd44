"""`Interaction`: how a `Reply` behaves as an interaction, and what the service does wrong with it. Data alone.

The rules:

- A `Reply` answers both APIs. Its own fields (`pace`, `hold_after`, `error_after`, `end`, …) count events of the run:
  `interaction.created` is the first one.
- `Reply(end=, end_after=, error_after=)` shape the first stream of an interaction; the run goes on behind it. The
  fields here shape the later streams too, and the other requests of that interaction.
- `Reply(interaction=Interaction(...))` is for one answer, `LocalGemini(interaction=Interaction(...))` for all answers
  that have none of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["CutBy", "Ids", "Interaction"]

Ids = Literal["all", "first", "none"] | int | Callable[[Mapping[str, Any]], bool]
CutBy = Literal["array", "clean", "cut", "reset", "silent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """How a reply behaves as an interaction; by default nothing goes wrong. Times are seconds.

    The streams of one interaction are counted from 1: the POST's own where it asked for one, then each GET's.
    """

    status: str | None = None
    """The status at its end. `None`: `requires_action` behind function calls, else by the `finish_reason`: `STOP` is
    `completed`, `MAX_TOKENS` is `incomplete`, `CONTINUATION` is `requires_continuation`, others are `failed`. A
    `finish_reason` of `None` ends the streams without `interaction.completed`, and it stays `in_progress`."""
    ids: Ids = "all"
    """The events with an `event_id`: all, each `step.start` (`"first"`), none, every n-th, or those for which a
    callable of the event's JSON returns true. It runs in the server's thread. Without `store` no event has one."""
    replay: Literal["same", "merged"] | int = "same"
    """How the streams behind the first one cut what has been sent before: the same, with deltas merged as far as the
    next id, or with their strings split into pieces of this many characters. A boundary at each id is kept."""
    cuts: Sequence[int] = ()
    """After how many of its events the first stream is cut, the second, and so on; those behind them are not."""
    cut_at: int | None = None
    """Cut every stream at this place: in front of the run's event of this number, from 0."""
    cut_seconds: float | None = None
    """Cut every stream this long after its headers."""
    cut_by: CutBy = "array"
    """What stands at those cuts. `"array"`: a bare JSON array with a 503 over several lines, then the body's clean end;
    `"clean"`: that end alone; the others are those of `Reply.end`."""
    resume_silent_after: int | None = None
    """Each stream behind the first one sends this many events, and nothing more until the client leaves."""
    zombie_after: int | None = None
    """The run makes this many events and no more: it stays `in_progress`, and its resource has no steps."""
    forget_after: int | None = None
    """After this many GETs every later request for this interaction is answered 404; 0: from the POST's answer on."""
    gets: Sequence[Any] = ()  # of Failure, Body, Raw or None: `replies` imports this module
    """The answer of its first GET, its second, and so on, with a stream or without; `None`: the ordinary one. None of
    these opens a stream. `[Failure(404)]` is an interaction that cannot be found at first."""
    usage_late: float | None = None
    """`interaction.completed` has no usage; the resource has it this long after the end."""
    string_codes: bool = False
    """The `code` of an error is a string (`"deadline_exceeded"`), in `error` events and in answers. The answers that
    belong to no `Reply` go by the server's own options."""
    no_background: bool = False
    """A POST with `background` is refused with a 400 that advises `background=false`."""
    post_lost: bool = False
    """The POST is carried out, and its connection is reset in place of an answer."""
    cancel_lag: float = 0.0
    """The run is cancelled this long after the cancel request, whose answer still has the old status."""
    text_in_start: bool = True
    """The `step.start` of an answer's text has the first piece of it."""
    event_lines: bool = True
    """Each event has its `event:` line."""
    done: bool = True
    """`data: [DONE]` follows `interaction.completed`."""
