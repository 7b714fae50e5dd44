"""The proxy of a supervised actor: Pykka's, but it holds the ref and not one of the actor's lives.

Pykka's `ActorProxy` keeps the instance that it looks at for attributes. An actor that keeps a proxy of
itself, as Pykka's text advises, would stay in memory after its end until a cyclic collection, and so would
everything that a dead instance owns for as long as anyone keeps a proxy that was made in its time. And while
an actor waits for its restart there is no instance to look at.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar, cast

import pykka

from . import _pykka

__all__ = ["SupervisedProxy"]

A = TypeVar("A", bound="pykka.Actor")


class _Unborn:
    """Stands for an instance while there is none: it has what its class has."""

    def __init__(self, actor_class: type[Any]) -> None:
        self._class = actor_class

    @property  # type: ignore[misc]
    def __class__(self) -> type[Any]:
        return self._class

    def __dir__(self) -> list[str]:
        return dir(self._class)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._class, name)


class SupervisedProxy(pykka.ActorProxy[A], Generic[A]):
    """A `pykka.ActorProxy` that goes on working when its actor is restarted, and holds no instance of it.

    It can be made while the actor waits for its restart. Then it knows the methods and other attributes of
    the class; any other name is asked for, and the next incarnation answers.
    """

    actor_ref: pykka.ActorRef[A]

    def __init__(self, *, actor_ref: pykka.ActorRef[A], attr_path: tuple[str, ...] = ()) -> None:
        self.actor_ref = actor_ref
        self._attr_path = attr_path
        self._known_attrs = {}
        self._actor_proxies = {}
        self._callable_proxies = {}
        self._complete = self._look()

    @property
    def _actor(self) -> A:  # type: ignore[override]
        """The instance that lives now; None while there is none."""
        return cast("A", _pykka.referenced_actor(self.actor_ref))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, pykka.ActorProxy)
            and self.actor_ref == other.actor_ref
            and self._attr_path == other._attr_path
        )

    def __hash__(self) -> int:
        return hash((self.actor_ref, self._attr_path))

    def _look(self) -> bool:
        """See which attributes there are; False where no instance could be looked at."""
        actor: Any = self._actor
        if actor is not None:
            self._known_attrs = _pykka.introspect_attrs(root=actor, proxy=self)
        elif not self._known_attrs:
            unborn = _Unborn(self.actor_ref.actor_class)
            self._known_attrs = _pykka.introspect_attrs(root=unborn, proxy=self)
        return actor is not None

    def __getattr__(self, name: str) -> Any:
        """Get a field or callable from the actor."""
        path = (*self._attr_path, name)
        if path not in self._known_attrs:
            self._complete = self._look()
        info = self._known_attrs.get(path)
        if info is None and (self._complete or name.startswith("_")):
            raise AttributeError(f"{self} has no attribute {name!r}")
        if info is not None and info.callable:
            if path not in self._callable_proxies:
                self._callable_proxies[path] = pykka.CallableProxy(actor_ref=self.actor_ref, attr_path=path)
            return self._callable_proxies[path]
        if info is not None and info.traversable:
            if path not in self._actor_proxies:
                self._actor_proxies[path] = SupervisedProxy(actor_ref=self.actor_ref, attr_path=path)
            return self._actor_proxies[path]
        return self.actor_ref.ask(pykka.messages.ProxyGetAttr(attr_path=path), block=False)
