"""Answers in a browser, from Starlette (FastAPI is the same). Runs on a local Gemini; no key is needed.

Open http://127.0.0.1:8000/. It needs `pip install starlette uvicorn`; `--check` reads one answer itself and ends.
"""

import sys
import threading
import urllib.request

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from gemini_streams import ManagerActor, ManagerRef, StartStream
from gemini_streams.testing import LocalGemini
from gemini_streams.web import aevent_source

PAGE = """<!doctype html><title>Why?</title><p><button>Stop</button><pre></pre><script>
const pieces = [], id = crypto.randomUUID(), source = new EventSource("/answer/" + id);
const show = () => { document.querySelector("pre").textContent = pieces.join(""); };
source.addEventListener("event", (e) => { const d = JSON.parse(e.data); pieces[d.sequence] = d.text; show(); });
source.addEventListener("restarting", (e) => { pieces.length = JSON.parse(e.data).resume_at; show(); });
source.addEventListener("end", () => source.close());
document.querySelector("button").onclick = () => fetch("/answer/" + id, { method: "DELETE" });
</script>"""


def application(manager: ManagerRef) -> Starlette:
    """Make the web application."""

    async def page(_request: Request) -> Response:
        return HTMLResponse(PAGE)

    async def answer(request: Request) -> Response:
        source = await aevent_source(
            manager,
            StartStream("Why is the sky blue?", stream_id=request.path_params["id"]),
            last_event_id=request.headers.get("Last-Event-ID"),
        )
        return StreamingResponse(source, status_code=source.status, headers=source.headers)

    def stop(request: Request) -> Response:  # not `async`: Starlette runs it in a thread, since asking waits
        manager.stop_stream(request.path_params["id"])
        return Response(status_code=204)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/answer/{id}", answer),
            Route("/answer/{id}", stop, methods=["DELETE"]),
        ]
    )


def main() -> None:
    """Serve until Ctrl-C."""
    check = "--check" in sys.argv
    with LocalGemini(
        pace=0.0 if check else 0.3
    ) as gemini:  # the real one: no `endpoint`, a key in the environment
        manager = ManagerActor.start(endpoint=gemini.endpoint, linger=60)
        config = uvicorn.Config(application(manager), port=0 if check else 8000, log_level="warning")
        server = uvicorn.Server(config)
        if check:
            thread = threading.Thread(target=server.run)
            thread.start()
            while not server.started:
                thread.join(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/answer/a") as response:
                print(response.read().decode().splitlines()[-2])
            server.should_exit = True
            thread.join()
        else:
            server.run()
        manager.stop()


if __name__ == "__main__":
    main()
