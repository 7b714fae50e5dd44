"""Pykka without further ado: an actor reads one stream in its `on_receive` and tells each event to its subscribers.

What most people would write first. No sequence, no flow control, no stop, no supervision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pykka
import requests

from benchmarks.kit import Countdown, Delays, Figures, Footprint, Meter, Opened, Work, finish
from benchmarks.peers.bare import count, handle_all, session, wait_until

Ref = pykka.ActorRef[Any]


@dataclass(frozen=True)
class Event:
    stream_id: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Done:
    stream_id: str
    failure: str | None


class Stream(pykka.ThreadingActor):
    use_daemon_thread = True

    def __init__(self, http: requests.Session, work: Work, subscribers: list[Ref]) -> None:
        super().__init__()
        self.http = http
        self.work = work
        self.subscribers = subscribers

    def on_receive(self, message: Any) -> None:
        failure = None

        def handle(data: dict[str, Any]) -> None:
            event = Event(self.actor_urn, data)
            for subscriber in self.subscribers:
                subscriber.tell(event)

        try:
            handle_all(self.http, self.work, handle)
        except Exception as error:
            failure = repr(error)
        for subscriber in self.subscribers:
            subscriber.tell(Done(self.actor_urn, failure))
        self.stop()


class Counter(pykka.ThreadingActor):
    use_daemon_thread = True

    def __init__(self, ended: Countdown, delays: Delays | None = None) -> None:
        super().__init__()
        self.ended = ended
        self.delays = delays
        self.count = 0

    def on_receive(self, message: Any) -> None:
        if isinstance(message, Event):
            self.count += 1
            if self.delays is not None:
                self.delays.see(message.data)
        else:
            self.ended.done(message.failure)


def one(work: Work) -> Figures:
    figures = Figures(expected=work.events * work.subscribers)
    http = session(work)
    for number in range(work.repeat + 1):
        ended = Countdown(work.subscribers)
        refs: list[Ref] = [Counter.start(ended) for _ in range(work.subscribers)]
        meter = Meter()
        Stream.start(http, work, refs).tell("go")
        ended.wait(work.until)
        sample = meter.stop()
        sample.events = sum(ref.proxy().count.get() for ref in refs)
        figures.notes += ended.failed
        if number:
            figures.samples.append(sample)
        for ref in refs:
            ref.stop()
    return figures


def many(work: Work) -> Figures:
    http = session(work)
    delays = Delays()
    ended = Countdown(work.streams)
    refs: list[Ref] = [Counter.start(ended, delays) for _ in range(work.subscribers or work.streams)]
    footprint = Footprint() if work.footprint else None
    meter = Meter()
    for index in range(work.streams):
        Stream.start(http, work, [refs[index % len(refs)]]).tell("go")
    return finish(work, ended, delays, meter, footprint)


def short(work: Work) -> Figures:
    http = session(work)
    counts: list[int] = []
    opened = Opened(work)
    for streams in (1, work.streams):
        opened = Opened(work)
        meter = Meter()
        for _ in range(streams):
            ended = Countdown(1)
            ref: Ref = Counter.start(ended)
            Stream.start(http, work, [ref]).tell("go")
            ended.wait(work.until)
            counts.append(ref.proxy().count.get())
            ref.stop()
        sample = meter.stop(sum(counts[-streams:]))
    return Figures(expected=work.events * work.streams, samples=[sample], values=opened.values())


def memory(work: Work) -> Figures:
    http = session(work)
    ended = Countdown(work.streams)
    refs: list[Ref] = [Counter.start(ended) for _ in range(10)]
    count(http, Work(url=work.url, events=3))
    footprint = Footprint()
    for index in range(work.streams):
        Stream.start(http, work, [refs[index % len(refs)]]).tell("go")
    wait_until(lambda: sum(ref.proxy().count.get() for ref in refs) >= 5 * work.streams)
    return Figures(values=footprint.values(work.streams))
