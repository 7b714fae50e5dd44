"""From payloads to the events that subscribers are given."""

from __future__ import annotations

from gemini_streams.api.failures import error_from_event
from gemini_streams.errors import GeminiStreamsError
from gemini_streams.messages import StreamEvent
from gemini_streams.streams.attempt import Attempt
from gemini_streams.streams.session import Session

__all__ = ["events_of"]


def events_of(
    session: Session, attempt: Attempt, payloads: list[bytes]
) -> tuple[list[StreamEvent], list[bytes], GeminiStreamsError | None]:
    """Decode events.

    Returns those before one that is none, or an error; what to keep of each; and what is to be said of that one.
    """
    stream_id, tag, run, number, meaning = (
        session.stream_id,
        session.tag,
        session.run,
        attempt.number,
        attempt.meaning,
    )
    data, kept = meaning.read(payloads)
    marks = meaning.marks
    first = session.next_sequence
    if marks is None:
        events = [
            StreamEvent(stream_id, number, sequence, each, tag, run)
            for sequence, each in enumerate(data, first)
        ]
    else:
        events = [
            StreamEvent(stream_id, number, sequence, each, tag, run, mark)
            for sequence, (each, mark) in enumerate(zip(data, marks, strict=True), first)
        ]
    broken: GeminiStreamsError | None = meaning.broken
    if meaning.error is not None:
        broken = error_from_event(
            {"error": meaning.error}, now=session.clock.time(), scrub=session.target.scrub
        )
    return events, kept, broken
