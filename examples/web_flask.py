"""Answers in a browser, from Flask. Runs on a local Gemini; no key is needed.

Open http://127.0.0.1:8000/. It needs `pip install flask`; `--check` reads one answer itself and ends.
"""

import sys

import flask

from gemini_streams import ManagerActor, ManagerRef, StartStream
from gemini_streams.testing import LocalGemini
from gemini_streams.web import event_source

PAGE = """<!doctype html><title>Why?</title><p><button>Stop</button><pre></pre><script>
const pieces = [], id = crypto.randomUUID(), source = new EventSource("/answer/" + id);
const show = () => { document.querySelector("pre").textContent = pieces.join(""); };
source.addEventListener("event", (e) => { const d = JSON.parse(e.data); pieces[d.sequence] = d.text; show(); });
source.addEventListener("restarting", (e) => { pieces.length = JSON.parse(e.data).resume_at; show(); });
source.addEventListener("end", () => source.close());
document.querySelector("button").onclick = () => fetch("/answer/" + id, { method: "DELETE" });
</script>"""


def application(manager: ManagerRef) -> flask.Flask:
    """Make the web application."""
    app = flask.Flask(__name__)

    @app.get("/")
    def page() -> str:
        return PAGE

    @app.get("/answer/<stream_id>")
    def answer(stream_id: str) -> flask.Response:
        source = event_source(
            manager,
            StartStream("Why is the sky blue?", stream_id=stream_id),
            last_event_id=flask.request.headers.get("Last-Event-ID"),
        )
        return flask.Response(source, status=source.status, headers=source.headers)

    @app.delete("/answer/<stream_id>")
    def stop(stream_id: str) -> tuple[str, int]:
        manager.stop_stream(stream_id)
        return "", 204

    return app


def main() -> None:
    """Serve until Ctrl-C."""
    check = "--check" in sys.argv
    with LocalGemini(
        pace=0.0 if check else 0.3
    ) as gemini:  # the real one: no `endpoint`, a key in the environment
        manager = ManagerActor.start(endpoint=gemini.endpoint, linger=60)
        app = application(manager)
        if check:
            print(app.test_client().get("/answer/a").text.splitlines()[-2])
        else:
            app.run(port=8000, threaded=True)
        manager.stop()


if __name__ == "__main__":
    main()
