"""An inbox of an application's own kind, made one that never blocks and never raises.

A subscriber's inbox can be any object: its `put` may block, raise, or run any code of an application's. So a thread of
that subscription's own calls it, outside every lock, one message after another. A `put` that blocks holds up its own
subscription, and the stream where that pauses for it, and nothing else. A `put` that raises means that the subscriber
is gone.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from gemini_streams.errand import Errand
from pykka_supervisor.mailbox import Envelope, Mailbox

__all__ = ["CarriedInbox", "never_blocks"]


def never_blocks(inbox: Any) -> bool:
    """Whether any thread may put into this inbox: a put runs no code of an application's."""
    return (
        isinstance(inbox, Mailbox)
        or type(inbox) in (queue.Queue, queue.SimpleQueue)
        or getattr(inbox, "never_blocks", False) is True
    )


class CarriedInbox:
    """See the module's text. `lost` is called, once, in the carrying thread, with what `put` has raised."""

    __slots__ = ("_errand", "_inbox", "_lost", "_outbox")

    def __init__(self, inbox: Any, lock: threading.Lock, lost: Callable[[BaseException], None]) -> None:
        self._inbox = inbox
        self._lost = lost
        self._outbox: deque[Envelope[Any]] = deque()
        self._errand = Errand(lock, self._carry, "gemini-streams-inbox")

    def put(self, envelope: Envelope[Any], /) -> None:
        """Have a message put, with the session's lock held."""
        self._outbox.append(envelope)
        self._errand.wake()

    def clear(self) -> None:
        """Put nothing more, but for a message whose put is under way."""
        self._outbox.clear()

    def _carry(self) -> None:
        """In the carrying thread, without the lock."""
        while True:
            try:
                envelope = self._outbox.popleft()
            except IndexError:
                return
            try:
                self._put(envelope)
            except BaseException as error:  # noqa: BLE001 - the application's own code
                self._outbox.clear()
                self._lost(error)

    def _put(self, envelope: Envelope[Any]) -> None:
        inbox = self._inbox
        if not isinstance(inbox, queue.Queue) or type(inbox).put is not queue.Queue.put:
            inbox.put(envelope)
            return
        # A bounded queue of another order: the window bounds it already, and its actor may have died.
        with inbox.mutex:
            inbox._put(envelope)  # noqa: SLF001 - the hook for queues of another order
            inbox.unfinished_tasks += 1
            inbox.not_empty.notify()
