"""The API reference has every public name."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import gemini_streams
import gemini_streams.testing
import pykka_supervisor
import pykka_supervisor.testing

PAGES = Path(__file__).parents[2] / "docs" / "api"
MODULES = (gemini_streams, gemini_streams.testing, pykka_supervisor, pykka_supervisor.testing)


def documented() -> set[object]:
    """The objects that the pages name; a page that names a module has all of that module's names."""
    found: set[object] = set()
    for page in PAGES.glob("*.md"):
        for path in re.findall(r"(?m)^::: (\S+)$", page.read_text()):
            place, _, name = path.rpartition(".")
            try:
                value: Any = importlib.import_module(path)
            except ModuleNotFoundError:
                value = getattr(importlib.import_module(place), name)
            names = value.__all__ if isinstance(value, ModuleType) else ()
            found |= {id(getattr(value, each)) for each in names} or {id(value)}
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_is_on_a_page(module: ModuleType) -> None:
    shown = documented()
    # Types of arguments, which a reader meets in signatures.
    left_out = {
        "Clock",
        "SystemClock",
        "SYSTEM_CLOCK",
        "Timer",
        "ChildSpecLike",
        "Mailbox",
        "Scripted",
        "GiveUp",
    }
    assert [
        name for name in module.__all__ if id(getattr(module, name)) not in shown and name not in left_out
    ] == []
