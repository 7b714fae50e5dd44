"""The managers that something watches: refs, or registered names that are looked up again each time.

A `Tap` is told of all that happens at each of them. A manager that has ended is passed over. One that comes under a
registered name later is found then.
"""

from __future__ import annotations

import threading
from typing import Any

import pykka

from gemini_streams.errors import InvalidRequestError
from gemini_streams.manager import ManagerActor, ManagerRef
from gemini_streams.streams.observed import Attach
from gemini_streams.streams.registry import Sessions
from pykka_supervisor import SupervisedRef, whereis
from pykka_supervisor.observe import Tap

__all__ = ["Managers", "ManyManagers", "OneManager", "several_managers"]

OneManager = ManagerRef | SupervisedRef[Any] | str
"""A manager's ref, or the name that it is registered under."""
ManyManagers = OneManager | list[OneManager] | tuple[OneManager, ...]

_PATIENCE = 1.0
"""Seconds that a manager has to answer when it is found."""


def several_managers(given: Any) -> tuple[OneManager, ...]:
    """Check what an application gave as one manager or several. Raises `InvalidRequestError`."""
    managers = tuple(given) if isinstance(given, list | tuple) else (given,)
    for manager in managers:
        named = isinstance(manager, str) and bool(manager)
        if not named and not (isinstance(manager, SupervisedRef) and _manages(manager)):
            raise InvalidRequestError(
                f"a manager is watched by its ref or by its registered name, not by a {type(manager).__name__}"
            )
    if not managers:
        raise InvalidRequestError("name a manager to watch: its ref, or its registered name")
    return managers


def _manages(ref: pykka.ActorRef[Any]) -> bool:
    return issubclass(ref.actor_class, ManagerActor)


class Managers:
    """Those that one tap is told of. Thread-safe."""

    def __init__(self, given: tuple[OneManager, ...], tap: Tap) -> None:
        self._given = given
        self._tap = tap
        self._lock = threading.Lock()
        self._tables: dict[str, Sessions] = {}

    def found(self) -> list[tuple[SupervisedRef[Any], Sessions]]:
        """Return the managers that live, each with the table of its streams; the tap is told of them from now on."""
        refs = [ref for ref in map(_ref, self._given) if ref is not None]
        with self._lock:
            known = self._tables
            asked = [
                (ref, ref.ask(Attach(self._tap), block=False)) for ref in refs if ref.actor_urn not in known
            ]
            tables = {ref.actor_urn: known[ref.actor_urn] for ref in refs if ref.actor_urn in known}
            for ref, answer in asked:
                try:
                    tables[ref.actor_urn] = answer.get(timeout=_PATIENCE)
                except (pykka.ActorDeadError, pykka.Timeout):
                    continue
            self._tables = tables
            return [(ref, tables[ref.actor_urn]) for ref in refs if ref.actor_urn in tables]

    def leave(self) -> None:
        """Have the tap told of nothing more."""
        with self._lock:
            tables, self._tables = self._tables, {}
        for table in tables.values():
            table.observed.remove(self._tap)


def _ref(given: OneManager) -> SupervisedRef[Any] | None:
    ref = whereis(given) if isinstance(given, str) else given
    return ref if isinstance(ref, SupervisedRef) and ref.is_alive() and _manages(ref) else None
