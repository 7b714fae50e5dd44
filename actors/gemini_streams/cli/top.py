"""`top`: what a dashboard shows, in a terminal. Needs rich (the extra `cli`).

- It reads the dashboard's JSON, each `--interval` seconds anew, and nothing else.
- On a terminal it draws in place until Ctrl-C or `q`. Elsewhere, or with `--once`, it prints one table.
- A dashboard that cannot be reached at the start ends the command with 1. One that is lost later is asked again.
- Names come from an application: they are written without control characters, and never as rich's markup.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import select
import shutil
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from gemini_streams.cli.output import UsageError, complain, one_line

__all__ = ["SORTS", "run_top"]

_PATIENCE = 5.0
_MOST_BYTES = 64 << 20
_TREE_EVERY = 5
_ENDED = frozenset(("completed", "error", "stopped"))
_STYLES = {"active": "green", "starting": "yellow", "restarting": "yellow", "error": "red"}
_WAITS = {"rate", "events", "attempt", "subscribers", "waiting", "paused"}

SORTS = ("running", "age", "rate", "events", "attempt", "subscribers", "waiting", "paused", "model", "status")


def run_top(options: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    try:
        from rich.console import Console  # noqa: PLC0415 - an extra
        from rich.live import Live  # noqa: PLC0415 - an extra
    except ImportError:
        complain('top needs rich: pip install "gemini-streams[cli]"')
        return 1
    if not options.interval >= 0.1:
        raise UsageError("--interval is 0.1 s or more")
    look = _Look(options.url, options.sort)
    try:
        look.read()
    except ValueError as error:
        complain(str(error))
        return 1
    console = Console(highlight=False)
    live = not options.once and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if not live:
        console.print(look.drawn(console.width, None))
        return 0
    with (
        _keys() as pressed,
        contextlib.suppress(KeyboardInterrupt),
        Live(console=console, screen=True, auto_refresh=False) as screen,
    ):
        while True:
            size = shutil.get_terminal_size()
            screen.update(look.drawn(size.columns, size.lines), refresh=True)
            if pressed(options.interval) == "q":
                break
            try:
                look.read()
            except (OSError, ValueError) as error:
                look.lost = one_line(str(error)) or type(error).__name__
    return 0


class _Look:
    """What was read last."""

    def __init__(self, url: str, sort: str) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError("the URL is the dashboard's, such as http://127.0.0.1:8000/")
        try:
            port = parts.port
        except ValueError:
            raise UsageError("the URL's port is no number") from None
        self._parts, self._port = parts, port
        self._sort = sort
        self._reads = 0
        self._before: dict[str, tuple[int, float]] = {}
        self.lost = ""
        self.streams: list[dict[str, Any]] = []
        self.managers: list[dict[str, Any]] = []
        self.restarted: list[tuple[str, int, str]] = []
        self.at = 0.0
        self.rate = 0.0

    def read(self) -> None:
        """Read all of it anew. Raises `OSError`, and `ValueError` for what is no dashboard's answer."""
        found = self._get("streams.json")
        try:
            at = float(found["at"])
            streams, managers = list(found["streams"]), list(found["managers"])
            rates = {}
            for each in streams:
                before = self._before.get(each["run"])
                passed = 0.0 if before is None else at - before[1]
                rates[each["run"]] = (
                    max(0, each["events"] - before[0]) / passed if before and passed > 0 else None
                )
                each["rate"] = rates[each["run"]]
            self._before = {each["run"]: (each["events"], at) for each in streams}
            streams.sort(key=self._place)
        except (KeyError, TypeError, AttributeError):
            raise ValueError("this is no dashboard's answer: give the URL of one") from None
        self.streams, self.managers, self.at, self.rate = (
            streams,
            managers,
            at,
            sum(filter(None, rates.values())),
        )
        if self._reads % _TREE_EVERY == 0:
            self.restarted = sorted(
                _restarted(self._get("tree.json").get("trees", ())), key=lambda one: -one[1]
            )
        self._reads += 1
        self.lost = ""

    def _get(self, name: str) -> dict[str, Any]:
        parts = self._parts
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", self._port, timeout=_PATIENCE)
        try:
            path = parts.path if parts.path.endswith("/") else f"{parts.path}/"
            connection.request("GET", path + name, headers={"Accept": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise OSError(f"{parts.netloc} answered {answer.status} to {path}{name}")
            found = json.loads(answer.read(_MOST_BYTES))
        except http.client.HTTPException as error:
            raise OSError(f"{parts.netloc} does not speak HTTP: {type(error).__name__}") from None
        finally:
            connection.close()
        return found if isinstance(found, dict) else {}

    def _place(self, stream: dict[str, Any]) -> tuple[Any, ...]:
        young = -stream["started_at"]
        if self._sort == "running":
            return (stream["status"] in _ENDED, young)
        value = stream[self._sort]
        return (-(value or 0) if self._sort in _WAITS else value, young)

    def drawn(self, width: int, height: int | None) -> Any:
        """Return it as rich prints it, within the terminal's size where there is one."""
        from rich import box  # noqa: PLC0415 - an extra
        from rich.console import Group  # noqa: PLC0415 - an extra
        from rich.table import Table  # noqa: PLC0415 - an extra
        from rich.text import Text  # noqa: PLC0415 - an extra

        table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1, 0, 0), show_edge=False)
        table.add_column("Stream", no_wrap=True, ratio=3, min_width=8)
        wide = width >= 100
        if wide:
            table.add_column("Tag", no_wrap=True, ratio=2)
            table.add_column("Model", no_wrap=True, ratio=2)
        table.add_column("Status", no_wrap=True, min_width=10)
        for name in ("Age", "Events", "Ev/s", "Att", "Subs", "Wait", "Paused")[: None if width >= 70 else 3]:
            table.add_column(name, justify="right", no_wrap=True)
        if wide:
            table.add_column("Last error", no_wrap=True, ratio=3)
        rest = self.restarted[: 0 if height is not None and height < 20 else 5]
        room = len(self.streams) if height is None else max(0, height - 6 - len(rest))
        for stream in self.streams[:room]:
            status = stream["status"]
            cells: list[Any] = [_text(stream["stream_id"])]
            if wide:
                cells += [_text(stream["tag"]), _text(stream["model"])]
            paused = stream["paused"]
            figures = [
                _seconds(stream["age"]),
                str(stream["events"]),
                "" if status in _ENDED or stream["rate"] is None else f"{stream['rate']:.1f}",
                str(stream["attempt"]),
                str(stream["subscribers"]),
                str(stream["waiting"] or ""),
                "" if paused is None else _seconds(paused),
            ]
            cells += [Text(status, _STYLES.get(status, "dim")), *figures[: None if width >= 70 else 3]]
            if wide:
                cells.append(_text(stream["error"]))
            table.add_row(*cells)
        lines: list[Any] = [self._head(), table]
        if (more := len(self.streams) - room) > 0:
            lines.append(Text(f"and {more} more", "dim", no_wrap=True))
        lines += [
            Text(f"{one_line(name)}: restarts {count}, last end {one_line(reason)}", "yellow", no_wrap=True)
            for name, count, reason in rest
        ]
        return Group(*lines)

    def _head(self) -> Any:
        from rich.text import Text  # noqa: PLC0415 - an extra

        by_status: dict[str, int] = {}
        for stream in self.streams:
            by_status[stream["status"]] = by_status.get(stream["status"], 0) + 1
        running = by_status.get("active", 0) + by_status.get("starting", 0)
        slots = sum(each["max_streams"] for each in self.managers)
        paused = sum(stream["paused"] is not None for stream in self.streams)
        failed = sum(each["failed"] for each in self.managers)
        said = (
            f"{datetime.fromtimestamp(self.at).astimezone():%H:%M:%S}  {running} of {slots} running,"
            f" {by_status.get('queued', 0)} queued, {by_status.get('restarting', 0)} restarting, {paused} paused;"
            f"{f' {self.rate:.1f} events/s;' if self._reads > 1 else ''} {failed} failed"
        )
        return Text(f"{said}  LOST: {self.lost}" if self.lost else said, "bold red" if self.lost else "bold")


def _restarted(nodes: Any) -> Iterator[tuple[str, int, str]]:
    """Find the actors that were restarted, streams' own aside: a stream's restarts are its attempts."""
    for node in nodes:
        if node["restarts"] and node["class"] != "StreamActor":
            yield node["name"] or node["id"], node["restarts"], node["last_reason"] or ""
        yield from _restarted(node["children"])


def _text(value: Any) -> Any:
    from rich.text import Text  # noqa: PLC0415 - an extra

    return Text("" if value is None else one_line(str(value)), overflow="ellipsis")


def _seconds(value: float) -> str:
    if value < 100:
        return f"{value:.1f}s"
    return f"{value / 60:.0f}m" if value < 6000 else f"{value / 3600:.0f}h"


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Give a function that waits so many seconds for a key; it returns at once for one that is pressed."""
    try:
        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)
    except (OSError, ValueError, AttributeError, termios.error):  # no terminal to read keys from
        yield _no_key
        return

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([fd], [], [], seconds)
        return os.read(fd, 1).decode("ascii", "replace") if ready else ""

    try:
        tty.setcbreak(fd)
        yield pressed
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
