"""`PrometheusCollector`: the figures of managers for a Prometheus scrape. Needs prometheus-client.

The rules:

- A label is a model, an outcome, a cause or a kind of tokens; never a stream's id. A label's values are bounded: from
  the `_MOST_MODELS`-th model on, models are called `other`.
- Times are seconds, sizes bytes. What only grows ends in `_total`.
- Counters with labels count what has happened since the collector was made. They go on when a manager is restarted or
  replaced.
- A scrape reads the managers' tables and asks none of them: a manager that is busy delays no scrape. Only a manager
  that is new to the collector is asked for its table, once, for a second at most.
"""

from __future__ import annotations

import threading
import weakref
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gemini_streams.extras.causes import cause_of
from gemini_streams.extras.managers import Managers, OneManager, several_managers
from gemini_streams.streams.glance import Glance, glance
from gemini_streams.streams.registry import Sessions

__all__ = ["PrometheusCollector"]

_MOST_MODELS = 200

_TOKENS = ("input", "output", "thought", "cached", "tool")
_DURATIONS = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_FIRST_EVENTS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)

_COUNTERS = {
    "started": ("Streams that were admitted.", ("model",)),
    "ended": ("Streams that have ended.", ("model", "outcome", "cause")),
    "restarts": ("Attempts that have failed and were followed by another one.", ("model", "cause")),
    "tokens": ("Tokens of streams that have ended, as the service counts them.", ("model", "kind")),
    "subscribers_dropped": ("Subscribers that left though they did not ask to.", ("model", "cause")),
    "pauses": ("Pauses of at least a second, for full subscribers.", ("model",)),
}
_HISTOGRAMS = {
    "duration_seconds": ("From a stream's start to its end.", ("model", "outcome"), _DURATIONS),
    "first_event_seconds": ("From a stream's start to its first event.", ("model",), _FIRST_EVENTS),
}
_STATUSES = {
    "queued": "Streams that wait for a slot.",
    "starting": "Streams whose request is being sent.",
    "active": "Streams whose answer is coming.",
    "restarting": "Streams that wait for their next attempt.",
}


class _Histogram:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def copy(self) -> _Histogram:
        made = _Histogram(self._bounds)
        made._counts, made._sum = self._counts.copy(), self._sum
        return made

    def shown(self) -> tuple[list[tuple[str, float]], float]:
        """Return the cumulated buckets and the sum."""
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        return buckets, self._sum


class _Counts:
    """Counts records, in the threads in which things happen. A `Tap`."""

    wanted = frozenset(
        (
            "on_stream_started",
            "on_first_event",
            "on_restarting",
            "on_paused",
            "on_subscriber_dropped",
            "on_ended",
        )
    )

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: set[str] = set()
        self._counters: dict[str, Counter[tuple[str, ...]]] = {name: Counter() for name in _COUNTERS}
        self._histograms: dict[str, dict[tuple[str, ...], _Histogram]] = {name: {} for name in _HISTOGRAMS}

    def put(self, record: Any) -> None:
        """Count one."""
        with self._lock:
            model = self._model(record.model)
            match record.hook:
                case "on_stream_started":
                    self._counters["started"][model,] += 1
                case "on_first_event":
                    self._observe("first_event_seconds", (model,), record.after)
                case "on_restarting":
                    self._counters["restarts"][model, cause_of(record.error)] += 1
                case "on_paused":
                    self._counters["pauses"][model,] += 1
                case "on_subscriber_dropped":
                    self._counters["subscribers_dropped"][model, record.reason] += 1
                case _:
                    self._ended(record, model)

    def _ended(self, record: Any, model: str) -> None:
        self._counters["ended"][model, record.status, cause_of(record.error)] += 1
        self._observe("duration_seconds", (model, record.status), record.duration)
        for kind in _TOKENS:
            count = getattr(record, f"{kind}_tokens")
            if count is not None and count > 0:
                self._counters["tokens"][model, kind] += count

    def _model(self, model: str) -> str:
        if model not in self._models:
            if len(self._models) >= _MOST_MODELS:
                return "other"
            self._models.add(model)
        return model

    def _observe(self, name: str, labels: tuple[str, ...], value: float) -> None:
        kept = self._histograms[name]
        if labels not in kept:
            kept[labels] = _Histogram(_HISTOGRAMS[name][2])
        kept[labels].add(value)

    def shown(self) -> list[Metric]:
        """Return all of it as it is now."""
        with self._lock:  # a stream's thread may wait for it: only copies are made under it
            counters = {name: counts.copy() for name, counts in self._counters.items()}
            histograms = {
                name: {labels: kept.copy() for labels, kept in each.items()}
                for name, each in self._histograms.items()
            }
        found: list[Metric] = []
        for name, (text, labels) in _COUNTERS.items():
            counter = CounterMetricFamily(f"gemini_streams_{name}", text, labels=labels)
            for values, count in counters[name].items():
                counter.add_metric(values, count)
            found.append(counter)
        for name, (text, labels, _bounds) in _HISTOGRAMS.items():
            histogram = HistogramMetricFamily(f"gemini_streams_{name}", text, labels=labels)
            for values, kept in histograms[name].items():
                histogram.add_metric(values, *kept.shown())
            found.append(histogram)
        return found


class _Growing:
    """Counters that stand in the tables: of each the last value is kept, so that the sum never shrinks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._past = [0, 0]
        self._last: list[tuple[weakref.ref[Sessions], int, int]] = []

    def total(self, tables: Iterable[tuple[Sessions, int, int]]) -> tuple[int, int]:
        """Return the events and the lost records of all tables that ever were."""
        with self._lock:
            now = {id(table): (weakref.ref(table), events, lost) for table, events, lost in tables}
            for ref, events, lost in self._last:
                table = ref()
                if table is None:
                    self._past[0] += events
                    self._past[1] += lost
                elif id(table) not in now:
                    now[id(table)] = (ref, events, lost)
            self._last = list(now.values())
            return (
                self._past[0] + sum(events for _, events, _ in self._last),
                self._past[1] + sum(lost for _, _, lost in self._last),
            )


class PrometheusCollector(Collector):
    """The figures of one manager, or of several together, for `prometheus_client`.

        REGISTRY.register(PrometheusCollector(manager))

    A manager is given by its ref, or by the name that it is registered under. Raises `InvalidRequestError` for anything
    else.
    """

    def __init__(self, *managers: OneManager) -> None:
        self._counts = _Counts()
        self._growing = _Growing()
        self._managers = Managers(several_managers(managers), self._counts)
        self._managers.found()

    def close(self) -> None:
        """Count nothing more."""
        self._managers.leave()

    def describe(self) -> Iterable[Metric]:
        """Name no metric beforehand: a registry need not scrape to take this."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Return all figures as they are now."""
        # Two names may lead to one manager.
        tables = list({id(table): table for _, table in self._managers.found()}.values())
        stats = [table.stats() for table in tables]
        events, lost = self._growing.total(
            (table, each.events, each.observer_lost) for table, each in zip(tables, stats, strict=True)
        )
        yield from self._counts.shown()
        yield _counter("events", "Events received from the service.", events)
        yield _counter("observer_lost", "Records that observers have not seen.", lost)
        for status, text in _STATUSES.items():
            count = sum(each.streams_by_status.get(status, 0) for each in stats)  # type: ignore[call-overload]
            yield _gauge(status, text, count)
        yield _gauge(
            "slots", "Streams that may run at once (max_streams).", sum(each.max_streams for each in stats)
        )
        yield from _sizes([glance(session) for table in tables for session in table.all()])


def _sizes(streams: list[Glance]) -> Iterator[Metric]:
    yield _gauge("subscribers", "Subscribers of streams.", sum(each.subscribers for each in streams))
    yield _gauge(
        "paused",
        "Streams that full subscribers hold.",
        sum(each.paused is not None for each in streams),
    )
    yield _gauge(
        "paused_seconds",
        "For how long the stream has been held that is held the longest.",
        max((each.paused or 0.0 for each in streams), default=0.0),
    )
    yield _gauge(
        "waiting_events",
        "Events that the slowest subscriber of each stream has not handled yet.",
        sum(each.waiting for each in streams),
    )
    yield _gauge(
        "waiting_bytes",
        "Bytes of the events that subscribers have not handled yet.",
        sum(each.waiting_bytes for each in streams),
    )
    yield _gauge(
        "history_bytes",
        "Bytes of the events that are kept for replays.",
        sum(each.kept_bytes for each in streams),
    )


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"gemini_streams_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"gemini_streams_{name}", text, value=value)
