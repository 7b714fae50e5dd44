"""What an application's function returned, as a step of the next interaction's input. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemini_streams.api.interactions.saying import CALL
from gemini_streams.errors import InvalidRequestError, shown

__all__ = ["function_result"]

_CONTENTS = ("text", "image")
"""Types of the contents that the service takes as a result."""


def function_result(call: Mapping[str, Any], result: Any, *, is_error: bool = False) -> dict[str, Any]:
    """Return the step that answers a function call of an interaction.

    An interaction that ends with `requires_action` waits for one such step for each of `Answer.function_calls`. They
    are the input of the next `StartInteraction`, with `previous_interaction_id`, or behind all steps so far.

    Args:
        call: one of `Answer.function_calls`, or of `StreamEvent.function_calls`.
        result: what the function returned: a string, a dict, or a list of `text` and `image` contents. Any other JSON
            value is sent as `{"result": value}`, since the service takes none.
        is_error: whether the function failed; `result` then tells the model how.

    Raises:
        InvalidRequestError: it is no function call of an interaction.

    """
    given: Any = call
    call_id = given.get("id") if isinstance(given, Mapping) and given.get("type") == CALL else None
    if not (isinstance(call_id, str) and call_id):
        raise InvalidRequestError(
            f"{shown(call)} is no function call of an interaction: give one of Answer.function_calls. A call of a"
            " StartStream is answered by a functionResponse"
        )
    step: dict[str, Any] = {"type": "function_result", "call_id": call_id}
    if call.get("name"):
        step["name"] = call["name"]
    step["result"] = result if _is_taken(result) else {"result": result}
    if is_error:
        step["is_error"] = True
    return step


def _is_taken(result: Any) -> bool:
    """Whether the service takes a result as it is."""
    if isinstance(result, list | tuple):
        return bool(result) and all(_kind(item) in _CONTENTS for item in result)
    return isinstance(result, str | Mapping) or callable(getattr(result, "model_dump", None))


def _kind(item: Any) -> Any:
    """Return the type of a content, a dict or an object of google-genai's."""
    return item.get("type") if isinstance(item, Mapping) else getattr(item, "type", None)
