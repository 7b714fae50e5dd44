"""aiohttp: one thread, a task a stream, the bare loop's split and decoding."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import orjson

from benchmarks.kit import KEY, Delays, Figures, Footprint, Meter, Sample, Work

HEADERS = {"Content-Type": "application/json", "x-goog-api-key": KEY}


def session(work: Work, *, keep: bool = True) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0, ssl=work.context or False, force_close=not keep)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))


async def read(
    http: aiohttp.ClientSession,
    work: Work,
    handle: Callable[[Any], None],
    begun: Callable[[], None] = lambda: None,
) -> None:
    loads = orjson.loads
    rest = b""
    async with http.post(work.endpoint, data=work.body, headers=HEADERS) as answer:
        answer.raise_for_status()
        begun()
        async for piece in answer.content.iter_any():
            *whole, rest = (rest + piece).split(b"\r\n\r\n")
            for payload in whole:
                handle(loads(payload[6:]))
    if rest:
        raise ValueError("the answer is not whole")


def ignored(_event: Any) -> None:
    """Take an event of no account."""


def many(work: Work) -> Figures:
    return asyncio.run(_many(work))


async def _many(work: Work) -> Figures:
    async with session(work) as http:
        await read(http, work.with_(events=3, delay=0), ignored)
        delays = Delays()
        values: dict[str, float] = {}
        footprint = Footprint() if work.footprint else None
        meter = Meter()
        tasks = [asyncio.create_task(read(http, work, delays.see)) for _ in range(work.streams)]
        if footprint is not None:
            await asyncio.wait(tasks, timeout=work.events * work.delay / 2000)
            values = footprint.values(work.streams)
        _, late = await asyncio.wait(tasks, timeout=work.until)
        sample = meter.stop(delays.count)
        failed = [repr(task.exception()) for task in tasks if task.done() and task.exception() is not None]
        if late:
            failed.append(f"{len(late)} did not end")
        return Figures(
            expected=work.events * work.streams,
            samples=[sample],
            values=delays.values() | values,
            notes=failed[:10],
        )


def started(work: Work) -> Figures:
    """Streams at once until the head of the last answer has come."""
    return asyncio.run(_started(work))


async def _started(work: Work) -> Figures:
    async with session(work) as http:
        await read(http, work.with_(events=3, delay=0), ignored)
        left = work.streams
        all_begun = asyncio.Event()

        def begun() -> None:
            nonlocal left
            left -= 1
            if not left:
                all_begun.set()

        meter = Meter()
        tasks = [asyncio.create_task(read(http, work, ignored, begun)) for _ in range(work.streams)]
        await asyncio.wait_for(all_begun.wait(), work.patience)
        sample = meter.stop(work.streams)
        del tasks
        return Figures(expected=work.streams, samples=[sample])


def connections(work: Work) -> Figures:
    """Short streams one after another, each on a new connection."""
    return asyncio.run(_connections(work))


async def _connections(work: Work) -> Figures:
    sample = Sample(0.0, 0.0, 0)
    async with session(work, keep=False) as http:
        for streams in (1, work.streams):
            meter = Meter()
            for _ in range(streams):
                await read(http, work, ignored)
            sample = meter.stop(work.events * streams)
    return Figures(expected=work.events * work.streams, samples=[sample])
