"""A client for a LocalGemini's interactions that hides nothing: http.client, events as they came, a naive reader."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gemini_streams.testing import LocalGemini

BASE = "/v1beta/interactions"
HEADERS = {"x-goog-api-key": "local-key", "content-type": "application/json"}


def call(
    gemini: LocalGemini, method: str, path: str = "", body: Any = None, base: str = BASE
) -> tuple[int, bytes]:
    """Call on a connection of its own; what a broken body had is returned all the same."""
    with closing(http.client.HTTPConnection("127.0.0.1", gemini.port, timeout=20)) as connection:
        connection.request(method, base + path, None if body is None else json.dumps(body), HEADERS)
        response = connection.getresponse()
        try:
            return response.status, response.read()
        except http.client.IncompleteRead as broken:
            return response.status, broken.partial


def create(gemini: LocalGemini, text: Any, **more: Any) -> tuple[int, bytes]:
    return call(gemini, "POST", body={"model": "gemini-test", "input": text, **more})


def begin(gemini: LocalGemini, text: Any, **more: Any) -> str:
    """Begin a background run; return its id."""
    status, body = create(gemini, text, background=True, **more)
    assert status == 200, body
    return str(json.loads(body)["id"])


def resource(gemini: LocalGemini, name: str, query: str = "?stream=false") -> dict[str, Any]:
    status, body = call(gemini, "GET", f"/{name}{query}")
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


def stream(gemini: LocalGemini, name: str, last_event_id: str | None = None) -> tuple[int, bytes]:
    behind = "" if last_event_id is None else f"&last_event_id={last_event_id}"
    return call(gemini, "GET", f"/{name}?stream=true{behind}")


def events(body: bytes) -> list[dict[str, Any]]:
    """Return the events of a stream, without `[DONE]`, bare JSON and what was cut."""
    return [
        json.loads(line[len("data: ") :])
        for block in body.decode().split("\r\n\r\n")[:-1]
        for line in block.split("\r\n")
        if line.startswith("data: {")
    ]


@dataclass
class Content:
    """What events say, however they are cut: the strings of each step by kind, and what has begun and ended."""

    strings: dict[tuple[int, str], str] = field(default_factory=dict)
    marks: list[str] = field(default_factory=list)

    def add(self, event: dict[str, Any]) -> None:
        kind, index = event["event_type"], event.get("index", -1)
        if kind == "step.delta":
            delta = event["delta"]
            string = delta.get("arguments", delta.get("text", delta.get("content", {}).get("text")))
            if string is None:
                self.marks.append(f"{index} {json.dumps(delta)}")
            else:
                self._string(index, delta["type"], string)
            return
        step = event.get("step", {})
        self.marks.append(f"{index} {kind} {step.get('type')} {step.get('name')}")
        for content in step.get("content", []):
            self._string(index, "text", content["text"])

    def _string(self, index: int, kind: str, string: str) -> None:
        self.strings[index, kind] = self.strings.get((index, kind), "") + string

    def copy(self) -> Content:
        return Content(dict(self.strings), list(self.marks))


def read_resuming(gemini: LocalGemini, name: str, body: bytes | None = None, most: int = 60) -> Content:
    """Read an interaction to its `completed`: behind each cut, go back to the newest id and ask for what follows it."""
    at_id, newest = Content(), None
    for _ in range(most):
        content = at_id.copy()
        if body is None:
            status, body = stream(gemini, name, newest)
            assert status == 200, body
        for event in events(body):
            if event["event_type"] == "error":
                break
            content.add(event)
            if "event_id" in event:
                at_id, newest = content.copy(), event["event_id"]
            if event["event_type"] == "interaction.completed":
                return content
        body = None
    raise AssertionError(f"no end within {most} streams")
