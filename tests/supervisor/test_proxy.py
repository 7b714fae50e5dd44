"""A proxy holds the ref, not a life: it can be made between two, and keeps no dead one in memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pykka
import pytest

from pykka_supervisor import Backoff, ChildSpec, Supervisor
from pykka_supervisor.testing import TestClock, await_restart
from supervisor.kit import Boom, eventually


class Player:
    """A part of an actor that its proxy shows."""

    pykka_traversable = True

    def play(self) -> str:
        return "played"


class Radio(pykka.ThreadingActor):
    """As Pykka's text has it: a plain actor that keeps a proxy of itself."""

    player = Player()

    def __init__(self, lives: weakref.WeakSet[Any]) -> None:
        super().__init__()
        lives.add(self)
        self.volume = 5
        self._in_future = self.actor_ref.proxy()

    def crash(self) -> None:
        raise Boom("on purpose")

    def double(self, number: int) -> int:
        return number * 2

    def later(self, number: int) -> Any:
        return self._in_future.double(number)


@pytest.fixture
def lives() -> Iterator[weakref.WeakSet[Any]]:
    gc.collect()
    gc.disable()
    yield weakref.WeakSet()
    gc.enable()


def test_a_proxy_that_is_kept_keeps_no_dead_incarnation(lives: weakref.WeakSet[Any]) -> None:
    sup = Supervisor.start([ChildSpec(Radio, (lives,))], max_restarts=100)
    ref: Any = sup.which_children()[0].ref
    proxy = ref.proxy()
    assert proxy.player.play().get(timeout=20) == "played"
    for count in range(1, 6):
        proxy.crash.defer()
        assert await_restart(ref) == count
        assert proxy.later(count).get(timeout=20).get(timeout=20) == count * 2
        assert proxy.player.play().get(timeout=20) == "played"
        assert len(lives) == 1
    sup.stop()
    eventually(lambda: not lives)


def test_a_proxy_is_made_while_its_actor_waits_for_its_restart(lives: weakref.WeakSet[Any]) -> None:
    clock = TestClock()
    sup = Supervisor.start([ChildSpec(Radio, (lives,), backoff=Backoff(5, 5, jitter=0))], clock=clock)
    ref: Any = sup.which_children()[0].ref
    older = ref.proxy()
    older.crash.defer()
    clock.wait_for_timer()
    eventually(lambda: not lives)
    proxy = ref.proxy()
    assert proxy == older
    assert hash(proxy) == hash(older)
    with pytest.raises(AttributeError, match="_in_future"):
        _ = proxy._in_future
    answers = [proxy.double(4), proxy.volume, proxy.player.play(), proxy.nothing, older.volume]
    clock.advance(5)
    assert [answers[0].get(timeout=20), answers[1].get(timeout=20), answers[2].get(timeout=20)] == [
        8,
        5,
        "played",
    ]
    with pytest.raises(AttributeError, match="nothing"):
        answers[3].get(timeout=20)
    assert answers[4].get(timeout=20) == 5
    with pytest.raises(AttributeError, match="nothing"):
        _ = proxy.nothing
    assert proxy == older == ref.proxy()
    sup.stop()
    with pytest.raises(pykka.ActorDeadError):
        ref.proxy()
    with pytest.raises(pykka.ActorDeadError):
        proxy.double(1).get(timeout=20)


def test_pykkas_own_class_is_a_child_as_any_other() -> None:
    sup = Supervisor.start([pykka.ThreadingActor])
    ref: Any = sup.start_child(ChildSpec(pykka.ThreadingActor, id="second"))
    assert ref.actor_class is pykka.ThreadingActor
    assert ref.stop()
    assert await_restart(ref) == 1
    sup.stop()
