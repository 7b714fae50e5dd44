"""The table of all streams of one manager's tree: names, slots, the subscribers that are watched, counters.

The rules:

- The table outlives the manager and the supervisor: neither of them has books of its own, so neither's death loses
  anything.
- A stream holds a slot from its launch to its end, whichever end that is. Streams that wait for a slot are launched in
  the order of asking.
- A stream that has a slot and no place (`places`) is queued like one without a slot. Its time begins with its launch.
- An ended stream stays visible for `linger` seconds.
- Each subscriber is watched once, however many streams it subscribes to.

Thread-safe; its lock is held for a moment only and may be taken with a session's lock held, never the other way.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any, Literal

import pykka
from pykka.messages import ProxyGetAttr

from gemini_streams.errors import (
    GeminiStreamsError,
    ManagerDrainingError,
    MaxStreamsExceededError,
    StreamNotFoundError,
    shown,
)
from gemini_streams.messages import ManagerStats, Status
from gemini_streams.safely import safely
from gemini_streams.streams.errands import Cancel
from gemini_streams.streams.observed import Observed
from gemini_streams.streams.pacing import Launches
from gemini_streams.streams.places import Places
from gemini_streams.streams.rate_limits import Cooldowns
from gemini_streams.streams.session import Session
from pykka_supervisor import Clock, Down, MonitorRef, Timer, demonitor
from pykka_supervisor.monitor import monitor_directly

__all__ = ["CancelSession", "LaunchMore", "Sessions", "StartSession", "subscribes"]

_ASK_FOR_URN = ProxyGetAttr(attr_path=("actor_urn",))


class StartSession:
    """To the supervisor of the streams: start a session's first attempt."""

    __slots__ = ("session",)
    __match_args__ = ("session",)

    def __init__(self, session: Session) -> None:
        self.session = session


class CancelSession(StartSession):
    """To the supervisor of the streams: a session has ended between two attempts, start no further one."""

    __slots__ = ()


class LaunchMore:
    """To the supervisor of the streams: look whether more of those that wait can be launched."""

    __slots__ = ()


class _Watched:
    """One subscriber and the sessions it subscribes to."""

    __slots__ = ("monitor", "sessions")

    def __init__(self) -> None:
        self.monitor: MonitorRef | None = None
        self.sessions: set[Session] = set()

    def demonitor(self) -> None:
        """Let the subscriber be monitored no more; the monitor and this hold each other."""
        told, self.monitor = self.monitor, None
        if told is not None:
            demonitor(told)


_everywhere: weakref.WeakSet[Sessions] = weakref.WeakSet()


def subscribes(urn: str) -> bool:
    """Whether an actor subscribes to a stream of any table of the process, by its URN."""
    return any(urn in table._watched for table in list(_everywhere))  # noqa: SLF001 - this module's own


class Sessions:
    """All streams of one tree."""

    def __init__(
        self,
        *,
        max_streams: int,
        max_waiting: int,
        linger: float,
        clock: Clock,
        concurrency: Mapping[str, int] | None = None,
    ) -> None:
        self.places = Places(concurrency or {})
        """How many streams of one key run at once at one endpoint."""
        self.max_streams = max_streams
        self.max_waiting = max_waiting
        self._linger = linger
        self._clock = clock
        self.cooldowns: Cooldowns = Cooldowns(clock)
        """The clock's, which all managers share, as long as the tree runs."""
        self.observed = Observed()
        """Where the streams say what happens to them."""
        self.supervisor: pykka.ActorRef[Any] | None = None
        """Of the streams; it says so itself when it starts."""
        self.errands: pykka.ActorRef[Any] | None = None
        """The actor that cancels work at the server; it says so itself when it starts."""
        self.root: pykka.ActorRef[Any] | None = None
        """The top of the tree, once the supervisor of the streams has it watched."""
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self._waiting: OrderedDict[str, Session] = OrderedDict()
        self._patient = 0  # how many of those that wait are patient
        # In the order of the moments at which they are to be forgotten.
        self._lingering: deque[tuple[float, Session]] = deque()
        self._linger_timer: Timer | None = None
        self._running = 0
        self._watched: dict[str, _Watched] = {}
        _everywhere.add(self)
        self._started = self._completed = self._failed = self._stopped = self._restarts = 0
        self._past_events = 0
        self._draining = False
        self._process_ends = False
        self._on_drained: list[Callable[[], None]] = []
        self.launches: Launches[Session] = Launches(lambda: self._tell(LaunchMore()))

    # -- names and slots ---------------------------------------------------------------------------------------------

    def find(self, stream_id: str) -> Session:
        """Return a visible stream; raises `StreamNotFoundError`."""
        try:
            return self._sessions[stream_id]
        except KeyError:
            raise StreamNotFoundError(f"no stream {shown(stream_id)} runs or lingers here") from None

    def get(self, stream_id: str) -> Session | None:
        """Return a visible stream, or `None`."""
        return self._sessions.get(stream_id)

    def all(self) -> list[Session]:
        """Return all visible streams, oldest first."""
        with self._lock:
            return list(self._sessions.values())

    def check_admission(self, *, patient: bool = False) -> None:
        """Raise where no stream would be admitted now."""
        with self._lock:
            self._admit(patient)

    def add(self, session: Session) -> None:
        """Give a new stream its name and a slot, or a place among those that wait for one.

        Raises `MaxStreamsExceededError`, `ManagerDrainingError`. Call `start` when it has its subscribers.
        """
        with self._lock:
            self._admit(session.patient)
            stopped = self._sessions.get(session.stream_id)
            if stopped is not None:  # it lingers, and this one begins anew under its id
                self._forget(stopped)
            self._sessions[session.stream_id] = session
            self._started += 1
            if self._running < self.max_streams:
                self._running += 1
                session.slot = True
            else:
                self._waiting[session.stream_id] = session
                self._patient += session.patient
        if session.slot:
            session.deferred = not self._has_place(session)

    def start(self, session: Session) -> None:
        """Launch a stream that was added, if it has a slot and a place."""
        if session.slot and not session.deferred:
            session.launched()
            self._tell(StartSession(session))
        else:
            session.waiting()

    def _has_place(self, session: Session) -> bool:
        """Take a place for a stream; where there is none, the stream is launched when it has one."""
        if not self.places.limits:
            return True
        has = self.places.take(
            session, session.concurrency_place, lambda: safely(self._tell, StartSession(session))
        )
        if session.ended:  # and the thread that ended it has been here before
            self.places.give_up(session)
        return has

    def _admit(self, patient: bool) -> None:  # noqa: FBT001
        if self._process_ends:
            raise ManagerDrainingError("no stream is started any more: the process is ending")
        if self._draining:
            raise ManagerDrainingError("this manager is draining: start the stream at another one")
        if patient or self._running < self.max_streams:
            return
        if len(self._waiting) - self._patient >= self.max_waiting:
            waiting = f" and {self.max_waiting} wait (max_waiting)" if self.max_waiting else ""
            raise MaxStreamsExceededError(
                f"{self.max_streams} streams run (max_streams){waiting}: wait for one to end, or raise the limit"
            )

    def ended(self, session: Session, *, idle: bool) -> None:
        """Take note that a stream has ended: its slot is free. Called with the session's lock held.

        `idle`: no attempt is under way that would notice by itself.
        """
        safely(self.launches.out, session)
        with self._lock:
            match session.status:
                case "completed":
                    self._completed += 1
                case "error":
                    self._failed += 1
                case _:
                    self._stopped += 1
            if self._waiting.pop(session.stream_id, None) is not None:
                self._patient -= session.patient
            following = self._pass_on(session)
            drained: list[Callable[[], None]] = []
            if self._draining and not self._running and not self._waiting:
                drained, self._on_drained = self._on_drained, drained
        if idle and session.ref is not None:
            safely(self._tell, CancelSession(session))
        if self.places.limits:
            safely(self.places.give_up, session)
        if following is not None and safely(self._has_place, following):
            safely(self._tell, StartSession(following))
        for on_drained in drained:
            safely(on_drained)
        with self._lock:
            if self._linger:
                self._lingering.append((self._clock.monotonic() + self._linger, session))
                self._watch_lingering()
            else:
                self._forget(session)

    def _pass_on(self, session: Session) -> Session | None:
        """Free a stream's slot; returns the stream that has it now."""
        if not session.slot:
            return None
        session.slot = False
        if not self._waiting:
            self._running -= 1
            return None
        _, following = self._waiting.popitem(last=False)
        self._patient -= following.patient
        following.slot = True
        return following

    def _tell(self, message: StartSession | LaunchMore) -> None:
        with contextlib.suppress(pykka.ActorDeadError):  # then the tree is ending, and every stream with it
            if self.supervisor is not None:
                self.supervisor.tell(message)

    def cancel_work(self, session: Session, resume: Any, delay: float = 0.0) -> None:
        """Have a stream's work at the server cancelled, where there is some; from any thread, never waits."""
        call = session.request.cancel(session.target, resume)
        name = session.request.interaction_id(resume)
        if call is None or name is None:
            return
        cancel = Cancel(session.stream_id, name, session.target, call)
        if delay:
            self._clock.call_later(delay, functools.partial(self._run_errand, cancel))
        else:
            self._run_errand(cancel)

    def _run_errand(self, cancel: Cancel) -> None:
        with contextlib.suppress(pykka.ActorDeadError):  # then the tree is ending: that never cancels
            if self.errands is not None:
                self.errands.tell(cancel)

    def _watch_lingering(self) -> None:
        """Set the one timer for those that linger, all equally long: at the end of the first. With the lock held."""
        if self._linger_timer is None and self._lingering:
            due = self._lingering[0][0]
            left = max(0.0, due - self._clock.monotonic())
            self._linger_timer = self._clock.call_later(left, self._forget_due)

    def _forget_due(self) -> None:
        forgotten: list[
            Session
        ] = []  # without the lock: a tag that is let go may run code of the application's
        with self._lock:
            self._linger_timer = None
            now = self._clock.monotonic()
            while self._lingering and self._lingering[0][0] <= now:
                forgotten.append(self._lingering.popleft()[1])
                self._forget(forgotten[-1])
            self._watch_lingering()
        forgotten.clear()

    def _forget(self, session: Session) -> None:
        """Drop an ended stream. With the lock held."""
        if self._sessions.get(session.stream_id) is session:
            del self._sessions[session.stream_id]
            self._past_events += session.events_count

    def forget_all(self) -> None:
        """Drop the streams that linger: the tree has ended, and nothing can be asked of it. It may begin anew."""
        with self._lock:
            timer, self._linger_timer = self._linger_timer, None
            lingering, self._lingering = self._lingering, deque()
            sessions, self._sessions = self._sessions, {}
            self._past_events += sum(session.events_count for session in sessions.values())
            self._draining = False
        del lingering, sessions
        if timer is not None:
            timer.cancel()

    # -- ends --------------------------------------------------------------------------------------------------------

    def end_all(self, reason: Literal["shutdown"] | GeminiStreamsError) -> int:
        """End every stream; returns how many had not ended. With an error where the tree has died."""
        count = 0
        for session in sorted(
            self.all(), key=lambda session: (session.slot, session.status != "queued")
        ):  # or the streams that wait would get the slots and the places
            ended = safely(session.stop, reason) if isinstance(reason, str) else safely(session.fail, reason)
            count += bool(ended)
        return count

    def end_with_process(self, within: float) -> None:
        """Refuse every further start, and end every stream before the end of the process stops the subscribers.

        A supervised actor gets its stop behind its last message. A plain Pykka actor gets none: it is given `within`
        seconds here to handle its last message, since nothing else waits for a thread that is a daemon.
        """
        with self._lock:
            self._process_ends = True
        self.end_all("shutdown")
        told = {urn for session in self.all() for urn in session.members.told}
        deadline = time.monotonic() + within
        handled = [
            ref.ask(
                _ASK_FOR_URN, block=False
            )  # Pykka answers it behind the last message, unseen by on_receive
            for ref in pykka.ActorRegistry.get_all()
            if ref.actor_urn in told and _is_pykkas_own(ref.actor_inbox)
        ]
        for answer in handled:
            with contextlib.suppress(pykka.ActorDeadError, pykka.Timeout):
                answer.get(timeout=max(0.0, deadline - time.monotonic()))

    def drain(self, on_drained: Callable[[], None]) -> None:
        """Admit nothing more; `on_drained` is called, from any thread, when no stream runs."""
        with self._lock:
            self._draining = True
            if self._running or self._waiting:
                self._on_drained.append(on_drained)
            done = not self._running and not self._waiting
        if done:
            on_drained()

    # -- subscribers -------------------------------------------------------------------------------------------------

    def watch(self, ref: pykka.ActorRef[Any], session: Session) -> None:
        """Tell the session when a subscriber dies, however it dies, within a second."""
        with self._lock:
            known = self._watched.get(ref.actor_urn)
            watched = known
            if watched is None:
                watched = self._watched[ref.actor_urn] = _Watched()
            watched.sessions.add(session)
        if known is None:
            self._monitor(ref, watched)
        if session.ended or not session.members.has(ref.actor_urn):  # it has left meanwhile
            self.unwatch(ref, session)

    def unwatch(self, ref: pykka.ActorRef[Any], session: Session) -> None:
        """Take note that a subscriber has left a session."""
        with self._lock:
            watched = self._watched.get(ref.actor_urn)
            if watched is None:
                return
            watched.sessions.discard(session)
            if watched.sessions:
                return
            del self._watched[ref.actor_urn]
        watched.demonitor()

    def _monitor(self, ref: pykka.ActorRef[Any], watched: _Watched) -> None:
        watched.monitor = monitor_directly(ref, lambda down: self._down(ref, watched, down))
        with self._lock:
            left = self._watched.get(ref.actor_urn) is not watched
        if left:
            watched.demonitor()

    def _down(self, ref: pykka.ActorRef[Any], watched: _Watched, down: Down) -> None:
        """In the dying subscriber's thread, or a sweeper's."""
        if down.restarting:  # it keeps its inbox and its subscriptions
            with self._lock:
                still = self._watched.get(ref.actor_urn) is watched
            if still:
                self._monitor(ref, watched)
            return
        with self._lock:
            if self._watched.get(ref.actor_urn) is watched:
                del self._watched[ref.actor_urn]
            sessions = list(watched.sessions)
        for session in sessions:
            safely(session.members.unsubscribe, ref.actor_urn, gone=True)

    # -- figures -----------------------------------------------------------------------------------------------------

    def count_restart(self) -> None:
        """Count one."""
        with self._lock:
            self._restarts += 1

    def stats(self) -> ManagerStats:
        """Return the figures as they are now."""
        running, queued = self.places.figures()
        with self._lock:
            sessions = list(self._sessions.values())
            by_status: dict[Status, int] = {}
            for session in sessions:
                by_status[session.status] = by_status.get(session.status, 0) + 1
            return ManagerStats(
                total_streams=len(sessions),
                max_streams=self.max_streams,
                streams_by_status=by_status,
                total_subscribers=sum(s.members.count for s in sessions),
                started=self._started,
                completed=self._completed,
                failed=self._failed,
                stopped=self._stopped,
                restarts=self._restarts,
                events=self._past_events + sum(s.events_count for s in sessions),
                observer_lost=self.observed.lost,
                concurrency_running=running,
                concurrency_queued=queued,
            )


def _is_pykkas_own(inbox: object) -> bool:
    """Whether this is the inbox of a plain Pykka actor, and a put into it never blocks."""
    return type(inbox) is queue.Queue and not inbox.maxsize
