"""`--plots DIR`: the sweeps that the page in the docs shows, measured and drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import msgspec

from benchmarks.judges import (
    AIOHTTP,
    BARE,
    EPOLL,
    GENAI,
    NAIVE,
    ONE_THREAD,
    OURS,
    PLAIN,
    SHARED,
    TWO_THREADS,
)
from benchmarks.kit import Figures, Work
from benchmarks.row import per_event
from benchmarks.running import Failed, run
from benchmarks.server import Certificate, serving

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter

__all__ = ["draw"]

ROUNDS = 3
PLAIN_NUMBERS = FuncFormatter(lambda number, _: f"{number:,.0f}" if number >= 1 else f"{number:g}")
STYLE: dict[str, dict[str, Any]] = {
    OURS: {"color": "#1a6fb4", "marker": "o", "linewidth": 2},
    SHARED: {"color": "#59a5dd", "marker": "o", "linewidth": 2},
    PLAIN: {"color": "#1a6fb4", "marker": "s", "linestyle": "--"},
    BARE: {"color": "#444444", "marker": "x", "linestyle": ":"},
    ONE_THREAD: {"color": "#444444", "marker": "x", "linestyle": ":"},
    TWO_THREADS: {"color": "#888888", "marker": "+", "linestyle": ":"},
    AIOHTTP: {"color": "#7a4fa3", "marker": "P", "linestyle": "--"},
    EPOLL: {"color": "#3a8f5b", "marker": "x", "linestyle": ":"},
    NAIVE: {"color": "#c8742b", "marker": "^", "linestyle": "-."},
    GENAI: {"color": "#a33b3b", "marker": "v", "linestyle": "-."},
}

Point = dict[str, float]
Curves = dict[str, dict[float, Point]]


def measured(
    module: str, kind: str, work: Work, certificate: Certificate | None, rounds: int
) -> Point | None:
    """Medians of a few rounds; `None` where a round did not come to its end, or lost events."""
    found: list[Figures] = []
    for _ in range(rounds):
        try:
            with serving(certificate) as server:
                figures = run(module, kind, server.work(work), limit=90.0)
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
    certificate: Certificate | None,
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
            point = measured(module, kind, work, certificate, rounds)
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
    columns: int = 1,
) -> None:
    """Draw panels side by side: (title, y label, curves, name of the figure, factor)."""
    rows = len(panels) // columns
    made, axes = plt.subplots(
        rows, columns, figsize=(5.2 * columns, 3.9 * rows), squeeze=False, layout="constrained"
    )
    for number, (axis, (title, y_label, curves, name, factor)) in enumerate(
        zip(axes.flat, panels, strict=True)
    ):
        for label, points in curves.items():
            xs = [x for x in points if name in points[x]]
            ys = [points[x][name] * factor for x in xs]
            if name == "cpu" and factor < 0:
                ys = [1 / points[x][name] for x in xs]
            axis.plot(xs, ys, label=label, markersize=5, **STYLE.get(label, {}))
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(PLAIN_NUMBERS)
        if number in log_y:
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(PLAIN_NUMBERS)
        else:
            axis.set_ylim(bottom=0)
        axis.set(title=title, xlabel=x_label, ylabel=y_label)
        axis.grid(visible=True, alpha=0.3)
        if columns == 1:
            axis.legend(fontsize=8)
    if columns > 1:  # the first panel has all the programs
        lines, labels = axes.flat[0].get_legend_handles_labels()
        made.legend(lines, labels, loc="outside upper center", ncols=len(labels), fontsize=9)
    made.savefig(path, dpi=110)
    plt.close(made)
    print(f"   {path}", flush=True)


def draw(certificate: Certificate | None, folder: Path) -> None:
    """Measure all sweeps and draw them; the figures are kept beside the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    ways = (False, True) if certificate is not None else (False,)
    subscribers = by_subscribers(certificate)
    figure(
        [("one stream, events of 200 bytes", "deliveries a CPU second", subscribers, "cpu", -1.0)],
        "subscribers",
        folder / "subscribers.png",
        log_y=(0,),
    )
    written: dict[str, Curves] = {"subscribers": subscribers}
    panels = []
    for tls in ways:
        name = "streams over TLS" if tls else "streams"
        streams = written[name] = by_streams(certificate, tls=tls)
        way = "TLS: " if tls else ""
        panels += [
            (f"{way}CPU of an event, starts included", "µs", streams, "cpu", 1e6),
            (f"{way}memory of a stream", "KiB", streams, "kib_per_stream", 1.0),
            (f"{way}p99 delay, once all are open", "ms", streams, "p99_ms", 1.0),
        ]
    figure(
        panels,
        "streams at once, an event a second each",
        folder / "streams.png",
        log_y=(0, 2, 3, 5),
        columns=3,
    )
    length = written["length"] = by_length(certificate)
    figure(
        [("by length of the stream, 200 bytes each", "CPU µs an event", length, "cpu", 1e6)],
        "events of the stream",
        folder / "length.png",
    )
    size = written["size"] = by_size(certificate)
    figure(
        [("by size of the event", "CPU µs an event", size, "cpu", 1e6)],
        "bytes of text in an event",
        folder / "size.png",
        log_y=(0,),
    )
    (folder / "plots.json").write_bytes(msgspec.json.format(msgspec.json.encode(written)))


def by_subscribers(certificate: Certificate | None) -> Curves:
    """Sweep over the subscribers of one stream."""

    def fan(subscribers: int) -> Work:
        events = 10_000 if subscribers <= 20 else 3_000
        return Work(events=events, subscribers=subscribers, repeat=2)

    def alone(subscribers: int) -> Work | None:
        return Work(events=10_000, repeat=2) if subscribers == 1 else None

    return sweep(
        "deliveries by number of subscribers",
        (
            (BARE, "bare", "one", alone),
            (OURS, "ours", "one", fan),
            (PLAIN, "ours", "plain", fan),
            (NAIVE, "naive_pykka", "one", fan),
            (GENAI, "genai", "one", lambda n: Work(events=5_000, repeat=1) if n == 1 else None),
        ),
        (1, 3, 10, 30, 100, 200),
        certificate,
        rounds=2,
    )


def by_streams(certificate: Certificate | None, *, tls: bool) -> Curves:
    """Sweep over the number of streams at once."""

    def many(shared: int) -> Callable[[int], Work]:
        return lambda streams: Work(
            tls=tls,
            events=10,
            delay=1_000,
            streams=streams,
            subscribers=shared,
            footprint=True,
            patience=30.0,
        )

    programs = [
        (SHARED, "ours", "many", many(10)),
        (OURS, "ours", "many", many(0)),
        (AIOHTTP, "aio", "many", many(0)),
        (EPOLL, "epoll", "many", many(0)),
        (ONE_THREAD, "bare", "many", many(0)),
        (TWO_THREADS, "threads", "many", many(0)),
        (NAIVE, "naive_pykka", "many", many(0)),
    ]
    return sweep(
        f"streams at once, an event a second each{', over TLS' if tls else ''}",
        programs[: 5 if tls else 7],
        (100, 1_000, 3_000, 10_000)[: 3 if tls else 4],
        certificate,
        rounds=1,
    )


KEPT = "ours, history of 512 MiB"
STYLE[KEPT] = {"color": "#59a5dd", "marker": "o", "linestyle": "--"}


def by_length(certificate: Certificate | None) -> Curves:
    """Sweep over the length of one stream."""
    return sweep(
        "an event's cost by the stream's length",
        (
            (BARE, "bare", "one", lambda n: Work(events=n, repeat=2)),
            (OURS, "ours", "one", lambda n: Work(events=n, repeat=2)),
            (KEPT, "ours", "one", lambda n: Work(events=n, repeat=2, history=512 << 20)),
            *over_tls(lambda n: Work(events=n, repeat=2, tls=True), certificate),
        ),
        (1_000, 10_000, 100_000, 300_000),
        certificate,
        rounds=2,
    )


def by_size(certificate: Certificate | None) -> Curves:
    """Sweep over the size of an event."""

    def sized(size: int) -> Work:
        return Work(events=max(200, min(10_000, 20_000_000 // size)), size=size)

    return sweep(
        "an event's cost by its size",
        (
            (BARE, "bare", "one", sized),
            (OURS, "ours", "one", sized),
            *over_tls(lambda size: sized(size).with_(tls=True), certificate),
        ),
        (20, 200, 2_000, 20_000, 200_000),
        certificate,
    )


Program = tuple[str, str, str, Callable[[int], Work | None]]

BARE_TLS = f"{BARE}, TLS"
OURS_TLS = "ours, TLS"
STYLE[BARE_TLS] = {"color": "#444444", "marker": "+", "linestyle": "-."}
STYLE[OURS_TLS] = {"color": "#3a8f5b", "marker": "D", "linewidth": 2}


def over_tls(make: Callable[[int], Work], certificate: Certificate | None) -> list[Program]:
    """Return the bare loop and ours over TLS, where there is a certificate."""
    if certificate is None:
        return []
    return [(BARE_TLS, "bare", "one", make), (OURS_TLS, "ours", "one", make)]
