"""The pace of what a wait has held back, pure, and the book of waits on a test's clock."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_streams.streams import rate_limits as cooldowns
from gemini_streams.streams.pace import STEP, Pace
from gemini_streams.streams.rate_limits import LONGEST, Cooldowns
from pykka_supervisor.testing import TestClock

# -- the pace


def let_out(pace: Pace, now: float, most: int = 10_000) -> int:
    return next((n for n in range(most) if not pace.take(now)), most)


def test_rounds_double_as_they_are_answered() -> None:
    pace = Pace()
    pace.refused(100, 10)
    assert [let_out(pace, now) for now in (100, 105, 109.9)] == [0, 0, 0]
    for size in (1, 2, 4, 8, 16, 32):
        assert let_out(pace, 110) == size
        assert let_out(pace, 110) == 0
        for _ in range(size):
            pace.answered(110)


def test_rounds_double_each_second_where_the_server_thinks_for_long() -> None:
    pace = Pace()
    pace.refused(0, 10)
    assert [let_out(pace, 10 + n * STEP) for n in range(5)] == [1, 2, 4, 8, 16]
    assert let_out(pace, 14.99) == 0


def test_a_refusal_starts_over() -> None:
    pace = Pace()
    pace.refused(0, 10)
    assert let_out(pace, 10) == 1
    pace.answered(10)
    assert let_out(pace, 10) == 2
    pace.refused(10, 20)
    assert (let_out(pace, 29.9), let_out(pace, 30)) == (0, 1)
    pace.answered(30)
    pace.refused(30, 0)  # that names no time
    assert (let_out(pace, 30 + STEP / 2), let_out(pace, 30 + STEP)) == (0, 1)


def test_an_answer_ends_the_wait() -> None:
    pace = Pace()
    pace.refused(0, 1e9)
    assert not pace.take(100)
    pace.force()
    pace.answered(120)
    assert let_out(pace, 120) == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["take", "answered", "gone", "refused", "wait"]),
            st.floats(0.01, 30),
            st.integers(1, 50),
        ),
        max_size=60,
    )
)
def test_at_any_time(steps: list[tuple[str, float, int]]) -> None:
    """At most doubling, never before the wait is over; and whatever happens, the next one is due and then goes."""
    pace = Pace()
    now = 0.0
    pace.refused(now, 5)
    until, size, out, rounds = 5.0, 0, 0, 0
    for step, seconds, count in steps:
        match step:
            case "take":
                went = let_out(pace, now, count)
                assert now >= until or not went
                out += went
                rounds += went
                size = max(size, went)
            case "refused":
                pace.refused(now, seconds)
                until, size, out, rounds = max(until, now + seconds), 0, 0, 0
            case "wait":
                now += seconds
            case _ if out:
                getattr(pace, step)(now) if step == "answered" else pace.gone()
                out -= 1
                if step == "answered":
                    until = min(until, now)
        assert pace.until == until
        due = pace.due(now)
        assert 0 <= due <= max(until - now, STEP) + 1e-9 * now
    assert rounds < 2 * (size + 1) * max(1, len(steps))
    now += pace.due(now) + 1e-6
    assert pace.take(now)


# -- the book


class Held:
    """A stream that is held back at a book: looks again as soon as it is woken."""

    def __init__(self, book: Cooldowns, key: str = "key") -> None:
        self.book, self.key = book, key
        self._out = False
        self.woken = -1
        self.look()

    def look(self) -> None:
        self.woken += 1
        self._out = self.book.admit(self.key, self, self.look) is None

    @property
    def out(self) -> bool:
        return self._out


def refused_and_ended(book: Cooldowns, wait: float, key: object = "key") -> None:
    """Have a stream that does not come back be refused."""
    book.refused(key, "the refused one", wait)
    book.done(key, "the refused one", answered=False)


def test_streams_go_in_the_order_of_their_coming() -> None:
    clock = TestClock()
    book = Cooldowns(clock)
    assert not book.quotas
    refused_and_ended(book, 10)
    assert book.quotas
    held = [Held(book) for _ in range(8)]
    other = Held(book, "another key")
    assert other.out
    clock.advance(9.99)
    assert not any(one.out for one in held)
    clock.advance(0.01)
    assert [one.out for one in held] == [True] + 7 * [False]
    book.done("key", held[0], answered=True)
    assert [one.out for one in held] == 3 * [True] + 5 * [False]
    late = Held(book)  # does not overtake
    assert not late.out
    book.done("key", held[1], answered=True)
    book.done("key", held[2], answered=False)
    assert [one.out for one in held] == 7 * [True] + [False]
    clock.advance(STEP)
    assert [one.out for one in (held[7], late)] == [True, True]
    assert all(one.woken == 1 for one in held)
    for one in (*held, late):
        book.done("key", one, answered=True)
    assert not book.quotas
    assert clock.pending() == 0


def test_a_refusal_of_one_holds_the_others_and_who_was_let_out_before_says_nothing_any_more() -> None:
    clock = TestClock()
    book = Cooldowns(clock)
    refused_and_ended(book, 10)
    first, second, third = (Held(book) for _ in range(3))
    clock.advance(10 + STEP)
    assert (first.out, second.out, third.out) == (True, True, True)
    book.refused("key", first, 60)
    book.done("key", second, answered=True)  # it was asked before the refusal
    held = [Held(book)]
    clock.advance(59.9)
    assert [one.out for one in held] == [False]
    clock.advance(0.1)
    assert [one.out for one in held] == [True]


def test_one_that_has_waited_long_enough_goes_and_its_answer_lets_the_others_out() -> None:
    clock = TestClock()
    book = Cooldowns(clock)
    refused_and_ended(book, 9_999_999_999)
    held = [Held(book) for _ in range(4)]
    assert book.admit("key", held[0], held[0].look) == LONGEST
    clock.advance(120)
    book.force("key", held[0])
    assert book.admit("key", held[0], held[0].look) is None
    outs = [[one.out for one in held[1:]]]
    for one in held[:2]:
        book.done("key", one, answered=True)
        outs.append([one.out for one in held[1:]])
    assert outs == [[False, False, False], [True, False, False], [True, True, True]]


def test_one_that_leaves_makes_room() -> None:
    clock = TestClock()
    book = Cooldowns(clock)
    refused_and_ended(book, 10)
    held = [Held(book) for _ in range(3)]
    book.done("key", held[0], answered=False)  # stopped while it was held back
    clock.advance(10)
    assert (held[0].out, held[1].out, held[2].out) == (False, True, False)
    book.done("key", held[1], answered=False)  # stopped before it has asked
    assert held[2].out
    book.done("key", held[2], answered=False)
    assert not book.quotas
    assert clock.pending() == 0


def test_a_refusal_without_a_time_holds_nobody_back() -> None:
    book = Cooldowns(TestClock())
    book.refused("key", "somebody", 0)
    assert not book.quotas


def test_a_wait_without_streams_is_forgotten_when_it_is_over() -> None:
    clock = TestClock()
    book = Cooldowns(clock)
    for number in range(100):
        refused_and_ended(book, 1, number)
    clock.advance(1)
    assert not book.quotas
    assert clock.pending() == 0


def test_those_that_were_refused_themselves_go_at_the_pace_too() -> None:
    """None was held back: all had asked before the first of them was refused."""
    clock = TestClock()
    book = Cooldowns(clock)
    for number in range(8):
        book.refused("key", number, 10)
    clock.advance(10)  # and now their own waits are over, too
    outs: dict[int, bool] = {}

    def ask(number: int) -> None:
        outs[number] = book.admit("key", number, lambda: ask(number)) is None

    for number in range(8):
        ask(number)
    assert [number for number, out in outs.items() if out] == [0]
    book.done("key", 0, answered=True)
    assert [number for number, out in outs.items() if out] == [0, 1, 2]
    book.refused("key", 1, 10)
    clock.advance(10)
    ask(1)  # behind those that were never let out
    assert not outs[1]
    clock.advance(8 * STEP)
    assert all(outs.values())
    for number in range(8):
        book.done("key", number, answered=True)
    assert not book.quotas
    assert clock.pending() == 0


def test_a_pace_lasts_no_longer_than_those_that_were_refused() -> None:
    clock = TestClock()
    book = Cooldowns(clock)
    book.refused("key", "first", 10)
    book.refused("key", "second", 10)
    clock.advance(11)
    assert book.quotas
    book.done("key", "first", answered=False)
    assert book.quotas
    book.done("key", "second", answered=False)
    assert not book.quotas


def test_thousands_that_are_held_back_share_one_timer() -> None:
    clock = TestClock()
    book = Cooldowns(clock)
    refused_and_ended(book, 10)
    held = [Held(book) for _ in range(3000)]
    assert clock.pending() == 1
    clock.advance(10 + 12 * STEP)
    assert all(one.out for one in held)


# -- whose book it is


class User:
    """A manager's tree."""


def test_a_clocks_book_ends_with_its_last_user() -> None:
    clock, other = TestClock(), TestClock()
    first, second = User(), User()
    book = cooldowns.join(clock, first)
    assert cooldowns.join(clock, second) is book
    assert cooldowns.join(clock, first) is book
    assert cooldowns.join(other, first) is not book
    refused_and_ended(book, 1000)
    cooldowns.leave(clock, first)
    assert book.quotas
    cooldowns.leave(clock, second)
    assert not book.quotas
    assert clock.pending() == 0
    cooldowns.leave(clock, second)
    cooldowns.leave(other, first)
    assert cooldowns.join(clock, second) is not book
    cooldowns.leave(clock, second)
    assert not {clock, other} & set(cooldowns._books)


def test_a_user_that_is_no_more_is_none() -> None:
    clock = TestClock()
    user, other = User(), User()
    cooldowns.join(clock, user)
    cooldowns.join(clock, other)
    gone = weakref.ref(user)
    del user
    gc.collect()
    assert gone() is None
    cooldowns.leave(clock, other)
    assert clock not in cooldowns._books


@pytest.mark.parametrize("again", range(2))
def test_no_wait_outlives_a_tests_managers(again: int, gemini: Any, manager: Any, probe: Any) -> None:
    """Both rounds use the system's clock; a server's port, and so its key, may come again."""
    assert not cooldowns._books
    ref = manager()
    [(book, _)] = cooldowns._books.values()
    refused_and_ended(book, 1000)
    ref.stop(timeout=20)
    assert not cooldowns._books
