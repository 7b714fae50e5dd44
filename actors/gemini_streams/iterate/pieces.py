"""Which text of a stream stands, piece by piece, for a loop that cannot take a piece back. Pure.

The rules:

- Each event's text is a piece; an event without text is none.
- A restart that voids no piece that was given is silent. So every restart before the first piece is.
- A restart that voids a piece raises the error that the attempt failed with, and a gap raises
  `IncompleteAnswerError`: the pieces that were given, and those to come, would be no answer.
"""

from __future__ import annotations

import copy

from gemini_streams.errors import IncompleteAnswerError
from gemini_streams.messages import EventsDropped, StreamEvent, StreamRestarting

__all__ = ["Pieces"]


class Pieces:
    """The text of one stream as its items say it."""

    __slots__ = ("_given",)

    def __init__(self) -> None:
        self._given = -1  # the sequence number of the latest event whose text was given

    def of(self, item: StreamEvent | StreamRestarting | EventsDropped | None) -> str:
        """Return the item's piece of text, `""` where it has none; raises where the pieces given so far are void."""
        match item:
            case StreamEvent():
                text = item.text
                if text:
                    self._given = item.sequence
                return text
            case StreamRestarting():
                if self._given >= item.resume_at:
                    error = copy.copy(item.error)
                    error.add_note(
                        "The stream was started again, and text that text_stream had given is void. Iterate over"
                        " the events where text can be taken back."
                    )
                    raise error
            case EventsDropped():
                raise IncompleteAnswerError(
                    f"{item.count} events were left out by flow control, and text with them"
                )
            case None:
                pass
        return ""
