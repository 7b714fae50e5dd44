"""What can be refused, all under `SupervisorError`.

An exception of the child's own start is raised as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pykka

__all__ = [
    "ActorKilledError",
    "AlreadyPresentError",
    "AlreadyStartedError",
    "ChildNotFoundError",
    "ChildRestartingError",
    "ChildRunningError",
    "IgnoreStart",
    "InvalidSpecError",
    "MaxChildrenError",
    "NameTakenError",
    "StartError",
    "StartTimeoutError",
    "SupervisorError",
]


class SupervisorError(Exception):
    """The base of this package's errors."""


class InvalidSpecError(SupervisorError, ValueError):
    """A child specification, or a supervisor's options, cannot be right."""


class StartError(SupervisorError):
    """An actor could not be started; the cause is chained where there is one."""


class StartTimeoutError(StartError, TimeoutError):
    """`__init__` and `on_start` took longer than `start_timeout`; their thread has been abandoned."""


class NameTakenError(StartError, ValueError):
    """Another live actor has this name."""


class AlreadyStartedError(SupervisorError):
    """A child of this id runs; `ref` is its ref. OTP: `already_started`.

    Refs do not pickle: what is unpickled has no `ref`.
    """

    ref: pykka.ActorRef[Any]

    def __init__(self, child_id: str, ref: pykka.ActorRef[Any]) -> None:
        super().__init__(f"a child with id {child_id!r} runs already")
        self.ref = ref

    def __reduce__(self) -> tuple[Any, ...]:
        return _without_init, (type(self), self.args)


class AlreadyPresentError(SupervisorError):
    """A child of this id is known but does not run, or waits for its restart. OTP: `already_present`."""


class ChildNotFoundError(SupervisorError, LookupError):
    """There is no such child. OTP: `not_found`."""


class ChildRunningError(SupervisorError):
    """The child runs. OTP: `running`."""


class ChildRestartingError(SupervisorError):
    """The child waits for its restart. OTP: `restarting`."""


class MaxChildrenError(SupervisorError):
    """The dynamic supervisor has `max_children` already. Elixir: `max_children`."""


class IgnoreStart(Exception):  # noqa: N818
    """Raised by `__init__` or `on_start` of a child that is not needed: no error, no actor. OTP: `ignore`."""


class ActorKilledError(BaseException):
    """What `on_failure` gets of an actor that was killed; it is never raised."""


def _without_init(error_class: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Unpickle an error whose `__init__` takes what does not pickle."""
    return error_class.__new__(error_class, *args)
