"""The body of a `streamGenerateContent` request, from what google-genai takes as `contents` and `config`. Pure.

The rules:

- `contents`, `config`, `schema` and `values` say how each part is read.
- A value that cannot be sent raises `InvalidRequestError`, and so does one that would be lost without a word.
- The body shares nothing with what it was made from.
- A continuation token stands in front of all else, so that a body is given another one without being read again.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gemini_streams.api.body import Body
from gemini_streams.api.generate.config import (
    REFUSED,
    TOP,
    check_function_calling,
    config_fields,
    config_value,
)
from gemini_streams.api.generate.contents import contents_of
from gemini_streams.api.generate.values import refuse, snake

__all__ = ["TOKEN", "BuiltRequest", "build_request", "with_token"]

TOKEN = "continuationToken"  # noqa: S105 - a field's name
"""The field of a body that asks for the rest of an answer."""


class BuiltRequest(msgspec.Struct, frozen=True):
    """The body, and the one switch of a config that is not part of it."""

    body: dict[str, Any]
    automatic_continuation: bool = True
    """Whether continuation tokens are followed."""

    def __repr__(self) -> str:
        return f"BuiltRequest(<body>, automatic_continuation={self.automatic_continuation})"


def build_request(contents: Any, config: Any = None) -> BuiltRequest:
    """Build a request; raises `InvalidRequestError` where one cannot be built."""
    try:
        return _built(contents, config)
    except RecursionError:  # definitions that refer to each other, objects of an application's own
        refuse("contents or config", "are nested deeper than the stack of the thread that reads them")


def _built(contents: Any, config: Any) -> BuiltRequest:
    body: dict[str, Any] = {"contents": contents_of(contents)}
    fields = config_fields(config)
    automatic = fields.pop("automaticContinuation", True)
    if not isinstance(automatic, bool):
        refuse("config.automatic_continuation", "must be True or False")
    check_function_calling(fields.pop("automaticFunctionCalling", None))
    for name, instead in REFUSED.items():
        if fields.pop(name, None):
            refuse(f"config.{snake(name)}", f"cannot be used: {instead}")
    generation: dict[str, Any] = {}
    for name, value in fields.items():
        (body if name in TOP else generation)[name] = config_value(name, value)
    if config is not None and config != {}:
        body["generationConfig"] = generation
    return BuiltRequest(body, automatic)


def with_token(body: Body, token: Any) -> Body:
    """Return the body that goes on from a continuation token; it has none yet."""
    return (b'{"%s":%s,%s' % (TOKEN.encode(), msgspec.json.encode(token), body[0][1:]), *body[1:])
