"""A command that a test runs, and its environment."""

from __future__ import annotations

import os
import subprocess
import sys

from gemini_streams.testing import LocalGemini

KEYS = ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL", "GOOGLE_GENAI_USE_VERTEXAI")


def environment(gemini: LocalGemini | None = None, more: dict[str, str] | None = None) -> dict[str, str]:
    """An environment that has no key, or the local Gemini's."""
    clean = {name: value for name, value in os.environ.items() if name not in KEYS}
    if gemini is not None:
        clean |= {"GEMINI_API_KEY": "local-key", "GOOGLE_GEMINI_BASE_URL": gemini.url}
    return clean | (more or {})


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-X", "dev", "-W", "error", "-m", "gemini_streams", *map(str, arguments)]


def run(
    *arguments: object,
    gemini: LocalGemini | None = None,
    given: str | None = None,
    more: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        check=False,
        capture_output=True,
        text=True,
        input=given,
        timeout=30,
        env=environment(gemini, more),
    )
