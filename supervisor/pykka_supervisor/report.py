"""Reports of starts that failed and of ends, in the form of OTP's supervisor reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from .log import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["report"]

_log = get_logger("pykka_supervisor")


def report(
    supervisor: object,
    context: str,
    reason: object,
    *,
    offender: Mapping[str, Any],
    expected: bool = False,
    level: Literal["error", "info"] = "error",
) -> None:
    """One structured line in the form of OTP's supervisor reports.

    `expected`: the owner of the child decides what follows and tells of it itself, so the report is a debug line
    without a traceback.
    """
    fields: dict[str, Any] = {
        "supervisor": str(supervisor) if supervisor is not None else None,
        "context": context,
        "reason": reason,
        "offender": dict(offender),
    }
    if expected:
        _log.debug("supervisor_report", **fields)
        return
    trace = getattr(reason, "trace", "")
    if trace:
        fields["trace"] = trace
    (_log.error if level == "error" else _log.info)("supervisor_report", **fields)
