"""A hundred interactions at once that fall silent or are cut by the clock: guarantee 6, and one POST for each."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import pytest

from gemini_streams import APIError, IdleTimeoutError, RetryPolicy, StreamRestarting
from gemini_streams.testing import Interaction, Reply, check_history
from kit.helpers import eventually
from kit.scene import LAST, Scene
from pykka_supervisor.testing import Probe

STREAMS = 100
WORDS = [f"w{number} " for number in range(50)]
THOUGHTS = ["weigh ", "it \U0001f30a"]
STEPS = [
    {"type": "thought", "summary": [{"type": "text", "text": "".join(THOUGHTS)}]},
    {"type": "model_output", "content": [{"type": "text", "text": "".join(WORDS)}]},
]
PATIENT = RetryPolicy(attempts=50, initial_delay=0, jitter=0)
"""A crowded machine may leave a stream without progress a few times."""

How = tuple[Any, Any]
EVERY = list(product(["all", 7, "first", "none"], ["same", "merged", 3]))
"""Which events have ids, and how a replay is cut."""
ALL_AT_ONCE = pytest.param(EVERY, id="mixed")
ONE_BY_ONE = [pytest.param([how], id=f"{how[0]}-{how[1]}", marks=pytest.mark.soak) for how in EVERY]


def begin(scene: Scene, hows: list[How], pace: float, **options: Any) -> list[tuple[str, How, Probe]]:
    """Start the streams, with the ways of ids and replays in turn; each way has a pattern, and a gate."""
    for how in hows:
        interaction = Interaction(ids=how[0], replay=how[1], **options)
        reply = Reply(WORDS, thoughts=THOUGHTS, pace=pace, hold_after=30, interaction=interaction)
        scene.gemini.on(f"{how} ", reply)
    started = []
    for number in range(STREAMS):
        how = hows[number % len(hows)]
        probe = scene.probe()
        stream_id = scene.manager.start_interaction(f"{how} {number}", subscriber=probe.ref, tag=str(how))
        started.append((stream_id, how, probe))
    return started


def once_each(scene: Scene, started: list[tuple[str, How, Probe]]) -> None:
    """Each one is whole, has had the content of each event once, and has cost one POST."""
    for stream_id, how, probe in started:
        last = probe.expect(LAST, timeout=60)
        assert getattr(last, "ok", False), (how, last)
        assert check_history(probe.messages, ended=True, steps={stream_id: STEPS}) == [], how
        assert not [m for m in probe.messages if isinstance(m, StreamRestarting) and m.discard], how
    asked = Counter(record.action for record in scene.gemini.requests)
    assert asked["create"] == STREAMS
    assert asked["cancel"] == 0


@pytest.mark.parametrize("hows", [ALL_AT_ONCE, *ONE_BY_ONE])
def test_resumes_that_go_silent(hows: list[How]) -> None:
    """Each stream is reset, its second stream falls silent while the run is held, the later ones after its end."""
    with Scene(max_streams=STREAMS, idle_timeout=0.4, retry=PATIENT) as scene:
        started = begin(scene, hows, 0, cuts=[10], cut_by="reset", resume_silent_after=5)

        def looked_at() -> int:
            return len({record.path for record in scene.gemini.requests if record.action == "get"})

        eventually(lambda: looked_at() == STREAMS, timeout=60)
        assert not [m for _, _, probe in started for m in probe.messages if isinstance(m, LAST)]
        for how in hows:
            scene.gemini.gate(f"{how} ").open()
        once_each(scene, started)
        for _, how, probe in started:
            restarts = [m for m in probe.messages if isinstance(m, StreamRestarting)]
            assert any(isinstance(restart.error, IdleTimeoutError) for restart in restarts), how


@pytest.mark.parametrize("hows", [ALL_AT_ONCE, *ONE_BY_ONE])
def test_cut_by_the_clock_with_a_bare_array_behind(hows: list[How]) -> None:
    """What the service does after ten minutes, to every stream of the interaction."""
    with Scene(max_streams=STREAMS, retry=PATIENT) as scene:
        started = begin(scene, hows, 0.015, cut_seconds=0.2, cut_by="array")
        for how in hows:
            scene.gemini.gate(f"{how} ").open()
        once_each(scene, started)
        for _, how, probe in started:
            restarts = [m for m in probe.messages if isinstance(m, StreamRestarting)]
            codes = {restart.error.code for restart in restarts if isinstance(restart.error, APIError)}
            assert codes == {503}, how
