"""gemini_streams, looked at: with a dashboard that nobody has open, and with one in viewers of another process."""

from __future__ import annotations

import subprocess
import sys
import time
from urllib.parse import urlsplit

from benchmarks.kit import PROMPT, Countdown, Delays, Figures, Meter, Work, finish
from benchmarks.peers.ours import Timed, start_manager, warm
from gemini_streams import StartStream
from gemini_streams.extras.dashboard import Dashboard

VIEWERS = """
import socket, sys, threading
host, port = sys.argv[1], int(sys.argv[2])
def view():
    with socket.create_connection((host, port)) as sock:
        sock.sendall(f"GET /events HTTP/1.1\\r\\nHost: {host}:{port}\\r\\n\\r\\n".encode())
        while sock.recv(1 << 16):
            pass
for _ in range(int(sys.argv[3])):
    threading.Thread(target=view).start()
"""


def _many(work: Work, viewers: int) -> Figures:
    manager = start_manager(work)
    warm(manager)
    address = urlsplit(Dashboard.start(manager).url)
    process = subprocess.Popen(
        [sys.executable, "-c", VIEWERS, str(address.hostname), str(address.port), str(viewers)]
    )
    time.sleep(1.0)  # they have connected, and been shown what is there
    try:
        delays = Delays()
        ended = Countdown(work.streams)
        refs = [Timed.start(ended, delays) for _ in range(work.subscribers)]
        meter = Meter()
        for index in range(work.streams):
            manager.tell(StartStream(PROMPT, subscriber=refs[index % len(refs)]))
        return finish(work, ended, delays, meter, None)
    finally:
        process.kill()
        process.wait()


def closed(work: Work) -> Figures:
    """A dashboard without a viewer."""
    return _many(work, 0)


def open_(work: Work) -> Figures:
    """A dashboard in eight browsers."""
    return _many(work, 8)
