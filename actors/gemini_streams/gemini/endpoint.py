"""The Gemini Developer API as an endpoint: where it is and with which key. Pure but for reading the environment."""

from __future__ import annotations


class Gemini:
    """Placeholder while the endpoint is being written."""
