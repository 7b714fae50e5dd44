"""`SupervisedRef`: a `pykka.ActorRef` that outlives the restarts of its actor."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, cast, overload

import pykka

from . import _pykka, forks, names
from ._pykka import Envelope
from .incarnation import DEFAULT_SHUTDOWN, Incarnation, current_incarnation
from .log import flush
from .proxy import SupervisedProxy

if TYPE_CHECKING:
    from .forks import Home
    from .mailbox import Mailbox
    from .parts import Whole

__all__ = ["Body", "SupervisedRef", "kill", "root_of", "supervisor_of", "whereis"]

A = TypeVar("A", bound="pykka.Actor")
Ref = TypeVar("Ref", bound="SupervisedRef[Any]")


class Body(Protocol):
    """A cell, as far as its ref is concerned."""

    home: Home
    shutdown: float | None
    incarnation: Incarnation | None

    @property
    def ref(self) -> SupervisedRef[Any]:
        """The actor's ref."""

    @property
    def supervisor(self) -> Body | None:
        """The supervisor's."""

    def has_children(self) -> bool:
        """Whether it is a supervisor's."""

    def allowance(self) -> float | None:
        """Seconds that ending the actor in order may take; None: no limit."""

    def kill(self) -> bool:
        """End the present incarnation."""


class SupervisedRef(pykka.ActorRef[A], Generic[A]):
    """A ref to a supervised actor: Pykka's, with four differences.

    - `is_alive()` stays True while a supervisor restarts the actor; what is told meanwhile waits
      for the next incarnation.
    - `tell` and `ask` are atomic against the actor's end: a message is handled, or counted as a dead
      letter, or refused with `pykka.ActorDeadError`; an ask always resolves.
    - `stop()` calls the actor's `interrupt()` and returns when its thread has ended; for a
      supervisor, when the threads of its children have. An actor that is dead already is not waited for.
    - `join()` and `dead_letters`.

    An actor is dead before its `on_stop` or `on_failure` runs, unless it is to be restarted; `join()`
    also waits for these.

    In a child that was forked from the actor's process, the actor is dead: `is_alive()` is False, and all
    else that reaches for it raises `pykka.ActorDeadError` at once.
    """

    actor_inbox: Mailbox
    _cell: Body

    def bind(self, cell: Body) -> None:
        """Tie it to its cell; called once, by that."""
        self._cell = cell

    def is_alive(self) -> bool:
        """Whether the actor lives, or is being restarted; False in a child forked from its process."""
        return not (self._cell.home.forked or self.actor_stopped.is_set())

    @property
    def dead_letters(self) -> int:
        """How many messages were accepted for this actor and could not be handled."""
        return self.actor_inbox.dead_letters

    def tell(self, message: Any) -> None:
        """Send a message, from any thread; never blocks. Raises `pykka.ActorDeadError`."""
        self.actor_inbox.put(Envelope(message))

    @overload
    def ask(
        self, message: Any, *, block: Literal[False], timeout: float | None = None
    ) -> pykka.Future[Any]: ...

    @overload
    def ask(self, message: Any, *, block: Literal[True] = True, timeout: float | None = None) -> Any: ...

    @overload
    def ask(
        self, message: Any, *, block: bool = True, timeout: float | None = None
    ) -> Any | pykka.Future[Any]: ...

    def ask(
        self,
        message: Any,
        *,
        block: bool = True,
        timeout: float | None = None,
    ) -> Any | pykka.Future[Any]:
        """Send a message and wait for its answer; as `pykka.ActorRef.ask`.

        Raises what the handler raises, `pykka.ActorDeadError`, or `pykka.Timeout` after `timeout`
        seconds. With `block=False` returns a future that does.
        """
        future = _pykka.create_future(self.actor_class)
        try:
            self.actor_inbox.put(Envelope(message, future))
        except pykka.ActorDeadError:
            future.set_exception()
        if not block:
            return future
        try:
            return future.get(timeout=timeout)
        except BaseException as error:
            _pykka.trim_get(error, future)
            raise
        finally:
            del future

    @overload
    def stop(self, *, block: Literal[True] = True, timeout: float | None = None) -> bool: ...

    @overload
    def stop(self, *, block: Literal[False], timeout: float | None = None) -> pykka.Future[bool]: ...

    @overload
    def stop(self, *, block: bool = True, timeout: float | None = None) -> bool | pykka.Future[bool]: ...

    def stop(
        self,
        *,
        block: bool = True,
        timeout: float | None = None,
    ) -> bool | pykka.Future[bool]:
        """Stop the actor after what is in its inbox now; as `pykka.ActorRef.stop`.

        True if it was alive; `pykka.Timeout` after `timeout` seconds. False, at once, if it was dead
        already: its last hooks may still run, see `join()`. Whether a supervisor then starts it again is a
        matter of its restart type. With `block`, the stop of a whole tree also waits until its log lines
        are written, for at most the root's `shutdown`. Called by `ActorRegistry.stop_all()`, it ends the
        whole tree that the actor is in, in its order.
        """
        future = self._stop_tree(wait=block) if _pykka.in_stop_all() else self.request_stop()
        if not block:
            return future
        until = None if timeout is None else time.monotonic() + timeout
        was_alive = future.get(timeout=timeout)
        if was_alive and self._cell.supervisor is None and self._cell.has_children():
            self._flush_logs(until)
        return was_alive

    def _flush_logs(self, until: float | None) -> None:
        """Wait for the lines that tell of an actor's end, until then and not for longer than its `shutdown`."""
        allowed = DEFAULT_SHUTDOWN if self._cell.shutdown is None else self._cell.shutdown
        flush(allowed if until is None else max(0.0, min(allowed, until - time.monotonic())))

    def request_stop(self) -> pykka.Future[bool]:
        """Queue a stop and interrupt the actor; the future resolves when its thread has ended.

        Asked in a last hook, the future does not wait for an actor that is in its own last hook and is to be restarted:
        the stop is then its successor's to handle.
        """
        cell = self._cell
        if cell.home.forked:
            raise forks.refusal(self)
        asked = _pykka.create_future(self.actor_class)
        incarnation = cell.incarnation
        try:
            self.actor_inbox.put(_pykka.new_stop(asked))
        except pykka.ActorDeadError:
            asked.set_exception()
        else:
            if incarnation is not None and current_incarnation() is not incarnation:
                incarnation.interrupt()

        def stopped(timeout: float | None) -> bool:
            if _in_last_hook(current_incarnation()) and _will_be_replaced(incarnation):
                return True  # two that stop each other there would wait for ever
            deadline = None if timeout is None else time.monotonic() + timeout
            try:
                asked.get(timeout=timeout)
            except pykka.ActorDeadError:
                was_alive = False
            else:
                was_alive = True
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if was_alive and incarnation is not None and not incarnation.join(left):
                raise pykka.Timeout(f"{timeout} seconds")
            return was_alive

        future = cast("pykka.Future[bool]", asked.__class__())
        future.set_get_hook(stopped)
        return future

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the actor has ended for good and its thread is gone; False after `timeout` seconds.

        For a supervisor: until its children's threads are gone as well. A thread that had to be
        abandoned is not waited for. Nothing is stopped by it.
        """
        if self._cell.home.forked:
            raise forks.refusal(self)
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self.actor_stopped.wait(timeout):
            return False
        incarnation = self._cell.incarnation
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        return incarnation is None or incarnation.join(left)

    def end(self, timeout: float | None) -> bool:
        """Stop the actor and wait until its thread has ended, also where it is dead and in its last hooks.

        False after `timeout` seconds. For this package's own use, in threads for which no actor waits.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            self.request_stop().get(timeout=timeout)
        except pykka.Timeout:
            return False
        incarnation = self._cell.incarnation
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        return incarnation is None or incarnation.join(left)

    def proxy(self) -> pykka.ActorProxy[A]:
        """As `pykka.ActorRef.proxy`; it, too, goes on working after a restart, and can be made during one."""
        if self._cell.home.forked:
            raise forks.refusal(self._cell)
        if not self.is_alive():
            raise pykka.ActorDeadError(f"{self} not found")
        return SupervisedProxy(actor_ref=self)

    def _stop_tree(self, *, wait: bool) -> pykka.Future[bool]:
        was_alive = self.is_alive()
        root = self._cell
        while root.supervisor is not None:
            root = root.supervisor
        root.ref.request_stop()
        caller = current_incarnation()
        inside = caller is not None and _is_below(caller.cell, root)

        def stopped(timeout: float | None) -> bool:
            # Whoever is part of the tree cannot wait for its end.
            if wait and not inside:
                if not root.ref.join(timeout):
                    raise pykka.Timeout(f"{timeout} seconds")
            elif not inside and not self.actor_stopped.wait(timeout):
                raise pykka.Timeout(f"{timeout} seconds")
            return was_alive

        future = cast("pykka.Future[bool]", _pykka.create_future(self.actor_class))
        future.set_get_hook(stopped)
        return future


def _in_last_hook(incarnation: Incarnation | None) -> bool:
    """Whether it runs `on_stop` or `on_failure`, or is about to."""
    return incarnation is not None and incarnation.for_good is not None and incarnation.reason is None


def _will_be_replaced(incarnation: Incarnation | None) -> bool:
    """Whether it is in its last hook and a supervisor starts a successor."""
    return _in_last_hook(incarnation) and incarnation is not None and not incarnation.for_good


def _is_below(cell: Whole | Body | None, root: Body) -> bool:
    while cell is not None:
        if cell.ref is root.ref:
            return True
        cell = cell.supervisor
    return False


def _cell_of(ref: pykka.ActorRef[Any]) -> Body:
    if not isinstance(ref, SupervisedRef):
        raise TypeError(f"{ref} is not the ref of a supervised actor")
    cell = ref._cell  # noqa: SLF001
    if cell.home.forked:
        raise forks.refusal(ref)
    return cell


def kill(ref: pykka.ActorRef[Any]) -> bool:
    """End the actor's present incarnation with reason `Killed`, from any thread.

    It overtakes the inbox and calls the actor's `interrupt()` in the caller's thread. A thread that
    does not end within the actor's `shutdown` (5 s without a supervisor) is abandoned. Then its
    supervisor restarts it, or does not, as after a crash. Returns at once: True if there was a live
    incarnation. Raises TypeError for the ref of a plain Pykka actor.

    OTP's `exit(Pid, kill)`, which also runs no code of the process; but Python frees no sockets of
    dead threads, so `on_failure` is called where the thread comes back in time.
    """
    return _cell_of(ref).kill()


def supervisor_of(ref: pykka.ActorRef[Any]) -> SupervisedRef[Any] | None:
    """Find the supervisor of an actor; None for a root, an actor on its own, a plain Pykka actor."""
    if not isinstance(ref, SupervisedRef):
        return None
    supervisor = ref._cell.supervisor  # noqa: SLF001
    return None if supervisor is None else supervisor.ref


def root_of(ref: pykka.ActorRef[Any]) -> SupervisedRef[Any]:
    """Find the top of the tree that an actor is in; an actor on its own is its own root.

    Raises TypeError for the ref of a plain Pykka actor.
    """
    cell = _cell_of(ref)
    while cell.supervisor is not None:
        cell = cell.supervisor
    return cell.ref


@overload
def whereis(name: str) -> SupervisedRef[Any] | None: ...


@overload
def whereis(name: str, ref_class: type[Ref]) -> Ref | None: ...


def whereis(name: str, ref_class: type[Ref] | None = None) -> Ref | SupervisedRef[Any] | None:
    """Find the ref of the live actor of this name; it stays the same when that actor is restarted.

    `ref_class` is the class of that ref, for actors whose refs have methods of their own; a type checker then
    knows them. Raises TypeError where the ref is of another class.
    """
    cell = names.find(name)
    # A name is claimed before the actor is built.
    ref: SupervisedRef[Any] | None = getattr(cell, "ref", None)
    if ref is not None and ref_class is not None and not isinstance(ref, ref_class):
        raise TypeError(f"{name!r} is the name of {ref}, a {type(ref).__name__} and no {ref_class.__name__}")
    return ref
