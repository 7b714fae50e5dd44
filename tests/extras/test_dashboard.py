"""The dashboard over HTTP: what it serves, to whom, and that it outlives its own crash."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from conftest import StartManager
from gemini_streams import FlowControl, InvalidRequestError, ManagerActor, RetryPolicy, StartStream
from gemini_streams.extras.dashboard import Dashboard, DashboardRef, server
from gemini_streams.extras.dashboard.journal import Journal
from gemini_streams.testing import Failure, LocalGemini, Reply
from kit.browser import Tab
from kit.helpers import eventually, last_of
from pykka_supervisor import Supervisor, kill, whereis
from pykka_supervisor.testing import Probe

AT_ONCE = RetryPolicy(attempts=2, initial_delay=0, jitter=0)
PAGE = Path(server.__file__).parent / "page"
StartDashboard = Callable[..., DashboardRef]


@pytest.fixture
def dashboard() -> Iterator[StartDashboard]:
    started: list[DashboardRef] = []

    def start(*args: Any, **options: Any) -> DashboardRef:
        started.append(Dashboard.start(*args, **options))
        return started[-1]

    yield start
    for ref in started:
        if ref.is_alive():
            ref.stop(timeout=20)


class Got:
    """An answer."""

    def __init__(self, ref: DashboardRef, path: str, method: str = "GET", **headers: str) -> None:
        connection = http.client.HTTPConnection(urlsplit(ref.url).netloc, timeout=20)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            self.status = answer.status
            self.headers = answer.headers
            self.body = answer.read()
        finally:
            connection.close()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def tab(ref: DashboardRef) -> Tab:
    return Tab(ref.url.rstrip("/"), "/events")


def frames(viewer: Tab) -> Iterator[Any]:
    """The looks, as a page gets them; the standard library's words alone would need an `event:`."""
    for line in viewer.response:
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


def test_the_page_is_its_own_and_has_nothing_inline(manager: StartManager, dashboard: StartDashboard) -> None:
    ref = dashboard(manager())
    kinds = {
        "/": "text/html",
        "/page.js": "text/javascript",
        "/style.css": "text/css",
        "/icon.svg": "image/svg",
    }
    for path, kind in kinds.items():
        got = Got(ref, path)
        assert got.status == 200
        assert got.headers["Content-Type"].startswith(kind)
        policy = got.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "script-src 'self'" in policy
        assert got.headers["X-Content-Type-Options"] == "nosniff"
        assert got.headers["Cache-Control"] == "no-store"
    html = (PAGE / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", html) == []
    for file in PAGE.iterdir():
        assert set(re.findall(r"https?://[^\"' ]+", file.read_text())) <= {"http://www.w3.org/2000/svg"}
    script = (PAGE / "page.js").read_text()
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", script) == []


def test_head_has_no_body_and_nothing_can_be_changed(
    manager: StartManager, dashboard: StartDashboard
) -> None:
    ref = dashboard(manager())
    got = Got(ref, "/streams.json", "HEAD")
    assert (got.status, got.body) == (200, b"")
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        got = Got(ref, "/streams.json", method)
        assert got.status == 405
        assert got.headers["Allow"] == "GET, HEAD"
    for path in ("/nothing", "/../page.js", "/page/../../actor.py", "/stream.json", "/stream.json?run=none"):
        assert Got(ref, path).status == 404


def test_a_foreign_host_is_refused(manager: StartManager, dashboard: StartDashboard) -> None:
    ref = dashboard(manager(), allowed_hosts=["Board.test"])
    port = urlsplit(ref.url).port
    for host in ("localhost", "127.0.0.1", f"localhost:{port}", "[::1]:80", "board.test", "BOARD.test:8080"):
        assert Got(ref, "/streams.json", Host=host).status == 200, host
    for host in (
        "evil.test",
        "localhost.evil.test",
        "127.0.0.1.evil.test:80",
        "",
        "[::1",
        "board.test.",
        "a b",
    ):
        for path in ("/", "/streams.json", "/events", "/metrics"):
            got = Got(ref, path, Host=host)
            assert got.status == 403, host
            assert b"evil" not in got.body
    with socket.create_connection(("127.0.0.1", port or 0), timeout=20) as plain:
        plain.sendall(b"GET /streams.json HTTP/1.0\r\n\r\n")
        assert b" 403 " in plain.recv(100)
    with socket.create_connection(("127.0.0.1", port or 0), timeout=20) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.test\r\n\r\n")
        assert b" 403 " in plain.recv(100)


def test_a_page_of_another_site_can_load_nothing_of_it(
    manager: StartManager, dashboard: StartDashboard
) -> None:
    ref = dashboard(manager())

    def status(path: str, site: str, mode: str) -> int:
        return Got(ref, path, **{"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}).status

    for site in ("cross-site", "same-site"):
        assert status("/events", site, "cors") == 403
        assert status("/page.js", site, "no-cors") == 403
        assert status("/", site, "navigate") == 200  # a link to it
    assert status("/streams.json", "same-origin", "cors") == 200
    assert status("/", "none", "navigate") == 200


def test_the_streams_and_one_streams_time_line(
    gemini: LocalGemini, manager: StartManager, dashboard: StartDashboard, probe: Probe
) -> None:
    gemini.on("a secret prompt", Failure(503, message="a secret of the service"), Reply("a secret answer"))
    ref = manager(retry=AT_ONCE, model="gemini-test")
    board = dashboard(ref)
    ref.start_stream("a secret prompt", subscriber=probe.ref, stream_id="one", tag="<b>mine</b>")
    last_of(probe)
    ref.start_stream("hello", subscriber=probe.ref, stream_id="two", tag={"secret": "of an object"})
    last_of(probe, "two")
    one, two = Got(board, "/streams.json").json["streams"]
    assert (one["stream_id"], one["status"], one["attempt"]) == ("one", "completed", 2)
    assert (one["tag"], one["model"], one["error"]) == (
        "<b>mine</b>",
        "gemini-test",
        "APIError: 503 UNAVAILABLE",
    )
    assert two["tag"] == "<a dict>"
    found = eventually(
        lambda: (
            (got := Got(board, f"/stream.json?run={one['run']}").json)["steps"][-1]["kind"] == "completed"
            and got
        )
    )
    kinds = [step["kind"] for step in found["steps"]]
    assert kinds == ["started", "attempt", "restart", "attempt", "first event", "completed"]
    assert found["stream"]["stream_id"] == "one"
    times = [step["at"] for step in found["steps"]]
    assert times == sorted(times)
    ref.start_stream("hello", subscriber=probe.ref, stream_id="three")
    for path in ("/streams.json", "/tree.json", f"/stream.json?run={one['run']}", "/metrics"):
        body = Got(board, path).body
        assert b"secret" not in body, path


def test_the_tree_has_each_actor_and_why_it_was_restarted_without_the_exceptions_text(
    gemini: LocalGemini, manager: StartManager, dashboard: StartDashboard, probe: Probe
) -> None:
    gemini.on("held", Reply("one two", hold_after=1))
    ref = manager()
    board = dashboard(ref)
    ref.start_stream("held", subscriber=probe.ref, stream_id="held one")
    kill(ref)
    [tree] = eventually(
        lambda: (
            (trees := Got(board, "/tree.json").json["trees"])
            and any(child["restarts"] for child in trees[0]["children"])
            and trees
        )
    )
    children = {child["id"]: child for child in tree["children"]}
    assert children["manager"]["restarts"] == 1
    assert children["manager"]["last_reason"] == "Killed"
    assert [child["id"] for child in children["streams"]["children"]] == ["held one"]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Killed", "Killed"),
        ("Crash: ValueError: a prompt", "Crash: ValueError"),
        ("Crash: gemini_streams.errors.APIError: 503 a prompt", "Crash: gemini_streams.errors.APIError"),
        ("Crash: a prompt", "Crash"),
        ("Shutdown: reached_max_restart_intensity", "Shutdown: reached_max_restart_intensity"),
        ("Shutdown: a prompt", "Shutdown"),
        ("", "unknown"),
        (None, None),
    ],
)
def test_a_reason_is_shown_without_an_exceptions_text(said: str | None, shown: str | None) -> None:
    from gemini_streams.extras.dashboard.view import _reason  # noqa: PLC0415

    assert _reason(said) == shown


def test_a_viewer_gets_all_of_it_first_and_then_what_has_changed(
    gemini: LocalGemini, manager: StartManager, dashboard: StartDashboard, probe: Probe
) -> None:
    gemini.on("held", Reply("one two three", hold_after=1))
    ref = manager(linger=0)
    board = dashboard(ref)
    for name in ("one", "two"):
        ref.start_stream("held" if name == "one" else "hello", subscriber=probe.ref, stream_id=name)
    last_of(probe, "two")
    eventually(lambda: ref.get_stream_info("one").events_count == 1)
    viewer = tab(board)
    try:
        looks = frames(viewer)
        first = next(looks)
        assert first["whole"]
        [row] = first["rows"]
        assert row[1] == "one"
        assert first["counts"]["started"] == 2
        assert first["figures"]["running"] == 1
        assert len(first["minutes"]) == 60
        second = next(look for look in looks if not look["rows"])  # once its rate has come to rest
        assert not second["whole"]
        gemini.gate("held").open()
        third = next(look for look in looks if look["gone"])
        assert third["gone"] == [row[0]]
    finally:
        viewer.close()
    eventually(lambda: b"data: " in _read_some(board))


def _read_some(board: DashboardRef) -> bytes:
    viewer = tab(board)
    try:
        return viewer.response.read(200)
    finally:
        viewer.close()


def test_the_ninth_viewer_is_refused_until_one_leaves(
    manager: StartManager, dashboard: StartDashboard
) -> None:
    board = dashboard(manager())
    viewers = [tab(board) for _ in range(8)]
    try:
        for viewer in viewers:
            assert viewer.response.status == 200
            assert next(frames(viewer))["whole"]
        got = Got(board, "/events")
        assert got.status == 503
        assert got.headers["Retry-After"]
        assert Got(board, "/streams.json").status == 200
        viewers.pop().close()
        viewers.append(eventually(lambda: _admitted(board)))
        assert next(frames(viewers[-1]))["whole"]
    finally:
        for viewer in viewers:
            viewer.close()


def _admitted(board: DashboardRef) -> Tab | None:
    viewer = tab(board)
    if viewer.response.status == 200:
        return viewer
    viewer.close()
    return None


def test_a_client_that_does_not_send_or_read_is_closed(
    gemini: LocalGemini,
    manager: StartManager,
    dashboard: StartDashboard,
    probe: Probe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert server.SLOW < 18  # and a look each second
    monkeypatch.setattr(server, "SLOW", 0.5)
    gemini.on("held", Reply("one two", hold_after=1))
    ref = manager(max_streams=1, max_waiting=2_000)
    board = dashboard(ref)
    for number in range(1_500):
        ref.start_stream("held", subscriber=probe.ref, stream_id=f"{number:0200}")
    address = ("127.0.0.1", urlsplit(board.url).port or 0)
    with socket.create_connection(address, timeout=20) as silent:
        silent.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")  # and no end of the head
        assert silent.recv(100) == b""
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(20)
        deaf.connect(address)
        deaf.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        eventually(lambda: clients() == 1)
        eventually(lambda: clients() == 0)  # its thread has ended although it has read nothing
    assert Got(board, "/tree.json").status == 200


def test_a_client_that_sends_a_byte_now_and_then_is_closed(
    manager: StartManager, dashboard: StartDashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = dashboard(manager())
    address = ("127.0.0.1", urlsplit(board.url).port or 0)
    with socket.create_connection(address, timeout=20) as dripping:
        eventually(lambda: clients() == 1)
        monkeypatch.setattr(server, "SLOW", 0.5)  # its socket waits for each byte for longer than that

        def closed() -> bool:
            try:
                dripping.sendall(b"x")
            except OSError:
                return True
            return clients() == 0

        eventually(closed)


def clients() -> int:
    return sum(thread.name == "gemini-streams-dashboard-client" for thread in threading.enumerate())


def test_it_outlives_its_own_crash_at_the_same_address(
    gemini: LocalGemini, manager: StartManager, dashboard: StartDashboard, probe: Probe
) -> None:
    ref = manager(linger=0)
    board = dashboard(ref)
    url = board.url
    ref.start_stream("hello", subscriber=probe.ref, stream_id="before")
    last_of(probe)
    viewer = tab(board)
    looks = frames(viewer)
    next(look for look in looks if look["counts"]["completed"] and not look["whole"])
    kill(board)
    assert len(list(looks)) < 10  # the connection has an end
    viewer.close()
    assert eventually(lambda: _answers(board))
    assert board.url == url
    ref.start_stream("hello", subscriber=probe.ref, stream_id="behind")
    viewer = tab(board)
    again = next(frames(viewer))
    viewer.close()
    assert again["whole"]
    assert len(again["histories"]["running"]) >= 2
    families = text_string_to_metric_families(Got(board, "/metrics").body.decode())
    started = [
        sample.value for f in families for sample in f.samples if sample.name.endswith("started_total")
    ]
    assert started == [2.0]


def _answers(board: DashboardRef) -> bool:
    try:
        return Got(board, "/streams.json").status == 200
    except OSError:
        return False


def test_it_is_a_child_of_an_applications_tree_and_finds_its_manager_by_name(
    gemini: LocalGemini, probe: Probe
) -> None:
    tree = Supervisor.start(
        [
            ManagerActor.child_spec(name="gemini", endpoint=gemini.endpoint),
            Dashboard.child_spec(["gemini", "later"], name="board"),
        ]
    )
    try:
        board, first = whereis("board"), whereis("gemini")
        assert isinstance(board, DashboardRef)
        assert first is not None
        last_of(probe, first.ask(StartStream("hello", subscriber=probe.ref)))
        assert len(Got(board, "/streams.json").json["streams"]) == 1
        kill(first)
        eventually(lambda: (now := whereis("gemini")) is not None and now.is_alive())
        assert len(Got(board, "/streams.json").json["managers"]) == 1
        later = Supervisor.start([ManagerActor.child_spec(name="later", endpoint=gemini.endpoint)])
        assert len(Got(board, "/streams.json").json["managers"]) == 2
        second = whereis("later")
        assert second is not None
        last_of(probe, second.ask(StartStream("hello", subscriber=probe.ref)))
        viewer = tab(board)
        assert [row[-1] for row in next(frames(viewer))["rows"]] == ["gemini", "later"]
        viewer.close()
        later.stop()
        assert len(Got(board, "/streams.json").json["managers"]) == 1
    finally:
        tree.stop()


def test_a_manager_that_has_ended_leaves_an_empty_page(
    manager: StartManager, dashboard: StartDashboard
) -> None:
    ref = manager()
    board = dashboard(ref)
    ref.stop(timeout=20)
    assert Got(board, "/streams.json").json["streams"] == []
    assert Got(board, "/tree.json").json["trees"] == []
    viewer = tab(board)
    assert next(frames(viewer))["counts"]["managers"] == 0
    viewer.close()


def test_a_stopped_dashboard_is_told_nothing_more(
    gemini: LocalGemini, manager: StartManager, dashboard: StartDashboard, probe: Probe
) -> None:
    ref = manager()
    board = dashboard(ref)
    home = board._home
    board.stop(timeout=20)
    ref.start_stream("hello", subscriber=probe.ref)
    last_of(probe)
    assert ref.get_stats().completed == 1
    assert home.view.journal.line(probe.messages[0].run) is None
    with pytest.raises(OSError, match="refused"):
        Got(board, "/")


def test_stopping_it_sends_its_viewers_away(manager: StartManager, dashboard: StartDashboard) -> None:
    board = dashboard(manager())
    viewers = [tab(board) for _ in range(3)]
    looks = [frames(viewer) for viewer in viewers]
    for each in looks:
        assert next(each)["whole"]
    board.stop(timeout=20)
    assert clients() == 0
    for viewer, each in zip(viewers, looks, strict=True):
        assert len(list(each)) < 5
        viewer.close()


WITHOUT_PROMETHEUS = """
import sys, urllib.error, urllib.request
sys.modules["prometheus_client"] = None
from gemini_streams import ManagerActor
from gemini_streams.extras.dashboard import Dashboard
from gemini_streams.testing import LocalGemini

with LocalGemini() as gemini:
    board = Dashboard.start(ManagerActor.start(endpoint=gemini.endpoint))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for path in ("streams.json", "metrics"):
        try:
            with opener.open(board.url + path, timeout=20) as answer:
                print(path, answer.status)
        except urllib.error.HTTPError as error:
            with error:
                print(path, error.code)
    import pykka
    pykka.ActorRegistry.stop_all()
"""


def test_without_prometheus_client_there_is_no_scrape_and_all_else_works() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_PROMETHEUS],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split("\n")[:2] == ["streams.json 200", "metrics 404"], done.stderr


def test_a_pause_and_what_waits_are_shown(
    gemini: LocalGemini, manager: StartManager, dashboard: StartDashboard
) -> None:
    import pykka  # noqa: PLC0415

    gate = threading.Event()

    class Slow(pykka.ThreadingActor):
        def on_receive(self, message: Any) -> None:
            gate.wait(30)

    gemini.on("long", Reply("one two three four five"))
    ref = manager(flow=FlowControl(window=2))
    board = dashboard(ref)
    slow = Slow.start()
    try:
        ref.start_stream("long", subscriber=slow)
        [row] = eventually(
            lambda: (rows := Got(board, "/streams.json").json["streams"]) and rows[0]["paused"] and rows
        )
        assert 1 <= row["waiting"] <= 2
        assert row["waiting_bytes"] > 0
    finally:
        gate.set()
        slow.stop()


def test_a_subscriber_that_keeps_up_has_nothing_waiting_though_it_acknowledges_late(
    gemini: LocalGemini, manager: StartManager, dashboard: StartDashboard, probe: Probe
) -> None:
    gemini.on("long", Reply("one two three four five", hold_after=4))
    ref = manager()
    board = dashboard(ref)
    ref.start_stream("long", subscriber=probe.ref)
    probe.wait(4)
    [row] = eventually(
        lambda: (rows := Got(board, "/streams.json").json["streams"]) and not rows[0]["waiting"] and rows
    )
    assert row["events"] == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": ""},
        {"host": 7},
        {"port": -1},
        {"port": 70_000},
        {"port": "80"},
        {"port": True},
        {"allowed_hosts": "board.test"},
        {"allowed_hosts": [""]},
    ],
    ids=str,
)
def test_options_that_cannot_be_right_are_refused(manager: StartManager, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        Dashboard.start(manager(), **wrong)


def test_an_address_that_is_taken_is_refused(manager: StartManager, dashboard: StartDashboard) -> None:
    ref = manager()
    port = urlsplit(dashboard(ref).url).port
    with pytest.raises(OSError, match="in use"):
        Dashboard.start(ref, port=port or 0)


def test_a_time_line_keeps_its_beginning_and_its_end() -> None:
    class Record:
        hook = "on_paused"
        run = "r"
        at = 0.0
        subscribers = 1

    journal = Journal()
    for number in range(1_000):
        record = Record()
        record.at = float(number)
        journal.put(record)
    steps = journal.line("r") or []
    assert len(steps) <= 60
    assert steps[0][0] == 0.0
    assert steps[-1][0] == 999.0
    assert [kind for _, kind, _ in steps].count("left out") == 1
    times = [at for at, _, _ in steps]
    assert times == sorted(times)
