"""What a server's bytes mean, from its socket to the subscriber: over cuts, silence, replays and restarts."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest

from conftest import StartManager
from gemini_streams import (
    FROM_START,
    Answer,
    APIError,
    ConnectionLostError,
    IdleTimeoutError,
    MalformedEventError,
    RetryPolicy,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamTruncatedError,
    UnexpectedResponseError,
)
from gemini_streams.testing import Body, LocalGemini, Raw, Reply
from kit.helpers import ONCE, BatchProbe, error_of, events_of, last_of, text_of
from kit.scene import AT_ONCE
from pykka_supervisor.testing import Probe, TestClock

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ERROR = {"error": {"code": 400, "message": "no", "status": "INVALID_ARGUMENT"}}


def event(*parts: Any, finish: str | None = None, index: int | None = None, **more: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {
        "content": {"role": "model", "parts": [{"text": p} if isinstance(p, str) else p for p in parts]}
    }
    if finish is not None:
        candidate["finishReason"] = finish
    if index is not None:
        candidate["index"] = index
    candidate |= more
    return {"candidates": [candidate]}


def call(**fields: Any) -> dict[str, Any]:
    return {"functionCall": fields}


def sse(*events: Any) -> bytes:
    return b"".join(
        b"data: %b\r\n\r\n" % (each if isinstance(each, bytes) else json.dumps(each).encode())
        for each in events
    )


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def cut(body: bytes) -> Raw:
    """Chunked, and closed without the last chunk."""
    return Raw(HEAD + chunk(body))


def silent(body: bytes) -> Raw:
    """The same, and left open."""
    return Raw(HEAD + chunk(body), close="silent")


def answer_of(probe: Probe) -> Answer:
    answer = Answer()
    for message in probe.messages:
        answer.add(message)
    return answer


A, STOP = event("one "), event("two", finish="STOP")
PIECES = [
    event(call(name="w", willContinue=True)),
    event(
        call(
            partialArgs=[{"jsonPath": "$.city", "stringValue": "New ", "willContinue": True}],
            willContinue=True,
        )
    ),
    event(call(partialArgs=[{"jsonPath": "$.city", "stringValue": "York"}], willContinue=True)),
    event(call(), finish="STOP"),
]
WHOLE_CALL = {"name": "w", "args": {"city": "New York"}}


# -- whatever it is, a replay is the same as what was live ------------------------------------------------------------

LONG = int("1" * 400)
ODD_BODIES: dict[str, tuple[bytes, str]] = {
    "an emoji in two events": (sse(event("hi \ud83d"), event("\ude00"), STOP), "hi 😀two"),
    "half an emoji alone": (
        sse(event("a\ud83d"), event("b\ude00", {"x": {"\ud83d": "\ud83d"}}), STOP),
        "a\ufffdb\ufffdtwo",
    ),
    "bytes that are no text": (sse(json.dumps(A).encode().replace(b"one", b"\xff"), STOP), "\ufffd two"),
    "long numbers": (
        sse({**A, "n": [LONG, -LONG]}, json.dumps({**STOP, "n": 5}).encode().replace(b"5", b"1e400")),
        "one two",
    ),
    "numbers in an emoji's event": (
        sse(
            json.dumps({**event("\ud83d"), "n": [LONG, 5]}).encode().replace(b"5", b"-1e400"),
            event("\ude00"),
            STOP,
        ),
        "😀two",
    ),
    "a call in pieces": (sse(*PIECES), ""),
    "the candidates in any order": (
        sse(
            {"candidates": [*event("B", index=1)["candidates"], *A["candidates"]]},
            event("B", index=1, finish="STOP"),
            STOP,
        ),
        "one two",
    ),
    "an object that stands bare": (
        sse(A) + json.dumps(event("and "), indent=1).encode() + b"\r\n" + sse(STOP),
        "one and two",
    ),
    "a last one that nothing closes": (
        sse(A) + b"data: " + json.dumps(event("\ud83d", finish="STOP")).encode(),
        "one \ufffd",
    ),
    "as deep as it can be": (sse({**A, "d": json.loads("[" * 499 + "]" * 499)}, STOP), "one two"),
    "[DONE] and empty ones": (
        b"data:\n\n" + sse(A, b"", b"[DONE]", STOP, b"[DONE]") + b"data: [DONE]",
        "one two",
    ),
    "an absurd retry": (
        b"retry: " + b"9" * 5_000 + b"\nid: " + b"7" * 5_000 + b"\n\n" + sse(A, STOP),
        "one two",
    ),
}


@pytest.mark.parametrize("name", ODD_BODIES)
def test_what_is_delivered_live_is_replayed_as_the_same(
    gemini: LocalGemini, manager: StartManager, probe: Probe, batch_probe: BatchProbe, name: str
) -> None:
    body, text = ODD_BODIES[name]
    gemini.on("why", Body(body), Body(body, "whole"))
    ref = manager(history=1 << 20, retry=ONCE)
    for _ in range(2):
        stream_id = ref.start_stream("why", subscriber=probe.ref)
        assert isinstance(last_of(probe, stream_id), StreamComplete)
        ref.subscribe_stream(stream_id, batch_probe.ref, after=FROM_START)
        assert last_of(batch_probe, stream_id).ok
        assert repr(events_of(batch_probe, stream_id)) == repr(events_of(probe, stream_id))
        assert [e.data for e in events_of(batch_probe, stream_id)] == [
            e.data for e in events_of(probe, stream_id)
        ]
        assert text_of(probe, stream_id) == text
    assert len(gemini.requests) == 2


def test_what_is_too_deep_is_refused_and_never_delivered(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("why", Body(sse(A, {**A, "d": json.loads("[" * 500 + "]" * 500)}, STOP)))
    manager().start_stream("why", subscriber=probe.ref)
    assert isinstance(error_of(probe), MalformedEventError)
    assert (len(events_of(probe)), len(gemini.requests)) == (1, 1)


def test_a_large_picture_passes_with_the_default_options(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    picture = {"inlineData": {"mimeType": "image/png", "data": "A" * (20 << 20)}}
    gemini.on("draw", Body(sse(event("here", picture, finish="STOP")), "whole"))
    manager().start_stream("draw", subscriber=probe.ref)
    assert last_of(probe, timeout=20).ok
    assert answer_of(probe).content == {"role": "model", "parts": [{"text": "here"}, picture]}


# -- calls in pieces --------------------------------------------------------------------------------------------------


def test_a_call_in_pieces_is_one_call(gemini: LocalGemini, manager: StartManager, probe: Probe) -> None:
    gemini.on("why", Body(sse(A, *PIECES)))
    manager().start_stream("why", subscriber=probe.ref)
    assert last_of(probe).ok
    assert [each.function_calls for each in events_of(probe)] == [[], [], [], [], [WHOLE_CALL]]
    answer = answer_of(probe)
    assert answer.function_calls == [WHOLE_CALL]
    assert answer.content == {"role": "model", "parts": [{"text": "one "}, {"functionCall": WHOLE_CALL}]}


def test_who_joins_in_the_middle_of_a_call_has_the_whole_call(
    gemini: LocalGemini, manager: StartManager, probe: Probe, batch_probe: BatchProbe
) -> None:
    gemini.on("why", Body(sse(*PIECES), hold_after=2))
    ref = manager()
    stream_id = ref.start_stream("why", subscriber=probe.ref)
    gemini.gate("why").reached()
    probe.expect(StreamEvent, lambda m: m.sequence == 1)
    ref.subscribe_stream(stream_id, batch_probe.ref)
    gemini.gate("why").open()
    last_of(batch_probe, first=None)
    assert [each.function_calls for each in events_of(batch_probe)] == [[], [WHOLE_CALL]]


def test_a_restart_in_the_middle_of_a_call_begins_it_anew(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("why", cut(sse(*PIECES[:2])), Body(sse(*PIECES)))
    manager(retry=AT_ONCE).start_stream("why", subscriber=probe.ref)
    assert last_of(probe).ok
    assert answer_of(probe).function_calls == [WHOLE_CALL]


@pytest.mark.parametrize("clean", [True, False])
def test_a_call_goes_on_over_a_continuation(
    gemini: LocalGemini, manager: StartManager, probe: Probe, clean: bool
) -> None:
    checkpoint = {"candidates": [{**PIECES[1]["candidates"][0], "continuationToken": "t"}]}
    hop = sse(PIECES[0], checkpoint)
    first = Body(hop + sse(event(finish="CONTINUATION"))) if clean else cut(hop + sse(PIECES[2]))
    gemini.on("why", first, Body(sse(*PIECES[2:])))
    manager(retry=AT_ONCE).start_stream("why", subscriber=probe.ref)
    assert last_of(probe).ok
    assert answer_of(probe).function_calls == [WHOLE_CALL]


def test_an_answer_that_ends_in_the_middle_of_a_call_is_asked_for_again(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    open_ = event(call(name="w", willContinue=True), finish="STOP")
    gemini.on("why", Body(sse(open_)), Body(sse(*PIECES)))
    manager(retry=AT_ONCE).start_stream("why", subscriber=probe.ref)
    assert isinstance(probe.expect(StreamRestarting).error, StreamTruncatedError)
    assert last_of(probe).ok


# -- ends ------------------------------------------------------------------------------------------------------------


def test_the_last_message_has_candidate_0s_reason_and_its_words(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on(
        "why",
        Body(
            sse(
                {"candidates": [*event("B", index=1, finish="STOP")["candidates"], *A["candidates"]]},
                event("two", finish="MAX_TOKENS", finishMessage="too many"),
                event(finish="FINISH_REASON_UNSPECIFIED"),
                event("B", index=1, finish="SAFETY"),
            )
        ),
    )
    manager().start_stream("why", subscriber=probe.ref)
    last = last_of(probe)
    assert (last.finish_reason, last.finish_message, text_of(probe)) == ("MAX_TOKENS", "too many", "one two")


@pytest.mark.parametrize("framing", ["chunked", "length", "gzip", "reset"])
def test_a_whole_answer_whose_body_breaks_off_is_not_asked_for_again(
    gemini: LocalGemini, manager: StartManager, probe: Probe, framing: str
) -> None:
    body = sse(A, STOP, {"usageMetadata": {"totalTokenCount": 5}})
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(body) + packer.flush(zlib.Z_SYNC_FLUSH)  # gzip's own end is missing
    answers: dict[str, Any] = {
        "chunked": cut(body),
        "length": Raw(HEAD.replace(b"Transfer-Encoding: chunked", b"Content-Length: 9999") + body),
        "gzip": Body(packed, "whole", headers={"Content-Encoding": "gzip"}),
        "reset": Body(body, end="reset", end_after=3),
    }
    gemini.on("why", answers[framing])
    manager(retry=AT_ONCE).start_stream("why", subscriber=probe.ref)
    last = last_of(probe)
    assert (last.ok, last.usage, last.attempts) == (True, {"totalTokenCount": 5}, 1)
    assert (text_of(probe), len(gemini.requests)) == ("one two", 1)


def test_a_whole_answer_behind_which_the_server_falls_silent_is_not_asked_for_again(
    gemini: LocalGemini, manager: StartManager, probe: Probe, clock: TestClock
) -> None:
    gemini.on("why", silent(sse(A, STOP)))
    manager(clock=clock).start_stream("why", subscriber=probe.ref)
    probe.expect(StreamEvent, lambda m: m.sequence == 1)
    clock.wait_for_timer(within=30)
    clock.advance(30)
    assert last_of(probe).ok
    gemini.requests[0].wait_closed()
    assert len(gemini.requests) == 1


@pytest.mark.parametrize(
    "events",
    [
        [STOP],
        [event("one ", finish="STOP"), STOP],
        [A, STOP, event("three")],
        [{"candidates": [*A["candidates"], *event("B", index=1)["candidates"]]}, STOP],
        [A, event("two", finish="CONTINUATION")],
        [A, STOP, b'{"candidates": ['],
    ],
)
def test_any_other_answer_whose_body_breaks_off_is_broken(
    gemini: LocalGemini, manager: StartManager, probe: Probe, events: list[Any]
) -> None:
    body = sse(*events)
    gemini.on("why", cut(body.removesuffix(b"\r\n\r\n") if isinstance(events[-1], bytes) else body))
    manager(retry=ONCE).start_stream("why", subscriber=probe.ref)
    assert isinstance(error_of(probe), ConnectionLostError)


def test_silence_behind_any_other_answer_is_silence(
    gemini: LocalGemini, manager: StartManager, probe: Probe, clock: TestClock
) -> None:
    gemini.on("why", silent(sse(event("one ", finish="STOP"), STOP)))
    manager(clock=clock, retry=ONCE).start_stream("why", subscriber=probe.ref)
    probe.expect(StreamEvent, lambda m: m.sequence == 1)
    clock.wait_for_timer(within=30)
    clock.advance(30)
    assert isinstance(error_of(probe), IdleTimeoutError)


# -- errors, and what is no event stream ------------------------------------------------------------------------------

BARE = {
    "over lines": json.dumps(ERROR, indent=2),
    "over lines, in a list": json.dumps([ERROR], indent=2),
    "a list that Google writes": "[" + json.dumps(ERROR, indent=2) + "\n]",
    "on one line": json.dumps(ERROR),
    "with a line end": json.dumps(ERROR, indent=2) + "\n",
    "a list that is cut": "[" + json.dumps(ERROR, indent=2),
}


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("shape", BARE)
@pytest.mark.parametrize("before", [b"", sse(A), sse(A, STOP)], ids=["first", "in the answer", "behind it"])
def test_an_error_that_stands_bare_is_the_streams_error_whether_its_end_is_clean_or_a_cut(
    gemini: LocalGemini, manager: StartManager, probe: Probe, clean: bool, shape: str, before: bytes
) -> None:
    body = before + BARE[shape].encode()
    gemini.on("why", Body(body) if clean else cut(body))
    manager().start_stream("why", subscriber=probe.ref)
    error = error_of(probe)
    assert isinstance(error, APIError), error
    assert (error.code, error.status, len(gemini.requests)) == (400, "INVALID_ARGUMENT", 1)


@pytest.mark.parametrize("shape", BARE)
def test_an_error_that_stands_bare_is_the_streams_error_where_silence_follows(
    gemini: LocalGemini, manager: StartManager, probe: Probe, shape: str
) -> None:
    gemini.on("first", silent(BARE[shape].encode()))
    gemini.on("later", silent(sse(A, STOP) + BARE[shape].encode()))
    ref = manager(idle_timeout=0.3, first_event_timeout=0.3)
    for prompt in ("first", "later"):
        stream_id = ref.start_stream(prompt, subscriber=probe.ref)
        error = error_of(probe, stream_id)
        assert isinstance(error, APIError), error
        assert error.code == 400
    assert len(gemini.requests) == 2


@pytest.mark.parametrize(
    "body",
    [
        json.dumps([A, STOP]).encode(),
        b"[" + json.dumps(A, indent=2).encode() + b"\n,\r\n" + json.dumps(STOP, indent=2).encode() + b"\n]\n",
        b"<html><title>Sign in</title></html>",
        b"\r\n<!doctype html>\n<p>data: no\n",
        b"[]",
    ],
)
@pytest.mark.parametrize("end", ["clean", "reset"])
def test_what_is_plainly_no_event_stream_is_told_so_and_asked_once(
    gemini: LocalGemini, manager: StartManager, probe: Probe, body: bytes, end: Any
) -> None:
    gemini.on("why", Body(body, "whole") if end == "clean" else silent(body + b"\n"))
    manager(retry=AT_ONCE).start_stream("why", subscriber=probe.ref)
    assert isinstance(error_of(probe), UnexpectedResponseError)
    assert len(gemini.requests) == 1


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "x-unheard-of", "gzip, br"])
def test_a_coding_that_is_unknown_is_no_event_stream(
    gemini: LocalGemini, manager: StartManager, probe: Probe, coding: str
) -> None:
    gemini.on("why", Body(b"\x1b\x07\x00\xf8" * 20, "whole", headers={"Content-Encoding": coding}))
    manager(retry=AT_ONCE).start_stream("why", subscriber=probe.ref)
    assert isinstance(error_of(probe), UnexpectedResponseError)
    assert len(gemini.requests) == 1


# -- usage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "odd", [LONG, -LONG, "7", True, [1], {"a": LONG}, None, 1.5, json.loads("[" * 400 + "]" * 400)]
)
def test_usage_that_is_no_number_keeps_no_stream_from_its_end(
    gemini: LocalGemini, manager: StartManager, probe: Probe, odd: Any
) -> None:
    def hop(text: str, count: Any, **more: Any) -> bytes:
        return sse(
            {**event(text, **more), "usageMetadata": {"totalTokenCount": count, "promptTokenCount": 1}}
        )

    gemini.on("why", Body(hop("a", odd, continuationToken="t", finish="CONTINUATION")), silent(hop("b", 1.5)))
    ref = manager()
    stream_id = ref.start_stream("why", subscriber=probe.ref)
    probe.expect(StreamEvent, lambda m: m.text == "b")
    assert ref.stop_stream(stream_id) is True
    last = last_of(probe)
    assert last.usage["promptTokenCount"] == 2
    assert last.usage["totalTokenCount"] == (3.0 if odd == 1.5 and odd is not True else 1.5)


def test_the_idle_server_is_the_same_for_an_ordinary_reply(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    """The local Gemini's own cut answers end in a finishReason that is never sent: they stay broken."""
    gemini.on("why", Reply("one two three", end="cut", end_after=2), Reply("one two three"))
    manager(retry=RetryPolicy(initial_delay=0, jitter=0)).start_stream("why", subscriber=probe.ref)
    assert last_of(probe).attempts == 2
    assert not any(isinstance(message, StreamError) for message in probe.messages)
