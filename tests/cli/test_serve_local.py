"""`serve-local`: a local Gemini in a process of its own, for other programs."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gemini_streams import Gemini, ManagerActor, ManagerRef, StreamComplete
from gemini_streams.cli.scenarios import SCENARIOS, play
from gemini_streams.testing import LocalGemini, Reply
from kit.command import command, environment, run
from kit.helpers import last_of, text_of
from pykka_supervisor.testing import Probe


@contextmanager
def serving(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command and its URL."""
    process = subprocess.Popen(
        command("serve-local", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        assert process.stdout is not None
        found = re.search(r"listens at (http://\S+)\.", process.stdout.readline())
        assert found is not None
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_other_programs_and_a_signal_ends_it_with_0(number: int, tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    rules = [{"when": "sky", "answers": [{"status": 503, "message": "busy"}, {"text": "Blue air."}]}]
    script.write_text(json.dumps(rules))
    with serving("--scenario", script) as (process, url):
        more = {"GEMINI_API_KEY": "any", "GOOGLE_GEMINI_BASE_URL": url}
        done = run("ask", "why is the sky blue?", more=more)
        assert (done.returncode, done.stdout) == (0, "Blue air.\n")
        assert "503 UNAVAILABLE: busy; asking again" in done.stderr
        assert "You asked: the sea" in run("ask", "the sea", more=more).stdout
        process.send_signal(number)
        assert process.stdout is not None
        assert process.stderr is not None
        out, err = process.stdout.read(), process.stderr.read()
        assert process.wait(20) == 0
    assert f"export GEMINI_API_KEY=local-key GOOGLE_GEMINI_BASE_URL={url}" in out
    assert err.splitlines() == [
        "gemini_streams: 1. POST gemini-flash-latest: why is the sky blue?",
        "gemini_streams: 2. POST gemini-flash-latest: why is the sky blue?",
        "gemini_streams: 3. POST gemini-flash-latest: the sea",
        "gemini_streams: ended after 3 requests",
    ]


def test_it_ends_with_a_client_in_mid_answer() -> None:
    with serving("--scenario", "slow") as (process, url):
        manager = ManagerActor.start(endpoint=Gemini(api_key="any", base_url=url))
        try:
            with Probe() as probe:
                manager.start_stream("why", subscriber=probe.ref)
                assert process.stderr is not None
                assert "1. POST" in process.stderr.readline()
                process.send_signal(signal.SIGTERM)
                assert process.stderr.read() == "gemini_streams: ended after 1 request\n"
                assert process.wait(20) == 0
        finally:
            manager.stop(timeout=20)


def test_a_port_that_is_taken_is_told_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("serve-local", "--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"gemini_streams: 127.0.0.1, port {port}: Address already in use\n"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (None, "there is no scenario 'nonsense'"),
        ("[", "script.json: "),
        ('[{"when": "x"}]', "answers"),
        ('[{"answers": []}]', "at least one answer"),
        ('[{"answers": [{"txt": "x"}]}]', "txt"),
        ('[{"answers": [{"status": "x"}]}]', "status"),
        ('[{"answers": [{"end": "bang"}]}]', "bang"),
    ],
)
def test_a_scenario_that_is_wrong_is_2(tmp_path: Path, script: str | None, said: str) -> None:
    path = tmp_path / "script.json"
    if script is not None:
        path.write_text(script)
    done = run("serve-local", "--scenario", path if script is not None else "nonsense")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr


@pytest.mark.parametrize("name", ["overloaded", "cut"])
def test_a_scenario_fails_once_a_prompt(
    name: str, local_gemini: LocalGemini, gemini_manager: ManagerRef, gemini_probe: Probe
) -> None:
    play(local_gemini, name)
    for prompt in ("a", "b"):
        stream = gemini_manager.start_stream(prompt, subscriber=gemini_probe.ref)
        last = last_of(gemini_probe, stream)
        assert isinstance(last, StreamComplete)
        assert (last.ok, last.attempts) == (True, 2)
        assert "This is a stand-in" in text_of(gemini_probe, stream)
    assert len(local_gemini.requests) == 4


def test_each_scenario_is_in_the_help() -> None:
    said = " ".join(run("serve-local", "--help").stdout.split())
    assert len(SCENARIOS) == 7
    for name in SCENARIOS:
        assert f"{name}: " in said


def test_a_server_may_listen_at_another_address_of_this_machine() -> None:
    for host, shown in (("0.0.0.0", "http://127.0.0.1:"), ("localhost", "http://localhost:")):
        with LocalGemini(host=host) as gemini:
            gemini.on("sky", Reply("Blue."))
            assert gemini.url.startswith(shown)
            manager = ManagerActor.start(endpoint=gemini.endpoint)
            with Probe() as probe:
                assert last_of(probe, manager.start_stream("sky", subscriber=probe.ref)).ok
            manager.stop(timeout=20)
