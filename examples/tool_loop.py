"""A tool loop by hand: the model asks for functions, the program calls them and sends what they return.

Runs on a local Gemini; no key is needed.
"""

from collections.abc import Callable
from typing import Any

from gemini_streams import ManagerActor, ManagerRef, stream
from gemini_streams.testing import LocalGemini, Reply

MOST_ROUNDS = 5


def weather(place: str) -> dict[str, Any]:
    """Look the weather up."""
    return {"place": place, "celsius": {"Oslo": -3, "Rome": 17}[place]}


TOOLS: dict[str, Callable[..., dict[str, Any]]] = {"weather": weather}

DECLARED = {
    "name": "weather",
    "description": "The weather at a place, now.",
    "parameters": {"type": "OBJECT", "properties": {"place": {"type": "STRING"}}, "required": ["place"]},
}


def call(wanted: dict[str, Any]) -> dict[str, Any]:
    """Call the function that the model wants; return the part that tells the model what came of it."""
    name, args = wanted["name"], wanted.get("args", {})
    print(f"[{name} {args}]")
    try:
        result = TOOLS[name](**args)
    except Exception as error:  # noqa: BLE001 - the model is told of it, and may try something else
        result = {"error": repr(error)}
    response = {"name": name, "response": result}
    if "id" in wanted:
        response["id"] = wanted["id"]
    return {"functionResponse": response}


def converse(manager: ManagerRef, question: str) -> str:
    """Go on until the model asks for no more functions; return its last words."""
    contents: list[Any] = [{"role": "user", "parts": [{"text": question}]}]
    for _ in range(MOST_ROUNDS):  # a model that never stops asking costs money
        with stream(manager, contents, config={"tools": [{"function_declarations": [DECLARED]}]}) as events:
            for piece in events.text_stream:
                print(piece, end="", flush=True)
        answer = events.answer
        answer.raise_for_error()
        if not answer.function_calls:  # complete ones only: an answer that broke off has none
            print()
            return answer.text
        contents.append(answer.content)  # the model's turn, thought signatures and all
        contents.append({"role": "user", "parts": [call(wanted) for wanted in answer.function_calls]})
    raise RuntimeError(f"the model asked for functions {MOST_ROUNDS} times")


def main() -> None:
    """Ask for the weather at two places and one that the function does not know."""
    calls = [{"name": "weather", "args": {"place": place}} for place in ("Oslo", "Rome", "Atlantis")]
    with LocalGemini() as gemini:
        gemini.on(
            "warmer",
            Reply(function_calls=calls),
            Reply("Rome is, by 20 degrees. I found no Atlantis."),
        )
        manager = ManagerActor.start(endpoint=gemini.endpoint)
        converse(manager, "Where is it warmer: Oslo, Rome or Atlantis?")
        print("sent in the second round:", [turn["role"] for turn in gemini.requests[1].body["contents"]])
        manager.stop()


if __name__ == "__main__":
    main()
