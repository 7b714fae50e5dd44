"""Structured log lines through structlog where the application has configured it, else through `logging`.

A library must not decide where lines go. structlog that nobody has configured prints every line,
debug included, to standard output; so without `structlog.configure()` the lines go to the standard
library's logger of the same name, where nothing below WARNING shows unless the application says so.
The question is asked anew for each line: an application may configure structlog after this import.
"""

from __future__ import annotations

import logging
import threading
from typing import Any, Final

import structlog

__all__ = ["Log", "contain", "get_logger"]

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class Log:
    """A logger by name; each method takes an event and its fields."""

    __slots__ = ("_logger", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: Any) -> None:
        """Something a developer of the application may want to see."""
        self._emit("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Something normal that happens seldom."""
        self._emit("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something that an operator should know of."""
        self._emit("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something failed; what `exc_info=` holds is shown with its traceback."""
        self._emit("error", event, fields)

    def _emit(self, level: str, event: str, fields: dict[str, Any]) -> None:
        try:
            if structlog.is_configured():
                getattr(structlog.get_logger(self.name), level)(event, **fields)
                return
            logger = self._logger
            number = _LEVELS[level]
            if logger.isEnabledFor(number):
                exc_info = fields.pop("exc_info", None)
                said = "".join(f" {key}={value!r}" for key, value in fields.items())
                logger.log(number, "%s%s", event, said, exc_info=exc_info)
        except BaseException as error:  # noqa: BLE001
            # A value whose repr raises, or the application's own processor, must not end the actor that
            # wanted to report something.
            contain(error)
            try:
                self._logger.log(_LEVELS[level], "%s (its fields could not be shown)", event)
            except BaseException as again:  # noqa: BLE001
                contain(again)


def contain(error: BaseException) -> None:
    """Keep what was raised by somebody else's function from ending the thread that called it.

    A Ctrl-C or a signal handler's `SystemExit` in the main thread goes on: it means that thread.
    """
    if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
        raise error


def get_logger(name: str) -> Log:
    """Make a logger of this name, at the top of a module."""
    return Log(name)
