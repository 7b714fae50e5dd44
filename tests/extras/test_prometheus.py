"""The Prometheus scrape: read with Prometheus' own parser, from the real client's own output."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pykka
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_parser
from prometheus_client.parser import text_string_to_metric_families

from conftest import StartManager
from gemini_streams import InvalidRequestError, ManagerActor, RetryPolicy
from gemini_streams.extras.prometheus import PrometheusCollector
from gemini_streams.testing import Failure, LocalGemini, Reply
from kit.helpers import eventually, last_of
from pykka_supervisor import Supervisor, kill, whereis
from pykka_supervisor.testing import Probe

AT_ONCE = RetryPolicy(attempts=2, initial_delay=0, jitter=0)
GRAFANA = Path(__file__).parents[2] / "docs" / "grafana.json"


class Scrape:
    """A registry with one collector, read as Prometheus does."""

    def __init__(self, *managers: Any) -> None:
        self.collector = PrometheusCollector(*managers)
        self.registry = CollectorRegistry()
        self.registry.register(self.collector)

    def text(self) -> str:
        return generate_latest(self.registry).decode()

    def samples(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        return self.samples()[f"gemini_streams_{name}", frozenset(labels.items())]

    def ended(self, count: int) -> None:
        """Wait until so many ends are counted: the last message comes a moment before that."""
        eventually(
            lambda: count == sum(v for (n, _), v in self.samples().items() if n.endswith("_ended_total"))
        )


@pytest.fixture
def scrapes() -> Iterator[list[Scrape]]:
    made: list[Scrape] = []
    yield made
    for each in made:
        each.collector.close()


def test_a_scrape_says_what_has_happened_and_what_there_is(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("good", Failure(503), Reply("one two three"))
    gemini.on("bad", Failure(400))
    gemini.on("held", Reply("one two", hold_after=1))
    ref = manager(model="gemini-test", retry=AT_ONCE, max_streams=7)
    scrape = Scrape(ref)
    usage = None
    for name in ("good", "bad"):
        stream = ref.start_stream(name, subscriber=probe.ref, stream_id=f"secret-{name}")
        usage = getattr(last_of(probe, stream), "usage", None) or usage
    assert usage is not None
    scrape.ended(2)
    held = ref.start_stream("held", subscriber=probe.ref)
    eventually(lambda: ref.get_stream_info(held).events_count)

    model = {"model": "gemini-test"}
    assert scrape.value("started_total", **model) == 3
    assert scrape.value("ended_total", **model, outcome="completed", cause="none") == 1
    assert scrape.value("ended_total", **model, outcome="error", cause="APIError 400") == 1
    assert scrape.value("restarts_total", **model, cause="APIError 503") == 1
    assert scrape.value("tokens_total", **model, kind="input") == usage["promptTokenCount"]
    assert scrape.value("tokens_total", **model, kind="output") == usage["candidatesTokenCount"]
    assert scrape.value("duration_seconds_count", **model, outcome="completed") == 1
    assert scrape.value("duration_seconds_bucket", **model, outcome="completed", le="+Inf") == 1
    assert scrape.value("first_event_seconds_count", **model) == 2
    assert 0 < scrape.value("first_event_seconds_sum", **model) < 60
    assert scrape.value("events_total") == ref.get_stats().events
    assert scrape.value("active") == 1
    assert scrape.value("queued") == scrape.value("restarting") == 0
    assert scrape.value("slots") == 7
    assert scrape.value("subscribers") == 1
    assert scrape.value("history_bytes") >= 0
    assert "secret" not in scrape.text()
    ref.stop(timeout=20)
    scrape.ended(3)
    assert scrape.value("ended_total", **model, outcome="stopped", cause="none") == 1
    assert scrape.value("active") == scrape.value("slots") == 0


def test_labels_are_the_few_that_are_promised(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("bad", Failure(503), Failure(400))
    ref = manager(retry=AT_ONCE)
    scrape = Scrape(ref)
    for prompt in ("bad", "hello"):
        last_of(probe, ref.start_stream(prompt, subscriber=probe.ref))
    names = {name for _, labels in scrape.samples() for name, _ in labels}
    assert names <= {"model", "outcome", "cause", "kind", "le"}
    for family in text_string_to_metric_families(scrape.text()):
        assert family.name.startswith("gemini_streams_")
        assert family.documentation


def test_the_models_are_bounded(gemini: LocalGemini, manager: StartManager, probe: Probe) -> None:
    ref = manager(max_waiting=300)
    scrape = Scrape(ref)
    for number in range(205):
        ref.start_stream("hello", subscriber=probe.ref, model=f"model-{number}")
    eventually(lambda: ref.get_stats().completed == 205)
    assert scrape.value("started_total", model="other") == 5
    assert scrape.value("started_total", model="model-7") == 1


def test_it_is_open_metrics_too(gemini: LocalGemini, manager: StartManager, probe: Probe) -> None:
    ref = manager()
    scrape = Scrape(ref)
    last_of(probe, ref.start_stream("hello", subscriber=probe.ref))
    text = exposition.generate_latest(scrape.registry).decode()  # type: ignore[no-untyped-call]
    names = [family.name for family in open_parser(text)]  # type: ignore[no-untyped-call]
    assert "gemini_streams_duration_seconds" in names


def test_the_counters_outlive_a_manager_and_never_shrink(gemini: LocalGemini, probe: Probe) -> None:
    tree = Supervisor.start([ManagerActor.child_spec(name="counted", endpoint=gemini.endpoint, model="m")])
    try:
        scrape = Scrape("counted")
        first = whereis("counted")
        assert first is not None
        last_of(probe, first.ask(_start(probe)))
        events = scrape.value("events_total")
        assert events > 0
        kill(first)
        eventually(lambda: (now := whereis("counted")) is not None and now.is_alive())
        second = whereis("counted")
        assert second is not None
        assert scrape.value("events_total") == events
        last_of(probe, second.ask(_start(probe)))
        assert scrape.value("started_total", model="m") == 2
        assert scrape.value("events_total") == 2 * events
    finally:
        tree.stop()
    assert scrape.value("events_total") == 2 * events
    assert scrape.value("started_total", model="m") == 2


def _start(probe: Probe) -> Any:
    from gemini_streams import StartStream  # noqa: PLC0415

    return StartStream("hello", subscriber=probe.ref)


def test_several_managers_are_one_sum_and_none_is_counted_twice(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    one, two = manager(max_streams=3), manager(max_streams=4)
    scrape = Scrape(one, two, one)
    for ref in (one, two):
        last_of(probe, ref.start_stream("hello", subscriber=probe.ref))
    assert scrape.value("slots") == 7
    assert sum(value for (name, _), value in scrape.samples().items() if name.endswith("started_total")) == 2


def test_a_closed_collector_counts_nothing_more(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    ref = manager(model="m")
    scrape = Scrape(ref)
    last_of(probe, ref.start_stream("hello", subscriber=probe.ref))
    scrape.collector.close()
    last_of(probe, ref.start_stream("hello", subscriber=probe.ref))
    assert {value for (name, _), value in scrape.samples().items() if name.endswith("started_total")} == {1}


@pytest.mark.parametrize("wrong", [(), (None,), ("",), (7,)], ids=repr)
def test_what_is_no_manager_is_refused(wrong: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidRequestError, match="manager"):
        PrometheusCollector(*wrong)


def test_a_ref_of_another_actor_is_refused(probe: Probe) -> None:
    assert isinstance(probe.ref, pykka.ActorRef)
    with pytest.raises(InvalidRequestError, match="ref"):
        PrometheusCollector(probe.ref)


def test_every_metric_of_the_grafana_dashboard_is_scraped(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.on("bad", Failure(503), Failure(400))
    ref = manager(retry=AT_ONCE)
    scrape = Scrape(ref)
    for prompt in ("bad", "hello"):
        last_of(probe, ref.start_stream(prompt, subscriber=probe.ref))
    scrape.ended(2)
    there = {sample.name for f in text_string_to_metric_families(scrape.text()) for sample in f.samples}
    there |= {f"{f.name}_total" for f in text_string_to_metric_families(scrape.text()) if f.type == "counter"}
    panels = json.loads(GRAFANA.read_text())["panels"]
    asked = {
        name
        for panel in panels
        for target in panel.get("targets", ())
        for name in re.findall(r"gemini_streams_\w+", target["expr"])
    }
    assert len(asked) >= 12
    assert asked <= there
    labels = {label for _, found in scrape.samples() for label, _ in found} | {"instance", "job"}
    for panel in panels:
        for target in panel.get("targets", ()):
            for names in re.findall(r"by \(([^)]*)\)", target["expr"]):
                assert {name.strip() for name in names.split(",")} <= labels, target["expr"]
