"""A scene for the tests of recovery: a server, a manager, subscribers; leaving it judges every history."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, cast

from gemini_streams import (
    ManagerActor,
    ManagerRef,
    RetryPolicy,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
)
from gemini_streams.testing import LocalGemini, Violation, check_history
from kit.helpers import eventually
from pykka_supervisor import supervisor_of
from pykka_supervisor.testing import Probe, TestClock

if TYPE_CHECKING:
    import pykka

    from gemini_streams.options import After
    from gemini_streams.streams.registry import Sessions

LAST = (StreamComplete, StreamError, StreamStopped)
ENDED = frozenset({"completed", "error", "stopped"})
AT_ONCE = RetryPolicy(initial_delay=0, jitter=0)
"""Four attempts, one right after the other."""
STEADY = RetryPolicy(jitter=0)
"""Four attempts, 0.5, 1 and 2 s apart."""


def table_of(manager: ManagerRef) -> Sessions:
    """The book behind a manager."""
    actor: Any = cast("Any", manager._cell.incarnation).actor
    return cast("Sessions", actor._table)


def texts(messages: list[Any]) -> str:
    """The text that stands, by the rules of `StreamRestarting`."""
    standing: dict[int, str] = {}
    for message in messages:
        if isinstance(message, StreamEvent):
            standing[message.sequence] = message.text
        elif isinstance(message, StreamRestarting):
            standing = {at: text for at, text in standing.items() if at < message.resume_at}
    return "".join(standing[at] for at in sorted(standing))


def _judge_one(probe: Probe, after: After, first: int | None) -> None:
    """What was put into its inbox, the probe's thread may still have to take out."""

    def wrong() -> list[Violation]:
        return check_history(probe.messages, after=after, first=first, ended=True)

    eventually(lambda: not wrong(), what=lambda: f"{wrong()} in {probe.messages}")


class Scene:
    """A `LocalGemini`, a manager on it, and probes. At its end nothing runs and every history is right."""

    def __init__(self, *, tls: bool = False, rcvbuf: int | None = None, **options: Any) -> None:
        self.gemini = LocalGemini(tls=tls, rcvbuf=rcvbuf).start()
        self.clock = cast("TestClock", options.get("clock"))
        options.setdefault("endpoint", self.gemini.endpoint)
        options.setdefault("retry", AT_ONCE)
        self.manager = ManagerActor.start(**options)
        self.table = table_of(self.manager)
        self._probes: list[tuple[Probe, After, int | None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if self.manager.is_alive():
                self.manager.stop(timeout=15)
            if kind is None:
                self.judge()
        finally:
            for probe, _after, _first in self._probes:
                if probe.ref.is_alive():
                    probe.stop()
            self.gemini.close()

    def judge(self) -> None:
        """Every history is right and ended, and nobody holds a slot or is watched."""
        for probe, after, first in self._probes:
            if probe.ref.is_alive():
                _judge_one(probe, after, first)
        assert (self.table._running, len(self.table._waiting)) == (0, 0)
        assert self.table._watched == {}

    def probe(self, *, after: After = None, first: int | None = 0) -> Probe:
        probe = Probe()
        self._probes.append((probe, after, first))
        return probe

    def start(self, text: str = "why", **options: Any) -> tuple[str, Probe]:
        probe = self.probe()
        return self.manager.start_stream(text, subscriber=probe.ref, **options), probe

    def ref(self, stream_id: str) -> pykka.ActorRef[Any]:
        """The stream's actor, once it is there."""
        session = self.table.find(stream_id)
        return cast("pykka.ActorRef[Any]", eventually(lambda: session.ref, what="the stream has no actor"))

    def streams(self) -> pykka.ActorRef[Any]:
        """The supervisor of the streams."""
        return cast("pykka.ActorRef[Any]", self.table.supervisor)

    def root(self) -> pykka.ActorRef[Any]:
        return cast("pykka.ActorRef[Any]", supervisor_of(self.manager))

    def status(self, stream_id: str) -> str:
        return self.manager.get_stream_info(stream_id, timeout=20).status

    def await_status(self, stream_id: str, *wanted: str) -> None:
        eventually(lambda: self.status(stream_id) in wanted, what=f"the stream did not become {wanted}")

    def held(self) -> int:
        """How many streams are held back by a wait that was named to another one."""
        return sum(len(quota.waiting) for quota in list(self.table.cooldowns.quotas.values()))

    def requests(self, text: str = "") -> int:
        return sum(text in record.text for record in self.gemini.requests)

    def ride(self, stream_id: str, probe: Probe, *, until: float = 10.0) -> tuple[list[float], Any]:
        """Turn the clock through every wait; the distances of the attempts, and the last message.

        Each wait is looked at from both sides: nothing is asked before it is over.
        """
        distances: list[float] = []
        while True:
            message = probe.expect((StreamRestarting, *LAST), lambda m: m.stream_id == stream_id, until)
            if isinstance(message, LAST):
                return distances, message
            distances.append(round(message.delay, 6))
            before = self.requests()
            if message.delay:
                self.clock.wait_for_timer(within=message.delay)
                self.clock.advance(message.delay - 0.001)
                time.sleep(0.02)
                assert self.requests() == before
                assert self.status(stream_id) == "restarting"
                self.clock.advance(0.001)


class Slow:
    """Runs a function in a thread; its result, or how long it took."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:
            self.error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def join(self, timeout: float = 10.0) -> Any:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "still at it"
        if self.error is not None:
            raise self.error
        return self.result
