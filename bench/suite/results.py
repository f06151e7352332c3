"""The result of a run: what was measured on which machine, as a JSON file, and as pyperf's files for pyperf's tools."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
from pathlib import Path
from typing import Any, Self

FORMAT = 2


class BadFile(Exception):
    """A file is no result of this suite; the text names it and says why."""


@dataclasses.dataclass
class Sample:
    """What one process measured: `values` in the row's unit per operation, and of servers the figures beside them.

    `operations` is how many of them one value was measured over; `latency` holds percentiles in microseconds, `cpu`
    the server's processor seconds per operation, `client` the generator's share of a processor.
    """

    values: list[float]
    latency: dict[str, float] | None = None
    cpu: float | None = None
    client: float | None = None
    bytes_per_second: float | None = None
    operations: int | None = None


@dataclasses.dataclass
class Counts:
    """User-space instructions and system calls (by name) of one operation, or the `reason` why they are not known."""

    instructions: float | None = None
    syscalls: dict[str, float] | None = None
    reason: str | None = None


@dataclasses.dataclass
class Cell:
    """One workload on one loop: a sample per round, or the reason why there is none.

    `warnings` are pyperf's about the stability of the values.
    """

    samples: list[Sample] = dataclasses.field(default_factory=list)
    error: str | None = None
    counts: Counts | None = None
    warnings: list[str] = dataclasses.field(default_factory=list)

    @property
    def values(self) -> list[float]:
        """One value per round, the median of its process."""
        return [statistics.median(sample.values) for sample in self.samples]

    def figure(self, name: str) -> float | None:
        """Returns the median over the rounds of the figure `name` (of Sample, or a latency such as p99), if any."""
        found = [getattr(s, name, None) if hasattr(s, name) else (s.latency or {}).get(name) for s in self.samples]
        known = [value for value in found if value is not None]
        return statistics.median(known) if known else None


@dataclasses.dataclass
class Row:
    """One workload on all loops. `unit` is pyperf's name for what the values are; size and connections a server's."""

    name: str
    title: str
    group: str
    kind: str
    unit: str = "second"
    size: int | None = None
    connections: int | None = None
    cells: dict[str, Cell] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Results:
    """A whole run. `loops` maps a name to its version, `absent` one to the reason why it was not measured."""

    machine: dict[str, str]
    settings: dict[str, Any]
    loops: dict[str, str]
    absent: dict[str, str]
    rows: list[Row] = dataclasses.field(default_factory=list)

    def save(self, path: Path) -> None:
        """Writes the results to `path`, which afterwards holds either the old or the new text, never a part."""
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1) + "\n")
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote; raises BadFile where `path` cannot be read or holds something else."""
        try:
            content = json.loads(path.read_text())
        except OSError as error:
            raise BadFile(f"{path}: {error.strerror}") from None
        except ValueError:
            raise BadFile(f"{path} is no JSON file") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise BadFile(f"{path} is no result of the command run (format {FORMAT})")
        try:
            del content["format"]
            rows = [cls._row(row) for row in content.pop("rows")]
            return cls(**content, rows=rows)
        except (KeyError, TypeError, AttributeError) as error:
            raise BadFile(f"{path} is damaged: {error!r}") from None

    @staticmethod
    def _row(row: dict[str, Any]) -> Row:
        cells = {}
        for name, cell in row["cells"].items():
            counts = None if cell["counts"] is None else Counts(**cell["counts"])
            samples = [Sample(**sample) for sample in cell["samples"]]
            cells[name] = Cell(samples, cell["error"], counts, cell["warnings"])
        return Row(**{**row, "cells": cells})

    def export(self, folder: Path) -> list[Path]:
        """Writes one pyperf file per loop into `folder`, for ``pyperf compare_to`` and its relatives."""
        import pyperf

        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for loop, version in self.loops.items():
            benchmarks = []
            for row in self.rows:
                cell = row.cells.get(loop)
                if cell is None or not cell.samples:
                    continue
                metadata = {"name": row.name, "unit": row.unit, "description": row.title, "event_loop": version}
                metadata |= {f"bench_{key}": value for key, value in self.machine.items()}
                runs = [
                    pyperf.Run(s.values, metadata=metadata | loops(s), collect_metadata=False) for s in cell.samples
                ]
                benchmarks.append(pyperf.Benchmark(runs))
            if benchmarks:
                path = folder / f"{loop.replace(':', '.')}.json"
                pyperf.BenchmarkSuite(benchmarks).dump(str(path), replace=True)
                written.append(path)
        return written


def loops(sample: Sample) -> dict[str, int]:
    """Returns pyperf's name and number of the operations of one value, nothing where it is not known or only one."""
    return {"loops": sample.operations} if sample.operations is not None and sample.operations > 1 else {}
