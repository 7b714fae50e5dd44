"""The endpoint of the environment and of the same arguments is google-genai's own: host, path, credentials.

google-genai's real client sends its request into a transport that catches it. `DIFFERENCES` has every difference with
its reason; a row that explains nothing fails, and so does a difference that no row explains.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import google.auth
import google.oauth2.credentials
import httpx2 as httpx
import pytest
from google import genai
from google.genai import types

from gemini_streams import GeminiStreamsError, VertexAI
from gemini_streams.api.endpoint import Endpoint, Gemini
from gemini_streams.api.environment import FromEnvironment
from gemini_streams.api.secret import Secret
from kit.tokens import token_server

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

REPLY = b'data: {"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP"}]}\n\n'
GATEWAY = "https://gateway.test"
KNOWN = (
    "GOOGLE_API_KEY",
    "GEMINI_API_KEY",
    "GOOGLE_GENAI_USE_VERTEXAI",
    "GOOGLE_GENAI_USE_ENTERPRISE",
    "GOOGLE_CLOUD_PROJECT",
    "GOOGLE_CLOUD_LOCATION",
    "GOOGLE_GENAI_API_VERSION",
    "GOOGLE_GEMINI_BASE_URL",
    "GOOGLE_VERTEX_BASE_URL",
    "GOOGLE_CLOUD_QUOTA_PROJECT",
    "CLOUDSDK_CONFIG",
)


class Case(NamedTuple):
    environ: dict[str, str]
    arguments: dict[str, Any]

    @property
    def vertex(self) -> bool:
        return self.environ.get("GOOGLE_GENAI_USE_VERTEXAI", "").lower() in ("true", "1")

    @property
    def own_base(self) -> bool:
        return "GOOGLE_VERTEX_BASE_URL" in self.environ

    def has(self, *names: str) -> bool:
        return all(name in self.arguments for name in names)

    @property
    def project(self) -> bool:
        """Whether a project is named that counts: a key that is given alone beats the environment's."""
        alone = self.has("api_key") and not self.has("location")
        return self.has("project") or ("GOOGLE_CLOUD_PROJECT" in self.environ and not alone)

    @property
    def location(self) -> bool:
        alone = self.has("api_key") and not self.has("project")
        return self.has("location") or ("GOOGLE_CLOUD_LOCATION" in self.environ and not alone)


Differs = Callable[[Case], bool]
DIFFERENCES: dict[str, Differs] = {
    "Where only the environment asks for Vertex AI, google-genai takes its base URL from GOOGLE_GEMINI_BASE_URL, and"
    " not from GOOGLE_VERTEX_BASE_URL: a base URL is for its own service here": (
        lambda case: (
            case.vertex
            and not case.arguments
            and ("GOOGLE_GEMINI_BASE_URL" in case.environ or "GOOGLE_VERTEX_BASE_URL" in case.environ)
        )
    ),
    "A base URL of one's own keeps the path of the project and the location; google-genai drops the whole path unless"
    " both are given as arguments, or a key": (
        lambda case: (
            case.vertex and case.own_base and not case.has("project", "location") and not case.has("api_key")
        )
    ),
    "A key and a location without a project are Express mode; google-genai asks for projects/None": (
        lambda case: case.vertex and case.has("api_key") and case.location and not case.project
    ),
    "A key and a project without a location mean the location global; google-genai asks for locations/None": (
        lambda case: case.vertex and case.has("api_key") and case.project and not case.location
    ),
    "The Developer API is v1beta, where google-genai takes v1: the default model's alias exists only there": (
        lambda case: not case.vertex and "GOOGLE_GENAI_API_VERSION" not in case.environ
    ),
}


class Sent(NamedTuple):
    url: str
    headers: dict[str, str]


def interesting(headers: Any) -> dict[str, str]:
    names = ("x-goog-api-key", "authorization", "x-goog-user-project")
    return {name.lower(): value for name, value in headers.items() if name.lower() in names}


def googles(case: Case) -> Sent | None:
    """What google-genai sends; `None` where it refuses."""
    caught: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        caught.append(request)
        return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=REPLY)

    # verify=False: each would load the authorities' certificates, and nothing is connected.
    options = types.HttpOptions(
        httpx_client=httpx.Client(transport=httpx.MockTransport(answer), verify=False),
        httpx_async_client=httpx.AsyncClient(transport=httpx.MockTransport(answer), verify=False),
    )
    try:
        chosen: dict[str, Any] = {"vertexai": True} if case.arguments and case.vertex else {}
        client = genai.Client(http_options=options, **chosen, **case.arguments)
        for _ in client.models.generate_content_stream(model="gemini-x", contents="hi"):
            pass
    except ValueError:
        return None
    return Sent(str(caught[0].url), interesting(caught[0].headers))


def ours(case: Case) -> Sent | None:
    endpoint: Endpoint
    if not case.arguments:
        endpoint = FromEnvironment()
    else:
        endpoint = VertexAI(**case.arguments) if case.vertex else Gemini(**case.arguments)
    try:
        found = endpoint.resolve()
        while (fetch := found.credentials.fetching()) is not None:
            done = threading.Event()
            fetch.add(done.set)
            assert done.wait(20)
            fetch.check()
    except GeminiStreamsError:
        return None
    headers = {n: v.reveal() if isinstance(v, Secret) else v for n, v in found.headers().items()}
    url = f"{found.model_url('gemini-x')}:streamGenerateContent?alt=sse"
    return Sent(url, interesting(headers))


def combinations(**choices: tuple[str | None, ...]) -> Iterator[dict[str, str]]:
    for values in itertools.product(*choices.values()):
        yield {name: value for name, value in zip(choices, values, strict=True) if value is not None}


ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"api_key": "given-key"},
    {"project": "given-project"},
    {"location": "us-east1"},
    {"project": "given-project", "location": "us-east1"},
    {"project": "given-project", "location": "global"},
    {"project": "given-project", "location": "eu"},
    {"api_key": "given-key", "location": "us-east1"},
    {"api_key": "given-key", "project": "given-project"},
    {"api_key": "given-key", "project": "given-project", "location": "us-east1"},
    {"credentials": "given"},
    {"credentials": "given", "api_key": "given-key"},
    {"credentials": "given", "project": "given-project", "location": "us-east1"},
]


def cases(arguments: dict[str, Any]) -> Iterator[Case]:
    for environ in combinations(
        GOOGLE_API_KEY=(None, "google-key"),
        GEMINI_API_KEY=(None, "gemini-key"),
        GOOGLE_GENAI_USE_VERTEXAI=(None, "True"),
        GOOGLE_CLOUD_PROJECT=(None, "env-project"),
        GOOGLE_CLOUD_LOCATION=(None, "europe-west4"),
    ):
        yield Case(environ, arguments)
    for environ in combinations(
        GOOGLE_API_KEY=(None, " google-key\n"),
        GOOGLE_GENAI_USE_VERTEXAI=("1",),
        GOOGLE_CLOUD_PROJECT=(None, "env-project"),
        GOOGLE_GENAI_API_VERSION=(None, "v1", "beta"),
        GOOGLE_GEMINI_BASE_URL=(None, GATEWAY),
        GOOGLE_VERTEX_BASE_URL=(None, f"{GATEWAY}/v"),
    ):
        yield Case(environ, arguments)
    for environ in combinations(
        GOOGLE_API_KEY=(None, "google-key"),
        GOOGLE_GENAI_USE_VERTEXAI=("TRUE", "false", "yes", ""),
        GOOGLE_GENAI_API_VERSION=("v1", "beta"),
        GOOGLE_GEMINI_BASE_URL=(None, GATEWAY),
    ):
        if not arguments.keys() - {"api_key"}:
            yield Case(environ, arguments)


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with token_server() as server:
        yield server.account(tmp_path_factory.mktemp("account"), "file-project")


@pytest.fixture
def enter(
    account: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Callable[[Case], None]:
    """Make the environment that of a case."""
    caplog.set_level(logging.ERROR)

    def enter(case: Case) -> None:
        for name in KNOWN:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", account)
        for name, value in case.environ.items():
            monkeypatch.setenv(name, value)

    return enter


def possible(arguments: dict[str, Any]) -> Iterator[Case]:
    kind: Any = google.oauth2.credentials.Credentials
    if "credentials" in arguments:
        arguments = {**arguments, "credentials": kind("given-token", quota_project_id="who-pays")}
    for case in cases(arguments):
        if case.vertex or not case.arguments.keys() - {"api_key"}:  # `Gemini` has no other of them
            yield case


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(
            each, marks=[] if each in ARGUMENTS[:2] else pytest.mark.long, id="+".join(each) or "none"
        )
        for each in ARGUMENTS
    ],
)
def test_where_a_request_goes_and_with_whose_credentials(
    arguments: dict[str, Any], enter: Callable[[Case], None]
) -> None:
    wrong: list[str] = []
    for case in possible(arguments):
        enter(case)
        theirs, own = googles(case), ours(case)
        if theirs != own and not any(differs(case) for differs in DIFFERENCES.values()):
            wrong.append(f"{case.environ} {list(case.arguments)}:\n    {theirs}\n    {own}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("reason", DIFFERENCES)
def test_each_row_is_a_difference(reason: str, enter: Callable[[Case], None]) -> None:
    for case in itertools.chain.from_iterable(map(possible, ARGUMENTS)):
        if [row for row, differs in DIFFERENCES.items() if differs(case)] == [reason]:
            enter(case)
            if googles(case) != ours(case):
                return
    raise AssertionError("google-genai does the same")


@pytest.mark.parametrize("newer", ["true", "0"])
def test_the_switchs_newer_name_comes_first(newer: str, enter: Callable[[Case], None]) -> None:
    switches = {
        "GOOGLE_GENAI_USE_ENTERPRISE": newer,
        "GOOGLE_GENAI_USE_VERTEXAI": "false" if newer == "true" else "1",
    }
    case = Case({"GOOGLE_API_KEY": "google-key", "GOOGLE_GENAI_API_VERSION": "v1", **switches}, {})
    enter(case)
    sent = ours(case)
    assert sent == googles(case)
    assert sent is not None
    assert ("aiplatform" in sent.url) is (newer == "true")
