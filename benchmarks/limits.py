"""`--limits`: as many streams as this machine carries, and what happens beyond."""

from __future__ import annotations

from typing import Any

from benchmarks.kit import Work
from benchmarks.running import Failed, run
from benchmarks.server import serving

__all__ = ["explore"]

STEPS = (1_000, 3_000, 10_000, 15_000)

COLUMNS = (
    ("start_s", "up after s", 10.1),
    ("start_cpu_s", "CPU s of it", 11.1),
    ("cpu_percent", "CPU %", 6.0),
    ("events_a_second", "events/s", 9.0),
    ("p50_ms", "p50 ms", 8.2),
    ("p99_ms", "p99 ms", 8.1),
    ("kib_per_stream", "KiB each", 8.1),
    ("threads", "threads", 8.0),
    ("descriptors", "files", 7.0),
    ("maps", "maps", 7.0),
    ("stop_s", "down s", 7.1),
    ("stop_cpu_s", "CPU s of it", 11.1),
    ("last_messages", "told", 7.0),
)


def explore() -> list[dict[str, Any]]:
    """Try, and print what came of it; returns the figures of what came up."""
    found: list[dict[str, Any]] = []
    for shared in (10, 0):
        whose = f"{shared} shared actors" if shared else "an actor each"
        print(f"\nan event a second each, {whose}:\n")
        print(f"{'streams':>8} " + " ".join(f"{name:>{int(width)}}" for _, name, width in COLUMNS))
        for streams in STEPS:
            work = Work(
                events=600,
                delay=1_000,
                streams=streams,
                subscribers=shared,
            )
            try:
                with serving(None) as server:
                    values = run("limits", "hold", server.work(work), limit=180.0).values
            except Failed as why:
                print(f"{streams:>8,} {why}", flush=True)
                continue
            found.append({"streams": streams, "whose": whose, "values": values})
            cells = [
                f"{values.get(key, float('nan')):>{int(width)},.{round(width % 1 * 10)}f}"
                for key, _, width in COLUMNS
            ]
            print(f"{streams:>8,} " + " ".join(cells), flush=True)
    print("\nbeyond a limit:")
    for kind in ("few_descriptors", "few_threads", "too_many"):
        work = Work(events=20, delay=1_000, streams=500, patience=60.0)
        try:
            with serving(None) as server:
                figures = run("limits", kind, server.work(work))
        except Failed as why:
            print(f"\n{kind}: {why}")
            continue
        print(f"\n{kind}: {figures.values['told']:,.0f} of {figures.values['of']:,.0f} have their last word")
        for note in figures.notes:
            print(f"  {note}")
    return found
