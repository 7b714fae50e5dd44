"""Bytes: connections, framing, and the lines of an event stream."""
