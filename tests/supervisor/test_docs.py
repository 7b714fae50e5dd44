"""The documentation's code runs, and the tests that it names exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from supervisor.kit import Worker

ROOT = Path(__file__).parents[2]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def test_the_first_example_of_the_page_runs() -> None:
    first, _ = blocks("supervisor.md")
    names: dict[str, Any] = {"__name__": "page"}
    lines = first.replace("counter.add().get()                           # 5", "first = counter.add().get()")
    lines = lines.replace(
        "counter.add().get()                           # ...", "second = counter.add().get()  #"
    )
    exec(compile(lines, "supervisor.md", "exec"), names)
    assert (names["first"], names["second"]) == (5, 5)


def test_the_example_of_a_test_passes() -> None:
    _, second = blocks("supervisor.md")
    names: dict[str, Any] = {"Worker": Worker}
    exec(compile(second, "supervisor.md", "exec"), names)
    names["test_the_worker_comes_back"]()


def test_the_example_program_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / "plain_pykka_supervision.py")],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.count("the feed says") == 10
    assert done.stdout.count("the feed ended: ConnectionError") == 2
    assert "feed: running, incarnation 3" in done.stdout
    assert done.stderr == ""


def test_each_rule_of_otp_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "otp-rules.md").read_text()
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    files = {path.name for path in Path(__file__).parent.glob("test_*.py")}
    named = re.findall(r"`((?:test_|Test)[\w.…]*)`", text)
    assert len(named) > 30
    for name in named:
        if name in files:
            continue
        assert name.rstrip("…") in sources, name
