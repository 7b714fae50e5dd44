"""A list of actor refs in which membership and removal cost the same however many there are.

Pykka's registry keeps its refs in a list. Registering appends to it; unregistering walks it twice from its
head and compares each ref on the way. So the start and the end of one actor get dearer with each actor
that lives, and the end of all n of them takes a time that grows with n².

`IndexedRefs` is a list to whoever uses it: it has the order in which refs were added, and holds one that
was added twice twice. Refs are told apart by identity, not by `==`: no ref's own `__eq__` is called.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, MutableSequence
from typing import Any, SupportsIndex, overload

import pykka

__all__ = ["IndexedRefs"]

Ref = pykka.ActorRef[Any]


class IndexedRefs(MutableSequence[Ref]):
    """See the module's text. Not thread-safe: Pykka's registry holds its lock around each use."""

    __slots__ = ("_by_number", "_next", "_numbers")

    def __init__(self, refs: Iterable[Ref] = ()) -> None:
        self._by_number: dict[int, Ref] = {}
        # The numbers of each ref, in order, by its id(): the ref is alive as long as it is in here.
        self._numbers: dict[int, list[int]] = {}
        self._next = itertools.count()
        for ref in refs:
            self.append(ref)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)!r})"

    # -- what costs the same however many there are

    def append(self, value: Ref) -> None:
        """Add a ref at the end."""
        number = next(self._next)
        self._by_number[number] = value
        self._numbers.setdefault(id(value), []).append(number)

    def remove(self, value: Ref) -> None:
        """Take the first of this ref out; ValueError where there is none."""
        numbers = self._numbers.get(id(value))
        if numbers is None:
            raise ValueError(f"{value!r} is not in the list")
        del self._by_number[numbers.pop(0)]
        if not numbers:
            del self._numbers[id(value)]

    def __contains__(self, value: object) -> bool:
        return id(value) in self._numbers

    def __len__(self) -> int:
        return len(self._by_number)

    def clear(self) -> None:
        """Take all of them out."""
        self._by_number.clear()
        self._numbers.clear()

    def __iter__(self) -> Iterator[Ref]:
        return iter(self._by_number.values())

    # -- what is as dear as in a list, or dearer: Pykka uses a copy of the whole only

    @overload
    def __getitem__(self, index: SupportsIndex) -> Ref: ...

    @overload
    def __getitem__(self, index: slice) -> list[Ref]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Ref | list[Ref]:
        return list(self._by_number.values())[index]

    @overload
    def __setitem__(self, index: SupportsIndex, value: Ref) -> None: ...

    @overload
    def __setitem__(self, index: slice, value: Iterable[Ref]) -> None: ...

    def __setitem__(self, index: Any, value: Any) -> None:
        refs = list(self)
        refs[index] = value
        self._replace(refs)

    def __delitem__(self, index: SupportsIndex | slice) -> None:
        refs = list(self)
        del refs[index]
        self._replace(refs)

    def insert(self, index: SupportsIndex, value: Ref) -> None:
        """Add a ref before the one at `index`."""
        refs = list(self)
        refs.insert(index, value)
        self._replace(refs)

    def copy(self) -> list[Ref]:
        """Return the refs as a list."""
        return list(self._by_number.values())

    def _replace(self, refs: list[Ref]) -> None:
        self.clear()
        for ref in refs:
            self.append(ref)
