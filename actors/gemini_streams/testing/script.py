"""The script of a LocalGemini: which answer a request gets.

The rules:

- The answer depends on what the request asks, not on when it arrives.
- `on(pattern, *answers)` names the prompts, and the first registered pattern that matches wins. Its n-th matching
  request gets the n-th answer; the last answer serves all later ones.
- A prompt that no pattern matches is answered by a few sentences about itself.
- Tests' threads register, the server's thread chooses; both under the condition's lock.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import cast

from gemini_streams.testing.records import Gate, RequestRecord
from gemini_streams.testing.replies import AnswerSource, Reply, StallUpload

__all__ = ["Pattern", "Script"]

Pattern = str | Callable[[RequestRecord], bool]
"""A part of the prompt's text, or a callable of the request's record. It runs in the server's thread."""


class Script:
    """The rules and gates of one server."""

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._rules: list[_Rule] = []
        self._gates: dict[Pattern, Gate] = {}

    def on(self, pattern: Pattern, answers: tuple[AnswerSource, ...]) -> None:
        """Register answers; those of a known pattern are replaced, and it counts anew."""
        if not answers:
            raise ValueError("on() needs at least one answer")
        with self._changed:
            rule = _Rule(pattern, answers, self.gate(pattern))
            for index, known in enumerate(self._rules):
                if known.pattern == pattern:
                    self._rules[index] = rule
                    return
            self._rules.append(rule)

    def gate(self, pattern: Pattern) -> Gate:
        """Return the pattern's gate."""
        with self._changed:
            if pattern not in self._gates:
                name = (
                    repr(pattern)
                    if isinstance(pattern, str)
                    else getattr(pattern, "__name__", "of a callable")
                )
                self._gates[pattern] = Gate(self._changed, name)
            return self._gates[pattern]

    def choose(self, record: RequestRecord) -> tuple[AnswerSource, Gate | None]:
        """Return the answer that this request gets, and the gate where it may wait."""
        with self._changed:
            for rule in self._rules:
                if rule.fits(record):
                    return rule.take(record), rule.gate
        return _echo(record), None

    def choose_stall(self, record: RequestRecord, start_of_body: bytes) -> tuple[StallUpload, Gate] | None:
        """Return the stall that this request gets, as far as the start of its body shows."""
        with self._changed:
            for rule in self._rules:
                if isinstance(rule.next, StallUpload) and rule.fits_early(record, start_of_body):
                    return cast("StallUpload", rule.take(record)), rule.gate
        return None


class _Rule:
    def __init__(self, pattern: Pattern, answers: tuple[AnswerSource, ...], gate: Gate) -> None:
        self.pattern = pattern
        self.answers = answers
        self.gate = gate
        self.matches = 0

    def fits(self, record: RequestRecord) -> bool:
        return self.pattern in record.text if isinstance(self.pattern, str) else bool(self.pattern(record))

    def fits_early(self, record: RequestRecord, start_of_body: bytes) -> bool:
        """Whether a request whose body is still coming belongs here, as far as that can be seen."""
        if isinstance(self.pattern, str):
            forms = (json.dumps(self.pattern), json.dumps(self.pattern, ensure_ascii=False))
            return any(form[1:-1].encode() in start_of_body for form in forms)
        try:
            return bool(self.pattern(record))
        except Exception:  # noqa: BLE001 - the callable may look at a body that is not there yet
            return False

    @property
    def next(self) -> AnswerSource:
        return self.answers[min(self.matches, len(self.answers) - 1)]

    def take(self, record: RequestRecord) -> AnswerSource:
        answer = self.next
        self.matches += 1
        record.pattern, record.nth = self.pattern, self.matches
        return answer


def _echo(record: RequestRecord) -> Reply:
    asked = " ".join(record.text.split())
    short = asked if len(asked) <= 80 else asked[:79] + "…"
    count = len(asked.split())
    return Reply(
        f"You asked: {short} That is {count} {'word' if count == 1 else 'words'}. "
        f"I am a local stand-in for {record.model}, so this is all I know about it. "
        "The real one would go on from here, one event at a time, as I do."
    )
