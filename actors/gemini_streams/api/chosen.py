"""Which API a request is for, and so which one reads its events: the one place that names an implementation.

An event of the Interactions API has an `event_type`, one of generateContent has none.
"""

from __future__ import annotations

from typing import Any

from gemini_streams.api.generate.api import GENERATE_CONTENT
from gemini_streams.api.interactions import saying
from gemini_streams.api.interactions.api import (
    cursor_of,
    interaction_request,
    marked,
    resumed_request,
    unmarked,
)
from gemini_streams.api.interactions.results import function_result
from gemini_streams.api.interactions.steps import Said, said_by, steps_of
from gemini_streams.api.protocol import API, Says

__all__ = [
    "Said",
    "api",
    "cursor_of",
    "function_result",
    "interaction_request",
    "marked",
    "resumed_request",
    "said_by",
    "says",
    "steps_of",
    "unmarked",
]

api: API = GENERATE_CONTENT
"""The API of requests that are made of `contents` and `config`."""

_interactions: Says = saying


def says(data: dict[str, Any], /) -> Says:
    """Return what reads an event."""
    return _interactions if "event_type" in data else api
