"""Reports of starts that failed and of ends, in the form of OTP's supervisor reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    error: bool = True,
) -> None:
    """One structured line in the form of OTP's supervisor reports."""
    fields: dict[str, Any] = {
        "supervisor": str(supervisor) if supervisor is not None else None,
        "context": context,
        "reason": reason,
        "offender": dict(offender),
    }
    trace = getattr(reason, "trace", "")
    if trace:
        fields["trace"] = trace
    (_log.error if error else _log.info)("supervisor_report", **fields)
