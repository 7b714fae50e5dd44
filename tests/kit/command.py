"""The environment of a command that a test runs."""

from __future__ import annotations

import os

from gemini_streams.testing import LocalGemini

KEYS = ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL", "GOOGLE_GENAI_USE_VERTEXAI")


def environment(gemini: LocalGemini | None = None, more: dict[str, str] | None = None) -> dict[str, str]:
    """An environment that has no key, or the local Gemini's."""
    clean = {name: value for name, value in os.environ.items() if name not in KEYS}
    if gemini is not None:
        clean |= {"GEMINI_API_KEY": "local-key", "GOOGLE_GEMINI_BASE_URL": gemini.url}
    return clean | (more or {})
