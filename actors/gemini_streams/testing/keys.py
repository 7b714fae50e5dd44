"""What the API says to a request without a key, or with a wrong one. Pure."""

from __future__ import annotations

from gemini_streams.testing.records import RequestRecord
from gemini_streams.testing.replies import Failure

__all__ = ["wrong_key"]


def wrong_key(record: RequestRecord, key: str | None, keys: tuple[str, ...] | None) -> Failure | None:
    """Return the API's error for this key; `None` for one of `keys`, whose number the record gets."""
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
        record.key_number = keys.index(key)
    return None
