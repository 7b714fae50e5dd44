"""The server of the benchmarks: `python benchmarks/sse_server.py [CERTIFICATE]`.

It knows streamGenerateContent and an interaction, and no more.

The rules:

- It listens on a free port of loopback, and with a certificate's file on a second one that speaks TLS. It prints both.
- The model's name scripts the stream: `bench-n<events>-d<milliseconds between two events>-s<bytes of text>`. With
  `-lists` behind it, the bytes are a list of many lists of one number instead.
- Each event is `data: {json}` in an HTTP chunk of its own. Without a delay 64 chunks go into one write, made before
  the first stream and kept, so that the server's own time is small.
- With a delay each event carries the moment it was sent, `usageMetadata.t_ns` (CLOCK_MONOTONIC, nanoseconds): a client
  on this machine can tell how late an event is.
- `POST /interactions` answers at once with an id that repeats the script, `GET /interactions/ID` streams it: no delay,
  a step of as many deltas as there are events, `event:` and `id:` lines and `event_id` on each.
- `GET /conns` answers how many connections have come so far, its own included.
- HTTP/1.1, kept alive. It is in no way strict: its clients are the programs of `peers/`.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
import resource
import ssl
import sys
import time

WORK = re.compile(rb"bench-n(\d+)-d(\d+)-s(\d+)(-lists)?")
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    b"Server: scaffolding on HTTPServer2\r\nCache-Control: no-cache\r\n\r\n"
)
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
CHUNKS_A_WRITE = 64


def event(number: int, events: int, size: int, sent_ns: int, *, lists: bool = False) -> bytes:
    """Return the `number`-th of so many events as a chunk."""
    text = "" if lists else "x" * size
    candidate: dict[str, object] = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    if number == events - 1:
        candidate["finishReason"] = "STOP"
    usage = {
        "promptTokenCount": 4,
        "candidatesTokenCount": number + 1,
        "totalTokenCount": number + 5,
        "t_ns": sent_ns,
    }
    payload: dict[str, object] = {
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": "bench",
        "responseId": f"r{number}",
    }
    if lists:
        payload["lists"] = [[1]] * (size // 4)
    data = f"data: {json.dumps(payload, separators=(',', ':'))}\r\n\r\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


@functools.cache
def at_once(events: int, size: int, *, lists: bool) -> list[bytes]:
    """Return a whole stream without delays, in writes."""
    chunks = [event(number, events, size, 0, lists=lists) for number in range(events)]
    return [b"".join(chunks[at : at + CHUNKS_A_WRITE]) for at in range(0, events, CHUNKS_A_WRITE)]


@functools.cache
def interaction(deltas: int, size: int) -> list[bytes]:
    """Return the stream of an interaction, in writes."""
    created = {"id": f"bench-n{deltas}-d0-s{size}", "status": "in_progress"}
    told: list[dict[str, object]] = [
        {"event_type": "interaction.created", "interaction": created},
        {"event_type": "step.start", "index": 0, "step": {"type": "model_output"}},
    ]
    delta = {"type": "text", "text": "x" * size}
    told += [{"event_type": "step.delta", "index": 0, "delta": delta} for _ in range(deltas)]
    told.append({"event_type": "step.stop", "index": 0})
    usage = {"total_input_tokens": 4, "total_output_tokens": deltas, "total_tokens": deltas + 4}
    told.append(
        {"event_type": "interaction.completed", "interaction": {"status": "completed", "usage": usage}}
    )
    chunks = []
    for number, each in enumerate(told):
        data = json.dumps({**each, "event_id": f"v1_{number}"}, separators=(",", ":"))
        lines = f"event: {each['event_type']}\r\nid: v1_{number}\r\ndata: {data}\r\n\r\n".encode()
        chunks.append(b"%x\r\n%s\r\n" % (len(lines), lines))
    return [b"".join(chunks[at : at + CHUNKS_A_WRITE]) for at in range(0, len(chunks), CHUNKS_A_WRITE)]


class Connections:
    """Serves connections, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after another until the client leaves."""
        self.count += 1
        try:
            while True:
                await self._exchange(reader, writer)
        except (asyncio.IncompleteReadError, OSError):  # of TLS, too
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = LENGTH.search(head)
        sent = await reader.readexactly(int(length[1])) if length else b""
        line = head.split(b"\r\n", 1)[0]
        if b"/interactions" in line:
            await self._interaction(writer, line + sent)
            return
        work = WORK.search(line)
        if line.startswith(b"GET /conns"):
            body = str(self.count).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        elif work is None:
            writer.write(NOT_FOUND)
        else:
            events, delay, size = map(int, work.groups()[:3])
            writer.write(HEAD)
            if delay:
                await paced(writer, events, delay / 1000, size)
            else:
                for data in at_once(events, size, lists=work[4] is not None):
                    writer.write(data)
                    await writer.drain()
            writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _interaction(self, writer: asyncio.StreamWriter, request: bytes) -> None:
        work = WORK.search(request)
        if work is None:
            writer.write(NOT_FOUND)
        elif request.startswith(b"POST"):
            told = b'{"id":"%s","object":"interaction","status":"in_progress"}' % work[0]
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            writer.write(head % len(told) + told)
        else:
            writer.write(HEAD)
            for data in interaction(int(work[1]), int(work[3])):
                writer.write(data)
                await writer.drain()
            writer.write(b"0\r\n\r\n")
        await writer.drain()


async def paced(writer: asyncio.StreamWriter, events: int, delay: float, size: int) -> None:
    """Write the events at their moments: a late one delays none of those behind it."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    for number in range(events):
        due += delay
        early = due - loop.time()
        if early > 0:
            await asyncio.sleep(early)
        writer.write(event(number, events, size, time.monotonic_ns()))
        await writer.drain()


async def main(certificate: str | None) -> None:
    """Listen on loopback until the process is killed."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    contexts: list[ssl.SSLContext | None] = [None]
    if certificate is not None:
        contexts.append(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        contexts[1].load_cert_chain(certificate)  # type: ignore[union-attr]
    serve = Connections().serve
    servers = [
        await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096, limit=1 << 20, ssl=context)
        for context in contexts
    ]
    print("listening", *(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
