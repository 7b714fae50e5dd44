"""The actor of the tree that cancels interactions at the server, each in a short-lived thread.

The rules:

- A cancel is best effort. It has 2 s as a whole. Sixteen run at once, and the others wait in line.
- The thread that ends a stream tells this actor behind the stream's last message. No stream waits for a cancel.
- A cancel that fails is one log line with the interaction's id.
- When the tree ends, this actor waits for the cancels that run, and writes a log line for each one in line.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from http import HTTPStatus
from typing import Any, NamedTuple

import pykka

from gemini_streams.api.endpoint import Target
from gemini_streams.api.protocol import Call
from gemini_streams.http.connections import Connections
from gemini_streams.http.exchange import Exchange
from pykka_supervisor import Clock, SupervisedActor
from pykka_supervisor.log import get_logger

__all__ = ["WITHIN", "Cancel", "Errands"]

_log = get_logger(__name__)

WITHIN = 2.0
"""Seconds that a cancel may take; also those for which a POST is kept whose stream was stopped."""
_AT_ONCE = 16
_MAX_ANSWER = 1 << 16


class Cancel(NamedTuple):
    """Work to cancel."""

    stream_id: str
    interaction_id: str
    target: Target
    call: Call


class _Done:
    """A cancel has been carried out by a thread of this incarnation."""

    __slots__ = ("by",)

    def __init__(self, by: Errands) -> None:
        self.by = by


class Errands(SupervisedActor):
    """Carries out cancels; handles its messages in its own thread, each cancel in one of its own."""

    def __init__(self, table: Any, connections: Connections, clock: Clock) -> None:
        super().__init__()
        self._table = table
        self._connections = connections
        self._clock = clock
        self._line: deque[Cancel] = deque()
        self._running = 0
        self._threads: set[threading.Thread] = set()

    def on_start(self) -> None:
        """Take the place of a predecessor that died."""
        self._table.errands = self.actor_ref

    def on_receive(self, message: Any) -> None:
        """Take a cancel, or the word that one is done."""
        match message:
            case Cancel():
                self._line.append(message)
            case _Done(by=by) if by is self:  # a predecessor's threads were not counted here
                self._running -= 1
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        while self._line and self._running < _AT_ONCE:
            cancel = self._line.popleft()
            thread = threading.Thread(
                target=self._carry_out, args=(cancel,), name="gemini-streams-cancel", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                _not_cancelled(cancel, "no thread can be started")
                continue
            self._running += 1
            self._threads.add(thread)

    def on_stop(self) -> None:
        """Wait for those that run."""
        until = time.monotonic() + WITHIN
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        for cancel in self._line:
            _not_cancelled(cancel, "the manager has ended")

    def _carry_out(self, cancel: Cancel) -> None:
        exchange = Exchange()
        timer = self._clock.call_later(WITHIN, exchange.interrupt)
        try:
            exchange.send(self._connections, cancel.target, cancel.call)
            status = exchange.status
            exchange.read_all(_MAX_ANSWER)
            if status >= HTTPStatus.BAD_REQUEST:
                _not_cancelled(cancel, f"the server answered {status}")
        except Exception as error:  # noqa: BLE001 - best effort: whatever it is, it is told
            _not_cancelled(cancel, type(error).__name__)
        finally:
            timer.cancel()
            exchange.close()
            with contextlib.suppress(pykka.ActorDeadError):
                self.actor_ref.tell(_Done(self))


def _not_cancelled(cancel: Cancel, why: str) -> None:
    _log.warning(
        "interaction_not_cancelled",
        stream_id=cancel.stream_id,
        interaction_id=cancel.interaction_id,
        error=why,
    )
