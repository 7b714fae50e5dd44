"""Access tokens of Google Cloud: credentials whose headers are renewed. The one module of `api` with I/O and a thread.

The rules:

- What an application gives as credentials has google-auth's interface: `token`, `expiry`, `refresh(request)`, and
  `apply(headers)` where it has one. It is used in the fetching thread alone: to refresh it can take long, and it is the
  application's own code.
- Each credentials object has one `TokenSource`, whatever endpoints and managers use it. So has each place where
  application-default credentials are found.
- A thread fetches a token for all that wait, and ends. A token that runs out soon is renewed in the same way. It is
  still sent meanwhile, so nothing waits.
- A fetch that takes more than `PATIENCE` seconds has failed for those that wait for it.
- What the fetching thread has sent (a signed assertion, a refresh token) and the tokens themselves are secrets.
- Application-default credentials are found in a thread of their own: google-auth may ask the machine's metadata server,
  or run gcloud, for many seconds. What needs them at once waits until `_LOOK` seconds after that thread began.
- google-auth is imported where it is wanted, and no earlier.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self
from urllib.parse import parse_qsl

import requests

from gemini_streams.api.checks import Environment
from gemini_streams.api.credentials import Fetch
from gemini_streams.api.scrub import Scrubber, in_words
from gemini_streams.api.secret import Pairs, Secret
from gemini_streams.errors import ConnectionFailedError, MissingCredentialsError

__all__ = ["PATIENCE", "TokenSource", "default_source", "source_of"]

PATIENCE = 60.0
"""Seconds."""
SCOPE = "https://www.googleapis.com/auth/cloud-platform"

_ASK_WITHIN = 20.0
"""Seconds for each request of the fetching thread."""
_EARLY = 225.0
"""Seconds before its end from which on a token is renewed; google-auth's own. A short-lived one: a quarter of its
life."""
_MARGIN = 10.0
"""Seconds before its end from which on a token is not sent any more. A short-lived one: a tenth of its life."""
_PAUSE = 10.0
"""Seconds until the next try, where a renewal has failed and the token is still good, or where finding credentials has
taken long in vain."""
_LOOK = 3.0
"""Seconds within which application-default credentials have to be found where a project is asked of them."""
_LONG = 16
"""Characters: a shorter field of a request for a token is no secret."""
_KEPT = 16
"""How many secrets of the past are known: a late error may show one."""
_HINT = (
    "run `gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS, or pass credentials="
)


class _Token(NamedTuple):
    """What is sent, and how long."""

    headers: dict[str, Secret]
    renew_at: float
    """Seconds since the epoch."""
    ends_at: float

    def __repr__(self) -> str:
        return "<token>"


_NONE = _Token({}, 0.0, 0.0)


class TokenSource:
    """The tokens of one credentials object. Any number of threads use it."""

    def __init__(self, load: Callable[[Any], Any], fingerprint: str, proxies: Pairs | None) -> None:
        self._load = load
        self._proxies = proxies
        self.fingerprint = fingerprint
        """Tells this tenant from others."""
        self.generation = 0
        """How often a token has come, or was refused."""
        self._lock = threading.Lock()
        self._token = _NONE
        self._fetch: Fetch | None = None
        self._fetch_since = 0.0
        self._not_before = 0.0  # of the next renewal, where the present token is good
        self._secrets: deque[str] = deque(maxlen=_KEPT)

    def __repr__(self) -> str:
        return "<TokenSource>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("credentials are not pickled; load them where they are needed")

    # -- any thread

    def fetching(self) -> Fetch | None:
        """Return what a request has to wait for; `None` where a token can be sent. Has one fetched where it is time.

        Raises `ConnectionFailedError` where no thread can be started for that.
        """
        now = time.time()
        if now < self._token.renew_at:
            return None
        with self._lock:
            token, fetch = self._token, self._fetch
            good = now < token.ends_at
            if now < token.renew_at or (good and now < self._not_before):
                return None
            if fetch is None or time.monotonic() - self._fetch_since > PATIENCE:
                fetch = self._fetch = Fetch()
                self._fetch_since = time.monotonic()
                thread = threading.Thread(
                    target=self._run, args=(fetch, token), name="gemini-streams-token", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:
                    self._fetch = None
                    if not good:
                        raise ConnectionFailedError(
                            "no thread can be started to fetch an access token"
                        ) from None
            return None if good else fetch

    def headers(self) -> dict[str, Secret]:
        """Return the headers of the latest token."""
        return self._token.headers

    def refused(self, generation: int) -> bool:
        """Have the next request wait for a new token, unless there is a newer one than the refused one."""
        with self._lock:
            if generation == self.generation:
                self._token = self._token._replace(renew_at=0.0, ends_at=0.0)
                self.generation += 1
        return True

    def secrets(self) -> Iterable[str]:
        """Return the tokens, and what was sent to get them."""
        with self._lock:
            return tuple(self._secrets)

    # -- the fetching thread

    def _run(self, fetch: Fetch, old: _Token) -> None:
        token: _Token | None = None
        why, retryable = None, False
        try:
            token = self._fetched(old)
        except BaseException as error:  # noqa: BLE001 - the application's own code; it is told to all that wait
            why, retryable = self._told(error)
        with self._lock:
            if self._fetch is fetch:
                self._fetch = None
            if token is None:
                self._not_before = time.time() + _PAUSE
            else:
                self._token = token
                self.generation += 1
        fetch.finish(why, retryable=retryable)

    def _fetched(self, old: _Token) -> _Token:
        with _Asking(self._proxies, self._know) as asking:
            credentials = self._load(asking)
            began = time.time()
            for value in ("token", "refresh_token", "client_secret"):
                self._know(getattr(credentials, value, None))
            headers = _headers_of(credentials)
            life = math.inf
            # It may be used elsewhere, too, and have a newer token than the one that was sent last.
            if not headers or headers == old.headers or began >= _end_of(credentials) - _MARGIN:
                credentials.refresh(asking.request)
                headers = _headers_of(credentials)
                life = max(0.0, _end_of(credentials) - began)
            self._know(getattr(credentials, "token", None))
        if not headers:
            raise MissingCredentialsError("the credentials have no access token, though they were refreshed")
        ends_at = _end_of(credentials)
        if ends_at <= time.time():  # to ask again at once would be no end
            raise MissingCredentialsError(
                "the credentials were given an access token that has run out already: is the clock right?",
                retryable=True,
            )
        return _Token(headers, ends_at - min(_EARLY, life / 4), ends_at - min(_MARGIN, life / 10))

    def _know(self, secret: Any) -> None:
        if isinstance(secret, str) and len(secret) >= 8:
            with self._lock:
                if secret not in self._secrets:
                    self._secrets.append(secret)

    def _told(self, error: BaseException) -> tuple[str, bool]:
        """Return an error's text, and whether trying again can help."""
        kind = type(error)
        if isinstance(error, MissingCredentialsError):
            return error.message, error.retryable
        if not kind.__module__.startswith("google.auth"):  # its text may say anything
            return f"the credentials raised {kind.__name__} when they were asked for an access token", False
        text = in_words(str(error.args[0]) if error.args else "", Scrubber(self.secrets()).scrub)
        return (
            f"the credentials got no access token: {kind.__name__}: {text}",
            bool(getattr(error, "retryable", False)) or kind.__name__ == "TransportError",
        )


class _Asking:
    """What credentials are refreshed with: google-auth's transport over requests, with a limit of time."""

    def __init__(self, proxies: Pairs | None, know: Callable[[str], None]) -> None:
        self._session = requests.Session()
        if proxies is not None:
            self._session.trust_env = False
            self._session.proxies = {scheme: url.reveal() for scheme, url in proxies}
        self._know = know
        self._transport: Any = None

    def __enter__(self) -> Self:
        try:
            from google.auth.transport.requests import Request  # noqa: PLC0415 - an extra
        except ImportError:  # credentials of the application's own kind
            return self
        self._transport = Request(self._session)
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    @property
    def request(self) -> Any:
        """What `refresh` takes; `None` without google-auth."""
        return None if self._transport is None else self._ask

    def _ask(
        self,
        url: str,
        method: str = "GET",
        body: Any = None,
        headers: Any = None,
        timeout: float | None = None,
        **more: Any,
    ) -> Any:
        if isinstance(body, bytes | str):
            text = body.decode("latin-1") if isinstance(body, bytes) else body
            for name, value in parse_qsl(text[: 1 << 16]):
                if len(value) >= _LONG and name not in ("grant_type", "scope", "audience"):
                    self._know(value)
        within = _ASK_WITHIN if timeout is None else min(timeout, _ASK_WITHIN)
        return self._transport(url=url, method=method, body=body, headers=headers, timeout=within, **more)


def _headers_of(credentials: Any) -> dict[str, Secret]:
    """Return the headers for the present token; none where there is no token."""
    headers: dict[str, str] = {}
    if getattr(credentials, "token", None) is None:
        return {}
    if hasattr(credentials, "apply"):
        credentials.apply(headers)
    else:
        headers["authorization"] = f"Bearer {credentials.token}"
        project = getattr(credentials, "quota_project_id", None)
        if project:
            headers["x-goog-user-project"] = project
    return {name: Secret(str(value)) for name, value in headers.items()}


def _end_of(credentials: Any) -> float:
    """Return when the token runs out, in seconds since the epoch; google-auth writes it as UTC without a zone."""
    expiry = getattr(credentials, "expiry", None)
    if expiry is None:
        return math.inf
    if not isinstance(expiry, dt.datetime):
        raise MissingCredentialsError(
            f"the credentials' expiry must be a datetime, not {type(expiry).__name__}"
        )
    return (expiry if expiry.tzinfo else expiry.replace(tzinfo=dt.UTC)).timestamp()


# -- one source for equal arguments ----------------------------------------------------------------------------------

_lock = threading.Lock()
_sources: weakref.WeakValueDictionary[Hashable, TokenSource] = weakref.WeakValueDictionary()
_default_sources: weakref.WeakValueDictionary[Hashable, DefaultSource] = weakref.WeakValueDictionary()
_numbers = itertools.count(1)


def source_of(credentials: Any, proxies: Pairs | None) -> TokenSource:
    """Return the source of a credentials object; the same one as long as it is in use."""
    key = id(credentials), proxies  # the source holds the object, so no other one has its id meanwhile
    with _lock:
        source = _sources.get(key)
        if source is None:
            source = TokenSource(lambda _: credentials, f"credentials {next(_numbers)}", proxies)
            _sources[key] = source
        return source


class _Default:
    """Application-default credentials, loaded once."""

    def __init__(self) -> None:
        self.loaded: tuple[Any, str | None] | None = None

    def __call__(self, asking: Any) -> Any:
        """Load them, with requests of `asking`."""
        return self.load(asking.request)[0]

    def load(self, request: Any = None) -> tuple[Any, str | None]:
        """Return the credentials and their project; raises `MissingCredentialsError`."""
        if self.loaded is None:
            self.loaded = _load_default(request)
        return self.loaded


class DefaultSource(TokenSource):
    """The tokens of application-default credentials."""

    def __init__(self, fingerprint: str, proxies: Pairs | None) -> None:
        self._default = _Default()
        super().__init__(self._default, fingerprint, proxies)
        self._finding: Fetch | None = None
        self._finding_since = 0.0
        self._finding_until = 0.0  # what a slow one has failed of is told until then

    def project(self) -> str | None:
        """Return the project that they belong to, where they say so; waits at most `_LOOK` seconds.

        Raises `MissingCredentialsError`, and `ConnectionFailedError` where no thread can be started to find them.
        """
        found = self._default.loaded
        if found is None:
            finding, began = self._find()
            done = threading.Event()
            finding.add(done.set)
            if not done.wait(max(0.0, began + _LOOK - time.monotonic())):
                raise MissingCredentialsError(
                    f"no application-default credentials were found within {_LOOK:g} s (does a metadata server not"
                    f" answer?): pass VertexAI(project=..., credentials=...), or {_HINT}",
                    retryable=True,
                )
            finding.check()
            found = self._default.load()
        return found[1]

    def _find(self) -> tuple[Fetch, float]:
        """Have a thread find them, one for all that ask; return what is waited for, and when that thread began."""
        with self._lock:
            now, finding = time.monotonic(), self._finding
            if finding is None or now >= self._finding_until:
                finding = self._finding = Fetch()
                self._finding_since, self._finding_until = now, math.inf
                thread = threading.Thread(
                    target=self._found, args=(finding,), name="gemini-streams-credentials", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:
                    self._finding = None
                    raise ConnectionFailedError("no thread can be started to find credentials") from None
            return finding, self._finding_since

    def _found(self, finding: Fetch) -> None:
        why, retryable = None, False
        try:
            self._default.load()
        except BaseException as error:  # noqa: BLE001 - google-auth's, whatever it is; told to all that wait
            why, retryable = self._told(error)
        with self._lock:
            now = time.monotonic()
            self._finding_until = now + (_PAUSE if now - self._finding_since > _LOOK else 0.0)
        finding.finish(why, retryable=retryable)


def default_source(env: Environment, proxies: Pairs | None) -> DefaultSource:
    """Return the source of the application-default credentials.

    Raises `MissingCredentialsError` where this machine can tell that there are none: no google-auth, or a file that is
    not there or wrong. Else the fetching thread finds them.
    """
    file = env.get("GOOGLE_APPLICATION_CREDENTIALS") or ""
    home = env.get("CLOUDSDK_CONFIG") or str(Path("~/.config/gcloud").expanduser())
    key = file, home, proxies
    with _lock:
        source = _default_sources.get(key)
        if source is None:
            source = _default_sources[key] = DefaultSource(f"default {file} {next(_numbers)}", proxies)
    if file or (Path(home) / "application_default_credentials.json").is_file():
        source.project()
    else:
        _google_auth()
    return source


def _google_auth() -> Any:
    try:
        import google.auth  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingCredentialsError(
            "application-default credentials need google-auth: pip install 'gemini-streams[vertex]', or pass"
            " VertexAI(credentials=...) or VertexAI(api_key=...)"
        ) from None
    return google.auth


def _load_default(request: Any) -> tuple[Any, str | None]:
    auth = _google_auth()
    try:
        found: tuple[Any, str | None] = auth.default(scopes=[SCOPE], request=request)
    except auth.exceptions.GoogleAuthError as error:
        text = in_words(str(error.args[0]) if error.args else "", lambda text: text)
        retryable = isinstance(error, auth.exceptions.TransportError)
    else:
        return found
    raise MissingCredentialsError(f"no application-default credentials: {text}; {_HINT}", retryable=retryable)


def _after_fork_in_child() -> None:
    """A fetching thread of the parent's does not run here, and may have held a lock."""
    global _lock  # noqa: PLW0603 - a lock of the child's own
    _lock = threading.Lock()
    _sources.clear()
    _default_sources.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
