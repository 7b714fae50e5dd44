"""How long others wait while one stream has something large, or hangs.

"Held" is the longest time for which another thread of the process did not get the interpreter. "Late" is the longest
delay of an event of ten other streams. Both are medians over the repetitions.
"""

from __future__ import annotations

import base64
import gc
import os
import socket
import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import msgspec

from benchmarks.kit import PROMPT, Countdown, Delays, Figures, Work
from benchmarks.peers.ours import Counter, Timed, start_manager
from gemini_streams import Gemini, ManagerRef, RetryPolicy, StreamEvent

PAUSE = 0.0005
OTHERS = 10


class Ticks(threading.Thread):
    """Another thread, which wants the interpreter again and again."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.longest = 0.0

    def run(self) -> None:
        last = time.perf_counter()
        while True:
            time.sleep(PAUSE)
            now = time.perf_counter()
            self.longest = max(self.longest, now - last - PAUSE)
            last = now


class Bystanders:
    """Ten streams of an event each 20 ms, and a thread that ticks."""

    def __init__(self, manager: ManagerRef, repeat: int) -> None:
        self.delays = Delays()
        self.ticks = Ticks()
        subscriber = Timed.start(Countdown(OTHERS), self.delays)
        for _ in range(OTHERS):
            manager.start_stream(PROMPT, subscriber=subscriber, model=f"bench-n{250 * (repeat + 4)}-d20-s200")
        time.sleep(1.0)
        self.ticks.start()

    def during(self, work: Callable[[], Any]) -> tuple[float, float]:
        """Milliseconds that the interpreter was held for, and the latest event's delay."""
        gc.collect()
        time.sleep(0.2)
        self.delays.restart()
        self.ticks.longest = 0.0
        work()
        time.sleep(0.1)
        return self.ticks.longest * 1e3, self.delays.values().get("max_ms", 0.0)


def told(figures: Figures, bystanders: Bystanders, repeat: int, works: dict[str, Callable[[], Any]]) -> None:
    """Note what each piece of work made the bystanders wait."""
    works = {"idle": lambda: time.sleep(0.5), **works}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for number in range(repeat + 1):
        for name, work in works.items():  # by turns: what disturbs one disturbs the other
            waited = bystanders.during(work)
            if number:
                found[name].append(waited)
    for name, waits in found.items():
        held, late = zip(*waits, strict=True)
        figures.values[f"{name}: held ms"] = median(held)
        figures.values[f"{name}: late ms"] = median(late)


def one_stream(manager: ManagerRef, work: Work, contents: Any, **options: Any) -> None:
    ended = Countdown(1)
    subscriber = Counter.start(ended)
    manager.start_stream(contents, subscriber=subscriber, **options)
    if not ended.wait(work.patience):
        raise TimeoutError("a stream did not end")
    subscriber.stop()
    if ended.failed:
        raise RuntimeError(ended.failed[0])


def picture(work: Work) -> Figures:
    """A request with a picture of `size` bytes; beside it, the same made at once."""
    figures = Figures()
    data = os.urandom(work.size)
    contents = [PROMPT, {"inline_data": {"data": data, "mime_type": "image/png"}}]
    manager = start_manager(work.with_(streams=OTHERS + 5, events=3))
    bystanders = Bystanders(manager, work.repeat)

    def at_once() -> bytes:
        return msgspec.json.encode({"data": base64.urlsafe_b64encode(data).decode("ascii")})

    def ours() -> None:
        one_stream(manager, work, contents, model="bench-n3-d0-s200")

    told(figures, bystanders, work.repeat, {"picture": ours, "encoded at once": at_once})
    return figures


def event(work: Work) -> Figures:
    """An event of `size` bytes; beside it, our decoder alone with the collector off."""
    figures = Figures()
    manager = start_manager(work.with_(streams=OTHERS + 5))
    bystanders = Bystanders(manager, work.repeat)
    payload = msgspec.json.encode({"candidates": [{"index": 0}], "lists": [[1]] * (work.size // 4)})
    decode = msgspec.json.Decoder().decode

    def alone() -> None:
        gc.disable()
        value = decode(payload)
        gc.enable()
        time.sleep(0.05)  # to free it is not its decoding
        del value

    told(
        figures,
        bystanders,
        work.repeat,
        {"event": lambda: one_stream(manager, work, PROMPT), "decoder alone": alone},
    )
    return figures


class First(Counter):
    """Notes when its first event comes."""

    def __init__(self, ended: Countdown) -> None:
        super().__init__(ended)
        self.at = 0.0

    def on_stream_event(self, event: StreamEvent) -> None:
        self.at = self.at or time.perf_counter()


def blackhole(work: Work) -> Figures:
    """`streams` of one tenant to an address that swallows connects; then another tenant's, `repeat` times."""
    hole = socket.socket()
    hole.bind(("127.0.0.1", 0))
    hole.listen(0)
    held = []
    for _ in range(4):
        full = socket.socket()
        full.setblocking(False)
        full.connect_ex(hole.getsockname())
        held.append(full)
    time.sleep(0.2)
    manager = start_manager(
        work.with_(streams=work.streams + 10), retry=RetryPolicy(attempts=1), connect_timeout=30.0
    )
    nowhere = Gemini(api_key="another", base_url=f"http://127.0.0.1:{hole.getsockname()[1]}")

    def start() -> float:
        ended = Countdown(1)
        ref = First.start(ended)
        began = time.perf_counter()
        manager.start_stream(PROMPT, subscriber=ref)
        ended.wait(work.patience)
        took: float = (ref.proxy().at.get() - began) * 1e3
        ref.stop()
        return took

    start()
    alone = median(start() for _ in range(work.repeat))
    lost = Counter.start(Countdown(work.streams))
    for _ in range(work.streams):
        manager.start_stream(PROMPT, subscriber=lost, endpoint=nowhere)
    behind = [start() for _ in range(work.repeat)]
    return Figures(
        values={
            "alone ms": alone,
            "first behind ms": behind[0],
            "behind median ms": median(behind),
            "behind most ms": max(behind),
        }
    )
