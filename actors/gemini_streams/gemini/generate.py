"""What an event of `streamGenerateContent` means. Every field of one can be missing or of a wrong type.

The rules (Google's API reference, recorded streams, and google-genai 3.4 for continuation):

- The stream's end is the body's clean end; there is no other mark. A finishReason on an event is no end:
  some streams carry one on every event, and the last one counts.
- A clean end with neither a finishReason nor a blockReason anywhere is a truncated answer.
- `usageMetadata` is cumulative within one request: the latest counts. Over several requests it adds up.
- A `continuationToken` on the first candidate is a checkpoint: the answer can go on behind the event that
  carried it. `finishReason: CONTINUATION` ends one hop of a longer answer. A `promptFeedback`, or any other
  finishReason, ends the answer for good.
- An event can be an error: `{"error": {…}}`, or a list of one such object.

`Meaning` folds the events of one request, one `see` an event; `at_end` reads from it what the request's end
is.
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec

__all__ = [
    "End",
    "Ending",
    "Meaning",
    "add_usage",
    "at_end",
    "error_of",
    "finish_reason_of",
    "function_calls_of",
    "parts_of",
    "text_of",
    "thoughts_of",
]

CONTINUATION = "CONTINUATION"

_NOTHING: list[dict[str, Any]] = []


def candidate_of(data: dict[str, Any]) -> dict[str, Any] | None:
    """Candidate 0, or `None`."""
    candidates = data.get("candidates")
    if isinstance(candidates, list) and candidates and isinstance(candidates[0], dict):
        return candidates[0]
    return None


def parts_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Candidate 0's parts; empty where there are none. What is of a wrong type is left out."""
    candidate = candidate_of(data)
    if candidate is None:
        return _NOTHING
    content = candidate.get("content")
    if not isinstance(content, dict):
        return _NOTHING
    parts = content.get("parts")
    if not isinstance(parts, list):
        return _NOTHING
    return [_sound(part) for part in parts if isinstance(part, dict)]


def _sound(part: dict[str, Any]) -> dict[str, Any]:
    """Return a part without what is of a wrong type: who joins the texts must not fail over one."""
    if isinstance(part.get("text", ""), str) and isinstance(part.get("functionCall", part), dict):
        return part
    wrong = {"text": str, "functionCall": dict}
    return {name: value for name, value in part.items() if isinstance(value, wrong.get(name, object))}


def text_of(data: dict[str, Any]) -> str:
    """Candidate 0's text, thoughts left out; `""` where there is none."""
    return _texts(data, thought=False)


def thoughts_of(data: dict[str, Any]) -> str:
    """Candidate 0's thought summaries."""
    return _texts(data, thought=True)


def _texts(data: dict[str, Any], *, thought: bool) -> str:
    try:
        parts = data["candidates"][0]["content"]["parts"]
        texts = [part["text"] for part in parts if "text" in part and bool(part.get("thought")) is thought]
        return texts[0] if len(texts) == 1 and type(texts[0]) is str else "".join(texts)
    except (LookupError, TypeError, AttributeError):
        # Rare: something is missing or of a wrong type, and what is sound still counts.
        parts = parts_of(data)
        return "".join([p["text"] for p in parts if "text" in p and bool(p.get("thought")) is thought])


def function_calls_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Candidate 0's function calls, as the API sent them."""
    return [part["functionCall"] for part in parts_of(data) if "functionCall" in part]


def finish_reason_of(data: dict[str, Any]) -> str | None:
    """Candidate 0's finishReason, or `None`."""
    candidate = candidate_of(data)
    reason = candidate.get("finishReason") if candidate is not None else None
    return reason if isinstance(reason, str) and reason else None


def error_of(data: object) -> dict[str, Any] | None:
    """Return the error object in a decoded event or body; `None` where it is no error."""
    if isinstance(data, list) and data:
        data = data[0]
    if not isinstance(data, dict):
        return None
    error = data.get("error")
    if isinstance(error, dict):
        return error
    if isinstance(error, str) and error:
        return {"message": error}
    return None


class Meaning:
    """What the events of one request have said so far. Written by one thread."""

    __slots__ = (
        "block_reason",
        "count",
        "error",
        "finish_message",
        "finish_reason",
        "prompt_feedback",
        "token",
        "token_index",
        "usage",
    )

    count: int
    """Events seen."""
    finish_reason: str | None
    """The last one that was not null."""
    finish_message: str | None
    block_reason: str | None
    prompt_feedback: bool
    """A promptFeedback was seen: whatever it says, the answer is not continued."""
    usage: dict[str, Any] | None
    """The latest usageMetadata."""
    token: str | None
    """The latest checkpoint; none once another finishReason than CONTINUATION has come behind it."""
    token_index: int
    """Events that stand if the answer goes on from `token`: all up to and with the one that carried it."""
    error: dict[str, Any] | None
    """The error object, where an event was an error; for `failures.error_from_event`."""

    def __init__(self) -> None:
        self.count = 0
        self.finish_reason = None
        self.finish_message = None
        self.block_reason = None
        self.prompt_feedback = False
        self.usage = None
        self.token = None
        self.token_index = 0
        self.error = None

    def see(self, data: Any) -> None:
        """Take the next event. One that is no JSON object only counts, unless it is an error in a list."""
        self.count += 1
        # The way of a plain text event comes first; it makes as few calls as it can.
        try:
            candidate = data["candidates"][0]
            if "finishReason" in candidate or "continuationToken" in candidate:
                self._see_candidate(candidate)
            if "usageMetadata" in data:
                usage = data["usageMetadata"]
                if type(usage) is dict:
                    self.usage = usage
            if "promptFeedback" in data or "error" in data:
                self._see_rest(data)
        except (LookupError, TypeError):
            self._see_rest(data)

    def _see_candidate(self, candidate: Any) -> None:
        if not isinstance(candidate, dict):
            return
        reason = candidate.get("finishReason")
        if isinstance(reason, str) and reason:
            self.finish_reason = reason
            message = candidate.get("finishMessage")
            self.finish_message = message if isinstance(message, str) else None
            if reason != CONTINUATION:
                self.token = None
        token = candidate.get("continuationToken")
        if isinstance(token, str) and token:
            self.token = token
            self.token_index = self.count

    def _see_rest(self, data: Any) -> None:
        """Take what an event without a candidate can hold, and what is rare."""
        self.error = error_of(data) or self.error
        if not isinstance(data, dict):
            return
        usage = data.get("usageMetadata")
        if isinstance(usage, dict):
            self.usage = usage
        feedback = data.get("promptFeedback")
        if isinstance(feedback, dict):
            self.prompt_feedback = True
            reason = feedback.get("blockReason")
            if isinstance(reason, str) and reason:
                self.block_reason = reason

    @property
    def resumable(self) -> bool:
        """Whether the answer, not finished yet, can go on from `token`."""
        return (
            self.token is not None and not self.prompt_feedback and self.finish_reason in (None, CONTINUATION)
        )


class End(enum.Enum):
    """What the end of a request is."""

    COMPLETE = "complete"
    """The answer is there: `StreamComplete`."""
    CONTINUES = "continues"
    """One hop of a longer answer: ask again with the token. Where `Ending.void` is 0, nobody need be told."""
    TRUNCATED = "truncated"
    """A clean end of an answer that is not: `StreamTruncatedError`."""
    ERROR = "error"
    """The server said so: `error_from_event(meaning.error)`."""
    BROKEN = "broken"
    """The connection broke: what the connection says."""


class Ending(msgspec.Struct, frozen=True):
    """How a request ended and how the answer could go on.

    The same for every end but `COMPLETE`: with a `token` the next request can take it along, and events from
    `resume_at` on (counted within this request) come again; without one the answer starts over.
    """

    end: End
    token: str | None = None
    resume_at: int = 0
    void: int = 0
    """Events seen that come again."""
    why: str = ""
    """Of a truncated answer, for the error's text."""


def at_end(
    meaning: Meaning,
    clean: bool,  # noqa: FBT001 - `at_end(meaning, clean=...)`
    *,
    half_event: bool = False,
    automatic: bool = True,
) -> Ending:
    """Decide what the end of a request's body is.

    `clean`: the body came to its end as HTTP says. `half_event`: it ended inside an event. `automatic`:
    continuation tokens are followed (`BuiltRequest.automatic_continuation`).
    """
    token, resume_at, void = None, 0, meaning.count
    if automatic and meaning.resumable:
        token, resume_at, void = meaning.token, meaning.token_index, meaning.count - meaning.token_index

    def ending(end: End, why: str = "") -> Ending:
        return Ending(end, token, resume_at, void, why)

    if meaning.error is not None:
        return ending(End.ERROR)
    if not clean:
        return ending(End.BROKEN)
    if half_event:
        return ending(End.TRUNCATED, "the body ended in the middle of an event")
    if meaning.block_reason is not None:
        return Ending(End.COMPLETE)
    if meaning.finish_reason is None:
        said = "without a single event" if meaning.count == 0 else f"after {meaning.count} events"
        return ending(End.TRUNCATED, f"the body ended {said}, with neither a finishReason nor a blockReason")
    if meaning.finish_reason == CONTINUATION and automatic and not meaning.prompt_feedback:
        if token is not None:
            return ending(End.CONTINUES)
        return ending(End.TRUNCATED, "the answer stopped with CONTINUATION and no token to go on with")
    return Ending(End.COMPLETE)


def add_usage(total: dict[str, Any] | None, hop: dict[str, Any] | None) -> dict[str, Any]:
    """Return the usage of requests that made one answer together.

    Numbers add up, lists of details do by their modality; of anything else the latest counts.

    Answers a new dict; `total` is the sum so far.
    """
    if total is None or hop is None:
        return dict(total or hop or {})
    return {name: _added(total.get(name), hop.get(name)) for name in {**total, **hop}}


def _added(one: Any, two: Any) -> Any:
    if one is None or two is None:
        return two if one is None else one
    if _is_number(one) and _is_number(two):
        return one + two
    if isinstance(one, dict) and isinstance(two, dict):
        return add_usage(one, two)
    if isinstance(one, list) and isinstance(two, list):
        return _added_details(one + two)
    return two


def _added_details(details: list[Any]) -> list[Any]:
    by_modality: dict[Any, Any] = {}
    for detail in details:
        if not isinstance(detail, dict) or not isinstance(detail.get("modality"), str):
            return details
        modality = detail["modality"]
        count = {name: value for name, value in detail.items() if name != "modality"}
        by_modality[modality] = add_usage(by_modality.get(modality), count)
    return [{"modality": modality, **counts} for modality, counts in by_modality.items()]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
