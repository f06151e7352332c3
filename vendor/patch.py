"""Applies our own patches to a copy of libuv's verified source: unified diffs in vendor/patches/RELEASE, strictly,
without a tool.

Every hunk must match its stated lines exactly, at the stated place: the source is pinned by digest, so a patch that
needs guessing is a wrong patch. The text above the first `---` line is the patch's reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vendor.fetch import SupplyError

FOLDER = Path(__file__).resolve().parent / "patches"
HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


@dataclass
class Hunk:
    """One place of a change: `old` lines, starting with line number `start`, become `new`."""

    start: int
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)


def patch_files(version: str, folder: Path = FOLDER) -> list[Path]:
    """The patches for the release `version` in the order they are applied, which is that of their names."""
    return sorted((folder / version).glob("*.patch"))


def parse(text: str, name: str) -> dict[str, list[Hunk]]:
    """path -> hunks of the unified diff `text`; SupplyError naming the patch `name` when it is not one, or has no
    reason."""
    changes: dict[str, list[Hunk]] = {}
    lines = iter(text.splitlines())
    reason = []
    hunks: list[Hunk] | None = None
    for line in lines:
        if line.startswith("--- "):
            target = next(lines, "")
            if not target.startswith("+++ b/"):
                raise SupplyError(f"{name}: expected '+++ b/PATH' after {line!r}, got {target!r}")
            hunks = changes.setdefault(target.removeprefix("+++ b/").split("\t")[0], [])
        elif head := HUNK.match(line):
            if hunks is None:
                raise SupplyError(f"{name}: a hunk before any file: {line!r}")
            hunks.append(read_hunk(head, lines, name))
        elif hunks is None:
            reason.append(line)
    if not changes or not all(changes.values()):
        raise SupplyError(f"{name}: no change in it")
    if not "".join(reason).strip():
        raise SupplyError(f"{name}: it does not say why it exists (text above the first '---')")
    return changes


def read_hunk(head: re.Match[str], lines: Iterator[str], name: str) -> Hunk:
    """The hunk that follows its `head`, taken from the iterator `lines`."""
    hunk = Hunk(int(head[1]))
    old_count, new_count = int(head[2] or 1), int(head[4] or 1)
    while len(hunk.old) < old_count or len(hunk.new) < new_count:
        line = next(lines, None)
        if line is None or line[:1] not in ("", " ", "-", "+"):
            raise SupplyError(f"{name}: the hunk {head[0]!r} ends early")
        mark, content = line[:1] or " ", line[1:]
        if mark in " -":
            hunk.old.append(content)
        if mark in " +":
            hunk.new.append(content)
    return hunk


def apply(patches: Mapping[str, str], root: Path) -> None:
    """Change the files below `root` by `patches` (name -> text); SupplyError where one does not fit exactly."""
    for name, text in patches.items():
        for path, hunks in parse(text, name).items():
            target = root / path
            if ".." in Path(path).parts or not target.is_file():
                raise SupplyError(f"{name}: libuv has no file {path!r}")
            lines = target.read_text(encoding="utf-8").splitlines()
            for hunk in reversed(hunks):
                first = hunk.start - 1 if hunk.old else hunk.start
                found = lines[first : first + len(hunk.old)]
                if found != hunk.old:
                    raise SupplyError(
                        f"{name}: {path}:{hunk.start} is not what the patch expects: "
                        f"{(found or ['(end of file)'])[0]!r} instead of {hunk.old[0]!r}"
                    )
                lines[first : first + len(hunk.old)] = hunk.new
            target.write_text("\n".join(lines) + "\n", encoding="utf-8")
