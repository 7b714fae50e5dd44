"""The calls of an interaction that is not resumable: one POST, answered by its stream, and its further hops. Pure.

The rules:

- A broken stream is asked for anew from the beginning, as streams of generateContent are.
- An interaction that ends with `requires_continuation` goes on in a further hop, by the token that it gave. The
  `interaction.completed` of an earlier hop and the `interaction.created` of a later one are not delivered, and the
  indices of steps go on.
- The end of a stream without `interaction.completed` is no end of the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gemini_streams.api.interactions.course import Course
from gemini_streams.api.interactions.place import Place
from gemini_streams.api.interactions.reader import ENDED, Mark, Reader
from gemini_streams.api.interactions.units import COMPLETED, index_of
from gemini_streams.api.json_values import mend
from gemini_streams.api.protocol import End, Ending
from gemini_streams.errors import GeminiStreamsError

__all__ = ["ForegroundReader"]

_CREATED = "interaction.created"
_CONTINUES = "requires_continuation"


class ForegroundReader(Reader):
    """Of one hop."""

    def __init__(self, room: int, clock: Callable[[], float], course: Course | None) -> None:
        super().__init__(room, clock)
        self._before = course
        self._offset = 0 if course is None else course.steps
        self._highest = self._offset - 1
        self._token: str | None = None
        self.interaction_id = "" if course is None else course.interaction_id
        self.resume: Course | None = None

    def _new(self, data: dict[str, Any]) -> list[tuple[dict[str, Any], bool, Mark]]:
        new = self._passed(data)
        if new is None:
            return []
        if self._halves:
            mend(new)
        return [(new, self._halves or new is not data, (self.interaction_id, None))]

    def _passed(self, data: dict[str, Any]) -> dict[str, Any] | None:
        event_type = data["event_type"]
        if event_type.startswith("step."):
            index = (index_of(data) or 0) + self._offset
            self._highest = max(self._highest, index)
            return {**data, "index": index} if self._offset else data
        interaction = data.get("interaction")
        known = interaction if isinstance(interaction, dict) else data
        token = known.get("continuation_token")
        if isinstance(token, str) and token:
            self._token = token
        elif event_type == COMPLETED:
            self._token = None
        if event_type == _CREATED:
            name = known.get("id")
            self.interaction_id = name if isinstance(name, str) else ""
            self.bound = bool(self.interaction_id)
            return None if self._before is not None else data
        if event_type == COMPLETED and known.get("status") == _CONTINUES and self._token is not None:
            return None
        return data

    def ending(self, *, half_event: bool) -> Ending:
        """Decide what the clean end of the hop is."""
        if self.finish_reason == _CONTINUES and self._token is not None:
            self.resume = Course(
                self.interaction_id,
                Place(self.interaction_id),
                hop=self._token,
                steps=self._highest + 1,
            )
            return Ending(End.CONTINUES)
        if self.finish_reason is not None:
            return self._ended()
        if half_event:
            return Ending(End.TRUNCATED, "the body ended in the middle of an event")
        return Ending(
            End.TRUNCATED, f"the interaction's stream ended after {self.count} events, before its end"
        )

    @property
    def whole(self) -> bool:
        """Whether the answer is whole even if nothing marks the body's end."""
        return self.finish_reason in ENDED and self.broken is None

    def failed(self, error: GeminiStreamsError) -> End:
        """Raise the error; what an ended interaction failed of stands."""
        if not self._decided and self.finish_reason is not None and self.error is None:
            return self.ending(half_event=False).end
        raise error
