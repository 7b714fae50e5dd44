"""Fault injection for an application of one's own: a test suite that kills actors and breaks connections.

The application is a `Reporter`, which asks a question when it starts and keeps the answer. `pytest` runs this file, and
so does `python examples/test_faults.py`. Everything is real: the server on loopback, the threads, the kills.
"""

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pykka
import pytest

from gemini_streams import (
    Answer,
    ManagerActor,
    ManagerRef,
    RetryPolicy,
    StreamComplete,
    StreamCrashedError,
    StreamEvent,
    SubscriberActor,
)
from gemini_streams.testing import Failure, LocalGemini, Reply, check_history
from pykka_supervisor import ChildSpec, StaticSupervisorRef, Supervisor, kill, supervisor_of, whereis
from pykka_supervisor.testing import Probe, await_restart

TEXT = "Sales have risen in the north and fallen in the south."
QUICK = RetryPolicy(initial_delay=0.01, jitter=0.0)


class Reporter(SubscriberActor):
    """What is tested: asks at its start, and asks again after a restart of its own."""

    def __init__(self, done: threading.Event) -> None:
        super().__init__()
        self.answer = Answer()
        self._done = done

    def on_start(self) -> None:
        """Ask."""
        manager = whereis("gemini", ManagerRef)
        if manager is None:
            raise LookupError("no manager is called gemini")
        self._stream_id = manager.start_stream("How are sales?", subscriber=self.actor_ref)

    def on_stream_event(self, event: StreamEvent) -> None:
        """Keep an event of the present answer."""
        self._take(event)

    def _take(self, message: Any) -> None:
        if message.stream_id != self._stream_id:
            return  # asked for in a former life: a subscription outlives a restart
        self.answer.add(message)
        if self.answer.done:
            self._done.set()

    on_stream_restarting = on_events_dropped = _take
    on_stream_complete = on_stream_error = on_stream_stopped = _take


class Application:
    """The application's tree under test, and a look into it."""

    def __init__(self, gemini: LocalGemini) -> None:
        self.done = threading.Event()
        streams = ManagerActor.child_spec(name="gemini", endpoint=gemini.endpoint, retry=QUICK)
        reporter = ChildSpec(Reporter, (self.done,), id="reporter", name="reporter")
        self.tree: StaticSupervisorRef = Supervisor.start([streams, reporter], strategy="rest_for_one")

    @property
    def manager(self) -> ManagerRef:
        """The manager."""
        found = whereis("gemini", ManagerRef)
        assert found is not None
        return found

    def stream_actor(self) -> pykka.ActorRef[Any]:
        """Return the actor that carries the one stream at present."""
        ref = self.manager.get_stream_info(self.manager.list_streams()[0]).stream_ref
        assert ref is not None
        return ref

    def answer(self) -> Answer:
        """Wait for the reporter's answer."""
        assert self.done.wait(20)
        reporter = whereis("reporter")
        assert reporter is not None
        answer: Answer = reporter.proxy().answer.get()
        return answer


@pytest.fixture
def application(local_gemini: LocalGemini) -> Iterator[Application]:
    """Start the application on an answer that waits at its gate after two events."""
    local_gemini.on("sales", Reply(TEXT, hold_after=2), Reply(TEXT))
    started = Application(local_gemini)
    local_gemini.gate("sales").reached()
    yield started
    started.tree.stop()


def test_its_streams_actor_is_killed(local_gemini: LocalGemini, application: Application) -> None:
    """The supervisor of the streams starts it again: one more request, and the whole answer."""
    kill(application.stream_actor())
    answer = application.answer()
    assert (answer.text, answer.ok) == (TEXT, True)
    assert len(local_gemini.requests) == 2


def test_the_manager_is_killed(local_gemini: LocalGemini, application: Application) -> None:
    """The stream does not notice: nothing is asked for twice, so nothing is billed twice."""
    kill(application.manager)
    await_restart(application.manager)
    local_gemini.gate("sales").open()
    assert application.answer().text == TEXT
    assert len(local_gemini.requests) == 1


def test_the_reporter_is_killed(local_gemini: LocalGemini, application: Application) -> None:
    """It asks again in its new life, and the answer is whole."""
    reporter = whereis("reporter")
    assert reporter is not None
    kill(reporter)
    await_restart(reporter)
    local_gemini.gate("sales").open()
    answer = application.answer()
    assert (answer.text, answer.ok) == (TEXT, True)


def test_the_supervisor_of_the_streams_is_killed(
    local_gemini: LocalGemini, application: Application, gemini_probe: Probe
) -> None:
    """The stream ends with an error, told once; the tree goes on and takes new streams."""
    streams = supervisor_of(application.stream_actor())
    assert streams is not None
    kill(streams)
    assert isinstance(application.answer().error, StreamCrashedError)
    await_restart(streams)
    local_gemini.on("alive", Reply("Yes."))
    application.manager.start_stream("Are you alive?", subscriber=gemini_probe.ref)
    gemini_probe.expect(StreamComplete)
    assert check_history(gemini_probe.messages, ended=True) == []


@pytest.mark.parametrize("events", range(0, 11, 2))
@pytest.mark.parametrize("end", ["cut", "reset"])
def test_the_connection_breaks_after(events: int, end: Any, local_gemini: LocalGemini) -> None:
    """Wherever it breaks, the answer is whole in the end."""
    local_gemini.on("sales", Reply(TEXT, end=end, end_after=events), Failure(503), Reply(TEXT))
    application = Application(local_gemini)
    assert application.answer().text == TEXT
    assert len(local_gemini.requests) == 3
    application.tree.stop()


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, *sys.argv[1:]]))
