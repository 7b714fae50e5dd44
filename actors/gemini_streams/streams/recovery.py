"""What follows the end of an attempt that has failed: the next attempt, or the stream's end.

The rules:

- An attempt that was interrupted for a failure (silence) failed of that, whatever its actor died of.
- Where the answer goes on, and so what becomes void, the API says (`api.protocol.Request.onward`). It also says where
  the policy does not count the attempt: where an answer that goes on has got on.
- Where the stream has several endpoints, an error that may be the present one's own moves it on to the next one.
- The retry policy decides (`retry`), without the lock. What the session knew is read before, and looked at again after:
  the stream can have been ended meanwhile.
- The subscribers are told of the coming attempt before the wait for it begins.
- Where the policy's `retryable` has to be asked and the thread that could ask has died, the attempt is retired, and its
  successor's thread asks before it begins (`Session.undecided`).

The supervisor's thread calls these; so does the stream's own, for a predecessor that died.
"""

from __future__ import annotations

import random

import msgspec

from gemini_streams.api.protocol import Onward
from gemini_streams.errors import APIError, GeminiStreamsError, StreamCrashedError
from gemini_streams.messages import StreamRestarting
from gemini_streams.streams.attempt import Attempt, hang_up
from gemini_streams.streams.retry import TOO_MANY_REQUESTS, Failed, moves_on, next_wait
from gemini_streams.streams.session import Session
from gemini_streams.streams.status import ENDED, follow

__all__ = ["failed", "retire"]

_ORPHAN = "the request may have started work at the server, which is billed and whose id is not known"


def failed(session: Session, error: GeminiStreamsError, *, verdict: bool | None = None) -> float | None:
    """Decide what follows a failed attempt: return the seconds until the next one, or `None` where it was the last.

    `verdict`: what the policy's `retryable` has said. The subscribers have been told when this returns. Also called
    in the stream's own thread, where its predecessor's death had to be asked about.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None
    session.table.launches.out(session)
    with session.lock:
        session.undecided = session.asking = None
        if session.ended:
            return None
        attempt, session.current, session.broken = session.current or session.broken, None, None
        error = _cause(error, attempt)
        session.progress.failed(error)
        if session.progress.resume is None:
            error = _told(error, attempt)
        onward = session.request.onward(
            session.progress.resume,
            session.progress.resume_at,
            error,
            got_on=attempt is not None and attempt.received > 0,
        )
        resume_at = onward.resume_at
        asked = max(0.0, error.retry_at - session.clock.time()) if error.retry_at is not None else 0.0
        failed = Failed(
            error=error,
            attempt=session.attempt,
            elapsed=session.duration,
            voids=session.next_sequence > resume_at,
            silences=session.progress.silences,
            verdict=verdict,
            asked=asked,
            kept=session.waits.kept,
            counts=onward.counted,
            delay=onward.delay,
            waited=session.waits.seconds,
            deadline=session.options.deadline,
        )
        place = _next_place(session, attempt, error, onward)
    hang_up(attempt)
    if isinstance(error, APIError) and error.code == TOO_MANY_REQUESTS and error.retryable:
        session.waits.refused(asked)
    else:
        session.waits.left()
    wait, named = None, asked
    if place is not None:
        named = session.shared_wait(place)
        moved = msgspec.structs.replace(failed, moves=named)
        wait = next_wait(session.options.retry, moved, random.uniform)
    if wait is None:  # there is no other endpoint, or its wait is too long
        place, named = None, asked
        wait = next_wait(session.options.retry, failed, random.uniform)
    if wait is None:
        with session.lock:
            if onward.bills:
                _add_usage(session, attempt, session.next_sequence)  # nothing of it becomes void any more
        session.fail(error)
        return None
    if place is not None:
        session.waits.left()  # it does not come back to the endpoint that it leaves
    with session.lock:
        if session.status in ENDED:  # meanwhile
            return None
        session.waits.keep(wait.delay if named else 0.0, counted=wait.counted)
        if onward.bills:
            _add_usage(session, attempt, resume_at)
        session.progress.reached(onward.resume, resume_at)
        if place is not None:
            session.turn_to(place)
        _restart(session, error, resume_at, wait.delay)
        if session.status in ENDED:  # no subscriber was left to take the news
            return None
    session.table.observed.restarting(session, error, wait.delay, resume_at)
    return wait.delay


def retire(session: Session, error: GeminiStreamsError) -> None:
    """Close an attempt whose thread has died; what follows is decided in its successor's (`undecided`)."""
    with session.lock:
        attempt, session.current = session.current, None
        session.broken = attempt
        session.undecided = _cause(error, attempt)
    hang_up(attempt)


def _cause(error: GeminiStreamsError, attempt: Attempt | None) -> GeminiStreamsError:
    """Return the error that an attempt was killed for because it did not end for it, or else `error`."""
    if attempt is not None and attempt.error is not None and isinstance(error, StreamCrashedError):
        return attempt.error
    return error


def _add_usage(session: Session, attempt: Attempt | None, resume_at: int) -> None:
    """Keep the usage of a broken request whose answer stands in part."""
    session.progress.keep(None if attempt is None else attempt.meaning.usage, resume_at)


def _next_place(
    session: Session, attempt: Attempt | None, error: GeminiStreamsError, onward: Onward
) -> int | None:
    """Return the endpoint that comes next: behind the present one, one without a shared wait where there is one.

    `None`: the stream stays. What exists at one endpoint alone (an interaction, a token to go on with) never moves.
    """
    count = len(session.targets)
    if count == 1 or not moves_on(error):
        return None
    if onward.resume is not None or session.request.bound or (attempt is not None and attempt.meaning.bound):
        return None
    others = [(session.place + step) % count for step in range(1, count)]
    return next((place for place in others if not session.shared_wait(place)), others[0])


def _told(error: GeminiStreamsError, attempt: Attempt | None) -> GeminiStreamsError:
    """Return an error that also tells of work at the server without a known id, where there may be some."""
    call = None if attempt is None else attempt.call
    if call is None or call.streams or not call.asks or isinstance(error, APIError):
        return error
    if attempt is not None and attempt.connected:
        error.args = (f"{error.message}; {_ORPHAN}", *error.args[1:])
    return error


def _restart(session: Session, error: GeminiStreamsError, resume_at: int, delay: float) -> None:
    """Begin the time between two attempts, and tell it to all subscribers; with the lock held."""
    if session.status != "restarting":  # or this attempt died before it had begun
        session.status = follow(session.status, "restarting")
    session.error = session.restart_error = error
    session.attempt += 1
    session.next_sequence = resume_at
    session.history.restart(session.attempt, resume_at)
    session.table.count_restart()
    message = StreamRestarting(
        session.stream_id,
        session.attempt,
        resume_at,
        delay,
        error,
        session.tag,
        endpoint=session.target.name,
    )
    for subscription in session.audience.all:
        subscription.restart(message)
        subscription.stalled_since = None
    for subscription in session.audience.all:
        if subscription.closed:
            session.members.leave(subscription)
