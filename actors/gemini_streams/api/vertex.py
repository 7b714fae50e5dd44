"""VertexAI: Gemini in Google Cloud, by a project and a location, or by an API key in Express mode.

The rules, google-genai's own where docs/endpoints.md names no difference:

- A key and credentials exclude each other. What is given as an argument beats what stands in the environment: a given
  key beats the environment's project and location, a given project or location beats the environment's key. Where both
  stand in the environment, the project wins.
- A key without a project is Express mode: the global host, and no project in the path.
- The location is `global` where nothing names one.
- `global` and Express mode have the global host, `us` and `eu` a host of several regions, each other location its own.
- A base URL of one's own keeps the path of the project and the location.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from gemini_streams.api.checks import (
    Environment,
    checked_base,
    checked_cert,
    checked_headers,
    checked_location,
    checked_project,
    checked_proxies,
    checked_verify,
    checked_version,
    normal_url,
    refuse_plain_http,
)
from gemini_streams.api.credentials import Credentials, NoCredentials, api_key_of, checked_key, key_of
from gemini_streams.api.endpoint import Service, Target
from gemini_streams.api.secret import Pairs, Secret, hidden
from gemini_streams.api.tokens import DefaultSource, default_source, source_of
from gemini_streams.api.value import plain_path, plain_paths
from gemini_streams.errors import InvalidRequestError, MissingCredentialsError

__all__ = ["VertexAI"]

_VERSION = "v1beta1"
_SEVERAL_REGIONS = frozenset({"us", "eu"})


class VertexAI(Service):
    """Gemini in Vertex AI.

    Immutable, equal and hashable by value; credentials are equal to themselves alone. One that holds credentials, an
    `api_key`, headers or proxies does not pickle.

    Args:
        project: By default `GOOGLE_CLOUD_PROJECT`, then that of the credentials.
        location: By default `GOOGLE_CLOUD_LOCATION`, then `global`.
        credentials: An object with google-auth's interface. By default the application-default credentials, which need
            the extra `vertex`.
        api_key: A key in place of credentials. Without a project: Express mode.
        base_url: By default `GOOGLE_VERTEX_BASE_URL`, then Google's host of the location. May have a path.
        api_version: By default `GOOGLE_GENAI_API_VERSION`, then `v1beta1`. Not for a base URL that ends in a version.
        model: What this endpoint is asked for, whatever model the stream or the manager names.
        headers: More request headers. With an `Authorization` among them no credentials are looked for.
        proxies: As in requests; access tokens are asked for through them, too.
        verify: Whether certificates are verified, or the path of a certificate bundle.
        cert: A client certificate, as in requests.

    """

    __slots__ = (
        "_headers",
        "_proxies",
        "api_key",
        "api_version",
        "base_url",
        "cert",
        "credentials",
        "location",
        "model",
        "project",
        "verify",
    )

    _fields: ClassVar[tuple[str, ...]] = (
        "project",
        "location",
        "credentials",
        "api_key",
        "base_url",
        "api_version",
        "model",
        "_headers",
        "_proxies",
        "verify",
        "cert",
    )
    _defaults: ClassVar[dict[str, Any]] = {"verify": True}
    _secrets: ClassVar[frozenset[str]] = frozenset({"api_key", "credentials"})

    project: str | None
    location: str | None
    credentials: Any
    api_key: Secret | None
    base_url: str | None
    api_version: str | None
    model: str | None
    verify: bool | str
    cert: str | tuple[str, str] | None
    _headers: Pairs | str | None
    _proxies: Pairs | str | None

    def __init__(
        self,
        project: str | None = None,
        location: str | None = None,
        credentials: Any = None,
        api_key: str | Secret | None = None,
        base_url: str | None = None,
        api_version: str | None = None,
        model: str | None = None,
        headers: Mapping[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
        verify: bool | str = True,  # noqa: FBT001, FBT002 - the name requests gave it, and its default
        cert: str | tuple[str, str] | None = None,
    ) -> None:
        self._put(
            project=project,
            location=location,
            credentials=credentials,
            api_key=Secret(api_key) if isinstance(api_key, str) else api_key,
            base_url=base_url,
            api_version=api_version,
            model=model,
            _headers=hidden(headers),
            _proxies=hidden(proxies),
            verify=plain_path(verify),
            cert=plain_paths(cert),
        )

    def _identity(self) -> tuple[object, ...]:
        # An application's own `__eq__` may take its time, and targets are looked up under locks.
        own = [getattr(self, name) for name in self._fields if name != "credentials"]
        return (*own, None if self.credentials is None else id(self.credentials))

    def __reduce__(self) -> tuple[Any, ...]:
        if self.credentials is not None:
            raise TypeError("credentials are not pickled; load them where they are needed")
        return super().__reduce__()

    def resolve(self, environ: Mapping[str, str] | None = None) -> Target:
        """Answer where requests go, from the arguments and the environment.

        Where neither names a project, the application-default credentials are loaded to name it. On a machine of Google
        Cloud this asks the machine's metadata server, for which the calling thread waits 3 s at most. `environ` stands
        in for the process's environment in all but the proxies and those credentials.

        Raises:
            MissingCredentialsError: no credentials, or no project.
            InvalidRequestError: a value that cannot be right.

        """
        env = Environment(os.environ if environ is None else environ)
        del environ  # a traceback that shows locals would show the whole of it
        headers = checked_headers(self._headers)
        project, location, credentials = self._found(env, headers)
        vertex = f"projects/{project}/locations/{location}" if project is not None else ""
        default = f"https://{_host(location if project is not None else 'global')}"
        base = checked_base(self.base_url, env, "GOOGLE_VERTEX_BASE_URL", default)
        proxies = checked_proxies(self._proxies, base)
        refuse_plain_http(base, proxies, allowed=False)
        version = checked_version(self.api_version, base, env, _VERSION)
        verify, cert = checked_verify(self.verify, env), checked_cert(self.cert)
        target = Target(
            normal_url(base),
            credentials,
            headers,
            proxies,
            verify,
            version,
            cert,
            model=self.model,
            vertex=vertex,
        )
        if target.model is not None:
            target.model_path(target.model)
        return target

    def _found(self, env: Environment, headers: Pairs) -> tuple[str | None, str, Credentials]:
        """Return the project, `None` in Express mode, the location, and the credentials."""
        own_project, own_location = checked_project(self.project), checked_location(self.location)
        own_headers = any(name.lower() == "authorization" for name, _ in headers)
        if self.credentials is not None and (self.api_key is not None or own_headers):
            raise InvalidRequestError(
                "VertexAI takes one of credentials=, api_key= and a header Authorization"
            )
        own_key = None if self.api_key is None else checked_key(self.api_key)
        if own_key is not None and not own_key:
            raise MissingCredentialsError("api_key is empty; pass VertexAI(api_key=...) a key, or none")
        project = own_project or checked_project(env.get("GOOGLE_CLOUD_PROJECT"))
        location = own_location or checked_location(env.get("GOOGLE_CLOUD_LOCATION"))
        key = own_key
        if own_key is not None:
            if own_project is own_location is None:
                project = location = None
        elif self.credentials is None and not own_headers and project is location is None:
            key = key_of(env)
        if key is not None:
            return project, location or "global", api_key_of(key)
        given = None if not isinstance(self._proxies, tuple) else self._proxies
        credentials: Credentials
        if own_headers:
            credentials = NoCredentials()
        elif self.credentials is not None:
            credentials = source_of(self.credentials, given)
        else:
            credentials = default_source(env, given)
        if project is None and self.credentials is not None:
            project = checked_project(getattr(self.credentials, "project_id", None))
        if project is None:
            project = self._project_of(credentials, env, given)
        return project, location or "global", credentials

    def _project_of(self, credentials: Credentials, env: Environment, given: Pairs | None) -> str:
        source = credentials if isinstance(credentials, DefaultSource) else default_source(env, given)
        project = checked_project(source.project())
        if project is None:
            raise MissingCredentialsError(
                "no Google Cloud project: pass VertexAI(project=...) or set GOOGLE_CLOUD_PROJECT; the"
                " application-default credentials name none"
            )
        return project


def _host(location: str) -> str:
    if location == "global":
        return "aiplatform.googleapis.com"
    if location in _SEVERAL_REGIONS:
        return f"aiplatform.{location}.rep.googleapis.com"
    return f"{location}-aiplatform.googleapis.com"
