"""Access tokens: asked for at each send, renewed once for all that wait, and never where that holds others up."""

from __future__ import annotations

import datetime as dt
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google.auth._helpers
import google.oauth2.credentials
import google.oauth2.service_account
import pytest

from conftest import StartManager
from gemini_streams import (
    APIError,
    MissingCredentialsError,
    RetryPolicy,
    StartInteraction,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
    VertexAI,
)
from gemini_streams.testing import Failure, LocalGemini, Reply
from kit.helpers import LAST, ONCE, error_of, eventually, last_of
from kit.scene import table_of
from kit.tokens import TokenServer, token_server
from pykka_supervisor.testing import Probe

SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    with token_server() as server:
        yield server


@pytest.fixture
def account(tokens: TokenServer, tmp_path: Path) -> Any:
    """A service account of google-auth's."""
    kind: Any = google.oauth2.service_account.Credentials
    return kind.from_service_account_file(tokens.account(tmp_path), scopes=SCOPES)


@pytest.fixture
def vertex(gemini: LocalGemini, account: Any) -> VertexAI:
    return VertexAI(location="us-central1", credentials=account, base_url=gemini.url)


def ends_of(probe: Probe, ids: list[str]) -> dict[str, Any]:
    """The last messages of these streams, in whichever order they come."""
    lasts = {last.stream_id: last for last in (probe.expect(LAST) for _ in ids)}
    assert lasts.keys() == set(ids)
    return lasts


def waiting_for(endpoint: VertexAI) -> int:
    """How many threads wait for a token."""
    fetch: Any = endpoint.resolve().credentials.fetching()
    return 0 if fetch is None else len(fetch._wakes)


def test_a_service_account_from_a_file(
    gemini: LocalGemini,
    manager: StartManager,
    probe: Probe,
    tokens: TokenServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", tokens.account(tmp_path, "their-project"))
    monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "who-pays")
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    ref = manager(endpoint=VertexAI(base_url=gemini.url))
    for _ in range(3):
        ref.start_stream("why", subscriber=probe.ref)
        assert last_of(probe).ok
        probe.messages.clear()
    assert [form["grant_type"] for form in tokens.asked] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    assert {(r.project, r.location, r.token_number) for r in gemini.requests} == {
        ("their-project", "global", 0)
    }
    assert {r.headers["x-goog-user-project"] for r in gemini.requests} == {"who-pays"}


def test_an_interaction_at_vertex_ai(
    gemini: LocalGemini, manager: StartManager, probe: Probe, vertex: VertexAI
) -> None:
    manager(endpoint=vertex).ask(StartInteraction("why", subscriber=probe.ref))
    assert last_of(probe).ok
    assert {(r.project, r.location) for r in gemini.requests} == {("a-project", "us-central1")}


def test_many_that_wait_make_one_request_for_a_token(
    gemini: LocalGemini, manager: StartManager, probe: Probe, tokens: TokenServer, vertex: VertexAI
) -> None:
    tokens.open.clear()
    ref = manager(endpoint=vertex, max_streams=200)
    ids = [ref.start_stream("why", subscriber=probe.ref) for _ in range(100)]
    eventually(lambda: waiting_for(vertex) == 100, what=lambda: f"{waiting_for(vertex)} wait")
    assert gemini.requests == []
    eventually(
        lambda: not table_of(ref).launches._under_way
    )  # so other tenants' streams are launched meanwhile
    tokens.open.set()
    assert all(last.ok for last in ends_of(probe, ids).values())
    assert len(tokens.asked) == 1
    assert len(gemini.requests) == 100


def test_a_fetch_holds_up_no_other_stream_and_not_the_manager(
    gemini: LocalGemini, manager: StartManager, probe: Probe, tokens: TokenServer, vertex: VertexAI
) -> None:
    tokens.open.clear()
    ref = manager(max_streams=200)
    held = [ref.start_stream("why", subscriber=probe.ref, endpoint=vertex) for _ in range(60)]
    eventually(lambda: waiting_for(vertex) == 60)
    other = ref.start_stream("why", subscriber=probe.ref)
    assert last_of(probe, other).ok
    assert ref.stop_stream(held[0])
    assert isinstance(last_of(probe, held[0]), StreamStopped)
    assert not ref.stop_stream(held[0])
    eventually(lambda: sum(t.name.startswith("StreamActor") for t in threading.enumerate()) == 59, 4.0)
    tokens.open.set()
    assert all(last.ok for last in ends_of(probe, held[1:]).values())


def test_a_token_that_the_server_takes_no_more_is_renewed_once_in_the_same_attempt(
    gemini: LocalGemini, manager: StartManager, probe: Probe, tokens: TokenServer, vertex: VertexAI
) -> None:
    tokens.tokens = ["the-first-token", "the-second-token"]
    gemini.tokens = ("the-second-token",)
    ref = manager(endpoint=vertex, retry=ONCE)
    ref.start_stream("why", subscriber=probe.ref)
    last = last_of(probe)
    assert isinstance(last, StreamComplete)
    assert last.attempts == 1
    assert [record.status for record in gemini.requests] == [401, 200]
    assert len(tokens.asked) == 2


def test_a_second_401_is_the_streams_error(
    gemini: LocalGemini, manager: StartManager, probe: Probe, tokens: TokenServer, vertex: VertexAI
) -> None:
    tokens.tokens = ["the-first-token", "the-second-token"]
    gemini.tokens = ("another",)
    manager(endpoint=vertex).start_stream("why", subscriber=probe.ref)
    error = error_of(probe)
    assert isinstance(error, APIError)
    assert (error.code, error.status) == (401, "UNAUTHENTICATED")
    assert [record.status for record in gemini.requests] == [401, 401]
    assert len(tokens.asked) == 2


def test_many_refused_at_once_renew_once(
    gemini: LocalGemini, manager: StartManager, probe: Probe, tokens: TokenServer, vertex: VertexAI
) -> None:
    tokens.tokens = ["the-first-token", "the-second-token"]
    gemini.tokens = ("the-first-token",)
    ref = manager(endpoint=vertex, retry=ONCE)
    ref.start_stream("why", subscriber=probe.ref)
    assert last_of(probe).ok
    probe.messages.clear()
    gemini.tokens = ("the-second-token",)
    ids = [ref.start_stream("why", subscriber=probe.ref) for _ in range(30)]
    assert all(last.ok for last in ends_of(probe, ids).values())
    assert len(tokens.asked) == 2


def test_a_token_that_has_run_out_is_not_sent(
    gemini: LocalGemini, manager: StartManager, probe: Probe, tokens: TokenServer, vertex: VertexAI
) -> None:
    tokens.tokens = ["the-first-token", "the-second-token"]
    tokens.lasts = 0
    gemini.tokens = ("the-first-token", "the-second-token")
    ref = manager(endpoint=vertex)
    ref.start_stream("why", subscriber=probe.ref)
    told = probe.expect(StreamRestarting)
    assert "has run out already" in str(told.error)
    tokens.lasts = 3600
    assert last_of(probe).ok
    assert {record.token_number for record in gemini.requests} == {1}


def test_a_token_server_whose_tokens_have_run_out_is_asked_once_an_attempt(
    gemini: LocalGemini, manager: StartManager, probe: Probe, tokens: TokenServer, vertex: VertexAI
) -> None:
    tokens.lasts = 0
    manager(endpoint=vertex, retry=RetryPolicy(attempts=3, initial_delay=0.01, jitter=0.0)).start_stream(
        "why", subscriber=probe.ref
    )
    assert isinstance(error_of(probe), MissingCredentialsError)
    assert len(tokens.asked) == 3
    assert gemini.requests == []


def test_a_token_that_runs_out_soon_is_sent_while_it_is_renewed(
    gemini: LocalGemini, manager: StartManager, probe: Probe, tokens: TokenServer
) -> None:
    tokens.tokens = ["the-second-token"]
    tokens.open.clear()
    gemini.tokens = ("the-first-token", "the-second-token")
    kind: Any = google.oauth2.credentials.Credentials
    credentials = kind(
        "the-first-token",
        refresh_token="a-refresh-token",
        token_uri=f"{tokens.url}/token",
        client_id="a-client",
        client_secret="a-client-secret",
        expiry=dt.datetime.now(dt.UTC).replace(tzinfo=None) + dt.timedelta(seconds=120),
    )
    endpoint = VertexAI("p1", "us", credentials, base_url=gemini.url)
    ref = manager(endpoint=endpoint)
    ref.start_stream("why", subscriber=probe.ref)
    assert last_of(probe).ok
    tokens.wait_asked(1)
    assert gemini.requests[-1].token_number == 0
    tokens.open.set()
    source = endpoint.resolve().credentials
    eventually(lambda: source.generation == 2)
    probe.messages.clear()
    ref.start_stream("why", subscriber=probe.ref)
    assert last_of(probe).ok
    assert gemini.requests[-1].token_number == 1
    assert len(tokens.asked) == 1


def test_refused_credentials_are_the_streams_error(
    gemini: LocalGemini, manager: StartManager, probe: Probe, tokens: TokenServer, vertex: VertexAI
) -> None:
    tokens.refuses = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
    manager(endpoint=vertex).start_stream("why", subscriber=probe.ref)
    error = error_of(probe)
    assert isinstance(error, MissingCredentialsError)
    assert "invalid_grant: Invalid JWT Signature." in str(error)
    assert not error.retryable
    assert gemini.requests == []
    tokens.refuses = None
    probe.messages.clear()
    manager(endpoint=vertex).start_stream("why", subscriber=probe.ref)
    assert last_of(probe).ok


def test_a_token_server_that_cannot_be_reached_is_asked_again(
    gemini: LocalGemini, manager: StartManager, probe: Probe, tmp_path: Path, tokens: TokenServer
) -> None:
    tokens.url = gemini.refused_url()
    kind: Any = google.oauth2.service_account.Credentials
    account = kind.from_service_account_file(tokens.account(tmp_path), scopes=SCOPES)
    endpoint = VertexAI(credentials=account, base_url=gemini.url)
    manager(endpoint=endpoint, retry=ONCE).start_stream("why", subscriber=probe.ref)
    error = error_of(probe)
    assert isinstance(error, MissingCredentialsError)
    assert error.retryable


def test_credentials_that_only_the_network_could_tell_of(
    gemini: LocalGemini,
    manager: StartManager,
    probe: Probe,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    ref = manager(endpoint=VertexAI("p1", "us", base_url=gemini.url))
    ref.start_stream("why", subscriber=probe.ref)
    error = error_of(probe)
    assert isinstance(error, MissingCredentialsError)
    assert "gcloud auth application-default login" in str(error)


class Broken:
    """Credentials whose refresh raises what it should not."""

    token = None
    expiry = None

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def refresh(self, request: Any) -> None:
        raise self._error


@pytest.mark.parametrize("error", [ValueError("my-secret-of-all"), SystemExit(3), KeyboardInterrupt()])
def test_what_the_credentials_raise_ends_their_stream_alone(
    gemini: LocalGemini, manager: StartManager, probe: Probe, error: BaseException
) -> None:
    ref = manager()
    bad = VertexAI("p1", "us", Broken(error), base_url=gemini.url)
    stream_id = ref.start_stream("why", subscriber=probe.ref, endpoint=bad)
    told = error_of(probe, stream_id)
    assert isinstance(told, MissingCredentialsError)
    assert type(error).__name__ in str(told)
    assert "my-secret-of-all" not in str(told)
    assert last_of(probe, ref.start_stream("why", subscriber=probe.ref)).ok


def test_errors_show_no_token_that_was_ever_sent(
    gemini: LocalGemini, manager: StartManager, probe: Probe, tokens: TokenServer, vertex: VertexAI
) -> None:
    tokens.tokens = ["the-first-token", "the-second-token"]
    gemini.tokens = ("the-first-token",)
    gemini.on("echo", lambda record: Failure(400, "got the-first-token, the-second-token"))
    gemini.on("why", Reply("Because."))
    ref = manager(endpoint=vertex)
    assert last_of(probe, ref.start_stream("why", subscriber=probe.ref)).ok
    first = error_of(probe, ref.start_stream("echo", subscriber=probe.ref))
    assert first.message == "got [key], the-second-token"  # which nobody has sent yet
    gemini.tokens = ("the-second-token",)
    assert last_of(probe, ref.start_stream("why", subscriber=probe.ref)).ok
    second = error_of(probe, ref.start_stream("echo", subscriber=probe.ref))
    assert second.message == "got [key], [key]"


def test_an_error_of_the_token_server_shows_nothing_that_was_sent_to_it(
    manager: StartManager, probe: Probe, tokens: TokenServer, vertex: VertexAI
) -> None:
    original = tokens.answer

    def answer(form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        tokens.refuses = {"error": "bad", "error_description": form["assertion"]}
        return original(form)

    tokens.answer = answer  # type: ignore[method-assign]
    manager(endpoint=vertex).start_stream("why", subscriber=probe.ref)
    error = error_of(probe)
    assert "bad: [key]" in str(error)
    assert tokens.asked[-1]["assertion"][:40] not in str(error)


def test_equal_arguments_share_a_token_and_a_stream(
    gemini: LocalGemini, manager: StartManager, probe: Probe, tokens: TokenServer, account: Any
) -> None:
    gemini.on("why", Reply("one two", hold_after=1))
    ref = manager()
    endpoints = [VertexAI("p1", "us", account, base_url=gemini.url) for _ in range(2)]
    ids = {
        ref.start_stream("why", subscriber=probe.ref, stream_id="one", endpoint=endpoint)
        for endpoint in endpoints
    }
    assert ids == {"one"}
    gemini.gate("why").open()
    assert last_of(probe).ok
    assert (len(tokens.asked), len(gemini.requests)) == (1, 1)


def test_no_thread_is_left_and_the_end_waits_for_no_token(
    gemini: LocalGemini, manager: StartManager, probe: Probe, tokens: TokenServer, vertex: VertexAI
) -> None:
    tokens.open.clear()
    ref = manager(endpoint=vertex)
    ref.start_stream("why", subscriber=probe.ref)
    eventually(lambda: waiting_for(vertex) == 1)
    ref.stop(timeout=10)
    assert isinstance(last_of(probe), StreamStopped)
    assert "gemini-streams-token" in {thread.name for thread in threading.enumerate()}
    tokens.open.set()


def test_the_error_of_one_stream_is_not_the_others(
    manager: StartManager, probe: Probe, tokens: TokenServer, vertex: VertexAI
) -> None:
    tokens.open.clear()
    tokens.refuses = {"error": "invalid_grant"}
    ref = manager(endpoint=vertex)
    ids = [ref.start_stream("why", subscriber=probe.ref) for _ in range(5)]
    eventually(lambda: waiting_for(vertex) == 5)
    tokens.open.set()
    lasts = ends_of(probe, ids)
    assert all(isinstance(last, StreamError) for last in lasts.values())
    assert len({id(last.error) for last in lasts.values()}) == 5
    assert len(tokens.asked) == 1


def test_a_late_401_to_an_old_token_does_not_renew_the_new_one(
    gemini: LocalGemini, manager: StartManager, probe: Probe, tokens: TokenServer, vertex: VertexAI
) -> None:
    tokens.tokens = ["the-first-token", "the-second-token"]
    gemini.tokens = ("the-second-token",)
    ref = manager(endpoint=vertex)
    assert last_of(probe, ref.start_stream("why", subscriber=probe.ref)).ok
    source = vertex.resolve().credentials
    assert source.refused(source.generation - 1)
    assert source.fetching() is None
    assert source.refused(source.generation)
    assert source.fetching() is not None
    tokens.wait_asked(3)


@pytest.mark.long
def test_a_thousand_that_wait_make_one_request_for_a_token(
    gemini: LocalGemini, manager: StartManager, probe: Probe, tokens: TokenServer, vertex: VertexAI
) -> None:
    tokens.open.clear()
    ref = manager(endpoint=vertex, max_streams=1_000)
    ids = [ref.start_stream("why", subscriber=probe.ref) for _ in range(1_000)]
    eventually(lambda: waiting_for(vertex) == 1_000, what=lambda: f"{waiting_for(vertex)} wait")
    tokens.open.set()
    assert all(last.ok for last in ends_of(probe, ids).values())
    assert len(tokens.asked) == 1


def test_a_token_that_runs_out_in_mid_stream_is_renewed_where_the_stream_is_asked_for_again(
    gemini: LocalGemini, manager: StartManager, probe: Probe, tokens: TokenServer, vertex: VertexAI
) -> None:
    tokens.tokens = ["the-first-token", "the-second-token"]
    gemini.tokens = ("the-first-token",)
    gemini.on("why", Reply("one two three", hold_after=1, end_after=2, end="reset"), Reply("one two three"))
    manager(endpoint=vertex).start_stream("why", subscriber=probe.ref)
    probe.expect(StreamEvent)
    gemini.tokens = ("the-second-token",)
    gemini.gate("why").open()
    last = last_of(probe)
    assert last.ok
    assert last.attempts == 2
    assert len(tokens.asked) == 2


class Clock:
    """In the place of the module `time`: the system's clock, put forward or back."""

    def __init__(self) -> None:
        self.off = 0.0

    def time(self) -> float:
        return time.time() + self.off

    def monotonic(self) -> float:
        return time.monotonic()


def test_a_clock_that_jumps_costs_a_token_at_most(
    gemini: LocalGemini,
    manager: StartManager,
    probe: Probe,
    tokens: TokenServer,
    vertex: VertexAI,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr("gemini_streams.api.tokens.time", clock)
    utcnow: Any = google.auth._helpers.utcnow
    monkeypatch.setattr("google.auth._helpers.utcnow", lambda: utcnow() + dt.timedelta(seconds=clock.off))
    tokens.tokens = ["the-first-token", "the-second-token", "the-third-token"]
    gemini.tokens = ("the-first-token", "the-second-token")
    ref = manager(endpoint=vertex)

    def asks() -> int:
        probe.messages.clear()
        ref.start_stream("why", subscriber=probe.ref)
        assert last_of(probe).ok
        return len(tokens.asked)

    assert asks() == 1
    clock.off = 7_200.0  # the token seems to have run out
    assert asks() == 2
    clock.off = -7_200.0  # it seems to be good for long
    assert asks() == 2
    gemini.tokens = ("the-third-token",)  # and is not
    assert asks() == 3


SILENT = """
import socket, time
from gemini_streams import MissingCredentialsError, VertexAI

for _ in range(2):
    began = time.monotonic()
    try:
        VertexAI(location="us-central1").resolve()
    except MissingCredentialsError as error:
        print(f"{time.monotonic() - began:.1f}", error.retryable, "VertexAI(project=...," in str(error))
"""


def test_a_metadata_server_that_is_silent_holds_the_asker_for_seconds_and_the_next_one_no_more(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = run_in_cloud(SILENT, f"127.0.0.1:{silent.getsockname()[1]}", tmp_path)
    (first, *told), (second, *again) = map(str.split, done.stdout.splitlines())
    assert told == again == ["True", "True"], done.stderr
    assert float(first) < 5.0
    assert float(second) < 1.0


METADATA = """
import sys
from gemini_streams import ManagerActor, StartStream, VertexAI, answers
from gemini_streams.testing import LocalGemini
import pykka

with LocalGemini() as gemini:
    gemini.tokens = ("a-machines-token",)
    manager = ManagerActor.start(endpoint=VertexAI(location="us-central1", base_url=gemini.url))
    oks = [answer.ok for _, answer in answers(manager, ["why"] * 20)]
    print(sum(oks), {(r.project, r.location, r.token_number) for r in gemini.requests})
    pykka.ActorRegistry.stop_all()
"""


def run_in_cloud(program: str, metadata: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a program that knows nothing of credentials but where the machine's metadata server listens."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GOOGLE", "GCE", "GEMINI", "CLOUDSDK"))
    }
    environ |= {"GCE_METADATA_HOST": metadata, "GCE_METADATA_IP": metadata, "HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, env=environ
    )


def test_the_metadata_server_of_a_machine_gives_project_and_token(
    tokens: TokenServer, tmp_path: Path
) -> None:
    tokens.tokens = ["a-machines-token"]
    done = run_in_cloud(METADATA, tokens.url.removeprefix("http://"), tmp_path)
    assert done.stdout.split("\n")[0] == "20 {('the-machines-project', 'us-central1', 0)}", done.stderr
    assert len(tokens.asked) == 1
