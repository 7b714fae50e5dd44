"""The demonstration in lines, for a file, a pipe, or a small terminal; and what a view is."""

from __future__ import annotations

from typing import Protocol

from gemini_streams.cli.output import one_line, say
from gemini_streams.cli.panels import Panel, end_of
from gemini_streams.cli.wrapping import wrapped
from gemini_streams.messages import StreamEvent, SubscriberMessage

__all__ = ["Lines", "View"]


class View(Protocol):
    """How the panels are shown."""

    def told(self, panel: Panel, message: SubscriberMessage) -> None:
        """A panel has taken a message."""

    def draw(self, panels: list[Panel], now: float) -> None:
        """Show how they stand."""

    def close(self) -> None:
        """Nothing more will be shown."""


class Lines:
    """Lines with the stream's name in front, for a file, a pipe, or a small terminal."""

    _WIDTH = 88

    def __init__(self) -> None:
        self._shown: dict[str, int] = {}  # characters of each answer

    def told(self, panel: Panel, message: SubscriberMessage) -> None:
        """Print what is complete of the text, and all that is no text at once."""
        text = panel.answer.text
        shown = min(self._shown.get(panel.name, 0), len(text))
        if isinstance(message, StreamEvent):
            *whole, rest = wrapped(text[shown:], self._WIDTH)
            for line in whole:
                self._print(panel, line)
            shown = len(text) - len(rest)
        elif panel.answer.done:
            for line in wrapped(text[shown:], self._WIDTH):
                if line:
                    self._print(panel, line)
            self._print(panel, f"== {one_line(': '.join(filter(None, (end_of(message), panel.trouble))))}")
        elif panel.restart is not None:
            delay = panel.restart.delay
            self._print(panel, f"-- attempt {panel.attempt} in {delay:.1f} s: {one_line(panel.trouble)}")
        self._shown[panel.name] = shown

    def _print(self, panel: Panel, line: str) -> None:
        say(f"{panel.name:>7} | {line.strip()}")

    def draw(self, panels: list[Panel], now: float) -> None:
        """Everything was printed when it came."""

    def close(self) -> None:
        """Nothing is left to do."""
