"""SubscriberActor: the fast path for a subscriber, one inbox put for all the events of a read.

Override one method and it is a subscriber:

    class Printer(SubscriberActor):
        def on_stream_event(self, event):
            print(event.text, end="", flush=True)

The callbacks run in the actor's thread, for every stream it subscribes to, in the order that docs/guarantees.md
promises.
Having returned from them is the acknowledgement that flow control goes by. `on_receive` stays free for messages of
the application's own. An exception in a callback is the actor's crash: a supervisor that restarts it in place keeps
its subscriptions, and only the message that killed it is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from gemini_streams.messages import (
    EventsDropped,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
)
from pykka_supervisor import SupervisedActor

__all__ = ["SubscriberActor"]


class SubscriberActor(SupervisedActor):
    """An actor with a callback for each kind of message that a stream sends. Each does nothing by default."""

    takes_batches: ClassVar[bool] = True

    def on_stream_event(self, event: StreamEvent) -> None:
        """Handle one event of the answer."""

    def on_stream_restarting(self, message: StreamRestarting) -> None:
        """Take back what was received from `message.resume_at` on: the stream is started again."""

    def on_events_dropped(self, message: EventsDropped) -> None:
        """Take note of a gap that this subscriber's flow control made."""

    def on_stream_complete(self, message: StreamComplete) -> None:
        """The stream has ended as the service wanted."""

    def on_stream_error(self, message: StreamError) -> None:
        """The stream has failed for good, or this subscriber was let go."""

    def on_stream_stopped(self, message: StreamStopped) -> None:
        """The stream was stopped from outside."""

    def on_stream_message(self, message: Any) -> None:
        """Give a message that is no event to its callback. For whoever delivers; override the callbacks instead."""
        callback = _CALLBACKS[type(message)]
        callback(self, message)


_CALLBACKS: dict[type[Any], Callable[[SubscriberActor, Any], None]] = {
    StreamRestarting: lambda actor, m: actor.on_stream_restarting(m),
    EventsDropped: lambda actor, m: actor.on_events_dropped(m),
    StreamComplete: lambda actor, m: actor.on_stream_complete(m),
    StreamError: lambda actor, m: actor.on_stream_error(m),
    StreamStopped: lambda actor, m: actor.on_stream_stopped(m),
}
