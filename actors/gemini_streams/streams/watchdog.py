"""The one timer of a stream: what has to happen because nothing happened.

The rules:

- The timer is set to the next moment at which something can be due, and the stream is looked at again then. An event
  only notes the time (`heard_at`): no timer is set for it.
- At a ring the first row that is due is carried out:

      due                                                            then
      the deadline has passed                                        the stream fails
      the stream was kept without a subscriber for `keep` seconds    the stream is stopped
      the stream has waited for room for `_PAUSED_AFTER` seconds     the observers are told
      the stream waits for room, and a subscriber has held it
        for its `stall_timeout`                                      that subscriber is let go
      the server was silent too long                                 the attempt is interrupted
      its actor has not ended `_HUNG_AFTER` seconds later            the actor is killed

- While the stream waits for room the server is not listened to, so its silence does not count.
- Before the first event of a request `first_event_timeout` counts, after it `idle_timeout`. A call that only looks at
  what is there has `idle_timeout` alone.

`arm` and `cancel` are called with the session's lock held, by any thread. The clock's thread rings, takes the lock for
the look, and interrupts, fails and kills without it.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

import pykka

from gemini_streams.delivery.audience import Audience
from gemini_streams.delivery.subscription import Subscription
from gemini_streams.errors import (
    DeadlineExceededError,
    FirstEventTimeoutError,
    GeminiStreamsError,
    IdleTimeoutError,
)
from gemini_streams.http.exchange import Exchange
from gemini_streams.options import Settings
from gemini_streams.safely import safely
from gemini_streams.streams.attempt import Attempt, hang_up
from gemini_streams.streams.observed import Observed
from pykka_supervisor import Clock, Timer, kill

__all__ = ["Watchdog", "Watched"]

_PAUSED_AFTER = 1.0
"""Seconds for which a stream waits for room before the observers are told."""
_HUNG_AFTER = 1.0
"""Seconds that an attempt has to end after its connection was interrupted; then its actor is killed."""


class LetsGo(Protocol):
    """A stream's subscribers, as far as its timer is concerned."""

    def forsake(self) -> Attempt | None:
        """End the stream that no subscriber came back to, with the lock held; returns the attempt to interrupt."""

    def let_go(self, subscription: Subscription) -> Attempt | None:
        """End one subscription, with the lock held; returns the attempt to interrupt."""


class Watched(Protocol):
    """A stream, as far as its timer is concerned."""

    lock: threading.Lock
    clock: Clock
    options: Settings
    started_mono: float
    current: Attempt | None
    ref: pykka.ActorRef[Any] | None
    audience: Audience

    @property
    def ended(self) -> bool:
        """Whether the stream has ended."""

    @property
    def time_runs(self) -> bool:
        """Whether the stream's time has begun."""

    def paused(self, seconds: float) -> None:
        """Tell the observers of a wait for room."""

    def fail(self, error: GeminiStreamsError) -> bool:
        """End the stream with an error; called without the lock."""

    @property
    def observed(self) -> Observed:
        """Where the stream says what happens to it."""

    @property
    def members(self) -> LetsGo:
        """The stream's subscribers."""


class Watchdog:
    """One stream's. All fields are read and written with the session's lock held."""

    __slots__ = ("_due_at", "_pause_told", "_stream", "_timer", "keep_until")

    def __init__(self, stream: Watched) -> None:
        self._stream = stream
        self._timer: Timer | None = None
        self._due_at = 0.0
        self._pause_told: threading.Lock | None = None
        self.keep_until: float | None = None
        """Until when the stream is kept without a subscriber; `None` where it has one."""

    def arm(self) -> None:
        """Set the timer where something can be due before it rings."""
        stream = self._stream
        due = None if stream.ended else self._due()
        if due is None or (self._timer is not None and self._due_at <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due_at = due
        self._timer = stream.clock.call_later(max(0.0, due - stream.clock.monotonic()), self._ring)

    def cancel(self) -> None:
        """Ring no more: the stream has ended. Never raises."""
        timer, self._timer = self._timer, None
        if timer is not None:
            safely(timer.cancel)

    def _due(self) -> float | None:
        """Return the first moment at which something can be due."""
        moments: list[float] = []
        stream = self._stream
        options, attempt = stream.options, stream.current
        if options.deadline is not None and stream.time_runs:
            moments.append(stream.started_mono + options.deadline)
        if self.keep_until is not None:
            moments.append(self.keep_until)
        if stream.audience.parked is not None:
            moments += stream.audience.stalls()
            since = self._unseen_pause()
            if since is not None:
                moments.append(since + _PAUSED_AFTER)
        elif attempt is not None and attempt.connected:
            moments.append(attempt.heard_at + self._patience(attempt))
            if attempt.error is not None:
                moments[-1] += _HUNG_AFTER
            elif not _answers(attempt):
                # Once an event has come, less silence is allowed: looking again by then saves setting a timer at it.
                moments.append(stream.clock.monotonic() + options.idle_timeout)
        return min(moments, default=None)

    def _patience(self, attempt: Attempt) -> float:
        options = self._stream.options
        return options.idle_timeout if _answers(attempt) else options.first_event_timeout

    def _ring(self) -> None:
        interrupted: Attempt | None = None
        silent: Exchange | None = None
        late: GeminiStreamsError | None = None
        hung: pykka.ActorRef[Any] | None = None
        stream = self._stream
        with stream.lock:
            self._timer = None
            if stream.ended:
                return
            now = stream.clock.monotonic()
            deadline, attempt = stream.options.deadline, stream.current
            if deadline is not None and stream.time_runs and now >= stream.started_mono + deadline:
                late = DeadlineExceededError(f"the stream's deadline of {deadline:g} s has passed")
            elif self.keep_until is not None and now >= self.keep_until:
                interrupted = stream.members.forsake()
            elif stream.audience.parked is not None:
                self._tell_pause(now)
                for subscription in stream.audience.stalled(now):
                    interrupted = stream.members.let_go(subscription) or interrupted
            elif (
                attempt is not None
                and attempt.connected
                and now >= attempt.heard_at + self._patience(attempt)
            ):
                if attempt.error is None:
                    attempt.error = self._silence(attempt)
                    silent = attempt.exchange  # of this call: the stream's thread may be at the next one soon
                elif now >= attempt.heard_at + self._patience(attempt) + _HUNG_AFTER:
                    attempt.connected = False
                    hung = stream.ref
            if late is None:
                self.arm()
        if late is not None:
            stream.fail(late)
        hang_up(interrupted)
        if silent is not None:
            silent.interrupt()
        if hung is not None:
            kill(hung)

    def _unseen_pause(self) -> float | None:
        """Return when the present wait for room began, where an observer wants to know and was not told of it."""
        stream = self._stream
        if "on_paused" not in stream.observed.wanted or self._pause_told is stream.audience.parked:
            return None
        return stream.audience.paused_since

    def _tell_pause(self, now: float) -> None:
        stream = self._stream
        since = self._unseen_pause()
        if since is not None and now >= since + _PAUSED_AFTER:
            self._pause_told = stream.audience.parked
            stream.paused(now - since)

    def _silence(self, attempt: Attempt) -> GeminiStreamsError:
        limit = self._patience(attempt)
        if _answers(attempt):
            return IdleTimeoutError(f"the server was silent for {limit:g} s (idle_timeout) in the answer")
        return FirstEventTimeoutError(
            f"the server sent no event within {limit:g} s (first_event_timeout) of the request"
        )


def _answers(attempt: Attempt) -> bool:
    """Whether the answer has begun, or had begun before the present call."""
    return bool(attempt.hop) or (attempt.call is not None and not attempt.call.asks)
