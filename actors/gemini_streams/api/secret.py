"""Secrets: strings that nothing shows, and what of a header or a proxy's URL is one. Pure.

The rules:

- A `Secret` is no `str`. No `repr`, `str`, format, pickle or traceback's locals show what it holds.
- Each secret is revealed in the last moment: a header's where the bytes for the socket are written, a proxy's where its
  connection pool is made.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, TypeAlias
from urllib.parse import unquote, urlsplit

__all__ = ["Pairs", "Secret", "hidden", "secrets_of_header", "secrets_of_proxies", "user_and_password_of"]

Pairs: TypeAlias = "tuple[tuple[str, Secret], ...]"
"""A mapping whose values are not shown."""


class Secret:
    """A string that is not shown: not by `repr`, `str`, a format, a pickle or a traceback's locals."""

    __slots__ = ("_plain",)

    def __init__(self, plain: str) -> None:
        self._plain = plain

    def reveal(self) -> str:
        """Return the string itself. Keep it out of local variables of code that can raise."""
        return self._plain

    def matches(self, pattern: re.Pattern[str]) -> bool:
        """Whether the whole of it matches; lets a check raise without the string among its locals."""
        return pattern.fullmatch(self._plain) is not None

    @property
    def fingerprint(self) -> str:
        """A short digest: the same for the same secret, and no way back."""
        return hashlib.blake2b(self._plain.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

    def __bool__(self) -> bool:
        return bool(self._plain)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._plain == self._plain

    def __hash__(self) -> int:
        return hash((Secret, self._plain))

    def __repr__(self) -> str:
        return "Secret(***)"

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: Any) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled; read it from the environment where it is needed")


def hidden(given: object) -> Pairs | str | None:
    """Return a mapping's pairs, the values as secrets; the name of its type where it is no mapping."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        return type(given).__name__
    return tuple(
        sorted(((name, Secret(value)) for name, value in given.items()), key=lambda pair: str(pair[0]))
    )


_SECRET_NAME = re.compile(r"auth|cookie|credential|key|pass|secret|session|signature|token", re.IGNORECASE)
_OPEN_NAMES = frozenset({"accept-language", "user-agent", "x-goog-api-client", "x-goog-user-project"})
"""Headers whose values are no secrets, and stand in errors that tell of them."""
_LONG = 8
"""Characters; a shorter part of a header's value, or user's name, is not masked for itself."""


def secrets_of_header(name: str, value: str) -> Iterator[str]:
    """Find what of a header's value must not be shown, as a whole and in parts: a server may repeat a part."""
    if name in _OPEN_NAMES or not value:
        return
    if len(value) >= _LONG or _SECRET_NAME.search(name):
        yield value
    for part in re.split(r"[\s;,=]+", value):
        if len(part) < _LONG:
            continue
        yield part
        if value.lower().startswith("basic "):
            with contextlib.suppress(ValueError):
                pair = base64.b64decode(part + "=" * (-len(part) % 4)).decode("utf-8", "replace")
                yield from filter(None, (pair, pair.partition(":")[2]))


def secrets_of_proxies(proxies: Pairs) -> Iterator[str]:
    """Find what of the proxies' URLs must not be shown: passwords, and user names that are as good as one."""
    for _, url in proxies:
        parts = urlsplit(url.reveal())
        user, password = parts.username or "", parts.password or ""
        # A user without a password, or as long as a key, is one.
        for secret in (password, user if not password or len(user) >= _LONG else ""):
            yield from {secret, unquote(secret)} - {""}


def user_and_password_of(proxies: Pairs) -> Iterator[str]:
    """Find the proxies' `user:password`, which travels as base64."""
    for _, url in proxies:
        parts = urlsplit(url.reveal())
        if parts.username or parts.password:
            yield f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
