"""The supervisor of the streams: starts a stream's attempts and decides what follows a failed one.

Every kind of failure comes here as the reason for which the stream's actor ended: an error of ours from its attempt,
a crash, a kill, a thread that could not be started. One loop serves them all: the session asks the retry policy and
tells the subscribers (`recovery`). This supervisor waits without blocking its thread and starts the next
attempt, as a new incarnation of the same actor. Stream deaths count against their own policy only, never against an
intensity.

When this supervisor dies, its successor ends every stream that had an attempt with one last message.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

from gemini_streams.errors import ConnectionFailedError, GeminiStreamsError, StreamCrashedError
from gemini_streams.http.connections import Connections
from gemini_streams.safely import safely
from gemini_streams.streams import rate_limits as cooldowns
from gemini_streams.streams import recovery
from gemini_streams.streams.actor import AttemptFailed, StreamActor
from gemini_streams.streams.registry import CancelSession, LaunchMore, Sessions, StartSession
from gemini_streams.streams.session import Session
from gemini_streams.traces import trace_of
from pykka_supervisor import (
    GIVE_UP,
    BeforeEnd,
    ChildSpec,
    Clock,
    Crash,
    Down,
    DynamicSupervisor,
    Exit,
    GiveUp,
    Normal,
    Shutdown,
    StartFailed,
    before_end,
    supervisor_of,
)
from pykka_supervisor.errors import ChildNotFoundError
from pykka_supervisor.log import get_logger
from pykka_supervisor.monitor import monitor_directly

__all__ = ["StreamSupervisor"]

_log = get_logger(__name__)

_END_GRACE = 1.0
"""Seconds beyond `shutdown` that the end of the process waits for the streams to end."""


class StreamSupervisor(DynamicSupervisor):
    """Supervises one `StreamActor` a session."""

    def __init__(self, *, table: Sessions, connections: Connections, shutdown: float, clock: Clock) -> None:
        super().__init__(clock=clock)
        self._table = table
        self._connections = connections
        self._shutdown = shutdown
        self._clock = clock

    def on_start(self) -> None:
        """Clear up after a predecessor that died, and have the same done when the tree ends."""
        super().on_start()
        self._table.supervisor = self.actor_ref
        self._table.cooldowns = cooldowns.join(self._clock, self._table)
        died = StreamCrashedError("the supervisor of the streams died", retryable=True)
        for session in self._table.all():
            if session.ref is not None:
                safely(session.fail, died)
        root = supervisor_of(self.actor_ref)
        if root is not None and self._table.root is not root:
            self._table.root = root
            # The process may end while the tree lives: the streams then end before any subscriber is stopped.
            ending = before_end(
                functools.partial(self._table.end_with_process, self._shutdown),
                timeout=self._shutdown + _END_GRACE,
            )
            told = functools.partial(_tree_ended, self._table, self._connections, self._clock, ending)
            monitor_directly(root, told)
        self._launch()  # the streams that waited while there was no supervisor

    def on_receive(self, message: Any) -> None:
        """Start or cancel a session's attempts."""
        match message:
            case CancelSession(session):
                if session.ref is not None:
                    with contextlib.suppress(ChildNotFoundError):
                        self.terminate_child(session.ref)
            case StartSession(session):
                self._table.launches.add(session)
                self._launch()
            case LaunchMore():
                self._launch()
            case _:
                _log.warning("unknown_message", actor=str(self.actor_ref), type=type(message).__name__)

    def _launch(self) -> None:
        while (session := self._table.launches.next()) is not None:
            self._start_session(session)

    def _start_session(self, session: Session) -> None:
        session.launched()
        if session.ended or session.ref is not None:
            self._table.launches.out(session)
            return
        spec = ChildSpec(
            StreamActor,
            (session, self._connections),
            restart="transient",
            shutdown=self._shutdown,
            start_timeout=None,
            id=session.stream_id,
            backoff=functools.partial(_decide, session),
        )
        try:
            self.start_child(spec)
        except Exception as error:  # noqa: BLE001 - a thread that cannot be started, above all
            session.fail(ConnectionFailedError(f"the stream's actor could not be started: {error}"))


def _decide(session: Session, reason: Exit) -> float | GiveUp:
    """Decide, in the supervisor's thread, what follows the end of an attempt."""
    try:
        delay = _after(session, reason)
    except BaseException as bug:  # noqa: BLE001 - whatever it is, the subscribers get their last message
        _log.error("recovery_failed", stream_id=session.stream_id, trace=trace_of(bug))
        session.fail(StreamCrashedError(f"the stream could not be restarted: {type(bug).__name__}"))
        delay = None
    return GIVE_UP if delay is None else delay


def _after(session: Session, reason: Exit) -> float | None:
    if isinstance(reason, Crash) and isinstance(reason.exception, AttemptFailed):
        return recovery.failed(session, reason.exception.error, verdict=reason.exception.verdict)
    known = session.asking or session.undecided
    if known is not None:  # its thread has ended as well, before the policy's `retryable` has answered
        return recovery.failed(session, known)
    error = _error_of(session, reason)
    if session.ended or session.options.retry.retryable is None or isinstance(reason, StartFailed):
        return recovery.failed(session, error)
    recovery.retire(session, error)
    return 0.0  # the next incarnation asks, in its own thread, before it does anything else


def _error_of(session: Session, reason: Exit) -> GeminiStreamsError:
    if isinstance(reason, Crash | StartFailed):
        kind = type(reason.exception).__name__
        _log.error("stream_crashed", stream_id=session.stream_id, reason=kind)
        return StreamCrashedError(f"the stream's actor crashed: {kind}")
    return StreamCrashedError(f"the stream's actor was ended: {reason!r}")


def _tree_ended(
    table: Sessions, connections: Connections, clock: Clock, ending: BeforeEnd, down: Down
) -> None:
    """In the thread of the tree's root, or its supervisor's: no other thread is left to tell the subscribers."""
    table.root = None
    ending.cancel()
    if isinstance(down.reason, Normal | Shutdown):
        safely(table.end_all, "shutdown")
    else:
        died = StreamCrashedError(f"the streams' supervision tree died: {type(down.reason).__name__}")
        safely(table.end_all, died)
    safely(table.observed.flush)
    safely(table.forget_all)
    safely(cooldowns.leave, clock, table)
    safely(connections.close)
