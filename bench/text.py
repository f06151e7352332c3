"""Plain-text tables, aligned for a fixed-width terminal and good to paste into a report."""

from __future__ import annotations

from collections.abc import Sequence


def table(headings: Sequence[str], rows: Sequence[Sequence[str] | None], left: Sequence[int] = (0,)) -> str:
    """Returns `rows` under `headings`; the columns numbered in `left` are aligned left, None draws a line between."""
    widths = [max(len(row[i]) for row in [headings, *filter(None, rows)]) for i in range(len(headings))]
    rule = "  ".join("-" * width for width in widths)

    def line(cells: Sequence[str]) -> str:
        pairs = enumerate(zip(cells, widths, strict=True))
        return "  ".join(f"{text:{'<' if i in left else '>'}{width}}" for i, (text, width) in pairs).rstrip()

    return "\n".join([line(headings), rule, *(rule if row is None else line(row) for row in rows)])
