"""A random tree under random deaths; what its actors wrote down is checked against OTP's rules.

Each incarnation of each actor writes down when it has started and when it ends, and one list for all of
them gives the order. The tree is known, so is each death that was ordered; the rules follow from OTP:

1. An actor's incarnations do not overlap: started, ended, started, ended.
2. Children are started in order: when one has started, all before it in the same supervisor's life have.
3. At the end of a supervisor's life its children end in reverse start order, and before it does.
4. `one_for_one`: a death touches nobody else. `one_for_all`, `rest_for_one`: those that must go end in
   reverse order before any of the group starts again.
5. Nobody starts after the shutdown has begun, and nobody is left.

A failing seed is in the test's name, and repeats.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pykka
import pytest

from pykka_supervisor import ChildSpec, SupervisedActor, SupervisedRef, Supervisor, kill
from pykka_supervisor.cell import cell_of
from pykka_supervisor.planner import Strategy
from supervisor.kit import Boom, eventually


class Book:
    """All that happens to all leaves, in order: (what, path of the actor, number of the incarnation)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.lines: list[tuple[str, str, int]] = []
        self.numbers: dict[str, int] = {}

    def begin(self, path: str) -> int:
        with self._lock:
            number = self.numbers.get(path, 0) + 1
            self.numbers[path] = number
            self.lines.append(("start", path, number))
            return number

    def end(self, path: str, number: int) -> None:
        with self._lock:
            self.lines.append(("end", path, number))

    def mark(self, what: str) -> int:
        with self._lock:
            self.lines.append(("mark", what, 0))
            return len(self.lines)


class Leaf(SupervisedActor):
    def __init__(self, path: str, book: Book) -> None:
        super().__init__()
        self.path = path
        self.book = book
        self.number = 0

    def on_start(self) -> None:
        self.number = self.book.begin(self.path)

    def on_stop(self) -> None:
        self.book.end(self.path, self.number)

    def on_failure(self, *_: Any) -> None:
        self.book.end(self.path, self.number)

    def on_receive(self, message: Any) -> Any:
        if message == "crash":
            raise Boom("random")
        return message


class Branch(Supervisor):
    """A supervisor that writes down its own life, too."""

    def __init__(self, children: Any, *, path: str, book: Book, **options: Any) -> None:
        super().__init__(children, **options)
        self.path = path
        self.book = book
        self.number = 0

    def on_start(self) -> None:
        self.number = self.book.begin(self.path)
        super().on_start()

    def on_stop(self) -> None:
        self.book.end(self.path, self.number)

    def on_failure(self, *_: Any) -> None:
        self.book.end(self.path, self.number)

    def on_receive(self, message: Any) -> Any:
        if message == "crash":
            raise Boom("random")
        return message


@dataclass
class Shape:
    """What the tree was made of."""

    path: str
    strategy: Strategy | None = None
    children: list[Shape] = field(default_factory=list)

    def walk(self) -> Iterator[Shape]:
        yield self
        for child in self.children:
            yield from child.walk()


def grow(chance: random.Random, path: str, depth: int) -> Shape:
    strategies: list[Strategy] = ["one_for_one", "one_for_all", "rest_for_one"]
    strategy = chance.choice(strategies)
    shape = Shape(path, strategy)
    for number in range(chance.randint(2, 4)):
        below = f"{path}/{number}"
        if depth and chance.random() < 0.5:
            shape.children.append(grow(chance, below, depth - 1))
        else:
            shape.children.append(Shape(below))
    return shape


def specs_of(shape: Shape, book: Book) -> list[ChildSpec]:
    specs = []
    for child in shape.children:
        if child.strategy:
            specs.append(
                ChildSpec(
                    Branch,
                    (specs_of(child, book),),
                    {"path": child.path, "book": book, "strategy": child.strategy, "max_restarts": 10_000},
                    id=child.path,
                    name=child.path,
                )
            )
        else:
            specs.append(ChildSpec(Leaf, (child.path, book), id=child.path, name=child.path))
    return specs


def live_refs(sup: Any) -> list[SupervisedRef[Any]]:
    refs: list[SupervisedRef[Any]] = []
    for info in sup.which_children():
        if info.ref is not None:
            refs.append(info.ref)
            if info.type == "supervisor":
                try:
                    refs += live_refs(info.ref)
                except pykka.ActorDeadError:
                    continue
    return refs


def settle(sup: Any) -> None:
    """Wait until every order that was given has been carried out: all answer, twice, as the same lives."""

    def lives() -> list[tuple[str, int]] | None:
        try:
            refs = live_refs(sup)
            for ref in refs:
                ref.ask("settled?", timeout=20)
            return [(ref.actor_urn, cell_of(ref).generation) for ref in refs]
        except pykka.ActorDeadError:
            return None

    eventually(lambda: (seen := lives()) is not None and seen == lives(), timeout=20)


def check(root: Shape, lines: list[tuple[str, str, int]], shutdown: int, *, settled: bool) -> None:
    parent = {child.path: shape for shape in root.walk() for child in shape.children}
    alive: dict[str, int] = {}
    for at, (what, path, number) in enumerate(lines):
        if what == "mark":
            continue
        above = parent.get(path)
        siblings = [child.path for child in above.children] if above else []
        if what == "start":
            assert at < shutdown, f"{path} was started after the shutdown had begun"
            assert path not in alive, f"two incarnations of {path} at once"
            assert number == alive.get(path, number)
            if above is not None:
                assert above.path in alive, f"{path} was started without its supervisor"
                assert not any(below.startswith(f"{path}/") for below in alive), (
                    f"children of the {path} before are still there"
                )
                position = siblings.index(path)
                if above.strategy != "one_for_one":
                    later = [name for name in siblings[position + 1 :] if name in alive]
                    assert later == [], f"{path} was started while {later}, after it, still ran"
            alive[path] = number
        else:
            assert alive.get(path) == number, f"{path} ended twice"
            below = [name for name in alive if name.startswith(f"{path}/")]
            assert below == [], f"{path} ended before {below}"
            del alive[path]
            if settled and at >= shutdown and above is not None:
                position = siblings.index(path)
                later = [name for name in siblings[position + 1 :] if name in alive]
                assert later == [], f"at the shutdown {path} ended before {later}"
    assert alive == {}, "all have ended"


def run(seed: int, deaths: int) -> None:
    chance = random.Random(seed)
    shape = grow(chance, "0", 2)
    book = Book()
    sup = Branch.start(
        specs_of(shape, book),
        path="0",
        book=book,
        strategy=shape.strategy or "one_for_one",
        max_restarts=10_000,
    )
    quiet = logging.getLogger("pykka_supervisor")
    quiet.setLevel(logging.CRITICAL)
    ordered: dict[str, int] = {}
    try:
        for _ in range(deaths):
            try:
                ref = chance.choice(live_refs(sup))
                how = chance.random()
                name = cell_of(ref).name
                if how < 0.9 and name is not None:
                    ordered[name] = ordered.get(name, 0) + 1
                if how < 0.4:
                    kill(ref)
                elif how < 0.7:
                    ref.tell("crash")
                elif how < 0.9:
                    ref.stop(block=False)
                else:
                    ref.ask("still there?", timeout=20)
            except (pykka.ActorDeadError, IndexError):
                continue
        settled = chance.random() < 0.5
        if settled:
            settle(sup)
        marked = book.mark("shutdown")
        # What has been begun before the stop is handled may still be carried out: the root says when.
        sup.stop(timeout=30)
    finally:
        quiet.setLevel(logging.NOTSET)
    root_ends = max(at for at, line in enumerate(book.lines) if line[1] == "0" and line[0] == "end")
    assert root_ends == len(book.lines) - 1, "the root is the last to end"
    last_start = max(at for at, line in enumerate(book.lines) if line[0] == "start")
    check(shape, book.lines, marked if settled else max(marked, last_start + 1), settled=settled)
    for shape_of, above in with_ancestors(shape, ()):
        # Where every supervisor above is one_for_one, nobody is started again for another's death.
        if all(one.strategy == "one_for_one" for one in above):
            deaths_that_count = sum(ordered.get(one.path, 0) for one in (*above, shape_of))
            assert book.numbers[shape_of.path] <= 1 + deaths_that_count


def with_ancestors(shape: Shape, above: tuple[Shape, ...]) -> Iterator[tuple[Shape, tuple[Shape, ...]]]:
    yield shape, above
    for child in shape.children:
        yield from with_ancestors(child, (*above, shape))


@pytest.mark.parametrize("seed", range(12))
def test_a_random_tree_keeps_otps_rules(seed: int) -> None:
    print(f"seed {seed}")  # noqa: T201
    run(seed, deaths=40)


def test_an_idle_tree_starts_in_order_and_ends_in_reverse() -> None:
    for seed in range(3):
        chance = random.Random(seed)
        shape = grow(chance, "0", 2)
        book = Book()
        sup = Branch.start(
            specs_of(shape, book), path="0", book=book, strategy=shape.strategy or "one_for_one"
        )
        paths = [one.path for one in shape.walk()]
        assert [path for what, path, _ in book.lines if what == "start"] == paths
        marked = book.mark("shutdown")
        sup.stop()
        check(shape, book.lines, marked, settled=True)
        ends = [path for what, path, _ in book.lines if what == "end"]
        assert ends == list(reversed(paths)), "children before their supervisor, too"
