"""What a program imports from two of the packages never hides a name of the other."""

from __future__ import annotations

from itertools import combinations
from types import ModuleType

import pytest

import gemini_streams
import gemini_streams.testing
import pykka_supervisor
import pykka_supervisor.testing

MODULES = (gemini_streams, gemini_streams.testing, pykka_supervisor, pykka_supervisor.testing)


@pytest.mark.parametrize(("one", "other"), [*combinations(MODULES, 2)])
def test_a_public_name_means_one_thing(one: ModuleType, other: ModuleType) -> None:
    shared = set(one.__all__) & set(other.__all__)
    assert [name for name in shared if getattr(one, name) is not getattr(other, name)] == []
