"""The messages that the delivery puts into an inbox around what a subscriber reads, and how each is acknowledged.

The rules:

- A `SubscriberActor` and an iterator are given a batch: all events of a read as one message. The thread that has
  handled a batch acknowledges it.
- Any other Pykka actor is given each event as a message of its own. Behind every half window stands an attribute
  request (`mark`). Pykka answers it in the actor's thread, unseen by `on_receive`: that answer is the acknowledgement.
- One thread at a time runs a batch. A batch that another incarnation goes on with is handed over (`hand_over`); the
  thread that ran it before takes no further event of it and acknowledges nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Protocol

from pykka.messages import ProxyGetAttr

from gemini_streams.messages import StreamEvent
from pykka_supervisor.mailbox import Envelope

__all__ = ["Acknowledged", "ControlBatch", "EventBatch", "mark"]

_ASK_FOR_URN = ProxyGetAttr(attr_path=("actor_urn",))


class Acknowledged(Protocol):
    """A subscription, as far as its acknowledgements are concerned."""

    def acknowledge(self, upto: int, upto_bytes: int) -> None:
        """Take note, in the subscriber's thread, of how far the subscriber has handled its events."""


class _Nobody:
    def acknowledge(self, upto: int, upto_bytes: int) -> None:
        """Do nothing: the incarnation that has the rest of the batch acknowledges it."""


_NOBODY = _Nobody()


class EventBatch:
    """Events of one read for one subscriber: one message. The subscriber's thread calls `run`.

    The iterator remembers how far it came: after a crash `run` goes on behind the event that caused it. `upto` and
    `upto_bytes` are where the subscription stands when the batch has been handled (`Subscription.acknowledge`).
    """

    __slots__ = ("rest", "subscription", "upto", "upto_bytes")
    __actor_batch__: ClassVar[bool] = True

    def __init__(
        self, subscription: Acknowledged, events: Iterable[StreamEvent], upto: int, upto_bytes: int
    ) -> None:
        self.subscription = subscription
        self.rest: Iterator[StreamEvent] = iter(events)
        self.upto = upto
        self.upto_bytes = upto_bytes

    def run(self, actor: Any) -> None:
        """Give each event to the actor's `on_stream_event`, then acknowledge them all."""
        handle = actor.on_stream_event
        for event in self.rest:
            handle(event)
        self.subscription.acknowledge(self.upto, self.upto_bytes)

    def hand_over(self) -> EventBatch:
        """Take the rest from the thread that runs it, from any thread: that one stops behind the event in hand.

        Another incarnation of the actor goes on with the returned batch.
        """
        rest = EventBatch.__new__(EventBatch)
        rest.subscription, self.subscription = self.subscription, _NOBODY
        rest.rest = iter(list(self.rest))  # one step for the interpreter: no thread takes an event in between
        rest.upto, rest.upto_bytes = self.upto, self.upto_bytes
        return rest

    def discard(self) -> None:
        """Do nothing: no actor is left that could handle the rest."""


class ControlBatch:
    """One message that is no event, for a subscriber that takes batches."""

    __slots__ = ("message",)
    __actor_batch__: ClassVar[bool] = True

    def __init__(self, message: Any) -> None:
        self.message: Any = message

    def run(self, actor: Any) -> None:
        """Give the message to the actor's callback for it; once, also when that crashes."""
        message, self.message = self.message, None
        if message is not None:
            actor.on_stream_message(message)

    def hand_over(self) -> ControlBatch:
        """Return itself: nothing is left of it once it runs."""
        return self

    def discard(self) -> None:
        """Do nothing: no actor is left that could handle it."""


class _Credit:
    """Stands where Pykka puts the answer to an attribute request: an acknowledgement from a plain actor."""

    __slots__ = ("subscription", "upto", "upto_bytes")

    def __init__(self, subscription: Acknowledged, upto: int, upto_bytes: int) -> None:
        self.subscription = subscription
        self.upto = upto
        self.upto_bytes = upto_bytes

    def set(self, value: object = None) -> None:  # noqa: ARG002 - Pykka's names: it gives them by keyword
        """Acknowledge. Pykka calls it in the subscriber's thread when everything before it has been handled."""
        self.subscription.acknowledge(self.upto, self.upto_bytes)

    def set_exception(self, exc_info: object = None) -> None:
        """Do nothing. Pykka calls it when the subscriber has died, and the table's monitor sees that."""


def mark(subscription: Acknowledged, upto: int, upto_bytes: int) -> Envelope[Any]:
    """Return the attribute request whose answer acknowledges all up to this position."""
    credit: Any = _Credit(subscription, upto, upto_bytes)
    return Envelope(_ASK_FOR_URN, reply_to=credit)
