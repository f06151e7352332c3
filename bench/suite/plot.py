"""Pictures of a result, drawn with matplotlib: ratios to asyncio, and latency percentiles of the servers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ..native import Unavailable
from .results import Results, Row
from .run import BASE
from .show import ratio_to_base

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#888888")
"""Told apart by readers with any colour vision (Paul Tol's "bright" scheme)."""
KINDS = (".png", ".svg", ".pdf")


def draw(results: Results, path: Path) -> None:
    """Draws `results` into `path`, whose ending says what kind of file.

    Raises ValueError for another ending or a result with nothing to draw, Unavailable without matplotlib.
    """
    if path.suffix not in KINDS:
        raise ValueError(f"{path}: a picture ends in {', '.join(KINDS)}")
    try:
        import matplotlib
    except ImportError:
        raise Unavailable("matplotlib is not installed; install the extra: pip install 'loopfast[bench]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in results.loops if name != BASE]
    compared = [row for row in results.rows if any(ratio_to_base(row, name) for name in names)]
    served = [row for row in results.rows if any(cell.figure("p99") for cell in row.cells.values())]
    if not compared:
        raise ValueError("the result compares no loop with asyncio: there is nothing to draw")
    # Inches: enough for a line of small type per bar.
    heights = [1.2 + len(compared) * (0.12 + 0.14 * len(names)), 1.2 + len(served) * (0.12 + 0.14 * len(results.loops))]
    figure, axes = pyplot.subplots(
        2 if served else 1,
        1,
        figsize=(11, sum(heights) if served else heights[0]),
        height_ratios=heights if served else None,
        squeeze=False,
        layout="constrained",
    )
    draw_ratios(axes[0][0], compared, names)
    if served:
        draw_latencies(axes[1][0], served, list(results.loops))
    machine = results.machine
    figure.suptitle(
        f"{machine.get('processor', '?')}, {machine.get('kernel', '?')}, {machine.get('python', '?')}, "
        f"{machine.get('date', '?')}",
        fontsize=8,
    )
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def svg(results: Results) -> str | None:
    """Returns the picture as an SVG element, None where it cannot be drawn."""
    with tempfile.TemporaryDirectory(prefix="loopfast-bench-") as folder:
        path = Path(folder, "picture.svg")
        try:
            draw(results, path)
        except (Unavailable, ValueError):
            return None
        text = path.read_text()
    return text[text.index("<svg") :]


def places(rows: list[Row], count: int) -> list[list[float]]:
    """Returns for each of `count` loops the heights of its bars, the rows from top to bottom."""
    width = 0.8 / count
    return [[-index + 0.4 - width * (nth + 0.5) for index in range(len(rows))] for nth in range(count)]


def label_rows(axes: Any, rows: list[Row]) -> None:
    """Names the rows on the vertical axis."""
    axes.set_yticks([-index for index in range(len(rows))], [row.name for row in rows], fontsize=7)
    axes.set_ylim(-len(rows) + 0.5, 0.5)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="x", linewidth=0.3)
    axes.set_axisbelow(True)


def draw_ratios(axes: Any, rows: list[Row], names: list[str]) -> None:
    """Draws how many times faster than asyncio each loop is, with the interval; a tie is drawn pale."""
    for colour, name, heights in zip(COLOURS, names, places(rows, len(names)), strict=False):
        for number, (row, height) in enumerate(zip(rows, heights, strict=True)):
            ratio = ratio_to_base(row, name)
            if ratio is None:
                continue
            error = [[ratio.middle - max(ratio.low, 1e-3)], [min(ratio.high, 1e3) - ratio.middle]]
            axes.barh(
                height,
                ratio.middle - 1,
                left=1,
                height=0.8 / len(names),
                color=colour,
                alpha=0.35 if ratio.tie else 1,
                label=name if number == 0 else None,
                xerr=error,
                error_kw={"elinewidth": 0.7, "ecolor": "#333333"},
            )
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _position: f"{value:g}x")
    reach = [r for row in rows for name in names if (r := ratio_to_base(row, name)) is not None]
    axes.set_xlim(min(0.5, *(r.middle / 1.3 for r in reach)), max(2.0, *(r.middle * 1.3 for r in reach)))
    axes.set_title("Throughput against asyncio's loop (log scale; pale: a tie, the interval holds 1)", fontsize=9)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    label_rows(axes, rows)


def draw_latencies(axes: Any, rows: list[Row], names: list[str]) -> None:
    """Draws median, 99th and 99.9th percentile of the latency as points on a line."""
    for colour, name, heights in zip(("#888888", *COLOURS), names, places(rows, len(names)), strict=False):
        label: str | None = name
        for row, height in zip(rows, heights, strict=True):
            cell = row.cells.get(name)
            points = [] if cell is None else [cell.figure(part) for part in ("p50", "p99", "p99.9")]
            if not points or None in points:
                continue
            axes.plot(points, [height] * 3, color=colour, linewidth=1, marker="|", markersize=4, label=label)
            axes.plot(points[:1], [height], color=colour, marker="o", markersize=3)
            label = None
    axes.set_xscale("log")
    axes.set_xlabel("µs", fontsize=7)
    axes.set_title("Latency of an answer: median (dot), p99 and p99.9 (bars), medians of the rounds", fontsize=9)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    label_rows(axes, rows)
