"""What a row of the table is made of: programs that do the same work, and what is promised of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from benchmarks.kit import Figures, Work

__all__ = [
    "Judgement",
    "Peer",
    "Results",
    "Row",
    "at_least",
    "at_most",
    "cpu",
    "middle",
    "per_event",
    "ratio",
    "value",
    "wall",
    "whole",
]


class Peer(NamedTuple):
    """One program and the work it is given."""

    label: str
    module: str
    kind: str
    work: Work
    rounds: int | None = None
    """At most so many rounds: some take minutes."""
    in_quick: bool = True


class Judgement(NamedTuple):
    """One promise and what was measured."""

    what: str
    measured: str
    must: str
    reached: bool
    then: str = ""
    """What is to be reached later; "" where nothing is."""
    then_reached: bool = False
    table: int = 1
    """1: the promises of 0.1; 2: those of 0.2; 0: of both."""


Results = dict[str, list[Figures]]
"""By the peer's label, a `Figures` a round."""


class Row(NamedTuple):
    """One row of the table."""

    name: str
    title: str
    unit: str
    """What the CPU time is divided by: "event", "delivery", "stream" or "" (not at all)."""
    peers: Sequence[Peer]
    judge: Callable[[Results], list[Judgement]]
    rounds: int = 3
    quick_rounds: int = 2
    """Of `--quick`; 0: only where `--only` names the row."""
    fresh: bool = False
    """Whether each run has a server of its own: what a killed client leaves there is in the next one's way."""


def per_event(figures: Figures) -> float:
    """CPU seconds of an event, or delivery: the median of one process's repetitions."""
    return median(sample.cpu / max(sample.events, 1) for sample in figures.samples)


def cpu(figures: Figures) -> float:
    """CPU seconds of all of it."""
    return median(sample.cpu for sample in figures.samples)


def wall(figures: Figures) -> float:
    """Wall seconds of all of it."""
    return median(sample.wall for sample in figures.samples)


def value(results: Results, label: str, name: str) -> float:
    """Return the median of one of a program's own figures."""
    found = [figures.values[name] for figures in results.get(label, []) if name in figures.values]
    return median(found) if found else math.nan


def middle(results: Results, label: str, cost: Callable[[Figures], float]) -> float:
    """Return the median of one program's cost."""
    found = [cost(figures) for figures in results.get(label, [])]
    return median(found) if found else math.nan


def ratio(results: Results, over: str, under: str, cost: Callable[[Figures], float] = per_event) -> float:
    """Return the median, over the rounds, of one program's cost over another's in the same round."""
    pairs = zip(results.get(over, []), results.get(under, []), strict=False)
    ratios = [cost(a) / cost(b) for a, b in pairs]
    return median(ratios) if ratios else math.nan


def at_most(
    table: int, what: str, measured: float, form: str, must: float, then: float | None = None
) -> Judgement:
    """Make a promise that a figure is no larger; `form` formats it."""
    return Judgement(
        what,
        form.format(measured),
        f"≤ {form.format(must)}",
        measured <= must,
        "" if then is None else f"≤ {form.format(then)}",
        then is not None and measured <= then,
        table,
    )


def at_least(
    table: int, what: str, measured: float, form: str, must: float, then: float | None = None
) -> Judgement:
    """Make a promise that a figure is no smaller."""
    return Judgement(
        what,
        form.format(measured),
        f"≥ {form.format(must)}",
        measured >= must,
        "" if then is None else f"≥ {form.format(then)}",
        then is not None and measured >= then,
        table,
    )


def whole(results: Results, what: str, labels: Sequence[str]) -> Judgement:
    """Make the promise that nothing was lost, and that each of these programs came to its end."""
    lost = [
        f"{label}: {min(sample.events for sample in figures.samples):,} of {figures.expected:,}"
        for label in labels
        for figures in results.get(label, [])
        if any(sample.events != figures.expected for sample in figures.samples) or figures.notes
    ]
    lost += [f"{label}: did not come to its end" for label in labels if not results.get(label)]
    return Judgement(f"{what}: every event, every end", "; ".join(lost) or "all", "all", not lost, table=0)
