"""Reads the events of one call of an interaction: from payloads to data, function calls put together. Pure.

The rules:

- An event is a JSON object with an `event_type`. `[DONE]`, and an event without anything in it, are none.
- An `error` event is never delivered: it ends the reading (`error`).
- The pieces of a function call's arguments are joined; the call stands as a whole under `step` in the `step.stop` of
  its step. Arguments that are no JSON object stay the string that came.
- `interaction.completed` is the end, and its status decides what kind. Nothing is read behind it.

`reading` and `foreground` say what of the events is delivered, and what each end and failure means.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

from gemini_streams.api.collector import LARGE
from gemini_streams.api.failures import error_of
from gemini_streams.api.interactions.place import Place
from gemini_streams.api.interactions.resume import Contradiction
from gemini_streams.api.interactions.saying import CALL, usage_of
from gemini_streams.api.interactions.units import COMPLETED, DELTA, START, STOP, index_of
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
    InteractionFailedError,
    MalformedEventError,
    ReplayMismatchError,
)

__all__ = ["ENDED", "FAILED", "Mark", "Reader", "is_nothing"]

Mark = tuple[str, Place | None]
"""What the cursor behind an event is made of: the interaction's id, and the place. `None`: it cannot be resumed."""

ENDED = frozenset({"completed", "requires_action", "incomplete"})
FAILED = frozenset({"failed", "cancelled", "budget_exceeded"})


def is_nothing(payload: bytes) -> bool:
    """Whether a payload is no event and no error."""
    return payload.strip() in (b"", b"[DONE]", b"{}", b"null")


class Reader(abc.ABC):
    """What the readers of all calls have in common. One thread at a time uses it."""

    bound: bool = False
    block_reason: str | None = None
    finish_message: str | None = None

    def __init__(self, room: int, clock: Callable[[], float]) -> None:
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] | None = None
        self.error: dict[str, Any] | None = None
        self.broken: GeminiStreamsError | None = None
        self.marks: list[Any] | None = []
        self.resume_index = 0
        self.count = 0
        """Events that were read, new or not."""
        self._clock = clock
        self._room = room
        self._size = 0
        self._calls: dict[int, tuple[dict[str, Any], list[str]]] = {}
        self._halves = False  # whether the event's texts may hold half characters
        self._answered = False
        self._decided = False

    # -- what a kind of call decides

    @abc.abstractmethod
    def _new(self, data: dict[str, Any]) -> list[tuple[dict[str, Any], bool, Mark]]:
        """Return the events that are to be delivered of one that came.

        For each of them: whether it differs from the one that came, and its mark. Raises `Contradiction`.
        """

    def _passes(self, data: dict[str, Any]) -> Mark | None:  # noqa: ARG002 - for readers that let some pass
        """Return the mark of an event that is delivered as it came; `None`: `_new` decides."""
        return None

    def answering(self) -> None:
        """Take note that the server has begun the answer that was asked for."""
        self._answered = True

    # -- reading

    def read(self, payloads: list[bytes]) -> tuple[list[dict[str, Any]], list[bytes]]:
        """Take the payloads of the next events; return what is to be delivered, and what to replay each from."""
        events: list[dict[str, Any]] = []
        kept: list[bytes] = []
        marks: list[Any] = []
        self.marks = marks
        for payload in payloads:
            if self.finish_reason is not None:
                break
            data = self._decoded(payload)
            if data is None:
                if self.broken is not None or self.error is not None:
                    break
                continue
            self.count += 1
            changed = False
            if (
                data["event_type"] != DELTA
                or self._calls
                or "metadata" in data  # where a delta may name tokens
                or "interaction" in data
            ):
                changed = self._put_together(data, payload)
                if self.broken is not None:
                    break
                usage = usage_of(data)
                if usage is not None:
                    self.usage = usage
            elif not self._halves:  # nearly all events
                mark = self._passes(data)
                if mark is not None:
                    events.append(data)
                    kept.append(payload)
                    marks.append(mark)
                    continue
            try:
                new = self._new(data)
            except Contradiction as contradiction:
                self.broken = ReplayMismatchError(
                    f"the server's replay contradicts what it had sent: {contradiction}"
                )
                break
            for each, another, mark in new:
                events.append(each)
                kept.append(encode(each) if changed or another else payload)
                marks.append(mark)
            if data["event_type"] == COMPLETED:
                self._completed(data)
        self.resume_index += len(events)
        return events, kept

    def _decoded(self, payload: bytes) -> dict[str, Any] | None:
        """Decode a payload; `None` where it is no event: `error` and `broken` say what it is else."""
        data: Any
        self._halves = False
        try:
            try:
                data = decode_plain(payload) if len(payload) < LARGE else decode_large(payload)
                if len(payload) >= COULD_BE_DEEP:
                    check_depth(payload)
            except TooDeepError:
                raise
            except (ValueError, RecursionError):
                data, self._halves = read(payload)
        except TooDeepError as error:
            self.broken = MalformedEventError(f"event {self.count} of the interaction is {error}")
            return None
        except ValueError:
            if not is_nothing(payload):
                self.broken = self._malformed(payload)
            return None
        if type(data) is dict:
            event_type = data.get("event_type")
            if type(event_type) is str and event_type != "error":
                return data
            if event_type == "error" or "error" in data:
                self.error = error_of(data) or {"message": ""}
                return None
            if not data:
                return None
        self.error = error_of(data)
        if self.error is None:
            self.broken = self._malformed(payload)
        return None

    def _malformed(self, payload: bytes) -> MalformedEventError:
        return MalformedEventError(
            f"event {self.count} of the interaction is no JSON object with an event_type ({len(payload)} bytes)"
        )

    def _put_together(self, data: dict[str, Any], payload: bytes) -> bool:
        """Follow function calls that come in pieces; whether the event has become another one."""
        event_type = data["event_type"]
        if event_type == START:
            step = data.get("step")
            if isinstance(step, dict) and step.get("type") == CALL:
                self._calls[index_of(data) or 0] = (step, [])
            return False
        if not self._calls or event_type not in (DELTA, STOP):
            return False
        call = self._calls.get(index_of(data) or 0)
        if call is None:
            return False
        step, pieces = call
        if event_type == DELTA:
            delta = data.get("delta")
            arguments = delta.get("arguments") if isinstance(delta, dict) else None
            if isinstance(arguments, str):
                self._size += len(payload)
                if self._size > self._room:
                    self.broken = EventTooLargeError(
                        f"a function call in pieces is larger than max_event_bytes={self._room}"
                    )
                pieces.append(arguments)
            elif isinstance(arguments, dict):
                self._calls[index_of(data) or 0] = ({**step, "arguments": arguments}, pieces)
            return False
        del self._calls[index_of(data) or 0]
        self._size = 0
        data["step"] = {**step, "arguments": _joined(pieces)} if any(pieces) else step
        return True

    def _completed(self, data: dict[str, Any]) -> None:
        interaction = data.get("interaction")
        status = interaction.get("status") if isinstance(interaction, dict) else None
        self.finish_reason = status if isinstance(status, str) and status else "completed"

    # -- ends

    @property
    def whole(self) -> bool:
        """Whether the answer is whole even if nothing marks the body's end."""
        return self.finish_reason in ENDED and self.usage is not None and self.broken is None

    @staticmethod
    def is_half(payload: bytes) -> bool:
        """Whether the payload of an event that nothing has closed is less than a whole event."""
        try:
            return not isinstance(decode(payload), dict)
        except TooDeepError:
            return False
        except ValueError:
            return not is_nothing(payload)

    def _ended(self) -> Ending:
        """Return what an interaction that has ended is. Raises `InteractionFailedError`."""
        if self.finish_reason in FAILED:
            self._decided = True
            raise InteractionFailedError(
                f"the interaction has ended: {self.finish_reason}", str(self.finish_reason)
            )
        return Ending(End.COMPLETE)

    def unfold(self, document: bytes) -> list[bytes]:
        """Return the payloads of the events that a document stands for."""
        return [document]


def _joined(pieces: list[str]) -> Any:
    """Return arguments that came in pieces: the object, or the string where they are none."""
    text = "".join(pieces)
    try:
        found = decode(text.encode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return mend(text)
    return found if isinstance(found, dict) else mend(text)
