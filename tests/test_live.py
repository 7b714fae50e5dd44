"""The questions to the real service, asked of a LocalGemini: they run, and find what it was told to do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from live.__main__ import LONG, QUESTIONS
from live.kit import Seen, Stream, run

from gemini_streams.testing import Failure, Interaction, LocalGemini, Reply, RequestRecord

ROOT = Path(__file__).parent.parent
WORDS = [f"w{number} " for number in range(60)]

Findings = Callable[..., list[str]]


def _every(_record: RequestRecord) -> bool:
    return True


@pytest.fixture
def findings(
    gemini: LocalGemini, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Findings:
    """Ask one question about replies of this kind; its findings."""
    monkeypatch.setenv("GEMINI_API_KEY", "local-key")
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", gemini.url)
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)

    def ask(name: str, *arguments: str, pace: float = 0, status: int = 0, **options: Any) -> list[str]:
        reply = Reply(WORDS, thoughts="weigh it", pace=pace, interaction=Interaction(**options))
        gemini.on(_every, reply)
        module = import_module(f"live.{name}")
        assert run(module.__doc__, module.ask, arguments) == status
        title, *found = capsys.readouterr().out.splitlines()
        assert title == str(module.__doc__).partition("\n")[0]
        return [line.removeprefix("- ") for line in found]

    return ask


def test_step_indices(findings: Findings) -> None:
    assert findings("step_indices") == [
        f"in the {how}: {what}"
        for how in ("background", "foreground")
        for what in (
            "the stream's indices start at 0, without a user_input step: 0 thought, 1 model_output",
            "the resource's steps are 0 user_input, 1 thought, 2 model_output",
        )
    ]


def test_late_deltas(findings: Findings, gemini: LocalGemini) -> None:
    assert findings("late_deltas")[1] == (
        "with a search: 61 deltas; each stands between the start and the stop of its step"
    )
    step: dict[str, Any] = {"index": 0}
    late = [
        {"event_type": "step.start", **step, "step": {"type": "model_output"}},
        {"event_type": "step.stop", **step},
        {"event_type": "step.delta", **step, "delta": {"type": "text", "text": "late"}},
        {"event_type": "step.delta", "index": 1, "delta": {"type": "text", "text": "early"}},
    ]
    module = import_module("live.late_deltas")
    found = module._misplaced(Stream(events=[Seen(0.0, event) for event in late]))
    assert found == {"deltas": 2, "text behind its step's stop": 1, "text before its step's start": 1}


def test_event_ids(findings: Findings) -> None:
    assert findings("event_ids") == [
        "in the background: every event has an id, 68 events",
        "in the foreground: every event has an id, 68 events",
    ]
    assert findings("event_ids", ids=7)[0] == (
        "in the background: 9 of 68 events have an id: interaction.created 0 of 1, interaction.status_update 0 of 1,"
        " step.start 1 of 2, step.delta 8 of 61, step.stop 0 of 2, interaction.completed 0 of 1"
    )


def test_a_replay_that_is_the_same(findings: Findings) -> None:
    assert findings("replay", pace=0.002) == [
        "behind an id in the middle of the run the stream goes on exactly there",
        "the replay has the same content",
        "the replay is cut as the live stream was: 68 events",
        "68 of the 68 live ids stand in the replay",
        "a replay behind an id begins exactly there, 33 events",
    ]


def test_a_replay_that_is_cut_differently(findings: Findings) -> None:
    found = findings("replay", ids=30, replay=2, pace=0.002)
    assert found[0].startswith("no event before the break has an id")
    assert found[1] == "the replay has the same content"


def test_unknown_event_id(findings: Findings) -> None:
    nonsense, foreign = findings("unknown_event_id")
    assert nonsense == "nonsense: 400: The last_event_id nonsense is not valid."
    assert foreign.startswith("another interaction's id: 400")


def test_background(findings: Findings) -> None:
    refused = findings("background", "gemini-a", no_background=True)
    assert refused == [
        "gemini-a: refused, 400: Background interactions are not supported for gemini-a. Set background=false."
    ]
    first, second = findings("background", "gemini-b", "agent:deep-research-c", pace=0.1)
    assert first.startswith("gemini-b: accepted, in_progress after ")
    assert second.startswith("agent:deep-research-c: accepted, in_progress after ")


def test_usage(findings: Findings) -> None:
    assert findings("usage") == [
        f"in the {how}: {what}"
        for how in ("background", "foreground")
        for what in (
            "the last event has its usage; it stands in interaction.completed interaction.usage",
            "the resource has it 0 s behind the end",
        )
    ]
    last_event, resource, *_ = findings("usage", usage_late=0.3)
    assert last_event == "in the background: the last event has NO usage; it stands in none"
    assert re.fullmatch(r"in the background: the resource has it [\d.]+ s behind the end", resource)


def test_ten_minutes(findings: Findings) -> None:
    cut, behind, end, resource, again = findings("ten_minutes", pace=0.02, cut_seconds=0.5)
    assert cut.startswith("cut after ")
    assert '"code": 503' in behind
    assert end == "then the body's end: clean"
    assert resource == "the resource says in_progress"
    assert again.startswith("asked again (behind the newest id): 200, step.")
    silent = findings("ten_minutes", "--patience", "0.2", pace=0.001, cut_seconds=0.03, cut_by="silent")
    assert silent[2].startswith("then the body's end: silent for ")
    assert findings("ten_minutes")[0].startswith("no cut: the run has ended after ")


def test_cancelled(findings: Findings) -> None:
    assert findings("cancelled", pace=0.02)[0::3] == [
        "the cancel is answered 200, cancelled",
        "the resource says cancelled",
    ]


def test_what_a_question_needs_and_is_refused_is_told(findings: Findings, gemini: LocalGemini) -> None:
    gemini.on("oceans", Failure(429))
    found = findings("step_indices", status=1, no_background=True)
    assert found[0].startswith("No answer: gemini-flash-latest in the background: 4")


def test_every_program_is_asked_or_long() -> None:
    programs = {path.stem for path in (ROOT / "live").glob("[a-z]*.py")} - {"kit"}
    assert programs == {*QUESTIONS, *LONG}
    assert {f"test_{name}" for name in programs - {"replay"}} <= set(globals())


def test_without_a_key_it_says_what_it_needs() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GEMINI", "GOOGLE"))}
    for arguments in (["-m", "live"], ["-m", "live.usage"]):
        done = subprocess.run(
            [sys.executable, *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=env,
            timeout=30,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert "GEMINI_API_KEY" in done.stderr
