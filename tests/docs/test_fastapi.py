"""docs/web.md in FastAPI's own terms. FastAPI is not in the development set: `pip install fastapi` to run this."""

from __future__ import annotations

import asyncio
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from gemini_streams.testing import LocalGemini, Reply

pytest.importorskip("fastapi", reason="FastAPI is not in the development set")

PAGE = (Path(__file__).parents[2] / "docs" / "web.md").read_text()


def application() -> Any:
    found = re.search(r"(?m)^In FastAPI:\n\n((?:    .*\n|\n)+)", PAGE)
    assert found is not None
    names: dict[str, Any] = {"__name__": "of_the_page"}
    exec(compile(textwrap.dedent(found[1]), "docs/web.md", "exec", dont_inherit=True), names)
    return names["app"]


async def get(app: Any, path: str, query: str, headers: dict[str, str]) -> tuple[int, dict[str, str], str]:
    """One GET, as a server brings it to the application."""
    told: list[dict[str, Any]] = []
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        told.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    await app(scope, receive, send)
    gone.set()
    sent = {name.decode().lower(): value.decode() for name, value in told[0]["headers"]}
    return told[0]["status"], sent, b"".join(message.get("body", b"") for message in told[1:]).decode()


def test_the_page_s_application_under_fastapi(gemini: LocalGemini, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "local-key")
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", gemini.url)
    gemini.on("sky", Reply("Air scatters blue."))
    app = application()

    async def main() -> None:
        async with app.router.lifespan_context(app):
            status, headers, body = await get(app, "/answer/one", "question=the%20sky", {})
            assert (status, headers["x-accel-buffering"]) == (200, "no")
            assert headers["content-type"].startswith("text/event-stream")
            assert '"outcome":"complete"' in body
            position = re.findall(r"(?m)^id: (\S+)$", body)[0]
            again = {"Last-Event-ID": position}
            status, _, rest = await get(app, "/answer/one", "question=the%20sky", again)
            assert status == 200
            assert body.endswith(rest[rest.index("id:") :])  # what came behind that event
            assert rest.count("event: event") == body.count("event: event") - 1
            status, _, body = await get(app, "/answer/two", "question=", {})
            assert (status, body) == (400, '{"detail":"InvalidRequestError"}')
            assert (await get(app, "/answer/three", "", {}))[0] == 422
        assert len(gemini.requests) == 1

    asyncio.run(main())
