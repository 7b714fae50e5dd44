"""What the programs share: the Interactions API over plain requests, its events as they come, and how a program runs.

The rules:

- Nothing of the package reads an event here: what is asked for is what the service sends.
- Every interaction that a program has begun is cancelled and deleted at its end.
- A finding is a plain line. A program ends with 0, with 1 where the service refuses what the question needs, and with 2
  where there is no key.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import quote

import requests

from gemini_streams import Gemini, MissingCredentialsError
from gemini_streams.api.endpoint import Target
from gemini_streams.api.secret import Secret

__all__ = ["ESSAY", "SHORT", "Ask", "RefusedError", "Seen", "Service", "Stream", "run", "strings_of"]

NEEDS = (
    "This asks Google's own service, and costs a little. It needs a key: set GEMINI_API_KEY (or GOOGLE_API_KEY). "
    "GOOGLE_GEMINI_BASE_URL leads elsewhere."
)
MODEL = "gemini-flash-latest"
SHORT = "Name three oceans."
ESSAY = "Write an essay of about 600 words that compares the tides of two coasts."
THINKS = {"thinking_summaries": "auto", "thinking_level": "low"}
AGENT = "agent:"

_BLOCK = re.compile(rb"\r\n\r\n|\n\n|\r\r")
PATIENCE = 120.0


class RefusedError(Exception):
    """The service has refused what a question needs."""


@dataclass(frozen=True)
class Seen:
    """One event, and when it came: seconds behind the headers."""

    at: float
    data: dict[str, Any]

    @property
    def type(self) -> str:
        """Its type."""
        return str(self.data.get("event_type"))

    @property
    def id(self) -> str | None:
        """Its id, where it has one."""
        return self.data.get("event_id")


@dataclass
class Stream:
    """What came of one request for a stream."""

    status: int = 0
    events: list[Seen] = field(default_factory=list)
    rest: bytes = b""
    """What is no event."""
    done: bool = False
    """`[DONE]` came."""
    end: str = "left by us"
    """How the body ended."""
    seconds: float = 0.0

    @property
    def interaction_id(self) -> str:
        """The id that the stream names, or `""`."""
        named = (seen.data.get("interaction", {}).get("id") for seen in self.events)
        return next((name for name in named if name), "")

    @property
    def last_id(self) -> str | None:
        """The newest event's id."""
        return next((seen.id for seen in reversed(self.events) if seen.id), None)


def strings_of(events: Iterable[Seen]) -> dict[tuple[int, str], str]:
    """Return the strings that events say, joined by step and kind."""
    said: dict[tuple[int, str], str] = {}
    for seen in events:
        index, step, delta = seen.data.get("index"), seen.data.get("step", {}), seen.data.get("delta", {})
        parts = [("text", item) for item in step.get("content", [])]
        parts += [("summary", item) for item in step.get("summary", [])]
        if delta:
            kind = delta.get("type", "text")
            parts.append(
                ("summary", delta.get("content", {})) if kind == "thought_summary" else (kind, delta)
            )
        for kind, item in parts:
            text = item.get("text", item.get("arguments"))
            if isinstance(index, int) and isinstance(text, str):
                said[index, kind] = said.get((index, kind), "") + text
    return said


class Service:
    """The Interactions API."""

    def __init__(self, target: Target, model: str, words: Sequence[str], patience: float) -> None:
        self.model = model
        self._patience = patience
        self.words = list(words)
        """Further arguments of the program."""
        self._target = target
        self._session = requests.Session()
        self._begun: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._begun:
            with suppress(requests.RequestException):
                self.call("POST", f"/{quote(name, safe='')}/cancel", {})
                self.call("DELETE", f"/{quote(name, safe='')}")
        self._session.close()

    def call(self, method: str, path: str = "", body: Any = None) -> tuple[int, Any]:
        """Ask for JSON; return the status, and the answer decoded, or its text."""
        with self._send(method, path, body, "application/json") as response:
            try:
                return response.status_code, response.json()
            except ValueError:
                return response.status_code, response.text

    def begin(self, prompt: str, *, who: str | None = None, **more: Any) -> str:
        """Begin a run in the background; return its id."""
        status, answer = self.create(prompt, who=who, **more)
        if status != requests.codes.ok:
            raise RefusedError(f"{who or self.model} in the background: {told(status, answer)}")
        return str(answer["id"])

    def create(self, prompt: str, *, who: str | None = None, **more: Any) -> tuple[int, Any]:
        """POST a run in the background; return the status and the answer."""
        body = {**self._body(prompt, who), "stream": False, "background": True, "store": True, **more}
        status, answer = self.call("POST", "", body)
        if status == requests.codes.ok:
            self._begun.append(str(answer["id"]))
        return status, answer

    def foreground(self, prompt: str, **more: Any) -> Stream:
        """POST a run that streams; return its stream."""
        body = {**self._body(prompt, None), "stream": True, "store": True, **more}
        stream = self._read("POST", "", body)
        if stream.interaction_id:
            self._begun.append(stream.interaction_id)
        if stream.status != requests.codes.ok:
            raise RefusedError(f"{self.model} with stream: {told(stream.status, stream.rest.decode())}")
        return stream

    def both(self, prompt: str, **more: Any) -> Iterator[tuple[str, Stream]]:
        """Run a prompt in the background and in the foreground; yield how, and the stream."""
        yield "in the background", self.watch(self.begin(prompt, **more))
        yield "in the foreground", self.foreground(prompt, **more)

    def watch(
        self,
        name: str,
        behind: str | None = None,
        *,
        most: int | None = None,
        on_event: Callable[[Stream], object] = bool,
    ) -> Stream:
        """Read an interaction's stream to its end; `most`: leave it behind so many events."""
        after = "" if behind is None else f"&last_event_id={quote(behind, safe='')}"
        path = f"/{quote(name, safe='')}?stream=true{after}"
        return self._read("GET", path, None, most=most, on_event=on_event)

    def resource(self, name: str) -> dict[str, Any]:
        """Return the resource, its input among the steps where the service has it there."""
        status, answer = self.call("GET", f"/{quote(name, safe='')}?stream=false")
        if status != requests.codes.ok:
            raise RefusedError(f"the resource: {told(status, answer)}")
        found: dict[str, Any] = answer
        return found

    def cancel(self, name: str) -> tuple[int, Any]:
        """Cancel a run."""
        return self.call("POST", f"/{quote(name, safe='')}/cancel", {})

    def _body(self, prompt: str, who: str | None) -> dict[str, Any]:
        who = who or self.model
        if who.startswith(AGENT):
            return {"agent": who.removeprefix(AGENT), "input": prompt}
        return {"model": who, "input": prompt}

    def _send(self, method: str, path: str, body: Any, accept: str) -> requests.Response:
        headers = self._target.headers() | {"accept": accept, "accept-encoding": "identity"}
        return self._session.request(
            method,
            self._target.url("interactions") + path,
            json=body,
            headers={
                name: value.reveal() if isinstance(value, Secret) else value
                for name, value in headers.items()
            },
            stream=True,
            timeout=(20, self._patience),
        )

    def _read(
        self,
        method: str,
        path: str,
        body: Any,
        *,
        most: int | None = None,
        on_event: Callable[[Stream], object] = bool,
    ) -> Stream:
        stream, waiting = Stream(), b""
        with self._send(method, path, body, "text/event-stream") as response:
            began = heard = time.monotonic()
            stream.status = response.status_code
            try:
                for piece in response.iter_content(None):
                    heard = time.monotonic()
                    *blocks, waiting = _BLOCK.split(waiting + piece)
                    for block in blocks:
                        _take(stream, block, time.monotonic() - began, on_event)
                        if len(stream.events) == most:
                            return stream
                stream.end = "clean"
            except requests.RequestException as error:
                silence = time.monotonic() - heard
                silent = silence >= self._patience
                stream.end = f"silent for {silence:.1f} s" if silent else type(error).__name__
            stream.rest += waiting
            stream.seconds = time.monotonic() - began
        return stream


def _take(stream: Stream, block: bytes, at: float, on_event: Callable[[Stream], object]) -> None:
    lines = [line[len(b"data:") :].strip() for line in block.splitlines() if line.startswith(b"data:")]
    if not lines:
        stream.rest += block
    elif lines == [b"[DONE]"]:
        stream.done = True
    else:
        try:
            data = json.loads(b"\n".join(lines))
        except ValueError:
            stream.rest += block
            return
        stream.events.append(Seen(at, data))
        on_event(stream)


def told(status: int, answer: Any) -> str:
    """Return an error of the service in a line."""
    if isinstance(answer, str):
        with suppress(ValueError):
            answer = json.loads(answer)
    error = answer[0] if isinstance(answer, list) and answer else answer
    if isinstance(error, dict) and isinstance(error.get("error"), dict):
        error = error["error"].get("message", error["error"])
    return f"{status}: {' '.join(str(error).split())[:300]}"


Ask = Callable[[Service], Iterable[str]]
"""A question: it yields its findings."""


def run(question: str | None, ask: Ask, argv: Sequence[str] | None = None) -> int:
    """Ask one question, print the findings, and return the exit status."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--model", default=MODEL, help=f"the model to ask; {MODEL} by default")
    parser.add_argument(
        "words", nargs="*", help="models, or agents as agent:NAME, where the question is about them"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=PATIENCE,
        help=f"seconds of silence to wait for; {PATIENCE:g} by default",
    )
    given = parser.parse_args(argv)
    try:
        target = Gemini().resolve()
    except MissingCredentialsError:
        print(NEEDS, file=sys.stderr)
        return 2
    print((question or "").partition("\n")[0])
    with Service(target, given.model, given.words, given.patience) as service:
        try:
            for finding in ask(service):
                print(f"- {finding}", flush=True)
        except (RefusedError, requests.RequestException) as error:
            print(f"- No answer: {target.words(str(error))}")
            return 1
    return 0
