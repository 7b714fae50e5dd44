"""What is promised of each row. Table 1 are the promises of 0.1, table 2 those of 0.2."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.row import Judgement, Results, at_least, at_most, cpu, middle, ratio, value, wall, whole

__all__ = [
    "AIOHTTP",
    "BARE",
    "CLOSED",
    "EPOLL",
    "GENAI",
    "NAIVE",
    "NEW_CONNECTIONS",
    "ONE_THREAD",
    "OURS",
    "PLAIN",
    "REQUESTS",
    "SHARED",
    "TWO_THREADS",
    "VIEWED",
    "blackhole",
    "connections",
    "event",
    "eyes",
    "fan",
    "interaction",
    "one",
    "one_tls",
    "open_",
    "open_tls",
    "own",
    "own_50ms",
    "picture",
    "shared_50ms",
    "shared_1000",
    "shared_3000",
    "short",
    "started",
    "stop",
    "whole_of",
]

BARE = "bare loop"
OURS = "ours, SubscriberActor"
PLAIN = "ours, plain actor"
NAIVE = "naive Pykka"
GENAI = "google-genai"
TWO_THREADS = "two plain threads a stream"
ONE_THREAD = "one plain thread a stream"
SHARED = "ours, 10 shared actors"
AIOHTTP = "aiohttp"
EPOLL = "bare epoll loop"
REQUESTS = "requests alone"
CLOSED = "ours, a dashboard"
VIEWED = "ours, a dashboard in 8 browsers"

NEW_CONNECTIONS = 100
"""Streams of the row `tls-connections`."""

_PERCENT = "{:.0%} of bare"
_TIMES = "{:.2f}×"
_MS = "{:.1f} ms"


def whole_of(what: str, *labels: str) -> Callable[[Results], list[Judgement]]:
    """Promise of a row that nothing is lost, and no more."""
    return lambda results: [whole(results, what, labels)]


def one(results: Results) -> list[Judgement]:
    what = "1 stream, 1 SubscriberActor: events per CPU second"
    ours, plain = 1 / ratio(results, OURS, BARE), 1 / ratio(results, PLAIN, BARE)
    return [
        at_least(1, what, ours, _PERCENT, 0.75),
        at_least(2, what, ours, _PERCENT, 1.0, 1.2),
        at_least(1, "1 stream, 1 plain actor", plain, _PERCENT, 0.4),
        at_least(2, "1 stream, 1 plain actor", plain, _PERCENT, 0.65, 0.75),
        whole(results, "1 stream", (OURS, PLAIN)),
    ]


def eyes(results: Results) -> list[Judgement]:
    what = "200 streams: CPU over the same without a dashboard"
    return [
        at_most(2, f"{what}: nobody has it open", ratio(results, CLOSED, SHARED, cpu), _TIMES, 1.02),
        at_most(2, f"{what}: 8 browsers", ratio(results, VIEWED, SHARED, cpu), _TIMES, 1.02),
        whole(results, "200 streams and a dashboard", (SHARED, CLOSED, VIEWED)),
    ]


def interaction(results: Results) -> list[Judgement]:
    ours = 1 / ratio(results, OURS, BARE)
    return [
        at_least(2, "interaction: 1 stream, 1 SubscriberActor", ours, _PERCENT, 0.6, 0.8),
        whole(results, "interaction", (OURS,)),
    ]


def one_tls(results: Results) -> list[Judgement]:
    ours = 1 / ratio(results, OURS, BARE)
    return [
        at_least(2, "TLS: 1 stream, 1 SubscriberActor", ours, _PERCENT, 0.9, 1.05),
        whole(results, "TLS: 1 stream", (OURS, PLAIN)),
    ]


def fan(results: Results) -> list[Judgement]:
    what = "1 stream, 100 SubscriberActors: deliveries in the CPU time of one bare event"
    deliveries = 1 / ratio(results, OURS, BARE)
    return [
        at_least(1, what, deliveries, "{:.1f}", 16),
        at_least(2, what, deliveries, "{:.1f}", 18, 30),
        whole(results, "100 subscribers", (OURS,)),
    ]


def _own(results: Results, what: str) -> list[Judgement]:
    return [
        at_most(
            1,
            f"{what}: CPU over two plain threads a stream",
            ratio(results, OURS, TWO_THREADS, cpu),
            _TIMES,
            1.25,
        ),
        at_most(1, f"{what}: p99 delay", value(results, OURS, "p99_ms"), _MS, 20),
        whole(results, what, (OURS,)),
    ]


def own(results: Results) -> list[Judgement]:
    what = "1,000 streams, an actor each"
    beyond = value(results, OURS, "p99_ms") - value(results, ONE_THREAD, "p99_ms")
    return [
        *_own(results, what),
        at_most(2, f"{what}: CPU over aiohttp", ratio(results, OURS, AIOHTTP, cpu), _TIMES, 1.7, 1.2),
        at_most(2, f"{what}: p99 delay beyond one plain thread a stream's", beyond, _MS, 10),
    ]


def own_50ms(results: Results) -> list[Judgement]:
    return _own(results, "1,000 streams, an actor each, switch interval 50 ms")


def _shared(results: Results, what: str) -> list[Judgement]:
    return [
        at_most(
            1,
            f"{what}: CPU over one plain thread a stream",
            ratio(results, SHARED, ONE_THREAD, cpu),
            _TIMES,
            1.5,
        ),
        whole(results, what, (SHARED,)),
    ]


def shared_1000(results: Results) -> list[Judgement]:
    what = "1,000 streams, 10 shared actors"
    return [
        *_shared(results, what),
        at_most(2, f"{what}: CPU over aiohttp", ratio(results, SHARED, AIOHTTP, cpu), _TIMES, 1.1, 0.9),
    ]


def shared_3000(results: Results) -> list[Judgement]:
    return _shared(results, "3,000 streams, 10 shared actors")


def shared_50ms(results: Results) -> list[Judgement]:
    return _shared(results, "3,000 streams, 10 shared actors, switch interval 50 ms")


def open_(results: Results) -> list[Judgement]:
    return [
        at_most(1, "memory a stream at 1,000", value(results, SHARED, "kib_per_stream"), "{:.1f} KiB", 65),
        at_most(1, "threads of 1,000 streams", value(results, SHARED, "threads"), "{:,.0f}", 1_010),
        at_most(1, "descriptors of 1,000 streams", value(results, SHARED, "descriptors"), "{:,.0f}", 1_010),
    ]


def open_tls(results: Results) -> list[Judgement]:
    memory = value(results, SHARED, "kib_per_stream")
    return [at_most(2, "TLS: memory a stream at 1,000", memory, "{:.1f} KiB", 100)]


def connections(results: Results) -> list[Judgement]:
    cost = middle(results, OURS, cpu) / NEW_CONNECTIONS * 1e3
    loads = value(results, OURS, "loads_of_the_bundle")
    return [
        at_most(2, "TLS: CPU of a stream on a new connection", cost, "{:.2f} ms", 2.5),
        at_most(2, "TLS: loads of the certificates for all of them", loads, "{:.0f}", 1),
        whole(results, "TLS, new connections", (OURS,)),
    ]


def short(results: Results) -> list[Judgement]:
    genai = ratio(results, GENAI, OURS, cpu)
    return [
        at_least(
            1,
            "500 short streams: streams a second over google-genai's",
            ratio(results, GENAI, OURS, wall),
            _TIMES,
            2,
        ),
        at_most(
            1, "500 short streams: new connections", value(results, OURS, "new_connections"), "{:.0f}", 0
        ),
        at_least(
            2,
            "500 short streams: streams a CPU second over plain requests'",
            ratio(results, REQUESTS, OURS, cpu),
            _TIMES,
            1.15,
            1.4,
        ),
        at_least(2, "500 short streams: streams a CPU second over google-genai's", genai, _TIMES, 2.5, 3.5),
        whole(results, "500 short streams", (OURS,)),
    ]


def stop(results: Results) -> list[Judgement]:
    found = results.get(OURS, [])
    return [
        at_most(
            1,
            f"StopStream, {name.removesuffix(' median')}: server sees the close after the answer",
            value(results, OURS, name),
            "{:.2f} ms",
            5,
        )
        for name in (found[0].values if found else ())
        if name.endswith("median")
    ]


def started(results: Results) -> list[Judgement]:
    return [
        at_most(2, "10,000 streams started", middle(results, SHARED, wall), "{:.1f} s", 8, 4),
        whole(results, "10,000 streams started", (SHARED,)),
    ]


def picture(results: Results) -> list[Judgement]:
    held = value(results, OURS, "picture: held ms")
    return [at_most(2, "a request with a 20 MB picture: others wait", held, _MS, 10)]


def event(results: Results) -> list[Judgement]:
    over = value(results, OURS, "event: held ms") / value(results, OURS, "decoder alone: held ms")
    return [at_most(2, "an event of 15 MB: others wait, over our decoder alone", over, _TIMES, 1.5)]


def blackhole(results: Results) -> list[Judgement]:
    what = "400 streams to an address that swallows connects: another tenant's start"
    return [at_most(2, what, value(results, OURS, "first behind ms"), _MS, 50)]
