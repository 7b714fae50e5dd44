"""What a stream can be told: its retry policy, its flow control, its limits and their defaults.

Times are seconds, sizes bytes. A value that cannot be right raises `InvalidRequestError` where it is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, TypedDict

import msgspec

from gemini_streams.api.endpoint import Endpoint
from gemini_streams.api.environment import FromEnvironment
from gemini_streams.api.protocol import CancelOn
from gemini_streams.errors import GeminiStreamsError, InvalidRequestError, shown
from pykka_supervisor import Clock, InvalidSpecError, TreeObserver
from pykka_supervisor.clock import SYSTEM_CLOCK, SystemClock
from pykka_supervisor.observe import QUEUE, as_observers
from pykka_supervisor.testing import TestClock

__all__ = [
    "FROM_START",
    "After",
    "FlowControl",
    "FromStart",
    "InteractionOptions",
    "ManagerOptions",
    "Overflow",
    "Place",
    "ResumeOptions",
    "RetryPolicy",
    "Settings",
    "StreamOptions",
    "endpoints_of",
    "key_of",
    "limits",
]

DEFAULT_MODEL = "gemini-flash-latest"

Overflow = Literal["pause", "drop_oldest", "drop_newest", "disconnect"]
OVERFLOWS: tuple[Overflow, ...] = ("pause", "drop_oldest", "drop_newest", "disconnect")


class FromStart:
    """The type of `FROM_START`."""

    def __repr__(self) -> str:
        return "FROM_START"

    def __reduce__(self) -> str:
        return "FROM_START"


FROM_START = FromStart()
"""`Subscribe(..., after=FROM_START)`: replay the current attempt from its first event."""

Place = FromStart | tuple[int, int] | None
"""A place in the present run: `After` without the positions."""

After = Place | str
"""From where on to subscribe: `None` live, `FROM_START`, or behind the last event seen.

That is its `StreamEvent.position`, which another run of the stream under the same id refuses, or its
`(attempt, sequence)`, which is taken for the present run's.
"""


def seconds(name: str, value: Any, *, zero: bool = False) -> float:
    """Return `value` as a time in seconds; raise `InvalidRequestError` naming the option where it is none."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value < 0
        or (value == 0 and not zero)
    ):
        least = "0 or more" if zero else "more than 0"
        raise InvalidRequestError(f"{name} must be a number of seconds, {least}, not {shown(value)}")
    return float(value)


def whole(name: str, value: Any, least: int) -> int:
    """Return `value` as a whole number of at least `least`; raise `InvalidRequestError` where it is none."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidRequestError(f"{name} must be a whole number, {least} or more, not {shown(value)}")
    return value


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a failed stream is started again. The words are google-genai's `HttpRetryOptions`.

    The policy's own wait before attempt n+1 is `initial_delay * exp_base ** (n - 1)` plus up to `jitter` seconds drawn
    evenly, and never more than `max_delay`. The wait that a server names (`Retry-After`, `RetryInfo`) is kept where it
    is longer. Where it exceeds `max_retry_after`, `max_total_wait`, `total_time` or the deadline, the stream fails at
    once, and the error's `retry_at` says when to come back.
    """

    attempts: int = 4
    """All attempts of the stream, the first included, over its whole life. A 429 whose named wait was kept does not
    count, but for one that makes a part of the answer void. 1: the stream is never started again."""
    initial_delay: float = 0.5
    max_delay: float = 30.0
    exp_base: float = 2.0
    jitter: float = 0.5
    max_retry_after: float = 120.0
    """The longest wait, in seconds, that a server may name. Also the longest time for which a stream is held back by a
    wait that was named to another stream."""
    max_total_wait: float = 3600.0
    """The most seconds that a stream spends in such waits over its whole life."""
    total_time: float | None = None
    """No attempt starts later than this many seconds after the stream's start."""
    on_partial: Literal["restart", "fail"] = "restart"
    """What to do when an attempt fails after its first event: a restart is a new, billed request, and its text
    replaces what the subscribers have; `"fail"` where one cannot take text back."""
    retryable: Callable[[GeminiStreamsError], bool | None] | None = None
    """Overrides the table of errors; `None` from it means the table, and so does an exception, or no answer within
    5 s. Called in the thread of the stream that failed; where that thread has died, in its successor's."""
    retry_finish: Collection[str] = frozenset()
    """Finish reasons (`"MALFORMED_FUNCTION_CALL"`, …) that make an attempt a failed one: `BadFinishError`."""
    max_continuations: int = 16
    """How many more requests may follow the first one by continuation tokens, over the stream's whole life."""

    def __post_init__(self) -> None:
        whole("RetryPolicy.attempts", self.attempts, 1)
        whole("RetryPolicy.max_continuations", self.max_continuations, 0)
        _check_reasons(self.retry_finish)
        for name in ("initial_delay", "max_delay", "jitter", "max_retry_after", "max_total_wait"):
            seconds(f"RetryPolicy.{name}", getattr(self, name), zero=True)
        if seconds("RetryPolicy.exp_base", self.exp_base) < 1:
            raise InvalidRequestError(f"RetryPolicy.exp_base must be 1 or more, not {shown(self.exp_base)}")
        if self.total_time is not None:
            seconds("RetryPolicy.total_time", self.total_time)
        if self.on_partial not in ("restart", "fail"):
            raise InvalidRequestError(
                f'RetryPolicy.on_partial must be "restart" or "fail", not {shown(self.on_partial)}'
            )
        if self.retryable is not None and not callable(self.retryable):
            raise InvalidRequestError("RetryPolicy.retryable must be a callable of one error, or None")


def _check_reasons(given: Any) -> None:
    if (
        not isinstance(given, Collection)
        or isinstance(given, str | bytes)
        or not all(isinstance(reason, str) and reason for reason in given)
    ):
        raise InvalidRequestError(
            "RetryPolicy.retry_finish must be a set of finish reasons, like {'MALFORMED_FUNCTION_CALL'}"
        )


class FlowControl(msgspec.Struct, frozen=True, kw_only=True):
    """How much may be on its way to one subscriber, and what happens beyond.

    On its way is what was put into the subscriber's inbox and not handled yet, and what is buffered for it;
    whichever of `window` (events) and `max_bytes` (their JSON) is met first is the limit.
    """

    window: int = 256
    max_bytes: int = 1 << 20
    overflow: Overflow = "pause"
    """`"pause"`: the stream stops reading its socket until the subscriber has drained. `"drop_oldest"`,
    `"drop_newest"`: events are left out, counted, and told by `EventsDropped` at the gap. `"disconnect"`: the
    subscriber is let go at once with `StreamError(SlowSubscriberError)`."""
    stall_timeout: float = 60.0
    """With `"pause"`: a subscriber that holds the stream paused for this long is let go."""

    def __post_init__(self) -> None:
        whole("FlowControl.window", self.window, 1)
        whole("FlowControl.max_bytes", self.max_bytes, 1)
        seconds("FlowControl.stall_timeout", self.stall_timeout)
        if self.overflow not in OVERFLOWS:
            raise InvalidRequestError(
                f"FlowControl.overflow must be one of {', '.join(OVERFLOWS)}, not {shown(self.overflow)}"
            )


def _is_a(kind: type[Any]) -> Callable[[str, Any], object]:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, kind):
            raise InvalidRequestError(f"{name} must be a {kind.__name__}, not {type(value).__name__}")

    return check


def _is_endpoint(name: str, value: Any) -> None:
    if isinstance(value, list | tuple):
        if not value:
            raise InvalidRequestError(
                f"{name} must be an endpoint like Gemini(), or a list of some, not an empty list"
            )
    else:
        value = [value]
    for one in value:
        if not hasattr(one, "resolve"):
            raise InvalidRequestError(f"{name} must be an endpoint like Gemini(), not {type(one).__name__}")


def endpoints_of(value: Endpoint | Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """Return an option's endpoints, the first one first."""
    return tuple(value) if isinstance(value, Sequence) else (value,)


def _is_clock(name: str, value: Any) -> None:
    if not isinstance(value, SystemClock | TestClock):
        raise InvalidRequestError(
            f"{name} must be SYSTEM_CLOCK or a pykka_supervisor.testing.TestClock, not {type(value).__name__}: the"
            " manager's actors call it, and an application's own could hold them up"
        )


def _are_observers(name: str, value: Any) -> None:
    try:
        as_observers(value)
    except InvalidSpecError as error:
        raise InvalidRequestError(f"{name}: {error}") from None


def limits(name: str, value: Any) -> dict[str, int]:
    """Return the limits of streams at once by key, `models/` left out; raises `InvalidRequestError`."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) and key for key in value):
        raise InvalidRequestError(f"{name} must map models or keys to numbers, like {{'gemini-2.5-pro': 8}}")
    found: dict[str, int] = {}
    for key, most in value.items():
        if key_of(key) in found:
            raise InvalidRequestError(f"{name} names {shown(key_of(key))} twice")
        found[key_of(key)] = whole(f"{name}[{shown(key)}]", most, 1)
    return found


def key_of(name: str) -> str:
    """Return a model's name, or another key, as its limit is looked up."""
    return str.__str__(name).removeprefix("models/")  # no subclass: it becomes a key under locks


def _or_none(name: str, value: Any) -> float | None:
    return None if value is None else seconds(name, value)


def _or_zero(name: str, value: Any) -> float:
    return seconds(name, value, zero=True)


_STREAM_OPTIONS: dict[str, Callable[[str, Any], object] | None] = {
    "model": None,  # a name is checked where it becomes part of a URL, a config where it becomes part of a body
    "config": None,
    "idle_timeout": seconds,
    "first_event_timeout": seconds,
    "deadline": _or_none,
    "retry": _is_a(RetryPolicy),
    "flow": _is_a(FlowControl),
    "history": lambda name, value: whole(name, value, 0),
    "keep": _or_zero,
    "endpoint": _is_endpoint,
}
"""What a `StartStream` can have its own of, and what checks it."""

_MANAGER_OPTIONS: dict[str, Callable[[str, Any], object] | None] = {
    **_STREAM_OPTIONS,
    "max_streams": lambda name, value: whole(name, value, 1),
    "max_waiting": lambda name, value: whole(name, value, 0),
    "connect_timeout": seconds,
    "max_event_bytes": lambda name, value: whole(name, value, 1),
    "linger": _or_zero,
    "shutdown": _or_zero,
    "clock": _is_clock,
    "observers": _are_observers,
    "observer_queue": lambda name, value: whole(name, value, 1),
    "concurrency": limits,
}


class StreamOptions(TypedDict, total=False):
    """The options of one stream. A manager takes them too: there they are the defaults of its streams.

    Times are seconds. The default stands in parentheses.

    Attributes:
        model ("gemini-flash-latest"): The model to ask.
        config (None): What google-genai takes as `config`: a dict, or its own object.
        idle_timeout (30.0): How long the server may be silent between two events.
        first_event_timeout (300.0): How long an attempt may wait for its first event.
        deadline (None): How long the whole stream may take, restarts included.
        retry (RetryPolicy()): When a failed attempt is repeated.
        flow (FlowControl()): How much may be on its way to each subscriber.
        history (0): Bytes of memory for the events that are kept for subscribers who come later.
        keep (0.0): How long the stream runs on without a subscriber.
        endpoint (FromEnvironment()): Which service is asked, and with which key; a list: one behind the other.

    """

    model: str
    config: Any
    idle_timeout: float
    first_event_timeout: float
    deadline: float | None
    retry: RetryPolicy
    flow: FlowControl
    history: int
    keep: float
    endpoint: Endpoint | Sequence[Endpoint]


class ResumeOptions(TypedDict, total=False):
    """What `ResumeInteraction` takes beside the cursor and the subscriber; docs/interactions.md says what each means.

    Times are seconds. An option without a default in parentheses is the manager's where it is not given.

    Attributes:
        stream_id: Under which id the stream is known; by default a new one.
        tag (None): An object of your own, in each message.
        cancel_on ("stop"): When the work at the server is cancelled.
        max_silence (1800.0): How long the server may say that it is working while nothing comes of it.
        idle_timeout (180.0): How long the server may be silent between two events; the manager's, where it has one.
        deadline: How long the whole stream may take, restarts included.
        retry: When a failed attempt is repeated.
        flow: How much may be on its way to each subscriber.
        history: Bytes of memory for the events that are kept for later subscribers.
        keep: How long the stream runs on without a subscriber.
        endpoint: Which service is asked, and with which key; a list: one behind the other.

    """

    stream_id: str | None
    tag: Any
    cancel_on: CancelOn
    max_silence: float
    idle_timeout: float
    deadline: float | None
    retry: RetryPolicy
    flow: FlowControl
    history: int
    keep: float
    endpoint: Endpoint | Sequence[Endpoint]


class InteractionOptions(ResumeOptions, total=False):
    """What `StartInteraction` takes beside the input and the subscriber: the options of `ResumeOptions`, and its own.

    Attributes:
        model: The model to ask.
        agent (None): An agent in place of a model.
        previous_interaction_id (None): The interaction that this one goes on with.
        resumable (True): Whether the stream can go on where it broke.
        store (True): Whether Google keeps the interaction.
        config (None): Other fields of google-genai's `interactions.create`.
        first_event_timeout: How long the answer to the first request may take.

    """

    model: str
    agent: str | None
    previous_interaction_id: str | None
    resumable: bool
    store: bool
    config: Any
    first_event_timeout: float


class ManagerOptions(StreamOptions, total=False):
    """The options of a manager: those of `StreamOptions`, as defaults of its streams, and its own.

    Times are seconds, sizes bytes. The default stands in parentheses.

    Attributes:
        max_streams (100): How many streams may run at once.
        max_waiting (0): How many more streams may wait for their turn; the next one is refused.
        connect_timeout (5.0): How long each of these may take: connecting to one address, a proxy's answer to
            CONNECT, a TLS handshake.
        max_event_bytes (67108864): The size of the largest event that is accepted.
        linger (5.0): How long a stream that has ended stays visible.
        shutdown (5.0): How long each actor of the manager's tree may take to end.
        clock (SYSTEM_CLOCK): What tells the time; for tests.
        observers (()): What is told of starts, restarts and ends: instances of subclasses of `Observer`.
        observer_queue (10000): How many records may wait for the observers; beyond that some are lost, and counted.
        concurrency (None): How many streams of one model, or of one `concurrency_key`, may run at once at one endpoint,
            like `{"gemini-2.5-pro": 8}`; the others are queued.

    """

    max_streams: int
    max_waiting: int
    connect_timeout: float
    max_event_bytes: int
    linger: float
    shutdown: float
    clock: Clock
    observers: Sequence[TreeObserver]
    observer_queue: int
    concurrency: Mapping[str, int] | None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """A manager's options, each with its value; `for_stream` gives a stream's."""

    model: str = DEFAULT_MODEL
    config: Any = None
    idle_timeout: float = 30.0
    first_event_timeout: float = 300.0
    deadline: float | None = None
    retry: RetryPolicy = RetryPolicy()
    flow: FlowControl = FlowControl()
    history: int = 0
    keep: float = 0.0
    endpoint: Endpoint | Sequence[Endpoint] = FromEnvironment()
    max_streams: int = 100
    max_waiting: int = 0
    connect_timeout: float = 5.0
    max_event_bytes: int = 64 << 20
    linger: float = 5.0
    shutdown: float = 5.0
    clock: Clock = SYSTEM_CLOCK
    observers: Sequence[TreeObserver] = ()
    observer_queue: int = QUEUE
    concurrency: Mapping[str, int] | None = None

    def __repr__(self) -> str:
        return f"Settings(model={self.model!r}, max_streams={self.max_streams})"

    def check(self) -> None:
        """Raise `InvalidRequestError` for a value that cannot be right."""
        for name, check in _MANAGER_OPTIONS.items():
            if check is not None:
                check(name, getattr(self, name))

    def for_stream(self, request: Any) -> Settings:
        """Return these options with what a request for a stream has of its own; raises `InvalidRequestError`."""
        own = {}
        for name, check in _STREAM_OPTIONS.items():
            value = getattr(request, name, msgspec.UNSET)
            if value is not msgspec.UNSET:
                if check is not None:
                    check(name, value)
                own[name] = value
        return msgspec.structs.replace(self, **own) if own else self
