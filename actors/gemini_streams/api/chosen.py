"""Which API a request is for, and so which one reads its events: the one place that names an implementation."""

from __future__ import annotations

from gemini_streams.api.generate.api import GENERATE_CONTENT
from gemini_streams.api.protocol import API

__all__ = ["api"]

api: API = GENERATE_CONTENT
"""The API of requests that are made of `contents` and `config`, and of the events that answer them."""
