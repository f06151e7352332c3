"""The functions of loopfast.fs beside those of os: results, errors and their names, temporary files."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import socket
import stat
import warnings
from pathlib import Path

import pytest
from support import pattern

import loopfast
from loopfast import fs

pytestmark = pytest.mark.loopfast_only("asyncio has no files")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("content\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/inside").write_text("inside")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "folder link").symlink_to("folder")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "circle").symlink_to("circle")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


#: Calls that change nothing, to be made with both.
LOOKS = [
    *(
        ("stat", name)
        for name in ("file", "folder", "link", "pipe", "dangling", "circle", "missing", "file/x", b"file", 0)
    ),
    ("stat", 1000),
    ("stat", ""),
    ("stat", "x" * 300),
    ("stat", Path("link")),
    ("lstat", "link"),
    ("lstat", "dangling"),
    ("lstat", "missing"),
    ("readlink", "link"),
    ("readlink", b"link"),
    ("readlink", "file"),
    ("readlink", "missing"),
    ("statvfs", "missing"),
    ("listdir", "missing"),
    ("listdir", "file"),
    ("access", "file", os.R_OK),
    ("access", "file", os.X_OK),
    ("access", "missing", os.F_OK),
    ("mkdir", "folder"),
    ("mkdir", "missing/x"),
    ("makedirs", "folder"),
    ("makedirs", "file", 0o777, True),
    ("makedirs", "file/x"),
    ("rmdir", "full"),
    ("rmdir", "file"),
    ("rmdir", "missing"),
    ("remove", "folder"),
    ("unlink", "missing"),
    ("rename", "missing", "other"),
    ("rename", "file", "folder"),
    ("rename", "file", "missing/x"),
    ("replace", b"missing", b"other"),
    ("link", "missing", "other"),
    ("link", "file", "link"),
    ("symlink", "file", "link"),
    ("chmod", "missing", 0o600),
    ("chmod", 1000, 0o600),
    ("chown", "missing", -1, -1),
    ("utime", "missing"),
    ("truncate", "missing", 3),
    ("truncate", "folder", 3),
    ("truncate", "file", -1),
    ("fsync", 1000),
    ("fdatasync", 1000),
    ("stat", "nu\0ll"),
    ("stat", b"nu\0ll"),
    ("rename", "file", "nu\0ll"),
    ("stat", 3.5),
    ("stat", None),
    ("mkdir", []),
    ("rename", "file", 3),
    ("chmod", "file", "x"),
    ("chown", "file", 1 << 40, -1),
    ("utime", "file", (1, 2, 3)),
    ("utime", "file", 3),
    ("sendfile", 1000, 1001, 0, 10),
]


@pytest.mark.parametrize("call", LOOKS, ids=repr)
async def test_as_os_does(loop, folder, call):
    name, *args = call
    want = got = error = None
    try:
        want = getattr(os, name)(*args)
    except Exception as exc:
        error = exc
    try:
        got = await getattr(fs, name)(*args)
    except Exception as exc:
        assert error is not None, exc
        assert type(exc) is type(error)
        if isinstance(exc, OSError):
            if name == "utime" and error.filename is None:
                # os tells it from Python 3.12 on.
                error.filename = exc.filename
            mine = (exc.errno, exc.strerror, exc.filename, exc.filename2)
            assert mine == (error.errno, error.strerror, error.filename, error.filename2)
    else:
        assert error is None
        assert got == want
        assert type(got) is type(want)


async def test_all_of_a_status(loop, folder):
    for mine, theirs in (
        (await fs.stat("file"), os.stat("file")),
        (await fs.stat("link", follow_symlinks=False), os.lstat("link")),
    ):
        for name in dir(theirs):
            if name.startswith("st_"):
                assert getattr(mine, name) == getattr(theirs, name), name
    with pytest.raises(ValueError):
        await fs.stat(0, follow_symlinks=False)
    mine, theirs = await fs.statvfs("."), os.statvfs(".")
    assert (mine.f_bsize, mine.f_blocks, mine.f_namemax, mine.f_fsid) == (
        theirs.f_bsize,
        theirs.f_blocks,
        theirs.f_namemax,
        theirs.f_fsid,
    )


async def test_questions(loop, folder):
    for name in ("file", "folder", "link", "folder link", "dangling", "circle", "missing", "pipe", "nu\0ll"):
        assert await fs.exists(name) is os.path.exists(name), name
        assert await fs.isfile(name) is os.path.isfile(name), name
        assert await fs.isdir(name) is os.path.isdir(name), name
        assert await fs.islink(name) is os.path.islink(name), name
        if "\0" not in name:
            assert await fs.realpath(name) == os.path.realpath(name), name
    assert await fs.realpath(b"folder link/../link") == os.path.realpath(b"folder link/../link")
    with pytest.raises(FileNotFoundError):
        await fs.realpath("missing", strict=True)
    with pytest.raises(OSError):
        await fs.realpath("circle", strict=True)


async def test_changes(loop, folder):
    await fs.mkdir("new", 0o700)
    assert stat.S_IMODE(os.stat("new").st_mode) == 0o700
    await fs.makedirs("a/b/c/./d")
    await fs.makedirs(b"a/b/c/d", exist_ok=True)
    assert os.path.isdir("a/b/c/d")
    await fs.rmdir("a/b/c/d")
    assert not os.path.exists("a/b/c/d")
    await fs.link("file", "second")
    assert os.stat("file").st_nlink == 2
    await fs.rename("second", "third")
    await fs.replace("third", "second")
    await fs.remove("second")
    assert os.stat("file").st_nlink == 1
    await fs.symlink("somewhere", "another link")
    assert os.readlink("another link") == "somewhere"
    await fs.chmod("file", 0o640)
    assert stat.S_IMODE(os.stat("file").st_mode) == 0o640
    with open("file", "r+b") as file:
        await fs.chmod(file.fileno(), 0o600)
        await fs.truncate(file.fileno(), 3)
        await fs.fsync(file)
        await fs.fdatasync(file.fileno())
    assert stat.S_IMODE(os.stat("file").st_mode) == 0o600
    await fs.chown("file", -1, -1)
    await fs.chown("dangling", -1, os.getgid(), follow_symlinks=False)
    assert await fs.read_bytes("file") == b"con"
    await fs.truncate("file", 1)
    assert await fs.read_text("file") == "c"
    await fs.rmtree("a")
    assert not os.path.exists("a")


async def test_times(loop, folder):
    await fs.utime("file", ns=(1_234_567_890_123_456_789, -1))
    assert (os.stat("file").st_atime_ns, os.stat("file").st_mtime_ns) == (1_234_567_890_123_456_789, -1)
    await fs.utime("file", (10.5, 20))
    assert (os.stat("file").st_atime_ns, os.stat("file").st_mtime_ns) == (10_500_000_000, 20_000_000_000)
    await fs.utime("link", (1, 2), follow_symlinks=False)
    assert (os.lstat("link").st_mtime, os.stat("file").st_mtime) == (2, 20)
    before = os.stat("folder").st_mtime_ns
    os.utime("file", (0, 0))
    await fs.utime("file")
    assert os.stat("file").st_mtime_ns >= before
    with open("file") as file:
        await fs.utime(file.fileno(), (3, 4))
    assert os.stat("file").st_mtime == 4
    with pytest.raises(ValueError):
        await fs.utime("file", (1, 2), ns=(1, 2))


async def test_what_is_in_a_folder(loop, folder):
    socket_ = socket.socket(socket.AF_UNIX)
    socket_.bind("socket")
    socket_.close()
    (folder / os.fsdecode(b"not \xff text")).touch()
    assert sorted(await fs.listdir()) == sorted(os.listdir())
    assert sorted(await fs.listdir(b".")) == sorted(os.listdir(b"."))
    for path in (".", str(folder), str(folder) + "/", os.fsencode(folder), folder, b"."):
        with os.scandir(path) as theirs:
            expected = {entry.name: entry for entry in theirs}
        names = set()
        async with fs.scandir(path) as entries:
            async for entry in entries:
                other = expected[entry.name]
                names.add(entry.name)
                assert entry.path == other.path
                assert os.fspath(entry) == os.fspath(other)
                assert entry.inode() == other.inode()
                assert entry.is_symlink() is other.is_symlink()
                assert entry.is_junction() is False
                for follow in (True, False):
                    # Theirs raises where links lead in a circle.
                    with contextlib.suppress(OSError):
                        assert entry.is_dir(follow_symlinks=follow) is other.is_dir(follow_symlinks=follow)
                        assert entry.is_file(follow_symlinks=follow) is other.is_file(follow_symlinks=follow)
                        info = await entry.stat(follow_symlinks=follow)
                        assert info.st_ino == other.stat(follow_symlinks=follow).st_ino
                assert repr(entry) == repr(other)
        assert names == expected.keys()
    assert [entry async for entry in fs.scandir(folder / "folder")][0].name == "inside"
    (folder / "empty").mkdir()
    assert [entry async for entry in fs.scandir("empty")] == []
    for wrong in ("missing", "file"):
        with pytest.raises(OSError) as error:
            [entry async for entry in fs.scandir(wrong)]
        assert error.value.filename == wrong
    with pytest.raises(TypeError):
        fs.scandir(3.5)
    with pytest.raises(TypeError):
        fs.DirEntry()
    iterator = fs.scandir(".")
    await anext(iterator)
    await iterator.aclose()
    await iterator.aclose()
    assert [entry async for entry in iterator] == []


@pytest.mark.parametrize("followlinks", [False, True])
@pytest.mark.parametrize("topdown", [False, True])
async def test_walk(loop, folder, topdown, followlinks):
    (folder / "folder/deep/deeper").mkdir(parents=True)
    (folder / "folder/deep/file").touch()

    def in_order(steps):
        return sorted((path, sorted(folders), sorted(files)) for path, folders, files in steps)

    mine = [step async for step in fs.walk(".", topdown, followlinks=followlinks)]
    assert in_order(mine) == in_order(os.walk(".", topdown, followlinks=followlinks))
    places = {path: number for number, (path, *_) in enumerate(mine)}
    assert (places["./folder"] < places["./folder/deep"]) is topdown
    errors = []
    assert [step async for step in fs.walk("missing", onerror=errors.append)] == []
    assert [type(error) for error in errors] == [FileNotFoundError]
    assert [step async for step in fs.walk("missing")] == []


async def test_walk_where_it_is_told_to(loop, folder):
    seen = []
    async for path, folders, _ in fs.walk(b"."):
        seen.append(path)
        folders[:] = [name for name in folders if name == b"folder"]
    assert seen == [b".", b"./folder"]


@pytest.mark.parametrize("size", [2 << 20, (4 << 20) - 1, (4 << 20) + 1, 10_000_000])
async def test_a_large_file_is_read_whole(loop, folder, size):
    """From 2 MiB on its memory is asked for in large pages."""
    content = pattern(size)
    Path("source").write_bytes(content)
    assert await fs.read_bytes("source") == content
    with open("source", "rb") as file:
        file.seek(size // 2)
        async with fs.open(file.fileno(), "rb", closefd=False) as rest:
            assert await rest.read() == content[size // 2 :]
    # What grows while it is read finds more room.
    reading = asyncio.ensure_future(fs.read_bytes("source"))
    await asyncio.sleep(0)
    with open("source", "ab") as file:
        file.write(b"more")
    assert (await reading)[: len(content)] == content


@pytest.mark.parametrize("size", [0, 10, 128 * 1024, 128 * 1024 + 1, 3_000_000])
async def test_copyfile(loop, folder, size):
    content = pattern(size)
    Path("source").write_bytes(content)
    os.chmod("source", 0o751)
    Path("target").write_bytes(b"what was there before, and is longer" * 5)
    os.chmod("target", 0o600)
    assert await fs.copyfile("source", "target") is None
    assert Path("target").read_bytes() == content
    assert stat.S_IMODE(os.stat("target").st_mode) == 0o600
    await fs.copyfile("source", b"target", copy_mode=True)
    assert stat.S_IMODE(os.stat("target").st_mode) == 0o751
    with pytest.raises(FileExistsError) as error:
        await fs.copyfile("source", "target", exclusive=True)
    assert error.value.filename == "target"
    await fs.copyfile("source", "exclusive", exclusive=True)
    assert Path("exclusive").read_bytes() == content


async def test_copyfile_of_what_has_no_size(loop, folder):
    await fs.copyfile("/proc/self/status", "copy")
    assert Path("copy").read_text().startswith("Name:")
    assert (await fs.read_text("/proc/self/status")).startswith("Name:")
    await fs.copyfile("/dev/null", "copy")
    assert Path("copy").read_bytes() == b""
    await fs.copyfile("file", "/dev/null")


async def test_copyfile_errors(loop, folder):
    for source, target, kind, name in [
        ("missing", "x", FileNotFoundError, "missing"),
        ("file", "missing/x", FileNotFoundError, "missing/x"),
        ("folder", "x", IsADirectoryError, "folder"),
        ("file", "folder", IsADirectoryError, "folder"),
        ("file", "file", shutil.SameFileError, None),
        ("file", "link", shutil.SameFileError, None),
        ("pipe", "x", shutil.SpecialFileError, None),
        ("file", "pipe", shutil.SpecialFileError, None),
    ]:
        with pytest.raises(kind) as error:
            await fs.copyfile(source, target)
        assert error.value.filename == name
    assert Path("file").read_text() == "content\n"
    assert not os.path.exists("x")


async def test_copytree(loop, folder):
    (folder / "source").mkdir(0o750)
    os.chmod("source", 0o750)
    expected = {}
    for number in range(300):
        path = folder / "source" / str(number % 7) / str(number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pattern(number * 100))
        expected[path.relative_to(folder / "source")] = path.read_bytes()
    os.chmod("source/1/1", 0o400)
    os.chmod("source/2", 0o555)
    os.symlink("1/1", "source/link")
    assert await fs.copytree("source", folder / "copy") == str(folder / "copy")
    try:
        found = {path.relative_to("copy"): path.read_bytes() for path in Path("copy").rglob("*") if path.is_file()}
        assert found == expected | {Path("link"): expected[Path("1/1")]}
        assert os.readlink("copy/link") == "1/1"
        assert [stat.S_IMODE(os.stat(f"copy/{name}").st_mode) for name in (".", "1/1", "2")] == [0o750, 0o400, 0o555]
        with pytest.raises(FileExistsError):
            await fs.copytree("source", "copy")
        with pytest.raises(FileNotFoundError):
            await fs.copytree("missing", "other")
    finally:
        os.chmod("source/2", 0o755)
        os.chmod("copy/2", 0o755)


async def test_sendfile(loop, folder):
    content = pattern(500_000)
    Path("source").write_bytes(content)
    async with fs.open("source", "rb") as source, fs.open("target", "wb") as target:
        offset = 0
        while count := await fs.sendfile(target, source, offset, 200_000):
            offset += count
    assert Path("target").read_bytes() == content
    with pytest.raises(ValueError):
        await fs.sendfile(1, 2, -1, 3)


# --- whole files --------------------------------------------------------------------------------------------------


async def test_whole_files(loop, folder):
    assert await fs.write_text("text", "eins\nzwei\N{SNOWMAN}", "utf-16") == 10
    assert Path("text").read_text("utf-16") == "eins\nzwei\N{SNOWMAN}"
    assert await fs.read_text("text", "utf-16") == "eins\nzwei\N{SNOWMAN}"
    assert await fs.write_text("text", "a\nb\r\nc", newline="\r\n") == 6
    assert Path("text").read_bytes() == b"a\r\nb\r\r\nc"
    assert await fs.read_text("text", newline="") == "a\r\nb\r\r\nc"
    assert await fs.read_text("text") == "a\nb\n\nc"
    assert await fs.write_bytes("text", bytearray(b"xyz")) == 3
    assert await fs.read_bytes(Path("text")) == b"xyz"
    with pytest.raises(UnicodeDecodeError):
        Path("bad").write_bytes(b"\xff")
        await fs.read_text("bad", "utf-8")
    for call, kind in [
        (lambda: fs.write_bytes("x", "text"), TypeError),
        (lambda: fs.write_bytes("x", 3), TypeError),
        (lambda: fs.write_text("x", b"bytes"), TypeError),
        (lambda: fs.read_text("file", newline="x"), ValueError),
        (lambda: fs.read_bytes("nu\0ll"), ValueError),
        (lambda: fs.read_bytes("missing"), FileNotFoundError),
        (lambda: fs.read_bytes("folder"), IsADirectoryError),
        (lambda: fs.write_bytes("folder", b""), IsADirectoryError),
        (lambda: fs.write_bytes("missing/x", b""), FileNotFoundError),
    ]:
        with pytest.raises(kind):
            await call()
    assert not os.path.exists("x")


async def test_errors_tell_the_name(loop, folder):
    for call, name in [
        (lambda: fs.read_bytes("missing"), "missing"),
        (lambda: fs.read_bytes(Path("missing")), "missing"),
        (lambda: fs.write_bytes(b"missing/x", b""), b"missing/x"),
        (lambda: fs.open("missing").__aenter__(), "missing"),
    ]:
        with pytest.raises(FileNotFoundError) as error:
            await call()
        assert error.value.filename == name


# --- temporary files ----------------------------------------------------------------------------------------------


async def test_a_temporary_file(loop, folder):
    before = set(os.listdir("folder"))
    async with fs.TemporaryFile(dir="folder") as file:
        assert set(os.listdir("folder")) == before
        await file.write(b"abc")
        await file.seek(0)
        assert await file.read() == b"abc"
    async with fs.TemporaryFile("w+", encoding="utf-8") as text:
        await text.write("\N{SNOWMAN}")
        await text.seek(0)
        assert await text.read() == "\N{SNOWMAN}"
    with pytest.raises(ValueError):
        fs.TemporaryFile("q")
    with pytest.raises(FileNotFoundError):
        await fs.TemporaryFile(dir="missing")


async def test_a_named_temporary_file(loop, folder):
    async with fs.NamedTemporaryFile(suffix=".x", prefix="y", dir="folder") as file:
        assert os.path.basename(file.name).startswith("y") and file.name.endswith(".x")
        assert stat.S_IMODE(os.stat(file.name).st_mode) == 0o600
    assert not os.path.exists(file.name)
    async with fs.NamedTemporaryFile("w", dir=b"folder", delete=False) as file:
        await file.write("kept")
    assert Path(os.fsdecode(file.name)).read_text() == "kept"
    with pytest.raises(TypeError):
        await fs.NamedTemporaryFile(dir=b"folder", prefix="text")
    file = await fs.NamedTemporaryFile(dir="folder")
    name = file.name
    with pytest.warns(ResourceWarning, match="unclosed file"):
        del file
        gc.collect()
    assert not os.path.exists(name)


async def test_mkstemp_and_mkdtemp(loop, folder):
    number, path = await fs.mkstemp(dir="folder")
    os.write(number, b"x")
    os.close(number)
    assert Path(path).read_bytes() == b"x"
    assert os.path.isabs(path)
    made = await fs.mkdtemp("suffix", "prefix", "folder")
    assert stat.S_IMODE(os.stat(made).st_mode) == 0o700
    async with fs.TemporaryDirectory(dir="folder") as made:
        Path(made, "x").mkdir()
        Path(made, "x/y").touch()
    assert not os.path.exists(made)
    async with fs.TemporaryDirectory(delete=False) as made:
        pass
    os.rmdir(made)
    directory = await fs.TemporaryDirectory()
    name = directory.name
    await directory.cleanup()
    await directory.cleanup()
    assert not os.path.exists(name)
    directory = await fs.TemporaryDirectory()
    name = directory.name
    with pytest.warns(ResourceWarning, match="implicitly cleaning up"):
        del directory
        gc.collect()
    assert not os.path.exists(name)


async def test_a_cancelled_temporary_file_is_not_left(loop, folder):
    for make in (fs.mkstemp, fs.mkdtemp, lambda **options: fs.NamedTemporaryFile(**options)):
        for turns in range(3):
            task = asyncio.ensure_future(make(dir=str(folder / "folder")))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                made = await task
                if isinstance(made, tuple):
                    os.close(made[0])
                elif not isinstance(made, str):
                    await made.close()
    for name in set(os.listdir("folder")) - {"inside"}:
        raise AssertionError(f"{name} is left")


# --- the module ---------------------------------------------------------------------------------------------------


def test_it_is_there_on_first_use():
    assert loopfast.fs is fs
    assert "fs" in dir(loopfast)
    assert set(fs.__all__) <= set(dir(fs))


async def test_awaitables_in_the_hands_of_asyncio(loop, folder):
    task = asyncio.create_task(fs.read_bytes("file"))
    assert await asyncio.wait_for(task, 10) == b"content\n"
    assert await asyncio.gather(fs.exists("file"), fs.stat("file"), fs.listdir("full"))
    await (await asyncio.wait_for(fs.open("file"), 10)).close()


async def test_awaited_twice_or_never(loop, folder):
    request = fs.stat("file")
    assert "not awaited" in repr(request)
    await request
    with pytest.raises(RuntimeError, match="already awaited"):
        await request
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del request
        fs.stat("file")
        gc.collect()
    assert [str(item.message) for item in caught] == ["coroutine 'loopfast.fs.stat' was never awaited"]
    request = fs.stat("file")
    request.close()
    opening = fs.open("file")
    file = await opening
    with pytest.raises(RuntimeError, match="opened once"):
        await opening
    await file.close()
