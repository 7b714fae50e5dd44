"""When does usage come: on which events, and how long behind the end on the resource?"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

from live.kit import SHORT, Seen, Service, run

LOOKS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds behind the end of the stream at which the resource is looked at."""


def _places(seen: Seen) -> list[str]:
    data: dict[str, Any] = seen.data
    places = {
        "usage": data.get("usage"),
        "step_usage": data.get("step_usage"),
        "metadata.total_usage": data.get("metadata", {}).get("total_usage"),
        "interaction.usage": data.get("interaction", {}).get("usage"),
    }
    return [f"{seen.type} {place}" for place, value in places.items() if value]


def ask(service: Service) -> Iterator[str]:
    """Look where tokens are named."""
    for how, stream in service.both(SHORT):
        ended = time.monotonic()
        places = list(dict.fromkeys(place for seen in stream.events for place in _places(seen)))
        last = stream.events[-1] if stream.events else None
        at_end = last is not None and any("interaction.usage" in place for place in _places(last))
        yield f"{how}: the last event has {'its' if at_end else 'NO'} usage; it stands in {', '.join(places) or 'none'}"
        name = stream.interaction_id
        for look in LOOKS:
            time.sleep(max(0.0, ended + look - time.monotonic()))
            if service.resource(name).get("usage"):
                yield f"{how}: the resource has it {look:g} s behind the end"
                break
        else:
            yield f"{how}: the resource has none {LOOKS[-1]:g} s behind the end"


if __name__ == "__main__":
    sys.exit(run(__doc__, ask))
