"""gemini_streams, with `SubscriberActor`s and with a plain `pykka.ThreadingActor`."""

from __future__ import annotations

from typing import Any

import pykka

from benchmarks.kit import (
    PROMPT,
    Countdown,
    Delays,
    Figures,
    Footprint,
    Loads,
    Meter,
    Opened,
    Work,
    finish,
    profiled,
)
from benchmarks.peers.bare import wait_until
from gemini_streams import (
    Gemini,
    ManagerActor,
    ManagerRef,
    StartInteraction,
    StartStream,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamStopped,
    SubscriberActor,
)
from gemini_streams.streams.actor import StreamActor


class Counter(SubscriberActor):
    """Counts; the fast path."""

    def __init__(self, ended: Countdown) -> None:
        super().__init__()
        self.ended = ended
        self.count = 0

    def on_stream_event(self, event: StreamEvent) -> None:
        self.count += 1

    def on_stream_complete(self, message: StreamComplete) -> None:
        self.ended.done(None if message.ok else repr(message))

    def on_stream_error(self, message: StreamError) -> None:
        self.ended.done(repr(message))

    def on_stream_stopped(self, message: StreamStopped) -> None:
        self.ended.done(repr(message))


class PlainCounter(pykka.ThreadingActor):
    """Counts; any Pykka actor."""

    def __init__(self, ended: Countdown) -> None:
        super().__init__()
        self.ended = ended
        self.count = 0

    def on_receive(self, message: Any) -> None:
        if type(message) is StreamEvent:
            self.count += 1
        else:
            self.ended.done(None if isinstance(message, StreamComplete) and message.ok else repr(message))


class Timed(SubscriberActor):
    """Notes each event's delay."""

    def __init__(self, ended: Countdown, delays: Delays) -> None:
        super().__init__()
        self.ended = ended
        self.see = delays.see

    def on_stream_event(self, event: StreamEvent) -> None:
        self.see(event.data)

    def on_stream_complete(self, message: StreamComplete) -> None:
        self.ended.done(None if message.ok else repr(message))

    def on_stream_error(self, message: StreamError) -> None:
        self.ended.done(repr(message))

    def on_stream_stopped(self, message: StreamStopped) -> None:
        self.ended.done(repr(message))


def endpoint(work: Work, key: str = "benchmark") -> Gemini:
    return Gemini(api_key=key, base_url=work.url, verify=work.bundle or True)


def start_manager(work: Work, **options: Any) -> ManagerRef:
    return ManagerActor.start(
        endpoint=endpoint(work),
        max_streams=max(work.streams, 10),
        model=work.model,
        history=work.history,
        **{"connect_timeout": work.patience, **options},  # the other programs wait for ever
    )


def one(work: Work, counter: type[Counter | PlainCounter] = Counter) -> Figures:
    figures = Figures(expected=work.events * work.subscribers)
    manager = start_manager(work)
    if work.profile:
        profile_stream_thread()
    for number in range(work.repeat + 1):
        ended = Countdown(work.subscribers)
        refs: list[pykka.ActorRef[Any]] = [counter.start(ended) for _ in range(work.subscribers)]
        meter = Meter()
        manager.ask(StartStream(PROMPT, subscriber=refs))
        ended.wait(work.until)
        sample = meter.stop()
        sample.events = sum(ref.proxy().count.get() for ref in refs)
        figures.notes += ended.failed
        if number:
            figures.samples.append(sample)
        for ref in refs:
            ref.stop()
    return figures


def interaction(work: Work) -> Figures:
    """The same with an interaction: one event for its beginning, its step's, its step's end, its end."""
    figures = Figures(expected=work.events + 4)
    manager = start_manager(work)
    if work.profile:
        profile_stream_thread()
    for number in range(work.repeat + 1):
        ended = Countdown(1)
        ref = Counter.start(ended)
        meter = Meter()
        manager.ask(StartInteraction(PROMPT, subscriber=ref))
        ended.wait(work.until)
        sample = meter.stop()
        sample.events = ref.proxy().count.get()
        figures.notes += ended.failed
        if number:
            figures.samples.append(sample)
        ref.stop()
    return figures


def plain(work: Work) -> Figures:
    return one(work, PlainCounter)


def profile_stream_thread() -> None:
    stream = StreamActor._stream

    def _stream(self: StreamActor, feed: Any) -> None:
        with profiled(on=True):
            stream(self, feed)

    StreamActor._stream = _stream  # type: ignore[method-assign]


class Chain(SubscriberActor):
    """Starts the next stream as soon as it has the last message of the one before."""

    def __init__(self, manager: ManagerRef, streams: int, ended: Countdown) -> None:
        super().__init__()
        self.manager = manager
        self.left = streams
        self.ended = ended
        self.count = 0

    def begin(self) -> None:
        self.left -= 1
        self.manager.tell(StartStream(PROMPT, subscriber=self.actor_ref))

    def on_stream_event(self, event: StreamEvent) -> None:
        self.count += 1

    def on_stream_complete(self, message: StreamComplete) -> None:
        if self.left:
            self.begin()
        else:
            self.ended.done()

    def on_stream_error(self, message: StreamError) -> None:
        self.ended.done(repr(message))


def short(work: Work) -> Figures:
    manager = start_manager(work)
    opened = Opened(work)
    for streams in (1, work.streams):
        ended = Countdown(1)
        chain = Chain.start(manager, streams, ended).proxy()
        opened = Opened(work)
        meter = Meter()
        chain.begin()
        ended.wait(work.until)
        sample = meter.stop()
        sample.events = chain.count.get()
    return Figures(
        expected=work.events * work.streams, samples=[sample], values=opened.values(), notes=ended.failed
    )


def warm(manager: ManagerRef) -> None:
    """Make a first stream: what is done once for a process is not counted."""
    ended = Countdown(1)
    ref = Counter.start(ended)
    manager.ask(StartStream(PROMPT, subscriber=ref, model="bench-n3-d0-s200"))
    ended.wait(30)
    ref.stop()


def many(work: Work) -> Figures:
    """`subscribers` actors shared by all streams, or one a stream where it is 0."""
    manager = start_manager(work)
    warm(manager)
    delays = Delays()
    ended = Countdown(work.streams)
    refs = [Timed.start(ended, delays) for _ in range(work.subscribers or work.streams)]
    footprint = Footprint() if work.footprint else None
    meter = Meter()
    for index in range(work.streams):
        manager.tell(StartStream(PROMPT, subscriber=refs[index % len(refs)]))
    return finish(work, ended, delays, meter, footprint)


def started(work: Work) -> Figures:
    """Streams at once until the head of the last answer has come."""
    manager = start_manager(work)
    warm(manager)
    refs = [Counter.start(Countdown(work.streams)) for _ in range(work.subscribers)]
    meter = Meter()
    for index in range(work.streams):
        manager.tell(StartStream(PROMPT, subscriber=refs[index % len(refs)]))
    wait_until(
        lambda: manager.get_stats().streams_by_status.get("active", 0) >= work.streams, seconds=work.patience
    )
    return Figures(expected=work.streams, samples=[meter.stop(work.streams)])


def connections(work: Work) -> Figures:
    """Short streams one after another, each on a new connection: each of a tenant of its own."""
    loads = Loads()
    manager = start_manager(work)
    sample = Meter().stop()
    for streams in (1, work.streams):
        endpoints = [endpoint(work, f"tenant-{number}-of-{streams}") for number in range(streams)]
        ref = Counter.start(Countdown(1))
        counter: Any = ref.proxy()
        meter = Meter()
        for each in endpoints:
            ended = Countdown(1)
            counter.ended = ended
            manager.ask(StartStream(PROMPT, subscriber=ref, endpoint=each))
            ended.wait(30)
        sample = meter.stop()
        sample.events = counter.count.get()
    return Figures(expected=work.events * work.streams, samples=[sample], values=loads.values())


def memory(work: Work) -> Figures:
    ended = Countdown(work.streams)
    manager = start_manager(work)
    refs = [Counter.start(ended) for _ in range(10)]
    warm(manager)
    footprint = Footprint()
    ids = [manager.start_stream(PROMPT, subscriber=refs[index % 10]) for index in range(work.streams)]
    wait_until(lambda: all(manager.get_stream_info(stream_id).events_count >= 3 for stream_id in ids))
    return Figures(values=footprint.values(work.streams), notes=ended.failed)
