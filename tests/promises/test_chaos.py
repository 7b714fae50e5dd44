"""Many streams of both APIs, every fault and every kind of death at random, and each history is judged.

All decisions come from a seed, before anything runs: `plan` says what is done when, `answer_to` what a stream's n-th
request gets. A failing run names its seed; `CHAOS_SEED=… pytest tests/promises/test_chaos.py` decides the same again.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

import pykka
import pytest

from gemini_streams import (
    FROM_START,
    EventsDropped,
    FlowControl,
    Gemini,
    GeminiStreamsError,
    ManagerActor,
    ManagerRef,
    RetryPolicy,
    SlowSubscriberError,
    StreamComplete,
    StreamEvent,
    StreamRestarting,
)
from gemini_streams.testing import (
    Body,
    Failure,
    LocalGemini,
    LongAnswer,
    Raw,
    Reply,
    RequestRecord,
    check_history,
    trickle,
)
from kit import random_interactions as interactions
from kit.helpers import BatchProbe, eventually
from kit.scene import LAST, table_of, texts
from pykka_supervisor import leaked_threads, supervisor_of
from pykka_supervisor.testing import Probe, kill

EVERY = 1.8
"""Seconds between two deaths of the manager or its supervisors: what their intensity allows."""

KINDS = {
    "whole": 8,
    "cut": 4,
    "reset": 4,
    "truncated": 2,
    "half": 1,
    "silent": 2,
    "mute": 1,
    "trickle": 1,
    "inside": 2,
    "bare": 1,
    "malformed": 1,
    "large": 1,
    "html": 1,
    "hopeless": 1,
    "busy": 4,
    "limited": 2,
    "limited for long": 1,
    "long": 4,
    "early": 2,
}

BOTH = KINDS | interactions.KINDS


@dataclass(frozen=True)
class Do:
    """One decision: at which second, what, and the numbers it goes by."""

    at: float
    what: str
    which: int = 0
    how: tuple[Any, ...] = ()


def plan(seed: int, streams: int, seconds: float, kinds: dict[str, int]) -> list[Do]:
    rng = random.Random(seed)
    todo = []
    for number in range(streams * 2):
        at = rng.uniform(0, 2) if number < streams else rng.uniform(2, seconds * 0.9)
        how: tuple[Any, ...] = (
            rng.choices(list(kinds), list(kinds.values()))[0],
            rng.randint(1, 3),  # subscribers
            rng.choice(["pause", "pause", "drop_oldest", "drop_newest", "disconnect"]),
            rng.choice([4, 16, 256]),  # window
            rng.choice([0, 0, 100_000]),  # history
            rng.choice([0, 0, 1]),  # keep
            rng.choice([None, None, None, rng.uniform(1, 6)]),  # deadline
            rng.random() < 0.03,  # a refused connection
        )
        todo.append(Do(at, "start", number, how))
    for what, each in {
        "kill stream": 0.02,
        "stop stream": 0.5,
        "stop actor": 1.0,
        "join": 0.1,
        "leave": 0.4,
        "kill subscriber": 0.7,
        "close idle": 1.5,
        "reset connection": 0.1,
        "resume": 0.1,
        "look": 0.2,
        "ask nonsense": 1.0,
        "kill many": 5.0,
    }.items():
        at = each
        while at < seconds:
            how = (rng.randrange(1 << 30), rng.choice(["live", "start", "seen"]))
            todo.append(Do(at, what, rng.randrange(1 << 30), how))
            at += rng.expovariate(1 / each)
    at = 2.5
    while at < seconds - 1:
        todo.append(Do(at, rng.choices(["kill manager", "kill streams", "kill root"], [5, 2, 1])[0]))
        at += EVERY + rng.random()
    return sorted(todo, key=lambda do: do.at)


def answer_to(seed: int, kind: str, number: int, nth: int) -> Any:
    """What the n-th request of a stream gets."""
    if interactions.is_interaction(kind):
        return interactions.answer_to(seed, kind, number, nth)
    rng = random.Random(f"{seed} {kind} {number} {nth}")
    if nth > 3 or rng.random() < 0.3:
        kind = "whole"
    text = " ".join(f"w{n}" for n in range(rng.randint(5, 80)))
    pace = rng.uniform(0.005, 0.08)
    after = rng.randint(0, 5)
    good = b'data: {"candidates":[{"content":{"parts":[{"text":"a"}]}}]}\r\n\r\n'
    match kind:
        case "cut" | "reset" | "silent":
            return Reply(text, pace=pace, end=cast("Any", kind), end_after=after)
        case "half":
            return Reply(text, pace=pace, end="cut", end_after=after, half=True)
        case "truncated":
            return Reply(text, pace=pace, end_after=after)
        case "mute":
            return Reply(text, hold_before_headers=True)
        case "trickle":
            return trickle(0.05)
        case "inside" | "bare":
            return Reply(text, pace=pace, error_after=(after, Failure(503)), error_bare=kind == "bare")
        case "malformed":
            return Body(good + b"data: nonsense\r\n\r\n")
        case "large":
            return Body(good + b'data: {"x":"' + b"y" * 40_000 + b'"}\r\n\r\n')
        case "html":
            return Body(b"<html>", content_type="text/html")
        case "hopeless":
            return Failure(rng.choice([400, 403, 404]))
        case "busy":
            return Failure(rng.choice([500, 502, 503, 504]), retry_delay=rng.choice([None, "0.3s"]))
        case "limited":
            return Failure(429, retry_delay="0.4s")
        case "limited for long":
            return Failure(429, retry_after=1000)
        case "early":
            return Raw(b"", close=rng.choice(["fin", "reset"]))
    return Reply(text, pace=pace)


@dataclass
class Subscribed:
    """One subscriber of one stream, and how it came to it."""

    probe: Probe
    after: Any = None
    first: int | None = 0
    left: bool = False
    """It has asked to leave, or nobody knows whether it ever subscribed."""


@dataclass
class Chaos:
    seed: int
    gemini: LocalGemini
    manager: ManagerRef = field(init=False)
    tables: list[Any] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    members: dict[str, list[Subscribed]] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    long: dict[int, LongAnswer] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    slots: int = 100
    over: bool = False
    resumed: dict[str, str] = field(default_factory=dict)
    """The text that each stream has to have which began behind a cursor."""

    def run(self, todo: list[Do], slots: int) -> None:
        self.slots = slots
        self.gemini.on(lambda _record: True, self.answer)
        self.refused = Gemini(api_key="k", base_url=self.gemini.refused_url())
        self.new_manager()
        for _ in range(40):
            self.new_probe()
        began = time.monotonic()
        for do in todo:
            wait = began + do.at - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            try:
                getattr(self, do.what.replace(" ", "_"))(do)
                self.done[do.what] += 1
            except (GeminiStreamsError, pykka.ActorDeadError) as refused:
                self.done[f"{do.what}: {type(refused).__name__}"] += 1
        self.over = True
        self.manager.stop(timeout=20)
        self.judge()

    def answer(self, record: RequestRecord) -> Any:
        kind, number = re.findall(r"(\w[\w ]*) (\d+)$", record.text)[0]
        self.seen[record.text] += 1
        if kind == "long":
            if int(number) not in self.long:
                rng = random.Random(f"{self.seed} {number}")
                self.long[int(number)] = LongAnswer(
                    " ".join(f"w{n}" for n in range(60)),
                    hops=rng.randint(1, 4),
                    checkpoint_every=rng.choice([None, 4, 9]),
                    cut_at=sorted(rng.sample(range(1, 59), 3)),
                    cut_by=cast("Any", rng.choice(["cut", "reset", "silent"])),
                    pace=0.02,
                )
            return self.long[int(number)]
        return answer_to(self.seed, kind, int(number), self.seen[record.text])

    def new_manager(self) -> None:
        self.manager = ManagerActor.start(
            endpoint=self.gemini.endpoint,
            max_streams=self.slots,
            max_waiting=self.slots,
            max_event_bytes=20_000,
            idle_timeout=0.6,
            first_event_timeout=0.8,
            linger=1,
            shutdown=2,
            retry=RetryPolicy(
                attempts=30, initial_delay=0.02, max_delay=2, jitter=0.1, exp_base=1.3, max_retry_after=1
            ),
        )
        self.tables.append(table_of(self.manager))

    def new_probe(self) -> None:
        number = len(self.probes)
        self.probes.append(
            BatchProbe() if number % 3 == 0 else Probe(self.slowly if number % 5 == 1 else None)
        )

    def slowly(self, _message: Any) -> None:
        if not self.over:
            time.sleep(0.02)

    def pick(self, number: int) -> str:
        running = self.manager.list_streams(timeout=20)
        if not running:
            raise GeminiStreamsError("nothing runs")
        return running[number % len(running)]

    # -- what is done

    def start(self, do: Do) -> None:
        kind, count, overflow, window, history, keep, deadline, refused = do.how
        stream_id = f"{kind} {do.which}"
        alive = [probe for probe in self.probes if probe.ref.is_alive()]
        rng = random.Random(do.which)
        chosen = rng.sample(alive, count)
        members = self.members[stream_id] = [Subscribed(probe, left=True) for probe in chosen]
        options: dict[str, Any] = {"endpoint": self.refused} if refused else {}
        asks: Any = self.manager.start_stream
        if interactions.is_interaction(kind):
            asks = self.manager.start_interaction
            options |= interactions.options_of(kind, rng)
        asks(
            stream_id,
            stream_id=stream_id,
            subscriber=[probe.ref for probe in chosen],
            model=f"m{do.which}" if "long" in kind else f"shared{do.which % 5}",
            flow=FlowControl(window=window, overflow=overflow, stall_timeout=1),
            history=history,
            keep=keep,
            deadline=deadline,
            tag=do.which,
            timeout=20,
            **options,
        )
        for member in members:
            member.left = False

    def resume(self, do: Do) -> None:
        """Begin a stream behind the cursor of an event that some subscriber has received."""
        known = [name for name in self.members if interactions.has_one_text(name)]
        if not known:
            raise GeminiStreamsError("nothing is known yet")
        stream_id = known[do.which % len(known)]
        kind, number = _named(stream_id)
        opener = self.members[stream_id][0]
        received = [message for message in opener.probe.messages if message.stream_id == stream_id]
        events = [message for message in received if isinstance(message, StreamEvent) and message.cursor]
        voided = any(isinstance(m, EventsDropped) or getattr(m, "discard", False) for m in received)
        alive = [probe for probe in self.probes if probe.ref.is_alive()]
        if not events or voided:
            raise GeminiStreamsError("it has no cursor")
        at = events[do.how[0] % len(events)]
        probe = alive[do.how[0] % len(alive)]
        name = f"resumed {do.at}"
        seen = sum(len(event.text) for event in events if event.sequence <= at.sequence)
        member = Subscribed(probe, first=at.sequence + 1, left=True)
        self.resumed[name] = interactions.text_of(self.seed, kind, number)[seen:]
        self.members[name] = [member]
        self.manager.resume_interaction(
            cast("str", at.cursor),
            stream_id=name,
            subscriber=probe.ref,
            cancel_on="never",
            max_silence=interactions.MAX_SILENCE,
            timeout=20,
        )
        member.left = False

    def kill_stream(self, do: Do) -> None:
        session = self.tables[-1].get(self.pick(do.which))
        if session is not None and session.ref is not None:
            kill(session.ref)

    def kill_many(self, _do: Do) -> None:
        for session in self.tables[-1].all():
            if session.ref is not None:
                kill(session.ref)

    def stop_stream(self, do: Do) -> None:
        self.manager.stop_stream(self.pick(do.which), timeout=20)

    def stop_actor(self, do: Do) -> None:
        session = self.tables[-1].get(self.pick(do.which))
        if session is not None and session.ref is not None:
            session.ref.stop(block=False)

    def join(self, do: Do) -> None:
        stream_id = self.pick(do.which)
        if stream_id in self.resumed:
            raise GeminiStreamsError("its start is not its interaction's")
        members = self.members[stream_id]
        known = {member.probe.ref.actor_urn for member in members}
        alive = [p for p in self.probes if p.ref.is_alive() and p.ref.actor_urn not in known]
        if not alive:
            return
        number, how = do.how
        probe = alive[number % len(alive)]
        member = Subscribed(probe, first=None, left=True)
        if how == "start":
            member.after = FROM_START
        elif how == "seen":
            member.after = (1, -1)
        members.append(member)
        self.manager.subscribe_stream(stream_id, probe.ref, after=member.after, timeout=20)
        member.left = False

    def leave(self, do: Do) -> None:
        stream_id = self.pick(do.which)
        members = self.members[stream_id]
        member = members[do.how[0] % len(members)]
        member.left = True
        self.manager.unsubscribe_stream(stream_id, member.probe.ref, timeout=20)

    def kill_subscriber(self, do: Do) -> None:
        alive = [probe for probe in self.probes if probe.ref.is_alive()]
        kill(alive[do.which % len(alive)].ref)
        self.new_probe()

    def close_idle(self, _do: Do) -> None:
        self.gemini.close_idle()

    def reset_connection(self, do: Do) -> None:
        """Reset one of the connections that have an exchange under way."""
        gemini = self.gemini

        def reset() -> None:
            busy = [connection for connection in gemini._book.connections if not connection.idle]
            if busy:
                connection: Any = busy[do.which % len(busy)]
                under = connection._transport.get_extra_info("socket")
                under.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.drop()

        cast("Any", gemini._loop).call_soon_threadsafe(reset)

    def look(self, do: Do) -> None:
        stats = self.manager.get_stats(timeout=20)
        ended = {"completed", "error", "stopped"}
        running = sum(n for status, n in stats.streams_by_status.items() if status not in ended)
        assert running <= 2 * self.slots
        self.manager.get_stream_info(self.pick(do.which), timeout=20)

    def ask_nonsense(self, _do: Do) -> None:
        self.manager.tell(object())
        self.manager.ask("nonsense", timeout=20)

    def kill_manager(self, _do: Do) -> None:
        kill(self.manager)

    def kill_streams(self, _do: Do) -> None:
        kill(self.tables[-1].supervisor)

    def kill_root(self, _do: Do) -> None:
        root = cast("Any", supervisor_of(self.manager))
        kill(root)
        assert root.join(20)
        self.new_manager()

    # -- and what it has to look like

    def judge(self) -> None:
        due = [
            (stream_id, member)
            for stream_id, members in self.members.items()
            for member in members
            if not member.left and member.probe.ref.is_alive()
        ]
        by_probe: dict[int, dict[str, list[Any]]] = {}

        def heard(probe: Probe) -> dict[str, list[Any]]:
            streams: dict[str, list[Any]] = {}
            for message in probe.messages:
                streams.setdefault(message.stream_id, []).append(message)
            return streams

        def all_told() -> bool:
            return all(
                isinstance(heard_of.get(stream_id, [None])[-1], LAST)
                for stream_id, member in due
                for heard_of in [by_probe.setdefault(id(member.probe), heard(member.probe))]
            )

        def again() -> bool:
            by_probe.clear()
            return all_told()

        with contextlib.suppress(AssertionError):  # check_history says whom
            eventually(again, timeout=20)
        by_probe.clear()
        wrong: list[tuple[Any, Any]] = []
        for stream_id, members in self.members.items():
            for member in members:
                told = by_probe.setdefault(id(member.probe), heard(member.probe)).get(stream_id, [])
                ended = [stream_id] if (stream_id, member) in due else False
                steps = self.steps(stream_id, member, told)
                wrong += [
                    (violation, [_short(m) for m in told[max(0, violation.index - 5) : violation.index + 2]])
                    for violation in check_history(
                        told, after=member.after, first=member.first, ended=ended, steps=steps
                    )
                ]
                wrong += self.otherwise_wrong(stream_id, member, told)
        assert not wrong, f"CHAOS_SEED={self.seed}: {len(wrong)} violations, the first: {wrong[:3]}"
        for table in self.tables:
            assert (table._running, len(table._waiting), table._watched) == (0, 0, {}), self.seed

    def steps(
        self, stream_id: str, member: Subscribed, told: list[Any]
    ) -> dict[str, list[dict[str, Any]]] | None:
        """The steps that a subscriber must have at the end of an interaction, where it was told all of it."""
        if not interactions.is_interaction(stream_id) or not _had_all(member, told):
            return None
        if isinstance(told[-1], StreamComplete):
            self.done["whole interactions"] += told[-1].ok
        return {stream_id: interactions.steps_of(self.seed, *_named(stream_id))}

    def otherwise_wrong(self, stream_id: str, member: Subscribed, told: list[Any]) -> list[tuple[str, Any]]:
        """What `check_history` does not look at: needless POSTs, and the text behind a cursor."""
        wrong: list[tuple[str, Any]] = []
        resumable = interactions.is_interaction(stream_id) and "foreground" not in stream_id
        last = told[-1] if told else None
        to_the_end = isinstance(last, LAST) and not isinstance(
            getattr(last, "error", None), SlowSubscriberError
        )
        there_at_first = member.first == 0 and member.after is None and not member.left
        all_told = resumable and to_the_end and there_at_first
        if all_told and self.seen[stream_id] > interactions.posts_told(told):
            wrong.append((f"{stream_id}: {self.seen[stream_id]} POSTs", [_short(m) for m in told]))
        if stream_id in self.resumed and told and isinstance(told[-1], StreamComplete) and told[-1].ok:
            self.done["whole resumed"] += 1
            if texts(told) != self.resumed[stream_id]:
                wrong.append((f"{stream_id}: {texts(told)!r}", self.resumed[stream_id]))
        return wrong

    def close(self) -> None:
        if self.manager.is_alive():
            self.manager.stop(timeout=20)
        for probe in self.probes:
            if probe.ref.is_alive():
                probe.stop()


def _named(stream_id: str) -> tuple[str, int]:
    """The kind and the number of a stream."""
    kind, _, number = stream_id.rpartition(" ")
    return kind, int(number)


def _had_all(member: Subscribed, told: list[Any]) -> bool:
    """Whether nothing of the stream was left out for this subscriber."""
    began = member.after is FROM_START or (member.after is None and member.first == 0)
    return began and bool(told) and not any(isinstance(message, EventsDropped) for message in told)


def _short(message: Any) -> str:
    match message:
        case StreamEvent():
            return f"{message.attempt}/{message.sequence}"
        case StreamRestarting():
            return f"restart {message.attempt} at {message.resume_at}"
    return repr(message)[:200]


def _run(streams: int, seconds: float, kinds: dict[str, int]) -> Chaos:
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1 << 30))
    print(f"CHAOS_SEED={seed}")  # noqa: T201 - pytest shows it where the test fails
    with LocalGemini() as gemini:
        chaos = Chaos(seed, gemini)
        try:
            chaos.run(plan(seed, streams, seconds, kinds), streams)
        finally:
            chaos.close()
    eventually(lambda: not leaked_threads(), timeout=20, what=f"CHAOS_SEED={seed}: threads are left")
    return chaos


def test_the_same_seed_decides_the_same() -> None:
    assert plan(7, 200, 20, BOTH) == plan(7, 200, 20, BOTH)
    assert plan(7, 200, 20, BOTH) != plan(8, 200, 20, BOTH)
    for kind in BOTH:
        assert repr(answer_to(7, kind, 3, 1)) == repr(answer_to(7, kind, 3, 1)) or kind == "trickle"


@pytest.mark.timeout(120)
def test_chaos() -> None:
    chaos = _run(200, 18, KINDS)
    assert chaos.done["kill stream"] > 300, chaos.done


@pytest.mark.timeout(120)
def test_chaos_with_interactions() -> None:
    chaos = _run(100, 8, BOTH)
    assert chaos.done["kill stream"] > 150, chaos.done
    assert chaos.done["whole interactions"], chaos.done  # how many is the machine's business
    assert chaos.done["whole resumed"], chaos.done


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_chaos_for_long() -> None:
    _run(1000, 300, BOTH)
