"""Each row of the table in docs/errors.md, on a real connection and with one attempt."""

from __future__ import annotations

import copy
import errno
import gc
import pickle
import re
import resource
import socket
import ssl
import threading
import time
import types
from collections.abc import Callable
from typing import Any

import pytest
import trustme

import gemini_streams
from conftest import StartManager
from gemini_streams import (
    APIError,
    ConnectionFailedError,
    ConnectionLostError,
    EventTooLargeError,
    Gemini,
    GeminiStreamsError,
    MalformedEventError,
    RetryPolicy,
    StreamComplete,
    StreamError,
    StreamTruncatedError,
    UnexpectedResponseError,
)
from gemini_streams.testing import Body, Failure, LocalGemini, Raw, Reply
from kit.helpers import ONCE, error_of, events_of, last_of
from pykka_supervisor.testing import Probe

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = SSE + b"Transfer-Encoding: chunked\r\n\r\n"
ONE = b'data: {"candidates":[{"content":{"parts":[{"text":"one"}]}}]}\r\n\r\n'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def response(status: str, body: bytes = b"", **headers: str) -> Raw:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status}\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
    return Raw(head.encode() + body)


class Row:
    """What a server does, and the error that it is to become."""

    def __init__(
        self,
        answer: Any,
        error: type[GeminiStreamsError],
        *,
        retryable: bool,
        says: str,
        events: int = 0,
        config: Any = None,
    ) -> None:
        self.answer = answer
        self.error = error
        self.retryable = retryable
        self.says = says
        self.events = events
        self.config = config


def lost(answer: Any, says: str = "closed|reset|lost", events: int = 0) -> Row:
    return Row(answer, ConnectionLostError, retryable=True, says=says, events=events)


def odd(answer: Any, says: str, events: int = 0) -> Row:
    return Row(answer, UnexpectedResponseError, retryable=False, says=says, events=events)


def truncated(answer: Any, says: str, events: int = 0) -> Row:
    return Row(answer, StreamTruncatedError, retryable=True, says=says, events=events)


def api(status: int, *, retryable: bool, says: str = "told to answer") -> Row:
    return Row(Failure(status), APIError, retryable=retryable, says=f"{status}.*{says}")


HTML = b"<html><head><title>Welcome to the hotel</title></head><body>Sign in</body></html>"
REDIRECT = "https://elsewhere.example/"

ROWS: dict[str, Row] = {
    # a clean end that is none
    "no finishReason": truncated(Reply("one two", finish_reason=None), "neither a finishReason", 2),
    "no event": truncated(Reply("", finish_reason=None), "without a single event"),
    "half an event": truncated(Reply("one two three", end_after=2, half=True), "middle of an event", 2),
    "half an event, by length": truncated(Body(ONE + ONE[:30], framing="length"), "middle of an event", 1),
    "CONTINUATION without a token": truncated(
        Reply("one two", finish_reason="CONTINUATION"), "CONTINUATION and no token", 2
    ),
    # what the server says
    **{f"HTTP {status}": api(status, retryable=True, says="") for status in (408, 429, 500, 502, 503, 504)},
    **{
        f"HTTP {status}": api(status, retryable=False)
        for status in (400, 401, 403, 404, 409, 413, 418, 422, 499, 501, 505, 599)
    },
    "a daily quota": Row(
        Failure(429, quota_id="GenerateRequestsPerDayPerProject"), APIError, retryable=False, says="^429"
    ),
    "an error in a 200 stream": Row(
        Reply("one two", error_after=(1, Failure(503, "overloaded"))),
        APIError,
        retryable=True,
        says="503 UNAVAILABLE: overloaded",
        events=1,
    ),
    "a bare error in a 200 stream": Row(
        Reply("one two", error_after=(1, Failure(500, "oh no")), error_bare=True),
        APIError,
        retryable=True,
        says="500 INTERNAL: oh no",
        events=1,
    ),
    "a fatal error in a 200 stream": Row(
        Reply("one two", error_after=(1, Failure(400, "bad part"))),
        APIError,
        retryable=False,
        says="400 INVALID_ARGUMENT: bad part",
        events=1,
    ),
    "an error as JSON with status 200": Row(
        response("200 OK", b'{"error": {"code": 503, "message": "busy"}}', Content_Type="application/json"),
        APIError,
        retryable=True,
        says="busy",
    ),
    "an error page of a proxy": Row(
        response("502 Bad Gateway", b"<html><title>nginx says no</title></html>", Content_Type="text/html"),
        APIError,
        retryable=True,
        says="502.*nginx says no",
    ),
    "an error without a body": Row(
        response("503 Unavailable"), APIError, retryable=True, says="503.*empty body"
    ),
    # the connection breaks
    "reset before the headers": lost(Raw(b"", close="reset")),
    "closed before the headers": lost(Raw(b"", close="fin")),
    "closed in the headers": Row(
        Raw(b"HTTP/1.1 200 OK\r\nContent-Ty", close="reset"), ConnectionLostError, retryable=True, says="."
    ),
    "early hints and no answer": lost(
        Raw(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"), "without an answer"
    ),
    "reset between events": lost(Reply("one two three", end="reset", end_after=2, pace=0.01), events=2),
    "closed between events": lost(Reply("one two three", end="cut", end_after=2, pace=0.01), events=2),
    "closed in an event": lost(
        Reply("one two three", end="cut", end_after=2, half=True, pace=0.01), events=2
    ),
    "too short a body": lost(Raw(SSE + b"Content-Length: 999\r\n\r\n" + ONE), events=1),
    "closed in a chunk": lost(Raw(CHUNKED + b"999\r\n" + ONE), events=1),
    "closed in gzip": lost(Body(ONE * 3, gzip=True, end="cut", end_after=2, pace=0.01), events=2),
    "no chunk where one should be": lost(
        Raw([CHUNKED + chunk(ONE), 0.05, b"zzz\r\n\r\n"]), "chunks are broken", 1
    ),
    # no event stream
    "HTML": odd(Body(HTML, content_type="text/html"), "text/html.*base URL"),
    "JSON": odd(Body(b'{"candidates": []}', content_type="application/json"), "application/json.*base URL"),
    "204": odd(response("204 No Content"), "204"),
    "switching protocols": odd(Raw(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n"), "101"),
    **{
        f"redirect {status}": odd(response(f"{status} Moved", Location=REDIRECT), "redirect.*base URL")
        for status in (301, 302, 303, 307, 308)
    },
    "no HTTP": odd(Raw(b"SSH-2.0-OpenSSH_9.6\r\n"), "no HTTP"),
    "a broken coding": odd(
        Raw(SSE + b"Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot gzip!"), "content coding"
    ),
    # events that are none
    "no JSON": Row(
        Body(ONE + b"data: {not json\r\n\r\n"), MalformedEventError, retryable=False, says="event 1", events=1
    ),
    "no object": Row(Body(b"data: 5\r\n\r\n"), MalformedEventError, retryable=False, says="no JSON object"),
    "nested too deep": Row(
        Body(b'data: {"a":' + b"[" * 500 + b"]" * 500 + b"}\r\n\r\n"),
        MalformedEventError,
        retryable=False,
        says="nested deeper than 500",
    ),
    "[DONE] and nothing else": Row(
        Body(b"data: [DONE]\r\n\r\n"), StreamTruncatedError, retryable=True, says="without a single event"
    ),
    "a JSON array": Row(
        Body(b'[{"candidates": []}\n,\n{"candidates": []}]'),
        UnexpectedResponseError,
        retryable=False,
        says="alt=sse",
    ),
    "a page that is labelled as an event stream": Row(
        Body(b"\r\n<!DOCTYPE html><title>Sign in</title>"),
        UnexpectedResponseError,
        retryable=False,
        says="page of HTML",
    ),
    "too large": Row(
        Body(ONE + b'data: {"x": "' + b"y" * 70000 + b'"}\r\n\r\n'),
        EventTooLargeError,
        retryable=False,
        says="max_event_bytes=65536",
        events=1,
    ),
    "too large, without an end": Row(
        Body(ONE + b"data: " + b"y" * 70000), EventTooLargeError, retryable=False, says="raise", events=1
    ),
}

BASES: dict[type[GeminiStreamsError], type[Exception]] = {
    ConnectionLostError: ConnectionError,
    ConnectionFailedError: ConnectionError,
}


def check(error: GeminiStreamsError) -> None:
    """What holds for every error that a subscriber gets."""
    assert isinstance(error, GeminiStreamsError)
    assert type(error).__name__ in gemini_streams.__all__
    assert error.__traceback__ is None
    assert error.__context__ is None
    assert error.__cause__ is None
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (again.args, again.__dict__, str(again)) == (error.args, error.__dict__, str(error))
    assert again.message == error.message
    assert foreign_objects(error) == []


def foreign_objects(error: object) -> list[str]:
    """Walk what an error refers to; modules, classes and functions are not its own."""
    found, seen, todo = [], {id(error)}, [error]
    while todo:
        for item in gc.get_referents(todo.pop()):
            if id(item) in seen or isinstance(
                item, type | types.ModuleType | types.FunctionType | types.BuiltinFunctionType
            ):
                continue
            seen.add(id(item))
            todo.append(item)
            if not isinstance(item, str | int | float | bool | list | dict | tuple | type(None)):
                found.append(f"{type(item).__module__}.{type(item).__qualname__}")
    return found


@pytest.mark.parametrize("name", ROWS)
def test_the_table(gemini: LocalGemini, manager: StartManager, probe: Probe, name: str) -> None:
    row = ROWS[name]
    gemini.on("why", row.answer)
    ref = manager(retry=ONCE, max_event_bytes=65536)
    stream_id = ref.start_stream("why", subscriber=probe.ref, tag="t")
    last = last_of(probe)
    assert isinstance(last, StreamError), last
    error = last.error
    assert type(error) is row.error, repr(error)
    assert isinstance(error, BASES.get(row.error, GeminiStreamsError))
    assert error.retryable is row.retryable
    assert re.search(row.says, str(error), re.DOTALL), str(error)
    assert (last.stream_id, last.events_count, last.attempts, last.tag) == (stream_id, row.events, 1, "t")
    assert len(events_of(probe)) == row.events
    assert last.duration >= 0
    check(error)
    assert len(gemini.requests) == 1
    assert ref.get_stream_info(stream_id).error is error
    # and the next one is fine; some of these servers close the kept connection while it is sent
    gemini.on("after", Reply("fine"))
    ref.start_stream("after", subscriber=probe.ref, retry=RetryPolicy(initial_delay=0, jitter=0))
    assert isinstance(last_of(probe), StreamComplete)


def test_an_api_error_says_all_that_the_server_said(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("why", Failure(429, "slow down", retry_delay="7s", retry_after=3))
    ref = manager(retry=ONCE)
    before = time.time()
    ref.start_stream("why", subscriber=probe.ref)
    error = error_of(probe)
    assert (error.code, error.status, error.message) == (429, "RESOURCE_EXHAUSTED", "slow down")
    assert [detail["@type"].rsplit(".", 1)[-1] for detail in error.details] == [
        "QuotaFailure",
        "Help",
        "RetryInfo",
    ]
    assert before + 6.9 <= error.retry_at <= time.time() + 7.1


def test_a_finish_reason_of_any_kind_is_no_error(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    ref = manager(retry=ONCE)
    for reason in ("MAX_TOKENS", "SAFETY", "MALFORMED_FUNCTION_CALL", "SOMETHING_NEW"):
        gemini.on(reason, Reply("one two", finish_reason=reason))
        ref.start_stream(reason, subscriber=probe.ref)
        last = last_of(probe)
        assert isinstance(last, StreamComplete)
        assert (last.finish_reason, last.ok) == (reason, False)


# -- no connection ---------------------------------------------------------------------------------------------------


def failed(ref: Any, probe: Probe, endpoint: Gemini) -> GeminiStreamsError:
    ref.start_stream("why", subscriber=probe.ref, endpoint=endpoint)
    error = error_of(probe)
    assert type(error) is ConnectionFailedError
    assert isinstance(error, ConnectionError)
    check(error)
    assert isinstance(error, GeminiStreamsError)
    return error


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_refused(gemini: LocalGemini, manager: StartManager, probe: Probe, scheme: str) -> None:
    url = gemini.refused_url().replace("http", scheme)
    error = failed(manager(retry=ONCE), probe, Gemini(api_key="k", base_url=url))
    assert error.retryable
    assert "refused" in str(error)
    assert url.rpartition("/")[2] in str(error)  # where to


def test_a_name_that_does_not_resolve(
    gemini: LocalGemini, manager: StartManager, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    endpoint = Gemini(api_key="k", base_url="https://nowhere.invalid")
    error = failed(manager(retry=ONCE), probe, endpoint)
    assert error.retryable
    assert "Name or service not known" in str(error)
    assert "nowhere.invalid" in str(error)


def test_a_network_that_is_not_there(
    gemini: LocalGemini, manager: StartManager, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", connect)
    error = failed(manager(retry=ONCE), probe, gemini.endpoint)
    assert error.retryable
    assert "Network is unreachable" in str(error)


def test_a_certificate_that_does_not_verify(
    tls_gemini: LocalGemini, gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    ref = manager(retry=ONCE)
    error = failed(ref, probe, Gemini(api_key="local-key", base_url=tls_gemini.url))
    assert not error.retryable
    assert "certificate" in str(error)
    ref.start_stream("why", subscriber=probe.ref, endpoint=tls_gemini.endpoint)
    assert isinstance(last_of(probe), StreamComplete)


def test_a_certificate_of_another_host(
    gemini: LocalGemini, manager: StartManager, probe: Probe, tmp_path: Any
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("another.example").configure_cert(context)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))

    def serve() -> None:
        try:
            with context.wrap_socket(listener.accept()[0], server_side=True) as sock:
                sock.recv(1)
        except OSError:
            pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        error = failed(manager(retry=ONCE), probe, Gemini(api_key="k", base_url=url, verify=str(bundle)))
        thread.join()
    assert not error.retryable
    assert "certificate" in str(error)


def test_a_bundle_that_is_not_there(gemini: LocalGemini, manager: StartManager, probe: Probe) -> None:
    endpoint = Gemini(api_key="k", base_url="https://127.0.0.1:1", verify="/no/such/bundle.pem")
    error = failed(manager(retry=ONCE), probe, endpoint)
    assert not error.retryable
    assert "/no/such/bundle.pem" in str(error)


def test_plain_http_where_tls_is_spoken_and_the_other_way(
    tls_gemini: LocalGemini, gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    ref = manager(retry=ONCE, connect_timeout=0.3)
    error = failed(ref, probe, Gemini(api_key="k", base_url=gemini.url.replace("http", "https")))
    assert error.retryable  # the server waits for the end of what it takes for headers
    ref.start_stream(
        "why",
        subscriber=probe.ref,
        endpoint=Gemini(api_key="k", base_url=tls_gemini.url.replace("https", "http")),
    )
    error = error_of(probe)
    assert isinstance(error, ConnectionLostError | UnexpectedResponseError)
    check(error)


def test_a_handshake_that_breaks(gemini: LocalGemini, manager: StartManager, probe: Probe) -> None:
    def serve() -> None:
        accepted, _ = listener.accept()
        accepted.recv(100)
        accepted.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        error = failed(manager(retry=ONCE), probe, Gemini(api_key="k", base_url=url))
        thread.join()
    assert error.retryable


@pytest.mark.parametrize("scheme", ["plain", "tls"])
def test_out_of_descriptors(
    gemini: LocalGemini, manager: StartManager, probe: Probe, request: pytest.FixtureRequest, scheme: str
) -> None:
    server: LocalGemini = gemini if scheme == "plain" else request.getfixturevalue("tls_gemini")
    ref = manager(retry=ONCE)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[socket.socket] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        while True:
            try:
                taken.append(socket.socket())
            except OSError:
                break
        error = failed(ref, probe, server.endpoint)
        assert "ulimit -n" in str(error)
        taken.pop().close()
        if scheme == "tls":  # one for the socket, none for the handle on it
            error = failed(ref, probe, server.endpoint)
    finally:
        for one in taken:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    ref.start_stream("after", subscriber=probe.ref, endpoint=server.endpoint)
    assert isinstance(last_of(probe), StreamComplete)


# -- all of them -----------------------------------------------------------------------------------------------------

ERRORS: list[type[GeminiStreamsError]] = [
    found
    for name in gemini_streams.__all__
    if isinstance(found := getattr(gemini_streams, name), type) and issubclass(found, GeminiStreamsError)
]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_errors_pickle_and_copy(kind: type[GeminiStreamsError]) -> None:
    make: Callable[..., GeminiStreamsError] = kind
    error = (
        make(429, "S", "what to do", [{"a": [1]}], retryable=True, retry_at=5.0)
        if kind is APIError
        else make("what to do", retryable=True, retry_at=5.0)
    )
    error.add_note("a note")
    for again in (
        *(pickle.loads(pickle.dumps(error, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)),
        copy.copy(error),
        copy.deepcopy(error),
    ):
        assert type(again) is kind
        assert (str(again), again.args, again.__dict__) == (str(error), error.args, error.__dict__)
        assert (again.retryable, again.retry_at, again.message) == (True, 5.0, "what to do")


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("ConnectionFailedError", ConnectionError),
        ("ConnectionLostError", ConnectionError),
        ("FirstEventTimeoutError", TimeoutError),
        ("IdleTimeoutError", TimeoutError),
        ("DeadlineExceededError", TimeoutError),
        ("StreamNotFoundError", LookupError),
        ("InvalidRequestError", ValueError),
    ],
)
def test_errors_are_pythons_own_kind_too(name: str, base: type[Exception]) -> None:
    kind: type[Exception] = getattr(gemini_streams, name)
    assert issubclass(kind, base)
    with pytest.raises(base):
        raise kind("so it is caught")


@pytest.mark.parametrize("subscribers", [1, 40])
@pytest.mark.parametrize("how", ["fin", "too large"])
def test_what_came_before_the_break_is_delivered(
    gemini: LocalGemini, manager: StartManager, probe: Probe, subscribers: int, how: str
) -> None:
    """Also where the break is there already when the events before it are read."""
    event = b'data: {"candidates":[{"content":{"parts":[{"text":"' + b"x" * 400 + b'"}]}}]}\r\n\r\n'
    broken = b"" if how == "fin" else chunk(b"data: " + b"y" * 70000)
    gemini.on("why", Raw([CHUNKED + chunk(event) * 50 + broken]))
    ref = manager(retry=ONCE, max_event_bytes=65536)
    others = [Probe() for _ in range(subscribers - 1)]
    try:
        ref.start_stream("why", subscriber=[probe.ref, *(other.ref for other in others)])
        error = error_of(probe)
        assert type(error) is (ConnectionLostError if how == "fin" else EventTooLargeError)
        assert len(events_of(probe)) == 50
    finally:
        for other in others:
            other.stop()
