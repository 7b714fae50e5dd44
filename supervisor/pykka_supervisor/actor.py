"""`SupervisedActor`: a Pykka actor whose every way of death is noticed exactly once.

It is a `pykka.ThreadingActor` in all that Pykka documents: `on_start`, `on_receive`, `on_stop`,
`on_failure`, proxies, futures, the registry. What differs:

- Its thread is a daemon's. One `atexit` hook ends what still runs.
- `SystemExit`, `KeyboardInterrupt` and the like raised in it end it alone, with `on_failure`;
  Pykka would stop every actor of the process.
- Its ref goes on working when a supervisor restarts it, and its inbox with it.
- What Pykka would log as a traceback becomes a structured report.
- An ask that waits in its inbox when it ends fails before `on_stop` runs, in Pykka after it. Where a
  supervisor restarts the actor, the ask waits for the next incarnation.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, cast

import pykka

from . import _pykka
from .birth import keep
from .cell import Cell
from .dispatch import DeferredReply
from .exits import Shutdown, StartFailed
from .incarnation import Incarnation, current_incarnation
from .mailbox import Mailbox
from .ref import SupervisedRef

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["SupervisedActor", "supervised_class"]

T = TypeVar("T")


class _Told:
    """A property that an attribute of the same name may hide: a plain Pykka actor's class knows nothing of it."""

    def __init__(self, tell: Callable[[Any], bool]) -> None:
        self._tell = tell
        self.__doc__ = tell.__doc__

    def __get__(self, actor: Any, _owner: type[Any] | None = None) -> bool:
        return self._tell(actor)


class SupervisedActor(pykka.ThreadingActor):
    """The base class for actors that are supervised, or that may be monitored in full."""

    use_daemon_thread: ClassVar[bool] = True

    ref_class: ClassVar[type[SupervisedRef[Any]]] = SupervisedRef
    """A subclass of `SupervisedRef` gives this actor's refs methods of their own."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        """As Pykka's; must be called by a subclass's own.

        Runs in the actor's thread where a supervisor starts it, within `start_timeout`, and in the caller's
        where `start()` does.
        """
        cell = self._supervised_cell
        if not hasattr(cell, "ref"):
            _pykka.equip(self, cell.urn)
        keep(self, "_supervised_ref", cell.adopt(self))

    @classmethod
    def start(cls, *args: Any, **kwargs: Any) -> SupervisedRef[Self]:
        """Start it on its own, without a supervisor, as `pykka.Actor.start` does.

        Like Pykka's, it returns while `on_start` may still be running, so that an `on_start` may
        talk to its starter; a failure of `on_start` is then a `Down(StartFailed)` to whoever monitors
        it and a report. A supervisor's start waits, and raises it.
        """
        cell = Cell(cls, cls)
        try:
            cell.launch(args, kwargs)
        except BaseException as error:
            cell.finish(StartFailed.of(error))
            raise
        return cast("SupervisedRef[Self]", cell.ref)

    def stop(self) -> None:
        """Stop it after the messages that are in its inbox now, from its own thread or any other."""
        if current_incarnation() is self._supervised_incarnation:
            with contextlib.suppress(pykka.ActorDeadError):
                self.actor_inbox.put(_pykka.new_stop())  # nobody waits for it, and it waits on nothing
        else:
            self._supervised_cell.ref.request_stop()

    def interrupt(self) -> None:
        """May be implemented: free whatever the actor waits on.

        Called in the *sender's* thread when a stop or a kill is queued, while the actor may be in
        the middle of anything; it may be called several times. It must not block.
        """

    @_Told
    def retired(self) -> bool:
        """Whether this incarnation has been killed, abandoned, replaced or told to end at once.

        A handler that runs long may look at it and return. What it still does is not undone.
        """
        incarnation = self._supervised_incarnation
        return incarnation is not None and incarnation.retired

    @_Told
    def shut_down(self) -> bool:
        """Whether this incarnation's supervisor ends it in order, as against a `stop()` of its ref."""
        incarnation = self._supervised_incarnation
        return incarnation is not None and (
            incarnation.stop_as is not None or isinstance(incarnation.order, Shutdown)
        )

    def defer_reply(self) -> DeferredReply[Any]:
        """Answer the ask that is being handled later; in a handler, in the actor's thread.

        What the handler returns is then not the answer; what it raises is, if it is not answered
        yet. For a message that was told, and for a second call, the reply leads nowhere.
        """
        incarnation = self._supervised_incarnation
        if incarnation is None:
            raise RuntimeError("defer_reply() is for handlers")
        reply_to, incarnation.reply_to = incarnation.reply_to, None
        reply: DeferredReply[Any] = DeferredReply(incarnation, reply_to)
        if reply_to is not None:
            if incarnation.deferred is None:
                incarnation.deferred = set()
            incarnation.deferred.add(reply)
            incarnation.deferring = reply
        return reply

    def on_proxy_message(self, message: Any) -> Any:
        """Handle what a proxy of this actor sends: an attribute to read or set, or a call; as Pykka does it.

        May be overridden. What it raises is the answer, or a crash where the message was told.
        """
        return _pykka.handle_proxy_message(self, message)

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Clean up after a crash or a kill, in the actor's thread, after its children have ended.

        As Pykka's, which has no kill: for that the exception is an `ActorKilledError`, unless the
        kill's `interrupt()` made a handler raise something else. It is not called for an incarnation
        that was abandoned.
        """
        super().on_failure(exception_type, exception_value, traceback)

    # -- private

    _supervised_incarnation: Incarnation | None = None
    _supervised_own_cell: Cell | None = None
    _supervised_ref: SupervisedRef[Any] | None = None

    @property
    def _supervised_cell(self) -> Cell:
        cell = self._supervised_own_cell
        if cell is None:
            # Built by hand, without a start.
            cell = Cell(type(self), type(self))
            keep(self, "_supervised_own_cell", cell)
        return cell

    @property
    def _actor_ref(self) -> SupervisedRef[Any]:
        return cast("SupervisedRef[Any]", self._supervised_ref)

    @_actor_ref.setter
    def _actor_ref(self, _pykkas_own: pykka.ActorRef[Any]) -> None:
        # The last thing that Pykka's Actor.__init__ does, where a subclass has called that and not this one's;
        # the rest of the subclass's already sees the ref, the inbox and the URN that it will keep.
        keep(self, "_supervised_ref", self._supervised_cell.adopt(self))

    @staticmethod
    def _create_actor_inbox() -> Mailbox:
        return Mailbox()

    def _start_actor_loop(self) -> None:
        raise TypeError("a supervised actor is started by start(), or by its supervisor")

    @staticmethod
    def _supervised_has_interrupt(actor_class: type[pykka.ThreadingActor]) -> bool:
        """Whether a class has an `interrupt()` that is meant for us: a foreign class's own is not."""
        return (
            issubclass(actor_class, SupervisedActor)
            and actor_class.interrupt is not SupervisedActor.interrupt
        )

    def _supervised_wind_down(self) -> None:
        """End what lives only by this actor: a supervisor's children."""

    def _supervised_abandoned(self) -> None:
        """End the children of a supervisor whose thread was left behind, in another thread."""

    def _supervised_forgets(self, _child: Cell) -> bool:
        """Forget a child that has ended in order, in its thread, where nothing else follows from that."""
        return False

    def _supervised_allowance(self) -> float | None:
        """Seconds that ending the children may take; None: no limit."""
        return 0.0


class _Unannounced:
    """Keeps the class that is made for another from that one's `__init_subclass__`."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        """Nothing: to its application there is no such class."""


def supervised_class(actor_class: type[pykka.ThreadingActor]) -> type[SupervisedActor]:
    """Give the class that is run for an actor class: itself, or a subclass of any other `ThreadingActor`.

    The subclass puts `SupervisedActor` between the class and Pykka, and keeps its name.
    """
    if issubclass(actor_class, SupervisedActor):
        return actor_class
    for subclass in actor_class.__subclasses__():
        if subclass.__dict__.get("_supervises") is actor_class:
            return cast("type[SupervisedActor]", subclass)
    namespace = {
        "__module__": actor_class.__module__,
        "__qualname__": actor_class.__qualname__,
        "__doc__": actor_class.__doc__,
        "_supervises": actor_class,
    }
    metaclass: Any = type(actor_class)
    # `ThreadingActor` itself is a base of SupervisedActor: it cannot stand before it.
    bases = (SupervisedActor,) if actor_class is pykka.ThreadingActor else (actor_class, SupervisedActor)
    made = metaclass(actor_class.__name__, (_Unannounced, *bases), namespace)
    return cast("type[SupervisedActor]", made)
