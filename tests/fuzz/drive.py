"""Runs one case: a server, a manager, its subscribers, and all that the plan says is done to them.

What comes of it is an `Evidence`, which `oracle` judges. A refusal that the system's documents name is no finding;
anything else that a request raises is.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pykka

from fuzz.answer import Answer
from fuzz.plan import (
    ATTEMPTS,
    ITERATORS,
    Case,
    Deed,
    ReaderPlan,
    StreamPlan,
    answer_to,
    key_of,
    make_case,
    password_of,
)
from fuzz.readers import Reader, can_follow, read_by_iterator, start_reader
from fuzz.server import HostileServer, Played, prompt
from fuzz.watch import LogWatch, ManagerWatch, Metronome, peak_memory, reset_peak
from gemini_streams import (
    FROM_START,
    Drain,
    FlowControl,
    Gemini,
    GeminiStreamsError,
    ManagerActor,
    RetryPolicy,
)
from kit.leftovers import Before
from pykka_supervisor.testing import kill

__all__ = ["ENDS_WITHIN", "Evidence", "run_case"]

_ASK = 5.0
"""Seconds that a request to the manager may take."""
_SHUTDOWN = 1.0
ENDS_WITHIN = 2.0
"""Seconds within which a stream has ended behind its deadline."""


@dataclass
class Evidence:
    """What a case has brought to light."""

    case: Case
    bombs: bool = True
    """Whether small bodies unfold to large ones."""
    readers: list[Reader] = field(default_factory=list)
    started: set[int] = field(default_factory=set)
    played: list[Played] = field(default_factory=list)
    log: list[tuple[int, str]] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    """What the manager has shown of its streams."""
    wrong: list[str] = field(default_factory=list)
    """What has been seen to be wrong while it ran."""
    stalled: float = 0.0
    """Seconds that the machine kept the process waiting."""
    grown: int = 0
    """Bytes by which the process's peak of memory grew."""
    _answers: dict[tuple[int, int], Answer] = field(default_factory=dict)

    def answer(self, stream: int, request: int) -> Answer:
        """Return what the server answers to the stream's request of this number."""
        known = self._answers.get((stream, request))
        if known is None:
            known = self._answers[stream, request] = answer_to(self.case, stream, request, bombs=self.bombs)
        return known


def run_case(seed: int, number: int, *, small: bool = False, bombs: bool = True) -> Evidence:
    """Run a case and return what came of it."""
    case = make_case(seed, number, small=small)
    evidence = Evidence(case, bombs)
    before = Before()
    interval = sys.getswitchinterval()
    if case.hurried:
        sys.setswitchinterval(1e-6)
    with LogWatch() as log:
        reset_peak()
        memory = peak_memory()
        with Metronome() as metronome:
            with HostileServer(case, bombs=bombs) as server:
                _Run(case, evidence, server, metronome).run()
            evidence.played = server.played
            evidence.wrong += server.complaints
            evidence.stalled = metronome.stalled()
        evidence.grown = peak_memory() - memory
        evidence.log = log.lines
    sys.setswitchinterval(interval)
    try:
        before.check()
    except AssertionError as left:
        evidence.wrong.append(f"{left}{_where_threads_are()}")
    return evidence


def _where_threads_are() -> str:
    """Say of each thread but this one, by its name, in which of the package's functions it is."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    said = []
    for ident, frame in sys._current_frames().items():
        if ident == threading.get_ident():
            continue
        stack = traceback.extract_stack(frame)[-6:]
        said.append(
            f"{names.get(ident)}: " + " > ".join(f"{Path(f.filename).name}:{f.lineno}" for f in stack)
        )
    return "; " + "; ".join(said)


class _Run:
    def __init__(self, case: Case, evidence: Evidence, server: HostileServer, metronome: Metronome) -> None:
        self._case = case
        self._evidence = evidence
        self._metronome = metronome
        port = server.url.rpartition(":")[2]
        proxy = f"http://user:{password_of(case.number)}@127.0.0.1:{port}"
        self._endpoints = [
            Gemini(
                key_of(case.number, tenant),
                server.url,
                verify=server.authority or True,
                proxies={"http": proxy, "https": proxy} if case.proxied else {},
            )
            for tenant in range(case.tenants)
        ]
        self._manager = ManagerActor.start(
            endpoint=self._endpoints[0],
            max_streams=case.max_streams,
            max_waiting=50,
            max_event_bytes=case.max_event_bytes,
            idle_timeout=case.idle_timeout,
            first_event_timeout=case.first_event_timeout,
            connect_timeout=2.0,
            linger=case.linger,
            shutdown=_SHUTDOWN,
            retry=RetryPolicy(attempts=ATTEMPTS, initial_delay=0.01, max_delay=0.1, jitter=0.02),
        )

    def run(self) -> None:
        try:
            with ManagerWatch(self._manager, self._metronome) as watch:
                self._do_all()
                self._drain()
                self._await_ends()
                self._all_over()
                self._stop()
            self._evidence.wrong += watch.wrong
        finally:
            self._clear()

    def _do_all(self) -> None:
        case = self._case
        todo: list[tuple[float, Any]] = [(stream.at, stream) for stream in case.streams]
        todo += [(deed.at, deed) for deed in case.deeds]
        todo.sort(key=lambda item: item[0])
        began = time.monotonic()
        for at, item in todo:
            if case.stop_at is not None and at > case.stop_at:
                break
            time.sleep(max(0.0, began + at - time.monotonic()))
            try:
                if isinstance(item, StreamPlan):
                    self._start(item)
                else:
                    self._do(item)
            except (GeminiStreamsError, pykka.ActorDeadError):
                pass  # the application's requests may come too late
            except Exception as error:
                text = f"{type(error).__name__}: {error}"[:300]
                self._evidence.wrong.append(f"{item} raised {text}")
        if case.stop_at is not None:
            time.sleep(max(0.0, began + case.stop_at - time.monotonic()))

    def _options(self, stream: StreamPlan, tenant: int) -> dict[str, Any]:
        return {
            "stream_id": str(stream.number),
            "model": f"model-{stream.number}",  # a 429's wait is shared by model
            "endpoint": self._endpoints[tenant],
            "flow": FlowControl(window=stream.window, overflow=stream.overflow, stall_timeout=0.5),
            "history": stream.history,
            "keep": stream.keep,
            "deadline": stream.deadline,
            "retry": RetryPolicy(
                attempts=ATTEMPTS,
                initial_delay=0.01,
                max_delay=0.1,
                jitter=0.02,
                on_partial=stream.on_partial,
            ),
            "tag": stream.number,
        }

    def _start(self, stream: StreamPlan) -> None:
        options = self._options(stream, stream.tenant)
        contents = prompt(self._case.number, stream.number)
        if stream.readers[0].kind in ITERATORS:
            reader = Reader(stream.number, stream.readers[0])
            reader.due = True
            self._evidence.readers.append(reader)
            read_by_iterator(reader, self._manager, contents, options)
            self._evidence.started.add(stream.number)
            return
        readers = [start_reader(stream.number, plan) for plan in stream.readers]
        self._evidence.readers += readers
        refs = [reader.ref for reader in readers if reader.ref is not None]
        self._manager.start_stream(contents, subscriber=refs, timeout=_ASK, **options)
        self._evidence.started.add(stream.number)
        for reader in readers:
            reader.due = True

    def _do(self, deed: Deed) -> None:
        name, manager = str(deed.stream), self._manager
        match deed.what:
            case "stop":
                manager.stop_stream(name, timeout=_ASK)
            case "join":
                self._join(deed)
            case "leave":
                for reader in self._evidence.readers:
                    if reader.stream == deed.stream and reader.ref is not None and reader.due:
                        reader.due = False
                        manager.unsubscribe_stream(name, reader.ref, timeout=_ASK)
                        return
            case "kill":
                actor = manager.get_stream_info(name, timeout=_ASK).stream_ref
                if actor is not None:
                    kill(actor)
            case "info":
                info = manager.get_stream_info(name, timeout=_ASK)
                self._evidence.shown.append(f"{info!r} {info.stream_ref} {info.config} {info.request_body}")
            case "again":
                self._again(self._case.streams[deed.stream])
            case "kill manager":
                kill(manager)

    def _again(self, stream: StreamPlan) -> None:
        """Have another tenant start a stream with the same id and contents: it must not get the first one's."""
        case = self._case
        if case.tenants < 2:
            return
        tenant = (stream.tenant + 1) % case.tenants
        reader = start_reader(stream.number, ReaderPlan("batches"))
        reader.tenant = tenant
        self._evidence.readers.append(reader)
        assert reader.ref is not None
        self._manager.start_stream(
            prompt(case.number, stream.number),
            subscriber=reader.ref,
            timeout=_ASK,
            **self._options(stream, tenant),
        )
        reader.due = True

    def _join(self, deed: Deed) -> None:
        iterates = deed.reader in ITERATORS
        if iterates and not can_follow():
            return
        plan = ReaderPlan(deed.reader)
        reader = Reader(deed.stream, plan) if iterates else start_reader(deed.stream, plan)
        reader.first = None
        self._evidence.readers.append(reader)
        if deed.after == "start":
            reader.after = FROM_START
        elif deed.after == "seen":
            reader.after = (1, 0)
        if iterates:
            reader.due = True
            read_by_iterator(reader, self._manager, None, {"after": reader.after})
            return
        assert reader.ref is not None
        self._manager.subscribe_stream(str(deed.stream), reader.ref, after=reader.after, timeout=_ASK)
        reader.due = True

    def _await_ends(self) -> None:
        """Wait until every stream has ended, at most for what its deadline and the machine's stalls allow."""
        if self._case.stop_at is not None:
            return
        most = max((stream.deadline for stream in self._case.streams), default=0) + ENDS_WITHIN
        began = time.monotonic()
        for reader in self._evidence.readers:
            while reader.due and reader.alive and not reader.record.ended.is_set():
                over = time.monotonic() - began - self._metronome.stalled(began)
                if over > most:
                    self._evidence.wrong.append(
                        f"stream {reader.stream} has told its {reader.plan.kind} subscriber no end"
                        f" {most:.1f} s after everything was started; its deadline is"
                        f" {self._case.streams[reader.stream].deadline} s"
                    )
                    break
                reader.record.ended.wait(0.02)

    def _drain(self) -> None:
        """Drain the manager, where the plan says so: it answers when it said that it would."""
        patience = self._case.drain
        if patience is None:
            return
        began = time.monotonic()
        try:
            self._manager.ask(Drain(patience), timeout=20)
        except pykka.ActorDeadError:  # it was killed with the request in its hands
            return
        except pykka.Timeout:
            self._evidence.wrong.append("Drain was not answered within 20 s")
        took = time.monotonic() - began - self._metronome.stalled(began)
        if took > patience + ENDS_WITHIN:
            self._evidence.wrong.append(f"Drain({patience}) was answered after {took:.1f} s")

    def _all_over(self) -> None:
        """Nothing holds a slot when all streams have ended, and each of them was counted once."""
        if self._case.stop_at is not None:
            return
        until = time.monotonic() + ENDS_WITHIN
        while True:
            stats = self._manager.get_stats(timeout=_ASK)
            ended = {"completed", "error", "stopped"}
            running = {k: n for k, n in stats.streams_by_status.items() if n and k not in ended}
            told = stats.completed + stats.failed + stats.stopped
            if not running and told == stats.started:
                return
            if time.monotonic() - self._metronome.stalled(until - ENDS_WITHIN) > until:
                self._evidence.wrong.append(f"all have ended, and still: {stats}")
                return
            time.sleep(0.02)

    def _stop(self) -> None:
        began = time.monotonic()
        try:
            self._manager.stop(timeout=20)
        except pykka.Timeout:
            self._evidence.wrong.append("stop() did not return within 20 s")
        except pykka.ActorDeadError:
            pass
        took = time.monotonic() - began - self._metronome.stalled(began)
        if took > _SHUTDOWN + ENDS_WITHIN:
            self._evidence.wrong.append(f"stop() took {took:.1f} s; shutdown is {_SHUTDOWN} s")

    def _clear(self) -> None:
        """Wait for what is in the subscribers' inboxes, and end them."""
        until = time.monotonic() + 3
        for reader in self._evidence.readers:
            while (
                reader.due and reader.alive and not reader.record.ended.is_set() and time.monotonic() < until
            ):
                reader.record.ended.wait(0.02)
        for reader in self._evidence.readers:
            if reader.ref is not None and reader.ref.is_alive():
                reader.ref.stop(block=False)
        for reader in self._evidence.readers:
            if reader.thread is not None:
                reader.thread.join(5)
