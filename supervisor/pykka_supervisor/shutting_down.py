"""Ending a supervisor's children: one after another, or all at once; in order, or brutally.

Each end has three steps, in the supervisor's thread: the child is asked to end, its thread is waited for at most
its `shutdown`, and what outlasts that is killed and then, after `KILL_GRACE`, abandoned.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pykka

from ._pykka import new_stop
from .base import BaseSupervisor, Child
from .cell import cell_of
from .exits import Abandoned, Killed, Shutdown, is_abnormal
from .incarnation import KILL_GRACE, Incarnation
from .report import report

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ShuttingDown"]


class ShuttingDown(BaseSupervisor):
    """A supervisor, as far as it ends children."""

    def _begin_end(self, child: Child, *, final: bool, brutal: bool = False) -> Incarnation | None:
        """Ask a child to end; returns what is to be waited for."""
        child.generation += 1
        for timer in (child.restart_timer, child.hang_timer):
            if timer is not None:
                timer.cancel()
        child.restart_timer = child.hang_timer = None
        cell = child.live_cell()
        if cell is None:
            return None
        incarnation = cell.incarnation
        if incarnation is None:
            return None
        if not cell.end_for_good(incarnation, final=final):
            return None
        if brutal or child.spec.shutdown == 0:
            incarnation.command(Killed())
        elif final:
            # What was sent before is handled, as Pykka has it.
            incarnation.stop_as = Shutdown()
            with contextlib.suppress(pykka.ActorDeadError):
                cell.mailbox.put(new_stop())
            incarnation.interrupt()
        else:
            # What waits is for the next incarnation.
            incarnation.command(Shutdown())
        return incarnation

    def _await_end(self, incarnation: Incarnation | None, deadline: float | None) -> float:
        """Wait for an end until `deadline` (real, monotonic), then kill; returns until when to wait on."""
        if incarnation is None:
            return 0.0
        if not incarnation.join(None if deadline is None else max(0.0, deadline - time.monotonic())):
            incarnation.command(Killed())
        return time.monotonic() + KILL_GRACE

    def _settle_end(
        self,
        child: Child,
        incarnation: Incarnation | None,
        until: float,
        *,
        final: bool,
        brutal: bool = False,
    ) -> None:
        """Abandon what has not ended by then, and draw the conclusions."""
        child.status = "stopped"
        if incarnation is None:
            cell = child.live_cell()
            if cell is not None and final:
                cell.finish(cell.last_reason or Shutdown())
            # One that has just ended may still be at it: telling its monitors.
            ended = None if child.cell is None else child.cell.incarnation
            if ended is not None:
                ended.join(KILL_GRACE)
            return
        brutal = brutal or child.spec.shutdown == 0
        if not incarnation.join(max(0.0, until - time.monotonic())):
            allowed = "no time" if brutal else f"{child.spec.shutdown} s"
            cell_of(incarnation).abandon(incarnation, Abandoned(f"it was given {allowed} to end"))
        reason = incarnation.reason or Killed()
        child.last_reason = reason
        if final or incarnation.for_good:
            cell_of(incarnation).finish(reason)
        else:
            cell_of(incarnation).notify(reason, restarting=True)
        if is_abnormal(reason) and not (brutal and isinstance(reason, Killed)):
            # As in `_handle_end`; but a thread that is left behind is never what an owner has decided.
            decided = callable(child.spec.backoff) and not isinstance(reason, Abandoned)
            report(self.actor_ref, "shutdown_error", reason, offender=child.offender(), expected=decided)

    def _deadline(self, child: Child, *, brutal: bool = False) -> float | None:
        """Until when a child that has just been asked to end may take."""
        if brutal or child.spec.shutdown == 0:
            return time.monotonic() + KILL_GRACE
        cell = child.cell
        allowed = child.spec.shutdown if cell is None else cell.allowance()
        return None if allowed is None else time.monotonic() + allowed

    def _end_in_order(self, children: Iterable[Child], *, final: bool) -> None:
        """End one child after the other."""
        for child in children:
            incarnation = self._begin_end(child, final=final)
            until = self._await_end(incarnation, self._deadline(child))
            self._settle_end(child, incarnation, until, final=final)

    def _end_at_once(self, children: Iterable[Child], *, brutal: bool = False) -> None:
        """End all children for good, in parallel, each within its own limit."""
        ending = []
        for child in children:
            incarnation = self._begin_end(child, final=True, brutal=brutal)
            ending.append((child, incarnation, self._deadline(child, brutal=brutal)))
        until = 0.0
        for _, incarnation, deadline in ending:
            until = max(until, self._await_end(incarnation, deadline))
        for child, incarnation, _ in ending:
            self._settle_end(child, incarnation, until, final=True, brutal=brutal)

    def _supervised_wind_down(self) -> None:
        self._closing = True
        self._end_all(self._all_children())

    def _supervised_abandoned(self) -> None:
        self._closing = True
        self._end_all(self._all_children(), brutal=True)

    def _refuse_when_closing(self) -> None:
        if self._closing:
            raise pykka.ActorDeadError(f"{self._supervised_cell} not found")
