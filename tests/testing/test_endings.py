"""LocalGemini's answers that break off, stand in any cut, or go on in hops."""

from __future__ import annotations

import gzip
import http.client
import itertools
import json
import socket
import time
from typing import Any

import pytest

from gemini_streams.testing import (
    Body,
    Failure,
    LocalGemini,
    LongAnswer,
    Raw,
    Reply,
    every_cut,
    http_date,
    trickle,
)
from kit.client import (
    PATH,
    SOON,
    Client,
    ask,
    bare,
    contents,
    elapsed,
    events,
    read_all,
    read_until,
)

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
    sock = socket.create_connection(("127.0.0.1", gemini.port), timeout=20)
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
