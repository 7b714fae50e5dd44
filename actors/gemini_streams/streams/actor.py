"""StreamActor: one attempt at one session, in a thread of its own.

The rules:

- The actor opens the connection, has the answer's events given to the session (`pump`), and ends. It ends in order
  when the answer is complete or the stream has been ended; else with an error of ours.
- The actor does not retry: its supervisor decides what follows (`supervisor`).
- While the actor waits for the server it handles no message. The thread that stops or kills it calls `interrupt`, which
  wakes it.
"""

from __future__ import annotations

import contextlib
import functools
from http import HTTPStatus
from typing import Any

import pykka

from gemini_streams.api.failures import cleaned, error_from_event, find_error, parse_error
from gemini_streams.api.protocol import Call, End
from gemini_streams.errors import (
    APIError,
    BadFinishError,
    FirstEventTimeoutError,
    GeminiStreamsError,
    IdleTimeoutError,
    StreamCrashedError,
    StreamTruncatedError,
    UnexpectedResponseError,
)
from gemini_streams.http.connections import Connections
from gemini_streams.http.exchange import Exchange
from gemini_streams.http.failures import Interrupted
from gemini_streams.streams import recovery
from gemini_streams.streams.attempt import Attempt, Retired
from gemini_streams.streams.document import Document
from gemini_streams.streams.feed import Feed
from gemini_streams.streams.pump import Pump
from gemini_streams.streams.session import Session
from gemini_streams.streams.verdict import verdict_on
from gemini_streams.traces import trace_of
from pykka_supervisor import SupervisedActor
from pykka_supervisor.log import get_logger

__all__ = ["AttemptFailed", "StreamActor"]

_log = get_logger(__name__)

_MAX_ERROR_BODY = 1 << 20
"""Bytes, decoded."""
_ERROR_BODY_WITHIN = 4.0
"""Seconds that the body of an error is waited for: its status is known, and is told without it."""
_MAX_FRUITLESS_HOPS = 3


class _Run:
    """What an incarnation tells itself to begin with."""

    __slots__ = ("actor",)

    def __init__(self, actor: StreamActor) -> None:
        self.actor = actor


class AttemptFailed(Exception):  # noqa: N818 - what an attempt dies of; the error is what it carries
    """Carries an error of ours to the supervisor of the streams, and shows no more of it than a report may.

    `verdict`: what the policy's `retryable` has said of it.
    """

    def __init__(self, error: GeminiStreamsError, *, verdict: bool | None) -> None:
        super().__init__(error.brief)
        self.error = error
        self.verdict = verdict


class StreamActor(SupervisedActor):
    """One attempt at a session."""

    def __init__(self, session: Session, connections: Connections) -> None:
        super().__init__()
        self._session = session
        self._connections = connections
        self._attempt: Attempt | None = None
        self._awaited: _Run | None = None
        self._interrupted = False
        session.ref = (
            self.actor_ref
        )  # before there is a thread: a subscriber that has an event can find the actor

    def on_start(self) -> None:
        """Begin as soon as the start is over: a start that waited for the server would hold the supervisor up."""
        self._awaited = run = _Run(self)
        self.actor_ref.tell(run)

    def on_receive(self, message: Any) -> None:
        """Make the attempt."""
        if message is not self._awaited or message is None:
            return  # meant for an incarnation that has died, or it was woken twice
        session = self._session
        try:
            if self._has_to_wait(message):
                return
            self._awaited = None
            self._attempt_once()
        except GeminiStreamsError as error:
            failed = cleaned(error, session.target.scrub)
        except Exception as bug:  # noqa: BLE001 - its text and its frames may hold the prompt: no report gets them
            kind = type(bug).__name__
            _log.error("stream_crashed", stream_id=session.stream_id, reason=kind, trace=trace_of(bug))
            failed = StreamCrashedError(f"the stream's actor crashed: {kind}")
        else:
            return
        verdict = verdict_on(failed, session)
        if not session.ended:
            raise AttemptFailed(failed, verdict=verdict)
        if not self.retired:  # the stream has been ended meanwhile, and nothing has to be decided
            self.stop()

    def _has_to_wait(self, run: _Run) -> bool:
        """Whether the attempt cannot begin yet. Its actor is told the same again when that is to be looked at again."""
        session = self._session
        limited = len(session.targets) > 1 and session.table.places.limits
        if (
            not session.cooldowns.quotas
            and session.waits.since is None
            and session.undecided is None
            and not limited
        ):
            return False
        if session.waits.since is None:
            session.choose()
        again = functools.partial(self._run_later, run)
        if session.undecided is not None:
            delay = recovery.failed(
                session, session.undecided, verdict=verdict_on(session.undecided, session)
            )
            if delay:
                session.clock.call_later(delay, again)
                return True
        try:
            held = not session.has_place(again) or session.waits.held_back(again)
        except APIError as error:  # no request was made, so there is nothing to try again
            session.fail(error)
            return False
        if held:
            session.stand_aside()
        return held

    def _attempt_once(self) -> None:
        attempt = self._attempt = self._session.begin()
        if self._interrupted:
            return
        if attempt is not None:
            feed = Feed(self._session, attempt)
            try:
                self._stream(feed)
            except Retired:
                pass
            except Interrupted:
                if attempt.error is not None:
                    raise attempt.error from None
            finally:
                feed.wake()
                if attempt.exchange is not None:
                    attempt.exchange.close()
        if not self.retired:
            self.stop()

    def interrupt(self) -> None:
        """Wake the attempt from any wait. The thread that stops or kills this actor calls it."""
        self._interrupted = True
        attempt = self._attempt
        if attempt is not None:
            self._session.interrupt(attempt)

    def on_stop(self) -> None:
        """Tell the subscribers, where just this actor was stopped in order."""
        if (
            not self.shut_down
        ):  # else its supervisor ends it, and the thread that ended that one tells the subscribers why
            self._session.stop("requested")

    # --

    def _run_later(self, run: _Run) -> None:
        with contextlib.suppress(pykka.ActorDeadError):
            self.actor_ref.tell(run)

    def _stream(self, feed: Feed) -> None:
        """Stream the answer, in as many requests as it takes."""
        session, attempt = feed.session, feed.attempt
        fruitless = 0
        while True:
            resume = session.resume
            ended = self._call(feed)
            if ended is End.FOLLOWS:
                feed.next_call(asks=False)
                continue
            if ended is End.COMPLETE:
                reason = attempt.meaning.finish_reason
                if reason in session.options.retry.retry_finish:
                    raise BadFinishError(f"the answer ended with finishReason {reason}", reason)
                feed.complete()
                return
            feed.wake()
            fruitless = fruitless + 1 if session.resume == resume else 0
            if fruitless >= _MAX_FRUITLESS_HOPS:
                raise StreamTruncatedError(
                    f"the answer stopped with CONTINUATION {fruitless} times without getting on"
                )
            feed.next_call(asks=True)

    def _call(self, feed: Feed) -> End:
        """Make one call, and have the API judge its failure; never returns `TRUNCATED`."""
        attempt = feed.attempt
        failure: GeminiStreamsError
        try:
            ended = self._request(feed)
        except Interrupted:
            if attempt.error is None:
                raise
            failure = attempt.error
        except GeminiStreamsError as error:
            failure = error
        else:
            feed.settle()
            return ended
        if attempt.exchange is not None:
            attempt.exchange.close()
        try:
            return attempt.meaning.failed(failure)
        finally:
            feed.settle()

    def _request(self, feed: Feed) -> End:
        """Make one call and deliver what comes of it."""
        session, attempt = feed.session, feed.attempt
        call = session.call()
        credentials = session.target.credentials
        renewed = False
        while True:
            exchange = attempt.exchange = Exchange(feed.connected)
            feed.calling(call)
            if credentials.fetching() is not None:
                session.stand_aside()
            within = call.within
            timer = None if within is None else session.clock.call_later(within, exchange.interrupt)
            try:
                exchange.send(self._connections, session.target, call)
                if exchange.status == HTTPStatus.UNAUTHORIZED and not renewed:
                    renewed = credentials.refused(exchange.generation)
                    if renewed:  # nothing was asked, so nothing is billed
                        exchange.close()
                        continue
                self._check_answer(attempt, exchange, call)
                attempt.meaning.answering()
                if not call.streams:
                    return Document(feed, exchange).run()
                feed.answering()
                return Pump(feed, exchange).run(self._connections.reader)
            except Interrupted:
                if within is None or attempt.interrupted or attempt.error is not None:
                    raise
                raise IdleTimeoutError(f"the server did not answer within {within:g} s") from None
            finally:
                if timer is not None:
                    timer.cancel()

    def _check_answer(self, attempt: Attempt, exchange: Exchange, call: Call) -> None:
        status = exchange.status
        kind = exchange.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if status == HTTPStatus.OK and (kind in ("text/event-stream", "") or not call.streams):
            return
        session = self._session
        if status == HTTPStatus.OK:
            error = find_error(self._body_of(attempt, exchange))
            if error is not None:
                raise error_from_event({"error": error}, now=session.clock.time(), scrub=session.target.scrub)
            raise UnexpectedResponseError(
                f"the answer is no event stream but {session.target.words(kind)}: does the base URL"
                f" {session.target.base_url} lead to the Gemini API?"
            )
        if 300 <= status < 400:
            raise UnexpectedResponseError(
                f"the server redirects ({status}); redirects are not followed, for the key would go along: give the"
                " base URL that it points to"
            )
        if status < 400:
            raise UnexpectedResponseError(
                f"the server answered with status {status}, which is no event stream"
            )
        raise parse_error(
            status,
            exchange.headers,
            self._body_of(attempt, exchange),
            now=session.clock.time(),
            scrub=session.target.scrub,
        )

    def _body_of(self, attempt: Attempt, exchange: Exchange) -> bytes:
        """Return the body of an answer that is no stream, or as much of it as comes in time."""
        timer = self._session.clock.call_later(_ERROR_BODY_WITHIN, exchange.enough)
        try:
            return exchange.read_all(_MAX_ERROR_BODY)
        except Interrupted:
            if isinstance(attempt.error, FirstEventTimeoutError):  # what has come says more than that
                return b""
            raise
        finally:
            timer.cancel()
