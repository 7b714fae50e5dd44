"""Endpoints: where Gemini is, whose credentials a request has, and its headers, proxies and certificates.

The rules:

- An argument beats the environment. `GOOGLE_GEMINI_BASE_URL` moves the base URL, `GOOGLE_GENAI_API_VERSION` sets the
  API's version.
- A base URL that ends in a version is taken as it is. Elsewhere the version is the argument's, the environment's, or
  `v1beta`.
- An endpoint is only a value: to write one never fails. `resolve` reads the environment, checks everything once
  (`checks`, `credentials`) and returns a `Target` that can no longer be wrong.
- A target's credentials are asked for their headers at each send. What no error may show is asked for anew when they
  have been renewed.
- Below the version of Vertex AI stands the path of a project and a location (`vertex`), empty in Express mode.
- No `repr`, pickle or error shows a key, a header's value or a proxy's password (`secret`).
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NoReturn, Protocol, TypeVar
from urllib.parse import urlsplit

from gemini_streams.api.checks import (
    API_VERSION,
    Environment,
    checked_base,
    checked_cert,
    checked_headers,
    checked_proxies,
    checked_verify,
    checked_version,
    model_path,
    normal_url,
    refuse_plain_http,
    vertex_model_path,
)
from gemini_streams.api.credentials import Credentials, find_key
from gemini_streams.api.scrub import MOST_WORDS, Scrubber, in_words
from gemini_streams.api.secret import (
    Pairs,
    Secret,
    hidden,
    secrets_of_header,
    secrets_of_proxies,
    user_and_password_of,
)
from gemini_streams.api.value import Value, plain_path, plain_paths

__all__ = ["Endpoint", "Gemini", "Service", "Target"]

T = TypeVar("T")


class Endpoint(Protocol):
    """An address of the service, not read and not checked yet; `resolve` makes the `Target` that streams use."""

    def resolve(self, environ: Mapping[str, str] | None = None) -> Target:
        """Read the environment (`None`: the process's), check everything and answer where requests go.

        Raises `MissingCredentialsError` or `InvalidRequestError`.
        """


class Service(Value):
    """An endpoint of this package's own."""

    __slots__ = ()

    def resolve(self, environ: Mapping[str, str] | None = None) -> Target:
        """Answer where requests go."""
        raise NotImplementedError


class Gemini(Service):
    """The Gemini Developer API.

    Immutable, equal and hashable by value. One that holds an `api_key`, headers or proxies does not pickle.

    Args:
        api_key: The key; by default `GOOGLE_API_KEY`, then `GEMINI_API_KEY`.
        base_url: By default `GOOGLE_GEMINI_BASE_URL`, then Google's. May have a path (a gateway's).
        headers: More request headers. They cannot replace those that the stream depends on.
        proxies: As in requests, `{"https": "http://proxy:3128"}`; `{}` is no proxy, `None` the environment's.
        verify: Whether certificates are verified, or the path of a certificate bundle.
        allow_plain_http: Lets the key travel unencrypted to another machine.
        api_version: By default `GOOGLE_GENAI_API_VERSION`, then `v1beta`. Not for a base URL that ends in a version.
        model: What this endpoint is asked for, whatever model the stream or the manager names.
        cert: A client certificate, as in requests: the path of a file with certificate and key, or the two paths. A
            key that is encrypted is refused.

    """

    __slots__ = (
        "_headers",
        "_proxies",
        "allow_plain_http",
        "api_key",
        "api_version",
        "base_url",
        "cert",
        "model",
        "verify",
    )

    _fields: ClassVar[tuple[str, ...]] = (
        "api_key",
        "base_url",
        "_headers",
        "_proxies",
        "verify",
        "allow_plain_http",
        "api_version",
        "model",
        "cert",
    )
    _defaults: ClassVar[dict[str, Any]] = {"verify": True, "allow_plain_http": False}
    _secrets: ClassVar[frozenset[str]] = frozenset({"api_key"})

    api_key: Secret | None
    base_url: str | None
    verify: bool | str
    allow_plain_http: bool
    api_version: str | None
    model: str | None
    cert: str | tuple[str, str] | None
    _headers: Pairs | str | None
    _proxies: Pairs | str | None

    def __init__(
        self,
        api_key: str | Secret | None = None,
        base_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
        verify: bool | str = True,  # noqa: FBT001, FBT002 - the name requests gave it, and its default
        allow_plain_http: bool = False,  # noqa: FBT001, FBT002 - allow_plain_http=True is how it is written
        api_version: str | None = None,
        model: str | None = None,
        cert: str | tuple[str, str] | None = None,
    ) -> None:
        self._put(
            api_key=Secret(api_key) if isinstance(api_key, str) else api_key,
            base_url=base_url,
            _headers=hidden(headers),
            _proxies=hidden(proxies),
            verify=plain_path(verify),
            allow_plain_http=allow_plain_http,
            api_version=api_version,
            model=model,
            cert=plain_paths(cert),
        )

    def resolve(self, environ: Mapping[str, str] | None = None) -> Target:
        """Answer where requests go, from the arguments and the environment.

        `environ` stands in for the process's environment in all but the proxies, which requests reads itself.

        Raises:
            MissingCredentialsError: no key anywhere.
            InvalidRequestError: a value that cannot be right.

        """
        env = Environment(os.environ if environ is None else environ)
        del environ  # a traceback that shows locals would show the whole of it
        key = find_key(self.api_key, env)
        base = checked_base(self.base_url, env)
        headers = checked_headers(self._headers)
        proxies = checked_proxies(self._proxies, base)
        refuse_plain_http(base, proxies, allowed=self.allow_plain_http is True)
        version = checked_version(self.api_version, base, env)
        verify, cert = checked_verify(self.verify, env), checked_cert(self.cert)
        target = Target(normal_url(base), key, headers, proxies, verify, version, cert, model=self.model)
        if target.model is not None:
            target.model_path(target.model)
        return target


class Target:
    """A checked endpoint, for streams and connections. Immutable; every method is cheap."""

    __slots__ = (
        "_fixed",
        "_hash",
        "_headers",
        "_proxies",
        "_scrubber",
        "_version",
        "base_url",
        "cert",
        "credentials",
        "host",
        "identity",
        "model",
        "pool_key",
        "verify",
        "vertex",
    )

    base_url: str
    """Scheme, host, port and path, without a slash at the end."""
    host: str
    verify: bool | str
    """The `verify` of requests. `resolve` has not looked at a path."""
    cert: str | tuple[str, str] | None
    """The `cert` of requests. `resolve` has not looked at a path."""
    pool_key: tuple[object, ...]
    """Equal for targets that are reached in the same way: host, certificates, proxies. Holds no plain secret."""
    identity: tuple[str, str]
    """Equal for targets that are one tenant of one service: the base URL, and a digest of key and headers."""
    credentials: Credentials
    vertex: str | None
    """Of Vertex AI: the path of its project and location, or `""` in Express mode. `None`: the Developer API."""
    model: str | None
    """What the endpoint is asked for, where it says so itself; no part of the target's value."""
    _fixed: dict[str, str | Secret]
    _hash: int
    _headers: Pairs
    _proxies: Pairs
    _scrubber: tuple[int, Scrubber]
    _version: str

    def __init__(
        self,
        base_url: str,
        credentials: Credentials,
        headers: Pairs = (),
        proxies: Pairs = (),
        verify: bool | str = True,  # noqa: FBT001, FBT002 - the name requests gave it, and its default
        version: str = API_VERSION,
        cert: str | tuple[str, str] | None = None,
        *,
        model: str | None = None,
        vertex: str | None = None,
    ) -> None:
        url = urlsplit(base_url)
        put = functools.partial(object.__setattr__, self)
        put("base_url", base_url)
        put("host", url.hostname or "")
        put("verify", verify)
        put("cert", cert)
        put("pool_key", (url.scheme, url.netloc, verify, cert, proxies))
        put("credentials", credentials)
        put("model", model)
        put("vertex", vertex)
        put("_headers", headers)
        put("_proxies", proxies)
        put("_version", version)
        told = [
            credentials.fingerprint,
            *([] if vertex is None else [f"vertex {vertex}"]),
            *(part for name, value in headers for part in (name.lower(), value.reveal())),
        ]
        put("_fixed", _fixed_headers(headers))
        put("identity", (base_url, Secret("\n".join(told)).fingerprint))
        put("_hash", hash(self._identity()))  # once: each send looks its route up by it

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a target is immutable")

    def __repr__(self) -> str:
        return f"Target({self.base_url!r})"

    def _identity(self) -> tuple[object, ...]:
        return (self.base_url, self._version, self.vertex, self.credentials, self._headers, self.pool_key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Target) and other._identity() == self._identity()

    def __hash__(self) -> int:
        return self._hash

    @property
    def name(self) -> str:
        """What an application is told of the endpoint: its base URL, with the project and location of Vertex AI."""
        return f"{self.base_url}/{self.vertex}" if self.vertex else self.base_url

    def url(self, path: str) -> str:
        """Return the URL of something that stands below the API's version, and below the project and location."""
        parts = (self.base_url, self._version, self.vertex, path)
        return "/".join(filter(None, parts))

    def model_path(self, model: object) -> str:
        """Return the path of a model; `InvalidRequestError` where it can be no name."""
        return model_path(model) if self.vertex is None else vertex_model_path(model)

    def model_url(self, model: str) -> str:
        """Return the URL of a model; `InvalidRequestError` where it can be no name."""
        path = self.model_path(model)
        if path.startswith("projects/"):
            return "/".join(filter(None, (self.base_url, self._version, path)))
        return self.url(path)

    def quota_key(self, model: str) -> tuple[str, str, str]:
        """Return a key that is equal for requests that share a quota: a 429 to one of them holds for all."""
        return (*self.identity, self.model_path(model))

    def headers(self) -> dict[str, str | Secret]:
        """Return a fresh dict of the headers of the request that is about to be sent, its credentials among them.

        A header of the endpoint's own beats one of the credentials.
        """
        return {**self.credentials.headers(), **self._fixed}

    @property
    def proxies(self) -> dict[str, Secret]:
        """The proxies that hold for this target, by scheme as requests takes them."""
        return dict(self._proxies)

    def scrub(self, value: T) -> T:
        """Return `value` (text, or decoded JSON) with `[key]` wherever one of our secrets stood (`scrub`)."""
        return self._known.scrub(value)

    def words(self, text: str, most: int = MOST_WORDS) -> str:
        """Return what a server or proxy said as an error may repeat it: one line, without our secrets, cut."""
        return in_words(text, self.scrub, most)

    @property
    def _known(self) -> Scrubber:
        """The scrubber of all secrets so far: made anew when the credentials have been renewed."""
        generation = self.credentials.generation
        try:
            known, scrubber = self._scrubber
            if known == generation:
                return scrubber
        except AttributeError:
            pass
        scrubber = Scrubber(self._secrets(), user_and_password_of(self._proxies))
        object.__setattr__(self, "_scrubber", (generation, scrubber))
        return scrubber

    def _secrets(self) -> Iterator[str]:
        yield from self.credentials.secrets()
        for name, value in self._headers:
            yield from secrets_of_header(name.lower(), value.reveal())
        yield from secrets_of_proxies(self._proxies)


def _fixed_headers(own: Pairs) -> dict[str, str | Secret]:
    """Return the headers that are the same for each request: ours, and the application's own in their place."""
    headers: dict[str, str | Secret] = {
        "Content-Type": "application/json",
        "Accept": "text/event-stream",
        "Accept-Encoding": "identity",
        "User-Agent": _product(),
        "x-goog-api-client": f"{_product()} gl-python/{platform.python_version()}",
    }
    ours = {name.lower(): name for name in headers}
    for name, value in own:
        headers[ours.get(name.lower(), name)] = value
    return headers


@functools.cache
def _product() -> str:
    try:
        version = importlib.metadata.version("gemini-streams")
    except importlib.metadata.PackageNotFoundError:
        version = "0"
    return f"gemini-streams/{version}"
