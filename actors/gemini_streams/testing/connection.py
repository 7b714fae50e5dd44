"""One connection of a LocalGemini: requests are read from it and answered, one after another.

The rules:

- One task a connection, in the server's thread. The transport's callbacks only wake or end it.
- The socket is read all the time, so that a client's leaving is seen in every phase. The exception is a stalled upload,
  where the task looks for the client's end itself.
- Each exchange ends its record exactly once: the first of answered, broken off, left and closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import select
import socket
import struct
import zlib
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Literal, Protocol, cast

from gemini_streams.testing import generate
from gemini_streams.testing.interaction_calls import Call, call_of, place_of
from gemini_streams.testing.interaction_options import Interaction
from gemini_streams.testing.interactions import Interactions, Told, plan_of_interaction, worded
from gemini_streams.testing.keys import wrong_caller
from gemini_streams.testing.masks import Masks
from gemini_streams.testing.plans import PIECE, Plan, compressed, frame, head, plan_of
from gemini_streams.testing.records import Book, Gate, RequestRecord, resolve
from gemini_streams.testing.replies import (
    AnswerSource,
    Body,
    Failure,
    LongAnswer,
    Raw,
    Reply,
    Scripted,
    StallUpload,
)
from gemini_streams.testing.script import Script

__all__ = ["Connection", "Settings"]

_STALL_LOOK = 256 * 1024
"""A `StallUpload` looks for its pattern in this many bytes of the body."""


class Settings(Protocol):
    """What a test may change while the server runs."""

    keys: tuple[str, ...] | None
    tokens: tuple[str, ...] | None
    pace: float
    interaction: Interaction


class Connection(asyncio.Protocol):
    """One connection: a task that reads a request, answers it, and awaits the next.

    The socket is read all the time, so that a client's leaving is seen in every phase; it ends the task.
    """

    def __init__(
        self, book: Book, script: Script, interactions: Interactions, settings: Settings, number: int
    ) -> None:
        self._book = book
        self._interactions = interactions
        self._script = script
        self._settings = settings
        self._number = number
        self._received = bytearray()
        self._more: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._record: RequestRecord | None = None
        self._written = 0
        self._ending = False
        self._writes = 0
        self.idle = True
        self.task: asyncio.Task[None] | None = None

    # -- callbacks of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=1, low=0)  # TLS takes 0 for always full
        self._book.joined(self)
        self.task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        """Wake the task that waits for more."""
        self._received += data
        if self._more is not None:
            resolve(self._more)

    def eof_received(self) -> None:
        """Take half a close for a whole one."""
        self._client_left()

    def connection_lost(self, _error: Exception | None) -> None:
        """End the task; the socket is closed."""
        self._client_left()
        self._book.left(self)

    def pause_writing(self) -> None:
        """Let the task wait before its next write: the socket is full."""
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """Let the task write again."""
        if self._writable is not None:
            resolve(self._writable)
        self._writable = None

    def _client_left(self) -> None:
        if not self._ending:
            self._ending = True
            if self._record is not None:
                self._count()
                self._record.end("client")
            self._abort()
        if self.task is not None:
            self.task.cancel()

    def drop(self) -> None:
        """Close from the server's side, whatever is under way."""
        self._ending = True
        if self._record is not None:
            self._record.end("server")
        self._abort()
        if self.task is not None:
            self.task.cancel()

    def _abort(self) -> None:
        self._ending = True
        self._transport.abort()

    # -- reading

    async def _receive(self) -> None:
        self._more = asyncio.get_running_loop().create_future()
        await self._more
        self._more = None

    async def _line_end(self, mark: bytes) -> bytes:
        """Take everything up to and including `mark`."""
        start = 0
        while (at := self._received.find(mark, start)) < 0:
            start = max(len(self._received) - len(mark) + 1, 0)
            await self._receive()
        return self._take(at + len(mark))

    def _take(self, size: int) -> bytes:
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    async def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            await self._receive()
        return self._take(size)

    async def _body(
        self, record: RequestRecord, headers: Mapping[str, str]
    ) -> tuple[bytes, StallUpload | None]:
        if headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = bytearray()
            while size := int((await self._line_end(b"\r\n")).split(b";")[0], 16):
                body += await self._exactly(size)
                await self._exactly(2)
            while await self._line_end(b"\r\n") != b"\r\n":
                pass
            return bytes(body), None
        size = int(headers.get("content-length", "0"))
        stall: StallUpload | None = None
        while len(self._received) < size:
            if (
                stall is None
                and record.action in ("generate", "create")
                and 0 < len(self._received) <= _STALL_LOOK
            ):
                chosen = self._script.choose_stall(record, bytes(self._received))
                if chosen is not None:
                    stall, gate = chosen
                    await self._stall(record, gate)
                    continue
            await self._receive()
        return self._take(size), stall

    async def _stall(self, record: RequestRecord, gate: Gate) -> None:
        """Read nothing until the gate opens.

        The event loop does not see the end of a socket that is not read, so this task looks for it.
        """
        sock = self._transport.get_extra_info("socket")
        self._transport.pause_reading()
        record.stalled = True
        self._record = record
        self._book.arrived(record)
        look = select.poll()
        look.register(sock.fileno(), getattr(select, "POLLRDHUP", 0))
        passing = asyncio.ensure_future(gate.pass_through())
        try:
            while not passing.done():
                if look.poll(0):
                    self._client_left()
                await asyncio.wait({passing}, timeout=0.001)
        finally:
            passing.cancel()
        record.stalled = False
        self._transport.resume_reading()

    # -- writing

    async def _send(self, data: bytes, segment: int = PIECE) -> None:
        for start in range(0, len(data), segment):
            if self._transport.is_closing():
                await (
                    asyncio.get_running_loop().create_future()
                )  # the client has left: the task is being ended
            piece = data[start : start + segment]
            self._transport.write(piece)
            self._written += len(piece)
            self._count()
            if self._writable is not None:
                await self._writable
                self._count()
            self._writes += 1
            if segment < PIECE or self._writes % 16 == 0:
                await asyncio.sleep(0)  # let the loop see whether the client has left

    def _count(self) -> None:
        if self._record is not None:
            self._record.bytes_sent = self._written - self._transport.get_write_buffer_size()

    # -- exchanges

    async def _serve(self) -> None:
        try:
            while await self._exchange():
                self.idle = True
        except asyncio.CancelledError:
            pass
        except Exception as error:  # noqa: BLE001 - told by close(); the server goes on
            self._book.failures.append(error)
        finally:
            if self._record is not None:
                self._record.end("server")
            if not self._transport.is_closing():
                self._abort()

    async def _exchange(self) -> bool:
        """Answer one request; return whether the connection is kept."""
        head = await self._line_end(b"\r\n\r\n")
        self.idle = False
        lines = head.decode("latin-1").split("\r\n")
        method, target, version = [*lines[0].split(" "), "", ""][:3]
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:-2])
        }
        target = re.sub(r"^https?://[^/]*", "", target)  # as a proxy would be asked
        keys, tokens = self._settings.keys, self._settings.tokens
        masks = Masks(target, headers, (*(keys or ()), *(tokens or ())))
        record = RequestRecord(self._book.changed, self._number, masks.path, masks.headers, method)
        self._written = 0
        call = call_of(method, target)
        if call is None:
            refusal = generate.refusal(method, target, record)
        else:
            record.action = call.action
            record.interaction_id = masks.body(target.encode(), call.interaction_id)
            record.last_event_id = masks.body(target.encode(), call.last_event_id)
            record.vertex, record.project, record.location = place_of(target)
            refusal = None
        refusal = refusal or wrong_caller(record, headers, keys, tokens)
        body, stall = await self._body(record, headers)
        if refusal is None and call is None:
            refusal = generate.decode(record, body, masks)
        elif refusal is None and record.action == "create":
            refusal = self._interactions.decode(record, body, masks)
        self._record = record
        self._book.arrived(record)
        keep = headers.get("connection", "").lower() != "close" and version == "HTTP/1.1"
        answer, gate = await self._chosen(record, call, refusal, stall)
        if call is not None and isinstance(answer, Failure):
            answer = worded(answer, self._settings.interaction)
        match answer:
            case Raw():
                kept = await self._raw(answer)
            case Told():
                kept = await self._interact(answer, record, gate, keep=keep)
            case _:
                plan = plan_of(answer, record, self._settings.pace)
                kept = await self._answer(plan, record, gate, keep=keep)
        self._record = None
        return kept

    async def _chosen(
        self, record: RequestRecord, call: Call | None, refusal: Failure | None, stall: StallUpload | None
    ) -> tuple[Reply | Failure | Body | Raw | Told, Gate | None]:
        """Return the answer that this request gets, and the gate where it may wait."""
        if refusal is not None:
            return refusal, None
        if call is not None and call.action != "create":
            return self._interactions.answer(call), None
        gate: Gate | None = None
        source: AnswerSource
        if stall is not None:
            source = stall.then
        else:
            source, gate = self._script.choose(record)
        answer = source if isinstance(source, Scripted) else source(record)
        if isinstance(answer, StallUpload):  # the body was there before the server could stall it
            if gate is not None:
                await gate.pass_through()
            answer = answer.then
        if isinstance(answer, LongAnswer):
            answer = answer.reply_to(record)
        if call is None or not isinstance(answer, Reply):
            return answer, gate
        options = answer.interaction or self._settings.interaction
        return await self._interactions.begin(answer, options, record, gate, self._settings.pace), gate

    async def _answer(self, plan: Plan, record: RequestRecord, gate: Gate | None, *, keep: bool) -> bool:
        await self._before_headers(plan, gate)
        pieces = compressed(plan.pieces) if plan.gzip else plan.pieces
        if plan.framing == "length":
            pieces = list(pieces)
        record.status = plan.status
        await self._send(head(plan, pieces, keep=keep), plan.segment)
        if plan.hold_after == 0 and gate is not None:
            await gate.pass_through()
        for number, piece in enumerate(pieces):
            if number == plan.end_after:
                if plan.half:
                    await self._send(frame(plan, piece.data[: len(piece.data) // 2]), plan.segment)
                break
            pause = plan.first_byte_after if number == 0 else plan.pace
            if pause:
                await asyncio.sleep(pause)
            await self._send(frame(plan, piece.data), plan.segment)
            record.events_sent = number + 1 if plan.status == HTTPStatus.OK else 0
            if piece.usage is not None:
                record.usage = piece.usage
            if plan.hold_after == number + 1 and gate is not None:
                await gate.pass_through()
        return await self._finish(plan, record, keep=keep)

    async def _before_headers(self, plan: Plan, gate: Gate | None) -> None:
        if plan.hold_before_headers and gate is not None:
            await gate.pass_through()
        if plan.headers_delay:
            await asyncio.sleep(plan.headers_delay)

    async def _interact(self, told: Told, record: RequestRecord, gate: Gate | None, *, keep: bool) -> bool:
        """Answer a request of the Interactions API."""
        own = told.run is not None and record.action == "create"
        if own and told.run is not None and told.run.options.post_lost:
            self._break("reset")
            record.end("reset")
            return False
        plan = plan_of_interaction(told, own=own)
        if isinstance(told.what, bytes):
            return await self._answer(plan, record, gate, keep=keep)
        packer = zlib.compressobj(wbits=31) if plan.gzip else None

        async def send(data: bytes) -> None:
            if packer is not None:
                data = packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)
            await self._send(frame(plan, data), plan.segment)

        try:
            await self._before_headers(plan, gate)
            record.status = plan.status
            await self._send(head(plan, (), keep=keep), plan.segment)
            async with contextlib.aclosing(told.what.pieces()) as pieces:
                async for piece in pieces:
                    await send(piece.data)
                    record.events_sent += 1
                    if piece.usage is not None:
                        record.usage = piece.usage
            if told.what.half:
                await send(told.what.half)
            if packer is not None and told.what.end == "clean":
                await self._send(frame(plan, packer.flush(zlib.Z_FINISH)), plan.segment)
            return await self._finish(replace(plan, end=told.what.end), record, keep=keep)
        finally:
            if own and told.run is not None:
                told.run.left_by_reader()

    async def _finish(self, plan: Plan, record: RequestRecord, *, keep: bool) -> bool:
        match plan.end:
            case "clean":
                if plan.framing == "chunked":
                    await self._send(b"0\r\n\r\n", plan.segment)
                keep = keep and plan.framing != "close"
                if not keep:
                    self._ending = True
                    self._transport.close()
                record.end("complete")
                return keep
            case "silent":
                await asyncio.get_running_loop().create_future()  # until the client leaves
            case "cut" | "reset" as how:
                self._break(how)
                record.end(how)
        return False

    async def _raw(self, answer: Raw) -> bool:
        record = cast("RequestRecord", self._record)
        for part in [answer.parts] if isinstance(answer.parts, bytes) else answer.parts:
            if isinstance(part, bytes):
                await self._send(part)
            else:
                await asyncio.sleep(part)
        match answer.close:
            case "keep":
                record.end("complete")
                return True
            case "silent":
                await asyncio.get_running_loop().create_future()
            case "fin":
                self._break("cut")
                record.end("cut")
            case "reset":
                self._break("reset")
                record.end("reset")
        return False

    def _break(self, how: Literal["cut", "reset"]) -> None:
        self._ending = True
        if how == "reset":
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()  # everything was taken by the socket: this is a FIN
