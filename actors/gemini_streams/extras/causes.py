"""What a failure is called where failures are counted by kind: one of few names, without anything of its text."""

from __future__ import annotations

from gemini_streams.errors import APIError, GeminiStreamsError

__all__ = ["cause_of"]


def cause_of(error: GeminiStreamsError | None) -> str:
    """Return an error's class, with the status of an `APIError` behind it; `none` where there is no error."""
    if error is None:
        return "none"
    name = type(error).__name__
    if isinstance(error, APIError) and type(error.code) is int and 100 <= error.code <= 599:
        return f"{name} {error.code}"
    return name
