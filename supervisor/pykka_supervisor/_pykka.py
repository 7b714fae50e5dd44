"""All that is used of Pykka beyond its documented interface, in one place.

`PRIVATE_HOOKS` lists each name and where it lives; `missing_hooks()` says which of them the
installed Pykka no longer has, so that a new version that moves one fails a test that names it.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, cast

import pykka
from pykka import _introspection, messages
from pykka._envelope import Envelope

from .registry import IndexedRefs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "PRIVATE_HOOKS",
    "ActorStop",
    "Envelope",
    "create_future",
    "dispatch_of",
    "equip",
    "forget_all_actors_after_fork",
    "handle_proxy_message",
    "in_stop_all",
    "introspect_attrs",
    "missing_hooks",
    "new_stop",
    "overrides_dispatch",
    "own_threads",
    "point_ref_at",
    "referenced_actor",
    "runs_pykkas_own_loop",
    "trim_get",
    "unregister",
]

ActorStop: Final = messages._ActorStop  # noqa: SLF001
"""The message by which Pykka asks an actor to stop."""

introspect_attrs: Final = _introspection.introspect_attrs
"""Which attributes of an actor its proxy shows."""

PRIVATE_HOOKS: Final[dict[str, tuple[object, str]]] = {
    "pykka._envelope.Envelope.message": (Envelope, "message"),
    "pykka._envelope.Envelope.reply_to": (Envelope, "reply_to"),
    "pykka.messages._ActorStop": (messages, "_ActorStop"),
    "pykka._introspection.introspect_attrs": (_introspection, "introspect_attrs"),
    "pykka.Actor._handle_receive": (pykka.Actor, "_handle_receive"),
    "pykka.Actor._actor_loop": (pykka.Actor, "_actor_loop"),
    "pykka.Actor._create_actor_inbox": (pykka.Actor, "_create_actor_inbox"),
    "pykka.Actor._create_future": (pykka.Actor, "_create_future"),
    "pykka.ThreadingActor._start_actor_loop": (pykka.ThreadingActor, "_start_actor_loop"),
    "pykka.ActorRegistry._actor_refs": (pykka.ActorRegistry, "_actor_refs"),
    "pykka.ActorRegistry._actor_refs_lock": (pykka.ActorRegistry, "_actor_refs_lock"),
    "threading.Thread._target": (threading.Thread(target=int), "_target"),
}


class _Bare(pykka.ThreadingActor):
    """An actor to look at: what `Actor.__init__` sets, and what a ref holds."""


def missing_hooks() -> list[str]:
    """List the private hooks that the installed Pykka does not have, by name."""
    missing = [name for name, (owner, attribute) in PRIVATE_HOOKS.items() if not hasattr(owner, attribute)]
    actor = _Bare()
    if not isinstance(actor.__dict__.get("_actor_ref"), pykka.ActorRef):
        missing.append("pykka.Actor._actor_ref, set by Actor.__init__")
    if list(actor.__dict__) != ["actor_urn", "actor_inbox", "actor_stopped", "_actor_ref"]:
        missing.append("pykka.Actor.__init__, which sets these four, the ref last: equip() does the same")
    if referenced_actor(actor.actor_ref) is not actor:
        missing.append("pykka.ActorRef._actor_weakref (from 4.4.2) or ._actor (before)")
    if not hasattr(pykka.ActorRegistry.stop_all, "__func__"):
        missing.append("pykka.ActorRegistry.stop_all, a class method")
    refs: object = pykka.ActorRegistry._actor_refs  # noqa: SLF001
    if not isinstance(refs, IndexedRefs):
        missing.append("pykka.ActorRegistry._actor_refs, a list")
    return missing


def create_future(actor_class: type[pykka.Actor]) -> pykka.Future[Any]:
    """Make the future in which an actor of this class answers."""
    return actor_class._create_future()  # noqa: SLF001


def trim_get(error: BaseException, future: pykka.Future[Any]) -> None:
    """Take the frames of the calling function and of a future's `get` out of what `get` has just raised.

    They hold the future, the future holds the exception, and that the frames of whatever raised it: all
    that these worked on would live until the next cyclic collection.
    """
    get = getattr(type(future).get, "__code__", None)
    trace = error.__traceback__
    trace = None if trace is None else trace.tb_next
    while trace is not None and trace.tb_frame.f_code is get:
        trace = trace.tb_next
    BaseException.with_traceback(error, trace)


def equip(actor: pykka.Actor, urn: str) -> None:
    """Do what Pykka's `Actor.__init__` does, but for the ref, and with a URN that was made before.

    A URN takes a random number, for which a thread gives the interpreter away: a new actor's thread should
    not, while its starter waits for it.
    """
    actor.actor_urn = urn
    actor.actor_inbox = actor._create_actor_inbox()  # noqa: SLF001
    actor.actor_stopped = threading.Event()


def new_stop(reply_to: pykka.Future[Any] | None = None) -> Envelope[Any]:
    """Make an envelope that asks an actor to stop."""
    return Envelope(ActorStop(), reply_to)


def handle_proxy_message(actor: pykka.Actor, message: Any) -> Any:
    """Let Pykka itself handle one of its proxy messages; the answer is the proxy call's."""
    return actor._handle_receive(message)  # noqa: SLF001


def dispatch_of(actor: pykka.Actor) -> Callable[[Any], Any]:
    """Find the method through which Pykka gives an actor its messages."""
    return actor._handle_receive  # noqa: SLF001


def overrides_dispatch(actor_class: type[pykka.Actor]) -> bool:
    """Whether a class has its own `_handle_receive`, so that it must see each message."""
    return actor_class._handle_receive is not pykka.Actor._handle_receive  # noqa: SLF001


def runs_pykkas_own_loop(actor_class: type[pykka.Actor]) -> bool:
    """Whether the thread of such an actor is one `Thread` whose target is its `_actor_loop`."""
    return (
        issubclass(actor_class, pykka.ThreadingActor)
        and actor_class._start_actor_loop is pykka.ThreadingActor._start_actor_loop  # noqa: SLF001
        and actor_class._actor_loop is pykka.Actor._actor_loop  # noqa: SLF001
    )


def own_threads() -> dict[int, threading.Thread]:
    """Find the live threads that run a Pykka actor's loop, by the `id()` of the actor."""
    found: dict[int, threading.Thread] = {}
    for thread in threading.enumerate():
        owner = getattr(getattr(thread, "_target", None), "__self__", None)
        if isinstance(owner, pykka.Actor):
            found[id(owner)] = thread
    return found


def referenced_actor(ref: pykka.ActorRef[Any]) -> pykka.Actor | None:
    """Find the actor behind a ref; None once it has been collected."""
    weak = getattr(ref, "_actor_weakref", None)
    if weak is not None:
        return cast("pykka.Actor | None", weak())
    return cast("pykka.Actor | None", getattr(ref, "_actor", None))


def point_ref_at(ref: pykka.ActorRef[Any], actor: pykka.Actor) -> None:
    """Make a ref's proxies look at another instance: `_actor_weakref` from 4.4.2 on, `_actor` before."""
    if hasattr(ref, "_actor_weakref"):
        ref._actor_weakref = weakref.ref(actor)  # noqa: SLF001
    else:
        ref._actor = actor  # type: ignore[attr-defined]  # noqa: SLF001


def unregister(ref: pykka.ActorRef[Any]) -> None:
    """Take a ref out of Pykka's registry; nothing happens where it is not in.

    It costs the same however many actors there are. Pykka's own `unregister` also logs.
    """
    registry = pykka.ActorRegistry
    with registry._actor_refs_lock, contextlib.suppress(ValueError):  # noqa: SLF001
        registry._actor_refs.remove(ref)  # noqa: SLF001


def _index_the_registry() -> None:
    """Replace the list of Pykka's registry by one that finds a ref at once."""
    registry = pykka.ActorRegistry
    with registry._actor_refs_lock:  # noqa: SLF001
        refs: object = registry._actor_refs  # noqa: SLF001
        if type(refs) is list:
            registry._actor_refs = IndexedRefs(refs)  # type: ignore[assignment]  # noqa: SLF001


_index_the_registry()


class _StoppingAll(threading.local):
    """Whether the calling thread is in `ActorRegistry.stop_all()`."""

    now = False


_stopping_all = _StoppingAll()


def _note_stop_all() -> None:
    """Have `ActorRegistry.stop_all` note that it runs: it calls the refs' public `stop()`, and tells them nothing."""
    original = pykka.ActorRegistry.stop_all.__func__  # type: ignore[attr-defined]

    @functools.wraps(original)
    def stop_all(cls: type[pykka.ActorRegistry], *, block: bool = True, timeout: float | None = None) -> Any:
        before, _stopping_all.now = _stopping_all.now, True
        try:
            return original(cls, block=block, timeout=timeout)
        finally:
            _stopping_all.now = before

    pykka.ActorRegistry.stop_all = classmethod(stop_all)  # type: ignore[method-assign,assignment]


_note_stop_all()


def in_stop_all() -> bool:
    """Whether the calling thread is in `ActorRegistry.stop_all()`."""
    return _stopping_all.now


def forget_all_actors_after_fork() -> Iterable[pykka.ActorRef[Any]]:
    """In a forked child: empty the registry, mark each of its actors as stopped, and return their refs.

    Their threads exist in the parent only. The registry's lock may be held by one of those, so it is
    replaced.
    """
    registry = pykka.ActorRegistry
    registry._actor_refs_lock = threading.RLock()  # noqa: SLF001
    refs = registry._actor_refs[:]  # noqa: SLF001
    registry._actor_refs = type(registry._actor_refs)()  # noqa: SLF001
    for ref in refs:
        stopped = ref.actor_stopped
        # Its lock, too, may have been held by a thread that is not here.
        stopped.__init__()  # type: ignore[misc]
        stopped.set()
    return refs
