"""Takes our secrets out of a text that a server or proxy wrote, in any encoding that they have there. Pure.

The rules:

- A secret is found raw, percent-encoded, as HTML entities, with the escapes of JSON, JavaScript and Python, as base64
  at each of its three alignments, as hexadecimal digits; in several of these on top of each other; in capitals or
  small letters; broken by white space, line ends, invisible characters and HTML tags.
- A part of a secret is found too, where it is 12 characters or longer: texts are cut, by us and by others.
- A secret of fewer than 8 characters is a test's key, or a bad password, and can be a part of ordinary words. It is
  found as a word of its own only.
- Of base64 the whole token is masked: the part before the secret is the user's name.

A text is decoded step by step, and each step remembers from where in the original each of its characters came. What
is found at any step is masked in the original.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import quote

__all__ = ["MASK", "MOST_WORDS", "Scrubber", "in_words"]

MASK = "[key]"
"""Stands in the place of a secret."""
MOST_WORDS = 300
"""Characters of a server's or proxy's words that an error or a log line repeats."""

_SHORT = 8
_PART = 12
_BLOCK = 6  # each run of 11 characters or more of a secret has one of its aligned blocks of six in it
_DEPTH = 5

_ESCAPE = re.compile(
    r"%u[0-9a-fA-F]{4}|%[0-7][0-9a-fA-F]|(?:%[89a-fA-F][0-9a-fA-F])+"
    r"|&(?:#[0-9]{1,12}|#[xX][0-9a-fA-F]{1,12}|[A-Za-z][A-Za-z0-9]{1,31});?"
    r"|\\(?:u[0-9a-fA-F]{4}|u\{[0-9a-fA-F]{1,6}\}|U[0-9a-fA-F]{8}|x[0-9a-fA-F]{2}|[0-7]{3}|.)",
    re.DOTALL,
)
_TAG = re.compile(r"<[^<>]{0,500}>")
_JUNK = re.compile(
    r"[\s\x00-\x1f\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202f"
    r"\u205f-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb]+"
)
_JUNK_OR_PLUS = re.compile(rf"(?:{_JUNK.pattern}|\+)+")
"""A form has a plus for a space."""
_BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=")
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "v": "\v"}

T = TypeVar("T")


class _Level(NamedTuple):
    """A text that was decoded so far, and where in the original each of its characters begins and ends."""

    text: str
    starts: list[int]
    ends: list[int]


class _Needle:
    """A secret in one encoding, or a part of it that is long enough."""

    __slots__ = ("_blocks", "_least", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._least = min(len(text), _PART)
        size = _BLOCK if len(text) >= _PART else len(text)
        self._blocks = [(at, text[at : at + size]) for at in range(0, len(text) - size + 1, size)]

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Find where in `text` it stands."""
        own, least = self._text, self._least
        for at, block in self._blocks:
            here = text.find(block)
            while here >= 0:
                left = 0
                while left < min(at, here) and text[here - left - 1] == own[at - left - 1]:
                    left += 1
                right = len(block)
                while (
                    at + right < len(own)
                    and here + right < len(text)
                    and text[here + right] == own[at + right]
                ):
                    right += 1
                if left + right >= least:
                    yield here - left, here + right
                here = text.find(block, here + 1)


class Scrubber:
    """Knows the secrets of one endpoint, and shows none of them.

    `pairs` are texts like `user:password` that travel as base64 only.
    """

    __slots__ = ("_encoded", "_plain", "_plain_in_forms", "_words")

    def __init__(self, secrets: Iterable[str], pairs: Iterable[str] = ()) -> None:
        plain: set[str] = set()
        encoded: set[str] = set()
        words: set[str] = set()
        for secret in secrets:
            if len(_squeezed(secret)) < _SHORT:
                words |= {secret, quote(secret, safe=""), *_whole_base64(secret)}
                continue
            plain |= {_folded(_squeezed(secret)), _folded(_squeezed(secret.replace(" ", "+")))}
            plain.add(secret.encode("utf-8", "surrogatepass").hex())
            if not secret.isascii():  # read with the wrong one of a header's two codings
                plain.add(_folded(_squeezed(secret.encode("utf-8", "surrogatepass").decode("latin-1"))))
            encoded |= _stable_base64(secret)
        for pair in pairs:
            words |= _whole_base64(pair)
            encoded |= _stable_base64(pair)
        self._plain = [_Needle(text) for text in sorted(plain) if len(text) >= _SHORT]
        in_forms = {text.replace("+", "") for text in plain}
        self._plain_in_forms = [_Needle(text) for text in sorted(in_forms) if len(text) >= _SHORT]
        self._encoded = [_Needle(text) for text in sorted(encoded) if len(text) >= _SHORT]
        some = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True) if word)
        self._words = re.compile(rf"(?<![A-Za-z0-9_-])(?:{some})(?![A-Za-z0-9_-])") if some else None

    def __repr__(self) -> str:
        return "<Scrubber>"

    def scrub(self, value: T) -> T:
        """Return `value`, a text or decoded JSON, with `[key]` wherever a secret stood."""
        return cast("T", self._value(value))

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, dict):
            return {self._value(k): self._value(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self._value(item) for item in value]
        return value

    def _text(self, text: str) -> str:
        out: list[str] = []
        last = 0
        for start, end in _merged(self._spans(text)):
            out += (text[last:start], MASK)
            last = end
        return "".join((*out, text[last:])) if out else text

    def _spans(self, text: str) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        level = _Level(text, list(range(len(text))), list(range(1, len(text) + 1)))
        for _ in range(_DEPTH):
            self._look(text, level, found)
            if "<" in level.text:
                self._look(text, _rewritten(level, _TAG, _nothing), found)
            deeper = _rewritten(level, _ESCAPE, _unescaped)
            if deeper.text == level.text:
                break
            level = deeper
        return found

    def _look(self, original: str, level: _Level, found: list[tuple[int, int]]) -> None:
        if self._words is not None:
            found += [
                (level.starts[match.start()], level.ends[match.end() - 1])
                for match in self._words.finditer(level.text)
            ]
        squeezed = _rewritten(level, _JUNK, _nothing)
        self._look_for(self._plain, squeezed, found)
        if "+" in level.text:
            self._look_for(self._plain_in_forms, _rewritten(level, _JUNK_OR_PLUS, _nothing), found)
        self._look_for_tokens(original, squeezed, found)

    def _look_for(self, needles: list[_Needle], level: _Level, found: list[tuple[int, int]]) -> None:
        folded = _folded(level.text)
        for needle in needles:
            found += [(level.starts[start], level.ends[end - 1]) for start, end in needle.spans(folded)]

    def _look_for_tokens(self, original: str, level: _Level, found: list[tuple[int, int]]) -> None:
        text, starts, ends = level
        standard = text.translate(_STANDARD)
        hits = [
            (starts[start], ends[end - 1])
            for needle in self._encoded
            for start, end in needle.spans(standard)
        ]
        done = 0  # each token is walked through once, however often a secret stands in it
        for start, end in _merged(hits):
            if end <= done:
                continue
            first, last = start, end
            while first > done and original[first - 1] in _BASE64:
                first -= 1
            while last < len(original) and original[last] in _BASE64:
                last += 1
            found.append((first, last))
            done = last


def in_words(text: str, scrub: Callable[[str], str], most: int = MOST_WORDS) -> str:
    """Return what a server or proxy said, as an error may repeat it: one line, without our secrets, cut."""
    text = "".join(c if c.isprintable() else " " for c in text[: 1 << 16])
    text = scrub(" ".join(text.split())[: 1 << 13])
    return text if len(text) <= most else text[: most - 1] + "…"


# -- the steps -----------------------------------------------------------------------------------------------

_STANDARD = str.maketrans("-_", "+/")


def _rewritten(level: _Level, pattern: re.Pattern[str], by: Callable[[re.Match[str]], str]) -> _Level:
    text, starts, ends = level
    parts: list[str] = []
    firsts: list[int] = []
    lasts: list[int] = []
    done = 0
    for match in pattern.finditer(text):
        start, end = match.span()
        new = by(match)
        parts += (text[done:start], new)
        firsts += [*starts[done:start], *(starts[start] for _ in new)]
        lasts += [*ends[done:start], *(ends[end - 1] for _ in new)]
        done = end
    if not done:
        return level
    return _Level("".join((*parts, text[done:])), firsts + starts[done:], lasts + ends[done:])


def _nothing(_match: re.Match[str]) -> str:
    return ""


def _unescaped(match: re.Match[str]) -> str:
    text = match[0]
    if text[0] == "&":
        return html.unescape(text)
    if text[0] == "%" and text[1] != "u":
        data = bytes.fromhex(text.replace("%", ""))
        try:
            return data.decode()
        except ValueError:
            return data.decode("latin-1")
    if text[1] in "uUx" and len(text) > 2:
        code = int(text[2:].strip("{}"), 16)
        return chr(code) if code <= 0x10FFFF else ""
    return chr(int(text[1:], 8)) if len(text) > 2 else _CONTROLS.get(text[1], text[1])


def _squeezed(text: str) -> str:
    return _JUNK.sub("", text)


def _folded(text: str) -> str:
    """Return the text in small letters, each character still one."""
    low = text.lower()
    return low if len(low) == len(text) else "".join(c if len(c.lower()) != 1 else c.lower() for c in text)


def _whole_base64(text: str) -> set[str]:
    whole = base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()
    return {whole, whole.rstrip("=")}


def _stable_base64(secret: str) -> set[str]:
    """Return what of a secret's base64 is the same whatever stands around it, at each of its alignments."""
    found: set[str] = set()
    for plain in {secret.encode("utf-8", "surrogatepass"), secret.encode("latin-1", "replace")}:
        for before in range(3):
            text = base64.b64encode(bytes(before) + plain).decode()
            found.add(text[-(-before * 8 // 6) : (before + len(plain)) * 8 // 6])
    return found


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the spans in order, those that touch each other as one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
