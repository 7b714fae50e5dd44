"""Endpoints: where requests go, what is refused, and that nothing shows the key."""

from __future__ import annotations

import copy
import http.server
import pickle
import threading
import traceback
from typing import TYPE_CHECKING, Any

import pytest
import requests
from google import genai
from hypothesis import given
from hypothesis import strategies as st

from gemini_streams.api.checks import DEFAULT_BASE_URL
from gemini_streams.api.endpoint import Gemini, Target
from gemini_streams.api.secret import Secret
from gemini_streams.errors import GeminiStreamsError, InvalidRequestError, MissingCredentialsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KEY = "AIzaSy-the-key-that-nobody-sees"
PASSWORD = "proxy-password-nobody-sees"
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def target(**options: Any) -> Target:
    return Gemini(**{"api_key": KEY, **options}).resolve({})


# -- the key -------------------------------------------------------------------------------------------------


def revealed(values: Mapping[str, str | Secret]) -> dict[str, str]:
    return {k: v.reveal() if isinstance(v, Secret) else v for k, v in values.items()}


def key_of(found: Target) -> str:
    return revealed(found.headers())["x-goog-api-key"]


@pytest.mark.parametrize(
    ("environ", "key"),
    [
        ({"GOOGLE_API_KEY": "a", "GEMINI_API_KEY": "b"}, "a"),
        ({"GEMINI_API_KEY": "b"}, "b"),
        ({"GOOGLE_API_KEY": "", "GEMINI_API_KEY": "b"}, "b"),
        ({"GOOGLE_API_KEY": " a\n"}, "a"),
    ],
)
def test_the_key_comes_from_where_google_genai_takes_it(
    environ: dict[str, str], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "GOOGLE_API_KEY",
        "GEMINI_API_KEY",
        "GOOGLE_GENAI_USE_VERTEXAI",
        "GOOGLE_GENAI_USE_ENTERPRISE",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with genai.Client() as client:
        assert client._api_client.api_key == key
    assert key_of(Gemini().resolve(environ)) == key
    assert key_of(Gemini().resolve()) == key
    assert key_of(Gemini(api_key="mine").resolve(environ)) == "mine"


@pytest.mark.parametrize(
    "environ", [{}, {"GOOGLE_API_KEY": ""}, {"GOOGLE_API_KEY": " \n", "GEMINI_API_KEY": ""}]
)
def test_a_missing_key_says_which_variables_to_set(environ: dict[str, str]) -> None:
    with pytest.raises(MissingCredentialsError, match=r"GOOGLE_API_KEY or GEMINI_API_KEY.*Gemini\(api_key="):
        Gemini().resolve(environ)


@pytest.mark.parametrize("key", ["", "  "])
def test_an_empty_key_is_not_replaced_by_the_environments(key: str) -> None:
    with pytest.raises(MissingCredentialsError, match="api_key is empty"):
        Gemini(api_key=key).resolve({"GOOGLE_API_KEY": "somebody else's"})


@pytest.mark.parametrize(
    "key", ["a\nb", "a\r\nX: y", "a b", "a\x00b", "kéy", "a\u200bb", "“key”", "\ud800", "a\x7f"]
)
def test_a_key_that_no_header_can_carry(key: str) -> None:
    for endpoint, environ in ((Gemini(api_key=key), {}), (Gemini(), {"GEMINI_API_KEY": key})):
        with pytest.raises(InvalidRequestError, match="copy it again") as caught:
            endpoint.resolve(environ)
        assert key not in str(caught.value)


def test_a_key_of_another_type() -> None:
    with pytest.raises(InvalidRequestError, match="api_key must be a string, not bytes"):
        Gemini(api_key=KEY.encode()).resolve({})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_GENAI_USE_ENTERPRISE"])
def test_the_developer_api_is_the_developer_api_whatever_the_environment_asks_for(name: str) -> None:
    assert Gemini().resolve({name: "true", "GOOGLE_API_KEY": KEY}).base_url == DEFAULT_BASE_URL


# -- the base URL --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        (None, DEFAULT_BASE_URL),
        ("https://gateway.test/", "https://gateway.test"),
        ("HTTPS://Gateway.Test:8443/gemini/v2//", None),
        ("https://gateway.test:8443/Gemini/", "https://gateway.test:8443/Gemini"),
        ("HTTPS://Gateway.Test", "https://gateway.test"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://127.9.9.9", "http://127.9.9.9"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
        ("http://localhost", "http://localhost"),
        ("http://api.localhost:1", "http://api.localhost:1"),
        ("https://under_score.test", "https://under_score.test"),
    ],
)
def test_base_urls(base_url: str | None, url: str | None) -> None:
    if url is None:
        with pytest.raises(InvalidRequestError):
            target(base_url=base_url)
        return
    assert target(base_url=base_url).base_url == url
    assert Gemini(api_key=KEY).resolve({"GOOGLE_GEMINI_BASE_URL": base_url or ""}).base_url == url
    found = target(base_url=base_url).model_url("gemini-x")
    assert found == f"{url}/v1beta/models/gemini-x"


@pytest.mark.parametrize(
    ("base_url", "argument", "variable", "root"),
    [
        (None, None, None, f"{DEFAULT_BASE_URL}/v1beta"),
        (None, None, "", f"{DEFAULT_BASE_URL}/v1beta"),
        (None, None, "v1", f"{DEFAULT_BASE_URL}/v1"),
        (None, None, "beta", f"{DEFAULT_BASE_URL}/v1beta"),
        (None, "v1alpha", "v1", f"{DEFAULT_BASE_URL}/v1alpha"),
        ("https://gateway.test/gemini", None, "v1beta2", "https://gateway.test/gemini/v1beta2"),
        ("https://gateway.test/v1beta", None, None, "https://gateway.test/v1beta"),
        ("https://gateway.test/gemini/v1/", None, "v1beta", "https://gateway.test/gemini/v1"),
        ("https://gateway.test/v1", "v1", None, "https://gateway.test/v1"),
        ("https://gateway.test/v1/gemini", "v1alpha", None, "https://gateway.test/v1/gemini/v1alpha"),
    ],
)
def test_the_version_is_the_base_urls_or_the_arguments_or_the_environments(
    base_url: str | None, argument: str | None, variable: str | None, root: str
) -> None:
    environ = {} if variable is None else {"GOOGLE_GENAI_API_VERSION": variable}
    found = Gemini(api_key=KEY, base_url=base_url, api_version=argument).resolve(environ)
    assert found.model_url("gemini-x") == f"{root}/models/gemini-x"
    if base_url is not None:
        environ["GOOGLE_GEMINI_BASE_URL"] = base_url
        assert Gemini(api_key=KEY, api_version=argument).resolve(environ) == found


@pytest.mark.parametrize(
    "version", ["", "beta", "v", "v1/..", "../v1", "v1beta/", "V1", "v1 ", "1", 1, "v" * 999]
)
def test_a_version_that_cannot_be_one_is_refused(version: Any) -> None:
    with pytest.raises(InvalidRequestError, match="api_version must be a version like") as refusal:
        Gemini(api_key=KEY, api_version=version).resolve({})
    assert len(str(refusal.value)) < 200
    if isinstance(version, str) and version not in ("", "beta"):
        with pytest.raises(InvalidRequestError, match="GOOGLE_GENAI_API_VERSION must be"):
            Gemini(api_key=KEY).resolve({"GOOGLE_GENAI_API_VERSION": version})


def test_two_versions_are_one_too_many() -> None:
    with pytest.raises(InvalidRequestError, match="ends in 'v1beta': give one of the two"):
        Gemini(api_key=KEY, base_url="https://gateway.test/v1beta", api_version="v1").resolve({})


def test_a_version_is_part_of_the_value() -> None:
    one, other = Gemini(api_version="v1"), Gemini(api_version="v1beta")
    assert one != other
    assert pickle.loads(pickle.dumps(one)) == one == copy.deepcopy(one)
    assert repr(one) == "Gemini(api_version='v1')"


def test_an_endpoint_may_have_a_model_of_its_own() -> None:
    endpoint = Gemini(api_key=KEY, model="gemini-x")
    assert endpoint != Gemini(api_key=KEY)
    assert repr(endpoint) == "Gemini(api_key='***', model='gemini-x')"
    assert endpoint.resolve({}).model == "gemini-x"
    assert endpoint.resolve({}) == Gemini(api_key=KEY).resolve({})
    with pytest.raises(InvalidRequestError, match="is no model name"):
        Gemini(api_key=KEY, model="../x").resolve({})


BAD_URLS = [
    ("", "no scheme or no host"),
    ("generativelanguage.googleapis.com", "no scheme or no host"),
    ("//host.test", "no scheme or no host"),
    ("https://", "no scheme or no host"),
    ("https:///path", "no scheme or no host"),
    ("https://:443", "no scheme or no host"),
    ("localhost:8080", "no scheme or no host"),
    ("ftp://host.test", "no scheme or no host"),
    ("file:///etc/passwd", "no scheme or no host"),
    ("https://host.test?x=1", "query or a fragment"),
    ("https://host.test/?", "query or a fragment"),
    ("https://host.test/#f", "query or a fragment"),
    (f"https://user:{PASSWORD}@host.test", "user name or password"),
    (f"https://{PASSWORD}@host.test/?x", "user name or password"),
    ("https://host.test:port", "no URL"),
    ("https://host.test:99999", "no URL"),
    ("https://host.test:0", "no URL"),
    ("https://[::1", "no URL"),
    ("https://host test", "no URL"),
    ("https://host.test/a\nb", "no URL"),
    ("https://host.test\r\n", "no URL"),
    ("https://host.test\\@evil.test", "no URL"),
    ("https://höst.test", "no URL"),
    ("https://host..test", "cannot be one"),
    ("https://-host.test", "cannot be one"),
    ("https://*.test", "cannot be one"),
    ("https://" + "a" * 64 + ".test", "cannot be one"),
    ("https://" + "a." * 130 + "test", "cannot be one"),
    ("https://host.test/a/../b", "path"),
    ("https://host.test/%2e%2e/", "path"),
    ("https://host.test/a//b", "path"),
]


@pytest.mark.parametrize(("base_url", "says"), BAD_URLS)
def test_base_urls_that_cannot_be_right(base_url: str, says: str) -> None:
    for endpoint, environ in (
        (Gemini(api_key=KEY, base_url=base_url), {}),
        (Gemini(api_key=KEY), {"GOOGLE_GEMINI_BASE_URL": base_url}),
    ):
        if not base_url and environ:
            continue  # an empty variable is one that is not set
        with pytest.raises(InvalidRequestError, match=says) as caught:
            endpoint.resolve(environ)
        assert "https://generativelanguage.googleapis.com" in str(caught.value)
        assert PASSWORD not in str(caught.value)
        assert PASSWORD not in repr(endpoint)


def test_a_base_url_of_another_type() -> None:
    with pytest.raises(InvalidRequestError, match="base_url must be a string, not int"):
        target(base_url=5)


@pytest.mark.parametrize(
    "host", ["gateway.test", "10.0.0.1", "0.0.0.0", "localhost.evil.test", "[2001:db8::1]", "127.0.0.1.test"]
)
def test_a_key_over_plain_http_to_another_machine_has_to_be_asked_for(host: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"unencrypted.*allow_plain_http=True"):
        target(base_url=f"http://{host}")
    assert target(base_url=f"http://{host}", allow_plain_http=True).base_url == f"http://{host}"
    assert target(base_url=f"https://{host}").host


# -- the model -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-flash-latest", "models/gemini-flash-latest"),
        ("gemini-2.5-pro", "models/gemini-2.5-pro"),
        ("models/gemini-x", "models/gemini-x"),
        ("tunedModels/my-model_1", "tunedModels/my-model_1"),
        ("a", "models/a"),
    ],
)
def test_models(model: str, path: str) -> None:
    assert target().model_url(model) == f"{DEFAULT_BASE_URL}/v1beta/{path}"


BAD_MODELS: list[Any] = [
    "", " ", "gemini x", "gemini-x ", " gemini-x", "..", "a..b", "models/../x", "/x", "x/", "models/", "models//x",
    "models/a/b", "other/x", "a?b", "a&b", "a#b", "a%2e", "a:b", "a\\b", "a\nb", "a\n", "a\tb", "a\x00", "modèle",
    "a;b", "a\u2028b",
    "." , "-x", "x" * 201, None, 5, b"gemini-x", "projects/p/models/x", "@x", "models/models/x",
]  # fmt: skip


@pytest.mark.parametrize("model", BAD_MODELS)
def test_names_that_can_be_no_models(model: Any) -> None:
    with pytest.raises(
        InvalidRequestError, match="is no model name: give one like 'gemini-flash-latest'"
    ) as caught:
        target().model_url(model)
    assert len(str(caught.value)) < 300
    with pytest.raises(InvalidRequestError):
        target().quota_key(model)


@given(st.text())
def test_no_name_leads_to_another_path(model: str) -> None:
    base = f"{DEFAULT_BASE_URL}/v1beta/"
    try:
        url = target().model_url(model)
    except InvalidRequestError:
        return
    prepared = requests.Request("POST", url).prepare().url
    assert prepared == url
    assert url.startswith((base + "models/", base + "tunedModels/"))
    assert url.count("/") == 5


# -- headers -------------------------------------------------------------------------------------------------


@pytest.fixture
def echo() -> Iterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """A server that keeps the request lines and headers it gets."""
    got: list[tuple[str, dict[str, str]]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            got.append((self.path, dict(self.headers.items())))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", got
        server.shutdown()
        thread.join()


def post(found: Target) -> None:
    with requests.Session() as session:
        session.trust_env = False
        session.post(
            found.model_url("gemini-x"),
            data=b"{}",
            headers=revealed(found.headers()),
            proxies=revealed(found.proxies),
            timeout=20,
        )


def test_headers_arrive_as_they_are(echo: tuple[str, list[Any]]) -> None:
    url, got = echo
    headers = {"Authorization": "Bearer b-token", "user-agent": "mine/1", "X-Team": "blue ü"}
    post(target(base_url=url, headers=headers))
    path, sent = got[0]
    assert path == "/v1beta/models/gemini-x"
    assert sent["x-goog-api-key"] == KEY
    assert sent["Content-Type"] == "application/json"
    assert sent["Accept"] == "text/event-stream"
    assert sent["Accept-Encoding"] == "identity"
    assert sent["User-Agent"] == "mine/1"
    assert sent["Authorization"] == "Bearer b-token"
    assert sent["X-Team"] == "blue ü"
    assert sent["x-goog-api-client"].startswith("gemini-streams/")


def test_proxies_arrive_as_they_are(echo: tuple[str, list[Any]]) -> None:
    url, got = echo
    found = target(
        base_url="http://gateway.test",
        allow_plain_http=True,
        proxies={"http": url.replace("//", f"//me:{PASSWORD}@")},
    )
    post(found)
    path, sent = got[0]
    assert path == "http://gateway.test/v1beta/models/gemini-x"
    assert sent["Proxy-Authorization"].startswith("Basic ")
    assert PASSWORD not in repr(found.proxies)


BAD_HEADERS: list[tuple[Any, str]] = [
    ({"X-A": "a\r\nX-B: b"}, "X-A"),
    ({"X-A": "a\nb"}, "X-A"),
    ({"X-A": "a\x00"}, "X-A"),
    ({"X-A": " a"}, "X-A"),
    ({"X-A": "a "}, "X-A"),
    ({"X-A": "€"}, "X-A"),
    ({"X-A": 5}, "X-A must be a string"),
    ({"X-A": None}, "X-A must be a string"),
    ({"X A": "a"}, "name"),
    ({"X-A\r\n": "a"}, "name"),
    ({"": "a"}, "name"),
    ({"X-ü": "a"}, "name"),
    ({5: "a"}, "name"),
    ({"X-A": "a", "x-a": "b"}, "given twice"),
    ({"X-Goog-Api-Key": "k"}, "pass api_key="),
    ({"accept": "*/*"}, "set by the stream itself"),
    ({"Content-Length": "5"}, "set by the stream itself"),
    ({"Transfer-Encoding": "chunked"}, "set by the stream itself"),
    ("X-A: a", "must be a dict"),
    ([("X-A", "a")], "must be a dict"),
]


@pytest.mark.parametrize(("headers", "says"), BAD_HEADERS)
def test_headers_that_cannot_be_sent(headers: Any, says: str) -> None:
    endpoint = Gemini(api_key=KEY, headers=headers)
    with pytest.raises(InvalidRequestError, match=says):
        endpoint.resolve({})


# -- proxies and certificates --------------------------------------------------------------------------------


def plain(found: Target) -> dict[str, str]:
    return revealed(found.proxies)


def test_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", "gateway.test,10.0.0.0/8")
    assert plain(target())["https"] == "http://proxy.test:3128"
    assert plain(target(base_url="https://gateway.test")) == {}
    assert plain(target(base_url="https://sub.gateway.test")) == {}
    assert plain(target(base_url="https://10.1.2.3")) == {}
    assert plain(target(proxies={})) == {}
    assert plain(target(proxies={"https": "http://other.test:1"})) == {"https": "http://other.test:1"}


def test_this_machine_is_reached_without_the_environments_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("ALL_PROXY", "http://proxy.test:3128")
    for host in ("127.0.0.1:8080", "localhost", "[::1]"):
        assert plain(target(base_url=f"http://{host}")) == {}


def test_a_proxy_elsewhere_gets_no_key_in_plain() -> None:
    proxies = {"http": "http://proxy.test:3128"}
    with pytest.raises(InvalidRequestError, match="The proxy is not this machine"):
        target(base_url="http://localhost", proxies=proxies)
    assert plain(target(base_url="http://localhost", proxies=proxies, allow_plain_http=True)) == proxies


@pytest.mark.parametrize(
    "proxies",
    [
        {"https": ""},
        {"https": 5},
        {"https": None},
        {5: "http://p:1"},
        {"https": "p q"},
        "http://p:1",
        [1],
        {"https": "http://p:99999"},
    ],
)
def test_proxies_that_cannot_be_right(proxies: Any) -> None:
    with pytest.raises(InvalidRequestError, match="proxies must map schemes to URLs"):
        target(proxies=proxies)


def test_certificates() -> None:
    assert target().verify is True
    assert target(verify=False).verify is False
    assert target(verify="/ca.pem").verify == "/ca.pem"
    environ = {"REQUESTS_CA_BUNDLE": "/r.pem", "CURL_CA_BUNDLE": "/c.pem"}
    assert Gemini(api_key=KEY).resolve(environ).verify == "/r.pem"
    assert Gemini(api_key=KEY).resolve({"CURL_CA_BUNDLE": "/c.pem"}).verify == "/c.pem"
    assert Gemini(api_key=KEY, verify=False).resolve(environ).verify is False
    assert Gemini(api_key=KEY, verify="/mine.pem").resolve(environ).verify == "/mine.pem"
    for wrong in ("", None, 1, b"/ca.pem"):
        with pytest.raises(InvalidRequestError, match="verify must be"):
            target(verify=wrong)


# -- values --------------------------------------------------------------------------------------------------


def full() -> Gemini:
    return Gemini(
        api_key=KEY,
        base_url="https://gateway.test/x",
        headers={"Authorization": f"Bearer {PASSWORD}", "X-Team": "blue"},
        proxies={"https": f"http://me:{PASSWORD}@proxy.test:1"},
        verify="/ca.pem",
    )


def test_endpoints_and_targets_are_values() -> None:
    assert full() == full()
    assert hash(full()) == hash(full())
    assert full() != Gemini(api_key=KEY)
    assert Gemini() == Gemini()
    assert Gemini(api_key="a") != Gemini(api_key="b")
    assert copy.copy(full()) == full()
    assert copy.deepcopy(full()) == full()
    assert full().resolve({}) == full().resolve({})
    assert hash(full().resolve({})) == hash(full().resolve({}))
    with pytest.raises(AttributeError):
        Gemini().base_url = "https://x"
    with pytest.raises(AttributeError):
        target().base_url = "https://x"


def test_what_can_be_shared() -> None:
    assert target().pool_key == target(api_key="other").pool_key
    assert target().pool_key != target(verify=False).pool_key
    assert target().pool_key != target(base_url="https://gateway.test").pool_key
    assert target().pool_key != target(proxies={"https": "http://p.test:1"}).pool_key
    assert target().quota_key("x") == target().quota_key("models/x")
    assert target().quota_key("x") != target().quota_key("y")
    assert target().quota_key("x") != target(api_key="other").quota_key("x")


def test_nothing_shows_a_secret() -> None:
    endpoint = full()
    found = endpoint.resolve({})
    shown = [
        *(
            f(o)
            for f in (repr, str, "{}".format, "%r".__mod__)
            for o in (endpoint, found, Secret(KEY), found.headers(), found.proxies)
        ),
        repr(found.pool_key),
        repr(found.quota_key("x")),
        repr(endpoint.api_key),
        str(found.headers()["x-goog-api-key"]),
        f"{found.headers()['x-goog-api-key']}",
        "%s" % found.headers()["Authorization"],  # noqa: UP031 - one more way to show it
        repr(endpoint._headers),
        repr(found.scrub),
    ]
    assert not [s for s in shown if KEY in s or PASSWORD in s]
    assert "gateway.test/x" in repr(endpoint)
    assert "Authorization" in repr(endpoint)


def test_nothing_with_a_secret_is_pickled() -> None:
    found = full().resolve({})
    for thing in (full(), Gemini(headers={"A": "b"}), found, found.headers(), Secret(KEY)):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError):
                pickle.dumps(thing, protocol)
    plain_one = Gemini(base_url="https://gateway.test", verify=False)
    assert pickle.loads(pickle.dumps(plain_one)) == plain_one


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": "nowhere"},
        {"base_url": f"https://me:{PASSWORD}@x.test"},
        {"headers": {"X-Key": PASSWORD + "\n"}},
        {"headers": [PASSWORD]},
        {"proxies": {"https": f"http://me:{PASSWORD}@p:99999"}},
        {"api_key": KEY + "\n" + KEY},
        {"verify": 5},
        {"base_url": "http://x.test"},
    ],
)
def test_no_error_and_no_frame_of_it_shows_a_secret(options: dict[str, Any]) -> None:
    endpoint = Gemini(**{"api_key": KEY, **options})
    with pytest.raises(GeminiStreamsError) as caught:
        endpoint.resolve({"GEMINI_API_KEY": KEY, "GOOGLE_API_KEY": KEY})
    error = caught.value
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][1:]
    assert frames
    for frame in frames:
        assert KEY not in repr(frame.f_locals)
        assert PASSWORD not in repr(frame.f_locals) or "given" in frame.f_locals or "text" in frame.f_locals
    assert KEY.encode() not in pickle.dumps(error)
    assert PASSWORD not in str(error)
    assert error.__context__ is None


# -- scrubbing -----------------------------------------------------------------------------------------------


def test_scrubbing() -> None:
    scrub = full().resolve({}).scrub
    assert scrub(f"bad key {KEY}, {KEY}!") == "bad key [key], [key]!"
    assert scrub({KEY: [{"a": f"x{KEY}x"}, 1, None, True, 2.5]}) == {
        "[key]": [{"a": "x[key]x"}, 1, None, True, 2.5]
    }
    assert scrub(f"token Bearer {PASSWORD}") == "token [key]"
    assert scrub(f"http://me:{PASSWORD}@proxy") == "http://me:[key]@proxy"
    assert scrub("the blue team") == "the blue team"


def test_scrubbing_a_short_key_leaves_words_alone() -> None:
    scrub = target(api_key="k").scrub
    assert scrub("k is a key like k") == "[key] is a key like [key]"
    assert scrub("kk k-k ok") == "kk k-k ok"
