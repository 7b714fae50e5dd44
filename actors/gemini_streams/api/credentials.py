"""Credentials: the headers by which a service knows whose request it gets. Pure.

The rules:

- A stream's thread asks the credentials for their headers at each send, a repeated request included. An API key's are
  always the same.
- `find_key` checks a key's form once, before any request.
- An argument beats the environment, and `GOOGLE_API_KEY` beats `GEMINI_API_KEY`. Where the environment asks for Vertex
  AI, a key is not taken from there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

from gemini_streams.api.checks import Environment
from gemini_streams.api.secret import Secret
from gemini_streams.errors import InvalidRequestError, MissingCredentialsError

__all__ = ["ApiKey", "Credentials", "find_key"]

_KEY = re.compile(r"[\x21-\x7e]+")
_VERTEX_SWITCHES = ("GOOGLE_GENAI_USE_ENTERPRISE", "GOOGLE_GENAI_USE_VERTEXAI")
"""In order of precedence: the first that is set decides."""


class Credentials(Protocol):
    """The headers by which a service knows its tenant. Equal and hashable by value."""

    @property
    def fingerprint(self) -> str:
        """A short digest: the same for the same tenant, and no way back to a secret."""

    def headers(self) -> dict[str, Secret]:
        """Return the headers of the request that is about to be sent."""

    def secrets(self) -> Iterable[str]:
        """Return the strings that no error and no log line may show."""


class ApiKey:
    """The key of the Gemini Developer API."""

    __slots__ = ("_headers", "_key")

    def __init__(self, key: Secret) -> None:
        self._key = key
        self._headers = {"x-goog-api-key": key}

    @property
    def fingerprint(self) -> str:
        """A digest of the key."""
        return self._key.fingerprint

    def headers(self) -> dict[str, Secret]:
        """Return the key's header."""
        return self._headers

    def secrets(self) -> Iterable[str]:
        """Return the key."""
        return (self._key.reveal(),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ApiKey) and other._key == self._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return "ApiKey(***)"


def find_key(given: object, env: Environment) -> ApiKey:
    """Return the key of the argument, or of the environment.

    Raises `MissingCredentialsError` where there is none, `InvalidRequestError` where it can be no key.
    """
    if given is None:
        _refuse_vertex(env)
        found = [Secret(v.strip()) for v in map(env.get, ("GOOGLE_API_KEY", "GEMINI_API_KEY")) if v]
        key = next(filter(None, found), Secret(""))
    elif isinstance(given, Secret):
        key = Secret(given.reveal().strip())
    else:
        raise InvalidRequestError(f"api_key must be a string, not {type(given).__name__}")
    if not key:
        raise MissingCredentialsError(
            "no API key: "
            + ("set GOOGLE_API_KEY or GEMINI_API_KEY, or pass" if given is None else "api_key is empty; pass")
            + " Gemini(api_key=...); keys are made at https://aistudio.google.com/apikey"
        )
    if not key.matches(_KEY):
        raise InvalidRequestError(
            "the API key holds characters that no header can carry (a space, a line end, a typographic mark):"
            " copy it again"
        )
    return ApiKey(key)


def _refuse_vertex(env: Environment) -> None:
    for name in _VERTEX_SWITCHES:
        value = env.get(name)
        if value is not None:
            if value.lower() in ("true", "1"):
                raise InvalidRequestError(
                    f"{name} asks for Vertex AI, which is not supported yet: unset it, or pass"
                    " Gemini(api_key=...) to use the Gemini Developer API all the same"
                )
            return
