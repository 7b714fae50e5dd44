"""For the API reference: the signature of a `msgspec.Struct`, which has no `__init__` that could be read.

The fields of a class and of its bases become the parameters of an `__init__`, in msgspec's order. An option that is
left out of a `StartStream` is `msgspec.UNSET`, and means the manager's own: the pages show it as `...`.
"""

from __future__ import annotations

from typing import Any

import griffe

UNSET = "msgspec.UNSET"
UNSET_TYPE = "msgspec.UnsetType"


class Structs(griffe.Extension):  # type: ignore[misc]  # the site's tools are not in the development set
    """Gives each Struct of a package its `__init__`."""

    def on_package(self, *, pkg: griffe.Module, **_kwargs: Any) -> None:
        """Look through a package that has been read."""
        _look_through(pkg)


def _look_through(place: griffe.Module | griffe.Class) -> None:
    for member in list(place.members.values()):
        if member.is_alias:
            continue
        if isinstance(member, griffe.Class) and _is_struct(member) and "__init__" not in member.members:
            member.set_member("__init__", _init_of(member))
        if isinstance(member, griffe.Module | griffe.Class):
            _look_through(member)


def _family(of: griffe.Class) -> list[griffe.Class]:
    """Return the class and those of its bases that are of this project, the oldest first."""
    return [*reversed(of.mro()), of]


def _is_struct(of: griffe.Class) -> bool:
    bases = [base for each in _family(of) for base in each.bases]
    return any(isinstance(base, griffe.Expr) and base.canonical_path == "msgspec.Struct" for base in bases)


def _init_of(struct: griffe.Class) -> griffe.Function:
    positional = [griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)]
    by_name: list[griffe.Parameter] = []
    for each in _family(struct):
        kind, parameters = griffe.ParameterKind.positional_or_keyword, positional
        if str(each.keywords.get("kw_only")) == "True":
            kind, parameters = griffe.ParameterKind.keyword_only, by_name
        for name, field in each.attributes.items():
            if field.annotation is None or "property" in field.labels or "ClassVar" in str(field.annotation):
                continue
            default = "..." if str(field.value) == UNSET else field.value
            annotation = _without_unset(field.annotation)
            parameters.append(griffe.Parameter(name, annotation=annotation, kind=kind, default=default))
    return griffe.Function(
        "__init__", parameters=griffe.Parameters(*positional, *by_name), returns="None", parent=struct
    )


def _without_unset(annotation: str | griffe.Expr) -> str | griffe.Expr:
    """Leave `msgspec.UnsetType` out of a union."""
    if isinstance(annotation, griffe.ExprBinOp) and annotation.operator == "|":
        left, right = _without_unset(annotation.left), _without_unset(annotation.right)
        if str(right) == UNSET_TYPE:
            return left
        if str(left) == UNSET_TYPE:
            return right
        return griffe.ExprBinOp(left, "|", right)
    return annotation
