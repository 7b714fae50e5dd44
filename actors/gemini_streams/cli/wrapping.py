"""Lines of a terminal: a character takes one cell, two or none. Pure."""

from __future__ import annotations

import unicodedata

__all__ = ["cells", "wrapped"]


def wrapped(text: str, width: int) -> list[str]:
    """Break a text into lines of at most `width` cells; a space that a line ends at is left out."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line, used = "", 0
        for number, word in enumerate(paragraph.split(" ")):
            size = cells(word)
            if number and used + 1 + size <= width:
                line, used = f"{line} {word}", used + 1 + size
                continue
            if number:
                lines.append(line)
            while size > width:
                head = _cut(word, width)
                lines.append(head)
                word = word[len(head) :]  # noqa: PLW2901
                size = cells(word)
            line, used = word, size
        lines.append(line)
    return lines


def cells(text: str) -> int:
    """Return how many cells of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def _cut(text: str, width: int) -> str:
    """Return the beginning of the text that fits; at least one character."""
    while cells(text) > width:
        text = text[: max(1, min(len(text) - 1, width))]
        if len(text) == 1:
            break
    return text
