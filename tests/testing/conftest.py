from __future__ import annotations

import gc
import os
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gemini_streams.testing import LocalGemini

if TYPE_CHECKING:
    from collections.abc import Iterator


def sockets() -> int:
    count = 0
    for entry in Path("/dev/fd").iterdir():
        try:
            count += stat.S_ISSOCK(os.fstat(int(entry.name)).st_mode)
        except OSError:  # the descriptor of the listing itself
            continue
    return count


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No thread and no socket outlives a test; a ResourceWarning is an error by pytest's settings."""
    gc.collect()
    threads, before = set(threading.enumerate()), sockets()
    yield
    gc.collect()
    assert set(threading.enumerate()) <= threads
    assert sockets() <= before


@pytest.fixture
def gemini(nothing_is_left: None) -> Iterator[LocalGemini]:
    with LocalGemini() as server:
        yield server
