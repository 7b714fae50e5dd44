"""`python -m benchmarks`: measure everything side by side, and say what is reached.

Each measurement is a process of its own on core 0, the server runs on core 1, the programs take turns, round after
round. CPU seconds are the figure; ratios are taken within a round, and their median is told. Counting begins behind
the imports and a first stream.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import os
import platform
import sys
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from benchmarks.row import Judgement, Results, Row
from benchmarks.rows import ROWS
from benchmarks.running import measure
from benchmarks.server import Server, certified, serving

PACKAGES = ("pykka", "requests", "urllib3", "msgspec", "orjson", "aiohttp", "google-genai")


def machine() -> dict[str, Any]:
    """Return what is told of this machine."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    pinned = hasattr(os, "sched_setaffinity") and {0, 1} <= os.sched_getaffinity(0)
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
        "pinned": pinned,
        "load_before": os.getloadavg()[0],
        "packages": versions,
    }


def spread(numbers: list[float]) -> str:
    """Median, least and most."""
    return f"{median(numbers):10.3f} {min(numbers):10.3f} {max(numbers):10.3f}"


def table(row: Row, results: Results) -> list[str]:
    """A row's figures: CPU microseconds for each unit, wall seconds, own figures."""
    lines = [f"{row.name}: {row.title}"]
    for peer in row.peers:
        found = results.get(peer.label)
        if not found:
            continue
        samples = [(f, s) for f in found for s in f.samples]
        if samples:
            if row.unit == "stream":
                costs = [s.cpu / peer.work.streams * 1e6 for _, s in samples]
            else:
                costs = [s.cpu / max(s.events, 1) * 1e6 for _, s in samples]
            lines.append(f"  {peer.label:<28} CPU µs a {row.unit:<9}{spread(costs)}")
            lines.append(f"  {'':<28} wall s            {spread([s.wall for _, s in samples])}")
        for name in found[0].values:
            if name.startswith("others_"):
                continue
            numbers = [f.values[name] for f in found if name in f.values]
            label = peer.label if not samples and name == next(iter(found[0].values)) else ""
            lines.append(f"  {label:<28} {name:<34}{spread(numbers)}")
    return lines


TABLES = {1: "the promises of 0.1", 2: "the promises of 0.2", 0: "of both"}


def judgements(judged: list[Judgement]) -> list[str]:
    """The tables that count."""
    width = max(len(j.what) for j in judged)
    lines = []
    for number, title in TABLES.items():
        some = [j for j in judged if j.table == number]
        if some:
            lines += [
                f"\n{title:<{width}}  {'measured':<22} {'must':<20} {'then':<20} reached",
                "-" * (width + 74),
            ]
            lines += [
                f"{j.what:<{width}}  {j.measured:<22} {j.must:<20} {j.then:<20} {reached(j)}" for j in some
            ]
    return lines


def reached(judgement: Judgement) -> str:
    """Say how much of a promise is reached."""
    if not judgement.reached:
        return "NO"
    return "yes, and then" if judgement.then_reached else "yes"


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", metavar="ROW", action="append", choices=[r.name for r in ROWS], help="these rows"
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, a few minutes")
    parser.add_argument(
        "--no-repeat", action="store_true", help="keep rounds in which others had the cores, too"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every figure there")
    parser.add_argument("--plots", metavar="DIR", type=Path, help="measure for the plots and draw them there")
    parser.add_argument("--limits", action="store_true", help="try as many streams as this machine carries")
    options = parser.parse_args()
    facts = machine()
    print(
        f"{facts['cores']} cores, Python {facts['python']}, {facts['system']}, load {facts['load_before']:.1f};"
        f" {'client on core 0, server on core 1' if facts['pinned'] else 'NOT pinned: two cores are needed'}"
    )
    if options.limits:
        from benchmarks.limits import explore

        found = explore()
        if options.json is not None:
            write(options.json, {"machine": facts, "limits": found})
        return 0
    with certified() as certificate:
        if options.plots is not None:
            from benchmarks.plots import draw

            draw(certificate, options.plots)
            return 0
        with serving(certificate) as server:
            return report(options, facts, server)


def write(file: Path, figures: dict[str, Any]) -> None:
    """Keep figures; `benchmarks.page` reads them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(figures)))


def report(options: argparse.Namespace, facts: dict[str, Any], server: Server) -> int:
    """Measure the rows and tell what came out."""
    notes: list[str] = []
    chosen = [row for row in ROWS if options.only is None or row.name in options.only]
    if options.quick and options.only is None:
        notes += [f"{row.name}: left out by --quick" for row in chosen if not row.quick_rounds]
        chosen = [row for row in chosen if row.quick_rounds]
    repeat = not (options.quick or options.no_repeat)
    measured: dict[str, Results] = {}
    judged: list[tuple[str, Judgement]] = []
    for row in chosen:
        results = measured[row.name] = measure(row, server, notes, quick=options.quick, repeat=repeat)
        judged += [(row.name, each) for each in judge(row, results, notes)]
        if options.json is not None:  # after each row: a run that is broken off has measured something
            found = [{"row": name, **each._asdict()} for name, each in judged]
            written = {"machine": facts, "quick": options.quick, "rows": measured, "judgements": found}
            write(options.json, {**written, "notes": notes})
    print("\n\nmedian, least, most\n")
    for row in chosen:
        print("\n".join(table(row, measured[row.name])), end="\n\n")
    if judged:
        print("\n".join(judgements([each for _, each in judged])))
    if notes:
        print("\nnotes:\n" + "\n".join(f"  {note}" for note in dict.fromkeys(notes)))
    return 0 if all(each.reached for _, each in judged) else 1


def judge(row: Row, results: Results, notes: list[str]) -> list[Judgement]:
    """Judge a row, as far as its programs have run."""
    try:
        judged = row.judge(results)
    except (ZeroDivisionError, IndexError, KeyError, ValueError) as why:
        notes.append(f"{row.name}: cannot be judged: {why!r}")
        return []
    unknown = [each for each in judged if str(math.nan) in each.measured]
    notes += [f"{each.what}: not judged, a program of it did not run" for each in unknown]
    return [each for each in judged if each not in unknown]


if __name__ == "__main__":
    sys.exit(main())
