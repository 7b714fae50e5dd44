"""Credentials: the headers by which a service knows whose request it gets. Pure.

The rules:

- A stream's thread asks the credentials for their headers at each send, a repeated request included. An API key's are
  always the same (`Always`). A token's are renewed (`tokens`).
- Before that the thread asks whether it has to wait for them (`fetching`). All threads that wait at one time wait for
  the same `Fetch`.
- `generation` counts the renewals. A thread whose request was answered with 401 says of which generation its headers
  were (`refused`), so that ten answers of 401 make one renewal.
- `find_key` checks a key's form once, before any request.
- An argument beats the environment, and `GOOGLE_API_KEY` beats `GEMINI_API_KEY`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from gemini_streams.api.checks import Environment
from gemini_streams.api.secret import Secret
from gemini_streams.errors import InvalidRequestError, MissingCredentialsError

__all__ = [
    "Always",
    "ApiKey",
    "Credentials",
    "Fetch",
    "NoCredentials",
    "api_key_of",
    "checked_key",
    "find_key",
    "key_of",
]

_KEY = re.compile(r"[\x21-\x7e]+")


class Fetch:
    """Headers that are being fetched. Thread-safe."""

    __slots__ = ("_lock", "_wakes", "done", "retryable", "why")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wakes: list[Callable[[], object]] = []
        self.done = False
        self.why: str | None = None
        """Why there are none; `None`: there are."""
        self.retryable = False

    def add(self, wake: Callable[[], object]) -> None:
        """Have `wake` called, from any thread, when this is over; at once where it is."""
        with self._lock:
            if not self.done:
                self._wakes.append(wake)
                return
        wake()

    def finish(self, why: str | None, *, retryable: bool) -> None:
        """Take note of the end, and wake all that wait."""
        self.why, self.retryable = why, retryable
        with self._lock:
            self.done = True
            wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()

    def check(self) -> None:
        """Raise `MissingCredentialsError` where the headers could not be had; an error of its own for each thread."""
        if self.why is not None:
            raise MissingCredentialsError(self.why, retryable=self.retryable)


class Credentials(Protocol):
    """The headers by which a service knows its tenant. Equal and hashable by value."""

    @property
    def fingerprint(self) -> str:
        """A short digest: the same for the same tenant, and no way back to a secret."""

    @property
    def generation(self) -> int:
        """How often the headers have been renewed."""

    def fetching(self) -> Fetch | None:
        """Return what a request has to wait for; `None` where the headers can be sent. Never blocks."""

    def headers(self) -> dict[str, Secret]:
        """Return the headers of the request that is about to be sent."""

    def refused(self, generation: int) -> bool:
        """Take note of a 401 to headers of this generation; return whether newer ones can be had."""

    def secrets(self) -> Iterable[str]:
        """Return the strings that no error and no log line may show."""


class Always:
    """Credentials whose headers never change."""

    __slots__ = ()

    generation = 0

    def fetching(self) -> Fetch | None:
        """There is nothing to wait for."""
        return None

    def refused(self, generation: int) -> bool:  # noqa: ARG002 - whichever it was
        """There are no newer ones."""
        return False


class NoCredentials(Always):
    """None: the endpoint's own headers have them."""

    __slots__ = ()

    fingerprint = ""

    def headers(self) -> dict[str, Secret]:
        """Return none."""
        return {}

    def secrets(self) -> Iterable[str]:
        """There are none."""
        return ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NoCredentials)

    def __hash__(self) -> int:
        return hash(NoCredentials)


class ApiKey(Always):
    """An API key."""

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


def key_of(env: Environment) -> Secret | None:
    """Return the environment's key; `None` where there is none."""
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY"):
        found = env.get(name)
        if found and found.strip():
            return Secret(found.strip())
    return None


def checked_key(given: object) -> Secret:
    """Return the key of an argument, which may be empty; `InvalidRequestError` where it can be none."""
    if not isinstance(given, Secret):
        raise InvalidRequestError(f"api_key must be a string, not {type(given).__name__}")
    return Secret(given.reveal().strip())


def find_key(given: object, env: Environment) -> ApiKey:
    """Return the key of the argument, or of the environment.

    Raises `MissingCredentialsError` where there is none, `InvalidRequestError` where it can be no key.
    """
    key = key_of(env) if given is None else checked_key(given)
    if not key:
        raise MissingCredentialsError(
            "no API key: "
            + ("set GOOGLE_API_KEY or GEMINI_API_KEY, or pass" if given is None else "api_key is empty; pass")
            + " Gemini(api_key=...); keys are made at https://aistudio.google.com/apikey"
        )
    return api_key_of(key)


def api_key_of(key: Secret) -> ApiKey:
    """Return the credentials that a key is; `InvalidRequestError` where it can be no key."""
    if not key.matches(_KEY):
        raise InvalidRequestError(
            "the API key holds characters that no header can carry (a space, a line end, a typographic mark):"
            " copy it again"
        )
    return ApiKey(key)
