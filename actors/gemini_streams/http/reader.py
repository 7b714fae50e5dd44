"""The shared reader: one thread that reads the sockets of all the streams that wait for their server.

Why: a model sends a few events a second, so a stream's thread would wake for each of them, take the interpreter for
some microseconds and sleep again. A thousand threads that do so stand in line for the interpreter lock, where each
wakes every few milliseconds only to ask for it again; from some load on the core does nothing else. One thread that
waits for all sockets at once takes what has come for everybody in one turn, and nobody stands in line.

The rules:

- A stream's thread *lends* its source when it has nothing to do but wait, and sleeps until it is given back. While it
  is lent, the reader's thread alone uses it; so a source is used by one thread at a time, and needs no lock.
- Nothing in a turn may take time, not even waiting for a lock that somebody holds: it would be everybody's.
- Two phases a turn: first each source that is ready takes what its socket has (`receive`), then each makes of it what
  there is to make (`turn`). So those who are woken by the first event do not fight for the interpreter with the
  reading of the last.
- What a turn puts into an inbox is there at once, in order. The consumer that waits for it is woken when the whole turn
  is over (`wakes`): so a consumer of many streams wakes once a turn, and takes the interpreter from nobody's reading.
- Where one turn follows another at once, the thread sleeps for `_PAUSE` before it looks again, and takes more at a
  time. Turns that are rarer than that wait for nothing, and neither does a source that is lent alone.
- Neither phase blocks, and neither raises. A source that has come to anything out of the ordinary (its end, a failure,
  a subscriber who is full) says so by its `turn`, and is given back to its thread, which knows what to do.
- The reader's thread runs while something is lent, and a little longer. Where it cannot run (no thread, no descriptor
  left), nothing is lent, and each thread reads for itself.
- However it ends, it gives back all that it has.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
import weakref
from typing import Protocol

from gemini_streams.traces import trace_of
from pykka_supervisor.log import get_logger

__all__ = ["Reader", "Source"]

_log = get_logger(__name__)

_AT_ONCE = 64
"""Sources read in one turn: what has been read of others waits so long."""
_LINGER = 0.2
"""Seconds that the thread waits for more when nothing is lent any more."""
_TRY_AGAIN = 1.0
"""Seconds until it is tried again after it could not begin."""
_PAUSE = 0.002
"""Seconds from the beginning of one turn to the next look at the sockets. An event waits so much longer where there are
many, and costs a third less."""
_PATIENCE = 1.0
"""Seconds that `close` waits for the thread, which never blocks."""


class Source(Protocol):
    """What can be lent."""

    def fileno(self) -> int:
        """Return the descriptor that becomes readable."""

    def receive(self) -> None:
        """Take what the socket has. Never blocks, never raises."""

    def turn(self, wakes: list[threading.Lock]) -> bool:
        """Use what was taken; whether the reader is to go on. Never blocks, never raises.

        `wakes` takes the locks on which consumers wait that have something now; they are released behind the turn.
        """


class _Loan:
    """A source and the lock that its thread sleeps on."""

    __slots__ = ("descriptor", "gate", "source")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.descriptor = source.fileno()
        self.gate = threading.Lock()
        self.gate.acquire()


class _Loop:
    """What one thread of the reader's has: made and closed together."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.began = 0.0  # the latest turn, by the system's clock: no test's clock turns a socket
        self.selector = selectors.DefaultSelector()
        try:
            self.waker, self.woken = socket.socketpair()
        except OSError:
            self.selector.close()
            raise
        try:
            self.selector.register(self.woken, selectors.EVENT_READ, None)
        except OSError:
            self.close()
            raise

    @property
    def idle(self) -> bool:
        """Whether nothing is lent."""
        return len(self.selector.get_map()) == 1

    @property
    def lonely(self) -> bool:
        """Whether no more than one source is lent: a later look would find no other one ready as well."""
        return len(self.selector.get_map()) <= 2

    def close(self) -> None:
        self.selector.close()
        self.waker.close()
        self.woken.close()


class Reader:
    """Reads for the streams of one manager's tree; thread-safe. See the module's text."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: _Loop | None = None
        self._not_before = 0.0  # when it is tried again after it could not begin
        _all.add(self)

    def read_for(self, source: Source) -> bool:
        """Let the shared thread read for `source`; returns when it has given it back. `False`: it could not begin."""
        loan = _Loan(source)
        try:
            with self._lock:
                loop = self._loop or self._start()
                if loop is None:
                    return False
                loop.selector.register(loan.descriptor, selectors.EVENT_READ, loan)
        except (OSError, ValueError, KeyError) as why:  # closed meanwhile, or no room for one more
            _log.debug("not_lent", why=str(why))
            return False
        loan.gate.acquire()
        return True

    def close(self) -> None:
        """Give all sources back and end the thread; a source that is lent afterwards starts another one."""
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is None:
                return
            with contextlib.suppress(OSError):
                loop.waker.send(b"\0")
            thread = loop.thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_PATIENCE)

    def forget_after_fork(self) -> None:
        """In a forked child: the thread is in the parent, and so are those who wait for it."""
        self._lock = threading.Lock()
        loop, self._loop = self._loop, None
        if loop is not None:
            with contextlib.suppress(OSError):
                loop.close()

    # -- with the lock held

    def _start(self) -> _Loop | None:
        """Start the thread; `None` where there is no descriptor or no thread for it, and for a while after that."""
        if time.monotonic() < self._not_before:
            return None
        loop = None
        try:
            loop = _Loop()
            loop.thread = threading.Thread(
                target=self._run, args=(loop,), name="gemini-streams-reader", daemon=True
            )
            loop.thread.start()
        except (OSError, RuntimeError, MemoryError) as why:
            if loop is not None:
                loop.close()
            self._not_before = time.monotonic() + _TRY_AGAIN
            _log.warning("no_shared_reader", why=str(why), instead="each stream's thread waits for itself")
            return None
        self._loop = loop
        return loop

    # -- the reader's thread

    def _run(self, loop: _Loop) -> None:
        try:
            while self._serve(loop):
                pass
        except Exception as bug:  # noqa: BLE001 - those who lent their sources go on without it
            _log.error("shared_reader_failed", trace=trace_of(bug))
        finally:
            with self._lock:
                if self._loop is loop:
                    self._loop = None
                left = [key.data for key in list(loop.selector.get_map().values()) if key.data is not None]
            loop.close()
            for loan in left:
                loan.gate.release()

    def _serve(self, loop: _Loop) -> bool:
        """Serve those who are ready; `False` when the thread shall end."""
        pause = 0.0 if loop.lonely else loop.began + _PAUSE - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        ready = loop.selector.select(_LINGER if loop.idle else None)
        loop.began = time.monotonic()
        if not ready:
            with self._lock:
                if not loop.idle:
                    return True
                if self._loop is loop:
                    self._loop = None  # who lends from here on starts another
                return False
        loans: list[_Loan | None] = [key.data for key, _ in ready]
        if None in loans:  # the waker: `close` was called
            return False
        for start in range(0, len(loans), _AT_ONCE):
            some = [loan for loan in loans[start : start + _AT_ONCE] if loan is not None]
            for loan in some:
                loan.source.receive()
            wakes: list[threading.Lock] = []
            try:
                for loan in some:
                    if not loan.source.turn(wakes):
                        self._give_back(loop, loan)
            finally:
                for parked in wakes:
                    parked.release()
        return True

    def _give_back(self, loop: _Loop, loan: _Loan) -> None:
        with self._lock, contextlib.suppress(KeyError, ValueError, OSError):
            loop.selector.unregister(loan.descriptor)
        loan.gate.release()


_all: weakref.WeakSet[Reader] = weakref.WeakSet()


def _forget_after_fork() -> None:
    for reader in list(_all):
        reader.forget_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
