"""What does a `last_event_id` that the service does not know answer?"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from live.kit import SHORT, Service, Stream, run, told


def _what(stream: Stream, whole: int) -> str:
    if stream.events:
        where = "all of them" if len(stream.events) == whole else f"of the run's {whole}"
        return f"{stream.status}, {len(stream.events)} events, {where}; the first is {stream.events[0].type}"
    return told(stream.status, stream.rest.decode("utf-8", "replace"))


def ask(service: Service) -> Iterator[str]:
    """Ask with nonsense, and with an id of another interaction."""
    name, other = service.begin(SHORT), service.begin(SHORT)
    whole = len(service.watch(name).events)
    foreign = service.watch(other).last_id
    yield f"nonsense: {_what(service.watch(name, 'nonsense'), whole)}"
    if foreign is None:
        yield "another interaction's id: its events have none"
    else:
        yield f"another interaction's id: {_what(service.watch(name, foreign), whole)}"


if __name__ == "__main__":
    sys.exit(run(__doc__, ask))
