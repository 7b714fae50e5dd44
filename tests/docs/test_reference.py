"""docs/reference.md: its options, defaults, requests and fields are the code's."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

import gemini_streams
from gemini_streams import FlowControl, Gemini, ManagerRef, RetryPolicy, StartStream, VertexAI, options
from gemini_streams.messages import Status, SubscriberMessage
from gemini_streams.options import Settings

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "reference.md").read_text()


def section(title: str) -> str:
    return REFERENCE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def listed(title: str) -> dict[str, Any]:
    """Name and default of each option in the section's table."""
    names = {**vars(gemini_streams), **vars(options)}
    rows = re.findall(r"(?m)^\| `(\w+)` \| `(.*?)` \| \S", section(title))
    return {name: eval(default, names) for name, default in rows}


def in_code(of: type[msgspec.Struct]) -> dict[str, Any]:
    fields = msgspec.structs.fields(of)
    return {
        field.name: field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        for field in fields
    }


def typed(values: dict[str, Any]) -> dict[str, tuple[type, Any]]:
    """The values with their types: 30 is not 30.0."""
    return {name: (type(value), value) for name, value in values.items()}


def test_the_options_and_their_defaults() -> None:
    both = listed("Options of a stream") | listed("Options of a manager")
    assert typed(both) == typed(in_code(Settings))


def test_the_options_of_a_stream_are_those_of_a_start() -> None:
    own = in_code(StartStream).keys() - {"contents", "subscriber", "stream_id", "tag", "concurrency_key"}
    assert listed("Options of a stream").keys() == own


@pytest.mark.parametrize("kind", [RetryPolicy, FlowControl], ids=lambda kind: kind.__name__)
def test_a_policys_fields_and_their_defaults(kind: type[msgspec.Struct]) -> None:
    assert typed(listed(kind.__name__)) == typed(in_code(kind))


@pytest.mark.parametrize("kind", [Gemini, VertexAI], ids=lambda kind: kind.__name__)
def test_an_endpoints_arguments_and_their_defaults(kind: type[Any]) -> None:
    arguments = inspect.signature(kind).parameters
    assert typed(listed(kind.__name__)) == typed({name: arguments[name].default for name in arguments})


def test_the_requests_and_their_methods() -> None:
    rows = re.findall(r"(?m)^\| `(\w+)\(([^|]*)\)` \| (?:`(\w+)`)? ?\|", section("Requests"))
    assert len(rows) == 10
    for message, arguments, method in rows:
        fields = list(getattr(gemini_streams, message).__struct_fields__)
        named = re.findall(r"(\w+)(?:=[^,]*)?(?:, |$)", arguments.removesuffix(", …"))
        assert fields[: len(named)] == named
        assert len(named) == len(fields) or "…" in arguments
        assert not method or callable(getattr(ManagerRef, method))


def test_the_messages_and_their_fields() -> None:
    rows = re.findall(r"(?m)^\| `(\w+)` \| (`stream_id.*|`total.*) \|$", section("Messages"))
    shown = {name: tuple(re.findall(r"`(\w+)`", fields)) for name, fields in rows}
    kinds = [*get_args(SubscriberMessage), gemini_streams.StreamInfo, gemini_streams.ManagerStats]
    assert shown == {kind.__name__: kind.__match_args__ for kind in kinds}


def test_the_statuses() -> None:
    shown = re.search(r"A `status` is one of (.*)\.", REFERENCE)
    assert shown is not None
    assert tuple(re.findall(r"`(\w+)`", shown[1])) == get_args(Status)


def test_every_log_line_of_the_streams_is_in_its_page() -> None:
    package = Path(gemini_streams.__file__).parent
    logged = {
        name
        for path in package.rglob("*.py")
        for name in re.findall(r'_log\.(?:info|warning|error)\(\s*"(\w+)"', path.read_text())
    }
    assert "request_refused" in logged
    page = (Path(__file__).parents[2] / "docs" / "observing.md").read_text()
    assert [name for name in sorted(logged) if f"`{name}`" not in page] == []
