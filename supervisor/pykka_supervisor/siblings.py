"""`sibling(...)` among the arguments of a child: where it may stand, and what becomes of it at a start.

The rules:

- A sibling may be an argument, or stand in a list, tuple, dict or set among the arguments, however deep. At
  each start, such a container is copied with refs in it; all others are passed as they are.
- In any other kind of these, a `defaultdict` say, it is refused when the specification is made.
- The arguments of a supervisor are looked at, and not what stands in them: its children's are its own.
- A restart that needs a sibling which is itself being restarted waits for that, and is no failed restart.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pykka

from .checks import check_text
from .errors import InvalidSpecError, StartError

__all__ = ["Sibling", "SiblingRestartingError", "check_siblings", "resolve_siblings", "sibling"]


@dataclass(frozen=True, slots=True)
class Sibling:
    """See `sibling`."""

    id: str


class SiblingRestartingError(StartError):
    """A start needs a sibling that is itself being restarted."""

    def __init__(self, child_id: str) -> None:
        super().__init__(f"the sibling {child_id!r} is being restarted")
        self.child_id = child_id


def sibling(child_id: str) -> Any:
    """Among the arguments of a child: becomes the ref of that earlier child of the same supervisor.

    Also in a list, tuple, dict or set among them. It is looked up at each start, so after a restart of the
    earlier one too. While that one is being restarted, a restart of this one waits for it. A start with a
    sibling that does not run, or comes later, is a StartError.
    """
    check_text("a sibling's id", child_id)
    return Sibling(child_id)


Find = Callable[[str], pykka.ActorRef[Any]]

_CONTAINERS = (list, tuple, set, frozenset, deque, dict)
_PLAIN = frozenset({bool, bytes, complex, float, int, str, type(None)})


def check_siblings(arguments: Iterable[Any], *, deep: bool) -> bool:
    """Say whether there is a sibling among these arguments; InvalidSpecError where it cannot be replaced."""
    arguments = list(arguments)
    if not deep:
        return any(isinstance(value, Sibling) for value in arguments)
    if not _is_anywhere_in(arguments):
        return False
    try:
        _resolved(arguments, lambda child_id: child_id)
    except RecursionError:
        raise InvalidSpecError(
            "a sibling() stands among arguments that hold themselves, or are nested too deep"
        ) from None
    return True


def resolve_siblings(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], find: Find, *, deep: bool
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Give the arguments of a start, with each `sibling(...)` replaced by what `find` gives."""

    def resolved(value: Any) -> Any:
        if deep:
            return _resolved(value, find)
        return find(value.id) if isinstance(value, Sibling) else value

    return tuple(map(resolved, args)), {key: resolved(value) for key, value in kwargs.items()}


def _is_anywhere_in(arguments: list[Any]) -> bool:
    """Look without recursion: what an application passes may be large, deep, and hold itself."""
    left = list(arguments)
    seen: set[int] = set()
    while left:
        value = left.pop()
        if isinstance(value, Sibling):
            return True
        if isinstance(value, _CONTAINERS) and id(value) not in seen:
            seen.add(id(value))
            left += [held for held in value if type(held) not in _PLAIN]
            if isinstance(value, dict):
                left += [held for held in value.values() if type(held) not in _PLAIN]
    return False


def _resolved(value: Any, find: Callable[[str], Any]) -> Any:
    if isinstance(value, Sibling):
        return find(value.id)
    if isinstance(value, dict):
        pairs = [(_resolved(key, find), _resolved(held, find)) for key, held in value.items()]
        same = all(a is b and x is y for (a, x), (b, y) in zip(pairs, value.items(), strict=True))
        return value if same else _remade(value, pairs)
    if isinstance(value, list | tuple | set | frozenset | deque):
        held_before = list(value)
        held = [_resolved(one, find) for one in held_before]
        same = all(a is b for a, b in zip(held, held_before, strict=True))
        return value if same else _remade(value, held)
    return value


def _remade(value: Any, held: list[Any]) -> Any:
    kind: Any = type(value)
    if kind in (list, tuple, set, frozenset, deque, dict):
        return kind(held, value.maxlen) if kind is deque else kind(held)
    if isinstance(value, tuple) and hasattr(kind, "_make"):
        return kind._make(held)
    raise InvalidSpecError(
        f"a sibling() stands in a {kind.__name__}: it may stand in a list, tuple, dict or set, or be an argument"
    )
