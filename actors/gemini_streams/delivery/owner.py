"""A session, as far as one of its subscriptions is concerned."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from gemini_streams.messages import LastMessage, StreamEvent

__all__ = ["LastMessageOf", "Owner"]

LastMessageOf = Callable[[Any], LastMessage]
"""Makes a subscription's last message when it is put: its count of events is known only then."""


class Owner(Protocol):
    """A session, as far as one of its subscriptions is concerned."""

    stream_id: str
    tag: Any
    lock: threading.Lock

    def lost(self, subscription: Any, error: BaseException) -> None:
        """Take note, without the lock, that a subscriber can be given nothing more."""

    def on_credit(self, subscription: Any) -> None:
        """Take note, in the subscriber's thread, that a starved subscription has drained."""

    def event(self, attempt: int, sequence: int, payload: bytes) -> StreamEvent:
        """Decode an event of the history again."""

    def cannot_tell(self, subscription: Any) -> LastMessage:
        """Return the last message of a subscriber whose own could not be made."""
