"""Errors of the server: what they say, whether they are repeated, and when."""

from __future__ import annotations

import email.utils
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_streams.api.endpoint import Gemini
from gemini_streams.api.failures import (
    MAX_DETAILS,
    MAX_MESSAGE,
    error_from_event,
    find_error,
    parse_error,
    retry_after,
)
from gemini_streams.errors import APIError

KEY = "AIzaSy-the-key-that-nobody-sees"
NOW = 1_700_000_000.0
RECORDED = Path(__file__).parents[3] / "shared" / "recorded"
target = Gemini(api_key=KEY).resolve({})


def parse(status: int, body: Any, headers: dict[str, str] | None = None) -> APIError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_error(status, headers or {}, raw, now=NOW, scrub=target.scrub)


def event(data: Any) -> APIError:
    return error_from_event(data, now=NOW, scrub=target.scrub)


def error(**fields: Any) -> dict[str, Any]:
    return {"error": fields}


RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "53s"}
HELP = {"@type": "type.googleapis.com/google.rpc.Help", "links": [{"url": "https://x"}]}


def quota(*ids: Any) -> dict[str, Any]:
    return {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaMetric": "m", "quotaId": i} for i in ids],
    }


def test_a_whole_error() -> None:
    found = parse(429, error(code=429, message="Quota.", status="RESOURCE_EXHAUSTED", details=[HELP, RETRY]))
    assert (found.code, found.status, found.message) == (429, "RESOURCE_EXHAUSTED", "Quota.")
    assert found.details == [HELP, RETRY]
    assert found.retryable
    assert found.retry_at == NOW + 53
    assert str(found) == "429 RESOURCE_EXHAUSTED: Quota."
    again = pickle.loads(pickle.dumps(found))
    assert (again.code, again.details, again.retry_at, str(again)) == (
        429,
        [HELP, RETRY],
        NOW + 53,
        str(found),
    )


def test_an_error_in_a_list() -> None:
    assert parse(503, [error(code=503, message="Later.", status="UNAVAILABLE")]).message == "Later."


def test_the_http_status_counts() -> None:
    found = parse(503, error(code=400, message="m", status="INVALID_ARGUMENT"))
    assert (found.code, found.retryable) == (503, True)
    assert not parse(400, error(code=503, message="m")).retryable


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 413, 499, 501, 505, 511, 599])
def test_what_is_not_repeated(status: int) -> None:
    assert not parse(status, error(code=status, message="m")).retryable
    assert not parse(status, b"").retryable
    assert not event(error(code=status, message="m")).retryable


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_is_repeated(status: int) -> None:
    assert parse(status, error(code=status, message="m")).retryable
    assert parse(status, b"").retryable
    assert event(error(code=status, message="m")).retryable


@pytest.mark.parametrize(
    ("details", "retryable"),
    [
        ([quota("GenerateRequestsPerMinutePerProjectPerModel-FreeTier")], True),
        ([quota("GenerateRequestsPerDayPerProjectPerModel-FreeTier")], False),
        ([HELP, quota("PerMinute", "GenerateContentInputTokensPerDay"), RETRY], False),
        ([quota()], True),
        ([quota(None, 5, ["PerDay"])], True),
        ([{"violations": "PerDay"}, {"violations": ["PerDay", {"quotaId": "x"}]}, 7, None, "PerDay"], True),
        ("PerDay", True),
        ({"violations": [{"quotaId": "PerDay"}]}, True),
    ],
)
def test_a_quota_of_the_day_does_not_come_back(details: Any, *, retryable: bool) -> None:
    data = error(code=429, message="m", status="RESOURCE_EXHAUSTED", details=details)
    assert parse(429, data).retryable is retryable
    assert event(data).retryable is retryable


# -- when ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2.0),
        (" 120 ", 120.0),
        ("1.5", 1.5),
        ("0", None),
        ("-5", None),
        ("", None),
        ("soon", None),
        ("1e3", None),
        ("٣", None),
        ("nan", None),
        ("inf", None),
        ("9" * 400, None),
        ("x" * 10_000, None),
        ("Wed, 99 Foo 2023 25:61:61 GMT", None),
        ("Tue, 14 Nov 2023 22:13:30 GMT", 10.0),
        ("Tuesday, 14-Nov-23 22:13:30 GMT", 10.0),
        ("Tue Nov 14 22:13:30 2023", 10.0),
        ("Tue, 14 Nov 2023 23:13:30 +0100", 10.0),
        ("Tue, 14 Nov 2023 22:13:30 -0000", 10.0),
        ("Tue, 14 Nov 2023 22:13:10 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 253402300799.0 - NOW),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after(value, now=NOW) == (None if seconds is None else NOW + seconds)
    for name in ("Retry-After", "retry-after", "RETRY-AFTER"):
        assert parse(503, b"", {name: value}).retry_at == (None if seconds is None else NOW + seconds)


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [
        ("53s", 53.0),
        ("3.5s", 3.5),
        ("0.000000001s", 1e-9),
        ({"seconds": 3}, 3.0),
        ({"seconds": "3", "nanos": 500_000_000}, 3.5),
        ({"nanos": 500_000_000}, 0.5),
        ("0s", None),
        ("-3s", None),
        ("3", None),
        ("3m", None),
        ("s", None),
        ("1e9s", None),
        ("infs", None),
        ("9" * 500 + "s", None),
        ({}, None),
        ({"seconds": "soon"}, None),
        ({"seconds": "inf"}, None),
        ({"seconds": "nan"}, None),
        ({"seconds": None}, None),
        ({"seconds": [3]}, None),
        ({"seconds": 10**400}, None),
        (53, None),
        (None, None),
    ],
)
def test_retry_info(delay: Any, seconds: float | None) -> None:
    found = event(
        error(code=429, message="m", details=[HELP, quota("PerMinute"), {**RETRY, "retryDelay": delay}])
    )
    assert found.retry_at == (None if seconds is None else pytest.approx(NOW + seconds))


def test_the_latest_word_counts() -> None:
    def details(*delays: str) -> dict[str, Any]:
        return error(code=429, message="m", details=[{**RETRY, "retryDelay": d} for d in delays])

    assert parse(429, details("3s"), {"Retry-After": "7"}).retry_at == NOW + 7
    assert parse(429, details("9s"), {"Retry-After": "7"}).retry_at == NOW + 9
    assert parse(429, details("3s", "11s", "9s")).retry_at == NOW + 11
    assert parse(429, details("never"), {"Retry-After": "7"}).retry_at == NOW + 7
    late = email.utils.formatdate(NOW + 60, usegmt=True)
    assert parse(429, details("3s"), {"Retry-After": late}).retry_at == NOW + 60


# -- bodies that are no error of Gemini's --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty body"),
        (b"  \n ", "empty body"),
        (b"upstream connect error", "upstream connect error"),
        (b"<html><head><title>502 Bad  Gateway</title></head><body>x</body></html>", "502 Bad Gateway"),
        (b"<!DOCTYPE html>\n<h1>Oops</h1><p>a &amp; b</p>", "Oops a & b"),
        (b"\xff\xfe\x00garbage\x1b[31m", "garbage"),
        (b'{"message": "not an error"}', "not an error"),
        (b'{"error": null}', "null"),
        (b'{"error": {"message": "cut off', "cut off"),
        (b"[]", "[]"),
        (b"[" * 100_000, "[["),
        (b"<" * 100_000, "<<"),
        (b"5", "5"),
        (b"word " * 1_000_000, "word word"),
    ],
)
def test_other_bodies(body: bytes, says: str) -> None:
    found = parse(502, body, {"Content-Type": "text/html; charset=utf-8"})
    assert (found.code, found.status, found.details, found.retryable) == (502, "", [], True)
    assert found.message.startswith("HTTP 502 Bad Gateway")
    assert says in found.message
    assert len(found.message) < 400
    assert found.message.isprintable()


def test_a_status_without_a_name() -> None:
    assert parse(599, b"").message.startswith("HTTP 599, ")


def test_an_error_that_is_a_string() -> None:
    assert parse(400, {"error": "model is required"}).message == "model is required"


def test_a_byte_order_mark() -> None:
    assert parse(400, b"\xef\xbb\xbf" + json.dumps(error(code=400, message="m")).encode()).message == "m"


@pytest.mark.parametrize("wrong", [None, 5, [], {}, True, 1.5])
def test_fields_of_wrong_types(wrong: Any) -> None:
    found = parse(429, {"error": {"code": wrong, "message": wrong, "status": wrong, "details": wrong}})
    assert (found.code, found.status, found.message, found.details) == (429, "", "", [])
    assert event({"error": {"code": wrong, "message": wrong, "status": wrong, "details": wrong}}).code == 0


def test_sizes_are_bounded() -> None:
    details = [HELP, {"x": "y" * 100_000}, RETRY, quota("PerDay")]
    found = parse(429, error(code=429, message="m" * 100_000, status="S" * 1000, details=details))
    assert len(found.message) == MAX_MESSAGE
    assert len(found.status) == 100
    assert len(json.dumps(found.details)) <= MAX_DETAILS
    assert found.retry_at == NOW + 53
    assert not found.retryable


@pytest.mark.parametrize("odd", ['"\\ud800"', "[" * 200 + "]" * 200, "1e400", "1" * 400])
def test_an_error_is_read_whatever_stands_in_its_details(odd: str) -> None:
    details = f'[{odd}, {{"x": {odd}}}, {json.dumps(RETRY)}]'
    raw = f'{{"error": {{"code": 429, "message": "m \\ud800", "details": {details}}}}}'
    inside = find_error(raw)
    assert inside is not None
    for found in (event(inside), parse(429, raw.encode())):
        assert (found.code, found.message) == (429, "m \ufffd")
        assert found.retry_at is not None
        str(found).encode()
        pickle.loads(pickle.dumps(found))
        assert RETRY in found.details


# -- inside a stream -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (error(code=503, status="UNAVAILABLE"), 503),
        ([error(code=503, status="UNAVAILABLE")], 503),
        ({"code": 503, "status": "UNAVAILABLE"}, 503),
        (error(code="503"), 503),
        (error(status="UNAVAILABLE"), 503),
        (error(status="RESOURCE_EXHAUSTED"), 429),
        (error(code=True, status="INTERNAL"), 500),
        (error(code=-1, status="NOT_FOUND"), 404),
        (error(code=10**30, status="NOVELTY"), 0),
        (error(message="m"), 0),
        ({"error": "m"}, 0),
        ({}, 0),
        (None, 0),
        ([], 0),
        ("x", 0),
    ],
)
def test_an_error_inside_a_stream_goes_by_its_own_code(data: Any, code: int) -> None:
    found = event(data)
    assert found.code == code
    assert found.retryable is (code in (429, 500, 503))


BARE = json.dumps(
    error(code=503, message='Überlastet {["', status="UNAVAILABLE"), indent=2, ensure_ascii=False
)


@pytest.mark.parametrize(
    "raw",
    [
        BARE,
        BARE.encode(),
        "\n\n" + BARE + "\n",
        "\ufeff" + BARE,
        BARE.replace("\n", "\r\n"),
        f"[{BARE}]",
        f"[{BARE}\n]\n",
        f"  [\n {BARE} ]",
        f": comment {{\n{BARE}\n\nevent: x\n",
        f"event: {{\n{BARE}",
        f"{{not json}}\n{BARE}",
        f'{{"a": 1}}\n{BARE}',
        BARE + "\ndata: {}",
        BARE + BARE,
        json.dumps(error(code=503, message='Überlastet {["', status="UNAVAILABLE")),
    ],
)
def test_bare_json_is_recognised(raw: str | bytes) -> None:
    found = find_error(raw)
    assert found is not None
    assert found["message"] == 'Überlastet {["'
    assert event(found).code == 503


@pytest.mark.parametrize(
    "raw",
    ["", b"", "\n", BARE[:-1], BARE[:30], "{}", "[]", "[[[[", "[" * 200_000, "{" * 200_000,
     "null", '{"error": null}', '"error"',
     "text", b"\xff\xfe{", "event: x\nid: 7\n", '{"candidates": []}', "{\n" * 5000],
)  # fmt: skip
def test_what_is_no_bare_error(raw: str | bytes) -> None:
    assert find_error(raw) is None


# -- secrets -------------------------------------------------------------------------------------------------


def holds_key(found: APIError) -> bool:
    everything = [
        str(found),
        repr(found),
        repr(vars(found)),
        repr(found.args),
        pickle.dumps(found).decode("latin-1"),
    ]
    return any(KEY in text for text in everything)


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(
            error(
                code=400,
                message=f"API key not valid: {KEY}.",
                status=KEY,
                details=[{"@type": "DebugInfo", "detail": f"key={KEY}", KEY: [{"x": [KEY]}]}],
            )
        ).encode(),
        json.dumps({"error": KEY}).encode(),
        f"<html><title>key {KEY}</title>".encode(),
        f"bad key {KEY}".encode(),
        b"<p>" + b"x" * 180 + KEY.encode() + b"</p>",
        (" " * 8180 + KEY).encode(),
    ],
)
def test_no_key_in_any_error(body: bytes) -> None:
    found = parse(400, body, {"Content-Type": f"text/{KEY}", "Retry-After": KEY})
    assert not holds_key(found)
    assert "AIzaSy-the" not in str(found)
    inside = find_error(body)
    assert inside is None or not holds_key(event(inside))


def test_a_key_at_the_edge_of_what_is_kept() -> None:
    for before in range(MAX_MESSAGE - 40, MAX_MESSAGE + 5):
        message = parse(400, error(code=400, message="x" * before + KEY)).message
        assert "AIza" not in message
    for before in range(150, 210):
        assert "AIza" not in parse(400, b"x" * before + KEY.encode()).message


# -- anything ------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("PerDay"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "error",
                    "code",
                    "status",
                    "message",
                    "details",
                    "retryDelay",
                    "violations",
                    "quotaId",
                    "seconds",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(json_values, st.integers(300, 599), st.text(max_size=10))
def test_anything_is_an_error(data: Any, status: int, after: str) -> None:
    for found in (parse(status, data, {"Retry-After": after}), event(data)):
        assert isinstance(found, APIError)
        assert isinstance(found.message, str)
        assert found.retry_at is None or found.retry_at > NOW
        pickle.loads(pickle.dumps(found))


@given(st.binary(max_size=200), st.integers(300, 599))
def test_any_bytes_are_an_error(body: bytes, status: int) -> None:
    assert parse(status, body).code == status
    find_error(body)


# -- recorded ------------------------------------------------------------------------------------------------


def recorded_errors() -> list[dict[str, Any]]:
    if not (RECORDED / "manifest.json").exists():
        return []
    files: list[dict[str, Any]] = json.loads((RECORDED / "manifest.json").read_text())["files"]
    return [entry for entry in files if "error" in entry]


@pytest.mark.skipif(
    not recorded_errors(), reason="the recorded streams lie beside the repository, and are not there"
)
def test_recorded_errors() -> None:
    for entry in recorded_errors():
        body = (RECORDED / entry["name"]).read_bytes()
        for found in (parse(entry["http_status"], body), event(find_error(body))):
            expected = entry["error"]
            assert (found.code, found.status, found.message) == (
                expected["code"],
                expected["status"],
                expected["message"],
            )
            assert found.retryable is entry["expect"]["retry"]
