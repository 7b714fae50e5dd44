"""LocalGemini: its wire, its refusals, its script and gates, its addresses, its end."""

from __future__ import annotations

import builtins
import contextlib
import gzip
import http.client
import itertools
import json
import resource
import socket
import ssl
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from gemini_streams.testing import (
    Failure,
    LocalGemini,
    Reply,
    StallUpload,
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
    with socket.create_connection(("127.0.0.1", gemini.port), timeout=20) as sock:
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
            socket.create_connection(("127.0.0.1", gemini.port), timeout=20) as sock,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            ssl.create_default_context().wrap_socket(sock, server_hostname="127.0.0.1")
        with socket.create_connection(("127.0.0.1", gemini.port), timeout=20) as unfinished:
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


@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_a_field_that_the_api_does_not_know_is_refused(gemini: LocalGemini, version: str) -> None:
    def post(body: dict[str, Any]) -> requests.Response:
        url = f"{gemini.url}/{version}/models/m:streamGenerateContent?alt=sse"
        with requests.post(url, json=body, headers={"x-goog-api-key": "local-key"}, timeout=10) as response:
            return response

    contents = [{"parts": [{"text": "why"}]}]
    refused = post({"contents": contents, "temperatur": 1})
    assert refused.status_code == 400
    assert 'Unknown name "temperatur": Cannot find field.' in refused.json()["error"]["message"]
    for name in ("generationConfig", "generation_config"):
        assert post({"contents": contents, name: {}}).status_code == 200


VERTEX = "publishers/google/models/gemini-test:streamGenerateContent?alt=sse"
HI = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}


@pytest.mark.parametrize(
    ("root", "project", "location"),
    [
        ("v1beta1/projects/p1/locations/us-central1", "p1", "us-central1"),
        ("v1/projects/p1/locations/global", "p1", "global"),
        ("v1beta1", None, None),
    ],
)
def test_vertex_ais_paths(gemini: LocalGemini, root: str, project: str | None, location: str | None) -> None:
    url = f"{gemini.url}/{root}/{VERTEX}"
    for headers, status in (
        ({"Authorization": "Bearer local-token"}, 200),
        ({"X-Goog-Api-Key": "local-key"}, 200),
        ({"X-Goog-Api-Key": "another"}, 400),
        ({"Authorization": "Bearer another"}, 401),
        ({"Authorization": "Basic local-token"}, 401),
        ({}, 401),
    ):
        answer = requests.post(url, json=HI, headers=headers, timeout=20)
        assert answer.status_code == status, headers
        assert status != 401 or answer.json()["error"]["status"] == "UNAUTHENTICATED"
    first = gemini.requests[0]
    assert (first.vertex, first.model, first.text) == (True, "gemini-test", "hi")
    assert (first.project, first.location, first.token_number) == (project, location, 0)
    assert "local-token" not in str([record.headers for record in gemini.requests])


def test_a_token_is_nothing_to_the_developer_api(gemini: LocalGemini) -> None:
    url = f"{gemini.url}/v1/models/gemini-test:streamGenerateContent?alt=sse"
    answer = requests.post(url, json=HI, headers={"Authorization": "Bearer local-token"}, timeout=20)
    assert answer.status_code == 403
    answer = requests.post(url, json=HI, headers={"X-Goog-Api-Key": "local-key"}, timeout=20)
    assert answer.status_code == 200
