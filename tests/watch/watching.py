"""What the tests of watch() share: a picture of a tree that its changes keep true, and waiting for what is expected."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from support import SLOWNESS

from loopfast import Change, ChangeKind, Watch

#: Seconds that a change may take on a busy machine.
PATIENCE = 10 * SLOWNESS


def names_below(root: Path) -> set[str]:
    """The paths of all that is in *root*."""
    return {os.path.join(folder, name) for folder, folders, files in os.walk(root) for name in [*folders, *files]}


class Mirror:
    """The names in a tree, and how often each was modified, known from the changes alone."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names = names_below(root)
        self.changes: list[Change] = []

    def apply(self, changes: list[Change]) -> None:
        assert changes, "a list without changes"
        self.changes += changes
        by_kind: dict[ChangeKind, list[Change]] = {kind: [] for kind in ChangeKind}
        for change in changes:
            assert str(change.path).startswith(str(self.root)), change
            by_kind[change.kind].append(change)
        deleted = {str(change.path) for change in by_kind[ChangeKind.DELETED]}
        renamed = {str(change.old_path): str(change.path) for change in by_kind[ChangeKind.RENAMED]}
        assert deleted | renamed.keys() <= self.names | {str(self.root)}, "what is gone was known"
        names = [moved(name, renamed) for name in self.names - deleted]
        names += [str(change.path) for change in by_kind[ChangeKind.CREATED]]
        self.names = set(names)
        assert len(names) == len(self.names), "two things have one name"
        for name in self.names:
            assert os.path.dirname(name) in self.names | {str(self.root)}, f"{name} is in nothing"
        for change in by_kind[ChangeKind.MODIFIED]:
            assert str(change.path) in self.names | {str(self.root)}, f"{change.path} is not there"

    async def follow(self, watch: Watch, until: Callable[[], bool]) -> list[Change]:
        """Apply what *watch* says until the condition holds; return the changes."""
        before = len(self.changes)
        async with asyncio.timeout(PATIENCE):
            while not until():
                self.apply(await anext(watch))
        return self.changes[before:]

    async def catch_up(self, watch: Watch) -> list[Change]:
        """Apply what *watch* says until this is what is on the disk."""
        return await self.follow(watch, lambda: self.names == names_below(self.root))


def moved(name: str, renamed: dict[str, str]) -> str:
    """The new name of what was *name*, which itself or a directory above was renamed, or none."""
    above = name
    while above not in renamed:
        if above == os.path.dirname(above):
            return name
        above = os.path.dirname(above)
    return renamed[above] + name[len(above) :]


async def changes_of(watch: Watch) -> list[tuple[str, str]]:
    """The next changes, as pairs of kind and file name; of a renaming both names."""
    async with asyncio.timeout(PATIENCE):
        changes = await anext(watch)
    return sorted(
        (change.kind.value, " -> ".join(path.name for path in (change.old_path, change.path) if path))
        for change in changes
    )
