"""The server of the benchmarks: `python benchmarks/sse_server.py PORT`, streamGenerateContent with nothing around it.

The rules:

- The model's name scripts the stream: `bench-n<events>-d<milliseconds between two events>-s<bytes of text>`.
- Each event is `data: {json}` in an HTTP chunk of its own. Without a delay 64 chunks go into one write, made before
  the first stream and kept, so that the server's own time is small.
- With a delay each event carries the moment it was sent, `usageMetadata.t_ns` (CLOCK_MONOTONIC, nanoseconds): a client
  on this machine can tell how late an event is.
- `GET /conns` answers how many connections have come so far, its own included.
- HTTP/1.1, kept alive. It is in no way strict: its clients are the programs of `peers/`.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
import resource
import sys
import time

WORK = re.compile(rb"bench-n(\d+)-d(\d+)-s(\d+)")
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    b"Server: scaffolding on HTTPServer2\r\nCache-Control: no-cache\r\n\r\n"
)
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
CHUNKS_A_WRITE = 64


def event(number: int, events: int, size: int, sent_ns: int) -> bytes:
    """Return the `number`-th of so many events as a chunk."""
    candidate: dict[str, object] = {"content": {"parts": [{"text": "x" * size}], "role": "model"}, "index": 0}
    if number == events - 1:
        candidate["finishReason"] = "STOP"
    usage = {
        "promptTokenCount": 4,
        "candidatesTokenCount": number + 1,
        "totalTokenCount": number + 5,
        "t_ns": sent_ns,
    }
    payload = {
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": "bench",
        "responseId": f"r{number}",
    }
    data = f"data: {json.dumps(payload, separators=(',', ':'))}\r\n\r\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


@functools.cache
def at_once(events: int, size: int) -> list[bytes]:
    """Return a whole stream without delays, in writes."""
    chunks = [event(number, events, size, 0) for number in range(events)]
    return [b"".join(chunks[at : at + CHUNKS_A_WRITE]) for at in range(0, events, CHUNKS_A_WRITE)]


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
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = LENGTH.search(head)
        if length:
            await reader.readexactly(int(length[1]))
        line = head.split(b"\r\n", 1)[0]
        work = WORK.search(line)
        if line.startswith(b"GET /conns"):
            body = str(self.count).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        elif work is None:
            writer.write(NOT_FOUND)
        else:
            events, delay, size = map(int, work.groups())
            writer.write(HEAD)
            if delay:
                await paced(writer, events, delay / 1000, size)
            else:
                for data in at_once(events, size):
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


async def main(port: int) -> None:
    """Listen on loopback until the process is killed."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    server = await asyncio.start_server(Connections().serve, "127.0.0.1", port, backlog=4096, limit=1 << 20)
    print("listening", port, flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
