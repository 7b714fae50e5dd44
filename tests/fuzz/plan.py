"""A case of the fuzz run: all that happens in it, decided before anything runs, from a seed and the case's number.

Pure. `make_case` says what the application does and when; `answer_to` what the server says to a stream's n-th request.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from fuzz.answer import Answer, make_answer, said_back
from fuzz.content import Taste
from fuzz.marks import Mark

__all__ = [
    "ATTEMPTS",
    "ITERATORS",
    "Case",
    "Deed",
    "ReaderPlan",
    "StreamPlan",
    "answer_to",
    "greeting_of",
    "key_of",
    "make_case",
    "password_of",
    "refusal_of",
]

ATTEMPTS = 4
_WILD = 3
"""Requests of a stream that get a wild answer; those behind them get a sound one."""

ReaderKind = Literal["plain", "batches", "slow", "iterator", "async", "dies"]
ITERATORS = ("iterator", "async")
Overflow = Literal["pause", "drop_oldest", "drop_newest", "disconnect"]
What = Literal["stop", "join", "leave", "kill", "info", "again", "kill manager"]
"""`again`: another tenant starts a stream with the same id and contents."""
Greeting = Literal["", "fin", "rst", "silence", "garbage", "cut", "refuse"]
"""What becomes of a connection before its first request; empty: nothing odd. `cut`: closed in the handshake, `refuse`:
by the proxy, which says the credentials back."""


@dataclass(frozen=True)
class ReaderPlan:
    """One subscriber. `patience`: of an iterator, after how many items it leaves; of one that dies, likewise."""

    kind: ReaderKind
    patience: int | None = None


@dataclass(frozen=True)
class StreamPlan:
    """One stream."""

    number: int
    at: float
    tenant: int
    taste: Taste
    readers: tuple[ReaderPlan, ...]
    window: int
    overflow: Overflow
    history: int
    keep: float
    deadline: float
    on_partial: Literal["restart", "fail"]


@dataclass(frozen=True)
class Deed:
    """Something that the application does to a stream while it runs."""

    at: float
    what: What
    stream: int
    reader: ReaderKind = "plain"
    after: Literal["live", "start", "seen"] = "live"


@dataclass(frozen=True)
class Case:
    """One case: a server, a manager, tenants, streams, and what is done to them. Times are seconds."""

    seed: int
    number: int
    tls: Literal["", "TLSv1.2", "TLSv1.3"]
    tenants: int
    rough: bool
    """Whether some connections fail before their first request."""
    max_streams: int
    max_event_bytes: int
    idle_timeout: float
    first_event_timeout: float
    linger: float
    streams: tuple[StreamPlan, ...]
    deeds: tuple[Deed, ...]
    stop_at: float | None
    """When the manager is stopped in the middle of everything; `None`: when all streams have ended."""
    drain: float | None
    """Before it is stopped, the manager is drained for so long."""
    hurried: bool
    """Whether threads take turns as often as they can."""
    proxied: bool
    """Whether the server is reached through a proxy, with a password."""

    @property
    def queues(self) -> bool:
        """Whether streams wait for their turn."""
        return self.max_streams < len(self.streams)

    def disturbed(self, stream: int) -> bool:
        """Whether a stream may end otherwise than its answers say."""
        return self.stop_at is not None or any(
            deed.what in ("stop", "kill", "again") and deed.stream == stream for deed in self.deeds
        )


def key_of(case: int, tenant: int) -> str:
    """Return a tenant's API key."""
    return f"AIzaFuzz{case:08d}Tenant{tenant:02d}_" + "KeyOfOneTenantOnly"[: 18 - tenant]


def password_of(case: int) -> str:
    """Return the password for the proxy."""
    return f"ProxyPassword{case:08d}ForFuzz"


def _rng(*parts: object) -> Random:
    return Random("/".join(str(part) for part in parts))


def make_case(seed: int, number: int, *, small: bool = False) -> Case:
    """Return the case; `small`: fewer streams, for a short run."""
    rng = _rng(seed, number)
    tenants = rng.choice([1, 2, 2, 2, 3])
    count = rng.choice([2, 4, 6] if small else [3, 6, 10, 16])
    last = 0.25 if small else 0.5
    streams = tuple(_stream(rng, index, tenants, last) for index in range(count))
    deeds: list[Deed] = []
    for stream in streams:
        for _ in range(rng.choice([0, 0, 0, 1, 2])):
            what: What = rng.choice(["stop", "join", "join", "leave", "kill", "kill", "info", "again"])
            reader: ReaderKind = rng.choice(["plain", "batches", "iterator", "async"])
            at = stream.at + rng.choice([0.0, rng.uniform(0, 0.05), rng.uniform(0, 0.6)])
            deeds.append(Deed(at, what, stream.number, reader, rng.choice(["live", "start", "seen"])))
    if rng.random() < 0.1:
        deeds.append(Deed(rng.uniform(0, 0.5), "kill manager", 0))
    return Case(
        seed=seed,
        number=number,
        tls=rng.choice(["", "", "TLSv1.2", "TLSv1.3", "TLSv1.3"]),
        tenants=tenants,
        rough=rng.random() < 0.15,
        max_streams=rng.choice([50, 50, 50, 3]),
        max_event_bytes=rng.choice([100_000, 200_000, 1 << 20]),
        idle_timeout=0.4,
        first_event_timeout=rng.choice([0.4, 0.6]),
        linger=rng.choice([0.0, 0.3, 2.0]),
        streams=streams,
        deeds=tuple(sorted(deeds, key=lambda deed: deed.at)),
        stop_at=rng.uniform(0, 0.8) if rng.random() < 0.15 else None,
        drain=rng.choice([0.0, 0.1, 1.0]) if rng.random() < 0.15 else None,
        hurried=_rng(seed, number, "hurried").random() < 0.25,
        proxied=_rng(seed, number, "proxied").random() < 0.15,
    )


def _stream(rng: Random, number: int, tenants: int, last: float) -> StreamPlan:
    sound = rng.random() < 0.4
    usage = rng.random() < 0.3
    taste = Taste(
        odd=rng.choice([0.0, 0.0, 0.1, 0.3, 0.6]),
        usage=0.9 if usage else 0.2,
        hops=rng.random() < (0.6 if usage else 0.15),
        sound=sound,
    )
    kinds: list[ReaderKind] = ["plain", "batches", "batches", "slow", "iterator", "async", "dies"]
    first = rng.choice(kinds)
    readers = [ReaderPlan(first, rng.choice([None, None, 0, 1, 5]) if first in ITERATORS else 2)]
    if first not in ITERATORS:
        readers += [
            ReaderPlan(rng.choice(["plain", "batches", "slow"])) for _ in range(rng.choice([0, 0, 1, 2]))
        ]
    return StreamPlan(
        number=number,
        at=rng.uniform(0, last),
        tenant=rng.randrange(tenants),
        taste=taste,
        readers=tuple(readers),
        window=rng.choice([1, 4, 256]),
        overflow=rng.choice(["pause", "pause", "pause", "drop_oldest", "drop_newest", "disconnect"]),
        history=rng.choice([0, 3000, 1 << 20]),
        keep=rng.choice([0.0, 0.0, 0.5]),
        deadline=rng.choice([1.5, 1.5, 0.5]),
        on_partial=rng.choice(["restart", "restart", "restart", "fail"]),
    )


_GREETINGS: list[Greeting] = ["fin", "rst", "silence", "garbage", "cut"]


def greeting_of(case: Case, connection: int) -> Greeting:
    """Return what becomes of a connection before its first request; the first one is 1."""
    rng = _rng(case.seed, case.number, "connection", connection)
    if not case.rough or rng.random() < 0.7:
        return ""
    return rng.choice([*_GREETINGS, "refuse", "refuse"] if case.proxied else _GREETINGS)


def refusal_of(case: Case, connection: int) -> bytes:
    """Return what the proxy says where it refuses a connection."""
    rng = _rng(case.seed, case.number, "refusal", connection)
    said = said_back(rng, password_of(case.number)).encode()
    head = b"HTTP/1.1 407 %s\r\nX-Said: %s\r\nContent-Length: %d\r\n\r\n" % (said, said, len(said))
    return head + said


def answer_to(case: Case, stream: int, request: int, *, bombs: bool = True) -> Answer:
    """Return what the server answers to the stream's request of this number; the first is 0."""
    plan = case.streams[stream]
    taste = plan.taste
    if request >= _WILD:
        taste = Taste(odd=0.0, usage=0.0, hops=False, sound=True)
    return make_answer(
        _rng(case.seed, case.number, stream, request),
        taste,
        Mark(case.number, plan.tenant, stream, request, 0),
        key_of(case.number, plan.tenant),
        case.max_event_bytes,
        may_hop=request < _WILD - 1,
        bombs=bombs,
    )
