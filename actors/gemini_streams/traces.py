"""An exception as a log line may show it: where it was raised and its type, and nothing of what it was about.

The text of an exception of somebody else's can quote the prompt or a key, and so can a frame's variables, which some
formatters show. So a log line of this package has neither: it has the source lines and the types.
"""

from __future__ import annotations

import traceback

__all__ = ["trace_of"]


def trace_of(error: BaseException) -> str:
    """Return the frames of an exception and of those that led to it, each with its type; the first one is first."""
    parts: list[str] = []
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        frames = "".join(traceback.format_tb(link.__traceback__))
        parts.append(f"{frames}{type(link).__module__}.{type(link).__qualname__}\n")
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return "\n".join(reversed(parts))
