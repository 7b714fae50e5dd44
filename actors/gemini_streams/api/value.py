"""What all endpoints are: immutable values whose secrets nothing shows. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, ClassVar, NoReturn, Self

from gemini_streams.api.checks import shown_url

__all__ = ["Value", "plain_path", "plain_paths"]


class Value:
    """An immutable value, equal and hashable by its fields. A subclass sets its fields by `_put`."""

    __slots__ = ()

    _fields: ClassVar[tuple[str, ...]] = ()
    """In the order in which they are shown. One with an underscore in front is a mapping that was `hidden`."""
    _defaults: ClassVar[dict[str, Any]] = {}
    """Of the fields whose default is not `None`; a default is not shown."""
    _secrets: ClassVar[frozenset[str]] = frozenset()
    """Fields that show `***`."""

    def _put(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def _identity(self) -> tuple[object, ...]:
        """Return what makes it equal to another."""
        return tuple(getattr(self, name) for name in self._fields)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: make another one to change {name}")

    __delattr__ = __setattr__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Value) and type(other) is type(self) and other._identity() == self._identity()
        )

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._shown())})"

    def _shown(self) -> Iterator[str]:
        for field in self._fields:
            value, name = getattr(self, field), field.removeprefix("_")
            default = self._defaults.get(field)
            if value is default:
                continue
            if field in self._secrets:
                yield f"{name}='***'"
            elif field == "base_url":
                yield f"{name}={shown_url(value)!r}"
            elif field != name and not isinstance(value, str):
                yield f"{name}={dict.fromkeys(dict(value), '***')}"
            else:
                yield f"{name}={value if field != name else repr(value)}"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), tuple(getattr(self, name) for name in self._fields))


def _rebuilt(kind: type[Value], values: tuple[Any, ...]) -> Value:
    """Rebuild an endpoint from a copy's or a pickle's values."""
    endpoint = kind.__new__(kind)
    for name, value in zip(kind._fields, values, strict=True):
        object.__setattr__(endpoint, name, value)
    return endpoint


def plain_path(verify: Any) -> Any:
    """Return a path as a string; anything else stays as it is."""
    return os.fspath(verify) if isinstance(verify, os.PathLike) else verify


def plain_paths(cert: Any) -> Any:
    """Return a client certificate with its paths as strings; what is none stays, and is refused by `resolve`."""
    if isinstance(cert, list | tuple):
        return tuple(plain_path(path) for path in cert)
    return plain_path(cert)
