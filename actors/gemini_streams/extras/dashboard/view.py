"""What the dashboard shows: gathered once a second in its actor's thread, and read by the threads of its viewers.

The rules:

- A look at all streams is only taken while a viewer is connected. The figures are taken each second, for their
  histories.
- Each look is encoded once for all viewers: as a whole (`full`), and as what has changed since the look before it
  (`change`). A viewer that has missed one is given the whole.
- What is kept here outlives the actor, so its histories go on behind a crash.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, deque
from typing import Any

import msgspec
import pykka

from gemini_streams.extras.dashboard.journal import Journal
from gemini_streams.extras.managers import Managers, OneManager
from gemini_streams.streams.glance import Glance, glance
from gemini_streams.streams.status import ENDED
from pykka_supervisor import Node, root_of, snapshot, whereis

__all__ = ["Frame", "View"]

_HISTORY = 180
"""Looks that a figure's history holds."""
_SHOWN_STREAMS = 40
"""Streams' actors that the page's tree shows below one supervisor; `/tree.json` has all."""
_MANY = 500
_UNWATCHED = 5
"""Looks of which one takes the figures of each stream, while no viewer is connected."""
_TOO_SOON = 0.5
"""Seconds within which a second look is none for the histories: a viewer has come between two."""
_STILL = 5.0
"""Seconds between two looks at a tree with `_MANY` actors."""
_WORD = re.compile(r"(\w+)(?:: ([\w.]{1,80})(?=[:(]|$))?")

FIGURES = ("running", "queued", "restarting", "paused", "subscribers", "waiting", "events", "failures")
COLUMNS = (
    "run",
    "stream_id",
    "tag",
    "model",
    "status",
    "started_at",
    "lasted",
    "events",
    "rate",
    "attempt",
    "subscribers",
    "waiting",
    "paused",
    "error",
    "manager",
)

_encode = msgspec.json.Encoder().encode


class Frame:
    """One look, as the viewers get it."""

    __slots__ = ("_full", "change", "number", "parts")

    def __init__(self, number: int, parts: dict[str, Any], change: bytes) -> None:
        self.number = number
        self.parts = parts
        self.change = change
        self._full: bytes | None = None

    @property
    def full(self) -> bytes:
        """The whole, encoded at the first use."""
        if self._full is None:
            self._full = _encode({**self.parts, "whole": True})
        return self._full


class View:
    """One dashboard's."""

    def __init__(self, managers: tuple[OneManager, ...]) -> None:
        self.given = managers
        self.journal = Journal()
        self.collector: Any = None
        """What counts for `/metrics`, once there is one."""
        self.managers = Managers(managers, self.journal)
        self.several = len(managers) > 1
        self.changed = threading.Condition()
        self._frame: Frame | None = None
        self._histories: dict[str, deque[float]] = {name: deque(maxlen=_HISTORY) for name in FIGURES}
        self._rows: dict[str, tuple[Any, ...]] = {}
        self._rates: dict[str, tuple[int, float, float]] = {}
        self._last: tuple[float, int, int] | None = None
        self._figures: dict[str, float] = {}
        self._looks = 0
        self._tree: Any = None
        self._tree_due = 0.0

    # -- the actor's thread

    def look(self, *, watched: bool) -> None:
        """Take the figures, and while a viewer is connected everything else too; then tell the viewers."""
        found = self._found()
        now = time.monotonic()
        stats = [table.stats() for _, table in found]
        glances: list[tuple[Any, Glance]] = []
        if watched or self._looks % _UNWATCHED == 0:
            glances = [(manager, glance(session)) for manager, table in found for session in table.all()]
            self._figures["paused"] = sum(each.paused is not None for _, each in glances)
            self._figures["waiting"] = sum(each.waiting for _, each in glances)
        self._looks += 1
        self._count(stats, now)
        if watched:
            self._show(found, glances, stats, now)

    def _count(self, stats: list[Any], now: float) -> None:
        """Take the figures, and note them in their histories."""
        by_status: Counter[str] = Counter()
        for each in stats:
            by_status.update(each.streams_by_status)
        self._figures |= {
            "running": by_status["starting"] + by_status["active"],
            "queued": by_status["queued"],
            "restarting": by_status["restarting"],
            "subscribers": sum(each.total_subscribers for each in stats),
        }
        events, failed = sum(each.events for each in stats), self.journal.failed
        since = self._last or (now - 1.0, events, failed)
        passed = now - since[0]
        if passed > _TOO_SOON:
            self._last = (now, events, failed)
            self._figures["events"] = round(max(0, events - since[1]) / passed, 1)
            self._figures["failures"] = round((failed - since[2]) / passed, 1)
            for name, value in self._figures.items():
                self._histories[name].append(value)

    def _found(self) -> list[tuple[Any, Any]]:
        return list({id(table): (ref, table) for ref, table in self.managers.found()}.values())

    def _labels(self, found: list[tuple[Any, Any]]) -> dict[str, str]:
        """Name each manager: as it is registered, or else by the end of its URN."""
        labels = {ref.actor_urn: ref.actor_urn[-4:] for ref, _ in found}
        for name in self.given:
            ref = whereis(name) if isinstance(name, str) else None
            if ref is not None and ref.actor_urn in labels:
                labels[ref.actor_urn] = str(name)
        return labels

    def _show(
        self,
        found: list[tuple[Any, Any]],
        glances: list[tuple[Any, Glance]],
        stats: list[Any],
        now: float,
    ) -> None:
        rows = {}
        rates = {}
        labels = self._labels(found) if self.several else {}
        for manager, seen in glances:
            before = self._rates.get(seen.run)
            rate = _rate(before, seen, now)
            rates[seen.run] = (seen.events, now, rate)
            rows[seen.run] = _row(seen, rate, labels.get(manager.actor_urn, ""))
        changed = [row for run, row in rows.items() if self._rows.get(run) != row]
        gone = [run for run in self._rows if run not in rows]
        self._rows, self._rates = rows, rates
        if now >= self._tree_due:
            self._tree = [_shown(node) for node in self._trees(found)]
            self._tree_due = now + (_STILL if len(rows) > _MANY else 0.0)
        at = time.time()
        parts: dict[str, Any] = {
            "at": at,
            "figures": dict(self._figures),
            "histories": {name: list(values) for name, values in self._histories.items()},
            "counts": {
                "managers": len(found),
                "slots": sum(each.max_streams for each in stats),
                "visible": len(rows),
                "started": sum(each.started for each in stats),
                "completed": sum(each.completed for each in stats),
                "failed": sum(each.failed for each in stats),
                "stopped": sum(each.stopped for each in stats),
                "restarts": sum(each.restarts for each in stats),
                "lost": sum(each.observer_lost for each in stats),
            },
            "tree": self._tree,
            "failures": self.journal.failures(),
            "minutes": self.journal.minutes(at),
            "rows": list(rows.values()),
            "gone": [],
        }
        changes = {**parts, "rows": changed, "gone": gone, "whole": False}
        counted = self._last is not None and self._last[0] == now
        changes["histories"] = {name: values[-1] for name, values in self._histories.items() if counted}
        with self.changed:
            number = 1 if self._frame is None else self._frame.number + 1
            self._frame = Frame(number, parts, _encode(changes))
            self.changed.notify_all()

    def leave(self) -> None:
        """Take note of nothing more."""
        self.managers.leave()
        if self.collector is not None:
            self.collector.close()

    # -- any thread

    @property
    def number(self) -> int:
        """The latest look's; 0 before the first."""
        frame = self._frame
        return 0 if frame is None else frame.number

    def after(self, number: int, timeout: float, closed: threading.Event) -> Frame | None:
        """Wait for a look with a higher number; `None` where there is none in time, or the server closes."""
        with self.changed:
            self.changed.wait_for(lambda: closed.is_set() or self.number > number, timeout)
            return self._frame if self.number > number else None

    def streams_json(self) -> bytes:
        """Return all streams as they are now."""
        found = self._found()
        streams = [msgspec.structs.asdict(glance(session)) for _, table in found for session in table.all()]
        stats = [msgspec.structs.asdict(table.stats()) for _, table in found]
        return _encode({"at": time.time(), "streams": streams, "managers": stats})

    def stream_json(self, run: str) -> bytes | None:
        """Return one stream and its time line; `None` where nothing is known of it."""
        line = self.journal.line(run)
        seen = next(
            (
                msgspec.structs.asdict(glance(session))
                for _, table in self._found()
                for session in table.all()
                if session.run == run
            ),
            None,
        )
        if line is None and seen is None:
            return None
        steps = [{"at": at, "kind": kind, "text": text} for at, kind, text in line or ()]
        return _encode({"at": time.time(), "stream": seen, "steps": steps})

    def tree_json(self) -> bytes:
        """Return the whole tree of each manager, from its top."""
        return _encode({"at": time.time(), "trees": [_plain(node) for node in self._trees(self._found())]})

    def _trees(self, found: list[tuple[Any, Any]]) -> list[Node]:
        roots = {}
        for manager, _ in found:
            root = root_of(manager)
            roots[root.actor_urn] = root
        nodes = []
        for root in roots.values():
            try:
                nodes.append(snapshot(root))
            except (pykka.ActorDeadError, TypeError):
                continue
        return nodes


def _rate(before: tuple[int, float, float] | None, seen: Glance, now: float) -> float:
    """Return the events a second, evened out over some seconds."""
    if seen.status in ENDED or before is None:
        return 0.0
    events, at, rate = before
    passed = max(now - at, 0.001)
    part = min(1.0, passed / 3.0)
    smooth = rate + (max(0, seen.events - events) / passed - rate) * part
    return round(smooth, 1)


def _row(seen: Glance, rate: float, manager: str) -> tuple[Any, ...]:
    return (
        seen.run,
        seen.stream_id[:200],
        seen.tag,
        seen.model[:200],
        seen.status,
        round(seen.started_at, 2),
        round(seen.age, 2) if seen.status in ENDED else None,
        seen.events,
        rate,
        seen.attempt,
        seen.subscribers,
        seen.waiting,
        None if seen.paused is None else int(seen.paused),
        None if seen.error is None else seen.error[:200],
        manager,
    )


def _reason(text: str | None) -> str | None:
    """Return a reason without its exception's text, which may hold anything."""
    if text is None:
        return None
    match = _WORD.match(text)
    return ": ".join(filter(None, match.groups())) if match else "unknown"


def _plain(node: Node) -> dict[str, Any]:
    return {**_own(node), "children": [_plain(child) for child in node.children]}


def _shown(node: Node) -> dict[str, Any]:
    """Return a tree for the page: of many streams only some, those that have something to tell first."""
    children = node.children
    left_out = 0
    if len(children) > _SHOWN_STREAMS:
        told = sorted(children, key=lambda child: (child.status == "running", -child.restarts))
        chosen = {id(child) for child in told[:_SHOWN_STREAMS]}
        left_out = len(children) - len(chosen)
        children = tuple(child for child in children if id(child) in chosen)
    return {**_own(node), "left_out": left_out, "children": [_shown(child) for child in children]}


def _own(node: Node) -> dict[str, Any]:
    return {
        "id": node.id[:200],
        "type": node.type,
        "class": node.actor_class,
        "name": node.name,
        "status": node.status,
        "generation": node.generation,
        "restarts": node.restarts,
        "last_reason": _reason(node.last_reason),
        "inbox": node.inbox,
        "dead_letters": node.dead_letters,
        "running_for": None if node.running_for is None else round(node.running_for, 1),
        "abandoned": node.abandoned,
    }
