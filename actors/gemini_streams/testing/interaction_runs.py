"""The run of an interaction, and a stream that watches it. In the server's thread.

The rules:

- A run is a task that writes events into a log, at the reply's pace and through its gate. A `background` run goes on
  while nothing reads it. Another one keeps at most `_AHEAD` events ahead of the POST's own stream, and goes on alone
  once that stream is over; without `store` it ends there.
- A stream reads the log from its place on. The first stream sends it as it is; later ones send what stands there as
  `replay` says.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from gemini_streams.testing.interaction_events import (
    COMPLETED,
    encode,
    event_id,
    events_of,
    has_id,
    replayed,
    steps_of,
)
from gemini_streams.testing.interaction_options import Interaction
from gemini_streams.testing.plans import Piece
from gemini_streams.testing.records import Book, Gate, RequestRecord
from gemini_streams.testing.replies import End, Event, Failure, Reply

__all__ = ["Run", "View", "error_of"]

_AHEAD = 64
_Stop = Literal["cut", "silent", "error", "end", "done"]


class Run:
    """One interaction: its log of events, its state, and the task that writes both."""

    def __init__(
        self,
        name: str,
        reply: Reply,
        options: Interaction,
        record: RequestRecord,
        gate: Gate | None,
        pace: float,
        book: Book,
    ) -> None:
        body: Mapping[str, Any] = record.body
        self.name = name
        self.reply = reply
        self.options = options
        self.text = record.text
        self.input = body.get("input")
        self.background = bool(body.get("background"))
        self.stored = body.get("store") is not False
        self.previous = body.get("previous_interaction_id")
        self.log: list[Event] = []
        self.over = False
        """Nothing will follow in the log."""
        self.streams = 0
        self.gets = 0
        self.known = self.stored
        self._book = book
        self._record = record
        self._gate = gate
        self._pace = pace if reply.pace is None else reply.pace
        self._status = "in_progress"
        self._usage: dict[str, Any] | None = None
        self._ended_at = 0.0
        self._updated = self._created = _now()
        self._free = self.background
        self._wanted = 0
        self._changed = asyncio.Event()
        kind = "agent" if body.get("agent") is not None else "model"
        self._who = {"id": name if self.stored else "", "object": "interaction", kind: body[kind]}
        self._task = asyncio.get_running_loop().create_task(self._write())

    @property
    def status(self) -> str:
        """Its status now."""
        return self._status

    @property
    def usage(self) -> dict[str, Any] | None:
        """What it has cost, once it is over."""
        return self._usage

    def resource(
        self, *, steps: bool = True, with_input: bool = False, given: bool = False
    ) -> dict[str, Any]:
        """Return the resource. `with_input`: its first step is the user's; `given`: with the field `input`."""
        shown: dict[str, Any] = {
            **self._who,
            "status": self._status,
            "created": self._created,
            "updated": self._updated,
        }
        if self.previous is not None:
            shown["previous_interaction_id"] = self.previous
        if steps:
            zombie = self.options.zombie_after is not None and not self.over
            told = [] if zombie else steps_of(self.log)
            shown["steps"] = [_user_input(self.input), *told] if with_input and not zombie else told
        if given:
            shown["input"] = self.input
        late = self.options.usage_late
        if self._usage is not None and (late is None or time.monotonic() >= self._ended_at + late):
            shown["usage"] = self._usage
        if self.log and "continuation_token" in self.log[-1].get("interaction", {}):
            shown["continuation_token"] = self.log[-1]["interaction"]["continuation_token"]
        return shown

    def open_calls(self) -> set[str]:
        """Return the ids of its function calls."""
        return {str(step.get("id")) for step in steps_of(self.log) if step.get("type") == "function_call"}

    async def wait_for(self, number: int) -> bool:
        """Wait until the log has an event of this number; `False` where it never will."""
        if number >= self._wanted:
            self._wanted = number + 1
            self._tell()
        while len(self.log) <= number and not self.over:
            await self._changed.wait()
        return len(self.log) > number

    async def wait_over(self) -> None:
        """Let it go on alone, and wait for its end."""
        self.left_alone()
        while not self.over:
            await self._changed.wait()

    def left_alone(self) -> None:
        """Go on without a reader."""
        self._free = True
        self._tell()

    def left_by_reader(self) -> None:
        """Go on alone behind the POST's own stream, or end there where nothing is stored."""
        if self.stored:
            self.left_alone()
        elif not self.over:
            self._task.cancel()
            self._end()

    def cancel(self, status: str = "cancelled") -> None:
        """End it with this status."""
        if self.over:
            return
        self._task.cancel()
        self._append({"event_type": COMPLETED, "interaction": {**self._who, "status": status}})
        self._end()

    async def close(self) -> None:
        """End its task."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _write(self) -> None:
        try:
            await self._write_all()
        except Exception as error:  # noqa: BLE001 - the test's own callable or generator; told by close()
            self._book.failures.append(error)
        self._end()

    async def _write_all(self) -> None:
        reply, limit = self.reply, self.options.zombie_after
        for number, event in enumerate(events_of(reply, self.options, self._record, self._who)):
            if number == reply.hold_after and self._gate is not None:
                await self._gate.pass_through()
            if number == limit:
                await asyncio.get_running_loop().create_future()
            pause = reply.first_byte_after if number == 0 else self._pace
            if pause:
                await asyncio.sleep(pause)
            elif number % 16 == 0:
                await asyncio.sleep(0)
            while not self._free and self._wanted + _AHEAD <= number:
                await self._changed.wait()
            self._append(event)

    def _append(self, event: Event) -> None:
        event = dict(event)
        if event["event_type"] == COMPLETED:
            ended = event["interaction"] = {**event.get("interaction", {})}
            self._status = ended.get("status", "completed")
            ended.setdefault("created", self._created)
            ended.setdefault("updated", _now())
            self._usage = ended.get("usage")
            if self.options.usage_late is not None:
                ended.pop("usage", None)
            self._ended_at = time.monotonic()
        elif event["event_type"] == "interaction.created":
            event["interaction"] = {**event.get("interaction", {}), "created": self._created}
        if "event_id" not in event and self.stored and has_id(self.options.ids, event, len(self.log)):
            event["event_id"] = event_id(len(self.log), self.name)
        self.log.append(event)
        self._updated = _now()
        self._tell()

    def _end(self) -> None:
        self.over = True
        self._tell()


class View:
    """One stream of a run: what it sends from its place on, and how it ends."""

    def __init__(self, run: Run, start: int) -> None:
        run.streams += 1
        self.end: End = "clean"
        """How the body ends behind the last piece."""
        self.half = b""
        """Half of the event that was to follow, in front of that end."""
        self._run = run
        self._number = run.streams
        self._at = start
        self._off = False
        cuts = run.options.cuts
        self._cut = cuts[self._number - 1] if self._number <= len(cuts) else None

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Yield what the stream sends."""
        async with contextlib.aclosing(self._events()) as events:
            sent = 0
            while (stop := self._stop_after(sent)) is None:
                event = await anext(events, None)
                if event is None:
                    stop = self._stop_at_end()
                    break
                yield Piece(self._encoded(event), event.get("interaction", {}).get("usage"))
                sent += 1
            following = await anext(events, None) if stop == "end" and self._run.reply.half else None
        for piece in self._ending(stop, following):
            yield piece

    def _ending(self, stop: _Stop, following: Event | None) -> Iterator[Piece]:
        """Say how the body ends, and yield what stands in front of that."""
        run, options, reply = self._run, self._run.options, self._run.reply
        match stop:
            case "cut":
                if options.cut_by == "array":
                    error = error_of(Failure(503, "The service is currently unavailable."), options)
                    yield Piece(_lines({"error": error}, reply.newline, array=True))
                else:
                    self.end = options.cut_by
            case "silent":
                self.end = "silent"
            case "error":
                yield self._error()
            case "end":
                self.end = reply.end
                if following is not None:
                    data = self._encoded(following)
                    self.half = data[: len(data) // 2]
            case "done":
                if run.log and run.log[-1]["event_type"] == COMPLETED and options.done:
                    line = f"event: done{reply.newline}" if options.event_lines else ""
                    yield Piece(f"{line}data: [DONE]{reply.newline * 2}".encode())
                self.end = reply.end if self._number == 1 else "clean"

    def _stop_after(self, sent: int) -> _Stop | None:
        """Return how the stream ends in front of its next event, if it does."""
        reply, first = self._run.reply, self._number == 1
        if sent == self._cut:
            return "cut"
        if first and reply.error_after is not None and sent == reply.error_after[0]:
            return "error"
        if first and sent == reply.end_after:
            return "end"
        return "silent" if not first and sent == self._run.options.resume_silent_after else None

    def _stop_at_end(self) -> _Stop:
        """Return how it ends where no event follows."""
        if self._off:
            return "cut"
        return "error" if self._number == 1 and self._run.reply.error_after is not None else "done"

    async def _events(self) -> AsyncGenerator[Event, None]:
        """Yield the events from this place on, as far as the cut of the place or of the time."""
        run, options, loop = self._run, self._run.options, asyncio.get_running_loop()
        how = options.replay if self._number > 1 else "same"
        until = loop.time() + options.cut_seconds if options.cut_seconds is not None else None
        while options.cut_at is None or self._at < options.cut_at:
            try:
                async with asyncio.timeout_at(until):
                    if not await run.wait_for(self._at):
                        return
            except TimeoutError:
                break
            events = run.log[self._at : options.cut_at]
            self._at += len(events)
            for event in replayed(events, how):
                if until is not None and loop.time() >= until:
                    self._off = True
                    return
                yield event
        self._off = True

    def _encoded(self, event: Event) -> bytes:
        return encode(event, self._run.reply.newline, event_line=self._run.options.event_lines)

    def _error(self) -> Piece:
        reply, options = self._run.reply, self._run.options
        told = reply.error_after[1] if reply.error_after is not None else {}
        error = error_of(told, options) if isinstance(told, Failure) else dict(told)
        if reply.error_bare:
            return Piece(_lines({"error": error}, reply.newline))
        shown = {name: value for name, value in error.items() if name in ("code", "message")}
        return Piece(self._encoded({"event_type": "error", "error": shown}))


def error_of(failure: Failure, options: Interaction) -> dict[str, Any]:
    """Return what stands under "error" in an answer of the Interactions API."""
    error = failure.error
    if options.string_codes:
        error = {**error, "code": error["status"].lower()}
    return error


def _user_input(given: Any) -> Event:
    content = [{"type": "text", "text": given}] if isinstance(given, str) else given
    return {"type": "user_input", "content": content if isinstance(content, list) else [content]}


def _lines(value: Event, newline: str, *, array: bool = False) -> bytes:
    """Return bare JSON over several lines; `array`: as the one element of an array, as Google writes it."""
    shown = msgspec.json.format(msgspec.json.encode(value), indent=2)
    if array:
        shown = b"[%b\n]" % shown
    return shown.replace(b"\n", newline.encode()) + (newline * 2).encode()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
