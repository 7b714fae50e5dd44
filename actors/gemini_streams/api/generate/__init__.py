"""The API `streamGenerateContent`: its requests and its events."""
