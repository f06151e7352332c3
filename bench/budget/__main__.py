"""The command ``python -m bench.budget``: measures the budget table and compares it with its targets."""

from __future__ import annotations

import argparse
import concurrent.futures
import datetime
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import loops as loops_module
from .. import native
from . import report
from .measure import Cost, measure

DESCRIPTION = """
Counts what one operation of an event loop costs: user-space instructions (valgrind's callgrind) and system calls
(strace), each as the difference of two run lengths, so that start-up cancels out. Clients are C programs in another
process: only the server is counted. Counts repeat to about 2 % and do not depend on the load of the machine.
"""


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.budget", description=DESCRIPTION)
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help="rows or groups to measure, shell patterns allowed (default: all)"
    )
    parser.add_argument(
        "--loops",
        default=",".join(loops_module.NAMES),
        metavar="A,B",
        help="loops to measure; the first is held to the targets (default: %(default)s)",
    )
    parser.add_argument("--gate", action="store_true", help="exit with 1 when a row of the first loop is above target")
    parser.add_argument("--quick", action="store_true", help="a fifth of the operations: a little less exact")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to FILE")
    parser.add_argument(
        "--profile", type=Path, metavar="FOLDER", help="write the most expensive functions of each row to FOLDER"
    )
    parser.add_argument("-j", "--jobs", type=int, default=2, help="rows measured at the same time (default: 2)")
    parser.add_argument("--list", action="store_true", help="list rows, groups and targets, and measure nothing")
    options = parser.parse_args(words)
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, not {options.jobs}")
    return options


def measure_all(
    names: Sequence[str], loops: Sequence[str], jobs: int, divisor: int, profile: Path | None
) -> dict[tuple[str, str], Cost]:
    """Measures every row on every loop, `jobs` at a time, telling each result on standard error as it comes."""
    costs: dict[tuple[str, str], Cost] = {}
    wanted = []
    for loop in loops:
        reason = loops_module.missing(loop)
        if reason is None:
            print(f"  {loop}: {loops_module.version(loop)}", file=sys.stderr)
            wanted += [(name, loop) for name in names]
        else:
            print(f"  {loop}: not available: {reason}", file=sys.stderr)
            costs |= {(name, loop): Cost(name, loop, reason=reason) for name in names}
    wanted.sort(key=lambda pair: names.index(pair[0]))
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(measure, name, loop, divisor, profile): (name, loop) for name, loop in wanted}
        try:
            for done, future in enumerate(concurrent.futures.as_completed(running), 1):
                cost = costs[running[future]] = future.result()
                words = cost.reason or f"{cost.ir:10,.0f} Ir {cost.syscall_total:7.2f} sys"
                print(f"  [{done:3}/{len(wanted)}] {cost.row:20} {cost.loop:10} {words}", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return costs


def machine() -> dict[str, Any]:
    """Returns where the figures come from."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command with `words` (default: the process's own); returns the exit status."""
    options = arguments(words)
    targets, tolerance = report.read_targets()
    try:
        names = report.select(targets, options.rows)
        loops = [name.strip() for name in options.loops.split(",") if name.strip()]
        if unknown := [name for name in loops if ":" not in name and name not in loops_module.NAMES]:
            raise ValueError(f"unknown loop {unknown[0]!r}: one of {', '.join(loops_module.NAMES)}, or module:factory")
        if not loops:
            raise ValueError("--loops names no loop")
    except ValueError as error:
        print(f"bench.budget: {error}", file=sys.stderr)
        return 2
    if options.list:
        for name in names:
            target = targets[name]
            print(f"{name:20} {target.group:6} {target.ir:9,.0f} Ir {target.syscalls:6g} sys  {target.title}")
        return 0
    try:
        native.tool("valgrind", "valgrind")
        native.tool("strace", "strace")
    except native.Unavailable as error:
        print(f"bench.budget: {error}", file=sys.stderr)
        return 2
    if options.profile is not None:
        options.profile.mkdir(parents=True, exist_ok=True)

    where = machine()
    print(f"bench.budget: {len(names)} rows on {where['python']}, {where['system']}", file=sys.stderr)
    costs = measure_all(names, loops, options.jobs, 5 if options.quick else 1, options.profile)
    subject = loops[0]
    print("\nCost of one operation: user-space instructions (Ir) and system calls (sys)\n")
    print(report.table(costs, names, loops, targets, tolerance), end="\n\n")
    mine = [costs[name, subject] for name in names]
    states = [report.state(cost, targets[cost.row], tolerance) for cost in mine]
    print(f"{subject}: " + ", ".join(f"{states.count(each)} {each.value}" for each in report.State))
    for line in report.notes([costs[name, loop] for loop in loops for name in names]):
        print(line)
    for name, verdict in zip(names, states, strict=True):
        if verdict is report.State.OVER and targets[name].why:
            print(f"{name}: {targets[name].why}")
    if options.json is not None:
        ordered = [costs[name, loop] for name in names for loop in loops]
        options.json.write_text(json.dumps(report.as_json(ordered, targets, tolerance, where), indent=1) + "\n")
    refused = report.gate(mine, targets, tolerance)
    if options.gate and refused:
        print(f"gate: {subject} is more than {tolerance.ir:.0%} above what is allowed, or not measured:")
        print("\n".join(f"  {line}" for line in refused))
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
