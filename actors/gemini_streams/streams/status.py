"""A stream's life: its statuses and what may follow what. Pure.

    queued ──► starting ──► active ──► completed | error | stopped
       │          │  ▲         │
       │          ▼  │         ▼
       │        restarting ◄───┘
       └──────────► stopped | error

The rules:

- Every stream begins `queued`; where a slot is free it is launched at once.
- `active` means that the server has begun to answer; `restarting` lies between two attempts.
- The last three are final. A stream in one of them holds no slot.

A stream's state is its status and these fields of its session, all written under its lock:

    the stream is              status                    slot  current  parked  told  its timer looks at
    waiting for a slot         queued                    no    None     None    None  the deadline [1]
    launched or held back      starting                  yes   None     None    None  the deadline
    asking the server          starting                  yes   present  None    None  the deadline, silence [2]
    being answered             active                    yes   present  None    None  the deadline, silence
    waiting for room           active                    yes   present  a lock  None  the deadline, stalls
    being asked about [3]      starting, active          yes   None     None    None  the deadline
    between two attempts       restarting                yes   None     None    None  the deadline
    ended                      completed, error, stopped no    None     None    a set nothing

[1] Not where the stream is patient: its time begins with its slot. [2] From the moment the request goes out
(`connected`). [3] The attempt's thread has died, and `undecided` holds its error until the policy has been asked.
In any state but the last a stream may have no subscriber: then `keep_until` is set, and the timer looks
at it, too.
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
