"""A replay on its way to one subscriber: what it has missed, decoded a piece at a time.

The rules:

- The errand's thread decodes. It serves this replay alone, and holds no lock meanwhile.
- A piece is as much as fits the subscriber's window by now. The next one is decoded when credit has come.
- Between two pieces that thread sleeps for a moment. A long replay would otherwise keep every other thread waiting for
  the interpreter lock, a switch interval each time.
- What is decoded for a subscriber that has left meanwhile is not put.
"""

from __future__ import annotations

import time
from typing import Protocol

from gemini_streams.delivery.backlog import Piece
from gemini_streams.delivery.owner import LastMessageOf, Owner
from gemini_streams.messages import StreamEvent

__all__ = ["Replaying"]

_MOMENT = 0.0001
"""Seconds between two pieces."""


class Replayed(Protocol):
    """A subscription, as far as its replay is concerned. Each method is called with the session's lock held."""

    def next_piece(self) -> tuple[Piece, int]:
        """Take what comes next and fits, and the attempt it is of; an empty piece where nothing does."""

    def put_piece(self, piece: Piece, events: list[StreamEvent]) -> bool:
        """Put a piece that was decoded meanwhile; `False` where it has no place any more."""

    def finish(self, last: LastMessageOf, *, at_once: bool = False) -> None:
        """Put the last message."""


class Replaying:
    """One subscription's replay."""

    __slots__ = ("_owner", "_subscription")

    def __init__(self, subscription: Replayed, owner: Owner) -> None:
        self._subscription = subscription
        self._owner = owner

    def go_on(self) -> None:
        """Give the subscriber as much of its replay as fits by now; in the errand's thread, without the lock."""
        subscription, owner = self._subscription, self._owner
        while True:
            with owner.lock:
                piece, attempt = subscription.next_piece()
            if not piece.payloads:
                break
            try:
                events = [owner.event(attempt, sequence, payload) for sequence, payload in piece.payloads]
            except BaseException as error:  # noqa: BLE001 - what was delivered live can be read, or it is a bug
                with owner.lock:
                    subscription.finish(owner.cannot_tell, at_once=True)
                owner.lost(subscription, error)
                return
            with owner.lock:
                if not subscription.put_piece(piece, events):
                    return
            del piece, events
            time.sleep(_MOMENT)
        owner.on_credit(subscription)
