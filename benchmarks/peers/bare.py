"""No actors: requests with `raw.stream(None)`, a split at blank lines, orjson. In one thread, or in one a stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import orjson
import requests
import requests.adapters

from benchmarks.kit import (
    KEY,
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

HEADERS = {"Content-Type": "application/json", "x-goog-api-key": KEY}

Handle = Callable[[Any], None]


class OneContext(requests.adapters.HTTPAdapter):
    """All connections share one TLS context: requests itself would load its certificates for each of them."""

    def __init__(self, work: Work) -> None:
        self.context = work.context
        super().__init__(pool_maxsize=max(work.streams, 1))

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self.context, **kwargs)

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing: the context verifies."""


def session(work: Work) -> requests.Session:
    made = requests.Session()
    made.trust_env = False
    for scheme in ("http://", "https://"):
        made.mount(scheme, OneContext(work))
    return made


def answer_of(http: requests.Session, work: Work) -> requests.Response:
    answer = http.post(work.endpoint, data=work.body, headers=HEADERS, stream=True)
    answer.raise_for_status()
    return answer


def count(http: requests.Session, work: Work) -> int:
    """The bare loop: as little as Python can do for an event. Returns how many there were."""
    loads = orjson.loads
    number = 0
    rest = b""
    event: Any = None
    with answer_of(http, work) as answer:
        for piece in answer.raw.stream(None):
            *whole, rest = (rest + piece).split(b"\r\n\r\n")
            for payload in whole:
                event = loads(payload[6:])
                number += 1
    if rest or event["candidates"][0]["finishReason"] != "STOP":
        raise ValueError("the answer is not whole")
    return number


def handle_all(http: requests.Session, work: Work, handle: Handle) -> None:
    """The same loop, giving each event to `handle`."""
    loads = orjson.loads
    rest = b""
    with answer_of(http, work) as answer:
        for piece in answer.raw.stream(None):
            *whole, rest = (rest + piece).split(b"\r\n\r\n")
            for payload in whole:
                handle(loads(payload[6:]))
    if rest:
        raise ValueError("the answer is not whole")


def one(work: Work) -> Figures:
    figures = Figures(expected=work.events)
    http = session(work)
    for number in range(work.repeat + 1):
        meter = Meter()
        with profiled(on=work.profile and number == work.repeat):
            sample = meter.stop(count(http, work))
        if number:
            figures.samples.append(sample)
    return figures


def interaction(work: Work) -> Figures:
    """The bare loop on an interaction's stream: the last line of each event is its data."""
    loads = orjson.loads
    figures = Figures(expected=work.events + 4)
    http = session(work)
    for number in range(work.repeat + 1):
        meter = Meter()
        counted, rest = 0, b""
        event: Any = None
        with http.get(work.interaction, headers=HEADERS, stream=True) as answer:
            answer.raise_for_status()
            for piece in answer.raw.stream(None):
                *whole, rest = (rest + piece).split(b"\r\n\r\n")
                for lines in whole:
                    event = loads(lines.rpartition(b"\ndata: ")[2])
                    counted += 1
        sample = meter.stop(counted)
        if rest or event["interaction"]["status"] != "completed":
            raise ValueError("the answer is not whole")
        if number:
            figures.samples.append(sample)
    return figures


def short(work: Work) -> Figures:
    http = session(work)
    count(http, work)
    opened = Opened(work)
    meter = Meter()
    sample = meter.stop(sum(count(http, work) for _ in range(work.streams)))
    return Figures(expected=work.events * work.streams, samples=[sample], values=opened.values())


class Reader(threading.Thread):
    """One plain thread that reads one stream and handles its events."""

    def __init__(self, http: requests.Session, work: Work, ended: Countdown, handle: Handle) -> None:
        super().__init__(daemon=True)
        self.http = http
        self.work = work
        self.ended = ended
        self.handle = handle

    def run(self) -> None:
        failure = None
        try:
            handle_all(self.http, self.work, self.handle)
        except Exception as error:
            failure = repr(error)
        self.ended.done(failure)


def many(work: Work) -> Figures:
    """One plain thread a stream."""
    http = session(work)
    count(http, work.with_(events=3, delay=0))
    delays = Delays()
    ended = Countdown(work.streams)
    footprint = Footprint() if work.footprint else None
    meter = Meter()
    for _ in range(work.streams):
        Reader(http, work, ended, delays.see).start()
    return finish(work, ended, delays, meter, footprint)


def memory(work: Work) -> Figures:
    http = session(work)
    ended = Countdown(work.streams)
    handled = [0] * work.streams

    def counter(index: int) -> Handle:
        def handle(_event: Any) -> None:
            handled[index] += 1

        return handle

    handles = [counter(index) for index in range(work.streams)]
    count(http, work.with_(events=3, delay=0))
    footprint = Footprint()
    for handle in handles:
        Reader(http, work, ended, handle).start()
    wait_until(lambda: min(handled) >= 3)
    return Figures(values=footprint.values(work.streams), notes=ended.failed)


def connections(work: Work) -> Figures:
    """Short streams one after another, each on a new connection, as requests makes them."""
    http = requests.Session()
    http.trust_env = False
    http.verify = work.bundle or True
    loads = Loads()
    for streams in (1, work.streams):
        meter = Meter()
        for _ in range(streams):
            http.post(work.endpoint, data=work.body, headers=HEADERS).raise_for_status()
            http.close()  # its connections; the session goes on
        sample = meter.stop(work.events * streams)
    return Figures(expected=work.events * work.streams, samples=[sample], values=loads.values())


def wait_until(done: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            raise TimeoutError("the streams did not come up")
        time.sleep(0.05)
