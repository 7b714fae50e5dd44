"""docs/command-line.md has every command, option and scenario, and its example of a script is one."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

from gemini_streams.cli.command import _parser
from gemini_streams.cli.scenarios import SCENARIOS, play
from gemini_streams.testing import LocalGemini

PAGES = {
    name: (Path(__file__).parents[2] / "docs" / name).read_text() for name in ("command-line.md", "batch.md")
}
PAGE = PAGES["command-line.md"]
[COMMANDS] = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]


@pytest.mark.parametrize("name", COMMANDS.choices)
def test_every_option_is_on_the_page(name: str) -> None:
    assert f"`gemini-streams {name}`" in PAGE
    text = PAGES["batch.md"] if name == "batch" else PAGE
    options = {option for action in COMMANDS.choices[name]._actions for option in action.option_strings}
    known = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))
    assert options - known == {"-h", "--help"} - known


def test_the_page_has_no_option_that_is_not_there() -> None:
    options = {
        option
        for command in COMMANDS.choices.values()
        for action in command._actions
        for option in action.option_strings
    }
    named = set(re.findall(r"`(--?[a-z][a-z-]*)", PAGE))
    assert named - options == {"--version"}


def test_every_scenario_is_on_the_page() -> None:
    rows = re.search(r"(?ms)^\| Scenario .*?\n\n", PAGE)
    assert rows is not None
    assert re.findall(r"(?m)^\| `(\w+)`", rows[0]) == list(SCENARIOS)


def test_the_script_of_the_page_is_one(gemini: LocalGemini, tmp_path: Path) -> None:
    script = re.search(r"(?ms)^```json\n(.*?)^```", PAGE)
    assert script is not None
    (tmp_path / "script.json").write_text(script[1])
    play(gemini, str(tmp_path / "script.json"))
    assert [rule.pattern for rule in gemini._script._rules] == [
        rule.get("when", "") for rule in json.loads(script[1])
    ]
