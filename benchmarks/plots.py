"""`--plots DIR`: the sweeps that the page in the docs shows, measured and drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import msgspec

from benchmarks.__main__ import Failed, run
from benchmarks.kit import Figures, Work
from benchmarks.rows import BARE, GENAI, NAIVE, ONE_THREAD, OURS, PLAIN, SHARED, TWO_THREADS, per_event
from benchmarks.server import Server

mpl.use("Agg")

import matplotlib.pyplot as plt

__all__ = ["draw"]

ROUNDS = 3
STYLE: dict[str, dict[str, Any]] = {
    OURS: {"color": "#1a6fb4", "marker": "o", "linewidth": 2},
    SHARED: {"color": "#59a5dd", "marker": "o", "linewidth": 2},
    PLAIN: {"color": "#1a6fb4", "marker": "s", "linestyle": "--"},
    BARE: {"color": "#444444", "marker": "x", "linestyle": ":"},
    ONE_THREAD: {"color": "#444444", "marker": "x", "linestyle": ":"},
    TWO_THREADS: {"color": "#888888", "marker": "+", "linestyle": ":"},
    NAIVE: {"color": "#c8742b", "marker": "^", "linestyle": "-."},
    GENAI: {"color": "#a33b3b", "marker": "v", "linestyle": "-."},
}

Point = dict[str, float]
Curves = dict[str, dict[float, Point]]


def measured(module: str, kind: str, work: Work, rounds: int = ROUNDS) -> Point | None:
    """Medians of a few rounds; `None` where a round did not come to its end, or lost events."""
    found: list[Figures] = []
    for _ in range(rounds):
        try:
            figures = run(module, kind, work, limit=90.0)
        except Failed as why:
            print(f"      {why}", flush=True)
            return None
        if any(sample.events != figures.expected for sample in figures.samples):
            print("      events were lost", flush=True)
            return None
        found.append(figures)
    point = {name: median(f.values[name] for f in found) for name in found[0].values}
    if point.get("threads", work.streams) < work.streams:
        point.pop("kib_per_stream")  # not all of them were open at once
    if found[0].samples:
        point["cpu"] = median(per_event(f) for f in found)
    return point


def sweep(
    title: str,
    programs: Iterable[tuple[str, str, str, Callable[[int], Work | None]]],
    steps: Sequence[int],
    rounds: int = ROUNDS,
) -> Curves:
    """Each program at each step, as far as it comes."""
    print(f"\n== {title}", flush=True)
    curves: Curves = {}
    programs = list(programs)
    stopped: set[str] = set()
    for step in steps:
        for label, module, kind, make in programs:
            work = make(step)
            if work is None or label in stopped:
                continue
            point = measured(module, kind, work, rounds)
            print(
                f"   {step:>8,} {label:<28} {' '.join(f'{k} {v:.4g}' for k, v in (point or {}).items())}",
                flush=True,
            )
            if point is None:
                stopped.add(label)
            else:
                curves.setdefault(label, {})[step] = point
    return curves


def figure(
    panels: Sequence[tuple[str, str, Curves, str, float]],
    x_label: str,
    path: Path,
    *,
    log_y: Sequence[int] = (),
) -> None:
    """Draw panels side by side: (title, y label, curves, name of the figure, factor)."""
    made, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 3.9), squeeze=False)
    for number, (axis, (title, y_label, curves, name, factor)) in enumerate(
        zip(axes[0], panels, strict=True)
    ):
        for label, points in curves.items():
            xs = [x for x in points if name in points[x]]
            ys = [points[x][name] * factor for x in xs]
            if name == "cpu" and factor < 0:
                ys = [1 / points[x][name] for x in xs]
            axis.plot(xs, ys, label=label, markersize=5, **STYLE.get(label, {}))
        axis.set_xscale("log")
        if number in log_y:
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=0)
        axis.set(title=title, xlabel=x_label, ylabel=y_label)
        axis.grid(visible=True, alpha=0.3)
        axis.legend(fontsize=8)
    made.tight_layout()
    made.savefig(path, dpi=110)
    plt.close(made)
    print(f"   {path}", flush=True)


def draw(server: Server, folder: Path) -> None:
    """Measure all sweeps and draw them; the figures are kept beside the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    url = server.url

    def fan(subscribers: int) -> Work:
        events = 10_000 if subscribers <= 20 else 3_000
        return Work(url=url, events=events, subscribers=subscribers, repeat=2)

    def alone(subscribers: int) -> Work | None:
        return Work(url=url, events=10_000, repeat=2) if subscribers == 1 else None

    subscribers = sweep(
        "deliveries by number of subscribers",
        (
            (BARE, "bare", "one", alone),
            (OURS, "ours", "one", fan),
            (PLAIN, "ours", "plain", fan),
            (NAIVE, "naive_pykka", "one", fan),
            (GENAI, "genai", "one", lambda n: Work(url=url, events=5_000, repeat=1) if n == 1 else None),
        ),
        (1, 3, 10, 30, 100, 200),
        rounds=2,
    )
    figure(
        [("one stream, events of 200 bytes", "deliveries a CPU second", subscribers, "cpu", -1.0)],
        "subscribers",
        folder / "subscribers.png",
        log_y=(0,),
    )

    def many(shared: int) -> Callable[[int], Work]:
        return lambda streams: Work(
            url=url,
            events=10,
            delay=1_000,
            streams=streams,
            subscribers=shared,
            footprint=True,
            patience=30.0,
        )

    streams = sweep(
        "streams at once, an event a second each",
        (
            (SHARED, "ours", "many", many(10)),
            (OURS, "ours", "many", many(0)),
            (ONE_THREAD, "bare", "many", many(0)),
            (TWO_THREADS, "threads", "many", many(0)),
            (NAIVE, "naive_pykka", "many", many(0)),
        ),
        (100, 1_000, 3_000, 10_000),
        rounds=1,
    )
    figure(
        [
            ("CPU of an event, opening the streams included", "µs", streams, "cpu", 1e6),
            ("memory of a stream", "KiB", streams, "kib_per_stream", 1.0),
            ("p99 delay, once all are open", "ms", streams, "p99_ms", 1.0),
        ],
        "streams at once, an event a second each",
        folder / "streams.png",
        log_y=(2,),
    )

    kept = "ours, history of 512 MiB"
    STYLE[kept] = {"color": "#59a5dd", "marker": "o", "linestyle": "--"}
    length = sweep(
        "an event's cost by the stream's length",
        (
            (BARE, "bare", "one", lambda n: Work(url=url, events=n, repeat=2)),
            (OURS, "ours", "one", lambda n: Work(url=url, events=n, repeat=2)),
            (kept, "ours", "one", lambda n: Work(url=url, events=n, repeat=2, history=512 << 20)),
        ),
        (1_000, 10_000, 100_000, 300_000),
        rounds=2,
    )
    size = sweep(
        "an event's cost by its size",
        (
            (
                BARE,
                "bare",
                "one",
                lambda s: Work(url=url, events=max(200, min(10_000, 20_000_000 // s)), size=s),
            ),
            (
                OURS,
                "ours",
                "one",
                lambda s: Work(url=url, events=max(200, min(10_000, 20_000_000 // s)), size=s),
            ),
        ),
        (20, 200, 2_000, 20_000, 200_000),
        rounds=3,
    )
    figure(
        [("by length of the stream, 200 bytes each", "CPU µs an event", length, "cpu", 1e6)],
        "events of the stream",
        folder / "length.png",
    )
    figure(
        [("by size of the event", "CPU µs an event", size, "cpu", 1e6)],
        "bytes of text in an event",
        folder / "size.png",
        log_y=(0,),
    )
    written = {"subscribers": subscribers, "streams": streams, "length": length, "size": size}
    (folder / "plots.json").write_bytes(msgspec.json.format(msgspec.json.encode(written)))
