"""A stream's last message, made for one subscriber.

The rules:

- `_made` makes all of them. It reads from the stream what they share, and asks the subscription how many events its
  subscriber has been given.
- A message is made when it is put, for the count is known only then. Where events are buffered before it, that can be
  long after the end.
- Its `attempts` are those that the subscriber has heard of: a last message that comes at once takes the place of the
  restarts that were buffered before it.
- Where a message cannot be made, its subscriber is told of a crash instead (`unmade`).

The functions run with the session's lock held, in the thread that ends the stream or in the one that empties a buffer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, Protocol

from gemini_streams.api.chosen import cursor_of
from gemini_streams.delivery.owner import LastMessageOf
from gemini_streams.delivery.subscription import Subscription
from gemini_streams.errors import GeminiStreamsError, StreamCrashedError
from gemini_streams.messages import LastMessage, StreamComplete, StreamError, StreamStopped

__all__ = ["Ending", "completed", "failed", "stopped", "unmade"]


class Ending(Protocol):
    """What every last message tells of its stream."""

    stream_id: str
    tag: Any

    @property
    def attempts(self) -> int:
        """How many attempts have begun."""

    @property
    def duration(self) -> float:
        """Seconds from the stream's start to its end."""

    @property
    def interaction_id(self) -> str | None:
        """Under which the server keeps the work."""

    def usage(self) -> dict[str, Any] | None:
        """Return the tokens of the requests whose answers stand."""


def completed(
    stream: Ending,
    *,
    finish_reason: str | None,
    block_reason: str | None,
    finish_message: str | None,
    first_event_after: float | None,
) -> LastMessageOf:
    """Return the maker of a `StreamComplete`."""
    message = functools.partial(
        StreamComplete,
        finish_reason=finish_reason,
        block_reason=block_reason,
        finish_message=finish_message,
        first_event_after=first_event_after,
    )
    return lambda subscription: _made(message, stream, subscription, stream.usage())


def failed(stream: Ending, error: GeminiStreamsError) -> LastMessageOf:
    """Return the maker of a `StreamError`."""
    message = functools.partial(StreamError, error=error)
    return lambda subscription: _made(message, stream, subscription, stream.usage())


def stopped(stream: Ending, reason: Literal["requested", "shutdown"]) -> LastMessageOf:
    """Return the maker of a `StreamStopped`."""
    message = functools.partial(StreamStopped, reason=reason)
    return lambda subscription: _made(message, stream, subscription, stream.usage())


def unmade(stream: Ending, subscription: Subscription) -> LastMessage:
    """Return the last message of a subscriber whose own could not be made: one without usage."""
    error = StreamCrashedError("the stream has ended; its last message could not be made")
    return _made(functools.partial(StreamError, error=error), stream, subscription, None)


def _made(
    message: Callable[..., LastMessage],
    stream: Ending,
    subscription: Subscription,
    usage: dict[str, Any] | None,
) -> LastMessage:
    attempts = stream.attempts
    given = subscription.given
    if subscription.unheard is not None:
        attempts = min(attempts, subscription.unheard - 1)
    return message(
        stream_id=stream.stream_id,
        events_count=given.events_count(attempts),
        usage=usage,
        attempts=attempts,
        duration=stream.duration,
        tag=stream.tag,
        interaction_id=stream.interaction_id or (given.mark[0] if given.mark else None) or None,
        cursor=cursor_of(given.mark, given.attempt),
    )
