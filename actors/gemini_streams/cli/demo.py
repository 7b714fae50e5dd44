"""`demo`: several streams at once, live and side by side.

- Which Gemini answers is said before it is asked. Without a key the demonstration brings a local one along.
- One thread, the main one, folds, draws and writes; the actors only hand their messages over. So whatever goes wrong
  with the terminal, a Ctrl-C among it, happens where it can be cleared up after.
"""

from __future__ import annotations

import argparse
import contextlib
import queue
import time
from collections.abc import Iterator
from typing import Any

import pykka

from gemini_streams.api.endpoint import Endpoint
from gemini_streams.api.environment import FromEnvironment
from gemini_streams.cli.lines import Lines, View
from gemini_streams.cli.local_script import script
from gemini_streams.cli.output import SPARE_TIME, count, one_line, say, silent_log
from gemini_streams.cli.panels import Panel, end_of, panels_to_show
from gemini_streams.cli.screen import Screen
from gemini_streams.errors import MissingCredentialsError
from gemini_streams.manager import ManagerActor, ManagerRef
from gemini_streams.messages import StreamError, StreamEvent, SubscriberMessage
from gemini_streams.options import RetryPolicy
from gemini_streams.testing import LocalGemini
from pykka_supervisor import kill

__all__ = ["run_demo"]

_FRAME = 0.05
"""Seconds between two frames."""


class _Reader(pykka.ThreadingActor):
    """Subscribes to all the streams and hands over what it receives; the tag says whose it is."""

    use_daemon_thread = True

    def __init__(self, inbox: queue.SimpleQueue[SubscriberMessage]) -> None:
        super().__init__()
        self._inbox = inbox

    def on_receive(self, message: Any) -> None:
        self._inbox.put(message)


def run_demo(options: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    with contextlib.ExitStack() as clearing:
        clearing.enter_context(silent_log())
        endpoint: Endpoint = FromEnvironment()
        try:
            where = "" if options.local else endpoint.resolve().base_url
        except MissingCredentialsError:
            where = ""
        if where:
            say(f"Gemini at {where} answers, model {options.model}.")
        else:
            gemini = clearing.enter_context(LocalGemini())
            script(gemini)
            endpoint = gemini.endpoint
            why = "As asked" if options.local else "No key in GOOGLE_API_KEY or GEMINI_API_KEY"
            say(f"{why}: a local Gemini answers, scripted, at {gemini.url}. Nothing leaves this machine.")
        manager = ManagerActor.start(
            endpoint=endpoint,
            model=options.model,
            retry=RetryPolicy(initial_delay=1.0, jitter=0.2),
            deadline=60.0,
        )
        clearing.callback(manager.stop, timeout=SPARE_TIME)
        view: View = Lines() if options.plain or not Screen.fits(len(panels_to_show())) else Screen()
        clearing.callback(view.close)
        return _watch(manager, view, kills=bool(where), clearing=clearing)


def _watch(manager: ManagerRef, view: View, *, kills: bool, clearing: contextlib.ExitStack) -> int:
    panels = {panel.name: panel for panel in panels_to_show()}
    inbox: queue.SimpleQueue[SubscriberMessage] = queue.SimpleQueue()
    reader = _Reader.start(inbox)
    clearing.callback(reader.stop, timeout=SPARE_TIME)
    began = time.monotonic()
    for panel in panels.values():
        other: dict[str, Any] = {} if panel.model is None else {"model": panel.model}
        panel.stream_id = manager.start_stream(panel.prompt, subscriber=reader, tag=panel.name, **other)
    everything = list(panels.values())
    while not all(panel.answer.done for panel in everything):
        for message in _received(inbox, time.monotonic() + _FRAME):
            panel = panels[message.tag]
            panel.take(message, time.monotonic())
            view.told(panel, message)
            if kills and panel.broken and isinstance(message, StreamEvent) and panel.attempt == 1:
                _break(manager, panel)
        view.draw(everything, time.monotonic())
    view.close()
    _sum_up(everything, manager, time.monotonic() - began)
    return 0 if all(panel.as_meant for panel in everything) else 1


def _received(inbox: queue.SimpleQueue[SubscriberMessage], until: float) -> Iterator[SubscriberMessage]:
    while (left := until - time.monotonic()) > 0:
        try:
            yield inbox.get(timeout=left)
        except queue.Empty:
            return


def _break(manager: ManagerRef, panel: Panel) -> None:
    """Kill the actor of a stream; its supervisor starts it again."""
    panel.broken = False
    ref = manager.get_stream_info(panel.stream_id).stream_ref
    if ref is not None:
        kill(ref)


def _sum_up(panels: list[Panel], manager: ManagerRef, seconds: float) -> None:
    stats = manager.get_stats()
    say(
        f"{len(panels)} streams at once in {seconds:.1f} s: {stats.completed} complete, {stats.failed} failed,"
        f" {count(stats.restarts, 'restart')}, {count(stats.events, 'event')}."
    )
    for panel in panels:
        last = panel.answer.last
        if isinstance(last, StreamError):
            meant = " (it was meant to)" if panel.fails else ""
            attempts = count(last.attempts, "attempt")
            say(f"{panel.name} failed after {attempts}{meant}: {one_line(panel.trouble)}")
        elif not panel.as_meant:
            say(f"{panel.name} is not as it should be: {one_line(end_of(last))}")
