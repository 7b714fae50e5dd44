"""Delivery against a model, without network and threads: a Hypothesis state machine over a real `Session`.

The stream's thread, the subscribers' threads and the clock are played by the rules, one after another; what their
interleaving could do is played too: where the delivery reads how much a subscriber has acknowledged, `sneaky`
subscribers acknowledge all they have right behind that look, when it is too late for whoever looked.
"""

from __future__ import annotations

import copy
import queue
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gemini_streams import (
    FROM_START,
    EventsDropped,
    FlowControl,
    Gemini,
    HistoryGoneError,
    InvalidRequestError,
    RetryPolicy,
    SlowSubscriberError,
    StreamComplete,
    StreamEndedError,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
)
from gemini_streams.api.chosen import api
from gemini_streams.delivery import audience as audience_module
from gemini_streams.delivery import subscription as delivery_module
from gemini_streams.delivery.batches import ControlBatch, EventBatch
from gemini_streams.delivery.subscription import Subscription
from gemini_streams.errors import ConnectionLostError
from gemini_streams.http.sse import Decoder
from gemini_streams.options import Overflow, Place, Settings
from gemini_streams.streams import feed as feed_module
from gemini_streams.streams import recovery
from gemini_streams.streams.attempt import Attempt
from gemini_streams.streams.feed import Feed
from gemini_streams.streams.members import Members
from gemini_streams.streams.observed import Observed
from gemini_streams.streams.pacing import Launches
from gemini_streams.streams.pump import Pump
from gemini_streams.streams.rate_limits import Cooldowns
from gemini_streams.streams.session import Session
from gemini_streams.testing import check_history
from pykka_supervisor.mailbox import Mailbox
from pykka_supervisor.testing import TestClock

LAST = (StreamComplete, StreamError, StreamStopped)
STALL = 60.0


class Parked(Exception):  # noqa: N818 - no error
    """The stream's thread would wait for room now."""


class ParkingLock:
    """Stands for the lock on which the stream's thread waits: the second `acquire` would block."""

    made: ClassVar[list[ParkingLock]] = []

    def __init__(self) -> None:
        self.taken = False
        self.released = False
        self.made.append(self)

    def acquire(self) -> None:
        if self.taken:
            raise Parked
        self.taken = True

    def release(self) -> None:
        self.released = True


class Table:
    """What a session needs of the table of all streams."""

    def __init__(self) -> None:
        self.launches: Launches[Session] = Launches(lambda: None)
        self.cooldowns = Cooldowns(TestClock())
        self.observed = Observed()

    def unwatch(self, ref: Any, session: Session) -> None: ...
    def ended(self, session: Session, *, idle: bool) -> None: ...
    def count_restart(self) -> None: ...


class PlainClass: ...


class BatchClass:
    takes_batches = True


class Enough(Exception):  # noqa: N818 - no error
    """A batch is left in the middle."""


class Person:
    """One subscriber's actor: what it has handled, and what is still in its inbox."""

    def __init__(self, number: int, kind: str) -> None:
        self.kind = kind
        self.actor_urn = f"urn:{number}"
        self.actor_class: type[Any] = BatchClass if kind == "batch" else PlainClass
        self.actor_inbox: Any = (
            queue.Queue(maxsize=2)
            if kind == "bounded"
            else Mailbox()
            if kind in ("batch", "mailbox")
            else queue.Queue()
        )
        self.subscription: Subscription | None = None
        self.after: Place = None
        self.first = 0
        """The sequence number at which the present subscription began."""
        self.joined = 1
        """The attempt then."""
        self.lowest = 0
        """The lowest one that it must have: a restart may take it further back."""
        self.segment: list[Any] = []
        """What has been handled of the present subscription."""
        self.content: dict[int, Any] = {}
        """Sequence number to data, or to `None` where it was dropped: all that stands, over all subscriptions."""
        self.last_seen: tuple[int, int] | None = None
        self.let_go = False
        self.read_when_looked_at = 0
        self.told_when_looked_at = 0
        self._left = 0

    def __repr__(self) -> str:
        return f"<{self.kind} {self.actor_urn}>"

    # the inbox

    @property
    def items(self) -> Any:
        inbox = self.actor_inbox
        return inbox._items if isinstance(inbox, Mailbox) else inbox.queue

    def waiting(self) -> Iterator[Any]:
        """What is in the inbox and not handled."""
        for envelope in self.items:
            message = envelope.message
            if isinstance(message, EventBatch):
                yield from copy.copy(message.rest)
            elif isinstance(message, ControlBatch):
                yield message.message
            elif envelope.reply_to is None:
                yield message

    def handle(self, count: int) -> int:
        """Handle so many messages, and the requests for acknowledgement before and among them."""
        self._left = count
        while self.items:
            envelope = self.items[0]
            message = envelope.message
            if envelope.reply_to is not None:
                self.items.popleft()
                envelope.reply_to.set(self.actor_urn)
                continue
            if self._left <= 0:
                break
            if self.kind == "batch":
                try:
                    self.items.popleft()
                    message.run(self)
                except Enough:
                    self.items.appendleft(envelope)  # as an incarnation that crashed does
            else:
                self.items.popleft()
                self._take(message)
        return count - self._left

    def on_stream_event(self, event: StreamEvent) -> None:
        self._take(event)
        if self._left <= 0:
            raise Enough

    def on_stream_message(self, message: Any) -> None:
        self._take(message)

    def _take(self, message: Any) -> None:
        self._left -= 1
        self.segment.append(message)
        match message:
            case StreamEvent():
                assert message.sequence not in self.content, "an event that stands came twice"
                assert message.data["s"] == message.sequence
                self.content[message.sequence] = message.data
                self.last_seen = (message.attempt, message.sequence)
            case EventsDropped():
                assert message.count > 0
                for number in range(message.first_sequence, message.first_sequence + message.count):
                    assert number not in self.content
                    self.content[number] = None
                self.last_seen = (message.attempt, message.first_sequence + message.count - 1)
            case StreamRestarting():
                for number in [n for n in self.content if n >= message.resume_at]:
                    del self.content[number]
                self.lowest = min(self.lowest, message.resume_at)
            case StreamError() if isinstance(message.error, SlowSubscriberError):
                self.let_go = True


def flows() -> st.SearchStrategy[FlowControl]:
    return st.builds(
        FlowControl,
        window=st.sampled_from([1, 2, 3, 4, 8, 1000]),
        max_bytes=st.sampled_from([1, 100, 300, 1000, 100_000]),
        overflow=st.sampled_from(["pause", "drop_oldest", "drop_newest", "disconnect"]),
        stall_timeout=st.just(STALL),
    )


class Delivery(RuleBasedStateMachine):
    """One stream and its subscribers."""

    def __init__(self) -> None:
        super().__init__()
        self.people: list[Person] = []
        self.clock = TestClock()
        self.truth: list[Any] = []
        self.decoder = Decoder(1 << 20)
        self.late: list[Subscription] = []
        self.errands: list[Any] = []
        self.meanwhile: str | None = None
        self.sneaks = 0
        self.join_in_between: Any = None
        self.patched = pytest.MonkeyPatch()
        machine = self
        on_credit, fits, fitting, common_room = (
            Members.on_credit,
            Subscription._fits,
            Subscription._fitting,
            delivery_module.common_room,
        )

        def credit(members: Members, subscription: Subscription) -> None:
            if members.lock.locked():  # in its own thread it would wait for the lock
                machine.late.append(subscription)
            else:
                on_credit(members, subscription)

        def looked(original: Any) -> Any:
            def look(subscription: Subscription, *args: Any) -> Any:
                found = original(subscription, *args)
                machine.sneak(subscription)
                return found

            return look

        def looked_at_all(subscriptions: Any, size: int) -> Any:
            subscriptions = tuple(subscriptions)
            found = common_room(subscriptions, size)
            for subscription in subscriptions:
                machine.sneak(subscription)
            return found

        class Errand:
            """One whose thread runs when the machine settles."""

            def __init__(self, lock: Any, work: Any, name: str) -> None:
                self.lock, self.work, self.runs = lock, work, False

            def run(self) -> None:
                self.runs = True
                self.work()
                self.runs = False

            def wake(self) -> None:
                assert self.lock.locked()
                if self not in machine.errands:
                    machine.errands.append(self)

        original_event = Members.event

        def event(members: Members, attempt: int, sequence: int, payload: bytes) -> StreamEvent:
            meanwhile, machine.meanwhile = machine.meanwhile, None
            if meanwhile is not None:
                machine.happen(meanwhile)
            return original_event(members, attempt, sequence, payload)

        self.patched.setattr(delivery_module, "Errand", Errand)
        self.patched.setattr(Members, "event", event)
        self.patched.setattr(Members, "on_credit", credit)
        self.patched.setattr(Subscription, "_fits", looked(fits))
        self.patched.setattr(Subscription, "_fitting", looked(fitting))
        self.patched.setattr(delivery_module, "common_room", looked_at_all)
        self.patched.setattr(audience_module, "common_room", looked_at_all)
        self.patched.setattr(feed_module, "common_room", looked_at_all)

    @initialize(history=st.sampled_from([0, 300, 2000, 1 << 20]))
    def start(self, history: int) -> None:
        self.history = history
        table: Any = Table()
        self.session = Session(
            run="0" * 8,
            stream_id="s",
            tag="tag",
            request=api.request("why", None),
            targets=(Gemini(api_key="k", base_url="http://127.0.0.1:1").resolve(),),
            models=("m",),
            options=Settings(
                model="m",
                config=None,
                idle_timeout=30.0,
                first_event_timeout=300.0,
                deadline=None,
                retry=RetryPolicy(attempts=1000, initial_delay=0, jitter=0),
                flow=FlowControl(),
                history=history,
                keep=1e9,
                max_event_bytes=1 << 20,
                linger=5.0,
                clock=self.clock,
            ),
            table=table,
        )
        self.session.launched()
        self.attempt: Attempt | None = None
        self.parked: ParkingLock | None = None
        self._begin()

    def teardown(self) -> None:
        try:
            if hasattr(self, "session"):
                self._end_well()
        finally:
            self.patched.undo()

    # -- what the rules are made of

    def sneak(self, subscription: Subscription) -> None:
        if not self.sneaks:
            return
        self.sneaks -= 1
        for person in self.people:
            if person.subscription is subscription:
                person.handle(10**9)

    def settle(self) -> None:
        """What waited for the lock has it now; a stream that was woken goes on."""
        while True:
            ready = [errand for errand in self.errands if not errand.runs]
            if not ready and not self.late and (self.parked is None or not self.parked.released):
                return
            if ready and (not self.late or len(ready) > 1):
                self.errands.remove(ready[0])
                ready[0].run()
            elif self.late:
                self.session.members.on_credit(self.late.pop(0))
            else:
                self._pump()

    def happen(self, what: str) -> None:
        """Do something while a piece of a replay is being decoded."""
        match what:
            case "read":
                self._read_one()
            case "handle":
                for person in self.people:
                    person.handle(1)
            case "leave":
                for person in self.people:
                    if person.subscription is not None and person.subscription.replaying:
                        self._leave(person, read=True)
            case "fail":
                if self.attempt is not None and not self.session.ended:
                    self.fail()
            case end:
                self.end(end)

    def _begin(self) -> None:
        if self.attempt is None:
            self.attempt = self.session.begin()
            self.decoder = Decoder(1 << 20)
            if self.attempt is not None:
                Feed(self.session, self.attempt).answering()

    def _pump(self) -> None:
        """The loop of the stream's thread, until it has nothing or would wait."""
        self.parked = None
        attempt = self.attempt
        while attempt is not None and not self.session.ended and self.decoder.waiting:
            ParkingLock.made.clear()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(audience_module, "threading", SimpleNamespace(Lock=ParkingLock))
                try:
                    count, room = Feed(self.session, attempt).room(self.decoder.next_size)
                except Parked:
                    self.parked = ParkingLock.made[-1]
                    if not self.parked.released:
                        return
                    continue
            payloads = self.decoder.take(count, room)
            if self.join_in_between is not None:
                joining, self.join_in_between = self.join_in_between, None
                self._join(*joining)
            pump: Any = SimpleNamespace(
                _session=self.session,
                _attempt=attempt,
                _into=Feed(self.session, attempt),
                _exchange=SimpleNamespace(whole=False),
            )
            for payload in payloads:
                self.truth.append(msgspec.json.decode(payload))
            Pump._deliver(pump, payloads)

    def _join(self, person: Person, flow: FlowControl, after: Place) -> None:
        session = self.session
        expected = len(self.truth)
        already = any(s.urn == person.actor_urn and not s.closed for s in session.audience.all)
        kept = session.history.oldest
        oldest = len(self.truth) if kept is None else kept
        try:
            subscription = session.members.subscribe(person, after, flow)  # type: ignore[arg-type]
        except HistoryGoneError:
            assert oldest > 0, "the history goes back to the start"
            assert after is not None
            return
        except InvalidRequestError:
            assert isinstance(after, tuple)
            assert after[0] > session.attempt or after[1] >= len(self.truth)
            return
        except StreamEndedError:
            assert session.ended
            assert after is None
            return
        if subscription is None:
            assert already or session.ended
            return
        assert not already
        if not isinstance(after, tuple):  # it begins anew, also where it will never read what it gets now
            person.content.clear()
            person.last_seen = None
            person.first = expected if after is None else 0
        person.subscription, person.after, person.segment = subscription, after, []
        person.read_when_looked_at = -1
        person.joined = session.attempt
        if not isinstance(after, tuple):
            person.lowest = person.first
        person.let_go = False

    def _leave(self, person: Person, *, read: bool) -> None:
        was = person.subscription
        left = self.session.members.unsubscribe(person.actor_urn)
        before = len(person.items)
        self.settle()
        if read:
            person.handle(10**9)
        else:
            person.items.clear()
        assert len(person.items) <= before or not left
        if was is not None:
            self._judge(person, ended=False)
        person.subscription = None

    def _judge(self, person: Person, *, ended: bool) -> None:
        first = person.first if person.after is None and (person.first or person.joined == 1) else None
        found = check_history(
            person.segment, after=person.after, first=first, ended={"s"} if ended else False
        )
        assert not found, (person, found, person.segment)

    def _end_well(self) -> None:
        """Everybody reads to the end; nobody waits for ever, and what each has is the truth."""
        self.settle()
        for _ in range(100_000):
            for person in self.people:
                person.handle(3)
            self.settle()
            if not any(person.items for person in self.people):
                break
        assert self.parked is None, "everybody has read everything, and the stream still waits"
        if not self.session.ended:
            assert not self.decoder.waiting or self.attempt is None
            if self.attempt is None:
                self._begin()
            assert self.attempt is not None
            self.attempt.meaning.finish_reason = "STOP"
            Feed(self.session, self.attempt).complete()
        for _ in range(100_000):
            for person in self.people:
                person.handle(3)
            self.settle()
            if not any(person.items for person in self.people):
                break
        for person in self.people:
            if person.subscription is None:
                continue
            self._judge(person, ended=True)
            last = person.segment[-1]
            if isinstance(last, StreamComplete) or (isinstance(last, StreamError) and not person.let_go):
                wanted = dict(enumerate(self.truth))
                for number in range(person.lowest):
                    wanted.pop(number, None)
                assert person.content.keys() == wanted.keys(), (person, person.segment)
                for number, data in person.content.items():
                    assert data is None or data == wanted[number]
                if person.subscription.pausing:
                    lost = [m for m in person.segment if isinstance(m, EventsDropped)]
                    assert not lost, "pause loses nothing"

    # -- the rules

    @rule(
        sizes=st.lists(st.sampled_from([0, 0, 50, 90, 250, 2000]), min_size=1, max_size=12),
        token=st.one_of(st.none(), st.integers(0, 11)),
        sneaks=st.sampled_from([0, 0, 1, 2, 5]),
    )
    @precondition(lambda self: self.attempt is not None and not self.session.ended)
    def read(self, sizes: list[int], token: int | None, sneaks: int) -> None:
        self._feed(sizes, token)
        self.sneaks = sneaks
        if self.parked is None:
            self._pump()
        self.settle()
        self.sneaks = 0

    def _feed(self, sizes: list[int], token: int | None) -> None:
        number = len(self.truth) + self.decoder.waiting
        body = b""
        for index, size in enumerate(sizes):
            candidate = {"continuationToken": f"t{number}"} if index == token else {}
            data = {"candidates": [candidate], "s": number, "a": self.session.attempt, "pad": "x" * size}
            body += b"data: " + msgspec.json.encode(data) + b"\n\n"
            number += 1
        self.decoder.feed(body)

    def _read_one(self) -> None:
        if self.attempt is not None and not self.session.ended:
            self._feed([0], None)
            if self.parked is None:
                self._pump()
            self.settle()

    @rule(
        kind=st.sampled_from(["plain", "bounded", "mailbox", "batch"]),
        flow=flows(),
        after=st.sampled_from([None, FROM_START]),
        in_between=st.booleans(),
    )
    @precondition(lambda self: len(self.people) < 5)
    def join(self, kind: str, flow: FlowControl, after: Place, in_between: bool) -> None:
        person = Person(len(self.people), kind)
        self.people.append(person)
        if in_between and self.parked is None and not self.session.ended:
            self.join_in_between = (person, flow, after)
        else:
            self._join(person, flow, after)
            self.settle()

    @rule(
        who=st.integers(0, 4),
        flow=flows(),
        how=st.sampled_from(["last", "start", "live", "ahead"]),
        sneaks=st.sampled_from([0, 1, 3]),
    )
    def come_back(self, who: int, flow: FlowControl, how: str, sneaks: int) -> None:
        if who >= len(self.people):
            return
        person = self.people[who]
        if self.join_in_between is not None and self.join_in_between[0] is person:
            return  # it has not come for the first time yet
        present = person.subscription is not None and not person.subscription.closed
        if not present and person.subscription is not None:
            person.handle(10**9)
        after: Place = None
        match how:
            case "last":
                after = person.last_seen or FROM_START
            case "start":
                after = FROM_START
            case "ahead":
                after = (self.session.attempt, len(self.truth))
        if present:  # it changes nothing
            before = list(person.items)
            self._join(person, flow, after)
            assert list(person.items) == before
            return
        self.sneaks = sneaks
        self._join(person, flow, after)
        self.settle()
        self.sneaks = 0

    @rule(what=st.sampled_from(["read", "handle", "leave", "fail", "stop", "complete"]))
    def while_a_piece_is_decoded(self, what: str) -> None:
        """The next one of a replay."""
        self.meanwhile = what

    @rule(who=st.integers(0, 4), count=st.sampled_from([1, 2, 5, 100]))
    def handle(self, who: int, count: int) -> None:
        if who < len(self.people):
            self.people[who].handle(count)
            self.settle()

    @rule(who=st.integers(0, 4), read=st.booleans())
    def leave(self, who: int, read: bool) -> None:
        if who < len(self.people):
            self._leave(self.people[who], read=read)

    @rule(who=st.integers(0, 4), noticed_late=st.booleans())
    def die(self, who: int, noticed_late: bool) -> None:
        if who < len(self.people):
            person = self.people[who]
            if noticed_late and isinstance(person.actor_inbox, Mailbox):
                person.actor_inbox.close()
                self._read_one()
                person.actor_inbox = Mailbox()
            self.session.members.unsubscribe(person.actor_urn, gone=True)
            assert not self.session.members.has(person.actor_urn)
            person.items.clear()
            person.subscription = None
            person.actor_urn += "'"
            person.content.clear()
            person.last_seen = None
            self.settle()

    @rule()
    @precondition(lambda self: self.attempt is not None and not self.session.ended)
    def fail(self) -> None:
        delay = recovery.failed(self.session, ConnectionLostError("cut"))
        assert delay == 0
        del self.truth[self.session.next_sequence :]
        self.attempt = None
        self.parked = None
        self.decoder = Decoder(1 << 20)
        self.settle()

    @rule()
    @precondition(lambda self: self.attempt is None)
    def try_again(self) -> None:
        self._begin()

    @rule()
    @precondition(lambda self: self.parked is not None)
    def stall(self) -> None:
        """Those who hold the stream are let go, and nobody else."""
        holding = [s for s in self.session.audience.pausing if s.stalled_since is not None]
        assert holding
        self.clock.advance(STALL)
        assert all(s.closed for s in holding)
        self.settle()

    @rule(how=st.sampled_from(["complete", "stop", "fail"]))
    def end(self, how: str) -> None:
        if self.session.ended:
            return
        if how == "complete":
            if self.attempt is None or self.decoder.waiting:
                return
            self.attempt.meaning.finish_reason = "STOP"
            Feed(self.session, self.attempt).complete()
        elif how == "stop":
            assert self.session.stop("requested")
            for person in self.people:
                if person.subscription is not None:
                    assert person.subscription.closed, "at StopStream the last message comes at once"
        else:
            self.session.fail(ConnectionLostError("for good"))
        self.attempt = None
        self.parked = None
        self.settle()

    # -- what always holds

    @invariant()
    def windows_hold(self) -> None:
        for person in self.people:
            subscription = person.subscription
            if subscription is None or subscription.closed:
                continue
            flow = subscription.flow
            messages = list(person.waiting())
            events = [m for m in messages if isinstance(m, StreamEvent)]
            size = sum(len(msgspec.json.encode(event.data)) for event in events)
            assert len(events) <= flow.window, (person, flow)
            assert size <= flow.max_bytes or len(events) == 1, (person, flow, size)
            if flow.overflow.startswith("drop") and not subscription.replaying:
                buffered = subscription.backlog.count
                assert len(events) + buffered <= flow.window
                assert size + subscription.backlog.size <= flow.max_bytes or len(events) + buffered == 1, (
                    person,
                    flow,
                )
            gaps = sum(isinstance(m, EventsDropped) for m in messages)
            told = gaps - (len(messages) - gaps)
            if person.read_when_looked_at != len(person.segment):
                person.read_when_looked_at, person.told_when_looked_at = len(person.segment), told
            more = told - person.told_when_looked_at
            assert more <= 1, "who does not read is told of gap after gap"

    @invariant()
    def the_fields_follow_the_status(self) -> None:
        if not hasattr(self, "session"):
            return
        session = self.session
        assert (session.audience.told is not None) == session.ended
        if session.status not in ("starting", "active"):
            assert session.current is None
        if session.ended:
            assert session.audience.parked is None
        elif session.audience.all:
            assert session.watchdog.keep_until is None

    @invariant()
    def a_stream_waits_for_somebody(self) -> None:
        if not hasattr(self, "session") or self.parked is None or self.parked.released:
            return
        holding = [p for p in self.people if p.subscription in self.session.audience.pausing]
        assert any(p.items for p in holding), "the stream waits, and nobody has anything to read"


Delivery.TestCase.settings = settings(
    max_examples=400,
    stateful_step_count=40,
    deadline=None,
    report_multiple_bugs=False,
    phases=[
        phase for phase in Phase if phase is not Phase.explain
    ],  # it traces: slow, and a crowded machine is enough
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
TestDelivery = Delivery.TestCase


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_delivery_for_long() -> None:
    long = settings(Delivery.TestCase.settings, max_examples=5000, stateful_step_count=60)
    run_state_machine_as_test(Delivery, settings=long)


# What the machine has found, or may need long to find, as it prints it.


def test_the_last_events_of_a_replay_are_acknowledged() -> None:
    """Nothing is put behind them that would ask for it."""
    state = Delivery()
    state.start(history=1 << 20)
    state.read(sizes=[90, 250], sneaks=0, token=None)
    state.end(how="complete")
    flow = FlowControl(window=8, max_bytes=300)
    state.join(after=FROM_START, flow=flow, in_between=False, kind="plain")
    state.teardown()


def test_who_joins_between_room_and_delivery_is_not_forgotten() -> None:
    state = Delivery()
    state.start(history=0)
    state.join(after=None, flow=FlowControl(window=1, max_bytes=1), in_between=True, kind="plain")
    state.read(sizes=[0, 0], sneaks=0, token=None)
    state.teardown()


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_who_does_not_read_is_told_of_one_gap(overflow: Overflow) -> None:
    state = Delivery()
    state.start(history=0)
    flow = FlowControl(window=4, max_bytes=300, overflow=overflow)
    state.join(after=None, flow=flow, in_between=False, kind="plain")
    for _ in range(50):
        state.read(sizes=[50, 90], sneaks=0, token=None)
        state.windows_hold()
    [person] = state.people
    assert len(person.items) <= 8
    state.teardown()


def test_credit_that_comes_while_it_is_looked_at_is_not_lost() -> None:
    for sneaks in range(1, 12):
        for kind in ("plain", "batch"):
            for overflow in ("pause", "drop_oldest"):
                state = Delivery()
                state.start(history=0)
                flow = FlowControl(window=3, overflow=overflow)
                state.join(after=None, flow=flow, in_between=False, kind=kind)
                for _ in range(4):
                    state.read(sizes=[0] * 7, sneaks=sneaks, token=None)
                state.teardown()


@pytest.mark.parametrize("what", ["read", "handle", "leave", "fail", "stop", "complete"])
@pytest.mark.parametrize("ended", [False, True], ids=["running", "ended"])
def test_what_happens_while_a_piece_of_a_replay_is_decoded(what: str, *, ended: bool) -> None:
    """The piece is put in its place, or not at all."""
    for kind in ("plain", "mailbox", "batch"):
        for overflow in ("pause", "drop_oldest", "drop_newest", "disconnect"):
            for window in (1, 4, 1000):
                state = Delivery()
                state.start(history=1 << 20)
                for _ in range(4):
                    state.read(sizes=[0] * 30, sneaks=0, token=29)
                if ended:
                    state.end(how="complete")
                state.while_a_piece_is_decoded(what)
                flow = FlowControl(window=window, overflow=overflow)
                state.join(after=FROM_START, flow=flow, in_between=False, kind=kind)
                assert state.meanwhile is None
                state.windows_hold()
                state.handle(who=0, count=3)
                if not state.session.ended:
                    if state.attempt is None:
                        state.try_again()
                    for _ in range(3):
                        state.read(sizes=[0] * 5, sneaks=0, token=None)
                        state.windows_hold()
                state.teardown()
