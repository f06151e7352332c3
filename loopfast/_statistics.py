"""What ``loop.statistics()`` returns, and what the exporters make of it: names, units and meanings in one place.

Imported when somebody asks: making dataclasses takes as long as loading a quarter of the compiled modules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal

__all__ = ["METRICS", "LoopStatistics", "Metric", "SlowCallback"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SlowCallback:
    """A callback that took ``loop.slow_callback_duration`` seconds or longer, or a stall where none was timed."""

    #: When it ended, in seconds since the epoch, as ``time.time()``.
    when: float
    #: How long it took, in seconds.
    duration: float
    #: What was called, as asyncio's debug log shows it; for a stall, what is known of it.
    callback: str
    #: The name of the task whose step it was, or None.
    task: str | None
    #: The stack, outermost first, each frame as ``file:line in function: source``. See `taken`.
    stack: tuple[str, ...]
    #: When the stack was taken: ``"during"`` the callback (only while somebody watches through the endpoint);
    #: ``"after"`` it, where the task's coroutines are suspended; ``"start"``: the task has ended, so this is where its
    #: function or the callback begins; ``""``: there is none.
    taken: Literal["during", "after", "start", ""]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoopStatistics:
    """What a loop is doing and has done: a snapshot. Times are in seconds, sizes in bytes; counts never go back.

    Counts cover the whole life of the loop and stay readable after `close`. Rates come of two snapshots.
    """

    #: When it was taken, by the monotonic clock (``time.monotonic()``).
    time: float
    #: The loop runs.
    running: bool
    #: The loop is closed.
    closed: bool
    #: Debug mode is on.
    debug: bool
    #: Each callback is timed just now: in debug mode, while the endpoint is open, and for a minute after stalls.
    timing: bool
    #: Time spent in ``run_forever()`` and its relatives.
    run_time: float
    #: Time of that spent asleep, waiting for events with nothing to do: libuv's idle time.
    idle_time: float
    #: Turns of the loop.
    iterations: int
    #: Callbacks, timers, readers and writers run. Reads of transports are no callbacks here.
    callbacks: int
    #: Events that the kernel has reported to libuv, such as a socket that became readable.
    events: int
    #: Length of the ready queue: callbacks that wait for their turn.
    ready: int
    #: Timers that are set.
    timers: int
    #: Open libuv handles by libuv's name of their kind, without the loop's own; only kinds of which there are any.
    handles: Mapping[str, int]
    #: Open transports by kind: ``tcp``, ``tls``, ``unix``, ``udp``, ``pipe``, and ``other`` for those that asyncio's
    #: own code serves.
    transports: Mapping[str, int]
    #: Listening sockets that accept connections.
    listeners: int
    #: Descriptors watched with ``add_reader()`` and ``add_writer()``, pipes and waiting children among them.
    descriptors: int
    #: ``sock_recv()`` and its native kin that wait.
    socket_calls: int
    #: Bytes that the kernel gave to and took from transports, pipes and native ``sock_*()`` calls; TLS records as sent.
    bytes_received: int
    bytes_sent: int
    #: Connections accepted by servers.
    accepted: int
    #: Times that accepting failed, such as for lack of descriptors.
    accept_errors: int
    #: Callbacks that took ``slow_callback_duration`` or longer; where callbacks were not timed, stalls instead.
    slow_callbacks: int
    #: Stretches of at most eight turns without sleep that took ``slow_callback_duration`` or longer.
    stalls: int
    #: The longest of them.
    longest_stall: float
    #: The last slow callbacks, the latest last.
    slow: tuple[SlowCallback, ...]

    @property
    def utilisation(self) -> float:
        """The part of its run time that the loop was busy rather than asleep, from 0 to 1; 0 if it never ran."""
        return _busy(self.run_time, self.idle_time)

    def utilisation_since(self, earlier: LoopStatistics) -> float:
        """Return `utilisation` of the time between *earlier*, another snapshot of the same loop, and this one."""
        return _busy(self.run_time - earlier.run_time, self.idle_time - earlier.idle_time)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields and `utilisation` as a dict that JSON can hold."""
        return {**dataclasses.asdict(self), "utilisation": self.utilisation}


def snapshot(facts: dict[str, Any], slow: Iterable[tuple[Any, ...]]) -> LoopStatistics:
    """Return the statistics of a loop: what its census found, and the records of its slow callbacks."""
    names = [field.name for field in dataclasses.fields(SlowCallback)]
    return LoopStatistics(**facts, slow=tuple(SlowCallback(**dict(zip(names, record, strict=True))) for record in slow))


def _busy(run_time: float, idle_time: float) -> float:
    return min(1.0, max(0.0, 1.0 - idle_time / run_time)) if run_time > 0 else 0.0


# -------------------------------------------------------------------------------------------------------------- metrics


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
