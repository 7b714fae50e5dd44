"""Turns any value of a request into JSON. A dict's place in the request decides how its keys are read. Pure.

The rules (google-genai 3.4 is the measure, a test compares the two):

- The body is camelCase all through. Keys that are data (of function arguments and responses, schema properties, labels,
  JSON schemas) stay as they are, and so do their nulls. A null field elsewhere is a field not given.
- Bytes become base64 in the URL-safe alphabet, as google-genai writes them. Large bytes and texts become a `Large`
  (`body`): they are encoded in pieces.
- The result shares nothing with what it was made from: a later change to that changes no retry.
- What cannot be JSON is `InvalidRequestError`. The error says where it stands and what to give, and holds no text of
  the request.
- The objects of google-genai and pydantic are known by what they have, so that neither need be installed.
"""

from __future__ import annotations

import base64
import datetime as dt
import enum
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from gemini_streams.api.body import LARGE, Large, base64_large, text_large
from gemini_streams.errors import InvalidRequestError

__all__ = [
    "CALLABLE",
    "INNER",
    "Shape",
    "base64_of",
    "fields_of",
    "message_of",
    "plain",
    "refuse",
    "snake",
]

MAX_DEPTH = 100
"""Levels of nesting; the API's own JSON reader allows no more."""

CALLABLE = (
    "functions are not called for the model: declare them, {'function_declarations': [{'name': ...,"
    " 'description': ..., 'parameters_json_schema': {...}}]}, call them for StreamEvent.function_calls, and"
    " start a stream with the function_response in its contents"
)

_HALF = "holds half a character (a lone surrogate), which UTF-8 does not have"


class Shape(enum.Enum):
    """How the keys of a dict are read."""

    MESSAGE = 0
    """Field names: any of the API's messages that is not named below."""
    DECLARATION = 1
    """Field names of a function declaration."""
    SCHEMA = 2
    """Field names of a schema."""
    SCHEMAS = 3
    """Data: names of properties, each a schema."""
    DATA = 4
    """Data, all the way down."""


INNER: dict[Shape, dict[str, Shape]] = {
    Shape.MESSAGE: {
        "args": Shape.DATA,
        "functionDeclarations": Shape.DECLARATION,
        "headers": Shape.DATA,
        "labels": Shape.DATA,
        "partMetadata": Shape.DATA,
        "response": Shape.DATA,
        "responseJsonSchema": Shape.DATA,
        "responseSchema": Shape.SCHEMA,
    },
    Shape.DECLARATION: {
        "parameters": Shape.SCHEMA,
        "parametersJsonSchema": Shape.DATA,
        "response": Shape.SCHEMA,
        "responseJsonSchema": Shape.DATA,
    },
    Shape.SCHEMA: {
        "$defs": Shape.SCHEMAS,
        "default": Shape.DATA,
        "defs": Shape.SCHEMAS,
        "enum": Shape.DATA,
        "example": Shape.DATA,
        "properties": Shape.SCHEMAS,
    },
}
"""The shape of a field's value, where it is not the shape that the field stands in."""


def refuse(at: str, problem: str) -> NoReturn:
    """Raise `InvalidRequestError`: what stands at this place in the request has this problem."""
    raise InvalidRequestError(f"{at} {problem}") from None


def fields_of(given: Any, at: str) -> dict[str, Any] | None:
    """Return the fields of a dict or a google-genai object by their camelCase names, without the null ones.

    `None` where it is neither.
    """
    if isinstance(given, Mapping):
        fields: dict[str, Any] = {}
        for key, value in given.items():
            if not isinstance(key, str):
                refuse(at, f"has a key of type {type(key).__name__}: keys are strings")
            name = _camel(key)
            if name in fields:
                refuse(f"{at}.{_key(key)}", "is given twice, in snake_case and in camelCase")
            fields[name] = value
        return {name: value for name, value in fields.items() if value is not None}
    names = getattr(type(given), "model_fields", None)
    if isinstance(names, Mapping) and not isinstance(given, type):
        return {_camel(name): value for name in names if (value := getattr(given, name, None)) is not None}
    return None


def message_of(fields: dict[str, Any], at: str, shape: Shape, depth: int) -> dict[str, Any]:
    """Return the JSON of a message's fields."""
    inner = INNER[shape]
    rest = Shape.MESSAGE if shape is Shape.DECLARATION else shape
    return {
        name: _base64_text(value, at)
        if isinstance(value, str) and name in ("data", "thoughtSignature") and shape is Shape.MESSAGE
        else value.upper()
        if shape is Shape.SCHEMA and name == "type" and type(value) is str
        else plain(value, f"{at}.{snake(_key(name))}", inner.get(name, rest), depth)
        for name, value in fields.items()
    }


def plain(value: Any, at: str, shape: Shape, depth: int) -> Any:
    """Return `value` as Python holds JSON, sharing nothing with it; raises where it cannot be."""
    if depth > MAX_DEPTH:
        refuse(f"{at[:80]}...", f"is nested deeper than {MAX_DEPTH} levels, or holds itself")
    if value is None or value is True or value is False:
        return value
    if isinstance(value, enum.Enum):
        return plain(value.value, at, shape, depth)
    if isinstance(value, str):
        return _text(value, at)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            refuse(at, f"is {value}, which JSON does not have")
        return float(value)
    if isinstance(value, list | tuple):
        return [plain(item, f"{at}[{index}]", shape, depth + 1) for index, item in enumerate(value)]
    if isinstance(value, bytes | bytearray | memoryview):
        return base64_of(value)
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if shape in (Shape.DATA, Shape.SCHEMAS):
        if isinstance(value, Mapping):
            inner = Shape.DATA if shape is Shape.DATA else Shape.SCHEMA
            return {
                _data_key(key, at): plain(item, f"{at}.{_key(key)}", inner, depth + 1)
                for key, item in value.items()
            }
        if hasattr(type(value), "model_fields") and not isinstance(value, type):
            return plain(_dumped(value, at), at, shape, depth + 1)
    else:
        fields = fields_of(value, at)
        if fields is not None:
            return message_of(fields, at, shape, depth + 1)
    if callable(value) and at.startswith("config.tools"):
        refuse(at, f"is a function: {CALLABLE}")
    return refuse(at, f"is of type {type(value).__name__}, which JSON does not have")


def _dumped(value: Any, at: str) -> Any:
    """Return the fields of a pydantic object among the data."""
    try:
        return value.model_dump(exclude_none=True, warnings=False)
    except Exception as error:  # noqa: BLE001 - the serialisers of an application's own class run here
        refuse(at, f"is a {type(value).__name__} that cannot be turned into JSON ({type(error).__name__})")


def _text(value: str, at: str) -> str | Large:
    try:
        if len(value) >= LARGE:
            return text_large(str.__str__(value))
        if not value.isascii():
            value.encode()
    except UnicodeEncodeError:
        refuse(at, _HALF)
    return value if type(value) is str else str.__str__(value)


def _data_key(key: Any, at: str) -> str:
    if not isinstance(key, str):
        refuse(at, f"has a key of type {type(key).__name__}: keys are strings")
    try:
        key.encode()
    except UnicodeEncodeError:
        refuse(at, _HALF)
    return str.__str__(key)


def _key(key: Any) -> str:
    """Return a key as an error shows it: a name, or nothing of it."""
    return key if isinstance(key, str) and re.fullmatch(r"[A-Za-z_$][A-Za-z0-9_]{0,39}", key) else "[...]"


def base64_of(data: bytes | bytearray | memoryview) -> str | Large:
    """Return bytes as the API's JSON has them."""
    if isinstance(data, memoryview):
        data = bytes(data)
    if len(data) >= LARGE:
        return base64_large(data)
    return base64.urlsafe_b64encode(data).decode("ascii")


def _base64_text(text: str, at: str) -> str | Large:
    """Return base64 that is text already in the same alphabet and padding as ours."""
    if len(text) >= LARGE:
        try:
            return text_large(str.__str__(text), is_base64=True)
        except UnicodeEncodeError:
            refuse(at, _HALF)
    return text.replace("+", "-").replace("/", "_") + "=" * (-len(text) % 4)


def _camel(name: str) -> str:
    return re.sub(r"(?<=[A-Za-z0-9])_([A-Za-z0-9])", lambda m: m[1].upper(), name) if "_" in name else name


def snake(name: str) -> str:
    """Return a field's name in snake_case, as errors show it."""
    return re.sub(r"[A-Z]", lambda m: "_" + m[0].lower(), name)
