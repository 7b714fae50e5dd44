"""What `serve-local` answers: the scenarios that have a name, and those of a file of JSON.

A file is a list of rules, `{"when": "a part of the prompt", "answers": [...]}`. The n-th request that a rule fits gets
its n-th answer, all later ones the last. An answer with a `status` is an HTTP error, every other one is a reply.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from gemini_streams.cli.local_script import script
from gemini_streams.cli.output import UsageError
from gemini_streams.testing import Failure, LocalGemini, Reply, RequestRecord

__all__ = ["SCENARIOS", "play"]

_TEXT = (
    "This is a stand-in for Gemini on your own machine. It says the same to every prompt, one word an event, and what"
    " goes wrong on the way goes wrong on purpose."
)
_REQUESTS, _WINDOW = 10, 10.0


class _Reply(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    text: str | list[str] = ""
    thoughts: str = ""
    function_calls: list[dict[str, Any]] = []
    finish_reason: str | None = "STOP"
    pace: float | None = None
    headers_delay: float = 0.0
    first_byte_after: float = 0.0
    end: Literal["clean", "cut", "reset", "silent"] = "clean"
    end_after: int | None = None


class _Failure(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    status: int
    message: str | None = None
    retry_delay: str | None = None
    retry_after: float | None = None
    headers_delay: float = 0.0


class _Rule(msgspec.Struct, forbid_unknown_fields=True):
    answers: list[dict[str, Any]]
    when: str = ""


def play(gemini: LocalGemini, scenario: str) -> None:
    """Tell the server what to answer. Raises `UsageError`."""
    named = SCENARIOS.get(scenario)
    if named is not None:
        named[1](gemini)
        return
    path = Path(scenario)
    if path.suffix != ".json":
        raise UsageError(
            f"there is no scenario {scenario!r}: take {', '.join(SCENARIOS)}, or a file that ends in .json"
        )
    try:
        rules = msgspec.json.decode(path.read_bytes(), type=list[_Rule])
        for rule in rules:
            gemini.on(rule.when, *map(_answer, rule.answers))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from None


def _answer(given: dict[str, Any]) -> Reply | Failure:
    if "status" in given:
        return Failure(**msgspec.structs.asdict(msgspec.convert(given, _Failure)))
    return Reply(**msgspec.structs.asdict(msgspec.convert(given, _Reply)))


def _echo(_gemini: LocalGemini) -> None:
    """Answer each prompt by a few sentences about itself, which is what a server without a script does."""


def _slow(gemini: LocalGemini) -> None:
    gemini.on("", Reply(_TEXT, first_byte_after=2.0, pace=0.3))


def _first(failing: Reply | Failure) -> Callable[[LocalGemini], None]:
    """Return a scenario: the first request of each prompt fails, the next ones are answered."""

    def play(gemini: LocalGemini) -> None:
        seen: set[str] = set()

        def answer(record: RequestRecord) -> Reply | Failure:
            if record.text in seen:
                return Reply(_TEXT)
            seen.add(record.text)
            return failing

        gemini.on("", answer)

    return play


def _quota(gemini: LocalGemini) -> None:
    granted: deque[float] = deque()
    lock = threading.Lock()

    def answer(_record: RequestRecord) -> Reply | Failure:
        now = time.monotonic()
        with lock:
            while granted and now - granted[0] >= _WINDOW:
                granted.popleft()
            if len(granted) >= _REQUESTS:
                return Failure(429, retry_delay=f"{max(0.1, _WINDOW - (now - granted[0])):.1f}s")
            granted.append(now)
        return Reply(_TEXT)

    gemini.on("", answer)


SCENARIOS: dict[str, tuple[str, Callable[[LocalGemini], None]]] = {
    "echo": ("a few sentences about the prompt", _echo),
    "demo": ("the demonstration's answers and failures", script),
    "slow": ("2 s of silence, then a word every 0.3 s", _slow),
    "overloaded": (
        "503 to the first request of each prompt",
        _first(Failure(503, "The model is overloaded.")),
    ),
    "cut": (
        "the first answer to each prompt breaks off after 5 events",
        _first(Reply(_TEXT, end="reset", end_after=5)),
    ),
    "silent": (
        "the first answer to each prompt goes silent after 5 events",
        _first(Reply(_TEXT, end="silent", end_after=5)),
    ),
    "quota": (f"{_REQUESTS} requests in {_WINDOW:g} s, 429 to those beyond", _quota),
}
"""Each scenario's words for the help, and the function that plays it."""
