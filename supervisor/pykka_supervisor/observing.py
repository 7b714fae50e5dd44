"""`ObserverActor`: the supervised actor in whose thread a tree's observers run."""

from __future__ import annotations

import contextlib
from typing import Any

import pykka

from .actor import SupervisedActor
from .child import ChildSpec
from .observe import Feed

__all__ = ["ObserverActor", "observers_spec"]


class _Look:
    """To the observer actor: there are records."""


_LOOK = _Look()


class ObserverActor(SupervisedActor):
    """Takes the records out of a feed and calls the observers. What waits outlives it."""

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self._feed = feed

    def on_start(self) -> None:
        """Have itself woken when there are records."""
        ref = self.actor_ref

        def wake() -> None:
            with contextlib.suppress(pykka.ActorDeadError):
                ref.tell(_LOOK)

        self._feed.attach(wake)

    def on_receive(self, message: Any) -> None:
        """Show all records that are there."""
        if message is _LOOK:
            self._show()

    def on_stop(self) -> None:
        """Show the rest, for as long as its supervisor waits."""
        self._show()

    def _show(self) -> None:
        while not self.retired and self._feed.show_one():
            pass


def observers_spec(feed: Feed) -> ChildSpec:
    """Specify the actor that shows a feed's records to its observers."""
    return ChildSpec(ObserverActor, (feed,), id="observers", shutdown=feed.shutdown)
