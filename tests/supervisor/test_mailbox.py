"""The inbox: atomic close, one wake-up, bounded buffers, and hand-over to the next incarnation."""

from __future__ import annotations

import threading
import time
from typing import Any

import pykka
import pytest

from pykka_supervisor import ChildSpec, Mailbox, SupervisedActor, Supervisor, kill
from pykka_supervisor._pykka import Envelope
from pykka_supervisor.mailbox import PARKED, Receiver
from pykka_supervisor.testing import TestClock, await_restart
from supervisor.kit import Block, Boom, Worker, eventually


def numbered(count: int) -> list[Envelope[Any]]:
    return [Envelope(number) for number in range(count)]


def test_first_in_first_out_and_unget_goes_first() -> None:
    mailbox = Mailbox()
    mailbox.put_many(numbered(3))
    mailbox.put(Envelope(3))
    mailbox.unget(Envelope("first"))
    assert mailbox.qsize() == 5
    assert [mailbox.get().message for _ in range(5)] == ["first", 0, 1, 2, 3]
    assert mailbox.empty()


def test_closed_refuses_all_and_gives_what_is_left() -> None:
    mailbox = Mailbox()
    mailbox.put_many(numbered(3))
    assert [envelope.message for envelope in mailbox.close()] == [0, 1, 2]
    assert mailbox.closed
    assert mailbox.close() == []
    for refused in (mailbox.put, mailbox.unget):
        with pytest.raises(pykka.ActorDeadError):
            refused(Envelope("x"))
    with pytest.raises(pykka.ActorDeadError):
        mailbox.put_many(numbered(2))
    with pytest.raises(pykka.ActorDeadError):
        mailbox.get()
    assert mailbox.empty()


def test_closing_wakes_who_waits() -> None:
    mailbox = Mailbox()
    seen: list[type[BaseException]] = []

    def wait() -> None:
        try:
            mailbox.get()
        except pykka.ActorDeadError as error:
            seen.append(type(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    eventually(lambda: mailbox._parked is not None)
    mailbox.close()
    waiting.join(20)
    assert seen == [pykka.ActorDeadError]


def test_many_senders_one_receiver_nothing_lost_nothing_twice() -> None:
    mailbox = Mailbox()
    receiver = Receiver(mailbox)
    got: list[tuple[int, int]] = []

    def receive() -> None:
        while (envelope := receiver.get()) is not None:
            got.append(envelope.message)

    def send(sender: int) -> None:
        for number in range(5000):
            mailbox.put(Envelope((sender, number)))
            if number % 500 == 0:
                time.sleep(0.0005)  # so that the receiver parks now and then

    consumer = threading.Thread(target=receive)
    senders = [threading.Thread(target=send, args=(sender,)) for sender in range(4)]
    for thread in (consumer, *senders):
        thread.start()
    for thread in senders:
        thread.join()
    eventually(lambda: len(got) == 20_000)
    receiver.retire()
    consumer.join(20)
    for sender in range(4):
        assert [number for who, number in got if who == sender] == list(range(5000))


@pytest.mark.parametrize("round_", range(30))
def test_hand_over_in_the_middle_of_the_traffic(round_: int) -> None:
    mailbox = Mailbox()
    first, second = Receiver(mailbox), Receiver(mailbox)
    taken: dict[str, list[int]] = {"first": [], "second": []}

    def receive(name: str, receiver: Receiver) -> None:
        while (envelope := receiver.get()) is not None:
            taken[name].append(envelope.message)

    old = threading.Thread(target=receive, args=("first", first))
    old.start()
    for number in range(200):
        mailbox.put(Envelope(number))
        if number == 50 + round_:
            first.retire()
            new = threading.Thread(target=receive, args=("second", second))
            new.start()
    eventually(mailbox.empty)
    eventually(lambda: second.since == PARKED)
    second.retire()
    old.join(20)
    new.join(20)
    assert taken["first"] + taken["second"] == list(range(200))


def test_a_retired_receiver_that_comes_back_late_gets_nothing() -> None:
    mailbox = Mailbox()
    receiver = Receiver(mailbox)
    mailbox.put_many(numbered(3))
    envelope = receiver.get()
    assert envelope is not None
    receiver.retire()
    assert receiver.get() is None
    assert mailbox.qsize() == 2


class Batch:
    """What a fast publisher puts: many items in one envelope."""

    __actor_batch__ = True

    def __init__(self, items: list[Any]) -> None:
        self._items = iter(items)
        self.discarded = False

    def run(self, actor: Any) -> None:
        for item in self._items:
            actor.handle(item)
            if actor.retired:
                return

    def discard(self) -> None:
        self.discarded = True


class Batching(SupervisedActor):
    def __init__(self, handled: list[Any]) -> None:
        super().__init__()
        self.handled = handled

    def handle(self, item: Any) -> None:
        self.handled.append(item)
        if callable(item):
            item(self)
        if item == "crash":
            raise Boom(item)

    def on_receive(self, message: Any) -> Any:
        return self.handle(message)


def test_a_batch_goes_on_in_the_next_incarnation_behind_the_item_that_killed() -> None:
    handled: list[Any] = []
    sup = Supervisor.start([ChildSpec(Batching, (handled,))], max_restarts=10)
    [info] = sup.which_children()
    ref = info.ref
    assert ref is not None
    batch = Batch([1, "crash", 2, "crash", 3])
    ref.actor_inbox.put_many([Envelope(batch), Envelope("behind")])
    ref.ask("last", timeout=20)
    assert await_restart(ref) == 2
    assert handled == [1, "crash", 2, "crash", 3, "behind", "last"]
    assert not batch.discarded
    sup.stop()


def test_a_batch_is_discarded_where_nobody_goes_on_with_it() -> None:
    handled: list[Any] = []
    ref = Batching.start(handled)
    block = Block()
    ref.tell(block)
    first, second = Batch([1, "crash", 2]), Batch([3])
    ref.actor_inbox.put_many([Envelope(first), Envelope(second)])
    block.release.set()
    assert ref.join(20)
    assert handled == [block, 1, "crash"]
    assert (first.discarded, second.discarded) == (True, True)
    assert ref.dead_letters == 2


def test_a_batch_of_a_killed_incarnation_goes_on_in_the_next() -> None:
    handled: list[Any] = []
    sup = Supervisor.start([ChildSpec(Batching, (handled,))])
    [info] = sup.which_children()
    ref = info.ref
    assert ref is not None
    block = Block()
    ref.tell(Batch([1, block, 2, 3]))
    assert block.entered.wait(20)
    assert kill(ref)
    block.release.set()
    await_restart(ref)
    ref.ask("last", timeout=20)
    assert handled == [1, block, 2, 3, "last"]
    sup.stop()


def test_a_batch_that_is_asked_is_answered() -> None:
    handled: list[Any] = []
    ref = Batching.start(handled)
    assert ref.ask(Batch([1, 2]), timeout=20) is None
    assert handled == [1, 2]
    ref.stop()


def test_a_late_thread_and_the_replacement_never_share_a_message() -> None:
    clock = TestClock()
    sup = Supervisor.start([ChildSpec(Worker, hang_after=1)], clock=clock, max_restarts=1000)
    [info] = sup.which_children()
    ref = info.ref
    assert ref is not None
    got: list[int] = []
    for _ in range(20):
        block = Block()
        ref.tell(block)
        assert block.entered.wait(20)
        for number in range(10):
            ref.tell(lambda _, number=number: got.append(number))
        clock.wait_for_timer(within=1)  # it is armed after the start, in the supervisor's thread
        clock.advance(1.1)
        # Now it is abandoned, or returns in time: whichever comes first.
        block.release.set()
        ref.ask("caught up", timeout=20)
    assert got == list(range(10)) * 20
    sup.stop()
