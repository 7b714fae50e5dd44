"""Actors for these tests: they do what they are told, and write down what happens to them."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pykka

from pykka_supervisor import SupervisedActor


class Log:
    """What happened, in order, over all actors of a test."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.entries: list[tuple[str, str]] = []

    def add(self, what: str, who: str) -> None:
        with self._lock:
            self.entries.append((what, who))

    def of(self, what: str) -> list[str]:
        with self._lock:
            return [who for happened, who in self.entries if happened == what]

    def clear(self) -> None:
        with self._lock:
            self.entries.clear()


class _Obedient:
    """A message that is a function is called with the actor, and its result is the answer."""

    who: str
    log: Log | None

    def on_start(self) -> None:
        if self.log is not None:
            self.log.add("start", self.who)

    def on_stop(self) -> None:
        if self.log is not None:
            self.log.add("stop", self.who)

    def on_failure(self, *_: Any) -> None:
        if self.log is not None:
            self.log.add("failure", self.who)

    def on_receive(self, message: Any) -> Any:
        return message(self) if callable(message) else message


class Worker(_Obedient, SupervisedActor):
    """A supervised actor that does what it is told."""

    def __init__(self, who: str = "worker", log: Log | None = None, **notes: Any) -> None:
        super().__init__()
        self.who = who
        self.log = log
        self.notes = notes


class PlainWorker(_Obedient, pykka.ThreadingActor):
    """The same, knowing nothing of supervision."""

    def __init__(self, who: str = "plain", log: Log | None = None, **notes: Any) -> None:
        super().__init__()
        self.who = who
        self.log = log
        self.notes = notes


class Boom(Exception):  # noqa: N818
    """Raised on purpose."""


def crash(_actor: Any) -> None:
    """A message: raise."""
    raise Boom("on purpose")


def crash_with(error: BaseException) -> Callable[[Any], None]:
    """A message: raise this."""

    def message(_actor: Any) -> None:
        raise error

    return message


def stop(actor: Any) -> None:
    """A message: stop yourself."""
    actor.stop()


_instances = itertools.count(1)


def instance(actor: Any) -> int:
    """A message: which instance are you? Not its `id`, which a later instance may have again."""
    number: int = vars(actor).setdefault("_number_of_this_instance", next(_instances))
    return number


def eventually(condition: Callable[[], bool], timeout: float = 20.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not become so in time"
        time.sleep(0.002)


class Block:
    """A message that keeps its actor busy until it is released."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()

    def __call__(self, _actor: Any) -> str:
        self.entered.set()
        assert self.release.wait(20)
        return "released"
