"""The life of one stream: its attempts, its retries and its end, and the table of all streams."""
