"""An API as the streams see it: the requests that it makes, and the readers of the events that answer them. Pure.

The rules:

- An `API` makes a `Request` of what the application gave. A request is built once, in the asker's thread, and is
  immutable from then on.
- Each attempt at a stream takes one or more `Call`s, one HTTP request each. The request makes every call from its
  resume point: `None` at the beginning, and later the one that the events so far have shown.
- `Events` reads the events that answer one call. The stream's thread and the shared reader take turns at it.
- A resume point is the API's own: a stream keeps the latest, and hands it back for the next call. Two resume points are
  equal where the answer has not got on from one to the other.
- A call that fails is the API's to judge first (`Events.failed`): another call of the same attempt may say more.
- Behind an attempt that has failed `Request.onward` says where the next one begins, and whether the retry policy counts
  the one that has failed.
- What one event says (its text, its function calls, its finish reason) the API reads from the event's data.

`chosen` names the API of each request. Nothing else outside an API's own package names that API.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable
from typing import Any, Literal, NamedTuple, Protocol

from gemini_streams.api.body import Body
from gemini_streams.api.endpoint import Target
from gemini_streams.errors import GeminiStreamsError

__all__ = [
    "API",
    "Call",
    "CancelOn",
    "End",
    "Ending",
    "Events",
    "Onward",
    "Request",
    "ResumePoint",
    "Says",
    "Start",
]

ResumePoint = Hashable
"""Where an answer can go on; only the API that made it looks into it."""


CancelOn = Literal["stop", "leave", "never"]
"""When the work at the server is cancelled: by `StopStream` and `.cancel()`, also behind the last subscriber, never."""


class Call(NamedTuple):
    """One HTTP request."""

    method: str
    url: str
    body: Body
    streams: bool = True
    """Whether an event stream answers it; else one JSON document does."""
    asks: bool = True
    """Whether it asks for work that is billed; else it only looks at what is there."""
    within: float | None = None
    """Seconds that it may take as a whole; `None`: the stream's own limits hold."""

    def __repr__(self) -> str:
        return f"<Call {self.method} {self.url}>"


class End(enum.Enum):
    """What the clean end of a call's answer is."""

    COMPLETE = "complete"
    """The answer is there: `StreamComplete`."""
    CONTINUES = "continues"
    """One hop of a longer answer: the next call asks for more, from the resume point. No event comes again."""
    FOLLOWS = "follows"
    """The next call looks further at the same answer, from the resume point, and asks for nothing anew."""
    TRUNCATED = "truncated"
    """The answer is not whole: `StreamTruncatedError`."""


class Ending(NamedTuple):
    """What the clean end of a call's answer is, and for a truncated answer, why: words for the error's text."""

    end: End
    why: str = ""


class Onward(NamedTuple):
    """Where the answer goes on behind an attempt that has failed."""

    resume: ResumePoint | None
    resume_at: int
    """The sequence number at which the next attempt begins: what lies behind it is void."""
    bills: bool = True
    """Whether the tokens of the attempt that failed add to those of the next one."""
    counted: bool = True
    """Whether the retry policy counts the attempt."""
    delay: float | None = None
    """Seconds until the next attempt; `None`: the retry policy's own wait."""


class Start(NamedTuple):
    """Where a stream begins that goes on with work which was begun elsewhere."""

    resume: ResumePoint
    attempt: int
    sequence: int
    """Of its first event."""


class Events(Protocol):
    """Reads the events that answer one call."""

    finish_reason: str | None
    """The reason that counts, so far."""
    finish_message: str | None
    """What the service says of that reason."""
    block_reason: str | None
    """Why the service refused the prompt."""
    usage: dict[str, Any] | None
    """The latest token counts of this call."""
    resume_index: int
    """How many of this call's events stand if the answer goes on from `resume`."""
    error: dict[str, Any] | None
    """The error object, where the latest event was an error (`failures.error_from_event`)."""
    broken: GeminiStreamsError | None
    """What is wrong with the payload behind the last event, where it is no event."""
    bound: bool
    """Whether what has been read belongs to work that exists at this endpoint alone."""
    marks: list[Any] | None
    """Of each event that the latest `read` has returned, what its cursor is made of. `None`: there are no cursors."""

    @property
    def resume(self) -> ResumePoint | None:
        """Where the answer can go on. `None`: from its beginning only."""

    def answering(self) -> None:
        """Take note that the server has begun the answer that was asked for."""

    @property
    def whole(self) -> bool:
        """Whether the answer is whole even if nothing marks its end, so that a lost connection costs nothing."""

    def read(self, payloads: list[bytes]) -> tuple[list[dict[str, Any]], list[bytes]]:
        """Take the payloads of the next events; return each event's data, and the payload to replay it from.

        Reading ends at an error, or at a payload that is no event; `error` and `broken` say so.
        """

    def is_half(self, payload: bytes) -> bool:
        """Whether the payload that stood before the body's end, without the end of an event, is half an event."""

    def ending(self, *, half_event: bool) -> Ending:
        """Decide what the clean end of the body is. `half_event`: it came inside an event.

        Raises what the answer itself failed of.
        """

    def failed(self, error: GeminiStreamsError) -> End:
        """Decide what a failure of the call is: return how the answer goes on, or raise what the attempt fails of."""

    def unfold(self, document: bytes) -> list[bytes]:
        """Return the payloads of the events that a document stands for, to be read as those of a stream.

        Raises what is wrong with it.
        """


class Request(Protocol):
    """What one stream asks, built and encoded. Immutable; any thread may read it."""

    cancel_on: CancelOn
    """When the work at the server is cancelled."""
    start: Start | None
    """Where the stream begins; `None`: at the beginning."""
    bound: bool
    """Whether it names something that exists at one endpoint alone: an interaction, a continuation token."""

    def call(self, target: Target, model: str, resume: ResumePoint | None) -> Call:
        """Return the call that asks for the answer, or for the rest of it behind `resume`."""

    def events(self, room: int, resume: ResumePoint | None, clock: Callable[[], float]) -> Events:
        """Return the reader of that call's events. `room`: the most bytes of what is put together from pieces.

        `clock` tells monotonic seconds.
        """

    def onward(
        self, resume: ResumePoint | None, resume_at: int, error: GeminiStreamsError, *, got_on: bool
    ) -> Onward:
        """Decide where the answer goes on behind an attempt that failed of `error`.

        `resume`, `resume_at`: the latest point, and the sequence number of its next event. `got_on`: the attempt has
        delivered something.
        """

    def cancel(self, target: Target, resume: ResumePoint | None) -> Call | None:
        """Return the call that cancels the work at the server; `None` where there is none to cancel."""

    def interaction_id(self, resume: ResumePoint | None) -> str | None:
        """Return the id under which the server keeps the work, where it does."""

    def cursor(self, resume: ResumePoint | None, attempt: int) -> str | None:
        """Return the cursor behind the latest event, where the server keeps what could be resumed."""

    def shown(self) -> dict[str, Any]:
        """Return the body, decoded anew at each use."""

    def same_as(self, other: Request) -> bool:
        """Whether the other request asks the same, however its body is spelt."""


class Says(Protocol):
    """What one event says."""

    def text_of(self, data: dict[str, Any], /) -> str:
        """Return an event's text, thoughts left out."""

    def thoughts_of(self, data: dict[str, Any], /) -> str:
        """Return an event's thought summaries."""

    def function_calls_of(self, data: dict[str, Any], /) -> list[dict[str, Any]]:
        """Return an event's function calls that are whole."""

    def finish_reason_of(self, data: dict[str, Any], /) -> str | None:
        """Return an event's finish reason."""

    def usage_of(self, data: dict[str, Any], /) -> dict[str, Any] | None:
        """Return an event's token counts."""

    def role_of(self, data: dict[str, Any], /) -> str | None:
        """Return whose turn an event is part of."""

    def plain_text_of(self, data: dict[str, Any], /) -> str | None:
        """Return an event's text where a plain text is all it says; `None` elsewhere. The quick way of most events."""

    def whole_parts_of(self, data: dict[str, Any], /) -> list[dict[str, Any]]:
        """Return an event's parts as the next turn's history takes them, pieces of function calls left out."""


class API(Says, Protocol):
    """One of the service's APIs, and what its events say."""

    def request(self, contents: Any, config: Any = None) -> Request:
        """Build a request; encodes pictures and reads pydantic's objects in the calling thread.

        Raises `InvalidRequestError`, and what an application's own objects raise when they are read.
        """
