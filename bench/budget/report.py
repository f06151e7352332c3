"""What the budget says about measured rows: targets, states, the gate, the table and the JSON file."""

from __future__ import annotations

import dataclasses
import enum
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..text import table as text_table
from .measure import Cost

DATA = Path(__file__).with_name("targets.toml")


@dataclasses.dataclass(frozen=True)
class Target:
    """What one operation may cost at most: `ir` user-space instructions, `syscalls` system calls.

    `limit`, where a target is missed, is what the gate holds the row to instead, and `why` the reason.
    """

    name: str
    title: str
    group: str
    ir: float
    syscalls: float
    reference: Mapping[str, float] = dataclasses.field(default_factory=dict)
    limit: Mapping[str, float] = dataclasses.field(default_factory=dict)
    why: str = ""

    def gated(self, what: str) -> float:
        """Returns what the gate compares with: the limit of "ir" or "syscalls", else the target."""
        return self.limit.get(what, getattr(self, what))


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How far above target a row may be before --gate fails: `ir` as a share of both, `syscalls` in calls."""

    ir: float
    syscalls: float


class State(enum.Enum):
    """The verdict on one row."""

    OK = "ok"
    OVER = "over"
    NOT_MEASURED = "not measured"


def read_targets(path: Path = DATA) -> tuple[dict[str, Target], Tolerance]:
    """Returns the targets by row name, in the order of the file, and the gate's tolerance."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    rows = {name: Target(name=name, **fields) for name, fields in data["rows"].items()}
    return rows, Tolerance(**data["tolerance"])


def select(targets: Mapping[str, Target], patterns: Sequence[str]) -> list[str]:
    """Returns the names of the rows that one of `patterns` (shell style) names by row or by group; all without any.

    Raises ValueError for a pattern that names nothing.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        found = {n for n, t in targets.items() if fnmatchcase(n, pattern) or fnmatchcase(t.group, pattern)}
        if not found:
            groups = ", ".join(dict.fromkeys(target.group for target in targets.values()))
            raise ValueError(f"no row or group is called {pattern!r}; groups: {groups}; rows: {', '.join(targets)}")
        chosen |= found
    return [name for name in targets if name in chosen or not patterns]


def state(cost: Cost, target: Target, tolerance: Tolerance) -> State:
    """Returns the verdict on `cost`: over when instructions, system calls or a rule of server rows are broken.

    Instructions are held to the target itself; system calls have the tolerance, their decimals being turns of the loop
    that were cut differently.
    """
    if cost.ir is None or cost.syscall_total is None:
        return State.NOT_MEASURED
    calls_allowed = target.syscalls * (1 + tolerance.ir) + tolerance.syscalls
    if cost.ir > target.ir or cost.syscall_total > calls_allowed or cost.faults:
        return State.OVER
    return State.OK


def gate(costs: Iterable[Cost], targets: Mapping[str, Target], tolerance: Tolerance) -> list[str]:
    """Returns one line for each of `costs` that the gate refuses: above what is allowed, or not measured."""
    refused = []
    for cost in costs:
        target = targets[cost.row]
        if cost.ir is None or cost.syscall_total is None:
            refused.append(f"{cost.row}: not measured")
            continue
        ir, syscalls = target.gated("ir"), target.gated("syscalls")
        if cost.ir > ir * (1 + tolerance.ir):
            refused.append(f"{cost.row}: {cost.ir:.0f} instructions, allowed {ir:.0f}")
        if cost.syscall_total > syscalls * (1 + tolerance.ir) + tolerance.syscalls:
            refused.append(f"{cost.row}: {cost.syscall_total:.2f} system calls, allowed {syscalls:g}")
        refused.extend(f"{cost.row}: {fault}" for fault in cost.faults)
    return refused


def as_json(
    costs: Iterable[Cost], targets: Mapping[str, Target], tolerance: Tolerance, machine: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns everything that was measured, ready for json.dump; the state is given for every loop alike."""
    rows = []
    for cost in costs:
        target = targets[cost.row]
        rows.append(
            {
                "row": cost.row,
                "title": target.title,
                "group": target.group,
                "loop": cost.loop,
                "state": state(cost, target, tolerance).value,
                "reason": cost.reason,
                "ir": cost.ir,
                "ir_target": target.ir,
                "syscalls": cost.syscall_total,
                "syscalls_target": target.syscalls,
                "syscalls_by_name": cost.syscalls,
                "faults": cost.faults,
            }
        )
    return {"machine": dict(machine), "rows": rows}


def number(value: float | None, digits: int = 0) -> str:
    """Returns `value` for a table cell; a dash for what was not measured."""
    return "-" if value is None else f"{value:,.{digits}f}"


def table(
    costs: Mapping[tuple[str, str], Cost],
    names: Sequence[str],
    loops: Sequence[str],
    targets: Mapping[str, Target],
    tolerance: Tolerance,
) -> str:
    """Returns the table: a line for each row, the first of `loops` against its target, the others beside it."""
    subject, *others = loops
    headings = ["operation", "target Ir", f"{subject} Ir", "of target", "target sys", f"{subject} sys", "state"]
    headings += [heading for loop in others for heading in (f"{loop} Ir", f"{loop} sys")]
    rows: list[list[str] | None] = []
    for before, name in zip([None, *names], names, strict=False):
        target, cost = targets[name], costs[name, subject]
        if before is not None and targets[before].group != target.group:
            rows.append(None)
        rows.append(
            [
                target.title,
                number(target.ir),
                number(cost.ir),
                "-" if cost.ir is None else f"{cost.ir / target.ir:.2f}",
                f"{target.syscalls:g}",
                number(cost.syscall_total, 2),
                state(cost, target, tolerance).value,
                *(
                    text
                    for loop in others
                    for text in (number(costs[name, loop].ir), number(costs[name, loop].syscall_total, 2))
                ),
            ]
        )
    return text_table(headings, rows, left=(0, 6))


def notes(costs: Iterable[Cost]) -> list[str]:
    """Returns what the table has no room for: why rows were not measured, and which rules servers broke."""
    absent: dict[tuple[str, str], list[str]] = {}
    faults: dict[str, list[str]] = {}
    for cost in costs:
        if cost.reason is not None:
            absent.setdefault((cost.loop, cost.reason), []).append(cost.row)
        if cost.faults:
            faults.setdefault(cost.loop, []).append(f"{cost.row} ({', '.join(cost.faults)})")
    lines = [f"{loop} not measured ({', '.join(rows)}): {reason}" for (loop, reason), rows in absent.items()]
    lines += [f"{loop} makes calls a steady server should not: {'; '.join(rows)}" for loop, rows in faults.items()]
    return lines
