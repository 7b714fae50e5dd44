"""Observers of streams: what an application may do with each start, attempt, first event, restart, pause and end.

`ManagerActor.start(observers=[…])` takes them. Records are frozen. They hold no key and no prompt or answer text. How
an observer gets its records, and what is lost where it is slow, is said in `pykka_supervisor.observe`.
"""

from __future__ import annotations

import contextvars
from typing import Any, ClassVar, Literal

import msgspec

from gemini_streams.errors import GeminiStreamsError
from pykka_supervisor import TreeObserver

__all__ = [
    "AttemptRecord",
    "DropRecord",
    "EndRecord",
    "FirstEventRecord",
    "Observer",
    "PauseRecord",
    "RestartRecord",
    "StartRecord",
]


class _StreamRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What all records of a stream have."""

    hook: ClassVar[str] = ""
    important: ClassVar[bool] = False

    at: float
    """Seconds since the epoch."""
    stream_id: str
    run: str
    """Tells this stream from one that was started under the same id before or after it."""
    tag: Any
    model: str
    endpoint: str
    """The host that is asked."""
    attempt: int
    """The present one, from 1; a restart's is the coming one."""
    context: contextvars.Context | None
    """The context variables of the thread or task that asked for the stream; `None` where no observer was given."""


class StartRecord(_StreamRecord, frozen=True, kw_only=True):
    """A stream has been admitted."""

    hook: ClassVar[str] = "on_stream_started"

    status: Literal["queued", "starting"]
    """`queued`: it waits for a slot."""
    subscribers: int


class AttemptRecord(_StreamRecord, frozen=True, kw_only=True):
    """An attempt begins: its request is about to be sent."""

    hook: ClassVar[str] = "on_attempt"

    resume_at: int
    """The sequence number of its first event: 0 but where the answer goes on from a resume point."""


class FirstEventRecord(_StreamRecord, frozen=True, kw_only=True):
    """The stream's first event has been delivered."""

    hook: ClassVar[str] = "on_first_event"

    after: float
    """Seconds since the stream's start."""


class RestartRecord(_StreamRecord, frozen=True, kw_only=True):
    """An attempt has failed and another one follows."""

    hook: ClassVar[str] = "on_restarting"

    error: GeminiStreamsError
    delay: float
    """Seconds until it begins."""
    resume_at: int


class PauseRecord(_StreamRecord, frozen=True, kw_only=True):
    """The stream has not read its socket for a second, since a subscriber is full. Once for each pause."""

    hook: ClassVar[str] = "on_paused"

    seconds: float
    subscribers: int
    """How many hold it."""


class DropRecord(_StreamRecord, frozen=True, kw_only=True):
    """A subscriber left though it did not ask to."""

    hook: ClassVar[str] = "on_subscriber_dropped"

    subscriber: str
    """Its URN."""
    reason: Literal["slow", "inbox", "died"]
    """`slow`: it did not keep up. `inbox`: its own inbox raised. `died`: its actor is dead."""
    why: str


class EndRecord(_StreamRecord, frozen=True, kw_only=True):
    """The stream has ended."""

    hook: ClassVar[str] = "on_ended"
    important: ClassVar[bool] = True

    status: Literal["completed", "error", "stopped"]
    error: GeminiStreamsError | None
    events: int
    """Received from the server, in all attempts."""
    duration: float
    """Seconds since the stream's start."""
    first_event_after: float | None
    finish_reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    thought_tokens: int | None
    cached_tokens: int | None
    tool_tokens: int | None
    total_tokens: int | None


class Observer(TreeObserver):
    """What an application may do with what happens to its streams. Each method is optional.

    The methods of `pykka_supervisor.TreeObserver` are called for the actors of the manager's tree. All run in the
    thread of the tree's observer actor. They may block: other observers of the same manager wait meanwhile, and nothing
    else does.
    """

    _observes_nothing: ClassVar[bool] = True

    def on_stream_started(self, record: StartRecord) -> None:
        """A stream has been admitted."""

    def on_attempt(self, record: AttemptRecord) -> None:
        """An attempt begins."""

    def on_first_event(self, record: FirstEventRecord) -> None:
        """The first event has been delivered."""

    def on_restarting(self, record: RestartRecord) -> None:
        """Another attempt follows one that failed."""

    def on_paused(self, record: PauseRecord) -> None:
        """A subscriber has held the stream for a second."""

    def on_subscriber_dropped(self, record: DropRecord) -> None:
        """A subscriber left though it did not ask to."""

    def on_ended(self, record: EndRecord) -> None:
        """The stream has ended."""
