"""`ask`: the answers to some prompts on standard output; everything else goes to standard error.

The rules:

- Prompts and config are read and checked before anything is asked.
- One prompt: its answer is streamed. What is printed cannot be taken back, so a failure is tried again only while
  nothing of the answer has been printed.
- Several prompts, or `--json`: they are answered at once, and printed whole, in the order of the prompts. A failure is
  tried again wherever it comes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence

from gemini_streams.answer import Answer
from gemini_streams.api.endpoint import Endpoint
from gemini_streams.api.environment import FromEnvironment
from gemini_streams.cli.output import (
    SPARE_TIME,
    UsageError,
    advice,
    complain,
    count,
    fields_of,
    name_of,
    one_line,
    printable,
    say,
    silent_log,
)
from gemini_streams.cli.prompts import Prompt, config_of, prompts_of
from gemini_streams.errors import IncompleteAnswerError
from gemini_streams.iterate import answers, stream
from gemini_streams.manager import ManagerActor, ManagerRef
from gemini_streams.messages import StartStream, StreamComplete, StreamEvent, StreamRestarting
from gemini_streams.options import RetryPolicy

__all__ = ["run_ask"]

_TITLE = 70
"""Characters of a prompt in its heading."""


def run_ask(options: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    if options.at_once < 1:
        raise UsageError("--at-once is 1 or more")
    prompts, config = prompts_of(options), config_of(options)
    endpoint: Endpoint = FromEnvironment()
    where = endpoint.resolve().base_url
    live = len(prompts) == 1 and not options.json
    with contextlib.ExitStack() as clearing:
        clearing.enter_context(silent_log())
        manager = ManagerActor.start(
            endpoint=endpoint,
            model=options.model,
            config=config,
            max_streams=options.at_once,
            retry=RetryPolicy(on_partial="fail") if live else RetryPolicy(),
        )
        clearing.callback(manager.stop, timeout=SPARE_TIME)
        if not options.quiet:
            several = "" if live else f" {count(len(prompts), 'prompt')}"
            complain(f"asking {options.model}{several} at {where}")
        if live:
            return _stream(manager, prompts[0], quiet=options.quiet)
        return _several(manager, prompts, options)


# -- one prompt ------------------------------------------------------------------------------------------------------


def _stream(manager: ManagerRef, prompt: Prompt, *, quiet: bool) -> int:
    safely = printable if sys.stdout.isatty() else str
    with stream(manager, prompt.text) as answer:
        said = ""
        try:
            for item in answer:
                if isinstance(item, StreamEvent):
                    said = item.text or said
                    sys.stdout.write(safely(item.text))
                    sys.stdout.flush()
                elif isinstance(item, StreamRestarting) and not quiet:
                    complain(f"{item.error}; asking again in {item.delay:.1f} s")
        finally:
            if said and not said.endswith("\n"):
                with contextlib.suppress(OSError):
                    print(flush=True)  # noqa: T201
        if answer.answer.ok:
            return 0
        complain(_unfinished(answer.result))
        return 1


# -- several ---------------------------------------------------------------------------------------------------------


def _several(manager: ManagerRef, prompts: Sequence[Prompt], options: argparse.Namespace) -> int:
    requests = [StartStream(prompt.text, tag=number) for number, prompt in enumerate(prompts)]
    ended: dict[int, Answer] = {}
    shown = whole = 0
    with contextlib.closing(answers(manager, requests, at_once=options.at_once)) as running:
        for request, one in running:
            ended[request.tag] = one
            while (answer := ended.pop(shown, None)) is not None:
                if options.json:
                    say(_line(prompts[shown], answer))
                else:
                    _print(prompts[shown], answer, "" if options.quiet else f"{shown + 1} of {len(prompts)}")
                whole += answer.ok
                shown += 1
    if not options.quiet and len(prompts) > 1:
        complain(f"{whole} of {count(len(prompts), 'answer')} are whole")
    return 0 if whole == len(prompts) else 1


def _line(prompt: Prompt, answer: Answer) -> str:
    """Return the answer as a line of JSON, in ASCII: no locale and no terminal changes a character of it."""
    said = {
        "key": prompt.key,
        "prompt": prompt.text,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "usage": answer.usage,
        "error": None if answer.error is None else fields_of(answer.error),
    }
    return json.dumps(said)


def _print(prompt: Prompt, answer: Answer, place: str) -> None:
    terminal = sys.stdout.isatty()
    if place:
        title = prompt.text if prompt.key.isdecimal() or prompt.key == "-" else prompt.key
        title = one_line(title)
        short = title if len(title) <= _TITLE else title[: _TITLE - 1] + "…"
        heading = f"== {place}: {short} =="
        coloured = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
        say(f"\x1b[1m{heading}\x1b[0m" if coloured else heading)
    if answer.text:
        text = printable(answer.text) if terminal else answer.text
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
    if place:
        say("")
    sys.stdout.flush()
    if not answer.ok:
        complain(f"prompt {prompt.key}: {_why(answer)}")


def _why(answer: Answer) -> str:
    """Say why an answer is not whole, and what to do."""
    error = answer.error
    if error is None or isinstance(error, IncompleteAnswerError):
        return _unfinished(answer.last)
    return f"{name_of(error)}{error}{advice(error)}"


def _unfinished(last: object) -> str:
    """Say why an answer that came to its end is not whole, and what to do."""
    if not isinstance(last, StreamComplete):
        return "the answer is not whole; ask again"
    if last.block_reason is not None:
        return f"the prompt was blocked ({last.block_reason}); ask in other words"
    why = f" ({last.finish_message})" if last.finish_message else ""
    return (
        f"the answer is not whole: it ended with {last.finish_reason}{why}; ask for less, or in other words"
    )
