"""Which events of a stream can be replayed, and from where on the events that a subscriber has seen are void. Pure.

The rules:

- Kept are the latest events as their JSON came; `limit` bounds what they cost in memory, but for a constant.
  `limit=0` keeps nothing and costs nothing.
- A restart at `resume_at` voids the events at or behind that number, in the history and at each subscriber.
- A subscriber that comes back with the last event it saw is told of the void first, if it saw any of that. Then it is
  given the events that follow the last one that stands.

A `bytes` object of its own costs 50 bytes beside what it holds, so events are kept in blocks: the JSON of many in one
object, and a table of their sizes with one, two or four bytes for each, or none where all are of one size. Only the
newest, at most `_EVENTS` and `_BYTES`, are not in a block yet; they, and the blocks themselves, are the constant. A
block never changes, so a replay shares it with the history.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Sequence

from gemini_streams.errors import HistoryGoneError, InvalidRequestError
from gemini_streams.options import FromStart, Place

__all__ = ["ALL_KEPT", "History", "Replay"]

_EVENTS = 2048
_BYTES = 65536
"""Events and bytes of them that make a block."""


class _AllKept(FromStart):
    """The type of `ALL_KEPT`."""


ALL_KEPT = _AllKept()
"""As `FROM_START`, but what is no longer kept is left out: for a start that joins a stream."""


class _Block:
    """Consecutive events. Immutable."""

    __slots__ = ("count", "data", "first", "sizes", "table")

    def __init__(self, first: int, payloads: Sequence[bytes]) -> None:
        self.first = first
        self.count = len(payloads)
        self.data = b"".join(payloads)
        lengths = list(map(len, payloads))
        longest = max(lengths)
        code = "B" if longest < 1 << 8 else "H" if longest < 1 << 16 else "I"
        self.sizes: Sequence[int] | None = None if min(lengths) == longest else array(code, lengths)
        """`None`: all are of one size."""
        self.table = 0 if self.sizes is None else array(code).itemsize
        """Bytes of the table for each event."""

    def size_of(self, index: int) -> int:
        return len(self.data) // self.count if self.sizes is None else self.sizes[index]

    def offset_of(self, index: int) -> int:
        if self.sizes is None:
            return index * (len(self.data) // self.count)
        return sum(self.sizes[:index])

    def least(self, index: int, cost: int) -> tuple[int, int]:
        """Return how many events, from this one on, cost at least so much, and their bytes."""
        if self.sizes is None:
            size = len(self.data) // self.count
            return -(-cost // size), -(-cost // size) * size
        begin, bytes_ = index, 0
        while bytes_ + self.table * (index - begin) < cost:
            bytes_ += self.sizes[index]
            index += 1
        return index - begin, bytes_

    def before(self, index: int) -> _Block:
        """Return what lies before this event of it; there is some."""
        payloads = []
        offset = 0
        for each in range(index):
            size = self.size_of(each)
            payloads.append(self.data[offset : offset + size])
            offset += size
        return _Block(self.first, payloads)


class Replay:
    """Events of a history that one subscriber has still to be given, the oldest first. They are numbered from `first`.

    Taking one costs the same however many there are. Not thread-safe: its subscription's.
    """

    __slots__ = ("_blocks", "_index", "_offset", "attempt", "count", "first", "size")

    def __init__(self, blocks: Iterable[_Block], first: int, attempt: int) -> None:
        self._blocks = deque(blocks)
        self.attempt = attempt
        """Under which attempt they are told."""
        self.first = first
        head = self._blocks[0]
        self._index = first - head.first  # in the head of the blocks
        self._offset = head.offset_of(self._index)
        last = self._blocks[-1]
        self.count = last.first + last.count - first
        self.size = sum(len(block.data) for block in self._blocks) - self._offset
        """Bytes of their JSON."""

    @property
    def next_size(self) -> int:
        """Bytes of the first; there must be one."""
        return self._blocks[0].size_of(self._index)

    def take(self) -> bytes:
        """Take the first; there must be one."""
        block = self._blocks[0]
        size = block.size_of(self._index)
        payload = block.data[self._offset : self._offset + size]
        self._skip(1, size)
        return payload

    def _skip(self, count: int, size: int) -> None:
        """Pass over events, at most those of the first block."""
        self.first += count
        self.count -= count
        self.size -= size
        self._index += count
        self._offset += size
        if self._index == self._blocks[0].count:
            self._blocks.popleft()
            self._index = self._offset = 0

    def drop(self, count: int, size: int, most: int) -> tuple[int, int]:
        """Pass over at least `count` events and `size` bytes, but over no more than `most` events.

        Returns how many, and their bytes.
        """
        had, had_bytes = self.count, self.size
        most = min(most, had)
        while (had - self.count < count or had_bytes - self.size < size) and had - self.count < most:
            block = self._blocks[0]
            left, left_bytes = block.count - self._index, len(block.data) - self._offset
            dropped = had - self.count
            if (
                dropped + left <= count or had_bytes - self.size + left_bytes <= size
            ) and dropped + left <= most:
                self._skip(left, left_bytes)
            else:
                self._skip(1, self.next_size)
        return had - self.count, had_bytes - self.size

    def cut(self, end: int) -> int:
        """Leave out the events from number `end` on; returns their bytes."""
        had = self.size
        while self.count and self.first + self.count > end:
            block = self._blocks[-1]
            begin = max(block.first, self.first)  # of what is left of it
            start = self._offset if len(self._blocks) == 1 else 0
            if begin >= end:
                self._blocks.pop()
                self.count = begin - self.first
                self.size -= len(block.data) - start
            else:
                kept = block.before(end - block.first)
                self._blocks[-1] = kept
                self.count = end - self.first
                self.size -= len(block.data) - len(kept.data)
        return had - self.size


class History:
    """One stream's; used with its session's lock held."""

    __slots__ = (
        "_blocks",
        "_cost",
        "_first",
        "_next",
        "_open",
        "_open_bytes",
        "_restarts",
        "_seal_at",
        "_skipped",
        "_skipped_bytes",
        "limit",
    )

    def __init__(self, limit: int, first: int = 0) -> None:
        self.limit = limit
        self._first = first  # the number that the stream begins with
        self._blocks: deque[_Block] = deque()
        self._skipped = 0  # events of the first block that are not kept any more
        self._skipped_bytes = 0
        self._open: list[bytes] = []  # the newest, in no block yet
        self._open_bytes = 0
        self._seal_at = min(_BYTES, limit // 4)
        self._cost = 0
        self._next = first  # the number behind the newest
        self._restarts: tuple[tuple[int, int], ...] = ()  # (attempt, resume_at) of each

    @property
    def cost(self) -> int:
        """Bytes that what is kept costs, but for a constant."""
        return self._cost

    @property
    def oldest(self) -> int | None:
        """The sequence number of the first event that is kept."""
        if self._blocks:
            return self._blocks[0].first + self._skipped
        return self._next - len(self._open) if self._open else None

    def remember(self, first: int, payloads: list[bytes]) -> None:
        """Keep events, the first of them of sequence number `first`."""
        if not self.limit:
            return
        size = sum(map(len, payloads))
        self._open += payloads
        self._open_bytes += size
        self._cost += size
        self._next = first + len(payloads)
        if self._open_bytes >= self._seal_at or len(self._open) >= _EVENTS:
            self._seal()
        if self._cost > self.limit:
            self._shrink()

    def _seal(self) -> None:
        """Make blocks of the newest."""
        payloads, self._open = self._open, []
        size, self._open_bytes = self._open_bytes, 0
        first = self._next - len(payloads)
        at_once = len(payloads) if size < 2 * _BYTES else max(_BYTES * len(payloads) // size, 1)
        for start in range(0, len(payloads), at_once):
            block = _Block(first + start, payloads[start : start + at_once])
            self._cost += block.table * block.count
            self._blocks.append(block)

    def _shrink(self) -> None:
        """Leave out the oldest events until the rest is within the limit."""
        while self._cost > self.limit:
            if not self._blocks:
                self._seal()
            block = self._blocks[0]
            left = block.count - self._skipped
            size = len(block.data) - self._skipped_bytes
            over = self._cost - self.limit
            if size + block.table * left > over:
                left, size = block.least(self._skipped, over)
            self._skipped += left
            self._skipped_bytes += size
            self._cost -= size + block.table * left
            if self._skipped == block.count:
                self._blocks.popleft()
                self._skipped = self._skipped_bytes = 0

    def restart(self, attempt: int, resume_at: int) -> None:
        """Take note that `attempt` begins at `resume_at`."""
        self._restarts = (*self._restarts, (attempt, resume_at))
        void = min(len(self._open), max(self._next - resume_at, 0))
        if void:
            size = sum(map(len, self._open[-void:]))
            del self._open[-void:]
            self._open_bytes -= size
            self._cost -= size
        while self._blocks and self._blocks[-1].first + self._blocks[-1].count > resume_at:
            block = self._blocks.pop()
            skipped, skipped_bytes = (0, 0) if self._blocks else (self._skipped, self._skipped_bytes)
            kept = resume_at - block.first
            self._cost -= len(block.data) - skipped_bytes + block.table * (block.count - skipped)
            if kept > skipped:
                rest = block.before(kept)
                self._cost += len(rest.data) - skipped_bytes + rest.table * (kept - skipped)
                self._blocks.append(rest)
            elif not self._blocks:
                self._skipped = self._skipped_bytes = 0
        self._next = min(self._next, resume_at)

    def missed(
        self, after: Place, attempt: int, next_sequence: int, begun: int
    ) -> tuple[int | None, Replay | None]:
        """Return what a subscriber has missed: from where on the events it saw are void, if any are, and the replay.

        `attempt` and `next_sequence`: where the stream is; `begun`: the attempt under which they are replayed. Raises
        `HistoryGoneError`; `InvalidRequestError` for an `after` that lies ahead of the stream.
        """
        if after is None:
            return None, None
        void: int | None = None
        start = self._first
        oldest = self.oldest
        if isinstance(after, _AllKept):
            start = next_sequence if oldest is None else oldest
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
            return void, None
        if oldest is None or oldest > start:
            raise HistoryGoneError(
                f"events from {start} on are no longer kept: this stream keeps {self.limit} bytes of history"
                " (option `history`)"
            )
        blocks = [block for block in self._blocks if block.first + block.count > start]
        if self._open:
            blocks.append(_Block(self._next - len(self._open), self._open))
        return void, Replay(blocks, start, begun)
