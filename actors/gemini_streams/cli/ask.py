"""`ask`: stream one answer to standard output; everything else goes to standard error.

What is printed cannot be taken back, so a failure is tried again only while nothing of the answer has been printed.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import sys

from gemini_streams.api.endpoint import Gemini
from gemini_streams.cli.output import SPARE_TIME, complain, printable
from gemini_streams.iterate import stream
from gemini_streams.manager import ManagerActor
from gemini_streams.messages import StreamComplete, StreamEvent, StreamRestarting
from gemini_streams.options import RetryPolicy

__all__ = ["run_ask"]


def run_ask(options: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    prompt = _standard_input() if options.prompt == "-" else options.prompt
    endpoint = Gemini()
    where = endpoint.resolve().base_url
    complain(f"asking {options.model} at {where}")
    safely = printable if sys.stdout.isatty() else str
    with contextlib.ExitStack() as clearing:
        manager = ManagerActor.start(
            endpoint=endpoint, model=options.model, retry=RetryPolicy(on_partial="fail")
        )
        clearing.callback(manager.stop, timeout=SPARE_TIME)
        answer = clearing.enter_context(stream(manager, prompt))
        said = ""
        try:
            for item in answer:
                if isinstance(item, StreamEvent):
                    said = item.text or said
                    sys.stdout.write(safely(item.text))
                    sys.stdout.flush()
                elif isinstance(item, StreamRestarting):
                    complain(f"{item.error}; asking again in {item.delay:.1f} s")
        finally:
            if said and not said.endswith("\n"):
                with contextlib.suppress(OSError):
                    print(flush=True)  # noqa: T201
        if answer.answer.ok:
            return 0
        complain(_unfinished(answer.result))
        return 1


def _standard_input() -> str:
    if sys.stdin is None:
        raise OSError(errno.EBADF, "standard input is closed: give the prompt as an argument")
    return sys.stdin.read()


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
