"""What an application's tests use, and this package's own: a Gemini on loopback, a check of histories."""

from __future__ import annotations

from gemini_streams.testing.histories import Violation, check_history
from gemini_streams.testing.interaction_options import Interaction
from gemini_streams.testing.local_gemini import LocalGemini
from gemini_streams.testing.records import Gate, RequestRecord
from gemini_streams.testing.replies import (
    Body,
    Failure,
    LongAnswer,
    Raw,
    Reply,
    Scripted,
    StallUpload,
    every_cut,
    http_date,
    trickle,
)

__all__ = [
    "Body",
    "Failure",
    "Gate",
    "Interaction",
    "LocalGemini",
    "LongAnswer",
    "Raw",
    "Reply",
    "RequestRecord",
    "Scripted",
    "StallUpload",
    "Violation",
    "check_history",
    "every_cut",
    "http_date",
    "trickle",
]
