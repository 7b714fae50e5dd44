"""Server-sent events as a browser reads them."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

BROWSER = os.environ.get("BROWSER_PATH", "")
"""The Chromium of `make test-browser`."""


class Sent(NamedTuple):
    event: str
    data: str
    id: str | None

    @property
    def json(self) -> Any:
        return json.loads(self.data)


def parsed(body: bytes) -> list[Sent]:
    """Read a whole body by the rules of the HTML standard, for lines that end with LF."""
    found: list[Sent] = []
    for block in body.decode().split("\n\n"):
        fields: dict[str, list[str]] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            fields.setdefault(name, []).append(value.removeprefix(" "))
        if "data" in fields:
            found.append(Sent(fields["event"][0], "\n".join(fields["data"]), fields.get("id", [None])[0]))
    return found


class Tab:
    """One connection of an `EventSource`, on a socket."""

    def __init__(self, url: str, path: str, last_event_id: str | None = None) -> None:
        self._connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
        headers = {"Accept": "text/event-stream"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        self._connection.request("GET", path, headers=headers)
        self.response = self._connection.getresponse()

    def events(self) -> Iterator[Sent]:
        """Give the events as they come."""
        lines: list[bytes] = []
        for line in self.response:
            lines.append(line)
            if line == b"\n":
                yield from parsed(b"".join(lines))
                lines.clear()

    def close(self) -> None:
        self.response.close()
        self._connection.close()
