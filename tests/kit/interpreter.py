"""What single versions of CPython cannot do."""

from __future__ import annotations

import sys

import pytest

STARTS_LATE_THREADS = not (3, 12) <= sys.version_info < (3, 12, 2)
"""CPython 3.12.0 and 3.12.1 start no thread once the main thread has ended, though other threads still run."""

needs_late_threads = pytest.mark.skipif(
    not STARTS_LATE_THREADS, reason="CPython 3.12.0 and 3.12.1 start no thread once the main thread has ended"
)

COUNTS_BYTECODES = sys.version_info < (3, 12)
"""In CPython 3.12 a trace function sees some bytecodes or none, and the interpreter can crash over it. In 3.13 the
count of one and the same operation varies by a thousand."""
