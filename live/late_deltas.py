"""Do deltas come behind the stop of their step, or before its start?"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

from live.kit import ESSAY, THINKS, RefusedError, Service, Stream, run

PROMPTS: dict[str, tuple[str, dict[str, Any]]] = {
    "with thoughts": (ESSAY, {"generation_config": THINKS}),
    "with a search": ("What was the highest tide of last week?", {"tools": [{"type": "google_search"}]}),
}


def _misplaced(stream: Stream) -> Counter[str]:
    started: set[Any] = set()
    stopped: set[Any] = set()
    found: Counter[str] = Counter()
    for seen in stream.events:
        index = seen.data.get("index")
        if seen.type == "step.start":
            started.add(index)
        elif seen.type == "step.stop":
            stopped.add(index)
        elif seen.type == "step.delta":
            kind = seen.data.get("delta", {}).get("type")
            found["deltas"] += 1
            if index in stopped:
                found[f"{kind} behind its step's stop"] += 1
            elif index not in started:
                found[f"{kind} before its step's start"] += 1
    return found


def ask(service: Service) -> Iterator[str]:
    """Look at the order of the events of each step."""
    for label, (prompt, more) in PROMPTS.items():
        try:
            stream = service.watch(service.begin(prompt, **more))
        except RefusedError as refused:
            yield f"{label}: {refused}"
            continue
        found = _misplaced(stream)
        deltas = found.pop("deltas", 0)
        odd = ", ".join(f"{count} {what}" for what, count in sorted(found.items()))
        yield f"{label}: {deltas} deltas; {odd or 'each stands between the start and the stop of its step'}"


if __name__ == "__main__":
    sys.exit(run(__doc__, ask))
