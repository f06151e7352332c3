"""watch() when more happens than anyone can report: the final state is never lost, and an overflow is said."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from pathlib import Path

import pytest
from support import until
from watching import PATIENCE, Mirror, changes_of, names_below

import loopfast
from loopfast import Change, ChangeKind

pytestmark = [pytest.mark.loopfast_only("asyncio watches no files"), pytest.mark.timeout(60)]

QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


STORM = """
import os, random, sys
rng = random.Random(int(sys.argv[2]))
os.chdir(sys.argv[1])
for number in range(10_000):
    folder = f"d{rng.randrange(20)}/e{rng.randrange(5)}"
    os.makedirs(folder, exist_ok=True)
    name = f"{folder}/f{rng.randrange(30)}"
    what = rng.random()
    try:
        if what < 0.6:
            with open(name, "a") as file:
                file.write(str(number))
        elif what < 0.8:
            os.rename(name, f"d{rng.randrange(20)}/e{rng.randrange(5)}/f{rng.randrange(30)}")
        elif what < 0.97:
            os.unlink(name)
        else:
            os.rename(folder, f"{folder}-{number}")
    except OSError:
        pass
"""


@pytest.mark.parametrize("debounce", [0, 0.02])
async def test_a_storm_of_another_process(loop, tmp_path, debounce):
    """Names and sizes as the changes tell them, each looked up when its change came, are those on the disk."""
    mirror = Mirror(tmp_path)
    sizes: dict[str, int] = {}
    marker = str(tmp_path / "marker")
    async with loopfast.watch(tmp_path, debounce=debounce, max_delay=0.1) as watch:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", STORM, str(tmp_path), "1")
        ended = asyncio.create_task(process.wait())
        async with asyncio.timeout(5 * PATIENCE):
            while marker not in mirror.names:
                changes = await anext(watch)
                mirror.apply(changes)
                for change in changes:
                    if change.kind in (ChangeKind.CREATED, ChangeKind.MODIFIED, ChangeKind.RENAMED):
                        look_up(str(change.path), mirror.names, sizes)
                if ended.done():
                    Path(marker).touch()
        assert ended.result() == 0
    assert mirror.names == names_below(tmp_path)
    files = {name for name in mirror.names if os.path.isfile(name)}
    assert len(files) > 100
    assert {name: sizes[name] for name in files} == {name: os.path.getsize(name) for name in files}


def look_up(path: str, names: set[str], sizes: dict[str, int]) -> None:
    """Note the size of a file, or of those in a directory that was renamed, unless it is gone again."""
    for name in [path, *(name for name in names if name.startswith(path + os.sep))]:
        with contextlib.suppress(OSError):
            sizes[name] = os.path.getsize(name)


async def test_ten_thousand_files_at_once(loop, tmp_path):
    mirror = Mirror(tmp_path)
    async with loopfast.watch(tmp_path) as watch:
        for number in range(10_000):
            (tmp_path / str(number)).touch()
        await mirror.catch_up(watch)
        assert len(mirror.names) == 10_000
        shutil.rmtree(tmp_path)
        async with asyncio.timeout(PATIENCE):
            async for changes in watch:
                mirror.apply(changes)
        assert mirror.names == set()


def overflow(folder: Path) -> None:
    """More events than the kernel keeps, while the loop does not look; then what it will not tell any more."""
    one, other = folder / "one", folder / "other"
    for _ in range(int(QUEUE.read_text()) // 2 + 10):
        # Equal events one after the other would be one.
        os.utime(one)
        os.utime(other)


needs_small_queue = pytest.mark.skipif(
    not QUEUE.exists() or int(QUEUE.read_text()) > 100_000, reason="the kernel has no event queue, or a huge one"
)


@needs_small_queue
async def test_an_overflow_is_reported_and_nothing_is_lost(loop, tmp_path):
    for name in ("one", "other", "changed", "deleted", "old"):
        (tmp_path / name).write_text(name)
    (tmp_path / "a/b").mkdir(parents=True)
    async with loopfast.watch(tmp_path) as watch:
        overflow(tmp_path)
        (tmp_path / "changed").write_text("x")
        (tmp_path / "deleted").unlink()
        (tmp_path / "old").rename(tmp_path / "new")
        (tmp_path / "a/b").rename(tmp_path / "c")
        (tmp_path / "c/file").touch()
        (tmp_path / "folder/inner").mkdir(parents=True)
        assert await changes_of(watch) == [
            ("created", "c"),
            ("created", "file"),
            ("created", "folder"),
            ("created", "inner"),
            ("deleted", "b"),
            ("deleted", "deleted"),
            ("modified", "changed"),
            ("modified", "one"),
            ("modified", "other"),
            ("overflow", tmp_path.name),
            ("renamed", "old -> new"),
        ]
        (tmp_path / "folder/inner/file").touch()
        assert await changes_of(watch) == [("created", "file")], "what was found is watched, too"


@needs_small_queue
async def test_an_overflow_is_said_to_all_who_watch(loop, tmp_path):
    """Also to one of whose own events none was kept."""
    noisy, quiet = tmp_path / "noisy", tmp_path / "quiet"
    noisy.mkdir()
    quiet.mkdir()
    for name in ("one", "other"):
        (noisy / name).touch()
    (quiet / "file").touch()
    async with loopfast.watch(noisy) as one, loopfast.watch(quiet) as two, loopfast.watch(quiet / "file") as three:
        overflow(noisy)
        (quiet / "file").write_text("x")
        assert ("overflow", "noisy") in await changes_of(one)
        assert await changes_of(two) == [("modified", "file"), ("overflow", "quiet")]
        assert await changes_of(three) == [("modified", "file"), ("overflow", "file")]


@needs_small_queue
async def test_an_overflow_by_events_of_a_closed_watch(loop, tmp_path):
    """They are in the queue, but nobody sees them."""
    noisy, quiet = tmp_path / "noisy", tmp_path / "quiet"
    noisy.mkdir()
    quiet.mkdir()
    for name in ("one", "other"):
        (noisy / name).touch()
    async with loopfast.watch(quiet) as two:
        async with loopfast.watch(noisy):
            (quiet / "early").touch()
            overflow(noisy)
            (quiet / "file").touch()
        assert await changes_of(two) == [("created", "early"), ("created", "file"), ("overflow", "quiet")]


async def test_half_a_queue_is_no_overflow(loop, tmp_path):
    async with loopfast.watch(tmp_path) as watch:
        for number in range(2000):
            (tmp_path / str(number)).touch()
        seen = 0
        while seen < 2000:
            changes = await anext(watch)
            seen += len(changes)
            assert {change.kind for change in changes} == {ChangeKind.CREATED}


async def test_changes_without_a_pause_are_reported_all_the_same(loop, tmp_path):
    file = tmp_path / "file"
    file.touch()
    stop = False

    async def write_on() -> None:
        while not stop:
            file.write_text("x")
            await asyncio.sleep(0.001)

    async with loopfast.watch(tmp_path, debounce=5, max_delay=0.1) as watch:
        writing = asyncio.create_task(write_on())
        async with asyncio.timeout(4):
            for _ in range(3):
                assert await anext(watch) == [Change(ChangeKind.MODIFIED, file)]
        stop = True
        await writing


async def test_a_reader_that_does_not_read(loop, tmp_path):
    """Whoever takes long finds the state, not a history."""
    async with loopfast.watch(tmp_path) as watch:
        for round_ in range(100):
            for number in range(20):
                (tmp_path / f"{round_}-{number}").touch()
            await asyncio.sleep(0)
            for number in range(20):
                (tmp_path / f"{round_}-{number}").unlink()
        (tmp_path / "last").touch()
        await until(lambda: watch._inbox.tokens)
        assert await anext(watch) == [Change(ChangeKind.CREATED, tmp_path / "last")]
