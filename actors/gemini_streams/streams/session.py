"""One stream as the manager, its actor and its timer use it: it begins, its attempts begin, and it ends.

The rules:

- What is known of a stream stands in `state`, with the table of the threads that write and read it.
- Only the present attempt may deliver: each step of its `feed` looks whether it still is.
- A stream ends once (`ending`), and its subscribers join and leave by `members`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from gemini_streams.api.endpoint import Target
from gemini_streams.api.protocol import Call, Request, ResumePoint
from gemini_streams.errors import GeminiStreamsError
from gemini_streams.messages import StreamInfo
from gemini_streams.streams import ending, last_message
from gemini_streams.streams.attempt import Attempt, hang_up
from gemini_streams.streams.members import Members
from gemini_streams.streams.state import State
from gemini_streams.streams.status import follow
from gemini_streams.streams.watchdog import Watchdog

__all__ = ["Session"]


class Session(State):
    """One stream over all its attempts."""

    __slots__ = ("members",)

    def __init__(self, **known: Any) -> None:
        super().__init__(**known)
        self.members = Members(self)
        self.watchdog = Watchdog(self)

    # -- the manager's thread

    def waiting(self) -> None:
        """Take note that the stream waits for a slot; its deadline runs."""
        with self.lock:
            if self.time_runs:
                self.watchdog.arm()

    def stop(self, reason: Literal["requested", "shutdown"]) -> bool:
        """End the stream; `False` where it has ended."""
        return ending.finish(
            self,
            "stopped",
            last_message.stopped(self, reason),
            at_once=True,
            cancels="stop" if reason == "requested" else None,
        )

    def fail(self, error: GeminiStreamsError) -> bool:
        """End the stream with an error; `False` where it has ended."""
        return ending.fail(self, error)

    def info(self) -> StreamInfo:
        """Return what the manager tells of this stream."""
        with self.lock:
            heard = self.heard_at
            return StreamInfo(
                stream_id=self.stream_id,
                stream_ref=self.ref,
                model=self.model,
                request=self.request,
                status=self.status,
                error=self.error,
                started_at=self.started_at,
                subscribers=tuple(s.ref for s in self.audience.present()),
                events_count=self.events_count,
                last_event_at=None if heard is None else self.started_at + heard - self.started_mono,
                config=self.options.config,
                attempt=self.attempt,
                tag=self.tag,
                interaction_id=self.interaction_id,
                cursor=self.request.cursor(self.progress.resume, self.attempt),
            )

    def asks_the_same(self, request: Request, models: tuple[str, ...], targets: tuple[Target, ...]) -> bool:
        """Whether a request is the one this stream was started with, by the same tenant of the same service."""
        return (
            models == self.models
            and [target.identity for target in targets] == [target.identity for target in self.targets]
            and self.request.same_as(request)
        )

    # -- the supervisor's thread

    def launched(self) -> None:
        """Take note that the stream has its slot."""
        with self.lock:
            if self.status != "queued":
                return
            waited = not self.time_runs
            self.status = follow(self.status, "starting")
            if waited:
                self.started_at, self.started_mono = self.clock.time(), self.clock.monotonic()
            self.watchdog.arm()

    # -- the stream's thread

    def stand_aside(self) -> None:
        """Take note that the stream is held back: others may be launched meanwhile."""
        self.table.launches.out(self)

    def has_place(self, wake: Callable[[], None]) -> bool:
        """Take the place of the endpoint that is asked; where none is free, `wake` is called when there is one."""
        places = self.table.places
        if not places.limits:
            return True
        has = places.take(self, self.concurrency_place, wake)
        if self.ended:  # and the thread that ended it may have been here before
            places.give_up(self)
        return has

    def choose(self) -> None:
        """Begin at the first endpoint without a shared wait; where all have one, at the one of the shortest wait."""
        if len(self.targets) > 1 and self.fresh:
            with self.lock:
                self.turn_to(min(range(len(self.targets)), key=self.shared_wait))

    def begin(self) -> Attempt | None:
        """Begin the next attempt; `None` where the stream has ended."""
        with self.lock:
            if self.ended:
                return None
            if self.status == "restarting":
                self.status = follow(self.status, "starting")
            self.fresh = False
            attempt = self.current = Attempt(self.attempt, self.reader_of_events())
        self.table.observed.attempt(self, self.progress.resume_at)
        return attempt

    @property
    def resume(self) -> ResumePoint | None:
        """Where the answer can go on: what the latest events have shown."""
        return self.progress.resume

    def call(self) -> Call:
        """Return the next call: for the answer, or for what is left of it."""
        return self.request.call(self.target, self.model, self.progress.resume)

    # -- the clock's thread

    def paused(self, seconds: float) -> None:
        """Tell the observers that the stream has waited for room for so many seconds."""
        self.table.observed.paused(self, seconds, len(self.audience.stalls()))

    # -- any thread

    def interrupt(self, attempt: Attempt) -> None:
        """Wake an attempt from any wait, for its actor is to end."""
        attempt.interrupted = True
        with self.lock:
            self.wake()
        hang_up(attempt)
