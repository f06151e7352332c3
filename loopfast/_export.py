"""What the exporters share: names, units and meanings of the figures, and the loops they tell of."""

from __future__ import annotations

import dataclasses
import threading
import weakref

from loopfast._loop import Loop

__all__ = ["METRICS", "Metric", "NamedLoops"]


@dataclasses.dataclass(frozen=True, slots=True)
class Metric:
    """How a field of `LoopStatistics` is exported."""

    #: The field.
    field: str
    #: OpenTelemetry's name is ``loopfast.`` and this; Prometheus' has underscores, the unit, and ``_total`` for counts.
    name: str
    #: UCUM, as OpenTelemetry wants it: ``s``, ``By``, ``{callback}``.
    unit: str
    #: Only ever grows.
    counts: bool
    description: str
    #: The field is a mapping, whose keys are values of this attribute.
    attribute: str | None = None


METRICS = (
    Metric("run_time", "run.time", "s", True, "Time that the event loop has run"),
    Metric("idle_time", "idle.time", "s", True, "Time of that spent asleep, waiting for events"),
    Metric("iterations", "iterations", "{iteration}", True, "Turns of the event loop"),
    Metric("callbacks", "callbacks", "{callback}", True, "Callbacks, timers, readers and writers run"),
    Metric("events", "events", "{event}", True, "Events that the kernel has reported"),
    Metric("ready", "ready", "{callback}", False, "Callbacks that wait for their turn"),
    Metric("timers", "timers", "{timer}", False, "Timers that are set"),
    Metric("handles", "handles", "{handle}", False, "Open libuv handles", "kind"),
    Metric("transports", "transports", "{transport}", False, "Open transports", "kind"),
    Metric("listeners", "listeners", "{socket}", False, "Listening sockets"),
    Metric("descriptors", "descriptors", "{descriptor}", False, "Descriptors watched for readers and writers"),
    Metric("bytes_received", "received", "By", True, "Bytes received by transports, pipes and sock_*() calls"),
    Metric("bytes_sent", "sent", "By", True, "Bytes sent by transports, pipes and sock_*() calls"),
    Metric("accepted", "accepted", "{connection}", True, "Connections accepted"),
    Metric("accept_errors", "accept.errors", "{error}", True, "Times that accepting connections failed"),
    Metric(
        "slow_callbacks", "slow.callbacks", "{callback}", True, "Callbacks that took slow_callback_duration or longer"
    ),
    Metric("stalls", "stalls", "{stall}", True, "Stretches of a few turns that took that long"),
)


class NamedLoops:
    """Loops by name, not kept alive, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loops: dict[str, weakref.ref[Loop]] = {}

    def add(self, loop: Loop, name: str) -> None:
        """Tell of *loop* from now on, under *name*.

        Raises:
            TypeError: *loop* is no loop of loopfast, or *name* is no string.
            ValueError: another loop, which is not closed, has the name.
        """
        if not isinstance(loop, Loop):
            raise TypeError(f"a loopfast.Loop was expected, got {loop!r}")
        if not isinstance(name, str):
            raise TypeError(f"a loop's name must be a string, got {name!r}")
        with self._lock:
            reference = self._loops.get(name)
            known = None if reference is None else reference()
            if known is not None and known is not loop and not known.is_closed():
                raise ValueError(f"another loop is exported under the name {name!r}")
            self._loops[name] = weakref.ref(loop)

    def remove(self, name: str) -> None:
        """Tell of the loop *name* no more. Does nothing if there is none."""
        with self._lock:
            self._loops.pop(name, None)

    def loops(self) -> list[tuple[str, Loop]]:
        """Return the names and loops that are not closed."""
        found = []
        with self._lock:
            for name, reference in list(self._loops.items()):
                loop = reference()
                if loop is None or loop.is_closed():
                    del self._loops[name]
                else:
                    found.append((name, loop))
        return found
