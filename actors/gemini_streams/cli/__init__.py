"""`python -m gemini_streams`: a demonstration of many streams at once, and one answer from the shell."""

from __future__ import annotations

from gemini_streams.cli.command import main

__all__ = ["main"]
