"""Streams are launched at a pace: a thousand asked for at once do not stand in line for the interpreter."""

from __future__ import annotations

from typing import Any

import pytest

from conftest import StartManager
from gemini_streams import GetStats, RetryPolicy, StreamComplete, StreamError
from gemini_streams import launches as pace
from gemini_streams.launches import AT_ONCE, Launches
from gemini_streams.testing import LocalGemini, Reply
from pykka_supervisor import SYSTEM_CLOCK
from pykka_supervisor.testing import Probe


class Session:
    """As far as a launch needs one: something to tell apart."""


def test_no_more_than_so_many_are_between_their_start_and_their_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pace, "PATIENCE", 3600.0)
    woken: list[None] = []
    launches = Launches(lambda: woken.append(None))
    sessions: list[Any] = [Session() for _ in range(3 * AT_ONCE)]
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
        ref.stop(timeout=10)


def test_all_of_many_asked_for_at_once_are_launched(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("why", Reply("one two"))
    ref = manager(max_streams=300)
    for _ in range(300):
        ref.start_stream("why", subscriber=probe.ref)
    probe.wait(900, timeout=30)  # two events and an end each
    assert ref.ask(GetStats(), block=True).completed == 300
