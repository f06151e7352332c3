"""Instructions and system calls of a workload's operation, by the means of the instruction budget (bench/budget)."""

from __future__ import annotations

import functools
import os
import statistics

from .. import load, native
from ..budget import measure
from ..budget.rows import Row
from .registry import LOOP_VARIABLE, Loop, Workload, load_all
from .results import Cell, Counts

PREFIX = "suite:"
"""Begins the name by which the budget's worker finds a workload of the suite."""
LEFT_OUT = ("process.spawn", "process.pipes", "process.output", "process.input", "startup.import", "startup.process")
"""Workloads whose work is done by other processes."""
SECTION = 0.04
"""Seconds at full speed of the long section; callgrind is some fifty times slower."""
MOST = 20_000


def row(name: str) -> Row:
    """Returns the workload called `name` (after PREFIX) as a row of the budget; its operations come in batches."""
    workload = load_all()[name.removeprefix(PREFIX)]
    if workload.load is not None:
        return Row(name, workload.run, (0, 0, 0), workload.load)

    def run(loop: Loop, count: int) -> None:
        workload.run(loop, count // workload.batch)

    return Row(name, run, (0, 0, 0))


def sections(workload: Workload, seconds: float) -> tuple[int, int, int]:
    """Returns the operations of warm-up, short and long section for a workload that takes `seconds` an operation."""
    least = workload.batch
    if workload.load is not None:
        least = workload.load.connections * workload.load.pipeline
    span = max(1, round(min(SECTION / seconds, MOST) / least)) * least
    return 2 * least, least, least + max(span, 4 * least)


def count(workload: Workload, loop: str, cell: Cell) -> Counts:
    """Returns what an operation of `workload` costs on `loop`; a reason instead where it cannot be counted."""
    if workload.name in LEFT_OUT:
        return Counts(reason="not counted: other processes do the work")
    if workload.idle:
        return Counts(reason="not counted: memory has no operations")
    if cell.error or not cell.samples:
        return Counts(reason="the workload failed")
    one = row(PREFIX + workload.name)
    chosen = sections(workload, statistics.median(cell.values))
    found = Counts()
    reasons = []
    os.environ[LOOP_VARIABLE] = loop
    try:
        for attribute, take in (
            ("instructions", functools.partial(measure.instructions, one, loop, chosen)),
            ("syscalls", lambda: measure.syscalls(one, loop, chosen)[0]),
        ):
            try:
                setattr(found, attribute, take())
            except (measure.Failed, native.Unavailable, load.LoadError) as error:
                reasons.append(str(error))
    finally:
        del os.environ[LOOP_VARIABLE]
    found.reason = "; ".join(dict.fromkeys(reasons)) or None
    return found
