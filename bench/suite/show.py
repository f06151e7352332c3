"""Results as tables: for the terminal with rich where it is installed, as plain text and as Markdown."""

from __future__ import annotations

import contextlib
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from html import escape

from . import stats
from .results import Cell, Results, Row, Sample
from .run import BASE, Watcher
from ..text import table

HEADINGS = ("loop", "time/op", "op/s", "to asyncio", "spread", "p50", "p99", "p99.9", "CPU/op", "CPU ratio", "remarks")
PAGE = """<!doctype html>
<meta charset="utf-8">
<title>Event loops side by side</title>
<style>
body { font: 14px/1.4 sans-serif; margin: 2em auto; max-width: 80em; padding: 0 1em; }
h2 { font-size: 1em; margin: 2em 0 0; }
p { margin: 0 0 .4em; }
table { border-collapse: collapse; margin-bottom: 1em; font-variant-numeric: tabular-nums; }
th, td { padding: .1em .8em; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
.faster { color: #161; }
.slower { color: #a11; }
svg { max-width: 100%; height: auto; }
</style>"""
UNITS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))
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
    share = cell.figure("client")
    if share is not None and share > BOUND:
        words.append(f"generator {share:.0%} busy")
    return ", ".join(words)


def cells(row: Row, name: str) -> list[str]:
    """Returns the texts of one loop's line, under HEADINGS."""
    cell = row.cells[name]
    if cell.error or not cell.samples:
        return [name, *["-"] * 9, f"failed: {cell.error}"]
    middle = statistics.median(cell.values)
    percentiles = [cell.figure(p) for p in ("p50", "p99", "p99.9")]
    return [
        name,
        duration(middle),
        f"{1 / middle:,.0f}",
        ratio_or_dash(row, name),
        f"{stats.spread(cell.values):.0%}",
        *[duration(None if p is None else p / 1e6) for p in percentiles],
        duration(cell.figure("cpu")),
        ratio_or_dash(row, name, cpu=True),
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
        failed = sum(bool(row.cells[name].error) for row in results.rows)
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


def plain(results: Results) -> str:
    """Returns everything as plain text."""
    parts = ["\n".join(f"{name + ':':16}{value}" for name, value in facts(results))]
    for row in results.rows:
        parts.append(f"{row.name}: {row.title}\n" + table(HEADINGS, [cells(row, n) for n in row.cells], left=(0, 10)))
    if lines := summary(results):
        parts.append(table(SUMMARY, lines))
    return "\n\n".join([*parts, *missing_lines(results)])


def markdown(results: Results) -> str:
    """Returns everything as Markdown."""

    def grid(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
        rule = ["---", *["---:"] * (len(headings) - 1)]
        escaped = [[text.replace("|", "\\|") for text in line] for line in [headings, rule, *lines]]
        return "\n".join(f"| {' | '.join(line)} |" for line in escaped)

    parts = ["\n".join(f"- {name}: {value}" for name, value in facts(results))]
    if lines := summary(results):
        parts.append(grid(SUMMARY, lines))
    lines = [[f"`{row.name}`", *cells(row, name)] for row in results.rows for name in row.cells]
    parts.append(grid(("workload", *HEADINGS), lines))
    return "\n\n".join([*parts, *[f"- {line}" for line in missing_lines(results)]]) + "\n"


def html(results: Results, picture: str | None) -> str:
    """Returns everything as one page that needs nothing else; `picture` is an SVG element, if there is one."""

    def grid(headings: Sequence[str], lines: Sequence[Sequence[str]], styles: Sequence[str]) -> str:
        def line(kind: str, texts: Sequence[str], style: str = "") -> str:
            mark = f' class="{style}"' if style else ""
            return f"<tr{mark}>{''.join(f'<{kind}>{escape(text)}</{kind}>' for text in texts)}</tr>"

        body = [line("td", texts, style) for texts, style in zip(lines, styles, strict=True)]
        return "\n".join(["<table>", line("th", headings), *body, "</table>"])

    parts = [PAGE, "<h1>Event loops side by side</h1>"]
    parts.append(grid(("", ""), facts(results), [""] * len(facts(results))))
    lines = summary(results)
    parts.append(grid(SUMMARY, lines, [""] * len(lines)))
    parts += [f"<p>{escape(line)}</p>" for line in missing_lines(results)]
    if picture is not None:
        parts.append(picture)
    for row in results.rows:
        parts.append(f"<h2>{escape(row.name)}</h2><p>{escape(row.title)}</p>")
        parts.append(grid(HEADINGS, [cells(row, n) for n in row.cells], [verdict(row, n) for n in row.cells]))
    return "\n".join(parts) + "\n"


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
        one = grid(HEADINGS)
        for name in row.cells:
            one.add_row(*cells(row, name), style={"faster": "green", "slower": "red"}.get(verdict(row, name), ""))
        console.print(one)
    if lines := summary(results):
        console.print()
        total = grid(SUMMARY)
        for line in lines:
            total.add_row(*line)
        console.print(total)
    for line in missing_lines(results):
        console.print(line, markup=False)


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
            texts.append(f"{name} {duration(statistics.median(cell.values)) if known else 'failed'}")
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

        yield Bar()
