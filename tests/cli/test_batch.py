"""`batch`: many prompts from a file, their answers into another, whatever ends it in between."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gemini_streams.testing import Failure, LocalGemini, Reply, RequestRecord
from kit.command import environment
from kit.helpers import eventually


def asked(path: Path, *prompts: str) -> Path:
    lines = [{"key": prompt, "request": {"contents": [{"parts": [{"text": prompt}]}]}} for prompt in prompts]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def begin(gemini: LocalGemini, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-X", "dev", "-W", "error", "-m", "gemini_streams", "batch"]
    return subprocess.Popen(
        [*command, *map(str, arguments)], stderr=subprocess.PIPE, text=True, env=environment(gemini)
    )


def run(gemini: LocalGemini, *arguments: object) -> tuple[int, str]:
    process = begin(gemini, *arguments)
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said, said
    return process.returncode, said


def answered(path: Path) -> dict[str, Any]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({record["key"] for record in found}) == len(found), "one line a key"
    return {record["key"]: record for record in found}


def test_prompts_in_and_answers_out(gemini: LocalGemini, tmp_path: Path) -> None:
    gemini.on("sky", Reply("Blue air."))
    source = tmp_path / "in.jsonl"
    request = {
        "contents": "sky",
        "generationConfig": {"maxOutputTokens": 9},
        "systemInstruction": {"parts": [{"text": "short"}]},
    }
    source.write_text(json.dumps({"key": "a", "request": request}) + "\n")
    code, said = run(gemini, source, tmp_path / "out.jsonl")
    assert (code, "1 of 1 key have" in said) == (0, True), said
    response = answered(tmp_path / "out.jsonl")["a"]["response"]
    [candidate] = response["candidates"]
    assert candidate["content"]["parts"] == [{"text": "Blue air."}]
    assert candidate["finishReason"] == "STOP"
    [sent] = gemini.requests
    assert sent.body["generationConfig"] == {"maxOutputTokens": 9}
    assert sent.body["systemInstruction"]["parts"] == [{"text": "short"}]


def test_it_goes_on_after_a_kill_and_asks_nothing_twice(gemini: LocalGemini, tmp_path: Path) -> None:
    prompts = [f"p{n:03}" for n in range(60)]
    source, target = asked(tmp_path / "in.jsonl", *prompts), tmp_path / "out.jsonl"
    gemini.on("p030", Reply("late", hold_after=0))
    process = begin(gemini, source, target, "--at-once", 4)
    eventually(lambda: target.exists() and target.read_text().count("\n") >= 20)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    gemini.gate("p030").open()
    whole = target.read_bytes()
    before = set(answered(target))
    with target.open("ab") as file:
        file.write(b'{"key": "p059", "respo')
    begun = len(gemini.requests)
    assert run(gemini, source, target)[0] == 0
    assert target.read_bytes().startswith(whole)
    assert set(answered(target)) == set(prompts)
    again = {record.text for record in gemini.requests[begun:]}
    assert again == set(prompts) - before
    begun = len(gemini.requests)
    assert run(gemini, source, target)[0] == 0
    assert len(gemini.requests) == begun


def test_what_has_failed_is_asked_again(gemini: LocalGemini, tmp_path: Path) -> None:
    source, target = asked(tmp_path / "in.jsonl", "good", "bad"), tmp_path / "out.jsonl"
    gemini.on("bad", Failure(400, "no such thing"), Reply("now"))
    code, said = run(gemini, source, target)
    assert (code, "1 failed" in said) == (1, True)
    assert answered(target)["bad"]["error"]["code"] == 400
    assert run(gemini, source, target, "--quiet") == (0, "")
    assert "response" in answered(target)["bad"]
    assert sorted(record.text for record in gemini.requests) == ["bad", "bad", "good"]


def test_an_answer_that_is_cut_off_is_kept_and_told(gemini: LocalGemini, tmp_path: Path) -> None:
    source, target = asked(tmp_path / "in.jsonl", "long"), tmp_path / "out.jsonl"
    gemini.on("long", Reply("half of", finish_reason="MAX_TOKENS"))
    for _ in range(2):
        code, said = run(gemini, source, target)
        assert (code, "1 not whole" in said) == (1, True), said
    assert len(gemini.requests) == 1


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('{"key": "a", "request": {}}\n{"key": "a", "request": {}}\n', "stands in line 1 already"),
        ("no json\n", "no JSON"),
        ('{"key": 1, "request": {}}\n', "a line is"),
    ],
)
def test_an_input_that_is_wrong_asks_nothing(
    gemini: LocalGemini, tmp_path: Path, lines: str, said: str
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(lines)
    code, told = run(gemini, source, tmp_path / "out.jsonl")
    assert (code, said in told) == (2, True), told
    assert not (tmp_path / "out.jsonl").exists()
    assert gemini.requests == []


def test_the_input_is_not_overwritten_nor_is_another_file(gemini: LocalGemini, tmp_path: Path) -> None:
    source = asked(tmp_path / "in.jsonl", "a")
    (tmp_path / "link.jsonl").symlink_to(source)
    (tmp_path / "hard.jsonl").hardlink_to(source)
    (tmp_path / "poem.txt").write_text("Roses are red\n")
    for name in ("in.jsonl", "link.jsonl", "hard.jsonl", "poem.txt"):
        assert run(gemini, source, tmp_path / name)[0] == 2
    assert (tmp_path / "poem.txt").read_text() == "Roses are red\n"
    assert gemini.requests == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_in_order(gemini: LocalGemini, tmp_path: Path, number: int, code: int) -> None:
    source, target = asked(tmp_path / "in.jsonl", "a", "b"), tmp_path / "out.jsonl"
    gemini.on("b", Reply("late", hold_after=0))
    process = begin(gemini, source, target)
    eventually(lambda: target.exists() and target.read_text().count("\n") == 1)
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == code
    assert "Traceback" not in said
    assert list(answered(target)) == ["a"]


@pytest.mark.parametrize(
    ("at_once", "managers"),
    [(20, 1), pytest.param(80, 1, marks=pytest.mark.long), pytest.param(10, 4, marks=pytest.mark.long)],
)
def test_none_fails_for_a_quota(gemini: LocalGemini, tmp_path: Path, at_once: int, managers: int) -> None:
    """Ten requests a window of 0.5 s, at a time: the server names the wait."""
    granted: list[float] = []

    def quota(record: RequestRecord) -> Any:
        now = time.monotonic()
        window = [moment for moment in granted if now - moment < 0.5]
        if len(window) >= 10:
            return Failure(429, retry_delay=f"{max(0.01, 0.5 - (now - window[0])):.3f}s")
        granted[:] = [*window, now]
        return Reply("one")

    gemini.on(lambda record: True, quota)
    each = 60 // managers
    started = []
    for n in range(managers):
        source = asked(tmp_path / f"in{n}.jsonl", *[f"{n}-{k}" for k in range(each)])
        started.append(begin(gemini, source, tmp_path / f"out{n}.jsonl", "--at-once", at_once))
    for n, process in enumerate(started):
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert len(answered(tmp_path / f"out{n}.jsonl")) == each
