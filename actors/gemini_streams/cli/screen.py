"""The demonstration on a terminal: panels side by side, drawn again in place."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from typing import TextIO

from gemini_streams.cli.output import complain, one_line, printable
from gemini_streams.cli.panels import Panel
from gemini_streams.cli.wrapping import cells, cut, padded, wrapped
from gemini_streams.messages import SubscriberMessage

__all__ = ["Screen"]

_BOLD, _RED, _YELLOW, _GREEN, _PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[33m", "\x1b[32m", "\x1b[0m"
_LEAST_HEIGHT = 4


class Screen:
    """Columns on a terminal, drawn again in place, in the size that the terminal has at that moment."""

    def __init__(self) -> None:
        self._out: TextIO = sys.stdout
        self._colours = "NO_COLOR" not in os.environ
        self._size = os.terminal_size((0, 0))
        self._lines = 0  # of the last frame, with the cursor below it
        self._frame: list[Panel] = []
        self._logged = _Kept()
        logging.getLogger().addHandler(self._logged)

    @classmethod
    def fits(cls, count: int) -> bool:
        """Whether standard output is a terminal on which so many panels can be shown."""
        if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
            return False
        across, height = _layout(count, shutil.get_terminal_size())
        return across > 0 and height >= _LEAST_HEIGHT

    def told(self, panel: Panel, message: SubscriberMessage) -> None:
        """Wait for the next frame."""

    def draw(self, panels: list[Panel], now: float) -> None:
        """Draw a frame over the last one."""
        self._frame = panels
        size = shutil.get_terminal_size()
        across, height = _layout(len(panels), size)
        up = f"\x1b[{self._lines}A\r" if self._lines else ""
        if self._lines and size != self._size:
            up = "\x1b[2J\x1b[H"  # the terminal has broken the lines anew
        self._size = size
        width = (size.columns - 1) // max(across, 1) - 2
        lines: list[str] = []
        if across and height >= _LEAST_HEIGHT:
            for start in range(0, len(panels), across):
                cells = [self._cell(panel, width, height, now) for panel in panels[start : start + across]]
                lines += ["  ".join(row) for row in zip(*cells, strict=True)]
        else:
            lines = ["(too small)"[: size.columns - 1]]
        self._lines = len(lines)
        self._out.write(up + "".join(f"\x1b[2K{line}\n" for line in lines) + "\x1b[J")
        self._out.flush()

    def close(self) -> None:
        """Leave the last frame standing."""
        logging.getLogger().removeHandler(self._logged)
        for line in self._logged.lines:
            complain(line)
        self._logged.lines.clear()

    def _cell(self, panel: Panel, width: int, height: int, now: float) -> list[str]:
        """Return a panel as so many lines of this width."""
        status = panel.status(now)
        title = cut(f"{panel.name} · {status} ", width)
        colour = _BOLD
        if panel.answer.error is not None:
            colour = _RED
        elif panel.restart is not None:
            colour = _YELLOW
        elif panel.answer.done:
            colour = _GREEN
        body = wrapped(printable(panel.answer.text), width) if panel.answer.text else []
        rows = height - 2
        trouble = wrapped(one_line(panel.trouble), width)[:rows] if panel.trouble else []
        body = body[max(0, len(body) - rows + len(trouble)) :]
        lines = [self._painted(title + "─" * (width - cells(title)), colour)]
        lines += [padded(line, width) for line in body]
        lines += [self._painted(padded(line, width), colour) for line in trouble]
        return lines + [" " * width] * (height - len(lines))

    def _painted(self, text: str, colour: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self._colours else text


class _Kept(logging.Handler):
    """Log lines kept until the screen is free."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _layout(count: int, size: os.terminal_size) -> tuple[int, int]:
    """Return how many panels stand beside each other, and how high each is, the line between two included."""
    across = min(count, size.columns // 36)
    if not across:
        return 0, 0
    rows = -(-count // across)
    return -(-count // rows), min(14, (size.lines - 4) // rows)
