"""Pictures of a result for a README, drawn with matplotlib: ratios to asyncio, throughput by size, latencies."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..native import Unavailable
from .results import Results, Row
from .run import BASE
from .show import family, ratio_to_base, size_text

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bb5500", "#555555")
"""Told apart by readers with any colour vision (Paul Tol's "bright" scheme); asyncio is grey."""
GREY = "#999999"
KINDS = (".png", ".svg", ".pdf")
BY_SIZE = 10
"""The number of connections at which throughput is compared by the size of the message."""


def colour(results: Results, name: str) -> str:
    """Returns the colour of a loop, the same in all charts of a result."""
    others = [each for each in results.loops if each != BASE]
    return GREY if name == BASE else COLOURS[others.index(name) % len(COLOURS)]


def compared(results: Results) -> list[Row]:
    """Returns the rows with a ratio to asyncio, and those that a loop failed at."""
    names = [name for name in results.loops if name != BASE]
    if not any(ratio_to_base(row, name) for row in results.rows for name in names):
        return []
    return [r for r in results.rows if any(ratio_to_base(r, n) or (n in r.cells and r.cells[n].error) for n in names)]


def served(results: Results) -> list[Row]:
    """Returns the rows with latencies."""
    return [row for row in results.rows if any(cell.figure("p99") for cell in row.cells.values())]


def by_size(results: Results) -> dict[str, list[Row]]:
    """Returns the rows of each echo server that was measured at several sizes, from small to large."""
    families: dict[str, list[Row]] = {}
    for row in results.rows:
        if row.kind == "server" and row.size and row.connections == BY_SIZE and row.name.count(".") == 3:
            families.setdefault(family(row), []).append(row)
    chosen = {name: [r for r in rows if r.name.endswith(f".c{BY_SIZE}")] for name, rows in families.items()}
    return {name: sorted(rows, key=lambda row: row.size or 0) for name, rows in chosen.items() if len(rows) > 1}


def draw(results: Results, path: Path, chart: str = "overview") -> None:
    """Draws one of CHARTS into `path`, whose ending says what kind of file.

    Raises ValueError for another ending or a result with nothing to draw, Unavailable without matplotlib.
    """
    if path.suffix not in KINDS:
        raise ValueError(f"{path}: a picture ends in {', '.join(KINDS)}")
    try:
        import matplotlib
    except ImportError:
        raise Unavailable("matplotlib is not installed: pip install 'loopfast[bench]'") from None
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "loopfast", "font.size": 8, "axes.spines.top": False})
    from matplotlib import pyplot

    figure = CHARTS[chart](pyplot, results)
    machine = results.machine
    figure.supxlabel(
        f"{machine.get('processor', '?')}, {machine.get('processors', '?')}, {machine.get('kernel', '?')}, "
        f"{machine.get('python', '?')}, {machine.get('date', '?')}; "
        + ", ".join(version for name, version in results.loops.items() if name != BASE),
        fontsize=6,
    )
    # No date of the drawing in the file: the same result gives the same picture.
    figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def halves(rows: list[Row], lines: int) -> list[list[Row]]:
    """Returns the rows in one or, where there are more than `lines`, two columns of about the same length."""
    middle = (len(rows) + 1) // 2
    return [rows] if len(rows) <= lines else [rows[:middle], rows[middle:]]


def columns(pyplot: Any, rows: list[Row], loops: int) -> tuple[Any, list[tuple[Any, list[Row]]]]:
    """Returns a figure with one or two columns of axes that have a line for each of `rows`, and the rows of each."""
    parts = halves(rows, 24)
    height = 1.4 + len(parts[0]) * max(0.2, 0.075 * loops)
    figure, axes = pyplot.subplots(1, len(parts), figsize=(7 * len(parts), height), squeeze=False, layout="constrained")
    for one, part in zip(axes[0], parts, strict=True):
        one.set_yticks([-index for index in range(len(part))], [row.name for row in part], fontsize=7)
        one.set_ylim(-len(part) + 0.4, 0.6)
        one.set_xscale("log")
        one.grid(axis="x", linewidth=0.3)
        one.tick_params(axis="x", labelsize=7)
        for index in range(0, len(part), 2):
            one.axhspan(-index - 0.5, -index + 0.5, color="#f4f4f4", zorder=0)
    return figure, list(zip(axes[0], parts, strict=True))


def heights(count: int) -> list[float]:
    """Returns where the marks of `count` loops lie around the middle of a row's line."""
    return [0.0] if count < 2 else [0.3 - 0.6 * nth / (count - 1) for nth in range(count)]


def title(parts: list[tuple[Any, list[Row]]], text: str) -> None:
    """Writes the title above the first of the axes."""
    parts[0][0].set_title(text, fontsize=9, loc="left")


def legend(figure: Any, axes: Any, place: str = "outside upper left") -> None:
    """Names the loops beside all axes, once for all of them."""
    marks, labels = axes.get_legend_handles_labels()
    columns = len(labels) if "upper left" in place else 1
    figure.legend(marks, labels, loc=place, ncols=columns, fontsize=7, frameon=False)


def overview(pyplot: Any, results: Results) -> Any:
    """Draws how many times faster than asyncio each loop is, with its interval; a tie is drawn hollow."""
    rows = compared(results)
    names = [name for name in results.loops if name != BASE]
    if not rows:
        raise ValueError("the result compares no loop with asyncio: there is nothing to draw")
    figure, parts = columns(pyplot, rows, len(names))
    reach = [r for row in rows for name in names if (r := ratio_to_base(row, name)) is not None]
    low, high = min(0.7, *(r.middle / 1.3 for r in reach)), max(1.5, *(r.middle * 1.3 for r in reach))
    for axes, part in parts:
        for name, shift in zip(names, heights(len(names)), strict=True):
            shade = colour(results, name)
            for number, row in enumerate(part):
                draw_ratio(axes, row, name, shift - number, shade, (low, high))
            axes.plot([], [], "o", color=shade, label=name, markersize=4)
        axes.axvline(1, color=GREY, linewidth=1)
        axes.set_xlim(low, high)
        axes.xaxis.set_major_locator(ticks(low, high))
        axes.xaxis.set_major_formatter(lambda value, _position: f"{value:g}x")
        axes.xaxis.set_minor_formatter(lambda _value, _position: "")
    title(parts, "Times as fast as asyncio (memory: as small); line: 95 % interval, hollow: a tie")
    legend(figure, parts[0][0])
    return figure


def draw_ratio(axes: Any, row: Row, name: str, place: float, shade: str, ends: tuple[float, float]) -> None:
    """Draws the ratio of one loop in one row, at the height `place`."""
    ratio = ratio_to_base(row, name)
    if ratio is not None:
        axes.plot([max(ratio.low, ends[0]), min(ratio.high, ends[1])], [place, place], color=shade, linewidth=0.8)
        face = "white" if ratio.tie else shade
        axes.plot(ratio.middle, place, "o", markersize=3.5, color=shade, markerfacecolor=face)
    elif name in row.cells and row.cells[name].error:
        axes.text(1.02, place, f"{name} failed", fontsize=5, color=shade, va="center")


def ticks(low: float, high: float) -> Any:
    """Returns where a logarithmic axis of ratios is labelled."""
    from matplotlib.ticker import FixedLocator

    steps = (0.125, 0.25, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 16, 32, 64)
    return FixedLocator([step for step in steps if low <= step <= high])


def throughput(pyplot: Any, results: Results) -> Any:
    """Draws the rate of each echo server by the size of its messages, beside the fastest loop's."""
    families = by_size(results)
    if not families:
        raise ValueError("the result has no server with several sizes of messages")
    wide = min(3, len(families))
    deep = -(-len(families) // wide)
    size = max(7, 4 * wide), 2.6 * deep + 0.9
    figure, grid = pyplot.subplots(deep, wide, figsize=size, squeeze=False, layout="constrained")
    places = [axes for line in grid for axes in line]
    width = 0.8 / len(results.loops)
    for axes, (name, rows) in zip(places, families.items(), strict=False):
        for nth, loop in enumerate(results.loops):
            pairs = [(i, row.cells[loop]) for i, row in enumerate(rows) if loop in row.cells]
            known = [(i, cell) for i, cell in pairs if cell.samples and not cell.error]
            axes.bar(
                [i - 0.4 + width * (nth + 0.5) for i, _ in known],
                [1 / statistics.median(cell.values) / best(rows[i]) for i, cell in known],
                width,
                color=colour(results, loop),
                label=loop,
            )
        axes.set_xticks(range(len(rows)), [f"{size_text(row.size)}\n{best(row):,.0f}/s" for row in rows], fontsize=6.5)
        axes.set_title(name, fontsize=8)
        axes.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"], fontsize=6.5)
    for axes in places[len(families) :]:
        axes.set_axis_off()
    text = f"Echoes per second by size of the message, {BY_SIZE} connections; 100 % is the fastest loop, its rate below"
    figure.suptitle(text, fontsize=9)
    legend(figure, places[0], "outside right upper")
    return figure


def best(row: Row) -> float:
    """Returns the operations per second of the fastest loop of a row, 0 where all failed."""
    known = [cell for cell in row.cells.values() if cell.samples and not cell.error]
    return max((1 / statistics.median(cell.values) for cell in known), default=0.0)


def latency(pyplot: Any, results: Results) -> Any:
    """Draws median, 99th and 99.9th percentile of the latency as marks on a line."""
    rows = served(results)
    if not rows:
        raise ValueError("the result has no server: there are no latencies to draw")
    figure, parts = columns(pyplot, rows, len(results.loops))
    for axes, part in parts:
        for name, shift in zip(results.loops, heights(len(results.loops)), strict=True):
            shade = colour(results, name)
            for number, row in enumerate(part):
                points = percentiles(row, name)
                if points:
                    place = shift - number
                    axes.plot(points, [place] * 3, color=shade, linewidth=1, marker="|", markersize=4)
                    axes.plot(points[:1], [place], color=shade, marker="o", markersize=3)
            axes.plot([], [], "o-", color=shade, label=name, markersize=4)
        axes.xaxis.set_major_formatter(lambda value, _position: f"{value:,.0f} µs")
    title(parts, "Latency of an answer at full load: median (dot), p99 and p99.9 (bars)")
    legend(figure, parts[0][0])
    return figure


def percentiles(row: Row, name: str) -> Sequence[float]:
    """Returns p50, p99 and p99.9 in microseconds, nothing where they are not known."""
    cell = row.cells.get(name)
    found = [] if cell is None else [cell.figure(part) for part in ("p50", "p99", "p99.9")]
    return [value for value in found if value is not None] if None not in found else []


CHARTS: dict[str, Callable[[Any, Results], Any]] = {
    "overview": overview,
    "throughput": throughput,
    "latency": latency,
}
"""The charts by name: ratios to asyncio, echoes by size, percentiles."""
