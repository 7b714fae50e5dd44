"""Ask all questions but the one that takes ten minutes, or those that are named: `python -m live replay usage`."""

from __future__ import annotations

import sys
from importlib import import_module

from live.kit import run

QUESTIONS = (
    "step_indices",
    "late_deltas",
    "event_ids",
    "replay",
    "unknown_event_id",
    "background",
    "usage",
    "cancelled",
)
LONG = ("ten_minutes",)


def main(names: list[str]) -> int:
    """Ask them one after another; the highest exit status."""
    unknown = set(names) - {*QUESTIONS, *LONG}
    if unknown:
        print(f"There is no question {min(unknown)}: {', '.join((*QUESTIONS, *LONG))}", file=sys.stderr)
        return 2
    worst = 0
    for name in names or QUESTIONS:
        module = import_module(f"live.{name}")
        worst = max(worst, run(module.__doc__, module.ask, []))
        if worst == 2:
            break
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
