"""What is measured: each row of the promises, and the programs that do its work.

Each row has a twin over TLS (`NAME-tls`), but for the one whose programs measure both (`stop`), those that look at
another row again with another switch interval, and those that are about TLS or about no connection.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import judges
from benchmarks.judges import (
    AIOHTTP,
    BARE,
    CLOSED,
    EPOLL,
    GENAI,
    NAIVE,
    ONE_THREAD,
    OURS,
    PLAIN,
    REQUESTS,
    SHARED,
    TWO_THREADS,
    VIEWED,
)
from benchmarks.kit import Work
from benchmarks.row import Judgement, Peer, Results, Row

__all__ = ["ROWS"]

_STREAM = Work(events=20_000, size=200, repeat=3)
_FAN = Work(events=5_000, size=200, repeat=3, subscribers=100)
_THOUSAND = Work(events=50, delay=100, size=200, streams=1_000, subscribers=0)
_SHARED = _THOUSAND.with_(subscribers=10)
_THREE = _THOUSAND.with_(streams=3_000)
_OPEN = Work(events=120, delay=1_000, size=200, streams=1_000)
_SHORT = Work(events=3, size=20, streams=500)
_STARTED = Work(events=2, delay=120_000, size=200, streams=10_000, subscribers=10, patience=120.0)
_NEW = Work(events=3, size=20, streams=judges.NEW_CONNECTIONS, tls=True)
_SLOWER = 0.05

ONE = Row(
    "one",
    "1 stream, 1 consumer, 20,000 events of 200 bytes",
    "event",
    (
        Peer(BARE, "bare", "one", _STREAM),
        Peer(OURS, "ours", "one", _STREAM),
        Peer(PLAIN, "ours", "plain", _STREAM),
        Peer(NAIVE, "naive_pykka", "one", _STREAM, rounds=3),
        Peer(GENAI, "genai", "one", _STREAM.with_(repeat=1), rounds=2),
    ),
    judges.one,
    rounds=7,
    quick_rounds=3,
)
INTERACTION = Row(
    "interaction",
    "1 interaction, 1 consumer, 20,000 deltas of 200 bytes, an id on each",
    "event",
    (Peer(BARE, "bare", "interaction", _STREAM), Peer(OURS, "ours", "interaction", _STREAM)),
    judges.interaction,
    rounds=7,
    quick_rounds=3,
)
FAN = Row(
    "fan-out",
    "1 stream, 100 consumers, 5,000 events of 200 bytes",
    "delivery",
    (
        Peer(BARE, "bare", "one", _FAN.with_(subscribers=1)),
        Peer(OURS, "ours", "one", _FAN),
        Peer(PLAIN, "ours", "plain", _FAN, rounds=3, in_quick=False),
        Peer(NAIVE, "naive_pykka", "one", _FAN.with_(repeat=1), rounds=2),
    ),
    judges.fan,
    rounds=7,
    quick_rounds=3,
)
THOUSAND = Row(
    "thousand",
    "1,000 streams, 10 events a second each for 5 s, a consumer each",
    "event",
    (
        Peer(AIOHTTP, "aio", "many", _THOUSAND),
        Peer(EPOLL, "epoll", "many", _THOUSAND),
        Peer(ONE_THREAD, "bare", "many", _THOUSAND),
        Peer(OURS, "ours", "many", _THOUSAND),
        Peer(TWO_THREADS, "threads", "many", _THOUSAND, rounds=3),
        Peer(NAIVE, "naive_pykka", "many", _THOUSAND, rounds=1, in_quick=False),
        Peer(GENAI, "genai", "many", _THOUSAND, rounds=1, in_quick=False),
    ),
    judges.own,
    rounds=5,
    quick_rounds=1,
    fresh=True,
)
SHARED_1000 = Row(
    "shared-1000",
    "1,000 streams, 10 events a second each for 5 s, 10 consumers",
    "event",
    (
        Peer(AIOHTTP, "aio", "many", _THOUSAND),
        Peer(EPOLL, "epoll", "many", _THOUSAND),
        Peer(ONE_THREAD, "bare", "many", _THOUSAND),
        Peer(SHARED, "ours", "many", _SHARED),
    ),
    judges.shared_1000,
    rounds=5,
    quick_rounds=1,
    fresh=True,
)
SHARED_3000 = Row(
    "shared-3000",
    "3,000 streams, 10 events a second each for 5 s, 10 consumers",
    "event",
    (
        Peer(AIOHTTP, "aio", "many", _THREE),
        Peer(EPOLL, "epoll", "many", _THREE),
        Peer(ONE_THREAD, "bare", "many", _THREE),
        Peer(SHARED, "ours", "many", _THREE.with_(subscribers=10)),
        Peer(TWO_THREADS, "threads", "many", _THREE, rounds=1, in_quick=False),
    ),
    judges.shared_3000,
    rounds=2,
    quick_rounds=1,
    fresh=True,
)
# Where plain threads stand in line for the interpreter, a ratio to them says little. With a switch interval of 50 ms
# they do not: the harder comparison.
THOUSAND_50MS = Row(
    "thousand-50ms",
    "the same 1,000 streams, every program with a switch interval of 50 ms",
    "event",
    (
        Peer(TWO_THREADS, "threads", "many", _THOUSAND.with_(switch_interval=_SLOWER)),
        Peer(OURS, "ours", "many", _THOUSAND.with_(switch_interval=_SLOWER)),
    ),
    judges.own_50ms,
    quick_rounds=0,
    fresh=True,
)
SHARED_50MS = Row(
    "shared-3000-50ms",
    "the same 3,000 streams, every program with a switch interval of 50 ms",
    "event",
    (
        Peer(ONE_THREAD, "bare", "many", _THREE.with_(switch_interval=_SLOWER)),
        Peer(SHARED, "ours", "many", _THREE.with_(subscribers=10, switch_interval=_SLOWER)),
    ),
    judges.shared_50ms,
    rounds=2,
    quick_rounds=0,
    fresh=True,
)
OPEN = Row(
    "open",
    "1,000 open streams, 1 event a second each: memory, threads, descriptors",
    "",
    (
        Peer(ONE_THREAD, "bare", "memory", _OPEN),
        Peer(SHARED, "ours", "memory", _OPEN),
        Peer(NAIVE, "naive_pykka", "memory", _OPEN, rounds=1, in_quick=False),
        Peer(GENAI, "genai", "memory", _OPEN, rounds=1, in_quick=False),
    ),
    judges.open_,
    quick_rounds=1,
    fresh=True,
)
STARTED = Row(
    "started",
    "10,000 streams started at once, until the last has its answer's head",
    "stream",
    (
        Peer(AIOHTTP, "aio", "started", _STARTED, in_quick=False),
        Peer(EPOLL, "epoll", "started", _STARTED, in_quick=False),
        Peer(SHARED, "ours", "started", _STARTED),
    ),
    judges.started,
    rounds=3,
    quick_rounds=1,
    fresh=True,
)
STOP = Row(
    "stop",
    "StopStream: milliseconds from the answer of the ask until the server sees the close",
    "",
    (Peer(OURS, "stops", "stop", Work(repeat=20)),),
    judges.stop,
    quick_rounds=1,
)
SHORT = Row(
    "short",
    "500 streams of 3 events, one after another",
    "stream",
    (
        Peer(REQUESTS, "bare", "short", _SHORT),
        Peer(OURS, "ours", "short", _SHORT),
        Peer(NAIVE, "naive_pykka", "short", _SHORT, rounds=3, in_quick=False),
        Peer(GENAI, "genai", "short", _SHORT),
    ),
    judges.short,
    rounds=7,
    quick_rounds=3,
)
CONNECTIONS = Row(
    "tls-connections",
    "TLS: 100 streams of 3 events, one after another, each on a new connection",
    "stream",
    (
        Peer(REQUESTS, "bare", "connections", _NEW),
        Peer(AIOHTTP, "aio", "connections", _NEW),
        Peer(EPOLL, "epoll", "connections", _NEW),
        Peer(OURS, "ours", "connections", _NEW),
    ),
    judges.connections,
    rounds=5,
    quick_rounds=1,
)
PICTURE = Row(
    "picture",
    "a request with a picture of 20 MB: how long others wait",
    "",
    (Peer(OURS, "waits", "picture", Work(events=3, size=20_000_000, repeat=5)),),
    judges.picture,
    quick_rounds=1,
)
EVENT = Row(
    "large-event",
    "an event of 15 MB of small lists: how long others wait",
    "",
    (Peer(OURS, "waits", "event", Work(events=1, size=15_000_000, lists=True, repeat=5)),),
    judges.event,
    quick_rounds=1,
)
_WATCHED = Work(events=50, delay=100, size=200, streams=200, subscribers=10)
EYES = Row(
    "eyes",
    "200 streams, 10 events a second each for 5 s, 10 consumers, and a dashboard",
    "event",
    (
        Peer(SHARED, "ours", "many", _WATCHED),
        Peer(CLOSED, "eyes", "closed", _WATCHED),
        Peer(VIEWED, "eyes", "open_", _WATCHED),
    ),
    judges.eyes,
    rounds=15,
    quick_rounds=1,
)
BLACKHOLE = Row(
    "blackhole",
    "400 streams to an address that swallows connects: how long another tenant's start takes",
    "",
    (Peer(OURS, "waits", "blackhole", Work(events=3, size=20, streams=400, repeat=10)),),
    judges.blackhole,
    quick_rounds=1,
)

_OVER_TLS = {"aio", "bare", "epoll", "ours", "threads", "waits"}
"""Programs that can do their work over TLS too."""


def _twin(row: Row, judge: Callable[[Results], list[Judgement]], rounds: int) -> Row:
    """Return the same row over TLS."""
    peers = [
        peer._replace(work=peer.work.with_(tls=True), rounds=min(peer.rounds or rounds, rounds))
        for peer in row.peers
        if peer.module in _OVER_TLS
    ]
    return row._replace(
        name=f"{row.name}-tls",
        title=f"TLS: {row.title}",
        peers=peers,
        judge=judge,
        rounds=rounds,
        quick_rounds=0,
    )


ROWS: tuple[Row, ...] = (
    ONE,
    _twin(ONE, judges.one_tls, 7),
    INTERACTION,
    _twin(INTERACTION, judges.whole_of("TLS: interaction", OURS), 3),
    FAN,
    _twin(FAN, judges.whole_of("TLS: 100 subscribers", OURS), 3),
    THOUSAND,
    _twin(THOUSAND, judges.whole_of("TLS: 1,000 streams, an actor each", OURS), 3),
    SHARED_1000,
    _twin(SHARED_1000, judges.whole_of("TLS: 1,000 streams, 10 shared actors", SHARED), 3),
    SHARED_3000,
    _twin(SHARED_3000, judges.whole_of("TLS: 3,000 streams, 10 shared actors", SHARED), 1),
    THOUSAND_50MS,
    SHARED_50MS,
    OPEN,
    _twin(OPEN, judges.open_tls, 3),
    STARTED,
    _twin(STARTED, judges.whole_of("TLS: 10,000 streams started", SHARED), 1),
    STOP,
    SHORT,
    _twin(SHORT, judges.whole_of("TLS: 500 short streams", OURS), 3),
    CONNECTIONS,
    PICTURE,
    _twin(PICTURE, lambda _: [], 1),
    EYES,
    EVENT,
    _twin(EVENT, lambda _: [], 1),
    BLACKHOLE,
)
