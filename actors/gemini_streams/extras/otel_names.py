"""The names of OpenTelemetry's GenAI conventions that are used here, as released with semantic conventions 1.41.

`gemini_streams.*` are names of this package: the conventions have none for attempts, pauses and subscribers.
"""

from __future__ import annotations

__all__: list[str] = []  # all are read as `otel_names.NAME`

# Attributes of the conventions.
ERROR_TYPE = "error.type"
FINISH_REASONS = "gen_ai.response.finish_reasons"
OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
SERVER_ADDRESS = "server.address"
STREAM = "gen_ai.request.stream"
TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - no password
USAGE_CACHED = "gen_ai.usage.cache_read.input_tokens"
USAGE_INPUT = "gen_ai.usage.input_tokens"
USAGE_OUTPUT = "gen_ai.usage.output_tokens"
USAGE_REASONING = "gen_ai.usage.reasoning.output_tokens"

# Metrics of the conventions.
DURATION = "gen_ai.client.operation.duration"
FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
TOKENS = "gen_ai.client.token.usage"

# Values of the conventions.
GENERATE_CONTENT = "generate_content"
GEMINI = "gcp.gemini"
VERTEX_AI = "gcp.vertex_ai"
INPUT = "input"
OUTPUT = "output"

# Buckets that the conventions ask for.
DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_CHUNK_BUCKETS = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
)
TOKEN_BUCKETS = tuple(float(4**power) for power in range(14))

# Names of this package.
ATTEMPT = "gemini_streams.attempt"
ATTEMPTS = "gemini_streams.attempts"
DELAY = "gemini_streams.delay"
DROPPED = "gemini_streams.subscriber_dropped"
EVENTS = "gemini_streams.events"
OUTCOME = "gemini_streams.outcome"
PAUSED = "gemini_streams.paused"
REASON = "gemini_streams.reason"
RESUME_AT = "gemini_streams.resume_at"
SECONDS = "gemini_streams.seconds"
STREAM_ID = "gemini_streams.stream_id"
SUBSCRIBERS = "gemini_streams.subscribers"
