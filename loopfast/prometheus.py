"""Statistics of event loops for Prometheus, through prometheus_client (extra ``prometheus``).

```python
loopfast.prometheus.export(asyncio.get_running_loop(), "main")
```
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from loopfast._export import METRICS, Metric, NamedLoops
from loopfast._loop import Loop
from loopfast._statistics import LoopStatistics

__all__ = ["LoopCollector", "export"]

_UNITS = {"s": "_seconds", "By": "_bytes"}


def _library() -> ModuleType:
    try:
        return importlib.import_module("prometheus_client")
    except ImportError as exc:
        raise ImportError(
            "prometheus_client is not installed: pip install 'loopfast[prometheus]'", name=exc.name
        ) from exc


class LoopCollector(NamedLoops):
    """A collector for a registry of prometheus_client: the statistics of the loops that were added to it.

    Each is told by the label ``loop``. Collecting takes a snapshot of each, on the thread that collects, without asking
    the loops. A loop is not kept alive, and one that is closed is told of no more.

    Source: https://prometheus.github.io/client_python/collector/custom/

    Raises:
        ImportError: prometheus_client is not installed.
    """

    def __init__(self) -> None:
        _library()
        super().__init__()

    def describe(self) -> Iterator[Any]:
        """Return the metric families without a value, for a registry's check of names."""
        return self._families([])

    def collect(self) -> Iterator[Any]:
        """Return the metric families with the values of now."""
        return self._families([(name, loop.statistics()) for name, loop in self.loops()])

    def _families(self, snapshots: list[tuple[str, LoopStatistics]]) -> Iterator[Any]:
        core = importlib.import_module("prometheus_client.core")
        for metric in METRICS:
            labels = ["loop"] if metric.attribute is None else ["loop", metric.attribute]
            kind = core.CounterMetricFamily if metric.counts else core.GaugeMetricFamily
            family = kind(_name(metric), metric.description, labels=labels)
            for name, statistics in snapshots:
                value = getattr(statistics, metric.field)
                for key, number in value.items() if metric.attribute else [(None, value)]:
                    family.add_metric([name] if key is None else [name, key], number)
            yield family


def _name(metric: Metric) -> str:
    return "loopfast_" + re.sub(r"\W", "_", metric.name).removesuffix("_time") + _UNITS.get(metric.unit, "")


def export(loop: Loop, name: str = "main", *, registry: Any = None) -> LoopCollector:
    """Export the statistics of *loop* under *name*; return the collector, to which further loops can be added.

    Args:
        registry: a registry of prometheus_client; None means its default one.

    Raises:
        ImportError: prometheus_client is not installed.
        TypeError: *loop* is no loop of loopfast, or *name* is no string.
        ValueError: the registry has a collector of these metrics already.
    """
    collector = LoopCollector()
    collector.add(loop, name)
    (_library().REGISTRY if registry is None else registry).register(collector)
    return collector
