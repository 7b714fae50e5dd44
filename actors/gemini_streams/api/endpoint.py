"""Where Gemini is, with which key, and what a request carries besides its body.

The rules (google-genai's where it has one, the contract's for the rest):

- An argument beats the environment. `GOOGLE_API_KEY` beats `GEMINI_API_KEY`, `GOOGLE_GEMINI_BASE_URL` moves
  the base URL, `GOOGLE_GENAI_API_VERSION` sets the API's version, `GOOGLE_GENAI_USE_VERTEXAI` (or its newer name
  `GOOGLE_GENAI_USE_ENTERPRISE`) asks for Vertex AI. Proxies and certificate bundles are found as requests finds them.
- A base URL that ends in a version is taken as it is. Elsewhere the version is the argument's, the environment's, or
  `v1beta`.
- An endpoint is only a value: writing one never fails. `resolve` reads the environment, checks everything
  once and answers a `Target` that can no longer be wrong.
- The key travels in a header, over TLS or to loopback; anything else has to be asked for
  (`allow_plain_http`).
- No `repr`, pickle or error shows a key, a header's value or a proxy's password. Secrets are held as
  `Secret`, which is no `str`; where a header needs the plain value, it is a `str` that prints masked.
- A model name or base URL that could lead the request to another path is refused, not escaped.

`Endpoint` is the seam for Vertex AI: another class with a `resolve` of its own.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import importlib.metadata
import ipaddress
import os
import platform
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, Protocol, TypeAlias, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from requests.utils import get_environ_proxies

from gemini_streams.api.scrub import MOST_WORDS, Scrubber, in_words
from gemini_streams.errors import InvalidRequestError, MissingCredentialsError

__all__ = ["DEFAULT_BASE_URL", "Endpoint", "Gemini", "Secret", "Target"]

DEFAULT_BASE_URL = "https://generativelanguage.googleapis.com"
API_VERSION = "v1beta"
_VERTEX_SWITCHES = ("GOOGLE_GENAI_USE_ENTERPRISE", "GOOGLE_GENAI_USE_VERTEXAI")
"""In order of precedence: the first that is set decides."""

_MODEL = re.compile(r"(?:(?:models|tunedModels)/)?[A-Za-z0-9][A-Za-z0-9._~@+-]{0,199}")
_VERSION = re.compile(r"v[0-9]{1,3}(?:(?:alpha|beta)[0-9]{0,3})?")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}\.?")
_PATH = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/-]*")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_FIELD_VALUE = re.compile(r"[\x21-\x7e\xa0-\xff](?:[\t\x20-\x7e\xa0-\xff]*[\x21-\x7e\xa0-\xff])?|")
_KEY = re.compile(r"[\x21-\x7e]+")

_OWN_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-goog-api-key",
    }
)
"""Headers whose meaning the stream depends on: not the user's to set."""

T = TypeVar("T")

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


class _HeaderValue(str):
    """A secret on its way into a header: sent as it is, printed masked."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is not pickled")


class Endpoint(Protocol):
    """What a stream needs of a service: a value that can be resolved."""

    def resolve(self, environ: Mapping[str, str] | None = None) -> Target:
        """Read the environment (`None`: the process's), check everything and answer where requests go.

        Raises `MissingCredentialsError` or `InvalidRequestError`.
        """


class Gemini:
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

    """

    __slots__ = ("_headers", "_proxies", "allow_plain_http", "api_key", "api_version", "base_url", "verify")

    api_key: Secret | None
    base_url: str | None
    verify: bool | str
    allow_plain_http: bool
    api_version: str | None
    _headers: Pairs | str | None
    _proxies: Pairs | str | None

    def __init__(
        self,
        api_key: str | Secret | None = None,
        base_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
        verify: bool | str = True,  # noqa: FBT001, FBT002 - the name requests gave it, and its default
        allow_plain_http: bool = False,  # noqa: FBT001, FBT002 - the contract's signature
        api_version: str | None = None,
    ) -> None:
        put = functools.partial(object.__setattr__, self)
        put("api_key", Secret(api_key) if isinstance(api_key, str) else api_key)
        put("base_url", base_url)
        put("_headers", _hidden(headers))
        put("_proxies", _hidden(proxies))
        put("verify", os.fspath(verify) if isinstance(verify, os.PathLike) else verify)
        put("allow_plain_http", allow_plain_http)
        put("api_version", api_version)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"Gemini is immutable: make another one to change {name}")

    __delattr__ = __setattr__  # type: ignore[assignment]

    def _identity(self) -> tuple[object, ...]:
        return (
            self.api_key,
            self.base_url,
            self._headers,
            self._proxies,
            self.verify,
            self.allow_plain_http,
            self.api_version,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Gemini) and other._identity() == self._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        shown: list[str] = []
        if self.api_key is not None:
            shown.append("api_key='***'")
        if self.base_url is not None:
            shown.append(f"base_url={_shown_url(self.base_url)!r}")
        for name, pairs in (("headers", self._headers), ("proxies", self._proxies)):
            if pairs is not None:
                shown.append(
                    f"{name}={pairs if isinstance(pairs, str) else dict.fromkeys(dict(pairs), '***')}"
                )
        if self.verify is not True:
            shown.append(f"verify={self.verify!r}")
        if self.allow_plain_http:
            shown.append("allow_plain_http=True")
        if self.api_version is not None:
            shown.append(f"api_version={self.api_version!r}")
        return f"Gemini({', '.join(shown)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _gemini, self._identity()

    def resolve(self, environ: Mapping[str, str] | None = None) -> Target:
        """Answer where requests go, from the arguments and the environment.

        `environ` stands in for the process's environment in all but the proxies, which requests reads itself.

        Raises:
            MissingCredentialsError: no key anywhere.
            InvalidRequestError: a value that cannot be right, or that asks for Vertex AI.

        """
        env = _Environment(os.environ if environ is None else environ)
        del environ  # a traceback that shows locals would show the whole of it
        key = _key(self.api_key, env)
        base = _base(self.base_url, env)
        headers = _checked_headers(self._headers)
        proxies = _checked_proxies(self._proxies, base)
        _refuse_plain_http(base, proxies, allowed=self.allow_plain_http is True)
        version = _version(self.api_version, base, env)
        return Target(_normal_url(base), key, headers, proxies, _checked_verify(self.verify, env), version)


class Target:
    """A checked endpoint: what a connection needs to know. Immutable; all that is asked of it is cheap."""

    __slots__ = (
        "_headers",
        "_key",
        "_proxies",
        "_scrubber",
        "_version",
        "base_url",
        "host",
        "identity",
        "pool_key",
        "verify",
    )

    base_url: str
    """Scheme, host, port and path, without a slash at the end."""
    host: str
    verify: bool | str
    """What requests takes as `verify`. A path was not looked at."""
    pool_key: tuple[object, ...]
    """Equal for targets that are reached in the same way: host, certificates, proxies. Holds no plain secret."""
    identity: tuple[str, str]
    """Equal for targets that are one tenant of one service: the base URL, and a digest of key and headers."""
    _key: Secret
    _headers: Pairs
    _proxies: Pairs
    _scrubber: Scrubber
    _version: str

    def __init__(
        self,
        base_url: str,
        key: Secret,
        headers: Pairs = (),
        proxies: Pairs = (),
        verify: bool | str = True,  # noqa: FBT001, FBT002 - the name requests gave it, and its default
        version: str = API_VERSION,
    ) -> None:
        url = urlsplit(base_url)
        put = functools.partial(object.__setattr__, self)
        put("base_url", base_url)
        put("host", url.hostname or "")
        put("verify", verify)
        put("pool_key", (url.scheme, url.netloc, verify, proxies))
        put("_key", key)
        put("_headers", headers)
        put("_proxies", proxies)
        put("_version", version)
        told = [key.reveal(), *(part for name, value in headers for part in (name.lower(), value.reveal()))]
        put("identity", (base_url, Secret("\n".join(told)).fingerprint))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a target is immutable")

    def __repr__(self) -> str:
        return f"Target({self.base_url!r})"

    def _identity(self) -> tuple[object, ...]:
        return (self.base_url, self._version, self._key, self._headers, self.pool_key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Target) and other._identity() == self._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def model_url(self, model: str) -> str:
        """Return the URL of a model; `InvalidRequestError` where it can be no name."""
        root = f"{self.base_url}/{self._version}" if self._version else self.base_url
        return f"{root}/{model_path(model)}"

    def quota_key(self, model: str) -> tuple[str, str, str]:
        """Return what is equal for requests that share a quota: one's 429 is a word to all of them."""
        return (*self.identity, model_path(model))

    def headers(self) -> dict[str, str]:
        """Return a fresh dict of the request's headers, secret ones as a `str` that prints masked."""
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            "Accept-Encoding": "identity",
            "User-Agent": _product(),
            "x-goog-api-client": f"{_product()} gl-python/{platform.python_version()}",
            "x-goog-api-key": _HeaderValue(self._key.reveal()),
        }
        ours = {name.lower(): name for name in headers}
        for name, value in self._headers:
            headers[ours.get(name.lower(), name)] = _HeaderValue(value.reveal())
        return headers

    @property
    def proxies(self) -> dict[str, str]:
        """The proxies that hold for this target, as requests takes them; they print masked."""
        return {scheme: _HeaderValue(url.reveal()) for scheme, url in self._proxies}

    def scrub(self, value: T) -> T:
        """Return `value` (text, or decoded JSON) with `[key]` wherever one of our secrets stood (`scrub`)."""
        return self._known.scrub(value)

    def words(self, text: str, most: int = MOST_WORDS) -> str:
        """Return what a server or proxy said as an error may repeat it: one line, without our secrets, cut."""
        return in_words(text, self.scrub, most)

    @property
    def _known(self) -> Scrubber:
        try:
            return self._scrubber
        except AttributeError:
            scrubber = Scrubber(self._secrets(), self._pairs())
            object.__setattr__(self, "_scrubber", scrubber)
            return scrubber

    def _secrets(self) -> Iterator[str]:
        yield self._key.reveal()
        for name, value in self._headers:
            yield from _secrets_of_header(name.lower(), value.reveal())
        for _, url in self._proxies:
            parts = urlsplit(url.reveal())
            user, password = parts.username or "", parts.password or ""
            # A user without a password, or as long as a key, is one.
            for secret in (password, user if not password or len(user) >= _LONG else ""):
                yield from {secret, unquote(secret)} - {""}

    def _pairs(self) -> Iterator[str]:
        for _, url in self._proxies:
            parts = urlsplit(url.reveal())
            if parts.username or parts.password:
                yield f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"


_SECRET_NAME = re.compile(r"auth|cookie|credential|key|pass|secret|session|signature|token", re.IGNORECASE)
_OPEN_NAMES = frozenset({"accept-language", "user-agent", "x-goog-api-client", "x-goog-user-project"})
"""Headers whose values are no secrets, and stand in errors that tell of them."""
_LONG = 8
"""Characters; a shorter part of a header's value, or user's name, is not masked for itself."""


def _secrets_of_header(name: str, value: str) -> Iterator[str]:
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


def model_path(model: object) -> str:
    """`models/…` or `tunedModels/…` for a model's name; `InvalidRequestError` where it can be none."""
    if not isinstance(model, str) or not _MODEL.fullmatch(model) or ".." in model:
        shown = repr(model[:60]) if isinstance(model, str) else type(model).__name__
        raise InvalidRequestError(
            f"{shown} is no model name: give one like 'gemini-flash-latest', 'models/gemini-flash-latest' or"
            " 'tunedModels/my-model' (letters, digits, '.', '-' and '_')"
        )
    name = str.__str__(model)  # no subclass: it becomes a key under locks
    return name if "/" in name else f"models/{name}"


# -- from arguments and environment --------------------------------------------------------------------------


class _Environment:
    """The environment's variables; their values are not shown."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.get = variables.get

    def __repr__(self) -> str:
        return "<environment>"


def _key(given: object, env: _Environment) -> Secret:
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
    return key


def _refuse_vertex(env: _Environment) -> None:
    for name in _VERTEX_SWITCHES:
        value = env.get(name)
        if value is not None:
            if value.lower() in ("true", "1"):
                raise InvalidRequestError(
                    f"{name} asks for Vertex AI, which is not supported yet: unset it, or pass"
                    " Gemini(api_key=...) to use the Gemini Developer API all the same"
                )
            return


def _base(given: object, env: _Environment) -> SplitResult:
    where, text = "base_url", given
    if given is None:
        where, text = "GOOGLE_GEMINI_BASE_URL", env.get("GOOGLE_GEMINI_BASE_URL") or DEFAULT_BASE_URL
    if not isinstance(text, str):
        raise InvalidRequestError(f"base_url must be a string, not {type(text).__name__}")
    hint = f"give {where} like {DEFAULT_BASE_URL!r}"
    url = _split(text)
    if url is None:
        raise InvalidRequestError(f"{where} is no URL: {hint}")
    if "@" in url.netloc:
        raise InvalidRequestError(f"{where} holds a user name or password, which would be logged: {hint}")
    if url.scheme not in ("http", "https") or not url.hostname:
        raise InvalidRequestError(f"{where} {_shown_url(text)!r} has no scheme or no host: {hint}")
    if "?" in text or "#" in text:
        raise InvalidRequestError(f"{where} {_shown_url(text)!r} has a query or a fragment: {hint}")
    if not (_HOST.fullmatch(url.hostname) or _ip(url.hostname)) or len(url.hostname) > 253:
        raise InvalidRequestError(f"{where} {_shown_url(text)!r} has a host that cannot be one: {hint}")
    if not _PATH.fullmatch(url.path) or ".." in url.path or "//" in url.path:
        raise InvalidRequestError(f"{where} {_shown_url(text)!r} has a path that cannot be right: {hint}")
    return url


def _version(given: object, base: SplitResult, env: _Environment) -> str:
    """Return the API's version, `""` where the base URL ends in one."""
    where, version = "api_version", given
    in_base = _VERSION.fullmatch(base.path.rstrip("/").rpartition("/")[2])
    if given is None:
        if in_base:
            return ""
        where, version = "GOOGLE_GENAI_API_VERSION", env.get("GOOGLE_GENAI_API_VERSION") or API_VERSION
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        shown = repr(version[:30]) if isinstance(version, str) else type(version).__name__
        raise InvalidRequestError(f"{where} must be a version like 'v1beta' or 'v1', not {shown}")
    if in_base and version != in_base[0]:
        raise InvalidRequestError(
            f"api_version is {version!r}, and the base URL ends in {in_base[0]!r}: give one of the two"
        )
    return "" if in_base else version


def _split(text: str) -> SplitResult | None:
    """Return a URL's parts; `None` where it is none. `urlsplit` itself drops control characters."""
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        return None
    try:
        url = urlsplit(text)
        if url.port == 0:
            return None
    except ValueError:
        return None
    return url


def _normal_url(url: SplitResult) -> str:
    return f"{url.scheme}://{url.netloc.lower()}{url.path.rstrip('/')}"


def _shown_url(text: object) -> str:
    """Return a URL for people: without user, password, query and fragment. A word alone may be a misplaced key."""
    if not isinstance(text, str):
        return type(text).__name__
    if re.search(r"[.:/]", text) is None:
        return "***" if text else ""
    return re.sub(r"^([^/]*//)?[^/]*@", r"\1", re.split(r"[?#]", text, maxsplit=1)[0])[:200]


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether what is sent to `host` stays on this machine."""
    address = _ip(host)
    if address is not None:
        return address.is_loopback
    name = host.lower().rstrip(".")
    return name == "localhost" or name.endswith(".localhost")


def _refuse_plain_http(base: SplitResult, proxies: Pairs, *, allowed: bool) -> None:
    if base.scheme != "http" or allowed:
        return
    host = base.hostname or ""
    away = "The host is not this machine"
    if is_loopback(host):
        if all(is_loopback(urlsplit(url.reveal()).hostname or "") for _, url in proxies):
            return
        away = "The proxy is not this machine"
    raise InvalidRequestError(
        f"the key would travel unencrypted to {base.hostname!r}. {away}: use https, or pass"
        " Gemini(allow_plain_http=True) if the network between is yours"
    )


def _checked_headers(headers: Pairs | str | None) -> Pairs:
    if headers is None:
        return ()
    if isinstance(headers, str):
        raise InvalidRequestError(f"headers must be a dict of names and values, not {headers}")
    seen: set[str] = set()
    for name, value in headers:
        if not _is_str(name) or not _TOKEN.fullmatch(name):
            raise InvalidRequestError("headers: a name holds characters that a header's name cannot have")
        low = name.lower()
        if low in _OWN_HEADERS:
            instead = "pass Gemini(api_key=...)" if low == "x-goog-api-key" else "leave it out"
            raise InvalidRequestError(f"headers: {name} is set by the stream itself; {instead}")
        if low in seen:
            raise InvalidRequestError(f"headers: {name} is given twice")
        if not _is_str(value.reveal()):
            raise InvalidRequestError(f"headers: {name} must be a string")
        if not value.matches(_FIELD_VALUE):
            raise InvalidRequestError(
                f"headers: the value of {name} holds characters that no header can carry (a line end, a"
                " control character, a space at either end, or one outside Latin-1)"
            )
        seen.add(low)
    return headers


def _checked_proxies(proxies: Pairs | str | None, base: SplitResult) -> Pairs:
    hint = "proxies must map schemes to URLs, like {'https': 'http://proxy:3128'}"
    if isinstance(proxies, str):
        raise InvalidRequestError(f"{hint}, not {proxies}")
    if proxies is None:
        # A proxy that the environment names for the world is not meant for this machine's own addresses.
        if is_loopback(base.hostname or ""):
            return ()
        found = get_environ_proxies(_normal_url(base))
        return tuple(sorted((scheme, Secret(url)) for scheme, url in found.items() if scheme != "no"))
    for scheme, url in proxies:
        if not _is_str(scheme) or not _is_proxy(url):
            raise InvalidRequestError(hint)
    return proxies


def _is_proxy(url: Secret) -> bool:
    parts = _split(url.reveal()) if _is_str(url.reveal()) else None
    return parts is not None and bool(parts.hostname)


def _checked_verify(verify: object, env: _Environment) -> bool | str:
    if not isinstance(verify, bool | str) or verify == "":
        raise InvalidRequestError(
            f"verify must be True, False or the path of a certificate bundle, not {type(verify).__name__}"
        )
    if verify is True:
        return env.get("REQUESTS_CA_BUNDLE") or env.get("CURL_CA_BUNDLE") or True
    return verify


def _is_str(value: object) -> bool:
    return isinstance(value, str)


def _hidden(given: object) -> Pairs | str | None:
    """Return a mapping's pairs, the values as secrets; the name of its type where it is no mapping."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        return type(given).__name__
    return tuple(
        sorted(((name, Secret(value)) for name, value in given.items()), key=lambda pair: str(pair[0]))
    )


def _gemini(*values: Any) -> Gemini:
    """Rebuild an endpoint from a copy's or a pickle's values."""
    endpoint = Gemini.__new__(Gemini)
    for name, value in zip(
        ("api_key", "base_url", "_headers", "_proxies", "verify", "allow_plain_http", "api_version"),
        values,
        strict=True,
    ):
        object.__setattr__(endpoint, name, value)
    return endpoint


@functools.cache
def _product() -> str:
    try:
        version = importlib.metadata.version("gemini-streams")
    except importlib.metadata.PackageNotFoundError:
        version = "0"
    return f"gemini-streams/{version}"
