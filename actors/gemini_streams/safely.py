"""A step of an end that must not keep the other steps from being taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from gemini_streams.traces import trace_of
from pykka_supervisor.log import contain, get_logger

__all__ = ["safely"]

_log = get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def safely(step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Call `step`; where it raises, log that and return `None`.

    A Ctrl-C or a signal handler's `SystemExit` in the main thread goes on.
    """
    try:
        return step(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - whatever one step raises, the next one is taken
        _log.error(
            "step_failed", step=getattr(step, "__qualname__", type(step).__name__), trace=trace_of(error)
        )
        contain(error)
        return None
