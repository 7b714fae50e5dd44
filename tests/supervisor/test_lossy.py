"""The bounded queue between those who must not wait and one who may be slow, against a plain list."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykka_supervisor.lossy import LossyQueue

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from(["a", "b"]), st.booleans()),
        st.tuples(st.just("take"), st.just(""), st.just(value=False)),
    ),
    max_size=60,
)


@given(OPERATIONS, st.integers(1, 6))
def test_it_is_a_list_that_loses_the_ordinary_first(
    operations: list[tuple[str, str, bool]], limit: int
) -> None:
    queue: LossyQueue[int] = LossyQueue(limit)
    model: list[tuple[int, str, bool]] = []
    lost: Counter[str] = Counter()
    number = 0
    for operation, name, important in operations:
        if operation == "add":
            number += 1
            gave_way = queue.add(name, number, important=important)
            ordinary = [item for item in model if not item[2]]
            if len(model) < limit:
                assert gave_way is None
                model.append((number, name, important))
            elif important and ordinary:
                assert gave_way == ordinary[0][0]
                model.remove(ordinary[0])
                lost[ordinary[0][1]] += 1
                model.append((number, name, important))
            else:
                assert gave_way == number
                lost[name] += 1
        elif model:
            assert queue.oldest == model[0][0]
            assert queue.take() == (model[0][0], model[0][0])
            del model[0]
        else:
            assert queue.oldest is None
            with pytest.raises(IndexError):
                queue.take()
        assert len(queue) == len(model) <= limit
        assert queue.added == number
        if len(model) * 2 > limit:
            assert queue.take_lost() == {}
    while len(queue):
        assert queue.take()[1] == model.pop(0)[0]
    assert queue.take_lost() == dict(lost)
    assert queue.take_lost() == {}
