"""The two web applications of the tests, each on a real server: Flask by wsgiref, Starlette by uvicorn."""

from __future__ import annotations

import contextlib
import socketserver
import threading
import wsgiref.simple_server
from collections.abc import Callable, Iterator
from typing import Any

import flask
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from gemini_streams import ManagerRef, StartStream, StreamNotFoundError
from gemini_streams.web import aevent_source, event_source
from kit.helpers import eventually

Ask = Callable[[str], StartStream | str]
"""What the application asks for, of the last part of the path."""

HTML = """<!doctype html><title>t</title><script>
window.said = []; window.errors = 0;
window.source = new EventSource("/answer/" + location.hash.slice(1));
for (const name of ["event", "restarting", "dropped", "gone", "end"])
  source.addEventListener(name, (e) => said.push([name, JSON.parse(e.data)]));
source.onerror = () => errors++;
window.text = () => said.filter(([name]) => name == "event").map(([_, data]) => data.text).join("");
</script>"""


def flask_app(manager: ManagerRef, ask: Ask, heartbeat: float) -> Any:
    app = flask.Flask(__name__)

    @app.get("/answer/<name>")
    def answer(name: str) -> flask.Response:
        try:
            source = event_source(
                manager,
                ask(name),
                last_event_id=flask.request.headers.get("Last-Event-ID"),
                heartbeat=heartbeat,
            )
        except StreamNotFoundError as error:
            return flask.Response(str(error), status=404)
        return flask.Response(source, status=source.status, headers=source.headers)

    return app


class _Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = False
    request_queue_size = 256


class _Handler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def on_flask(manager: ManagerRef, ask: Ask, heartbeat: float = 0.2) -> Iterator[str]:
    app = flask_app(manager, ask, heartbeat)
    server = wsgiref.simple_server.make_server("127.0.0.1", 0, app, _Server, _Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def starlette_app(manager: ManagerRef, ask: Ask, heartbeat: float) -> Starlette:
    async def answer(request: Request) -> Response:
        try:
            source = await aevent_source(
                manager,
                ask(request.path_params["name"]),
                last_event_id=request.headers.get("Last-Event-ID"),
                heartbeat=heartbeat,
            )
        except StreamNotFoundError as error:
            return Response(str(error), 404)
        return StreamingResponse(source, source.status, source.headers)

    async def page(_request: Request) -> Response:
        return HTMLResponse(HTML)

    return Starlette(routes=[Route("/answer/{name}", answer), Route("/", page)])


@contextlib.contextmanager
def on_starlette(manager: ManagerRef, ask: Ask, heartbeat: float = 0.2, port: int = 0) -> Iterator[str]:
    config = uvicorn.Config(
        starlette_app(manager, ask, heartbeat),
        port=port,
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
