"""An actor's inbox that outlives the actor's incarnations.

Theory of operation
-------------------
Senders `put` under a short lock: is it closed, append, is the consumer parked. So a message is
accepted or refused, never lost between the two, and `close()` is atomic.

The consumer is a `Receiver`, one for each incarnation. It pops from the deque without the lock and
takes the lock only to park when the deque is empty. What it is at stands in `since`:

    FETCHING (-inf)  it may be popping
    PARKED (inf)     it waits, or has left for good
    else             it handles a message, since this point of its clock

Hand-over. `retire()` forbids a receiver to take anything more and wakes it; then it waits while the
receiver is FETCHING. A receiver says FETCHING *before* it looks at `retired`, and looks again after
its pop, giving back what it popped. So once `retire()` has returned, a late thread holds nothing it
has not begun to handle and takes nothing any more, and the next receiver finds all the rest, in
order.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import pykka

from . import forks
from ._pykka import ActorStop, Envelope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["FETCHING", "PARKED", "Envelope", "Mailbox", "Receiver"]

# No clock says these, whatever point it counts from.
FETCHING: Final = -math.inf
PARKED: Final = math.inf

_OPEN: Final = 0
_BOUNDED: Final = 1
_CLOSED: Final = 2


def _locked() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


class Mailbox:
    """Many senders, one consumer. `put` never blocks."""

    __slots__ = ("_gate", "_home", "_items", "_limit", "_lock", "_parked", "dead_letters", "owner")

    def __init__(self) -> None:
        self._items: deque[Envelope[Any]] = deque()
        self._lock = threading.Lock()
        # The lock on which the consumer is parked; whoever releases it also takes it out of here.
        self._parked: threading.Lock | None = None
        self._gate = _OPEN
        self._limit = 0
        self._home = forks.here()
        self.owner: object = "the actor"
        self.dead_letters = 0
        """Messages that were accepted and could not be handled, stop requests not counted."""

    def put(self, envelope: Envelope[Any], /) -> None:
        """Add a message, from any thread.

        Raises `pykka.ActorDeadError` when the mailbox is closed, and in a child forked from its process.
        """
        if self._home.forked:
            raise forks.refusal(self.owner)
        with self._lock:
            if not self._gate or self._admit(envelope):
                self._items.append(envelope)
                parked = self._parked
                if parked is not None:  # as `_unpark`, without a call: this is the way of every message
                    self._parked = None
                    parked.release()
                return
        self._refuse(envelope)

    def put_quietly(self, envelope: Envelope[Any], wakes: list[threading.Lock], /) -> None:
        """Add a message as `put` does, and leave it to the caller to wake the consumer.

        `wakes` takes the lock on which the consumer is parked, where it is. The caller releases it, once, and soon:
        until then nothing else wakes the consumer.
        """
        if self._home.forked:
            raise forks.refusal(self.owner)
        with self._lock:
            if not self._gate or self._admit(envelope):
                self._items.append(envelope)
                parked = self._parked
                if parked is not None:
                    self._parked = None
                    wakes.append(parked)
                return
        self._refuse(envelope)

    def put_many(self, envelopes: Iterable[Envelope[Any]], /) -> None:
        """Add several at once: nobody's message comes between, and the consumer wakes once.

        Raises `pykka.ActorDeadError` when the mailbox is closed; then none was added.
        """
        if self._home.forked:
            raise forks.refusal(self.owner)
        refused = []
        with self._lock:
            if self._gate:
                for envelope in envelopes:
                    if self._admit(envelope):
                        self._items.append(envelope)
                    else:
                        refused.append(envelope)
            else:
                self._items.extend(envelopes)
            if self._parked is not None and self._items:
                self._unpark()
        for envelope in refused:
            self._refuse(envelope)

    def try_put(self, envelope: Envelope[Any], /) -> bool:
        """Add a message if nobody is at the lock just now, the calling thread included: for `__del__` and the like.

        The garbage collector calls those in whatever thread it runs in, wherever that is: they must wait for no
        lock. Raises `pykka.ActorDeadError` when the mailbox is closed.
        """
        if self._home.forked:
            raise forks.refusal(self.owner)
        if not self._lock.acquire(blocking=False):
            return False
        try:
            admitted = not self._gate or self._admit(envelope)
            if admitted:
                self._items.append(envelope)
                if self._parked is not None:
                    self._unpark()
        finally:
            self._lock.release()
        if not admitted:
            self._refuse(envelope)
        return True

    def unget(self, envelope: Envelope[Any], /) -> None:
        """Put something back at the front: it is the next to be taken.

        Raises `pykka.ActorDeadError` when the mailbox is closed.
        """
        with self._lock:
            if self._gate == _CLOSED:
                raise pykka.ActorDeadError(f"{self.owner} not found")
            self._items.appendleft(envelope)
            if self._parked is not None:
                self._unpark()

    def get(self) -> Envelope[Any]:
        """Wait for a message and take it. Raises `pykka.ActorDeadError` once closed."""
        parking = _locked()
        while True:
            try:
                return self._items.popleft()
            except IndexError:
                with self._lock:
                    if self._items:
                        continue
                    if self._gate == _CLOSED:
                        raise pykka.ActorDeadError(f"{self.owner} not found") from None
                    self._parked = parking
                parking.acquire()

    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._items

    def qsize(self) -> int:
        """How many messages wait."""
        return len(self._items)

    @property
    def closed(self) -> bool:
        """Whether `put` raises."""
        return self._gate == _CLOSED or self._home.forked

    def bound(self, limit: int) -> None:
        """While there is nobody to take them, keep at most `limit`; what comes then is a dead letter."""
        with self._lock:
            if self._gate != _CLOSED:
                self._gate = _BOUNDED
                self._limit = limit

    def unbound(self) -> None:
        """Take as many as come again."""
        with self._lock:
            if self._gate == _BOUNDED:
                self._gate = _OPEN

    def close(self) -> list[Envelope[Any]]:
        """Refuse all that comes from now on; returns what nobody will take any more."""
        with self._lock:
            self._gate = _CLOSED
            left = list(self._items)
            self._items.clear()
            if self._parked is not None:
                self._unpark()
        return left

    def wake(self) -> None:
        """Make a parked consumer look up, without a message."""
        with self._lock:
            if self._parked is not None:
                self._unpark()

    def _unpark(self) -> None:
        parked, self._parked = self._parked, None
        if parked is not None:
            parked.release()

    def _admit(self, envelope: Envelope[Any]) -> bool:
        """With the lock held, where the gate is not simply open: whether this one may in."""
        if self._gate == _CLOSED:
            raise pykka.ActorDeadError(f"{self.owner} not found")
        if len(self._items) < self._limit or isinstance(envelope.message, ActorStop):
            return True
        self.dead_letters += 1
        return False

    def _refuse(self, envelope: Envelope[Any]) -> None:
        """Without the lock, for a future may be anybody's: tell the asker that there was no room."""
        if envelope.reply_to is not None:
            envelope.reply_to.set_exception(
                (
                    pykka.ActorDeadError,
                    pykka.ActorDeadError(f"{self.owner} is being restarted and its buffer is full"),
                    None,
                )
            )


class Receiver:
    """The consuming side for one incarnation; see the module's text."""

    __slots__ = ("_bound", "_monotonic", "_parking", "_popleft", "mailbox", "retired", "since")

    mailbox: Mailbox
    _popleft: Callable[[], Envelope[Any]]

    def __init__(
        self, mailbox: Mailbox | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._monotonic = monotonic
        self._parking = _locked()
        self._bound = False
        self.retired = False
        self.since = PARKED
        if mailbox is not None:
            self.bind(mailbox)

    def bind(self, mailbox: Mailbox) -> None:
        """Say from which mailbox it takes; before the first `get`."""
        self.mailbox = mailbox
        self._popleft = mailbox._items.popleft  # noqa: SLF001
        self._bound = True

    @property
    def handling_since(self) -> float | None:
        """Since when it has been handling its present message, by its clock; None while it has none."""
        since = self.since
        return since if FETCHING < since < PARKED else None

    def get(self) -> Envelope[Any] | None:
        """Wait for a message and take it; None once retired. In the incarnation's own thread."""
        while True:
            self.since = FETCHING
            if self.retired:
                self.since = PARKED
                return None
            try:
                envelope = self._popleft()
            except IndexError:
                self._park()
                continue
            if self.retired:  # another thread may have set it since
                self._give_back(envelope)  # type: ignore[unreachable]
                return None
            self.since = self._monotonic()
            return envelope

    def retire(self) -> None:
        """Let this receiver take nothing more, from any thread; returns when that is certain."""
        self.retired = True
        if not self._bound:
            # It has taken nothing yet, and will look at `retired` first.
            return
        self.mailbox.wake()
        while self.since == FETCHING:
            # A few bytecodes of the other thread: give it the interpreter.
            time.sleep(0)

    def _park(self) -> None:
        mailbox = self.mailbox
        with mailbox._lock:  # noqa: SLF001
            if mailbox._items or self.retired:  # noqa: SLF001
                return
            mailbox._parked = self._parking  # noqa: SLF001
            self.since = PARKED
        self._parking.acquire()

    def _give_back(self, envelope: Envelope[Any]) -> None:
        try:
            self.mailbox.unget(envelope)
        except pykka.ActorDeadError:
            # Closed meanwhile: this one is left over as well.
            self.mailbox.dead_letters += 1
            if envelope.reply_to is not None:
                envelope.reply_to.set_exception()
        finally:
            self.since = PARKED
