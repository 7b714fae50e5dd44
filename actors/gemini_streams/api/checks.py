"""Checks of an endpoint's parts: URLs, versions, model names, headers, proxies, certificates. Pure.

The rules:

- A value that cannot be right raises `InvalidRequestError`. The error's text says which value to give instead.
- No error holds a secret, and neither does a local variable of the function that raises it.
- A model name or base URL that could lead the request to another path is refused, not escaped.
- A key travels over TLS or to this machine. Anything else has to be asked for (`allow_plain_http`).
- Proxies and certificate bundles of the environment are found as requests finds them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from requests.utils import get_environ_proxies

from gemini_streams.api.secret import Pairs, Secret
from gemini_streams.errors import InvalidRequestError

__all__ = [
    "API_VERSION",
    "DEFAULT_BASE_URL",
    "Environment",
    "check_model",
    "checked_base",
    "checked_cert",
    "checked_headers",
    "checked_location",
    "checked_project",
    "checked_proxies",
    "checked_verify",
    "checked_version",
    "is_loopback",
    "model_path",
    "normal_url",
    "refuse_plain_http",
    "shown_url",
    "vertex_model_path",
]

DEFAULT_BASE_URL = "https://generativelanguage.googleapis.com"
API_VERSION = "v1beta"

_MODEL = re.compile(r"(?:(?:models|tunedModels)/)?[A-Za-z0-9][A-Za-z0-9._~@+-]{0,199}")
_VERTEX_MODEL = re.compile(
    r"(?:projects/[A-Za-z0-9:._-]{1,100}/locations/[a-z0-9-]{1,40}/)?"
    r"(?:(?:publishers/[A-Za-z0-9._-]{1,100}/)?models|endpoints)/[A-Za-z0-9][A-Za-z0-9._~@+-]{0,199}"
)
_PROJECT = re.compile(r"[a-z0-9](?:[a-z0-9:.-]{0,98}[a-z0-9])?")
_LOCATION = re.compile(r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?")
_VERSION = re.compile(r"v[0-9]{1,3}(?:(?:alpha|beta)[0-9]{0,3})?")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}\.?")
_PATH = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/-]*")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_FIELD_VALUE = re.compile(r"[\x21-\x7e\xa0-\xff](?:[\t\x20-\x7e\xa0-\xff]*[\x21-\x7e\xa0-\xff])?|")
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


class Environment:
    """The environment's variables; their values are not shown."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.get = variables.get

    def __repr__(self) -> str:
        return "<environment>"


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


def vertex_model_path(model: object) -> str:
    """Return the path of a model's name at Vertex AI; `InvalidRequestError` where it can be none.

    A name alone, or with `models/` or `google/` in front, is a model of Google's; `PUBLISHER/NAME` is another
    publisher's. A resource's name that begins with `publishers/`, `projects/` or `endpoints/` is taken as it is.
    """
    name = str.__str__(model) if isinstance(model, str) else ""  # no subclass: it becomes a key under locks
    first, slash, rest = name.partition("/")
    if not slash or first == "models":
        path = f"publishers/google/models/{rest if slash else first}"
    elif "/" not in rest and first not in ("endpoints", "publishers", "projects", "tunedModels"):
        path = f"publishers/{first}/models/{rest}"
    else:
        path = name
    if not _VERTEX_MODEL.fullmatch(path) or ".." in path:
        shown = repr(name[:60]) if isinstance(model, str) else type(model).__name__
        raise InvalidRequestError(
            f"{shown} is no model name at Vertex AI: give one like 'gemini-2.5-flash',"
            " 'publishers/google/models/gemini-2.5-flash' or 'projects/P/locations/L/endpoints/ID'"
        )
    return path


def check_model(model: object) -> None:
    """Raise `InvalidRequestError` where a model's name can be none at any service."""
    if isinstance(model, str) and "/" in model:
        try:
            vertex_model_path(model)
        except InvalidRequestError:
            pass
        else:
            return
    model_path(model)


def checked_project(given: object) -> str | None:
    """Return a project's id or number; `None` and the empty string are none."""
    if given is None or given == "":
        return None
    if not isinstance(given, str) or not _PROJECT.fullmatch(given):
        shown = repr(given[:60]) if isinstance(given, str) else type(given).__name__
        raise InvalidRequestError(f"project must be the id of a Google Cloud project, not {shown}")
    return given


def checked_location(given: object) -> str | None:
    """Return a location; `None` and the empty string are none."""
    if given is None or given == "":
        return None
    if not isinstance(given, str) or not _LOCATION.fullmatch(given):
        shown = repr(given[:60]) if isinstance(given, str) else type(given).__name__
        raise InvalidRequestError(f"location must be one like 'global' or 'us-central1', not {shown}")
    return given


def checked_base(
    given: object,
    env: Environment,
    variable: str = "GOOGLE_GEMINI_BASE_URL",
    default: str = DEFAULT_BASE_URL,
) -> SplitResult:
    """Return the base URL of the argument, of the environment's variable, or Google's."""
    where, text = "base_url", given
    if given is None:
        where, text = variable, env.get(variable) or default
    if not isinstance(text, str):
        raise InvalidRequestError(f"base_url must be a string, not {type(text).__name__}")
    hint = f"give {where} like {default!r}"
    url = _split(text)
    if url is None:
        raise InvalidRequestError(f"{where} is no URL: {hint}")
    if "@" in url.netloc:
        raise InvalidRequestError(f"{where} holds a user name or password, which would be logged: {hint}")
    if url.scheme not in ("http", "https") or not url.hostname:
        raise InvalidRequestError(f"{where} {shown_url(text)!r} has no scheme or no host: {hint}")
    if "?" in text or "#" in text:
        raise InvalidRequestError(f"{where} {shown_url(text)!r} has a query or a fragment: {hint}")
    if not (_HOST.fullmatch(url.hostname) or _ip(url.hostname)) or len(url.hostname) > 253:
        raise InvalidRequestError(f"{where} {shown_url(text)!r} has a host that cannot be one: {hint}")
    if not _PATH.fullmatch(url.path) or ".." in url.path or "//" in url.path:
        raise InvalidRequestError(f"{where} {shown_url(text)!r} has a path that cannot be right: {hint}")
    return url


def checked_version(given: object, base: SplitResult, env: Environment, default: str = API_VERSION) -> str:
    """Return the API's version, `""` where the base URL ends in one. `default`: the service's beta."""
    where, version = "api_version", given
    in_base = _VERSION.fullmatch(base.path.rstrip("/").rpartition("/")[2])
    if given is None:
        if in_base:
            return ""
        where, version = "GOOGLE_GENAI_API_VERSION", env.get("GOOGLE_GENAI_API_VERSION") or default
        if version == "beta":  # google-genai's word for it
            version = default
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


def normal_url(url: SplitResult) -> str:
    """Return a base URL as equal ones are spelt: its host in small letters, no slash at its end."""
    return f"{url.scheme}://{url.netloc.lower()}{url.path.rstrip('/')}"


def shown_url(text: object) -> str:
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
    """Whether bytes sent to `host` stay on this machine."""
    address = _ip(host)
    if address is not None:
        return address.is_loopback
    name = host.lower().rstrip(".")
    return name == "localhost" or name.endswith(".localhost")


def refuse_plain_http(base: SplitResult, proxies: Pairs, *, allowed: bool) -> None:
    """Refuse to send a key unencrypted to another machine, unless that was asked for."""
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


def checked_headers(headers: Pairs | str | None) -> Pairs:
    """Return an application's own headers; refuse those that a request cannot carry."""
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
            instead = "pass api_key=..." if low == "x-goog-api-key" else "leave it out"
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


def checked_proxies(proxies: Pairs | str | None, base: SplitResult) -> Pairs:
    """Return the proxies that hold for a base URL: the argument's, or the environment's."""
    hint = "proxies must map schemes to URLs, like {'https': 'http://proxy:3128'}"
    if isinstance(proxies, str):
        raise InvalidRequestError(f"{hint}, not {proxies}")
    if proxies is None:
        # A proxy that the environment names for the world is not meant for this machine's own addresses.
        if is_loopback(base.hostname or ""):
            return ()
        found = get_environ_proxies(normal_url(base))
        return tuple(sorted((scheme, Secret(url)) for scheme, url in found.items() if scheme != "no"))
    for scheme, url in proxies:
        if not _is_str(scheme) or not _is_proxy(url):
            raise InvalidRequestError(hint)
    return proxies


def _is_proxy(url: Secret) -> bool:
    parts = _split(url.reveal()) if _is_str(url.reveal()) else None
    return parts is not None and bool(parts.hostname)


def checked_verify(verify: object, env: Environment) -> bool | str:
    """Return what requests takes as `verify`. A path is not looked at."""
    if not isinstance(verify, bool | str) or verify == "":
        raise InvalidRequestError(
            f"verify must be True, False or the path of a certificate bundle, not {type(verify).__name__}"
        )
    if verify is True:
        return env.get("REQUESTS_CA_BUNDLE") or env.get("CURL_CA_BUNDLE") or True
    return verify


def checked_cert(cert: object) -> str | tuple[str, str] | None:
    """Return what requests takes as `cert`. A path is not looked at."""
    match cert:
        case None:
            return None
        case str() if cert:
            return cert
        case (str() as certificate, str() as key) if certificate and key:
            return (certificate, key)
    raise InvalidRequestError(
        "cert must be the path of a file with certificate and key, or a pair of the two paths, not"
        f" {type(cert).__name__}"
    )


def _is_str(value: object) -> bool:
    return isinstance(value, str)
