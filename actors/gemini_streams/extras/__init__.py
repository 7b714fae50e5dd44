"""What watches managers, each in a module of its own, imported where an application asks for it.

`prometheus` needs prometheus-client, `opentelemetry` needs opentelemetry-api. `dashboard` needs the standard library
alone.
"""
