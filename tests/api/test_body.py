"""A large request is encoded in pieces, and holds nobody up."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import StartManager
from gemini_streams import Gemini, InvalidRequestError, StreamComplete
from gemini_streams.api import body
from gemini_streams.api.body import Large, base64_large, encode, text_large
from gemini_streams.api.chosen import api
from gemini_streams.api.generate import values
from gemini_streams.api.generate.meaning import Checkpoint
from gemini_streams.testing import LocalGemini, Reply
from pykka_supervisor.testing import Probe

TARGET = Gemini(api_key="k").resolve()
MOST = 1 << 20
PICTURE = bytes(range(256)) * 80_000  # 20 MB
SMALLER = PICTURE[:3_000_001]


def of(picture: Any) -> list[Any]:
    return ["What is this?", {"inline_data": {"data": picture, "mime_type": "image/png"}}]


def longest_wait(work: Callable[[], Any]) -> float:
    """Seconds for which another thread did not get the interpreter while `work` ran: the best of a few times."""

    def once() -> float:
        gaps = [0.0]
        begun, done = threading.Event(), threading.Event()

        def ticks() -> None:
            last = time.perf_counter()
            while not done.is_set():
                time.sleep(0.0001)
                now = time.perf_counter()
                gaps.append(now - last)
                last = now
                begun.set()

        thread = threading.Thread(target=ticks)
        thread.start()
        begun.wait(20)
        work()
        done.set()
        thread.join()
        return max(gaps)

    return min(once() for _ in range(4))


def test_a_picture_is_encoded_in_pieces_between_which_others_run() -> None:
    def at_once() -> bytes:
        return msgspec.json.encode({"data": base64.urlsafe_b64encode(PICTURE).decode()})

    text = base64.b64encode(PICTURE).decode()
    alone = longest_wait(at_once)
    for given_as in (PICTURE, text):
        assert longest_wait(lambda given_as=given_as: api.request(of(given_as))) < alone / 2  # type: ignore[misc]


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, lambda b: base64.b64encode(b).decode()])
def test_the_pieces_are_the_body(make: Callable[[bytes], Any]) -> None:
    request = api.request(of(make(SMALLER)))
    pieces = request.call(TARGET, "m", None).body
    assert len(pieces) > 3
    assert max(map(len, pieces)) <= MOST
    [turn] = json.loads(b"".join(pieces))["contents"]
    assert turn["parts"][0] == {"text": "What is this?"}
    assert base64.urlsafe_b64decode(turn["parts"][1]["inlineData"]["data"]) == SMALLER
    assert request.same_as(api.request(of(SMALLER)))
    assert not request.same_as(api.request(of(SMALLER[:-1])))


def test_a_long_text_is_the_same_text() -> None:
    text = 'é"\n\0\U0001f600' * 100_000
    pieces = api.request(text).call(TARGET, "m", None).body
    assert json.loads(b"".join(pieces))["contents"][0]["parts"] == [{"text": text}]
    assert max(map(len, pieces)) <= MOST


@pytest.mark.parametrize("at", [0, 70_000, 499_999])
def test_half_a_character_in_a_long_text_is_refused(at: int) -> None:
    text = "x" * at + "\ud800" + "x" * (499_999 - at)
    for contents in (text, of(text)):
        with pytest.raises(InvalidRequestError, match="half a character"):
            api.request(contents)


@given(
    st.recursive(
        st.text(max_size=20) | st.binary(max_size=20) | st.integers() | st.none(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
        max_leaves=10,
    )
)
def test_any_value_in_pieces_of_any_size_is_what_json_makes_of_it(value: Any) -> None:
    def with_large(each: Any) -> Any:
        match each:
            case str() if len(each) >= 4:
                return text_large(each)
            case bytes():
                return base64_large(each)
            case list():
                return [with_large(inner) for inner in each]
            case dict():
                return {key: with_large(inner) for key, inner in each.items()}
        return each

    def plain(each: Any) -> Any:
        match each:
            case bytes():
                return base64.urlsafe_b64encode(each).decode()
            case list():
                return [plain(inner) for inner in each]
            case dict():
                return {key: plain(inner) for key, inner in each.items()}
        return each

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(body, "_BYTES", 3)
        patched.setattr(body, "_CHARACTERS", 2)
        patched.setattr(body, "_PIECE", 8)
        patched.setattr(body, "_MOMENT", 0)
        assert json.loads(b"".join(encode(with_large(value)))) == plain(value)


@pytest.mark.parametrize("size", range(40))
def test_base64_given_as_a_text_is_brought_into_one_alphabet_and_padded(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytes(range(200, 200 + size))
    monkeypatch.setattr(values, "LARGE", 1)
    monkeypatch.setattr(body, "_CHARACTERS", 5)
    for text in (base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode().rstrip("=")):
        sent = values.plain({"data": text}, "x", values.Shape.MESSAGE, 0)
        assert json.loads(b"".join(encode(sent)))["data"] == base64.urlsafe_b64encode(data).decode()


def test_a_token_takes_the_place_of_the_one_that_was_given() -> None:
    request = api.request("why", {"continuation_token": "given", "seed": 1})
    [first] = request.call(TARGET, "m", None).body
    assert json.loads(first)["continuationToken"] == "given"
    [second] = request.call(TARGET, "m", Checkpoint("dG9r", None)).body
    assert second.count(b"continuationToken") == 1
    assert json.loads(second) == {**json.loads(first), "continuationToken": "dG9r"}


def test_a_large_value_shows_nothing_of_itself() -> None:
    assert repr(Large([b"secret", b"er"])) == "<8 bytes>"


def test_a_stream_with_a_picture_sends_it_whole(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("What is this?", Reply("A picture."))
    manager().start_stream(of(SMALLER), subscriber=probe.ref)
    assert probe.expect(StreamComplete).ok
    [record] = gemini.requests
    inline = record.body["contents"][0]["parts"][1]["inlineData"]
    assert base64.urlsafe_b64decode(inline["data"]) == SMALLER
