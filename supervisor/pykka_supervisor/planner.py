"""Pure: a child has died and is to be restarted; whom to stop, whom to forget, whom to start, in which order.

OTP's three strategies:

- `one_for_one`: the dead one alone.
- `one_for_all`: every other is stopped, in reverse start order; all are started, in start order.
- `rest_for_one`: the same for those started after the dead one; those before it stay as they are.

A temporary child that a sibling's death takes down is not started again, and its spec goes. A child
that does not run, because it ended in order or was terminated, stays as it is, except that OTP's
`one_for_all` and `rest_for_one` start such a one too; so does this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .policy import RestartType

__all__ = ["Plan", "Strategy", "plan_restart"]

Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Ids in the order in which it is done: `stop`, then `forget`, then `start`."""

    stop: tuple[str, ...]
    forget: tuple[str, ...]
    start: tuple[str, ...]


def plan_restart(
    strategy: Strategy,
    children: Sequence[tuple[str, RestartType]],
    dead: str,
) -> Plan:
    """Plan for the death of `dead`; `children` are all of them in start order, or those from `dead` on."""
    if strategy == "one_for_one":
        return Plan((), (), (dead,))
    ids = [child for child, _ in children]
    first = 0 if strategy == "one_for_all" else ids.index(dead)
    group = children[first:]
    return Plan(
        stop=tuple(child for child, _ in reversed(group) if child != dead),
        forget=tuple(child for child, restart in group if restart == "temporary"),
        start=tuple(child for child, restart in group if restart != "temporary"),
    )
