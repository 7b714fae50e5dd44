"""Guarantee 6 over what one probe received of an interaction: the content of each event once, in order. Pure.

What one history can show:

- Each step starts once, says nothing before its start or behind its stop, and stops once. `interaction.created` comes
  once, and nothing of the answer behind `interaction.completed`.
- A break of one that can be resumed voids nothing: `resume_at` is the next sequence number, except where the server
  has contradicted itself or has forgotten the interaction.
- An answer that is complete has no step open.
- Where the test knows the steps (`steps`), what stands is those steps, no letter more or less.

For a subscriber that has not received the stream from its beginning, the steps that it saw the start of are judged.
Where flow control has left events out, whatever they may have said counts as said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gemini_streams.api.chosen import Said, said_by, steps_of
from gemini_streams.errors import InteractionGoneError, ReplayMismatchError
from gemini_streams.messages import EventsDropped, LastMessage, StreamComplete, StreamEvent, StreamRestarting

__all__ = ["OnceOnly"]

Wrong = Callable[[int, str], None]


class OnceOnly:
    """One stream's events, one after another."""

    def __init__(self, steps: Sequence[dict[str, Any]] | None, *, whole: bool) -> None:
        self._steps = steps
        self._whole = whole
        self._marks: list[tuple[int, str, int]] = []  # (sequence, event type, step) of what stands
        self._said: list[tuple[int, Said]] = []
        self._gaps: list[int] = []  # the first sequence number of each gap that stands
        self.seen = False
        """Whether it is an interaction's stream."""
        self.goes_on = False
        """Whether the interaction can be resumed."""

    def event(self, event: StreamEvent, wrong: Wrong) -> None:
        """Take an event."""
        kind = event.event_type
        if kind is None:
            return
        self.seen = True
        self.goes_on = event.cursor is not None
        index = event.data.get("index", -1)
        before = [mark[1] for mark in self._marks if mark[2] == index]
        if any(mark[1] == "interaction.completed" for mark in self._marks):
            wrong(6, f"{kind} behind interaction.completed")
        if kind == "interaction.created" and kind in before:
            wrong(6, "interaction.created a second time")
        if kind == "step.start" and before:
            wrong(6, f"step {index} starts a second time")
        if kind in ("step.delta", "step.stop"):
            if "step.stop" in before:
                wrong(6, f"{kind} behind the stop of step {index}")
            elif "step.start" not in before and self._whole and not self._gaps:
                wrong(6, f"{kind} before the start of step {index}")
        if kind != "step.delta":
            self._marks.append((event.sequence, kind, index))
        said = said_by(event.data)
        if said is not None:
            self._said.append((event.sequence, said))

    def dropped(self, dropped: EventsDropped) -> None:
        """Take a gap."""
        self._gaps.append(dropped.first_sequence)

    def restarting(self, restart: StreamRestarting, expected: int | None, wrong: Wrong) -> None:
        """Take a restart; `expected`: the next sequence number."""
        if (
            self.goes_on
            and expected is not None
            and restart.resume_at < expected
            and not isinstance(restart.error, ReplayMismatchError | InteractionGoneError)
        ):
            wrong(
                6, f"a break voids what lies behind {restart.resume_at}; an interaction goes on at {expected}"
            )
        self._marks = [mark for mark in self._marks if mark[0] < restart.resume_at]
        self._said = [said for said in self._said if said[0] < restart.resume_at]
        self._gaps = [first for first in self._gaps if first < restart.resume_at]

    def end(self, last: LastMessage, wrong: Wrong) -> None:
        """Take the last message."""
        if not self.seen or self._gaps or not isinstance(last, StreamComplete):
            return
        started = {index for _, kind, index in self._marks if kind == "step.start"}
        stopped = {index for _, kind, index in self._marks if kind == "step.stop"}
        if last.ok and started - stopped:
            wrong(6, f"the interaction is complete, and step {min(started - stopped)} has no stop")
        if self._steps is not None and last.ok:
            have = steps_of(said for _, said in self._said)
            if have != list(self._steps):
                wrong(6, f"the steps that stand are not those of the interaction: {len(have)} steps")
