"""The command line: its arguments, and what comes of errors. Each command has a file of its own.

- Exit codes: 0 as it should be, 1 not so (with one line on standard error), 2 an argument or a file that it names is
  wrong and nothing was asked, 130 interrupted, 143 terminated. A signal ends `serve-local` with 0: it is the only end.
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
from gemini_streams.cli.output import UsageError, advice, complain, mute, name_of
from gemini_streams.cli.scenarios import SCENARIOS
from gemini_streams.cli.serve_local import run_serve_local
from gemini_streams.cli.signals import INTERRUPTED, TERMINATED, Terminated, termination
from gemini_streams.cli.top import SORTS, run_top
from gemini_streams.errors import GeminiStreamsError, InvalidRequestError
from gemini_streams.options import DEFAULT_MODEL

__all__ = ["main"]

_USAGE = 2


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
    except Terminated:
        complain("terminated")
        return TERMINATED
    except (UsageError, InvalidRequestError) as error:
        complain(str(error))
        return _USAGE
    except GeminiStreamsError as error:
        complain(f"{name_of(error)}{error}{advice(error)}")
    except BrokenPipeError:  # the reader of our output has left
        pass
    except OSError as error:
        complain(error.strerror or str(error))
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
    with termination():
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
    commands = parser.add_subparsers(
        title="commands", required=True, metavar="demo | ask | batch | serve-local | top"
    )

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
        help="stream one answer, or the answers to several prompts, to standard output",
        description="Streams one answer to standard output and says everything else on standard error. Several prompts"
        " are answered at once, and printed whole and in order, each under a heading. Prompts are the arguments, then"
        " the files; where there is neither, standard input is the prompt. Exit code 0: every answer is whole; 1: some"
        " are not, and one line says why; 2: an argument or a file is wrong, and nothing was asked; 130, 143:"
        " interrupted, terminated.",
    )
    ask.add_argument(
        "prompts", nargs="*", metavar="PROMPT", help="what to ask; - reads it from standard input"
    )
    ask.add_argument(
        "-f",
        "--file",
        action="append",
        default=[],
        metavar="PATH",
        help="a file that is one more prompt; repeatable",
    )
    ask.add_argument("--system", metavar="TEXT", help="the system instruction of every prompt")
    ask.add_argument(
        "--config",
        metavar="JSON|@FILE",
        help="the generation config, as '{\"temperature\": 0.2}' or @config.json",
    )
    ask.add_argument("--json", action="store_true", help="print a line of JSON a prompt, not text")
    ask.add_argument("--quiet", action="store_true", help="print the answers' text alone, and errors")
    ask.add_argument(
        "--at-once",
        type=int,
        default=20,
        metavar="N",
        help="how many prompts run at once (default: %(default)s)",
    )
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

    named = "; ".join(f"{name}: {words}" for name, (words, _) in SCENARIOS.items())
    serve = commands.add_parser(
        "serve-local",
        help="a Gemini on this machine for other programs; needs no key",
        description="Listens until Ctrl-C or SIGTERM, and answers streamGenerateContent and the Interactions API as"
        " a scenario says. It prints its URL, and on standard error each request.",
    )
    serve.add_argument("--host", default="127.0.0.1", help="the address to listen at (default: %(default)s)")
    serve.add_argument("--port", type=int, default=0, help="the port; 0, the default, takes a free one")
    serve.add_argument(
        "--pace", type=float, default=0.0, metavar="SECONDS", help="between two events (default: 0)"
    )
    serve.add_argument(
        "--scenario",
        action="append",
        metavar="NAME|FILE.json",
        help=f"what to answer; repeatable, and the first that fits a prompt counts. {named}",
    )
    serve.add_argument("--quiet", action="store_true", help="tell of no request")
    serve.set_defaults(run=run_serve_local)
    top = commands.add_parser(
        "top",
        help="what a dashboard shows, in this terminal",
        description="Shows the streams of a dashboard (gemini_streams.extras.dashboard), live, until q or Ctrl-C. Where"
        ' standard output is no terminal it prints one table. Needs rich: pip install "gemini-streams[cli]".',
    )
    top.add_argument("url", metavar="URL", help="the dashboard's, such as http://127.0.0.1:8000/")
    top.add_argument("--once", action="store_true", help="print one table and end")
    top.add_argument(
        "--interval", type=float, default=1.0, metavar="SECONDS", help="between two looks (default: 1)"
    )
    top.add_argument(
        "--sort", choices=SORTS, default="running", help="the order of the streams (default: %(default)s)"
    )
    top.set_defaults(run=run_top)
    return parser


def _model_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=DEFAULT_MODEL, help="the model to ask (default: %(default)s)")
