"""Streams as iterators, for programs that have no actor.

reading       what all of them have in common
blocking      `stream()`, `follow()`: for a thread
asynchronous  `astream()`, `afollow()`: for an event loop
pieces        `text_stream`: the text that stands
many          `answers()`, `aanswers()`: many requests, at most so many at once
"""

from __future__ import annotations

from gemini_streams.iterate.asynchronous import AsyncStream, afollow, astream
from gemini_streams.iterate.blocking import Stream, follow, stream
from gemini_streams.iterate.many import aanswers, answers
from gemini_streams.iterate.reading import Item

__all__ = ["AsyncStream", "Item", "Stream", "aanswers", "afollow", "answers", "astream", "follow", "stream"]
