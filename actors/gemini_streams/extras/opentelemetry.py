"""`OpenTelemetryObserver`: spans and metrics of streams, by the GenAI conventions. Needs opentelemetry-api.

The rules:

- A stream is a span, from its start to its end, with all attempts in it. Its parent is the span in which the stream
  was asked for: the span of the asker's context variables.
- Each attempt is a span of its own below the stream's, also one that goes on from a resume point.
- No span has a key, a prompt, an answer, or words of the service. An error is its class, and its code where it has one.
- Metrics have no stream's id.
- All times are those of the records, so a slow exporter shifts none.
- The observer holds at most `_MOST_OPEN` spans of streams that have not ended. Beyond that the oldest is ended.

The names stand in `otel_names`. All methods run in the thread of the manager's observer actor. One observer may serve
several managers.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from gemini_streams.errors import APIError, GeminiStreamsError
from gemini_streams.extras import otel_names as names
from gemini_streams.observe import (
    AttemptRecord,
    DropRecord,
    EndRecord,
    FirstEventRecord,
    Observer,
    PauseRecord,
    RestartRecord,
    StartRecord,
)

__all__ = ["OpenTelemetryObserver"]

_SCOPE = "gemini_streams"
_SCHEMA = "https://opentelemetry.io/schemas/1.41.0"
_MOST_OPEN = 50_000


class _Open:
    """A stream that has not ended."""

    __slots__ = ("attempt", "attempt_at", "first_after", "span")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.attempt: Span | None = None
        self.attempt_at: float | None = None
        self.first_after: float | None = None


class OpenTelemetryObserver(Observer):
    """Makes spans and metrics of what happens to streams.

        ManagerActor.start(observers=[OpenTelemetryObserver()])

    Without a provider the application's global one is used.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider, schema_url=_SCHEMA)
        meter = metrics.get_meter(_SCOPE, meter_provider=meter_provider, schema_url=_SCHEMA)
        self._duration = meter.create_histogram(
            names.DURATION,
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=names.DURATION_BUCKETS,
        )
        self._first_chunk = meter.create_histogram(
            names.FIRST_CHUNK,
            unit="s",
            description="Time from the request to the first event of the answer.",
            explicit_bucket_boundaries_advisory=names.FIRST_CHUNK_BUCKETS,
        )
        self._tokens = meter.create_histogram(
            names.TOKENS,
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=names.TOKEN_BUCKETS,
        )
        self._lock = threading.Lock()  # several managers have several threads
        self._open: OrderedDict[tuple[str, str], _Open] = OrderedDict()

    def on_stream_started(self, record: StartRecord) -> None:
        """Begin the stream's span."""
        self._begin(record, record.at)

    def on_attempt(self, record: AttemptRecord) -> None:
        """Begin an attempt's span."""
        stream = self._stream(record)
        if stream.attempt is not None:  # the record of its end was lost
            stream.attempt.end(_nanoseconds(record.at))
        stream.attempt_at = record.at
        stream.attempt = self._tracer.start_span(
            f"attempt {record.attempt}",
            context=trace.set_span_in_context(stream.span, Context()),
            kind=SpanKind.INTERNAL,
            attributes={
                names.ATTEMPT: record.attempt,
                names.RESUME_AT: record.resume_at,
                names.SERVER_ADDRESS: record.endpoint,
            },
            start_time=_nanoseconds(record.at),
        )

    def on_first_event(self, record: FirstEventRecord) -> None:
        """Take note of the time to the first event, from its attempt's request on."""
        stream = self._stream(record)
        began = stream.attempt_at
        stream.first_after = record.after if began is None else max(0.0, record.at - began)
        self._first_chunk.record(
            stream.first_after,
            _common(record),
            context=trace.set_span_in_context(stream.span, Context()),
        )

    def on_restarting(self, record: RestartRecord) -> None:
        """End the attempt's span."""
        stream = self._stream(record)
        if stream.attempt is not None:
            stream.attempt.set_attribute(names.DELAY, record.delay)
            _end(stream.attempt, record.error, record.at)
            stream.attempt = None

    def on_paused(self, record: PauseRecord) -> None:
        """Add an event to the stream's span."""
        self._stream(record).span.add_event(
            names.PAUSED,
            {names.SECONDS: record.seconds, names.SUBSCRIBERS: record.subscribers},
            _nanoseconds(record.at),
        )

    def on_subscriber_dropped(self, record: DropRecord) -> None:
        """Add an event to the stream's span. A stream that has ended has none any more."""
        with self._lock:
            stream = self._open.get((record.stream_id, record.run))
        if stream is not None:
            stream.span.add_event(names.DROPPED, {names.REASON: record.reason}, _nanoseconds(record.at))

    def on_ended(self, record: EndRecord) -> None:
        """End the stream's span, and count."""
        stream = self._stream(record, started=record.at - record.duration)
        with self._lock:
            self._open.pop((record.stream_id, record.run), None)
        if stream.attempt is not None:
            _end(stream.attempt, record.error, record.at)
        given, made = _input(record), _output(record)
        stream.span.set_attributes(_common(record))  # it may have gone on at another endpoint
        stream.span.set_attributes(
            {
                name: value
                for name, value in (
                    (names.EVENTS, record.events),
                    (names.ATTEMPTS, record.attempt),
                    (names.OUTCOME, record.status),
                    (
                        names.FINISH_REASONS,
                        None if record.finish_reason is None else (record.finish_reason,),
                    ),
                    (names.TIME_TO_FIRST_CHUNK, stream.first_after),
                    (names.USAGE_INPUT, given),
                    (names.USAGE_OUTPUT, made),
                    (names.USAGE_CACHED, record.cached_tokens),
                    (names.USAGE_REASONING, record.thought_tokens),
                )
                if value is not None
            }
        )
        _end(stream.span, record.error, record.at)
        common = _common(record)
        context = trace.set_span_in_context(stream.span, Context())
        failed = {} if record.error is None else {names.ERROR_TYPE: _kind(record.error)}
        self._duration.record(record.duration, {**common, **failed}, context=context)
        for kind, count in ((names.INPUT, given), (names.OUTPUT, made)):
            if count is not None:
                self._tokens.record(count, {**common, names.TOKEN_TYPE: kind}, context=context)

    def _stream(self, record: Any, started: float | None = None) -> _Open:
        """Return what is known of a stream; its span begins now where the record of its start was lost."""
        with self._lock:
            stream = self._open.get((record.stream_id, record.run))
        return self._begin(record, record.at if started is None else started) if stream is None else stream

    def _begin(self, record: Any, at: float) -> _Open:
        asked_in = None if record.context is None else record.context.run(otel_context.get_current)
        span = self._tracer.start_span(
            f"{names.GENERATE_CONTENT} {record.model}".rstrip(),
            context=asked_in if asked_in is not None else Context(),
            kind=SpanKind.CLIENT,
            attributes={**_common(record), names.STREAM: True, names.STREAM_ID: record.stream_id},
            start_time=_nanoseconds(at),
        )
        made = _Open(span)
        oldest = None
        with self._lock:
            self._open[record.stream_id, record.run] = made
            if len(self._open) > _MOST_OPEN:
                oldest = self._open.popitem(last=False)[1]
        if oldest is not None:
            if oldest.attempt is not None:
                oldest.attempt.end(_nanoseconds(at))
            oldest.span.end(_nanoseconds(at))
        return made


def _common(record: Any) -> dict[str, str]:
    host: str = record.endpoint
    vertex = host.endswith("aiplatform.googleapis.com")
    found = {
        names.OPERATION: names.GENERATE_CONTENT,
        names.PROVIDER: names.VERTEX_AI if vertex else names.GEMINI,
        names.SERVER_ADDRESS: host,
    }
    if record.model:
        found[names.REQUEST_MODEL] = record.model
    return found


def _input(record: EndRecord) -> int | None:
    """Return the tokens that went in, those of tools' results among them."""
    return _sum(record.input_tokens, record.tool_tokens)


def _output(record: EndRecord) -> int | None:
    """Return the tokens that came out: by the conventions, thoughts are among them."""
    return _sum(record.output_tokens, record.thought_tokens)


def _sum(one: int | None, two: int | None) -> int | None:
    return None if one is None and two is None else (one or 0) + (two or 0)


def _end(span: Span, error: GeminiStreamsError | None, at: float) -> None:
    if error is not None:
        span.set_attribute(names.ERROR_TYPE, _kind(error))
        span.set_status(Status(StatusCode.ERROR, error.brief))
    span.end(_nanoseconds(at))


def _kind(error: GeminiStreamsError) -> str:
    return str(error.code) if isinstance(error, APIError) else type(error).__name__


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1_000_000_000)
