"""Our secrets in others' words: found in each usual encoding and in several at once, and nothing else is touched."""

from __future__ import annotations

import base64
import html
import html.entities
import json
import re
import string
import time
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_streams.api.endpoint import Gemini, Target
from gemini_streams.api.scrub import MASK, Scrubber, in_words

KEY = "AIzaSyD-very_secret.1234567890+/x"
PASSWORD = "p@ss/w+rd & more"


def _each(form: str, most: int = 0x10FFFF) -> Callable[[str], str]:
    return lambda text: "".join(form.format(ord(c)) if ord(c) <= most else c for c in text)


def _named(text: str) -> str:
    names = {value: name for name, value in html.entities.html5.items() if name.endswith(";")}
    return "".join(f"&{names[c]}" if c in names else c for c in text)


def _b64(before: int, *, urlsafe: bool = False) -> Callable[[str], str]:
    encode = base64.urlsafe_b64encode if urlsafe else base64.b64encode
    return lambda text: encode(b"u:v"[:before] + text.encode()).decode()


LAYERS: dict[str, Callable[[str], str]] = {
    "raw": lambda text: text,
    "percent": lambda text: urllib.parse.quote(text, safe=""),
    "percent, every character, upper": _each("%{0:02X}", 0xFF),
    "percent, every character, lower": _each("%{0:02x}", 0xFF),
    "form": urllib.parse.quote_plus,
    "entities, decimal": _each("&#{0};"),
    "entities, decimal, zeros in front": _each("&#00000{0};"),
    "entities, hexadecimal": _each("&#x{0:x};"),
    "entities, upper": _each("&#X{0:X};"),
    "entities, named": _named,
    "entities, as html.escape": html.escape,
    "JSON": json.dumps,
    "JSON, every character": _each("\\u{0:04x}"),
    "JSON, slashes": lambda text: text.replace("/", "\\/"),
    "Go's JSON": lambda text: text.replace("&", "\\u0026").replace("<", "\\u003c"),
    "repr": repr,
    "backslash x": _each("\\x{0:02x}", 0xFF),
    "octal": _each("\\{0:03o}", 0xFF),
    "JavaScript": _each("\\u{{{0:x}}}"),
}
LAST_LAYERS: dict[str, Callable[[str], str]] = {
    "base64": _b64(0),
    "base64, one before": _b64(1),
    "base64, two before": _b64(2),
    "base64, three before": _b64(3),
    "base64, urlsafe": _b64(1, urlsafe=True),
    "hexadecimal": lambda text: text.encode().hex(),
    "hexadecimal, upper": lambda text: text.encode().hex().upper(),
    "capitals": str.upper,
    "small letters": str.lower,
    "line ends": lambda text: text[:9] + "\n  " + text[9:20] + "\r\n\t" + text[20:],
    "soft hyphens": "\u00ad".join,
    "zero width": lambda text: text[:9] + "\u200b" + text[9:],
    "tags": lambda text: text[:9] + "<wbr>" + text[9:15] + "</b><b class='x'>" + text[15:],
}


@pytest.mark.parametrize("secret", [KEY, PASSWORD])
@pytest.mark.parametrize("name", [*LAYERS, *LAST_LAYERS])
def test_each_encoding(secret: str, name: str) -> None:
    text = {**LAYERS, **LAST_LAYERS}[name](secret)
    found = Scrubber([secret]).scrub(f"your key ({text}) is wrong")
    assert found.startswith("your key (")
    assert found.endswith(") is wrong")
    rest = found.removeprefix("your key (").removesuffix(") is wrong")
    assert rest.strip("\"'= \r\n\t") == MASK  # quotes, base64's filling and space may stay


@given(
    st.text(string.ascii_letters + string.digits + "-_.~+/@:!$ üñ", min_size=14, max_size=60),
    st.lists(st.sampled_from(sorted(LAYERS)), max_size=3),
    st.sampled_from(["raw", *sorted(LAST_LAYERS)]),
)
def test_several_at_once(secret: str, layers: list[str], first: str) -> None:
    secret = secret.strip()
    if len(secret.replace(" ", "")) < 14:
        return
    text = {**LAYERS, **LAST_LAYERS}[first](secret)
    for layer in layers:
        text = LAYERS[layer](text)
    found = Scrubber([secret]).scrub(text)
    assert MASK in found
    # Whatever is decoded of what is left, the secret is not in it, nor much of it.
    left = _everything(found)
    parts = {secret[at : at + 12].lower() for at in range(len(secret) - 11)}
    assert not [part for part in parts if any(part in text.lower() for text in left)]


def _everything(text: str) -> list[str]:
    """What a reader could make of it: the standard library's own decoders, in turn."""
    found = [text]
    for _ in range(5):
        text = html.unescape(urllib.parse.unquote(text))
        found.append(text)
        text = re.sub(r"\\(?:u\{?|x)([0-9a-fA-F]{2,4})\}?", lambda match: chr(int(match[1], 16)), text)
        found.append(text)
    return found


@given(st.text(max_size=300))
def test_a_text_without_secrets_stays_as_it_is(text: str) -> None:
    assert Scrubber([KEY, PASSWORD]).scrub(text) == text


@given(st.text(max_size=40), st.text(max_size=40))
def test_only_the_secret_goes(before: str, after: str) -> None:
    # A letter at the seam may be a part of an escape with what follows, so there is a stop.
    assert Scrubber([KEY]).scrub(f"{before}|{KEY}|{after}") == f"{before}|{MASK}|{after}"


@pytest.mark.parametrize("kept", range(12, len(KEY)))
def test_a_part_of_a_secret_is_found_wherever_it_was_cut(kept: int) -> None:
    scrub = Scrubber([KEY]).scrub
    assert scrub(f"at {KEY[:kept]}") == f"at {MASK}"
    assert scrub(f"{KEY[-kept:]} it was") == f"{MASK} it was"
    assert scrub(f"{KEY[:kept]}…") == f"{MASK}…"


def test_what_all_keys_begin_with_is_no_secret() -> None:
    assert (
        Scrubber([KEY]).scrub("keys begin with AIzaSy, like AIzaSyX")
        == "keys begin with AIzaSy, like AIzaSyX"
    )


def test_the_whole_token_of_basic_credentials_goes() -> None:
    for user in ("a", "ab", "abc", "somebody.else"):
        token = base64.b64encode(f"{user}:{PASSWORD}".encode()).decode()
        assert Scrubber([PASSWORD]).scrub(f"407 (Basic {token}) no") == f"407 (Basic {MASK}) no"
    short = base64.b64encode(b"me:pw").decode()
    assert Scrubber(["pw"], ["me:pw"]).scrub(f"Basic {short}, pw, spwx") == f"Basic {MASK}, {MASK}, spwx"


def test_a_plus_is_a_space_of_a_form_or_the_secrets_own() -> None:
    for secret in ("0123456789abcd", "01234+56789+abcd", "01234 56789 abcd"):
        for broken in (f"{secret[:8]}\r\n  {secret[8:]}", f"{secret[:8]}  {secret[8:]}"):
            text = urllib.parse.quote_plus(broken)
            assert Scrubber([secret]).scrub(f"a+key={text}&b") == f"a+key={MASK}&b"
            assert Scrubber([secret]).scrub(html.escape(json.dumps(text))) == f"&quot;{MASK}&quot;"


def test_each_token_goes_where_there_are_several() -> None:
    one = base64.b64encode(f"me:{PASSWORD}".encode()).decode().rstrip("=")
    assert Scrubber([PASSWORD]).scrub(f"{one} {one}, x{one}{one}x ({one})") == "[key] [key], [key] ([key])"
    broken = f"{one[:20]}\n{one[20:]}"
    assert Scrubber([PASSWORD]).scrub(f"<{broken}> <{broken}{broken}>") == "<[key]> <[key]>"


@pytest.mark.parametrize("encode", [_b64(0), _b64(1), str], ids=["base64", "aligned otherwise", "raw"])
def test_a_text_that_is_full_of_a_secret_costs_its_length(encode: Callable[[str], str]) -> None:
    piece = encode(KEY).rstrip("=")
    began = time.thread_time()
    assert Scrubber([KEY]).scrub(piece * (65536 // len(piece))) == MASK
    assert time.thread_time() - began < 8  # a tenth of a second; with the square of the length, half a minute


def test_json_is_looked_through() -> None:
    scrub = Scrubber([KEY]).scrub
    given = {KEY: [{"a": f"x {KEY}", "b": [_b64(1)(KEY)]}, 1, None, True, 2.5]}
    assert scrub(given) == {MASK: [{"a": f"x {MASK}", "b": [MASK]}, 1, None, True, 2.5]}


def test_a_scrubber_shows_nothing() -> None:
    scrubber = Scrubber([KEY], [f"me:{PASSWORD}"])
    assert KEY not in repr(scrubber)
    assert PASSWORD not in str(scrubber)


def test_words_are_one_line_without_secrets_and_cut_last() -> None:
    scrub = Scrubber([KEY]).scrub
    assert in_words("a\r\nb\x00\x1b[31m c", scrub) == "a b [31m c"
    for before in range(200, 310):
        said = in_words("x" * before + " " + _each("&#{0};")(KEY) + " y" * 300, scrub)
        assert len(said) == 300
        assert "&#" not in said
    assert len(in_words("x" * 10_000_000, scrub)) == 300


# -- what an endpoint's secrets are


def target(**options: object) -> Target:
    return Gemini(**{"api_key": KEY, "proxies": {}, **options}).resolve({})  # type: ignore[arg-type]


def test_the_parts_of_a_header_are_secrets_too() -> None:
    scrub = target(
        headers={
            "Authorization": "Bearer tok-1234567890",
            "Cookie": "theme=dark; sid=0123456789abcdef",
            "X-Gateway": "tenant-of-gateway",
            "X-Team": "blue",
            "User-Agent": "mine-of-1234567/1.0",
        }
    ).scrub
    assert scrub("tok-1234567890; 0123456789abcdef; tenant-of-gateway") == "[key]; [key]; [key]"
    assert scrub("the blue and dark mine-of-1234567/1.0") == "the blue and dark mine-of-1234567/1.0"
    basic = "Basic " + base64.b64encode(b"somebody:hunter2-and-more").decode()
    assert target(headers={"Authorization": basic}).scrub("not hunter2-and-more") == "not [key]"


def test_a_proxys_credentials_are_secrets() -> None:
    scrub = target(proxies={"https": "http://me:p%40ss%2Fword-of-it@proxy.test:1"}).scrub
    for text in ("p%40ss%2Fword-of-it", "p@ss/word-of-it", base64.b64encode(b"me:p@ss/word-of-it").decode()):
        assert scrub(f"({text})") == "([key])"
    token = target(proxies={"https": "http://token-in-the-users-place@proxy.test:1"}).scrub
    assert token("token-in-the-users-place") == "[key]"
