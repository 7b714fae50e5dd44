"""Answer: one stream's messages folded into what most callers want, restarts and voided attempts included.

The rules:

- A `StreamRestarting` voids what lies at or behind its `resume_at`, and nothing before it.
- Nothing is missing in silence here either: a gap, told by `EventsDropped` or made by joining late, keeps an answer
  from being `ok`, unless a restart voids it and the events come after all.
- An answer that is done is `ok` or has an `error`, never both and never neither.
- No event is kept: each is read once, when it is added, and only its parts stay.
"""

from __future__ import annotations

import copy
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from gemini_streams.api.chosen import Said, cursor_of, said_by, says, steps_of
from gemini_streams.api.json_values import copied
from gemini_streams.errors import GeminiStreamsError, IncompleteAnswerError, StreamEndedError
from gemini_streams.messages import (
    EventsDropped,
    LastMessage,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
    SubscriberMessage,
)

__all__ = ["Answer"]

Piece: TypeAlias = "str | tuple[dict[str, Any], ...]"
"""What stays of an event: its text, where it has one plain text and nothing more, as most have; else its parts."""


class _Joined:
    """A text that is put together from pieces, each read once."""

    __slots__ = ("_read", "_text", "_upto")

    def __init__(self, read: Callable[[Piece], str]) -> None:
        self._read = read
        self._text = ""
        self._upto = 0

    def of(self, pieces: list[Piece]) -> str:
        if self._upto < len(pieces):
            # A local name, and no other, holds the text while it grows: CPython then extends it in place.
            text, self._text = self._text, ""
            text += "".join([self._read(piece) for piece in pieces[self._upto :]])
            self._text, self._upto = text, len(pieces)
        return self._text

    def void(self, stands: int) -> None:
        if self._upto > stands:
            self._text, self._upto = "", 0


class Answer:
    """The answer of one stream, as far as it stands. `add()` it every message that a subscriber receives.

    The first message says which stream it is. Not thread-safe: made for one actor, or one loop.
    """

    __slots__ = (
        "_calls",
        "_gaps",
        "_last",
        "_left",
        "_mark",
        "_next",
        "_pieces",
        "_refusal",
        "_role",
        "_said",
        "_sequences",
        "_stream_id",
        "_tag",
        "_text",
        "_thoughts",
        "_usage",
    )

    def __init__(self) -> None:
        self._stream_id: str | None = None
        self._tag: Any = None
        self._sequences = array("q")  # of the events that stand
        self._pieces: list[Piece] = []  # what each of those said
        self._calls: list[tuple[int, dict[str, Any]]] = []  # (sequence, function call)
        self._role: tuple[int, str] | None = None  # (sequence of the event that named it, role)
        self._said: list[tuple[int, Said]] = []  # (sequence, what it says of a step)
        self._mark: tuple[Any, int] | None = None  # of the latest event, and its attempt
        self._usage: dict[str, Any] | None = None
        self._gaps: list[tuple[int, int]] = []  # (first sequence, count) of what stands and never came
        self._next = 0
        self._last: LastMessage | None = None
        self._refusal: GeminiStreamsError | None = None
        self._left = False
        self._text = _Joined(_text)
        self._thoughts = _Joined(_thoughts)

    @classmethod
    def refused(cls, error: GeminiStreamsError, tag: Any = None) -> Answer:
        """Make the answer of a request that the manager refused: it is done, and all it has is this error."""
        answer = cls()
        answer._refusal = error
        answer._tag = tag
        return answer

    def leave(self) -> None:
        """Take note that the stream was left: a last message that has not come by now will not come."""
        self._left = True

    def __repr__(self) -> str:
        state = type(self._last or self._refusal).__name__ if self.done else "running"
        return f"<Answer of {self._stream_id}: {len(self._pieces)} events, {self.missing} missing, {state}>"

    def add(self, message: SubscriberMessage) -> None:
        """Take the next message. What is refused has changed nothing.

        Raises:
            TypeError: it is no message that a stream sends.
            ValueError: it is another stream's, or comes behind the last message.

        """
        if (
            type(message) is StreamEvent  # the next one, as most are: it needs none of the looks below
            and message.sequence == self._next
            and message.stream_id == self._stream_id
            and self._last is None
        ):
            self._read(message)
            return
        if not isinstance(message, SubscriberMessage):
            raise TypeError(
                f"an answer is made of what a stream sends its subscribers, not of {type(message).__name__}"
            )
        if self._stream_id is None:
            if self._refusal is not None:
                raise ValueError("this answer is of a request that was refused: make a new Answer")
            self._stream_id = message.stream_id
            self._tag = message.tag
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
                self._read(message)
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
        return self._text.of(self._pieces)

    @property
    def thoughts(self) -> str:
        """The thought summaries that stand so far."""
        return self._thoughts.of(self._pieces)

    @property
    def function_calls(self) -> list[dict[str, Any]]:
        """The function calls, as the API sent them, of an answer that is complete with nothing missing.

        `[]` before that, and where the stream failed or was stopped: half a plan is not to be carried out.
        """
        if not isinstance(self._last, StreamComplete) or self.missing:
            return []
        return [copied(call) for _, call in self._calls]

    @property
    def content(self) -> dict[str, Any] | None:
        """The model's turn as far as it stands, to be appended to `contents`; `None` where there is nothing to append.

        Texts that follow each other are one part, and so are thoughts. A part that has anything more, a thought
        signature above all, stays a part of its own, as Google asks for. A copy: changing it changes nothing here.

        Of an interaction it has the texts, thoughts and function calls, for a `StartStream` that goes on with them. The
        next interaction takes `steps`.
        """
        parts = list(_merged(self._pieces))
        role = "model" if self._role is None else self._role[1]
        return {"role": role, "parts": parts} if parts else None

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The steps of an interaction as far as they stand, as the API's resource has them; a copy.

        To go on from them without `previous_interaction_id`, put them behind the input's own steps.
        """
        return steps_of(said for _, said in self._said)

    @property
    def interaction_id(self) -> str | None:
        """Under which the server keeps the interaction, once an event or the last message has named it."""
        if self._last is not None:
            return self._last.interaction_id
        return None if self._mark is None else self._mark[0][0]

    @property
    def cursor(self) -> str | None:
        """The cursor of the last event received that stands, for `ResumeInteraction`; made at each use."""
        if self._last is not None:
            return self._last.cursor
        return None if self._mark is None else cursor_of(*self._mark)

    @property
    def usage(self) -> dict[str, Any] | None:
        """Tokens. Once done, the last message's: of all requests that stand.

        Before, the latest event's own figures; `None` where a restart has voided that event.
        """
        return self._usage if self._last is None else self._last.usage

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
    def tag(self) -> Any:
        """The stream's `tag`; `None` before the first message."""
        return self._tag

    @property
    def finish_reason(self) -> str | None:
        """Why the model ended (`STOP`, `MAX_TOKENS`, …), or an interaction's status, once the stream has completed."""
        return self._last.finish_reason if isinstance(self._last, StreamComplete) else None

    @property
    def finish_message(self) -> str | None:
        """What the service says of `finish_reason` in words, where it says anything."""
        return self._last.finish_message if isinstance(self._last, StreamComplete) else None

    @property
    def done(self) -> bool:
        """The last message has come, whichever, or the request was refused."""
        return self._last is not None or self._refusal is not None

    @property
    def ok(self) -> bool:
        """The whole answer is here: `StreamComplete.ok`, and nothing missing."""
        return (
            isinstance(self._last, StreamComplete)
            and self._last.ok
            and bool(self._pieces)
            and not self.missing
        )

    @property
    def missing(self) -> int:
        """How many events are known to be missing: left out by flow control, or sent before this subscriber joined."""
        return sum(count for _, count in self._gaps)

    @property
    def error(self) -> GeminiStreamsError | None:
        """Why the answer is not whole; `None` where it is, and while the stream is being read.

        The stream's error where it failed, what the manager refused the request with, `StreamEndedError` where the
        stream was stopped or its iterator was left before the last message, and `IncompleteAnswerError` where it
        completed otherwise than as a whole, was blocked, or has something missing.
        """
        match self._last:
            case None if self._left:
                return StreamEndedError("the stream was left before its answer was complete")
            case None:
                return self._refusal
            case StreamError(error=error):
                return error
            case StreamStopped(reason=reason):
                return StreamEndedError(f"the stream was stopped ({reason}) before its answer was complete")
            case StreamComplete() as last:
                return None if self.ok else self._incomplete(last)

    def raise_for_error(self) -> None:
        """Raise a copy of `error`, where there is one."""
        error = self.error
        if error is not None:
            raise copy.copy(error)

    def _incomplete(self, last: StreamComplete) -> IncompleteAnswerError:
        reason = last.finish_reason
        if last.block_reason is not None:
            said = f"the prompt was blocked ({last.block_reason})"
        elif not last.ok:
            said = f"the answer is not whole: it ended with {reason}"
        elif self.missing:
            said = f"the answer is not whole: {self.missing} of its events were not received"
        else:
            said = "nothing of the answer was received"
        return IncompleteAnswerError(said, reason)

    # --

    def _expect(self, sequence: int) -> None:
        """Make `sequence` the next: what is left out before it is missing, what was there from it on is replaced."""
        if sequence > self._next:
            self._gaps.append((self._next, sequence - self._next))
        elif sequence < self._next:
            self._void(sequence)

    def _read(self, event: StreamEvent) -> None:
        """Keep what an event says, and nothing else of it."""
        data = event.data
        reads = says(data)
        piece: Piece | None = reads.plain_text_of(data)
        if piece is None:
            piece = self._read_parts(event)
        if "event_type" in data:
            said = said_by(data)
            if said is not None:
                self._said.append((event.sequence, said))
            self._mark = None if event.mark is None else (event.mark, event.attempt)
        self._sequences.append(event.sequence)
        self._pieces.append(piece)
        self._next = event.sequence + 1
        usage = reads.usage_of(data)
        if usage is not None:
            self._usage = usage
        if self._role is None:
            role = reads.role_of(data)
            self._role = (event.sequence, role) if role else None

    def _read_parts(self, event: StreamEvent) -> Piece:
        parts = says(event.data).whole_parts_of(event.data)
        if len(parts) == 1 and len(parts[0]) == 1 and "text" in parts[0]:
            text: str = parts[0]["text"]
            return text
        self._calls += [(event.sequence, call) for call in event.function_calls]
        return tuple(parts)

    def _void(self, resume_at: int) -> None:
        stands = bisect_left(self._sequences, resume_at)
        if stands < len(self._pieces):
            del self._sequences[stands:], self._pieces[stands:]
            self._text.void(stands)
            self._thoughts.void(stands)
            self._calls = [call for call in self._calls if call[0] < resume_at]
            del self._said[bisect_left(self._said, resume_at, key=lambda said: said[0]) :]
            self._usage = self._mark = None
            if self._role is not None and self._role[0] >= resume_at:
                self._role = None
        while self._gaps and sum(self._gaps[-1]) > resume_at:
            first, _ = self._gaps.pop()
            if first < resume_at:
                self._gaps.append((first, resume_at - first))
        self._next = min(self._next, resume_at)


def _text(piece: Piece) -> str:
    if isinstance(piece, str):
        return piece
    return "".join([part["text"] for part in piece if "text" in part and not part.get("thought")])


def _thoughts(piece: Piece) -> str:
    if isinstance(piece, str):
        return ""
    return "".join([part["text"] for part in piece if "text" in part and part.get("thought")])


def _merged(pieces: Iterable[Piece]) -> Iterator[dict[str, Any]]:
    """Join texts that follow each other, and thoughts that do; copy what is more than that."""
    texts: list[str] = []
    thought = False

    def joined() -> Iterator[dict[str, Any]]:
        text = "".join(texts)
        texts.clear()
        if text:
            yield {"text": text, "thought": True} if thought else {"text": text}

    for piece in pieces:
        for part in ({"text": piece},) if isinstance(piece, str) else piece:
            plain = _is_plain(part)
            if texts and not (plain and bool(part.get("thought")) is thought):
                yield from joined()
            if plain:
                thought = bool(part.get("thought"))
                texts.append(part["text"])
            elif part.keys() - {"thought"}:
                yield copied(part)
    yield from joined()


def _is_plain(part: dict[str, Any]) -> bool:
    """Whether a part is a text, or a thought's, and nothing more."""
    return "text" in part and len(part) == 1 + ("thought" in part)
