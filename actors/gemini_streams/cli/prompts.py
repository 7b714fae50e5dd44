"""What `ask` is given: its prompts, from arguments, files and standard input, and its config. All is read first.

Whatever is wrong with it raises `UsageError`, before anything is asked.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gemini_streams.cli.output import UsageError

__all__ = ["Prompt", "config_of", "prompts_of"]

_STDIN = "-"
_SYSTEM = ("systemInstruction", "system_instruction")


class Prompt(NamedTuple):
    """One prompt."""

    key: str
    """Its number, from 1; of a file: its path; `-`: standard input."""
    text: str


def prompts_of(options: argparse.Namespace) -> list[Prompt]:
    """Return the prompts: the arguments in their order, then the files in theirs."""
    named = [*options.prompts, *options.file]
    if named.count(_STDIN) > 1:
        raise UsageError("standard input can be read once: give - once")
    if not named:
        if sys.stdin is not None and sys.stdin.isatty():
            raise UsageError("nothing is asked: give a prompt, --file PATH, or - for standard input")
        named = [_STDIN]
    prompts = []
    for number, given in enumerate(named, 1):
        if given == _STDIN:
            prompt = Prompt(_STDIN, _standard_input())
        elif number <= len(options.prompts):
            prompt = Prompt(str(number), given)
        else:
            prompt = Prompt(given, _text_of(Path(given)))
        if not prompt.text.strip():
            what = "standard input" if prompt.key == _STDIN else f"prompt {prompt.key}"
            raise UsageError(f"{what} is empty: there is nothing to ask")
        prompts.append(prompt)
    return prompts


def config_of(options: argparse.Namespace) -> dict[str, Any] | None:
    """Return the generation config, with the system instruction; `None` where there is neither."""
    config = {} if options.config is None else _object(options.config)
    if options.system is not None:
        if any(name in config for name in _SYSTEM):
            raise UsageError("the system instruction is given twice: by --system and in --config")
        config["systemInstruction"] = options.system
    return config or None


def _object(given: str) -> dict[str, Any]:
    text = _text_of(Path(given[1:])) if given.startswith("@") else given
    try:
        config = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise UsageError(f"--config is JSON, or @ and the path of a file of JSON ({error})") from None
    if not isinstance(config, dict):
        raise UsageError('--config is a JSON object, as {"temperature": 0.2}')
    return config


def _standard_input() -> str:
    if sys.stdin is None:
        raise UsageError("standard input is closed: give the prompt as an argument")
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise UsageError("standard input is no text in UTF-8") from None


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except ValueError:
        raise UsageError(f"{path} is no text in UTF-8") from None
