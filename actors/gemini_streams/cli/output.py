"""What the commands write, and what they say about an error: a name, its text, what to do.

- What a model says is written to a terminal without its control characters.
- An error takes one line on standard error, and no way of ending shows a traceback. Where standard error cannot be
  written, the line is left out.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any, TextIO

from gemini_streams.errors import (
    APIError,
    ConnectionFailedError,
    GeminiStreamsError,
    MissingCredentialsError,
)

__all__ = [
    "SPARE_TIME",
    "UsageError",
    "advice",
    "complain",
    "count",
    "fields_of",
    "mute",
    "name_of",
    "one_line",
    "printable",
    "say",
    "silent_log",
]

SPARE_TIME = 10.0
"""Seconds that a command waits for its actors to end."""


class UsageError(Exception):
    """An argument, or a file that it names, is wrong. Nothing was asked; the command ends with 2."""


@contextlib.contextmanager
def silent_log() -> Iterator[None]:
    """Leave out the log's warnings: the command tells of a stream that fails itself."""
    log = logging.getLogger("gemini_streams")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def say(text: str) -> None:
    """Write a line to standard output."""
    print(text, flush=True)  # noqa: T201


def complain(text: str) -> None:
    """Write a line to standard error, where that is possible."""
    if sys.stderr is None:  # `print` would take standard output instead
        return
    try:
        print(one_line(f"gemini_streams: {text}"), file=sys.stderr, flush=True)  # noqa: T201
    except OSError:
        mute(sys.stderr)


def mute(file: TextIO | None) -> None:
    """Let nothing more be written to a file that fails: Python would try once more at its end, and complain."""
    if file is None:
        return
    try:
        file.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, file.fileno())
            os.close(null)


def name_of(error: GeminiStreamsError) -> str:
    """Return what an error is to be called in front of its text; nothing where the text says it all."""
    return "the API answered " if isinstance(error, APIError) else ""


def advice(error: GeminiStreamsError) -> str:
    """Return what to do about an error whose own text does not say so."""
    match error:
        case MissingCredentialsError():
            return "; `python -m gemini_streams demo` needs none"
        case APIError(code=429) if error.retry_at is not None:
            moment = datetime.fromtimestamp(error.retry_at).astimezone()
            return f" (try again after {moment:%Y-%m-%d %H:%M:%S})"
        case APIError(code=404):
            return " (is there such a model? give another with --model)"
        case APIError(code=401 | 403) | APIError(code=400) if "key" in str(error).lower() or error.code > 400:
            return " (check the key in GOOGLE_API_KEY or GEMINI_API_KEY, and what it may use)"
        case ConnectionFailedError():
            return " (check the network, the proxy and GOOGLE_GEMINI_BASE_URL)"
        case GeminiStreamsError(retryable=True):
            return " (try again)"
        case _:
            return ""


def fields_of(error: GeminiStreamsError) -> dict[str, Any]:
    """Return an error as it stands in a line of JSON, in Google's words where it is an answer of the API."""
    if isinstance(error, APIError):
        return {"code": error.code, "status": error.status, "message": str(error)}
    return {"status": type(error).__name__, "message": str(error)}


def one_line(text: str) -> str:
    """Return the text on one line, without control characters."""
    return " ".join(printable(text).split())


def printable(text: str) -> str:
    """Return the text without control characters: a model's words must not steer the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else " " if c == "\t" else "" for c in text)


def count(number: int, what: str) -> str:
    """Return the number with its word, in the plural where it is one."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
