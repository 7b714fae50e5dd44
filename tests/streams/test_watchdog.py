"""A silence interrupts the call that was silent, and not the one that the stream's thread makes next."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from gemini_streams.api.chosen import api
from gemini_streams.errors import IdleTimeoutError
from gemini_streams.http.exchange import Exchange
from gemini_streams.options import Settings
from gemini_streams.streams.attempt import Attempt
from gemini_streams.streams.watchdog import Watchdog
from pykka_supervisor.testing import TestClock


class Handover:
    """A session's lock behind which the stream's thread is at its next call at once."""

    def __init__(self, attempt: Attempt, following: Exchange) -> None:
        self.attempt, self.following = attempt, following
        self.used = 0

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self.used += 1
        if self.attempt.error is not None:
            self.attempt.error, self.attempt.exchange = None, self.following


def test_the_next_call_is_not_interrupted_for_the_silence_of_the_last_one() -> None:
    clock = TestClock()
    attempt = Attempt(1, api.request("why").events(1, None, clock.monotonic))
    silent, following = Exchange(), Exchange()
    attempt.exchange, attempt.connected, attempt.hop = silent, True, 1
    attempt.heard_at = clock.monotonic()
    stream: Any = SimpleNamespace(
        lock=Handover(attempt, following),
        clock=clock,
        options=Settings(),
        started_mono=0.0,
        current=attempt,
        ref=None,
        audience=SimpleNamespace(parked=None),
        ended=False,
        time_runs=True,
    )
    watchdog = Watchdog(stream)
    watchdog.arm()
    clock.advance(Settings().idle_timeout + 0.1)
    assert stream.lock.used
    assert (silent.interrupted, following.interrupted) == (True, False)
    assert IdleTimeoutError.default_retryable
