"""The endpoint that the environment asks for, as google-genai's `Client()` decides it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from gemini_streams.api.endpoint import Gemini, Service, Target
from gemini_streams.api.vertex import VertexAI

__all__ = ["FromEnvironment"]

_SWITCHES: Final = ("GOOGLE_GENAI_USE_ENTERPRISE", "GOOGLE_GENAI_USE_VERTEXAI")
"""In order of precedence: the first that is set decides."""


class FromEnvironment(Service):
    """`VertexAI()` where `GOOGLE_GENAI_USE_VERTEXAI` is `true` or `1`, else `Gemini()`.

    Its newer name `GOOGLE_GENAI_USE_ENTERPRISE` comes first. A manager looks at the environment when a
    stream is first asked for.
    """

    __slots__ = ()

    def resolve(self, environ: Mapping[str, str] | None = None) -> Target:
        """Answer where requests go. Raises what the endpoint that is chosen raises."""
        get = (os.environ if environ is None else environ).get
        switch = next((value for value in map(get, _SWITCHES) if value is not None), "")
        endpoint = VertexAI() if switch.lower() in ("true", "1") else Gemini()
        return endpoint.resolve(environ)
