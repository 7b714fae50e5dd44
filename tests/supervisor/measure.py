"""Figures of the supervisor: `python tests/supervisor/measure.py` prints them; the functions return them.

`measure.py among 1000 5000 20000` prints what one operation costs among so many children. On Linux a thread that waits
stands in a hash table of the kernel's, which from 6.16 on has 4 slots for each CPU of a process, and 16 at least: with
20,000 waiting threads the kernel's search for the one to wake is most of the cost of anything that wakes a thread.
`measure.py among 20000 --slots 65536` sets that table's size, to see what is this package's own.

CPU time is the process's, all threads together. Each figure is the best of a few rounds, since the
machine may be doing something else.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pykka

from pykka_supervisor import (
    ChildSpec,
    Down,
    DynamicSupervisor,
    Mailbox,
    SupervisedActor,
    Supervisor,
    demonitor,
    kill,
    monitor,
)
from pykka_supervisor._pykka import Envelope
from pykka_supervisor.testing import await_restart


class _PlainSink(pykka.ThreadingActor):
    def on_receive(self, message: Any) -> Any:
        return message


class _Sink(SupervisedActor):
    def on_receive(self, message: Any) -> Any:
        if message == "crash":
            raise RuntimeError(message)
        return message


def _best(measure: Callable[[], float], rounds: int = 5) -> float:
    return min(measure() for _ in range(rounds))


def tell_cpu_us(ref: pykka.ActorRef[Any], count: int = 100_000) -> float:
    """CPU µs for one tell, put and handled: one sender, one actor."""

    def once() -> float:
        begun = time.process_time()
        tell = ref.tell
        for number in range(count):
            tell(number)
        ref.ask("done")
        return (time.process_time() - begun) / count * 1e6

    return _best(once)


def puts_per_second(count: int = 200_000) -> float:
    """Puts a second into a mailbox that nobody reads, in one thread."""
    envelope: Envelope[Any] = Envelope("x")

    def once() -> float:
        mailbox = Mailbox()
        put = mailbox.put
        begun = time.process_time()
        for _ in range(count):
            put(envelope)
        return time.process_time() - begun

    return count / _best(once)


def restart_ms(rounds: int = 50) -> float:
    """Median wall ms from the tell that crashes to the answer of the next incarnation."""
    sup = Supervisor.start([_Sink], max_restarts=10_000)
    [info] = sup.which_children()
    ref = info.ref
    assert ref is not None
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter()
        ref.tell("crash")
        ref.ask("back")
        taken.append((time.perf_counter() - begun) * 1e3)
    sup.stop()
    return sorted(taken)[rounds // 2]


def _rss_kib() -> float:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4.0


def dynamic_children(count: int = 5_000, kills: int = 500, seed: int = 1) -> dict[str, float]:
    """Start so many dynamic children, kill some at random, end the rest; wall and CPU µs for each one."""
    result: dict[str, float] = {}
    threading.stack_size(256 * 1024)
    sup = DynamicSupervisor.start(max_restarts=1_000)
    spec = ChildSpec(_Sink)
    gc.collect()
    rss = _rss_kib()
    cpu, wall = time.process_time(), time.perf_counter()
    refs = [sup.start_child(spec) for _ in range(count)]
    result["start_cpu_us"] = (time.process_time() - cpu) / count * 1e6
    result["start_wall_us"] = (time.perf_counter() - wall) / count * 1e6
    result["rss_kib_each_with_thread"] = (_rss_kib() - rss) / count
    victims = random.Random(seed).sample(refs, kills)
    cpu, wall = time.process_time(), time.perf_counter()
    for ref in victims:
        kill(ref)
    for ref in victims:
        await_restart(ref, timeout=30)
    result["kill_and_restart_cpu_us"] = (time.process_time() - cpu) / kills * 1e6
    result["kill_and_restart_wall_us"] = (time.perf_counter() - wall) / kills * 1e6
    cpu, wall = time.process_time(), time.perf_counter()
    sup.stop()
    result["end_cpu_us"] = (time.process_time() - cpu) / count * 1e6
    result["end_wall_us"] = (time.perf_counter() - wall) / count * 1e6
    threading.stack_size(0)
    assert pykka.ActorRegistry.get_all() == []
    return result


def ends_by_itself_us(count: int = 5_000) -> dict[str, float]:
    """CPU µs for a temporary child that stops itself: all of it, and what its supervisor's thread spends."""
    threading.stack_size(256 * 1024)
    sup = DynamicSupervisor.start()
    spec = ChildSpec(_Sink, restart="temporary")
    refs = [sup.start_child(spec) for _ in range(count)]
    before = _thread_cpu(sup)
    cpu = time.process_time()
    for ref in refs:
        ref.stop(block=False)
    for ref in refs:
        ref.join()
    while sup.count_children().specs:
        time.sleep(0.001)
    total = time.process_time() - cpu
    spent = _thread_cpu(sup) - before
    sup.stop()
    threading.stack_size(0)
    return {"all_cpu_us": total / count * 1e6, "supervisor_cpu_us": spent / count * 1e6}


def among(count: int, groups: int = 8, size: int = 60) -> dict[str, float]:
    """CPU µs of one operation among so many dynamic children, or monitors of one actor; the best of some groups.

    The creation of a thread is measured by itself: a start and a restart make one.
    """
    threading.stack_size(256 * 1024)
    sup = DynamicSupervisor.start(max_restarts=1_000_000)
    spec = ChildSpec(_Sink)
    refs = [sup.start_child(spec) for _ in range(count)]
    old = random.Random(1).sample(refs, groups * size)
    new: list[Any] = []
    result: dict[str, float] = {}

    def measure(
        name: str,
        operation: Callable[[Any], object],
        on: list[Any] | None = None,
        clock: Callable[[], float] = time.process_time,
    ) -> None:
        items = on if on is not None else list(range(groups * size))
        taken = []
        for group in range(groups):
            time.sleep(0.01)  # what the one before has set going comes to rest
            begun = clock()
            for item in items[group * size : (group + 1) * size]:
                operation(item)
            taken.append((clock() - begun) / size * 1e6)
        result[name] = min(taken)

    def back_after(end: Callable[[Any], object]) -> Callable[[Any], object]:
        def both(ref: Any) -> None:
            end(ref)
            ref.ask("back", timeout=30)

        return both

    def bare(_: Any) -> None:
        thread = threading.Thread(target=int, daemon=True)
        thread.start()
        thread.join()

    measure("a bare thread, started and joined", bare)
    measure("ask", lambda ref: ref.ask("x"), old)
    measure("start_child", lambda _: new.append(sup.start_child(spec)))
    measure("crash and restart", back_after(lambda ref: ref.tell("crash")), old)
    measure("kill and restart", back_after(kill), old)
    measure("terminate_child, young", sup.terminate_child, new)
    measure("terminate_child, old", sup.terminate_child, old)
    watched = next(ref for ref in refs if ref.is_alive())
    told = [monitor(watched, notify=_ignore) for _ in range(count)]
    # These two are work of the calling thread alone.
    measure(
        "monitor, of one actor",
        lambda _: told.append(monitor(watched, notify=_ignore)),
        clock=time.thread_time,
    )
    random.Random(2).shuffle(told)
    measure("demonitor", demonitor, told, time.thread_time)
    for one in told:
        demonitor(one)
    left = sup.count_children().specs
    begun = time.process_time()
    sup.stop()
    result["a child's share of the end"] = (time.process_time() - begun) / left * 1e6
    threading.stack_size(0)
    return result


def _ignore(_: Down) -> None:
    """Nothing."""


def _thread_cpu(ref: Any) -> float:
    thread = ref._cell.incarnation.thread
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


def actor_kib(count: int = 2_000) -> float:
    """KiB of a supervised idle actor, its thread and its child record in the supervisor not counted."""
    import tracemalloc  # noqa: PLC0415

    from pykka_supervisor.cell import Cell  # noqa: PLC0415
    from pykka_supervisor.incarnation import Incarnation  # noqa: PLC0415

    class Unstarted(threading.Thread):
        def __init__(self) -> None:
            """Nothing: a thread is what is not measured."""

    kept = []
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(count):
        cell = Cell(_Sink, _Sink)
        actor = _Sink.__new__(_Sink)
        actor.__dict__["_supervised_own_cell"] = cell
        actor.__init__()  # type: ignore[misc]
        incarnation = Incarnation(cell, 1, (), {})
        incarnation.actor = actor
        incarnation.thread = None  # type: ignore[assignment]
        actor.__dict__["_supervised_incarnation"] = incarnation
        cell.incarnation = incarnation
        kept.append(cell)
    gc.collect()
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return used / count / 1024


def _print_among(arguments: list[str]) -> None:
    if "--slots" in arguments:
        at = arguments.index("--slots")
        set_futex_hash, to_slots = 78, 1
        ctypes.CDLL(None).prctl(set_futex_hash, to_slots, int(arguments[at + 1]), 0, 0)
        del arguments[at : at + 2]
    rows = {count: among(int(count)) for count in arguments}
    print(f"{'CPU µs among':36}", *(f"{count:>8}" for count in rows))  # noqa: T201
    for name in next(iter(rows.values())):
        print(f"{name:36}", *(f"{row[name]:8.1f}" for row in rows.values()))  # noqa: T201


def main() -> None:
    """Print all figures, or those that are asked for."""
    logging.getLogger("pykka_supervisor").setLevel(logging.CRITICAL)
    if sys.argv[1:2] == ["among"]:
        _print_among(sys.argv[2:])
        return
    print(f"Python {sys.version.split()[0]}")  # noqa: T201
    plain, supervised = _PlainSink.start(), _Sink.start()
    sup = Supervisor.start([_Sink])
    [info] = sup.which_children()
    child = info.ref
    assert child is not None
    for name, ref in (("plain Pykka", plain), ("SupervisedActor", supervised), ("supervised", child)):
        print(f"tell, put and handled, {name}: {tell_cpu_us(ref):.2f} µs CPU")  # noqa: T201
    plain.stop()
    supervised.stop()
    sup.stop()
    print(f"Mailbox.put: {puts_per_second() / 1e6:.2f} M/s")  # noqa: T201
    print(f"crash to answer: {restart_ms():.2f} ms")  # noqa: T201
    print(f"memory of an idle actor without its thread: {actor_kib():.1f} KiB")  # noqa: T201
    for title, figures in (
        ("5,000 dynamic children", dynamic_children()),
        ("5,000 that end by themselves", ends_by_itself_us()),
    ):
        said = ", ".join(f"{key} {value:.1f}" for key, value in figures.items())
        print(f"{title}: {said}")  # noqa: T201


if __name__ == "__main__":
    main()
