"""What the README lists is what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

import gemini_streams
from gemini_streams import Gemini, ManagerRef, RetryPolicy, StartStream
from gemini_streams.options import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def _options(of: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.name: field.default for field in msgspec.structs.fields(of)}


def _listed() -> dict[str, str]:
    """Name and default of each option in the tables."""
    section = README.split("Options of the manager;")[1].split("\n## ")[0]
    return dict(re.findall(r"(?m)^\| `(\w+)` \| `?(.*?)`? \|", section))


def test_the_options_and_their_defaults() -> None:
    listed, ours = _listed(), _options(Settings)
    assert listed.keys() == ours.keys()
    for name in listed.keys() - {"clock", "endpoint"}:
        shown = eval(listed[name], {"RetryPolicy": RetryPolicy, "FlowControl": gemini_streams.FlowControl})
        assert (type(shown), shown) == (type(ours[name]), ours[name])
    assert ours["endpoint"] == Gemini()


def test_the_first_table_is_what_a_stream_takes() -> None:
    of_a_stream = _options(StartStream).keys() - {"contents", "subscriber", "stream_id", "tag"}
    assert set(list(_listed())[: len(of_a_stream)]) == of_a_stream


def test_the_requests_and_their_methods() -> None:
    section = README.split("## Requests and options")[1].split("`contents` and `config` are")[0]
    rows = re.findall(r"(?m)^\| `(\w+)\([^|]*` \| (?:`(\w+)`)? ?\|", section)
    assert len(rows) == 8
    for message, method in rows:
        assert hasattr(gemini_streams, message)
        assert not method or callable(getattr(ManagerRef, method))


def test_the_policy_that_is_shown_is_the_default() -> None:
    shown = re.search(r"(?s)retry=(RetryPolicy\(.*?\n    \)),\n", README)
    assert shown is not None
    assert eval(shown[1], {"RetryPolicy": RetryPolicy}) == RetryPolicy()
    assert f"`{_flow()}`" in README


def _flow() -> str:
    flow = _options(gemini_streams.FlowControl)
    return (
        f'FlowControl(window={flow["window"]}, max_bytes=1 << 20, overflow="{flow["overflow"]}",'
        f" stall_timeout={flow['stall_timeout']:g})"
    )


def test_every_make_target_that_is_named_exists() -> None:
    named = set(re.findall(r"(?m)(?:^    |`)make (\w+)", README))
    targets = set(re.findall(r"(?m)^(\w+):", (ROOT / "Makefile").read_text()))
    assert named <= targets


def test_every_folder_that_is_named_exists_and_every_folder_is_named() -> None:
    house = README.split("## The house")[1].split("supervisor/pykka_supervisor/")[0]
    named = set(re.findall(r"\b([a-z_]+)/", house)) - {"actors", "gemini_streams"}
    package = Path(gemini_streams.__file__).parent
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    assert named | {"iterate"} == folders, "README: the house"


def test_every_dependency_is_explained() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    wanted = re.search(r"(?s)\ndependencies = \[(.*?)\]", pyproject)
    assert wanted is not None
    names = set(re.findall(r'"(\w+)', wanted[1]))
    section = README.split("## Why each dependency is there")[1].split("\n## ")[0]
    assert {name.lower() for name in re.findall(r"(?m)^\| \[(\w+)\]", section)} == names
