"""From one JSON document to events, where a call is not answered by a stream.

The rules:

- The document is read as a whole; one whose body breaks off is a lost connection.
- The API says which events it stands for (`api.protocol.Events.unfold`). They pass what the events of a stream pass,
  and are delivered as they fit the subscribers.

In the stream's own thread.
"""

from __future__ import annotations

from gemini_streams.api.protocol import End
from gemini_streams.errors import EventTooLargeError, StreamTruncatedError
from gemini_streams.http.exchange import Exchange
from gemini_streams.streams.attempt import Retired
from gemini_streams.streams.decoding import events_of
from gemini_streams.streams.feed import Feed

__all__ = ["Document"]


class Document:
    """One call's answer."""

    __slots__ = ("_exchange", "_feed")

    def __init__(self, feed: Feed, exchange: Exchange) -> None:
        self._feed = feed
        self._exchange = exchange

    def run(self) -> End:
        """Read it, and deliver what it stands for. Raises what the call failed of, `Interrupted`, `Retired`."""
        feed = self._feed
        meaning = feed.attempt.meaning
        payloads = meaning.unfold(self._body())
        try:
            feed.answering()
            feed.settle()
        except Retired:
            session = feed.session
            if session.cancels is not None:  # it was stopped before its work had an id
                session.table.cancel_work(session, meaning.resume)
            raise
        while payloads:
            count, room = feed.room(len(payloads[0]))
            fits = 1
            size = len(payloads[0])
            while fits < min(count, len(payloads)) and size + len(payloads[fits]) <= room:
                size += len(payloads[fits])
                fits += 1
            events, kept, broken = events_of(feed.session, feed.attempt, payloads[:fits])
            if events:
                feed.deliver(events, kept)
            if broken is not None:
                raise broken
            del payloads[:fits]
        end, why = meaning.ending(half_event=False)
        if end is End.TRUNCATED:
            raise StreamTruncatedError(why)
        return end

    def _body(self) -> bytes:
        most = self._feed.session.options.max_event_bytes
        body = bytearray()
        while data := self._exchange.read():
            body += data
            if len(body) > most:
                raise EventTooLargeError(f"the answer is larger than max_event_bytes={most}")
        self._exchange.finish()
        return bytes(body)
