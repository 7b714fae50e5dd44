"""Spans and metrics, read from the SDK's own exporters."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from conftest import StartManager
from gemini_streams import Gemini, RetryPolicy, StartRecord, StreamComplete
from gemini_streams.extras import opentelemetry as module
from gemini_streams.extras import otel_names as names
from gemini_streams.extras.opentelemetry import OpenTelemetryObserver
from gemini_streams.testing import Failure, Interaction, LocalGemini, Reply
from kit.helpers import last_of
from pykka_supervisor.testing import Probe

AT_ONCE = RetryPolicy(attempts=2, initial_delay=0, jitter=0)


class Telemetry:
    """An observer, and what the SDK was given by it."""

    def __init__(self) -> None:
        self.spans = InMemorySpanExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.observer = OpenTelemetryObserver(self.tracers, self.meters)

    def named(self, start: str) -> list[ReadableSpan]:
        return [span for span in self.spans.get_finished_spans() if span.name.startswith(start)]

    def points(self, name: str) -> list[Any]:
        data: Any = self.reader.get_metrics_data()
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    made = Telemetry()
    yield made
    made.tracers.shutdown()
    made.meters.shutdown()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_stream_is_a_span_in_the_askers_and_each_attempt_one_in_it(
    gemini: LocalGemini, manager: StartManager, probe: Probe, telemetry: Telemetry
) -> None:
    gemini.on("why", Failure(503, message="a secret of the service"), Reply("one two three"))
    ref = manager(observers=[telemetry.observer], retry=AT_ONCE, model="gemini-test")
    with telemetry.tracers.get_tracer("test").start_as_current_span("the asker"):
        stream_id = ref.start_stream("why", subscriber=probe.ref)
    last = last_of(probe)
    ref.stop(timeout=20)

    [asker] = telemetry.named("the asker")
    [stream] = telemetry.named("generate_content")
    first, second = telemetry.named("attempt")
    assert (stream.name, stream.kind) == ("generate_content gemini-test", SpanKind.CLIENT)
    assert stream.parent is not None
    assert asker.context is not None
    assert stream.context is not None
    assert stream.parent.span_id == asker.context.span_id
    assert {span.context.trace_id for span in (asker, stream, first, second) if span.context} == {
        asker.context.trace_id
    }
    assert [attempt.parent.span_id for attempt in (first, second) if attempt.parent] == [
        stream.context.span_id
    ] * 2
    assert stream.status.status_code == StatusCode.UNSET  # the failure was mended
    assert first.status.status_code == StatusCode.ERROR
    assert attributes(first)[names.ERROR_TYPE] == "503"
    assert second.status.status_code == StatusCode.UNSET
    assert [attributes(attempt)[names.ATTEMPT] for attempt in (first, second)] == [1, 2]
    found = attributes(stream)
    assert found[names.PROVIDER] == "gcp.gemini"
    assert found[names.REQUEST_MODEL] == "gemini-test"
    assert found[names.SERVER_ADDRESS] == "127.0.0.1"
    assert found[names.STREAM] is True
    assert found[names.STREAM_ID] == stream_id
    assert found[names.FINISH_REASONS] == ("STOP",)
    assert found[names.USAGE_INPUT] == last.usage["promptTokenCount"]
    assert found[names.USAGE_OUTPUT] == last.usage["candidatesTokenCount"]
    assert found[names.TIME_TO_FIRST_CHUNK] > 0
    assert stream.start_time is not None
    assert stream.end_time is not None
    for attempt in (first, second):
        assert attempt.start_time is not None
        assert attempt.end_time is not None
        assert stream.start_time <= attempt.start_time <= attempt.end_time <= stream.end_time
    for span in (stream, first, second):
        assert "secret" not in span.to_json()
        assert "why" not in span.to_json()


def test_a_resume_is_a_span_of_its_own_that_says_where_it_goes_on(
    gemini: LocalGemini, manager: StartManager, probe: Probe, telemetry: Telemetry
) -> None:
    gemini.on("go on", Reply("one two three four", interaction=Interaction(cuts=[5], cut_by="reset")))
    ref = manager(observers=[telemetry.observer], retry=AT_ONCE)
    ref.start_interaction("go on", subscriber=probe.ref)
    assert isinstance(last_of(probe), StreamComplete)
    ref.stop(timeout=20)
    first, second = telemetry.named("attempt")
    assert attributes(first)[names.RESUME_AT] == 0
    assert attributes(second)[names.RESUME_AT] > 0
    assert attributes(first)[names.ERROR_TYPE].endswith("Error")


def test_a_stream_that_fails_is_an_error_without_the_services_words(
    gemini: LocalGemini, manager: StartManager, probe: Probe, telemetry: Telemetry
) -> None:
    gemini.on("bad", Failure(400, message="a secret of the service"))
    ref = manager(observers=[telemetry.observer])
    ref.start_stream("bad", subscriber=probe.ref)
    last_of(probe)
    ref.stop(timeout=20)
    [stream] = telemetry.named("generate_content")
    assert stream.status.status_code == StatusCode.ERROR
    assert attributes(stream)[names.ERROR_TYPE] == "400"
    assert "secret" not in stream.to_json()
    assert stream.parent is None
    [point] = telemetry.points(names.DURATION)
    assert point.attributes[names.ERROR_TYPE] == "400"


def test_the_metrics_are_those_of_the_conventions_and_have_no_stream_id(
    gemini: LocalGemini, manager: StartManager, probe: Probe, telemetry: Telemetry
) -> None:
    ref = manager(observers=[telemetry.observer], model="gemini-test")
    stream_id = ref.start_stream("hello", subscriber=probe.ref)
    last = last_of(probe)
    ref.stop(timeout=20)
    [duration] = telemetry.points(names.DURATION)
    [first] = telemetry.points(names.FIRST_CHUNK)
    tokens = {point.attributes[names.TOKEN_TYPE]: point.sum for point in telemetry.points(names.TOKENS)}
    assert duration.count == first.count == 1
    assert 0 < first.sum <= duration.sum
    assert tuple(duration.explicit_bounds) == names.DURATION_BUCKETS
    assert tokens == {
        "input": last.usage["promptTokenCount"],
        "output": last.usage["candidatesTokenCount"],
    }
    common = {names.OPERATION, names.PROVIDER, names.SERVER_ADDRESS, names.REQUEST_MODEL}
    assert set(duration.attributes) == set(first.attributes) == common
    assert stream_id not in str(telemetry.reader.get_metrics_data())


def test_an_attempt_says_which_endpoint_it_asked(
    gemini: LocalGemini, manager: StartManager, probe: Probe, telemetry: Telemetry
) -> None:
    gemini.on("why", Failure(503))
    with LocalGemini() as second:
        url = second.url.replace("127.0.0.1", "localhost")
        endpoints: Any = [gemini.endpoint, Gemini(base_url=url, api_key="local-key")]
        ref = manager(endpoint=endpoints, observers=[telemetry.observer], retry=AT_ONCE)
        ref.start_stream("why", subscriber=probe.ref)
        assert isinstance(last_of(probe), StreamComplete)
        ref.stop(timeout=20)
    asked = [attributes(span)[names.SERVER_ADDRESS] for span in telemetry.named("attempt")]
    assert asked == ["127.0.0.1", "localhost"]
    [stream] = telemetry.named("generate_content")
    assert attributes(stream)[names.SERVER_ADDRESS] == "localhost"


@pytest.mark.parametrize(
    ("host", "provider"),
    [
        ("generativelanguage.googleapis.com", "gcp.gemini"),
        ("aiplatform.googleapis.com", "gcp.vertex_ai"),
        ("europe-west4-aiplatform.googleapis.com", "gcp.vertex_ai"),
    ],
)
def test_the_provider_is_told_by_the_host(telemetry: Telemetry, host: str, provider: str) -> None:
    record = StartRecord(
        at=1.0,
        stream_id="s",
        run="r",
        tag=None,
        model="m",
        endpoint=host,
        attempt=1,
        context=None,
        status="starting",
        subscribers=1,
    )
    stream = telemetry.observer._begin(record, 1.0)
    stream.span.end()
    [span] = telemetry.named("generate_content")
    assert attributes(span)[names.PROVIDER] == provider


def test_a_lost_start_still_makes_a_span_and_an_open_one_is_not_kept_for_ever(
    gemini: LocalGemini, manager: StartManager, probe: Probe, telemetry: Telemetry, monkeypatch: Any
) -> None:
    observer = telemetry.observer
    monkeypatch.setattr(type(observer), "on_stream_started", lambda *_: None)
    monkeypatch.setattr(type(observer), "on_attempt", lambda *_: None)
    monkeypatch.setattr(type(observer), "on_first_event", lambda *_: None)
    ref = manager(observers=[observer])
    ref.start_stream("hello", subscriber=probe.ref)
    last_of(probe)
    ref.stop(timeout=20)
    [stream] = telemetry.named("generate_content")
    assert stream.start_time is not None
    assert stream.end_time is not None
    assert stream.start_time < stream.end_time
    monkeypatch.undo()
    monkeypatch.setattr(module, "_MOST_OPEN", 1)
    gemini.on("held", Reply("one two", hold_after=1))
    ref = manager(observers=[observer])
    for _ in range(2):
        ref.start_stream("held", subscriber=probe.ref)
    ref.stop(timeout=20)
    assert len(telemetry.named("generate_content")) >= 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_names_are_the_released_ones() -> None:
    released: set[Any] = set()
    for place in (
        "attributes.error_attributes",
        "attributes.server_attributes",
        "_incubating.attributes.gen_ai_attributes",
        "_incubating.metrics.gen_ai_metrics",
    ):
        released |= {
            value
            for value in vars(importlib.import_module(f"opentelemetry.semconv.{place}")).values()
            if isinstance(value, str)
        }
    used = {
        value
        for name, value in vars(names).items()
        if name.isupper()
        and isinstance(value, str)
        and "." in value
        and not value.startswith(("gemini_streams.", "gcp."))
    }
    assert len(used) >= 15
    assert used - released == set()
