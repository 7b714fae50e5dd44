"""Folds the events of one `streamGenerateContent` request: how far the answer is, and how it ended. Pure.

The rules (Google's API reference, recorded streams, and google-genai 3.4 for continuation):

- The stream's end is the body's clean end; there is no other mark. A finishReason on an event is no end:
  some streams carry one on every event, and the last one counts.
- A clean end with neither a finishReason nor a blockReason anywhere is a truncated answer. So is one in the middle
  of a function call, or while a candidate that has begun has no finishReason.
- Where each candidate has spoken without a finishReason and then had its first one, with nothing of it behind that, the
  answer is whole even where its body breaks off. To ask again would bill it twice.
- `usageMetadata` is cumulative within one request: the latest counts. Over several requests it adds up (`usage`).
- A `continuationToken` on candidate 0 is a checkpoint: the answer can go on behind the event that
  carried it. `finishReason: CONTINUATION` ends one hop of a longer answer. A `promptFeedback`, or any other
  finishReason, ends the answer for good.

"""

from __future__ import annotations

import enum
from typing import Any

from gemini_streams.api.collector import LARGE
from gemini_streams.api.failures import error_of
from gemini_streams.api.generate.pieces import Calls, Halves, index_of
from gemini_streams.api.generate.response import candidate_of, is_nothing, parts_in, said
from gemini_streams.api.json_values import (
    COULD_BE_DEEP,
    TooDeepError,
    check_depth,
    decode,
    decode_large,
    decode_plain,
    encode,
    mend,
    read,
)
from gemini_streams.api.protocol import End, Ending
from gemini_streams.errors import (
    EventTooLargeError,
    GeminiStreamsError,
    MalformedEventError,
    UnexpectedResponseError,
)

__all__ = ["Checkpoint", "Meaning"]

CONTINUATION = "CONTINUATION"

_Pieces = tuple[Calls, Halves]


class Checkpoint:
    """Where an answer can go on: its continuation token, and what was in pieces at it. Equal by the token."""

    __slots__ = ("pieces", "token")

    def __init__(self, token: str, pieces: _Pieces | None) -> None:
        self.token = token
        self.pieces = pieces

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Checkpoint) and other.token == self.token

    def __hash__(self) -> int:
        return hash(self.token)


class _Course(enum.Enum):
    """How far a candidate has come."""

    SEEN = enum.auto()
    """It was named, and has said nothing."""
    SPEAKING = enum.auto()
    """It has said something, and no finishReason."""
    WHOLE = enum.auto()
    """It has said something without a finishReason, then its first finishReason, and nothing since."""
    LOOSE = enum.auto()
    """It has had a finishReason, and more may follow: some streams carry one on every event."""


class Meaning:
    """The events of one request, folded so far. One thread at a time feeds it.

    `room` bounds the bytes of the events that a call in pieces is made of. `before` is the checkpoint that the request
    goes on from. `follows`: continuation tokens are followed.
    """

    marks: list[Any] | None = None
    bound: bool = False

    __slots__ = (
        "_calls",
        "_courses",
        "_follows",
        "_halves",
        "_held",
        "_room",
        "_size",
        "_speaking",
        "block_reason",
        "broken",
        "count",
        "error",
        "finish_message",
        "finish_reason",
        "prompt_feedback",
        "resume",
        "resume_index",
        "usage",
    )

    count: int
    """Events seen."""
    finish_reason: str | None
    """Candidate 0's last one that was set."""
    finish_message: str | None
    """The words that came with that reason."""
    block_reason: str | None
    prompt_feedback: bool
    """Whether a promptFeedback was seen. Such an answer does not go on, whatever the feedback says."""
    usage: dict[str, Any] | None
    """The latest usageMetadata."""
    resume: Checkpoint | None
    """The latest checkpoint; none once another finishReason than CONTINUATION has come behind it."""
    resume_index: int
    """Events that stand if the answer goes on from `resume`: all up to and with the one that carried its token."""
    error: dict[str, Any] | None
    """The error object, where an event was an error; for `failures.error_from_event`."""
    broken: GeminiStreamsError | None
    """The error of the payload behind the last event, where that payload is no event."""

    def __init__(
        self, room: int = 1 << 26, before: Checkpoint | None = None, *, follows: bool = True
    ) -> None:
        self.count = 0
        self.finish_reason = None
        self.finish_message = None
        self.block_reason = None
        self.prompt_feedback = False
        self.usage = None
        self.resume = None
        self.resume_index = 0
        self.error = None
        self.broken = None
        self._courses: dict[int, _Course] = {}
        self._speaking = False  # candidate 0's course is SPEAKING
        self._room = room
        self._size = 0  # bytes of the events that the calls in pieces are made of
        self._follows = follows
        pieces = None if before is None else before.pieces
        self._calls, self._halves = (Calls(), Halves()) if pieces is None else _copied(pieces)
        self._held = bool(self._halves)

    def read(self, payloads: list[bytes]) -> tuple[list[dict[str, Any]], list[bytes]]:
        """Take the payloads of the next events; return each event's data, and the payload to replay it from.

        That payload is not the one that came where the event completes something that came in pieces. What is no event
        (`[DONE]`, nothing at all) is left out. Reading ends at an error, or at a payload that is no event's JSON;
        `error` and `broken` say so.
        """
        events: list[dict[str, Any]] = []
        kept: list[bytes] | None = None  # once they are others than `payloads`
        plain = 0  # events in a row that say one text and nothing else
        for payload in payloads:
            data: Any = None
            size = len(payload)
            try:
                data = decode_plain(payload) if size < LARGE else decode_large(payload)
                [candidate] = data["candidates"]
                [part] = candidate["content"]["parts"]
                if (
                    "text" in part
                    and "finishReason" not in candidate
                    and "continuationToken" not in candidate
                    and ("index" not in candidate or candidate["index"] == 0)
                    and "promptFeedback" not in data
                    and "error" not in data
                    and not self._held
                    and (size < COULD_BE_DEEP or _is_shallow(payload, part["text"]))
                ):
                    if "usageMetadata" in data:
                        usage = data["usageMetadata"]
                        if type(usage) is dict:
                            self.usage = usage
                    events.append(data)
                    plain += 1
                    if kept is not None:
                        kept.append(payload)
                    continue
            except (ValueError, LookupError, TypeError, RecursionError):
                pass
            if plain:
                self.count += plain
                self._go_on(0, None, says=True)
                plain = 0
            data, keep = self._take(payload, data)
            if keep is not payload and kept is None:
                kept = payloads[: len(events)]
            if keep is not None:
                events.append(data)
                if kept is not None:
                    kept.append(keep)
            elif self.error is not None or self.broken is not None:
                break
        if plain:
            self.count += plain
            if not self._speaking:
                self._go_on(0, None, says=True)
        if kept is not None:
            return events, kept
        return events, payloads if len(events) == len(payloads) else payloads[: len(events)]

    def see(self, data: Any) -> None:
        """Take the next event, decoded. One that is no JSON object only counts, unless it is an error in a list."""
        self.count += 1
        self.error = error_of(data) or self.error
        if not isinstance(data, dict):
            return
        usage = data.get("usageMetadata")
        if isinstance(usage, dict):
            self.usage = usage
        feedback = data.get("promptFeedback")
        if isinstance(feedback, dict):
            self.prompt_feedback = True
            self.block_reason = said(feedback, "blockReason") or self.block_reason
        candidates = data.get("candidates")
        zero = candidate_of(data)
        for candidate in candidates if isinstance(candidates, list) else ():
            if isinstance(candidate, dict):
                reason = said(candidate, "finishReason")
                self._go_on(index_of(candidate), reason, says=bool(parts_in(candidate)))
                if candidate is zero:
                    self._see_zero(candidate, reason)

    def _see_zero(self, candidate: dict[str, Any], reason: str | None) -> None:
        if reason is not None:
            self.finish_reason = reason
            message = candidate.get("finishMessage")
            self.finish_message = message if isinstance(message, str) else None
            if reason != CONTINUATION:
                self.resume = None
        token = candidate.get("continuationToken")
        if self._follows and isinstance(token, str) and token:
            pieces = self._calls, self._halves
            self.resume = Checkpoint(token, _copied(pieces) if any(pieces) else None)
            self.resume_index = self.count

    def _go_on(self, index: int, reason: str | None, *, says: bool) -> None:
        course = self._courses.get(index, _Course.SEEN)
        if reason is not None:
            course = _Course.WHOLE if course is _Course.SPEAKING else _Course.LOOSE
        elif course in (_Course.WHOLE, _Course.LOOSE):
            course = _Course.LOOSE
        elif says:
            course = _Course.SPEAKING
        self._courses[index] = course
        if index == 0:
            self._speaking = course is _Course.SPEAKING

    def _take(self, payload: bytes, data: Any) -> tuple[Any, bytes | None]:
        """Take any event, decoded already where that went well; `None` in place of the payload of one that is none."""
        halves = False
        try:
            if data is None:
                data, halves = read(payload)
            elif len(payload) >= COULD_BE_DEEP:
                check_depth(payload)
        except TooDeepError as error:
            self.broken = MalformedEventError(f"event {self.count} of the answer is {error}")
            return None, None
        except ValueError:
            if not is_nothing(payload):
                self.broken = _malformed(self.count, payload)
            return None, None
        if not isinstance(data, dict):
            self.see(data)
            if self.error is None:
                self.broken = _malformed(self.count - 1, payload)
                if self.count == 1 and isinstance(data, list):
                    self.broken = UnexpectedResponseError(
                        "the answer is a JSON array and no event stream: something on the way to the API has"
                        " dropped alt=sse from the request's URL"
                    )
            return None, None
        try:
            keep = self._put_together(payload, data, halves=halves)
        except ValueError as error:
            self.broken = MalformedEventError(f"event {self.count} of the answer: {error}")
            return None, None
        if keep is not None:
            self.see(data)
        return data, keep if self.error is None else None

    def _put_together(self, payload: bytes, data: dict[str, Any], *, halves: bool) -> bytes | None:
        """Join what comes in pieces, in `data`; returns the event's payload, `None` where that is too large."""
        pieces = self._calls.see(data)
        self._size = self._size + len(payload) if self._calls else 0
        if self._size > self._room:
            self.broken = EventTooLargeError(
                f"a function call in pieces is larger than max_event_bytes={self._room}"
            )
            return None
        if not pieces and not halves and not self._held:
            return payload
        self._halves.see(data)
        self._held = bool(self._halves)
        payload = encode(mend(data))
        check_depth(payload)
        return payload

    @property
    def whole(self) -> bool:
        """Whether the answer is whole even if nothing marks its end.

        So it is where each candidate has said something without a finishReason, then its first finishReason, and
        nothing since. It cannot be known of a stream that carries a finishReason on every event.
        """
        return (
            bool(self._courses)
            and all(course is _Course.WHOLE for course in self._courses.values())
            and self.finish_reason not in (None, CONTINUATION)
            and not self._calls
            and self.error is None
            and self.broken is None
        )

    @property
    def lacking(self) -> str:
        """Where a clean end would cut an answer off that has a finishReason; `""` where nothing is lacking."""
        if _Course.SPEAKING in self._courses.values():
            return "before each of its candidates had a finishReason"
        if self._calls and self.finish_reason == "STOP":
            return "in the middle of a function call"
        return ""

    @staticmethod
    def is_half(payload: bytes) -> bool:
        """Whether the payload of an event that nothing has closed is less than a whole event."""
        try:
            decode(payload)
        except TooDeepError:  # whole as far as can be told, and no event: `read` says so
            return False
        except ValueError:
            return not is_nothing(payload)
        return False

    def answering(self) -> None:
        """Nothing depends on it."""

    @staticmethod
    def unfold(document: bytes) -> list[bytes]:
        """Return the document: it is one event."""
        return [document]

    @staticmethod
    def failed(error: GeminiStreamsError) -> End:
        """Raise the error: no other call would say more."""
        raise error

    def ending(self, *, half_event: bool = False) -> Ending:
        """Decide what the clean end of the request's body is. `half_event`: it came inside an event."""
        if half_event:
            return Ending(End.TRUNCATED, "the body ended in the middle of an event")
        if self.block_reason is not None:
            return Ending(End.COMPLETE)
        if self.finish_reason is None:
            said = "without a single event" if self.count == 0 else f"after {self.count} events"
            return Ending(
                End.TRUNCATED, f"the body ended {said}, with neither a finishReason nor a blockReason"
            )
        if self.finish_reason == CONTINUATION and self._follows and not self.prompt_feedback:
            if self.resume is None:
                return Ending(
                    End.TRUNCATED, "the answer stopped with CONTINUATION and no token to go on with"
                )
            if self.resume_index < self.count:
                return Ending(End.TRUNCATED, "the answer stopped with CONTINUATION behind its last token")
            return Ending(End.CONTINUES)
        if self.lacking:
            return Ending(End.TRUNCATED, f"the body ended {self.lacking}")
        return Ending(End.COMPLETE)


def _is_shallow(payload: bytes, text: Any) -> bool:
    """Return `True` where the payload of an event, large for its text, is not too deep; else raise."""
    if not isinstance(text, str) or len(payload) - len(text) >= COULD_BE_DEEP:
        check_depth(payload)
    return True


def _copied(pieces: _Pieces) -> _Pieces:
    calls, halves = pieces
    return calls.copy(), halves.copy()


def _malformed(number: int, payload: bytes) -> MalformedEventError:
    return MalformedEventError(f"event {number} of the answer is no JSON object ({len(payload)} bytes)")
