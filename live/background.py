"""Which models and agents refuse a background run?

`python -m live.background gemini-x agent:deep-research-y` asks these; a run that begins is cancelled at once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import requests

from live.kit import SHORT, Service, run, told

MODELS = (
    "gemini-flash-latest",
    "gemini-flash-lite-latest",
    "gemini-pro-latest",
    "gemini-2.5-flash",
    "gemini-3.5-flash",
    "gemini-3.6-flash",
)


def ask(service: Service) -> Iterator[str]:
    """Begin a run with each, and cancel it."""
    for who in service.words or MODELS:
        began = time.monotonic()
        status, answer = service.create(SHORT, who=who)
        took = time.monotonic() - began
        if status == requests.codes.ok:
            service.cancel(str(answer["id"]))
            yield f"{who}: accepted, {answer.get('status')} after {took:.1f} s"
        else:
            yield f"{who}: refused, {told(status, answer)}"


if __name__ == "__main__":
    sys.exit(run(__doc__, ask))
