"""The fenced blocks of a Markdown page and what the comments before them say; docs/README.md lists the comments."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

FENCE = re.compile(r"^(?P<marks>```+|~~~+) *(?P<info>.*)$")
COMMENT = re.compile(r"<!-- *example: *(?P<text>.*?) *-->", re.DOTALL)
CLAUSES = ("file", "server", "output", "not run", "needs", "quoted from", "until", "meanwhile", "inside", "setup")


@dataclass
class Block:
    """One fenced block."""

    page: Path
    line: int
    language: str
    text: str
    #: The clauses of its comment: name -> what stands behind it.
    how: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def clauses(text: str, where: str) -> dict[str, str]:
    """Parse the text of a comment: clauses between semicolons; ``setup`` and ``not run`` take all that follows."""
    found: dict[str, str] = {}
    while text:
        name = next((name for name in CLAUSES if re.match(rf"{name}\b", text)), None)
        assert name is not None, f"{where}: no clause is called {text!r}; there are {', '.join(CLAUSES)}"
        value, _, rest = (text, "", "") if name in ("setup", "not run") else text.partition(";")
        found[name] = value[len(name) :].strip(" :\n")
        text = rest.strip()
    return found


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of *page*, in order.

    Raises:
        AssertionError: a fence has no end, or a comment cannot be understood or stands before no block.
    """
    found: list[Block] = []
    how: dict[str, str] = {}
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        where = f"{page.name}:{number}"
        if fence := FENCE.match(line):
            start = number
            end = next((n for n in range(start, len(lines)) if lines[n].rstrip() == fence["marks"]), None)
            assert end is not None, f"{where}: this fence has no end"
            found.append(Block(page, start, fence["info"].strip(), "\n".join([*lines[start:end], ""]), how))
            number, how = end + 1, {}
        elif line.startswith("<!--"):
            while "-->" not in line:
                line += "\n" + lines[number]
                number += 1
            if comment := COMMENT.match(line):
                how = clauses(comment["text"], where)
        elif line.strip():
            assert not how, f"{where}: the comment before is for a block, and this is none"
    assert not how, f"{page.name}: the last comment stands before no block"
    return found
