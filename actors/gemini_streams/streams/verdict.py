"""What the policy's `retryable` says of an error: an application's callable, which may take its time, or raise.

It is called in a stream's own thread, with no lock held: in that of the stream that failed, or of its successor where
that thread has died. What it raises counts as `None`. After `PATIENCE` seconds that thread is left behind, and the
supervisor decides without it (`supervisor`).
"""

from __future__ import annotations

from gemini_streams.errors import GeminiStreamsError
from gemini_streams.streams.session import Session
from gemini_streams.traces import trace_of
from pykka_supervisor import Abandoned
from pykka_supervisor.cell import cell_of
from pykka_supervisor.incarnation import current_incarnation
from pykka_supervisor.log import get_logger

__all__ = ["PATIENCE", "verdict_on"]

_log = get_logger(__name__)

PATIENCE = 5.0
"""Seconds of the manager's clock."""


def verdict_on(error: GeminiStreamsError, session: Session) -> bool | None:
    """Ask the session's policy; `None`: the table of errors decides."""
    retryable = session.options.retry.retryable
    incarnation = current_incarnation()
    if retryable is None or session.ended or incarnation is None:
        return None
    error.__traceback__ = error.__cause__ = error.__context__ = None

    def late() -> None:
        _log.warning("retry_policy_late", stream_id=session.stream_id, patience=PATIENCE)
        cell_of(incarnation).give_up_on(
            incarnation, Abandoned(f"RetryPolicy.retryable did not answer within {PATIENCE:g} s")
        )

    session.asking = error
    timer = session.clock.call_later(PATIENCE, late)
    try:
        answer = retryable(error)
        said = None if answer is None else bool(answer)
    except BaseException as bug:  # noqa: BLE001 - the application's own; its sys.exit() means no stream
        _log.error("retry_policy_raised", stream_id=session.stream_id, trace=trace_of(bug))
        said = None
    timer.cancel()
    return said
