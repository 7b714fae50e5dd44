"""Many supervised streaming sessions with Google's Gemini API at once, as Pykka actors.

`ManagerActor.start()` gives a manager; send it `StartStream(contents, subscriber=ref)` and the subscriber, any Pykka
actor, receives `StreamEvent`s and, whatever dies, exactly one of `StreamComplete`, `StreamError`, `StreamStopped`.
"""

import sys as _sys

if _sys.platform == "win32" or _sys.implementation.name != "cpython":  # pragma: no cover
    raise ImportError(
        "gemini_streams runs on CPython on Linux and macOS: it relies on shutting a socket down from another thread"
    )

from gemini_streams.answer import Answer
from gemini_streams.api.endpoint import Gemini
from gemini_streams.errors import (
    APIError,
    BadFinishError,
    ConnectionFailedError,
    ConnectionLostError,
    DeadlineExceededError,
    EventTooLargeError,
    FirstEventTimeoutError,
    GeminiStreamsError,
    HistoryGoneError,
    IdleTimeoutError,
    IncompleteAnswerError,
    InvalidRequestError,
    MalformedEventError,
    ManagerDrainingError,
    MaxStreamsExceededError,
    MissingCredentialsError,
    SlowSubscriberError,
    StreamCrashedError,
    StreamEndedError,
    StreamExistsError,
    StreamNotFoundError,
    StreamTruncatedError,
    UnexpectedResponseError,
)
from gemini_streams.iterate import (
    AsyncStream,
    Stream,
    aanswers,
    afollow,
    answers,
    astream,
    follow,
    stream,
)
from gemini_streams.manager import ManagerActor, ManagerRef
from gemini_streams.messages import (
    Drain,
    EventsDropped,
    GetStats,
    GetStreamInfo,
    ListStreams,
    ManagerStats,
    StartStream,
    StopStream,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamInfo,
    StreamRestarting,
    StreamStopped,
    Subscribe,
    Unsubscribe,
)
from gemini_streams.options import FROM_START, FlowControl, ManagerOptions, RetryPolicy, StreamOptions
from gemini_streams.subscriber import SubscriberActor

__all__ = [
    "FROM_START",
    "APIError",
    "Answer",
    "AsyncStream",
    "BadFinishError",
    "ConnectionFailedError",
    "ConnectionLostError",
    "DeadlineExceededError",
    "Drain",
    "EventTooLargeError",
    "EventsDropped",
    "FirstEventTimeoutError",
    "FlowControl",
    "Gemini",
    "GeminiStreamsError",
    "GetStats",
    "GetStreamInfo",
    "HistoryGoneError",
    "IdleTimeoutError",
    "IncompleteAnswerError",
    "InvalidRequestError",
    "ListStreams",
    "MalformedEventError",
    "ManagerActor",
    "ManagerDrainingError",
    "ManagerOptions",
    "ManagerRef",
    "ManagerStats",
    "MaxStreamsExceededError",
    "MissingCredentialsError",
    "RetryPolicy",
    "SlowSubscriberError",
    "StartStream",
    "StopStream",
    "Stream",
    "StreamComplete",
    "StreamCrashedError",
    "StreamEndedError",
    "StreamError",
    "StreamEvent",
    "StreamExistsError",
    "StreamInfo",
    "StreamNotFoundError",
    "StreamOptions",
    "StreamRestarting",
    "StreamStopped",
    "StreamTruncatedError",
    "Subscribe",
    "SubscriberActor",
    "UnexpectedResponseError",
    "Unsubscribe",
    "aanswers",
    "afollow",
    "answers",
    "astream",
    "follow",
    "stream",
]
