"""A page that shows what managers do, live: the streams, the tree, failures over time, and figures.

The standard library alone serves it, and the page fetches nothing from elsewhere. It is read-only.
"""

from __future__ import annotations

from gemini_streams.extras.dashboard.actor import Dashboard, DashboardRef

__all__ = ["Dashboard", "DashboardRef"]
