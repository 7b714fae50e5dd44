"""`ChildSpec`: how a child is started, restarted and ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import pykka

from .checks import check_choice, check_count, check_flag, check_seconds, check_text
from .errors import InvalidSpecError
from .policy import RESTART_TYPES, Backoff, Decision, RestartType
from .siblings import Find, check_siblings, resolve_siblings

__all__ = ["ChildSpec", "ChildSpecLike", "as_child_spec", "as_child_specs"]


_FOREVER: Final = 1e9
"""Seconds; nothing that waits takes `math.inf`, nor much more than this."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How a child is started, restarted and ended. All times are seconds.

    What cannot be right is an InvalidSpecError.

    - `actor_class`, `args`, `kwargs`: what is started, each time. Any `pykka.ThreadingActor`.
    - `id`: unique among the children of a `Supervisor`; the class's name by default. A
      `DynamicSupervisor` needs none.
    - `restart`: `permanent` always, `transient` after an abnormal end, `temporary` never.
    - `shutdown`: how long it may take to end in order; then it is killed, and abandoned if that does
      not help. None: for ever. 0: it is killed at once. A supervisor gets, on top of its own, what
      its children are allowed.
    - `type`: `worker` or `supervisor`; for `count_children`, and taken from the class if it is one.
    - `significant`: its end by itself counts for its supervisor's `auto_shutdown`.
    - `start_timeout`: how long `__init__` and `on_start`, both in the child's thread, may take before that
      is abandoned. The supervisor waits for it, as OTP's does. None: at the first start it waits for
      `__init__` alone, without which there is no ref, and at a restart for nothing; a failure of what it
      does not wait for is an end like any other.
    - `hang_after`: a single message that takes longer than this has the incarnation abandoned and
      replaced. How much waits in the inbox plays no part.
    - `backoff`: how long to wait before a restart. Or a function from the reason to seconds or
      `GIVE_UP`, called in the supervisor's thread; then no intensity is counted for this child. An
      exception in it is reported, and gives up.
    - `crash_on`: `"any"`: an exception that is answered to an ask or a proxy call also ends the actor,
      as OTP has it; `"tell"` is Pykka's rule.
    - `name`: for `whereis`; held through restarts.
    - `max_buffered`: how many messages may wait while it is restarted; what comes then is a dead
      letter. None: as many as come.

    After OTP's `child_spec()`; `start_timeout`, `hang_after`, `backoff`, `crash_on`, `name` and
    `max_buffered` are not OTP's.
    """

    actor_class: type[pykka.ThreadingActor]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None
    id: str | None = field(default=None, kw_only=True)
    restart: RestartType = field(default="permanent", kw_only=True)
    shutdown: float | None = field(default=5.0, kw_only=True)
    type: Literal["worker", "supervisor"] = field(default="worker", kw_only=True)
    significant: bool = field(default=False, kw_only=True)
    start_timeout: float | None = field(default=5.0, kw_only=True)
    hang_after: float | None = field(default=None, kw_only=True)
    backoff: Backoff | Decision | None = field(default=None, kw_only=True)
    crash_on: Literal["tell", "any"] = field(default="tell", kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    max_buffered: int | None = field(default=None, kw_only=True)
    _has_siblings: bool = field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        cls: object = self.actor_class
        if not (isinstance(cls, type) and issubclass(cls, pykka.ThreadingActor)):
            raise InvalidSpecError(f"a child's class must be a pykka.ThreadingActor, not {cls!r}")
        if not isinstance(self.args, tuple | list):
            raise InvalidSpecError(f"args must be a tuple of arguments; not {self.args!r}")
        object.__setattr__(self, "args", tuple(self.args))
        kwargs: object = self.kwargs
        if kwargs is not None and not (
            isinstance(kwargs, Mapping) and all(isinstance(key, str) for key in kwargs)
        ):
            raise InvalidSpecError(
                f"kwargs must be a mapping from names to arguments, or None; not {kwargs!r}"
            )
        check_text("id", self.id, none="the class's name")
        check_text("name", self.name, none="no name")
        check_choice("restart", self.restart, RESTART_TYPES)
        check_choice("type", self.type, ("worker", "supervisor"))
        check_choice("crash_on", self.crash_on, ("tell", "any"))
        check_flag("significant", self.significant)
        check_seconds("shutdown", self.shutdown, zero=True, forever=True, none="for ever")
        check_seconds("start_timeout", self.start_timeout, forever=True, none="the supervisor does not wait")
        check_seconds("hang_after", self.hang_after, forever=True, none="never")
        check_count("max_buffered", self.max_buffered, none="any number")
        if not (self.backoff is None or isinstance(self.backoff, Backoff) or callable(self.backoff)):
            raise InvalidSpecError(
                f"backoff must be a Backoff, a function from the reason to seconds or GIVE_UP, or None;"
                f" not {self.backoff!r}"
            )
        if self.significant and self.restart == "permanent":
            raise InvalidSpecError("a permanent child cannot be significant: it never ends by itself")
        if self.shutdown is not None and self.shutdown >= _FOREVER:
            object.__setattr__(self, "shutdown", None)
        if self.start_timeout is not None and self.start_timeout > _FOREVER:
            object.__setattr__(self, "start_timeout", _FOREVER)
        if self.hang_after is not None and self.hang_after >= _FOREVER:
            object.__setattr__(self, "hang_after", None)
        if getattr(cls, "_is_supervisor", False):
            object.__setattr__(self, "type", "supervisor")
        arguments = [*self.args, *(self.kwargs or {}).values()]
        object.__setattr__(self, "_has_siblings", check_siblings(arguments, deep=self.type == "worker"))

    def arguments(self, find: Find) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """Give the arguments of a start, with each `sibling(...)` replaced by what `find` gives."""
        kwargs = self.kwargs or {}
        if not self._has_siblings:
            return self.args, kwargs
        return resolve_siblings(self.args, kwargs, find, deep=self.type == "worker")

    @property
    def key(self) -> str:
        """The `id`, or the name of the class."""
        return self.id or self.actor_class.__name__


ChildSpecLike: TypeAlias = (
    "ChildSpec | type[pykka.ThreadingActor] | tuple[type[Any], Mapping[str, Any]] | Any"
)
"""A `ChildSpec`; an actor class; `(class, kwargs)`; or anything with a `child_spec()`."""


def as_child_spec(child: ChildSpecLike) -> ChildSpec:
    """Make a `ChildSpec` of whatever a list of children may hold.

    Raises InvalidSpecError. A class that has a `child_spec()` is asked for it, with the kwargs.
    """
    if isinstance(child, ChildSpec):
        return child
    kwargs: Mapping[str, Any] = {}
    if isinstance(child, tuple):
        if len(child) != 2 or not isinstance(child[1], Mapping):
            raise InvalidSpecError(f"a child given as a tuple must be (class, kwargs), not {child!r}")
        child, kwargs = child
    make: Callable[..., Any] | None = getattr(child, "child_spec", None)
    if make is not None:
        spec = make(**kwargs)
        if not isinstance(spec, ChildSpec):
            raise InvalidSpecError(f"child_spec() of {child!r} returned {spec!r}")
        return spec
    if isinstance(child, type):
        return ChildSpec(child, kwargs=kwargs)
    raise InvalidSpecError(f"{child!r} is no child specification")


def as_child_specs(children: Iterable[ChildSpecLike]) -> list[ChildSpec]:
    """Make a list of `ChildSpec`s; InvalidSpecError where it is no list of children."""
    given: object = children
    if not isinstance(given, Iterable) or isinstance(given, str | bytes | Mapping):
        raise InvalidSpecError(f"children must be a list of child specifications; not {given!r}")
    return [as_child_spec(child) for child in given]
