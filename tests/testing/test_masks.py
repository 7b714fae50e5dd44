"""What `LocalGemini.requests` shows of the keys that came with a request: nothing, wherever they stood."""

from __future__ import annotations

import base64
import json
import urllib.parse
from typing import TYPE_CHECKING, Any

import pytest
import requests

from gemini_streams.testing import LocalGemini
from gemini_streams.testing.masks import Masks

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY = "AIzaSy+the/key that nobody sees"
OTHER = "another-credential-12345"
PATH = "/v1beta/models/gemini-test:streamGenerateContent?alt=sse"


def percent(text: str) -> str:
    return "".join(f"%{ord(c):02x}" for c in text)


def everything(path: str, headers: Mapping[str, str], body: Any = None) -> str:
    masks = Masks(path, headers, ())
    raw = json.dumps(body).encode()
    return repr((masks.path, masks.headers, masks.body(raw, body), masks))


@pytest.mark.parametrize(
    "name", ["key", "api_key", "apikey", "access_token", "X-Goog-Signature", "Key", "k%65y"]
)
@pytest.mark.parametrize("encode", [urllib.parse.quote, urllib.parse.quote_plus, percent])
def test_in_a_query(name: str, encode: Any) -> None:
    path = f"{PATH}&{name}={encode(KEY)}&x=1"
    assert Masks(path, {}, ()).path == f"{PATH}&{name}=***&x=1"


@pytest.mark.parametrize(
    "name",
    ["x-goog-api-key", "authorization", "proxy-authorization", "cookie", "x-auth-token", "x-gateway-secret"],
)
def test_in_a_header_and_from_there_everywhere(name: str) -> None:
    value = f"Bearer {OTHER}"
    basic = base64.b64encode(f"me:{OTHER}".encode()).decode()
    headers = {name: value, "x-note": f"sent for {OTHER}", "referer": f"https://x/?t={percent(OTHER)}"}
    shown = everything(f"/{OTHER}{PATH}&note={percent(OTHER)}", headers, {"a": [OTHER, f"Basic {OTHER}"]})
    assert OTHER not in shown
    assert percent(OTHER)[:24] not in shown
    assert basic not in everything(PATH, {name: value, "x-note": basic})
    assert Masks(PATH, headers, ()).headers[name] == "***"


def test_what_is_no_key_stays() -> None:
    headers = {
        "user-agent": "mine/1",
        "x-goog-api-client": "gl-python/3",
        "x-goog-user-project": "my-project",
    }
    masks = Masks(f"{PATH}&keyword=a&monkey=b", {**headers, "x-goog-api-key": "k"}, ("local-key",))
    assert masks.path == f"{PATH}&keyword=a&monkey=b"
    assert masks.headers == {**headers, "x-goog-api-key": "***"}
    body = {"contents": [{"parts": [{"text": "k is a letter; local"}]}]}
    assert masks.body(json.dumps(body).encode(), body) is body


def test_the_servers_own_keys_too() -> None:
    assert Masks(f"{PATH}&note=local-key-1", {"x-note": "local-key-1"}, ("local-key-1",)).headers == {
        "x-note": "[key]"
    }


def test_in_the_records_of_a_server() -> None:
    with LocalGemini(keys=(OTHER,)) as gemini:
        body = {"contents": [{"parts": [{"text": f"my key is {OTHER}, twice {OTHER}"}]}]}
        requests.post(
            f"{gemini.url}{PATH}&key={OTHER}",
            json=body,
            headers={"x-goog-api-key": OTHER, "Cookie": f"sid={OTHER}", "X-Note": OTHER},
            timeout=20,
        ).close()
        requests.post(f"{gemini.url}/{OTHER}?key={OTHER}", json=body, timeout=20).close()
        first, second = gemini.requests
        for record in (first, second):
            assert OTHER not in repr(vars(record))
        assert first.text == "my key is [key], twice [key]"
        assert first.key_number == 0
        assert second.status == 404
