"""All that can go wrong, by name.

The rules:

- Everything raised or told by this package is a `GeminiStreamsError`; where Python has a name for the kind of
  failure (`ConnectionError`, `TimeoutError`, `LookupError`, `ValueError`) it is one of those too.
- An error says whether trying again can help (`retryable`) and, where the server named a time, from when on
  (`retry_at`, seconds since the epoch).
- Errors pickle, hold plain data only (no object of requests or urllib3: those carry the key), and never a key or
  prompt text.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "APIError",
    "BadFinishError",
    "ConnectionFailedError",
    "ConnectionLostError",
    "DeadlineExceededError",
    "EventTooLargeError",
    "FirstEventTimeoutError",
    "GeminiStreamsError",
    "HistoryGoneError",
    "IdleTimeoutError",
    "IncompleteAnswerError",
    "InteractionFailedError",
    "InteractionGoneError",
    "InteractionStalledError",
    "InvalidRequestError",
    "MalformedEventError",
    "ManagerDrainingError",
    "MaxStreamsExceededError",
    "MissingCredentialsError",
    "ReplayMismatchError",
    "SlowSubscriberError",
    "StreamCrashedError",
    "StreamEndedError",
    "StreamExistsError",
    "StreamNotFoundError",
    "StreamTruncatedError",
    "UnexpectedResponseError",
]


def shown(value: object, most: int = 100) -> str:
    """Return a value as an error's text may show it: its `repr`, cut."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _rebuild(
    cls: type[GeminiStreamsError], args: tuple[Any, ...], state: dict[str, Any]
) -> GeminiStreamsError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class GeminiStreamsError(Exception):
    """Base of all errors of this package."""

    default_retryable: ClassVar[bool] = False

    def __init__(
        self, message: str = "", *, retryable: bool | None = None, retry_at: float | None = None
    ) -> None:
        super().__init__(message)
        self.retryable: bool = self.default_retryable if retryable is None else retryable
        """Whether the same request can succeed later. What a retry policy goes by."""
        self.retry_at: float | None = retry_at
        """The server's word on when to come back, in seconds since the epoch; `None` where it named no time."""

    @property
    def message(self) -> str:
        """The error's text."""
        return str(self.args[0]) if self.args else ""

    @property
    def brief(self) -> str:
        """What a log line may say of it: nothing that a server has put in its own words, they may be the prompt."""
        return f"{type(self).__name__}: {self}"

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


# -- an attempt that failed ------------------------------------------------------------------------------------------


class APIError(GeminiStreamsError):
    """The server refused the request or broke the stream off with an error of its own.

    `code` is the HTTP status (or the error's own code where it came inside a 200 stream), `status` Google's name for
    it (`RESOURCE_EXHAUSTED`), `details` the error's details as decoded JSON.
    """

    def __init__(
        self,
        code: int,
        status: str = "",
        message: str = "",
        details: list[Any] | None = None,
        *,
        retryable: bool = False,
        retry_at: float | None = None,
    ) -> None:
        super().__init__(message, retryable=retryable, retry_at=retry_at)
        self.code = code
        self.status = status
        self.details: list[Any] = details if details is not None else []

    @property
    def brief(self) -> str:
        """Its code and status."""
        return f"APIError: {self.code} {self.status}".rstrip()

    def __str__(self) -> str:
        return " ".join(filter(None, (str(self.code), self.status))) + (
            f": {self.message}" if self.message else ""
        )


class ConnectionFailedError(GeminiStreamsError, ConnectionError):
    """No connection: the name was not resolved, the connect or the handshake failed, or descriptors ran out."""

    default_retryable = True


class ConnectionLostError(GeminiStreamsError, ConnectionError):
    """The connection was reset or closed early."""

    default_retryable = True


class FirstEventTimeoutError(GeminiStreamsError, TimeoutError):
    """Nothing came within `first_event_timeout` of the attempt's start."""

    default_retryable = True


class IdleTimeoutError(GeminiStreamsError, TimeoutError):
    """Silence between two events for longer than `idle_timeout`."""

    default_retryable = True


class DeadlineExceededError(GeminiStreamsError, TimeoutError):
    """The stream's `deadline` passed, restarts included."""


class StreamTruncatedError(GeminiStreamsError):
    """The body ended cleanly, but the answer did not.

    No finishReason and no blockReason, a candidate without its finishReason, half an event, half a function call.
    """

    default_retryable = True


class BadFinishError(GeminiStreamsError):
    """The answer ended with a finishReason that the policy's `retry_finish` takes for a failure: `finish_reason`."""

    default_retryable = True

    def __init__(
        self,
        message: str = "",
        finish_reason: str | None = None,
        *,
        retryable: bool | None = None,
        retry_at: float | None = None,
    ) -> None:
        super().__init__(message, retryable=retryable, retry_at=retry_at)
        self.finish_reason = finish_reason


class MalformedEventError(GeminiStreamsError):
    """A finished event that is no JSON object, or nests too deep."""


class EventTooLargeError(GeminiStreamsError):
    """An event larger than `max_event_bytes`."""


class UnexpectedResponseError(GeminiStreamsError):
    """An answer that is no event stream: a redirect, an HTML page, another content type."""


class StreamCrashedError(GeminiStreamsError):
    """The stream's actor, or what holds it, died. The cause is in the text."""

    default_retryable = True


class ReplayMismatchError(GeminiStreamsError):
    """The server has repeated an interaction's events, and what they say is not what it had said before.

    What is void by it is told by the `StreamRestarting` that carries this error.
    """

    default_retryable = True


class InteractionGoneError(GeminiStreamsError, LookupError):
    """The server does not know the interaction any more: it was deleted, or kept for as long as the service keeps it.

    A stream that had started the interaction itself asks anew, as its retry policy allows. One that was resumed from a
    cursor or an id asks for nothing.
    """

    default_retryable = True


class InteractionStalledError(GeminiStreamsError, TimeoutError):
    """The server says that the interaction is in progress, and nothing of it has moved for `max_silence`."""


class InteractionFailedError(GeminiStreamsError):
    """The interaction has ended without an answer: `status` is `failed`, `cancelled` or `budget_exceeded`."""

    def __init__(
        self,
        message: str = "",
        status: str = "",
        *,
        retryable: bool | None = None,
        retry_at: float | None = None,
    ) -> None:
        super().__init__(message, retryable=retryable, retry_at=retry_at)
        self.status = status


class SlowSubscriberError(GeminiStreamsError):
    """The subscriber that gets it was let go, for it did not take its events; the stream goes on for the others."""


# -- an answer that came to its end and is not whole -----------------------------------------------------------------


class IncompleteAnswerError(GeminiStreamsError):
    """The stream has completed, and its answer is not whole; `Answer.error`, never a stream's last message.

    `finish_reason` is the stream's, `MAX_TOKENS` or `SAFETY` say. It is `STOP` where events were left out by flow
    control or were sent before the subscriber joined, and `None` where the prompt was blocked.
    """

    def __init__(
        self,
        message: str = "",
        finish_reason: str | None = None,
        *,
        retryable: bool | None = None,
        retry_at: float | None = None,
    ) -> None:
        super().__init__(message, retryable=retryable, retry_at=retry_at)
        self.finish_reason = finish_reason


# -- a request that the manager refused ------------------------------------------------------------------------------


class InvalidRequestError(GeminiStreamsError, ValueError):
    """What was asked for cannot be right; the text says what to do."""


class MissingCredentialsError(GeminiStreamsError):
    """No API key or credentials in the arguments or the environment; or credentials that get no access token.

    Raised at the start where this machine can tell; else it is the stream's error. `retryable` where asking the token
    server again can help.
    """


class MaxStreamsExceededError(GeminiStreamsError):
    """All of the manager's `max_streams` slots, and its `max_waiting` places, are taken."""

    default_retryable = True


class StreamNotFoundError(GeminiStreamsError, LookupError):
    """No stream of this id, or it ended longer than `linger` ago."""


class StreamEndedError(GeminiStreamsError):
    """The stream has ended; there is nothing more to subscribe to."""


class StreamExistsError(GeminiStreamsError):
    """Another stream, with other contents, model or endpoint, runs or lingers under this id."""


class HistoryGoneError(GeminiStreamsError):
    """What was asked to be replayed is no longer kept (see the option `history`)."""


class ManagerDrainingError(GeminiStreamsError):
    """The manager is draining: it takes no new streams."""
