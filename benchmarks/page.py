"""Writes the figures of a run into docs/performance.md: `python -m benchmarks.page FILE...`.

Each file is one that `--json` wrote; a row in a later file takes the place of one in an earlier file. A table stands in
the page between `<!-- figures: NAME -->` and `<!-- end -->`. The words around the tables are written by hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

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
    REQUESTS,
    SHARED,
    TWO_THREADS,
)
from benchmarks.kit import Figures
from benchmarks.limits import COLUMNS
from benchmarks.rows import ROWS
from benchmarks.running import DISTURBED

__all__ = ["TABLES", "filled", "main"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
TABLE = re.compile(r"(<!-- figures: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)

PROGRAMS: dict[str, tuple[str, ...]] = {
    "ours": (OURS, SHARED),
    "ours, a plain actor": (PLAIN,),
    "aiohttp": (AIOHTTP,),
    "bare loop or epoll": (BARE, EPOLL),
    "requests alone": (REQUESTS,),
    "one plain thread": (ONE_THREAD,),
    "two plain threads": (TWO_THREADS,),
    "naive Pykka": (NAIVE,),
    "google-genai": (GENAI,),
}
"""The columns of the table of costs, and the programs that stand in each."""


class Run(msgspec.Struct):
    """What `--json` wrote, of one file or of several."""

    machine: dict[str, Any]
    rows: dict[str, dict[str, list[Figures]]] = {}
    judgements: list[dict[str, Any]] = []
    limits: list[dict[str, Any]] = []


def read(files: list[Path]) -> Run:
    """Read files, the later ones over the earlier ones."""
    runs = [msgspec.json.decode(file.read_bytes(), type=Run) for file in files]
    whole = runs[0]
    for run in runs[1:]:
        whole.rows |= run.rows
        whole.limits = run.limits or whole.limits
        whole.judgements = [j for j in whole.judgements if j["row"] not in run.rows] + run.judgements
    return whole


def short(number: float) -> str:
    """Three digits that count."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}" if number >= 1 else f"{number:.2g}"


def promises(run: Run) -> list[str]:
    """What is promised, and what was measured."""
    order = {row.name: number for number, row in enumerate(ROWS)}
    lines = []
    for table in (1, 2):
        found = [j for j in run.judgements if j["table"] == table]
        if not found:
            continue
        lines += [
            "",
            f"| promised by 0.{table} | measured | must | then | reached |",
            "| --- |" + " --- |" * 4,
        ]
        for j in sorted(found, key=lambda j: order.get(j["row"], len(order))):
            reached = "no" if not j["reached"] else "and then" if j["then_reached"] else "yes"
            lines.append(f"| {j['what']} | {j['measured']} | {j['must']} | {j['then'] or '–'} | {reached} |")
    return lines


def costs(run: Run) -> list[str]:
    """CPU microseconds of an event, delivery or stream, of each program."""
    lines = [
        f"| CPU µs | {' | '.join(PROGRAMS)} |",
        f"| --- |{' --- |' * len(PROGRAMS)}",
    ]
    for row in ROWS:
        found = run.rows.get(row.name)
        if not found or not row.unit:
            continue
        streams = {peer.label: peer.work.streams for peer in row.peers}
        cells = []
        for labels in PROGRAMS.values():
            samples = [
                s.cpu / (streams[label] if row.unit == "stream" else max(s.events, 1)) * 1e6
                for label in labels
                for figures in found.get(label, [])
                for s in figures.samples
            ]
            cells.append(short(median(samples)) if samples else "")
        lines.append(f"| {row.unit}: {row.title} | {' | '.join(cells)} |")
    return lines


def delays(run: Run) -> list[str]:
    """How late the events of many streams are."""
    lines = ["| streams | program | p50 ms | p99 ms | p99 ms, starts included |", "| --- |" + " --- |" * 4]
    for row in ROWS:
        for label, found in run.rows.get(row.name, {}).items():
            names = ("p50_ms", "p99_ms", "p99_with_start_ms")
            figures = [f for f in found if "p99_ms" in f.values]
            if figures and row.unit == "event" and label != GENAI:
                cells = [short(median(f.values[name] for f in figures)) for name in names]
                lines.append(f"| {row.title} | {label} | {' | '.join(cells)} |")
    return lines


def waits(run: Run) -> list[str]:
    """How long others wait."""
    lines = [
        "| meanwhile | the interpreter was held, ms | another stream's event was late, ms |",
        "| --- |" + " --- |" * 2,
    ]
    for name in ("picture", "large-event", "picture-tls", "large-event-tls"):
        for figures in run.rows.get(name, {}).get(OURS, [])[-1:]:
            title = next(row.title for row in ROWS if row.name == name).partition(": how")[0]
            for what in dict.fromkeys(key.partition(":")[0] for key in figures.values if ": held" in key):
                held, late = (
                    median(f.values[f"{what}: {kind} ms"] for f in run.rows[name][OURS])
                    for kind in ("held", "late")
                )
                lines.append(f"| {title}: {what} | {short(held)} | {short(late)} |")
    return lines


def open_streams(run: Run) -> list[str]:
    """What 1,000 open streams take."""
    lines = ["| 1,000 open streams | KiB each | threads | descriptors |", "| --- |" + " --- |" * 3]
    for name, way in (("open", ""), ("open-tls", ", TLS")):
        for label, found in run.rows.get(name, {}).items():
            cells = [
                f"{median(f.values[value] for f in found):,.{digits}f}"
                for value, digits in (("kib_per_stream", 1), ("threads", 0), ("descriptors", 0))
            ]
            lines.append(f"| {label}{way} | {' | '.join(cells)} |")
    return lines


def limits(run: Run) -> list[str]:
    """How many streams one process carries."""
    titles = [title for _, title, _ in COLUMNS]
    lines = [f"| streams | whose | {' | '.join(titles)} |", "| --- |" + " --- |" * (len(titles) + 1)]
    for each in run.limits:
        cells = [
            f"{each['values'].get(key, float('nan')):,.{round(width % 1 * 10)}f}" for key, _, width in COLUMNS
        ]
        lines.append(f"| {each['streams']:,} | {each['whose']} | {' | '.join(cells)} |")
    return lines


def machine(run: Run) -> list[str]:
    """Where it was measured."""
    facts = run.machine
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items() if version)
    lines = [f"{facts['cores']} cores, {facts['system']}, Python {facts['python']}, loopback; {packages}."]
    every = [f.values for found in run.rows.values() for figures in found.values() for f in figures]
    client, server = (
        median([values.get(f"others_{core}_core", 0.0) for values in every] or [0.0])
        for core in ("client", "server")
    )
    if max(client, server) > DISTURBED:
        lines.append(
            f"Other programs had {client:.0%} of the client's core and {server:.0%} of the server's meanwhile"
            " (medians). So absolute times are too high, and rows that want two quiet cores may be missing:"
            " `make bench-page` fills all of them in."
        )
    return lines


TABLES: dict[str, Callable[[Run], list[str]]] = {
    "machine": machine,
    "promises": promises,
    "costs": costs,
    "delays": delays,
    "waits": waits,
    "open streams": open_streams,
    "limits": limits,
}


def filled(page: str, run: Run) -> str:
    """Return the page with its tables made anew. A table of which nothing was measured stays."""

    def table(match: re.Match[str]) -> str:
        lines = TABLES[match[2]](run)
        if match[2] != "machine" and len(lines) <= 2:
            return match[0]
        return match[1] + "\n".join(lines).strip() + "\n" + match[3]

    return TABLE.sub(table, page)


def main() -> None:
    run = read([Path(name) for name in sys.argv[1:]])
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), run), encoding="utf-8")


if __name__ == "__main__":
    main()
