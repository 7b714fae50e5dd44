"""docs/deployment.md: its files run as they stand, under gunicorn and alone, and end in order at SIGTERM."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gemini_streams.testing import Failure, LocalGemini, Reply

PAGE = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()
FILES = {
    re.match(r"# (\S+)\n", code)[1]: code  # type: ignore[index]
    for code in re.findall(r"(?ms)^```(?:python|ini)\n(.*?)^```", PAGE)
}


@contextmanager
def running(command: list[str], gemini: LocalGemini, folder: Path) -> Iterator[subprocess.Popen[str]]:
    for name in ("app.py", "gunicorn.conf.py", "worker.py"):
        (folder / name).write_text(FILES[name])
    env = os.environ | {"GEMINI_API_KEY": "local-key", "GOOGLE_GEMINI_BASE_URL": gemini.url}
    env.pop("GOOGLE_API_KEY", None)
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def server(gemini: LocalGemini, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """gunicorn with the page's files, and its address."""
    command = ["-m", "gunicorn", "-c", "gunicorn.conf.py", "-b", "127.0.0.1:0", "--graceful-timeout", "1"]
    with running(command, gemini, tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"Listening at: (http://\S+)", line):
                yield process, found[1]
                return
        raise AssertionError("gunicorn has not started")


def test_an_answer_under_gunicorn(gemini: LocalGemini, server: tuple[subprocess.Popen[str], str]) -> None:
    gemini.on("sky", Reply("Air scatters blue."))
    gemini.on("tides", Failure(403))
    process, url = server
    with urllib.request.urlopen(f"{url}/?q=sky", timeout=20) as answer:
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert answer.read() == b"Air scatters blue."
    for query, code, said in (
        ("", 400, b"Ask with ?q=...\n"),
        ("?q=tides", 502, b"APIError: 403 PERMISSION_DENIED\n"),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{url}/{query}", timeout=20)
        with refused.value as answer:
            assert (answer.code, answer.read()) == (code, said)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_a_client_that_leaves_ends_its_stream(
    gemini: LocalGemini, server: tuple[subprocess.Popen[str], str]
) -> None:
    text = "word " * 20_000
    gemini.on("sky", Reply(text, pace=0.001))
    _, url = server
    with urllib.request.urlopen(f"{url}/?q=sky", timeout=20) as answer:
        assert answer.read(4) == b"word"
    gemini.requests[0].wait_closed()
    assert gemini.requests[0].client_closed


def test_streams_end_in_order_when_gunicorn_stops(
    gemini: LocalGemini, server: tuple[subprocess.Popen[str], str]
) -> None:
    gemini.on("sky", Reply("Air scatters blue.", hold_after=1))
    process, url = server
    with urllib.request.urlopen(f"{url}/?q=sky", timeout=20) as answer:
        assert answer.read(3) == b"Air"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        gemini.requests[0].wait_closed()
    assert gemini.requests[0].client_closed


def test_a_program_without_a_web_server(gemini: LocalGemini, tmp_path: Path) -> None:
    gemini.on("sky", Reply("Air scatters blue.", hold_after=1))
    with running(["worker.py"], gemini, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.read(3) == "Air"
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=20)
    assert rest == "\n[shutdown after 1 events]\n"
    assert process.returncode == 143


def test_the_units_time_is_longer_than_that_of_the_server() -> None:
    graceful = re.search(r"graceful_timeout = (\d+)", FILES["gunicorn.conf.py"])
    stop = re.search(r"stop\(timeout=(\d+)\)", FILES["app.py"])
    unit = re.search(r"TimeoutStopSec=(\d+)", FILES["/etc/systemd/system/answers.service"])
    assert graceful is not None
    assert stop is not None
    assert unit is not None
    assert int(unit[1]) > int(graceful[1]) + int(stop[1])
