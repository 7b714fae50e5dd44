"""How a stream ends.

The rules:

- A stream ends once. The thread that ends it (the stream's, the supervisor's, the manager's, the clock's) puts the last
  message of every subscriber in the same moment, after the slot has been freed.
- Nothing keeps the end from being complete: a step that raises is logged, and the next step is taken.
- An end with `attempt` is that attempt's own: it does nothing where the attempt is not the present one any more.
- The attempt that is under way is interrupted after the lock is free.

`last_message` makes every last message.
"""

from __future__ import annotations

from gemini_streams.delivery.owner import LastMessageOf
from gemini_streams.errors import GeminiStreamsError
from gemini_streams.messages import Status
from gemini_streams.safely import safely
from gemini_streams.streams import last_message
from gemini_streams.streams.attempt import Attempt, hang_up
from gemini_streams.streams.state import State
from gemini_streams.streams.status import follow
from pykka_supervisor.log import get_logger

__all__ = ["end", "fail", "finish"]

_log = get_logger(__name__)


def fail(stream: State, error: GeminiStreamsError, *, attempt: Attempt | None = None) -> bool:
    """End a stream with an error; `False` where it has ended, or `attempt` is not the present one any more."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return finish(stream, "error", last_message.failed(stream, error), error=error, attempt=attempt)


def finish(
    stream: State,
    status: Status,
    last: LastMessageOf,
    *,
    at_once: bool = False,
    error: GeminiStreamsError | None = None,
    attempt: Attempt | None = None,
) -> bool:
    """End a stream; `False` where it has ended, or `attempt` is not the present one any more.

    `at_once`: a subscriber's last message comes in place of what is buffered for it.
    """
    with stream.lock:
        if stream.ended or (attempt is not None and stream.current is not attempt):
            return False
        interrupted = end(stream, status, last, at_once=at_once, error=error)
    hang_up(interrupted)
    return True


def end(
    stream: State,
    status: Status,
    last: LastMessageOf,
    *,
    at_once: bool = False,
    error: GeminiStreamsError | None = None,
) -> Attempt | None:
    """End a stream, with its lock held; returns the attempt to interrupt once the lock is free."""
    was, attempts = stream.status, stream.attempts
    attempt = stream.current
    if attempt is not None:
        stream.progress.used = safely(stream.usage)
        stream.current = None
    stream.status = follow(was, status)
    stream.attempt = attempts
    stream.error = error
    stream.last = last
    stream.ended_mono = stream.clock.monotonic()
    stream.watchdog.cancel()
    subscriptions = stream.audience.dismiss()
    stream.wake()
    safely(stream.table.ended, stream, idle=attempt is None)
    if stream.table.cooldowns.quotas or stream.waits.since is not None:
        safely(stream.waits.left)
    for subscription in subscriptions:
        safely(stream.table.unwatch, subscription.ref, stream)
        safely(subscription.finish, last, at_once=at_once)
    stream.audience.linger(subscriptions)
    _log.info(
        "stream_ended",
        stream_id=stream.stream_id,
        model=stream.model,
        attempt=stream.attempt,
        status=status,
        events=stream.events_count,
        duration=round(stream.duration, 3),
        error=None if error is None else error.brief,
    )
    return attempt
