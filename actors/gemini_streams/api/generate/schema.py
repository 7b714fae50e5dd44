"""The schemas of a config: a type's JSON schema, and `responseSchema` in OpenAPI's dialect. Pure.

The rules (google-genai 3.4 is the measure, a test compares the two):

- `response_schema` and `response_json_schema` take a schema, or a Python type that pydantic can describe.
- `responseSchema` has no references: each is replaced by what it refers to. Its properties have an order, and a choice
  that includes null is `nullable`.
- `responseJsonSchema` stays as it is.
"""

from __future__ import annotations

import copy
import enum
import sys
from typing import Any

from gemini_streams.api.generate.values import Shape, plain, refuse

__all__ = ["response_schema", "schema_source"]

MAX_REFS = 1_000
"""References resolved in one schema."""


def schema_source(value: Any, at: str) -> Any:
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
            refuse(
                at, f"is a type without a schema ({type(error).__name__}): pass config.response_json_schema"
            )
        refuse(at, "is a Python type: pass its JSON schema as config.response_json_schema")
    return value


def response_schema(given: Any, at: str) -> Any:
    """Return a schema in the dialect of `responseSchema`, OpenAPI's: no references, properties in order."""
    node = plain(schema_source(given, at), at, Shape.SCHEMA, 1)
    if not isinstance(node, dict):
        refuse(at, f"must be a schema, not {type(given).__name__}: give a dict, a Schema or a pydantic class")
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
            refuse(self.at, "refers to a definition that is not in its $defs")
        self.resolved += 1
        if self.resolved > MAX_REFS:
            refuse(self.at, f"has more than {MAX_REFS} references: pass it as config.response_json_schema")
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
