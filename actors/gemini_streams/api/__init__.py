"""What to send to an API and what comes back, without I/O and without threads."""
