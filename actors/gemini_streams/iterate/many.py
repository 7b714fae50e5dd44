"""`answers()` and `aanswers()`: many requests, at most so many at once, and their answers as they end.

The rules:

- A request is read when fewer than `at_once` streams run and fewer than `at_once` answers wait to be taken.
- It all goes on while the loop's body runs: answers are folded, and new requests are read and started.
- A request waits for one of the manager's slots, behind those that came before it. Its deadline starts with its slot.
- A stream that fails, and a request that the manager refuses, is an answer with an `error`. Missing credentials, a
  manager that has ended and an exception of the iterable are raised, behind the answers that have ended by then.
- Leaving the loop stops the streams that run. So does an exception that is raised in it.

`answers()` has two threads of its own: one reads the requests, since an iterable may block for as long as it likes, and
one folds. `aanswers()` has two tasks on the event loop, and no thread.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Iterator
from typing import Any, ClassVar, Generic, TypeVar, cast

import pykka

from gemini_streams.answer import Answer
from gemini_streams.errors import GeminiStreamsError, InvalidRequestError, MissingCredentialsError
from gemini_streams.iterate.asynchronous import AsyncInbox, LeftOrClosed, ask
from gemini_streams.iterate.reading import Reader, Reading, starting
from gemini_streams.messages import Patient, Start
from gemini_streams.options import whole
from pykka_supervisor import forks
from pykka_supervisor.mailbox import Envelope

__all__ = ["aanswers", "answers"]

R = TypeVar("R")

_CLOSE = object()


def answers(
    manager: pykka.ActorRef[Any], requests: Iterable[R], *, at_once: int = 20
) -> Generator[tuple[R, Answer], None, None]:
    """Run requests, `at_once` of them at a time, and give each with its `Answer` as it ends.

        for request, answer in answers(manager, ["Why is the sky blue?", "And the sea?"]):
            print(request, answer.error or answer.text)

    A request is contents, or a `StartStream`, `StartInteraction` or `ResumeInteraction` without a subscriber.
    `requests` may be endless: it is read as streams end, in a thread of its own. An answer that is not whole has an
    request. Raises `MissingCredentialsError`, and what the iterable raises. `break` or `close()` stops the
    streams that run.
    """
    whole("at_once", at_once, 1)
    return _answers(_Threads(manager, iter(_several(requests)), at_once))


def aanswers(
    manager: pykka.ActorRef[Any], requests: Iterable[R] | AsyncIterable[R], *, at_once: int = 20
) -> AsyncGenerator[tuple[R, Answer], None]:
    """Do the same on asyncio; `requests` may be an asynchronous iterable. It is read in a task of the event loop."""
    whole("at_once", at_once, 1)
    return _aanswers(_Tasks(manager, _several(requests), at_once))


def _several(requests: Any) -> Any:
    """Refuse a single request: a string would be taken for one request a character."""
    if isinstance(requests, str | bytes | dict | Start):
        raise InvalidRequestError(
            f"requests are several: give a list of them, not one {type(requests).__name__}"
        )
    return requests


def _answers(threads: _Threads[R]) -> Generator[tuple[R, Answer], None, None]:
    threads.start()
    try:
        while (ended := threads.next()) is not None:
            yield ended
    finally:
        threads.close()


async def _aanswers(tasks: _Tasks[R]) -> AsyncGenerator[tuple[R, Answer], None]:
    tasks.start()
    try:
        while (ended := await tasks.next()) is not None:
            yield ended
    finally:
        tasks.close()


class _Inbox:
    """The inbox of one request's subscription: it hands all on to the one inbox of all."""

    __slots__ = ("_all", "run")
    never_blocks: ClassVar[bool] = True

    def __init__(self, everything: queue.SimpleQueue[Any] | AsyncInbox) -> None:
        self._all = everything
        self.run: _Run[Any] | None = None

    def put(self, envelope: Envelope[Any], /) -> None:
        message = (self.run, envelope.message)
        everything = self._all
        if isinstance(everything, AsyncInbox):
            everything.put(Envelope(message))
        else:
            everything.put(message)


class _Run(Reading, Generic[R]):
    """One request, its subscription and its answer so far."""

    def __init__(
        self, manager: pykka.ActorRef[Any], given: R, inbox: _Inbox, stopped: threading.Event
    ) -> None:
        request = starting(given, None, None, {})
        super().__init__(manager, request, None, Reader(inbox, stopped))
        inbox.run = self
        self._own_inbox = inbox
        self.given = given
        self.request = Patient(cast("Start", self._request))
        self._started = True  # `begun` follows at once: a run that is left tells the manager so

    def fold(self, message: Any) -> bool:
        """Take a message; whether it was the last."""
        self._take(message)
        batch = self._batch
        if batch is not None:
            for event in batch.rest:
                self.answer.add(event)
            self._acknowledge(batch)
        if self.answer.done:
            self._own_inbox.run = None  # no cycle is left for the garbage collector
        return self.answer.done

    def begun(self, stream_id: str | None) -> None:
        """Take note that the manager has started the stream."""
        self._begun(stream_id)

    def refused(self, error: GeminiStreamsError) -> None:
        """Take note that it has not."""
        self._left.set()
        self._own_inbox.run = None
        tag = self.given.tag if isinstance(self.given, Start) else None
        self.answer = Answer.refused(error, tag)


class _Work(Generic[R]):
    """The requests that run and those that have ended. Pure; one thread at a time."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._running: set[_Run[R]] = set()
        self._ended: deque[_Run[R]] = deque()
        self._exhausted = False
        self._error: BaseException | None = None
        self.closed = False

    @property
    def over(self) -> bool:
        """Whether no request is to be read any more."""
        return self.closed or self._exhausted or self._error is not None

    @property
    def wants(self) -> bool:
        """Whether the next request is to be read now."""
        return not self.over and len(self._running) < self._at_once and len(self._ended) < self._at_once

    @property
    def tells(self) -> bool:
        """Whether there is an answer to take, or never will be."""
        return bool(self._ended) or self._error is not None or (self.over and not self._running)

    def begin(self, run: _Run[R]) -> bool:
        """Take note of a request that is to be started; `False` where it is not wanted any more."""
        if self.over:
            return False
        self._running.add(run)
        return True

    def end(self, run: _Run[R]) -> None:
        """Take note that an answer is done."""
        if run in self._running:
            self._running.remove(run)
            self._ended.append(run)

    def exhaust(self) -> None:
        """Take note that there are no more requests."""
        self._exhausted = True

    def fail(self, error: BaseException) -> None:
        """Let this be raised, behind what has ended."""
        self._error = self._error or error

    def left(self) -> list[_Run[R]]:
        """Return the runs that are to be stopped; none of them will end here any more."""
        running = list(self._running)
        self._running.clear()
        return running

    def take(self) -> tuple[R, Answer] | None:
        """Return the next answer that has ended; `None` at the end. Raises the error that ended the work."""
        if self._ended:
            run = self._ended.popleft()
            return run.given, run.answer
        if self._error is not None:
            raise self._error
        return None


class _Threads(Generic[R]):
    """The work of `answers()`: a thread that reads and starts, and one that folds."""

    def __init__(self, manager: pykka.ActorRef[Any], requests: Iterator[R], at_once: int) -> None:
        self._manager = manager
        self._home = forks.here()
        self._requests = requests
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._work: _Work[R] = _Work(at_once)  # with `_changed` held

    def start(self) -> None:
        for target in (self._read, self._fold):
            threading.Thread(target=target, name="gemini-streams-answers", daemon=True).start()

    def next(self) -> tuple[R, Answer] | None:
        if self._home.forked:
            raise forks.refusal("answers()")
        with self._changed:
            self._changed.wait_for(lambda: self._work.tells)
            self._changed.notify_all()
            return self._work.take()

    def close(self) -> None:
        """Stop the streams that run. The garbage collector may call this, anywhere: it waits for no lock."""
        self._inbox.put((None, _CLOSE))

    def _read(self) -> None:
        """Read the requests and start them, in a thread of its own."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._work.over or self._work.wants)
                if self._work.over:
                    return
            try:
                given = next(self._requests)
            except StopIteration:
                with self._changed:
                    self._work.exhaust()
                    self._changed.notify_all()
                return
            except BaseException as error:  # noqa: BLE001 - the application's own iterable: it is raised in the loop
                self._fail(error)
                return
            self._start(given)

    def _start(self, given: R) -> None:
        run = _Run(self._manager, given, _Inbox(self._inbox), threading.Event())
        with self._changed:
            if not self._work.begin(run):
                return
        try:
            run.begun(self._manager.ask(run.request, block=True))
        except MissingCredentialsError as error:
            self._fail(error)
        except GeminiStreamsError as error:
            run.refused(error)
            self._ended(run)
        except Exception as error:  # noqa: BLE001 - the manager has ended: raised in the loop
            self._fail(error)

    def _fold(self) -> None:
        """Fold the streams' messages, in a thread of its own, which ends last."""
        while True:
            run, message = self._inbox.get()
            if message is _CLOSE:
                with self._changed:
                    self._work.closed = True
                    running = self._work.left()
                    self._changed.notify_all()
                for each in running:
                    each.cancel()
                return
            try:
                done = run.fold(message)
            except Exception as error:  # noqa: BLE001 - a bug: raised in the loop, which would wait for ever
                self._fail(error)
            else:
                if done:
                    self._ended(run)

    def _ended(self, run: _Run[R]) -> None:
        with self._changed:
            self._work.end(run)
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._work.fail(error)
            running = self._work.left()
            self._changed.notify_all()
        for run in running:
            run.cancel()


class _Tasks(Generic[R]):
    """The work of `aanswers()`: a task that reads and starts, and one that folds. All on one event loop."""

    def __init__(
        self, manager: pykka.ActorRef[Any], requests: Iterable[R] | AsyncIterable[R], at_once: int
    ) -> None:
        self._manager = manager
        self._requests = aiter(requests) if isinstance(requests, AsyncIterable) else iter(requests)
        self._inbox = AsyncInbox()
        self._work: _Work[R] = _Work(at_once)
        self._wants, self._tells = asyncio.Event(), asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        loop = self._inbox.loop = asyncio.get_running_loop()
        self._changed()
        self._tasks = [loop.create_task(work()) for work in (self._read, self._fold)]

    async def next(self) -> tuple[R, Answer] | None:
        await self._tells.wait()
        try:
            return self._work.take()
        finally:
            self._changed()

    def close(self) -> None:
        """Stop the streams that run."""
        self._work.closed = True
        for task in self._tasks:
            task.cancel()
        for run in self._work.left():
            run.cancel()

    async def _read(self) -> None:
        while True:
            await self._wants.wait()
            try:
                given = await self._next_request()
            except (StopIteration, StopAsyncIteration):
                self._work.exhaust()
                self._changed()
                return
            except Exception as error:  # noqa: BLE001 - the application's own iterable: it is raised in the loop
                self._fail(error)
                return
            await self._start(given)

    async def _next_request(self) -> R:
        requests = self._requests
        if isinstance(requests, Iterator):
            try:
                return next(requests)
            except StopIteration:
                raise StopAsyncIteration from None
        return await anext(requests)

    async def _start(self, given: R) -> None:
        run = _Run(self._manager, given, _Inbox(self._inbox), LeftOrClosed(self._inbox))
        self._work.begin(run)
        self._changed()
        try:
            run.begun(await ask(self._manager, run.request, asyncio.get_running_loop(), run.begun))
        except MissingCredentialsError as error:
            self._fail(error)
        except GeminiStreamsError as error:
            run.refused(error)
            self._work.end(run)
        except Exception as error:  # noqa: BLE001 - the manager has ended: raised in the loop
            self._fail(error)
        self._changed()

    async def _fold(self) -> None:
        while True:
            run, message = await self._inbox.get(None)
            try:
                if run.fold(message):
                    self._work.end(run)
                    self._changed()
            except Exception as error:  # noqa: BLE001 - a bug: raised in the loop, which would wait for ever
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._work.fail(error)
        for run in self._work.left():
            run.cancel()
        self._changed()

    def _changed(self) -> None:
        for event, so in ((self._wants, self._work.wants), (self._tells, self._work.tells)):
            if so:
                event.set()
            else:
                event.clear()
