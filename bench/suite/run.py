"""A run: every workload on every loop, in rounds in which the loops take turns, each time in a fresh process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from .. import loops
from . import counting, machine, micro, network, stability
from .registry import Workload
from .results import Cell, Results, Row, Sample

BASE = "asyncio"
"""The loop that is always measured, and that the others are compared with."""

DEFAULT = ("asyncio", "loopfast", "uvloop")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How long to measure: `rounds` per loop; per process `values` of `min_time` s, or `seconds` of load.

    `counts` adds instructions and system calls.
    """

    rounds: int = 5
    values: int = 3
    min_time: float = 0.1
    seconds: float = 0.8
    counts: bool = False


QUICK = Settings(rounds=3, values=2, min_time=0.03, seconds=0.25)


class Measured(Protocol):
    """A workload on a loop."""

    def measure(self) -> Sample:
        """Returns the sample of one fresh process; raises micro.Failed with the reason where there is none."""


class Watcher:
    """What a run tells while it is under way; this one says nothing."""

    def begin(self, steps: int) -> None:
        """The run will take so many steps, of about the same length."""

    def step(self, workload: str, loop: str, sample: Sample | None) -> None:
        """A process has been measured, or (None) left out because the loop failed before."""

    def counting(self, workload: str, loop: str) -> None:
        """Instructions and system calls are being counted."""

    def done(self, row: Row) -> None:
        """All rounds of a workload are over."""


def choose(names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Returns the loops of `names` that can be measured here, BASE first, and of the others the reasons why not.

    "all" stands for every loop that is known, but for another name of BASE. Raises ValueError for a name that no loop
    has.
    """
    wanted: list[str] = [BASE]
    absent = {}
    for name in names:
        for each in (*loops.NAMES, *loops.ALIASES, *loops.PEERS) if name == "all" else (name,):
            if name == "all" and each in loops.ALIASES and loops.same(each, BASE):
                absent[each] = f"the same as {BASE} on this platform"
            elif each not in wanted:
                wanted.append(each)
    for name in wanted:
        try:
            loops.factory(name)
        except ValueError:
            raise
        except Exception:
            pass
        if (reason := loops.missing(name)) is not None:
            absent[name] = reason
    return [name for name in wanted if name not in absent], absent


def run(
    workloads: Sequence[Workload],
    names: Sequence[str],
    absent: dict[str, str],
    settings: Settings,
    watcher: Watcher,
    output: Path | None = None,
) -> Results:
    """Returns the results of `workloads` on the loops `names`; with `output` they are saved after each workload."""
    results = Results(
        machine=machine.describe(),
        settings=dataclasses.asdict(settings),
        loops={name: loops.version(name) for name in names},
        absent=dict(absent),
    )
    cpus = network.processors()
    watcher.begin(len(workloads) * settings.rounds * len(names))
    for workload in workloads:
        row = measure_row(workload, names, settings, cpus, watcher.step)
        if settings.counts:
            for name, cell in row.cells.items():
                watcher.counting(workload.name, name)
                cell.counts = counting.count(workload, name, cell)
        results.rows.append(row)
        watcher.done(row)
        if output is not None:
            results.save(output)
    stability.judge(results)
    if output is not None:
        results.save(output)
    return results


def measure_row(
    workload: Workload,
    names: Sequence[str],
    settings: Settings,
    cpus: tuple[set[int] | None, set[int] | None],
    step: Callable[[str, str, Sample | None], None],
) -> Row:
    """Returns the row of `workload`; a loop that fails once is not asked again."""
    load = workload.load
    kind = "memory" if workload.idle else "micro" if load is None else "server"
    row = Row(workload.name, workload.title, workload.group, kind, workload.unit)
    if load is not None:
        row.size, row.connections = load.size, load.connections
    row.cells = {name: Cell() for name in names}
    reason = None if load is None else network.missing(workload)
    for cell in row.cells.values():
        cell.error = reason
    measured: dict[str, Measured] = {
        name: micro.Micro(workload.name, name, settings.min_time, settings.values)
        if load is None
        else network.Network(workload, name, settings.seconds, cpus)
        for name in names
    }
    for number in range(settings.rounds):
        first = number % len(names)
        for name in [*names[first:], *names[:first]]:
            cell, sample = row.cells[name], None
            if cell.error is None:
                try:
                    sample = measured[name].measure()
                    cell.samples.append(sample)
                except micro.Failed as error:
                    cell.error = str(error)
            step(workload.name, name, sample)
    return row
