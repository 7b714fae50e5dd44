"""Neither an error nor its pickle, its traceback's locals, a repr or a log line holds the key or the prompt."""

from __future__ import annotations

import gc
import logging
import pickle
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import pykka
import pytest

import gemini_streams
from conftest import StartManager
from gemini_streams import (
    Drain,
    Gemini,
    GetStreamInfo,
    InvalidRequestError,
    ManagerActor,
    MaxStreamsExceededError,
    RetryPolicy,
    StartStream,
    StreamComplete,
    StreamError,
    StreamRestarting,
)
from gemini_streams.http.connections import Connections
from gemini_streams.streams.session import Session
from gemini_streams.testing import Failure, LocalGemini, Raw, Reply
from kit.helpers import ONCE, BatchProbe, eventually, last_of
from pykka_supervisor import snapshot
from pykka_supervisor.testing import Probe, kill

KEY = "AIzaSyD-very-secret-1234567890"
HEADER = "Bearer-of-another-secret"
PROMPT = "whisper-it-to-nobody"
SECRETS = (KEY, HEADER, PROMPT)


@pytest.fixture
def secret_gemini() -> Iterator[LocalGemini]:
    with LocalGemini(keys=(KEY,)) as server:
        yield server


@pytest.fixture
def everything(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Every line of every logger, down to level 0."""
    loggers = [
        logging.getLogger(name) for name in ("", "gemini_streams", "pykka", "urllib3", "pykka_supervisor")
    ]
    levels = [logger.level for logger in loggers]
    caplog.set_level(0)
    for logger in loggers[1:]:
        logger.setLevel(1)
    try:
        yield caplog
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def endpoint(server: LocalGemini, **more: Any) -> Gemini:
    return Gemini(api_key=KEY, base_url=server.url, headers={"Authorization": HEADER}, **more)


def clean(text: str, *, prompt: bool = True) -> None:
    for secret in SECRETS if prompt else SECRETS[:2]:
        assert secret not in text, text[max(text.index(secret) - 200, 0) :][:400]


def check_lines(caplog: pytest.LogCaptureFixture, *, at_least: int = 1) -> None:
    assert len(caplog.records) >= at_least
    for record in caplog.records:
        clean(record.getMessage())
        clean(repr(record.args))
        if record.exc_info:
            clean("".join(traceback.format_exception(*record.exc_info)))
    clean(caplog.text)


def locals_of(error: BaseException | None) -> Iterator[str]:
    """Every local variable of every frame of an exception, as a traceback shows them."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        trace: TracebackType | None = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename != __file__:  # what the test itself holds is its own
                for name, value in trace.tb_frame.f_locals.items():
                    yield f"{trace.tb_frame.f_code.co_qualname}: {name} = {value!r}"
            trace = trace.tb_next
        error = error.__cause__ or error.__context__


def check_error(error: BaseException, *, raised: bool = False) -> None:
    clean(repr(error))
    clean(str(error))
    clean(repr(error.args) + repr(vars(error)))
    pickled = pickle.dumps(error)
    for secret in SECRETS:
        assert secret.encode() not in pickled
    frames = list(locals_of(error))
    for line in frames:
        # The contents that a caller gives to a method are that frame's own argument.
        clean(line, prompt="contents = " not in line)
    assert raised or not frames


FAILURES: dict[str, Any] = {
    "400": Failure(400),
    "400 that repeats the key": Failure(400, f"Invalid API key: {KEY}", details=[{"detail": KEY}]),
    "502 that repeats the key": Failure(502, body=f"<html>your {KEY} and {HEADER}</html>".encode()),
    "in the stream": Reply("one two", error_after=(1, {"code": 500, "message": f"for key {KEY}"})),
    "reset": Raw(b"", close="reset"),
    "cut": Reply("one two", end="cut", end_after=1),
    "no HTTP": Raw(b"SSH-2.0\r\n"),
    "redirect": Raw(b"HTTP/1.1 302 Go\r\nLocation: https://x/\r\nContent-Length: 0\r\n\r\n"),
    "truncated": Reply("one", finish_reason=None),
    "fine": Reply("one two"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_errors_and_lines_of_a_stream(
    secret_gemini: LocalGemini, manager: StartManager, probe: Probe, everything: Any, name: str
) -> None:
    secret_gemini.on(PROMPT, FAILURES[name])
    ref = manager(endpoint=endpoint(secret_gemini), retry=ONCE)
    stream_id = ref.start_stream(
        PROMPT, subscriber=probe.ref, config={"system_instruction": PROMPT, "temperature": 1}
    )
    last = last_of(probe)
    if isinstance(last, StreamError):
        check_error(last.error)
        info = ref.get_stream_info(stream_id)
        clean(repr(info))
        assert info.error is last.error
    else:
        assert isinstance(last, StreamComplete)
    clean(repr(last))
    ref.stop(timeout=20)
    check_lines(everything, at_least=3)


def test_errors_that_are_repeated(
    secret_gemini: LocalGemini, manager: StartManager, probe: Probe, everything: Any
) -> None:
    secret_gemini.on(PROMPT, Failure(503, f"no {KEY}"), Reply("fine"))
    ref = manager(endpoint=endpoint(secret_gemini), retry=RetryPolicy(initial_delay=0, jitter=0))
    ref.start_stream(PROMPT, subscriber=probe.ref)
    restarting = probe.expect(StreamRestarting)
    clean(repr(restarting))
    check_error(restarting.error)
    last_of(probe)
    check_lines(everything)


@pytest.mark.parametrize("url", ["refused", "mute", "unresolved"])
def test_errors_of_connecting(
    secret_gemini: LocalGemini,
    manager: StartManager,
    probe: Probe,
    everything: Any,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = {
        "refused": secret_gemini.refused_url(),
        "mute": secret_gemini.mute_url(tls=True),
        "unresolved": "https://nowhere.invalid",
    }[url]
    if url == "unresolved":

        def resolve(*_: Any, **__: Any) -> Any:
            raise OSError("no name service")

        monkeypatch.setattr("socket.getaddrinfo", resolve)
    ref = manager(retry=ONCE, connect_timeout=0.2)
    where = Gemini(api_key=KEY, base_url=base, headers={"Authorization": HEADER})
    ref.start_stream(PROMPT, subscriber=probe.ref, endpoint=where)
    check_error(last_of(probe).error)
    check_lines(everything)


def test_a_proxys_password(
    secret_gemini: LocalGemini, manager: StartManager, probe: Probe, everything: Any
) -> None:
    refused = secret_gemini.refused_url().rpartition("/")[2]
    where = Gemini(
        api_key="k", base_url="https://host.invalid", proxies={"https": f"http://me:{HEADER}@{refused}"}
    )
    ref = manager(retry=ONCE, connect_timeout=0.2)
    clean(repr(where))
    ref.start_stream(PROMPT, subscriber=probe.ref, endpoint=where)
    check_error(last_of(probe).error)
    check_lines(everything)


def test_errors_that_are_raised_at_the_asker(
    secret_gemini: LocalGemini, manager: StartManager, probe: Probe, everything: Any
) -> None:
    good = endpoint(secret_gemini)
    ref = manager(endpoint=good, max_streams=2)
    secret_gemini.on(PROMPT, Reply("one two", hold_after=1))
    ref.start_stream(PROMPT, subscriber=probe.ref, stream_id="mine")
    content = {"role": "user", "parts": [{"text": PROMPT}]}
    requests: list[Any] = [
        StartStream("another", subscriber=probe.ref, stream_id="mine"),
        StartStream([content, object()], subscriber=probe.ref),
        StartStream([PROMPT, {"text": PROMPT, "inline_data": object()}], subscriber=probe.ref),
        StartStream({"role": "user", "parts": PROMPT}, subscriber=probe.ref),
        StartStream(PROMPT, subscriber=probe.ref, config={"tools": [PROMPT, object()]}),
        StartStream(PROMPT, subscriber=probe.ref, config={"system_instruction": {PROMPT: object()}}),
        StartStream(PROMPT, subscriber=probe.ref, config={"http_options": {"api_key": KEY}}),
        StartStream(PROMPT, subscriber=probe.ref, model="a/../b"),
        StartStream(PROMPT, subscriber=[]),
        StartStream(PROMPT, subscriber=probe.ref, idle_timeout=0),
        StartStream(PROMPT, subscriber=probe.ref, endpoint=Gemini(api_key=KEY, base_url="http://192.0.2.1")),
        StartStream(PROMPT, subscriber=probe.ref, endpoint=Gemini(api_key=KEY + "\n x")),
        StartStream(PROMPT, subscriber=probe.ref, endpoint=Gemini(api_key=KEY, headers={"a": HEADER + "\n"})),
        StartStream(
            PROMPT, subscriber=probe.ref, endpoint=Gemini(api_key=KEY, base_url=f"https://me:{HEADER}@host")
        ),
        StartStream(
            PROMPT, subscriber=probe.ref, endpoint=Gemini(api_key=KEY, base_url=f"https://host/?key={KEY}")
        ),
        GetStreamInfo("unknown"),
        Drain(-1),
    ]
    for request in requests:
        clean(repr(request))
        with pytest.raises(gemini_streams.GeminiStreamsError) as refusal:
            ref.ask(request, timeout=20)
        check_error(refusal.value, raised=True)
        ref.tell(request)
    ref.tell({"contents": PROMPT, "api_key": KEY})  # no message of ours: told of is only its type
    ref.get_stats()
    check_lines(everything, at_least=len(requests))
    with pytest.raises(InvalidRequestError) as raised:
        ref.start_stream(PROMPT, subscriber=probe.ref, endpoint=Gemini(api_key=KEY, base_url="x"))
    check_error(raised.value, raised=True)
    ref.start_stream(PROMPT, subscriber=probe.ref)
    with pytest.raises(MaxStreamsExceededError) as full:
        ref.start_stream(PROMPT, subscriber=probe.ref)
    check_error(full.value, raised=True)
    with pytest.raises(InvalidRequestError) as raised:
        ManagerActor.start(endpoint=good, linger=-1)
    check_error(raised.value, raised=True)


class Odd:
    """Contents that raise when they are looked at: a bug of the caller's, not a refusal."""

    @property
    def model_fields(self) -> Any:
        raise RuntimeError("odd")

    def model_dump(self, **_: Any) -> Any:
        raise RuntimeError("odd")

    def __repr__(self) -> str:
        return "Odd()"


def test_a_bug_in_what_was_given(
    secret_gemini: LocalGemini, manager: StartManager, probe: Probe, everything: Any
) -> None:
    ref = manager(endpoint=endpoint(secret_gemini))
    with pytest.raises(Exception) as raised:
        ref.ask(StartStream([PROMPT, Odd()], subscriber=probe.ref), timeout=20)
    for line in locals_of(raised.value):
        clean(line, prompt=False)
    assert ref.list_streams() == []
    check_lines(everything)


def test_what_is_running_shows_nothing(
    secret_gemini: LocalGemini, manager: StartManager, probe: Probe, batch_probe: BatchProbe, everything: Any
) -> None:
    """The repr of whatever there is of ours while a stream runs, and of what a supervisor tells of it."""
    secret_gemini.on(PROMPT, Reply("one two", hold_after=1))
    where = endpoint(secret_gemini)
    ref = manager(endpoint=where, history=1000)
    stream_id = ref.start_stream(
        PROMPT, subscriber=[probe.ref, batch_probe.ref], config={"system_instruction": PROMPT}
    )
    probe.wait(1)
    batch_probe.wait(1)
    shown = 0
    for found in gc.get_objects():
        module = str(type(found).__module__)
        ours = module.startswith(("gemini_streams", "pykka_supervisor"))
        if ours and not module.startswith("gemini_streams.testing"):
            clean(repr(found))
            clean(str(found))
            shown += 1
    assert shown > 20
    info = ref.get_stream_info(stream_id)
    clean(repr(info) + repr(where) + repr(ref) + repr(info.stream_ref) + repr(ref.get_stats()))
    clean(repr(snapshot(ref)))
    with pytest.raises(TypeError):
        pickle.dumps(where)
    check_lines(everything)
    assert [o for o in gc.get_objects() if isinstance(o, Session)]
    assert [o for o in gc.get_objects() if isinstance(o, Connections)]


def test_a_crash_shows_nothing(
    secret_gemini: LocalGemini,
    manager: StartManager,
    probe: Probe,
    everything: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bug of ours in the stream's thread, with the request's headers and body on the stack."""

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr("gemini_streams.http.connection.HeadReader", broken)
    ref = manager(endpoint=endpoint(secret_gemini), retry=ONCE)
    ref.start_stream(PROMPT, subscriber=probe.ref)
    check_error(last_of(probe).error)
    monkeypatch.undo()

    monkeypatch.setattr("gemini_streams.streams.feed.Feed.answering", broken)
    ref.start_stream(PROMPT, subscriber=probe.ref)
    error = last_of(probe).error
    assert isinstance(error, gemini_streams.StreamCrashedError)
    assert "RuntimeError" in str(error)
    check_error(error)
    monkeypatch.undo()

    secret_gemini.on(PROMPT, Reply("one two", hold_after=1))
    stream_id = ref.start_stream(PROMPT, subscriber=probe.ref)
    stream_ref: pykka.ActorRef[Any] = eventually(lambda: ref.get_stream_info(stream_id).stream_ref)
    kill(stream_ref)
    check_error(last_of(probe, stream_id).error)
    check_lines(everything)


def test_a_key_of_the_environment(
    secret_gemini: LocalGemini,
    manager: StartManager,
    probe: Probe,
    everything: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", secret_gemini.url)
    ref = manager(endpoint=Gemini(), retry=ONCE)
    secret_gemini.on(PROMPT, Failure(400, f"not {KEY}"))
    ref.start_stream(PROMPT, subscriber=probe.ref)
    check_error(last_of(probe).error)
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "http://192.0.2.1")
    with pytest.raises(InvalidRequestError) as raised:
        ref.start_stream(PROMPT, subscriber=probe.ref, endpoint=Gemini(verify=False))
    check_error(raised.value, raised=True)
    check_lines(everything)


def test_what_a_server_repeats_of_the_prompt_is_in_no_log_line(
    gemini: LocalGemini, manager: StartManager, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    prompt = "tell nobody of the sevenfold lantern"
    gemini.on("lantern", Failure(503, message=f"I will not answer: {prompt}"))
    with caplog.at_level(0):
        manager(retry=RetryPolicy(attempts=2, initial_delay=0, jitter=0)).start_stream(
            prompt, subscriber=probe.ref
        )
        probe.expect(StreamError)
        eventually(lambda: any("stream_ended" in record.getMessage() for record in caplog.records))
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if "503" in line]
    assert not [line for line in lines if "lantern" in line]
