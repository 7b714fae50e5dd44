"""What a browser is sent: the messages of one stream as server-sent events. Pure.

The rules:

- `event:` names the message: `event`, `restarting`, `dropped`, and `end` behind the last one. `gone` is told where the
  stream that a browser comes back to is no longer there.
- `id:` of an `event` is its position. A browser that has lost its connection sends the latest one as `Last-Event-ID`.
  `id:` of `end` is `end`: a browser that comes back with it is told that nothing follows.
- What is sent is what a page shows: texts, calls and reasons. Of an error it is the name, the code and whether to try
  again; the service's words may name a project, and stay here.
- An event's sequence number that leaves others out is told as `dropped`, as the flow control's own word is.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from gemini_streams.errors import GeminiStreamsError
from gemini_streams.messages import (
    EventsDropped,
    LastMessage,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
)

__all__ = ["ALIVE", "END", "GONE", "OPENING", "Events"]

OPENING = b"retry: 1000\n\n"
"""The first bytes: headers go out with them. A browser that loses its connection comes back after 1,000 ms."""

ALIVE = b":\n\n"
"""A comment, for a proxy that closes what is silent, and to notice a browser that has left."""

END = "end"
"""The `id:` of the last event."""

GONE = b'event: gone\ndata: {}\n\nevent: end\nid: end\ndata: {"outcome":"gone","ok":false}\n\n'

_encode = msgspec.json.Encoder().encode


class Events:
    """The events of one stream for one browser."""

    __slots__ = ("_next",)

    def __init__(self, after: int = -1) -> None:
        self._next = after + 1

    def of(self, items: list[StreamEvent | StreamRestarting | EventsDropped]) -> bytes:
        """Return the messages as they are sent."""
        pieces: list[bytes] = []
        for item in items:
            if isinstance(item, StreamEvent):
                if item.sequence > self._next:
                    pieces.append(_dropped(item.attempt, self._next, item.sequence - self._next))
                self._next = item.sequence + 1
                pieces.append(b"event: event\nid: %b\ndata: %b\n\n" % (item.position.encode(), _read(item)))
            elif isinstance(item, EventsDropped):
                self._next = item.first_sequence + item.count
                pieces.append(_dropped(item.attempt, item.first_sequence, item.count))
            else:
                self._next = min(self._next, item.resume_at)
                pieces.append(_named("restarting", _restarting(item)))
        return b"".join(pieces)

    def end(self, last: LastMessage) -> bytes:
        """Return the last event."""
        said: dict[str, Any]
        if isinstance(last, StreamComplete):
            said = {"outcome": "complete", "ok": last.ok, "finish_reason": last.finish_reason}
            if last.block_reason is not None:
                said["block_reason"] = last.block_reason
        elif isinstance(last, StreamError):
            said = {"outcome": "error", "ok": False, **_error(last.error)}
        else:
            said = {"outcome": "stopped", "ok": False, "reason": last.reason}
        return b"event: end\nid: end\ndata: %b\n\n" % _json(said)


def _read(event: StreamEvent) -> bytes:
    said: dict[str, Any] = {"attempt": event.attempt, "sequence": event.sequence, "text": event.text}
    thoughts, calls, reason = event.thoughts, event.function_calls, event.finish_reason
    if thoughts:
        said["thoughts"] = thoughts
    if calls:
        said["function_calls"] = calls
    if reason is not None:
        said["finish_reason"] = reason
    return _json(said)


def _restarting(message: StreamRestarting) -> dict[str, Any]:
    return {
        "attempt": message.attempt,
        "resume_at": message.resume_at,
        "discard": message.discard,
        "delay": message.delay,
        **_error(message.error),
    }


def _dropped(attempt: int, first: int, count: int) -> bytes:
    return _named("dropped", {"attempt": attempt, "first_sequence": first, "count": count})


def _error(error: GeminiStreamsError) -> dict[str, Any]:
    said: dict[str, Any] = {"error": type(error).__name__, "retryable": error.retryable}
    code = getattr(error, "code", None)
    if code is not None:
        said["code"] = code
    if error.retry_at is not None:
        said["retry_at"] = error.retry_at
    return said


def _named(name: str, said: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _json(said))


def _json(said: dict[str, Any]) -> bytes:
    try:
        return _encode(said)
    except (OverflowError, ValueError, RecursionError):  # an integer in a function call may be of any length
        return json.dumps(said, separators=(",", ":")).encode()
