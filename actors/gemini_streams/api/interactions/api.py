"""The Interactions API: `api.protocol` says what each part is for. Pure.

The rules:

- A resumable interaction is a POST with `background` and `store`, then GETs: of its stream, behind the last id, and of
  its resource. One that is not resumable is a POST that asks for a stream.
- The resume point is a `Course`. Before the POST is answered there is none.
- `reading` and `foreground` read each call's answer, `course` says what follows a failed attempt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast
from urllib.parse import quote

import msgspec

from gemini_streams.api.body import Body
from gemini_streams.api.endpoint import Target
from gemini_streams.api.interactions.course import Course, onward
from gemini_streams.api.interactions.foreground import ForegroundReader
from gemini_streams.api.interactions.place import Place, is_cursor
from gemini_streams.api.interactions.reader import Mark
from gemini_streams.api.interactions.reading import (
    LATE_USAGE,
    LookReader,
    PostReader,
    StreamReader,
    UsageReader,
)
from gemini_streams.api.interactions.request import request_body
from gemini_streams.api.protocol import Call, CancelOn, Events, Onward, Request, ResumePoint, Start
from gemini_streams.errors import GeminiStreamsError, InvalidRequestError, shown

__all__ = [
    "cursor_of",
    "interaction_request",
    "marked",
    "resumed_request",
    "unmarked",
]

_ID = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:~-")
_MOST_OF_AN_ID = 512
_WHEN = ("stop", "leave", "never")

_decoder = msgspec.json.Decoder()


class InteractionRequest:
    """What one stream asks of the Interactions API. Immutable."""

    __slots__ = ("_model", "_most", "body", "bound", "cancel_on", "resumable", "start")

    def __init__(
        self,
        body: Body,
        *,
        resumable: bool,
        cancel_on: CancelOn,
        most: float,
        start: Start | None = None,
        model: str | None = None,
        bound: bool = False,
    ) -> None:
        self.body = body  # empty where nothing is asked for
        self._model = model  # that the body names; another endpoint may be asked for another one
        self.bound = bound
        self.resumable = resumable
        self._most = most
        self.cancel_on: CancelOn = cancel_on
        self.start = start

    def __repr__(self) -> str:
        return f"<InteractionRequest of {sum(map(len, self.body))} bytes>"

    def call(self, target: Target, model: str, resume: ResumePoint | None) -> Call:
        """Return the POST, or the GET of the stream or the resource."""
        course = cast("Course | None", resume)
        if course is None:
            body = self.body if self._names(model) else (msgspec.json.encode(self._said_to(model)),)
            return Call("POST", target.url("interactions"), body, streams=not self.resumable)
        if course.hop is not None:
            return Call("POST", target.url("interactions"), self._hop(course, model))
        url = target.url(f"interactions/{quote(course.interaction_id, safe='')}")
        if course.status is not None:
            return Call("GET", f"{url}?stream=false", (), streams=False, asks=False, within=LATE_USAGE)
        if course.look:
            return Call("GET", f"{url}?stream=false", (), streams=False, asks=False)
        event_id = None if course.first else course.place.event_id
        behind = "" if event_id is None else f"&last_event_id={quote(event_id, safe='')}"
        return Call("GET", f"{url}?stream=true{behind}", (), asks=False)

    def _names(self, model: str) -> bool:
        """Whether the body is the one for this model: it has an agent, or the model itself."""
        return self._model is None or self._model == model

    def _said_to(self, model: str) -> dict[str, Any]:
        body = self.shown()
        return body if self._names(model) else {**body, "model": model}

    def _hop(self, course: Course, model: str) -> Body:
        body = self._said_to(model)
        body["continuation_token"] = course.hop
        if body.get("store") is not False and course.interaction_id:
            del body["input"]
            body["previous_interaction_id"] = course.interaction_id
        return (msgspec.json.encode(body),)

    def events(self, room: int, resume: ResumePoint | None, clock: Callable[[], float]) -> Events:
        """Return the reader of the answer to that call."""
        course = cast("Course | None", resume)
        if not self.resumable:
            return ForegroundReader(room, clock, course)
        if course is None:
            return PostReader(room, clock)
        if course.status is not None:
            return UsageReader(room, clock, course, self._most)
        kind = LookReader if course.look else StreamReader
        return kind(room, clock, course, self._most)

    def onward(
        self, resume: ResumePoint | None, resume_at: int, error: GeminiStreamsError, *, got_on: bool
    ) -> Onward:
        """Go on where the interaction broke; without an id, or not resumable, from the beginning."""
        course = cast("Course | None", resume)
        if course is None or not self.resumable:
            return Onward(None, 0)
        return onward(course, resume_at, error, got_on=got_on)

    def cancel(self, target: Target, resume: ResumePoint | None) -> Call | None:
        """Return the POST that cancels the run at the server."""
        name = self.interaction_id(resume)
        if name is None or not self.resumable:
            return None
        return Call(
            "POST",
            target.url(f"interactions/{quote(name, safe='')}/cancel"),
            (b"{}",),
            streams=False,
            asks=False,
        )

    def interaction_id(self, resume: ResumePoint | None) -> str | None:
        """Return the interaction's id."""
        return None if resume is None else cast("Course", resume).interaction_id or None

    def cursor(self, resume: ResumePoint | None, attempt: int) -> str | None:
        """Return the cursor behind the latest event."""
        if resume is None or not self.resumable:
            return None
        place = cast("Course", resume).place
        return msgspec.structs.replace(place, attempt=attempt).cursor if place.sequence else None

    def shown(self) -> dict[str, Any]:
        """Return the body, decoded anew at each use; empty where nothing is asked for."""
        return cast("dict[str, Any]", _decoder.decode(b"".join(self.body) or b"{}"))

    def same_as(self, other: Request) -> bool:
        """Whether the other request asks the same."""
        return (
            isinstance(other, InteractionRequest)
            and other.resumable == self.resumable
            and other.start == self.start
            and (other.body == self.body or other.shown() == self.shown())
        )


def interaction_request(
    given: Any,
    config: Any,
    *,
    model: str,
    agent: Any,
    previous_interaction_id: str | None,
    resumable: Any,
    store: Any,
    cancel_on: Any,
    max_silence: float,
) -> InteractionRequest:
    """Build the request of a `StartInteraction`, in the calling thread. Raises `InvalidRequestError`."""
    for name, value in (("resumable", resumable), ("store", store)):
        if not isinstance(value, bool):
            raise InvalidRequestError(f"{name} must be True or False, not {shown(value)}")
    if resumable and not store:
        raise InvalidRequestError(
            "store=False needs resumable=False: what the server does not keep cannot be resumed"
        )
    if agent is not None and not (isinstance(agent, str) and agent):
        raise InvalidRequestError(f"agent must be an agent's name, not {shown(agent)}")
    more: dict[str, Any] = {"stream": not resumable}
    if resumable:
        more["background"] = True
    body = request_body(
        given,
        config,
        model=model,
        agent=agent,
        previous_interaction_id=previous_interaction_id,
        store=store,
        more=more,
    )
    return InteractionRequest(
        body,
        resumable=resumable,
        cancel_on=_checked(cancel_on),
        most=max_silence,
        model=model if agent is None else None,
        bound=previous_interaction_id is not None,
    )


def resumed_request(cursor: Any, *, cancel_on: Any, max_silence: float, now: float) -> InteractionRequest:
    """Build the request of a `ResumeInteraction`. Raises `InvalidRequestError`."""
    place = _place_of(cursor)
    course = Course(place.interaction_id, place, began=now, given=True, look=place.done, news=now)
    begun = place.attempt if place.sequence else 0
    return InteractionRequest(
        (),
        resumable=True,
        cancel_on=_checked(cancel_on),
        most=max_silence,
        start=Start(course, begun + 1, place.sequence),
        bound=True,
    )


def cursor_of(mark: Mark | None, attempt: int) -> str | None:
    """Return the cursor behind an event; `None` where it cannot be resumed."""
    place = None if mark is None else mark[1]
    return None if place is None else msgspec.structs.replace(place, attempt=attempt).cursor


def marked(payload: bytes, mark: Mark | None) -> bytes:
    """Return an event's payload with its mark behind it. JSON has no NUL."""
    cursor = cursor_of(mark, 1)
    return payload if cursor is None else b"%s\0%s" % (payload, cursor.encode())


def unmarked(payload: bytes) -> tuple[bytes, Mark | None]:
    """Return what `marked` has put together."""
    payload, _, cursor = payload.partition(b"\0")
    if not cursor:
        return payload, None
    place = Place.parse(cursor.decode())
    return payload, (place.interaction_id, place)


def _place_of(cursor: Any) -> Place:
    if not (isinstance(cursor, str) and cursor):
        raise InvalidRequestError(
            f"a cursor is a string, not {shown(cursor)}: give StreamEvent.cursor, a last message's cursor, or an"
            " interaction_id"
        )
    if is_cursor(cursor):
        try:
            return Place.parse(cursor)
        except ValueError as error:
            raise InvalidRequestError(f"{shown(cursor, 40)} {error}") from None
    if len(cursor) > _MOST_OF_AN_ID or not _ID.issuperset(cursor) or not cursor.strip("."):
        raise InvalidRequestError(
            f"{shown(cursor, 40)} is neither a cursor nor the id of an interaction: give StreamEvent.cursor, a last"
            " message's cursor, or an interaction_id as it is"
        )
    return Place(cursor)


def _checked(cancel_on: Any) -> Literal["stop", "leave", "never"]:
    if cancel_on not in _WHEN:
        raise InvalidRequestError(f'cancel_on must be "stop", "leave" or "never", not {shown(cancel_on)}')
    return cast("CancelOn", cancel_on)
