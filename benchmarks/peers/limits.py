"""How many streams one process carries, and what happens where something runs out. Ours alone."""

from __future__ import annotations

import re
import resource
import time
from collections import Counter as Count

from benchmarks.kit import PROMPT, Countdown, Delays, Figures, Footprint, Work, system_threads
from benchmarks.peers.bare import wait_until
from benchmarks.peers.ours import Counter, Timed, start_manager
from gemini_streams import (
    ManagerRef,
    MaxStreamsExceededError,
    StartStream,
    StreamComplete,
    StreamError,
    StreamStopped,
)

PAUSE = 10.0


class Ends(Counter):
    """Keeps what it is told at the end."""

    def __init__(self, ended: Countdown) -> None:
        super().__init__(ended)
        self.ends: Count[str] = Count()

    def on_stream_complete(self, message: StreamComplete) -> None:
        self.ends["completed"] += 1
        self.ended.done()

    def on_stream_error(self, message: StreamError) -> None:
        self.ends[re.sub(r"urn:[\w:-]+", "...", f"{type(message.error).__name__}: {message.error}")] += 1
        self.ended.done()

    def on_stream_stopped(self, message: StreamStopped) -> None:
        self.ends["stopped"] += 1
        self.ended.done()


def hold(work: Work) -> Figures:
    """Start `streams`, hold them for ten seconds, end them; `subscribers` shared actors, or one each where it is 0."""
    ended = Countdown(work.streams)
    delays = Delays()
    manager = start_manager(work)
    refs = [Timed.start(ended, delays) for _ in range(work.subscribers or work.streams)]
    footprint = Footprint()
    began, cpu = time.monotonic(), time.process_time()
    for index in range(work.streams):
        manager.tell(StartStream(PROMPT, subscriber=refs[index % len(refs)]))
    wait_until(lambda: manager.get_stats().streams_by_status.get("active", 0) >= work.streams, seconds=120.0)
    values = {"start_s": time.monotonic() - began, "start_cpu_s": time.process_time() - cpu}
    time.sleep(2.0)
    delays.restart()
    cpu = time.process_time()
    time.sleep(PAUSE)
    values["cpu_percent"] = (time.process_time() - cpu) / PAUSE * 100
    values["events_a_second"] = delays.count / PAUSE
    values |= delays.values()
    values |= footprint.values(work.streams)
    values["ended_early"] = work.streams - ended.left
    began, cpu = time.monotonic(), time.process_time()
    manager.stop(timeout=120)
    values |= {"stop_s": time.monotonic() - began, "stop_cpu_s": time.process_time() - cpu}
    values["last_messages"] = work.streams - ended.left
    return Figures(values=values)


def start_all(manager: ManagerRef, work: Work) -> Figures:
    """Start `streams` and tell how each of them ended."""
    ended = Countdown(work.streams)
    subscriber = Ends.start(ended)
    refused: Count[str] = Count()
    for _ in range(work.streams):
        try:
            manager.ask(StartStream(PROMPT, subscriber=subscriber))
        except MaxStreamsExceededError as refusal:
            refused[f"at the ask, {type(refusal).__name__}: {refusal}"] += 1
            ended.done()
    ended.wait(work.until)
    ends = subscriber.proxy().ends.get() + refused
    return Figures(
        values={"told": float(ends.total()), "of": float(work.streams)},
        notes=[f"{count:,} × {end}" for end, count in ends.most_common(4)],
    )


def few_descriptors(work: Work) -> Figures:
    """A soft limit of 300 descriptors."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    manager = start_manager(work)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    return start_all(manager, work)


def few_threads(work: Work) -> Figures:
    """Address space for a hundred threads or so."""
    manager = start_manager(work)
    with open("/proc/self/statm", encoding="ascii") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    stack, _hard = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_AS, (now + 100 * (stack + 8192) + (256 << 20), resource.RLIM_INFINITY))
    figures = start_all(manager, work)
    figures.values["threads_after"] = system_threads()
    return figures


def too_many(work: Work) -> Figures:
    """Half of them allowed."""
    half = Work(**{**{f: getattr(work, f) for f in work.__struct_fields__}, "streams": work.streams // 2})
    return start_all(start_manager(half), work)
