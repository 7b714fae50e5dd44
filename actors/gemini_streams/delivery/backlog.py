"""What waits in front of one subscriber's inbox: events that did not fit, gaps, restarts and a replay. Pure.

The rules:

- The entries stand in the order in which the subscriber is given them; none overtakes another.
- An entry is (sequence, count of events, bytes, item). The item tells its kind:

      item                 count, bytes          the subscriber is given
      StreamEvent          1, its JSON's         the event
      Replay               its events'           its events, decoded a `Piece` at a time
      Piece                0, 0                  the events of a replay that are being decoded
      StreamRestarting     0, 0                  the restart
      int (an attempt)     events left out, 0    the gap: `EventsDropped` of that attempt

- `count` and `size` are the events that wait and their bytes, those of a replay included. The events of a gap are
  gone: they count no more.
- Two gaps never stand side by side: they are one.
- A restart takes out all events and gaps at or behind its `resume_at`; the restarts before it stay. One of those that
  goes on behind what was taken out is told as one that goes on there: the subscriber will never be given what lies
  between.
- `entries` is `None` until something waits: most subscribers keep up, and their backlog costs nothing.

Used with the session's lock held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from gemini_streams.delivery.history import Replay
from gemini_streams.messages import StreamEvent, StreamRestarting

__all__ = ["Backlog", "Entry", "Fits", "Piece"]

Entry = tuple[int, int, int, Any]

Fits = Callable[[int, int, int], bool]
"""Whether one more event of so many bytes fits an inbox that has so many events and bytes on their way."""

_PIECE = 64
_PIECE_BYTES = 65536
"""Events and bytes of a replay that are decoded at a time."""


class Piece:
    """Events of a replay that are being decoded; it stands in front of the entries that come behind them."""

    __slots__ = ("payloads",)

    def __init__(self) -> None:
        self.payloads: list[tuple[int, bytes]] = []


class Backlog:
    """One subscription's."""

    __slots__ = ("count", "entries", "replay_count", "replay_size", "size")

    def __init__(self) -> None:
        self.entries: deque[Entry] | None = None
        self.count = self.size = 0
        self.replay_count = self.replay_size = 0
        """Of those, the events out of the history."""

    @property
    def only_a_gap(self) -> bool:
        """Whether nothing waits, or a gap alone."""
        entries = self.entries
        return not entries or (len(entries) == 1 and isinstance(entries[0][3], int))

    @property
    def next_attempt(self) -> int | None:
        """The attempt that the first restart that waits announces; `None` where none waits."""
        items = (item for *_, item in self.entries or ())
        return next((item.attempt for item in items if isinstance(item, StreamRestarting)), None)

    def clear(self) -> None:
        """Leave everything out."""
        self.entries = None
        self.count = self.size = 0
        self.replay_count = self.replay_size = 0

    def begin(self, replay: Replay) -> None:
        """Begin with a replay."""
        self.entries = deque([(replay.first, replay.count, replay.size, replay)])
        self.count = self.replay_count = replay.count
        self.size = self.replay_size = replay.size

    def add(self, events: list[StreamEvent], sizes: list[int]) -> None:
        """Have events wait."""
        if self.entries is None:
            self.entries = deque()
        self.entries.extend(
            (event.sequence, 1, size, event) for event, size in zip(events, sizes, strict=True)
        )
        self.count += len(events)
        self.size += sum(sizes)

    def add_gap(self, attempt: int, sequence: int, count: int) -> None:
        """Have the word of a gap wait."""
        entries = self.entries
        if entries is None:
            entries = self.entries = deque()
        if entries and isinstance(entries[-1][3], int):
            sequence, before, _size, _attempt = entries.pop()
            count += before
        entries.append((sequence, count, 0, attempt))

    def take_events(
        self, fits: Fits, in_flight: int, in_flight_size: int
    ) -> tuple[list[StreamEvent], list[int]]:
        """Take the events at the head that fit, and their sizes."""
        entries = self.entries
        events: list[StreamEvent] = []
        sizes: list[int] = []
        while entries:
            _, _, size, item = entries[0]
            if not isinstance(item, StreamEvent) or not fits(size, in_flight, in_flight_size):
                break
            entries.popleft()
            self._taken(item, size)
            in_flight += 1
            in_flight_size += size
            sizes.append(size)
            events.append(item)
        return events, sizes

    def take_piece(self, fits: Fits, in_flight: int, in_flight_size: int) -> tuple[Piece, int]:
        """Take from a replay at the head the events that fit, and the attempt under which they are told.

        The piece stands at the head until its events have been put. It is empty where no event fits, or where no
        replay is at the head.
        """
        piece = Piece()
        entries = self.entries
        replay = entries[0][3] if entries else None
        if entries is None or not isinstance(replay, Replay):
            return piece, 0
        entries.popleft()
        first, count, size = replay.first, replay.count, replay.size
        while (
            replay.count
            and fits(replay.next_size, in_flight, in_flight_size)
            and len(piece.payloads) < _PIECE
            and size - replay.size < _PIECE_BYTES
        ):
            payload = replay.take()
            in_flight += 1
            in_flight_size += len(payload)
            piece.payloads.append((replay.first - 1, payload))
        self._taken(replay, size - replay.size, count - replay.count)
        if replay.count:
            entries.appendleft((replay.first, replay.count, replay.size, replay))
        if piece.payloads:
            entries.appendleft((first, 0, 0, piece))
        return piece, replay.attempt

    def drop_oldest(self, limit: int, limit_size: int, least: int) -> bool:
        """Leave the oldest events out until the rest fits these limits; whether any had to go.

        `least`: events that stay however large they are.
        """
        entries = self.entries
        if entries is None:
            return False
        stays: list[Entry] = []
        gap: Entry | None = None
        while self.count > limit or (self.size > limit_size and self.count > least):
            sequence, count, size, item = entries.popleft()
            if not count:
                stays += [gap] if gap else []
                stays.append((sequence, count, size, item))
                gap = None
                continue
            attempt = item
            if isinstance(item, Replay):
                missing = self.count - limit
                most = max(missing, self.count - least)
                count, size = item.drop(missing, self.size - limit_size, most)
                if item.count:
                    entries.appendleft((item.first, item.count, item.size, item))
            if not isinstance(item, int):
                attempt = item.attempt
                self._taken(item, size, count)
            gap = (gap[0], gap[1] + count, 0, gap[3]) if gap else (sequence, count, 0, attempt)
        if gap:
            if entries and isinstance(entries[0][3], int):
                gap = (gap[0], gap[1] + entries.popleft()[1], 0, gap[3])
            stays.append(gap)
        entries.extendleft(reversed(stays))
        return bool(stays)

    def cut(self, resume_at: int) -> None:
        """Take out what a restart at this sequence number makes void."""
        entries = self.entries
        told: list[Entry] = []
        first: int | None = None  # what was taken out
        while entries:
            sequence, count, size, item = entries[-1]
            if not count:
                told.append(entries.pop())
                continue
            if sequence + count <= resume_at:
                break
            entries.pop()
            first = max(sequence, resume_at)
            if isinstance(item, Replay):
                void = count
                size = item.cut(resume_at)
                self._taken(item, size, void - item.count)
                if item.count:
                    entries.append((item.first, item.count, item.size, item))
                    break
            elif not isinstance(item, int):
                self._taken(item, size)
            elif sequence < resume_at:
                entries.append((sequence, resume_at - sequence, 0, item))
                break
        if entries is not None:
            entries.extend(_not_behind(entry, first) for entry in reversed(told))

    def add_restart(self, message: StreamRestarting) -> None:
        """Have the word of a restart wait, behind something that does."""
        if self.entries is not None:
            self.entries.append((message.resume_at, 0, 0, message))

    def _taken(self, item: Any, size: int, count: int = 1) -> None:
        self.count -= count
        self.size -= size
        if isinstance(item, Replay):
            self.replay_count -= count
            self.replay_size -= size


def _not_behind(entry: Entry, first: int | None) -> Entry:
    """Return the entry of a restart, or of a `Piece`, that goes on at `first` at the latest."""
    sequence, _, _, item = entry
    if first is None or sequence <= first or not isinstance(item, StreamRestarting):
        return entry
    return first, 0, 0, replace(item, resume_at=first)
