"""`python -m benchmarks`: measure everything side by side, and say what is reached.

Each measurement is a process of its own on core 0, the server runs on core 1, the programs take turns, round after
round. CPU seconds are the figure; ratios are taken within a round, and their median is told.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from benchmarks.kit import CLIENT_CORE, SERVER_CORE, Figures, Work
from benchmarks.quiet import Others
from benchmarks.rows import ROWS, Judgement, Peer, Results, Row, per_event
from benchmarks.server import Server, serving

PACKAGES = ("pykka", "requests", "urllib3", "msgspec", "orjson", "google-genai")
NEEDS = {"genai": "google.genai", "bare": "orjson", "threads": "orjson", "naive_pykka": "orjson"}


DISTURBED = 0.3
"""A round in which others had more of a core than this is repeated, whatever it showed. (What the kernel does for the
sockets counts as others' here and there: up to 0.2 on a machine with nothing else to do.)"""
REPEATS = 3


class Failed(Exception):  # noqa: N818 - told as it is
    """A measurement did not come to its end."""


def run(module: str, kind: str, work: Work, *, limit: float = 400.0) -> Figures:
    """Measure once, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.kit", module, kind, msgspec.json.encode(work).decode()]
    try:
        done = subprocess.run(command, capture_output=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise Failed(f"not done after {limit:g} s") from None
    if done.returncode or not done.stdout.strip():
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["nothing was said"]
        raise Failed(f"ended with {done.returncode}: {last[0][:200]}")
    return msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=Figures)


def machine() -> dict[str, Any]:
    """What is told of this machine."""
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


def missing(peer: Peer) -> str | None:
    """Say why a program cannot run here."""
    needs = NEEDS.get(peer.module)
    try:
        if needs is not None and importlib.util.find_spec(needs) is None:
            return f"{needs} is not installed"
    except ModuleNotFoundError:
        return f"{needs} is not installed"
    return None


def measure(row: Row, server: Server, *, quick: bool, notes: list[str]) -> Results:
    """Let a row's programs take turns."""
    print(f"\n== {row.name}: {row.title}", flush=True)
    results: Results = {}
    peers: list[Peer] = []
    for peer in row.peers:
        why = missing(peer) or ("left out by --quick" if quick and not peer.in_quick else None)
        if why:
            notes.append(f"{row.name}, {peer.label}: not run, {why}")
            print(f"   {peer.label}: not run, {why}", flush=True)
        else:
            peers.append(peer)
    rounds = row.quick_rounds if quick else row.rounds
    for number in range(rounds):
        for peer in peers:
            if number >= (peer.rounds or rounds):
                continue
            work = msgspec.structs.replace(peer.work, url=server.url)
            if quick:
                work = msgspec.structs.replace(work, patience=15.0)
            said = f"   round {number + 1}/{rounds} {peer.label:<28}"
            for left in range(0 if quick else REPEATS, -1, -1):
                began = time.monotonic()
                others = Others(CLIENT_CORE, SERVER_CORE, server.process.pid)
                try:
                    figures = run(peer.module, peer.kind, work)
                except Failed as why:
                    notes.append(f"{row.name}, {peer.label}: {why}")
                    print(f"{said} {why}", flush=True)
                    break
                client, other = others.shares()
                figures.values |= {"others_client_core": client, "others_server_core": other}
                took = time.monotonic() - began
                load = (
                    f"others had {client:.0%} and {other:.0%} of the cores; " if client + other > 0.05 else ""
                )
                print(f"{said} {brief(row, figures, work.streams)}  [{load}{took:.0f} s]", flush=True)
                if left and max(client, other) > DISTURBED:
                    notes.append(f"{row.name}, {peer.label}: a round was repeated, others had the cores")
                    continue
                results.setdefault(peer.label, []).append(figures)
                notes += [f"{row.name}, {peer.label}: {note}" for note in figures.notes[:3]]
                break
    return results


def brief(row: Row, figures: Figures, streams: int) -> str:
    """One measurement in a line."""
    parts = []
    if figures.samples:
        cpu = median(sample.cpu for sample in figures.samples)
        wall = median(sample.wall for sample in figures.samples)
        events = min(sample.events for sample in figures.samples)
        parts.append(f"{cpu:8.3f} CPU s {wall:8.3f} s")
        if row.unit == "stream":
            parts.append(f"{cpu / streams * 1e6:8.1f} µs a stream")
        else:
            parts.append(f"{per_event(figures) * 1e6:8.2f} µs {row.unit}")
        if events != figures.expected:
            parts.append(f"LOST {figures.expected - events:,} of {figures.expected:,}")
    parts += [
        f"{name} {number:,.2f}"
        for name, number in figures.values.items()
        if not name.endswith((" max", " ask", " told")) and not name.startswith("others_")
    ]
    return "  ".join(parts)


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


def judgements(judged: list[Judgement]) -> list[str]:
    """The table that counts."""
    width = max(len(j.what) for j in judged)
    lines = [f"{'work':<{width}}  {'measured':<22} {'must':<20} reached", "-" * (width + 53)]
    lines += [
        f"{j.what:<{width}}  {j.measured:<22} {j.must:<20} {'yes' if j.reached else 'NO'}" for j in judged
    ]
    return lines


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", metavar="ROW", action="append", choices=[r.name for r in ROWS], help="these rows"
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, about a minute")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every figure there")
    parser.add_argument("--plots", metavar="DIR", type=Path, help="measure for the plots and draw them there")
    parser.add_argument("--limits", action="store_true", help="try as many streams as this machine carries")
    options = parser.parse_args()
    facts = machine()
    print(
        f"{facts['cores']} cores, Python {facts['python']}, {facts['system']}, load {facts['load_before']:.1f};"
        f" {'client on core 0, server on core 1' if facts['pinned'] else 'NOT pinned: two cores are needed'}"
    )
    with serving() as server:
        if options.plots is not None:
            from benchmarks.plots import draw

            draw(server, options.plots)
            return 0
        if options.limits:
            from benchmarks.limits import explore

            explore(server)
            return 0
        return report(options, facts, server)


def report(options: argparse.Namespace, facts: dict[str, Any], server: Server) -> int:
    """Measure the rows and tell what came out."""
    notes: list[str] = []
    chosen = [row for row in ROWS if options.only is None or row.name in options.only]
    if options.quick:
        notes += [f"{row.name}: left out by --quick" for row in chosen if not row.quick_rounds]
        chosen = [row for row in chosen if row.quick_rounds]
    measured = {row.name: measure(row, server, quick=options.quick, notes=notes) for row in chosen}
    print("\n\nmedian, least, most\n")
    for row in chosen:
        print("\n".join(table(row, measured[row.name])), end="\n\n")
    judged: list[Judgement] = []
    for row in chosen:
        try:
            judged += row.judge(measured[row.name])
        except (ZeroDivisionError, IndexError, KeyError, ValueError) as why:
            notes.append(f"{row.name}: cannot be judged: {why!r}")
    if judged:
        print("\n".join(judgements(judged)))
    if notes:
        print("\nnotes:\n" + "\n".join(f"  {note}" for note in dict.fromkeys(notes)))
    if options.json is not None:
        written = {
            "machine": facts,
            "quick": options.quick,
            "rows": measured,
            "judgements": [j._asdict() for j in judged],
            "notes": notes,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(written)))
    return 0 if all(j.reached for j in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
