"""google-genai: its real client against the same server, the iterator of each stream in a thread."""

from __future__ import annotations

import threading
import warnings
from typing import Any

from google import genai
from google.genai import types

from benchmarks.kit import KEY, PROMPT, Countdown, Delays, Figures, Footprint, Meter, Opened, Work
from benchmarks.peers.bare import wait_until

warnings.simplefilter("ignore")

NO_STAMP = {"usageMetadata": {"t_ns": 0}}


def client(work: Work) -> genai.Client:
    options: dict[str, Any] = {"base_url": work.url}
    if work.streams > 100:  # httpx's pool gives out a hundred connections otherwise, and the rest waits
        import httpx2

        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        options["client_args"] = {"limits": limits}
    return genai.Client(api_key=KEY, http_options=types.HttpOptions(**options))


def consume(made: genai.Client, work: Work) -> int:
    count = 0
    for _ in made.models.generate_content_stream(model=work.model, contents=PROMPT):
        count += 1
    return count


def one(work: Work) -> Figures:
    figures = Figures(expected=work.events)
    made = client(work)
    consume(made, Work(url=work.url, events=50))
    for _ in range(work.repeat):
        meter = Meter()
        figures.samples.append(meter.stop(consume(made, work)))
    return figures


def short(work: Work) -> Figures:
    made = client(work)
    consume(made, work)
    opened = Opened(work)
    meter = Meter()
    sample = meter.stop(sum(consume(made, work) for _ in range(work.streams)))
    return Figures(expected=work.events * work.streams, samples=[sample], values=opened.values())


def many(work: Work) -> Figures:
    """One thread a stream, as its users do it."""
    made = client(work)
    consume(made, Work(url=work.url, events=50))
    delays = Delays()
    ended = Countdown(work.streams)

    def arrived(_answer: types.GenerateContentResponse) -> None:
        delays.see(NO_STAMP)  # it drops fields that it does not know, the server's stamp among them

    def read() -> None:
        failure = None
        try:
            for answer in made.models.generate_content_stream(model=work.model, contents=PROMPT):
                arrived(answer)
        except Exception as error:
            failure = repr(error)
        ended.done(failure)

    meter = Meter()
    for _ in range(work.streams):
        threading.Thread(target=read, daemon=True).start()
    ended.wait(work.until)
    sample = meter.stop(delays.count)
    return Figures(expected=work.events * work.streams, samples=[sample], notes=ended.failed)


def memory(work: Work) -> Figures:
    made = client(work)
    consume(made, Work(url=work.url, events=50))
    handled = [0] * work.streams

    def read(index: int) -> None:
        for _ in made.models.generate_content_stream(model=work.model, contents=PROMPT):
            handled[index] += 1

    footprint = Footprint()
    for index in range(work.streams):
        threading.Thread(target=read, args=(index,), daemon=True).start()
    wait_until(lambda: min(handled) >= 3)
    return Figures(values=footprint.values(work.streams))
