"""Why an actor ended.

`Normal` and `Shutdown` are orderly: a transient child is not restarted after them. All others are
abnormal. Reasons are immutable, compare by value and pickle.

After OTP: `normal`, `shutdown`, `killed`, `noproc`, and any other term for a crash.
"""

from __future__ import annotations

import pickle
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import TracebackType

__all__ = [
    "GAVE_UP",
    "Abandoned",
    "Crash",
    "Exit",
    "Gone",
    "Killed",
    "NoProc",
    "Normal",
    "RemoteError",
    "Shutdown",
    "StartFailed",
    "is_abnormal",
]


class RemoteError(Exception):
    """Stands for an exception that could not be pickled; its text is the original's."""


@dataclass(frozen=True, slots=True)
class Exit:
    """The base of all reasons. `str()` of one is a line for a log: its name, and what there is to say of it."""

    def __str__(self) -> str:
        said = getattr(self, "cause", "") or getattr(self, "detail", "")
        name = type(self).__name__
        return f"{name}: {said}" if said else name


@dataclass(frozen=True, slots=True)
class Normal(Exit):
    """It stopped itself, or was asked to by `ref.stop()`."""


@dataclass(frozen=True, slots=True)
class Shutdown(Exit):
    """Its supervisor ended it in order, or a supervisor ended itself: intensity, `auto_shutdown`."""

    detail: str = ""


GAVE_UP: Final = Shutdown("reached_max_restart_intensity")
"""Of a supervisor whose children died more often than its intensity allows."""


@dataclass(frozen=True, slots=True)
class Killed(Exit):
    """`kill(ref)`, or it outlasted its `shutdown` and then returned."""


@dataclass(frozen=True, slots=True)
class Abandoned(Exit):
    """It did not end within its limit; its thread was left behind and will find nothing to do."""

    detail: str = ""


@dataclass(frozen=True, slots=True)
class NoProc(Exit):
    """There was no actor to monitor: it was dead already."""


@dataclass(frozen=True, slots=True)
class Gone(Exit):
    """A plain Pykka actor that nobody supervises has ended; Pykka does not say why.

    `zombie`: its thread ended while `is_alive()` went on saying True.
    """

    zombie: bool = False

    def __str__(self) -> str:
        return "Gone: a zombie" if self.zombie else "Gone"


@dataclass(frozen=True, slots=True)
class Crash(Exit):
    """An exception left the handler of a message that was told.

    Or of any message, where the specification says `crash_on="any"` or the exception is no `Exception`.
    What `on_stop` or `on_failure` raises is reported and is no reason: the end was decided before.

    `exception` has no traceback any more, nor have those in its chain: their frames would keep the dead
    actor in memory. It is what was raised, or, where an asker has got that, one of the same class, with
    the same arguments and attributes. `cause` is one line, `trace` the traceback as text. Two crashes are
    equal when the type and text of what was raised are.
    """

    exception: BaseException | None = field(compare=False, repr=False)
    cause: str
    trace: str = field(default="", compare=False, repr=False)

    @classmethod
    def of(cls, exception: BaseException, *, shared: bool = False) -> Crash:
        """Make the reason for an exception that has just been caught. `shared`: an asker has it as well."""
        cause = _one_line(exception)
        trace = _trace(exception)
        if shared:
            return cls(_like(exception, cause), cause, trace)
        for one in _chain(exception):
            # Past the class's own `__setattr__`: a frozen dataclass refuses.
            BaseException.with_traceback(one, None)
        return cls(exception, cause, trace)

    def __reduce__(self) -> tuple[type[Crash], tuple[BaseException | None, str, str]]:
        return Crash, (_picklable(self.exception, self.cause), self.cause, self.trace)


@dataclass(frozen=True, slots=True)
class StartFailed(Exit):
    """`__init__` or `on_start` raised, took longer than `start_timeout`, or no thread could be started.

    `exception` is one of the same class as what was raised, with the same arguments and attributes. What
    was raised is the starter's; its traceback holds the frames of the start.
    """

    exception: BaseException | None = field(compare=False, repr=False)
    cause: str
    trace: str = field(default="", compare=False, repr=False)

    @classmethod
    def of(cls, exception: BaseException) -> StartFailed:
        """Make the reason for an exception, which is left as it is."""
        cause = _one_line(exception)
        return cls(_like(exception, cause), cause, _trace(exception))

    def __reduce__(self) -> tuple[type[StartFailed], tuple[BaseException | None, str, str]]:
        return StartFailed, (_picklable(self.exception, self.cause), self.cause, self.trace)


def is_abnormal(reason: Exit) -> bool:
    """Whether a transient child is restarted after it."""
    return not isinstance(reason, (Normal, Shutdown))


def forget_frames(exception: BaseException, trace: TracebackType) -> None:
    """Let the frames of an exception's traceback, and of its chain's, go of what they worked on; the text stays.

    `trace` is the traceback as this thread has it: another thread may have raised the exception again.
    """
    traceback.clear_frames(trace)
    for one in _chain(exception)[1:]:
        traceback.clear_frames(one.__traceback__)


def _chain(exception: BaseException) -> list[BaseException]:
    """List an exception, its causes and contexts, and what is in its groups."""
    chain: list[BaseException] = []
    seen: set[int] = set()
    left: list[BaseException | None] = [exception]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        chain.append(one)
        left += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            left += one.exceptions
    return chain


def _like(exception: BaseException, cause: str) -> BaseException:
    """Make one of the same class, without a traceback, and without a call of its `__init__`."""
    try:
        made = type(exception).__new__(type(exception), *exception.args)
        vars(made).update(vars(exception))
    except BaseException:  # noqa: BLE001
        return RemoteError(cause)
    return made


def _one_line(exception: BaseException) -> str:
    try:
        text = str(exception)
    except BaseException:  # noqa: BLE001
        text = "<its __str__ raised>"
    name = type(exception).__qualname__
    return f"{name}: {text}" if text else name


def _trace(exception: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(exception))
    except BaseException:  # noqa: BLE001
        return ""


def _picklable(exception: BaseException | None, cause: str) -> BaseException | None:
    if exception is None:
        return None
    try:
        pickle.loads(pickle.dumps(exception))  # noqa: S301
    except Exception:  # noqa: BLE001
        return RemoteError(cause)
    return exception
