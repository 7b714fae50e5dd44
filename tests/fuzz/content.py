"""What an answer says: the JSON of its events, sound ones of every odd kind, errors, and what is no event at all.

Pure: the same `Random` gives the same content. A `Piece` knows what the client has to make of it, by the wire format
alone and not by what any client does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from fuzz.marks import Mark

__all__ = ["Meaning", "Piece", "Taste", "error_object", "pieces"]

Meaning = Literal["event", "finish", "nothing", "error", "bad"]
"""`finish`: an event that finishes the answer. `nothing`: no event, no error. `bad`: an event that nobody can read."""


@dataclass(frozen=True)
class Piece:
    """One piece of the body, not yet written as server-sent events."""

    payload: str
    meaning: Meaning
    stray: bool = False
    """Stands in the body as it is, without `data:`."""


_NUMBERS: tuple[tuple[str, int], ...] = (
    ("7", 4),
    ("1.5", 3),
    ("0", 1),
    ("-3", 1),
    ("1" * 400, 4),
    ("9" * 4000, 1),
    ("1e400", 1),
    ("-1E-400", 1),
    ("true", 1),
    ("null", 1),
    ('"12"', 1),
    ("[1, 2]", 1),
    ('{"a": {"b": 1}}', 1),
    ('[{"modality": "TEXT", "tokenCount": 3}, {"modality": 5}]', 1),
    ('[{"modality": "TEXT", "tokenCount": ' + "8" * 350 + "}]", 1),
)
_USAGE = ("promptTokenCount", "candidatesTokenCount", "totalTokenCount", "promptTokensDetails")


def _number(rng: Random) -> str:
    return rng.choices([text for text, _ in _NUMBERS], [weight for _, weight in _NUMBERS])[0]


class _Json:
    """Writes values as JSON whose numbers may be what no Python number can be."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._raw: dict[str, str] = {}

    def raw(self, text: str) -> str:
        """Return a placeholder that `write` replaces by `text`."""
        name = f"\x00{len(self._raw)}\x00"
        self._raw[name] = text
        return name

    def write(self, value: Any) -> str:
        rng = self._rng
        try:
            ascii_only = rng.random() < 0.5
            text = json.dumps(
                value,
                ensure_ascii=ascii_only,
                indent=rng.choice([None, None, None, 0, 1]),
                separators=rng.choice([(",", ":"), (", ", ": ")]),
            )
            text.encode()
        except UnicodeEncodeError:  # half a surrogate can only be written as an escape
            text = json.dumps(value)
        for name, raw in self._raw.items():
            text = text.replace(json.dumps(name), raw)
        return text


_TEXTS = (
    "",
    " word",
    " line\nbreak",
    " é\u2028\u0085\x0b日本語",
    " 😀 whole",
    " \ud83d half",
    "\ude00 the other half",
    ' "quoted" \\ and <b>&amp;</b>',
    " data: no field",
    "\n\ndata: no event\n\n",
    " " + "long " * 200,
)


def _part(rng: Random, mark: Mark, odd: bool) -> dict[str, Any]:
    text: dict[str, Any] = {"text": f"{mark}{rng.choice(_TEXTS)}"}
    if not odd:
        return text
    match rng.randrange(9):
        case 0:
            return {**text, "thought": True}
        case 1:
            return {"functionCall": {"name": f"f{mark}", "args": {"a": rng.choice(_TEXTS)}}}
        case 2:
            piece = {"jsonPath": "$.a[0].b", "stringValue": f"{mark}", "willContinue": rng.random() < 0.5}
            call: dict[str, Any] = {"partialArgs": [piece], "willContinue": rng.random() < 0.7}
            if rng.random() < 0.5:
                call["name"] = "partial"
            return {"functionCall": call}
        case 3:
            return {"inlineData": {"mimeType": "image/png", "data": "QUJD" * rng.choice([1, 100])}}
        case 4:
            return {"text": rng.choice([None, 7, [], {}, False])}
        case 5:
            return {"functionCall": rng.choice([None, "f", [1]])}
        case 6:
            return {**text, "thoughtSignature": "c2ln"}
        case 7:
            return {"executableCode": {"code": f"print('{mark}')"}}
    return text


_STRANGE_CONTENTS: tuple[Any, ...] = ({}, None, 5, {"parts": None}, {"parts": {"text": "x"}}, {"parts": [3]})


def _candidate(rng: Random, mark: Mark, odd: float, index: int, finish: str | None) -> dict[str, Any]:
    parts = [_part(rng, mark, rng.random() < odd) for _ in range(rng.choice([1, 1, 1, 2, 0]))]
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}}
    strange = rng.choice(_STRANGE_CONTENTS)
    if rng.random() < odd * 0.3 and finish is None:
        candidate["content"] = strange
    if index or rng.random() < odd:
        candidate["index"] = index
    if finish is not None:
        candidate["finishReason"] = finish
        if rng.random() < odd:
            candidate["finishMessage"] = rng.choice(["because", "", None, 5])
        if odd:  # a call that came in pieces ends before the answer does
            parts.append({"functionCall": {"willContinue": False}})
    elif rng.random() < odd * 0.3:
        candidate["finishReason"] = "FINISH_REASON_UNSPECIFIED"
    return candidate


def _deep(rng: Random) -> Any:
    value: Any = "deep"
    for _ in range(rng.choice([8, 40, 60])):
        value = [value] if rng.random() < 0.5 else {"n": value}
    return value


def _event(
    rng: Random,
    mark: Mark,
    odd: float,
    *,
    usage: float,
    finish: str | None = None,
    token: str | None = None,
    candidates: int = 1,
    plain: bool = False,
    feedback: bool = True,
) -> str:
    """One event that every client has to take, whatever is in it; `plain`: candidates of the right type."""
    js = _Json(rng)
    data: dict[str, Any] = {}
    several = [_candidate(rng, mark, odd, index, finish) for index in range(candidates)]
    if token is not None:
        several[0]["continuationToken"] = token
    if candidates > 1 and finish is None and rng.random() < 0.5:
        several = several[1:] if token is None else several[:1]  # an ended candidate is left out
    if candidates > 1 and token is None:
        rng.shuffle(several)
    data["candidates"] = several
    if finish is None and token is None and not plain and rng.random() < odd * 0.4:
        data["candidates"] = rng.choice([[], None, {}, 5, [None], [[]]])
        if rng.random() < 0.5:
            del data["candidates"]
    if rng.random() < usage:
        names = rng.sample(_USAGE, rng.randint(1, len(_USAGE)))
        data["usageMetadata"] = {name: js.raw(_number(rng)) for name in names}
        if rng.random() < 0.1:
            data["usageMetadata"] = js.raw(_number(rng))
    if feedback and rng.random() < odd * 0.3:
        data["promptFeedback"] = rng.choice([{}, {"safetyRatings": []}, None])
    if rng.random() < odd * 0.3:
        data["unknown"] = rng.choice([js.raw(_number(rng)), _deep(rng), rng.choice(_TEXTS)])
    if rng.random() < odd:
        data["modelVersion"] = rng.choice(["gemini", None, 5])
    data["responseId"] = str(mark)
    items = list(data.items())
    if rng.random() < odd:
        rng.shuffle(items)
    return js.write(dict(items))


_CODES = (400, 401, 403, 404, 408, 429, 499, 500, 503, 504, "UNAVAILABLE", None, 7, -1, 10**30)
_DELAYS = (
    "0.01s",
    "0.02s",
    "3s",
    "99999999999s",
    "-1s",
    "x",
    "",
    None,
    5,
    "1e5s",
    "9" * 5000 + "s",
    "NaNs",
    "infs",
)


def error_object(rng: Random, mark: Mark) -> str:
    """An error as the API writes one, or as somebody else does."""
    details: list[Any] = []
    if rng.random() < 0.6:
        details.append(
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": rng.choice(_DELAYS)}
        )
    if rng.random() < 0.3:
        details.insert(0, rng.choice([None, 5, {"@type": 7}, {"reason": "X"}, []]))
    if rng.random() < 0.2:
        violation = {"quotaId": rng.choice(["PerDay", "GenerateRequestsPerMinute", None])}
        details.append({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]})
    error: dict[str, Any] = {
        "code": rng.choice(_CODES),
        "message": f"{mark} {rng.choice(['no', 'x' * 3000, ''])}",
        "status": rng.choice(["UNAVAILABLE", "RESOURCE_EXHAUSTED", 5, None]),
        "details": rng.choice([details, details, details, None, {}, "x"]),
    }
    whole = rng.choice([{"error": error}, {"error": error}, {"error": error}, [{"error": error}]])
    return json.dumps(whole, indent=rng.choice([None, 2]))


_BAD = (
    "nonsense",
    '{"candidates": [',
    "[1, 2]",
    "5",
    '"text"',
    "null",
    '{"a": NaN}',
    '{"a": 1}}',
    "\x00",
    "{'a': 1}",
)


def _bad(rng: Random, max_event_bytes: int) -> Piece:
    match rng.randrange(5):
        case 0:
            return Piece('{"x": "' + "y" * (max_event_bytes + 100) + '"}', "bad")
        case 1:
            depth = rng.choice([1100, 20000])
            return Piece("[" * depth + "]" * depth, "bad")
    return Piece(rng.choice(_BAD), "bad")


@dataclass(frozen=True)
class Taste:
    """How odd a stream's answers are."""

    odd: float
    """How often a part of an event is odd, though sound."""
    usage: float
    """How often an event has a usage."""
    hops: bool
    """Whether answers stop with CONTINUATION."""
    sound: bool
    """Whether every client must be able to read all of it."""


def pieces(rng: Random, taste: Taste, mark: Mark, max_event_bytes: int, *, may_hop: bool) -> list[Piece]:
    """Return an answer's pieces. The marks of its events count up from `mark`'s."""
    count = rng.choice([1, 2, 3, 4, 6, 9, 30])
    candidates = rng.choice([1, 1, 1, 1, 2, 3])
    every = rng.random() < taste.odd * 0.2
    hop = taste.hops and may_hop and rng.random() < 0.7
    found: list[Piece] = []
    for at in range(count):
        last = at == count - 1
        finish = "STOP" if last or every else None
        token = None
        if hop:
            finish = "CONTINUATION" if last else None
            token = f"token-{mark}-{at}" if last or rng.random() < 0.3 else None
        elif last and rng.random() < taste.odd:
            finish = rng.choice(["MAX_TOKENS", "SAFETY", "A_NEW_ONE"])
        stray = rng.random() < taste.odd * 0.1
        payload = _event(
            rng,
            mark._replace(event=at),
            taste.odd,
            usage=taste.usage,
            finish=finish,
            token=token,
            candidates=candidates,
            plain=stray,
            feedback=not hop,  # it ends the answer for good
        )
        found.append(Piece(payload, "finish" if finish not in (None, "CONTINUATION") else "event", stray))
        if rng.random() < taste.odd * 0.15:
            found.append(Piece(rng.choice(["[DONE]", ""]), "nothing"))
    if taste.sound:
        return found
    if rng.random() < 0.25:
        found.insert(
            rng.randint(0, len(found)),
            Piece(error_object(rng, mark), "error", stray=rng.random() < 0.5),
        )
    if rng.random() < 0.1:
        found.insert(rng.randint(0, len(found)), _bad(rng, max_event_bytes))
    if rng.random() < 0.1:
        del found[rng.randrange(len(found)) :]
    return found
