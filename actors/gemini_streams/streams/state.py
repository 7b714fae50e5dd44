"""What is known of one stream over all its attempts: its fields, which thread writes each, and what follows from them.

The rules:

- An attempt is one incarnation of the stream's actor. Its own fields die with it (`attempt`); the stream's stand here.
- Everything is changed with `lock` held, and `lock` is only ever held for a moment: nothing under it blocks or calls an
  application's code. A thread that holds it may take the table's lock, a clock's or an inbox's; never the other way.
- The subscribers and the wait for room stand in `audience`, the part of the answer that stands in `progress`, the one
  timer in `watchdog`. `status` has the table of the states.

Each thread has its own end of a stream, and the ends hold the rules:

    thread                                       end
    the manager's                                `session`; `members` for subscribers that join and leave
    the stream's own, the shared reader for it   `feed`
    the supervisor's                             `recovery`
    a subscriber's, when it gives credit         `members`
    the clock's                                  `watchdog`
    each that can end the stream                 `ending`

Every field is written with the lock held, but for those marked *:

    field                              written by                                may be read without the lock by
    stream_id, run, tag, options,
      targets, models, request, table,
      clock, patient, context,
      concurrency_key                  no thread: they never change              any thread
    target, model, place               the supervisor's; the stream's            any thread: right a moment ago
    fresh                              the stream's                              no thread
    slot *                             a thread with the table's lock            the manager's, the supervisor's
    deferred *                         the manager's, before the launch          any thread
    ref *                              the supervisor's, before the attempt      any thread
    started_at, started_mono           the thread that launches the stream       any thread
    status, error, attempt             the thread that begins, restarts or ends  any thread: right a moment ago
    current                            the same threads                          the thread that ends it
    next_sequence                      the pump's thread; the supervisor's       the pump's thread
    events_count, heard_at             the pump's thread                         any thread: right a moment ago
    first_event_at                     the pump's thread                         the stream's thread
    progress                           the pump's thread; the supervisor's       the stream's, `resume` alone
    undecided, asking *                the supervisor's; the stream's            the other one of the two
    broken, restart_error              the supervisor's; the stream's            no thread
    ended_mono, cancels                the thread that ends the stream           any thread
    history, last                      a thread with the lock                    no thread

"The pump's thread" is the one that uses the pump at the moment: the stream's own, or the shared reader's for it.
"""

from __future__ import annotations

import contextvars
import threading
from typing import Any, Protocol

import pykka

from gemini_streams.api.endpoint import Target
from gemini_streams.api.protocol import CancelOn, Events, Request, ResumePoint
from gemini_streams.delivery.audience import Audience
from gemini_streams.delivery.history import History
from gemini_streams.delivery.owner import LastMessageOf
from gemini_streams.errors import GeminiStreamsError
from gemini_streams.messages import Status
from gemini_streams.options import Settings, key_of
from gemini_streams.streams.attempt import Attempt
from gemini_streams.streams.observed import Observed
from gemini_streams.streams.pacing import Launches
from gemini_streams.streams.places import Place, Places
from gemini_streams.streams.progress import Progress
from gemini_streams.streams.rate_limits import Cooldowns
from gemini_streams.streams.status import ENDED
from gemini_streams.streams.waits import Waits
from gemini_streams.streams.watchdog import Watchdog

__all__ = ["State", "Table"]


class Table(Protocol):
    """A stream's side of the table of all streams. Each method takes the table's own lock for a moment only."""

    @property
    def launches(self) -> Launches[Any]:
        """The streams that are being launched."""

    @property
    def cooldowns(self) -> Cooldowns:
        """The waits that streams of one quota share."""

    @property
    def places(self) -> Places:
        """How many streams of one key run at once at one endpoint."""

    @property
    def observed(self) -> Observed:
        """Where a stream says what happens to it."""

    def unwatch(self, ref: pykka.ActorRef[Any], session: Any) -> None:
        """Take note that a subscriber has left a stream."""

    def ended(self, session: Any, *, idle: bool) -> None:
        """Take note that a stream has ended. `idle`: no attempt is under way that would notice by itself."""

    def count_restart(self) -> None:
        """Count a restart."""

    def cancel_work(self, session: Any, resume: ResumePoint | None, delay: float = 0.0) -> None:
        """Have a stream's work at the server cancelled, where there is some."""


class State:
    """One stream over all its attempts."""

    __slots__ = (
        "asking",
        "attempt",
        "audience",
        "broken",
        "cancels",
        "clock",
        "concurrency_key",
        "context",
        "current",
        "deferred",
        "ended_mono",
        "error",
        "events_count",
        "first_event_at",
        "fresh",
        "heard_at",
        "history",
        "last",
        "lock",
        "model",
        "models",
        "next_sequence",
        "options",
        "patient",
        "place",
        "progress",
        "ref",
        "request",
        "restart_error",
        "run",
        "slot",
        "started_at",
        "started_mono",
        "status",
        "stream_id",
        "table",
        "tag",
        "target",
        "targets",
        "undecided",
        "waits",
        "watchdog",
    )

    watchdog: Watchdog

    def __init__(
        self,
        *,
        stream_id: str,
        run: str,
        tag: Any,
        request: Request,
        targets: tuple[Target, ...],
        models: tuple[str, ...],
        options: Settings,
        table: Table,
        concurrency_key: str | None = None,
        patient: bool = False,
        context: contextvars.Context | None = None,
    ) -> None:
        self.lock = threading.Lock()
        self.stream_id = stream_id
        self.run = run
        """Tells this stream from one that was started under the same id before or after it."""
        self.tag = tag
        self.options = options
        self.targets = targets
        """Those of its endpoints, in order."""
        self.models = models
        """What each of them is asked for."""
        self.turn_to(0)
        self.fresh = True
        """Whether no attempt has begun."""
        self.request = request
        self.table = table
        self.clock = clock = options.clock
        self.status: Status = "queued"
        self.error: GeminiStreamsError | None = None
        self.patient = patient
        """Whether it waits for a slot however many wait, and its time begins with that slot."""
        self.context = context
        """The asker's context variables, for observers."""
        self.concurrency_key = concurrency_key
        """Which limit of streams at once holds for it; `None`: its model's."""
        self.deferred = False
        """Whether it had a slot at once and no place: its time begins with its launch."""
        self.slot = False
        """Whether it holds one of the table's slots; the table's business."""
        self.ref: pykka.ActorRef[Any] | None = None
        self.started_at = clock.time()
        self.started_mono = clock.monotonic()
        self.heard_at: float | None = None
        self.first_event_at: float | None = None
        start = request.start
        self.attempt = 1 if start is None else start.attempt
        self.current: Attempt | None = None
        self.events_count = 0
        self.next_sequence = 0 if start is None else start.sequence
        self.progress = Progress()
        if start is not None:
            self.progress.reached(start.resume, start.sequence)
        self.restart_error: GeminiStreamsError | None = None
        self.broken: Attempt | None = None
        """An attempt that was retired and is not decided on yet."""
        self.undecided: GeminiStreamsError | None = None
        """What an attempt died of that the policy's `retryable` has to be asked about, in a thread that lives."""
        self.asking: GeminiStreamsError | None = None
        """What it is being asked about."""
        self.cancels: CancelOn | None = None
        """Why its work at the server is to be cancelled: it was stopped, or left; `None`: it is not."""
        self.waits = Waits(self)
        self.waits.kept = self.attempt - 1
        self.audience = Audience()
        self.history = History(options.history, self.next_sequence)
        self.ended_mono: float | None = None
        self.last: LastMessageOf | None = None

    def __repr__(self) -> str:
        return f"<Session {self.stream_id} {self.status} attempt={self.attempt}>"

    @property
    def ended(self) -> bool:
        """Whether the stream has ended."""
        return self.status in ENDED

    @property
    def duration(self) -> float:
        """Seconds since the start."""
        end = self.ended_mono
        return (self.clock.monotonic() if end is None else end) - self.started_mono

    @property
    def attempts(self) -> int:
        """How many attempts have begun, or would have."""
        return self.attempt - 1 if self.status == "restarting" else self.attempt

    def turn_to(self, place: int) -> None:
        """Ask this one of the endpoints from now on; with the lock held."""
        self.place = place
        self.target = self.targets[place]
        self.model = self.models[place]

    @property
    def quota_key(self) -> tuple[str, str, str]:
        """What this stream shares a rate limit by."""
        return self.quota_key_at(self.place)

    def quota_key_at(self, place: int) -> tuple[str, str, str]:
        """Return what it would share a rate limit by at another endpoint."""
        model = self.models[place] or "interactions"  # a resumed one does not say its model
        return self.targets[place].quota_key(model)

    def shared_wait(self, place: int) -> float:
        """Return the seconds for which streams at this endpoint are held back; 0: they are not."""
        return self.cooldowns.left(self.quota_key_at(place))

    @property
    def concurrency_place(self) -> Place:
        """Where, and by which key, the number of streams that run at once is limited."""
        return self.target.identity, self.concurrency_key or key_of(self.model)

    @property
    def time_runs(self) -> bool:
        """Whether the stream's time has begun: that of one that waits may begin with its launch."""
        return self.status != "queued" or not (self.patient or self.deferred)

    @property
    def interaction_id(self) -> str | None:
        """Under which the server keeps the work."""
        return self.request.interaction_id(self.progress.resume)

    @property
    def observed(self) -> Observed:
        """Where it says what happens to it."""
        return self.table.observed

    @property
    def cooldowns(self) -> Cooldowns:
        """The waits that it shares with other streams."""
        return self.table.cooldowns

    def usage(self) -> dict[str, Any] | None:
        """Tokens of the requests whose answers stand, the present one included.

        Never raises: the last messages hold it.
        """
        now = self.current.meaning.usage if self.current is not None else None
        return now if self.progress.used is None else self.progress.usage(now)

    def reader_of_events(self) -> Events:
        """Return what takes the events of the next request; with the lock held."""
        return self.request.events(self.options.max_event_bytes, self.progress.resume, self.clock.monotonic)

    def wake(self) -> None:
        """Let the stream's thread go on where it waits for room; with the lock held."""
        if self.audience.parked is None:
            return
        if self.current is not None:
            # The server was not listened to meanwhile; the timer may ring before the stream's thread runs.
            self.current.heard_at = self.clock.monotonic()
        self.audience.wake()
