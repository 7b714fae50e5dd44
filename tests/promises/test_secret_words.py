"""Whatever a server or proxy says, wherever: no error and no log line of it has a secret in it, nor much of one."""

from __future__ import annotations

import base64
import logging
import pickle
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest

from conftest import StartManager
from gemini_streams import (
    Answer,
    APIError,
    Gemini,
    GetStreamInfo,
    InvalidRequestError,
    ManagerActor,
    RetryPolicy,
    StreamComplete,
    StreamCrashedError,
    StreamError,
    StreamExistsError,
    StreamNotFoundError,
)
from gemini_streams.testing import LocalGemini, Raw, Reply
from kit.helpers import ONCE, eventually, last_of
from pykka_supervisor.testing import Probe

KEY = "AIzaSyD-very-secret-1234567890"
PASSWORD = "pr0xy/pass word+1"
HEADER = "tenant-token-abcdefgh"
SECRETS = (KEY, PASSWORD, HEADER)


def _each(form: str) -> Callable[[str], str]:
    return lambda text: "".join(form.format(ord(c)) for c in text)


ENCODINGS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "percent": _each("%{0:02x}"),
    "entities": _each("&#{0};"),
    "JSON": _each("\\u{0:04x}"),
    "base64": lambda text: base64.b64encode(b"x:" + text.encode()).decode(),
}


def _plain(body: bytes, head: str = "HTTP/1.1 200 OK", kind: str = "text/html", more: str = "") -> Raw:
    return Raw(
        f"{head}\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode("latin-1")
        + body
    )


def _json(message: str) -> bytes:
    return b'{"error": {"code": 400, "message": "%s", "status": "%s", "details": [{"a": ["%s"]}]}}' % (
        (message.encode(),) * 3
    )


LONG = "y " * 5000
EXITS: dict[str, Callable[[str], Raw]] = {
    "a content type": lambda word: _plain(b"", kind=f"text/{word}{LONG}"),
    "a content type of an error": lambda word: _plain(b"", "HTTP/1.1 502 No", kind=f"text/{word}"),
    "a page": lambda word: _plain(
        f"<html><p>for <b>{word}</b> {LONG}</p></html>".encode(), "HTTP/1.1 502 No"
    ),
    "a page's title": lambda word: _plain(f"<html><title>{word}</title></html>".encode(), "HTTP/1.1 403 No"),
    "a text": lambda word: _plain(f"for {word}{LONG}".encode(), "HTTP/1.1 500 No"),
    "a reason": lambda word: _plain(b"", f"HTTP/1.1 400 {word}"),
    "a redirect": lambda word: _plain(b"", "HTTP/1.1 302 Go", more=f"Location: https://x/{word}\r\n"),
    "an odd status": lambda word: _plain(b"", f"HTTP/1.1 206 {word}"),
    "a status line": lambda word: Raw(f"HTTP/1.1 {word} x\r\n\r\n".encode()),
    "no HTTP": lambda word: Raw(f"{word}\r\n\r\n".encode()),
    "a malformed header": lambda word: Raw(f"HTTP/1.1 200 OK\r\n{word}\r\n\r\n".encode()),
    "a length": lambda word: Raw(f"HTTP/1.1 200 OK\r\nContent-Length: {word}\r\n\r\n".encode()),
    "a coding": lambda word: _plain(b"x", kind="text/event-stream", more=f"Content-Encoding: {word}\r\n"),
    "a chunk": lambda word: Raw(
        f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n{word}\r\n".encode()
    ),
    "an API's error": lambda word: _plain(_json(word), "HTTP/1.1 400 No", kind="application/json"),
    "an error in the stream": lambda word: _plain(
        b"data: " + _json(word) + b"\n\n", kind="text/event-stream"
    ),
    "an event": lambda word: _plain(f"data: {word}\n\n".encode(), kind="text/event-stream"),
    "a stray line": lambda word: _plain(_json(word) + b"\n", kind="text/event-stream"),
    "a field": lambda word: _plain(f"{word}: {word}\nid: {word}\n\n".encode(), kind="text/event-stream"),
}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Every line of every logger, down to level 0."""
    loggers = [logging.getLogger(name) for name in ("gemini_streams", "pykka", "urllib3", "pykka_supervisor")]
    levels = [logger.level for logger in loggers]
    caplog.set_level(0)
    for logger in loggers:
        logger.setLevel(1)
    yield caplog
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def shown(error: Exception) -> list[str]:
    return [
        str(error),
        repr(error),
        repr(vars(error)),
        repr(error.args),
        pickle.dumps(error).decode("latin-1"),
    ]


def check(texts: list[str]) -> None:
    """No secret in any encoding, raw or decoded; the encodings are the test's own."""
    for text in texts:
        for secret in SECRETS:
            for name, encode in ENCODINGS.items():
                # A part that would be of use: twelve characters of it.
                whole = (
                    encode(secret) if name != "base64" else base64.b64encode(secret.encode()).decode()[:-4]
                )
                part = encode(secret[:12]) if name != "base64" else whole[:16]
                assert part not in text, (name, text)
                assert whole not in text, (name, text)


@pytest.mark.parametrize("way", EXITS)
def test_a_servers_words(
    gemini: LocalGemini, manager: StartManager, probe: Probe, lines: pytest.LogCaptureFixture, way: str
) -> None:
    where = Gemini(api_key=KEY, base_url=gemini.url, headers={"X-Tenant-Token": HEADER})
    ref = manager(endpoint=where, retry=ONCE)
    gemini.keys = None
    started = []
    for secret in (KEY, HEADER):
        for name, encode in ENCODINGS.items():
            prompt = f"{name} of {secret[:4]}"
            gemini.on(prompt, EXITS[way](encode(secret)))
            started.append(ref.start_stream(prompt, subscriber=probe.ref))
    eventually(lambda: len(probe.messages) == len(started), timeout=20)  # each fails before its first event
    for stream_id, last in ((message.stream_id, message) for message in probe.messages):
        assert isinstance(last, StreamError)
        check(shown(last.error))
        check([repr(last), repr(ref.ask(GetStreamInfo(stream_id)))])
        if not isinstance(last.error, APIError) or "no error of Gemini's" in last.error.message:
            assert len(str(last.error)) < 600
    ref.stop(timeout=20)
    check([record.getMessage() + repr(record.args) for record in lines.records])
    assert lines.records


def test_the_words_of_a_whole_answer(gemini: LocalGemini, manager: StartManager, probe: Probe) -> None:
    gemini.keys = None
    candidate = {"finishReason": f"BAD {KEY}{LONG}", "finishMessage": f"for {_each('%{0:02x}')(KEY)}{LONG}"}
    gemini.on("finish", Reply(events=[{"candidates": [candidate]}]))
    gemini.on("block", Reply(events=[{"promptFeedback": {"blockReason": f"FOR_{KEY}"}}]))
    ref = manager(endpoint=Gemini(api_key=KEY, base_url=gemini.url))
    for prompt in ("finish", "block"):
        answer = Answer()
        stream_id = ref.start_stream(prompt, subscriber=probe.ref)
        last = last_of(probe, stream_id)
        assert isinstance(last, StreamComplete)
        for message in [m for m in probe.messages if m.stream_id == stream_id]:
            answer.add(message)
        assert answer.error is not None
        check([*shown(answer.error), repr(last)])
        assert len(str(answer.error)) < 400
    assert last.block_reason == "FOR_[key]"


# -- proxies


class Proxy:
    """Answers each CONNECT or forwarded request with what `answer` makes of its Proxy-Authorization."""

    def __init__(self, answer: Callable[[str], bytes]) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.asked = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                head = b""
                while b"\r\n\r\n" not in head:
                    data = connection.recv(65536)
                    if not data:
                        break
                    head += data
                told = next(
                    (line for line in head.split(b"\r\n") if line.lower().startswith(b"proxy-auth")), b""
                )
                self.asked += 1
                connection.sendall(self._answer(told.partition(b":")[2].strip().decode()))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(20)


PROXIES: dict[str, Callable[[str], bytes]] = {
    "reason": lambda told: f"HTTP/1.1 407 {told} is wrong\r\nContent-Length: 0\r\n\r\n".encode(),
    "reason, decoded": lambda told: (
        b"HTTP/1.1 407 " + base64.b64decode(told.partition(" ")[2]) + b" no\r\nContent-Length: 0\r\n\r\n"
    ),
    "token alone": lambda told: f"HTTP/1.1 407 {told[6:]}{LONG}\r\n\r\n".encode(),
    "body": lambda told: (
        f"HTTP/1.1 407 No\r\nContent-Type: text/html\r\nContent-Length: {len(told) + 7}\r\n\r\n<p>{told}</p>".encode()
    ),
    "no HTTP": lambda told: f"{told}\r\n\r\n".encode(),
    "header": lambda told: f"HTTP/1.1 407 No\r\n{told}\r\nProxy-Authenticate: {told}\r\n\r\n".encode(),
}


@pytest.mark.parametrize("how", PROXIES)
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_proxys_words(
    manager: StartManager, probe: Probe, lines: pytest.LogCaptureFixture, how: str, scheme: str
) -> None:
    with Proxy(PROXIES[how]) as proxy:
        url = f"http://me:pr0xy%2Fpass%20word%2B1@127.0.0.1:{proxy.port}"
        where = Gemini(
            api_key=KEY, base_url=f"{scheme}://host.test", proxies={scheme: url}, allow_plain_http=True
        )
        ref = manager(endpoint=where, retry=ONCE)
        ref.start_stream("why", subscriber=probe.ref)
        last = last_of(probe)
        assert isinstance(last, StreamError)
        assert proxy.asked == 1
        texts = [*shown(last.error), *(record.getMessage() for record in lines.records)]
        check(texts)
        token = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
        assert not [text for text in texts if token[:12] in text or token[-12:-2] in text]
        assert len(str(last.error)) < 600


# -- an error of whatever raise site leaves its attempt by one door


def test_no_place_that_raises_has_to_think_of_it(
    gemini: LocalGemini,
    manager: StartManager,
    probe: Probe,
    lines: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever a future place puts into an error."""

    def careless(*_: Any, **__: Any) -> Any:
        raise APIError(
            503, f"S{KEY}", f"no {_each('&#{0};')(KEY)}" + "z" * 9000, [{KEY: [KEY]}], retryable=True
        )

    monkeypatch.setattr("gemini_streams.streams.feed.Feed.answering", careless)
    gemini.keys = None
    where = Gemini(api_key=KEY, base_url=gemini.url)
    manager(endpoint=where, retry=RetryPolicy(attempts=2, initial_delay=0, jitter=0)).start_stream(
        "why", subscriber=probe.ref
    )
    last = last_of(probe)
    for message in probe.messages:
        check(shown(message.error))
        assert len(message.error.message) <= 2000
    assert last.attempts == 2
    check([record.getMessage() for record in lines.records])


PROMPT = "sevenfold lantern"


class SlipError(Exception):
    """A bug's exception whose text has everything in it."""


def test_a_bugs_own_words_are_in_no_line_and_no_error(
    gemini: LocalGemini,
    manager: StartManager,
    probe: Probe,
    lines: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slip(*_: Any, **__: Any) -> Any:
        try:
            raise KeyError(KEY)
        except KeyError as inner:
            raise SlipError(f"the prompt is {PROMPT}, the key {KEY}") from inner

    monkeypatch.setattr("gemini_streams.streams.feed.Feed.answering", slip)
    gemini.keys = None
    ref = manager(endpoint=Gemini(api_key=KEY, base_url=gemini.url), retry=ONCE)
    ref.start_stream(PROMPT, subscriber=probe.ref)
    last = last_of(probe)
    assert isinstance(last.error, StreamCrashedError)
    assert "SlipError" in str(last.error)
    monkeypatch.undo()
    monkeypatch.setattr("gemini_streams.manager.Session", slip)
    with pytest.raises(SlipError):
        ref.start_stream(PROMPT, subscriber=probe.ref)
    monkeypatch.undo()
    eventually(lambda: any("request_failed" in record.getMessage() for record in lines.records))
    ref.stop(timeout=20)
    texts = [record.getMessage() for record in lines.records]
    assert [text for text in texts if "stream_crashed" in text and "in slip" in text and "SlipError" in text]
    assert [text for text in texts if "request_failed" in text and "in slip" in text]
    check([*texts, *shown(last.error)])
    assert not [text for text in texts if PROMPT in text]
    assert not [record for record in lines.records if record.exc_info and "gemini_streams" in record.name]


def test_threads_are_not_named_by_anybodys_words(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.keys = None
    gemini.on("lantern", Reply("one two", hold_after=1))
    ref = manager(endpoint=Gemini(api_key=KEY, base_url=gemini.url))
    ref.start_stream("lantern", subscriber=probe.ref, tag="lantern")
    probe.wait(1)
    names = [thread.name for thread in threading.enumerate()]
    check(names)
    assert not [name for name in names if "lantern" in name]


def test_a_key_in_the_wrong_place_is_not_shown_either() -> None:
    for endpoint in (
        Gemini("https://x.test", KEY),  # the wrong way round
        Gemini(KEY, f"https://{KEY}@x.test"),
        Gemini(KEY, f"https://x.test/?key={KEY}"),
    ):
        with pytest.raises(InvalidRequestError) as refused:
            endpoint.resolve({})
        check([*shown(refused.value), repr(endpoint)])
    check([repr(ManagerActor.child_spec(endpoint=Gemini(KEY, headers={"X-Tenant-Token": HEADER})))])


@pytest.mark.parametrize(
    "wrong",
    [{"stream_id": ["x" * 10_000]}, {"idle_timeout": "x" * 10_000}, {"history": "x" * 10_000}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_value_that_cannot_be_right_is_shown_in_part(
    manager: StartManager, probe: Probe, wrong: dict[str, Any]
) -> None:
    ref = manager()
    with pytest.raises(InvalidRequestError) as refused:
        ref.start_stream("why", subscriber=probe.ref, **wrong)
    assert "xxx" in str(refused.value)
    assert len(str(refused.value)) < 300
    with pytest.raises(StreamNotFoundError) as unknown:
        ref.get_stream_info("x" * 10_000)
    assert len(str(unknown.value)) < 300


# -- two tenants, one id


@pytest.mark.parametrize("other", ["key", "headers", "base URL"])
@pytest.mark.parametrize("ended", [False, True])
def test_another_tenant_does_not_join_by_the_same_id(
    gemini: LocalGemini, manager: StartManager, probes: Callable[[], Probe], other: str, ended: bool
) -> None:
    gemini.keys = None
    gemini.on("ours", Reply("one two", hold_after=None if ended else 1))
    ref = manager(endpoint=Gemini(api_key=KEY, base_url=gemini.url, headers={"X-Tenant-Token": HEADER}))
    first, second, third = probes(), probes(), probes()
    ref.start_stream("ours", subscriber=first.ref, stream_id="one")
    if ended:
        last_of(first)
    else:
        first.wait(1)
    where = {
        "key": Gemini(api_key=KEY + "2", base_url=gemini.url, headers={"X-Tenant-Token": HEADER}),
        "headers": Gemini(api_key=KEY, base_url=gemini.url, headers={"X-Tenant-Token": HEADER + "2"}),
        "base URL": Gemini(api_key=KEY, base_url=gemini.url + "/v", headers={"X-Tenant-Token": HEADER}),
    }[other]
    with pytest.raises(StreamExistsError) as refused:
        ref.start_stream("ours", subscriber=second.ref, stream_id="one", endpoint=where)
    check(shown(refused.value))
    same = Gemini(api_key=KEY, base_url=gemini.url + "/", headers={"x-tenant-token": HEADER}, proxies={})
    assert ref.start_stream("ours", subscriber=third.ref, stream_id="one", endpoint=same) == "one"
    gemini.gate("ours").open()
    last_of(third, first=None)
    assert second.messages == []
    assert len(gemini.requests) == 1


def test_a_stopped_id_that_lingers_begins_anew(
    gemini: LocalGemini, manager: StartManager, probes: Callable[[], Probe]
) -> None:
    gemini.on("first", Reply("one two", hold_after=1))
    gemini.on("second", Reply("three"))
    ref = manager(linger=60)
    first, second, third = probes(), probes(), probes()
    for again in range(2):
        ref.start_stream("first", subscriber=first.ref, stream_id="one")
        gemini.wait_request(again + 1)
        assert ref.stop_stream("one")
    ref.start_stream("second", subscriber=second.ref, stream_id="one")
    assert last_of(second).ok
    assert (
        ref.start_stream("second", subscriber=third.ref, stream_id="one") == "one"
    )  # this one ended by itself
    assert last_of(third, first=None).ok
    assert len(gemini.requests) == 3
    assert ref.list_streams() == ["one"]
    stats = ref.get_stats()
    assert (stats.started, stats.stopped, stats.completed) == (3, 2, 1)
    assert stats.events == len(
        [m for p in (first, second) for m in p.messages if type(m).__name__ == "StreamEvent"]
    )
