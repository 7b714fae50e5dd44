"""Many cases in several processes for some minutes, or one case alone; every finding names its seed and case."""

from __future__ import annotations

import dataclasses
import faulthandler
import itertools
import multiprocessing
import queue
import re
import sys
import time
from collections import defaultdict
from typing import Any

from fuzz.drive import run_case
from fuzz.oracle import judge
from fuzz.plan import answer_to, make_case

__all__ = ["run_many", "run_one"]

_HUNG = 120.0
"""Seconds after which a case that has not come to its end is given up, and its process with it."""


def findings_of(seed: int, number: int, *, small: bool = False, bombs: bool = True) -> list[str]:
    """Run a case and judge it; a line for each thing that was wrong."""
    return judge(run_case(seed, number, small=small, bombs=bombs))


def _work(worker: int, seed: int, numbers: tuple[int, int], until: float, told: Any) -> None:
    first, step = numbers
    for number in itertools.count(first, step):
        if time.time() > until:
            break
        told.put((worker, number, None))
        faulthandler.dump_traceback_later(_HUNG - 10)
        try:
            found = findings_of(seed, number)
        except Exception as bug:
            found = [f"the run itself failed: {type(bug).__name__}: {bug}"]
        faulthandler.cancel_dump_traceback_later()
        told.put((worker, number, found))
    told.put((worker, None, None))


def run_many(seed: int, first: int, minutes: float, processes: int) -> int:
    """Run cases until the time is over; returns how many had findings."""
    context = multiprocessing.get_context("spawn")
    told: Any = context.Queue()
    until = time.time() + minutes * 60
    workers: dict[int, Any] = {}
    busy: dict[int, tuple[int, float]] = {}

    def begin(worker: int, at: int) -> None:
        workers[worker] = context.Process(
            target=_work, args=(worker, seed, (at, processes), until, told), daemon=True
        )
        workers[worker].start()
        busy[worker] = (at, time.monotonic())

    for worker in range(processes):
        begin(worker, first + worker)
    cases = bad = 0
    kinds: dict[str, list[int]] = defaultdict(list)
    while busy:
        try:
            worker, number, found = told.get(timeout=1)
        except queue.Empty:
            for worker, (number, since) in list(busy.items()):
                if time.monotonic() - since < _HUNG and workers[worker].is_alive():
                    continue
                workers[worker].kill()
                workers[worker].join()
                bad += 1
                _tell(seed, number, ["the process hung, or died"])
                begin(worker, number + processes)
            continue
        if number is None:
            del busy[worker]
            continue
        busy[worker] = (number, time.monotonic())
        if found is not None:
            cases += 1
            if found:
                bad += 1
                _tell(seed, number, found)
                for kind in sorted({_kind(text) for text in found}):
                    kinds[kind].append(number)
    for process in workers.values():
        process.join()
    for kind, numbers in sorted(kinds.items(), key=lambda item: -len(item[1])):
        _say(f"{len(numbers):5} cases (CASE={numbers[0]}): {kind}")
    _say(f"SEED={seed}: {cases} cases, {bad} with findings")
    return bad


def _kind(text: str) -> str:
    """A finding without its numbers, so that equal ones are counted together."""
    text = re.sub(r"stream \d+(, \w+ subscriber)?: ", "", text)
    text = re.sub(r"fz-[\w-]+|urn:uuid:[\w-]+", "…", text)
    return re.sub(r"\d+", "N", text)[: 30 if "shows a key" in text else 100]


def run_one(seed: int, number: int) -> int:
    """Show a case and run it alone; returns how many findings it has."""
    case = make_case(seed, number)
    shown = {field.name: getattr(case, field.name) for field in dataclasses.fields(case)}
    _say(" ".join(f"{name}={value!r}" for name, value in shown.items() if name not in ("streams", "deeds")))
    for stream in case.streams:
        _say(f"{stream}")
        for request in range(3):
            _say(f"    request {request}: {answer_to(case, stream.number, request).recipe}")
    for deed in case.deeds:
        _say(f"{deed}")
    found = findings_of(seed, number)
    _tell(seed, number, found)
    return len(found)


def _tell(seed: int, number: int, found: list[str]) -> None:
    _say(f"SEED={seed} CASE={number}: {len(found)} findings")
    for text in found[:8]:
        _say(f"    {text[:600]}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
