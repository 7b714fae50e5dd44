"""Bad input: each ends in the error that docs/errors.md names, at the right place, saying what to do."""

from __future__ import annotations

import datetime as dt
import logging
import pydoc
import re
from typing import Any

import msgspec
import pytest

from conftest import StartManager
from gemini_streams import (
    ConnectionFailedError,
    FlowControl,
    FromEnvironment,
    Gemini,
    InvalidRequestError,
    ManagerActor,
    ManagerOptions,
    MissingCredentialsError,
    RetryPolicy,
    StartStream,
    StreamComplete,
    StreamOptions,
)
from gemini_streams.options import Settings
from gemini_streams.testing import LocalGemini, Raw
from kit.helpers import ONCE, error_of, last_of
from pykka_supervisor import SYSTEM_CLOCK
from pykka_supervisor.testing import Probe


def recursive() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


WRONG_URLS: list[Any] = [
    "generativelanguage.googleapis.com",
    "//host",
    "ftp://host",
    "http://generativelanguage.googleapis.com",
    "http://192.0.2.1",
    "https://",
    "https://host/?x=1",
    "https://host/../x",
    "https://user:pass@host",
    "https://ho st",
    "https://host:99999",
    5,
    [],
]
NO_BUNDLE: Any = []
WRONG_CONFIGS: list[Any] = [
    5,
    "x",
    [],
    {"http_options": {"timeout": 5}},
    {"tools": [print]},
    {"temperature": object()},
    {"temperature": float("inf")},
    {"automatic_continuation": 7},
    {5: 6},
]

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    # the model's name
    **{
        f"model {name!r}": ({"model": name}, "no model name: give one like")
        for name in (
            "models/../secrets",
            "../x",
            "a?b",
            "a&b",
            "a#b",
            "a b",
            "",
            " ",
            "a\nb",
            "models/",
            "a/b/c",
            "a%2fb",
            "ä",
            5,
            None,
            b"x",
        )
    },
    # contents
    **{
        f"contents {contents!r:.20}": ({"contents": contents}, "contents")
        for contents in (
            "",
            None,
            [],
            [""],
            {},
            [{}],
            {"role": "user"},
            {"role": "user", "parts": []},
            {"parts": "x"},
            5,
            object(),
            [5],
            b"x",
            {"text": 5},
            {"neither": "a part"},
        )
    },
    # what is no JSON
    **{
        f"not serialisable {number}": ({"contents": contents}, "contents")
        for number, contents in enumerate(
            (
                {"role": "user", "parts": [{"function_call": {"name": "f", "args": {"x": object()}}}]},
                {"role": "user", "parts": [{"function_call": {"name": "f", "args": {"x": float("nan")}}}]},
                {"role": "user", "parts": [{"function_call": {"name": "f", "args": {"x": recursive()}}}]},
                {"role": "user", "parts": [{"text": "\ud800"}]},
                recursive(),
            )
        )
    },
    # the config
    **{f"config {config!r:.30}": ({"config": config}, "config") for config in WRONG_CONFIGS},
    # times
    **{
        f"{name}={value!r}": ({name: value}, name)
        for name in ("idle_timeout", "first_event_timeout", "deadline", "keep")
        for value in (0, 0.0, -1, float("nan"), float("inf"), "5", True, dt.timedelta(seconds=5), None)
        if not (name == "deadline" and value is None) and not (name == "keep" and value == 0)
    },
    **{f"history={value!r}": ({"history": value}, "history") for value in (-1, 1.5, "x", None, True)},
    "retry": ({"retry": 3}, "RetryPolicy"),
    "flow": ({"flow": 3}, "FlowControl"),
    # where to
    "endpoint": ({"endpoint": "https://x"}, "endpoint"),
    "no endpoint": ({"endpoint": None}, "endpoint"),
    **{
        f"base_url {url!r:.30}": ({"endpoint": Gemini(api_key="k", base_url=url)}, "base_url|unencrypted")
        for url in WRONG_URLS
    },
    "headers": ({"endpoint": Gemini(api_key="k", headers={"a\nb": "c"})}, "headers"),
    "a header's value": ({"endpoint": Gemini(api_key="k", headers={"a": "b\r\nc: d"})}, "headers"),
    "the key's header": ({"endpoint": Gemini(api_key="k", headers={"x-goog-api-key": "b"})}, "api_key"),
    "proxies": ({"endpoint": Gemini(api_key="k", proxies={"https": "nonsense"})}, "proxies"),
    "verify": ({"endpoint": Gemini(api_key="k", verify=NO_BUNDLE)}, "verify"),
    "a key with a line end": ({"endpoint": Gemini(api_key="a\r\nb")}, "API key.*copy it again"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_at_the_asker(
    gemini: LocalGemini, manager: StartManager, probe: Probe, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    options, says = REFUSED[name]
    options = dict(options)
    contents = options.pop("contents", "hello")
    ref = manager()
    with pytest.raises(InvalidRequestError) as refusal:
        ref.start_stream(contents, subscriber=probe.ref, timeout=20, **options)
    assert re.search(says, str(refusal.value)), str(refusal.value)
    assert isinstance(refusal.value, ValueError)
    assert not refusal.value.retryable
    assert caplog.records == []  # who asked was told; nobody else need be

    ref.tell(StartStream(contents, subscriber=probe.ref, **options))
    assert ref.list_streams() == []
    [line] = caplog.records
    assert line.levelno == logging.WARNING
    assert "request_refused" in line.getMessage()

    ref.start_stream("hello", subscriber=probe.ref)
    assert isinstance(last_of(probe), StreamComplete)
    assert len(gemini.requests) == 1


AT_THE_START: dict[str, dict[str, Any]] = {
    **{
        f"{name}={value!r}": {name: value}
        for name in ("connect_timeout", "idle_timeout", "first_event_timeout", "deadline")
        for value in (0, -1, "x", float("nan"))
    },
    **{f"linger={value!r}": {"linger": value} for value in (-1, None, "x")},
    **{f"shutdown={value!r}": {"shutdown": value} for value in (-1, None, "x")},
    **{f"max_streams={value!r}": {"max_streams": value} for value in (0, -1, 1.5, None, "x", True)},
    **{f"max_waiting={value!r}": {"max_waiting": value} for value in (-1, None)},
    **{f"max_event_bytes={value!r}": {"max_event_bytes": value} for value in (0, None)},
    "retry": {"retry": 4},
    "flow": {"flow": None},
    "endpoint": {"endpoint": None},
}


@pytest.mark.parametrize("name", AT_THE_START)
@pytest.mark.parametrize("how", ["start", "child_spec"])
def test_a_manager_that_cannot_be_right_fails_at_its_start(name: str, how: str) -> None:
    option = name.partition("=")[0]
    with pytest.raises(InvalidRequestError, match=option if "=" in name else "must be"):
        getattr(ManagerActor, how)(**AT_THE_START[name])


@pytest.mark.parametrize(
    "name",
    [name for name, (options, _) in REFUSED.items() if options.keys() <= set(ManagerOptions.__annotations__)],
)
@pytest.mark.parametrize("how", ["start", "child_spec"])
def test_a_default_that_every_stream_would_be_refused_for_is_refused_at_the_start(
    name: str, how: str
) -> None:
    options, says = REFUSED[name]
    with pytest.raises(InvalidRequestError, match=says):
        getattr(ManagerActor, how)(**options)


def test_a_key_may_be_missing_at_the_start(
    gemini: LocalGemini, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stream may have an endpoint of its own."""
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "nonsense")
    given: list[ManagerOptions] = [{}, {"endpoint": Gemini(base_url=gemini.url)}]
    for options in given:
        ref = ManagerActor.start(**options)
        with pytest.raises((MissingCredentialsError, InvalidRequestError)):
            ref.start_stream("hello", subscriber=probe.ref)
        ref.start_stream("hello", subscriber=probe.ref, endpoint=gemini.endpoint)
        assert isinstance(last_of(probe), StreamComplete)
        ref.stop()


def test_an_unknown_option_is_pythons_own_error(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    with pytest.raises(TypeError, match="idle_time"):
        ManagerActor.start(idle_time=5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="idle_time"):
        manager().start_stream("hello", subscriber=probe.ref, idle_time=5)  # type: ignore[call-arg]


def test_the_options_are_typed_and_help_names_them() -> None:
    """One list of them: the keys and defaults that a type checker and `help()` show are those that hold."""
    fields = {field.name: field for field in msgspec.structs.fields(Settings)}
    assert set(ManagerOptions.__annotations__) == set(fields)
    names = {
        "RetryPolicy": RetryPolicy,
        "FlowControl": FlowControl,
        "Gemini": Gemini,
        "FromEnvironment": FromEnvironment,
        "SYSTEM_CLOCK": SYSTEM_CLOCK,
    }
    told: dict[str, Any] = {}
    for options in (StreamOptions, ManagerOptions):
        found = re.findall(r"(?m)^ *(\w+) \((.*)\): ", options.__doc__ or "")
        told |= {name: eval(default, names) for name, default in found}
    assert told == {name: field.default for name, field in fields.items()}
    assert "Unpack[ManagerOptions]" in pydoc.plain(pydoc.render_doc(ManagerActor.start))
    assert "idle_timeout (30.0)" in pydoc.plain(pydoc.render_doc(StreamOptions))


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        (RetryPolicy, {"attempts": 0}),
        (RetryPolicy, {"attempts": 1.5}),
        (RetryPolicy, {"initial_delay": -1}),
        (RetryPolicy, {"max_delay": float("nan")}),
        (RetryPolicy, {"exp_base": 0.5}),
        (RetryPolicy, {"jitter": "x"}),
        (RetryPolicy, {"total_time": 0}),
        (RetryPolicy, {"on_partial": "perhaps"}),
        (RetryPolicy, {"retryable": 5}),
        (FlowControl, {"window": 0}),
        (FlowControl, {"max_bytes": 0}),
        (FlowControl, {"overflow": "explode"}),
        (FlowControl, {"stall_timeout": 0}),
    ],
)
def test_a_policy_that_cannot_be_right_is_refused_where_it_is_written(
    policy: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequestError, match=next(iter(options))):
        policy(**options)


@pytest.fixture
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "GOOGLE_API_KEY",
        "GEMINI_API_KEY",
        "GOOGLE_GENAI_USE_VERTEXAI",
        "GOOGLE_GENAI_USE_ENTERPRISE",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_key")
@pytest.mark.parametrize("endpoint", [Gemini(), Gemini(api_key=""), Gemini(api_key="  ")])
def test_a_missing_key(gemini: LocalGemini, manager: StartManager, probe: Probe, endpoint: Gemini) -> None:
    """Told when a stream is asked for: the manager may have other endpoints' streams to run."""
    ref = manager(endpoint=endpoint)
    for _ in range(2):
        with pytest.raises(MissingCredentialsError, match=r"api_key|GEMINI_API_KEY"):
            ref.start_stream("hello", subscriber=probe.ref)
    ref.start_stream("hello", subscriber=probe.ref, endpoint=gemini.endpoint)
    assert isinstance(last_of(probe), StreamComplete)


@pytest.mark.usefixtures("no_key")
def test_a_key_that_is_set_later_is_found(
    gemini: LocalGemini, manager: StartManager, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = manager(endpoint=Gemini(base_url=gemini.url))
    with pytest.raises(MissingCredentialsError):
        ref.start_stream("hello", subscriber=probe.ref)
    monkeypatch.setenv("GEMINI_API_KEY", "local-key")
    ref.start_stream("hello", subscriber=probe.ref)
    assert isinstance(last_of(probe), StreamComplete)


def test_a_wrong_key_is_the_servers_word(gemini: LocalGemini, manager: StartManager, probe: Probe) -> None:
    ref = manager(endpoint=Gemini(api_key="another", base_url=gemini.url))
    ref.start_stream("hello", subscriber=probe.ref)
    error = error_of(probe)
    assert error.code == 400
    assert "API key not valid" in error.message
    assert len(gemini.requests) == 1


def test_an_unreachable_host(gemini: LocalGemini, manager: StartManager, probe: Probe) -> None:
    ref = manager(retry=ONCE)
    ref.start_stream(
        "hello", subscriber=probe.ref, endpoint=Gemini(api_key="k", base_url=gemini.refused_url())
    )
    error = error_of(probe)
    assert isinstance(error, ConnectionFailedError)
    assert "127.0.0.1" in str(error)


def test_a_100_continue_is_passed_over(gemini: LocalGemini, manager: StartManager, probe: Probe) -> None:
    event = b'data: {"candidates":[{"finishReason":"STOP"}]}\r\n\r\n'
    gemini.on(
        "why",
        Raw(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%s"
            % (len(event), event)
        ),
    )
    ref = manager(retry=ONCE)
    ref.start_stream("why", subscriber=probe.ref)
    assert isinstance(last_of(probe), StreamComplete)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(
    gemini: LocalGemini, manager: StartManager, probe: Probe, status: int
) -> None:
    with LocalGemini() as elsewhere:
        location = f"{elsewhere.url}/v1beta/models/gemini-test:streamGenerateContent?alt=sse"
        gemini.on(
            "why",
            Raw(b"HTTP/1.1 %d Go\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, location.encode())),
        )
        ref = manager()
        ref.start_stream("why", subscriber=probe.ref)
        assert "redirect" in str(error_of(probe))
        assert elsewhere.connections_opened == 0
    assert len(gemini.requests) == 1


def test_a_cookie_is_not_kept(gemini: LocalGemini, manager: StartManager, probe: Probe) -> None:
    event = b'data: {"candidates":[{"finishReason":"STOP"}]}\r\n\r\n'
    gemini.on(
        "why",
        Raw(
            b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%s"
            % (len(event), event),
            close="keep",
        ),
    )
    ref = manager(retry=ONCE)
    for _ in range(2):
        ref.start_stream("why", subscriber=probe.ref)
        assert isinstance(probe.expect(StreamComplete), StreamComplete)
    assert all("cookie" not in record.headers for record in gemini.requests)
