"""Streams are launched at a pace: a thousand asked for at once do not stand in line for the interpreter."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import StartManager
from gemini_streams import GetStats, RetryPolicy, StreamComplete, StreamError
from gemini_streams.streams import pacing as pace
from gemini_streams.streams.pacing import AT_ONCE, Launches
from gemini_streams.testing import LocalGemini, Reply
from kit.helpers import eventually
from kit.scene import table_of
from pykka_supervisor import SYSTEM_CLOCK
from pykka_supervisor.testing import Probe


class Session:
    """As far as a launch needs one: something to tell apart, of a tenant."""

    def __init__(self, tenant: str = "one") -> None:
        self.target = SimpleNamespace(identity=("url", tenant))


SHARE = AT_ONCE * 4 // 5
"""What one tenant takes where there is no other."""


def test_no_more_than_so_many_are_between_their_start_and_their_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pace, "PATIENCE", 3600.0)
    monkeypatch.setattr(pace, "STUCK", 3600.0)
    woken: list[None] = []
    launches: Launches[Any] = Launches(lambda: woken.append(None))
    sessions: list[Any] = [Session(f"tenant {number}") for number in range(3 * AT_ONCE)]
    for session in sessions:
        launches.add(session)
    monkeypatch.setattr(SYSTEM_CLOCK, "call_later", lambda *_: None)
    first: list[Any] = [launches.next() for _ in range(AT_ONCE)]
    assert first == sessions[:AT_ONCE]
    assert launches.next() is None
    for session in first[: AT_ONCE // 2]:
        launches.out(session)
    assert not woken
    launches.out(first[-1])
    assert woken == [None]
    launches.out(first[-2])
    assert woken == [None]  # once is enough until the supervisor looks
    assert launches.next() is sessions[AT_ONCE]


@given(
    st.lists(st.sampled_from("abcd"), max_size=40),
    st.lists(st.sampled_from(["launch", "out", "end"]), max_size=80),
)
def test_tenants_are_served_by_turns_and_each_in_the_order_of_asking(
    asked: list[str], steps: list[str]
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pace, "PATIENCE", 3600.0)
        patched.setattr(pace, "STUCK", 3600.0)
        patched.setattr(pace, "AT_ONCE", 4)
        patched.setattr(SYSTEM_CLOCK, "call_later", lambda *_: None)
        launches: Launches[Any] = Launches(lambda: None)
        waiting: list[Any] = [Session(tenant) for tenant in asked]
        for session in waiting:
            launches.add(session)
        under_way: list[Any] = []
        turns: list[str] = []
        full: set[str] = set()  # tenants that were passed over at some time

        def has_a_place(tenant: str) -> bool:
            own = sum(s.target.identity[1] == tenant for s in under_way)
            return bool(5 * own < 4 * (4 - len(under_way) + own))

        for step in [*steps, *["out", "launch"] * len(asked)]:
            if step != "launch":
                if under_way:
                    launches.out(under_way.pop(0 if step == "out" else -1))
                continue
            launched: Any = launches.next()
            if launched is None:
                assert not any(map(has_a_place, {s.target.identity[1] for s in waiting}))
                continue
            tenant = launched.target.identity[1]
            assert has_a_place(tenant)
            full |= {s.target.identity[1] for s in waiting if not has_a_place(s.target.identity[1])}
            assert launched is next(s for s in waiting if s.target.identity[1] == tenant)
            waiting.remove(launched)
            under_way.append(launched)
            turns.append(tenant)
            assert len(under_way) <= 4
            # Between two turns of one tenant, each other one that waits has had its own.
            before = "".join(turns[:-1])
            if tenant in before:
                since = set(before[before.rindex(tenant) :])
                assert {s.target.identity[1] for s in waiting} <= since | full
        assert not waiting


def test_what_hangs_holds_no_place_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "PATIENCE", 3600.0)
    monkeypatch.setattr(SYSTEM_CLOCK, "call_later", lambda *_: None)
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    launches: Launches[Any] = Launches(lambda: None)
    for _ in range(3 * AT_ONCE):
        launches.add(cast("Any", Session()))
    for launched in (SHARE, SHARE, SHARE):
        assert sum(launches.next() is not None for _ in range(2 * AT_ONCE)) == launched
        now[0] += pace.STUCK


def test_tenants_whose_streams_hang_leave_places_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "PATIENCE", 3600.0)
    monkeypatch.setattr(pace, "STUCK", 3600.0)
    monkeypatch.setattr(SYSTEM_CLOCK, "call_later", lambda *_: None)
    launches: Launches[Any] = Launches(lambda: None)
    for dead in ("a dead one", "another"):
        for _ in range(AT_ONCE):
            launches.add(Session(dead))
        while launches.next() is not None:
            pass
    alive: Any = Session("alive")
    launches.add(alive)
    assert launches.next() is alive
    assert launches.next() is None


def test_another_tenant_waits_for_a_moment_only(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    """Behind a hundred and fifty streams of one tenant whose service swallows connects."""
    gemini.on("why", Reply("one"))
    nowhere = gemini.endpoint.__class__(api_key="another", base_url=gemini.unconnectable_url())
    ref = manager(max_streams=200, connect_timeout=1.5, shutdown=0.2, retry=RetryPolicy(attempts=1))
    ref.start_stream("why", subscriber=probe.ref)
    probe.expect(StreamComplete)
    with Probe() as lost:
        for _ in range(150):
            ref.start_stream("why", subscriber=lost.ref, endpoint=nowhere)
        begun = time.monotonic()
        ref.start_stream("why", subscriber=probe.ref)
        probe.expect(StreamComplete)
        assert time.monotonic() - begun < 1.0  # 2.4 s and more, where they stand in one line
        ref.stop(timeout=20)


def test_who_hangs_in_a_connect_holds_the_others_up_for_a_moment_only(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    nowhere = gemini.unconnectable_url()
    ref = manager(max_streams=200, connect_timeout=2.0, retry=RetryPolicy(attempts=1))
    stuck = gemini.endpoint.__class__(api_key="k", base_url=nowhere)
    with Probe() as lost:
        for _ in range(2 * AT_ONCE):
            ref.start_stream("why", subscriber=lost.ref, endpoint=stuck)
        ref.start_stream("why", subscriber=probe.ref)
        probe.expect(StreamComplete, timeout=1.9)
        assert not [m for m in lost.messages if isinstance(m, StreamError)]
        ref.stop(timeout=20)


def test_all_of_many_asked_for_at_once_are_launched(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("why", Reply("one two"))
    ref = manager(max_streams=300)
    for _ in range(300):
        ref.start_stream("why", subscriber=probe.ref)
    probe.wait(900, timeout=30)  # two events and an end each
    assert ref.ask(GetStats(), block=True).completed == 300


def test_a_stream_whose_request_is_out_holds_no_place(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("held", Reply("one two", hold_after=1))
    ref = manager(max_streams=100)
    for _ in range(40):
        ref.start_stream("held", subscriber=probe.ref)
    eventually(lambda: ref.get_stats().streams_by_status == {"active": 40})
    assert not table_of(ref).launches._under_way
