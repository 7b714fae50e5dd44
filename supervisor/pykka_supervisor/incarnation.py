r"""The life of a supervised actor, of which each instance is an incarnation.

Theory of operation
-------------------
A `Cell` is what a ref points at: URN, inbox, `actor_stopped`, monitors, who supervises it. It lasts
until the actor is not restarted any more.

An `Incarnation` is one instance of the actor class in one thread. However that thread's body is
left, `Cell.ended()` runs in it exactly once: that `finally` is what makes one `Down` of every way
to die. An incarnation that does not end in time is *abandoned*: it is retired from the inbox, what
waits for it is told so, and when its thread comes back at last it finds nothing to do and no hook
of the actor is called any more.

    launched -> born -> started -> ended    by itself, stopped, crashed or killed
          \------\---------\-----> abandoned   by its supervisor or a kill; the thread may still run

It is born when `__init__` has returned, and started when `on_start` has. Both run in its own thread, but
for an actor on its own, whose `__init__` runs in its starter's, as Pykka has it. While `__init__` runs, the
incarnation is the current one of that thread already.

`order` holds the reason that was chosen for an incarnation that is being ended. There are two ways to end
one: a stop that waits its turn in the inbox, as Pykka's does, and `command()`, which overtakes the inbox.

An end has three steps, in this order, all in the incarnation's thread:

1. `begin_end()` decides whether the end is final. Afterwards only a supervisor may change that, from a
   restart to a final end. Each ask that this incarnation has in hand or has deferred fails. Where the
   end is final, the inbox is closed and what waits in it fails: the actor is dead, as Pykka has it. For
   a restart the inbox is held.
2. What lives by the actor ends (links, a supervisor's children), then `on_stop` or `on_failure` runs.
   What a hook raises is reported.
3. The actor is freed: no reference of this package's is left, so its sockets are closed before its end
   is told and before its successor is made. Then `ended()`: after a final end the name is released and
   the monitors are told, in `finish()`; after another one the supervisor decides.

States
------
The flags say in which state an incarnation is; none is ever left backwards.

    state      is told by               set in           follows
    ---------  -----------------------  ---------------  -----------------------------------------
    launched   none of those below      `Cell.launch`
    born       `born`                   `be_born`        launched
    started    `started`                `_live`          born
    ending     `for_good` is not None   `begin_end`      launched, born, started
    ended      `reason`                 `Cell.ended`     ending
    abandoned  `abandoned`, `reason`    `Cell.abandon`   each but ended

Threads
-------
"Own" is the incarnation's thread, "leaver" the thread that abandons it. "Locked": written under `cell.lock`.
Every field may be read without the lock; what is decided by several fields is decided under it.

    field                             written by
    --------------------------------  ------------------------------------------------------------
    born, actor                       the thread that runs `__init__`; own at the end (`actor`)
    started, started_at, ignored      own
    final                             the supervisor's
    for_good                          own, then the supervisor's; locked
    reason                            own or the leaver, once; locked
    abandoned                         the leaver; locked
    order                             any
    stop_as                           the supervisor's
    batch                             own; taken by any, locked
    reply_to, stop_replies, monitors  own; taken by the leaver
    error                             own; taken by the starter's
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from .birth import make
from .clock import Timer
from .dispatch import Dispatcher, Internal, rest_of
from .errors import ActorKilledError, IgnoreStart
from .exits import (
    Crash,
    Exit,
    Killed,
    Shutdown,
    StartFailed,
    forget_frames,
    is_abnormal,
)
from .log import contain, get_logger
from .observe import ChildStartRecord
from .policy import wants_restart
from .report import report

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Literal

    from .parts import Cancelable, Instance, Linked, Whole

__all__ = [
    "CURRENT",
    "DEFAULT_SHUTDOWN",
    "KILL_GRACE",
    "Awaited",
    "ChildEnded",
    "Incarnation",
    "current_incarnation",
]

_log = get_logger("pykka_supervisor")

DEFAULT_SHUTDOWN: Final = 5.0
"""Seconds; OTP's default for a worker."""

KILL_GRACE: Final = 0.1
"""Seconds that a thread gets to return after its incarnation has outlasted its `shutdown`."""


_numbers = itertools.count()


class _Current(threading.local):
    incarnation: Incarnation | None = None


CURRENT = _Current()
"""The calling thread's incarnation. Its own thread sets it: from before its `__init__` until it is about to end."""


def current_incarnation() -> Incarnation | None:
    """Tell in which supervised actor's thread this is called; None for any other thread."""
    return CURRENT.incarnation


Awaited: TypeAlias = 'Literal["born", "started"] | None'
"""For what the starter of an incarnation waits: the return of `__init__`, of `on_start`, or nothing."""


class Incarnation(Dispatcher):
    """One instance of an actor class in one thread; see the module's text."""

    __slots__ = (
        "abandoned",
        "actor",
        "arguments",
        "awaited",
        "born",
        "error",
        "final",
        "for_good",
        "gate",
        "generation",
        "ignored",
        "interrupted",
        "kill_timer",
        "links",
        "monitors",
        "reason",
        "start_or_end",
        "started",
        "started_at",
        "thread",
    )

    cell: Whole

    def __init__(
        self, cell: Whole, generation: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        super().__init__(cell)
        self.arguments: tuple[tuple[Any, ...], Mapping[str, Any]] = (args, kwargs)
        """Of `__init__`, until that has been called."""
        self.actor: Instance | None = None
        """From the return of `__init__` until the last hook has returned."""
        self.generation = generation
        self.thread = threading.Thread(
            target=self._run,
            name=f"{cell.actor_class.__name__}-{next(_numbers)}",
            daemon=True,
        )
        self.gate = threading.Lock()
        self.gate.acquire()
        self.born = False
        """Whether `__init__` has returned."""
        self.started = False
        """Whether `on_start` has returned."""
        self.interrupted = False
        self.started_at = 0.0
        self.final: bool | None = None
        """What its supervisor has decided about its end beforehand; None: the restart type decides."""
        self.for_good: bool | None = None
        """Whether its end is final, from `begin_end` on; None before that."""
        self.awaited: Awaited = None
        """What its starter waits for; see `Cell.launch`."""
        self.start_or_end = False
        self.abandoned = False
        self.reason: Exit | None = None
        self.error: BaseException | None = None
        """What kept it from starting, with its traceback, until its starter has taken it."""
        self.ignored = False
        """Whether that was an `IgnoreStart`."""
        self.kill_timer: Timer | None = None
        self.links: list[Linked] | None = None
        self.monitors: dict[int, Cancelable] | None = None
        """What it monitors for itself, by number."""

    def is_current(self) -> bool:
        """Whether nothing has ended or replaced it."""
        return self.reason is None and self.cell.incarnation is self

    def is_final(self, reason: Exit) -> bool:
        """Whether the actor ends for good with it."""
        if self.cell.supervisor is None:
            return True
        if self.final is not None:
            return self.final
        if self.start_or_end and self.is_awaited():
            return True
        return not wants_restart(self.cell.restart, reason)

    def is_awaited(self) -> bool:
        """Whether its starter still waits for it."""
        return self.awaited is not None and not self.started and not (self.born and self.awaited == "born")

    def disarm(self) -> None:
        """Once it has ended: take the timer back that would have it abandoned."""
        if self.reason is not None and self.kill_timer is not None:
            self.kill_timer.cancel()

    def drop_monitors(self) -> None:
        """Once it has ended: take back what it monitored for itself. Its successor makes its own, as in OTP."""
        monitors, self.monitors = self.monitors, None
        for told in list((monitors or {}).values()):
            told.cancel()

    def command(self, reason: Exit) -> None:
        """End it before it takes another message, from any thread; what it waits on is interrupted."""
        if self.order is None or is_abnormal(reason):
            self.order = reason
        self.retire()
        with self.cell.lock:
            if self.batch is not None:
                self.batch = rest_of(self.batch)
        self.interrupt()

    def interrupt(self) -> None:
        """Call the actor's own `interrupt()`, in the caller's thread.

        While `__init__` runs there is no actor that could be called: its own thread does so afterwards.
        """
        self.interrupted = True  # before the look at `actor`, which is set before the look at this
        actor = self.actor
        if actor is None or not self.cell.interruptible:
            return
        try:
            actor.interrupt()
        except BaseException as error:  # noqa: BLE001
            contain(error)
            _log.error("interrupt_failed", actor=str(self.cell), exc_info=error)

    def join(self, timeout: float | None) -> bool:
        """Wait until the thread is gone, or has been abandoned; False at the time-out."""
        if self.thread is threading.current_thread():
            return True
        if not self.abandoned:
            self.thread.join(timeout)
        return self.abandoned or not self.thread.is_alive()

    def open_gate(self) -> None:
        """Wake whoever waits for the start."""
        with contextlib.suppress(RuntimeError):
            self.gate.release()

    def drop(self) -> None:
        """Let go of what it was to be made of: its thread cannot be started."""
        self.actor = None
        self.arguments = (), {}
        del self.thread

    def take_error(self) -> BaseException | None:
        """Take what kept it from starting: its traceback holds the frames, and they what they worked on."""
        error, self.error = self.error, None
        return error

    # -- in its own thread, or in its starter's

    def be_born(self) -> Instance:
        """Make the instance. Raises what `__init__` raises, and StartError where that left Pykka's out."""
        before, CURRENT.incarnation = CURRENT.incarnation, self
        try:
            (args, kwargs), self.arguments = self.arguments, ((), {})
            actor = make(self.cell, self, args, kwargs)
        except BaseException:
            self._wind_down(None)
            raise
        finally:
            CURRENT.incarnation = before
        self.born = True
        self.actor = actor
        if self.interrupted:
            self.interrupt()
        return actor

    # -- in its own thread

    def _run(self) -> None:
        CURRENT.incarnation = self
        reason: Exit = Killed()
        try:
            reason = self._live()
        except BaseException as error:  # noqa: BLE001
            reason = Crash.of(error)
        finally:
            # The last reference that this package has: the actor and what it owns are freed before its end is told.
            self.actor = None
            try:
                if not self.cell.home.forked:
                    self.cell.ended(self, reason)
            finally:
                self.open_gate()
                CURRENT.incarnation = None

    def _live(self) -> Exit:
        actor = self._start()
        if isinstance(actor, Exit):
            return actor
        self.started_at = self._monotonic()
        self.started = True
        self.open_gate()
        if self.cell.taps:
            self.cell.observe(ChildStartRecord, self.generation)
        failure: tuple[Any, Any, Any] | None = None
        try:
            try:
                reason = self.receive(actor)
            except BaseException as error:  # noqa: BLE001
                failure = sys.exc_info()
                reason = self.order if self.order is not None else Crash.of(error, shared=self.answered)
            if self.cell.begin_end(self, reason):
                self.since = self._monotonic()
                self._wind_down(actor)
                self._last_hook(actor, reason, failure)
            if failure is not None and self.answered:
                # The asker has it too, and would keep what these frames worked on.
                forget_frames(*failure[1:])
        finally:
            # Its frames hold this one, and an asker may hold those.
            failure = None
            del actor
        return reason

    def _last_hook(self, actor: Instance, reason: Exit, failure: tuple[Any, Any, Any] | None) -> None:
        if failure is not None:
            self._hook(actor.on_failure, *failure)
        elif is_abnormal(reason):
            killed = ActorKilledError(f"{self.cell} was killed")
            self._hook(actor.on_failure, ActorKilledError, killed, None)
        else:
            self._hook(actor.on_stop)

    def _start(self) -> Instance | Exit:
        """Run `__init__`, where its starter has not, and `on_start`; the reason where that was all."""
        self.since = self._monotonic()
        actor = self.actor
        failed: Exit = Killed()
        try:
            if actor is None:
                actor = self.be_born()
                self.cell.register()
                self.mailbox.unbound()
                if self.awaited == "born":
                    self.open_gate()
            if not self.retired:  # or it was told to end meanwhile
                actor.on_start()
                return actor
        except BaseException as error:  # noqa: BLE001
            if self.is_awaited():
                self.error = error
            self.ignored = isinstance(error, IgnoreStart)
            failed = Shutdown("ignore") if self.ignored else StartFailed.of(error)
        reason = failed if self.order is None else self.order
        if self.cell.begin_end(self, reason):
            self._wind_down(actor)
        return reason

    def _wind_down(self, actor: Instance | None) -> None:
        """Before the hooks: what lives only by this actor ends."""
        links, self.links = self.links, None
        for linked in links or ():
            try:
                linked.end()
            except Exception as error:  # noqa: BLE001
                _log.error("link_failed", actor=str(self.cell), exc_info=error)
        if actor is None:
            return
        try:
            actor._supervised_wind_down()  # noqa: SLF001
        except Exception as error:  # noqa: BLE001
            _log.error("wind_down_failed", actor=str(self.cell), exc_info=error)

    def _hook(self, hook: Callable[..., None], *args: Any) -> None:
        """Run `on_stop` or `on_failure`; what it raises is reported and changes nothing."""
        try:
            hook(*args)
        except BaseException as error:  # noqa: BLE001
            report(
                None if self.cell.supervisor is None else self.cell.supervisor.ref,
                "shutdown_error",
                Crash.of(error),
                offender={"id": None, "ref": str(self.cell), "hook": getattr(hook, "__name__", "")},
            )


class ChildEnded(Internal):
    """To a supervisor: an incarnation of a child has ended or been abandoned; its `reason` says why."""

    __slots__ = ("incarnation",)

    def __init__(self, incarnation: Incarnation) -> None:
        self.incarnation = incarnation

    def deliver(self, actor: Any) -> None:
        """Let the supervisor decide."""
        actor._on_child_end(self.incarnation)  # noqa: SLF001
