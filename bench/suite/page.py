"""The report as one HTML page that needs nothing else: charts of plain elements, for a phone and the dark too."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from html import escape

from . import stats
from .plot import BY_SIZE, best, by_size, colour, compared, percentiles, served
from .results import Results, Row
from .run import BASE
from .show import (
    SUMMARY,
    WARNINGS,
    cells,
    counted,
    duration,
    facts,
    headings,
    missing_lines,
    ratio_text,
    ratio_to_base,
    size_text,
    summary,
    verdict,
    warning_lines,
)

HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Event loops side by side</title>
<style>
:root { --ink: #1c1e21; --pale: #667; --line: #dde; --paper: #fff; --band: #f5f6f8; --good: #156a1c; --bad: #b3211b; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6ea; --pale: #99a; --line: #3a3d44; --paper: #17191d; --band: #202329; --good: #6fd07a;
    --bad: #ff8a80; }
}
* { box-sizing: border-box; }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 76rem; padding: 1rem; }
h1 { font-size: 1.6rem; margin: .5rem 0 0; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { margin: .2rem 0 .6rem; max-width: 50rem; }
.pale { color: var(--pale); }
nav a { margin-right: 1rem; display: inline-block; }
a { color: inherit; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .87rem; }
th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
.facts td { white-space: normal; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
.facts td:first-child { color: var(--pale); white-space: nowrap; }
tr.faster td:nth-child(4) { color: var(--good); font-weight: 600; }
tr.slower td:nth-child(4) { color: var(--bad); font-weight: 600; }
summary { cursor: pointer; padding: .25rem 0; }
summary code { font-weight: 600; }
.legend { position: sticky; top: 0; background: var(--paper); padding: .4rem 0; z-index: 2; }
.legend span { margin-right: 1.1rem; white-space: nowrap; }
.legend i { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin-right: .35rem;
  vertical-align: -1px; }
.row { display: grid; grid-template-columns: 15.5rem 1fr; padding: .2rem 0; }
.row:nth-child(even) { background: var(--band); }
.row > b { font: 600 .82rem ui-monospace, monospace; padding-left: .3rem; overflow-wrap: anywhere; }
.row.axis { background: none; }
.axis { font-size: .75rem; color: var(--pale); }
.bars { display: block; }
.bar { display: grid; grid-template-columns: 1fr 9.5rem; height: 1.05rem; align-items: center; }
.bar > small { font-size: .75rem; font-variant-numeric: tabular-nums; text-align: left; padding-left: .5rem;
  white-space: nowrap; overflow: hidden; }
.track { position: relative; height: .7rem; }
.track > * { position: absolute; top: 0; bottom: 0; }
.one { border-left: 1.5px solid var(--pale); top: -.2rem; bottom: -.2rem; }
h2 { scroll-margin-top: .5rem; }
.tick { white-space: nowrap; transform: translateX(-50%); }
.fill { border-radius: 1px; }
.tie { opacity: .35; }
.reach { top: 45%; bottom: 45%; background: var(--ink); opacity: .75; }
.mark { width: 2px; margin-left: -1px; }
.dot { width: .6rem; margin-left: -.3rem; border-radius: 50%; top: .05rem; bottom: .05rem; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 1rem 2rem; }
.panel .row { grid-template-columns: 4.2rem 1fr; }
@media (max-width: 42rem) {
  .row { grid-template-columns: 1fr; }
  .panel .row { grid-template-columns: 4.2rem 1fr; }
  .bar { grid-template-columns: 1fr 7.5rem; }
  body { padding: .7rem; }
}
</style>
"""


class Scale:
    """A logarithmic axis: where a value lies, in percent of the width."""

    def __init__(self, values: Iterable[float], least: tuple[float, float]) -> None:
        known = list(values)
        self.low = min([least[0], *(value / 1.1 for value in known)])
        self.high = max([least[1], *(value * 1.1 for value in known)])

    def __call__(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return 100 * math.log(inside / self.low) / math.log(self.high / self.low)

    def ticks(self, steps: Sequence[float]) -> list[float]:
        """Returns those of `steps` that lie on the axis, thinned out so that their labels do not touch."""
        chosen: list[float] = []
        for step in steps:
            if self.low <= step <= self.high and (not chosen or self(step) - self(chosen[-1]) > 9):
                chosen.append(step)
        return chosen


def span(kind: str, left: float, right: float | None = None, shade: str = "", text: str = "", tip: str = "") -> str:
    """Returns an element of a track from `left` to `right` percent."""
    style = f"left:{left:.2f}%" + (f";width:{max(right - left, 0.2):.2f}%" if right is not None else "")
    style += f";background:{shade}" if shade else ""
    title = f' title="{escape(tip)}"' if tip else ""
    return f'<span class="{kind}" style="{style}"{title}>{escape(text)}</span>'


def bar(inside: str, label: str) -> str:
    """Returns a line of a chart: the track and the text beside it."""
    return f'<div class="bar"><div class="track">{inside}</div><small>{escape(label)}</small></div>'


def line(name: str, bars: Iterable[str], title: str = "") -> str:
    """Returns a row of a chart, named on the left."""
    return (
        f'<div class="row"><b title="{escape(title)}">{escape(name)}</b><div class="bars">{"".join(bars)}</div></div>'
    )


def axis(scale: Scale, ticks: Sequence[float], tell: object) -> str:
    """Returns the labels of an axis, `tell` making the text of each."""
    inside = "".join(span("tick", scale(tick), text=tell(tick)) for tick in ticks)
    return f'<div class="row axis"><b></b><div class="bars">{bar(inside, "")}</div></div>'


def grid(heads: Sequence[str], lines: Sequence[Sequence[str]], styles: Sequence[str] = (), kind: str = "") -> str:
    """Returns a table."""

    def one(tag: str, texts: Sequence[str], style: str) -> str:
        mark = f' class="{style}"' if style else ""
        return f"<tr{mark}>{''.join(f'<{tag}>{escape(text)}</{tag}>' for text in texts)}</tr>"

    styled = [*styles, *[""] * (len(lines) - len(styles))]
    body = [one("td", texts, style) for texts, style in zip(lines, styled, strict=True)]
    top = [one("th", heads, "")] if any(heads) else []
    return "\n".join([f'<div class="scroll"><table class="{kind}">', *top, *body, "</table></div>"])


def legend(results: Results, names: Iterable[str]) -> str:
    """Returns which colour is whose."""
    marks = [f'<span><i style="background:{colour(results, name)}"></i>{escape(name)}</span>' for name in names]
    return f'<div class="legend">{"".join(marks)}</div>'


def groups(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Returns the rows by group, in the order of the result."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.group, []).append(row)
    return found


def short(ratio: stats.Ratio) -> str:
    """Returns a ratio in few words."""
    return f"{ratio.middle:.2f}x" + (" tie" if ratio.tie and not math.isinf(ratio.high) else "")


def overview(results: Results) -> list[str]:
    """Returns the chart of the ratios to asyncio, or nothing."""
    rows = compared(results)
    names = [name for name in results.loops if name != BASE]
    if not rows:
        return []
    ratios = [ratio for row in rows for name in names if (ratio := ratio_to_base(row, name)) is not None]
    scale = Scale((ratio.middle for ratio in ratios), (0.6, 2))
    parts = [
        '<h2 id="overview">How many times as fast as asyncio</h2>',
        "<p>Throughput against asyncio's loop, for memory how many times less; right of the line is better. The "
        "thin line is the 95 % interval; a pale bar is a tie: its interval holds 1.</p>",
        legend(results, names),
    ]
    ticks = scale.ticks((0.0625, 0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128))
    for group, members in groups(rows).items():
        parts.append(f'<h3>{escape(group)}</h3><div class="chart">')
        for row in members:
            bars = []
            for name in names:
                ratio = ratio_to_base(row, name)
                if ratio is None:
                    cell = row.cells.get(name)
                    bars.append(bar(span("one", scale(1)), "failed" if cell is not None and cell.error else ""))
                    continue
                ends = sorted((scale(1), scale(ratio.middle)))
                kind = "fill tie" if ratio.tie else "fill"
                inside = span(kind, *ends, colour(results, name), tip=f"{name}: {ratio_text(ratio)}")
                if not math.isinf(ratio.high):
                    inside += span("reach", scale(ratio.low), scale(ratio.high))
                bars.append(bar(inside + span("one", scale(1)), short(ratio)))
            parts.append(line(row.name, bars, row.title))
        parts += [axis(scale, ticks, lambda value: f"{value:g}x"), "</div>"]
    return parts


def throughput(results: Results) -> list[str]:
    """Returns the charts of throughput by size of the message, or nothing."""
    families = by_size(results)
    if not families:
        return []
    parts = [
        '<h2 id="throughput">Throughput by size of the message</h2>',
        f"<p>Messages echoed per second over {BY_SIZE} connections. The longest bar of a size is the fastest loop.</p>",
        legend(results, results.loops),
        '<div class="panels">',
    ]
    for name, rows in families.items():
        parts.append(f'<div class="panel"><h3>{escape(name)}</h3>')
        for row in rows:
            bars = []
            for loop in results.loops:
                cell = row.cells.get(loop)
                if cell is None or cell.error or not cell.samples:
                    bars.append(bar("", "failed" if cell is not None else ""))
                    continue
                rate = 1 / statistics.median(cell.values)
                flow = cell.figure("bytes_per_second")
                label = f"{rate:,.0f}/s" + (f", {size_text(flow)}/s" if flow is not None and flow >= 2**20 else "")
                bars.append(bar(span("fill", 0, 100 * rate / best(row), colour(results, loop), tip=loop), label))
            parts.append(line(size_text(row.size), bars, row.title))
        parts.append("</div>")
    return [*parts, "</div>"]


def latency(results: Results) -> list[str]:
    """Returns the chart of latency percentiles, or nothing."""
    rows = served(results)
    if not rows:
        return []
    scale = Scale((point for row in rows for name in row.cells for point in percentiles(row, name)), (50, 500))
    parts = [
        '<h2 id="latency">Latency of an answer</h2>',
        "<p>Median (dot), 99th and 99.9th percentile (strokes) at full load, each the median of the rounds. The "
        "clients send the next message when the answer has come, so with many connections most is waiting in line. On "
        "the right: median and 99.9th percentile.</p>",
        legend(results, results.loops),
    ]
    ticks = scale.ticks((1, 10, 100, 1e3, 1e4, 1e5, 1e6))
    for group, members in groups(rows).items():
        parts.append(f'<h3>{escape(group)}</h3><div class="chart">')
        for row in members:
            bars = []
            for name in row.cells:
                points = percentiles(row, name)
                if not points:
                    bars.append(bar("", "failed" if row.cells[name].error else ""))
                    continue
                shade = colour(results, name)
                texts = [duration(point / 1e6) for point in points]
                inside = span("reach", scale(points[0]), scale(points[2]), shade)
                inside += "".join(span("mark", scale(point), shade=shade) for point in points[1:])
                tip = f"{name}: p50 {texts[0]}, p99 {texts[1]}, p99.9 {texts[2]}"
                inside += span("dot", scale(points[0]), shade=shade, tip=tip)
                bars.append(bar(inside, f"{texts[0]} · {texts[2]}"))
            parts.append(line(row.name, bars, row.title))
        parts += [
            axis(scale, ticks, lambda value: duration(value / 1e6).replace(".00", "").replace(".0", "")),
            "</div>",
        ]
    return parts


def figures(results: Results) -> list[str]:
    """Returns the tables of all figures, one to be opened for each workload."""
    parts = ['<h2 id="figures">All figures</h2>']
    parts.append(
        "<p>Medians of the rounds; spread is (largest - smallest) / median; CPU/op is the server's processor time, "
        "client the share of its own processor for which the load generator was busy. "
        "Open a workload for its table.</p>"
    )
    for group, members in groups(results.rows).items():
        parts.append(f"<h3>{escape(group)}</h3>")
        for row in members:
            lines = [cells(row, name, counted(results)) for name in row.cells]
            styles = [verdict(row, name) for name in row.cells]
            ratios = [(name, ratio_to_base(row, name)) for name in row.cells if name != BASE]
            told = ", ".join(f"{name} {short(ratio) if ratio else 'failed'}" for name, ratio in ratios)
            parts.append(
                f"<details><summary><code>{escape(row.name)}</code> {escape(row.title)} "
                f'<span class="pale">{escape(told)}</span></summary>'
            )
            parts += [grid(headings(results), lines, styles), "</details>"]
    return parts


def html(results: Results) -> str:
    """Returns everything as one page that needs nothing else."""
    known = [results.machine[key] for key in ("date", "processor", "python") if key in results.machine]
    parts = [
        HEAD,
        "<h1>Event loops side by side</h1>",
        f'<p class="pale">{escape(", ".join(known))}</p>',
        '<nav><a href="#overview">Ratios</a><a href="#throughput">Throughput</a><a href="#latency">Latency</a>'
        '<a href="#figures">Figures</a><a href="#method">Machine and method</a></nav>',
    ]
    if lines := summary(results):
        parts.append(grid(SUMMARY, lines))
    parts += [f"<p>{escape(text)}</p>" for text in missing_lines(results)]
    for made in (overview(results), throughput(results), latency(results), figures(results)):
        # Each a section of its own: its legend stays in sight as far as the section goes.
        parts += ["<section>", *made, "</section>"] if made else []
    parts.append('<h2 id="method">Machine and method</h2>')
    parts.append(
        "<p>The loops take turns, each time in a fresh process. A ratio is the geometric mean over the rounds of "
        "asyncio's time divided by the loop's, with the 95 % interval of Student's distribution; when that holds 1 it "
        "is a tie.</p>"
    )
    parts.append(grid(("", ""), facts(results), kind="facts"))
    if lines := warning_lines(results):
        shown = "".join(f"<li>{escape(text)}</li>" for text in lines)
        parts.append(f"<details><summary>{escape(WARNINGS)} ({len(lines)})</summary><ul>{shown}</ul></details>")
    return "\n".join(parts) + "\n</html>\n"
