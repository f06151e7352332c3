"""loopfast.fs beside aiofiles, anyio and plain threads: small files, large files, many at once, lines, a tree.

``python -m bench.files`` needs aiofiles and anyio. Each figure is the median of several rounds, each in a fresh
process; files are in the system's cache.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

CHUNK = 1 << 20
SMALL = b"small file\n" * 93
CONTESTANTS = ("loopfast", "aiofiles", "anyio", "threads")


class Threads:
    """What one writes without a library: asyncio.to_thread() around the ordinary calls."""

    async def read(self, path: Path) -> bytes:
        return await asyncio.to_thread(path.read_bytes)

    async def read_opened(self, path: Path) -> bytes:
        file = await asyncio.to_thread(open, path, "rb")
        try:
            return await asyncio.to_thread(file.read)
        finally:
            await asyncio.to_thread(file.close)

    async def write(self, path: Path, data: bytes) -> None:
        await asyncio.to_thread(path.write_bytes, data)

    async def read_chunks(self, path: Path) -> AsyncIterator[bytes]:
        file = await asyncio.to_thread(open, path, "rb")
        try:
            while data := await asyncio.to_thread(file.read, CHUNK):
                yield data
        finally:
            await asyncio.to_thread(file.close)

    async def write_chunks(self, path: Path, data: bytes, count: int) -> None:
        file = await asyncio.to_thread(open, path, "wb")
        try:
            for _ in range(count):
                await asyncio.to_thread(file.write, data)
        finally:
            await asyncio.to_thread(file.close)

    async def lines(self, path: Path) -> AsyncIterator[str]:
        file = await asyncio.to_thread(open, path, encoding="utf-8")
        try:
            while line := await asyncio.to_thread(file.readline):
                yield line
        finally:
            await asyncio.to_thread(file.close)

    async def stat(self, path: Path) -> os.stat_result:
        return await asyncio.to_thread(os.stat, path)

    async def copy_tree(self, source: Path, target: Path) -> None:
        await asyncio.to_thread(shutil.copytree, source, target)


class Aiofiles(Threads):
    def __init__(self) -> None:
        import aiofiles
        import aiofiles.os

        self.open: Any = aiofiles.open
        self.os: Any = aiofiles.os

    async def read(self, path: Path) -> bytes:
        async with self.open(path, "rb") as file:
            data: bytes = await file.read()
            return data

    read_opened = read

    async def write(self, path: Path, data: bytes) -> None:
        async with self.open(path, "wb") as file:
            await file.write(data)

    async def read_chunks(self, path: Path) -> AsyncIterator[bytes]:
        async with self.open(path, "rb") as file:
            while data := await file.read(CHUNK):
                yield data

    async def write_chunks(self, path: Path, data: bytes, count: int) -> None:
        async with self.open(path, "wb") as file:
            for _ in range(count):
                await file.write(data)

    async def lines(self, path: Path) -> AsyncIterator[str]:
        async with self.open(path, encoding="utf-8") as file:
            async for line in file:
                yield line

    async def stat(self, path: Path) -> os.stat_result:
        info: os.stat_result = await self.os.stat(path)
        return info

    async def copy_tree(self, source: Path, target: Path) -> None:
        await self.os.wrap(shutil.copytree)(source, target)


class Anyio(Threads):
    def __init__(self) -> None:
        import anyio
        import anyio.to_thread

        self.anyio: Any = anyio

    async def read(self, path: Path) -> bytes:
        data: bytes = await self.anyio.Path(path).read_bytes()
        return data

    async def read_opened(self, path: Path) -> bytes:
        async with await self.anyio.open_file(path, "rb") as file:
            data: bytes = await file.read()
            return data

    async def write(self, path: Path, data: bytes) -> None:
        await self.anyio.Path(path).write_bytes(data)

    async def read_chunks(self, path: Path) -> AsyncIterator[bytes]:
        async with await self.anyio.open_file(path, "rb") as file:
            while data := await file.read(CHUNK):
                yield data

    async def write_chunks(self, path: Path, data: bytes, count: int) -> None:
        async with await self.anyio.open_file(path, "wb") as file:
            for _ in range(count):
                await file.write(data)

    async def lines(self, path: Path) -> AsyncIterator[str]:
        async with await self.anyio.open_file(path, encoding="utf-8") as file:
            async for line in file:
                yield line

    async def stat(self, path: Path) -> os.stat_result:
        info: os.stat_result = await self.anyio.Path(path).stat()
        return info

    async def copy_tree(self, source: Path, target: Path) -> None:
        await self.anyio.to_thread.run_sync(shutil.copytree, source, target)


class Loopfast(Threads):
    def __init__(self) -> None:
        import loopfast.fs

        self.fs = loopfast.fs

    async def read(self, path: Path) -> bytes:
        return await self.fs.read_bytes(path)

    async def read_opened(self, path: Path) -> bytes:
        async with self.fs.open(path, "rb") as file:
            return await file.read()

    async def write(self, path: Path, data: bytes) -> None:
        await self.fs.write_bytes(path, data)

    async def read_chunks(self, path: Path) -> AsyncIterator[bytes]:
        async with self.fs.open(path, "rb") as file:
            while data := await file.read(CHUNK):
                yield data

    async def write_chunks(self, path: Path, data: bytes, count: int) -> None:
        async with self.fs.open(path, "wb") as file:
            for _ in range(count):
                await file.write(data)

    async def lines(self, path: Path) -> AsyncIterator[str]:
        async with self.fs.open(path, encoding="utf-8") as file:
            async for line in file:
                yield line

    async def stat(self, path: Path) -> os.stat_result:
        return await self.fs.stat(path)

    async def copy_tree(self, source: Path, target: Path) -> None:
        await self.fs.copytree(source, target)


# ------------------------------------------------------------------------------------------------------------ workloads
# Each returns how many operations it has done, and of what.

Workload = Callable[[Any, Path, int], Awaitable[tuple[float, str]]]


async def small_read(one: Any, root: Path, size: int) -> tuple[float, str]:
    paths = sorted((root / "small").iterdir())[:size]
    for path in paths:
        assert await one.read(path) == SMALL
    return len(paths), "files"


async def small_opened(one: Any, root: Path, size: int) -> tuple[float, str]:
    paths = sorted((root / "small").iterdir())[:size]
    for path in paths:
        assert await one.read_opened(path) == SMALL
    return len(paths), "files"


async def small_write(one: Any, root: Path, size: int) -> tuple[float, str]:
    for number in range(size):
        await one.write(root / f"out{number}", SMALL)
    return size, "files"


async def small_stat(one: Any, root: Path, size: int) -> tuple[float, str]:
    for _ in range(size):
        await one.stat(root)
    return size, "calls"


async def many_read(one: Any, root: Path, size: int) -> tuple[float, str]:
    paths = sorted((root / "small").iterdir())[:size]
    for data in await asyncio.gather(*(one.read(path) for path in paths)):
        assert data == SMALL
    return len(paths), "files"


async def many_opened(one: Any, root: Path, size: int) -> tuple[float, str]:
    paths = sorted((root / "small").iterdir())[:size]
    for data in await asyncio.gather(*(one.read_opened(path) for path in paths)):
        assert data == SMALL
    return len(paths), "files"


async def many_write(one: Any, root: Path, size: int) -> tuple[float, str]:
    await asyncio.gather(*(one.write(root / f"out{number}", SMALL) for number in range(size)))
    return size, "files"


async def large_read(one: Any, root: Path, size: int) -> tuple[float, str]:
    total = 0
    async for data in one.read_chunks(root / "large"):
        total += len(data)
    assert total == (root / "large").stat().st_size
    return total / CHUNK, "MiB"


async def large_whole(one: Any, root: Path, size: int) -> tuple[float, str]:
    return len(await one.read(root / "large")) / CHUNK, "MiB"


async def large_write(one: Any, root: Path, size: int) -> tuple[float, str]:
    count = (root / "large").stat().st_size // CHUNK
    await one.write_chunks(root / "written", os.urandom(CHUNK), count)
    assert (root / "written").stat().st_size == count * CHUNK
    return count, "MiB"


async def lines(one: Any, root: Path, size: int) -> tuple[float, str]:
    count = 0
    async for _ in one.lines(root / "lines"):
        count += 1
    assert count == size * 10
    return count, "lines"


async def tree(one: Any, root: Path, size: int) -> tuple[float, str]:
    await one.copy_tree(root / "small", root / "copy")
    assert len(os.listdir(root / "copy")) == len(os.listdir(root / "small"))
    return len(os.listdir(root / "copy")), "files"


WORKLOADS: dict[str, Workload] = {
    "small.read": small_read,
    "small.opened": small_opened,
    "small.write": small_write,
    "small.stat": small_stat,
    "many.read": many_read,
    "many.opened": many_opened,
    "many.write": many_write,
    "large.read": large_read,
    "large.whole": large_whole,
    "large.write": large_write,
    "lines": lines,
    "tree": tree,
}


def prepare(root: Path, what: str, size: int, large: int) -> None:
    (root / "small").mkdir()
    if what.startswith(("small", "many", "tree")):
        for number in range(size):
            (root / "small" / f"{number:06}").write_bytes(SMALL)
    if what.startswith("large"):
        piece = os.urandom(CHUNK)
        with open(root / "large", "wb") as file:
            for _ in range(large):
                file.write(piece)
    if what == "lines":
        (root / "lines").write_text("".join(f"this is line {number}\n" for number in range(size * 10)))


def measure(what: str, name: str, size: int, large: int) -> dict[str, Any]:
    """One round, in this process: seconds by the clock and of the processor."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        prepare(root, what, size, large)
        classes = {"loopfast": Loopfast, "aiofiles": Aiofiles, "anyio": Anyio, "threads": Threads}
        one = classes[name]()

        async def main() -> dict[str, Any]:
            # Threads are started, modules loaded.
            await asyncio.gather(*(one.stat(root) for _ in range(100)))
            before, cpu = time.perf_counter(), time.process_time()
            count, unit = await WORKLOADS[what](one, root, size)
            return {
                "seconds": time.perf_counter() - before,
                "cpu": time.process_time() - cpu,
                "count": count,
                "unit": unit,
            }

        if name == "loopfast":
            import loopfast

            return loopfast.run(main())
        return asyncio.run(main())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.files", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=2000, help="small files (%(default)s)")
    parser.add_argument("--large", type=int, default=256, help="MiB of a large file (%(default)s)")
    parser.add_argument("--what", nargs="+", choices=list(WORKLOADS), help="only these (all)")
    parser.add_argument("--beside", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--one", nargs=4, metavar=("WHAT", "NAME", "FILES", "MIB"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        what, name, *sizes = options.one
        print(json.dumps(measure(what, name, *map(int, sizes))))
        return
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for what in options.what or WORKLOADS:
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in options.beside}
        for turn in range(options.rounds):
            # Who goes first changes: what one leaves in the system's memory is found by the next.
            first = turn % len(options.beside)
            for name in options.beside[first:] + options.beside[:first]:
                command = [
                    sys.executable,
                    "-m",
                    "bench.files",
                    "--one",
                    what,
                    name,
                    str(options.files),
                    str(options.large),
                ]
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
                results[name].append(json.loads(done.stdout))
        for name, rounds in results.items():
            seconds = [result["seconds"] for result in rounds]
            cpu = statistics.median(result["cpu"] for result in rounds)
            count, unit = rounds[0]["count"], rounds[0]["unit"]
            rates = [count / value for value in seconds]
            print(
                f"{what:13} {name:9} {statistics.median(rates):10,.0f} {unit}/s "
                f" ({min(rates):,.0f} - {max(rates):,.0f}), processor {cpu / count * 1e6:,.1f} µs each",
                flush=True,
            )


if __name__ == "__main__":
    main()
