"""The end of the process: whichever way it ends, each subscriber handles its last message before it is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from gemini_streams.testing import LocalGemini, Reply
from kit.interpreter import needs_late_threads

PRELUDE = """
import os, signal, sys, threading, time
import pykka
from gemini_streams import Gemini, ManagerActor, ManagerDrainingError, StartStream, StreamStopped, SubscriberActor
from pykka_supervisor import *

ready = threading.Semaphore(0)

def said(name, message):
    os.write(1, f"{name}: {type(message).__name__} {getattr(message, 'reason', '')}\\n".encode())

class Batches(SubscriberActor):
    def __init__(self, name):
        super().__init__()
        self.name = name
    def on_stream_event(self, event):
        ready.release()
    def on_stream_stopped(self, message):
        said(self.name, message)
    def on_stream_complete(self, message):
        said(self.name, message)
    def on_stream_error(self, message):
        said(self.name, message)

class OneByOne:
    def __init__(self, name):
        super().__init__()
        self.name = name
    def on_receive(self, message):
        if type(message).__name__ == "StreamEvent":
            ready.release()
        else:
            time.sleep(0.05)  # the end of the process is near
            said(self.name, message)

class Supervised(OneByOne, SupervisedActor):
    pass

class Daemon(OneByOne, pykka.ThreadingActor):
    use_daemon_thread = True

kinds = (Batches, Supervised, Daemon)
before = [kind.start(f"{kind.__name__} before") for kind in kinds]
app = Supervisor.start(
    [ChildSpec(kind, (f"{kind.__name__} child before",), id=kind.__name__) for kind in kinds]
    + [ManagerActor.child_spec(name="manager", endpoint=Gemini(base_url=URL, api_key="local-key"), model="m")]
    + [ChildSpec(kind, (f"{kind.__name__} child after",), id=kind.__name__ + " after") for kind in kinds]
)
manager = whereis("manager")
children = [child.ref for child in app.which_children() if child.type == "worker"]
alone = ManagerActor.start(endpoint=Gemini(base_url=URL, api_key="local-key"), model="m")
after = [kind.start(f"{kind.__name__} after") for kind in kinds]
subscribers = [*before, *children, *after]
for at in (manager, alone):
    for subscriber in subscribers:
        at.ask(StartStream("hold", subscriber=subscriber))
for _ in range(2 * 2 * len(subscribers)):  # two events of each stream
    assert ready.acquire(timeout=20)
"""

NAMES = [
    f"{kind} {when}"
    for kind in ("Batches", "Supervised", "Daemon")
    for when in ("before", "child before", "child after", "after")
]

ENDS = {
    "end of main": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "an uncaught error": ("raise ValueError('in main')", 1),
    "Ctrl-C": ("os.kill(os.getpid(), signal.SIGINT); time.sleep(20)", -signal.SIGINT),
    "SIGTERM to the application's tree": (
        "stop_on_signals(app); os.kill(os.getpid(), signal.SIGTERM); time.sleep(20)",
        128 + signal.SIGTERM,
    ),
    "SIGTERM to a manager": (
        "stop_on_signals(alone); os.kill(os.getpid(), signal.SIGTERM); time.sleep(20)",
        128 + signal.SIGTERM,
    ),
}


def run(url: str, body: str) -> subprocess.CompletedProcess[str]:
    program = f"URL = {url!r}\n" + PRELUDE + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


@pytest.fixture
def held(gemini: LocalGemini) -> LocalGemini:
    gemini.on("hold", Reply("one two", end="silent"))
    return gemini


@pytest.mark.parametrize("end", list(ENDS))
def test_every_subscriber_handles_its_last_message(held: LocalGemini, end: str) -> None:
    body, code = ENDS[end]
    begun = time.monotonic()
    done = run(held.url, body)
    assert done.returncode == code, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(
        f"{name}: StreamStopped shutdown" for name in NAMES for _manager in range(2)
    ), done.stderr
    assert time.monotonic() - begun < 20


@needs_late_threads
def test_a_plain_actor_keeps_the_process_until_sigterm_gives_it_its_last_message(held: LocalGemini) -> None:
    done = run(
        held.url,
        """
        class Plain(OneByOne, pykka.ThreadingActor):
            def on_receive(self, message):
                super().on_receive(message)
                if isinstance(message, StreamStopped):
                    self.stop()
        manager.ask(StartStream("hold", subscriber=Plain.start("Plain")))
        assert ready.acquire(timeout=20)
        stop_on_signals(app)
        os.kill(os.getpid(), signal.SIGTERM)
        """,
    )
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "Plain: StreamStopped shutdown" in done.stdout.splitlines()


def test_a_stream_that_a_last_message_asks_for_is_refused(held: LocalGemini) -> None:
    done = run(
        held.url,
        """
        class Again(Batches):
            def on_stream_stopped(self, message):
                try:
                    manager.ask(StartStream("hold", subscriber=self.actor_ref))
                except ManagerDrainingError as refusal:
                    os.write(1, f"refused: {refusal}\\n".encode())
        manager.ask(StartStream("hold", subscriber=Again.start("Again")))
        assert ready.acquire(timeout=20)
        """,
    )
    assert done.returncode == 0, done.stderr
    assert "refused: no stream is started any more: the process is ending" in done.stdout.splitlines()


def test_a_subscriber_that_hangs_holds_no_other_one_up_and_the_process_ends(held: LocalGemini) -> None:
    begun = time.monotonic()
    done = run(
        held.url,
        """
        class Hangs(Daemon):
            def on_receive(self, message):
                ready.release()
                threading.Event().wait()
        short = ManagerActor.start(
            endpoint=Gemini(base_url=URL, api_key="local-key"), model="m", shutdown=0.5
        )
        short.ask(StartStream("hold", subscriber=Hangs.start("Hangs")))
        assert ready.acquire(timeout=20)
        """,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2 * len(NAMES)
    assert time.monotonic() - begun < 20


def test_stop_all_and_the_stop_of_a_tree_are_no_end_of_the_process(held: LocalGemini) -> None:
    done = run(
        held.url,
        """
        called = before_end(lambda: os.write(1, b"the end\\n"))
        alone.stop()
        os.write(1, b"one tree has ended\\n")
        manager.ask(StartStream("hold", subscriber=after[0]))
        pykka.ActorRegistry.stop_all()
        os.write(1, b"all have ended\\n")
        fresh = ManagerActor.start(endpoint=Gemini(base_url=URL, api_key="local-key"), model="m")
        fresh.ask(StartStream("hold", subscriber=Batches.start("fresh")))
        assert ready.acquire(timeout=20)
        """,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines.index("one tree has ended") < lines.index("all have ended") < lines.index("the end")
    assert lines[-1] in ("the end", "fresh: StreamStopped shutdown")
    assert "fresh: StreamStopped shutdown" in lines
