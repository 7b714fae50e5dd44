"""Gemini's wire, without I/O: what to send, where, and what an event means."""
