"""`batch IN.jsonl OUT.jsonl`: many prompts, at most so many at once, and their answers in a file.

Started again, it goes on: keys with a response are skipped, those with an error are asked again. A quota is waited out.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from pathlib import Path

from gemini_streams.api.endpoint import Endpoint
from gemini_streams.api.environment import FromEnvironment
from gemini_streams.cli.batch_files import BatchError, Output, line_of, read_keys, requests_of
from gemini_streams.cli.output import SPARE_TIME, complain, count
from gemini_streams.cli.progress import Progress, progress
from gemini_streams.cli.signals import TERMINATED, Terminated
from gemini_streams.iterate import answers
from gemini_streams.manager import ManagerActor
from gemini_streams.messages import StreamComplete
from gemini_streams.options import RetryPolicy

__all__ = ["run_batch"]

_DAY = 86_400.0


def run_batch(options: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    source, target = Path(options.input), Path(options.output)
    if options.at_once < 1:
        raise BatchError("--at-once is 1 or more")
    if source.resolve() == target.resolve() or (target.exists() and source.samefile(target)):
        raise BatchError("the output would overwrite the input: give another file")
    keys = read_keys(source)
    endpoint: Endpoint = FromEnvironment()
    endpoint.resolve()  # a missing key is told before the output is made
    with contextlib.closing(Output(target)) as output:
        try:
            return _run(options, source, set(keys), output, endpoint)
        except Terminated:
            complain("terminated; the same command goes on from here")
            return TERMINATED


def _run(
    options: argparse.Namespace, source: Path, keys: set[str], output: Output, endpoint: Endpoint
) -> int:
    began = time.monotonic()
    skipped = len(keys & output.done)
    failed = 0
    with contextlib.ExitStack() as clearing:
        manager = ManagerActor.start(
            endpoint=endpoint,
            model=options.model,
            max_streams=options.at_once,
            linger=0.0,
            retry=RetryPolicy(attempts=8, max_total_wait=_DAY),
        )
        clearing.callback(manager.stop, timeout=SPARE_TIME)
        shown: Progress = clearing.enter_context(
            progress(len(keys), skipped, manager.get_stats, quiet=options.quiet)
        )
        running = answers(manager, requests_of(source, output.done), at_once=options.at_once)
        clearing.callback(running.close)
        for request, answer in running:
            output.add(line_of(request.tag, answer))
            well = isinstance(answer.last, StreamComplete) and not answer.missing
            failed += not well
            output.not_whole += well and not answer.ok
            shown.ended(answer, well=well)
    if not options.quiet:
        parts = [f"{len(keys) - failed} of {count(len(keys), 'key')} have a response"]
        parts += [f"{skipped} from before"] if skipped else []
        parts += [f"{output.not_whole} not whole (see finishReason)"] if output.not_whole else []
        parts += [f"{failed} failed: the same command asks them again"] if failed else []
        complain(f"{', '.join(parts)}; {time.monotonic() - began:.1f} s")
    return 1 if failed or output.not_whole else 0
