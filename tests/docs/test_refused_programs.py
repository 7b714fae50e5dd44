"""A program that is refused at its first ask ends, and says why."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gemini_streams.testing import LocalGemini, Reply
from kit.interpreter import needs_late_threads

ROOT = Path(__file__).parents[2]
KEYS = ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL", "GOOGLE_GENAI_USE_VERTEXAI")


def run(program: str, gemini: LocalGemini | None = None) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name not in KEYS}
    if gemini is not None:
        env |= {"GEMINI_API_KEY": "local-key", "GOOGLE_GEMINI_BASE_URL": gemini.url}
    return subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, env=env, timeout=20
    )


FIRST, SECOND = re.findall(r"(?ms)^```python\n(.*?)^```", (ROOT / "README.md").read_text())[:2]

PRINTER = """
import threading, time
import pykka
from gemini_streams import *
class Printer(pykka.ThreadingActor):
    def on_receive(self, message):
        if isinstance(message, StreamComplete): print(message.finish_reason); self.stop()
manager = ManagerActor.start()
"""

DIES = {
    "README, with an actor": FIRST,
    "README, without one": SECOND,
    "the subscriber in a variable": PRINTER
    + 'p = Printer.start()\nmanager.start_stream("why", subscriber=[p, Printer.start()])',
    "caught and raised again": PRINTER
    + """
try: manager.start_stream("why", subscriber=Printer.start())
except GeminiStreamsError as error: raise SystemError("no answer") from error
""",
    "in asyncio": PRINTER
    + """
import asyncio
async def main():
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.to_thread(manager.start_stream, "why", subscriber=Printer.start()))
asyncio.run(main())
""",
    "the second manager": PRINTER
    + """
first = ManagerActor.start(endpoint=Gemini(api_key="k"))
manager.ask(StartStream("why", subscriber=Printer.start()))
""",
}


@pytest.mark.parametrize("name", DIES)
def test_without_a_key_it_ends_with_the_error(name: str) -> None:
    done = run(DIES[name])
    assert done.returncode == 1
    assert "MissingCredentialsError" in done.stderr
    assert "set GOOGLE_API_KEY or GEMINI_API_KEY" in done.stderr
    assert done.stdout == ""


@needs_late_threads
def test_a_subscriber_that_has_another_stream_is_left_alone(gemini: LocalGemini) -> None:
    gemini.on("why", Reply("one two", pace=0.2))
    done = run(
        PRINTER
        + """
p = Printer.start()
manager.start_stream("why", subscriber=p)
manager.start_stream("", subscriber=p)
""",
        gemini,
    )
    assert (done.returncode, done.stdout) == (1, "STOP\n")
    assert "InvalidRequestError" in done.stderr


@needs_late_threads
def test_a_refusal_that_is_caught_changes_nothing(gemini: LocalGemini) -> None:
    gemini.on("why", Reply("one two"))
    done = run(
        PRINTER
        + """
p = Printer.start()
try: manager.start_stream("", subscriber=p)
except InvalidRequestError: pass
def later():
    threading.main_thread().join()
    time.sleep(0.3)
    manager.start_stream("why", subscriber=p)
threading.Thread(target=later).start()
""",
        gemini,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "STOP\n", "")
