from __future__ import annotations

import builtins
import contextlib
import gzip
import http.client
import itertools
import json
import os
import resource
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gemini_streams.testing import (
    Body,
    Failure,
    LocalGemini,
    LongAnswer,
    Raw,
    Reply,
    RequestRecord,
    StallUpload,
    every_cut,
    http_date,
    trickle,
)
from kit.client import (
    HEADERS,
    PATH,
    Client,
    ask,
    bare,
    contents,
    elapsed,
    events,
    read_all,
    read_until,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SOON = 0.25
"""Seconds in which what happens at once has happened, on a busy machine."""


# -- the wire, when nothing is wrong


def test_words_are_events_and_joined_they_are_the_text(gemini: LocalGemini) -> None:
    gemini.on("why", Reply("  one two\n\nthree \n"))
    status, headers, body = ask(gemini, "why?")
    assert (status, headers["Content-Type"], headers["Transfer-Encoding"]) == (
        200,
        "text/event-stream",
        "chunked",
    )
    found = events(body)
    assert text_of(body) == "  one two\n\nthree \n"
    assert len(found) == 3
    assert [event["candidates"][0].get("finishReason") for event in found] == [None, None, "STOP"]
    assert [event["usageMetadata"]["candidatesTokenCount"] for event in found] == [1, 2, 3]
    assert found[0]["modelVersion"] == "gemini-test"


def test_chunks_events_finish_reason_usage_and_tokens(gemini: LocalGemini) -> None:
    whole: dict[str, Any] = {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f"}}]}}]}
    gemini.on("chunks", Reply(["ab ", whole, "cd"], finish_reason="MAX_TOKENS", usage={"totalTokenCount": 7}))
    gemini.on("events", Reply(events=[whole, whole]))
    gemini.on("none", Reply("a b", finish_reason=None, usage=None, tokens={0: "t0"}))
    gemini.on("empty", Reply(""), Reply("", finish_reason=None))

    found = events(ask(gemini, "chunks")[2])
    assert found[1] == whole
    assert found[2]["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert "usageMetadata" not in found[0]
    assert found[2]["usageMetadata"] == {"totalTokenCount": 7}
    assert gemini.requests[0].usage == {"totalTokenCount": 7}
    assert events(ask(gemini, "events")[2]) == [whole, whole]
    found = events(ask(gemini, "none")[2])
    assert [event["candidates"][0].get("continuationToken") for event in found] == ["t0", None]
    assert all(
        "usageMetadata" not in event and "finishReason" not in event["candidates"][0] for event in found
    )
    assert [event["candidates"][0]["finishReason"] for event in events(ask(gemini, "empty")[2])] == ["STOP"]
    assert ask(gemini, "empty")[2] == b""


def test_a_generator_answers_every_request_in_full(gemini: LocalGemini) -> None:
    gemini.on("count", Reply(f"{number} " for number in range(3)))
    gemini.on("events", Reply(events=({"candidates": [{"index": index}]} for index in range(2))))
    for _ in range(2):
        assert text_of(ask(gemini, "count")[2]) == "0 1 2 "
        assert len(events(ask(gemini, "events")[2])) == 2


def test_a_prompt_nobody_scripted_is_answered_by_sentences_about_it(gemini: LocalGemini) -> None:
    text = text_of(ask(gemini, "Why is the sky blue?")[2])
    assert text.startswith("You asked: Why is the sky blue? That is 5 words.")


def test_the_records_say_what_was_asked_with_the_key_masked(gemini: LocalGemini) -> None:
    with Client(gemini) as client:
        client.ask("first", tools=[]).read()
        client.ask("second", path=PATH.replace("models/gemini-test", "tunedModels/mine")).read()
    ask(gemini, "third")
    first, second, third = gemini.requests
    assert (first.text, first.model, first.body["tools"]) == ("first", "gemini-test", [])
    assert second.model == "tunedModels/mine"
    assert (first.connection, second.connection, third.connection) == (1, 1, 2)
    assert first.headers["x-goog-api-key"] == "***"
    assert "local-key" not in repr(vars(first))
    assert first.key_number == 0
    assert "first" not in repr(first)
    assert first.closed_at is not None
    assert first.closed_at >= first.opened_at
    assert (first.ended, first.client_closed, first.status, first.events_sent) == ("complete", False, 200, 38)
    assert gemini.connections_opened == 2
    gemini.wait_open_connections(0)


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("newline", ["\r\n", "\n", "\r"])
def test_framings_codings_and_line_ends(
    gemini: LocalGemini, framing: Any, zipped: bool, newline: Any
) -> None:
    gemini.on("", Reply("one two three", framing=framing, gzip=zipped, newline=newline, pace=0.001))
    with Client(gemini) as client:
        for _ in range(2):
            response = client.ask("x")
            assert (response.headers["Content-Length"] is not None) == (framing == "length")
            assert (response.headers["Connection"] == "close") == (framing == "close")
            body = response.read()
            if zipped:
                assert response.headers["Content-Encoding"] == "gzip"
                body = gzip.decompress(body)
            assert text_of(body, newline) == "one two three"
    assert gemini.connections_opened == (2 if framing == "close" else 1)


def test_each_gzipped_event_can_be_read_when_it_is_sent(gemini: LocalGemini) -> None:
    gemini.on("", Reply("one two", gzip=True, hold_after=1))
    with Client(gemini) as client:
        response = client.ask("x")
        gemini.gate("").reached()
        assert b'"one"' in zlib.decompressobj(wbits=31).decompress(response.read1())
        gemini.gate("").open()
        response.read()


def test_pieces_can_be_written_a_byte_at_a_time(gemini: LocalGemini) -> None:
    gemini.on("", Reply("one two three", segment=1))
    assert text_of(ask(gemini, "x")[2]) == "one two three"


def test_the_times_of_a_reply(gemini: LocalGemini) -> None:
    gemini.on("", Reply("one two three", headers_delay=0.1, first_byte_after=0.1, pace=0.05))
    with Client(gemini) as client:
        started = time.monotonic()
        response = client.ask("x")
        assert elapsed(started) >= 0.1
        response.read1()
        assert elapsed(started) >= 0.2
        response.read()
        assert elapsed(started) >= 0.3


def test_a_chunked_upload_a_proxys_target_and_an_expectation_are_understood(gemini: LocalGemini) -> None:
    body = contents("hello")
    with Client(gemini) as client:
        client.http.request("POST", PATH, iter([body[:7], body[7:]]), HEADERS, encode_chunked=True)
        assert client.http.getresponse().read()
        client.http.request("POST", f"http://elsewhere:1{PATH}", body, HEADERS)
        assert client.http.getresponse().status == 200
    with socket.create_connection(("127.0.0.1", gemini.port), timeout=5) as sock:
        head = f"POST {PATH} HTTP/1.1\r\nx-goog-api-key: local-key\r\nconnection: close\r\n"
        head += "expect: 100-continue\r\n"
        sock.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode())
        read_until(sock, b"100 Continue\r\n\r\n")
        sock.sendall(body)
        assert b"200 OK" in read_all(sock)
    assert [record.text for record in gemini.requests] == ["hello"] * 3


# -- refusals


@pytest.mark.parametrize(
    ("path", "headers", "status", "name"),
    [
        (PATH, {}, 403, "PERMISSION_DENIED"),
        (PATH, {"x-goog-api-key": "wrong"}, 400, "INVALID_ARGUMENT"),
        ("/v1beta/models/m:countTokens", HEADERS, 404, "NOT_FOUND"),
        ("/", HEADERS, 404, "NOT_FOUND"),
        (PATH.partition("?")[0], HEADERS, 400, "INVALID_ARGUMENT"),
    ],
)
def test_what_the_api_would_refuse(
    gemini: LocalGemini, path: str, headers: Any, status: int, name: str
) -> None:
    gemini.on("", Reply("ok"))
    got, head, body = ask(gemini, "x", path=path, headers=headers)
    error = json.loads(body)["error"]
    assert (got, error["code"], error["status"]) == (status, status, name)
    assert head["Content-Type"].startswith("application/json")
    assert text_of(ask(gemini, "x")[2]) == "ok", "a refused request takes no answer away"


def test_bodies_that_are_no_request(gemini: LocalGemini) -> None:
    with Client(gemini) as client:
        for body in (b"{", b"{}", b"[]", b'{"contents": []}'):
            client.http.request("POST", PATH, body, HEADERS)
            response = client.http.getresponse()
            assert response.status == 400
            assert json.loads(response.read())["error"]["status"] == "INVALID_ARGUMENT"


def test_keys() -> None:
    with LocalGemini(keys=("first", "second")) as gemini:
        assert ask(gemini, "x", headers={"x-goog-api-key": "second"})[0] == 200
        assert ask(gemini, "x", headers=HEADERS)[0] == 400
        assert [record.key_number for record in gemini.requests] == [1, None]
    with LocalGemini(keys=None) as gemini:
        assert ask(gemini, "x", headers={"x-goog-api-key": "any"})[0] == 200


# -- the script


def test_the_nth_match_gets_the_nth_answer_and_the_first_pattern_wins(gemini: LocalGemini) -> None:
    gemini.on("why", Failure(503), Reply("yes"))
    gemini.on(lambda record: record.model == "gemini-test" and "y" in record.text, Reply("callable"))
    gemini.on("w", Reply("never"))
    assert [ask(gemini, text)[0] for text in ("why?", "hey", "why not", "and why")] == [503, 200, 200, 200]
    assert [record.nth for record in gemini.requests] == [1, 1, 2, 3]
    assert [record.pattern == "why" for record in gemini.requests] == [True, False, True, True]
    assert gemini.requests[1].status == 200
    gemini.on("why", Reply("again"))
    assert text_of(ask(gemini, "why")[2]) == "again", "the same pattern again: new answers in the old place"
    with pytest.raises(ValueError, match="at least one"):
        gemini.on("why")


def test_an_answer_can_be_made_from_the_request(gemini: LocalGemini) -> None:
    gemini.on("", lambda record: Reply(record.text.upper()))
    assert text_of(ask(gemini, "abc")[2]) == "ABC"


def test_an_error_in_the_script_is_told_at_the_end() -> None:
    def broken(_: object) -> bool:
        raise KeyError("oops")

    with pytest.raises(RuntimeError, match="script") as caught, LocalGemini() as gemini:
        gemini.on(broken, Reply("never"))
        with pytest.raises(http.client.RemoteDisconnected):
            ask(gemini, "x")
    assert isinstance(caught.value.__cause__, KeyError)


def test_waiting_for_requests(gemini: LocalGemini) -> None:
    timer = threading.Timer(0.05, lambda: [ask(gemini, text) for text in ("a 1", "b 1", "a 2")])
    timer.start()
    assert gemini.wait_request(2, where="a").text == "a 2"
    assert gemini.wait_request(1, where=lambda record: record.nth == 0).text == "a 1"
    assert gemini.wait_request().text == "a 1"
    with pytest.raises(TimeoutError, match="fewer than 4"):
        gemini.wait_request(4, timeout=0.01)
    timer.join()


def test_the_endpoint_is_this_server_with_its_key(gemini: LocalGemini) -> None:
    assert gemini.url in repr(gemini.endpoint)
    assert gemini.url.startswith("http://127.0.0.1:")


# -- gates


def test_a_gate_holds_all_its_streams_until_it_is_opened(gemini: LocalGemini) -> None:
    gemini.on("why", Reply("one two three", hold_after=2))
    gate = gemini.gate("why")
    with Client(gemini) as one, Client(gemini) as two, Client(gemini) as three:
        responses = [one.ask("why 1"), two.ask("why 2")]
        assert gate.reached(n=2)
        assert gate.waiting == 2
        assert [record.events_sent for record in gemini.requests] == [2, 2]
        with pytest.raises(TimeoutError, match="'why'"):
            gate.reached(timeout=0.01, n=3)
        gate.open()
        assert [text_of(response.read()) for response in responses] == ["one two three"] * 2
        assert text_of(three.ask("why 3").read()) == "one two three", "an open gate lets pass"
        gate.close()
        response = one.ask("why 4")
        gate.reached(n=4)
        assert gate.waiting == 1
        gate.open()
        gate.close()
        assert text_of(response.read()) == "one two three", "opened for a moment, it lets go who was there"


def test_gates_before_the_headers_and_before_the_first_event(gemini: LocalGemini) -> None:
    gemini.on("headers", Reply("a b", hold_before_headers=True))
    gemini.on("event", Reply("a b", hold_after=0))
    gemini.on("failure", Failure(500, hold_before_headers=True))
    with bare(gemini, "headers") as sock:
        gemini.gate("headers").reached()
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        gemini.gate("headers").open()
        sock.settimeout(5)
        assert sock.recv(1)
    with bare(gemini, "event") as sock:
        gemini.gate("event").reached()
        assert read_until(sock, b"\r\n\r\n").endswith(b"\r\n\r\n")
        assert gemini.requests[1].events_sent == 0
    with bare(gemini, "failure") as sock:
        gemini.gate("failure").reached()
        gemini.gate("failure").open()
        assert b" 500 " in read_until(sock, b"\r\n\r\n")


# -- ends that are none


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_cut_is_a_fin_in_the_middle(gemini: LocalGemini, framing: Any) -> None:
    gemini.on("", Reply("one two three", end="cut", end_after=2, framing=framing))
    with bare(gemini, "x") as sock:
        received = read_all(sock)
    assert received.count(b"data: ") == 2
    assert not received.endswith(b"0\r\n\r\n")
    with pytest.raises(http.client.IncompleteRead):
        ask(gemini, "x")
    record = gemini.requests[0]
    assert (record.ended, record.client_closed, record.events_sent) == ("cut", False, 2)


def test_reset_is_a_reset_and_what_was_sent_arrives(gemini: LocalGemini) -> None:
    gemini.on("", Reply("one two three", end="reset", end_after=2))
    with bare(gemini, "x") as sock:
        gemini.wait_request().wait_closed()
        received = b""
        with pytest.raises(ConnectionResetError):
            while piece := sock.recv(1000):
                received += piece
        assert received.count(b"data: ") == 2
    assert gemini.requests[0].ended == "reset"


def test_silent_stays_open_until_the_client_leaves(gemini: LocalGemini) -> None:
    gemini.on("", Reply("one two three", end="silent", end_after=1))
    with bare(gemini, "x") as sock:
        read_until(sock, b"\r\n\r\n", 2)
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        record = gemini.wait_request()
        assert record.closed_at is None
        left = time.monotonic()
        sock.shutdown(socket.SHUT_RDWR)
        assert record.wait_closed() - left < SOON
    assert (record.ended, record.client_closed, record.aborted_at) == ("client", True, record.closed_at)


def test_a_clean_end_too_early_and_half_an_event(gemini: LocalGemini) -> None:
    gemini.on("early", Reply("one two three", end_after=2))
    for framing in ("chunked", "length", "close"):
        gemini.on(f"half {framing}", Reply("one two three", end_after=2, half=True, framing=framing))
    with Client(gemini) as client:
        found = events(client.ask("early").read())
        assert [event["candidates"][0].get("finishReason") for event in found] == [None, None]
        for framing in ("chunked", "length", "close"):
            body = client.ask(f"half {framing}").read()
            assert body.count(b"\r\n\r\n") == 2
            assert body.count(b"data: ") == 3
    gemini.requests[0].wait_closed()
    assert gemini.requests[0].ended == "complete"


def test_errors_inside_the_stream(gemini: LocalGemini) -> None:
    gemini.on("data", Reply("one two three", error_after=(1, Failure(503, "overloaded"))))
    gemini.on(
        "bare", Reply("one two three", error_after=(2, {"code": 500, "status": "INTERNAL"}), error_bare=True)
    )
    found = events(ask(gemini, "data")[2])
    assert [*found[1]] == ["error"]
    assert found[1]["error"]["code"] == 503
    assert len(found) == 2
    *before, last = ask(gemini, "bare")[2].split(b"\r\n\r\n", 2)
    assert len(before) == 2
    assert len(last.splitlines()) > 3
    assert json.loads(last) == {"error": {"code": 500, "status": "INTERNAL"}}


def test_failures(gemini: LocalGemini) -> None:
    details: list[dict[str, Any]] = [{"@type": "x", "a": 1}, {"@type": "y"}]
    gemini.on(
        "",
        Failure(429, retry_delay="3s", retry_after=2),
        Failure(429, details=details, retry_delay="3s", as_list=True, content_type="text/event-stream"),
        Failure(503, "busy", retry_after=http_date(10)),
        Failure(302, body=b"", headers={"Location": "http://elsewhere/"}),
        Failure(502, body=b"<html>", content_type="text/html"),
        Failure(429, quota_id="GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
    )
    answers = [ask(gemini, "x") for _ in range(6)]
    error = json.loads(answers[0][2])["error"]
    kinds = [detail["@type"].rpartition(".")[2] for detail in error["details"]]
    assert kinds == ["QuotaFailure", "Help", "RetryInfo"]
    assert error["details"][2]["retryDelay"] == "3s"
    assert (error["status"], answers[0][1]["Retry-After"]) == ("RESOURCE_EXHAUSTED", "2")
    (listed,) = json.loads(answers[1][2])
    assert listed["error"]["details"][:2] == details
    assert answers[1][1]["Content-Type"] == "text/event-stream"
    assert answers[2][1]["Retry-After"].endswith(" GMT")
    assert json.loads(answers[2][2]) == {"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}
    assert (answers[3][0], answers[3][1]["Location"], answers[3][2]) == (302, "http://elsewhere/", b"")
    assert (answers[4][1]["Content-Type"], answers[4][2]) == ("text/html", b"<html>")
    assert b"PerDay" in answers[5][2]


def test_failures_keep_the_connection(gemini: LocalGemini) -> None:
    gemini.on("", Failure(500), Failure(429), Reply("ok"))
    with Client(gemini) as client:
        statuses = []
        for _ in range(3):
            response = client.ask("x")
            response.read()
            statuses.append(response.status)
    assert (statuses, gemini.connections_opened) == ([500, 429, 200], 1)


# -- bytes as they are

RECORDED = (
    b'data: {"a": 1}\r\n\r\n'
    b": a comment\n\n"
    b'data: {"b": "\xc3\xa9\xe2\x80\xa8"}\n\n'
    b'data: {"end": "without a blank line"}'
)


@pytest.mark.parametrize("name", every_cut(RECORDED))
def test_a_recorded_body_in_every_cut(gemini: LocalGemini, name: str) -> None:
    gemini.on("", every_cut(RECORDED)[name])
    with Client(gemini) as client:
        response = client.ask("x")
        body = response.read()
    if "gzip" in name:
        body = gzip.decompress(body)
    assert body == RECORDED
    assert response.headers["Content-Type"] == "text/event-stream"
    assert (response.headers["Transfer-Encoding"] == "chunked") == (
        name not in ("content-length", "close-delimited")
    )


def test_cuts_are_the_chunks_on_the_wire(gemini: LocalGemini) -> None:
    def chunks(body: Body) -> list[bytes]:
        gemini.on("", body)
        with bare(gemini, "x") as sock:
            received = read_until(sock, b"0\r\n\r\n").partition(b"\r\n\r\n")[2]
        sizes: list[int] = []
        found: list[bytes] = []
        while True:
            size, _, received = received.partition(b"\r\n")
            if size == b"0":
                return found
            sizes.append(int(size, 16))
            found.append(received[: sizes[-1]])
            received = received[sizes[-1] + 2 :]

    assert chunks(Body(RECORDED)) == [
        b'data: {"a": 1}\r\n\r\n',
        b": a comment\n\n",
        b'data: {"b": "\xc3\xa9\xe2\x80\xa8"}\n\n',
        b'data: {"end": "without a blank line"}',
    ]
    assert [len(chunk) for chunk in chunks(Body(RECORDED, "byte"))] == [1] * len(RECORDED)
    assert chunks(Body(RECORDED, "whole")) == [RECORDED]
    assert chunks(Body(RECORDED, [3, 5, 5, 999, 0])) == [RECORDED[:3], RECORDED[3:5], RECORDED[5:]]


def test_a_body_of_another_status_or_type_and_one_that_is_cut(gemini: LocalGemini) -> None:
    gemini.on("error", Body(b'{"error": {}}', status=400))
    gemini.on("html", Body(b"<html>", content_type="text/html"))
    gemini.on("cut", Body(RECORDED, end="cut", end_after=1))
    status, headers, _ = ask(gemini, "error")
    assert (status, headers["Content-Type"].partition(";")[0]) == (400, "application/json")
    assert ask(gemini, "html")[1]["Content-Type"] == "text/html"
    with pytest.raises(http.client.IncompleteRead):
        ask(gemini, "cut")


def test_raw_bytes_pauses_and_ends(gemini: LocalGemini) -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    gemini.on("keep", Raw(whole, close="keep"))
    gemini.on("parts", Raw([b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.1, whole]))
    gemini.on("reset", Raw(b"", close="reset"))
    gemini.on("fin", Raw(b""))
    gemini.on("silent", Raw(b"HTTP/1.1 200", close="silent"))
    with Client(gemini) as client:
        for _ in range(2):
            assert client.ask("keep").read() == b"ok"
    assert gemini.connections_opened == 1
    started = time.monotonic()
    with bare(gemini, "parts") as sock:
        assert read_all(sock).endswith(whole)
    assert elapsed(started) >= 0.1
    with bare(gemini, "reset") as sock, pytest.raises(ConnectionResetError):
        sock.recv(1)
    with bare(gemini, "fin") as sock:
        assert sock.recv(1) == b""
    with bare(gemini, "silent") as sock:
        assert sock.recv(100) == b"HTTP/1.1 200"
        record = gemini.wait_request(where="silent")
        assert record.closed_at is None
    record.wait_closed()
    assert record.client_closed


def test_a_trickle_never_ends_and_starts_anew_for_each(gemini: LocalGemini) -> None:
    gemini.on("", trickle(0.001))
    for _ in range(2):
        with Client(gemini) as client:
            assert client.ask("x").read(8) == b"data: ne"
    gemini.wait_request(2).wait_closed()


# -- continuation


def follow(gemini: LocalGemini, prompt: str = "long") -> tuple[str, int, int]:
    """Follow the tokens as wire.md says; answer the text, the requests and the usage that adds up."""
    standing: list[str] = []
    token: str | None = None
    kept = used = 0
    for request in itertools.count(1):
        assert request < 30
        more: dict[str, Any] = {"continuationToken": token} if token is not None else {}
        with bare_json(gemini, prompt, more) as sock:
            body = read_rest(sock)
        del standing[kept:]
        reason, usage = None, 0
        for event in body:
            candidate = event["candidates"][0]
            standing.append(candidate["content"]["parts"][0]["text"])
            if "continuationToken" in candidate:
                token, kept = candidate["continuationToken"], len(standing)
            reason = candidate.get("finishReason", reason)
            usage = event["usageMetadata"]["candidatesTokenCount"]
        used += usage
        if reason == "STOP":
            return "".join(standing), request, used
    raise AssertionError


def bare_json(gemini: LocalGemini, prompt: str, more: dict[str, Any]) -> socket.socket:
    body = contents(prompt, **more)
    head = f"POST {PATH} HTTP/1.1\r\nx-goog-api-key: local-key\r\nconnection: close\r\n"
    head += f"content-length: {len(body)}\r\n"
    sock = socket.create_connection(("127.0.0.1", gemini.port), timeout=10)
    sock.sendall(head.encode() + b"\r\n" + body)
    return sock


def read_rest(sock: socket.socket) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in read_all(sock).split(b"\r\n") if line.startswith(b"data: ")]


TEXT = " ".join(f"word{n}" for n in range(20))


def test_a_long_answer_in_four_hops(gemini: LocalGemini) -> None:
    gemini.on("long", LongAnswer(TEXT, hops=4))
    assert follow(gemini) == (TEXT, 4, 20)
    assert [record.usage["candidatesTokenCount"] for record in gemini.requests if record.usage] == [
        5,
        5,
        5,
        5,
    ]


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("cuts", [[], [0], [3], [4], [7, 8, 14], [19], [6, 6, 6]])
def test_a_long_answer_that_is_cut(gemini: LocalGemini, cuts: list[int], at_end: bool) -> None:
    gemini.on("long", LongAnswer(TEXT, hops=4, checkpoint_every=2, cut_at=cuts, token_at_end=at_end))
    for prompt in ("long 1", "long 2"):
        before = len(gemini.requests)
        text, requests, used = follow(gemini, prompt)
        assert text == TEXT
        records = gemini.requests[before:]
        assert sum(record.ended == "cut" for record in records) == len(cuts), "each cut once for each prompt"
        assert used == sum(record.usage["candidatesTokenCount"] for record in records if record.usage)
        if at_end:
            assert requests == 4 + len(cuts)


def test_a_token_of_another_answer_is_refused(gemini: LocalGemini) -> None:
    gemini.on("long", LongAnswer(TEXT))
    assert ask(gemini, "long", continuationToken="abc")[0] == 400
    gemini.on("long", LongAnswer(""))
    assert ask(gemini, "long")[0] == 200


# -- what the server sees


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("how", ["shutdown", "close", "reset"])
def test_the_server_sees_the_client_leave_in_every_phase(tls: bool, how: str) -> None:
    with LocalGemini(tls=tls) as gemini:
        gemini.on("headers", Reply("a b", hold_before_headers=True))
        gemini.on("first", Reply("a b", hold_after=0))
        gemini.on("middle", Reply("a b", hold_after=1))
        gemini.on("silent", Reply("a b", end="silent"))
        for phase in ("headers", "first", "middle", "silent"):
            client = Client(gemini)
            client.send(phase)
            record = gemini.wait_request(where=phase)
            if phase == "silent":
                client.http.getresponse().read1()
            else:
                gemini.gate(phase).reached()
            sock = client.http.sock
            left = time.monotonic()
            if how == "shutdown":
                sock.shutdown(socket.SHUT_RDWR)
            elif how == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if how != "shutdown":
                client.http.close()
                sock.close()
            assert record.wait_closed() - left < SOON
            client.http.close()
            assert record.client_closed
        gemini.wait_open_connections(0)


def test_bytes_sent_stop_where_the_client_does_not_read() -> None:
    with LocalGemini(sndbuf=8192) as gemini:
        gemini.on("", Reply(itertools.repeat("x" * 2000)))
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            sock.settimeout(5)
            sock.connect(("127.0.0.1", gemini.port))
            body = contents("x")
            sock.sendall(f"POST {PATH} HTTP/1.1\r\nx-goog-api-key: local-key\r\n".encode())
            sock.sendall(f"content-length: {len(body)}\r\n\r\n".encode() + body)
            record = gemini.wait_request()
            stuck, before = record.bytes_sent, -1
            while stuck != before or not stuck:
                time.sleep(0.1)
                before, stuck = stuck, record.bytes_sent
            assert stuck < 200_000
            received = 0
            while received < stuck + 100_000:
                received += len(sock.recv(65536))
            assert record.bytes_sent + 16384 >= received > stuck
        record.wait_closed()
        assert record.client_closed


@pytest.mark.parametrize("rcvbuf", [None, 65536])
@pytest.mark.parametrize("tls", [False, True])
def test_a_stalled_upload_goes_on_when_the_gate_is_opened(tls: bool, rcvbuf: int | None) -> None:
    size = 16 << 20
    with LocalGemini(tls=tls, rcvbuf=rcvbuf) as gemini:
        gemini.on('quoted "é"', StallUpload(then=Reply("thanks")), Reply("second"))
        with Client(gemini) as client:
            sender = threading.Thread(target=client.send, args=('quoted "é"' + "x" * size,))
            sender.start()
            record = gemini.wait_request()
            assert gemini.gate('quoted "é"').reached()
            assert record.stalled
            assert record.body is None
            sender.join(0.2)
            assert sender.is_alive(), "the upload is stuck"
            gemini.gate('quoted "é"').open()
            sender.join()
            assert text_of(client.http.getresponse().read()) == "thanks"
            assert len(record.text) == size + 10
            assert text_of(client.ask('quoted "é"').read()) == "second"
        assert [record.number for record in gemini.requests] == [1, 2]


def test_a_small_upload_is_held_as_well_and_a_callable_can_choose_it(gemini: LocalGemini) -> None:
    gemini.on("small", StallUpload())
    gemini.on(lambda record: record.body["x"] == 1, StallUpload(then=Failure(500)))
    with Client(gemini) as client:
        client.send("small")
        gemini.gate("small").reached()
        gemini.gate("small").open()
        assert client.http.getresponse().status == 200


@pytest.mark.parametrize(("tls", "reset"), [(False, True), (True, True), (False, False)])
def test_leaving_a_stalled_upload_is_seen_at_once_by_a_reset_else_when_read(tls: bool, reset: bool) -> None:
    with LocalGemini(tls=tls, rcvbuf=65536) as gemini:

        def by_model(record: RequestRecord) -> bool:
            return record.model == "gemini-test"

        gemini.on(by_model, StallUpload())
        client = Client(gemini)

        def send() -> None:
            with pytest.raises(OSError):
                client.send("x" * (16 << 20))

        sender = threading.Thread(target=send)
        sender.start()
        record = gemini.wait_request()
        sender.join(0.2)
        sock = client.http.sock
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw = socket.socket(fileno=os.dup(sock.fileno()))
        left = time.monotonic()
        raw.shutdown(socket.SHUT_RDWR)  # wakes the sender
        raw.close()
        sender.join()
        client.http.close()
        if not reset:
            with pytest.raises(TimeoutError):
                record.wait_closed(0.1)
            gemini.gate(by_model).open()
            left = time.monotonic()
        assert record.wait_closed() - left < 2 * SOON
        assert record.client_closed


def test_idle_connections_can_be_closed_from_here(gemini: LocalGemini) -> None:
    gemini.on("hold", Reply("a b", hold_after=1))
    with Client(gemini) as idle, Client(gemini) as busy:
        idle.ask("x").read()
        response = busy.ask("hold")
        gemini.gate("hold").reached()
        gemini.close_idle()
        gemini.wait_open_connections(1)
        gemini.gate("hold").open()
        assert text_of(response.read()) == "a b"


# -- other places


def test_a_url_that_refuses_one_that_is_mute_and_one_that_never_connects(gemini: LocalGemini) -> None:
    def connect(url: str) -> socket.socket:
        return socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=0.2)

    with pytest.raises(ConnectionRefusedError):
        connect(gemini.refused_url())
    with connect(gemini.mute_url()) as sock, pytest.raises(TimeoutError):
        sock.recv(1)
    assert gemini.mute_url(tls=True).startswith("https://")
    if sys.platform == "linux":
        with pytest.raises(TimeoutError):
            connect(gemini.unconnectable_url())


# -- TLS


def test_tls_with_an_authority_of_its_own() -> None:
    with LocalGemini(tls=True) as gemini:
        assert gemini.url.startswith("https://")
        assert gemini.ca_file is not None
        assert gemini.ca_file in repr(gemini.endpoint)
        gemini.on("cut", Reply("a b c", end="cut", end_after=2))
        gemini.on("reset", Reply("a b c", end="reset", end_after=2))
        with Client(gemini) as client:
            for _ in range(2):
                assert client.ask("x").read()
        assert gemini.connections_opened == 1
        with pytest.raises(http.client.IncompleteRead):
            ask(gemini, "cut")
        with (
            Client(gemini) as client,
            pytest.raises((ConnectionResetError, http.client.IncompleteRead)) as reset,
        ):
            client.ask("reset").read()  # OpenSSL calls a reset an end
        if isinstance(reset.value, http.client.IncompleteRead):
            assert reset.value.partial.count(b"data: ") == 2
        with (
            socket.create_connection(("127.0.0.1", gemini.port), timeout=5) as sock,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            ssl.create_default_context().wrap_socket(sock, server_hostname="127.0.0.1")
        with socket.create_connection(("127.0.0.1", gemini.port), timeout=5) as unfinished:
            unfinished.sendall(b"\x16\x03")
            while gemini.connections_opened < 5:
                time.sleep(0.01)
            gemini.close()
            with contextlib.suppress(ConnectionResetError):
                assert unfinished.recv(1) == b""
    assert not Path(gemini.ca_file).exists()


def test_without_trustme_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "trustme":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"gemini-streams\[tls\]"):
        LocalGemini(tls=True).start()


# -- many, and the end


def test_a_thousand_connections_at_once() -> None:
    count = 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4 * count:
        pytest.skip("too few descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4 * count), hard))
    with LocalGemini() as gemini:
        gemini.on("", Reply("one two three", hold_after=1))
        threads = threading.active_count()
        started = time.monotonic()
        socks = [bare(gemini, f"prompt {n}") for n in range(count)]
        gemini.gate("").reached(timeout=20, n=count)
        assert (gemini.open_connections, gemini.connections_opened) == (count, count)
        assert threading.active_count() == threads
        gemini.gate("").open()
        for sock in socks:
            assert read_until(sock, b"0\r\n\r\n").count(b"data: ") == 3
        assert elapsed(started) < 20
        for sock, record in zip(socks, gemini.requests, strict=True):
            record.wait_closed()
            assert record.ended == "complete"
            sock.close()
        gemini.wait_open_connections(0)


def test_closing_ends_everything_that_is_under_way() -> None:
    gemini = LocalGemini().start()
    gemini.on("gate", Reply("a b", hold_after=1))
    gemini.on("silent", Reply("a b", end="silent"))
    gemini.on("endless", Reply(itertools.repeat("x" * 1000)))
    gemini.on("trickle", trickle(0.01))
    gemini.on("stall", StallUpload())
    socks = [bare(gemini, text) for text in ("gate", "silent", "endless", "trickle", "stall")]
    socks.append(socket.create_connection(("127.0.0.1", gemini.port)))
    gemini.wait_request(5)
    gemini.wait_open_connections(6)
    started = time.monotonic()
    gemini.close()
    assert elapsed(started) < 2
    assert {record.ended for record in gemini.requests} == {"server"}
    assert gemini.open_connections == 0
    gemini.close()
    gemini.gate("gate").open()
    with pytest.raises(RuntimeError, match="make a new one"):
        gemini.start()
    for sock in socks:
        sock.close()


def test_a_program_that_forgets_to_close_ends_all_the_same() -> None:
    program = "from gemini_streams.testing import LocalGemini; print(LocalGemini().start().url)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=20, check=True, text=True
    )
    assert done.stdout.startswith("http://127.0.0.1:")
