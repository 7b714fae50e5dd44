"""The `config` of a request: fields beside `generationConfig`, fields in it, and fields that are refused. Pure.

The rules (google-genai 3.4 is the measure, a test compares the two):

- A config is flat. The fields in `TOP` stand beside `generationConfig`. All others go into it, unknown ones too: the
  API itself refuses those that it does not know.
- A field that would be lost without a word is refused (`REFUSED`), and so is a function: nothing here calls one.
"""

from __future__ import annotations

from typing import Any

from gemini_streams.api.generate.contents import content_of
from gemini_streams.api.generate.schema import response_schema, schema_source
from gemini_streams.api.generate.values import (
    CALLABLE,
    INNER,
    Shape,
    fields_of,
    message_of,
    plain,
    refuse,
    snake,
)

__all__ = ["REFUSED", "TOP", "check_function_calling", "config_fields", "config_value"]

TOP = frozenset(
    {
        "cachedContent",
        "continuationToken",
        "labels",
        "safetySettings",
        "serviceTier",
        "store",
        "systemInstruction",
        "toolConfig",
        "tools",
    }
)
"""Fields of a config that stand beside `generationConfig`."""

REFUSED = {
    "contents": "contents are the first argument of StartStream",
    "generationConfig": "a config is flat: put what is in it into the config itself",
    "httpOptions": (
        "use Gemini(base_url=, headers=, proxies=, verify=) for where and how, first_event_timeout,"
        " idle_timeout and deadline for how long, and RetryPolicy for retries"
    ),
    "model": "the model is an argument of StartStream or of the manager",
    "shouldReturnHttpResponse": "there is no response object; each StreamEvent has the event's JSON in .data",
}


def config_fields(config: Any) -> dict[str, Any]:
    """Return the fields of a config by their camelCase names, without the null ones."""
    if config is None:
        return {}
    fields = fields_of(config, "config")
    if fields is None:
        refuse("config", f"must be a dict or a GenerateContentConfig, not {type(config).__name__}")
    return fields


def check_function_calling(given: Any) -> None:
    """Refuse all but switching it off: function calls are never answered here."""
    at = "config.automatic_function_calling"
    if given is not None and (fields_of(given, at) or {}).get("disable") is not True:
        refuse(at, f"can only be {{'disable': True}}: {CALLABLE}")


def config_value(name: str, value: Any) -> Any:
    """Return the JSON of one field of a config."""
    at = f"config.{snake(name)}"
    match name:
        case "systemInstruction":
            return content_of(value, at)
        case "tools":
            return _tools(value, at)
        case "responseSchema":
            return response_schema(value, at)
        case "responseJsonSchema":
            return plain(schema_source(value, at), at, Shape.DATA, 1)
        case "speechConfig" if isinstance(value, str):
            return {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": value}}}
        case "cachedContent" if isinstance(value, str) and "/" not in value:
            return f"cachedContents/{value}"
    return plain(value, at, INNER[Shape.MESSAGE].get(name, Shape.MESSAGE), 1)


def _tools(given: Any, at: str) -> list[dict[str, Any]]:
    """Return the tools, the function declarations of all in one at the end, as google-genai does."""
    if not isinstance(given, list | tuple):
        refuse(at, f"must be a list of tools, not {type(given).__name__}")
    tools: list[dict[str, Any]] = []
    declarations: list[Any] = []
    for index, tool in enumerate(given):
        here = f"{at}[{index}]"
        fields = fields_of(tool, here)
        if fields is None or "inputSchema" in fields:
            if callable(tool):
                refuse(here, f"is a function: {CALLABLE}")
            refuse(here, f"is a {type(tool).__name__}, which cannot be sent: {CALLABLE}")
        node = message_of(fields, here, Shape.MESSAGE, 1)
        declared = node.get("functionDeclarations")
        if isinstance(declared, list) and declared:
            declarations += declared
            del node["functionDeclarations"]
            if not node:
                continue
        tools.append(node)
    if declarations:
        tools.append({"functionDeclarations": declarations})
    return tools
