"""Token counts: those of several requests added up, and named alike for each API. Reads values of any type. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["add_usage", "tokens_of"]

_LEVELS = 8
"""Levels of nesting within which numbers are added; Google's own counts have two."""
_MANY = 1 << 63
"""A count from here on is none: nothing is added to it."""


def add_usage(total: dict[str, Any] | None, hop: dict[str, Any] | None) -> dict[str, Any]:
    """Return the usage of requests that made one answer together.

    Numbers add up, lists of details do by their modality; of anything else, and of numbers that can be no counts, the
    latest counts. Never raises.

    Answers a new dict; `total` is the sum so far.
    """
    return _merged(total or {}, hop or {}, _LEVELS)


def _merged(total: dict[str, Any], hop: dict[str, Any], levels: int) -> dict[str, Any]:
    merged = {**total, **hop}
    for name in total.keys() & hop.keys():
        merged[name] = _added(total[name], hop[name], levels - 1)
    return merged


def _added(one: Any, two: Any, levels: int) -> Any:
    if one is None or two is None:
        return two if one is None else one
    if _is_count(one) and _is_count(two):
        return one + two
    if not levels:
        return two
    if isinstance(one, dict) and isinstance(two, dict):
        return _merged(one, two, levels)
    if isinstance(one, list) and isinstance(two, list):
        return _added_details(one + two, levels)
    return two


def _added_details(details: list[Any], levels: int) -> list[Any]:
    by_modality: dict[str, dict[str, Any]] = {}
    for detail in details:
        if not isinstance(detail, dict) or not isinstance(detail.get("modality"), str):
            return details
        modality = detail["modality"]
        counts = {name: value for name, value in detail.items() if name != "modality"}
        by_modality[modality] = _merged(by_modality.get(modality, {}), counts, levels)
    return [{"modality": modality, **counts} for modality, counts in by_modality.items()]


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_MANY < value < _MANY


_TOKENS = {
    "input_tokens": ("promptTokenCount", "total_input_tokens"),
    "output_tokens": ("candidatesTokenCount", "total_output_tokens"),
    "thought_tokens": ("thoughtsTokenCount", "total_thought_tokens"),
    "cached_tokens": ("cachedContentTokenCount", "total_cached_tokens"),
    "tool_tokens": ("toolUsePromptTokenCount", "total_tool_use_tokens"),
    "total_tokens": ("totalTokenCount", "total_tokens"),
}


def tokens_of(usage: dict[str, Any] | None) -> dict[str, int | None]:
    """Return the counts of a usage under names that do not depend on the API; `None` where there is none.

    Never raises.
    """
    said = usage if isinstance(usage, dict) else {}
    return {name: _first_count(said.get(key) for key in theirs) for name, theirs in _TOKENS.items()}


def _first_count(values: Iterable[Any]) -> int | None:
    return next((int(value) for value in values if _is_count(value) and value >= 0), None)
