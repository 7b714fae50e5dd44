"""How far one stream has come over all its requests: what stands of its answer when an attempt fails. Pure.

The rules:

- An answer goes on from its latest resume point. Behind an attempt that has failed its API says from where
  (`api.protocol.Request.onward`), and which events stand.
- Each request that goes on with an answer counts against `max_continuations`, over the stream's whole life.
- The tokens of a request count as long as a part of its answer stands. A restart from the beginning voids them all.
- A silence before the first event is counted: the retry policy forgives one.

Used with the session's lock held, but for `resume`: the stream's thread reads it without the lock.
"""

from __future__ import annotations

from typing import Any

from gemini_streams.api.protocol import ResumePoint
from gemini_streams.api.usage import add_usage
from gemini_streams.errors import FirstEventTimeoutError, GeminiStreamsError, StreamTruncatedError
from gemini_streams.safely import safely

__all__ = ["Progress"]


class Progress:
    """One stream's."""

    __slots__ = ("_continuations", "resume", "resume_at", "silences", "used")

    def __init__(self) -> None:
        self.resume: ResumePoint | None = None
        """Where the answer can go on; `None` where only from the beginning."""
        self.resume_at = 0
        """The sequence number of the next event at that point."""
        self._continuations = 0
        self.silences = 0
        """Attempts that ended in `FirstEventTimeoutError`."""
        self.used: dict[str, Any] | None = None
        """Tokens of the requests before the present one whose answers stand."""

    def reached(self, resume: ResumePoint | None, sequence: int) -> None:
        """Take note that the answer can go on from here with the event of this sequence number."""
        self.resume = resume
        self.resume_at = sequence

    def go_on(self, most: int, usage: dict[str, Any] | None) -> None:
        """Take note that another request goes on with the answer; `usage`: of all requests before it.

        Raises `StreamTruncatedError` where there were `most` of them.
        """
        if self._continuations >= most:
            raise StreamTruncatedError(
                f"the answer stopped with CONTINUATION after {most} requests that went on with it"
                " (max_continuations)",
                retryable=False,
            )
        self._continuations += 1
        self.used = usage

    def failed(self, error: GeminiStreamsError) -> None:
        """Take note that an attempt has failed."""
        self.silences += isinstance(error, FirstEventTimeoutError)

    def keep(self, usage: dict[str, Any] | None, resume_at: int) -> None:
        """Take note of the tokens of a failed attempt's request; its answer stands up to `resume_at`."""
        if not resume_at:
            self.used = None
        elif usage is not None:
            self.used = safely(add_usage, self.used, usage) or usage

    def usage(self, present: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return the tokens of all requests whose answers stand; `present`: of the one under way."""
        if self.used is None:
            return present
        return self.used if present is None else safely(add_usage, self.used, present) or present
