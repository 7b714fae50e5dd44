"""The examples run, as a reader runs them, and show what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
OURS = ("one_stream.py", "one_to_many.py", "many_at_once.py", "supervised_application.py")


def run(name: str) -> subprocess.CompletedProcess[str]:
    keys = ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL", "GOOGLE_GENAI_USE_VERTEXAI")
    env = {name: value for name, value in os.environ.items() if name not in keys}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_one_stream() -> None:
    done = run("one_stream.py")
    assert done.stdout == (
        "The sky is blue because\n"
        "[again from event 0: the connection was lost: Connection reset by peer]\n"
        "The sky is blue because air scatters short waves more than long ones.\n"
        "[STOP, 13 events]\n"
    )
    assert done.stderr == ""


def test_one_to_many() -> None:
    done = run("one_to_many.py")
    assert sorted(done.stdout.splitlines()) == [
        "late: 740 characters, whole: True",
        "quick: 740 characters, whole: True",
        "slow: 740 characters, whole: True",
    ]
    assert "this reader dies over its first event" in done.stderr  # a crash is reported, and harms nobody


def test_many_at_once() -> None:
    done = run("many_at_once.py")
    first, second = done.stdout.splitlines()
    assert first == "300 of 300 answers are whole"
    assert re.fullmatch(r"4200 events in [\d.]+ s; \d+ threads are left", second)
    assert done.stderr == ""


def test_supervised_application() -> None:
    done = run("supervised_application.py")
    assert done.stdout.splitlines() == [
        "Supervisor",
        "  gemini_streams",
        "    streams",
        "      StreamActor",
        "    manager",
        "  asker",
        "All is well, thank you. [whole: True, attempts: 1]",
    ]
    assert "reason='Killed'" in done.stderr


@pytest.mark.parametrize("name", OURS)
def test_an_example_is_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) <= 60
