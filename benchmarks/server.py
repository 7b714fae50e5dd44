"""The server that every program reads from, in a process of its own on the other core."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.kit import SERVER_CORE, pin

__all__ = ["Server", "serving"]

SCRIPT = Path(__file__).resolve().with_name("sse_server.py")


class Server:
    """The running server."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """Run the server as long as the context lasts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(port)],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: pin(SERVER_CORE),  # noqa: PLW1509 - no thread runs here yet
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        if not process.stdout.readline().startswith(b"listening"):
            raise RuntimeError("the benchmark's server did not start")
        yield Server(process, port)
    finally:
        process.kill()
        process.wait()
