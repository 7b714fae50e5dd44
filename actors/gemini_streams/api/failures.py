"""The server's errors, when it refuses a request or breaks an answer off: bytes in, one `APIError` out. Pure.

The rules (google.rpc's error model, RFC 9110, recorded answers):

- An error is `{"error": {code, message, status, details}}`, alone or in a list of one. It arrives as the
  body of an error status, as an event of a 200 stream, or inside such a stream as bare JSON without
  `data:`. A body that is none of that (a proxy's HTML page, an empty one) is still an error: of its status.
- The HTTP status counts. Only inside a 200 stream the error's own code does.
- Worth repeating are 408, 429, 500, 502, 503 and 504; not a quota of the day that is spent.
- `retry_at` is the latest of the times that `Retry-After` and every `RetryInfo` in the details name. A time that cannot
  be read is left out.
- An error is bounded in size and has no secret of ours in it, whoever wrote it there: all goes through
  `scrub`, after it was decoded and before it is cut. `cleaned` does that for an error of any kind, as the last thing
  before it leaves its attempt.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import html
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from gemini_streams.api.json_values import decode, mend
from gemini_streams.api.scrub import in_words
from gemini_streams.errors import APIError, GeminiStreamsError

__all__ = [
    "RETRYABLE",
    "cleaned",
    "error_from_event",
    "error_of",
    "find_error",
    "is_retryable",
    "parse_error",
    "retry_after",
]

RETRYABLE = frozenset({408, 429, 500, 502, 503, 504})
"""The statuses that can be gone a moment later; google-genai's list."""

MAX_BODY = 1 << 20
"""Bytes of an error's body that are looked at."""
MAX_MESSAGE = 2_000
MAX_STATUS = 100
MAX_EXCERPT = 200
MAX_DEPTH = 32
"""Levels of nesting that are kept of an error's details."""
MAX_DETAILS = 16_384
"""Bytes of JSON that an error's details may take."""

_CODES = {
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "CANCELLED": 499,
    "DATA_LOSS": 500,
    "DEADLINE_EXCEEDED": 504,
    "FAILED_PRECONDITION": 400,
    "INTERNAL": 500,
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "OUT_OF_RANGE": 400,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "UNAUTHENTICATED": 401,
    "UNAVAILABLE": 503,
    "UNIMPLEMENTED": 501,
    "UNKNOWN": 500,
}
"""google.rpc.Code's mapping to HTTP, for an error that names its status and no code."""

_SECONDS = re.compile(r"[0-9]{1,10}(?:\.[0-9]{1,9})?")
_DURATION = re.compile(r"([0-9]{1,10}(?:\.[0-9]{1,9})?)s")

Scrub = Callable[[Any], Any]


def parse_error(
    status: int, headers: Mapping[str, str], body: bytes, *, now: float, scrub: Scrub
) -> APIError:
    """Return the error that a response with an error status is.

    `now` is the time in seconds since the epoch. Never raises, whatever the body is.
    """
    asked = retry_after(_header(headers, "retry-after"), now=now)
    error = error_of(_json(body))
    if error is not None:
        return _api_error(status, error, asked, now=now, scrub=scrub)
    excerpt = _excerpt(body, scrub)
    message = f"HTTP {status} {_phrase(status)}".rstrip() + (
        f", and a body that is no error of Gemini's: {excerpt}" if excerpt else ", and an empty body"
    )
    return APIError(status, "", message, retryable=status in RETRYABLE, retry_at=asked)


def error_from_event(data: Any, *, now: float, scrub: Scrub) -> APIError:
    """Return the error that an event is, from the decoded event, or from the error object in it."""
    found = error_of(data)
    error = found if found is not None else data if isinstance(data, dict) else {"message": ""}
    code = error.get("code")
    if isinstance(code, str) and code.isascii() and code.isdigit() and len(code) == 3:
        code = int(code)
    if isinstance(code, bool) or not isinstance(code, int) or not 100 <= code < 600:
        status = error.get("status")
        code = _CODES.get(status, 0) if isinstance(status, str) else 0
    return _api_error(code, error, None, now=now, scrub=scrub)


def error_of(data: object) -> dict[str, Any] | None:
    """Return the error object in a decoded event or body; `None` where it is no error."""
    if isinstance(data, list) and data:
        data = data[0]
    if not isinstance(data, dict):
        return None
    error = data.get("error")
    if isinstance(error, dict):
        return error
    if isinstance(error, str) and error:
        return {"message": error}
    return None


def find_error(raw: str | bytes) -> dict[str, Any] | None:
    """Return the error in what an event stream's decoder left over: bare JSON, perhaps over several lines.

    `None` where there is no whole one.
    """
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    text = text[:MAX_BODY].lstrip("\ufeff")
    decoder = json.JSONDecoder()
    for match in itertools.islice(re.finditer(r"^[ \t]*([\[{])", text, re.MULTILINE), 8):
        try:
            value, _ = decoder.raw_decode(text, match.start(1))
        except (ValueError, RecursionError):
            continue
        error = error_of(mend(value))
        if error is not None:
            return error
    return None


def is_retryable(code: int, details: list[Any]) -> bool:
    """Whether the table says that the same request can succeed later."""
    return code in RETRYABLE and not any(_spent_for_the_day(detail) for detail in details)


def retry_after(value: str, *, now: float) -> float | None:
    """Return when `Retry-After` says to come back, as seconds or as any of HTTP's dates; `None` for the rest."""
    value = value.strip()
    if _SECONDS.fullmatch(value):
        return _at(float(value), now)
    if not value or len(value) > 64:
        return None
    try:
        date = email.utils.parsedate_to_datetime(value)
        if date.tzinfo is None:
            date = date.replace(tzinfo=dt.UTC)
        return _at(date.timestamp() - now, now)
    except (ValueError, OverflowError, TypeError):
        return None


def cleaned(error: GeminiStreamsError, scrub: Scrub) -> GeminiStreamsError:
    """Take our secrets out of an error's text, status and details, and bound them; answers the same error."""
    error.args = tuple(
        _cut(scrub(arg[: 4 * MAX_MESSAGE]), MAX_MESSAGE) if isinstance(arg, str) else arg
        for arg in error.args
    )
    if isinstance(error, APIError):
        error.status = _cut(scrub(error.status[: 4 * MAX_STATUS]), MAX_STATUS)
        error.details = _bounded(error.details, scrub)
    return error


# -- an error's parts ----------------------------------------------------------------------------------------


def _api_error(
    code: int, error: dict[str, Any], asked: float | None, *, now: float, scrub: Scrub
) -> APIError:
    details = error.get("details")
    if not isinstance(details, list):
        details = []
    times = [asked, *(_retry_info(detail, now) for detail in details)]
    status = error.get("status")
    message = error.get("message")
    return APIError(
        code,
        _cut(scrub(status[: 4 * MAX_STATUS]), MAX_STATUS) if isinstance(status, str) else "",
        _cut(scrub(message[: 4 * MAX_MESSAGE]), MAX_MESSAGE) if isinstance(message, str) else "",
        _bounded(details, scrub),
        retryable=is_retryable(code, details),
        retry_at=max((t for t in times if t is not None), default=None),
    )


def _bounded(details: list[Any], scrub: Scrub) -> list[Any]:
    """Return as many of the details, in order, as fit. The caller has read the retry's times from them before."""
    kept: list[Any] = []
    room = MAX_DETAILS
    for detail in details:
        if not _is_shallow(detail, MAX_DEPTH):
            continue
        try:
            if len(msgspec.json.encode(detail)) > 4 * room:
                break
            clean = scrub(detail)
            room -= len(msgspec.json.encode(clean))
        except ValueError:  # half a character
            continue
        if room < 0:
            break
        kept.append(clean)
    return kept


def _is_shallow(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return not isinstance(value, list) or (
        levels > 0 and all(_is_shallow(item, levels - 1) for item in value)
    )


def _spent_for_the_day(detail: Any) -> bool:
    violations = detail.get("violations") if isinstance(detail, dict) else None
    return isinstance(violations, list) and any(
        "PerDay" in quota
        for violation in violations
        if isinstance(violation, dict) and isinstance(quota := violation.get("quotaId"), str)
    )


def _retry_info(detail: Any, now: float) -> float | None:
    delay = detail.get("retryDelay") if isinstance(detail, dict) else None
    if isinstance(delay, str):
        match = _DURATION.fullmatch(delay)
        return _at(float(match[1]), now) if match else None
    if isinstance(delay, dict):
        try:
            return _at(float(delay.get("seconds", 0)) + float(delay.get("nanos", 0)) / 1e9, now)
        except (TypeError, ValueError, OverflowError):
            return None
    return None


def _at(delay: float, now: float) -> float | None:
    return now + delay if math.isfinite(delay) and delay > 0 else None


def _header(headers: Mapping[str, str], name: str) -> str:
    for key, value in headers.items():
        if key.lower() == name:
            return value
    return ""


def _json(body: bytes) -> Any:
    if len(body) > MAX_BODY:
        return None
    try:
        return decode(body)
    except ValueError:
        return None


def _excerpt(body: bytes, scrub: Scrub) -> str:
    """Return a line of a page's text, for people."""
    text = body[:65536].decode("utf-8", "replace")
    if re.match(r"\s*<", text):
        title = re.search(r"<title[^>]{0,200}>([^<]{1,500})", text, re.IGNORECASE)
        text = title[1] if title else re.sub(r"<[^<>]{0,1000}>", " ", text)
        text = html.unescape(text)
    return in_words(text, scrub, MAX_EXCERPT)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _cut(text: str, most: int) -> str:
    text = text[: most + 1].encode("utf-8", "replace").decode()
    return text if len(text) <= most else text[: most - 1] + "…"
