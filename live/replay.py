"""Does a replay cut the deltas differently from the live stream, and does it begin exactly behind an id?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from live.kit import ESSAY, THINKS, Seen, Service, run, strings_of

EVENTS_BEFORE_THE_BREAK = 8


def _shape(events: list[Seen]) -> list[Any]:
    """What the events say, in the cut in which they say it; without ids and times."""
    return [
        (seen.type, seen.data.get("index"), seen.data.get("delta"), seen.data.get("step")) for seen in events
    ]


def ask(service: Service) -> Iterator[str]:
    """Read a run while it is made, with a break, then once more from its first event, then from the middle."""
    name = service.begin(ESSAY, generation_config=THINKS)
    first = service.watch(name, most=EVENTS_BEFORE_THE_BREAK)
    newest = first.last_id
    rest = service.watch(name, newest)
    again = service.watch(name)
    if newest is None:
        yield "no event before the break has an id: what was asked for behind it came from the first event on"
        live = rest.events
    else:
        upto = max(number for number, seen in enumerate(first.events) if seen.id == newest) + 1
        live = first.events[:upto] + rest.events
        exact = strings_of(live) == strings_of(again.events)
        yield (
            f"behind an id in the middle of the run the stream goes on {'exactly there' if exact else 'ELSEWHERE'}"
        )
    same = strings_of(live) == strings_of(again.events)
    yield f"the replay has {'the same' if same else 'ANOTHER'} content"
    if _shape(live) == _shape(again.events):
        yield f"the replay is cut as the live stream was: {len(live)} events"
    else:
        yield f"the replay is cut differently: {len(live)} events live, {len(again.events)} in the replay"
    ids = [seen.id for seen in live if seen.id]
    kept = {seen.id for seen in again.events}
    yield f"{sum(each in kept for each in ids)} of the {len(ids)} live ids stand in the replay"
    if not ids:
        return
    middle = ids[len(ids) // 2]
    tail = service.watch(name, middle).events
    at = next((number for number, seen in enumerate(again.events) if seen.id == middle), None)
    if at is not None:
        exact = strings_of(tail) == strings_of(again.events[at + 1 :])
        yield f"a replay behind an id begins {'exactly there' if exact else 'ELSEWHERE'}, {len(tail)} events"


if __name__ == "__main__":
    sys.exit(run(__doc__, ask))
