"""Tests of an application with the fixtures of the pytest plugin: faults of the service, a quota, time.

The application is `summaries`, which has a newsletter's articles summarised, all at once. `pytest` runs this file, and
so does `python examples/test_newsletter.py`. Everything is real but the clock: the server on loopback, HTTP, the
threads.
"""

import sys
import threading
import time
from collections.abc import Iterable

import pytest

from gemini_streams import APIError, ManagerRef, RetryPolicy, answers
from gemini_streams.testing import Failure, LocalGemini, Reply
from pykka_supervisor.testing import TestClock

QUICK = RetryPolicy(initial_delay=0.01, jitter=0.0)


def summaries(
    manager: ManagerRef, articles: Iterable[str], at_once: int = 20
) -> tuple[dict[str, str], list[str]]:
    """Return each article's summary, and the articles that have none, each with the reason."""
    found, missing = {}, []
    prompts = {f"Summarise: {article}": article for article in articles}
    for prompt, answer in answers(manager, list(prompts), at_once=at_once):
        if answer.ok:
            found[prompts[prompt]] = answer.text
        else:
            missing.append(f"{prompts[prompt]}: {answer.error}")
    return found, missing


def test_each_article_has_its_own_summary(local_gemini: LocalGemini, gemini_manager: ManagerRef) -> None:
    """An answer belongs to what was asked, in whichever order the answers end."""
    local_gemini.on("tides", Reply("About the Moon.", hold_after=1))
    local_gemini.on("bees", Reply("About dances."))
    local_gemini.gate("tides").open()
    found, missing = summaries(gemini_manager, ["tides", "bees"])
    assert found == {"tides": "About the Moon.", "bees": "About dances."}
    assert missing == []


@pytest.mark.gemini(retry=QUICK)
@pytest.mark.parametrize(
    "fault",
    [
        Failure(503, "The model is overloaded."),
        Reply("About the Moon.", end="reset", end_after=1),
        Reply("About the Moon.", end="cut", end_after=2),
        Reply("About the Moon.", end_after=1),
        Reply("", finish_reason=None),
    ],
    ids=["overloaded", "reset", "cut", "no end", "nothing"],
)
def test_a_fault_is_tried_again(
    fault: Reply | Failure, local_gemini: LocalGemini, gemini_manager: ManagerRef
) -> None:
    """Whatever breaks, the summary is whole in the end, and nothing of the broken answer is in it."""
    local_gemini.on("tides", fault, Reply("About the Moon."))
    assert summaries(gemini_manager, ["tides"]) == ({"tides": "About the Moon."}, [])
    assert len(local_gemini.requests) == 2


def test_one_that_is_refused_costs_no_other(local_gemini: LocalGemini, gemini_manager: ManagerRef) -> None:
    """The article is named with the API's own words."""
    local_gemini.on("secrets", Failure(400, "This is not allowed."))
    found, missing = summaries(gemini_manager, ["bees", "secrets", "tides"])
    assert sorted(found) == ["bees", "tides"]
    assert missing == ["secrets: 400 INVALID_ARGUMENT: This is not allowed."]


def test_a_summary_that_was_cut_short_is_missing(
    local_gemini: LocalGemini, gemini_manager: ManagerRef
) -> None:
    """Half a summary is not printed."""
    local_gemini.on("tides", Reply("About the", finish_reason="MAX_TOKENS"))
    found, missing = summaries(gemini_manager, ["tides"])
    assert found == {}
    assert "MAX_TOKENS" in missing[0]


def test_a_quota_is_waited_out(
    local_gemini: LocalGemini, gemini_manager: ManagerRef, gemini_clock: TestClock
) -> None:
    """The service names a minute. The test turns the manager's clock, and waits for none of it."""
    local_gemini.on("tides", Failure(429, retry_delay="60s"), Reply("About the Moon."))
    results: list[tuple[dict[str, str], list[str]]] = []
    asking = threading.Thread(target=lambda: results.append(summaries(gemini_manager, ["tides"])))
    asking.start()
    while not gemini_manager.get_stats().streams_by_status.get("restarting"):
        time.sleep(0.001)
    gemini_clock.wait_for_timer(within=75.0)
    gemini_clock.advance(75.0)
    asking.join(20)
    assert results == [({"tides": "About the Moon."}, [])]
    assert len(local_gemini.requests) == 2


@pytest.mark.gemini(max_streams=2)
def test_no_more_streams_run_than_the_manager_allows(
    local_gemini: LocalGemini, gemini_manager: ManagerRef
) -> None:
    """The others wait for their turn, however many are asked for at once."""
    local_gemini.on("Summarise", Reply("Short.", pace=0.005))
    found, missing = summaries(gemini_manager, [f"article {n}" for n in range(10)])
    assert (len(found), missing) == (10, [])
    assert local_gemini.connections_opened <= 2


def test_a_missing_permission_is_told(local_gemini: LocalGemini, gemini_manager: ManagerRef) -> None:
    """Every article is missing, and each request was sent once: asking again would not help."""
    local_gemini.on("Summarise", Failure(403))
    answered = dict(answers(gemini_manager, ["Summarise: a", "Summarise: b"]))
    errors = [answer.error for answer in answered.values()]
    assert all(isinstance(error, APIError) and error.code == 403 for error in errors)
    assert len(local_gemini.requests) == 2


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, *sys.argv[1:]]))
