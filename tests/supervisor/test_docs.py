"""The example of plain Pykka actors runs, and the tests that the documentation names exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


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
