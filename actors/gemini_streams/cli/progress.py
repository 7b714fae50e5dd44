"""How far a batch is, on standard error: a bar on a terminal with rich (the extra `cli`), else a line now and then."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pykka

from gemini_streams.answer import Answer
from gemini_streams.cli.output import complain, count
from gemini_streams.messages import ManagerStats

__all__ = ["Progress", "progress"]

_EVERY = 10.0
"""Seconds between two lines."""


class Progress(Protocol):
    """What is told of each answer."""

    def ended(self, answer: Answer, *, well: bool) -> None:
        """An answer is done."""


class _Figures:
    def __init__(self, total: int, done: int, stats: Callable[..., ManagerStats]) -> None:
        self.total, self.done = total, done
        self._stats = stats
        self._began = time.monotonic()
        self._ended = self._failed = self._tokens = 0

    def ended(self, answer: Answer, *, well: bool) -> None:
        """Count an answer."""
        self.done += 1
        self._ended += 1
        self._failed += not well
        tokens = (answer.usage or {}).get("totalTokenCount")
        self._tokens += tokens if isinstance(tokens, int) else 0

    def told(self) -> str:
        """Return the figures in words."""
        rate = self._ended / max(time.monotonic() - self._began, 1e-3)
        words = [f"{rate:.1f}/s", count(self._tokens, "token")]
        with contextlib.suppress(pykka.ActorDeadError, pykka.Timeout):
            by_status = self._stats(timeout=1.0).streams_by_status
            waiting = by_status.get("restarting", 0) + by_status.get("queued", 0)
            words += [f"{waiting} waiting"] if waiting else []
        words += [f"{self._failed} failed"] if self._failed else []
        return ", ".join(words)


class _Silent:
    def ended(self, answer: Answer, *, well: bool) -> None:
        """Say nothing."""


class _Lines:
    def __init__(self, figures: _Figures) -> None:
        self._figures = figures
        self._due = time.monotonic() + _EVERY

    def ended(self, answer: Answer, *, well: bool) -> None:
        """Write a line where the last one is long ago."""
        figures = self._figures
        figures.ended(answer, well=well)
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _EVERY
            complain(f"{figures.done} of {figures.total}, {figures.told()}")


@contextlib.contextmanager
def progress(total: int, done: int, stats: Callable[..., ManagerStats], *, quiet: bool) -> Iterator[Progress]:
    """Show the progress of a batch until the block ends; `stats` gives the manager's figures."""
    figures = _Figures(total, done, stats)
    if quiet or sys.stderr is None:
        yield _Silent()
        return
    bar = _bar(figures) if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb" else None
    if bar is None:
        yield _Lines(figures)
        return
    with bar as shown:
        yield shown


def _bar(figures: _Figures) -> contextlib.AbstractContextManager[Progress] | None:
    try:
        from rich import progress as rich  # noqa: PLC0415 - an extra
        from rich.console import Console  # noqa: PLC0415 - an extra
        from rich.text import Text  # noqa: PLC0415 - an extra
    except ImportError:
        return None

    class Figures(rich.ProgressColumn):
        max_refresh = 0.5

        def render(self, task: Any) -> Text:  # noqa: ARG002 - rich's name
            return Text(figures.told())

    class Bar:
        def __init__(self, shown: rich.Progress, task: rich.TaskID) -> None:
            self._shown, self._task = shown, task

        def ended(self, answer: Answer, *, well: bool) -> None:
            figures.ended(answer, well=well)
            self._shown.update(self._task, completed=figures.done)

    @contextlib.contextmanager
    def shown() -> Iterator[Progress]:
        console = Console(stderr=True, color_system=None if os.environ.get("NO_COLOR") else "auto")
        columns = (
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TimeRemainingColumn(),
            Figures(),
        )
        with rich.Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False) as bar:
            yield Bar(bar, bar.add_task("", total=figures.total, completed=figures.done))

    return shown()
