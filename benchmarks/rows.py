"""What is measured: each row of the promise, the programs that do its work, and what must come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

import msgspec

from benchmarks.kit import Figures, Work

__all__ = ["ROWS", "Judgement", "Peer", "Results", "Row", "per_event", "value"]


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


def per_event(figures: Figures) -> float:
    """CPU seconds of an event, or delivery: the median of one process's repetitions."""
    return median(sample.cpu / max(sample.events, 1) for sample in figures.samples)


def value(results: Results, label: str, name: str) -> float:
    """The median of one of a program's own figures."""
    found = [figures.values[name] for figures in results.get(label, []) if name in figures.values]
    return median(found) if found else float("nan")


def _ratio(results: Results, over: str, under: str, cost: Callable[[Figures], float] = per_event) -> float:
    """The median, over the rounds, of one program's cost over another's in the same round."""
    pairs = zip(results.get(over, []), results.get(under, []), strict=False)
    ratios = [cost(a) / cost(b) for a, b in pairs]
    return median(ratios) if ratios else float("nan")


def _cpu(figures: Figures) -> float:
    return median(sample.cpu for sample in figures.samples)


def _wall(figures: Figures) -> float:
    return median(sample.wall for sample in figures.samples)


def _whole(results: Results, labels: Sequence[str]) -> Judgement:
    lost = [
        f"{label}: {min(sample.events for sample in figures.samples):,} of {figures.expected:,}"
        for label in labels
        for figures in results.get(label, [])
        if any(sample.events != figures.expected for sample in figures.samples) or figures.notes
    ]
    return Judgement("every event arrived, every stream complete", "; ".join(lost) or "yes", "yes", not lost)


BARE = "bare loop"
OURS = "ours, SubscriberActor"
PLAIN = "ours, plain actor"
NAIVE = "naive Pykka"
GENAI = "google-genai"
TWO_THREADS = "two plain threads a stream"
ONE_THREAD = "one plain thread a stream"
SHARED = "ours, 10 shared actors"
INTERVAL = ", switch interval 50 ms"

_STREAM = Work(url="", events=20_000, size=200, repeat=3)
_FAN = Work(url="", events=5_000, size=200, repeat=3, subscribers=100)
_THOUSAND = Work(url="", events=50, delay=100, size=200, streams=1_000, subscribers=0)
_OPEN = Work(url="", events=120, delay=1_000, size=200, streams=1_000)
_SHORT = Work(url="", events=3, size=20, streams=500)


def _with(work: Work, **changes: float) -> Work:
    return msgspec.structs.replace(work, **changes)


def _judge_one(results: Results) -> list[Judgement]:
    ours = 1 / _ratio(results, OURS, BARE)
    plain = 1 / _ratio(results, PLAIN, BARE)
    return [
        Judgement(
            "1 stream, 1 SubscriberActor: events per CPU second",
            f"{ours:.0%} of bare",
            "≥ 75 %",
            ours >= 0.75,
        ),
        Judgement("1 stream, 1 plain actor", f"{plain:.0%} of bare", "≥ 40 %", plain >= 0.4),
        _whole(results, (OURS, PLAIN)),
    ]


def _judge_fan(results: Results) -> list[Judgement]:
    deliveries = 1 / _ratio(results, OURS, BARE)
    return [
        Judgement(
            "1 stream, 100 SubscriberActors: deliveries in the CPU time of one bare event",
            f"{deliveries:.1f}",
            "≥ 16",
            deliveries >= 16,
        ),
        _whole(results, (OURS,)),
    ]


def _judge_own(interval: str = "") -> Callable[[Results], list[Judgement]]:
    def judge(results: Results) -> list[Judgement]:
        ratio = _ratio(results, OURS, TWO_THREADS, _cpu)
        p99 = value(results, OURS, "p99_ms")
        what = f"1,000 streams, an actor each{interval}"
        return [
            Judgement(
                f"{what}: CPU over two plain threads a stream", f"{ratio:.2f}×", "≤ 1.25×", ratio <= 1.25
            ),
            Judgement(f"{what}: p99 delay", f"{p99:.1f} ms", "≤ 20 ms", p99 <= 20),
            _whole(results, (OURS,)),
        ]

    return judge


def _judge_shared(streams: str, interval: str = "") -> Callable[[Results], list[Judgement]]:
    def judge(results: Results) -> list[Judgement]:
        ratio = _ratio(results, SHARED, ONE_THREAD, _cpu)
        return [
            Judgement(
                f"{streams} streams, 10 shared actors{interval}: CPU over one plain thread a stream",
                f"{ratio:.2f}×",
                "≤ 1.5×",
                ratio <= 1.5,
            ),
            _whole(results, (SHARED,)),
        ]

    return judge


def _judge_open(results: Results) -> list[Judgement]:
    memory = value(results, SHARED, "kib_per_stream")
    threads = value(results, SHARED, "threads")
    files = value(results, SHARED, "descriptors")
    return [
        Judgement("memory a stream at 1,000", f"{memory:.1f} KiB", "≤ 65 KiB", memory <= 65),
        Judgement("threads of 1,000 streams", f"{threads:,.0f}", "1,000 and a handful", threads <= 1_010),
        Judgement("descriptors of 1,000 streams", f"{files:,.0f}", "1,000 and a handful", files <= 1_010),
    ]


def _judge_short(results: Results) -> list[Judgement]:
    faster = _ratio(results, GENAI, OURS, _wall)
    opened = value(results, OURS, "new_connections")
    return [
        Judgement(
            "500 short streams: streams a second over google-genai's", f"{faster:.2f}×", "≥ 2×", faster >= 2
        ),
        Judgement("500 short streams: new connections", f"{opened:.0f}", "0", opened == 0),
        _whole(results, (OURS,)),
    ]


def _judge_stop(results: Results) -> list[Judgement]:
    found = results.get(OURS, [])
    judged = []
    for name in found[0].values if found else ():
        if not name.endswith("median"):
            continue
        worst = value(results, OURS, name)
        what = f"StopStream, {name.removesuffix(' median')}: server sees the close after the answer"
        judged.append(Judgement(what, f"{worst:.2f} ms", "≤ 5 ms", worst <= 5))
    return judged


ROWS: tuple[Row, ...] = (
    Row(
        "one",
        "1 stream, 1 consumer, 20,000 events of 200 bytes",
        "event",
        (
            Peer(BARE, "bare", "one", _STREAM),
            Peer(OURS, "ours", "one", _STREAM),
            Peer(PLAIN, "ours", "plain", _STREAM),
            Peer(NAIVE, "naive_pykka", "one", _STREAM),
            Peer(GENAI, "genai", "one", _with(_STREAM, repeat=1), rounds=2),
        ),
        _judge_one,
        rounds=7,
        quick_rounds=3,
    ),
    Row(
        "fan-out",
        "1 stream, 100 consumers, 5,000 events of 200 bytes",
        "delivery",
        (
            Peer(BARE, "bare", "one", _with(_FAN, subscribers=1)),
            Peer(OURS, "ours", "one", _FAN),
            Peer(PLAIN, "ours", "plain", _FAN, rounds=3, in_quick=False),
            Peer(NAIVE, "naive_pykka", "one", _with(_FAN, repeat=1), rounds=2),
        ),
        _judge_fan,
        rounds=7,
        quick_rounds=3,
    ),
    Row(
        "thousand",
        "1,000 streams, 10 events a second each for 5 s, a consumer each",
        "event",
        (
            Peer(TWO_THREADS, "threads", "many", _THOUSAND),
            Peer(OURS, "ours", "many", _THOUSAND),
            Peer(NAIVE, "naive_pykka", "many", _THOUSAND, rounds=2, in_quick=False),
            Peer(GENAI, "genai", "many", _THOUSAND, rounds=1, in_quick=False),
        ),
        _judge_own(),
        quick_rounds=1,
    ),
    Row(
        "shared-1000",
        "1,000 streams, 10 events a second each for 5 s, 10 consumers",
        "event",
        (
            Peer(ONE_THREAD, "bare", "many", _THOUSAND),
            Peer(SHARED, "ours", "many", _with(_THOUSAND, subscribers=10)),
        ),
        _judge_shared("1,000"),
        quick_rounds=1,
    ),
    Row(
        "shared-3000",
        "3,000 streams, 10 events a second each for 5 s, 10 consumers",
        "event",
        (
            Peer(ONE_THREAD, "bare", "many", _with(_THOUSAND, streams=3_000)),
            Peer(SHARED, "ours", "many", _with(_THOUSAND, streams=3_000, subscribers=10)),
            Peer(TWO_THREADS, "threads", "many", _with(_THOUSAND, streams=3_000), rounds=1, in_quick=False),
        ),
        _judge_shared("3,000"),
        rounds=2,
        quick_rounds=1,
    ),
    # Where plain threads stand in line for the interpreter, a ratio to them says little. With a switch interval of
    # 50 ms they do not: the harder comparison.
    Row(
        "thousand-50ms",
        "the same 1,000 streams, every program with a switch interval of 50 ms",
        "event",
        (
            Peer(TWO_THREADS, "threads", "many", _with(_THOUSAND, switch_interval=0.05)),
            Peer(OURS, "ours", "many", _with(_THOUSAND, switch_interval=0.05)),
        ),
        _judge_own(INTERVAL),
        quick_rounds=0,
    ),
    Row(
        "shared-3000-50ms",
        "the same 3,000 streams, every program with a switch interval of 50 ms",
        "event",
        (
            Peer(ONE_THREAD, "bare", "many", _with(_THOUSAND, streams=3_000, switch_interval=0.05)),
            Peer(
                SHARED, "ours", "many", _with(_THOUSAND, streams=3_000, subscribers=10, switch_interval=0.05)
            ),
        ),
        _judge_shared("3,000", INTERVAL),
        rounds=2,
        quick_rounds=0,
    ),
    Row(
        "open",
        "1,000 open streams, 1 event a second each: memory, threads, descriptors",
        "",
        (
            Peer(ONE_THREAD, "bare", "memory", _OPEN),
            Peer(SHARED, "ours", "memory", _OPEN),
            Peer(NAIVE, "naive_pykka", "memory", _OPEN, rounds=1, in_quick=False),
            Peer(GENAI, "genai", "memory", _OPEN, rounds=1, in_quick=False),
        ),
        _judge_open,
        quick_rounds=1,
    ),
    Row(
        "stop",
        "StopStream: milliseconds from the answer of the ask until the server sees the close",
        "",
        (Peer(OURS, "stops", "stop", Work(url="", repeat=20)),),
        _judge_stop,
        quick_rounds=1,
    ),
    Row(
        "short",
        "500 streams of 3 events, one after another",
        "stream",
        (
            Peer("requests alone", "bare", "short", _SHORT),
            Peer(OURS, "ours", "short", _SHORT),
            Peer(NAIVE, "naive_pykka", "short", _SHORT, rounds=3, in_quick=False),
            Peer(GENAI, "genai", "short", _SHORT),
        ),
        _judge_short,
        rounds=7,
        quick_rounds=3,
    ),
)
