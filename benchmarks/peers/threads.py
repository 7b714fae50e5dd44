"""Plain threads, two a stream: a reader with the bare loop, a queue, a consumer."""

from __future__ import annotations

import queue
import threading
from typing import Any

import requests

from benchmarks.kit import Countdown, Delays, Figures, Footprint, Meter, Work, finish
from benchmarks.peers.bare import count, handle_all, session


class Consumer(threading.Thread):
    def __init__(self, ended: Countdown, delays: Delays) -> None:
        super().__init__(daemon=True)
        self.queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.ended = ended
        self.delays = delays

    def run(self) -> None:
        get = self.queue.get
        see = self.delays.see
        while True:
            event = get()
            if type(event) is not dict:
                self.ended.done(event)
                return
            see(event)


class Reader(threading.Thread):
    def __init__(self, http: requests.Session, work: Work, into: queue.SimpleQueue[Any]) -> None:
        super().__init__(daemon=True)
        self.http = http
        self.work = work
        self.into = into

    def run(self) -> None:
        put = self.into.put
        failure = None
        try:
            handle_all(self.http, self.work, put)
        except Exception as error:
            failure = repr(error)
        put(failure)


def many(work: Work) -> Figures:
    http = session(work)
    count(http, work.with_(events=3, delay=0))
    delays = Delays()
    ended = Countdown(work.streams)
    footprint = Footprint() if work.footprint else None
    meter = Meter()
    for _ in range(work.streams):
        consumer = Consumer(ended, delays)
        consumer.start()
        Reader(http, work, consumer.queue).start()
    return finish(work, ended, delays, meter, footprint)
