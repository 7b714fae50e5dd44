"""Answer: one stream's messages folded into what most callers want, restarts and voided attempts included.

The rules:

- A `StreamRestarting` voids what lies at or behind its `resume_at`, and nothing before it.
- Nothing is missing in silence here either: a gap, told by `EventsDropped` or made by joining late, keeps an answer
  from being `ok`, unless a restart voids it and the events come after all.
- Texts are put together when they are read, each event once, so that a caller may look after every event.
"""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any

from gemini_streams.errors import GeminiStreamsError
from gemini_streams.gemini.generate import candidate_of, parts_of
from gemini_streams.messages import (
    EventsDropped,
    LastMessage,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
    SubscriberMessage,
)

__all__ = ["Answer"]


class _Joined:
    """A text that is put together from events, each read once."""

    __slots__ = ("_read", "_text", "_upto")

    def __init__(self, read: Callable[[StreamEvent], str]) -> None:
        self._read = read
        self._text = ""
        self._upto = 0

    def of(self, events: list[StreamEvent]) -> str:
        if self._upto < len(events):
            # A local name, and no other, holds the text while it grows: CPython then extends it in place.
            text, self._text = self._text, ""
            text += "".join([self._read(event) for event in events[self._upto :]])
            self._text, self._upto = text, len(events)
        return self._text

    def void(self, stands: int) -> None:
        if self._upto > stands:
            self._text, self._upto = "", 0


class Answer:
    """The answer of one stream, as far as it stands. `add()` it every message that a subscriber receives.

    The first message says which stream it is. Not thread-safe: made for one actor, or one loop.
    """

    __slots__ = ("_events", "_gaps", "_last", "_next", "_stream_id", "_text", "_thoughts")

    def __init__(self) -> None:
        self._stream_id: str | None = None
        self._events: list[StreamEvent] = []
        self._gaps: list[tuple[int, int]] = []  # (first sequence, count) of what stands and never came
        self._next = 0
        self._last: LastMessage | None = None
        self._text = _Joined(lambda event: event.text)
        self._thoughts = _Joined(lambda event: event.thoughts)

    def __repr__(self) -> str:
        state = "running" if self._last is None else type(self._last).__name__
        return f"<Answer of {self._stream_id}: {len(self._events)} events, {self.missing} missing, {state}>"

    def add(self, message: SubscriberMessage) -> None:
        """Take the next message. What is refused has changed nothing.

        Raises:
            TypeError: it is no message that a stream sends.
            ValueError: it is another stream's, or comes behind the last message.

        """
        if not isinstance(message, SubscriberMessage):
            raise TypeError(
                f"an answer is made of what a stream sends its subscribers, not of {type(message).__name__}"
            )
        if self._stream_id is None:
            self._stream_id = message.stream_id
        elif message.stream_id != self._stream_id:
            raise ValueError(
                f"this answer is stream {self._stream_id}'s and the message stream {message.stream_id}'s:"
                " make an Answer for each stream"
            )
        if self._last is not None:
            raise ValueError(f"stream {self._stream_id} has had its last message: make a new Answer")
        match message:
            case StreamEvent():
                self._expect(message.sequence)
                self._events.append(message)
                self._next = message.sequence + 1
            case EventsDropped():
                self._expect(message.first_sequence)
                self._gaps.append((message.first_sequence, message.count))
                self._next = message.first_sequence + message.count
            case StreamRestarting():
                self._void(message.resume_at)
            case _:
                self._last = message

    # -- what it says ------------------------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """The text that stands so far, thoughts left out."""
        return self._text.of(self._events)

    @property
    def thoughts(self) -> str:
        """The thought summaries that stand so far."""
        return self._thoughts.of(self._events)

    @property
    def function_calls(self) -> list[dict[str, Any]]:
        """The function calls, as the API sent them, of an answer that is complete with nothing missing.

        `[]` before that, and where the stream failed or was stopped: half a plan is not to be carried out.
        """
        if not isinstance(self._last, StreamComplete) or self.missing:
            return []
        return [copy.deepcopy(call) for event in self._events for call in event.function_calls]

    @property
    def content(self) -> dict[str, Any] | None:
        """The model's turn as far as it stands, to be appended to `contents`; `None` where there is nothing to append.

        Texts that follow each other are one part, and so are thoughts. A part that has anything more, a thought
        signature above all, stays a part of its own, as Google asks for. A copy: changing it changes nothing here.
        """
        parts = list(_merged(part for event in self._events for part in parts_of(event.data)))
        return {"role": self._role(), "parts": parts} if parts else None

    @property
    def usage(self) -> dict[str, Any] | None:
        """Tokens. Once done, the last message's: of all requests that stand. Before, the latest event's own figures."""
        if self._last is not None:
            return self._last.usage
        return next((event.usage for event in reversed(self._events) if event.usage is not None), None)

    # -- how it stands -----------------------------------------------------------------------------------------------

    @property
    def stream_id(self) -> str | None:
        """Whose answer it is; `None` before the first message."""
        return self._stream_id

    @property
    def last(self) -> LastMessage | None:
        """The stream's last message, once it has come."""
        return self._last

    @property
    def done(self) -> bool:
        """The last message has come, whichever."""
        return self._last is not None

    @property
    def ok(self) -> bool:
        """The whole answer is here: completed with STOP, not blocked, and nothing missing."""
        return (
            isinstance(self._last, StreamComplete)
            and self._last.ok
            and bool(self._events)
            and not self.missing
        )

    @property
    def missing(self) -> int:
        """How many events are known to be missing: left out by flow control, or sent before this subscriber joined."""
        return sum(count for _, count in self._gaps)

    @property
    def error(self) -> GeminiStreamsError | None:
        """Why the stream failed for good; `None` where it has not."""
        return self._last.error if isinstance(self._last, StreamError) else None

    # --

    def _expect(self, sequence: int) -> None:
        """Make `sequence` the next: what is left out before it is missing, what was there from it on is replaced."""
        if sequence > self._next:
            self._gaps.append((self._next, sequence - self._next))
        elif sequence < self._next:
            self._void(sequence)

    def _void(self, resume_at: int) -> None:
        stands = bisect_left(self._events, resume_at, key=lambda event: event.sequence)
        del self._events[stands:]
        self._text.void(stands)
        self._thoughts.void(stands)
        while self._gaps and sum(self._gaps[-1]) > resume_at:
            first, _ = self._gaps.pop()
            if first < resume_at:
                self._gaps.append((first, resume_at - first))
        self._next = min(self._next, resume_at)

    def _role(self) -> str:
        for event in self._events:
            candidate = candidate_of(event.data)
            content = candidate.get("content") if candidate is not None else None
            role = content.get("role") if isinstance(content, dict) else None
            if isinstance(role, str) and role:
                return role
        return "model"


def _merged(parts: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Join texts that follow each other, and thoughts that do; copy what is more than that."""
    texts: list[str] = []
    thought = False

    def joined() -> Iterator[dict[str, Any]]:
        text = "".join(texts)
        texts.clear()
        if text:
            yield {"text": text, "thought": True} if thought else {"text": text}

    for part in parts:
        plain = _is_plain(part)
        if texts and not (plain and bool(part.get("thought")) is thought):
            yield from joined()
        if plain:
            thought = bool(part.get("thought"))
            texts.append(part["text"])
        elif part.keys() - {"thought"}:
            yield copy.deepcopy(part)
    yield from joined()


def _is_plain(part: dict[str, Any]) -> bool:
    """Whether a part is a text, or a thought's, and nothing more."""
    return "text" in part and len(part) == 1 + ("thought" in part)
