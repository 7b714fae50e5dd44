"""One attempt at a stream: what one incarnation of its actor knows, and what dies with it.

"The pump's thread" is the thread that uses the pump at the moment: the stream's own, or the shared reader's for it. All
fields are written with the session's lock held, but for `exchange` and `interrupted`:

    field             written by                                        may be read without the lock by
    number            no thread: it never changes                       any thread
    exchange          the stream's thread                               any thread that hangs up
    call              the stream's thread                               the thread that ends the stream, behind the end
    interrupted       the thread that stops or kills the actor          the stream's thread
    error             the clock's thread; cleared by the stream's       the stream's thread
    meaning           the stream's thread, at each request              the pump's thread
    received, hop     the pump's thread                                 the pump's thread
    free, free_bytes  the pump's thread; the manager's at a join        the pump's thread
    connected         the stream's thread; cleared by the clock's       no thread
    heard_at          the pump's thread; a thread that wakes the stream no thread
"""

from __future__ import annotations

from gemini_streams.api.protocol import Call, Events
from gemini_streams.errors import GeminiStreamsError
from gemini_streams.http.exchange import Exchange

__all__ = ["Attempt", "Retired", "hang_up"]


class Retired(Exception):  # noqa: N818 - no error: the attempt's time is over
    """The attempt is not the present one any more; it has nothing left to do."""


class Attempt:
    """One attempt at a session. The stream's thread uses it; other threads interrupt it."""

    __slots__ = (
        "call",
        "connected",
        "error",
        "exchange",
        "free",
        "free_bytes",
        "heard_at",
        "hop",
        "interrupted",
        "meaning",
        "number",
        "received",
    )

    def __init__(self, number: int, meaning: Events) -> None:
        self.number = number
        self.exchange: Exchange | None = None
        self.call: Call | None = None
        """The present one."""
        self.meaning = meaning
        self.interrupted = False
        self.error: GeminiStreamsError | None = None
        """Why it was interrupted, where that is a failure."""
        self.connected = False
        self.heard_at = 0.0
        """When the server's silence began: monotonic seconds of the manager's clock."""
        self.received = 0
        """Events of this attempt, over all its hops."""
        self.hop = 0
        """Events of the present request."""
        self.free = 0
        self.free_bytes = 0
        """Events and bytes that surely fit all subscribers that pause. Until the next delivery, room only grows."""


def hang_up(attempt: Attempt | None) -> None:
    """Close the connection of an attempt whose time is over; the stream's thread may wait for it. Never blocks."""
    if attempt is not None and attempt.exchange is not None:
        attempt.exchange.interrupt()
