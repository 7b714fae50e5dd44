from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO, NamedTuple

import pytest

from gemini_streams.cli import local_script
from gemini_streams.cli.command import main
from gemini_streams.cli.output import advice
from gemini_streams.cli.panels import Panel
from gemini_streams.cli.signals import INTERRUPTED, TERMINATED
from gemini_streams.cli.wrapping import cells, wrapped
from gemini_streams.errors import (
    APIError,
    ConnectionFailedError,
    ConnectionLostError,
    GeminiStreamsError,
    InvalidRequestError,
    MissingCredentialsError,
)
from gemini_streams.messages import StreamEvent, StreamRestarting
from gemini_streams.testing import Failure, LocalGemini, Reply, RequestRecord
from kit.command import command, environment, run
from kit.helpers import eventually

NAMES = ("tides", "rain", "sailors", "salt", "nobody", "bees")


class Terminal:
    """A command on a pseudo-terminal of its own."""

    def __init__(
        self,
        *arguments: str,
        rows: int = 30,
        columns: int = 110,
        gemini: LocalGemini | None = None,
        more: dict[str, str] | None = None,
    ) -> None:
        env = environment(gemini, {"TERM": "xterm"} | (more or {}))
        for name in ("COLUMNS", "LINES"):
            env.pop(name, None)
        self._master, slave = pty.openpty()
        self._resize(slave, rows, columns)
        self.process = subprocess.Popen(
            command(*arguments), stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True
        )
        os.close(slave)
        self.output = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @staticmethod
    def _resize(fd: int, rows: int, columns: int) -> None:
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, rows: int, columns: int) -> None:
        self._resize(self._master, rows, columns)
        self.output = ""

    def read(self, until: str | None = None, timeout: float = 20.0) -> str:
        """Read what is written, up to a text or to the end; returns all of it."""
        deadline = time.monotonic() + timeout
        while until is None or until not in self.output:
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{until!r} did not come: {self.output[-500:]!r}"
            try:
                data = os.read(self._master, 65536)
            except OSError:  # Linux: the other side is closed
                break
            if not data:
                break
            self.output += self._decoder.decode(data)
        return self.output

    def wait(self) -> int:
        self.read()
        return self.process.wait(20)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


needs_rich = pytest.mark.skipif(find_spec("rich") is None, reason="the extra `cli` is not installed")


def frames(output: str) -> list[str]:
    """What was drawn, frame by frame, without the signs that draw it."""
    drawn = re.split(r"\x1b\[\d+A\r", output)
    return [re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", frame).replace("\r", "") for frame in drawn]


# -- the demonstration -----------------------------------------------------------------------------------------------


class Demos(NamedTuple):
    """The demonstration without a key, run to its end: into pipes, and on a terminal of 30 lines of 110."""

    seconds: float
    code: int
    out: str
    err: str
    terminal_code: int
    terminal: str


@pytest.fixture(scope="module")
def demos() -> Demos:
    began = time.monotonic()
    terminal = Terminal("demo")
    reading = threading.Thread(target=terminal.read)
    reading.start()
    try:
        done = run("demo")
        seconds = time.monotonic() - began
        reading.join(20)
        code = terminal.wait()
    finally:
        terminal.close()
    err = re.sub(r"(?m)^Executing <.* took [\d.]+ seconds\n", "", done.stderr)  # asyncio on a busy machine
    return Demos(seconds, done.returncode, done.stdout, err, code, terminal.output)


def test_the_demo_without_a_key_shows_local_streams_a_restart_and_a_failure(demos: Demos) -> None:
    assert (demos.code, demos.err) == (0, "")
    assert demos.seconds < 45  # some six on an idle machine
    first, *lines, summary, failed = demos.out.splitlines()
    assert first.startswith("No key in GOOGLE_API_KEY or GEMINI_API_KEY: a local Gemini answers")
    for name in NAMES:
        assert any(line.strip().startswith(f"{name} | ") for line in lines)
    assert any("sailors | -- attempt 2 in" in line and "is void" in line for line in lines)
    assert any("salt | -- attempt 2 in" in line and "nothing is lost" in line for line in lines)
    assert any("nobody | == failed for good: APIError: 404 NOT_FOUND" in line for line in lines)
    assert re.match(r"6 streams at once in .*: 5 complete, 1 failed, 2 restarts, \d+ events\.", summary)
    assert failed.startswith("nobody failed after 1 attempt (it was meant to): APIError: 404 NOT_FOUND")


def test_the_demo_prints_the_whole_of_every_answer(demos: Demos) -> None:
    texts = {
        "tides": local_script.TIDES,
        "rain": local_script.RAIN,
        "salt": local_script.SALT,
        "bees": local_script.BEES,
    }
    for name, text in texts.items():
        lines = re.findall(rf"(?m)^ *{name} \| (?!==|--)(.*)$", demos.out)
        assert " ".join(lines).split() == text.split()


@needs_rich
def test_on_a_terminal_the_streams_stand_side_by_side(demos: Demos) -> None:
    assert demos.terminal_code == 0
    drawn = frames(demos.terminal)
    assert len(drawn) > 20
    for frame in drawn[1:-1]:
        assert len(frame.splitlines()) < 30
        assert max(map(len, frame.splitlines())) < 110
    assert any("tides · answering" in f and "rain · answering" in f for f in drawn)
    assert any("sailors · restarts in" in f and "connection was lost" in f for f in drawn)
    assert any("salt · attempt 2: answering" in f for f in drawn)
    assert "nobody · failed for good" in drawn[-1]
    assert "404 NOT_FOUND" in drawn[-1]
    assert "5 complete, 1 failed, 2 restarts" in drawn[-1]
    assert "Traceback" not in demos.terminal


@pytest.mark.parametrize(
    ("rows", "columns", "term"), [(8, 60, "xterm"), (30, 30, "xterm"), (30, 110, "dumb")]
)
def test_a_terminal_too_small_or_too_simple_gets_lines(
    terminals: list[Terminal], rows: int, columns: int, term: str
) -> None:
    terminal = Terminal("demo", rows=rows, columns=columns, more={"TERM": term})
    terminals.append(terminal)
    assert "tides | " in terminal.read("tides | ")
    assert "\x1b" not in terminal.output


def test_without_rich_a_terminal_gets_lines(terminals: list[Terminal], tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ImportError")
    terminal = Terminal("demo", more={"PYTHONPATH": str(tmp_path)})
    terminals.append(terminal)
    assert "tides | " in terminal.read("tides | ")
    assert "\x1b" not in terminal.output


@needs_rich
def test_the_terminal_may_change_its_size(terminals: list[Terminal]) -> None:
    terminal = Terminal("demo")
    terminals.append(terminal)
    terminal.read("tides · answering")
    for rows, columns, shown in ((24, 76, "tides · "), (5, 20, "(too small)"), (40, 230, "tides · ")):
        terminal.resize(rows, columns)
        terminal.read("\x1b[2J")
        terminal.output = terminal.output.split("\x1b[2J", 1)[1]
        terminal.read(shown)
        terminal.read("\x1b[J")
        frame = frames(terminal.output)[0]
        assert len(frame.splitlines()) < rows
        assert max(map(len, frame.splitlines())) < columns


@needs_rich
def test_no_colour_where_none_is_wanted(terminals: list[Terminal]) -> None:
    coloured, plain = Terminal("demo"), Terminal("demo", more={"NO_COLOR": "1"})
    terminals += [coloured, plain]
    for terminal in terminals:
        terminal.read("bees · answering")
    assert "\x1b[1m" in coloured.output
    assert re.search(r"\x1b\[[0-9;]*m", plain.output) is None


@needs_rich
@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, INTERRUPTED, "interrupted"), (signal.SIGTERM, TERMINATED, "terminated")],
)
def test_a_signal_ends_the_demo_cleanly(terminals: list[Terminal], number: int, code: int, said: str) -> None:
    terminal = Terminal("demo")
    terminals.append(terminal)
    terminal.read("bees · answering")
    terminal.process.send_signal(number)
    assert terminal.wait() == code
    assert said in terminal.output
    assert terminal.output.endswith(f"{said}\r\n")
    assert "Traceback" not in terminal.output


def test_with_a_key_the_demo_asks_gemini_and_kills_a_stream_to_show_the_restart(gemini: LocalGemini) -> None:
    def unknown(record: RequestRecord) -> bool:
        return record.model == "gemini-no-such-model"

    gemini.on(unknown, Failure(404, "not found"))
    gemini.on("longitude", Reply("It took long. " * 20, pace=0.02))
    done = run("demo", "--model", "gemini-of-mine", gemini=gemini)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Gemini at {gemini.url} answers, model gemini-of-mine." in done.stdout
    assert "sailors | -- attempt 2 in" in done.stdout
    assert "5 complete, 1 failed, 1 restart," in done.stdout
    assert "local-key" not in done.stdout
    assert {record.model for record in gemini.requests} == {"gemini-of-mine", "gemini-no-such-model"}


def test_a_demo_that_does_not_go_as_meant_says_so(gemini: LocalGemini) -> None:
    gemini.on(lambda _: True, Failure(400, "API key not valid. Please pass a valid API key."))
    done = run("demo", gemini=gemini)
    assert done.returncode == 1
    assert "tides failed after 1 attempt: APIError: 400" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_demo_leaves_no_thread_behind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "a-key-that-is-not-to-be-used")
    before = set(threading.enumerate())
    assert main(["demo", "--local"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("As asked: a local Gemini answers")
    assert "5 complete" in out
    assert "a-key-that-is-not-to-be-used" not in out + err
    process = {"pykka-supervisor-timers"}  # one for the process, a daemon
    eventually(lambda: {thread.name for thread in set(threading.enumerate()) - before} <= process)


def test_a_reader_that_leaves_early_is_no_accident() -> None:
    shell = " ".join(command("demo", "--plain")) + " | head -n 1; exit ${PIPESTATUS[0]}"
    done = subprocess.run(
        ["bash", "-c", shell], check=False, capture_output=True, text=True, timeout=30, env=environment()
    )
    assert (done.returncode, done.stderr) == (1, "")


def shell(line: str, gemini: LocalGemini | None = None) -> subprocess.CompletedProcess[str]:
    """A line of shell, in which `$CLI` is the command."""
    return subprocess.run(
        ["bash", "-c", line],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        env=environment(gemini, {"CLI": " ".join(command()), "PYTHONUNBUFFERED": ""}),
    )


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("$CLI ask why >&-", 1, "standard output is closed"),
        ("$CLI demo --local >&-", 1, "standard output is closed"),
        ("$CLI ask why >/dev/full", 1, "No space left on device"),
        ("$CLI demo --local --plain >/dev/full", 1, "No space left on device"),
        ("$CLI ask - <&-", 2, "standard input is closed"),
        (r"printf '\377' | PYTHONUTF8=0 LC_ALL=C.UTF-8 $CLI ask -", 2, "UTF-8"),
        ("$CLI ask $'\\377'", 2, "UTF-8"),
        ("$CLI ask why 2>&-", 0, ""),
        ("$CLI ask why 2>/dev/full", 0, ""),
        ("$CLI ask '' 2>&-", 2, ""),
        ("$CLI ask '' 2>/dev/full", 2, ""),
        ("$CLI ask why | true; exit ${PIPESTATUS[0]}", 1, None),
        ("$CLI ask why 2> >(true)", 0, None),
        ("$CLI >&- 2>&-", 2, ""),
        ("$CLI --nonsense 2>/dev/full", 2, ""),
        ("$CLI --help >/dev/full", 1, "No space left on device"),
        ("$CLI ask why >&- 2>&- <&-", 1, ""),
    ],
)
def test_files_that_are_closed_or_fail_show_no_traceback(
    gemini: LocalGemini, line: str, code: int, said: str | None
) -> None:
    gemini.on("why", Reply("Because of Rayleigh. " * 20, pace=0.002))
    done = shell(line, gemini)
    assert done.returncode == code, done.stderr
    for text in (done.stdout, done.stderr):
        assert "Traceback" not in text
        assert "Exception ignored" not in text
    if said is not None:
        assert said in done.stderr
        assert done.stderr.count("\n") <= 2
    assert done.stdout in ("", "Because of Rayleigh. " * 20 + "\n")
    if " >&-" in line:
        assert gemini.requests == []  # nothing is asked, and billed, that could not be shown


# -- one answer ------------------------------------------------------------------------------------------------------


def test_ask_streams_the_answer_and_nothing_else_to_standard_output(gemini: LocalGemini) -> None:
    gemini.on("sky", Reply("Because of Rayleigh."))
    done = run("ask", "Why is the sky blue?", "--model", "gemini-of-mine", gemini=gemini)
    assert (done.returncode, done.stdout) == (0, "Because of Rayleigh.\n")
    assert done.stderr == f"gemini_streams: asking gemini-of-mine at {gemini.url}\n"
    assert gemini.requests[0].model == "gemini-of-mine"


def test_ask_reads_the_prompt_from_standard_input(gemini: LocalGemini) -> None:
    assert run("ask", "-", gemini=gemini, given="from a pipe").returncode == 0
    assert gemini.requests[0].text == "from a pipe"


def test_ask_shows_each_event_when_it_comes(gemini: LocalGemini) -> None:
    gemini.on("slow", Reply("one two three", hold_after=1))
    process = subprocess.Popen(
        command("ask", "slow"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(gemini),
    )
    with process:
        out: IO[bytes] = process.stdout  # type: ignore[assignment]
        assert out.read(3) == b"one"
        gemini.gate("slow").open()
        assert out.read() == b" two three\n"
    assert process.returncode == 0


REFUSED = {"candidates": [{"finishReason": "SAFETY", "finishMessage": "Not that."}]}


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_ask_without_a_key_says_what_to_do() -> None:
    done = run("ask", "anything")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "set GOOGLE_API_KEY or GEMINI_API_KEY" in done.stderr
    assert "`python -m gemini_streams demo` needs none" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ask", ""), "prompt 1 is empty"),
        (("ask", "why", "--model", "no model/../at all"), "is no model name"),
        (("demo", "--model", "?"), "is no model name"),
    ],
)
def test_what_cannot_be_right_is_refused_in_one_line(
    gemini: LocalGemini, arguments: tuple[str, ...], said: str
) -> None:
    done = run(*arguments, gemini=gemini)
    assert done.returncode == 2
    assert said in last_line(done)
    assert gemini.requests == []


def test_ask_says_what_the_api_said_and_what_to_do(gemini: LocalGemini) -> None:
    gemini.on("why", Failure(404, "models/none is not\nfound"))
    done = run("ask", "why", gemini=gemini)
    assert (done.returncode, done.stdout) == (1, "")
    assert last_line(done) == (
        "gemini_streams: the API answered 404 NOT_FOUND: models/none is not found"
        " (is there such a model? give another with --model)"
    )


def test_ask_tries_again_before_the_first_event(gemini: LocalGemini) -> None:
    gemini.on("why", Failure(503, "overloaded"), Reply("Because."))
    done = run("ask", "why", gemini=gemini)
    assert (done.returncode, done.stdout) == (0, "Because.\n")
    assert "503 UNAVAILABLE: overloaded; asking again in" in last_line(done)


def test_ask_does_not_repeat_what_it_has_printed(gemini: LocalGemini) -> None:
    gemini.on("why", Reply("one two three", end="reset", end_after=2), Reply("never printed"))
    done = run("ask", "why", gemini=gemini)
    assert (done.returncode, done.stdout) == (1, "one two\n")
    assert "the connection was lost" in last_line(done)
    assert last_line(done).endswith("(try again)")


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply("cut short", finish_reason="MAX_TOKENS"), "it ended with MAX_TOKENS; ask"),
        (Reply(events=[REFUSED]), "it ended with SAFETY (Not that.); ask"),
        (Reply(events=[{"promptFeedback": {"blockReason": "SAFETY"}}]), "the prompt was blocked (SAFETY)"),
    ],
)
def test_an_answer_that_is_not_whole_is_told(gemini: LocalGemini, reply: Reply, said: str) -> None:
    gemini.on("why", reply)
    done = run("ask", "why", gemini=gemini)
    assert done.returncode == 1
    assert said in last_line(done)


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, INTERRUPTED, b"interrupted"), (signal.SIGTERM, TERMINATED, b"terminated")],
)
def test_a_signal_ends_ask_while_the_server_is_silent(
    gemini: LocalGemini, number: int, code: int, said: bytes
) -> None:
    gemini.on("silent", Reply("one two", hold_after=1))
    process = subprocess.Popen(
        command("ask", "silent"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(gemini),
    )
    with process:
        out: IO[bytes] = process.stdout  # type: ignore[assignment]
        assert out.read(3) == b"one"
        process.send_signal(number)
        rest, err = process.communicate(timeout=20)
    assert (process.returncode, rest) == (code, b"\n")
    assert err.endswith(b"gemini_streams: " + said + b"\n")
    assert b"Traceback" not in err
    gemini.requests[0].wait_closed()
    assert gemini.requests[0].client_closed


def test_what_a_model_says_does_not_steer_the_terminal(
    terminals: list[Terminal], gemini: LocalGemini
) -> None:
    gemini.on("why", Reply(["\x1b[2J\x1b]0;mine\x07", "grüß\tdich\n"]))
    terminal = Terminal("ask", "why", gemini=gemini)
    terminals.append(terminal)
    assert terminal.wait() == 0
    assert "\x1b" not in terminal.output
    assert "\x07" not in terminal.output
    assert "[2J]0;minegrüß dich\r\n" in terminal.output


# -- arguments and words ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("demo", "--help"), ("ask", "--help"), ("serve-local", "--help"), ("--version",)],
)
def test_help_is_there(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "gemini" in done.stdout


@pytest.mark.parametrize("arguments", [(), ("dance",), ("batch", "a"), ("ask", "a", "--sytem", "b")])
def test_wrong_arguments_are_2(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage: python -m gemini_streams" in done.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MissingCredentialsError("no API key"), "needs none"),
        (APIError(429, "RESOURCE_EXHAUSTED", retryable=True, retry_at=0.0), "try again after 19"),
        (APIError(429, "RESOURCE_EXHAUSTED", retryable=True), "(try again)"),
        (APIError(400, "INVALID_ARGUMENT", "API key not valid"), "check the key"),
        (APIError(400, "INVALID_ARGUMENT", "bad schema"), ""),
        (APIError(403, "PERMISSION_DENIED"), "check the key"),
        (ConnectionFailedError("refused"), "GOOGLE_GEMINI_BASE_URL"),
        (ConnectionLostError("reset"), "(try again)"),
        (InvalidRequestError("say this"), ""),
    ],
)
def test_advice(error: GeminiStreamsError, said: str) -> None:
    told = advice(error)
    assert said in told
    assert bool(said) is bool(told)


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("", 5, [""]),
        ("one two three", 7, ["one two", "three"]),
        ("one two", 3, ["one", "two"]),
        ("abcdefgh ij", 3, ["abc", "def", "gh", "ij"]),
        ("a\n\nb", 5, ["a", "", "b"]),
        ("日本語 です", 4, ["日本", "語", "です"]),
    ],
)
def test_wrapping_counts_the_cells_of_the_terminal(text: str, width: int, lines: list[str]) -> None:
    assert wrapped(text, width) == lines
    assert all(cells(line) <= width for line in lines)


def test_a_panel_tells_what_is_void() -> None:
    panel = Panel("name", "prompt")
    panel.take(StreamEvent("s", 1, 0, {}), 0.0)
    panel.take(StreamRestarting("s", 2, 0, 3.0, ConnectionLostError("lost"), None, discard=True), 10.0)
    assert panel.status(11.0) == "restarts in 2.0 s"
    assert panel.status(14.0) == "attempt 2: asking"
    assert panel.trouble == "lost; what it had said is void"
