"""Results as tables: for the terminal with rich where it is installed, as plain text and as Markdown; progress."""

from __future__ import annotations

import contextlib
import math
import statistics
import sys
from collections.abc import Iterator, Sequence

from ..text import table
from . import stats
from .results import Cell, Results, Row, Sample
from .run import BASE, Watcher

HEADINGS = (
    *("loop", "per op", "op/s", "to asyncio", "spread", "p50", "p99", "p99.9"),
    *("CPU/op", "CPU ratio", "client", "remarks"),
)
"""The columns of a workload's table; "client" is the generator's share of its processor."""
COUNTED = ("instr/op", "calls/op")
"""Headings that come before the remarks where instructions and system calls were counted."""
UNITS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))
FEW = "Not enough samples"
"""Begins pyperf's warning that a difference of one percent cannot be told; the intervals say what can."""
NOISY = 0.25
"""Spread of the rounds above which a figure is called noisy."""
BOUND = 0.9
"""Share of its processor above which the generator may be what limits the throughput."""


def duration(seconds: float | None) -> str:
    """Returns a time with three digits and its unit, "-" for None."""
    if seconds is None:
        return "-"
    unit, size = next((u for u in UNITS if seconds >= u[1]), UNITS[-1])
    value = seconds / size
    decimals = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{decimals}f} {unit}"


def size_text(size: float | None) -> str:
    """Returns a number of bytes with its unit, "-" for None."""
    if size is None:
        return "-"
    for unit, step in (("MiB", 2**20), ("KiB", 2**10)):
        if size >= step:
            return f"{size / step:.3g} {unit}"
    return f"{size:.0f} B"


def amount(row: Row, value: float | None) -> str:
    """Returns a value of `row` with its unit."""
    return size_text(value) if row.unit == "byte" else duration(value)


def family(row: Row) -> str:
    """Returns the first two parts of the name: the same code under several loads."""
    return ".".join(row.name.split(".")[:2])


def ratio_text(ratio: stats.Ratio) -> str:
    """Returns a ratio with its interval, called a tie when it cannot be told from 1."""
    if math.isinf(ratio.high):
        return f"{ratio.middle:.2f}x (1 round)"
    word = " tie" if ratio.tie else ""
    return f"{ratio.middle:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]{word}"


def ratio_to_base(row: Row, name: str, cpu: bool = False) -> stats.Ratio | None:
    """Returns how many times faster than BASE the loop `name` is, None where either was not measured in all rounds.

    With `cpu` by the processor time of the server, which other programs on the machine disturb less than its speed.
    """
    base, cell = row.cells.get(BASE), row.cells.get(name)
    if base is None or cell is None or base.error or cell.error or not base.samples or not cell.samples:
        return None
    if not cpu:
        return stats.paired(base.values, cell.values)
    times = [[sample.cpu for sample in each.samples] for each in (base, cell)]
    return stats.paired(*times) if all(all(series) for series in times) else None


def ratio_or_dash(row: Row, name: str, cpu: bool = False) -> str:
    """Returns the text of a ratio to BASE, 1 for BASE itself, "-" where there is none."""
    ratio = ratio_to_base(row, name, cpu)
    return "-" if ratio is None else "1" if name == BASE else ratio_text(ratio)


def remarks(cell: Cell) -> str:
    """Returns what a reader should know before believing the figures of `cell`."""
    words = []
    if stats.spread(cell.values) > NOISY:
        words.append("noisy")
    if any(not warning.startswith(FEW) for warning in cell.warnings):
        words.append("unstable")
    share = cell.figure("client")
    if share is not None and share > BOUND:
        words.append(f"generator {share:.0%} busy")
    if cell.counts is not None and cell.counts.reason:
        words.append("not counted")
    return ", ".join(words)


def headings(results: Results) -> tuple[str, ...]:
    """Returns the headings of the columns that `cells` fills."""
    return (*HEADINGS[:-1], *(COUNTED if counted(results) else ()), HEADINGS[-1])


def counted(results: Results) -> bool:
    """Tells whether instructions and system calls were asked for."""
    return bool(results.settings.get("counts"))


def cells(row: Row, name: str, counts: bool = False) -> list[str]:
    """Returns the texts of one loop's line, under `headings`; with `counts` those of COUNTED too."""
    cell = row.cells[name]
    known = ["-"] * len(COUNTED) if counts else []
    if cell.error or not cell.samples:
        return [name, *["-"] * (len(HEADINGS) - 2), *known, f"failed: {cell.error}"]
    middle = statistics.median(cell.values)
    percentiles = [cell.figure(p) for p in ("p50", "p99", "p99.9")]
    share = cell.figure("client")
    if counts and cell.counts is not None:
        instructions, calls = cell.counts.instructions, cell.counts.syscalls
        known[0] = "-" if instructions is None else f"{instructions:,.0f}"
        known[1] = "-" if calls is None else f"{sum(calls.values()):.3g}"
    return [
        name,
        amount(row, middle),
        "-" if row.unit == "byte" else f"{1 / middle:,.0f}",
        ratio_or_dash(row, name),
        f"{stats.spread(cell.values):.0%}",
        *[duration(None if p is None else p / 1e6) for p in percentiles],
        duration(cell.figure("cpu")),
        ratio_or_dash(row, name, cpu=True),
        "-" if share is None else f"{share:.0%}",
        *known,
        remarks(cell),
    ]


def summary(results: Results) -> list[list[str]]:
    """Returns per loop: faster, tied, slower and failed rows, and the geometric mean of its ratios to BASE."""
    lines = []
    for name in results.loops:
        if name == BASE:
            continue
        ratios = [ratio_to_base(row, name) for row in results.rows]
        known = [ratio for ratio in ratios if ratio is not None]
        ties = sum(ratio.tie for ratio in known)
        faster = sum(ratio.low > 1 for ratio in known)
        mean = statistics.geometric_mean(ratio.middle for ratio in known) if known else None
        failed = sum(name in row.cells and bool(row.cells[name].error) for row in results.rows)
        counts = [str(n) for n in (faster, ties, len(known) - faster - ties, failed)]
        lines.append([name, *counts, "-" if mean is None else f"{mean:.2f}x"])
    return lines


SUMMARY = ("loop", "faster than asyncio", "tie", "slower", "failed", "geometric mean")


def facts(results: Results) -> list[tuple[str, str]]:
    """Returns what was measured where and how, as pairs to be shown above the tables."""
    settings = results.settings
    how = (
        f"{settings['rounds']} interleaved rounds, a fresh process each; micro: {settings['values']} values of at "
        f"least {settings['min_time']} s; servers: {settings['seconds']} s"
    )
    versions = [(name, version) for name, version in results.loops.items()]
    return [*results.machine.items(), ("method", how), *versions]


def missing_lines(results: Results) -> list[str]:
    """Returns a line for each loop that was not measured at all."""
    return [f"{name}: not measured: {reason}" for name, reason in results.absent.items()]


def warning_lines(results: Results) -> list[str]:
    """Returns pyperf's stability warnings, a line for each, and why something was not counted."""
    lines = []
    for row in results.rows:
        for name, cell in row.cells.items():
            lines += [f"{row.name} on {name}: {warning}" for warning in cell.warnings]
            if cell.counts is not None and cell.counts.reason:
                lines.append(f"{row.name} on {name}: {cell.counts.reason}")
    return lines


WARNINGS = "pyperf's warnings (pyperf check), and what could not be counted"


def plain(results: Results) -> str:
    """Returns everything as plain text."""
    parts = ["\n".join(f"{name + ':':16}{value}" for name, value in facts(results))]
    for row in results.rows:
        lines = [cells(row, name, counted(results)) for name in row.cells]
        heads = headings(results)
        parts.append(f"{row.name}: {row.title}\n" + table(heads, lines, left=(0, len(heads) - 1)))
    if lines := summary(results):
        parts.append(table(SUMMARY, lines))
    if lines := warning_lines(results):
        parts.append("\n".join([f"{WARNINGS}:", *lines]))
    return "\n\n".join([*parts, *missing_lines(results)])


def grid(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown, its first column to the left."""
    rule = ["---", *["---:"] * (len(headings) - 1)]
    escaped = [[text.replace("|", "\\|") for text in line] for line in [headings, rule, *lines]]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def brief(results: Results) -> str:
    """Returns the ratios to BASE alone as Markdown, a line for each workload, the largest in bold.

    Of servers it is the ratio of the processor time for each message, which the client cannot be the limit of. "~"
    stands before a tie.
    """
    names = [name for name in results.loops if name != BASE]
    lines = []
    for row in results.rows:
        of_server = row.kind != "micro" and ratio_to_base(row, BASE, cpu=True) is not None
        ratios = [ratio_to_base(row, name, of_server) for name in names]
        best = max((ratio.middle for ratio in ratios if ratio is not None), default=None)
        texts = []
        for name, ratio in zip(names, ratios, strict=True):
            if ratio is None:
                texts.append("failed" if name in row.cells and row.cells[name].error else "-")
                continue
            text = f"{'~ ' if ratio.tie else ''}{ratio.middle:.2f}"
            texts.append(f"**{text}**" if ratio.middle == best else text)
        lines.append([f"`{row.name}`", *texts])
    return grid(("workload", *names), lines) + "\n"


def markdown(results: Results) -> str:
    """Returns everything as Markdown."""
    parts = ["\n".join(f"- {name}: {value}" for name, value in facts(results))]
    if lines := summary(results):
        parts.append(grid(SUMMARY, lines))
    lines = [[f"`{r.name}`", *cells(r, name, counted(results))] for r in results.rows for name in r.cells]
    parts.append(grid(("workload", *headings(results)), lines))
    if lines := missing_lines(results):
        parts.append("\n".join(f"- {line}" for line in lines))
    if lines := warning_lines(results):
        parts.append("\n".join([f"{WARNINGS}:", "", *[f"- {line}" for line in lines]]))
    return "\n\n".join(parts) + "\n"


def verdict(row: Row, name: str) -> str:
    """Returns "faster" or "slower" than BASE, empty for a tie, for BASE itself and where there is no ratio."""
    ratio = ratio_to_base(row, name)
    if ratio is None or name == BASE or ratio.tie:
        return ""
    return "faster" if ratio.low > 1 else "slower"


def show(results: Results) -> None:
    """Prints everything on standard output, with colours where rich is installed and it is a terminal."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(plain(results))
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    for name, value in facts(results):
        console.print(f"[dim]{name + ':':16}[/dim]", end="")
        console.print(value, markup=False)

    def grid(headings: Sequence[str]) -> Table:
        made = Table(*headings, box=None, header_style="dim", pad_edge=False)
        for column in made.columns[1:]:
            if column.header != "remarks":
                column.justify = "right"
                column.no_wrap = True
        return made

    for row in results.rows:
        console.print()
        console.print(f"[bold]{row.name}[/bold]  [dim]{row.title}[/dim]")
        one = grid(headings(results))
        for name in row.cells:
            one.add_row(
                *cells(row, name, counted(results)),
                style={"faster": "green", "slower": "red"}.get(verdict(row, name), ""),
            )
        console.print(one)
    if lines := summary(results):
        console.print()
        total = grid(SUMMARY)
        for line in lines:
            total.add_row(*line)
        console.print(total)
    for line in missing_lines(results):
        console.print(line, markup=False)
    if lines := warning_lines(results):
        console.print(f"\n{WARNINGS}:")
        console.print("\n".join(lines), markup=False, style="dim")


class Lines(Watcher):
    """Tells of a run on standard error, a line per workload."""

    def begin(self, steps: int) -> None:
        self._steps, self._taken = steps, 0

    def step(self, workload: str, loop: str, sample: Sample | None) -> None:
        self._taken += 1

    def done(self, row: Row) -> None:
        texts = []
        for name, cell in row.cells.items():
            known = not cell.error and cell.samples
            texts.append(f"{name} {amount(row, statistics.median(cell.values)) if known else 'failed'}")
        print(f"{self._taken / self._steps:4.0%}  {row.name}: {', '.join(texts)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def watcher() -> Iterator[Watcher]:
    """Yields what tells of a run on standard error: a bar with the time left on a terminal, otherwise lines."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    except ImportError:
        yield Lines()
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines()
        return
    columns = (BarColumn(), TextColumn("{task.percentage:3.0f}%"), TimeElapsedColumn(), TextColumn("left"))
    with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.description}"), console=console) as progress:
        task = progress.add_task("")

        class Bar(Lines):
            def begin(self, steps: int) -> None:
                super().begin(steps)
                progress.update(task, total=steps)

            def step(self, workload: str, loop: str, sample: Sample | None) -> None:
                super().step(workload, loop, sample)
                progress.update(task, advance=1, description=f"{workload} on {loop}")

            def counting(self, workload: str, loop: str) -> None:
                progress.update(task, description=f"counting {workload} on {loop}")

        yield Bar()
