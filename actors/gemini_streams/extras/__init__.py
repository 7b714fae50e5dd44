"""What watches managers from outside, each in a module of its own, imported where the application asks for it.

`prometheus` needs prometheus-client, `opentelemetry` needs opentelemetry-api.
"""
