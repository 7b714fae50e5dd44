"""For `make soak`: a minute of each storm of `stress`; nothing is left unanswered, untold or behind."""

from __future__ import annotations

import random

import pytest

from supervisor import stress


@pytest.mark.soak
@pytest.mark.parametrize("name", list(stress.STORMS))
def test_a_storm_leaves_nothing(name: str) -> None:
    seed = random.randrange(1_000_000)
    count = stress.run(name, 60, seed)
    wrong = {
        "hung": count.hung,
        "downs lost": count.downs_lost,
        "downs doubled": count.downs_doubled,
        "actors left": count.actors_left,
        "threads left": count.threads_left,
        "instances left": count.instances_left,
    }
    assert not any(wrong.values()), (seed, count)
    assert count.asks > 1_000
