"""Storms at a switch interval of a microsecond: `python tests/supervisor/stress.py [seconds]` prints what they count.

Each runs actors that end, start and wait for one another in every way at once, for so many seconds, and counts what
must not be: asks that are never answered, monitors that tell nothing or more than once, threads and actors that stay.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pykka

from pykka_supervisor import (
    Backoff,
    ChildSpec,
    Down,
    DynamicSupervisor,
    IgnoreStart,
    SupervisedActor,
    Supervisor,
    kill,
    leaked_threads,
    monitor,
    sibling,
)

_PATIENCE = 30.0
_MANY = 1_000_000_000


@dataclass
class Count:
    """What a storm has seen; all from `hung` on must be 0."""

    asks: int = 0
    monitors: int = 0
    lives: int = 0
    hung: int = 0
    downs_lost: int = 0
    downs_doubled: int = 0
    actors_left: int = 0
    threads_left: int = 0
    instances_left: int = 0


class _Storm:
    """Shared by the actors of one storm."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.count = Count()
        self.refs: list[Any] = []
        self.downs: list[list[Down]] = []
        self.instances: weakref.WeakSet[Any] = weakref.WeakSet()

    def ask(self, ref: Any, message: Any = "x") -> None:
        self.count.asks += 1
        try:
            ref.ask(message, timeout=_PATIENCE)
        except pykka.Timeout:
            self.count.hung += 1
        except (pykka.ActorDeadError, RuntimeError):
            pass

    def watch(self, ref: Any) -> None:
        mine: list[Down] = []
        self.downs.append(mine)
        monitor(ref, notify=mine.append)

    def any_ref(self) -> Any:
        return self.random.choice(self.refs)


class _Acts:
    """Does in its hooks what its storm says, by chance."""

    def __init__(self, storm: _Storm, chances: dict[str, float], others: Any = None) -> None:
        super().__init__()
        self.storm, self.chances, self.others = storm, chances, others
        storm.instances.add(self)
        storm.count.lives += 1
        self._perhaps("init")

    def _perhaps(self, hook: str) -> None:
        drawn, chances = self.storm.random.random(), self.chances
        if drawn < chances.get(f"{hook} raises", 0):
            raise RuntimeError(hook)
        if drawn > 1 - chances.get(f"{hook} ignores", 0):
            raise IgnoreStart
        if self.storm.random.random() < chances.get(f"{hook} sleeps", 0):
            time.sleep(0.01)
        if self.storm.refs and self.storm.random.random() < chances.get(f"{hook} asks", 0):
            self.storm.ask(self.storm.any_ref())
        if self.storm.refs and self.storm.random.random() < chances.get(f"{hook} stops", 0):
            self.storm.any_ref().stop(block=self.chances.get("blocks", 0) > 0)

    def on_start(self) -> None:
        self._perhaps("start")

    def on_stop(self) -> None:
        self._perhaps("end")

    def on_failure(self, *_: Any) -> None:
        self._perhaps("end")

    def on_receive(self, message: Any) -> Any:
        if message == "crash":
            raise RuntimeError(message)
        return message


class _Supervised(_Acts, SupervisedActor):
    pass


class _Plain(_Acts, pykka.ThreadingActor):
    use_daemon_thread = True


def _hurt(storm: _Storm, ref: Any) -> None:
    match storm.random.randrange(4):
        case 0:
            ref.stop(block=False)
        case 1:
            kill(ref)
        case _:
            with contextlib.suppress(pykka.ActorDeadError):
                ref.tell("crash")


def ends(storm: _Storm, until: float) -> list[Any]:
    """Temporary actors and actors on their own, which ask and stop one another in their last hooks, or raise there."""
    sup = DynamicSupervisor.start()
    chances = {"end raises": 0.1, "end asks": 0.5, "end stops": 0.4, "blocks": 1.0}
    while time.monotonic() < until:
        if storm.random.random() < 0.3:
            ref: Any = _Supervised.start(storm, chances)
        else:
            kind = storm.random.choice((_Supervised, _Plain))
            ref = sup.start_child(ChildSpec(kind, (storm, chances), restart="temporary", shutdown=_PATIENCE))
        storm.watch(ref)
        storm.watch(ref)
        storm.refs.append(ref)
        if len(storm.refs) > 8:
            _hurt(storm, storm.refs.pop(storm.random.randrange(4)))
    left, storm.refs = storm.refs, []
    for ref in left:
        ref.stop(timeout=_PATIENCE)
    return [sup]


def inits(storm: _Storm, until: float) -> list[Any]:
    """Children whose start takes too long, raises, or says that it is not needed, at first and at restarts."""
    sup = DynamicSupervisor.start(max_restarts=_MANY)
    chances = {
        "init raises": 0.1,
        "init ignores": 0.05,
        "init sleeps": 0.2,
        "start raises": 0.1,
        "start ignores": 0.05,
        "start sleeps": 0.1,
    }
    while time.monotonic() < until:
        kind = storm.random.choice((_Supervised, _Plain))
        limit = storm.random.choice((0.005, 0.015, None))
        try:
            ref = sup.start_child(ChildSpec(kind, (storm, chances), start_timeout=limit, name=None))
        except (RuntimeError, TimeoutError):
            continue
        storm.watch(ref)
        storm.refs.append(ref)
        if len(storm.refs) > 6:
            sup_of = storm.refs.pop(storm.random.randrange(3))
            _hurt(storm, sup_of)
            with contextlib.suppress(LookupError):
                sup.terminate_child(sup_of)
        _hurt(storm, storm.any_ref())
    storm.refs = []
    return [sup]


def siblings(storm: _Storm, until: float) -> list[Any]:
    """Trees of siblings that need one another, with backoffs; any of them crashes, is ended and started again."""
    trees = []
    for strategy in ("one_for_one", "rest_for_one", "one_for_all"):
        specs = [
            ChildSpec(_Supervised, (storm, {}), id="a", backoff=Backoff(0.002, 0.004)),
            ChildSpec(_Plain, (storm, {}, sibling("a")), id="b"),
            ChildSpec(
                _Supervised, (storm, {}, [sibling("a"), sibling("b")]), id="c", backoff=Backoff(0.001, 0.002)
            ),
            ChildSpec(_Supervised, (storm, {}), id="d"),
        ]
        trees.append(Supervisor.start(specs, strategy=strategy, max_restarts=_MANY))
    while time.monotonic() < until:
        for tree in trees:
            refs = {child.id: child.ref for child in tree.which_children() if child.ref is not None}
            for ref in refs.values():
                storm.watch(ref)
            storm.refs = [*refs.values()] or storm.refs
            for ref in refs.values():
                if storm.random.random() < 0.6:
                    _hurt(storm, ref)
            if storm.random.random() < 0.3:
                # The last one, and the first with all that wait for it.
                for child_id in storm.random.choice((("d",), ("c", "b", "a"))):
                    tree.terminate_child(child_id)
                for child_id in "abcd":
                    try:
                        tree.restart_child(child_id)
                    except Exception:
                        continue
    storm.refs = []
    return trees


STORMS: dict[str, Callable[[_Storm, float], list[Any]]] = {"ends": ends, "inits": inits, "siblings": siblings}


def run(name: str, seconds: float, seed: int = 1) -> Count:
    """Let one storm rage for so many seconds; returns what it counted."""
    storm = _Storm(seed)
    logger = logging.getLogger("pykka_supervisor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    before = {ref.actor_urn for ref in pykka.ActorRegistry.get_all()}
    threads = set(threading.enumerate())
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    done = threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            for ref in storm.refs[:]:
                storm.ask(ref)
            time.sleep(0)

    askers = [threading.Thread(target=keep_asking) for _ in range(2)]
    try:
        for asker in askers:
            asker.start()
        trees = STORMS[name](storm, time.monotonic() + seconds)
        done.set()
        for asker in askers:
            asker.join()
        for tree in trees:
            tree.stop(timeout=4 * _PATIENCE)
    finally:
        done.set()
        sys.setswitchinterval(interval)
        logger.setLevel(level)
    deadline = time.monotonic() + _PATIENCE

    def left() -> tuple[int, int, int]:
        gc.collect()
        return (
            sum(ref.actor_urn not in before for ref in pykka.ActorRegistry.get_all()),
            len(leaked_threads())
            + sum("pykka-supervisor" not in thread.name for thread in set(threading.enumerate()) - threads),
            len(storm.instances),
        )

    while any(left()) and time.monotonic() < deadline:
        time.sleep(0.05)
    count = storm.count
    count.actors_left, count.threads_left, count.instances_left = left()
    count.monitors = len(storm.downs)
    count.downs_lost = sum(not mine for mine in storm.downs)
    count.downs_doubled = sum(len(mine) > 1 for mine in storm.downs)
    return count


def main() -> None:
    """Run all, and print."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    for name in STORMS:
        print(name, f"{seconds:g} s:", asdict(run(name, seconds)))  # noqa: T201


if __name__ == "__main__":
    main()
