"""What docs/otp-rules.md says is otherwise than in OTP, where no other test holds it."""

from __future__ import annotations

from pykka_supervisor import Backoff, ChildSpec, DynamicSupervisor, Supervisor
from pykka_supervisor.testing import TestClock
from supervisor.kit import Worker, crash, eventually, instance


def test_children_are_listed_in_start_order() -> None:
    sup = Supervisor.start([ChildSpec(Worker, id=name) for name in "ba"])
    sup.start_child(ChildSpec(Worker, id="c"))
    sup.terminate_child("b")
    sup.restart_child("b")
    assert [child.id for child in sup.which_children()] == ["b", "a", "c"]
    sup.terminate_child("b")
    sup.delete_child("b")
    sup.start_child(ChildSpec(Worker, id="b"))
    assert [child.id for child in sup.which_children()] == ["a", "c", "b"]
    sup.stop()

    dynamic = DynamicSupervisor.start()
    refs = [dynamic.start_child(Worker) for _ in range(4)]
    refs[1].tell(crash)
    refs[1].ask(instance)
    dynamic.terminate_child(refs.pop(0))
    refs.append(dynamic.start_child(Worker))
    assert [child.ref for child in dynamic.which_children()] == refs
    dynamic.stop()


def test_later_children_of_rest_for_one_wait_for_their_restart_with_ref_and_inbox() -> None:
    clock = TestClock()
    backoff = Backoff(5, 60, jitter=0)
    sup = Supervisor.start(
        [ChildSpec(Worker, id=name, backoff=backoff) for name in "abc"], strategy="rest_for_one", clock=clock
    )
    refs = [child.ref for child in sup.which_children()]
    assert refs[1] is not None
    assert refs[2] is not None
    before = refs[2].ask(instance)
    refs[1].tell(crash)
    clock.wait_for_timer()
    answer = refs[2].ask(instance, block=False)
    shown = sup.which_children()
    assert [child.status for child in shown] == ["running", "restarting", "restarting"]
    assert [child.ref for child in shown] == refs
    clock.advance(5)
    assert answer.get(timeout=20) != before
    eventually(lambda: {child.status for child in sup.which_children()} == {"running"})
    sup.stop()
