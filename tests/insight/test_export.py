"""Statistics through the real prometheus_client and OpenTelemetry."""

from __future__ import annotations

import asyncio
import gc
import importlib
import sys
import weakref
from typing import Any

import pytest
from support import transport_and_peer

import loopfast
import loopfast.opentelemetry
import loopfast.prometheus
from loopfast._export import METRICS

pytestmark = pytest.mark.loopfast_only("asyncio's loops have no statistics")

EXPORTERS = (loopfast.prometheus.LoopCollector, loopfast.opentelemetry.LoopInstruments)


@pytest.fixture
def registry() -> Any:
    return pytest.importorskip("prometheus_client").CollectorRegistry()


@pytest.fixture
def reader() -> Any:
    return pytest.importorskip("opentelemetry.sdk.metrics.export").InMemoryMetricReader()


@pytest.fixture
def provider(reader: Any) -> Any:
    provider = importlib.import_module("opentelemetry.sdk.metrics").MeterProvider(metric_readers=[reader])
    yield provider
    provider.shutdown()


def test_every_field_that_is_a_figure_is_exported():
    named = {metric.field for metric in METRICS}
    left = {"time", "running", "closed", "debug", "timing", "slow", "longest_stall", "socket_calls"}
    assert named | left == set(loopfast.LoopStatistics._fields)
    assert not named & left
    assert len({metric.name for metric in METRICS}) == len(METRICS)


# ----------------------------------------------------------------------------------------------------------- Prometheus


async def test_prometheus(loop, registry):
    loopfast.prometheus.export(loop, "main", registry=registry)
    async with transport_and_peer() as (_, protocol, peer):
        peer.send(b"x" * 321)
        await protocol.received(321)

        def value(name: str, **labels: str) -> Any:
            return registry.get_sample_value(f"loopfast_{name}", {"loop": "main", **labels})

        assert value("received_bytes_total") == 321
        assert value("sent_bytes_total") == 0
        assert value("transports", kind="tcp") == 1
        assert value("handles", kind="tcp") == 1
        before = loop.statistics()
        assert value("callbacks_total") >= before.callbacks
        assert value("run_seconds_total") >= before.run_time
        assert 0 <= value("idle_seconds_total") <= value("run_seconds_total")
        assert value("slow_callbacks_total") == 0
        loop.call_later(100, int)
        assert value("timers") == loop.statistics().timers


async def test_what_prometheus_scrapes(loop, registry):
    """The text format, in which each metric has a help line and a type."""
    loopfast.prometheus.export(loop, "main", registry=registry)
    text = importlib.import_module("prometheus_client").generate_latest(registry).decode()
    families = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(families) == len(METRICS) == len(set(families))
    assert all(name.startswith("loopfast_") for name in families)
    types = {line.split()[2]: line.split()[3] for line in text.splitlines() if line.startswith("# TYPE")}
    assert types["loopfast_run_seconds_total"] == "counter"
    assert types["loopfast_ready"] == "gauge"
    assert 'loopfast_transports{kind="tls",loop="main"} 0.0' in text


async def test_prometheus_on_another_thread(loop, registry):
    """Where a scrape is served."""
    loopfast.prometheus.export(loop, registry=registry)
    generate = importlib.import_module("prometheus_client").generate_latest
    text = await loop.run_in_executor(None, generate, registry)
    assert b'loopfast_iterations_total{loop="main"}' in text


def test_two_loops_in_one_collector(loop, loop_factory, registry):
    other = loop_factory()
    collector = loopfast.prometheus.export(loop, "one", registry=registry)
    collector.add(other, "two")
    other.call_soon(int)
    for name, ready in (("one", 0), ("two", 1)):
        assert registry.get_sample_value("loopfast_ready", {"loop": name}) == ready
    other.close()
    assert registry.get_sample_value("loopfast_ready", {"loop": "two"}) is None
    collector.remove("one")
    collector.remove("one")
    assert registry.get_sample_value("loopfast_ready", {"loop": "one"}) is None


def test_a_registry_takes_it_once(loop, registry):
    loopfast.prometheus.export(loop, registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        loopfast.prometheus.export(loop, registry=registry)


# -------------------------------------------------------------------------------------------------------- OpenTelemetry


def read(reader: Any) -> dict[str, Any]:
    data = reader.get_metrics_data()
    if data is None:
        return {}
    [resource] = data.resource_metrics
    [scope] = resource.scope_metrics
    assert scope.scope.name == "loopfast"
    assert scope.scope.version == loopfast.__version__
    return {metric.name: metric for metric in scope.metrics}


async def test_opentelemetry(loop, reader, provider):
    loopfast.opentelemetry.export(loop, "main", meter_provider=provider)
    async with transport_and_peer() as (_, protocol, peer):
        peer.send(b"x" * 321)
        await protocol.received(321)
        metrics = await loop.run_in_executor(None, read, reader)
    assert {f"loopfast.{metric.name}" for metric in METRICS} | {"loopfast.stall.longest"} == set(metrics)
    received = metrics["loopfast.received"]
    assert received.unit == "By"
    assert received.data.is_monotonic
    [point] = received.data.data_points
    assert (point.value, dict(point.attributes)) == (321, {"loop": "main"})
    transports = {point.attributes["kind"]: point.value for point in metrics["loopfast.transports"].data.data_points}
    assert transports["tcp"] == 1 and transports["udp"] == 0
    assert not metrics["loopfast.transports"].data.is_monotonic
    assert metrics["loopfast.run.time"].data.data_points[0].value > 0


def test_opentelemetry_tells_of_no_closed_loop(loop_factory, reader, provider):
    loop = loop_factory()
    loopfast.opentelemetry.export(loop, meter_provider=provider)
    assert read(reader)["loopfast.timers"].data.data_points[0].value == 0
    loop.close()
    assert read(reader) == {}


def test_opentelemetry_without_a_provider(loop):
    """The global one, which does nothing unless somebody has set an SDK up."""
    pytest.importorskip("opentelemetry.metrics")
    loopfast.opentelemetry.export(loop, "main").remove("main")


# ----------------------------------------------------------------------------------------------------------------- both


@pytest.fixture(params=EXPORTERS, ids=lambda kind: kind.__module__.rpartition(".")[2])
def exporter(request: pytest.FixtureRequest) -> Any:
    needed = {"loopfast.prometheus": "prometheus_client", "loopfast.opentelemetry": "opentelemetry.metrics"}
    pytest.importorskip(needed[request.param.__module__])
    return request.param()


def test_what_is_no_loop(exporter, loop):
    other = asyncio.SelectorEventLoop()
    with pytest.raises(TypeError, match="SelectorEventLoop"):
        exporter.add(other, "main")
    other.close()
    with pytest.raises(TypeError, match="None"):
        exporter.add(None, "main")
    with pytest.raises(TypeError, match="5"):
        exporter.add(loop, 5)


def test_a_name_is_for_one_loop(exporter, loop, loop_factory):
    exporter.add(loop, "main")
    exporter.add(loop, "main")
    other = loop_factory()
    with pytest.raises(ValueError, match="'main'"):
        exporter.add(other, "main")
    exporter.add(other, "other")
    other.close()
    # Its name is free again.
    exporter.add(loop, "other")


def test_no_loop_is_kept_alive(exporter, loop_factory):
    loop = loop_factory()
    exporter.add(loop, "main")
    reference = weakref.ref(loop)
    loop.close()
    del loop
    gc.collect()
    assert reference() is None
    assert exporter.loops() == []


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        (loopfast.prometheus, "prometheus_client", "prometheus"),
        (loopfast.opentelemetry, "opentelemetry.metrics", "opentelemetry"),
    ],
    ids=["prometheus", "opentelemetry"],
)
def test_without_the_library(loop, monkeypatch, module, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"pip install 'loopfast\[{extra}\]'"):
        module.export(loop)
