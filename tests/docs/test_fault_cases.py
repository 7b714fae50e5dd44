"""docs/fault-cases.md: every test that it names is there, in the file that it links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STREAMS, SUPERVISOR = (ROOT / "docs" / "fault-cases.md").read_text().split("## The supervisor")
LINKED = re.findall(r"\[`(test_\w+)`\]\(\.\./(tests/\S+\.py)\)", STREAMS)
NAMED = re.findall(r"`(\w+)`(?=[^|]*\|\n)", SUPERVISOR)


def test_the_page_names_tests() -> None:
    assert len(LINKED) > 35
    assert len(NAMED) > 20
    assert STREAMS.count("](../tests/") == len(LINKED)


@pytest.mark.parametrize(("name", "file"), LINKED)
def test_a_linked_test_is_in_its_file(name: str, file: str) -> None:
    assert re.search(rf"^ *def {name}\(", (ROOT / file).read_text(), re.MULTILINE)


def test_a_named_test_is_one_of_the_supervisors() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "tests" / "supervisor").glob("test_*.py"))
    tests = " ".join(re.findall(r"def (test_\w+)\(", sources))
    assert [name for name in NAMED if name not in tests] == []
