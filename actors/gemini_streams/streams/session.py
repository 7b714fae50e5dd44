"""One stream over all its attempts: its numbers, history, checkpoint and end.

The rules:

- An attempt is one incarnation of the stream's actor. Its own fields die with it; the stream's stand here.
- Everything is changed with `lock` held, and `lock` is only ever held for a moment: nothing under it blocks or
  calls an application's code. It may take the table's lock, a clock's or an inbox's inside; never the other way.
- Only the present attempt may deliver: `current` is compared at each step, so that a late thread of a retired
  attempt finds the door shut (`Retired`).
- A stream ends once. The thread that ends it (the stream's, the supervisor's, the manager's, the clock's) puts the last
  message of every subscriber in the same moment, after the slot has been freed. Nothing keeps the end from being
  complete: a step that raises is logged, and the next step is taken.
- The subscribers and the wait for room stand in `audience`, the part of the answer that stands in `progress`, the one
  timer in `watchdog`, an attempt's own fields in `attempt`. `last_message` makes every last message.

The threads: the manager's thread subscribes, stops and looks. The stream's thread begins, waits for room, delivers and
completes; the shared reader's thread delivers for it. The supervisor's thread says what follows a failure. A
subscriber's thread gives credit. The clock's thread rings. `status` has the table of the states.

Every field is written with the lock held, but for those marked *:

    field                              written by                                may be read without the lock by
    stream_id, run, tag, model,
      options, target, clock, patient  no thread: they never change              any thread
    slot *                             a thread with the table's lock            the manager's, the supervisor's
    ref *                              the supervisor's, before the attempt      any thread
    started_at, started_mono           the thread that launches the stream       any thread
    status, error, attempt             the thread that begins, restarts or ends  any thread: right a moment ago
    current                            the same threads                          the thread that ends it
    next_sequence                      the pump's thread; the supervisor's       the pump's thread
    events_count, heard_at             the pump's thread                         any thread: right a moment ago
    _first_event_at                    the pump's thread                         the stream's thread
    _progress                          the pump's thread; the supervisor's       the stream's, `resume` alone
    undecided, asking *                the supervisor's; the stream's            the other one of the two
    _broken, _restart_error            the supervisor's; the stream's            no thread
    _ended_mono                        the thread that ends the stream           any thread
    _history, _last                    a thread with the lock                    no thread
"""

from __future__ import annotations

import random
import re
import threading
from typing import Any, Literal, Protocol

import pykka

from gemini_streams.api.endpoint import Target
from gemini_streams.api.json_values import decode
from gemini_streams.api.protocol import Call, Events, Request, ResumePoint
from gemini_streams.delivery.audience import Audience
from gemini_streams.delivery.history import ALL_KEPT, History
from gemini_streams.delivery.subscription import LastMessageOf, Subscription, common_room
from gemini_streams.errors import (
    APIError,
    GeminiStreamsError,
    SlowSubscriberError,
    StreamCrashedError,
    StreamEndedError,
)
from gemini_streams.messages import (
    LastMessage,
    Status,
    StreamEvent,
    StreamInfo,
    StreamRestarting,
)
from gemini_streams.options import FlowControl, Place, Settings
from gemini_streams.safely import safely
from gemini_streams.streams import last_message
from gemini_streams.streams.attempt import Attempt, Retired, hang_up
from gemini_streams.streams.pacing import Launches
from gemini_streams.streams.progress import Progress
from gemini_streams.streams.rate_limits import Cooldowns
from gemini_streams.streams.retry import TOO_MANY_REQUESTS, Failed, next_wait
from gemini_streams.streams.status import ENDED, follow
from gemini_streams.streams.waits import Waits
from gemini_streams.streams.watchdog import Watchdog
from pykka_supervisor.log import get_logger

__all__ = ["Session", "Table"]

_log = get_logger(__name__)

_ENUM_VALUE = re.compile("[A-Z0-9_]{1,64}")


class Table(Protocol):
    """A session's side of the table of all streams. Each method takes the table's own lock for a moment only."""

    @property
    def launches(self) -> Launches[Session]:
        """The streams that are being launched."""

    @property
    def cooldowns(self) -> Cooldowns:
        """The waits that streams of one quota share."""

    def unwatch(self, ref: pykka.ActorRef[Any], session: Session) -> None:
        """Take note that a subscriber has left a session."""

    def ended(self, session: Session, *, idle: bool) -> None:
        """Take note that a stream has ended. `idle`: no attempt is under way that would notice by itself."""

    def count_restart(self) -> None:
        """Count a restart."""


class Session:
    """One stream over all its attempts."""

    __slots__ = (
        "_broken",
        "_ended_mono",
        "_first_event_at",
        "_history",
        "_last",
        "_progress",
        "_request",
        "_restart_error",
        "_table",
        "_watchdog",
        "asking",
        "attempt",
        "audience",
        "clock",
        "current",
        "error",
        "events_count",
        "heard_at",
        "lock",
        "model",
        "next_sequence",
        "options",
        "patient",
        "ref",
        "run",
        "slot",
        "started_at",
        "started_mono",
        "status",
        "stream_id",
        "tag",
        "target",
        "undecided",
        "waits",
    )

    def __init__(
        self,
        *,
        stream_id: str,
        run: str,
        tag: Any,
        request: Request,
        target: Target,
        options: Settings,
        table: Table,
        patient: bool = False,
    ) -> None:
        self.lock = threading.Lock()
        self.stream_id = stream_id
        self.run = run
        """Tells this stream from one that was started under the same id before or after it."""
        self.tag = tag
        self.model = options.model
        self.options = options
        self.target = target
        self._request = request
        self._table = table
        self.clock = clock = options.clock
        self.status: Status = "queued"
        self.error: GeminiStreamsError | None = None
        self.patient = patient
        """Whether it waits for a slot however many wait, and its time begins with that slot."""
        self.slot = False
        """Whether it holds one of the table's slots; the table's business."""
        self.ref: pykka.ActorRef[Any] | None = None
        self.started_at = clock.time()
        self.started_mono = clock.monotonic()
        self.heard_at: float | None = None
        self._first_event_at: float | None = None
        self.attempt = 1
        self.current: Attempt | None = None
        self.events_count = 0
        self.next_sequence = 0
        self._progress = Progress()
        self._restart_error: GeminiStreamsError | None = None
        self._broken: Attempt | None = None  # retired, and not decided on yet
        self.undecided: GeminiStreamsError | None = None
        """What an attempt died of that the policy's `retryable` has to be asked about, in a thread that lives."""
        self.asking: GeminiStreamsError | None = None
        """What it is being asked about."""
        self.waits = Waits(self)
        self.audience = Audience()
        self._history = History(options.history)
        self._watchdog = Watchdog(self)
        self._ended_mono: float | None = None
        self._last: LastMessageOf | None = None

    def __repr__(self) -> str:
        return f"<Session {self.stream_id} {self.status} attempt={self.attempt}>"

    # -- the manager's thread ----------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether the stream has ended."""
        return self.status in ENDED

    def waiting(self) -> None:
        """Take note that the stream waits for a slot; its deadline runs."""
        with self.lock:
            if not self.patient:
                self._watchdog.arm()

    def launched(self) -> None:
        """Take note that the stream has its slot."""
        with self.lock:
            if self.status != "queued":
                return
            self.status = follow(self.status, "starting")
            if self.patient:
                self.started_at, self.started_mono = self.clock.time(), self.clock.monotonic()
            self._watchdog.arm()

    def subscribe(
        self, ref: pykka.ActorRef[Any], after: Place, flow: FlowControl | None
    ) -> Subscription | None:
        """Add a subscriber; `None` where it is one already.

        Raises `StreamEndedError`, `HistoryGoneError`, `InvalidRequestError`.
        """
        with self.lock:
            if self.has_subscriber(ref.actor_urn):
                return None
            subscription = Subscription(self, ref, flow or self.options.flow)
            begun = self.attempts
            void, missed = self._history.missed(after, self.attempt, self.next_sequence, begun)
            if self.ended and after is None:
                raise StreamEndedError(f"the stream {self.stream_id} has ended ({self.status})")
            if isinstance(after, tuple):
                subscription.top = after[1]  # it has seen that much, elsewhere
            if void is not None:
                subscription.restart(self._restarting(begun if missed else self.attempt, void))
            if missed is not None:
                subscription.replay(missed)
            if missed is not None and begun < self.attempt:  # it has come between two attempts
                subscription.restart(self._restarting(self.attempt, self.next_sequence))
            if self.ended:
                if self._last is not None:
                    subscription.finish(self._last)
                self.audience.join_late(subscription)
                return subscription
            self._join(subscription)
            return subscription

    def join(self, ref: pykka.ActorRef[Any]) -> Subscription | None:
        """Add a subscriber by a start that found this stream running or lingering: it is given all that is kept.

        `None` where it is a subscriber already, or has been given the end.
        """
        return None if ref.actor_urn in self.told else self.subscribe(ref, ALL_KEPT, None)

    def unsubscribe(self, urn: str, *, gone: bool = False) -> bool:
        """Let a subscriber go without a last message; the last one's leaving ends the stream unless it is kept.

        After the stream's end a subscriber for which something is still buffered gets none of that. `gone`: the
        subscriber has died; the thread that notices the death calls this.
        """
        with self.lock:
            subscription = self.audience.find(urn)
            if subscription is None or (self.ended and subscription.closed):
                return False
            subscription.close()
            interrupted = self._leave(subscription)
        hang_up(interrupted)
        _log.debug("subscriber_left", stream_id=self.stream_id, subscriber=urn, died=gone)
        return True

    def stop(self, reason: Literal["requested", "shutdown"]) -> bool:
        """End the stream; `False` where it has ended."""
        return self._finish("stopped", last_message.stopped(self, reason), at_once=True)

    def fail(self, error: GeminiStreamsError, *, attempt: Attempt | None = None) -> bool:
        """End the stream with an error; `False` where it has ended, or `attempt` is not the present one any more."""
        error.__traceback__ = error.__cause__ = error.__context__ = None
        return self._finish("error", last_message.failed(self, error), error=error, attempt=attempt)

    def info(self) -> StreamInfo:
        """Return what the manager tells of this stream."""
        with self.lock:
            heard = self.heard_at
            return StreamInfo(
                stream_id=self.stream_id,
                stream_ref=self.ref,
                model=self.model,
                request=self._request,
                status=self.status,
                error=self.error,
                started_at=self.started_at,
                subscribers=tuple(s.ref for s in self.audience.present()),
                events_count=self.events_count,
                last_event_at=None if heard is None else self.started_at + heard - self.started_mono,
                config=self.options.config,
                attempt=self.attempt,
                tag=self.tag,
            )

    def asks_the_same(self, request: Request, model: str, target: Target) -> bool:
        """Whether a request is the one this stream was started with, by the same tenant of the same service."""
        return (
            model == self.model and target.identity == self.target.identity and self._request.same_as(request)
        )

    def has_subscriber(self, urn: str) -> bool:
        """Whether this actor is one: after the stream's end, whether something is still buffered for it."""
        return self.audience.has(urn)

    @property
    def subscribers(self) -> int:
        """How many there are."""
        return self.audience.count

    @property
    def told(self) -> set[str]:
        """The URNs of the subscribers that were given this stream's last message."""
        with self.lock:
            return set(self.audience.told or ())

    @property
    def duration(self) -> float:
        """Seconds since the start."""
        end = self._ended_mono
        return (self.clock.monotonic() if end is None else end) - self.started_mono

    @property
    def attempts(self) -> int:
        """How many attempts have begun, or would have."""
        return self.attempt - 1 if self.status == "restarting" else self.attempt

    def usage(self) -> dict[str, Any] | None:
        """Tokens of the requests whose answers stand, the present one included.

        Never raises: the last messages hold it.
        """
        now = self.current.meaning.usage if self.current is not None else None
        return now if self._progress.used is None else self._progress.usage(now)

    # -- the stream's thread -----------------------------------------------------------------------------------------

    def stand_aside(self) -> None:
        """Take note that the stream is held back: others may be launched meanwhile."""
        self._table.launches.out(self)

    def begin(self) -> Attempt | None:
        """Begin the next attempt; `None` where the stream has ended."""
        with self.lock:
            if self.ended:
                return None
            if self.status == "restarting":
                self.status = follow(self.status, "starting")
            attempt = self.current = Attempt(self.attempt, self._meaning())
            return attempt

    @property
    def resume(self) -> ResumePoint | None:
        """Where the answer can go on: what the latest events have shown."""
        return self._progress.resume

    def call(self) -> Call:
        """Return the next call: for the answer, or for what is left of it."""
        return self._request.call(self.target, self.model, self._progress.resume)

    def connected(self, attempt: Attempt) -> None:
        """Take note that the request is about to be sent: from here on the server's silence counts."""
        with self.lock:
            self._check(attempt)
            attempt.connected = True
            attempt.heard_at = self.clock.monotonic()
            self._watchdog.arm()
        self._table.launches.out(self)

    def answering(self, attempt: Attempt) -> None:
        """Take note that the server has begun to answer."""
        with self.lock:
            self._check(attempt)
            if self.status == "starting":
                self.status = follow(self.status, "active")
        if self._table.cooldowns.quotas:
            self.waits.answered()

    def room(self, attempt: Attempt, size: int) -> tuple[int, int]:
        """Return how many events and bytes may be delivered now; waits while a subscriber that pauses is full.

        `size`: bytes of the next event where it is known, else 0. Raises `Retired`.
        """
        while True:
            with self.lock:
                self._check(attempt)
                parked, count, room = self.audience.room(size, self.clock.monotonic)
                if parked is None:
                    attempt.free, attempt.free_bytes = count, room
                    return count, room
                self._watchdog.arm()
            parked.acquire()
            with self.lock:
                self._watchdog.arm()

    def deliver(self, attempt: Attempt, events: list[StreamEvent], payloads: list[bytes]) -> None:
        """Give events to all subscribers. Raises `Retired`."""
        with self.lock:
            interrupted = self._deliver(attempt, events, payloads, sum(map(len, payloads)))
        if interrupted is not None:
            hang_up(interrupted)

    def deliver_now(self, attempt: Attempt, events: list[StreamEvent], payloads: list[bytes]) -> bool:
        """Do the same where nothing in it can take time, for the shared reader; else `False`, and nothing is done.

        Nothing can where the lock is free and no subscriber has to be let go.
        """
        size = sum(map(len, payloads))
        if not self.lock.acquire(blocking=False):
            return False
        try:
            if not all(s.takes(len(events), size) for s in self.audience.strict):
                return False
            interrupted = self._deliver(attempt, events, payloads, size)
        finally:
            self.lock.release()
        if interrupted is not None:
            hang_up(interrupted)
        return True

    def _deliver(
        self, attempt: Attempt, events: list[StreamEvent], payloads: list[bytes], size: int
    ) -> Attempt | None:
        """With the lock held; returns the attempt to interrupt where that ended the stream."""
        if self.current is not attempt:
            raise Retired
        slow = [s for s in self.audience.all if not s.push(events, payloads, size)]
        count = len(events)
        self.events_count += count
        attempt.received += count
        attempt.hop += count
        now = attempt.heard_at = self.heard_at = self.clock.monotonic()
        if self._first_event_at is None:
            self._first_event_at = now
        first = self.next_sequence
        self.next_sequence = first + count
        _, attempt.free, attempt.free_bytes = common_room(self.audience.pausing, 0)
        self._history.remember(first, payloads)
        meaning = attempt.meaning
        if meaning.resume is not None:
            self._progress.reached(meaning.resume, self.next_sequence - (attempt.hop - meaning.resume_index))
        interrupted = None
        for subscription in slow:
            interrupted = self.let_go(subscription) or interrupted
        return interrupted

    def lost(self, subscription: Subscription, error: BaseException) -> None:
        """Let a subscriber leave whose inbox, of an application's own kind, has raised; in the thread that put."""
        with self.lock:
            subscription.close()
            interrupted = self._leave(subscription)
        hang_up(interrupted)
        _log.warning(
            "subscriber_lost",
            stream_id=self.stream_id,
            subscriber=subscription.urn,
            error=type(error).__name__,
        )

    def next_hop(self, attempt: Attempt) -> None:
        """Take note that the answer goes on in another request of the same attempt.

        Raises `Retired`, or `StreamTruncatedError` where the stream's policy allows no more of them.
        """
        with self.lock:
            self._check(attempt)
            self._progress.go_on(self.options.retry.max_continuations, self.usage())
            attempt.meaning = self._meaning()
            attempt.hop = 0
            attempt.exchange = None
            attempt.error = None  # a silence that ended as it was noticed
            attempt.heard_at = self.clock.monotonic()

    def complete(self, attempt: Attempt) -> None:
        """End the stream as the service wanted. Raises `Retired`."""
        meaning = attempt.meaning
        first = self._first_event_at
        last = last_message.completed(
            self,
            finish_reason=self._said(meaning.finish_reason),
            block_reason=self._said(meaning.block_reason),
            finish_message=self._said(meaning.finish_message, 2000),
            first_event_after=None if first is None else first - self.started_mono,
        )
        if not self._finish("completed", last, attempt=attempt):
            raise Retired

    def _said(self, word: str | None, most: int = 300) -> str | None:
        """Return a server's word as a last message repeats it: an enum's value, or without our secrets and cut."""
        return word if word is None or _ENUM_VALUE.fullmatch(word) else self.target.words(word, most)

    # -- the supervisor's thread -------------------------------------------------------------------------------------

    def failed(self, error: GeminiStreamsError, *, verdict: bool | None = None) -> float | None:
        """Decide what follows a failed attempt: return the seconds until the next one, or `None` where it was the last.

        `verdict`: what the policy's `retryable` has said. The subscribers have been told when this returns. Also called
        in the stream's own thread, where its predecessor's death had to be asked about.
        """
        error.__traceback__ = error.__cause__ = error.__context__ = None
        self._table.launches.out(self)
        with self.lock:
            self.undecided = self.asking = None
            if self.ended:
                return None
            attempt, self.current, self._broken = self.current or self._broken, None, None
            error = self._cause(error, attempt)
            self._progress.failed(error)
            resume_at = self._progress.resume_at
            asked = max(0.0, error.retry_at - self.clock.time()) if error.retry_at is not None else 0.0
            failed = Failed(
                error=error,
                attempt=self.attempt,
                elapsed=self.duration,
                voids=self.next_sequence > resume_at,
                silences=self._progress.silences,
                verdict=verdict,
                asked=asked,
                kept=self.waits.kept,
                waited=self.waits.seconds,
                deadline=self.options.deadline,
            )
        hang_up(attempt)
        if isinstance(error, APIError) and error.code == TOO_MANY_REQUESTS and error.retryable:
            self.waits.refused(asked)
        else:
            self.waits.left()
        wait = next_wait(self.options.retry, failed, random.uniform)
        if wait is None:
            with self.lock:
                self._add_usage(attempt, self.next_sequence)  # nothing of it becomes void any more
            self.fail(error)
            return None
        with self.lock:
            if self.status in ENDED:  # meanwhile
                return None
            if asked:
                self.waits.keep(wait.delay, counted=wait.counted)
            self._restart(error, attempt, resume_at, wait.delay)
            if self.status in ENDED:  # no subscriber was left to take the news
                return None
        _log.info(
            "stream_restarting",
            stream_id=self.stream_id,
            model=self.model,
            attempt=self.attempt,
            resume_at=resume_at,
            delay=wait.delay,
            error=error.brief,
        )
        return wait.delay

    def retire(self, error: GeminiStreamsError) -> None:
        """Close an attempt whose thread has died; what follows is decided in its successor's (`undecided`)."""
        with self.lock:
            attempt, self.current = self.current, None
            self._broken = attempt
            self.undecided = self._cause(error, attempt)
        hang_up(attempt)

    @staticmethod
    def _cause(error: GeminiStreamsError, attempt: Attempt | None) -> GeminiStreamsError:
        """Return the error that an attempt was killed for because it did not end for it, or else `error`."""
        if attempt is not None and attempt.error is not None and isinstance(error, StreamCrashedError):
            return attempt.error
        return error

    @property
    def quota_key(self) -> tuple[str, str, str]:
        """What this stream shares a rate limit by."""
        return self.target.quota_key(self.model)

    @property
    def cooldowns(self) -> Cooldowns:
        """The waits that it shares with other streams."""
        return self._table.cooldowns

    def interrupt(self, attempt: Attempt) -> None:
        """Wake an attempt from whatever it waits for, for its actor is to end. Any thread."""
        attempt.interrupted = True
        with self.lock:
            self._wake()
        hang_up(attempt)

    # -- a subscriber's thread ---------------------------------------------------------------------------------------

    def on_credit(self, subscription: Subscription) -> None:
        """Let a subscription that has drained take more."""
        with self.lock:
            subscription.flush()
            if subscription.closed and not self.ended:
                interrupted = self._leave(subscription)
            else:
                interrupted = None
                if self.audience.go_on(subscription):
                    self._wake()
        hang_up(interrupted)

    def cannot_tell(self, subscription: Subscription) -> LastMessage:
        """Return the last message of a subscriber whose own could not be made."""
        return last_message.unmade(self, subscription)

    def event(self, attempt: int, sequence: int, payload: bytes) -> StreamEvent:
        """Decode an event of the history again."""
        return StreamEvent(self.stream_id, attempt, sequence, decode(payload), self.tag, self.run)

    # -- with the lock held ------------------------------------------------------------------------------------------

    def _meaning(self) -> Events:
        """Return what takes the events of the next request."""
        return self._request.events(self.options.max_event_bytes, self._progress.resume)

    def _check(self, attempt: Attempt) -> None:
        if self.current is not attempt or attempt.interrupted:
            raise Retired

    def _join(self, subscription: Subscription) -> None:
        self.audience.join(subscription)
        if subscription.pausing and self.current is not None:
            self.current.free = 0  # its window is another one
        self._watchdog.keep_until = None

    def _leave(self, subscription: Subscription) -> Attempt | None:
        """Take a subscription out; returns the attempt to interrupt where that ended the stream."""
        if not self.audience.leave(subscription):
            return None
        self._table.unwatch(subscription.ref, self)
        self._wake()
        if self.audience.all or self.ended:
            return None
        if self.options.keep:
            self._watchdog.keep_until = self.clock.monotonic() + self.options.keep
            self._watchdog.arm()
            return None
        return self.forsake()

    def forsake(self) -> Attempt | None:
        """End the stream that has no subscriber left; returns the attempt to interrupt."""
        return self._end_locked("stopped", last_message.stopped(self, "requested"), at_once=True)

    def let_go(self, subscription: Subscription) -> Attempt | None:
        """End one subscription that does not keep up, or whose inbox is closed."""
        if subscription.closed:
            return self._leave(subscription)
        flow = subscription.flow
        late = (
            f"held the stream paused for {flow.stall_timeout:g} s"
            if subscription.pausing
            else f"had {flow.window} events or {flow.max_bytes} bytes on their way"
        )
        error = SlowSubscriberError(f"this subscriber {late} and was let go")
        subscription.finish(last_message.failed(self, error), at_once=True)
        _log.warning("subscriber_let_go", stream_id=self.stream_id, subscriber=subscription.urn, why=late)
        return self._leave(subscription)

    def _restarting(self, attempt: int, resume_at: int) -> StreamRestarting:
        """Return the word of a restart for a subscriber that was not there."""
        error = self._restart_error or StreamCrashedError("the stream was restarted meanwhile")
        return StreamRestarting(self.stream_id, attempt, resume_at, 0.0, error, self.tag)

    def _add_usage(self, attempt: Attempt | None, resume_at: int) -> None:
        """Keep the usage of a broken request whose answer stands in part."""
        self._progress.keep(None if attempt is None else attempt.meaning.usage, resume_at)

    def _restart(
        self, error: GeminiStreamsError, attempt: Attempt | None, resume_at: int, delay: float
    ) -> None:
        self._add_usage(attempt, resume_at)
        if self.status != "restarting":  # or this attempt died before it had begun
            self.status = follow(self.status, "restarting")
        self.error = self._restart_error = error
        self.attempt += 1
        self.next_sequence = resume_at
        self._history.restart(self.attempt, resume_at)
        self._table.count_restart()
        message = StreamRestarting(self.stream_id, self.attempt, resume_at, delay, error, self.tag)
        for subscription in self.audience.all:
            subscription.restart(message)
            subscription.stalled_since = None
        for subscription in self.audience.all:
            if subscription.closed:
                self._leave(subscription)

    def _finish(
        self,
        status: Status,
        last: LastMessageOf,
        *,
        at_once: bool = False,
        error: GeminiStreamsError | None = None,
        attempt: Attempt | None = None,
    ) -> bool:
        with self.lock:
            if self.ended or (attempt is not None and self.current is not attempt):
                return False
            interrupted = self._end_locked(status, last, at_once=at_once, error=error)
        hang_up(interrupted)
        return True

    def _end_locked(
        self,
        status: Status,
        last: LastMessageOf,
        *,
        at_once: bool = False,
        error: GeminiStreamsError | None = None,
    ) -> Attempt | None:
        """End the stream; returns the attempt to interrupt once the lock is free."""
        was, attempts = self.status, self.attempts
        attempt = self.current
        if attempt is not None:
            self._progress.used = safely(self.usage)
            self.current = None
        self.status = follow(was, status)
        self.attempt = attempts
        self.error = error
        self._last = last
        self._ended_mono = self.clock.monotonic()
        self._watchdog.cancel()
        subscriptions = self.audience.dismiss()
        self._wake()
        safely(self._table.ended, self, idle=attempt is None)
        if self._table.cooldowns.quotas or self.waits.since is not None:
            safely(self.waits.left)
        for subscription in subscriptions:
            safely(self._table.unwatch, subscription.ref, self)
            safely(subscription.finish, last, at_once=at_once)
        self.audience.linger(subscriptions)
        _log.info(
            "stream_ended",
            stream_id=self.stream_id,
            model=self.model,
            attempt=self.attempt,
            status=status,
            events=self.events_count,
            duration=round(self.duration, 3),
            error=None if error is None else error.brief,
        )
        return attempt

    def _wake(self) -> None:
        """Let the stream's thread go on where it waits for room."""
        if self.audience.parked is None:
            return
        if self.current is not None:
            # The server was not listened to meanwhile; the timer may ring before the stream's thread runs.
            self.current.heard_at = self.clock.monotonic()
        self.audience.wake()
