"""pyperf's own judgement of the values: its stability warnings, kept with the result."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from .results import Results


def judge(results: Results) -> None:
    """Sets the warnings of every cell to what ``pyperf check`` says about its values."""
    with tempfile.TemporaryDirectory(prefix="loopfast-bench-") as folder:
        written = dict(zip(exported(results), results.export(Path(folder)), strict=True))
        for loop, file in written.items():
            said = subprocess.run(
                [sys.executable, "-m", "pyperf", "check", str(file)], capture_output=True, text=True, check=False
            ).stdout
            names = [row.name for row in results.rows if loop in row.cells and row.cells[loop].samples]
            found = warnings(said, names)
            for row in results.rows:
                if loop in row.cells:
                    row.cells[loop].warnings = found.get(row.name, [])


def exported(results: Results) -> list[str]:
    """Returns the loops for which there is anything to write."""
    return [loop for loop in results.loops if any(loop in r.cells and r.cells[loop].samples for r in results.rows)]


def warnings(said: str, names: list[str]) -> dict[str, list[str]]:
    """Returns the warnings in what ``pyperf check`` said, by the benchmark; without headings there is only one."""
    found: dict[str, list[str]] = {}
    current = names[0] if len(names) == 1 else ""
    lines = said.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if re.fullmatch(r"=+|-+", following) and line in names:
            current = line
        elif line.startswith("* "):
            found.setdefault(current, []).append(line.removeprefix("* "))
    return found
