"""What a type checker knows of the public calls; `mypy --strict` reads it, and nothing runs it."""

from __future__ import annotations

from typing import Any, assert_type

from gemini_streams import (
    Answer,
    EventsDropped,
    Gemini,
    ManagerActor,
    ManagerRef,
    StartStream,
    StreamEvent,
    StreamRestarting,
    aanswers,
    afollow,
    answers,
    astream,
    follow,
    stream,
)
from pykka_supervisor import SupervisedRef, whereis


def blocking(manager: ManagerRef) -> None:
    for item in stream(manager, "why", model="m", stream_id="a", keep=1):
        assert_type(item, StreamEvent | StreamRestarting | EventsDropped)
    for silent in stream(manager, "why", heartbeat=1.0):
        assert_type(silent, StreamEvent | StreamRestarting | EventsDropped | None)
    for seen in follow(manager, "a", after="position"):
        assert_type(seen, StreamEvent | StreamRestarting | EventsDropped)
    for piece in stream(manager, StartStream("why"), heartbeat=1.0).text_stream:
        assert_type(piece, str)
    for request, answer in answers(manager, [StartStream("why")]):
        assert_type(request, StartStream)
        assert_type(answer, Answer)
    stream(manager, "why", idle_time=1)  # type: ignore[call-overload]
    stream(manager, "why", max_streams=1)  # type: ignore[call-overload]
    follow(manager, "a", model="m")  # type: ignore[call-overload]


async def asynchronous(manager: ManagerRef) -> None:
    async for item in astream(manager, "why"):
        assert_type(item, StreamEvent | StreamRestarting | EventsDropped)
    async for silent in afollow(manager, "why", heartbeat=1.0):
        assert_type(silent, StreamEvent | StreamRestarting | EventsDropped | None)
    async for piece in astream(manager, "why").text_stream:
        assert_type(piece, str)
    async for request, answer in aanswers(manager, ["why"]):
        assert_type(request, str)
        assert_type(answer, Answer)


def managers() -> None:
    assert_type(ManagerActor.start(endpoint=Gemini(), max_streams=5), ManagerRef)
    ManagerActor.start(max_stream=5)  # type: ignore[call-arg]
    ManagerActor.start(idle_timeout="5")  # type: ignore[arg-type]
    ManagerActor.child_spec(name="gemini", retries=5)  # type: ignore[call-arg]
    assert_type(whereis("gemini", ManagerRef), ManagerRef | None)
    assert_type(whereis("gemini"), SupervisedRef[Any] | None)
