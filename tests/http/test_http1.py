"""Heads: a plain one is read as http.client reads it; what decides where the body ends is read strictly."""

from __future__ import annotations

import http.client
import io
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import StartManager
from gemini_streams import ManagerRef, StreamComplete
from gemini_streams.http.http1 import (
    MOST_BYTES,
    MOST_HEADERS,
    Head,
    HeadError,
    HeadReader,
    parse_head,
    request_head,
)
from gemini_streams.testing import LocalGemini, Raw
from kit.helpers import LAST, ONCE, text_of
from kit.replies import CHUNKED, answer, body, chunked
from pykka_supervisor.testing import Probe


class Socket:
    """As much of a socket as http.client's response reads."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO(self.data)


def theirs(head: bytes) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(Socket(head + b"\r\n\r\n"), method="POST")  # type: ignore[arg-type]
    response.begin()
    return response


tokens = st.text("abcXYZ0189-_.!#$%&'*+^`|~", min_size=1, max_size=12)
values = st.text(
    st.characters(codec="latin-1", exclude_characters="\x00\r\n\x0b\x0c\x1c\x1d\x1e\x85"), max_size=20
)
reasons = st.text(
    st.characters(codec="latin-1", min_codepoint=32, exclude_characters="\x7f\x85\xa0"), max_size=12
)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    reserved = {"transfer-encoding", "content-length", "connection", "content-encoding"}
    names = draw(st.lists(tokens.filter(lambda n: n.lower() not in reserved), max_size=6))
    lines = [f"{name}:{draw(st.sampled_from(['', ' ', '  ']))}{draw(values)}" for name in names]
    lines += draw(
        st.sampled_from(
            [
                [],
                ["Transfer-Encoding: chunked"],
                ["content-length: 12"],
                ["Content-Length: 0"],
                ["Connection: close", "Transfer-Encoding: Chunked"],
                ["Connection: keep-alive", "Content-Length: 7"],
                ["Content-Encoding: identity", "transfer-encoding: chunked"],
                ["Content-Encoding: gzip", "transfer-encoding: chunked"],
            ]
        )
    )
    status = draw(st.integers(200, 599).filter(lambda code: code not in (204, 205, 304)))
    return "\r\n".join([f"HTTP/1.1 {status} {draw(reasons)}", *draw(st.permutations(lines))]).encode(
        "latin-1"
    )


@given(heads())
def test_a_plain_head_says_what_http_client_reads_in_it(head: bytes) -> None:
    ours, response = parse_head(head), theirs(head)
    assert (ours.status, ours.reason.strip()) == (response.status, response.reason)
    assert ours.headers == [(name, value.strip(" \t")) for name, value in response.headers.items()]
    assert ours.chunked == response.chunked
    assert ours.length == (None if response.chunked else response.length)
    assert ours.keeps == (not response.will_close)


def read_head(data: bytes, *cuts: int) -> tuple[Head | None, bytes]:
    reader = HeadReader()
    edges = [0, *cuts, len(data)]
    for start, end in itertools.pairwise(edges):
        head = reader.feed(data[start:end])
        if head is not None:
            return head, reader.leftover + data[end:]
    return None, b""


@given(st.binary(max_size=80), st.integers(1, 80))
def test_any_bytes_are_a_head_or_a_head_error(data: bytes, cut: int) -> None:
    for head in (data, b"HTTP/1.1 200 OK\r\n" + data):
        found = []
        for cuts in ((), (min(cut, len(head)),)):
            try:
                found.append(read_head(head + b"\r\n\r\n", *cuts))
            except HeadError:
                found.append((None, b"an error"))
        assert found[0] == found[1]


@given(heads(), st.lists(st.integers(0, 400), max_size=4), st.booleans(), st.binary(max_size=20))
def test_any_cut_of_a_head_is_the_same_head(head: bytes, cuts: list[int], hints: bool, behind: bytes) -> None:
    data = head + b"\r\n\r\n" + behind
    if hints:
        data = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + data
    assert read_head(data, *sorted(min(cut, len(data)) for cut in cuts)) == (parse_head(head), behind)


@pytest.mark.parametrize(
    ("head", "chunked", "length", "keeps"),
    [
        (b"HTTP/1.1 200 OK", False, None, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3", False, 3, False),
        (b"HTTP/1.1 204 No Content", False, 0, False),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3", False, 0, False),
        (b"HTTP/1.1 101 Switching Protocols", False, 0, False),
        (b"HTTP/1.1  200  OK\r\nContent-Length: 3", False, 3, True),
        (b"HTTP/1.1 200 OK\r\n folded: x\r\nContent-Length: 3", False, 3, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length:\r\n 3", False, 3, True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\tchunked", True, None, True),
        (b"HTTP/1.1 200 OK\nA: b\nContent-Length: 3", False, 3, True),
        (b"HTTP/1.1 200 OK\r\nA: b\nContent-Length: 3", False, 3, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length : 3", False, 3, True),
        (b"HTTP/1.1 200 OK\r\nA B: x\r\nContent-Length: 3", False, 3, True),
        (b"HTTP/1.1 200 OK\r\n: x\r\nContent-Length: 3", False, 3, True),
        (b"HTTP/1.1 200 OK\r\nA: b\rContent-Length: 4\r\nContent-Length: 3", False, 3, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3", False, 3, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3", False, 3, True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3", True, None, False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 3", False, 3, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: Close", False, 3, False),
    ],
)
def test_where_a_body_ends(head: bytes, chunked: bool, length: int | None, keeps: bool) -> None:
    found = parse_head(head)
    assert (found.chunked, found.length, found.keeps) == (chunked, length, keeps)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"HTTP/2.0 200 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 OK",
        b"HTTP/1.1 200 OK\r\nno colon",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3, 4",
        b"HTTP/1.1 200 OK\r\nContent-Length: +3",
        b"HTTP/1.1 200 OK\r\nContent-Length: -3",
        b"HTTP/1.1 200 OK\r\nContent-Length:",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9" + b"9" * 5000,
        "HTTP/1.1 200 OK\r\nContent-Length: \u00b2".encode("latin-1"),
        b"HTTP/1.1 200 OK" + b"\r\nA: b" * (MOST_HEADERS + 1),
    ],
)
def test_what_leaves_the_bodys_end_open_is_no_head(head: bytes) -> None:
    with pytest.raises(HeadError):
        parse_head(head)


def test_content_codings() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: Deflate, identity\r\nContent-Encoding: gzip"
    assert parse_head(head).codings == ("deflate", "gzip")


@pytest.mark.parametrize(
    "endless",
    [
        b"A" * 500,
        b"Name: value\r\n",
        b"\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n",
    ],
    ids=["a line", "lines", "interim answers"],
)
def test_a_head_is_bounded(endless: bytes) -> None:
    reader = HeadReader()
    reader.feed(b"HTTP/1.1 100 OK\r\n")
    with pytest.raises(HeadError):
        for _ in range(MOST_BYTES // len(endless) + 1):
            assert reader.feed(endless) is None


@pytest.mark.parametrize("start", [b"S", b"SSH-2.0", b"\r\n", b"HTTq", b"http/1.1"])
def test_what_does_not_begin_as_http_is_not_waited_for(start: bytes) -> None:
    with pytest.raises(HeadError):
        HeadReader().feed(start)
    reader = HeadReader()
    assert reader.feed(b"HT") is None
    assert reader.begun


def test_a_request_is_what_http_client_would_send() -> None:
    headers = {"Content-Type": "application/json", "x-goog-api-key": "k\u00fc", "Content-Length": "2"}
    sent: list[bytes] = []

    class Connection(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = Sink()

    class Sink:
        def sendall(self, data: bytes) -> None:
            sent.append(data)

    connection = Connection("127.0.0.1", 8080)
    connection.putrequest("POST", "/v1beta/models/m:x?alt=sse", skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    assert [request_head("POST", "/v1beta/models/m:x?alt=sse", "127.0.0.1:8080", headers)] == sent


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/x y", {}),
        ("/x\r\nEvil: 1", {}),
        ("/x", {"A": "b\r\nEvil: 1"}),
        ("/x", {"A": "b\nEvil: 1"}),
        ("/x", {"A\r\nEvil": "1"}),
        ("/x", {"A": "\0"}),
        ("/x", {"A": "\u20ac"}),
        ("/x", {"hOsT": "elsewhere\r\nEvil: 1"}),
        ("/x", {"A:": "b"}),
        ("/x", {"A B": "b"}),
        ("/x", {"": "b"}),
    ],
)
def test_nothing_is_smuggled_into_a_request(path: str, headers: dict[str, str]) -> None:
    assert request_head("POST", path, "host", headers) is None


def test_a_host_header_of_ones_own_is_the_only_one() -> None:
    head = request_head("POST", "/x", "host", {"hOsT": "elsewhere"})
    assert head == b"POST /x HTTP/1.1\r\nhOsT: elsewhere\r\n\r\n"


# -- through a stream -------------------------------------------------------------------------------------------------


PLAIN = answer(CHUNKED) + chunked(body("fine"))

ANSWERS: dict[str, tuple[bytes, bool]] = {
    "plain": (PLAIN, True),
    "of a length": (answer(b"Content-Length: %d" % len(body("fine"))) + body("fine"), True),
    "until the end": (answer() + body("fine"), False),
    "closing": (answer(CHUNKED, b"Connection: close") + chunked(body("fine")), False),
    "of the old kind": (PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0", 1), False),
    "early hints": (
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + PLAIN,
        True,
    ),
    "line feeds": (answer(CHUNKED, end=b"\n") + chunked(body("fine")), True),
    "one line feed": (
        answer(b"Content-Length: %d" % len(body("fine")), end=b"\r\n").replace(b"\r\n\r\n", b"\n\r\n")
        + body("fine"),
        True,
    ),
    "folded": (answer(b"X: a\r\n b", CHUNKED) + chunked(body("fine")), True),
    "many headers": (
        answer(*(b"X-%d: %s" % (n, b"y" * 400) for n in range(60)), CHUNKED) + chunked(body("fine")),
        True,
    ),
    "no reason": (PLAIN.replace(b"200 OK", b"200", 1), True),
}


def ask(manager: ManagerRef, probe: Probe, prompt: str) -> str:
    manager.start_stream(prompt, subscriber=probe.ref)
    last = probe.expect(LAST)
    assert isinstance(last, StreamComplete), last
    return text_of(probe, last.stream_id)


@pytest.mark.parametrize("kind", ANSWERS)
def test_whatever_the_head_looks_like_the_answer_is_read(
    gemini: LocalGemini, manager: StartManager, probe: Probe, kind: str
) -> None:
    whole, keeps = ANSWERS[kind]
    gemini.on("why", Raw(whole, close="keep" if keeps else "fin"))
    running = manager(retry=ONCE)
    assert [ask(running, probe, "why") for _ in range(3)] == ["fine"] * 3
    assert gemini.connections_opened == (1 if keeps else 3)


def test_a_head_that_comes_in_pieces(
    gemini: LocalGemini, manager: StartManager, probes: Callable[[], Probe]
) -> None:
    """Cut anywhere, also within the blank line and in front of the body."""
    until = PLAIN.index(b"fine")
    gemini.on(
        "cut",
        lambda record: Raw([PLAIN[: int(record.text[4:])], 0.002, PLAIN[int(record.text[4:]) :]], "keep"),
    )
    running = manager(retry=ONCE)
    probe = probes()
    for at in range(1, until):
        assert ask(running, probe, f"cut {at}") == "fine"
    assert gemini.connections_opened == 1
