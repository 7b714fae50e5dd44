"""The body of a `streamGenerateContent` request, from what google-genai takes as `contents` and `config`.

The rules (google-genai 3.4 is the measure, a test compares the two):

- `contents`: a string, a part, a content or an uploaded file, or a list of these, as dicts (snake_case or
  camelCase) or as google-genai's objects. Neighbouring strings and parts form one turn, the user's, but for
  function calls, which are the model's. A list within the list is a turn of its own.
- `config` is flat. What the API wants beside `generationConfig` is put there, all else goes into
  `generationConfig`, unknown fields too: what the API would refuse is not guessed at.
- What cannot be sent, or would be lost without a word, is `InvalidRequestError`. It says where, and what to
  give.
- The body is camelCase all through. Keys that are data (of function arguments and responses, schema
  properties, labels, JSON schemas) stay as they are, and so do their nulls; a null field elsewhere is a
  field not given.
- Bytes become base64 in the URL-safe alphabet, as google-genai writes them.
- No error holds a text of the request, only the way to it.
- The body shares nothing with what it was made from: whoever changes that later changes no retry.

The objects of google-genai are known by what they have, so that it need not be installed.
"""

from __future__ import annotations

import base64
import copy
import datetime as dt
import enum
import io
import math
import re
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec

from gemini_streams.errors import InvalidRequestError

__all__ = ["BuiltRequest", "build_request", "encode_body", "with_token"]

MAX_DEPTH = 100
"""Levels of nesting; the API's own JSON reader allows no more."""
MAX_REFS = 1_000
"""References resolved in one schema."""

_TOP = frozenset(
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

_REFUSED = {
    "contents": "contents are the first argument of StartStream",
    "generationConfig": "a config is flat: put what is in it into the config itself",
    "httpOptions": (
        "use Gemini(base_url=, headers=, proxies=, verify=) for where and how, first_event_timeout,"
        " idle_timeout and deadline for how long, and RetryPolicy for retries"
    ),
    "model": "the model is an argument of StartStream or of the manager",
    "shouldReturnHttpResponse": "there is no response object; each StreamEvent has the event's JSON in .data",
}

_CALLABLE = (
    "functions are not called for the model: declare them, {'function_declarations': [{'name': ...,"
    " 'description': ..., 'parameters_json_schema': {...}}]}, call them for StreamEvent.function_calls, and"
    " start a stream with the function_response in its contents"
)

_CONTENT = frozenset({"parts", "role"})
_PART = frozenset(
    {
        "audioMetadata",
        "audioTranscription",
        "codeExecutionResult",
        "documentMetadata",
        "executableCode",
        "fileData",
        "functionCall",
        "functionResponse",
        "inlineData",
        "mediaProcessing",
        "mediaResolution",
        "partMetadata",
        "speechMetadata",
        "spreadsheetMetadata",
        "text",
        "thought",
        "thoughtSignature",
        "toolCall",
        "toolResponse",
        "videoMetadata",
    }
)

_GIVE = (
    "give a string, a part like {'text': '...'}, a content like {'role': 'user', 'parts': [...]}, an object"
    " of google-genai's, or a list of these"
)


class _Shape(enum.Enum):
    """What the keys of a dict are."""

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


_INNER: dict[_Shape, dict[str, _Shape]] = {
    _Shape.MESSAGE: {
        "args": _Shape.DATA,
        "functionDeclarations": _Shape.DECLARATION,
        "headers": _Shape.DATA,
        "labels": _Shape.DATA,
        "partMetadata": _Shape.DATA,
        "response": _Shape.DATA,
        "responseJsonSchema": _Shape.DATA,
        "responseSchema": _Shape.SCHEMA,
    },
    _Shape.DECLARATION: {
        "parameters": _Shape.SCHEMA,
        "parametersJsonSchema": _Shape.DATA,
        "response": _Shape.SCHEMA,
        "responseJsonSchema": _Shape.DATA,
    },
    _Shape.SCHEMA: {
        "$defs": _Shape.SCHEMAS,
        "default": _Shape.DATA,
        "defs": _Shape.SCHEMAS,
        "enum": _Shape.DATA,
        "example": _Shape.DATA,
        "properties": _Shape.SCHEMAS,
    },
}
"""What a field's value is, where it is not the same as what the field stands in."""


class BuiltRequest(msgspec.Struct, frozen=True):
    """What is sent, and the one switch of a config that is not sent."""

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
        _refuse("contents or config", "are nested deeper than the stack of the thread that reads them")


def _built(contents: Any, config: Any) -> BuiltRequest:
    body: dict[str, Any] = {"contents": _contents(contents)}
    fields = _config_fields(config)
    automatic = fields.pop("automaticContinuation", True)
    if not isinstance(automatic, bool):
        _refuse("config.automatic_continuation", "must be True or False")
    _check_function_calling(fields.pop("automaticFunctionCalling", None))
    for name, instead in _REFUSED.items():
        if fields.pop(name, None):
            _refuse(f"config.{_snake(name)}", f"cannot be used: {instead}")
    generation: dict[str, Any] = {}
    for name, value in fields.items():
        (body if name in _TOP else generation)[name] = _config_value(name, value)
    if config is not None and config != {}:
        body["generationConfig"] = generation
    return BuiltRequest(body, automatic)


def with_token(body: dict[str, Any], token: str) -> dict[str, Any]:
    """Return the body that goes on from a continuation token."""
    return {**body, "continuationToken": token}


def encode_body(body: dict[str, Any]) -> bytes:
    """Return the body as bytes. For bodies of `build_request`, which are known to be JSON."""
    return msgspec.json.encode(body)


def _refuse(at: str, problem: str) -> NoReturn:
    raise InvalidRequestError(f"{at} {problem}") from None


# -- contents ------------------------------------------------------------------------------------------------


def _contents(given: Any) -> list[dict[str, Any]]:
    items = given if isinstance(given, list | tuple) else [given]
    if given is None or not items:
        _refuse("contents", f"are empty: {_GIVE}")
    turns: list[dict[str, Any]] = []
    loose: list[dict[str, Any]] = []

    def close() -> None:
        if loose:
            turns.append(_turn(loose.copy()))
            loose.clear()

    for index, item in enumerate(items):
        at = f"contents[{index}]" if items is given else "contents"
        if isinstance(item, list | tuple):
            close()
            turns.append({"parts": _parts(item, at), "role": "user"})
            continue
        kind, node = _node(item, at)
        if kind == "content":
            close()
            turns.append(node)
        else:
            if loose and _is_call(node) != _is_call(loose[0]):
                close()
            loose.append(node)
    close()
    if not any(_says_something(part) for turn in turns for part in turn.get("parts", ())):
        _refuse("contents", f"say nothing: {_GIVE}")
    return turns


def _says_something(part: dict[str, Any]) -> bool:
    return any(value != "" for name, value in part.items() if name not in ("thought", "thoughtSignature"))


def _turn(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {"parts": parts, "role": "model" if _is_call(parts[0]) else "user"}


def _is_call(part: dict[str, Any]) -> bool:
    return "functionCall" in part


def _content(given: Any, at: str) -> dict[str, Any]:
    """One content from whatever can be one: a system instruction."""
    if isinstance(given, list | tuple):
        return {"parts": _parts(given, at), "role": "user"}
    kind, node = _node(given, at)
    return node if kind == "content" else _turn([node])


def _parts(given: Any, at: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for index, item in enumerate(given):
        kind, node = _node(item, f"{at}[{index}]")
        if kind == "content":
            _refuse(f"{at}[{index}]", "is a content where a part is wanted: contents stand in one flat list")
        parts.append(node)
    return parts


def _node(given: Any, at: str) -> tuple[str, dict[str, Any]]:
    """Return what stands in a list of contents: `("content", …)` or `("part", …)`."""
    if isinstance(given, str):
        return "part", {"text": _plain(given, at, _Shape.DATA, 0)}
    if isinstance(given, bytes | bytearray | memoryview):
        _refuse(
            at, "are bytes of an unknown kind: give {'inline_data': {'data': ..., 'mime_type': 'image/png'}}"
        )
    if _is_picture(given):
        return "part", {"inlineData": _picture(given, at)}
    fields = _fields(given, at)
    if fields is None:
        _refuse(at, f"is of type {type(given).__name__}: {_GIVE}")
    if not fields:
        _refuse(at, f"is empty: {_GIVE}")
    if "parts" in fields or (fields.keys() <= _CONTENT):
        return "content", _content_node(fields, at)
    if "uri" in fields or "fileUri" in fields or "uri" in getattr(type(given), "model_fields", ()):
        return "part", {"fileData": _file_data(fields, at)}
    if "role" in fields:
        _refuse(at, "has a role but no parts: give {'role': 'user', 'parts': [{'text': '...'}]}")
    if not fields.keys() & _PART:
        _refuse(at, f"is neither a part nor a content: {_GIVE}")
    return "part", _part_node(fields, at)


def _content_node(fields: dict[str, Any], at: str) -> dict[str, Any]:
    node: dict[str, Any] = {}
    for name, value in fields.items():
        if name == "parts":
            if not isinstance(value, list | tuple):
                _refuse(f"{at}.parts", f"must be a list of parts, not {type(value).__name__}")
            node[name] = _parts(value, f"{at}.parts")
        else:
            node[name] = _plain(value, f"{at}.{name}", _Shape.MESSAGE, 1)
    if not isinstance(node.get("role", ""), str):
        _refuse(f"{at}.role", "must be 'user' or 'model'")
    return node


def _part_node(fields: dict[str, Any], at: str) -> dict[str, Any]:
    node = _message(fields, at, _Shape.MESSAGE, 1)
    if not isinstance(node.get("text", ""), str):
        _refuse(f"{at}.text", f"must be a string, not {type(fields['text']).__name__}")
    for name in ("inlineData", "fileData", "functionCall", "functionResponse"):
        if not isinstance(node.get(name, node), dict):
            _refuse(f"{at}.{_snake(name)}", f"must be a dict, not {type(fields[name]).__name__}")
    return node


def _file_data(fields: dict[str, Any], at: str) -> dict[str, Any]:
    """Return the fileData of an uploaded file, or of the fields of a fileData."""
    if "fileUri" in fields:
        return _message(fields, at, _Shape.MESSAGE, 1)
    uri, kind = fields.get("uri"), fields.get("mimeType")
    if not isinstance(uri, str) or not isinstance(kind, str) or not uri or not kind:
        _refuse(
            at, "is a file without a uri or a mime_type: upload it first and give what the upload answers"
        )
    return {"fileUri": uri, "mimeType": kind}


def _is_picture(given: Any) -> bool:
    """Whether it is an image of Pillow's."""
    image = getattr(sys.modules.get("PIL.Image"), "Image", None)
    return isinstance(image, type) and isinstance(given, image)


def _picture(given: Any, at: str) -> dict[str, str]:
    """Return an image as inline data: a JPEG from a file as a JPEG of the same quality, all else as PNG."""
    name, options = "PNG", {}
    if (
        given.format == "JPEG"
        and getattr(given, "filename", "")
        and given.mode in ("1", "L", "RGB", "RGBX", "CMYK")
    ):
        name, options = "JPEG", {"quality": "keep"}
    file = io.BytesIO()
    try:
        given.save(file, name, **options)
    except (OSError, ValueError) as error:
        _refuse(
            at,
            f"is an image that cannot be saved as {name} ({type(error).__name__}): give its bytes and type",
        )
    return {"data": _base64(file.getvalue()), "mimeType": f"image/{name.lower()}"}


# -- config --------------------------------------------------------------------------------------------------


def _config_fields(config: Any) -> dict[str, Any]:
    if config is None:
        return {}
    fields = _fields(config, "config")
    if fields is None:
        _refuse("config", f"must be a dict or a GenerateContentConfig, not {type(config).__name__}")
    return fields


def _check_function_calling(given: Any) -> None:
    """Refuse all but switching it off: function calls are never answered here."""
    at = "config.automatic_function_calling"
    if given is not None and (_fields(given, at) or {}).get("disable") is not True:
        _refuse(at, f"can only be {{'disable': True}}: {_CALLABLE}")


def _config_value(name: str, value: Any) -> Any:
    at = f"config.{_snake(name)}"
    match name:
        case "systemInstruction":
            return _content(value, at)
        case "tools":
            return _tools(value, at)
        case "responseSchema":
            return _response_schema(value, at)
        case "responseJsonSchema":
            return _plain(_schema_source(value, at), at, _Shape.DATA, 1)
        case "speechConfig" if isinstance(value, str):
            return {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": value}}}
        case "cachedContent" if isinstance(value, str) and "/" not in value:
            return f"cachedContents/{value}"
    return _plain(value, at, _INNER[_Shape.MESSAGE].get(name, _Shape.MESSAGE), 1)


def _tools(given: Any, at: str) -> list[dict[str, Any]]:
    """Return the tools, the function declarations of all in one at the end, as google-genai does."""
    if not isinstance(given, list | tuple):
        _refuse(at, f"must be a list of tools, not {type(given).__name__}")
    tools: list[dict[str, Any]] = []
    declarations: list[Any] = []
    for index, tool in enumerate(given):
        here = f"{at}[{index}]"
        fields = _fields(tool, here)
        if fields is None or "inputSchema" in fields:
            if callable(tool):
                _refuse(here, f"is a function: {_CALLABLE}")
            _refuse(here, f"is a {type(tool).__name__}, which cannot be sent: {_CALLABLE}")
        node = _message(fields, here, _Shape.MESSAGE, 1)
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


def _schema_source(value: Any, at: str) -> Any:
    """Return a type's JSON schema, where pydantic knows the type; anything else as it is."""
    if isinstance(value, type) or hasattr(value, "__origin__") or hasattr(value, "__args__"):
        if isinstance(value, enum.EnumMeta):
            values = [str(member.value) for member in list[enum.Enum](value)]
            return {"enum": values, "title": value.__name__, "type": "string"}
        pydantic = sys.modules.get("pydantic")
        try:
            if hasattr(value, "model_json_schema"):
                return value.model_json_schema()
            if pydantic is not None:
                return pydantic.TypeAdapter(value).json_schema()
        except Exception as error:  # noqa: BLE001 - pydantic's errors are many, and each means the same here
            _refuse(
                at, f"is a type without a schema ({type(error).__name__}): pass config.response_json_schema"
            )
        _refuse(at, "is a Python type: pass its JSON schema as config.response_json_schema")
    return value


def _response_schema(given: Any, at: str) -> Any:
    """Return a schema in the dialect of `responseSchema`, OpenAPI's: no references, properties in order."""
    node = _plain(_schema_source(given, at), at, _Shape.SCHEMA, 1)
    if not isinstance(node, dict):
        _refuse(
            at, f"must be a schema, not {type(given).__name__}: give a dict, a Schema or a pydantic class"
        )
    return _SchemaDialect(at, node).schema(node, frozenset())


class _SchemaDialect:
    """Rewrites a schema in place, as google-genai does."""

    def __init__(self, at: str, root: dict[str, Any]) -> None:
        self.at = at
        defs = root.pop("$defs", None)
        self.defs: dict[str, Any] = defs if isinstance(defs, dict) else {}
        self.resolved = 0

    def schema(self, node: Any, inside: frozenset[str]) -> Any:
        if not isinstance(node, dict):
            return node
        self._nullable(node)
        reference = node.pop("$ref", None)
        if isinstance(reference, str):
            node.update(self._resolve(reference, inside))
            return node
        if isinstance(node.get("anyOf"), list):
            node["anyOf"] = [self.schema(one, inside) for one in node["anyOf"]]
            return node
        kind = node.get("type")
        if kind == "STRING" and isinstance(node.get("const"), str):
            node["enum"] = [node.pop("const")]
        if kind == "OBJECT" and isinstance(node.get("properties"), dict):
            properties = node["properties"]
            for name in properties:
                properties[name] = self.schema(properties[name], inside)
            if len(properties) > 1 and "propertyOrdering" not in node:
                node["propertyOrdering"] = list(properties)
        if kind == "OBJECT" and "additionalProperties" in node:
            node["additionalProperties"] = self.schema(node["additionalProperties"], inside)
        if kind == "ARRAY":
            if "items" in node:
                node["items"] = self.schema(node["items"], inside)
            if isinstance(node.get("prefixItems"), list):
                node["prefixItems"] = [self.schema(one, inside) for one in node["prefixItems"]]
        return node

    def _resolve(self, reference: str, inside: frozenset[str]) -> dict[str, Any]:
        """Return the schema that is referred to; nothing where it stands inside itself."""
        name = reference.rpartition("defs/")[2]
        if name in inside:
            return {}
        if not isinstance(self.defs.get(name), dict):
            _refuse(self.at, "refers to a definition that is not in its $defs")
        self.resolved += 1
        if self.resolved > MAX_REFS:
            _refuse(self.at, f"has more than {MAX_REFS} references: pass it as config.response_json_schema")
        found = self.schema(copy.deepcopy(self.defs[name]), inside | {name})
        return found if isinstance(found, dict) else {}

    @staticmethod
    def _nullable(node: dict[str, Any]) -> None:
        if node.get("type") == "NULL":
            node["nullable"] = True
            del node["type"]
            return
        choices = node.get("anyOf")
        if not isinstance(choices, list):
            return
        left = [one for one in choices if not (isinstance(one, dict) and one.get("type") == "NULL")]
        if len(left) < len(choices):
            node["nullable"] = True
            node["anyOf"] = left
            if len(left) == 1 and isinstance(left[0], dict):
                del node["anyOf"]
                node.update(left[0])


# -- any value -----------------------------------------------------------------------------------------------


def _fields(given: Any, at: str) -> dict[str, Any] | None:
    """Return the fields of a dict or a google-genai object by their camelCase names, without the null ones.

    `None` where it is neither.
    """
    if isinstance(given, Mapping):
        fields: dict[str, Any] = {}
        for key, value in given.items():
            if not isinstance(key, str):
                _refuse(at, f"has a key of type {type(key).__name__}: keys are strings")
            name = _camel(key)
            if name in fields:
                _refuse(f"{at}.{_key(key)}", "is given twice, in snake_case and in camelCase")
            fields[name] = value
        return {name: value for name, value in fields.items() if value is not None}
    names = getattr(type(given), "model_fields", None)
    if isinstance(names, Mapping) and not isinstance(given, type):
        return {_camel(name): value for name in names if (value := getattr(given, name, None)) is not None}
    return None


def _message(fields: dict[str, Any], at: str, shape: _Shape, depth: int) -> dict[str, Any]:
    """Return the JSON of a message's fields."""
    inner = _INNER[shape]
    rest = _Shape.MESSAGE if shape is _Shape.DECLARATION else shape
    return {
        name: _base64_text(value)
        if isinstance(value, str) and name in ("data", "thoughtSignature") and shape is _Shape.MESSAGE
        else value.upper()
        if shape is _Shape.SCHEMA and name == "type" and type(value) is str
        else _plain(value, f"{at}.{_snake(_key(name))}", inner.get(name, rest), depth)
        for name, value in fields.items()
    }


def _plain(value: Any, at: str, shape: _Shape, depth: int) -> Any:
    """Return `value` as Python holds JSON, sharing nothing with it; raises where it cannot be."""
    if depth > MAX_DEPTH:
        _refuse(f"{at[:80]}...", f"is nested deeper than {MAX_DEPTH} levels, or holds itself")
    if value is None or value is True or value is False:
        return value
    if isinstance(value, enum.Enum):
        return _plain(value.value, at, shape, depth)
    if isinstance(value, str):
        return _text(value, at)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            _refuse(at, f"is {value}, which JSON does not have")
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(item, f"{at}[{index}]", shape, depth + 1) for index, item in enumerate(value)]
    if isinstance(value, bytes | bytearray | memoryview):
        return _base64(bytes(value))
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if shape in (_Shape.DATA, _Shape.SCHEMAS):
        if isinstance(value, Mapping):
            inner = _Shape.DATA if shape is _Shape.DATA else _Shape.SCHEMA
            return {
                _data_key(key, at): _plain(item, f"{at}.{_key(key)}", inner, depth + 1)
                for key, item in value.items()
            }
        if hasattr(type(value), "model_fields") and not isinstance(value, type):
            return _plain(_dumped(value, at), at, shape, depth + 1)
    else:
        fields = _fields(value, at)
        if fields is not None:
            return _message(fields, at, shape, depth + 1)
    if callable(value) and at.startswith("config.tools"):
        _refuse(at, f"is a function: {_CALLABLE}")
    return _refuse(at, f"is of type {type(value).__name__}, which JSON does not have")


def _dumped(value: Any, at: str) -> Any:
    """Return what a pydantic object among the data holds."""
    try:
        return value.model_dump(exclude_none=True, warnings=False)
    except Exception as error:  # noqa: BLE001 - the serialisers of an application's own class run here
        _refuse(at, f"is a {type(value).__name__} that cannot be turned into JSON ({type(error).__name__})")


def _text(value: str, at: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            _refuse(at, "holds half a character (a lone surrogate), which UTF-8 does not have")
    return value if type(value) is str else str.__str__(value)


def _data_key(key: Any, at: str) -> str:
    if not isinstance(key, str):
        _refuse(at, f"has a key of type {type(key).__name__}: keys are strings")
    return _text(key, at)


def _key(key: Any) -> str:
    """Return a key as an error shows it: a name, or nothing of it."""
    return key if isinstance(key, str) and re.fullmatch(r"[A-Za-z_$][A-Za-z0-9_]{0,39}", key) else "[...]"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii")


def _base64_text(text: str) -> str:
    """Return base64 that is text already in the same alphabet and padding as ours."""
    return text.replace("+", "-").replace("/", "_") + "=" * (-len(text) % 4)


def _camel(name: str) -> str:
    return re.sub(r"(?<=[A-Za-z0-9])_([A-Za-z0-9])", lambda m: m[1].upper(), name) if "_" in name else name


def _snake(name: str) -> str:
    return re.sub(r"[A-Z]", lambda m: "_" + m[0].lower(), name)
