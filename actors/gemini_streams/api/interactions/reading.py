"""The calls of a resumable interaction, each with its reader: the POST, its stream, a look at the resource. Pure.

The rules (Google's documentation, its client, and what users have seen):

- The POST asks for a background run and is answered with its id. `interaction.created` is made of that answer.
- An `error` event, a silence, a third break at the same place, and a clean end with nothing new make a look necessary.
  A look that finds the interaction ended brings the rest. Else the attempt fails of what made the look necessary.
- A 400 to `last_event_id`, and a first contradiction, ask for the stream from the first event, in the same attempt.
- A 404 within 10 s of the POST is waited out, where no stream has been opened yet. Else the interaction is gone.
- Where the end names no tokens, the resource may have them a moment later: one look of at most 2 s. The end stands
  meanwhile, whatever becomes of that look.
- A status that is not known here is no end in a resource, and is one in `interaction.completed`.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from gemini_streams.api.interactions.course import Course
from gemini_streams.api.interactions.place import Place, Tracker
from gemini_streams.api.interactions.reader import ENDED, FAILED, Mark, Reader
from gemini_streams.api.interactions.rest import rest_of
from gemini_streams.api.interactions.resume import Contradiction, Replay
from gemini_streams.api.json_values import decode, encode
from gemini_streams.api.protocol import End, Ending
from gemini_streams.errors import (
    APIError,
    ConnectionLostError,
    FirstEventTimeoutError,
    GeminiStreamsError,
    IdleTimeoutError,
    InteractionGoneError,
    InteractionStalledError,
    ReplayMismatchError,
    StreamTruncatedError,
    UnexpectedResponseError,
)

__all__ = ["LATE_USAGE", "LookReader", "PostReader", "StreamReader", "UsageReader"]

LATE_USAGE = 2.0
"""Seconds that tokens which come late are waited for."""

_CREATED = "interaction.created"
_NOT_YET = 10.0
"""Seconds behind the POST in which an interaction may not be found yet."""
_NOT_YET_AGAIN = 0.5
_SAME_PLACE = 3
"""Breaks in a row at the same place behind which the resource is looked at."""
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0


class PostReader(Reader):
    """Of the POST that begins a run."""

    def __init__(self, room: int, clock: Callable[[], float]) -> None:
        super().__init__(room, clock)
        self.resume: Course | None = None

    def unfold(self, document: bytes) -> list[bytes]:
        """Return the payload of `interaction.created`, made of the answer."""
        resource = _object(document)
        interaction_id = resource.get("id")
        if not isinstance(interaction_id, str) or not interaction_id.strip("."):  # dots alone lead elsewhere
            raise UnexpectedResponseError(
                "the answer to the POST names no interaction: does the base URL lead to the Gemini API?"
            )
        now = self._clock()
        self.resume = Course(interaction_id, Place(interaction_id), began=now, news=now)
        told = {name: value for name, value in resource.items() if name not in ("steps", "usage")}
        return [encode({"event_type": _CREATED, "interaction": told})]

    def _new(self, data: dict[str, Any]) -> list[tuple[dict[str, Any], bool, Mark]]:
        course = self.resume
        if course is None:
            return []
        tracker = Tracker(course.place)
        tracker.delivered(data)
        place = tracker.place()
        self.resume = course._replace(place=place)
        return [(data, False, (course.interaction_id, place))]

    def ending(self, *, half_event: bool) -> Ending:  # noqa: ARG002 - a document has no half events
        """Go on to the interaction's stream."""
        return Ending(End.FOLLOWS)

    def failed(self, error: GeminiStreamsError) -> End:
        """Raise the error; one that refuses `background` says what to do."""
        if (
            isinstance(error, APIError)
            and error.code == HTTPStatus.BAD_REQUEST
            and "background" in error.message.lower()
        ):
            error.args = (f"{error.message} (to ask without background: resumable=False)", *error.args[1:])
        raise error


class _Looking(Reader):
    """What the readers of an interaction that has an id have in common."""

    def __init__(self, room: int, clock: Callable[[], float], course: Course, most: float) -> None:
        super().__init__(room, clock)
        self._course = course
        self._most = most  # max_silence
        self.usage = course.usage
        self._tracker = Tracker(course.place)
        self._replay = Replay(course.place, from_first=course.first)
        self._fresh = 0  # events that were new

    @property
    def resume(self) -> Course:
        """Where the stream is."""
        if not self._fresh:
            return self._course
        return self._course._replace(place=self._tracker.place(), usage=self.usage, breaks=0, looks=0)

    def _passes(self, data: dict[str, Any]) -> Mark | None:
        if not self._replay.passing:
            return None
        tracker = self._tracker
        tracker.delivered(data)
        self._fresh += 1
        return tracker.interaction_id, tracker.place()

    def _new(self, data: dict[str, Any]) -> list[tuple[dict[str, Any], bool, Mark]]:
        replay = self._replay
        return [
            self._delivered(new, another=another) for new, another in replay.take(data, halves=self._halves)
        ]

    def _delivered(self, data: dict[str, Any], *, another: bool) -> tuple[dict[str, Any], bool, Mark]:
        tracker = self._tracker
        tracker.delivered(data)
        self._fresh += 1
        return data, another, (tracker.interaction_id, tracker.place())

    def _turn(self, **changes: Any) -> None:
        """Change where the stream is; what was read has been delivered."""
        course = self.resume
        if self._fresh:
            changes.setdefault("news", self._clock())
        self._course = course._replace(usage=self.usage, **changes)
        self._fresh = 0

    def _end(self) -> Ending:
        """Return what follows `interaction.completed`, or an ended resource."""
        ending = self._ended()
        if self.usage is None:
            self._turn(status=self.finish_reason)
            return Ending(End.FOLLOWS)
        return ending

    def _missing(self, error: APIError) -> GeminiStreamsError:
        """Return what an interaction that the server does not know fails of."""
        course = self._course
        if not course.opened and not course.given and self._clock() - course.began < _NOT_YET:
            self._turn(pause=_NOT_YET_AGAIN)
            error.retryable = True
            return error
        return InteractionGoneError(
            f"the server does not know the interaction {course.interaction_id} (any more)",
            retryable=not course.given,
        )

    def _mismatch(self, error: GeminiStreamsError) -> End:
        """Ask for the stream from the first event, the first time; else raise the error."""
        self._turn(mismatches=self._course.mismatches + 1, first=True, look=False)
        if self._course.mismatches > 1:
            raise error
        return End.FOLLOWS


class StreamReader(_Looking):
    """Of the interaction's stream."""

    def answering(self) -> None:
        """Take note that the server has begun to answer with a stream."""
        super().answering()
        if not self._course.opened:
            self._course = self._course._replace(opened=True)

    def ending(self, *, half_event: bool) -> Ending:
        """Decide what the clean end of the body is."""
        if self.finish_reason is not None:
            return self._end()
        if half_event:
            return Ending(End.TRUNCATED, "the body ended in the middle of an event")
        return Ending(
            End.TRUNCATED, f"the interaction's stream ended after {self.count} events, before its end"
        )

    def failed(self, error: GeminiStreamsError) -> End:
        """Decide what a failure of the stream is."""
        if self._decided:
            raise error
        if self.finish_reason is not None:
            return self._end().end
        if isinstance(error, ReplayMismatchError):
            return self._mismatch(error)
        if not self._answered and isinstance(error, APIError):
            if error.code == HTTPStatus.NOT_FOUND:
                raise self._missing(error)
            if (
                error.code == HTTPStatus.BAD_REQUEST
                and self._tracker.event_id is not None
                and not self._course.first
            ):
                self._turn(first=True)
                return End.FOLLOWS
            raise error
        got_on = bool(self._fresh)
        if self.error is not None or isinstance(error, IdleTimeoutError | FirstEventTimeoutError):
            self._turn(look=True, why=error, first=False)
            return End.FOLLOWS
        if self._answered and isinstance(error, ConnectionLostError | StreamTruncatedError | APIError):
            error.retryable = True  # the run goes on at the server
            breaks = 0 if got_on else self._course.breaks + 1
            nothing = isinstance(error, StreamTruncatedError) and not got_on
            if nothing or breaks >= _SAME_PLACE:
                self._turn(look=True, why=error, breaks=0, first=False)
                return End.FOLLOWS
            self._turn(breaks=breaks, first=False)
        raise error


class LookReader(_Looking):
    """Of the resource."""

    def __init__(self, room: int, clock: Callable[[], float], course: Course, most: float) -> None:
        super().__init__(room, clock, course, most)
        self._status: str | None = None
        self._stamp: tuple[Any, int] | None = None

    def _new(self, data: dict[str, Any]) -> list[tuple[dict[str, Any], bool, Mark]]:
        return [self._delivered(data, another=False)]

    def unfold(self, document: bytes) -> list[bytes]:
        """Return the payloads of the rest, where the interaction has ended with an answer."""
        resource = _object(document)
        status = resource.get("status")
        self._status = status if isinstance(status, str) else None
        steps = resource.get("steps")
        self._stamp = (resource.get("updated"), len(steps) if isinstance(steps, list) else 0)
        if isinstance(resource.get("usage"), dict):
            self.usage = resource["usage"]
        if self._status in FAILED:
            self.finish_reason = self._status
        if self._status not in ENDED:
            return []
        if self._course.place.done:
            self.finish_reason = self._status
            return []
        try:
            return [encode(event) for event in rest_of(self._course.place, resource)]
        except Contradiction as contradiction:
            self._turn(mismatches=max(self._course.mismatches, 1))
            raise ReplayMismatchError(f"the interaction's resource: {contradiction}") from None

    def ending(self, *, half_event: bool) -> Ending:  # noqa: ARG002 - a document has no half events
        """Decide what the resource says."""
        if self.finish_reason is not None:
            return self._end()
        now = self._clock()
        course = self._course
        moved = self._stamp != course.stamp and course.stamp is not None
        news = now if moved else course.news
        looks = 0 if moved else course.looks
        pause = min(_FIRST_PAUSE * 2**looks, _LONGEST_PAUSE)
        self._turn(look=False, stamp=self._stamp, news=news, looks=looks + 1, why=None)
        self._decided = True
        if now - news >= self._most:
            raise InteractionStalledError(
                f"the interaction {course.interaction_id} is {self._status}, and nothing of it has moved for"
                f" {now - news:.0f} s (max_silence)"
            )
        why = course.why or StreamTruncatedError("the interaction is still in progress")
        if isinstance(why, IdleTimeoutError | FirstEventTimeoutError):
            self._turn(pause=pause)
        why.retryable = True  # the run goes on at the server
        raise why

    def failed(self, error: GeminiStreamsError) -> End:
        """Decide what a failure of the look is."""
        if self._decided:
            raise error
        if isinstance(error, ReplayMismatchError):
            return self._mismatch(error)
        if isinstance(error, APIError) and error.code == HTTPStatus.NOT_FOUND:
            raise self._missing(error)
        raise error


class UsageReader(_Looking):
    """Of a look for the tokens of an interaction that has ended."""

    def __init__(self, room: int, clock: Callable[[], float], course: Course, most: float) -> None:
        super().__init__(room, clock, course, most)
        self.finish_reason = course.status

    def unfold(self, document: bytes) -> list[bytes]:
        """Take the tokens; there are no more events."""
        usage = _object(document).get("usage")
        if isinstance(usage, dict):
            self.usage = usage
        return []

    def ending(self, *, half_event: bool) -> Ending:  # noqa: ARG002 - a document has no half events
        """End the stream, with tokens or without."""
        return self._ended()

    def failed(self, error: GeminiStreamsError) -> End:
        """End the stream, with tokens or without."""
        if self._decided:
            raise error
        return self._ended().end


def _object(document: bytes) -> dict[str, Any]:
    try:
        found = decode(document)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UnexpectedResponseError(
            "the answer is no JSON object: does the base URL lead to the Gemini API?"
        )
    return found
