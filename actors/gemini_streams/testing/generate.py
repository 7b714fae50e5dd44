"""The server's side of streamGenerateContent: its URL and the body of a request. Pure."""

from __future__ import annotations

import re

import msgspec

from gemini_streams.testing.masks import Masks
from gemini_streams.testing.records import RequestRecord
from gemini_streams.testing.replies import Failure

__all__ = ["decode", "refusal"]


_FIELDS = (
    "cachedContent",
    "contents",
    "continuationToken",
    "generationConfig",
    "labels",
    "model",
    "safetySettings",
    "serviceTier",
    "store",
    "systemInstruction",
    "toolConfig",
    "tools",
)
_KNOWN = frozenset(_FIELDS) | {re.sub(r"[A-Z]", lambda m: "_" + m[0].lower(), name) for name in _FIELDS}
"""The fields of a request; the API takes both spellings."""


_ADDRESS = re.compile(
    r"/v1(?:alpha|beta)?/(?P<kind>models|tunedModels)/(?P<model>[^/:]+):streamGenerateContent"
    r"|/v1(?:alpha|beta1?)?/(?:projects/(?P<project>[^/]+)/locations/(?P<location>[^/]+)/)?"
    r"(?:publishers/(?P<publisher>[^/]+)/models/(?P<theirs>[^/:]+)|(?P<own>(?:models|endpoints)/[^/:]+))"
    r":streamGenerateContent"
)


def refusal(method: str, target: str, record: RequestRecord) -> Failure | None:
    """Return the API's error for a request whose URL is wrong; else fill in what the URL says in the record."""
    path, _, query = target.partition("?")
    known = _ADDRESS.fullmatch(path)
    if known is None or method != "POST":
        return Failure(404, f"LocalGemini knows no {method} {path}.")
    record.action = "generate"
    if known["kind"] is not None:
        record.model = known["model"] if known["kind"] == "models" else f"tunedModels/{known['model']}"
    else:
        record.vertex = True
        record.project, record.location = known["project"], known["location"]
        record.model = known["theirs"] or known["own"]
    if "alt=sse" not in query.split("&"):
        return Failure(400, "LocalGemini streams with alt=sse only.")
    return None


def decode(record: RequestRecord, body: bytes, masks: Masks) -> Failure | None:
    """Fill in the record's body and text; return what the API says to a body that it does not take."""
    try:
        record.body = masks.body(body, msgspec.json.decode(body))
    except msgspec.DecodeError:
        return Failure(400, "Invalid JSON payload received.")
    unknown = [name for name in record.body if name not in _KNOWN] if isinstance(record.body, dict) else []
    if unknown:
        names = "\n".join(f'Unknown name "{name}": Cannot find field.' for name in unknown)
        return Failure(400, f"Invalid JSON payload received. {names}")
    contents = record.body.get("contents") if isinstance(record.body, dict) else None
    if not contents:
        return Failure(400, "* GenerateContentRequest.contents: contents is not specified")
    texts = []
    for content in contents if isinstance(contents, list) else [contents]:
        parts = content.get("parts") if isinstance(content, dict) else None
        for part in parts if isinstance(parts, list) else [parts]:
            text = part.get("text") if isinstance(part, dict) else None
            if isinstance(text, str):
                texts.append(text)
    record.text = "\n".join(texts)
    return None
