"""A forked child: every ref of the parent's refuses at once, wherever the fork fell, and new trees work there."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

PRELUDE = """
import faulthandler, logging, os, random, signal, sys, threading, time
import pykka
from pykka_supervisor import *
from pykka_supervisor.testing import TestClock
logging.disable(logging.CRITICAL)
faulthandler.register(signal.SIGALRM, chain=True)  # what hangs is shown, and ends

class Echo(pykka.ThreadingActor):
    def on_receive(self, message):
        if message == "crash":
            raise RuntimeError
        return message

def dead(name, call):
    try:
        result = call()
    except pykka.ActorDeadError as error:
        if "start one in this process" not in str(error):
            raise SystemExit(f"{name}: {error}")
    else:
        raise SystemExit(f"{name} returned {result!r}")

def in_child(check):
    '''Fork; what `check` raises there, or a hang, fails the program.'''
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(10)
            check()
            code = 0
        except BaseException as error:
            os.write(2, f"in the child: {error!r}\\n".encode())
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def starts_anew():
    tree = Supervisor.start([ChildSpec(Echo, id="n", name="n")], name="root")
    assert whereis("n").ask("y", timeout=20) == "y"
    kill(whereis("n"))
    assert whereis("n").ask("z", timeout=20) == "z"
    fired = threading.Event()
    SYSTEM_CLOCK.call_later(0, fired.set)
    assert fired.wait(20)
    tree.stop(timeout=20)
    assert not pykka.ActorRegistry.get_all()
"""

STORM = """
sys.setswitchinterval(1e-6)
tree = DynamicSupervisor.start(max_restarts=10**9, name="root")
refs = [tree.start_child(ChildSpec(Echo)) for _ in range(10)]
sup = Supervisor.start([ChildSpec(Echo, id="a")])
monitors = [monitor(ref, notify=print) for ref in refs]
running = True
def storm():
    while running:
        ref = random.choice(refs)
        if KIND == "tell":
            ref.tell("x")
        elif KIND == "crash":
            ref.tell("crash" if random.random() < 0.1 else "x")
            if random.random() < 0.1:
                kill(ref)
        elif KIND == "monitor":
            demonitor(monitor(ref, notify=lambda down: None))
        elif KIND == "start":
            new = tree.start_child(ChildSpec(Echo, restart="temporary", name=str(random.random())))
            with_ref.append(new)
            new.stop(block=random.random() < 0.5)
            del with_ref[:-20]
        elif KIND == "timer":
            SYSTEM_CLOCK.call_later(random.random(), print).cancel()
with_ref = []
threads = [threading.Thread(target=storm) for _ in range(3)]
for thread in threads:
    thread.start()

def check():
    for ref in (*refs, *with_ref, sup):
        assert not ref.is_alive()
        dead("tell", lambda: ref.tell("x"))
        dead("ask", lambda: ref.ask("x"))
        dead("ask without waiting", lambda: ref.ask("x", block=False).get())
        dead("proxy", lambda: ref.proxy())
        dead("monitor", lambda: monitor(ref, notify=print))
        dead("kill", lambda: kill(ref))
        dead("stop", lambda: ref.stop())
        dead("stop without waiting", lambda: ref.stop(block=False))
        dead("join", lambda: ref.join())
        dead("snapshot", lambda: snapshot(ref))
    dead("which_children", sup.which_children)
    dead("start_child", lambda: tree.start_child(Echo))
    dead("terminate_child", lambda: tree.terminate_child(refs[0]))
    for told in monitors:
        assert demonitor(told) in (True, False)
    assert whereis("root") is None
    assert pykka.ActorRegistry.get_all() == [] and pykka.ActorRegistry.stop_all() == []
    starts_anew()

try:
    for _ in range(20):
        in_child(check)
finally:
    running = False
    for thread in threads:
        thread.join()
tree.stop()
sup.stop()
"""


def run(body: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(body)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["tell", "crash", "monitor", "start", "timer"])
def test_a_fork_that_fell_into_traffic(kind: str) -> None:
    run(f"KIND = {kind!r}\n" + STORM)


def test_a_plain_pykka_actor_of_the_parents() -> None:
    run(
        """
        plain = Echo.start()
        def check():
            assert not plain.is_alive()
            dead("monitor", lambda: monitor(plain, notify=print))
            try:
                plain.ask("x")
            except pykka.ActorDeadError:
                pass
            mine = Echo.start()
            assert mine.ask("x", timeout=20) == "x"
            noticed = threading.Event()
            monitor(mine, notify=lambda down: noticed.set())
            mine.stop()
            assert noticed.wait(20)
        told = threading.Event()
        monitor(plain, notify=lambda down: told.set())
        in_child(check)
        assert plain.ask("x") == "x"
        plain.stop()
        assert told.wait(20)
        """
    )


def test_a_handler_that_forks_handles_nothing_more_in_the_child() -> None:
    said = run(
        """
        class Forks(SupervisedActor):
            def on_receive(self, message):
                if message == "fork":
                    pid = os.fork()
                    if not pid:
                        signal.alarm(10)
                        dead("itself", lambda: self.actor_ref.tell("x"))
                        starts_anew()
                        return "answered in the child"
                    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                os.write(1, f"{message}\\n".encode())
            def on_stop(self):
                os.write(1, b"stopped\\n")
            def on_failure(self, *_):
                os.write(1, b"failed\\n")
        ref = Forks.start()
        answer = ref.ask("fork", block=False)
        ref.tell("behind")
        assert answer.get(timeout=20) == 0
        ref.stop()
        """
    )
    assert said.splitlines() == ["behind", "stopped"]


def test_what_the_parent_had_started_goes_on_in_the_parent() -> None:
    run(
        """
        tree = Supervisor.start([ChildSpec(Echo, id="n", name="n")], name="root")
        for _ in range(5):
            in_child(starts_anew)
        assert whereis("n").ask("x") == "x"
        tree.stop()
        """
    )


def test_a_child_of_a_child() -> None:
    run(
        """
        first = Echo.start()
        second = SupervisedActor.start()
        def grandchild(third):
            for ref in (second, third):
                dead("tell", lambda: ref.tell("x"))
            starts_anew()
        def child():
            third = SupervisedActor.start()
            in_child(lambda: grandchild(third))
            third.tell("x")
            third.stop(timeout=20)
        in_child(child)
        first.stop()
        second.stop()
        """
    )
