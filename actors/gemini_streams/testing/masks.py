"""What a recorded request may show: all of it but the credentials that came with it, wherever they stand. Pure.

- A header, cookie or query parameter whose name tells of a credential shows `***`.
- The credentials found so, and the server's own keys, are taken out of everything else (`api.scrub`): the path,
  the other headers, the body.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote_plus

from gemini_streams.api.scrub import Scrubber

__all__ = ["Masks"]

_STARS = "***"
_LONG = 8
"""Characters; shorter ones are parts of ordinary words, and stay where they are in a body."""
_TELLING = re.compile(
    r"auth|cookie|credential|passw|secret|session|signature|token|(?:^|[_-])(?:api|access)?-?key$",
    re.IGNORECASE,
)


class Masks:
    """The credentials of one request: `path` and `headers` without them, `body` to take them out of more."""

    def __init__(self, path: str, headers: Mapping[str, str], keys: Iterable[str]) -> None:
        found = set(keys)
        path, mark, query = path.partition("?")
        shown = []
        for field in query.split("&"):
            name, equals, value = field.partition("=")
            if equals and _TELLING.search(unquote_plus(name)):
                found |= {value, unquote_plus(value)}
                value = _STARS
            shown.append(f"{name}{equals}{value}")
        for name, value in headers.items():
            if _TELLING.search(name):
                found |= {value, *re.split(r"[\s;,=]+", value)}
        self._known = tuple(sorted(secret for secret in found if len(secret) >= _LONG))
        scrubber = _scrubber(tuple(sorted(found - {""})))
        self.path = scrubber.scrub(path) + mark + scrubber.scrub("&".join(shown))
        self.headers = {
            name: _STARS if _TELLING.search(name) else scrubber.scrub(value)
            for name, value in headers.items()
        }

    def body(self, body: bytes, decoded: Any) -> Any:
        """Return a decoded body without them. `body` is looked at first: nearly none has one in it."""
        if not any(secret.encode("utf-8", "replace") in body for secret in self._known):
            return decoded
        return _scrubber(self._known).scrub(decoded)


@functools.lru_cache(maxsize=64)
def _scrubber(secrets: tuple[str, ...]) -> Scrubber:
    return Scrubber(secrets)
