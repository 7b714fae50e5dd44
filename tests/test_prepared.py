"""The thread that asks for a stream reads what the request holds; the manager's thread does not."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import pykka
import pytest

from conftest import StartManager
from gemini_streams import (
    Gemini,
    InvalidRequestError,
    ManagerRef,
    StartStream,
    StreamComplete,
    aanswers,
    answers,
    astream,
    stream,
)
from gemini_streams.messages import StreamInfo
from gemini_streams.testing import LocalGemini
from kit.helpers import last_of
from pykka_supervisor.mailbox import Envelope
from pykka_supervisor.testing import Probe


class Watched:
    """A part, as a pydantic object is one: reading its text is the application's code."""

    model_fields: ClassVar[dict[str, Any]] = {"text": None}

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read

    @property
    def text(self) -> str:
        return self._read()


class Where:
    """Says in which threads a part was read."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.part = Watched(self._read)

    def _read(self) -> str:
        self.threads.append(threading.current_thread())
        return "why"


def by_ask(ref: ManagerRef, probe: Probe, part: Any) -> None:
    ref.ask(StartStream(part, subscriber=probe.ref))
    assert isinstance(last_of(probe), StreamComplete)


def by_an_ask_for_later(ref: ManagerRef, probe: Probe, part: Any) -> None:
    ref.ask(StartStream(part, subscriber=probe.ref), block=False).get(timeout=20)
    assert isinstance(last_of(probe), StreamComplete)


def by_tell(ref: ManagerRef, probe: Probe, part: Any) -> None:
    ref.tell(StartStream(part, subscriber=probe.ref))
    assert isinstance(last_of(probe), StreamComplete)


def by_its_method(ref: ManagerRef, probe: Probe, part: Any) -> None:
    ref.start_stream(part, subscriber=probe.ref)
    assert isinstance(last_of(probe), StreamComplete)


def by_an_iterator(ref: ManagerRef, _probe: Probe, part: Any) -> None:
    assert list(stream(ref, part))


def by_an_asynchronous_iterator(ref: ManagerRef, _probe: Probe, part: Any) -> None:
    async def read() -> None:
        async with astream(ref, part) as events:
            assert [event async for event in events]

    asyncio.run(read())


def by_asynchronous_answers(ref: ManagerRef, _probe: Probe, part: Any) -> None:
    async def read() -> None:
        async for _, answer in aanswers(ref, [part]):
            assert answer.error is None

    asyncio.run(read())


@pytest.mark.parametrize(
    "ask",
    [
        by_ask,
        by_an_ask_for_later,
        by_tell,
        by_its_method,
        by_an_iterator,
        by_an_asynchronous_iterator,
        by_asynchronous_answers,
    ],
)
def test_a_request_is_read_in_the_thread_that_asks(
    manager: StartManager, probe: Probe, ask: Callable[[ManagerRef, Probe, Any], None]
) -> None:
    where = Where()
    ask(manager(), probe, where.part)
    assert where.threads == [threading.current_thread()]


def test_answers_reads_its_requests_in_a_thread_of_its_own(manager: StartManager) -> None:
    where = Where()
    [(_, answer)] = answers(manager(), [where.part])
    assert answer.error is None
    assert [thread.name for thread in where.threads] == ["gemini-streams-answers"]


class Forwarder(pykka.ThreadingActor):
    """Tells the manager what another actor has told it."""

    def __init__(self, manager: ManagerRef) -> None:
        super().__init__()
        self._manager = manager

    def on_receive(self, message: Any) -> Any:
        return self._manager.ask(message)


def test_a_forwarded_request_is_read_by_the_actor_that_forwards_it(
    manager: StartManager, probe: Probe
) -> None:
    where = Where()
    forwarder = Forwarder.start(manager())
    try:
        forwarder.ask(StartStream(where.part, subscriber=probe.ref), timeout=20)
    finally:
        forwarder.stop()
    assert isinstance(last_of(probe), StreamComplete)
    assert ["Forwarder" in thread.name for thread in where.threads] == [True]


def test_a_request_that_is_put_into_the_inbox_as_it_is_starts_a_stream(
    manager: StartManager, probe: Probe
) -> None:
    where, ref = Where(), manager()
    answer: pykka.Future[Any] = pykka.ThreadingFuture()
    ref.actor_inbox.put(Envelope(StartStream(where.part, subscriber=probe.ref), answer))
    assert isinstance(answer.get(timeout=20), str)
    assert isinstance(last_of(probe), StreamComplete)
    assert len(where.threads) == 1


def test_a_request_that_takes_long_to_read_holds_up_nobody_else(manager: StartManager, probe: Probe) -> None:
    begun, enough = threading.Event(), threading.Event()

    def slowly() -> str:
        begun.set()
        assert enough.wait(30)
        return "why"

    ref = manager()
    asker = threading.Thread(target=lambda: ref.start_stream(Watched(slowly), subscriber=probe.ref))
    asker.start()
    try:
        assert begun.wait(20)
        assert ref.list_streams(timeout=20) == []
    finally:
        enough.set()
        asker.join(20)
    assert isinstance(last_of(probe), StreamComplete)


def test_an_ask_for_later_is_refused_by_its_future(manager: StartManager, probe: Probe) -> None:
    refused = manager().ask(StartStream([], subscriber=probe.ref), block=False)
    with pytest.raises(InvalidRequestError, match="contents are empty"):
        refused.get(timeout=20)


def test_what_an_object_raises_is_raised_in_the_asker_and_logged_where_it_was_told(
    manager: StartManager, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    saying = "no such picture"

    def fails() -> str:
        raise OSError(saying)

    ref = manager()
    with pytest.raises(OSError, match="no such picture"):
        ref.ask(StartStream(Watched(fails), subscriber=probe.ref))
    caplog.clear()
    ref.tell(StartStream(Watched(fails), subscriber=probe.ref))
    [line] = caplog.records
    assert line.levelno == logging.ERROR
    assert "request_failed" in line.getMessage()
    assert saying not in line.getMessage()


def test_ctrl_c_while_a_request_is_read_is_the_programs_own(manager: StartManager, probe: Probe) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        manager().ask(StartStream(Watched(interrupted), subscriber=probe.ref))


def test_the_body_of_a_request_is_decoded_when_it_is_read(manager: StartManager, probe: Probe) -> None:
    ref = manager()
    info = ref.get_stream_info(ref.start_stream("why", subscriber=probe.ref))
    body = {"contents": [{"parts": [{"text": "why"}], "role": "user"}]}
    assert info.request_body == body
    assert info.request_body is not info.request_body
    match info:
        case StreamInfo(_, _, _, by_position):
            assert by_position == body
    last_of(probe)


def test_an_endpoints_own_model_is_the_one_that_is_asked_for(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    own = Gemini(api_key="local-key", base_url=gemini.url, model="gemini-own")
    ref = manager(model="gemini-of-the-manager")
    for endpoint, model in ((own, "gemini-own"), (gemini.endpoint, "gemini-asked")):
        ref.start_stream("why", subscriber=probe.ref, endpoint=endpoint, model="gemini-asked")
        assert last_of(probe).ok
        assert gemini.requests[-1].model == model
        probe.messages.clear()
