"""The server that every program reads from, in a process of its own on the other core."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import certifi

from benchmarks.kit import SERVER_CORE, Work, pin

__all__ = ["Certificate", "Server", "certified", "serving"]

SCRIPT = Path(__file__).resolve().with_name("sse_server.py")


class Certificate:
    """The server's certificate, and the bundle that its clients verify it by: requests' own and one more."""

    def __init__(self, folder: Path) -> None:
        import trustme

        authority = trustme.CA()
        self.path = folder / "server.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(self.path))
        self.bundle = folder / "bundle.pem"
        usual = Path(certifi.where()).read_bytes()
        self.bundle.write_bytes(usual + b"\n" + authority.cert_pem.bytes())


@contextlib.contextmanager
def certified() -> Iterator[Certificate | None]:
    """Make a certificate for as long as the context lasts; `None` where trustme is not installed."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield Certificate(Path(folder))
        except ImportError:
            yield None


class Server:
    """The running server."""

    def __init__(
        self, process: subprocess.Popen[bytes], ports: list[int], certificate: Certificate | None
    ) -> None:
        self.process = process
        self.ports = ports
        self.certificate = certificate

    def work(self, work: Work) -> Work:
        """Return a piece of work with this server's address in it."""
        if work.tls:
            assert self.certificate is not None
            changed = {"url": f"https://127.0.0.1:{self.ports[1]}", "bundle": str(self.certificate.bundle)}
        else:
            changed = {"url": f"http://127.0.0.1:{self.ports[0]}"}
        return work.with_(**changed)


@contextlib.contextmanager
def serving(certificate: Certificate | None) -> Iterator[Server]:
    """Run the server as long as the context lasts."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *([] if certificate is None else [str(certificate.path)])],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: pin(SERVER_CORE),  # noqa: PLW1509 - no thread runs here yet
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline().split()
        if not said or said[0] != b"listening":
            raise RuntimeError("the benchmark's server did not start")
        yield Server(process, [int(port) for port in said[1:]], certificate)
    finally:
        process.kill()
        process.wait()
