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

import functools

from gemini_streams.api.protocol import CancelOn
from gemini_streams.delivery.owner import LastMessageOf
from gemini_streams.errors import GeminiStreamsError
from gemini_streams.messages import Status
from gemini_streams.safely import safely
from gemini_streams.streams import last_message
from gemini_streams.streams.attempt import Attempt, hang_up
from gemini_streams.streams.errands import WITHIN
from gemini_streams.streams.state import State
from gemini_streams.streams.status import follow

__all__ = ["end", "fail", "finish", "let_go"]

_LEFT_BEHIND = 1.0
"""Seconds behind the leaving of the last subscriber until the work at the server is cancelled."""


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
    cancels: CancelOn | None = None,
    finish_reason: str | None = None,
) -> bool:
    """End a stream; `False` where it has ended, or `attempt` is not the present one any more.

    `at_once`: a subscriber's last message comes in place of what is buffered for it. `cancels`: why work at the server
    would be cancelled.
    """
    with stream.lock:
        if stream.ended or (attempt is not None and stream.current is not attempt):
            return False
        interrupted = end(
            stream, status, last, at_once=at_once, error=error, cancels=cancels, finish_reason=finish_reason
        )
    let_go(stream, interrupted)
    return True


def let_go(stream: State, interrupted: Attempt | None) -> None:
    """End the connection of an attempt whose stream has ended; without the lock, by the thread that ended it.

    A POST that is to be answered with an interaction's id is kept for a moment, so that the work can be cancelled.
    """
    call = None if interrupted is None else interrupted.call
    if stream.cancels is not None and call is not None and call.asks and not call.streams:
        stream.clock.call_later(WITHIN, functools.partial(hang_up, interrupted))
    else:
        hang_up(interrupted)


def end(
    stream: State,
    status: Status,
    last: LastMessageOf,
    *,
    at_once: bool = False,
    error: GeminiStreamsError | None = None,
    cancels: CancelOn | None = None,
    finish_reason: str | None = None,
) -> Attempt | None:
    """End a stream, with its lock held; returns the attempt to interrupt once the lock is free (`let_go`)."""
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
    if cancels is not None and stream.request.cancel_on in (cancels, "leave"):
        stream.cancels = cancels
        delay = _LEFT_BEHIND if cancels == "leave" else 0.0
        safely(stream.table.cancel_work, stream, stream.progress.resume, delay)
    safely(stream.table.observed.ended, stream, finish_reason)
    return attempt
