"""Scenarios of what only loopfast has: files, watching, and the statistics endpoint. See `scenarios.py`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import loopfast
from loopfast import fs

# More than is read at once, and more than one job of a thread reads of a file.
LARGE = bytes(range(251)) * 1600


@contextlib.asynccontextmanager
async def own_folder(setting: Any) -> AsyncIterator[str]:
    path = tempfile.mkdtemp(dir=setting.folder)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


async def first_file(setting: Any) -> None:
    """The first thing that needs libuv's threads."""
    assert len(await fs.read_bytes(setting.file)) == setting.file.stat().st_size


async def files(setting: Any) -> None:
    """What a file object does, and that what it says is what is there."""
    async with own_folder(setting) as folder:
        path = os.path.join(folder, "file")
        async with fs.open(path, "wb") as file:
            for start in range(0, 3000, 100):
                await file.write(LARGE[start : start + 100])
            await file.flush()
            await file.write(LARGE[3000:])
            await file.fsync()
            await file.fdatasync()
        async with fs.open(path, "r+b") as file:
            assert await file.read(10) == LARGE[:10]
            assert await file.read() == LARGE[10:]
            # One read each, which may give a part.
            data = b""
            while len(data) < 100:
                data += await file.pread(100 - len(data), 5000 + len(data))
            assert data == LARGE[5000:5100]
            assert await file.pwrite(b"pwrite", 4000) == 6
            await file.seek(4000)
            assert await file.read(6) == b"pwrite"
            assert await file.tell() == 4006
            await file.truncate(9000)
            await file.seek(0, os.SEEK_END)
            await file.write(b"end")
        async with fs.open(path, "ab", 0) as file:
            await file.write(b"more")
        changed = LARGE[:4000] + b"pwrite" + LARGE[4006:9000] + b"endmore"
        assert Path(path).read_bytes() == changed
        async with fs.open(path, "rb", 0) as file:
            assert await file.read() == changed
        async with fs.open(path, "w", encoding="utf-8") as text:
            await text.write("one\n")
            await text.writelines(["zwölf\n", "x" * 20_000])
        async with fs.open(path, encoding="utf-8") as text:
            assert [line async for line in text] == ["one\n", "zwölf\n", "x" * 20_000]


async def files_at_once(setting: Any) -> None:
    """Many jobs for the threads, of which one is given up; a file that is closed while it is used."""
    async with own_folder(setting) as folder:

        async def one(number: int) -> None:
            path = os.path.join(folder, str(number))
            await fs.write_bytes(path, LARGE[number:])
            assert await fs.read_bytes(path) == LARGE[number:]

        given_up = asyncio.ensure_future(fs.read_bytes(setting.file))
        try:
            outcomes = await asyncio.gather(*map(one, range(6)), return_exceptions=True)
        finally:
            given_up.cancel()
            await asyncio.gather(given_up, return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome
        file = await fs.open(os.path.join(folder, "used"), "wb", 0)
        writing = asyncio.ensure_future(file.write(LARGE))
        try:
            await asyncio.sleep(0)
        finally:
            outcomes = await asyncio.gather(writing, file.close(), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        assert Path(folder, "used").read_bytes() == LARGE


async def whole_files(setting: Any) -> None:
    async with own_folder(setting) as folder:
        path, other = os.path.join(folder, "one"), os.path.join(folder, "other")
        for data in (b"", b"small", LARGE):
            assert await fs.write_bytes(path, data) == len(data)
            assert await fs.read_bytes(path) == data
            await fs.copyfile(path, other)
            assert Path(other).read_bytes() == data, "the copy is another file"
        await fs.write_text(path, "ä" * 9000, encoding="utf-8")
        assert await fs.read_text(path, encoding="utf-8") == "ä" * 9000
        # Claims to be empty.
        assert await fs.read_bytes("/proc/self/status")


async def file_functions(setting: Any) -> None:
    """The functions of `os` that are requests of libuv, or jobs."""
    async with own_folder(setting) as folder:
        path, other, inner = (os.path.join(folder, name) for name in ("one", "other", "inner"))
        await fs.write_bytes(path, b"12345")
        for kind in (fs.stat, fs.lstat):
            assert (await kind(path)).st_size == 5
        await fs.mkdir(inner)
        await fs.makedirs(os.path.join(inner, "a", "b"))
        await fs.chmod(path, 0o640)
        await fs.chown(path, os.getuid(), os.getgid())
        await fs.chown(path, -1, -1, follow_symlinks=False)
        await fs.utime(path, (1, 2))
        await fs.link(path, other)
        await fs.rename(other, os.path.join(inner, "other"))
        await fs.symlink("other", os.path.join(inner, "link"))
        assert await fs.readlink(os.path.join(inner, "link")) == "other"
        assert (await fs.realpath(os.path.join(inner, "link"), strict=True)).endswith("other")
        await fs.truncate(path, 3)
        with open(path, "rb+", 0) as file:
            descriptor = file.fileno()
            assert (await fs.stat(descriptor)).st_size == 3
            await fs.chmod(descriptor, 0o600)
            await fs.chown(descriptor, -1, -1)
            await fs.utime(descriptor, ns=(1, 2))
            await fs.truncate(descriptor, 2)
            await fs.fsync(descriptor)
            await fs.fdatasync(descriptor)
            await fs.statvfs(descriptor)
        await fs.statvfs(path)
        # A failing access() is an answer.
        await fs.access(path, os.R_OK)
        assert sorted(await fs.listdir(inner)) == ["a", "link", "other"]
        async with fs.scandir(inner) as entries:
            found = {entry.name: (entry.is_dir(), entry.is_symlink()) async for entry in entries}
        assert found == {"a": (True, False), "link": (False, True), "other": (False, False)}
        with open(path, "rb", 0) as source, open(other, "wb", 0) as target:
            count = 0
            while count < 2:
                count += await fs.sendfile(target.fileno(), source.fileno(), count, 2 - count)
        await fs.copytree(inner, os.path.join(folder, "copy"))
        errors: list[OSError] = []
        walked = [names async for _, names, _ in fs.walk(folder, onerror=errors.append)]
        if errors:
            raise errors[0]
        assert sum(map(len, walked)) == 6
        await fs.remove(path)
        await fs.rmtree(inner)
        await fs.rmdir(os.path.join(folder, "copy", "a", "b"))


async def temporary_files(setting: Any) -> None:
    async with own_folder(setting) as folder:
        descriptor, path = await fs.mkstemp(dir=folder)
        os.close(descriptor)
        os.unlink(path)
        os.rmdir(await fs.mkdtemp(dir=folder))
        async with fs.TemporaryFile(dir=folder) as file:
            await file.write(LARGE)
            await file.seek(0)
            assert await file.read() == LARGE
        async with fs.NamedTemporaryFile("w+", dir=folder, encoding="utf-8") as file:
            await file.write("text")
            os.stat(file.name)
        async with fs.TemporaryDirectory(dir=folder) as inner:
            await fs.write_bytes(os.path.join(inner, "file"), b"x")
        left = os.listdir(folder)
        assert not left, f"left: {left}"


async def watching(setting: Any) -> None:
    """A tree and a file, with changes of all kinds; what is reported adds up to what is there."""
    async with own_folder(setting) as folder, contextlib.AsyncExitStack() as stack:
        one = os.path.join(folder, "one")
        Path(one).write_bytes(b"1")
        tree = await stack.enter_async_context(loopfast.watch(folder, debounce=0.001))
        file = await stack.enter_async_context(loopfast.watch(one, debounce=0.001))
        known = {"one"}

        async def follow(wanted: set[str]) -> None:
            while known != wanted:
                for kind, path, old_path in await anext(tree):
                    if kind is loopfast.ChangeKind.DELETED:
                        known.discard(os.path.relpath(path, folder))
                    elif kind is not loopfast.ChangeKind.OVERFLOW:
                        known.add(os.path.relpath(path, folder))
                        known.discard(os.path.relpath(old_path or folder, folder))

        os.makedirs(os.path.join(folder, "inner", "deep"))
        Path(folder, "inner", "deep", "two").write_bytes(b"2")
        await follow({"one", "inner", "inner/deep", "inner/deep/two"})
        os.rename(os.path.join(folder, "inner", "deep", "two"), os.path.join(folder, "three"))
        os.rmdir(os.path.join(folder, "inner", "deep"))
        await follow({"one", "inner", "three"})
        os.unlink(one)
        assert [change.kind.value for change in await anext(file)] == ["deleted"]
        await follow({"inner", "three"})


async def ask(sock: socket.socket, path: str) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, path)
    await loop.sock_sendall(sock, b"statistics\n")
    answer = b""
    while not answer.endswith(b"\n"):
        data = await loop.sock_recv(sock, 1 << 18)
        if not data:
            raise ConnectionError("the endpoint has dropped this client")
        answer += data
    return answer


async def statistics_endpoint(setting: Any) -> None:
    """Opened, asked twice, and closed; its failures are not those of the loop."""
    loop: Any = asyncio.get_running_loop()
    async with own_folder(setting) as folder:
        os.chmod(folder, 0o700)
        path = loop.open_statistics_endpoint(folder)
        try:
            for _ in range(2):
                # Where it cannot accept nobody is told, and who asks goes elsewhere after a while.
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.setblocking(False)
                    answer = await asyncio.wait_for(ask(sock, path), 1.5)
                    assert json.loads(answer)["pid"] == os.getpid()
        except TimeoutError:
            raise ConnectionError("the endpoint does not answer") from None
        finally:
            loop.close_statistics_endpoint()


FILE_SCENARIOS = (
    first_file, files, files_at_once, whole_files, file_functions, temporary_files, watching, statistics_endpoint,
)  # fmt: skip
