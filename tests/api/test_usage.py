"""Usage adds up over requests, and never raises, whatever a server puts in its place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_streams.api.usage import add_usage

ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**400), max_value=10**400)
    | st.floats()
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["modality", "tokenCount", "a"]), inner, max_size=3)
    ),
    max_leaves=10,
)
USAGES = st.dictionaries(st.sampled_from(["totalTokenCount", "promptTokensDetails", "x"]), ODD, max_size=3)


@given(st.lists(USAGES, max_size=4))
def test_nothing_raises(hops: list[dict[str, Any]]) -> None:
    total: dict[str, Any] | None = None
    for hop in hops:
        before = repr((total, hop))
        added = add_usage(total, hop)
        assert repr((total, hop)) == before
        assert set(added) == {*(total or {}), *hop}
        repr(added)
        total = added


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 10**9)), max_size=5))
def test_counts_add_up(hops: list[dict[str, int]]) -> None:
    total: dict[str, Any] = {}
    for hop in hops:
        total = add_usage(total, hop)
    assert total == {name: sum(hop.get(name, 0) for hop in hops) for name in {n for hop in hops for n in hop}}


@pytest.mark.parametrize(
    "odd", [int("1" * 400), -int("1" * 400), float("inf"), True, "7", [1], {"a": 1}, 1 << 63, 1e300]
)
@pytest.mark.parametrize("other", [1, 1.5, int("2" * 400), float("-inf")])
def test_to_what_is_no_count_nothing_is_added(odd: Any, other: Any) -> None:
    assert add_usage({"totalTokenCount": odd}, {"totalTokenCount": other}) == {"totalTokenCount": other}
    assert add_usage({"totalTokenCount": other}, {"totalTokenCount": odd}) == {"totalTokenCount": odd}


def test_of_what_nests_deep_the_latest_counts() -> None:
    one, two = ({"a": json.loads('{"a":' * 450 + str(n) + "}" * 450)} for n in (1, 2))
    added = add_usage(one, two)
    assert repr(added) == repr(two)
    assert add_usage({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}) == {"a": {"b": {"c": 3}}}
