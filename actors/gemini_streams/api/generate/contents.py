"""The `contents` of a request: turns, made of strings, parts, contents, files and pictures. Pure.

The rules (google-genai 3.4 is the measure, a test compares the two):

- `contents` are a string, a part, a content or an uploaded file, or a list of these, as dicts (snake_case or camelCase)
  or as google-genai's objects.
- Neighbouring strings and parts form one turn: the user's, or the model's where they are function calls. A list within
  the list is a turn of its own.
- A picture of Pillow's becomes inline data.
"""

from __future__ import annotations

import io
import sys
from typing import Any

from gemini_streams.api.body import Large
from gemini_streams.api.generate.values import Shape, base64_of, fields_of, message_of, plain, refuse, snake

__all__ = ["content_of", "contents_of"]

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


def contents_of(given: Any) -> list[dict[str, Any]]:
    """Return the turns that `contents` are."""
    items = given if isinstance(given, list | tuple) else [given]
    if given is None or not items:
        refuse("contents", f"are empty: {_GIVE}")
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
        refuse("contents", f"say nothing: {_GIVE}")
    return turns


def _says_something(part: dict[str, Any]) -> bool:
    return any(value != "" for name, value in part.items() if name not in ("thought", "thoughtSignature"))


def _turn(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {"parts": parts, "role": "model" if _is_call(parts[0]) else "user"}


def _is_call(part: dict[str, Any]) -> bool:
    return "functionCall" in part


def content_of(given: Any, at: str) -> dict[str, Any]:
    """Return the one content that a system instruction is."""
    if isinstance(given, list | tuple):
        return {"parts": _parts(given, at), "role": "user"}
    kind, node = _node(given, at)
    return node if kind == "content" else _turn([node])


def _parts(given: Any, at: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for index, item in enumerate(given):
        kind, node = _node(item, f"{at}[{index}]")
        if kind == "content":
            refuse(f"{at}[{index}]", "is a content where a part is wanted: contents stand in one flat list")
        parts.append(node)
    return parts


def _node(given: Any, at: str) -> tuple[str, dict[str, Any]]:
    """Return one item of a list of contents: `("content", …)` or `("part", …)`."""
    if isinstance(given, str):
        return "part", {"text": plain(given, at, Shape.DATA, 0)}
    if isinstance(given, bytes | bytearray | memoryview):
        refuse(
            at, "are bytes of an unknown kind: give {'inline_data': {'data': ..., 'mime_type': 'image/png'}}"
        )
    if _is_picture(given):
        return "part", {"inlineData": _picture(given, at)}
    fields = fields_of(given, at)
    if fields is None:
        refuse(at, f"is of type {type(given).__name__}: {_GIVE}")
    if not fields:
        refuse(at, f"is empty: {_GIVE}")
    if "parts" in fields or (fields.keys() <= _CONTENT):
        return "content", _content_node(fields, at)
    if "uri" in fields or "fileUri" in fields or "uri" in getattr(type(given), "model_fields", ()):
        return "part", {"fileData": _file_data(fields, at)}
    if "role" in fields:
        refuse(at, "has a role but no parts: give {'role': 'user', 'parts': [{'text': '...'}]}")
    if not fields.keys() & _PART:
        refuse(at, f"is neither a part nor a content: {_GIVE}")
    return "part", _part_node(fields, at)


def _content_node(fields: dict[str, Any], at: str) -> dict[str, Any]:
    node: dict[str, Any] = {}
    for name, value in fields.items():
        if name == "parts":
            if not isinstance(value, list | tuple):
                refuse(f"{at}.parts", f"must be a list of parts, not {type(value).__name__}")
            node[name] = _parts(value, f"{at}.parts")
        else:
            node[name] = plain(value, f"{at}.{name}", Shape.MESSAGE, 1)
    if not isinstance(node.get("role", ""), str):
        refuse(f"{at}.role", "must be 'user' or 'model'")
    return node


def _part_node(fields: dict[str, Any], at: str) -> dict[str, Any]:
    node = message_of(fields, at, Shape.MESSAGE, 1)
    if not isinstance(node.get("text", ""), str | Large):
        refuse(f"{at}.text", f"must be a string, not {type(fields['text']).__name__}")
    for name in ("inlineData", "fileData", "functionCall", "functionResponse"):
        if not isinstance(node.get(name, node), dict):
            refuse(f"{at}.{snake(name)}", f"must be a dict, not {type(fields[name]).__name__}")
    return node


def _file_data(fields: dict[str, Any], at: str) -> dict[str, Any]:
    """Return the fileData of an uploaded file, or of the fields of a fileData."""
    if "fileUri" in fields:
        return message_of(fields, at, Shape.MESSAGE, 1)
    uri, kind = fields.get("uri"), fields.get("mimeType")
    if not isinstance(uri, str) or not isinstance(kind, str) or not uri or not kind:
        refuse(at, "is a file without a uri or a mime_type: upload it first and give what the upload answers")
    return {"fileUri": uri, "mimeType": kind}


def _is_picture(given: Any) -> bool:
    """Whether it is an image of Pillow's."""
    image = getattr(sys.modules.get("PIL.Image"), "Image", None)
    return isinstance(image, type) and isinstance(given, image)


def _picture(given: Any, at: str) -> dict[str, str | Large]:
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
        refuse(
            at,
            f"is an image that cannot be saved as {name} ({type(error).__name__}): give its bytes and type",
        )
    return {"data": base64_of(file.getvalue()), "mimeType": f"image/{name.lower()}"}
