"""Eyes on a case while it runs: the machine's own stalls, the process's memory, the manager's answers, the log."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pykka

__all__ = ["LogWatch", "ManagerWatch", "Metronome", "peak_memory", "reset_peak"]

_BEAT = 0.01


class _Loop:
    """Something that is done again and again in a thread of its own; a context manager."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"fuzz-{type(self).__name__}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(30)

    def _run(self) -> None:
        raise NotImplementedError


class Metronome(_Loop):
    """Measures how long this process was not given a processor: what is late then is nobody's fault."""

    def __init__(self) -> None:
        super().__init__()
        self._stalls: list[tuple[float, float]] = []

    def _run(self) -> None:
        before = time.monotonic()
        while not self._over.wait(_BEAT):
            now = time.monotonic()
            if now - before > 5 * _BEAT:
                self._stalls.append((before, now))
            before = now

    def stalled(self, since: float = 0.0) -> float:
        """Return the seconds of all stalls that ended since then."""
        return sum(end - begin - _BEAT for begin, end in self._stalls if end >= since)


class ManagerWatch(_Loop):
    """Asks a manager for its stats, and notes each answer that is late or wrong."""

    ANSWER_WITHIN = 1.0

    def __init__(self, manager: Any, metronome: Metronome) -> None:
        super().__init__()
        self._manager = manager
        self._metronome = metronome
        self.wrong: list[str] = []

    def _run(self) -> None:
        while not self._over.wait(0.02):
            began = time.monotonic()
            try:
                self._manager.get_stats(timeout=15)
            except pykka.ActorDeadError:
                if not self._manager.is_alive():
                    return
            except pykka.Timeout:
                self.wrong.append("the manager did not answer get_stats within 15 s")
                return
            except Exception as error:
                self.wrong.append(f"get_stats raised {type(error).__name__}: {error}")
                return
            took = time.monotonic() - began - self._metronome.stalled(began)
            if took > self.ANSWER_WITHIN:
                self.wrong.append(f"the manager answered get_stats after {took:.1f} s")


class LogWatch(logging.Handler):
    """Keeps what our packages log."""

    LOGGERS = ("gemini_streams", "pykka_supervisor", "pykka")

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[tuple[int, str]] = []
        self._levels: dict[str, int] = {}
        self._formatter = logging.Formatter("%(name)s %(levelname)s %(message)s")

    def emit(self, record: logging.LogRecord) -> None:
        line = self._formatter.format(record)
        extra = {k: v for k, v in vars(record).items() if k not in _USUAL}
        self.lines.append((record.levelno, f"{line} {extra}" if extra else line))

    def __enter__(self) -> Self:
        for name in self.LOGGERS:
            logger = logging.getLogger(name)
            self._levels[name] = logger.level
            logger.setLevel(logging.DEBUG)
            logger.addHandler(self)
            logger.propagate = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in self.LOGGERS:
            logger = logging.getLogger(name)
            logger.removeHandler(self)
            logger.setLevel(self._levels[name])
            logger.propagate = True


_USUAL = frozenset(vars(logging.makeLogRecord({})))


def reset_peak() -> None:
    """Let the peak of this process's memory begin anew, where the system can do that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Return the most bytes that this process has had in memory."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        status = Path(f"/proc/{os.getpid()}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
