"""What lasts of a supervised actor: its cell, in which one incarnation lives after another.

However an incarnation ends, its thread calls `begin_end()` before the last hooks and `ended()` after them, once.
`abandon()` does their work, from another thread, where a thread is left behind. `finish()` ends the actor for good.
`lock` guards each decision about an end; nothing of the application's is called under it.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from typing import TYPE_CHECKING, Any, cast

import pykka

from . import _pykka, forks, names
from ._pykka import Envelope
from .clock import SYSTEM_CLOCK, Clock
from .dispatch import dispose, rest_of
from .errors import StartError
from .exits import Abandoned, Exit, Killed, is_abnormal
from .incarnation import DEFAULT_SHUTDOWN, KILL_GRACE, Awaited, ChildEnded, Incarnation
from .left_behind import ENDING, LEAKED
from .log import contain, get_logger
from .mailbox import PARKED, Mailbox
from .observe import ChildEndRecord, Tap
from .policy import RestartType, wants_restart
from .ref import SupervisedRef
from .report import report

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Literal

    from .parts import Instance

__all__ = ["Cell", "cell_of"]

_log = get_logger("pykka_supervisor")


class Cell:
    """What outlives an actor's incarnations; see the module's text."""

    __slots__ = (
        "__weakref__",
        "actor_class",
        "child_id",
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
        "taps",
        "urn",
    )

    mailbox: Mailbox
    stopped: threading.Event
    ref: SupervisedRef[Any]

    def __init__(
        self,
        actor_class: type[pykka.ThreadingActor],
        run_class: type[Instance],
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
        self.child_id = actor_class.__name__
        """What its supervisor calls it."""
        self.taps: tuple[Tap, ...] = ()
        """What is told of its starts, ends and restarts: its supervisor's."""
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

    def adopt(self, actor: Instance) -> SupervisedRef[Any]:
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
                _pykka.point_ref_at(ref, cast("pykka.Actor", actor))
        if incarnation is not None:
            incarnation.bind(self.mailbox)
        return ref

    def _adopt_first(self, actor: Instance) -> SupervisedRef[Any]:
        mailbox = actor.actor_inbox
        if not isinstance(mailbox, Mailbox):
            raise TypeError("a supervised actor's inbox must be a Mailbox")
        self.mailbox = mailbox
        self.urn = actor.actor_urn
        self.stopped = actor.actor_stopped
        ref: SupervisedRef[Any] = self.run_class.ref_class(actor)
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
            LEAKED.discard(incarnation)
            incarnation.error = None
            _log.info("abandoned_thread_ended", actor=str(self), thread_name=incarnation.thread.name)
            return
        incarnation.disarm()
        if self.taps:
            self._observe_end(incarnation, reason)
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
            LEAKED.add(incarnation)
        self._hold()
        incarnation.order = reason
        incarnation.retire()
        incarnation.fail_replies()
        if batch is not None:
            self._take_back(rest_of(batch))
        incarnation.drop_monitors()
        for linked in incarnation.links or ():
            linked.cut()
        actor = incarnation.actor
        if actor is not None:
            actor._supervised_abandoned()  # noqa: SLF001
        incarnation.answer_stops()
        incarnation.open_gate()
        if self.taps:
            self._observe_end(incarnation, reason)
        _log.warning("thread_abandoned", actor=str(self), thread_name=incarnation.thread.name, reason=reason)
        return True

    def close(self) -> None:
        """Refuse what comes from now on, and answer what waits, once: the actor is dead."""
        with self.lock:
            if self.closed:
                return
            self.closed = True
        if self.supervisor is None:
            ENDING.add(self)
        left = self.mailbox.close()
        _pykka.unregister(self.ref)
        self.stopped.set()
        dispose(self, left)

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
            ENDING.discard(self)
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

    # -- told to observers

    def observe(self, record: Callable[..., Any], generation: int, **more: Any) -> None:
        """Tell what observes this actor; `record` is the record's class. Never blocks, from any thread."""
        hook = record.hook  # type: ignore[attr-defined]
        told = [tap for tap in self.taps if hook in tap.wanted]
        if not told:
            return
        made = record(
            at=self.clock.time(),
            supervisor=str(self.supervisor),
            child_id=self.child_id,
            urn=getattr(self, "urn", ""),
            actor_class=self.actor_class.__name__,
            generation=generation,
            **more,
        )
        for tap in told:
            tap.put(made)

    def _observe_end(self, incarnation: Incarnation, reason: Exit) -> None:
        self.observe(
            ChildEndRecord,
            incarnation.generation,
            reason=str(reason),
            abnormal=is_abnormal(reason),
            final=bool(incarnation.for_good),
        )

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
                    expected=self.owner_decides,
                )

    def allowance(self) -> float | None:
        """Seconds that ending this actor in order may take, its children's included; None: no limit."""
        incarnation = self.incarnation
        actor = incarnation.actor if incarnation is not None else None
        children = 0.0 if actor is None else actor._supervised_allowance()  # noqa: SLF001
        if self.shutdown is None or children is None:
            return None
        return self.shutdown + children


def cell_of(part: SupervisedRef[Any] | Incarnation) -> Cell:
    """Find the cell of a supervised actor's ref, or of an incarnation."""
    return cast("Cell", part.cell if isinstance(part, Incarnation) else part._cell)  # noqa: SLF001
