"""What the parts of a supervised actor know of one another: each as the part below it sees it.

An actor is made of an instance, an incarnation that runs it, a cell that lasts and a ref that points at the cell. Each
knows the others, and the modules stand in this order: `dispatch`, `birth`, `incarnation`, `ref`, `cell`, `actor`. So a
module names what stands above it by one of these.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, ClassVar, Protocol

import pykka

from .clock import Clock
from .exits import Exit
from .forks import Home
from .mailbox import Mailbox
from .policy import RestartType

__all__ = ["Cancelable", "Instance", "Linked", "Owner", "Whole"]


class Cancelable(Protocol):
    """A monitor, as far as its owner's end is concerned."""

    def cancel(self) -> bool:
        """Take it back."""


class Linked(Protocol):
    """What ends with an incarnation."""

    def end(self) -> None:
        """End it and wait for that; in the incarnation's own thread."""
        ...

    def cut(self) -> None:
        """Begin to end it; in another thread, where the incarnation is abandoned."""
        ...


class Owner(Protocol):
    """A cell, as far as the handling of messages is concerned."""

    clock: Clock
    crash_on: Any
    mailbox: Mailbox

    @property
    def actor_class(self) -> type[pykka.ThreadingActor]:
        """The application's class."""

    @property
    def ref(self) -> pykka.ActorRef[Any]:
        """The actor's ref."""


class Whole(Owner, Protocol):
    """A cell, as far as one of its incarnations is concerned."""

    lock: threading.Lock
    home: Home
    interruptible: bool
    restart: RestartType
    taps: tuple[Any, ...]

    @property
    def run_class(self) -> Any:
        """The class that is run: the application's, or a subclass of it. Its instances are `Instance`s."""

    @property
    def supervisor(self) -> Whole | None:
        """The cell of the supervisor."""

    @property
    def incarnation(self) -> Any:
        """The present incarnation."""

    def has_children(self) -> bool:
        """Whether it is a supervisor's."""

    def is_referenced_by(self, ref: object) -> bool:
        """Whether a ref is this actor's."""

    def register(self) -> None:
        """Enter the actor in Pykka's registry."""

    def observe(self, record: Any, generation: int, **more: Any) -> None:
        """Tell what observes the actor."""

    def begin_end(self, incarnation: Any, reason: Exit) -> bool:
        """Decide whether the end of an incarnation is final."""

    def ended(self, incarnation: Any, reason: Exit) -> None:
        """Say that an incarnation's thread is about to end."""


class Instance(Protocol):
    """An instance of the class that is run, as far as its incarnation and its cell are concerned."""

    ref_class: ClassVar[type[Any]]
    actor_urn: str
    actor_inbox: Any
    actor_stopped: threading.Event
    _supervised_incarnation: Any
    _supervised_ref: Any

    def interrupt(self) -> None:
        """Free the actor's thread from any wait."""

    def on_start(self) -> None:
        """Begin."""

    def on_receive(self, message: Any) -> Any:
        """Handle a message."""

    def on_proxy_message(self, message: Any) -> Any:
        """Handle what a proxy sends."""

    def on_stop(self) -> None:
        """Clean up behind a stop."""

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Clean up behind a crash or a kill."""

    @staticmethod
    def _supervised_has_interrupt(actor_class: type[pykka.ThreadingActor]) -> bool:
        """Whether a class has an `interrupt()` that is meant for us."""

    def _supervised_wind_down(self) -> None:
        """End what lives only by this actor."""

    def _supervised_abandoned(self) -> None:
        """End the children of a supervisor whose thread was left behind."""

    def _supervised_forgets(self, child: Any) -> bool:
        """Forget a child that has ended in order."""

    def _supervised_allowance(self) -> float | None:
        """Seconds that ending the children may take."""
