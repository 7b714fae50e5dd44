"""Draws docs/img/slow-subscriber.png: memory and inbox of a slow subscriber over time, with flow control and without.

`python -m benchmarks.plot_slow_subscriber [FILE]`. Each case runs in a fresh process, its server in another.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pykka

from benchmarks.kit import resident
from gemini_streams import FlowControl, Gemini, ManagerActor, StreamEvent
from gemini_streams.testing import LocalGemini, Reply

EVENTS = 20_000
SIZE = 2_000
DELAY = 0.001
"""Seconds that the subscriber takes for an event."""
CASES: dict[str, dict[str, Any]] = {
    "with flow control (the defaults)": {},
    "without (a window that never fills)": {"window": 10**9, "max_bytes": 10**12},
}


class Slow(pykka.ThreadingActor):
    """Any Pykka actor: it knows nothing of flow control."""

    use_daemon_thread = True

    def __init__(self, done: threading.Event) -> None:
        super().__init__()
        self.done = done
        self.handled = 0

    def on_receive(self, message: Any) -> None:
        if isinstance(message, StreamEvent):
            time.sleep(DELAY)
            self.handled += 1
        else:
            self.done.set()


def measure(url: str, flow: dict[str, Any]) -> list[tuple[float, float, int, int]]:
    """Return (seconds, MB more in memory, messages in the inbox, events handled) over time."""
    manager = ManagerActor.start(endpoint=Gemini(api_key="local-key", base_url=url))
    warm = threading.Event()
    manager.start_stream("warm", subscriber=Slow.start(warm))
    warm.wait(30)
    done = threading.Event()
    ref = Slow.start(done)
    actor: Any = ref.proxy()._actor
    before, began = resident(), time.monotonic()
    manager.start_stream("why", subscriber=ref, flow=FlowControl(**flow))
    points = []
    while True:
        finished = done.wait(0.1)
        moment = time.monotonic() - began
        inbox: Any = ref.actor_inbox
        points.append((moment, (resident() - before) / 1e6, inbox.qsize(), actor.handled))
        if finished:
            return points


def draw(curves: dict[str, list[tuple[float, float, int, int]]], target: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (memory, inbox) = plt.subplots(2, 1, sharex=True, figsize=(8, 6), layout="constrained")
    for (name, points), color in zip(curves.items(), ("#1a6fb4", "#a33b3b"), strict=True):
        times = [point[0] for point in points]
        memory.plot(times, [point[1] for point in points], label=name, color=color, linewidth=2)
        inbox.plot(times, [point[2] for point in points], label=name, color=color, linewidth=2)
    memory.set_ylabel("memory, MB above the start")
    inbox.set_ylabel("messages in the inbox")
    inbox.set_xlabel("seconds")
    memory.set_title(
        f"A subscriber that takes {DELAY * 1000:g} ms an event; {EVENTS:,} events of {SIZE // 1000} KB, sent at once"
    )
    for axes in (memory, inbox):
        axes.grid(alpha=0.3)
        axes.legend(loc="center right")
    figure.savefig(target, dpi=110)


def main() -> None:
    if len(sys.argv) == 3:
        sys.stdout.write(json.dumps(measure(sys.argv[1], json.loads(sys.argv[2]))))
        sys.stdout.flush()
        return
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/img/slow-subscriber.png")
    curves = {}
    with LocalGemini() as server:
        server.on("warm", Reply(["x" * SIZE] * 300))
        server.on("why", Reply(["x" * SIZE] * EVENTS))
        for name, flow in CASES.items():
            program = [sys.executable, "-m", "benchmarks.plot_slow_subscriber", server.url, json.dumps(flow)]
            output = subprocess.run(program, check=True, capture_output=True).stdout
            curves[name] = json.loads(output)
            most = [max(point[column] for point in curves[name]) for column in (1, 2)]
            print(f"{name}: {most[0]:.1f} MB, {most[1]} messages, {curves[name][-1][0]:.1f} s")
    target.parent.mkdir(parents=True, exist_ok=True)
    draw(curves, target)


if __name__ == "__main__":
    main()
