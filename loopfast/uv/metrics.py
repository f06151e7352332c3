"""libuv's chapter "Metrics operations"."""

from __future__ import annotations

from typing import NamedTuple

from loopfast.uv._base import BaseLoop
from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check

__all__ = ["Metrics", "metrics_idle_time", "metrics_info"]


class Metrics(NamedTuple):
    """uv_metrics_t, counted since the loop was made."""

    #: Turns of the loop.
    loop_count: int
    #: Events that were processed.
    events: int
    #: Events that waited when the loop asked for them.
    events_waiting: int


def metrics_info(loop: BaseLoop) -> Metrics:
    """What the loop has counted (uv_metrics_info)."""
    metrics = ffi.new("uv_metrics_t *")
    check(lib.uv_metrics_info(loop._enter(), metrics))
    return Metrics(int(metrics.loop_count), int(metrics.events), int(metrics.events_waiting))


def metrics_idle_time(loop: BaseLoop) -> int:
    """How many nanoseconds the loop has waited for events (uv_metrics_idle_time).

    Always 0 unless `loop.configure(LoopOption.METRICS_IDLE_TIME)` was called before the loop ran.
    """
    return int(lib.uv_metrics_idle_time(loop._enter()))
