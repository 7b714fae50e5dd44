"""One stream as plain figures, for dashboards and collectors: no key, no prompt and no answer in them.

Any thread may glance, at any time. The stream's lock is held for a moment, and no application's code runs under it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gemini_streams.messages import Status
from gemini_streams.streams.observed import plain_tag
from gemini_streams.streams.session import Session

__all__ = ["Glance", "glance"]


class Glance(msgspec.Struct, frozen=True, kw_only=True):
    """One stream as it is now."""

    stream_id: str
    run: str
    tag: Any
    """A plain value, or the name of its type."""
    model: str
    endpoint: str
    status: Status
    attempt: int
    events: int
    """Received from the server, in all attempts."""
    started_at: float
    """Seconds since the epoch."""
    age: float
    """Seconds from the start until now, or until the end."""
    subscribers: int
    waiting: int
    """Events that the slowest subscriber has not handled yet."""
    waiting_bytes: int
    """Bytes of the events that subscribers have not handled yet, all subscribers together."""
    kept_bytes: int
    """Bytes of the events that are kept for replays."""
    paused: float | None
    """Seconds for which full subscribers have held the stream; `None` where none does."""
    error: str | None
    """What the stream, or else its latest attempt, has failed of."""


def glance(session: Session) -> Glance:
    """Look at a stream."""
    with session.lock:
        waiting = [subscription.waiting() for subscription in session.audience.present()]
        since = None if session.ended else session.audience.paused_since
        error = session.error or session.restart_error
        return Glance(
            stream_id=session.stream_id,
            run=session.run,
            tag=plain_tag(session.tag),
            model=session.model,
            endpoint=session.target.host,
            status=session.status,
            attempt=session.attempt,
            events=session.events_count,
            started_at=session.started_at,
            age=session.duration,
            subscribers=len(waiting),
            waiting=max((count for count, _ in waiting), default=0),
            waiting_bytes=sum(size for _, size in waiting),
            kept_bytes=session.history.cost,
            paused=None if since is None else max(0.0, session.clock.monotonic() - since),
            error=None if error is None else error.brief,
        )
