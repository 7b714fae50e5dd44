r"""The life of a supervised actor: a cell that lasts, and the incarnations that live in it.

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
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import uuid
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import pykka
from pykka import messages

from . import _pykka, forks, names
from ._pykka import Envelope
from .clock import SYSTEM_CLOCK, Clock, Timer
from .current import CURRENT
from .errors import ActorKilledError, IgnoreStart, StartError
from .exits import (
    Abandoned,
    Crash,
    Exit,
    Killed,
    Normal,
    Shutdown,
    StartFailed,
    forget_frames,
    is_abnormal,
)
from .log import contain, get_logger
from .mailbox import PARKED, Mailbox, Receiver
from .policy import RestartType, wants_restart
from .report import report

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Literal

    from .actor import DeferredReply, SupervisedActor
    from .monitor import MonitorRef
    from .ref import SupervisedRef

__all__ = ["Cell", "Incarnation", "Internal", "leaked_threads"]

_log = get_logger("pykka_supervisor")

DEFAULT_SHUTDOWN: Final = 5.0
"""Seconds; OTP's default for a worker."""

KILL_GRACE: Final = 0.1
"""Seconds that a thread gets to return after its incarnation has outlasted its `shutdown`."""


_numbers = itertools.count()
_leaked: set[Incarnation] = set()
_ending: set[Cell] = set()


def keep(actor: SupervisedActor, name: str, value: object) -> None:
    """Set an attribute past whatever `__setattr__` the class has, and without a look at `__dict__`.

    Up to CPython 3.12 an object whose `__dict__` was asked for once keeps its attributes in a dict from then
    on, and every `self.x` of every handler costs twice as much.
    """
    object.__setattr__(actor, name, value)


def leaked_threads() -> list[str]:
    """Name the threads that were abandoned and still run, in the whole process."""
    return sorted(incarnation.thread.name for incarnation in tuple(_leaked) if incarnation.thread.is_alive())


def ending_roots() -> list[Cell]:
    """List the actors without a supervisor that are dead, and so in no registry, while their last hooks still run."""
    return list(_ending)


def leaked_in(cell: Cell) -> int:
    """Count the abandoned threads of this actor that still run."""
    return sum(incarnation.cell is cell for incarnation in tuple(_leaked))


class Internal:
    """A message between this package's own actors: it is delivered, not given to `on_receive`."""

    __slots__ = ()

    def deliver(self, actor: Any) -> Any:
        """Do what it asks for, in the actor's thread; the result answers an ask."""
        raise NotImplementedError


class ChildEnded(Internal):
    """To a supervisor: an incarnation of a child has ended or been abandoned; its `reason` says why."""

    __slots__ = ("incarnation",)

    def __init__(self, incarnation: Incarnation) -> None:
        self.incarnation = incarnation

    def deliver(self, actor: Any) -> None:
        """Let the supervisor decide."""
        actor._on_child_end(self.incarnation)  # noqa: SLF001


_PLAIN: Final = 0
_PROXY: Final = 1
_STOP: Final = 2
_BATCH: Final = 3
_INTERNAL: Final = 4


def _kind_of(message_class: type[Any]) -> int:
    if issubclass(message_class, _pykka.ActorStop):
        return _STOP
    if issubclass(message_class, (messages.ProxyCall, messages.ProxyGetAttr, messages.ProxySetAttr)):
        return _PROXY
    if issubclass(message_class, Internal):
        return _INTERNAL
    if getattr(message_class, "__actor_batch__", False) is True:
        return _BATCH
    return _PLAIN


class Linked(Protocol):
    """What ends with an incarnation."""

    def end(self) -> None:
        """End it and wait for that; in the incarnation's own thread."""
        ...

    def cut(self) -> None:
        """Begin to end it; in another thread, where the incarnation is abandoned."""
        ...


Awaited: TypeAlias = 'Literal["born", "started"] | None'
"""For what the starter of an incarnation waits: the return of `__init__`, of `on_start`, or nothing."""


class Cell:
    """What outlives an actor's incarnations; see the module's text."""

    __slots__ = (
        "__weakref__",
        "actor_class",
        "clock",
        "closed",
        "crash_on",
        "generation",
        "home",
        "incarnation",
        "interruptible",
        "last_reason",
        "lock",
        "mailbox",
        "max_buffered",
        "monitors",
        "name",
        "owner_decides",
        "reason",
        "ref",
        "registered",
        "restart",
        "run_class",
        "shutdown",
        "stopped",
        "supervisor",
        "urn",
    )

    mailbox: Mailbox
    stopped: threading.Event
    ref: SupervisedRef[Any]

    def __init__(
        self,
        actor_class: type[pykka.ThreadingActor],
        run_class: type[SupervisedActor],
        *,
        supervisor: Cell | None = None,
        restart: RestartType = "temporary",
        shutdown: float | None = DEFAULT_SHUTDOWN,
        crash_on: Literal["tell", "any"] = "tell",
        clock: Clock = SYSTEM_CLOCK,
        max_buffered: int | None = None,
    ) -> None:
        self.actor_class = actor_class
        self.run_class = run_class
        self.supervisor = supervisor
        self.restart: RestartType = restart
        self.shutdown = shutdown
        self.crash_on = crash_on
        self.clock = clock
        self.owner_decides = False
        """Its supervisor's owner decides about its ends (`ChildSpec.backoff` is a function) and reports them itself."""
        self.max_buffered = max_buffered
        self.interruptible = run_class._supervised_has_interrupt(actor_class)  # noqa: SLF001
        self.lock = threading.Lock()
        self.home = forks.here()
        self.urn = uuid.uuid4().urn
        self.generation = 0
        self.closed = False
        """Whether the inbox refuses what comes: it has ended for good, or is about to."""
        self.registered = False
        self.incarnation: Incarnation | None = None
        self.monitors: dict[int, Callable[[Exit, bool], None]] | None = None
        self.name: str | None = None
        self.reason: Exit | None = None
        """Why it ended for good; None while it lives or will be restarted."""
        self.last_reason: Exit | None = None

    def __repr__(self) -> str:
        return f"<Cell of {self}>"

    def __str__(self) -> str:
        return str(getattr(self, "ref", self.actor_class.__name__))

    def is_referenced_by(self, ref: object) -> bool:
        """Whether a ref is this actor's."""
        return getattr(ref, "actor_urn", None) == self.urn

    # -- birth

    def adopt(self, actor: SupervisedActor) -> SupervisedRef[Any]:
        """Make an instance this cell's; called by Pykka's `Actor.__init__`, for each incarnation.

        The first one's inbox, URN and event become the cell's; each later one is given these. Raises
        `pykka.ActorDeadError` in an `__init__` that has been abandoned.
        """
        incarnation = actor._supervised_incarnation  # noqa: SLF001
        with self.lock:
            if self.reason is not None or (incarnation is not None and incarnation.abandoned):
                raise pykka.ActorDeadError(f"the start of {self} was given up while its __init__ ran")
            try:
                ref = self.ref
            except AttributeError:
                ref = self._adopt_first(actor)
            else:
                actor.actor_inbox = self.mailbox
                actor.actor_urn = self.urn
                actor.actor_stopped = self.stopped
                _pykka.point_ref_at(ref, actor)
        if incarnation is not None:
            incarnation.bind(self.mailbox)
        return ref

    def _adopt_first(self, actor: SupervisedActor) -> SupervisedRef[Any]:
        mailbox = actor.actor_inbox
        if not isinstance(mailbox, Mailbox):
            raise TypeError("a supervised actor's inbox must be a Mailbox")
        self.mailbox = mailbox
        self.urn = actor.actor_urn
        self.stopped = actor.actor_stopped
        ref = self.run_class.ref_class(actor)
        ref.actor_class = self.actor_class
        ref.bind(self)
        mailbox.owner = ref
        self.ref = ref
        return ref

    def launch(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        awaited: Awaited = None,
        start_or_end: bool = False,
    ) -> Incarnation:
        """Begin the next incarnation.

        Its `__init__` runs in its own thread where a supervisor starts it, and here, in the caller's, for an
        actor on its own, as Pykka has it. `awaited`: for what the caller is going to wait; with
        `start_or_end` the cell ends with this incarnation, should it not get so far. Raises StartError where
        no thread can be started, and for an actor on its own what `__init__` raises; the caller then decides
        about the cell.
        """
        incarnation = Incarnation(self, self.generation + 1, args, kwargs)
        incarnation.awaited = awaited
        incarnation.start_or_end = start_or_end
        if self.supervisor is None:
            incarnation.be_born()
        with self.lock:
            if self.reason is not None:
                raise StartError(f"{self} has ended")
            self.generation += 1
            self.incarnation = incarnation
        if self.supervisor is None:
            self.register()
        try:
            incarnation.thread.start()
        except RuntimeError as error:
            with self.lock:
                self.incarnation = None
            incarnation.drop()
            raise StartError(f"the thread of {self} could not be started: {error}") from error
        return incarnation

    def register(self) -> None:
        """Enter the actor in Pykka's registry, once, when its `__init__` has returned."""
        if self.registered:
            return
        self.registered = True
        pykka.ActorRegistry.register(self.ref)
        if self.closed:
            # It was given up meanwhile.
            _pykka.unregister(self.ref)

    # -- death

    def begin_end(self, incarnation: Incarnation, reason: Exit) -> bool:
        """Decide whether this end is final, before the last hooks run; in the incarnation's thread.

        False where the incarnation was abandoned: then all that this does has been done. And in a forked child.
        """
        if self.home.forked:
            return False
        with self.lock:
            if incarnation.abandoned:
                return False
            if incarnation.for_good is not None:
                return True
            incarnation.for_good = final = incarnation.is_final(reason)
            batch, incarnation.batch = incarnation.batch, None
        incarnation.fail_replies()
        if batch is not None:
            self._take_back(batch)
        if final:
            self.close()
        else:
            self._hold()
        return True

    def end_for_good(self, incarnation: Incarnation, *, final: bool) -> bool:
        """Note, for its supervisor, whether the end it orders is final; False where the incarnation has ended.

        One that is in its last hooks already, and was to be restarted, is dead from now on.
        """
        with self.lock:
            if incarnation.reason is not None:
                return False
            if incarnation.for_good is None:
                incarnation.final = final
                return True
            if not final or incarnation.for_good:
                return True
            incarnation.for_good = True
        self.close()
        return True

    def ended(self, incarnation: Incarnation, reason: Exit) -> None:
        """Say that an incarnation's thread is about to end; runs in it, once."""
        self.begin_end(incarnation, reason)
        with self.lock:
            incarnation.retired = True
            incarnation.since = PARKED
            late = incarnation.abandoned
            if not late:
                incarnation.reason = reason
                self.last_reason = reason
        incarnation.drop_monitors()
        if late:
            _leaked.discard(incarnation)
            incarnation.error = None
            _log.info("abandoned_thread_ended", actor=str(self), thread=incarnation.thread.name)
            return
        incarnation.disarm()
        if incarnation.for_good:
            self.finish(reason)
            if self.supervisor is None and is_abnormal(reason):
                report(None, "child_terminated", reason, offender={"id": None, "ref": str(self)})
        if not self._is_forgotten(incarnation, reason):
            self._tell_supervisor(incarnation, reason)
        incarnation.answer_stops()

    def abandon(self, incarnation: Incarnation, reason: Exit) -> bool:
        """Leave an incarnation's thread behind; False when it has ended by itself.

        What waits for its answers is told that it is dead; it takes nothing more from the inbox.
        """
        with self.lock:
            if incarnation.reason is not None:
                return False
            incarnation.abandoned = True
            incarnation.reason = reason
            self.last_reason = reason
            batch, incarnation.batch = incarnation.batch, None
            _leaked.add(incarnation)
        self._hold()
        incarnation.order = reason
        incarnation.retire()
        incarnation.fail_replies()
        if batch is not None:
            self._take_back(_rest_of(batch))
        incarnation.drop_monitors()
        for linked in incarnation.links or ():
            linked.cut()
        actor = incarnation.actor
        if actor is not None:
            actor._supervised_abandoned()  # noqa: SLF001
        incarnation.answer_stops()
        incarnation.open_gate()
        _log.warning("thread_abandoned", actor=str(self), thread=incarnation.thread.name, reason=reason)
        return True

    def close(self) -> None:
        """Refuse what comes from now on, and answer what waits, once: the actor is dead."""
        with self.lock:
            if self.closed:
                return
            self.closed = True
        if self.supervisor is None:
            _ending.add(self)
        left = self.mailbox.close()
        _pykka.unregister(self.ref)
        self.stopped.set()
        self._dispose(left)

    def finish(self, reason: Exit) -> bool:
        """End the actor for good, from any thread; False when it has ended before."""
        with self.lock:
            if self.reason is not None:
                return False
            self.reason = reason
            self.last_reason = reason
        names.release(self)
        if hasattr(self, "ref"):
            self.close()
            self.notify(reason, restarting=False)
            _ending.discard(self)
        return True

    def _hold(self) -> None:
        """Keep for the next incarnation what comes meanwhile, or as much of it as the specification says."""
        if self.max_buffered is not None and hasattr(self, "mailbox"):
            self.mailbox.bound(self.max_buffered)

    def _take_back(self, batch: Any) -> None:
        with contextlib.suppress(pykka.ActorDeadError):
            self.mailbox.unget(Envelope(batch))

    def notify(self, reason: Exit, *, restarting: bool) -> None:
        """Tell the monitors, once each, in the calling thread."""
        with self.lock:
            monitors, self.monitors = self.monitors, None
        for monitor in (monitors or {}).values():
            try:
                monitor(reason, restarting)
            except BaseException as error:  # noqa: BLE001
                contain(error)
                _log.error("monitor_failed", actor=str(self), exc_info=error)

    def _dispose(self, left: list[Envelope[Any]]) -> None:
        for envelope in left:
            message, reply_to = envelope.message, envelope.reply_to
            if isinstance(message, _pykka.ActorStop):
                if reply_to is not None:
                    answer(reply_to, None)
                continue
            if not isinstance(message, Internal):
                self.mailbox.dead_letters += 1
            if reply_to is not None:
                fail(reply_to, pykka.ActorDeadError(f"{self.ref} stopped before handling the message"))
            if getattr(type(message), "__actor_batch__", False) is True:
                try:
                    message.discard()
                except BaseException as error:  # noqa: BLE001
                    contain(error)
                    _log.error("batch_discard_failed", actor=str(self), exc_info=error)

    # -- asked from outside

    def kill(self) -> bool:
        """End the present incarnation, from any thread; see `pykka_supervisor.kill`."""
        incarnation = self.incarnation
        if incarnation is None or incarnation.reason is not None:
            return False
        limit = self.allowance()
        if limit is not None and incarnation.kill_timer is None:

            def check() -> None:
                if incarnation.reason is not None:
                    return
                if self.has_children():
                    # Ending these takes a moment, which the clock's thread does not have.
                    threading.Thread(
                        target=self.give_up_on,
                        args=(incarnation,),
                        name="pykka-supervisor-abandoning",
                        daemon=True,
                    ).start()
                else:
                    self.give_up_on(incarnation)

            # RuntimeError: the interpreter is ending, and nobody will ask any more.
            with contextlib.suppress(RuntimeError):
                incarnation.kill_timer = self.clock.call_later(max(limit, KILL_GRACE), check)
        incarnation.command(Killed())
        incarnation.disarm()
        return True

    def has_children(self) -> bool:
        """Whether it is a supervisor's."""
        return getattr(self.run_class, "_is_supervisor", False)

    def give_up_on(self, incarnation: Incarnation, reason: Exit | None = None) -> None:
        """Abandon an incarnation that outlasts its limit, and let its supervisor, if any, decide."""
        if reason is None:
            reason = Abandoned(f"it did not end within {self.shutdown} s of being killed")
        if not self.abandon(incarnation, reason):
            return
        if self.supervisor is None:
            self.finish(reason)
            report(None, "shutdown_error", reason, offender={"id": None, "ref": str(self)})
            return
        if incarnation.for_good or not wants_restart(self.restart, reason):
            self.finish(reason)
        self._tell_supervisor(incarnation, reason)

    def _is_forgotten(self, incarnation: Incarnation, reason: Exit) -> bool:
        """Whether nothing follows from this end, so that its supervisor need not wake for it."""
        if self.reason is None or not incarnation.started or self.supervisor is None or is_abnormal(reason):
            return False
        above = self.supervisor.incarnation
        supervisor = None if above is None else above.actor
        return supervisor is not None and supervisor._supervised_forgets(self)  # noqa: SLF001

    def _tell_supervisor(self, incarnation: Incarnation, reason: Exit) -> None:
        if self.supervisor is None:
            return
        try:
            self.supervisor.mailbox.put(Envelope(ChildEnded(incarnation)))
        except pykka.ActorDeadError:
            # Its supervisor is dead, and has ended or will end what it left. It reports only those ends for which
            # it waits.
            self.finish(reason)
            if is_abnormal(reason) and incarnation.final is None and not incarnation.abandoned:
                report(
                    self.supervisor.ref,
                    "child_terminated",
                    reason,
                    offender={"id": None, "ref": str(self)},
                    error=not self.owner_decides,
                )

    def allowance(self) -> float | None:
        """Seconds that ending this actor in order may take, its children's included; None: no limit."""
        incarnation = self.incarnation
        actor = incarnation.actor if incarnation is not None else None
        children = 0.0 if actor is None else actor._supervised_allowance()  # noqa: SLF001
        if self.shutdown is None or children is None:
            return None
        return self.shutdown + children


class Incarnation(Receiver):
    """One instance of an actor class in one thread; see the module's text."""

    __slots__ = (
        "abandoned",
        "actor",
        "answered",
        "arguments",
        "awaited",
        "batch",
        "born",
        "cell",
        "deferred",
        "deferring",
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
        "order",
        "reason",
        "reply_to",
        "start_or_end",
        "started",
        "started_at",
        "stop_as",
        "stop_replies",
        "thread",
    )

    def __init__(self, cell: Cell, generation: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        super().__init__(monotonic=cell.clock.monotonic)
        self.cell = cell
        self.arguments: tuple[tuple[Any, ...], Mapping[str, Any]] = (args, kwargs)
        """Of `__init__`, until that has been called."""
        self.actor: SupervisedActor | None = None
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
        self.order: Exit | None = None
        self.stop_as: Exit | None = None
        self.reason: Exit | None = None
        self.error: BaseException | None = None
        """What kept it from starting, with its traceback, until its starter has taken it."""
        self.answered = False
        """Whether what it died of was also the answer to an ask."""
        self.ignored = False
        """Whether that was an `IgnoreStart`."""
        self.reply_to: pykka.Future[Any] | None = None
        self.batch: Any = None
        self.deferred: set[DeferredReply[Any]] | None = None
        self.deferring: DeferredReply[Any] | None = None
        self.stop_replies: list[pykka.Future[Any]] | None = None
        self.kill_timer: Timer | None = None
        self.links: list[Linked] | None = None
        self.monitors: dict[int, MonitorRef] | None = None
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
                self.batch = _rest_of(self.batch)
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

    def fail_replies(self) -> None:
        """Tell whoever waits for an answer of this incarnation that there will be none."""
        reply_to, self.reply_to = self.reply_to, None
        if reply_to is not None:
            fail(reply_to, pykka.ActorDeadError(f"{self.cell} died while it handled the message"))
        for reply in tuple(self.deferred or ()):
            reply.set_exception(pykka.ActorDeadError(f"{self.cell} died before it answered"))

    def answer_stops(self) -> None:
        """Tell whoever asked it to stop that it has."""
        replies, self.stop_replies = self.stop_replies, None
        for reply_to in replies or ():
            answer(reply_to, None)

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

    def be_born(self) -> SupervisedActor:
        """Make the instance. Raises what `__init__` raises, and StartError where that left Pykka's out."""
        before, CURRENT.incarnation = CURRENT.incarnation, self
        try:
            actor = self._make()
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

    def _make(self) -> SupervisedActor:
        (args, kwargs), self.arguments = self.arguments, ((), {})
        run_class = self.cell.run_class
        actor = run_class.__new__(run_class, *args, **kwargs)
        keep(actor, "_supervised_own_cell", self.cell)
        keep(actor, "_supervised_incarnation", self)
        try:
            actor.__init__(*args, **kwargs)  # type: ignore[misc]
        except IgnoreStart:
            if actor._supervised_ref is None:  # noqa: SLF001
                # The starter gets a ref, of an actor that is not there.
                pykka.Actor.__init__(actor)
            raise
        if actor._supervised_ref is None:  # noqa: SLF001
            raise StartError(f"{self.cell.actor_class.__name__}.__init__ did not call super().__init__()")
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
        failure: tuple[Any, Any, Any] | None = None
        try:
            try:
                reason = self._receive(actor)
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

    def _last_hook(self, actor: SupervisedActor, reason: Exit, failure: tuple[Any, Any, Any] | None) -> None:
        if failure is not None:
            self._hook(actor.on_failure, *failure)
        elif is_abnormal(reason):
            killed = ActorKilledError(f"{self.cell} was killed")
            self._hook(actor.on_failure, ActorKilledError, killed, None)
        else:
            self._hook(actor.on_stop)

    def _start(self) -> SupervisedActor | Exit:
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

    def _wind_down(self, actor: SupervisedActor | None) -> None:
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

    def _receive(self, actor: SupervisedActor) -> Exit:
        """Handle messages until the end; an exception of a tell leaves it."""
        cell = self.cell
        get = self.get
        kinds: dict[type[Any], int] = {}
        on_receive: Callable[[Any], Any] = actor.on_receive
        if _pykka.overrides_dispatch(cell.actor_class):
            on_receive = _pykka.dispatch_of(actor)
        while True:
            envelope = get()
            if envelope is None:
                return self.order or Killed()
            message = envelope.message
            reply_to = envelope.reply_to
            try:
                kind = kinds[message.__class__]
            except KeyError:
                kind = kinds[message.__class__] = _kind_of(message.__class__)
            except Exception:  # noqa: BLE001
                # A class that cannot be hashed, or that its instances do not tell.
                kind = _kind_of(type(message))
            if reply_to is not None:
                if kind == _STOP:
                    self.stop_replies = [*(self.stop_replies or ()), reply_to]
                    return self.order or self.stop_as or Normal()
                self._answer(actor, kind, on_receive, message, reply_to)
                if kind == _INTERNAL and self.order is not None:
                    return self.order
            elif kind == _PLAIN:
                on_receive(message)
            elif kind == _BATCH:
                self._run_batch(actor, message)
            elif kind == _PROXY:
                actor.on_proxy_message(message)
            elif kind == _STOP:
                return self.order or self.stop_as or Normal()
            else:
                message.deliver(actor)
                if self.order is not None:
                    return self.order
            # While it waits, an actor holds on to nothing that it has handled.
            envelope = message = reply_to = None

    def _run_batch(self, actor: SupervisedActor, batch: Any) -> None:
        # If it raises, or the incarnation is replaced, the batch goes back to the front of the inbox.
        self.batch = batch
        batch.run(actor)
        if not self.retired:
            self.batch = None

    def _take_pending(self) -> tuple[DeferredReply[Any] | None, pykka.Future[Any] | None]:
        """Take what the message in hand is to be answered through: deferred, or not."""
        taken = self.deferring, self.reply_to
        self.deferring = self.reply_to = None
        return taken

    def _answer_error(self, error: BaseException) -> None:
        """Answer the ask in hand with what its handler raised, without the frame of the caller of this."""
        deferring, pending = self._take_pending()
        trace = None if error.__traceback__ is None else error.__traceback__.tb_next
        BaseException.with_traceback(error, trace)
        told: Any = (type(error), error, trace)
        if not isinstance(error, Exception):
            # An asker must not be ended by what ended this actor.
            dead = pykka.ActorDeadError(f"{self.cell} died of {type(error).__name__}")
            told = (pykka.ActorDeadError, dead, None)
        if pending is not None:
            answer_exception(pending, told)
        elif deferring is not None:
            deferring.set_exc_info(told)

    def _answer(
        self,
        actor: SupervisedActor,
        kind: int,
        on_receive: Callable[[Any], Any],
        message: Any,
        reply_to: pykka.Future[Any],
    ) -> None:
        self.reply_to = reply_to
        try:
            if kind == _PLAIN:
                response = on_receive(message)
            elif kind == _INTERNAL:
                response = message.deliver(actor)
            elif kind == _PROXY:
                response = actor.on_proxy_message(message)
            else:
                self._run_batch(actor, message)
                response = None
        except BaseException as error:
            self._answer_error(error)
            # The frames that the asker gets lead back to this one.
            del actor, on_receive, message, reply_to
            if not isinstance(error, Exception):
                raise
            if self.cell.crash_on == "any" and kind != _INTERNAL:
                self.answered = True
                raise
            _log.debug("exception_answered", actor=str(self.cell), exc_info=error)
            return
        _, pending = self._take_pending()
        if pending is not None:
            answer(pending, response)


def _rest_of(batch: Any) -> Any:
    """Take from a thread what it has not begun of a batch, so that it stops behind the item in hand.

    A batch that has no `hand_over` looks at the actor's `retired` itself.
    """
    hand_over = getattr(batch, "hand_over", None)
    return batch if hand_over is None else hand_over()


def answer(reply_to: pykka.Future[Any], value: Any) -> None:
    """Set a future that its asker may have set already, or whose `set` may raise."""
    try:
        reply_to.set(value)
    except BaseException as error:  # noqa: BLE001 - a future may be the asker's own
        contain(error)
        _log.debug("answer_not_taken", exc_info=error)


def answer_exception(reply_to: pykka.Future[Any], exc_info: Any) -> None:
    """Set the exception of such a future."""
    try:
        reply_to.set_exception(exc_info)
    except BaseException as error:  # noqa: BLE001
        contain(error)
        _log.debug("answer_not_taken", exc_info=error)


def fail(reply_to: pykka.Future[Any], error: Exception) -> None:
    """Answer with an error that was not raised here."""
    answer_exception(reply_to, (type(error), error, None))


def reset_after_fork() -> None:
    """In a forked child: the thread that forked is no actor's any more, and no thread is left behind here."""
    forking, CURRENT.incarnation = CURRENT.incarnation, None
    if forking is not None:
        # Should its handler return here, then it takes no message and calls no hook: all that is the parent's.
        forking.retired = forking.abandoned = True
        forking.reply_to = forking.deferring = forking.batch = None
    _leaked.clear()
    _ending.clear()
