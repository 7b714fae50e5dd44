"""The life of a process: its end, signals, and fork, each in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from pykka_supervisor import SYSTEM_CLOCK, ChildSpec, Supervisor, monitor, stop_on_signals, whereis
from pykka_supervisor.testing import Probe
from supervisor.kit import Log, PlainWorker, Worker

PRELUDE = """
import os, signal, socket, sys, threading, time
import pykka
from pykka_supervisor import *

class Says(SupervisedActor):
    def __init__(self, name):
        super().__init__()
        self.name = name
    def on_receive(self, message):
        return message
    def on_stop(self):
        os.write(1, f"{self.name} stopped\\n".encode())

class Stuck(SupervisedActor):
    def on_receive(self, message):
        left, right = socket.socketpair()
        left.recv(1)

def tree():
    ref = Supervisor.start([
        ChildSpec(Says, ("a",), id="a"),
        ChildSpec(Stuck, id="stuck", shutdown=0.5),
        Supervisor.child_spec([ChildSpec(Says, ("b",), id="b")], id="inner"),
    ], name="root")
    ref.which_children()[1].ref.tell("hang")
    return ref
alone = Says.start("alone")
ref = tree()
os.write(2, f"tree up at {time.monotonic()}\\n".encode())
"""

ENDS = {
    "sys.exit": ("sys.exit(3)", 3),
    "end of main": ("", 0),
    "an uncaught error": ("raise ValueError('in main')", 1),
    "Ctrl-C": ("os.kill(os.getpid(), signal.SIGINT); time.sleep(10)", None),
    "SIGTERM": (
        "stop_on_signals(ref)\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(10)",
        128 + signal.SIGTERM,
    ),
    "SIGTERM while it waits": (
        """
        stop_on_signals(ref, [signal.SIGTERM])
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        ref.join()
        """,
        128 + signal.SIGTERM,
    ),
    "Ctrl-C during a start": (
        """
        class Slow(SupervisedActor):
            def on_start(self):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.3)
        Supervisor.start([ChildSpec(Says, ('c',), id='c'), Slow])
        """,
        None,
    ),
}


def run(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(body)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("end", list(ENDS))
def test_the_process_ends_in_order(end: str) -> None:
    body, code = ENDS[end]
    done = run(body)
    up = re.search(r"tree up at ([\d.]+)", done.stderr)
    assert up is not None
    taken = time.monotonic() - float(up[1])  # that clock is the machine's
    assert taken < 8, "0.5 s of shutdown, and 1 s on an idle machine"
    assert done.stdout.splitlines()[-3:] == ["b stopped", "a stopped", "alone stopped"], done
    if end == "Ctrl-C during a start":
        assert done.stdout.splitlines()[0] == "c stopped"
    if code is None:
        assert done.returncode == -signal.SIGINT
        assert "KeyboardInterrupt" in done.stderr
    else:
        assert done.returncode == code, done.stderr
    assert "shutdown_error" in done.stderr


def test_in_a_forked_child_every_ref_is_dead_at_once() -> None:
    done = run(
        """
        class Plain(pykka.ThreadingActor):
            def on_receive(self, message):
                return message
        plain = Plain.start()
        SYSTEM_CLOCK.call_later(60, print)
        busy = threading.Event()
        def churn():
            while not busy.is_set():
                alone.ask("x")
        thread = threading.Thread(target=churn); thread.start()
        results = []
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                code = 0
                for dead in (ref, alone, plain):
                    if dead.is_alive():
                        code = 10
                    for ask in (lambda: dead.tell("x"), lambda: dead.ask("x", timeout=1)):
                        try:
                            ask()
                            code = 11
                        except pykka.ActorDeadError:
                            pass
                if whereis("root") is not None or pykka.ActorRegistry.get_all():
                    code = 12
                new = Supervisor.start([ChildSpec(Says, ("in the child",))], name="root")
                if new.which_children()[0].ref.ask("there") != "there":
                    code = 13
                new.stop()
                fired = threading.Event()
                SYSTEM_CLOCK.call_later(0.01, fired.set)
                if not fired.wait(20):
                    code = 14
                os._exit(code)
            results.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        busy.set(); thread.join()
        assert alone.ask("still") == "still" and plain.ask("here") == "here"
        plain.stop()
        assert results == [0] * 20, results
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("in the child stopped") == 20


def test_handlers_are_restored() -> None:
    sup = Supervisor.start([])
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals(sup) as handling:
        assert signal.getsignal(signal.SIGTERM) != before
        with pytest.raises(SystemExit) as exited:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        assert exited.value.code == 128 + signal.SIGTERM
    handling.restore()
    assert signal.getsignal(signal.SIGTERM) == before
    assert sup.join(20)


def test_without_a_signal_nothing_is_stopped() -> None:
    sup = Supervisor.start([Worker])
    with stop_on_signals(sup):
        pass
    assert sup.is_alive()
    sup.stop()


def test_a_new_tree_works_after_stop_all() -> None:
    import pykka  # noqa: PLC0415

    for _ in range(3):
        log = Log()
        sup = Supervisor.start([ChildSpec(Worker, ("a", log))], name="again")
        pykka.ActorRegistry.stop_all()
        assert not sup.is_alive()
        assert whereis("again") is None
        assert log.of("stop") == ["a"]


def test_stop_all_from_within_the_tree_does_not_wait_for_itself() -> None:
    import pykka  # noqa: PLC0415

    plain = PlainWorker.start()
    sup = Supervisor.start([Worker, ChildSpec(Worker, id="caller")])
    caller = sup.which_children()[1].ref
    assert caller is not None
    with Probe() as probe:
        monitor(sup, notify=probe.ref)
        caller.tell(lambda _: pykka.ActorRegistry.stop_all())
        assert sup.join(20)
        assert plain.actor_stopped.wait(20)
    assert SYSTEM_CLOCK.pending() <= 1
