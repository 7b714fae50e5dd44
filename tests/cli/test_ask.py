"""`ask` with several prompts, files and a config, and as JSON. One prompt's answer is in `test_cli`."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import IO, Any

import pytest

from gemini_streams.testing import Failure, LocalGemini, Reply
from kit.command import command, environment, run

WHOLE = "gemini_streams: 3 of 3 answers are whole\n"


def lines_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_several_prompts_are_printed_in_order_each_under_its_heading(
    gemini: LocalGemini, tmp_path: Path
) -> None:
    gemini.on("first", Reply("One."))
    gemini.on("second", Reply("Two.\n"))
    gemini.on("third", Reply("Three."))
    file = tmp_path / "third.txt"
    file.write_text("the third\nof all\n")
    done = run("ask", "the first", "the second", "--file", file, gemini=gemini)
    assert done.stdout == (
        "== 1 of 3: the first ==\nOne.\n\n"
        "== 2 of 3: the second ==\nTwo.\n\n"
        f"== 3 of 3: {file} ==\nThree.\n\n".replace(str(file), str(file)[:69] + "…" * (len(str(file)) > 70))
    )
    assert (done.returncode, done.stderr) == (
        0,
        f"gemini_streams: asking gemini-flash-latest 3 prompts at {gemini.url}\n{WHOLE}",
    )
    assert {record.text for record in gemini.requests} == {"the first", "the second", "the third\nof all\n"}


def test_prompts_run_at_once_and_an_early_end_waits_for_its_turn(gemini: LocalGemini) -> None:
    gemini.on("late", Reply("Late.", hold_after=0))
    gemini.on("early", Reply("Early."))
    process = subprocess.Popen(
        command("ask", "late", "early", "--quiet"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(gemini),
    )
    gemini.wait_request(where="early").wait_closed()
    assert gemini.gate("late").reached()
    gemini.gate("late").open()
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "Late.\nEarly.\n", "")


def test_no_more_run_at_once_than_is_asked_for(gemini: LocalGemini) -> None:
    gemini.on("prompt", Reply("Yes.", hold_before_headers=True))
    process = subprocess.Popen(
        command("ask", *(f"prompt {n}" for n in range(5)), "--at-once", 2, "--quiet"),
        stdout=subprocess.PIPE,
        text=True,
        env=environment(gemini),
    )
    with process:
        gate = gemini.gate("prompt")
        gate.reached(n=2)
        with pytest.raises(TimeoutError):
            gate.reached(n=3, timeout=0.3)
        gate.open()
        out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "Yes.\n" * 5)


def test_one_that_fails_is_told_and_the_others_are_printed(gemini: LocalGemini) -> None:
    gemini.on("good", Reply("Yes."))
    gemini.on("bad", Failure(400, "no such thing"))
    gemini.on("cut", Reply("half of", finish_reason="MAX_TOKENS"))
    done = run("ask", "bad", "good", "cut", "--quiet", gemini=gemini)
    assert (done.returncode, done.stdout) == (1, "Yes.\nhalf of\n")
    assert done.stderr.splitlines() == [
        "gemini_streams: prompt 1: the API answered 400 INVALID_ARGUMENT: no such thing",
        "gemini_streams: prompt 3: the answer is not whole: it ended with MAX_TOKENS; ask for less, or in other words",
    ]


def test_several_prompts_are_tried_again_in_mid_answer(gemini: LocalGemini) -> None:
    gemini.on("flaky", Reply("one two three", end="reset", end_after=2), Reply("one two three"))
    gemini.on("good", Reply("Yes."))
    done = run("ask", "flaky", "good", "--quiet", gemini=gemini)
    assert (done.returncode, done.stdout, done.stderr) == (0, "one two three\nYes.\n", "")


def test_json_has_a_line_a_prompt(gemini: LocalGemini, tmp_path: Path) -> None:
    gemini.on("good", Reply("Grüße \U0001f600.", usage={"totalTokenCount": 7}))
    gemini.on("bad", Failure(403, "not you"))
    gemini.on("cut", Reply("half of", finish_reason="MAX_TOKENS", usage=None))
    file = tmp_path / "bad.txt"
    file.write_text("bad")
    done = run("ask", "good", "-", "-f", file, "--json", "--quiet", gemini=gemini, given="cut")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.isascii()
    good, cut, bad = lines_of(done)
    assert good == {
        "key": "1",
        "prompt": "good",
        "text": "Grüße \U0001f600.",
        "finish_reason": "STOP",
        "usage": {"totalTokenCount": 7},
        "error": None,
    }
    assert (cut["key"], cut["text"], cut["finish_reason"]) == ("-", "half of", "MAX_TOKENS")
    assert cut["error"]["status"] == "IncompleteAnswerError"
    assert (bad["key"], bad["prompt"], bad["text"]) == (str(file), "bad", "")
    assert (bad["error"]["code"], bad["error"]["status"]) == (403, "PERMISSION_DENIED")


def test_json_of_one_prompt_is_one_line(gemini: LocalGemini) -> None:
    gemini.on("sky", Reply("two\nlines"))
    done = run("ask", "sky", "--json", gemini=gemini)
    assert done.returncode == 0
    assert [line["text"] for line in lines_of(done)] == ["two\nlines"]


@pytest.mark.parametrize("at", [False, True])
def test_system_and_config_reach_every_request(gemini: LocalGemini, tmp_path: Path, at: bool) -> None:
    config = '{"temperature": 0.25, "maxOutputTokens": 9}'
    (tmp_path / "config.json").write_text(config)
    given = f"@{tmp_path / 'config.json'}" if at else config
    done = run("ask", "a", "b", "--system", "Be short.", "--config", given, gemini=gemini)
    assert done.returncode == 0, done.stderr
    assert len(gemini.requests) == 2
    for record in gemini.requests:
        assert record.body["generationConfig"] == {"temperature": 0.25, "maxOutputTokens": 9}
        assert record.body["systemInstruction"]["parts"] == [{"text": "Be short."}]


def test_standard_input_is_the_prompt_where_no_other_is_given(gemini: LocalGemini) -> None:
    gemini.on("piped", Reply("Yes."))
    done = run("ask", "--quiet", gemini=gemini, given="a piped prompt\n")
    assert (done.returncode, done.stdout) == (0, "Yes.\n")
    [record] = gemini.requests
    assert record.text == "a piped prompt\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "standard input is empty"),
        (["-", "-"], "give - once"),
        (["a", " "], "prompt 2 is empty"),
        (["a", "-f", "nowhere.txt"], "nowhere.txt: No such file"),
        (["a", "-f", "binary"], "binary is no text in UTF-8"),
        (["a", "--config", "{"], "--config is JSON"),
        (["a", "--config", "[]"], "--config is a JSON object"),
        (["a", "--config", "@nowhere.json"], "nowhere.json: No such file"),
        (["a", "--config", '{"system_instruction": "x"}', "--system", "y"], "given twice"),
        (["a", "b", "--config", '{"tools": 5}'], "config.tools must be a list"),
        (["a", "b", "--at-once", "0"], "--at-once"),
        (["a", "b", "--model", "?"], "is no model name"),
    ],
)
def test_what_is_wrong_asks_nothing_and_is_2(
    gemini: LocalGemini, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    done = subprocess.run(
        command("ask", *arguments),
        check=False,
        capture_output=True,
        text=True,
        input="",
        timeout=30,
        cwd=tmp_path,
        env=environment(gemini),
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert gemini.requests == []


def test_a_reader_that_leaves_ends_it_without_a_word(gemini: LocalGemini) -> None:
    gemini.on("first", Reply("One."))
    gemini.on("second", Reply("Two.", hold_after=0))
    process = subprocess.Popen(
        command("ask", "first", "second", "third", "--quiet"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(gemini),
    )
    with process:
        out: IO[bytes] = process.stdout  # type: ignore[assignment]
        assert out.readline() == b"One.\n"
        out.close()
        gemini.gate("second").open()
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (1, b"")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_prompts(gemini: LocalGemini, number: int, code: int) -> None:
    gemini.on("first", Reply("One."))
    gemini.on("second", Reply("Two.", hold_after=0))
    process = subprocess.Popen(
        command("ask", "first", "second", "--quiet"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(gemini),
    )
    with process:
        out: IO[bytes] = process.stdout  # type: ignore[assignment]
        assert out.readline() == b"One.\n"
        gemini.gate("second").reached()
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert err.count(b"\n") == 1
    assert gemini.wait_request(where="second").wait_closed()


def on_a_terminal(gemini: LocalGemini, *arguments: str, more: dict[str, str]) -> str:
    """What the command writes to a terminal."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command(*arguments),
        stdin=slave,
        stdout=slave,
        stderr=subprocess.DEVNULL,
        env=environment(gemini, {"TERM": "xterm"} | more),
    )
    os.close(slave)
    read = b""
    with process, os.fdopen(master, "rb", buffering=0) as terminal:
        try:
            while data := terminal.read(65536):
                read += data
        except OSError:  # Linux: the other side is closed
            pass
    return read.decode()


def test_a_terminal_gets_bold_headings_but_for_no_color_and_no_control_characters(
    gemini: LocalGemini,
) -> None:
    gemini.on("why", Reply("\x1b[2JBecause."))
    plain = on_a_terminal(gemini, "ask", "why", "why", more={"NO_COLOR": "1"})
    bold = on_a_terminal(gemini, "ask", "why", "why", more={"NO_COLOR": ""})
    assert "== 1 of 2: why ==\r\n[2JBecause.\r\n" in plain
    assert "\x1b" not in plain
    assert "\x1b[1m== 1 of 2: why ==\x1b[0m" in bold
    assert "\x1b[2J" not in bold
