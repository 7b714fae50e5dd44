"""Do the indices of steps start at 0, without a step for the user's input?"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from live.kit import SHORT, THINKS, Service, Stream, run


def _started(stream: Stream) -> list[tuple[int, str]]:
    return [
        (seen.data.get("index", -1), seen.data.get("step", {}).get("type", "?"))
        for seen in stream.events
        if seen.type == "step.start"
    ]


def ask(service: Service) -> Iterator[str]:
    """Compare the steps of a stream with those of its resource."""
    for how, stream in service.both(SHORT, generation_config=THINKS):
        started = _started(stream)
        if not started:
            yield f"{how}: no step has started ({len(stream.events)} events)"
            continue
        told = [kind for _, kind in started]
        which = "with" if "user_input" in told else "without"
        yield (
            f"{how}: the stream's indices start at {started[0][0]}, {which} a user_input step: "
            + ", ".join(f"{index} {kind}" for index, kind in started)
        )
        steps = service.resource(stream.interaction_id).get("steps", [])
        yield f"{how}: the resource's steps are " + ", ".join(
            f"{number} {step.get('type')}" for number, step in enumerate(steps)
        )


if __name__ == "__main__":
    sys.exit(run(__doc__, ask))
