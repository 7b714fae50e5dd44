"""Messages that are told later, and taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pykka

from .apart import tell_apart
from .clock import SYSTEM_CLOCK
from .incarnation import current_incarnation
from .log import get_logger

if TYPE_CHECKING:
    from .clock import Clock, Timer

__all__ = ["cancel_timer", "send_after"]

_log = get_logger(__name__)


def send_after(
    delay: float,
    ref: pykka.ActorRef[Any],
    message: Any,
    *,
    clock: Clock | None = None,
) -> Timer:
    """Tell `ref` a message in `delay` seconds; `cancel_timer` takes it back.

    The clock's thread puts it, or, where the inbox is of an application's own kind, a thread of its own.

    A timer that a supervised actor sets for itself belongs to that incarnation: what replaces it
    never sees the message. A timer for another actor goes to whichever incarnation then lives. A
    message for the dead is dropped. After OTP's `erlang:send_after/3`, to a pid and to a name.

    `clock` is the calling actor's own by default (its supervisor's), else `SYSTEM_CLOCK`.
    """
    sender = current_incarnation()
    if clock is None:
        clock = SYSTEM_CLOCK if sender is None else sender.cell.clock
    own = sender if sender is not None and sender.cell.is_referenced_by(ref) else None

    def deliver() -> None:
        if own is not None and not own.is_current():
            return
        try:
            tell_apart(ref, message)
        except pykka.ActorDeadError:
            _log.debug("timer_for_the_dead", target=ref)

    return clock.call_later(delay, deliver)


def cancel_timer(timer: Timer, *, clock: Clock | None = None) -> float | None:
    """Take a timer back: the seconds it had left, or None where it has fired or been cancelled before.

    After None the message may be in the inbox already. After `erlang:cancel_timer/1`.
    """
    if not timer.cancel():
        return None
    sender = current_incarnation()
    if clock is None:
        clock = SYSTEM_CLOCK if sender is None else sender.cell.clock
    return max(0.0, timer.due - clock.monotonic())
