"""A plain Pykka application, supervised: nothing in its actor classes knows of it.

A feed hands out numbers and crashes now and then; a printer prints them. The supervisor restarts the
feed under the ref that the printer keeps, after a wait that grows while it goes on crashing.

    python examples/plain_pykka_supervision.py
"""

from __future__ import annotations

import logging
from typing import Any

import pykka

from pykka_supervisor import Backoff, ChildSpec, Down, Supervisor, monitor, sibling, snapshot


class Feed(pykka.ThreadingActor):
    """Knows the next number; falls over at every fourth question."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def next(self) -> int:
        """Count the questions of this life."""
        self.asked += 1
        if self.asked == 4:
            self.actor_ref.proxy().fall_over.defer()
        return self.asked

    def fall_over(self) -> None:
        """Raise, in answer to a `tell`: that ends a Pykka actor."""
        raise ConnectionError("the feed has gone away")


class Printer(pykka.ThreadingActor):
    """Prints what the feed says. It keeps one proxy for ever."""

    def __init__(self, feed: pykka.ActorRef[Feed]) -> None:
        super().__init__()
        self._feed: Any = feed.proxy()

    def print_one(self) -> None:
        """Ask for a number; the question waits while the feed is restarted."""
        print(f"the feed says {self._feed.next().get(timeout=5)}")


def main() -> None:
    """Run a tree of two children through a few crashes."""
    logging.getLogger("pykka_supervisor").setLevel(logging.CRITICAL)  # the reports are not the point here
    tree = Supervisor.start(
        [
            ChildSpec(Feed, id="feed", backoff=Backoff(minimum=0.05, maximum=1.0)),
            ChildSpec(Printer, kwargs={"feed": sibling("feed")}, id="printer"),
        ],
        strategy="one_for_one",
        max_restarts=5,
    )
    feed, printer = (child.ref for child in tree.which_children())
    if feed is None or printer is None:
        raise SystemExit("both children run once start() has returned")

    def say(down: Down) -> None:
        print(f"the feed ended: {getattr(down.reason, 'cause', down.reason)}")
        if down.restarting:
            monitor(feed, notify=say)

    monitor(feed, notify=say)
    proxy: Any = printer.proxy()
    for _ in range(10):
        proxy.print_one().get()
    for child in snapshot(tree).children:
        print(f"{child.id}: {child.status}, incarnation {child.generation}")
    tree.stop()


if __name__ == "__main__":
    main()
