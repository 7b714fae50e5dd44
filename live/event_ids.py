"""Are event ids on every event?"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator

from live.kit import ESSAY, THINKS, Service, run


def ask(service: Service) -> Iterator[str]:
    """Count the events that have an id, by type."""
    for how, stream in service.both(ESSAY, generation_config=THINKS):
        every = Counter(seen.type for seen in stream.events)
        named = Counter(seen.type for seen in stream.events if seen.id)
        if every.total() == named.total():
            yield f"{how}: every event has an id, {every.total()} events"
        else:
            yield f"{how}: {named.total()} of {every.total()} events have an id: " + ", ".join(
                f"{kind} {named[kind]} of {count}" for kind, count in every.items()
            )
        ids = [seen.id for seen in stream.events if seen.id]
        if len(set(ids)) < len(ids):
            yield f"{how}: {len(ids) - len(set(ids))} ids stand on several events"


if __name__ == "__main__":
    sys.exit(run(__doc__, ask))
