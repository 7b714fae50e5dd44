"""The making of an actor's instance, past whatever its class does about attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pykka

from .errors import IgnoreStart, StartError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .parts import Instance, Whole

__all__ = ["keep", "make"]


def keep(actor: Instance, name: str, value: object) -> None:
    """Set an attribute past whatever `__setattr__` the class has, and without a look at `__dict__`.

    Up to CPython 3.12 an object whose `__dict__` was asked for once keeps its attributes in a dict from then
    on, and every `self.x` of every handler costs twice as much.
    """
    object.__setattr__(actor, name, value)


def make(cell: Whole, incarnation: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Instance:
    """Make the instance of an incarnation, in the calling thread.

    Raises what `__init__` raises, and StartError where that left Pykka's out.
    """
    run_class = cell.run_class
    actor: Instance = run_class.__new__(run_class, *args, **kwargs)
    keep(actor, "_supervised_own_cell", cell)
    keep(actor, "_supervised_incarnation", incarnation)
    try:
        actor.__init__(*args, **kwargs)  # type: ignore[misc]
    except IgnoreStart:
        if actor._supervised_ref is None:  # noqa: SLF001
            # The starter gets a ref, of an actor that is not there.
            pykka.Actor.__init__(cast("pykka.Actor", actor))
        raise
    if actor._supervised_ref is None:  # noqa: SLF001
        raise StartError(f"{cell.actor_class.__name__}.__init__ did not call super().__init__()")
    return actor
