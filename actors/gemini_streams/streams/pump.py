"""From bytes to events: what one request's answer brings, given to the stream as it comes.

The rules:

- The stream's own thread moves the answer (`run`) while there is something to move. It also makes every wait but the
  one for the server: the wait for room at a subscriber above all.
- While there is nothing to do but wait for the server, the shared reader's thread moves it (`receive`, `turn`). That
  thread gives the pump back at the first thing out of the ordinary: the end, a failure, a full subscriber, a server
  that sends much at once. What the reader found stands here, and `run` goes on from there.
- So at any time one thread uses a pump, its decoder and its exchange.
- The events that came before a failure are delivered before it is raised.
- A break (the connection lost, silence) is none where the answer was whole before it. Where an error of the server's
  stands before the break, half in an event or in none, the answer failed of that error.
"""

from __future__ import annotations

import threading
from typing import Any

from gemini_streams.api.failures import error_from_event, find_error
from gemini_streams.api.protocol import End
from gemini_streams.delivery.subscription import NO_LIMIT
from gemini_streams.errors import (
    APIError,
    ConnectionLostError,
    FirstEventTimeoutError,
    GeminiStreamsError,
    IdleTimeoutError,
    StreamTruncatedError,
)
from gemini_streams.http.exchange import Exchange
from gemini_streams.http.failures import Interrupted
from gemini_streams.http.reader import Reader
from gemini_streams.http.sse import Decoder
from gemini_streams.messages import StreamEvent
from gemini_streams.streams.decoding import events_of
from gemini_streams.streams.feed import Feed

__all__ = ["Pump"]

_MUCH = 8192
"""Bytes of a read behind which a server surely has more to send at once: waking a thread for it is no waste."""
_MANY = 8
"""With this many subscribers it pays to check the socket again and send one larger batch. With fewer, it only delays
the events. Without it a stream with 100 subscribers needs a tenth more CPU time (benchmark row `fan-out`)."""


class Pump:
    """Moves one answer; see the module's text."""

    __slots__ = (
        "_attempt",
        "_decoder",
        "_ended",
        "_exchange",
        "_failure",
        "_into",
        "_received",
        "_session",
        "_undelivered",
    )

    def __init__(self, feed: Feed, exchange: Exchange) -> None:
        self._into = feed
        self._session = session = feed.session
        self._attempt = feed.attempt
        self._exchange = exchange
        self._decoder = Decoder(session.options.max_event_bytes)
        self._received: bytes | None = None  # by the shared reader, not used yet
        self._undelivered: tuple[list[StreamEvent], list[bytes]] | None = None  # decoded by it, not delivered
        self._failure: BaseException | None = None
        self._ended = False

    # -- the stream's own thread

    def run(self, reader: Reader) -> End:
        """Move the whole answer; returns `COMPLETE` or `CONTINUES`.

        Raises what the answer failed of, `Interrupted`, `Retired`.
        """
        feed, attempt, exchange, decoder = self._into, self._attempt, self._exchange, self._decoder
        audience = self._session.audience
        much = False
        while True:
            if self._undelivered is not None:
                (events, payloads), self._undelivered = self._undelivered, None
                feed.deliver(events, payloads)
                continue
            if decoder.waiting:
                if self._fits() and audience.count < _MANY:
                    self._deliver(decoder.take())
                    continue
                count, room = feed.room(decoder.next_size)
                if (
                    count == NO_LIMIT
                    or decoder.waiting >= count
                    or audience.count < _MANY
                    or self._failure is not None
                    or self._ended
                    or not exchange.has_more()
                    or not self._read_more()
                ):
                    self._deliver(decoder.take(count, room))
                continue
            if self._failure is not None:
                return self._break(self._failure)
            if self._ended:
                return self._end()
            if attempt.free <= 0 or attempt.free_bytes <= 0:
                feed.room(0)
            try:
                data = exchange.read() if much else exchange.read_now()
                if data is None:
                    if self._lend(reader):
                        continue
                    data = exchange.read()
                much = len(data) >= _MUCH
                self._feed(data)
            except (GeminiStreamsError, Interrupted) as error:
                self._fail(error)

    def _read_more(self) -> bool:
        """Take what has come behind events that wait; `False` where nothing has that would make them more."""
        try:
            data = self._exchange.read_now()
            if data is None:
                return False
            self._feed(data)
        except (GeminiStreamsError, Interrupted) as error:
            self._fail(error)
        return True

    def _lend(self, reader: Reader) -> bool:
        """Have the shared reader go on until something is out of the ordinary; `False` where it cannot."""
        exchange = self._exchange
        if not exchange.lend():
            return False
        try:
            lent = reader.read_for(self)
        finally:
            exchange.take_back()
        if self._failure is not None:
            exchange.close()
        elif self._received is not None:  # the reader died before it had used it
            data, self._received = self._received, None
            self._feed(data)
        return lent

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._exchange.close()

    # -- the thread that uses the pump

    def _fits(self) -> bool:
        """Whether all events that have been decoded surely fit all subscribers that pause."""
        attempt, decoder = self._attempt, self._decoder
        return decoder.waiting <= attempt.free and decoder.waiting_size <= attempt.free_bytes

    def _feed(self, data: bytes) -> None:
        if data:
            self._decoder.feed(data)
        else:
            self._ended = True

    # -- the shared reader's thread

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._exchange.fileno()

    def receive(self) -> None:
        """Take what the socket has."""
        try:
            self._received = self._exchange.read_now()
        except BaseException as error:  # noqa: BLE001 - raised in the stream's own thread
            self._failure = error

    def turn(self, wakes: list[threading.Lock]) -> bool:
        """Deliver what was taken; `False` where the stream's own thread has to go on. `wakes`: see `reader`."""
        data, self._received = self._received, None
        if self._failure is not None:
            return False
        exchange = self._exchange
        if data is None:
            return exchange.lent
        try:
            decoder, attempt = self._decoder, self._attempt
            only = decoder.only_event(data)
            if only is not None and attempt.free > 0 and len(only) <= attempt.free_bytes:
                payloads = [only]
            else:
                self._feed(data)
                if self._ended or (decoder.waiting and not self._fits()):
                    return False
                payloads = decoder.take()
            if payloads:
                events, payloads, self._failure = events_of(self._session, attempt, payloads)
                if events and not self._into.deliver_now(events, payloads, wakes):
                    self._undelivered = events, payloads
                    return False
                if not events:
                    self._into.heard_now()
                if self._failure is not None:
                    return False
        except BaseException as error:  # noqa: BLE001 - raised in the stream's own thread
            self._failure = error
            return False
        return attempt.free > 0 and attempt.free_bytes > 0 and len(data) < _MUCH and not exchange.whole

    # -- the thread that uses the pump

    def _deliver(self, payloads: list[bytes]) -> None:
        events, kept, broken = events_of(self._session, self._attempt, payloads)
        if events:
            last = self._exchange.whole and broken is None and not self._decoder.waiting
            self._into.deliver(events, kept, last=last)
        if broken is not None:
            raise broken
        if not events:
            self._into.heard()

    def _break(self, why: BaseException) -> End:
        """Decide what a break means: `COMPLETE` where the answer was whole, else it raises."""
        attempt, decoder = self._attempt, self._decoder
        if isinstance(why, Interrupted) and attempt.error is not None:
            why = attempt.error
        if isinstance(why, ConnectionLostError | IdleTimeoutError | FirstEventTimeoutError):
            error = find_error(decoder.bare)
            if error is not None:
                raise self._said(error)
            if attempt.meaning.whole and not decoder.unfinished:
                return End.COMPLETE
        raise why

    def _said(self, error: dict[str, Any]) -> APIError:
        session = self._session
        return error_from_event({"error": error}, now=session.clock.time(), scrub=session.target.scrub)

    def _end(self) -> End:
        """Decide what the clean end of the body means, and give the connection back."""
        attempt, exchange, decoder = self._attempt, self._exchange, self._decoder
        last = decoder.end()
        exchange.finish()
        rest = decoder.take()
        half = last is not None and attempt.meaning.is_half(last)
        if last is not None and not half:
            rest.append(last)
        if rest:
            self._into.room(len(rest[0]))
            self._deliver(rest)
        error = find_error(last) if last is not None and half else None
        if error is not None:
            raise self._said(error)
        end, why = attempt.meaning.ending(half_event=half)
        if end is End.TRUNCATED:
            raise StreamTruncatedError(why)
        return end
