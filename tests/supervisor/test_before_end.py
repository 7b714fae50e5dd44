"""`before_end`: what runs before the end of the process stops the first actor."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from typing import Any

import pykka
import pytest

from pykka_supervisor import InvalidSpecError, Supervisor, before_end
from supervisor.kit import Worker, eventually

THREAD = "pykka-supervisor-before-end"

PRELUDE = """
import os, signal, sys, threading, time
import pykka
from pykka_supervisor import *

def say(text):
    os.write(1, text.encode() + b"\\n")

class Says(SupervisedActor):
    def on_receive(self, message):
        say(f"handled {message}")
    def on_stop(self):
        say("stopped")
ref = Says.start()
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(body)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def waiting() -> int:
    return sum(thread.name == THREAD for thread in threading.enumerate())


@pytest.mark.parametrize(
    "end",
    [
        "",
        "sys.exit()",
        "raise ValueError",
        "os.kill(os.getpid(), signal.SIGINT); time.sleep(9)",
        "stop_on_signals(ref); os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)",
        "stop_on_signals(ref, [signal.SIGUSR1]); os.kill(os.getpid(), signal.SIGUSR1); time.sleep(9)",
    ],
)
def test_it_runs_once_before_the_first_stop(end: str) -> None:
    done = run(f"before_end(lambda: ref.tell('the last message'))\n{end}")
    assert done.stdout.splitlines() == ["handled the last message", "stopped"], done.stderr


def test_one_that_raises_or_hangs_keeps_neither_the_others_nor_the_trees_from_their_end() -> None:
    begun = time.monotonic()
    done = run(
        """
        def raises():
            raise SystemExit(7)
        before_end(lambda: threading.Event().wait(), timeout=0.3)
        before_end(raises)
        before_end(lambda: threading.Event().wait(), timeout=0.3)
        before_end(lambda: say("ran"))
        """
    )
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["ran", "stopped"]
    assert done.stderr.count("before_end_late") == 2
    assert done.stderr.count("before_end_failed") == 1
    assert time.monotonic() - begun < 10


def test_they_run_at_the_same_time() -> None:
    done = run(
        """
        both = threading.Barrier(2)
        for _ in range(2):
            before_end(lambda: say(f"met {both.wait(20) >= 0}"))
        """
    )
    assert done.stdout.splitlines() == ["met True", "met True", "stopped"], done.stderr


def test_what_is_cancelled_does_not_run() -> None:
    done = run(
        """
        registered = before_end(lambda: say("never"))
        assert registered.cancel() and not registered.cancel()
        later = before_end(lambda: say(f"itself: {later.cancel()}"))
        """
    )
    assert done.stdout.splitlines() == ["itself: False", "stopped"], done.stderr


def test_a_cancelled_one_leaves_nothing() -> None:
    class Callback:
        def __call__(self) -> None: ...

    callback = Callback()
    gone = weakref.ref(callback)
    registered = before_end(callback)
    assert waiting() == 1
    del callback
    registered.cancel()
    eventually(lambda: not waiting())
    del registered
    gc.collect()
    assert gone() is None


def test_stop_all_and_the_stop_of_a_tree_run_nothing() -> None:
    ran: list[int] = []
    registered = before_end(lambda: ran.append(1))
    Supervisor.start([Worker]).stop()
    Supervisor.start([Worker])
    pykka.ActorRegistry.stop_all()
    assert registered.cancel()
    assert ran == []


def test_in_a_forked_child_nothing_of_the_parents_runs() -> None:
    done = run(
        """
        registered = before_end(lambda: say("in the parent"))
        pid = os.fork()
        if pid == 0:
            registered.cancel()
            before_end(lambda: say("in the child"))
            sys.exit()
        os.waitpid(pid, 0)
        say("the child has ended")
        """
    )
    assert done.stdout.splitlines() == ["in the child", "the child has ended", "in the parent", "stopped"]


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, 1e9, True, "5", None])
def test_a_timeout_that_cannot_be_right_is_refused(timeout: Any) -> None:
    with pytest.raises(InvalidSpecError, match="timeout must be a number of seconds"):
        before_end(print, timeout=timeout)


def test_what_is_no_function_is_refused() -> None:
    callback: Any = "print"
    with pytest.raises(InvalidSpecError, match="takes a function"):
        before_end(callback)
    assert waiting() == 0
