"""What does the stream of a run say that is cancelled?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from live.kit import ESSAY, THINKS, Service, Stream, run, told

EVENTS_BEFORE = 5


def ask(service: Service) -> Iterator[str]:
    """Cancel a run while its stream is read."""
    name = service.begin(ESSAY, generation_config=THINKS)
    answers: list[tuple[int, Any]] = []

    def on_event(stream: Stream) -> None:
        if len(stream.events) == EVENTS_BEFORE:
            answers.append(service.cancel(name))

    stream = service.watch(name, on_event=on_event)
    if not answers:
        yield f"it has ended before it could be cancelled: {len(stream.events)} events"
        return
    status, answer = answers[0]
    said = answer.get("status") if isinstance(answer, dict) and "status" in answer else told(status, answer)
    yield f"the cancel is answered {status}, {said}"
    behind = [seen.type for seen in stream.events[EVENTS_BEFORE:]]
    ending = stream.events[-1].data.get("interaction", {}).get("status")
    yield f"{len(behind)} events came behind it; the last one is {stream.events[-1].type}, status {ending}"
    rest = " ".join(stream.rest.decode("utf-8", "replace").split())[:300]
    yield f"the body's end: {stream.end}{', with [DONE]' if stream.done else ''}{f', behind {rest!r}' if rest else ''}"
    yield f"the resource says {service.resource(name).get('status')}"


if __name__ == "__main__":
    sys.exit(run(__doc__, ask))
