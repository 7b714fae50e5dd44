"""What every measured program uses, within its own process: the figures it reports and how it takes them.

A program of `peers/` does a piece of work (`Work`) against the server and returns `Figures`. It is run by
`python -m benchmarks.kit PEER KIND JSON`, in a fresh process on core 0, and prints its figures as one line of JSON.
"""

from __future__ import annotations

import gc
import http.client
import importlib
import json
import os
import resource
import ssl
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

CLIENT_CORE = 0
SERVER_CORE = 1
PROMPT = "Why is the sky blue?"
KEY = "benchmark"


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What to do. Every peer that does the same work gets the same bytes from the server."""

    url: str = ""
    tls: bool = False
    bundle: str = ""
    """With `tls`: the file of certificates that the client verifies the server by."""
    events: int = 20_000
    """A stream."""
    size: int = 200
    """Bytes of text in an event."""
    delay: int = 0
    """Milliseconds between two events."""
    streams: int = 1
    subscribers: int = 1
    """Of one stream (row by row); or shared by all streams."""
    repeat: int = 1
    """How often in this process, after one time that is not counted."""
    history: int = 0
    footprint: bool = False
    """Take the streams' memory in the middle of their time."""
    patience: float = 60.0
    """Seconds to wait beyond the time that the server takes at least."""
    switch_interval: float = 0.005
    """The interpreter's, seconds; Python's default."""
    profile: bool = False

    lists: bool = False
    """`size` bytes of small lists in place of the text."""

    def with_(self, **changes: Any) -> Work:
        """Return this work with some of it changed."""
        return msgspec.structs.replace(self, **changes)

    @property
    def model(self) -> str:
        """The server reads the work in the model's name."""
        return f"bench-n{self.events}-d{self.delay}-s{self.size}{'-lists' if self.lists else ''}"

    @property
    def context(self) -> ssl.SSLContext | None:
        """A new TLS context that verifies the server; `None` without TLS."""
        return ssl.create_default_context(cafile=self.bundle) if self.tls else None

    @property
    def until(self) -> float:
        """Seconds to wait for the end."""
        return self.events * self.delay / 1000 + self.patience

    @property
    def endpoint(self) -> str:
        """Where to POST."""
        return f"{self.url}/v1beta/models/{self.model}:streamGenerateContent?alt=sse"

    @property
    def interaction(self) -> str:
        """Where to GET the stream of an interaction that does the same work."""
        return f"{self.url}/v1beta/interactions/{self.model}?stream=true"

    @property
    def body(self) -> bytes:
        """What to POST: what the others' clients send."""
        return json.dumps({"contents": [{"role": "user", "parts": [{"text": PROMPT}]}]}).encode()


class Sample(msgspec.Struct):
    """One measured repetition."""

    cpu: float
    """Seconds of this process, user and system."""
    wall: float
    events: int
    """Events that a consumer had in hand; deliveries, where there are several consumers."""


class Figures(msgspec.Struct, kw_only=True):
    """What a program reports."""

    samples: list[Sample] = []
    expected: int = 0
    """`events` of each sample, if nothing was lost."""
    values: dict[str, float] = {}
    notes: list[str] = []


class Meter:
    """CPU and wall seconds from its making to `stop`."""

    def __init__(self) -> None:
        gc.collect()
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    def stop(self, events: int = 0) -> Sample:
        """Return what it took; where counting takes time itself, `events` is set on the sample afterwards."""
        cpu = time.process_time() - self._cpu
        return Sample(cpu, time.perf_counter() - self._wall, events)


class Delays:
    """From the server's stamp in an event to a consumer's having it in hand; two appends are all it costs.

    The stamps are CLOCK_MONOTONIC's, so server and client must be one machine.
    """

    settled_after: float = 2.0
    """Seconds from the start: what was sent later counts for `p99_ms`; opening the connections is over by then."""

    def __init__(self) -> None:
        self.sent: array[int] = array("q")
        self.seen: array[int] = array("q")
        self._sent = self.sent.append
        self._seen = self.seen.append
        self._now = time.monotonic_ns
        self._start = time.monotonic_ns()

    def see(self, data: dict[str, Any]) -> None:
        self._sent(data["usageMetadata"]["t_ns"])
        self._seen(self._now())

    @property
    def count(self) -> int:
        return len(self.seen)

    def restart(self) -> None:
        """Forget all; everything from here on counts."""
        del self.sent[:], self.seen[:]
        self._start = 0

    def values(self) -> dict[str, float]:
        after = self._start + int(self.settled_after * 1e9)
        pairs = list(zip(self.sent, self.seen, strict=False))
        everything = sorted(seen - sent for sent, seen in pairs)
        settled = sorted(seen - sent for sent, seen in pairs if sent >= after)
        if not settled:
            return {}
        return {
            "p50_ms": settled[len(settled) // 2] / 1e6,
            "p99_ms": settled[len(settled) * 99 // 100] / 1e6,
            "max_ms": settled[-1] / 1e6,
            "p99_with_start_ms": everything[len(everything) * 99 // 100] / 1e6,
        }


class Opened:
    """How many connections the server has taken, asked over one that is there before."""

    def __init__(self, work: Work) -> None:
        host = work.url.partition("//")[2]
        context = work.context
        self._http = (
            http.client.HTTPConnection(host)
            if context is None
            else http.client.HTTPSConnection(host, context=context)
        )
        self.before = self.now()

    def now(self) -> int:
        self._http.request("GET", "/conns")
        return int(self._http.getresponse().read())

    def values(self) -> dict[str, float]:
        return {"new_connections": self.now() - self.before}


class Loads:
    """How often certificates were loaded into a TLS context since this was made."""

    def __init__(self) -> None:
        self.count = 0
        load: Any = ssl.SSLContext.load_verify_locations

        def counted(context: ssl.SSLContext, *args: Any, **kwargs: Any) -> None:
            self.count += 1
            load(context, *args, **kwargs)

        ssl.SSLContext.load_verify_locations = counted  # type: ignore[method-assign, assignment]

    def values(self) -> dict[str, float]:
        return {"loads_of_the_bundle": self.count}


class Countdown:
    """Set when so many consumers have their last message."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._lock = threading.Lock()
        self._done = threading.Event()
        self.failed: list[str] = []

    def done(self, failure: str | None = None) -> None:
        with self._lock:
            if failure is not None and len(self.failed) < 10:
                self.failed.append(failure)
            self._left -= 1
            if self._left == 0:
                self._done.set()

    def wait(self, seconds: float) -> bool:
        return self._done.wait(seconds)

    @property
    def left(self) -> int:
        return self._left


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def descriptors() -> int:
    """How many this process has open."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        if os.path.isdir(folder):
            return len(os.listdir(folder)) - 1
    return 0


def system_threads() -> int:
    """How many threads the system counts in this process."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def maps() -> int:
    """How many memory maps this process has."""
    try:
        with open("/proc/self/maps", encoding="ascii") as lines:
            return sum(1 for _ in lines)
    except OSError:
        return 0


class Footprint:
    """Memory, threads, descriptors: what a number of streams takes over what was there before them."""

    def __init__(self) -> None:
        self._before = (resident(), system_threads(), descriptors(), maps())

    def values(self, streams: int) -> dict[str, float]:
        now = (resident(), system_threads(), descriptors(), maps())
        memory, threads, files, mapped = (b - a for a, b in zip(self._before, now, strict=True))
        return {
            "kib_per_stream": memory / 1024 / streams,
            "threads": threads,
            "descriptors": files,
            "maps": mapped,
        }


@contextmanager
def profiled(*, on: bool) -> Iterator[None]:
    """Print what the calling thread spends, function by function."""
    if not on:
        yield
        return
    import cProfile
    import pstats

    profile = cProfile.Profile(time.thread_time)
    profile.enable()
    try:
        yield
    finally:
        profile.disable()
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(25)


def finish(
    work: Work, ended: Countdown, delays: Delays, meter: Meter, footprint: Footprint | None
) -> Figures:
    """Wait for the end of many streams; tell what they took."""
    values: dict[str, float] = {}
    if footprint is not None:
        ended.wait(work.events * work.delay / 2000)
        values = footprint.values(work.streams)
    ended.wait(work.until)
    sample = meter.stop(delays.count)
    return Figures(
        expected=work.events * work.streams,
        samples=[sample],
        values=delays.values() | values,
        notes=ended.failed,
    )


def pin(core: int) -> bool:
    """Bind this process to one core; False where the system cannot, or has no such core."""
    try:
        os.sched_setaffinity(0, {core})
    except (AttributeError, OSError, ValueError):
        return False
    return True


def raise_limits() -> None:
    """Allow as many descriptors as the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 65536, hard))


def main() -> None:
    name, kind, text = sys.argv[1:]
    pin(CLIENT_CORE)
    raise_limits()
    work = msgspec.json.decode(text.encode(), type=Work)
    sys.setswitchinterval(work.switch_interval)
    peer = importlib.import_module(f"benchmarks.peers.{name}")
    program: Callable[[Work], Figures] = getattr(peer, kind)
    figures = program(work)
    sys.stdout.write(msgspec.json.encode(figures).decode() + "\n")
    sys.stdout.flush()
    os._exit(0)  # nothing of a program's ending is measured, and thousands of threads take their time


if __name__ == "__main__":
    main()
