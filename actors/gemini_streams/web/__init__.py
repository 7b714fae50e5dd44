"""A stream for browsers, as server-sent events (the browser's `EventSource`), from any web framework.

events   what is sent, event by event; pure
sources  `event_source()` for a thread, `aevent_source()` for an event loop
"""

from __future__ import annotations

from gemini_streams.web.sources import AsyncEventSource, EventSource, aevent_source, event_source

__all__ = ["AsyncEventSource", "EventSource", "aevent_source", "event_source"]
