"""What the API says to a request without a key or token, or with a wrong one. Pure.

Vertex AI takes a token (`Authorization: Bearer`), or a key, as in Express mode. The Gemini Developer API takes a key.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gemini_streams.testing.records import RequestRecord
from gemini_streams.testing.replies import Failure

__all__ = ["wrong_caller"]


def wrong_caller(
    record: RequestRecord,
    headers: Mapping[str, str],
    keys: Collection[str] | None,
    tokens: Collection[str] | None,
) -> Failure | None:
    """Return the API's error for this caller; `None` for one of `keys` or `tokens`, whose number the record gets."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    key = headers.get("x-goog-api-key")
    if record.vertex and not key:
        return _wrong_token(record, token.strip() if kind.lower() == "bearer" else "", tokens)
    return _wrong_key(record, key, keys)


def _wrong_token(record: RequestRecord, token: str, tokens: Collection[str] | None) -> Failure | None:
    if token and (tokens is None or token in tokens):
        record.token_number = 0 if tokens is None else list(tokens).index(token)
        return None
    reason = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "ACCESS_TOKEN_EXPIRED" if token else "CREDENTIALS_MISSING",
        "domain": "googleapis.com",
        "metadata": {"service": "aiplatform.googleapis.com"},
    }
    return Failure(
        401,
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other"
        " valid authentication credential.",
        details=[reason],
    )


def _wrong_key(record: RequestRecord, key: str | None, keys: Collection[str] | None) -> Failure | None:
    if not key:
        return Failure(
            403,
            "Method doesn't allow unregistered callers (callers without established identity). Please"
            " use API Key or other form of API consumer identity to call this API.",
        )
    if keys is not None:
        if key not in keys:
            reason = {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "API_KEY_INVALID",
                "domain": "googleapis.com",
                "metadata": {"service": "generativelanguage.googleapis.com"},
            }
            return Failure(400, "API key not valid. Please pass a valid API key.", details=[reason])
        record.key_number = list(keys).index(key)
    return None
