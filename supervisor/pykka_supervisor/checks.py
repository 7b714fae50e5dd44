"""Pure: whether a value can be right for an option; what cannot is an InvalidSpecError that says what can.

The kinds are those of the annotations, and nothing is taken for another: True is no number, 5 no name, and
what is not a number is no time. An option that means something else than it seems to is noticed when the
tree is started, not when the child dies.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .errors import InvalidSpecError

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["check_choice", "check_count", "check_flag", "check_number", "check_seconds", "check_text"]


def check_seconds(
    option: str,
    value: object,
    *,
    zero: bool = False,
    forever: bool = False,
    none: str = "",
) -> None:
    """Seconds above 0. `zero`: 0 as well. `forever`: infinity as well. `none`: None as well, and its meaning."""
    if none and value is None:
        return
    least = "0 or more" if zero else "more than 0"
    if _is_number(value) and (value >= 0 if zero else value > 0) and (forever or value < math.inf):  # type: ignore[operator]
        return
    ends = "" if forever else ", finite"
    otherwise = f", or None ({none})" if none else ""
    raise InvalidSpecError(f"{option} must be a number of seconds, {least}{ends}{otherwise}; not {value!r}")


def check_count(option: str, value: object, *, none: str = "") -> None:
    """A whole number, 0 or more. `none`: None as well, and its meaning."""
    if none and value is None:
        return
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return
    otherwise = f", or None ({none})" if none else ""
    raise InvalidSpecError(f"{option} must be a whole number, 0 or more{otherwise}; not {value!r}")


def check_number(option: str, value: object, least: float, most: float) -> None:
    """A finite number between two others, these included."""
    if _is_number(value) and least <= value <= most and value < math.inf:  # type: ignore[operator]
        return
    bounds = f"{least:g} or more, finite" if most == math.inf else f"between {least:g} and {most:g}"
    raise InvalidSpecError(f"{option} must be a number, {bounds}; not {value!r}")


def check_text(option: str, value: object, *, none: str = "") -> None:
    """A string that is not empty. `none`: None as well, and its meaning."""
    if (none and value is None) or (isinstance(value, str) and value):
        return
    otherwise = f", or None ({none})" if none else ""
    raise InvalidSpecError(f"{option} must be a string that is not empty{otherwise}; not {value!r}")


def check_flag(option: str, value: object) -> None:
    """True or False."""
    if not isinstance(value, bool):
        raise InvalidSpecError(f"{option} must be True or False; not {value!r}")


def check_choice(option: str, value: object, choices: Collection[str]) -> None:
    """One of a few words."""
    if not isinstance(value, str) or value not in choices:
        named = ", ".join(repr(choice) for choice in choices)
        raise InvalidSpecError(f"{option} must be one of {named}; not {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value  # noqa: PLR0124
