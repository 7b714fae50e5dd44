"""One message after another: what an incarnation does with each, and how each ask is answered.

A tell whose handler raises ends the incarnation. An ask whose handler raises is answered with that, and with
`crash_on="any"` ends the incarnation too. An ask that is in hand or deferred when the incarnation ends fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

import pykka
from pykka import messages

from . import _pykka
from .exits import Exit, Killed, Normal
from .log import contain, get_logger
from .mailbox import Receiver

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ._pykka import Envelope
    from .parts import Instance, Owner

__all__ = [
    "DeferredReply",
    "Dispatcher",
    "Internal",
    "answer",
    "answer_exception",
    "dispose",
    "fail",
    "rest_of",
]

_log = get_logger("pykka_supervisor")

T = TypeVar("T")


class Internal:
    """A message between this package's own actors: it is delivered, not given to `on_receive`."""

    __slots__ = ()

    def deliver(self, actor: Any) -> Any:
        """Do what it asks for, in the actor's thread; the result answers an ask."""
        raise NotImplementedError


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


class Dispatcher(Receiver):
    """Takes messages from an actor's inbox and has the actor handle them, in its incarnation's thread."""

    __slots__ = (
        "answered",
        "batch",
        "cell",
        "deferred",
        "deferring",
        "order",
        "reply_to",
        "stop_as",
        "stop_replies",
    )

    def __init__(self, cell: Owner) -> None:
        super().__init__(monotonic=cell.clock.monotonic)
        self.cell = cell
        self.order: Exit | None = None
        self.stop_as: Exit | None = None
        self.answered = False
        """Whether what it died of was also the answer to an ask."""
        self.reply_to: pykka.Future[Any] | None = None
        self.batch: Any = None
        self.deferred: set[DeferredReply[Any]] | None = None
        self.deferring: DeferredReply[Any] | None = None
        self.stop_replies: list[pykka.Future[Any]] | None = None

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

    def receive(self, actor: Instance) -> Exit:
        """Handle messages until the end; an exception of a tell leaves it."""
        cell = self.cell
        get = self.get
        kinds: dict[type[Any], int] = {}
        on_receive: Callable[[Any], Any] = actor.on_receive
        if _pykka.overrides_dispatch(cell.actor_class):
            on_receive = _pykka.dispatch_of(cast("pykka.Actor", actor))
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

    def _run_batch(self, actor: Instance, batch: Any) -> None:
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
        actor: Instance,
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


class DeferredReply(Generic[T]):
    """The answer to an ask, given later, from any thread, once.

    Both methods say whether this call was the one that answered. When the incarnation that deferred
    it ends first, the asker gets `pykka.ActorDeadError`, before that incarnation's `on_stop` or
    `on_failure` runs.
    """

    __slots__ = ("_dispatcher", "_reply_to")

    def __init__(self, dispatcher: Dispatcher, reply_to: pykka.Future[Any] | None) -> None:
        self._dispatcher = dispatcher
        self._reply_to = reply_to

    def set(self, value: T) -> bool:
        """Answer; False where it was answered before, or the asker is gone."""
        reply_to = self._take()
        if reply_to is None:
            return False
        answer(reply_to, value)
        return True

    def set_exception(self, error: BaseException) -> bool:
        """Let the asker's `get()` raise this."""
        return self.set_exc_info((type(error), error, error.__traceback__))

    def set_exc_info(
        self,
        exc_info: tuple[type[BaseException] | None, BaseException | None, TracebackType | None],
    ) -> bool:
        """Do the same from what `sys.exc_info()` gives."""
        reply_to = self._take()
        if reply_to is None:
            return False
        answer_exception(reply_to, exc_info)
        return True

    def _take(self) -> pykka.Future[Any] | None:
        deferred = self._dispatcher.deferred
        if deferred is None:
            return None
        try:
            deferred.remove(self)
        except KeyError:
            return None
        return self._reply_to


def rest_of(batch: Any) -> Any:
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


def dispose(cell: Owner, left: list[Envelope[Any]]) -> None:
    """Answer each ask that waited in the inbox of a dead actor, and count the dead letters."""
    for envelope in left:
        message, reply_to = envelope.message, envelope.reply_to
        if isinstance(message, _pykka.ActorStop):
            if reply_to is not None:
                answer(reply_to, None)
            continue
        if not isinstance(message, Internal):
            cell.mailbox.dead_letters += 1
        if reply_to is not None:
            fail(reply_to, pykka.ActorDeadError(f"{cell.ref} stopped before handling the message"))
        if getattr(type(message), "__actor_batch__", False) is True:
            try:
                message.discard()
            except BaseException as error:  # noqa: BLE001
                contain(error)
                _log.error("batch_discard_failed", actor=str(cell), exc_info=error)
