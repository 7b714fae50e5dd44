"""A stream with several endpoints: which failures move it on, where to, and when."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from conftest import StartManager
from gemini_streams import (
    APIError,
    Gemini,
    InvalidRequestError,
    MissingCredentialsError,
    RetryPolicy,
    StartInteraction,
    StreamComplete,
    StreamExistsError,
    StreamRestarting,
    VertexAI,
)
from gemini_streams.testing import Failure, Interaction, LocalGemini, LongAnswer, Reply
from kit.helpers import error_of, eventually, last_of, text_of
from kit.scene import table_of
from pykka_supervisor.testing import Probe, TestClock


@pytest.fixture
def other() -> Iterator[LocalGemini]:
    with LocalGemini(keys=("other-key",)) as server:
        yield server


def restarts_of(probe: Probe) -> list[StreamRestarting]:
    return [message for message in probe.messages if isinstance(message, StreamRestarting)]


def test_the_order_is_that_of_the_list_and_begins_anew(
    gemini: LocalGemini, other: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    for server in (gemini, other):
        server.on("why", Failure(503))
    manager().start_stream("why", subscriber=probe.ref, endpoint=[gemini.endpoint, other.endpoint])
    error = error_of(probe)
    assert error.code == 503
    assert [r.endpoint for r in restarts_of(probe)] == [other.url, gemini.url, other.url]
    assert [r.delay for r in restarts_of(probe)] == [0.0, 0.0, 0.0]
    assert (len(gemini.requests), len(other.requests)) == (2, 2)


def broken(server: LocalGemini, how: str) -> Gemini:
    """An endpoint that fails so."""
    urls: dict[str, Callable[[], str]] = {"refused": server.refused_url}
    if how in urls:
        return Gemini(api_key="local-key", base_url=urls[how]())
    answers: dict[str, Any] = {
        "cut": Reply("one two", end="cut", end_after=1),
        "reset": Reply("one two", end="reset", end_after=1),
        "daily": Failure(429, quota_id="GenerateRequestsPerDayPerProjectPerModel"),
        "429 with a wait": Failure(429, retry_delay="30s"),
        "inside": Reply("one", error_after=(1, Failure(503))),
    }
    if how.isdigit():
        answers[how] = Failure(int(how))
    server.on("why", answers[how])
    return server.endpoint


@pytest.mark.parametrize(
    "how",
    [
        *("401", "403", "408", "429", "500", "502", "503", "504"),
        *("refused", "cut", "reset", "daily", "429 with a wait", "inside"),
    ],
)
def test_what_moves_a_stream_on(
    gemini: LocalGemini, other: LocalGemini, manager: StartManager, probe: Probe, how: str
) -> None:
    endpoints = [broken(gemini, how), other.endpoint]
    manager().start_stream("why", subscriber=probe.ref, endpoint=endpoints)
    last = last_of(probe)
    assert isinstance(last, StreamComplete), last
    assert last.attempts == 2
    [restart] = restarts_of(probe)
    assert (restart.delay, restart.endpoint) == (0.0, other.url)
    assert len(gemini.requests) == (how != "refused")
    assert len(other.requests) == 1


def test_silence_moves_a_stream_on(
    gemini: LocalGemini, other: LocalGemini, manager: StartManager, probe: Probe, clock: TestClock
) -> None:
    gemini.on("why", Reply("one", end="silent", end_after=0))
    ref = manager(clock=clock)
    ref.start_stream("why", subscriber=probe.ref, endpoint=[gemini.endpoint, other.endpoint])
    gemini.wait_request()
    clock.wait_for_timer(within=301)
    clock.advance(301)
    assert last_of(probe).ok
    assert len(gemini.requests) == 1


def test_credentials_that_fail_move_a_stream_on(
    other: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    class NoToken:
        token = None

        def refresh(self, _request: Any) -> None:
            raise ValueError

    endpoints = [VertexAI("p1", "us", NoToken(), base_url=other.url), other.endpoint]
    manager().start_stream("why", subscriber=probe.ref, endpoint=endpoints)
    assert last_of(probe).ok
    assert isinstance(restarts_of(probe)[0].error, MissingCredentialsError)
    assert len(other.requests) == 1


@pytest.mark.parametrize("code", [400, 404, 499])
def test_what_would_fail_anywhere_ends_the_stream(
    gemini: LocalGemini, other: LocalGemini, manager: StartManager, probe: Probe, code: int
) -> None:
    gemini.on("why", Failure(code))
    manager().start_stream("why", subscriber=probe.ref, endpoint=[gemini.endpoint, other.endpoint])
    assert error_of(probe).code == code
    assert other.requests == []


def test_a_truncated_answer_stays_where_it_is(
    gemini: LocalGemini, other: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("why", Reply("one two", finish_reason=None), Reply("one two three"))
    ref = manager(retry=RetryPolicy(initial_delay=0.01, jitter=0))
    ref.start_stream("why", subscriber=probe.ref, endpoint=[gemini.endpoint, other.endpoint])
    assert last_of(probe).ok
    assert (len(gemini.requests), len(other.requests)) == (2, 0)
    assert restarts_of(probe)[0].endpoint == gemini.url


def test_the_policys_own_word_comes_first(
    gemini: LocalGemini, other: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("why", Failure(503))
    ref = manager(retry=RetryPolicy(retryable=lambda _error: False))
    ref.start_stream("why", subscriber=probe.ref, endpoint=[gemini.endpoint, other.endpoint])
    assert error_of(probe).code == 503
    assert other.requests == []


def test_an_attempt_that_must_not_be_repeated_is_not_repeated_elsewhere(
    gemini: LocalGemini, other: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("why", Reply("one two", end="cut", end_after=1))
    ref = manager(retry=RetryPolicy(on_partial="fail"))
    ref.start_stream("why", subscriber=probe.ref, endpoint=[gemini.endpoint, other.endpoint])
    error_of(probe)
    assert other.requests == []


def test_a_stream_starts_at_the_first_endpoint_without_a_shared_wait(
    gemini: LocalGemini, other: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("first", Failure(429, retry_delay="100s"))
    ref = manager(endpoint=[gemini.endpoint, other.endpoint])
    for prompt in ("first", "second", "third"):
        ref.start_stream(prompt, subscriber=probe.ref)
        assert last_of(probe).ok
        probe.messages.clear()
    assert [record.text for record in gemini.requests] == ["first"]
    assert [record.text for record in other.requests] == ["first", "second", "third"]


def test_where_all_share_a_wait_the_coming_ones_is_kept_and_does_not_count(
    gemini: LocalGemini, other: LocalGemini, manager: StartManager, probe: Probe, clock: TestClock
) -> None:
    gemini.on("why", Failure(429, retry_delay="40s"), Reply("Because."))
    other.on("why", Failure(429, retry_delay="60s"))
    ref = manager(clock=clock, retry=RetryPolicy(attempts=2, jitter=0))
    ref.start_stream("why", subscriber=probe.ref, endpoint=[gemini.endpoint, other.endpoint])
    eventually(lambda: len(restarts_of(probe)) == 2)
    assert [(r.delay, r.endpoint) for r in restarts_of(probe)] == [(0.0, other.url), (40.0, gemini.url)]
    clock.wait_for_timer(within=40)
    clock.advance(40)
    assert last_of(probe).ok
    assert text_of(probe) == "Because."
    assert (len(gemini.requests), len(other.requests)) == (2, 1)
    clock.advance(60)
    assert table_of(ref).cooldowns.quotas == {}  # neither endpoint waits for a stream that has left it


def test_a_wait_that_is_too_long_leaves_the_stream_where_it_is(
    gemini: LocalGemini, other: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    other.on("first", Failure(429, retry_delay="100s"))
    gemini.on("why", Failure(503), Reply("Because."))
    ref = manager(retry=RetryPolicy(initial_delay=0.01, jitter=0))
    ref.start_stream("first", subscriber=probe.ref, endpoint=[other.endpoint, gemini.endpoint])
    assert last_of(probe).ok
    probe.messages.clear()
    short = RetryPolicy(initial_delay=0.01, jitter=0, max_retry_after=10)
    ref.start_stream("why", subscriber=probe.ref, endpoint=[gemini.endpoint, other.endpoint], retry=short)
    assert last_of(probe).ok
    assert len(other.requests) == 1


def test_each_endpoint_is_asked_for_its_own_model(
    gemini: LocalGemini, other: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("why", Failure(503))
    fallback = Gemini("other-key", other.url, model="gemini-fallback")
    ref = manager(model="gemini-first")
    ref.start_stream("why", subscriber=probe.ref, endpoint=[gemini.endpoint, fallback])
    last = last_of(probe)
    assert last.ok
    assert ref.get_stream_info(last.stream_id).model == "gemini-fallback"
    assert [record.model for record in (*gemini.requests, *other.requests)] == [
        "gemini-first",
        "gemini-fallback",
    ]


@pytest.mark.parametrize("resumable", [True, False])
def test_an_interaction_moves_before_it_has_an_id(
    gemini: LocalGemini, other: LocalGemini, manager: StartManager, probe: Probe, *, resumable: bool
) -> None:
    gemini.on("why", Failure(503))
    fallback = Gemini("other-key", other.url, model="gemini-fallback")
    request = StartInteraction(
        "why", subscriber=probe.ref, endpoint=[gemini.endpoint, fallback], resumable=resumable,
        store=resumable, model="gemini-first",
    )  # fmt: skip
    manager().ask(request)
    assert last_of(probe).ok
    assert gemini.requests[0].body["model"] == "gemini-first"
    assert other.requests[0].body == {**gemini.requests[0].body, "model": "gemini-fallback"}


def test_an_interaction_with_an_id_never_moves(
    gemini: LocalGemini, other: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("why", Reply("one two three four five six", interaction=Interaction(cuts=[4], cut_by="reset")))
    request = StartInteraction(
        "why",
        subscriber=probe.ref,
        endpoint=[gemini.endpoint, other.endpoint],
    )
    manager().ask(request)
    assert last_of(probe).ok
    assert restarts_of(probe)
    assert other.requests == []


def test_an_interaction_that_is_not_resumable_never_moves_once_it_has_an_id(
    gemini: LocalGemini, other: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("why", Reply("one two three", end="reset", end_after=4), Reply("one two three"))
    manager().ask(
        StartInteraction(
            "why",
            subscriber=probe.ref,
            endpoint=[gemini.endpoint, other.endpoint],
            resumable=False,
            retry=RetryPolicy(initial_delay=0.01, jitter=0),
        )
    )
    last = last_of(probe)
    assert last.ok
    assert last.interaction_id
    assert restarts_of(probe)
    assert other.requests == []


def test_what_goes_on_with_an_interaction_never_moves(
    gemini: LocalGemini, other: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("why", Failure(503), Reply("Because."))
    ref = manager()
    ref.start_interaction("first", subscriber=probe.ref)
    first = last_of(probe).interaction_id
    probe.messages.clear()
    request = StartInteraction(
        "why",
        subscriber=probe.ref,
        endpoint=[gemini.endpoint, other.endpoint],
        previous_interaction_id=first,
        retry=RetryPolicy(initial_delay=0.01, jitter=0),
    )
    ref.ask(request)
    assert last_of(probe).ok
    assert restarts_of(probe)
    assert other.requests == []


def test_an_answer_with_a_continuation_token_never_moves(
    gemini: LocalGemini, other: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    text = " ".join(f"word{number}" for number in range(20))
    answers = LongAnswer(text, hops=2)
    fails = threading.Event()

    def once(record: Any) -> Any:
        if "continuationToken" in record.body and not fails.is_set():
            fails.set()
            return Failure(503)
        return answers

    gemini.on("why", once)
    ref = manager(retry=RetryPolicy(initial_delay=0.01, jitter=0))
    ref.start_stream("why", subscriber=probe.ref, endpoint=[gemini.endpoint, other.endpoint])
    assert last_of(probe).ok
    assert fails.is_set()
    assert text_of(probe) == text
    assert other.requests == []


@pytest.mark.parametrize("endpoint", [[], ["https://x"], [Gemini("k"), None], ()])
def test_lists_that_cannot_be_right(manager: StartManager, probe: Probe, endpoint: Any) -> None:
    with pytest.raises(InvalidRequestError, match="endpoint"):
        manager().start_stream("why", subscriber=probe.ref, endpoint=endpoint)
    with pytest.raises(InvalidRequestError, match="endpoint"):
        manager(endpoint=endpoint)


def test_another_list_is_another_stream(
    gemini: LocalGemini, other: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager()
    both = [gemini.endpoint, other.endpoint]
    ref.start_stream("why", subscriber=probe.ref, stream_id="one", endpoint=both)
    assert ref.start_stream("why", subscriber=probe.ref, stream_id="one", endpoint=tuple(both)) == "one"
    for endpoint in (gemini.endpoint, [other.endpoint, gemini.endpoint]):
        with pytest.raises(StreamExistsError):
            ref.start_stream("why", subscriber=probe.ref, stream_id="one", endpoint=endpoint)
    gemini.gate("why").open()
    assert last_of(probe).ok


def test_no_key_of_either_endpoint_is_told(
    gemini: LocalGemini, other: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("why", Failure(403, "local-key is bad"))
    other.on("why", Failure(403, "other-key is bad"))
    manager().start_stream("why", subscriber=probe.ref, endpoint=[gemini.endpoint, other.endpoint])
    error = error_of(probe)
    assert isinstance(error, APIError)
    told = [restart.error.message for restart in restarts_of(probe)] + [error.message]
    assert told == ["[key] is bad"] * 4
    assert "-key" not in "".join(restart.endpoint for restart in restarts_of(probe))
