"""What stands at the ten-minute cut of a stream?

It takes more than ten minutes, and costs what the run costs. A model may end before the cut; an agent works for longer:
`python -m live.ten_minutes agent:deep-research-preview-04-2026`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from live.kit import Service, Stream, run

LONG = (
    "Write a book of 40 chapters about the tides of every coast of the Earth, each chapter of at least 1,500 words, one"
    " after another, and do not stop before the last one."
)


def _cut(stream: Stream) -> Iterator[str]:
    kinds = stream.events[-1].type if stream.events else "no event"
    ended = stream.events and stream.events[-1].type == "interaction.completed"
    if ended:
        yield f"no cut: the run has ended after {stream.seconds:.1f} s, {len(stream.events)} events"
        return
    yield f"cut after {stream.seconds:.1f} s and {len(stream.events)} events, the last is {kinds}"
    rest = stream.rest.strip()
    yield f"behind it stand {len(rest)} bytes: {' '.join(rest.decode('utf-8', 'replace').split())[:300]!r}"
    yield f"then the body's end: {stream.end}{', with [DONE]' if stream.done else ''}"


def ask(service: Service) -> Iterator[str]:
    """Read a long run until its stream is cut, then go on behind the newest id."""
    name = service.begin(LONG, who=service.words[0] if service.words else None)
    stream = service.watch(name)
    yield from _cut(stream)
    if stream.events and stream.events[-1].type != "interaction.completed":
        yield f"the resource says {service.resource(name).get('status')}"
        newest = stream.last_id
        again = service.watch(name, newest, most=1)
        got = again.events[0].type if again.events else "nothing"
        where = "no id, so from the first event" if newest is None else "behind the newest id"
        yield f"asked again ({where}): {again.status}, {got}"


if __name__ == "__main__":
    sys.exit(run(__doc__, ask))
