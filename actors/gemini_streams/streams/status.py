"""A stream's life: its statuses and what may follow what. Pure.

    queued ──► starting ──► active ──► completed | error | stopped
       │          │  ▲         │
       │          ▼  │         ▼
       │        restarting ◄───┘
       └──────────► stopped | error

The rules: every stream begins `queued` (it waits for a slot) or `starting`; `active` means that the server has begun
to answer; `restarting` lies between two attempts; the three last statuses are final, and a stream in one of them
holds no slot.
"""

from __future__ import annotations

from gemini_streams.messages import Status

__all__ = ["ENDED", "FOLLOWS", "follow"]

ENDED: frozenset[Status] = frozenset(("completed", "error", "stopped"))

FOLLOWS: dict[Status, frozenset[Status]] = {
    "queued": frozenset(("starting", "error", "stopped")),
    "starting": frozenset(("active", "restarting", "completed", "error", "stopped")),
    "active": frozenset(("restarting", "completed", "error", "stopped")),
    "restarting": frozenset(("starting", "error", "stopped")),
    "completed": frozenset(),
    "error": frozenset(),
    "stopped": frozenset(),
}


def follow(now: Status, then: Status) -> Status:
    """Return `then` if it may follow `now`; raises `AssertionError`, a bug of ours, if not."""
    if then not in FOLLOWS[now]:
        raise AssertionError(f"a stream that is {now} cannot become {then}")
    return then
