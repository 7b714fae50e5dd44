"""What of a stream can be replayed, and from where on what somebody has seen is void. Pure.

The rules (contract, section 8):

- Kept are the latest events as their JSON came, at most `limit` bytes; `limit=0` keeps nothing and costs nothing.
- A restart at `resume_at` voids what lies at or behind that number, in the history and with whoever saw it.
- Who comes back with the last event seen is told of the void first, if part of that is void, and is given what
  follows what stands.
"""

from __future__ import annotations

from collections import deque

from gemini_streams.errors import HistoryGoneError, InvalidRequestError
from gemini_streams.options import FromStart, Place

__all__ = ["ALL_KEPT", "History"]


class _AllKept(FromStart):
    """The type of `ALL_KEPT`."""


ALL_KEPT = _AllKept()
"""As `FROM_START`, but what is no longer kept is left out: for a start that joins a stream."""


class History:
    """One stream's; used with its session's lock held."""

    __slots__ = ("_bytes", "_entries", "_restarts", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._entries: deque[tuple[int, bytes]] | None = deque() if limit else None
        self._bytes = 0
        self._restarts: tuple[tuple[int, int], ...] = ()  # (attempt, resume_at) of each

    @property
    def oldest(self) -> int | None:
        """The sequence number of the first event that is kept."""
        return self._entries[0][0] if self._entries else None

    def remember(self, first: int, payloads: list[bytes]) -> None:
        """Keep events, the first of them of sequence number `first`."""
        entries = self._entries
        if entries is None:
            return
        entries.extend(enumerate(payloads, first))
        self._bytes += sum(map(len, payloads))
        while self._bytes > self.limit:
            self._bytes -= len(entries.popleft()[1])

    def restart(self, attempt: int, resume_at: int) -> None:
        """Take note that `attempt` begins at `resume_at`."""
        self._restarts = (*self._restarts, (attempt, resume_at))
        entries = self._entries
        while entries and entries[-1][0] >= resume_at:
            self._bytes -= len(entries.pop()[1])

    def missed(
        self, after: Place, attempt: int, next_sequence: int
    ) -> tuple[int | None, list[tuple[int, bytes]]]:
        """Return what somebody has missed: from where on what it saw is void, if it is, and the events to replay.

        `attempt` and `next_sequence`: where the stream is. Raises `HistoryGoneError`; `InvalidRequestError` for an
        `after` that lies ahead of the stream.
        """
        if after is None:
            return None, []
        void: int | None = None
        start = 0
        entries = self._entries
        if isinstance(after, _AllKept):
            start = entries[0][0] if entries else next_sequence
        elif not isinstance(after, FromStart):
            if after[0] > attempt or (after[0] == attempt and after[1] >= next_sequence):
                raise InvalidRequestError(
                    f"after={after!r} lies ahead of the stream, which is at attempt {attempt},"
                    f" sequence {next_sequence - 1}"
                )
            start = after[1] + 1
            earliest = min(
                (resume_at for number, resume_at in self._restarts if number > after[0]), default=start
            )
            if earliest < start:
                start = void = earliest
        if start >= next_sequence:
            return void, []
        if not entries or entries[0][0] > start:
            raise HistoryGoneError(
                f"events from {start} on are no longer kept: this stream keeps {self.limit} bytes of history"
                " (option `history`)"
            )
        return void, [entry for entry in entries if entry[0] >= start]
