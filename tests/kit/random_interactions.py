"""Interactions for a random fault run: what the server does with each, and what must be received, out of a seed."""

from __future__ import annotations

import random
from typing import Any, Literal

from gemini_streams import EventsDropped, InteractionGoneError, StreamEvent, StreamRestarting
from gemini_streams.testing import Failure, Interaction, Reply

KINDS = {
    "interaction whole": 6,
    "interaction cuts": 10,
    "interaction timed": 4,
    "interaction silent": 4,
    "interaction error": 3,
    "interaction calls": 5,
    "interaction parallel": 4,
    "interaction busy": 3,
    "interaction refused id": 2,
    "interaction late": 2,
    "interaction usage": 2,
    "interaction lost": 2,
    "interaction forgotten": 2,
    "interaction zombie": 1,
    "interaction failed": 1,
    "interaction refused": 1,
    "interaction foreground": 4,
}
"""How often each is drawn."""

MAX_SILENCE = 1.5
CUT_BY: tuple[Literal["array", "clean", "cut", "reset", "silent"], ...] = (
    "array",
    "clean",
    "cut",
    "reset",
    "silent",
)
_WORDS = ("tide", "sea\u00a0", "\U0001f30a", "ebb", "flöde", "low", "moon\u2028")


def is_interaction(kind: str) -> bool:
    return kind.startswith("interaction ")


def has_one_text(stream_id: str) -> bool:
    """Whether its text has one order: steps that are open together have none where the rest is read at once."""
    return is_interaction(stream_id) and "parallel" not in stream_id


def options_of(kind: str, rng: random.Random) -> dict[str, Any]:
    """The options of its start."""
    options: dict[str, Any] = {
        "max_silence": MAX_SILENCE,
        "cancel_on": rng.choice(["stop", "leave", "never", "never"]),
    }
    if kind == "interaction foreground":
        options |= {"resumable": False, "store": rng.choice([True, False])}
    return options


def _said(seed: int, kind: str, number: int) -> tuple[list[str], list[str], list[dict[str, Any]]]:
    """The words of its answer, its thoughts, its function calls: the same at each POST."""
    rng = random.Random(f"{seed} {kind} {number} said")
    words = [f"{rng.choice(_WORDS)}{n} " for n in range(rng.randint(5, 60))]
    thoughts = [f"weigh{n} " for n in range(rng.choice([0, 0, 1, 6]))]
    calls = [
        {"id": f"call_{n}", "name": "look", "args": {"city": rng.choice(["Rome", "Århus", ""]), "days": [n]}}
        for n in range(rng.randint(1, 3) if kind == "interaction calls" else 0)
    ]
    return words, thoughts, calls


def _parallel(seed: int, kind: str, number: int) -> list[tuple[int, str]]:
    """The pieces of three steps that are open at the same time, in the order in which they come."""
    words, _, _ = _said(seed, kind, number)
    rng = random.Random(f"{seed} {kind} {number} parallel")
    return [(index, "start") for index in range(3)] + [(rng.randrange(3), word) for word in words]


def _events(pieces: list[tuple[int, str]]) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    for index, piece in pieces:
        delta = {"type": "text", "text": piece}
        said = {"delta": delta} if piece != "start" else {"step": {"type": "model_output"}}
        events.append(
            {"event_type": "step.delta" if piece != "start" else "step.start", "index": index, **said}
        )
    return events + [{"event_type": "step.stop", "index": index} for index in (1, 0, 2)]


def text_of(seed: int, kind: str, number: int) -> str:
    return "".join(_said(seed, kind, number)[0])


def steps_of(seed: int, kind: str, number: int) -> list[dict[str, Any]]:
    """The steps that must stand when it is complete."""
    words, thoughts, calls = _said(seed, kind, number)
    steps: list[dict[str, Any]] = []
    if kind == "interaction parallel":
        for step in range(3):
            said = "".join(
                piece for index, piece in _parallel(seed, kind, number) if index == step and piece != "start"
            )
            content = {"content": [{"type": "text", "text": said}]} if said else {}
            steps.append({"type": "model_output", **content})
        return steps
    if thoughts:
        steps.append({"type": "thought", "summary": [{"type": "text", "text": "".join(thoughts)}]})
    steps.append({"type": "model_output", "content": [{"type": "text", "text": "".join(words)}]})
    return steps + [
        {"type": "function_call", "id": call["id"], "name": call["name"], "arguments": call["args"]}
        for call in calls
    ]


def answer_to(seed: int, kind: str, number: int, nth: int) -> Reply:
    """What its n-th POST begins."""
    words, thoughts, calls = _said(seed, kind, number)
    rng = random.Random(f"{seed} {kind} {number} {nth}")
    options: dict[str, Any] = {
        "ids": rng.choice(["all", 7, 3, "first", "none"]),
        "replay": rng.choice(["same", "merged", 1, 4]),
        "text_in_start": rng.random() < 0.5,
        "event_lines": rng.random() < 0.8,
        "done": rng.random() < 0.8,
        "string_codes": rng.random() < 0.3,
    }
    more: dict[str, Any] = {}
    after = rng.randint(0, 12)
    cuts = [rng.randint(0, 15) for _ in range(rng.randint(1, 6))]
    match kind.removeprefix("interaction ") if nth <= 2 else "whole":
        case "cuts" | "calls" | "parallel":
            options |= {"cuts": cuts, "cut_by": rng.choice(CUT_BY)}
        case "timed":
            options |= {"cut_seconds": rng.uniform(0.1, 0.5)}
        case "silent":
            options |= {"cuts": [after], "cut_by": "reset", "resume_silent_after": rng.randint(0, 3)}
        case "error":
            more["error_after"] = (after, Failure(rng.choice([500, 503, 504])))
        case "busy":
            answers = [rng.choice([None, Failure(500), Failure(503), Failure(429)]) for _ in range(6)]
            options |= {"cuts": cuts, "cut_by": "reset", "gets": answers}
        case "refused id":
            options |= {"cuts": [after], "cut_by": "reset", "gets": [None, Failure(400)]}
        case "late":
            options["gets"] = [Failure(404)]
        case "usage":
            options["usage_late"] = rng.choice([0.0, 0.3, 5.0])
        case "lost" if nth == 1:
            options["post_lost"] = True
        case "forgotten":
            options |= {"cuts": cuts, "cut_by": "reset", "forget_after": rng.randint(0, 2)}
        case "zombie":
            options["zombie_after"] = after
        case "failed":
            options["status"] = rng.choice(["failed", "cancelled", "budget_exceeded"])
        case "refused":
            options["no_background"] = True
        case "foreground":
            options |= {"cuts": [after], "cut_by": rng.choice(CUT_BY)}
    if kind == "interaction parallel":
        more["events"] = _events(_parallel(seed, kind, number))
        options["status"] = "completed"
    return Reply(
        words,
        thoughts=thoughts,
        function_calls=calls,
        pace=rng.uniform(0.002, 0.04),
        interaction=Interaction(**options),
        **more,
    )


def posts_told(messages: list[Any]) -> int:
    """How many POSTs one stream may have needed: one, and one for each restart that knew no interaction."""
    posts, known = 1, False
    for message in messages:
        match message:
            case StreamEvent() | EventsDropped():
                known = True
            case StreamRestarting(error=InteractionGoneError()):
                posts, known = posts + 1, False
            case StreamRestarting() if not known:
                posts += 1
    return posts
