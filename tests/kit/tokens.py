"""A server of access tokens on loopback, and a service account's file that leads to it."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from gemini_streams.testing.records import await_


class TokenServer:
    """Gives out `tokens` one after another, the last one for ever, each for `lasts` seconds."""

    def __init__(self) -> None:
        self.tokens = ["local-token"]
        self.lasts = 3600
        self.refuses: dict[str, Any] | None = None
        """The error to answer with."""
        self.asked: list[dict[str, str]] = []
        """The forms of all requests."""
        self.open = threading.Event()
        """While it is not set, answers are held back."""
        self.open.set()
        self.changed = threading.Condition()
        self.url = ""

    def wait_asked(self, n: int) -> None:
        await_(self.changed, lambda: len(self.asked) >= n, 20.0, f"not {n} tokens were asked for")

    def answer(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        with self.changed:
            number = len(self.asked)
            self.asked.append(form)
            self.changed.notify_all()
        self.open.wait(30)
        if self.refuses is not None:
            return 400, self.refuses
        token = self.tokens[min(number, len(self.tokens) - 1)]
        return 200, {"access_token": token, "expires_in": self.lasts, "token_type": "Bearer"}

    def account(self, folder: Path, project: str = "a-project") -> str:
        """Write a service account's file; return its path."""
        file = folder / "account.json"
        file.write_text(
            json.dumps(
                {
                    "type": "service_account",
                    "project_id": project,
                    "private_key_id": "1",
                    "private_key": _private_key(),
                    "client_email": f"robot@{project}.iam.gserviceaccount.com",
                    "client_id": "1",
                    "token_uri": f"{self.url}/token",
                }
            )
        )
        return str(file)


@functools.cache
def _private_key() -> str:
    # A short one: reading a key tests its primes.
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


@contextmanager
def token_server() -> Iterator[TokenServer]:
    served = TokenServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
            status, said = served.answer(form)
            self._send(status, json.dumps(said), "application/json")

        def do_GET(self) -> None:
            """Answer as the metadata server of a machine in Google Cloud."""
            path = self.path.partition("?")[0].removeprefix("/computeMetadata/v1/")
            if path.endswith("/token"):
                status, said = served.answer({"path": path})
                self._send(status, json.dumps(said), "application/json")
            elif path == "project/project-id":
                self._send(200, "the-machines-project", "application/text")
            elif path.startswith("instance/service-accounts/"):
                about = {"email": "robot@machine", "scopes": ["cloud-platform"], "aliases": ["default"]}
                self._send(200, json.dumps(about), "application/json")
            else:
                self._send(200, "googleapis.com" if path.startswith("universe/") else "", "application/text")

        def _send(self, status: int, said: str, kind: str) -> None:
            body = said.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Metadata-Flavor", "Google")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = False

        def handle_error(self, *_: Any) -> None:
            """The client has left."""

    with Server(("127.0.0.1", 0), Handler) as server:
        served.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=functools.partial(server.serve_forever, 0.01))
        thread.start()
        try:
            yield served
        finally:
            served.open.set()
            server.shutdown()
            thread.join()
