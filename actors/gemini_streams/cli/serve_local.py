"""`serve-local`: a Gemini on this machine for other programs, until Ctrl-C or SIGTERM. Its exit code is 0 then."""

from __future__ import annotations

import argparse
import contextlib

from gemini_streams.cli.output import UsageError, complain, count, one_line, say
from gemini_streams.cli.scenarios import play
from gemini_streams.cli.signals import Terminated
from gemini_streams.testing import LocalGemini, RequestRecord

__all__ = ["run_serve_local"]

_LOOK = 3600.0


def run_serve_local(options: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    if not 0 <= options.port <= 65_535:
        raise UsageError("--port is 0 (a free one) to 65535")
    gemini = LocalGemini(host=options.host, port=options.port, keys=None, pace=options.pace)
    for scenario in options.scenario or ["echo"]:
        play(gemini, scenario)
    with contextlib.suppress(KeyboardInterrupt, Terminated), contextlib.closing(gemini):
        _start(gemini, options)
        number = 0
        while True:
            with contextlib.suppress(TimeoutError):
                record = gemini.wait_request(number + 1, timeout=_LOOK)
                number += 1
                if not options.quiet:
                    _tell(record)
    if not options.quiet:
        complain(f"ended after {count(len(gemini.requests), 'request')}")
    return 0


def _start(gemini: LocalGemini, options: argparse.Namespace) -> None:
    try:
        gemini.start()
    except OSError as error:
        raise OSError(error.errno, f"{options.host}, port {options.port}: {error.strerror}") from None
    say(f"A local Gemini listens at {gemini.url}. It takes any key, and Ctrl-C ends it.")
    say("In another shell, for this package, google-genai, and what is built on them:\n")
    say(f"    export GEMINI_API_KEY=local-key GOOGLE_GEMINI_BASE_URL={gemini.url}\n")


def _tell(record: RequestRecord) -> None:
    asked = one_line(record.text)
    complain(
        f"{record.number}. {record.method} {record.model}: {asked if len(asked) <= 70 else asked[:69] + '…'}"
    )
