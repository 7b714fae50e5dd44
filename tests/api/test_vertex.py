"""VertexAI: where requests go, with whose credentials, and what is refused."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from gemini_streams import Gemini, InvalidRequestError, MissingCredentialsError, VertexAI
from gemini_streams.api.secret import Secret

KEY = "AQ.the-express-key-nobody-sees"


class Own:
    """Credentials with google-auth's interface, and no google-auth."""

    token = "the-token-nobody-sees"
    expiry = None

    def refresh(self, request: Any) -> None:
        raise AssertionError("it has a token")

    def __eq__(self, other: object) -> bool:
        raise AssertionError("credentials are not compared")

    __hash__ = None  # type: ignore[assignment]


OWN = Own()
P = {"GOOGLE_CLOUD_PROJECT": "env-project"}
L = {"GOOGLE_CLOUD_LOCATION": "europe-west4"}
K = {"GOOGLE_API_KEY": KEY}
GLOBAL = "https://aiplatform.googleapis.com/v1beta1"
GOOGLE = "publishers/google/models/gemini-x"
EXPRESS = f"{GLOBAL}/{GOOGLE}"


def at(project: str, location: str, host: str | None = None) -> str:
    host = host or f"{location}-aiplatform.googleapis.com"
    return f"https://{host}/v1beta1/projects/{project}/locations/{location}/{GOOGLE}"


@pytest.mark.parametrize(
    ("arguments", "environ", "url"),
    [
        ({"project": "p1", "location": "us-central1"}, {}, at("p1", "us-central1")),
        ({"project": "p1"}, {}, at("p1", "global", "aiplatform.googleapis.com")),
        ({"project": "p1", "location": "us"}, {}, at("p1", "us", "aiplatform.us.rep.googleapis.com")),
        ({"project": "p1", "location": "eu"}, {}, at("p1", "eu", "aiplatform.eu.rep.googleapis.com")),
        ({}, {**P, **L}, at("env-project", "europe-west4")),
        ({"project": "p1"}, {**P, **L}, at("p1", "europe-west4")),
        ({"location": "us-east1"}, {**P, **L, **K}, at("env-project", "us-east1")),
        ({"project": "p1", "location": "us"}, K, at("p1", "us", "aiplatform.us.rep.googleapis.com")),
        ({}, {**P, **K}, at("env-project", "global", "aiplatform.googleapis.com")),
        ({"api_key": KEY}, {}, EXPRESS),
        ({"api_key": KEY}, {**P, **L}, EXPRESS),
        ({"api_key": KEY, "location": "us-east1"}, {}, EXPRESS),
        ({"api_key": KEY, "project": "p1", "location": "us-east1"}, {}, at("p1", "us-east1")),
        ({}, K, EXPRESS),
        (
            {"project": "p1", "location": "us", "base_url": "https://gateway.test/ai"},
            {},
            f"https://gateway.test/ai/v1beta1/projects/p1/locations/us/{GOOGLE}",
        ),
        (
            {"base_url": "https://gateway.test/v1/"},
            {**P, **L},
            f"https://gateway.test/v1/projects/env-project/locations/europe-west4/{GOOGLE}",
        ),
        ({"api_key": KEY, "api_version": "v1"}, {}, f"https://aiplatform.googleapis.com/v1/{GOOGLE}"),
        ({"api_key": KEY}, {"GOOGLE_GENAI_API_VERSION": "beta"}, EXPRESS),
        ({"api_key": KEY}, {"GOOGLE_VERTEX_BASE_URL": "https://v.test"}, f"https://v.test/v1beta1/{GOOGLE}"),
        ({"api_key": KEY}, {"GOOGLE_GEMINI_BASE_URL": "https://v.test"}, EXPRESS),
    ],
)
def test_where_a_request_goes(arguments: dict[str, Any], environ: dict[str, str], url: str) -> None:
    if "api_key" not in arguments and not (environ.keys() & K.keys() and url == EXPRESS):
        arguments = {**arguments, "credentials": OWN}
    found = VertexAI(**arguments).resolve(environ)
    assert found.model_url("gemini-x") == found.model_url("models/gemini-x") == url
    keyed = {name: value.reveal() for name, value in found.headers().items() if isinstance(value, Secret)}
    assert keyed == ({} if "credentials" in arguments else {"x-goog-api-key": KEY})


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("google/gemini-x", f"projects/p1/locations/us/{GOOGLE}"),
        ("anthropic/claude-x", "projects/p1/locations/us/publishers/anthropic/models/claude-x"),
        ("publishers/meta/models/llama-x", "projects/p1/locations/us/publishers/meta/models/llama-x"),
        ("endpoints/123", "projects/p1/locations/us/endpoints/123"),
        ("projects/p2/locations/us-east1/endpoints/1", "projects/p2/locations/us-east1/endpoints/1"),
    ],
)
def test_names_of_models(model: str, path: str) -> None:
    found = VertexAI("p1", "us", OWN).resolve({})
    assert found.model_url(model) == f"https://aiplatform.us.rep.googleapis.com/v1beta1/{path}"


@pytest.mark.parametrize(
    "model",
    ["", "a b", "../x", "a/../b", "tunedModels/x", "publishers/x", "projects/p", "x?y", "x#y", 5, None],
)
def test_names_that_can_be_no_models(model: Any) -> None:
    with pytest.raises(InvalidRequestError, match="is no model name"):
        VertexAI("p1", "us", OWN).resolve({}).model_url(model)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"project": "a/b"}, "project must be"),
        ({"project": "p?"}, "project must be"),
        ({"project": 5}, "project must be"),
        ({"project": "p", "location": "US/x"}, "location must be"),
        ({"project": "p", "location": "evil.test/"}, "location must be"),
        ({"project": "p", "api_key": KEY}, "one of credentials="),
        ({"project": "p", "headers": {"authorization": "Bearer x"}}, "one of credentials="),
        ({"project": "p", "base_url": "http://gateway.test"}, "unencrypted"),
        ({"project": "p", "model": "tunedModels/x"}, "is no model name"),
        ({"project": "p", "api_version": "1"}, "api_version must be"),
    ],
)
def test_what_cannot_be_right(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        VertexAI(**{"credentials": OWN, **arguments}).resolve({})


def test_a_key_that_is_empty_or_no_string() -> None:
    with pytest.raises(MissingCredentialsError, match="api_key is empty"):
        VertexAI(api_key=" ").resolve(K)
    with pytest.raises(InvalidRequestError, match="api_key must be a string"):
        VertexAI(api_key=KEY.encode()).resolve({})  # type: ignore[arg-type]


def test_a_header_of_ones_own_stands_in_place_of_credentials() -> None:
    found = VertexAI("p1", "us", base_url="https://v.test", headers={"Authorization": "Bearer mine"}).resolve(
        {}
    )
    headers = {name: str(value) for name, value in found.headers().items()}
    assert headers["Authorization"] == "Secret(***)"
    assert found.credentials.fetching() is None


def test_endpoints_are_values() -> None:
    one, other = VertexAI("p1", "us", OWN), VertexAI("p1", "us", OWN)
    assert one == other == copy.deepcopy(one)
    assert hash(one) == hash(other)
    assert one != VertexAI("p1", "us", Own())
    assert one != VertexAI("p2", "us", OWN)
    assert VertexAI() != Gemini()
    assert one.resolve({}).identity == other.resolve({}).identity
    assert one.resolve({}).identity != VertexAI("p1", "us", Own()).resolve({}).identity
    assert one.resolve({}).identity != VertexAI("p2", "us", OWN).resolve({}).identity
    assert one.resolve({}) == other.resolve({})
    with pytest.raises(AttributeError, match="VertexAI is immutable"):
        one.project = "p2"


def test_nothing_shows_a_secret() -> None:
    one = VertexAI(credentials=OWN, project="p1")
    assert repr(one) == "VertexAI(project='p1', credentials='***')"
    assert KEY not in repr(VertexAI(api_key=KEY))
    for endpoint in (one, VertexAI(api_key=KEY), one.resolve({})):
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(endpoint)
    plain = VertexAI("p1", "us")
    assert pickle.loads(pickle.dumps(plain)) == plain


# -- application-default credentials ---------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nothing.json"))
    with pytest.raises(MissingCredentialsError, match=r"no application-default credentials: .*nothing\.json"):
        VertexAI("p1", "us").resolve()
    (tmp_path / "nothing.json").write_text("{}")
    with pytest.raises(MissingCredentialsError, match="no application-default credentials"):
        VertexAI("p1", "us").resolve()


def test_no_credentials_and_no_project_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    with pytest.raises(MissingCredentialsError, match="gcloud auth application-default login"):
        VertexAI().resolve()


def test_without_google_auth_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setitem(sys.modules, "google.auth", None)
    with pytest.raises(MissingCredentialsError, match=r"pip install 'gemini-streams\[vertex\]'"):
        VertexAI("p1", "us").resolve()
    assert VertexAI("p1", "us", OWN).resolve({}).vertex == "projects/p1/locations/us"
