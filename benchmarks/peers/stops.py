"""How long after `StopStream` was answered the server sees the connection closed, in each phase, plain and TLS.

The server is `gemini_streams.testing.LocalGemini`, its thread on the other core; both ends read one clock.
"""

from __future__ import annotations

import itertools
import os
import time
from statistics import median
from typing import Any

from benchmarks.kit import SERVER_CORE, Countdown, Figures, Work
from benchmarks.peers.ours import Counter
from gemini_streams import ManagerActor, ManagerRef
from gemini_streams.testing import LocalGemini, Reply, StallUpload

PHASES: dict[str, tuple[Any, int]] = {
    "silent stream": (Reply("one two", hold_after=1), 0),
    "waiting for the headers": (Reply("late", hold_before_headers=True), 0),
    "stuck send": (StallUpload(), 8_000_000),
}
numbers = itertools.count(1)


class Stopped(Counter):
    """Notes when it is told."""

    def __init__(self) -> None:
        super().__init__(Countdown(1))
        self.at = 0.0
        self.told = Countdown(1)

    def on_stream_stopped(self, message: Any) -> None:
        self.at = time.monotonic()
        self.told.done()


def measure(server: LocalGemini, manager: ManagerRef, phase: str) -> tuple[float, float, float]:
    """Stop one stream; milliseconds of the ask, from its answer to the close, and to the subscriber's message."""
    answer, length = PHASES[phase]
    prompt = f"{phase} {next(numbers)}."
    server.on(prompt, answer)
    actor = Stopped.start()
    before = len(server.requests)
    stream_id = manager.start_stream(prompt + "x" * length, subscriber=actor, endpoint=server.endpoint)
    record = server.wait_request(before + 1)
    server.gate(prompt).reached()
    time.sleep(0.01)
    began = time.monotonic()
    manager.stop_stream(stream_id)
    answered = time.monotonic()
    closed = record.wait_closed()
    proxy = actor.proxy()
    proxy.told.get().wait(5)
    told = proxy.at.get()
    actor.stop()
    server.gate(prompt).open()
    return (answered - began) * 1e3, max(closed - answered, 0.0) * 1e3, max(told - answered, 0.0) * 1e3


def stop(work: Work) -> Figures:
    figures = Figures()
    manager = ManagerActor.start()
    for scheme in ("plain", "TLS"):
        try:
            server = LocalGemini(tls=scheme == "TLS").start()
        except (ImportError, RuntimeError) as error:
            figures.notes.append(f"{scheme} could not run: {error}")
            continue
        thread = server._thread
        if thread is not None and hasattr(os, "sched_setaffinity"):
            try:
                os.sched_setaffinity(thread.native_id or 0, {SERVER_CORE})
            except OSError:
                figures.notes.append("the server ran on the client's core")
        for phase in PHASES:
            measured = [measure(server, manager, phase) for _ in range(work.repeat + 1)][1:]
            asks, closes, tells = zip(*measured, strict=True)
            figures.values[f"{phase}, {scheme} median"] = median(closes)
            figures.values[f"{phase}, {scheme} max"] = max(closes)
            figures.values[f"{phase}, {scheme} ask"] = median(asks)
            figures.values[f"{phase}, {scheme} told"] = median(tells)
        server.close()
    return figures
