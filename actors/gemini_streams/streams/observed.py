"""Where the streams of one tree say what happens to them: the log lines, and whatever else observes.

The rules:

- A record is made only where something takes it. Making one and handing it over never blocks and calls nothing of an
  application's: each `Tap` is code of ours.
- The log lines are a tap that is always there. Their levels: a stream that fails is a WARNING, as is a subscriber that
  is let go or lost. A restart and any other end are INFO.

The methods are called with the stream's lock held or without it, in the thread in which something happens.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

import msgspec

from gemini_streams.api.usage import tokens_of
from gemini_streams.errors import GeminiStreamsError
from gemini_streams.observe import (
    AttemptRecord,
    DropRecord,
    EndRecord,
    FirstEventRecord,
    PauseRecord,
    RestartRecord,
    StartRecord,
)
from gemini_streams.safely import safely
from pykka_supervisor.log import get_logger
from pykka_supervisor.observe import Feed, Tap

__all__ = ["Attach", "Detach", "Observed", "plain_tag"]

_log = get_logger("gemini_streams.streams")

_MOST_OF_A_TAG = 200
"""Characters."""


class Attach(msgspec.Struct, frozen=True):
    """To the manager: tell this tap of all that happens from now on. Answered with the table of all streams."""

    tap: Any


class Detach(msgspec.Struct, frozen=True):
    """To the manager: tell this tap nothing more."""

    tap: Any


class _Lines:
    """The log lines."""

    wanted = frozenset(("on_restarting", "on_subscriber_dropped", "on_ended"))

    def wants_end(self, status: str) -> bool:
        """Whether the line of an end is written."""
        return _log.wants("warning" if status == "error" else "info")

    def put(self, record: Any) -> None:
        """Write the line of a record."""
        known = {
            "stream_id": record.stream_id,
            "tag": plain_tag(record.tag),
            "model": record.model,
            "attempt": record.attempt,
        }
        if isinstance(record, RestartRecord):
            _log.info(
                "stream_restarting",
                **known,
                resume_at=record.resume_at,
                delay=record.delay,
                code=_code(record.error),
                error=record.error.brief,
            )
        elif isinstance(record, EndRecord):
            write = _log.warning if record.status == "error" else _log.info
            write(
                "stream_ended",
                **known,
                status=record.status,
                events=record.events,
                duration=round(record.duration, 3),
                code=_code(record.error),
                error=None if record.error is None else record.error.brief,
            )
        elif record.reason == "slow":
            _log.warning("subscriber_let_go", **known, subscriber=record.subscriber, why=record.why)
        elif record.reason == "inbox":
            _log.warning("subscriber_lost", **known, subscriber=record.subscriber, error=record.why)


_LINES = _Lines()


def plain_tag(tag: Any) -> Any:
    """Return what may be shown of a tag: a plain value, cut, or else the name of its type.

    Anything more would run code of the application's in the thread that writes all lines, and could show a prompt.
    """
    if tag is None or type(tag) in (bool, int, float):
        return tag
    return tag[:_MOST_OF_A_TAG] if type(tag) is str else f"<a {type(tag).__name__}>"


def _code(error: GeminiStreamsError | None) -> int | None:
    return getattr(error, "code", None)


class Watched(Protocol):
    """A stream, as far as its records are concerned."""

    stream_id: str
    run: str
    tag: Any
    model: str
    target: Any
    context: Any
    clock: Any
    attempt: int
    events_count: int
    status: Any
    error: GeminiStreamsError | None
    started_mono: float
    first_event_at: float | None

    @property
    def duration(self) -> float:
        """Seconds since the start."""

    def usage(self) -> dict[str, Any] | None:
        """Return the tokens of the requests whose answers stand."""


class Observed:
    """One tree's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taps: tuple[Tap, ...] = ()
        self.wanted: frozenset[str] = frozenset()
        """The hooks for which something listens, the log lines aside."""

    def add(self, tap: Tap) -> None:
        """Tell one more; a second time changes nothing."""
        with self._lock:
            if tap not in self._taps:
                self._set((*self._taps, tap))

    def remove(self, tap: Tap) -> None:
        """Tell it nothing more."""
        with self._lock:
            self._set(tuple(other for other in self._taps if other is not tap))

    def _set(self, taps: tuple[Tap, ...]) -> None:
        self._taps = taps
        self.wanted = frozenset[str]().union(*(tap.wanted for tap in taps))

    @property
    def lost(self) -> int:
        """Records that the observers have not seen."""
        return sum(tap.lost for tap in self._taps if isinstance(tap, Feed))

    def flush(self) -> None:
        """Show the observers what is left, once the tree has ended."""
        for tap in self._taps:
            if isinstance(tap, Feed):
                tap.flush()

    # -- what happens

    def started(self, stream: Watched, subscribers: int, *, slot: bool) -> None:
        """A stream was admitted."""
        if "on_stream_started" in self.wanted:
            status = "starting" if slot else "queued"
            self._tell(StartRecord, stream, status=status, subscribers=subscribers)

    def attempt(self, stream: Watched, resume_at: int) -> None:
        """An attempt begins."""
        if "on_attempt" in self.wanted:
            self._tell(AttemptRecord, stream, resume_at=resume_at)

    def first_event(self, stream: Watched, now: float) -> None:
        """The first event was delivered."""
        if "on_first_event" in self.wanted:
            self._tell(FirstEventRecord, stream, after=now - stream.started_mono)

    def restarting(self, stream: Watched, error: GeminiStreamsError, delay: float, resume_at: int) -> None:
        """An attempt failed and another one follows."""
        self._tell(RestartRecord, stream, error=error, delay=delay, resume_at=resume_at)

    def paused(self, stream: Watched, seconds: float, subscribers: int) -> None:
        """A subscriber has held the stream for a while."""
        if "on_paused" in self.wanted:
            self._tell(PauseRecord, stream, seconds=seconds, subscribers=subscribers)

    def dropped(self, stream: Watched, subscriber: str, reason: str, why: str) -> None:
        """A subscriber left though it did not ask to."""
        self._tell(DropRecord, stream, subscriber=subscriber, reason=reason, why=why)

    def ended(self, stream: Watched, finish_reason: str | None) -> None:
        """The stream has ended."""
        if "on_ended" not in self.wanted and not _LINES.wants_end(stream.status):
            return
        first = stream.first_event_at
        self._tell(
            EndRecord,
            stream,
            status=stream.status,
            error=stream.error,
            events=stream.events_count,
            duration=stream.duration,
            first_event_after=None if first is None else first - stream.started_mono,
            finish_reason=finish_reason,
            **tokens_of(stream.usage()),
        )

    def _tell(self, record: Any, stream: Watched, **more: Any) -> None:
        made = record(
            at=stream.clock.time(),
            stream_id=stream.stream_id,
            run=stream.run,
            tag=stream.tag,
            model=stream.model,
            endpoint=stream.target.host,
            attempt=stream.attempt,
            context=stream.context,
            **more,
        )
        for tap in (_LINES, *self._taps):
            if record.hook in tap.wanted:
                safely(tap.put, made)
