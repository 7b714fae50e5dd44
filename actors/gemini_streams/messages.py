"""The messages between application, manager, streams and subscribers.

Messages are frozen and slotted and match by position, in the order their fields stand here. They are
`msgspec.Struct`s because one is made for every event: it costs a third of a frozen dataclass.
`data` is shared by all subscribers of a stream: read it, copy to change it. No `repr` shows prompt text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import pykka

from gemini_streams.api.chosen import cursor_of, says
from gemini_streams.api.endpoint import Endpoint
from gemini_streams.api.protocol import CancelOn, Request
from gemini_streams.errors import GeminiStreamsError
from gemini_streams.options import After, FlowControl, RetryPolicy
from gemini_streams.positions import Position

__all__ = [
    "Drain",
    "EventsDropped",
    "GetStats",
    "GetStreamInfo",
    "LastMessage",
    "ListStreams",
    "ManagerStats",
    "Patient",
    "ResumeInteraction",
    "Start",
    "StartInteraction",
    "StartStream",
    "Status",
    "StopStream",
    "StreamComplete",
    "StreamError",
    "StreamEvent",
    "StreamInfo",
    "StreamRestarting",
    "StreamStopped",
    "Subscribe",
    "SubscriberMessage",
    "Unsubscribe",
]

Subscriber = pykka.ActorRef[Any]
Status = Literal["queued", "starting", "active", "restarting", "completed", "error", "stopped"]

# -- requests to the manager -----------------------------------------------------------------------------------------


class _Contents(msgspec.Struct, frozen=True):
    contents: Any


class StartStream(_Contents, frozen=True, kw_only=True):
    """Ask for a stream; answered with its id. An option not given here is the manager's.

    `subscriber` is one ref or several. An iterator (`stream()`, `answers()`) subscribes itself, and needs none here.
    """

    subscriber: Subscriber | Sequence[Subscriber] | None = None
    stream_id: str | None = None
    tag: Any = None
    model: str | msgspec.UnsetType = msgspec.UNSET
    config: Any | msgspec.UnsetType = msgspec.UNSET
    idle_timeout: float | msgspec.UnsetType = msgspec.UNSET
    first_event_timeout: float | msgspec.UnsetType = msgspec.UNSET
    deadline: float | msgspec.UnsetType | None = msgspec.UNSET
    retry: RetryPolicy | msgspec.UnsetType = msgspec.UNSET
    flow: FlowControl | msgspec.UnsetType = msgspec.UNSET
    history: int | msgspec.UnsetType = msgspec.UNSET
    keep: float | msgspec.UnsetType = msgspec.UNSET
    endpoint: Endpoint | Sequence[Endpoint] | msgspec.UnsetType = msgspec.UNSET
    concurrency_key: str | None = None
    """Which of the manager's `concurrency` limits holds for it; `None`: that of its model."""

    def __repr__(self) -> str:
        return f"StartStream(<contents>, stream_id={self.stream_id!r}, model={self.model!r})"


class _Input(msgspec.Struct, frozen=True):
    input: Any


class StartInteraction(_Input, frozen=True, kw_only=True):
    """Ask for an interaction (Google's Interactions API) as a stream; answered with the stream's id.

    `input` is what google-genai's `interactions.create` takes: a string, a content, a list of contents or of steps, as
    dicts or as its objects. An option not given here is the manager's. Times are seconds.

    A resumable interaction goes on at the server without a reader, and Google keeps its prompt and its answer
    (docs/interactions.md says for how long). The stream then goes on exactly where it broke, whatever has died.
    """

    subscriber: Subscriber | Sequence[Subscriber] | None = None
    model: str | msgspec.UnsetType = msgspec.UNSET
    agent: str | None = None
    """An agent in place of a model."""
    previous_interaction_id: str | None = None
    """The interaction that this one goes on with."""
    resumable: bool = True
    """`False`: one request, whose work ends with its connection, as far as the service ends it."""
    store: bool = True
    """Whether Google keeps the interaction. `False` needs `resumable=False`."""
    cancel_on: CancelOn = "stop"
    """When the work at the server is cancelled: with `StopStream` and `.cancel()`; `"leave"`: also 1 s after the last
    subscriber has left or died; or `"never"`. The end of the manager never cancels it."""
    max_silence: float = 1800.0
    """How long the server may say that it is working while nothing comes of it."""
    stream_id: str | None = None
    tag: Any = None
    config: Any = None
    """Other fields of `interactions.create`; those of `generation_config` may stand beside them."""
    idle_timeout: float | msgspec.UnsetType = msgspec.UNSET
    """180 where the manager has none of its own either."""
    first_event_timeout: float | msgspec.UnsetType = msgspec.UNSET
    deadline: float | msgspec.UnsetType | None = msgspec.UNSET
    retry: RetryPolicy | msgspec.UnsetType = msgspec.UNSET
    flow: FlowControl | msgspec.UnsetType = msgspec.UNSET
    history: int | msgspec.UnsetType = msgspec.UNSET
    keep: float | msgspec.UnsetType = msgspec.UNSET
    endpoint: Endpoint | Sequence[Endpoint] | msgspec.UnsetType = msgspec.UNSET

    def __repr__(self) -> str:
        asked = f"agent={self.agent!r}" if self.agent is not None else f"model={self.model!r}"
        return f"StartInteraction(<input>, stream_id={self.stream_id!r}, {asked})"


class _From(msgspec.Struct, frozen=True):
    cursor: str


class ResumeInteraction(_From, frozen=True, kw_only=True):
    """Read an interaction on from a cursor, or from its first event by its id; answered with the stream's id.

    Nothing is asked for anew, so nothing is billed. From a cursor `attempt` and `sequence` go on behind it.
    """

    subscriber: Subscriber | Sequence[Subscriber] | None = None
    cancel_on: CancelOn = "stop"
    max_silence: float = 1800.0
    stream_id: str | None = None
    tag: Any = None
    idle_timeout: float | msgspec.UnsetType = msgspec.UNSET
    """180 where the manager has none of its own either."""
    deadline: float | msgspec.UnsetType | None = msgspec.UNSET
    retry: RetryPolicy | msgspec.UnsetType = msgspec.UNSET
    flow: FlowControl | msgspec.UnsetType = msgspec.UNSET
    history: int | msgspec.UnsetType = msgspec.UNSET
    keep: float | msgspec.UnsetType = msgspec.UNSET
    endpoint: Endpoint | Sequence[Endpoint] | msgspec.UnsetType = msgspec.UNSET


Start = StartStream | StartInteraction | ResumeInteraction
"""What starts a stream."""


class Patient(msgspec.Struct, frozen=True):
    """A start from `answers()`: it waits for a slot, however many wait already, and is not refused."""

    start: Start

    @property
    def subscriber(self) -> Any:
        """The start's."""
        return self.start.subscriber


class StopStream(msgspec.Struct, frozen=True):
    """End a stream: `True` if this ended it; every subscriber gets `StreamStopped("requested")`."""

    stream_id: str


class Subscribe(msgspec.Struct, frozen=True):
    """Join a stream; a second `Subscribe` of the same subscriber changes nothing."""

    stream_id: str
    subscriber: Subscriber
    after: After = None
    flow: FlowControl | None = None


class Unsubscribe(msgspec.Struct, frozen=True):
    """Leave a stream: `True` if it left. After the answer nothing more is put into that inbox.

    The leaving of the last subscriber ends the stream, or lets it run on for `keep`.
    """

    stream_id: str
    subscriber: Subscriber


class GetStreamInfo(msgspec.Struct, frozen=True):
    """Ask for a `StreamInfo`."""

    stream_id: str


class ListStreams(msgspec.Struct, frozen=True):
    """Ask for the ids of all visible streams, oldest first."""


class GetStats(msgspec.Struct, frozen=True):
    """Ask for `ManagerStats`."""


class Drain(msgspec.Struct, frozen=True):
    """Refuse new streams, let the running ones end, stop the rest after `timeout` seconds; answers how many."""

    timeout: float


@dataclasses.dataclass(frozen=True, slots=True, repr=False, match_args=False)
class StreamInfo:
    """One stream as the manager sees it. By position it matches with `request_body` in the place of `request`."""

    __match_args__ = (
        "stream_id",
        "stream_ref",
        "model",
        "request_body",
        "status",
        "error",
        "started_at",
        "subscribers",
        "events_count",
        "last_event_at",
        "config",
        "attempt",
        "tag",
        "interaction_id",
        "cursor",
    )

    stream_id: str
    stream_ref: pykka.ActorRef[Any] | None
    model: str
    request: Request
    """The request as it is sent; `request_body` decodes it."""
    status: Status
    error: GeminiStreamsError | None
    started_at: float
    """Seconds since the epoch."""
    subscribers: tuple[Subscriber, ...]
    events_count: int
    """Events received from the server, in all attempts."""
    last_event_at: float | None
    """Seconds since the epoch; as fine as the reads of the connection."""
    config: Any
    attempt: int
    tag: Any = None
    interaction_id: str | None = None
    """Under which the server keeps the interaction, once it has said so."""
    cursor: str | None = None
    """The `StreamEvent.cursor` of the latest event."""

    @property
    def request_body(self) -> dict[str, Any]:
        """The body of the request, decoded at each use, in the thread that reads it."""
        return self.request.shown()

    def __repr__(self) -> str:
        return (
            f"StreamInfo(stream_id={self.stream_id!r}, model={self.model!r}, status={self.status!r},"
            f" attempt={self.attempt}, events_count={self.events_count}, subscribers={len(self.subscribers)},"
            f" error={self.error!r})"
        )


class ManagerStats(msgspec.Struct, frozen=True):
    """The manager's figures: what is there now, and counters since its tree was started."""

    total_streams: int
    """Streams that are visible, those that linger included."""
    max_streams: int
    streams_by_status: dict[Status, int]
    total_subscribers: int
    started: int
    completed: int
    failed: int
    stopped: int
    restarts: int
    events: int
    observer_lost: int = 0
    """Records that observers have not seen, since they were too slow."""
    concurrency_running: dict[str, int] = {}
    """Of each key of the manager's `concurrency`: how many streams have a place, over all endpoints."""
    concurrency_queued: dict[str, int] = {}
    """How many wait for one."""


# -- what a subscriber receives --------------------------------------------------------------------------------------


class StreamEvent(msgspec.Struct, frozen=True):
    """One event of the answer. `attempt` counts from 1, `sequence` from 0."""

    stream_id: str
    attempt: int
    sequence: int
    data: dict[str, Any]
    """The event's JSON. The last piece of a function call that came in pieces is the whole call here, and a character
    of which an event has only half is in the next event."""
    tag: Any = None
    run: str = ""
    """Which run of its `stream_id` the stream is."""
    mark: Any = None
    """What `cursor` is made of."""

    @property
    def cursor(self) -> str | None:
        """The place behind this event in an interaction, as a short string, for `ResumeInteraction`; made at each use.

        It has no key and no content. `None` where the server keeps nothing that could be resumed.
        """
        return cursor_of(self.mark, self.attempt)

    @property
    def position(self) -> str:
        """The place behind this event, as a short string, for `after=`; made at each use."""
        return str(Position(self.run, self.attempt, self.sequence))

    @property
    def event_type(self) -> str | None:
        """The type of an interaction's event; `None` elsewhere."""
        return self.data.get("event_type")

    @property
    def text(self) -> str:
        """The answer's text, thoughts left out; `""` where there is none. Read from `data` at each use."""
        return says(self.data).text_of(self.data)

    @property
    def thoughts(self) -> str:
        """The answer's thought summaries."""
        return says(self.data).thoughts_of(self.data)

    @property
    def function_calls(self) -> list[dict[str, Any]]:
        """The answer's function calls, as the API sent them.

        A call whose arguments are streamed in pieces is in the event that completes it, and in no other.
        """
        return says(self.data).function_calls_of(self.data)

    @property
    def finish_reason(self) -> str | None:
        """Candidate 0's finishReason, or the status of an interaction that has ended.

        Some streams carry one on every event; the last one counts.
        """
        return says(self.data).finish_reason_of(self.data)

    @property
    def usage(self) -> dict[str, Any] | None:
        """The event's token counts, in the API's own words; cumulative within one request."""
        return says(self.data).usage_of(self.data)


class StreamRestarting(msgspec.Struct, frozen=True):
    """The stream goes on in a new attempt after `delay` seconds; its next event has sequence `resume_at`.

    It takes longer where other streams wait for the same quota (see docs/errors.md, "Quotas").

    Events received before `resume_at` stand. Events received from `resume_at` on are void (0: all of them).
    """

    stream_id: str
    attempt: int
    """The coming one."""
    resume_at: int
    delay: float
    error: GeminiStreamsError
    tag: Any = None
    discard: bool = False
    """Something that this subscriber has received is void now."""
    endpoint: str = ""
    """Which endpoint the coming attempt asks: its base URL, at Vertex AI with project and location. Holds no key."""


class EventsDropped(msgspec.Struct, frozen=True):
    """The subscriber's own flow control left out `count` events, from `first_sequence` on, exactly here."""

    stream_id: str
    attempt: int
    first_sequence: int
    count: int
    tag: Any = None


_WHOLE = frozenset({"STOP", "completed", "requires_action"})


class StreamComplete(msgspec.Struct, frozen=True):
    """The stream has ended as the service wanted; the last message."""

    stream_id: str
    events_count: int
    """Events of the last attempt put into this subscriber's inbox; of an interaction that can be resumed, all that
    were put there and stand."""
    finish_reason: str | None
    block_reason: str | None
    usage: dict[str, Any] | None
    attempts: int
    duration: float
    first_event_after: float | None
    tag: Any = None
    finish_message: str | None = None
    """The service's words about the finish reason, where it sent any."""
    interaction_id: str | None = None
    """Under which the server keeps the interaction."""
    cursor: str | None = None
    """The `StreamEvent.cursor` of the last event put into this subscriber's inbox."""

    @property
    def ok(self) -> bool:
        """Finished with STOP and not blocked; an interaction: completed, or it waits for its calls' results."""
        return self.finish_reason in _WHOLE and self.block_reason is None


class StreamError(msgspec.Struct, frozen=True):
    """The stream has failed for good, or this subscriber was let go; the last message."""

    stream_id: str
    error: GeminiStreamsError
    events_count: int
    usage: dict[str, Any] | None
    attempts: int
    duration: float
    tag: Any = None
    interaction_id: str | None = None
    cursor: str | None = None


class StreamStopped(msgspec.Struct, frozen=True):
    """The stream was stopped from outside; the last message."""

    stream_id: str
    reason: Literal["requested", "shutdown"]
    events_count: int
    usage: dict[str, Any] | None
    attempts: int
    duration: float
    tag: Any = None
    interaction_id: str | None = None
    cursor: str | None = None


LastMessage = StreamComplete | StreamError | StreamStopped
SubscriberMessage = StreamEvent | StreamRestarting | EventsDropped | LastMessage
