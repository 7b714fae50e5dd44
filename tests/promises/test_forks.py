"""A process that forks while its streams run, as `gunicorn --preload` and `multiprocessing` do."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from gemini_streams.testing import LocalGemini, Reply

PRELUDE = """
import faulthandler, os, signal, sys, threading, time
import pykka
from gemini_streams import *
from gemini_streams.streams import rate_limits as cooldowns
from pykka_supervisor import *

faulthandler.register(signal.SIGALRM, chain=True)  # what hangs is shown, and ends

class Says(SubscriberActor):
    def __init__(self):
        super().__init__()
        self.heard = threading.Event()
        self.ended = threading.Event()
    def on_stream_event(self, event):
        self.heard.set()
    def on_stream_stopped(self, message):
        os.write(1, f"{os.getpid() == PARENT} {message.reason}\\n".encode())
    def on_stream_complete(self, message):
        self.ended.set()

def start_manager():
    return ManagerActor.start(endpoint=Gemini(base_url=URL, api_key="local-key"), model="m")

def dead(call):
    try:
        result = call()
    except pykka.ActorDeadError as error:
        assert "start one in this process" in str(error), error
    else:
        raise AssertionError(f"{call} returned {result!r}")

def answered(manager):
    says = Says.start()
    proxy = says.proxy()
    ended = proxy.ended.get()
    manager.start_stream("brief", subscriber=says, timeout=20)
    assert ended.wait(20)
    says.stop()

class Plain(pykka.ThreadingActor):
    pass

def refused(manager, subscriber):
    try:
        manager.start_stream("brief", subscriber=subscriber, model="")
    except InvalidRequestError:
        return
    raise AssertionError

def fork():
    pid = os.fork()
    if not pid:
        signal.alarm(20)
    return pid

PARENT = os.getpid()
manager = start_manager()          # gunicorn --preload: at import, in the master
"""


def run(url: str, body: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"URL = {url!r}\n" + PRELUDE + textwrap.dedent(body)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture
def server(gemini: LocalGemini) -> LocalGemini:
    gemini.on("hold", Reply("one two", end="silent"))
    gemini.on("many", Reply(["x"] * 400))
    gemini.on("brief", Reply("one"))
    return gemini


def test_in_a_worker_the_masters_manager_refuses_and_a_new_one_works(server: LocalGemini) -> None:
    said = run(
        server.url,
        """
        says = Says.start()
        held = manager.start_stream("hold", subscriber=says)
        assert says.proxy().heard.get().wait(20)
        pid = fork()
        if not pid:
            assert not manager.is_alive()
            for call in (
                lambda: manager.ask(StartStream("brief", subscriber=says)),
                lambda: manager.tell(GetStats()),
                lambda: manager.start_stream("brief", subscriber=says),
                lambda: manager.stop_stream(held),
                lambda: manager.subscribe_stream(held, says),
                lambda: manager.unsubscribe_stream(held, says),
                lambda: manager.get_stream_info(held),
                lambda: manager.list_streams(),
                lambda: manager.get_stats(),
                lambda: manager.stop(),
                lambda: manager.stop(block=False),
                lambda: list(stream(manager, "brief")),
                lambda: kill(manager),
                lambda: monitor(manager, notify=print),
            ):
                dead(call)
            mine = start_manager()
            answered(mine)
            mine.start_stream("hold", subscriber=Says.start())
            sys.exit()             # as a worker of gunicorn ends
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert manager.list_streams() == [held]
        answered(manager)
        """,
    )
    assert said.splitlines() == ["False shutdown", "True shutdown"]


def test_an_iterator_that_was_begun_before_the_fork_goes_on_in_the_parent_only(server: LocalGemini) -> None:
    run(
        server.url,
        """
        events = stream(manager, "hold")
        assert next(events).sequence == 0 and next(events).sequence == 1
        three = answers(manager, ["brief"] * 3, at_once=1)
        next(three)
        pid = fork()
        if not pid:
            dead(lambda: next(events))
            dead(lambda: next(three))
            for pieces in (events.text_stream, stream(manager, "brief").text_stream):
                dead(lambda: next(pieces))
            events.close()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert len(list(three)) == 2
        events.cancel()
        assert list(events) == []
        manager.stop()
        """,
    )


def test_forks_that_fall_into_running_streams(server: LocalGemini) -> None:
    run(
        server.url,
        """
        sys.setswitchinterval(1e-5)
        plain = Plain.start()
        running = True
        def storm():
            while running:
                answered(manager)
                for _ in stream(manager, "many"): pass
                for _ in range(20): refused(manager, plain)
                cooldowns.join(SYSTEM_CLOCK, storm).refused("key", "stream", 0.001)
        threads = [threading.Thread(target=storm) for _ in range(3)]
        for thread in threads: thread.start()
        try:
            for _ in range(10):
                pid = fork()
                if not pid:
                    try:
                        dead(manager.get_stats)
                        assert not cooldowns.join(SYSTEM_CLOCK, storm).quotas
                        mine = start_manager()
                        answered(mine)
                        waiting = Plain.start()
                        refused(mine, waiting)
                        waiting.stop()
                        mine.stop()
                    except BaseException as error:
                        os.write(2, repr(error).encode())
                        os._exit(1)
                    os._exit(0)
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        finally:
            running = False
            for thread in threads: thread.join()
            plain.stop()
        manager.stop()
        """,
    )


def test_a_free_threaded_build_is_refused_at_the_import() -> None:
    for package in ("pykka_supervisor", "gemini_streams"):
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.abiflags = 't'; import {package}"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 1
        assert "does not run on free-threaded builds of CPython yet" in done.stderr
