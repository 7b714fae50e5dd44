"""Certificates: which servers are trusted, which certificate is shown to them, and how often files are read for it."""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import StartManager
from gemini_streams import ConnectionFailedError, Gemini, InvalidRequestError, StreamComplete, StreamError
from gemini_streams.http.trust import Trust
from kit.helpers import ONCE, last_of
from kit.raw import read_request, serving
from pykka_supervisor.testing import Probe

serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
trustme = pytest.importorskip("trustme", reason="the extra `tls` is not installed")

EVENT = b'data: {"candidates":[{"content":{"parts":[{"text":"one"}]},"finishReason":"STOP"}]}\n\n'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%b" % (
    len(EVENT),
    EVENT,
)

Ask = Callable[..., StreamComplete | StreamError]


def answer(sock: socket.socket, _: int) -> None:
    while read_request(sock):
        sock.sendall(ANSWER)


@contextlib.contextmanager
def server(authority: Any, name: str = "127.0.0.1", clients: Any = None, **issued: Any) -> Iterator[str]:
    """A server with a certificate for `name`; its base URL. `clients`: the authority of its clients' certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, **issued).configure_cert(context)
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    with serving(answer, context) as port:
        yield f"https://127.0.0.1:{port}"


@pytest.fixture
def authority() -> Any:
    return trustme.CA()


@pytest.fixture
def bundle(authority: Any, tmp_path: Path) -> Path:
    path = tmp_path / "bundle.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def ask(manager: StartManager, probe: Probe) -> Ask:
    running = manager(retry=ONCE)

    def ask(base_url: str, **trust: Any) -> Any:
        endpoint = Gemini(api_key="k", base_url=base_url, proxies={}, **trust)
        return last_of(probe, running.start_stream("why", subscriber=probe.ref, endpoint=endpoint))

    return ask


def refused(last: StreamComplete | StreamError, *words: str) -> None:
    assert isinstance(last, StreamError), last
    assert isinstance(last.error, ConnectionFailedError)
    assert not last.error.retryable
    assert any(word in str(last.error) for word in words), last.error


# -- which servers are trusted ---------------------------------------------------------------------------------------


def test_a_server_of_an_authority_in_the_bundle_is_trusted(ask: Ask, authority: Any, bundle: Path) -> None:
    with server(authority) as url:
        assert ask(url, verify=str(bundle)).ok  # type: ignore[union-attr]


def test_a_server_of_another_authority_is_refused(ask: Ask, bundle: Path) -> None:
    with server(trustme.CA()) as url:
        refused(ask(url, verify=str(bundle)), "certificate")
        refused(ask(url), "certificate")


def test_a_certificate_for_another_host_is_refused(ask: Ask, authority: Any, bundle: Path) -> None:
    with server(authority, "example.com") as url:
        refused(ask(url, verify=str(bundle)), "certificate", "match")


def test_a_certificate_that_has_expired_is_refused(ask: Ask, authority: Any, bundle: Path) -> None:
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    with server(authority, not_after=past) as url:
        refused(ask(url, verify=str(bundle)), "expired")


def test_what_one_stream_trusts_another_does_not(ask: Ask, authority: Any, bundle: Path) -> None:
    with server(authority) as url:
        assert ask(url, verify=str(bundle)).ok  # type: ignore[union-attr]
        assert ask(url, verify=False).ok  # type: ignore[union-attr]
        refused(ask(url), "certificate")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed: it names the files")
def test_a_directory_of_certificates_is_a_bundle(
    ask: Ask, authority: Any, bundle: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "authorities"
    directory.mkdir()
    command = ["openssl", "x509", "-hash", "-noout", "-in", str(bundle)]  # directories go by OpenSSL's names
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    (directory / f"{name}.0").write_bytes(bundle.read_bytes())
    with server(authority) as url:
        assert ask(url, verify=str(directory)).ok  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_environments_bundle_is_used(
    ask: Ask, authority: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for other in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, str(bundle))
    with server(authority) as url:
        assert ask(url).ok  # type: ignore[union-attr]


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_a_bundle_that_cannot_be_read_is_an_error_that_names_it(
    ask: Ask, authority: Any, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "missing.pem"
    if content is not None:
        path.write_bytes(content)
    with server(authority) as url:
        last = ask(url, verify=str(path))
        assert isinstance(last, StreamError)
        assert isinstance(last.error, ConnectionFailedError)


# -- client certificates ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["one file", "two files"])
def test_a_client_certificate_is_shown_to_the_server(
    ask: Ask, authority: Any, bundle: Path, tmp_path: Path, form: str
) -> None:
    clients = trustme.CA()
    made = clients.issue_cert("client@example.com")
    both, chain, key = tmp_path / "both.pem", tmp_path / "chain.pem", tmp_path / "key.pem"
    made.private_key_and_cert_chain_pem.write_to_path(both)
    made.cert_chain_pems[0].write_to_path(chain)
    made.private_key_pem.write_to_path(key)
    with server(authority, clients=clients) as url:
        cert = str(both) if form == "one file" else (chain, str(key))
        assert ask(url, verify=str(bundle), cert=cert).ok  # type: ignore[union-attr]
        assert not isinstance(ask(url, verify=str(bundle)), StreamComplete)


def test_a_client_certificate_that_is_none_is_refused_at_once(ask: Ask, authority: Any) -> None:
    with pytest.raises(InvalidRequestError, match="cert must be the path"):
        ask("https://127.0.0.1:1", cert=7)
    with pytest.raises(InvalidRequestError, match="cert must be the path"):
        ask("https://127.0.0.1:1", cert=("one",))


def test_a_client_key_with_a_password_is_refused_and_nobody_is_asked_for_it(
    ask: Ask, authority: Any, bundle: Path, tmp_path: Path
) -> None:
    made = authority.issue_cert("client@example.com")
    key = serialization.load_pem_private_key(made.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    both = tmp_path / "both.pem"
    both.write_bytes(locked + made.cert_chain_pems[0].bytes())
    with server(authority) as url:
        last = ask(url, verify=str(bundle), cert=str(both))
        assert isinstance(last, StreamError)
        assert isinstance(last.error, ConnectionFailedError)


# -- how often -------------------------------------------------------------------------------------------------------


def test_a_bundle_is_loaded_once_however_many_connections_there_are(
    manager: StartManager, probe: Probe, authority: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Any] = []
    load = ssl.SSLContext.load_verify_locations

    def counted(self: ssl.SSLContext, *args: Any, **kwargs: Any) -> None:
        loads.append((args, kwargs))
        load(self, *args, **kwargs)

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", counted)
    running = manager(retry=ONCE)
    with server(authority) as one, server(authority) as other:
        loads.clear()
        ids = [
            running.start_stream(
                "why",
                subscriber=probe.ref,
                endpoint=Gemini(api_key=f"tenant-{n}", base_url=url, proxies={}, verify=str(bundle)),
            )
            for n in range(5)
            for url in (one, other)
        ]
        ended = [last_of(probe) for _ in ids]
        assert all(last.ok for last in ended)
        assert {last.stream_id for last in ended} == set(ids)
    assert len(loads) == 1


def test_a_bundle_that_is_replaced_holds_for_the_next_connection(
    ask: Ask, authority: Any, bundle: Path
) -> None:
    renewed = trustme.CA()
    with server(authority) as before, server(renewed) as after:
        assert ask(before, verify=str(bundle)).ok  # type: ignore[union-attr]
        refused(ask(after, verify=str(bundle)), "certificate")
        bundle.write_bytes(b"# renewed\n" + renewed.cert_pem.bytes())
        assert ask(after, verify=str(bundle)).ok  # type: ignore[union-attr]


def test_while_a_bundle_is_away_the_former_one_holds(bundle: Path) -> None:
    trust = Trust()
    first = trust.context(str(bundle))
    content = bundle.read_bytes()
    bundle.unlink()
    assert trust.context(str(bundle)) is first
    bundle.write_bytes(b"half of it")
    assert trust.context(str(bundle)) is first
    bundle.write_bytes(content + b"# whole\n")
    assert trust.context(str(bundle)) is not first
    assert trust.loads == 2


def test_contexts_verify_as_strictly_as_requests_does() -> None:
    trust = Trust()
    strict, lax = trust.context(True), trust.context(False)
    assert (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (lax.verify_mode, lax.check_hostname) == (ssl.CERT_NONE, False)
    assert strict.minimum_version >= ssl.TLSVersion.TLSv1_2
