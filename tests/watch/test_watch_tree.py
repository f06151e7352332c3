"""watch() of a directory: which changes are reported, of what names, recursively, and that none is missed."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from pathlib import Path

import pytest
from watching import PATIENCE, Mirror, changes_of, names_below

import loopfast
from loopfast import Change, ChangeKind

pytestmark = pytest.mark.loopfast_only("asyncio watches no files")


async def test_the_kinds_of_changes(loop, tmp_path):
    file = tmp_path / "file"
    async with loopfast.watch(tmp_path) as watch:
        file.write_text("one")
        assert await anext(watch) == [Change(ChangeKind.CREATED, file)]
        file.write_text("two")
        assert await anext(watch) == [Change(ChangeKind.MODIFIED, file)]
        file.rename(tmp_path / "other")
        assert await anext(watch) == [Change(ChangeKind.RENAMED, tmp_path / "other", file)]
        (tmp_path / "other").unlink()
        assert await anext(watch) == [Change(ChangeKind.DELETED, tmp_path / "other")]
        (tmp_path / "folder").mkdir()
        assert await anext(watch) == [Change(ChangeKind.CREATED, tmp_path / "folder")]
        (tmp_path / "folder").rmdir()
        assert await anext(watch) == [Change(ChangeKind.DELETED, tmp_path / "folder")]


async def test_every_write_is_seen_even_one_that_leaves_the_same_size(loop, tmp_path):
    """Also where the file system's clock has not moved on since the last look."""
    file = tmp_path / "file"
    file.write_text("0")
    async with loopfast.watch(tmp_path, debounce=0) as watch:
        for number in range(50):
            with open(file, "r+") as opened:
                opened.write(str(number % 10))
            assert await changes_of(watch) == [("modified", "file")]


async def test_permissions_and_times_are_modifications(loop, tmp_path):
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.touch()
    folder.mkdir()
    async with loopfast.watch(tmp_path) as watch:
        file.chmod(0o600)
        assert await changes_of(watch) == [("modified", "file")]
        os.utime(file, (1, 1))
        assert await changes_of(watch) == [("modified", "file")]
        folder.chmod(0o700)
        assert await changes_of(watch) == [("modified", "folder")]
        tmp_path.chmod(0o755)
        assert await changes_of(watch) == [("modified", tmp_path.name)]


async def test_a_change_in_a_directory_is_none_of_the_directory(loop, tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    async with loopfast.watch(tmp_path) as watch:
        (tmp_path / "a/b/file").touch()
        assert await changes_of(watch) == [("created", "file")]


async def test_changes_of_one_moment_come_together(loop, tmp_path):
    for name in "abcd":
        (tmp_path / name).write_text(name)
    async with loopfast.watch(tmp_path) as watch:
        (tmp_path / "a").write_text("more")
        (tmp_path / "b").unlink()
        (tmp_path / "c").rename(tmp_path / "C")
        (tmp_path / "e").touch()
        (tmp_path / "passing").touch()
        (tmp_path / "passing").unlink()
        expected = [("created", "e"), ("deleted", "b"), ("modified", "a"), ("renamed", "c -> C")]
        assert await changes_of(watch) == expected


@pytest.mark.parametrize("known", [False, True])
async def test_a_file_that_is_replaced_as_editors_do(loop, tmp_path, known):
    file, new = tmp_path / "file", tmp_path / "new"
    file.write_text("old")
    if known:
        new.write_text("new text")
    async with loopfast.watch(tmp_path) as watch:
        if not known:
            new.write_text("new text")
        new.replace(file)
        expected = [("deleted", "file"), ("renamed", "new -> file")] if known else [("modified", "file")]
        assert await changes_of(watch) == expected


async def test_swapped_names(loop, tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("22")
    async with loopfast.watch(tmp_path) as watch:
        (tmp_path / "a").rename(tmp_path / "c")
        (tmp_path / "b").rename(tmp_path / "a")
        (tmp_path / "c").rename(tmp_path / "b")
        assert await changes_of(watch) == [("renamed", "a -> b"), ("renamed", "b -> a")]


async def test_a_new_file_with_the_number_of_a_deleted_one_is_not_a_renaming(loop, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    async with loopfast.watch(tmp_path) as watch:
        for _ in range(20):
            old.write_text("x")
            assert await changes_of(watch) == [("created", "old")]
            old.unlink()
            new.write_text("x")
            assert await changes_of(watch) == [("created", "new"), ("deleted", "old")]
            new.unlink()
            assert await changes_of(watch) == [("deleted", "new")]


async def test_a_file_becomes_a_directory(loop, tmp_path):
    thing = tmp_path / "thing"
    thing.touch()
    async with loopfast.watch(tmp_path) as watch:
        thing.unlink()
        thing.mkdir()
        (thing / "inside").touch()
        assert await changes_of(watch) == [("created", "inside"), ("created", "thing"), ("deleted", "thing")]
        (thing / "inside").write_text("x")
        assert await changes_of(watch) == [("modified", "inside")]


async def test_what_was_put_into_a_new_directory_meanwhile(loop, tmp_path):
    mirror = Mirror(tmp_path)
    async with loopfast.watch(tmp_path) as watch:
        for number in range(20):
            deep = tmp_path / f"{number}/a/b/c"
            deep.mkdir(parents=True)
            (deep / "file").touch()
            (deep.parent / "file").touch()
        await mirror.catch_up(watch)
        assert all(change.kind is ChangeKind.CREATED for change in mirror.changes)
        assert len(mirror.changes) == 20 * 6
        for number in range(20):
            (tmp_path / f"{number}/a/b/c/file").write_text("x")
        async with asyncio.timeout(PATIENCE):
            while len(mirror.changes) < 20 * 7:
                mirror.apply(await anext(watch))
        assert {change.kind for change in mirror.changes[20 * 6 :]} == {ChangeKind.MODIFIED}


async def test_not_recursive(loop, tmp_path):
    (tmp_path / "a").mkdir()
    async with loopfast.watch(tmp_path, recursive=False) as watch:
        (tmp_path / "a/inside").touch()
        (tmp_path / "b").mkdir()
        (tmp_path / "b/inside").touch()
        (tmp_path / "a").rename(tmp_path / "A")
        assert await changes_of(watch) == [("created", "b"), ("renamed", "a -> A")] or (
            # What was put into it has changed its time.
            [("created", "A"), ("created", "b"), ("deleted", "a")]
        )
        (tmp_path / "A/more").touch()
        (tmp_path / "end").touch()
        assert await changes_of(watch) == [("created", "end")]


async def test_a_renamed_directory_is_one_change_and_still_watched(loop, tmp_path):
    (tmp_path / "old/a/b").mkdir(parents=True)
    (tmp_path / "old/a/b/file").touch()
    (tmp_path / "elsewhere").mkdir()
    async with loopfast.watch(tmp_path) as watch:
        (tmp_path / "old").rename(tmp_path / "elsewhere/new")
        assert await anext(watch) == [Change(ChangeKind.RENAMED, tmp_path / "elsewhere/new", tmp_path / "old")]
        (tmp_path / "elsewhere/new/a/b/file").write_text("x")
        assert await anext(watch) == [Change(ChangeKind.MODIFIED, tmp_path / "elsewhere/new/a/b/file")]
        (tmp_path / "old").mkdir()
        (tmp_path / "old/file").touch()
        assert await changes_of(watch) == [("created", "file"), ("created", "old")]


async def test_a_directory_moved_out_and_in(loop, tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/file").touch()
    outside.mkdir()
    mirror = Mirror(root)
    async with loopfast.watch(root) as watch:
        (root / "a").rename(outside / "a")
        assert await changes_of(watch) == [("deleted", "a"), ("deleted", "b"), ("deleted", "file")]
        (outside / "a/b/file").write_text("nobody's business")
        (outside / "a").rename(root / "c")
        assert await changes_of(watch) == [("created", "b"), ("created", "c"), ("created", "file")]
        mirror.names = names_below(root)
        (root / "c/b/more").touch()
        await mirror.catch_up(watch)


async def test_a_directory_that_is_replaced_by_another(loop, tmp_path):
    """The new one may have got the old one's number; it must be watched all the same."""
    folder = tmp_path / "folder"
    folder.mkdir()
    async with loopfast.watch(tmp_path) as watch:
        for _ in range(20):
            folder.rmdir()
            folder.mkdir()
            file = folder / "file"
            file.touch()
            mirror = Mirror(tmp_path)
            mirror.names = {str(folder)}
            await mirror.catch_up(watch)
            file.unlink()
            await mirror.catch_up(watch)


@pytest.mark.parametrize("seed", range(6))
async def test_random_changes_lead_to_what_is_on_the_disk(loop, tmp_path, seed):
    rng = random.Random(seed)
    for name in ("a/b/c", "d/e", "f"):
        (tmp_path / name).mkdir(parents=True)
    mirror = Mirror(tmp_path)
    debounce = rng.choice([0, 0.001, 0.01])
    async with loopfast.watch(tmp_path, debounce=debounce) as watch:
        for _ in range(30):
            for _ in range(rng.randrange(1, 25)):
                change_something(tmp_path, rng)
            if rng.random() < 0.5:
                # A look in the middle of it.
                await asyncio.sleep(0)
                continue
            await mirror.catch_up(watch)
        await mirror.catch_up(watch)
        marker = tmp_path / "marker"
        marker.touch()
        await mirror.follow(watch, lambda: str(marker) in mirror.names)
        assert mirror.names == names_below(tmp_path)
        for folder in [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]:
            (folder / "still watched").touch()
        await mirror.catch_up(watch)


def change_something(root: Path, rng: random.Random) -> None:
    """One change at random; one that is not possible is none."""
    everything = sorted(root.rglob("*"))
    folders = [root, *(path for path in everything if path.is_dir())]
    new = rng.choice(folders) / f"n{rng.randrange(12)}"
    thing = rng.choice(everything) if everything else new
    try:
        match rng.randrange(7):
            case 0 | 1:
                new.write_text("x" * rng.randrange(5))
            case 2:
                new.mkdir()
            case 3 | 4:
                thing.rename(new)
            case 5:
                thing.unlink()
            case 6 if rng.random() < 0.4 and thing.is_dir():
                shutil.rmtree(thing)
    except OSError:
        pass


async def test_links_in_a_tree_are_not_followed(loop, tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    async with loopfast.watch(root) as watch:
        (root / "link").symlink_to(outside)
        (root / "loop").symlink_to(root)
        (root / "dangling").symlink_to("nowhere")
        assert await changes_of(watch) == [("created", "dangling"), ("created", "link"), ("created", "loop")]
        (outside / "file").touch()
        (root / "link").unlink()
        (root / "link").symlink_to(root)
        assert await changes_of(watch) == [("modified", "link")]


async def test_a_link_to_a_directory_is_a_directory_to_watch(loop, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    async with loopfast.watch(tmp_path / "link") as watch:
        (tmp_path / "real/file").touch()
        assert await anext(watch) == [Change(ChangeKind.CREATED, tmp_path / "link/file")]


@pytest.mark.parametrize("kind", [str, os.fsencode, Path], ids=["str", "bytes", "Path"])
async def test_kinds_of_paths(loop, tmp_path, kind):
    async with loopfast.watch(kind(tmp_path)) as watch:
        (tmp_path / "file").touch()
        assert await anext(watch) == [Change(ChangeKind.CREATED, tmp_path / "file")]


@pytest.mark.parametrize("given", [".", "folder", "folder/", "./folder", "folder/../folder", ".."])
async def test_relative_paths(loop, tmp_path, monkeypatch, given):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder" if given == ".." else tmp_path)
    async with loopfast.watch(given) as watch:
        # What it means was decided when it began.
        target = Path(given).resolve()
        monkeypatch.chdir("/")
        (target / "file").touch()
        assert await anext(watch) == [Change(ChangeKind.CREATED, Path(given, "file"))]
        target.chmod(0o711)
        assert await anext(watch) == [Change(ChangeKind.MODIFIED, Path(given))]


async def test_names_that_are_no_text(loop, tmp_path):
    root = os.fsencode(tmp_path) + b"/\xff\xfe folder"
    os.mkdir(root)
    async with loopfast.watch(root) as watch:
        os.mkdir(root + b"/\xe9")
        open(root + b"/\xe9/\x80", "wb").close()
        changes = await anext(watch)
        assert [os.fsencode(change.path) for change in changes] == [root + b"/\xe9", root + b"/\xe9/\x80"]
        os.unlink(root + b"/\xe9/\x80")
        changes = await anext(watch)
        assert [os.fsencode(change.path) for change in changes] == [root + b"/\xe9/\x80"]


async def test_two_watches_of_one_directory(loop, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    async with loopfast.watch(tmp_path) as one, loopfast.watch(tmp_path / "link") as two:
        (tmp_path / "file").touch()
        assert await changes_of(one) == await changes_of(two) == [("created", "file")]
        await one.aclose()
        (tmp_path / "file").unlink()
        assert await changes_of(two) == [("deleted", "file")]


@pytest.mark.parametrize("how", ["deleted", "renamed", "replaced by a file"])
async def test_the_root_goes(loop, tmp_path, how):
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a/file").touch()
    watch = loopfast.watch(root)
    async with watch:
        if how == "renamed":
            root.rename(tmp_path / "other")
        else:
            shutil.rmtree(root)
        if how == "replaced by a file":
            root.touch()
        mirror = Mirror(root)
        mirror.names = {str(root), str(root / "a"), str(root / "a/file")}
        async with asyncio.timeout(PATIENCE):
            async for changes in watch:
                mirror.apply(changes)
        assert mirror.names == set()
        assert mirror.changes[-1] == Change(ChangeKind.DELETED, root)


async def test_the_root_is_replaced_by_another_directory(loop, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "old").touch()
    mirror = Mirror(root)
    async with loopfast.watch(root) as watch:
        for number in range(10):
            shutil.rmtree(root)
            root.mkdir()
            (root / f"new{number}").touch()
            await mirror.catch_up(watch)
        (root / "still watched").touch()
        await mirror.catch_up(watch)
