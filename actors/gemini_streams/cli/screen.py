"""The demonstration on a terminal: panels side by side, drawn again in place. Needs rich (the extra `cli`).

- rich lays a frame out and paints it. This module writes it, in one write a frame, so that every error of the terminal
  happens in the main thread.
- Each frame has the size that the terminal has at that moment. After a change of size the screen is cleared first.
- Log lines wait until the screen is free.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from typing import TextIO

from gemini_streams.cli.output import complain, count, one_line, printable
from gemini_streams.cli.panels import Panel
from gemini_streams.cli.wrapping import wrapped
from gemini_streams.messages import SubscriberMessage

try:
    from rich import box
    from rich.console import Console, Group
    from rich.panel import Panel as Frame
    from rich.table import Table
    from rich.text import Text
except ImportError:  # the demonstration prints lines
    HAS_RICH = False
else:
    HAS_RICH = True

__all__ = ["HAS_RICH", "Screen"]

_LEAST_WIDTH = 36
_LEAST_HEIGHT = 4
_MOST_HEIGHT = 14


class Screen:
    """Panels on a terminal, and a line below them that counts."""

    def __init__(self) -> None:
        self._out: TextIO = sys.stdout
        plain = bool(os.environ.get("NO_COLOR"))
        self._console = Console(highlight=False, color_system=None if plain else "auto")
        self._size = os.terminal_size((0, 0))
        self._lines = 0  # of the last frame, with the cursor below it
        self._began: float | None = None
        self._logged = _Kept()
        logging.getLogger().addHandler(self._logged)

    @classmethod
    def fits(cls, panels: int) -> bool:
        """Whether standard output is a terminal on which so many panels can be shown, and rich is there."""
        if not HAS_RICH or not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
            return False
        across, height = _layout(panels, shutil.get_terminal_size())
        return across > 0 and height >= _LEAST_HEIGHT

    def told(self, panel: Panel, message: SubscriberMessage) -> None:
        """Wait for the next frame."""

    def draw(self, panels: list[Panel], now: float) -> None:
        """Draw a frame over the last one; `now` is in seconds of `time.monotonic()`."""
        self._began = now if self._began is None else self._began
        size = shutil.get_terminal_size()
        up = f"\x1b[{self._lines}A\r" if self._lines else ""
        if self._lines and size != self._size:
            up = "\x1b[2J\x1b[H"  # the terminal has broken the lines anew
        self._size = size
        lines = self._frame(panels, size, now)
        self._lines = len(lines)
        self._out.write(up + "".join(f"\x1b[2K{line}\n" for line in lines) + "\x1b[J")
        self._out.flush()

    def close(self) -> None:
        """Leave the last frame standing."""
        logging.getLogger().removeHandler(self._logged)
        for line in self._logged.lines:
            complain(line)
        self._logged.lines.clear()

    def _frame(self, panels: list[Panel], size: os.terminal_size, now: float) -> list[str]:
        across, height = _layout(len(panels), size)
        if not across or height < _LEAST_HEIGHT:
            return ["(too small)"[: size.columns - 1]]
        grid = Table.grid(expand=True, padding=(0, 1, 0, 0), pad_edge=False)
        for _ in range(across):
            grid.add_column(ratio=1)
        width = (size.columns - 1 - (across - 1)) // across
        cells = [_cell(panel, width, height, now) for panel in panels]
        for start in range(0, len(cells), across):
            grid.add_row(*cells[start : start + across])
        count_line = _counts(panels, now - (self._began or now))
        self._console.size = (size.columns - 1, size.lines)
        with self._console.capture() as captured:
            self._console.print(Group(grid, count_line))
        return captured.get().splitlines()


class _Kept(logging.Handler):
    """Log lines kept until the screen is free."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _layout(panels: int, size: os.terminal_size) -> tuple[int, int]:
    """Return how many panels stand beside each other, and how many lines each is high."""
    across = min(panels, size.columns // _LEAST_WIDTH)
    if not across:
        return 0, 0
    rows = -(-panels // across)
    return -(-panels // rows), min(_MOST_HEIGHT, (size.lines - 4) // rows)


def _cell(panel: Panel, width: int, height: int, now: float) -> Frame:
    inside, rows = width - 4, height - 2
    style = _style(panel)
    trouble = wrapped(one_line(panel.trouble), inside)[:rows] if panel.trouble else []
    said = wrapped(printable(panel.answer.text), inside) if panel.answer.text else []
    said = said[max(0, len(said) - rows + len(trouble)) :]
    body = Text("\n".join(said), no_wrap=True, overflow="crop")
    if trouble:
        body.append(("\n" if said else "") + "\n".join(trouble), style=style)
    status, _, rest = panel.status(now).partition(", ")
    return Frame(
        body,
        title=Text(f"{panel.name} · {status}", style="bold", overflow="ellipsis"),
        title_align="left",
        subtitle=Text(rest) if rest else None,
        subtitle_align="right",
        box=box.ROUNDED,
        border_style=style,
        height=height,
    )


def _style(panel: Panel) -> str:
    if panel.answer.error is not None:
        return "red"
    if panel.restart is not None:
        return "yellow"
    if panel.answer.done:
        return "green"
    return "cyan" if panel.answer.text else "dim"


def _counts(panels: list[Panel], seconds: float) -> Text:
    failed = sum(panel.answer.error is not None for panel in panels)
    done = sum(panel.answer.done for panel in panels)
    shown = [
        (f"{seconds:4.1f} s", "bold"),
        (f"{len(panels) - done} running", "cyan"),
        (f"{done - failed} ended", "green"),
        (f"{failed} failed", "red" if failed else "dim"),
        (count(sum(panel.attempt - 1 for panel in panels), "restart"), "yellow"),
        (count(sum(panel.events for panel in panels), "event"), ""),
    ]
    text = Text(" ", no_wrap=True, overflow="crop")
    return text.append_text(Text("  ").join(Text(words, style=style) for words, style in shown))
