"""Statistics of event loops for OpenTelemetry, through opentelemetry-api (extra ``opentelemetry``).

```python
loopfast.opentelemetry.export(asyncio.get_running_loop(), "main")
```
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from loopfast._export import METRICS, Metric, NamedLoops
from loopfast._loop import Loop
from loopfast._version import __version__

__all__ = ["LoopInstruments", "export"]


def _library() -> ModuleType:
    try:
        return importlib.import_module("opentelemetry.metrics")
    except ImportError as exc:
        raise ImportError(
            "opentelemetry-api is not installed: pip install 'loopfast[opentelemetry]'", name=exc.name
        ) from exc


class LoopInstruments(NamedLoops):
    """Observable instruments ``loopfast.*`` for the loops that are added; each is told by the attribute ``loop``.

    They are observed on the thread of the metric reader, without asking the loops. A loop is not kept alive, and one
    that is closed is told of no more. Counting needs an SDK: without one OpenTelemetry's instruments do nothing.

    Source: https://opentelemetry.io/docs/specs/otel/metrics/api/#asynchronous-instrument-api

    Args:
        meter_provider: an ``opentelemetry.metrics.MeterProvider``; None means the global one.

    Raises:
        ImportError: opentelemetry-api is not installed.
    """

    def __init__(self, meter_provider: Any = None) -> None:
        self._api = _library()
        super().__init__()
        meter = self._api.get_meter("loopfast", __version__, meter_provider)
        for metric in METRICS:
            # Counts never go back; all else, such as timers, goes up and down and is summed over loops.
            make = meter.create_observable_counter if metric.counts else meter.create_observable_up_down_counter
            make(
                f"loopfast.{metric.name}",
                callbacks=[self._observer(metric)],
                unit=metric.unit,
                description=metric.description,
            )
        meter.create_observable_gauge(
            "loopfast.stall.longest",
            callbacks=[self._observe_longest],
            unit="s",
            description="The longest stall",
        )

    def _observer(self, metric: Metric) -> Callable[[Any], Iterator[Any]]:
        def observe(_options: Any) -> Iterator[Any]:
            for name, loop in self.loops():
                value = getattr(loop.statistics(), metric.field)
                if metric.attribute is None:
                    yield self._api.Observation(value, {"loop": name})
                    continue
                for key, number in value.items():
                    yield self._api.Observation(number, {"loop": name, metric.attribute: key})

        return observe

    def _observe_longest(self, _options: Any) -> Iterator[Any]:
        for name, loop in self.loops():
            yield self._api.Observation(loop.statistics().longest_stall, {"loop": name})


def export(loop: Loop, name: str = "main", *, meter_provider: Any = None) -> LoopInstruments:
    """Export the statistics of *loop* under *name*; return the instruments, to which further loops can be added.

    Args:
        meter_provider: an ``opentelemetry.metrics.MeterProvider``; None means the global one.

    Raises:
        ImportError: opentelemetry-api is not installed.
        TypeError: *loop* is no loop of loopfast, or *name* is no string.
    """
    instruments = LoopInstruments(meter_provider)
    instruments.add(loop, name)
    return instruments
