"""The examples run, as a reader runs them, and show what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = ("one_stream.py", "one_to_many.py", "many_at_once.py", "supervised_application.py", "fan_out.py")


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    keys = ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL", "GOOGLE_GENAI_USE_VERTEXAI")
    env = {name: value for name, value in os.environ.items() if name not in keys}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
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


@pytest.mark.parametrize("name", ["web_flask.py", "web_starlette.py"])
def test_answers_in_a_browser(name: str) -> None:
    done = run(name, "--check")
    assert done.stdout == 'data: {"outcome":"complete","ok":true,"finish_reason":"STOP"}\n'
    assert done.stderr == ""


def test_many_at_once() -> None:
    done = run("many_at_once.py")
    first, second = done.stdout.splitlines()
    assert first == "300 of 300 answers are whole"
    assert re.fullmatch(r"4200 events in [\d.]+ s; \d+ threads are left", second)
    assert done.stderr == ""


def test_supervised_application() -> None:
    done = run("supervised_application.py")
    lines = done.stdout.splitlines()
    assert re.fullmatch("      [0-9a-f]{32}", lines.pop(4)), "the stream's id"
    assert lines == [
        "Supervisor",
        "  gemini_streams",
        "    errands",
        "    streams",
        "    manager",
        "  asker",
        "All is well, thank you. [whole: True, attempts: 1]",
    ]
    assert "reason='Killed'" in done.stderr


def test_resumed_interaction() -> None:
    done = run("resumed_interaction.py")
    assert done.stdout.splitlines() == [
        "killed in the middle of the answer",
        "the answer is whole: True",
        "asked for once: True",
    ]
    assert done.stderr == ""


def test_chat_room() -> None:
    done = run("chat_room.py")
    assert done.stdout.splitlines() == [
        "Ada has read: It is blue by day. Then it is black.",
        "Carol has read: It is blue by day. Then it is black.",
        "Bob has read all: False",
        "the second request: user, model, user",
    ]
    assert done.stderr == ""


def test_fan_out() -> None:
    done = run("fan_out.py")
    assert done.stdout.splitlines() == [
        "no. 13: 400 INVALID_ARGUMENT: There is no such proverb.",
        "99 of 100 answers are whole",
        "no. 42: Better late than never.",
        "no. 77: Haste makes waste.",
        "102 requests for 100 prompts",
    ]
    [line] = done.stderr.splitlines()
    assert line.startswith("stream_ended")
    assert "code=400" in line


def test_on_asyncio() -> None:
    done = run("on_asyncio.py")
    assert done.stdout.splitlines() == [
        "Air scatters blue. | Air scatters blue.",
        "the sea: cancelled, and the connection closed: True",
        "Noted.",
        "Noted.",
        "Noted.",
    ]
    assert done.stderr == ""


def test_tool_loop() -> None:
    done = run("tool_loop.py")
    assert done.stdout.splitlines() == [
        "[weather {'place': 'Oslo'}]",
        "[weather {'place': 'Rome'}]",
        "[weather {'place': 'Atlantis'}]",
        "Rome is, by 20 degrees. I found no Atlantis.",
        "sent in the second round: ['user', 'model', 'user']",
    ]
    assert done.stderr == ""


def test_the_suite_that_makes_faults() -> None:
    done = run("test_faults.py", "-q", "-p", "no:cacheprovider", "-c", os.devnull)
    assert re.search(r"(?m)^16 passed in", done.stdout)


def test_the_suite_with_the_plugins_fixtures() -> None:
    done = run("test_newsletter.py", "-q", "-p", "no:cacheprovider", "-c", os.devnull)
    assert re.search(r"(?m)^11 passed in", done.stdout)


def test_every_example_is_run_here_or_by_the_supervisors_tests() -> None:
    tests = "".join(
        (Path(__file__).parents[1] / each).read_text()
        for each in ("docs/test_examples.py", "supervisor/test_docs.py")
    )
    assert [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in tests] == []


@pytest.mark.parametrize("name", SHORT)
def test_an_example_is_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) <= 65
