"""The way of a message from a stream into a subscriber's inbox."""
