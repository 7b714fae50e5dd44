"""What has happened to streams, remembered for a page: each stream's time line, the failures, and counts a minute.

The rules:

- Only plain values are kept, and never a tag's object, a key, a prompt, an answer or the service's words.
- All is bounded: `_STREAMS` time lines of `_STEPS` steps (the first half of them and the latest ones), `_FAILURES`
  failures, `_MINUTES` minutes of counts with at most `_CAUSES` causes each.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from typing import Any

from gemini_streams.errors import GeminiStreamsError
from gemini_streams.extras.causes import cause_of

__all__ = ["Journal"]

_STREAMS = 5_000
_STEPS = 60
_FAILURES = 100
_MINUTES = 60
_CAUSES = 20
_MOST_TEXT = 300
_MOST_NAME = 200

Step = tuple[float, str, str]
"""When, in seconds since the epoch; which kind; and what there is to say."""


class Journal:
    """Takes records in the threads in which things happen. A `Tap`."""

    wanted = frozenset(
        (
            "on_stream_started",
            "on_attempt",
            "on_first_event",
            "on_restarting",
            "on_paused",
            "on_subscriber_dropped",
            "on_ended",
        )
    )

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: OrderedDict[str, list[Step]] = OrderedDict()
        self._failures: deque[dict[str, Any]] = deque(maxlen=_FAILURES)
        self._minutes: OrderedDict[int, Counter[str]] = OrderedDict()
        self.ended = 0
        self.failed = 0
        self.restarts = 0

    def put(self, record: Any) -> None:
        """Remember one."""
        kind, text = _said(record)
        with self._lock:
            self._remember(record.run, (record.at, kind, text))
            match record.hook:
                case "on_ended":
                    self.ended += 1
                    if record.status == "error":
                        self.failed += 1
                        self._fail(record, "failed")
                case "on_restarting":
                    self.restarts += 1
                    self._fail(record, "restarted")
                case _:
                    pass

    def _remember(self, run: str, step: Step) -> None:
        steps = self._lines.get(run)
        if steps is None:
            steps = self._lines[run] = []
            if len(self._lines) > _STREAMS:
                self._lines.popitem(last=False)
        if len(steps) >= _STEPS:
            half = _STEPS // 2
            if steps[half][1] == "left out":
                del steps[half + 1]
            else:
                steps[half : half + 2] = [(steps[half][0], "left out", "steps that are not remembered")]
        steps.append(step)

    def _fail(self, record: Any, what: str) -> None:
        cause = cause_of(record.error)
        self._failures.append(
            {
                "at": record.at,
                "run": record.run,
                "stream_id": record.stream_id[:_MOST_NAME],
                "model": record.model[:_MOST_NAME],
                "what": what,
                "cause": cause,
                "error": _brief(record.error),
            }
        )
        minute = int(record.at // 60)
        counts = self._minutes.get(minute)
        if counts is None:
            counts = self._minutes[minute] = Counter()
            if len(self._minutes) > _MINUTES:
                self._minutes.popitem(last=False)
        counts[what] += 1
        by_cause = f"cause {cause}"
        if by_cause in counts or len(counts) < _CAUSES:
            counts[by_cause] += 1

    def line(self, run: str) -> list[Step] | None:
        """Return a stream's time line; `None` where nothing is known of it."""
        with self._lock:
            steps = self._lines.get(run)
            return None if steps is None else list(steps)

    def failures(self) -> list[dict[str, Any]]:
        """Return the latest failures and restarts, the latest one first."""
        with self._lock:
            latest = list(self._failures)
        return latest[::-1]

    def minutes(self, now: float) -> list[dict[str, Any]]:
        """Return the failures of each of the last minutes, the oldest one first."""
        with self._lock:  # a stream's thread may wait for it: only the copy is made under it
            known = {minute: counts.copy() for minute, counts in self._minutes.items()}
        last = int(now // 60)
        found = []
        for minute in range(last - _MINUTES + 1, last + 1):
            counts = known.get(minute, Counter())
            causes = {
                name.removeprefix("cause "): n for name, n in counts.items() if name.startswith("cause ")
            }
            found.append(
                {
                    "at": minute * 60,
                    "failed": counts["failed"],
                    "restarted": counts["restarted"],
                    "causes": causes,
                }
            )
        return found


def _said(record: Any) -> tuple[str, str]:
    match record.hook:
        case "on_stream_started":
            return "started", f"{record.status}; subscribers: {record.subscribers}"
        case "on_attempt":
            goes_on = f"; goes on at event {record.resume_at}" if record.resume_at else ""
            return "attempt", f"attempt {record.attempt} begins{goes_on}"
        case "on_first_event":
            return "first event", f"after {record.after:.2f} s"
        case "on_restarting":
            return "restart", f"{_brief(record.error)}; again in {record.delay:.1f} s"
        case "on_paused":
            return "paused", f"full subscribers hold it: {record.subscribers}"
        case "on_subscriber_dropped":
            return "subscriber dropped", f"{record.reason}: {record.why}"[:_MOST_TEXT]
        case _:
            return record.status, _end(record)


def _end(record: Any) -> str:
    said = [f"{record.events} events in {record.duration:.2f} s"]
    if record.total_tokens is not None:
        said.append(f"{record.total_tokens} tokens")
    if record.finish_reason is not None:
        said.append(record.finish_reason)
    if record.error is not None:
        said.append(_brief(record.error))
    return "; ".join(said)


def _brief(error: GeminiStreamsError) -> str:
    return error.brief[:_MOST_TEXT]
