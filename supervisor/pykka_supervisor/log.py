"""Structured log lines through structlog where the application has configured it, else through `logging`.

The rules:

- Where lines go is the application's choice. structlog that nobody has configured prints every line, debug
  included, to standard output; so without `structlog.configure()` the lines go to the standard library's logger of
  the same name, where nothing below WARNING shows unless the application says so. The question is asked anew for
  each line: an application may configure structlog after this import.
- A handler, a filter, a processor and a `repr` are the application's code and may block, raise, or ask an actor that
  waits for the thread that logs. So a thread that logs only puts its line into a queue; one thread of the process
  writes them, in order, and runs while there is something to write. The line keeps the time, the thread, the place
  in the code and the context variables of the thread that logged it.
- The queue holds `LIMIT` lines. Behind a handler that blocks, debug and info lines are lost first; how many were
  lost is told in one warning line once there is room again.
- Under the standard library's logging each field is an attribute of the record, as by `extra=`.
- All values are plain when they are written: strings, numbers, booleans, `None`, lists and dicts of these.
- The end of a tree, and of the process, waits for its lines, but not for longer than they may take (`flush`).
"""

from __future__ import annotations

import atexit
import contextvars
import logging
import os
import sys
import threading
import time
from typing import Any, Final

import structlog

from .lossy import LossyQueue

__all__ = ["LIMIT", "Log", "contain", "flush", "get_logger"]

LIMIT: Final = 10_000
"""Lines that wait to be written."""
_LINGER: Final = 0.2
"""Seconds that the writing thread waits for more."""
_AT_EXIT: Final = 5.0
"""Seconds that the end of the process waits for its lines."""

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class _Line:
    """One line on its way."""

    __slots__ = (
        "at",
        "context",
        "event",
        "fields",
        "function",
        "level",
        "log",
        "number",
        "path",
        "thread",
        "where",
    )

    def __init__(self, log: Log, level: str, event: str, fields: dict[str, Any]) -> None:
        self.log = log
        self.level = level
        self.event = event
        self.fields = fields
        self.at = time.time()
        self.context = contextvars.copy_context()
        self.thread = threading.current_thread()
        frame = sys._getframe(3)  # noqa: SLF001 - the line that calls `Log.info` and the like
        self.path = frame.f_code.co_filename
        self.where = frame.f_lineno
        self.function = frame.f_code.co_name

    def write(self) -> None:
        """Give it to structlog or to `logging`; in the writing thread."""
        log, event = self.log, self.event
        exc_info = self.fields.pop("exc_info", None)
        fields = {key: plain(value) for key, value in self.fields.items()}
        if structlog.is_configured():
            if exc_info is not None:
                fields["exc_info"] = exc_info
            write = getattr(structlog.get_logger(log.name), self.level)
            self.context.run(write, event, **fields)
            return
        self.context.run(self._handle, event, fields, exc_info)

    def _handle(self, event: str, fields: dict[str, Any], exc_info: BaseException | None) -> None:
        logger = self.log.logger
        said = "".join(f" {key}={value!r}" for key, value in fields.items())
        told = None if exc_info is None else (type(exc_info), exc_info, exc_info.__traceback__)
        record = logger.makeRecord(
            self.log.name,
            _LEVELS[self.level],
            self.path,
            self.where,
            "%s%s",
            (event, said),
            told,
            self.function,
        )
        written = record.created
        record.created = self.at
        record.msecs = self.at % 1 * 1000
        record.relativeCreated -= (written - self.at) * 1000
        record.thread = self.thread.ident
        record.threadName = self.thread.name
        for key, value in fields.items():  # as `extra=` does, and no name of logging's own is overwritten
            record.__dict__.setdefault(key, value)
        logger.handle(record)


class _Writer:
    """The process's one thread that writes lines, and what waits for it."""

    def __init__(self) -> None:
        self.reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.reset)

    def reset(self) -> None:
        """At the start, and in a forked child: what waits is the parent's, and so is the thread."""
        self._changed = threading.Condition(threading.Lock())
        self._lines: LossyQueue[_Line] = LossyQueue(LIMIT)
        self._in_hand: int | None = None  # the number of the line that is being written
        self._thread: threading.Thread | None = None
        self._parked = False
        self._flushing = 0

    def put(self, line: _Line) -> None:
        """Have a line written; never waits."""
        with self._changed:
            self._lines.add(line.log.package, line, important=line.level in ("warning", "error"))
            if self._parked:
                self._parked = False
                self._changed.notify_all()
            elif self._thread is None:
                self._start()

    def flush(self, timeout: float) -> bool:
        """Wait until what was put before is written; False after `timeout` seconds. In the writing thread: at once."""
        until = time.monotonic() + timeout
        with self._changed:
            last = self._lines.added
            self._flushing += 1
            try:
                while self._is_waiting(last):
                    if self._thread is threading.current_thread():
                        return False
                    left = until - time.monotonic()
                    if left <= 0:
                        return False
                    if self._thread is None and not self._start():
                        break
                    self._changed.wait(left)
                else:
                    return True
            finally:
                self._flushing -= 1
        # No thread can be started any more: the interpreter is ending.
        while time.monotonic() < until:
            with self._changed:
                line = self._next()
            if line is None:
                return True
            _write(line)
        return False

    def _is_waiting(self, last: int) -> bool:
        oldest = self._lines.oldest if self._in_hand is None else self._in_hand
        return oldest is not None and oldest <= last

    def _start(self) -> bool:
        thread = threading.Thread(target=self._run, name="pykka-supervisor-log", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._thread = thread
        return True

    def _next(self) -> _Line | None:
        """Take the next line, with the lock held."""
        for package, count in self._lines.take_lost().items():
            told = _Line(get_logger(package), "warning", "log_lines_lost", {"lines": count})
            self._lines.add(package, told, important=True)
        try:
            self._in_hand, line = self._lines.take()
        except IndexError:
            self._in_hand = None
            return None
        return line

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._flushing:
                    self._changed.notify_all()
                line = self._next()
                if line is None:
                    self._parked = True
                    self._changed.wait(_LINGER)
                    line = self._next()
                    if line is None and self._parked:
                        self._parked = False
                        self._thread = None
                        return
                    self._parked = False
            if line is not None:
                _write(line)
                del line


def _write(line: _Line) -> None:
    try:
        line.write()
    except BaseException:  # noqa: BLE001
        # The application's processor, filter or handler has raised: the next line is written all the same.
        try:
            line.log.logger.log(_LEVELS[line.level], "%s (it could not be written)", line.event)
        except BaseException:  # noqa: BLE001
            return


_writer = _Writer()


class Log:
    """A logger by name; each method takes an event and its fields, and never waits."""

    __slots__ = ("logger", "name", "package")

    def __init__(self, name: str) -> None:
        self.name = name
        self.package = name.partition(".")[0]
        self.logger = logging.getLogger(name)

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

    def wants(self, level: str) -> bool:
        """Whether a line of this level is written; a caller asks where making its fields costs something."""
        return structlog.is_configured() or self._is_wanted(_LEVELS[level])

    def _emit(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if self.wants(level):
            _writer.put(_Line(self, level, event, fields))

    def _is_wanted(self, level: int) -> bool:
        """As `Logger.isEnabledFor`, which may wait: `logging` has a lock that it holds while it configures handlers."""
        logger = self.logger
        return (
            not logger.disabled
            and level > logging.root.manager.disable
            and level >= logger.getEffectiveLevel()
        )


def plain(value: Any) -> Any:
    """Return what a line shows of a value: strings, numbers, booleans and `None`, and lists and dicts of these."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    try:
        if isinstance(value, dict):
            return {str(key): plain(each) for key, each in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [plain(each) for each in value]
        return str(value)
    except BaseException:  # noqa: BLE001 - a value's own `__str__`
        return f"<a {type(value).__name__} that could not be shown>"


def flush(timeout: float) -> bool:
    """Wait, at most `timeout` seconds, until every line that was logged before this call is written.

    False where it took longer, and in the thread that writes: a handler's own call waits for nothing.
    """
    return _writer.flush(timeout)


atexit.register(flush, _AT_EXIT)


def contain(error: BaseException) -> None:
    """Keep what was raised by somebody else's function from ending the thread that called it.

    A Ctrl-C or a signal handler's `SystemExit` in the main thread goes on: it means that thread.
    """
    if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
        raise error


def get_logger(name: str) -> Log:
    """Make a logger of this name, at the top of a module."""
    return Log(name)
