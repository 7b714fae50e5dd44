"""The command line: its arguments, and what comes of errors. Each command has a file of its own.

- Exit codes: 0 as it should be, 1 not so (with one line on standard error), 2 wrong arguments, 130 interrupted,
  143 terminated (`batch`).
- Where standard output is closed nothing is asked. Where it cannot be written any more, the command ends with 1; a
  reader that has left needs no line about it. No way of ending shows a traceback.
"""

from __future__ import annotations

import argparse
import errno
import importlib.metadata
import io
import sys
from collections.abc import Sequence

from gemini_streams.cli.ask import run_ask
from gemini_streams.cli.batch import run_batch
from gemini_streams.cli.demo import run_demo
from gemini_streams.cli.output import advice, complain, mute, name_of
from gemini_streams.errors import GeminiStreamsError
from gemini_streams.options import DEFAULT_MODEL

__all__ = ["INTERRUPTED", "main"]

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    for file in (sys.stdout, sys.stderr):
        if isinstance(file, io.TextIOWrapper):
            file.reconfigure(errors="replace")  # a terminal that cannot show a character shows something else
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except GeminiStreamsError as error:
        complain(f"{name_of(error)}{error}{advice(error)}")
    except BrokenPipeError:  # the reader of our output has left
        pass
    except OSError as error:
        complain(error.strerror or str(error))
    except UnicodeDecodeError:
        complain("standard input is no text in UTF-8")
    mute(sys.stdout)
    return 1


def _run(arguments: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(arguments)
    except SystemExit:  # it has printed the help, or what is wrong
        mute(sys.stderr)
        if sys.stdout is not None:
            sys.stdout.flush()
        raise
    if sys.stdout is None:  # Python's word for a closed one
        raise OSError(errno.EBADF, "standard output is closed: there is nowhere to write to")
    code: int = options.run(options)
    sys.stdout.flush()
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gemini_streams",
        description="Many supervised streaming sessions with Google's Gemini API at once, as Pykka actors.",
        epilog="The key is read from GOOGLE_API_KEY or GEMINI_API_KEY, the base URL from GOOGLE_GEMINI_BASE_URL,"
        " as google-genai does. Keys are made at https://aistudio.google.com/apikey.",
    )
    version = importlib.metadata.version("gemini-streams")
    parser.add_argument("--version", action="version", version=f"gemini-streams {version}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="demo | ask | batch")

    demo = commands.add_parser(
        "demo",
        help="several streams at once, live and side by side; needs no key",
        description="Opens several streams at once and shows their texts live and side by side. One of them fails for"
        " good, and one is broken off in mid-answer and started again by its supervisor. Without a key in the"
        " environment a local Gemini answers; with one, Gemini itself does (a few short, billed requests). Panels"
        ' on a terminal need rich: pip install "gemini-streams[cli]"; without it lines are printed.',
    )
    _model_option(demo)
    demo.add_argument("--local", action="store_true", help="use the local Gemini although there is a key")
    demo.add_argument("--plain", action="store_true", help="print lines, on a terminal too")
    demo.set_defaults(run=run_demo)

    ask = commands.add_parser(
        "ask",
        help="stream one answer to standard output",
        description="Streams one answer to standard output and says everything else on standard error. Exit code 0:"
        " the answer is whole; 1: it is not, and one line says why. A failure is tried again only while nothing of"
        " the answer has been printed, since what is printed cannot be taken back.",
    )
    ask.add_argument("prompt", help="what to ask; - reads it from standard input")
    _model_option(ask)
    ask.set_defaults(run=run_ask)

    batch = commands.add_parser(
        "batch",
        help="many prompts from a file, their answers into another",
        description='Asks each line of IN, {"key": ..., "request": {...}}, and writes a line {"key": ..., "response"'
        ' or "error": {...}} to OUT as the answers end. Started again, it goes on: keys with a response are skipped,'
        " those with an error are asked again. Quotas are waited out. Exit code 0: all keys have a whole response;"
        " 1: some have not; 2: a file or an argument is wrong; 130, 143: interrupted, terminated.",
    )
    batch.add_argument("input", metavar="IN.jsonl", help="the requests, as Google's batch mode takes them")
    batch.add_argument(
        "output", metavar="OUT.jsonl", help="where the answers go; an unfinished one is gone on with"
    )
    batch.add_argument(
        "--at-once", type=int, default=20, help="how many requests run at once (default: %(default)s)"
    )
    batch.add_argument("--quiet", action="store_true", help="no progress and no sum on standard error")
    _model_option(batch)
    batch.set_defaults(run=run_batch)
    return parser


def _model_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=DEFAULT_MODEL, help="the model to ask (default: %(default)s)")
