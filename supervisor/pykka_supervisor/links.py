"""Links: two actors of which the end of one is the end of the other.

An actor links itself to another one for as long as its present incarnation lives. The link watches the other by a
monitor. It is an incarnation's `Linked`: the incarnation ends it before its own last hooks, or cuts it where its thread
is left behind.

    field                         written by
    ----------------------------  ----------------------------------------------------------------
    _other, _mine                 no thread: they never change
    _watching                     the incarnation's thread at first; then the thread that notices the other's end, which
                                  is the other's own or its supervisor's; taken once, by the incarnation's end
"""

from __future__ import annotations

from typing import Any

from .cell import Cell, cell_of
from .exits import GAVE_UP, Killed, is_abnormal
from .incarnation import Incarnation, current_incarnation
from .monitor import Down, MonitorRef, demonitor, monitor_directly
from .ref import SupervisedRef

__all__ = ["link", "refuse_outside_an_actor"]


def refuse_outside_an_actor() -> Incarnation:
    """Give the supervised actor in whose thread this is; RuntimeError in any other thread."""
    mine = current_incarnation()
    if mine is None:
        raise RuntimeError("a link is made by a supervised actor, in its own thread")
    return mine


def link(ref: SupervisedRef[Any]) -> None:
    """Tie an actor to the calling supervised actor, for as long as the caller's present incarnation lives.

    When the caller ends, for whatever reason, the other is stopped, and its end waited for, before
    the caller's own hooks run or a replacement starts. When the other ends for good abnormally, or is a
    supervisor that gives up since its intensity is exceeded, the caller is killed. This is what
    `start_link` means in OTP for a supervisor and its starter.

    Raises RuntimeError outside a supervised actor's thread. For a ref that is dead the caller is
    killed at once, as in OTP.
    """
    mine = refuse_outside_an_actor()
    mine.links = [*(mine.links or ()), _Link(cell_of(ref), mine)]


class _Link:
    """The other end of a `link`, for the incarnation that made it."""

    __slots__ = ("_mine", "_other", "_watching")

    def __init__(self, other: Cell, mine: Incarnation) -> None:
        self._other = other
        self._mine = mine
        self._watching: MonitorRef | None = None
        self._watch()

    def _watch(self) -> None:
        self._watching = monitor_directly(self._other.ref, self._went_down)

    def _went_down(self, down: Down) -> None:
        if down.restarting:
            self._watch()
        elif (is_abnormal(down.reason) or down.reason == GAVE_UP) and self._mine.reason is None:
            self._mine.command(Killed())

    def _unwatch(self) -> None:
        watching, self._watching = self._watching, None
        if watching is not None:
            demonitor(watching)

    def end(self) -> None:
        """Stop the other and wait for its end; kill it where that takes longer than it may."""
        self._unwatch()
        other = self._other
        allowed = other.allowance()
        if not other.ref.end(allowed):
            incarnation = other.incarnation
            other.kill()
            if incarnation is not None:
                incarnation.join(allowed)

    def cut(self) -> None:
        """Kill the other, and do not wait."""
        self._unwatch()
        self._other.kill()
