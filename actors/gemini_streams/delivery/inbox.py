"""How messages are put into a subscriber's inbox: at once, in order, and without ever waiting.

The rules:

- The inbox of a supervised actor, of a plain Pykka actor and of an iterator take what they are given at once
  (`never_blocks`). The session puts into them with its lock held.
- An inbox of an application's own kind may block or raise, so a thread of its own puts into it (`carried`).
- A bounded `queue.Queue` is filled beyond its bound: the window bounds it already, and a put that waited would hold
  the stream.
- An inbox that raises is closed, or broken: its subscriber is gone.
"""

from __future__ import annotations

import queue
from typing import Any

from pykka_supervisor.mailbox import Envelope, Mailbox

__all__ = ["put_all"]


def put_all(inbox: Any, envelopes: list[Envelope[Any]]) -> bool:
    """Put messages in their order; `False` where the inbox takes nothing any more."""
    try:
        if isinstance(inbox, Mailbox):
            inbox.put_many(envelopes)
        elif type(inbox) is queue.Queue:
            with inbox.mutex:
                inbox.queue.extend(envelopes)
                inbox.unfinished_tasks += len(envelopes)
                inbox.not_empty.notify()
        else:
            for envelope in envelopes:
                inbox.put(envelope)
    except Exception:  # noqa: BLE001 - above all, it is closed
        return False
    return True
