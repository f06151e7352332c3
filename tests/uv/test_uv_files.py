"""The file system: operations at once and in the thread pool, and the two watchers."""

from __future__ import annotations

import errno
import gc
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loopfast import uv
from loopfast.uv import fs


@pytest.fixture
def loop() -> Iterator[uv.Loop]:
    with uv.Loop() as loop:
        yield loop


@pytest.fixture(params=["at once", "in the pool"])
def call(request: pytest.FixtureRequest, loop: uv.Loop) -> Any:
    """Calls a function of fs in one of the two ways; the result and the errors must be the same."""
    if request.param == "at once":
        return lambda function, *arguments, **options: function(*arguments, **options)

    def pooled(function: Any, *arguments: Any, **options: Any) -> Any:
        found: list[Any] = []
        options |= {"loop": loop, "callback": lambda result, error: found.append((result, error))}
        pending = function(*arguments, **options)
        assert isinstance(pending, uv.FSRequest) and not pending.done and not found
        assert pending.type == uv.RequestType.FS
        loop.run()
        assert pending.done and len(found) == 1 and pending.path is None
        result, error = found[0]
        if error is not None:
            assert result is None
            raise error
        return result

    return pooled


def test_reading_and_writing(call: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    file = call(fs.open, path, os.O_CREAT | os.O_RDWR, 0o640)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert call(fs.write, file, b"hello") == 5
    assert call(fs.write, file, [b" ", bytearray(b"wor"), memoryview(b"ld")]) == 6
    assert call(fs.write, file, b"J", 0) == 1
    assert call(fs.write, file, b"") == 0
    assert call(fs.read, file, 100, 0) == b"Jello world"
    assert call(fs.read, file, 3, 2) == b"llo"
    assert call(fs.read, file, 10, 100) == b"" == call(fs.read, file, 0, 0)
    assert call(fs.fsync, file) is None and call(fs.fdatasync, file) is None
    call(fs.ftruncate, file, 4)
    assert call(fs.fstat, file).st_size == 4
    call(fs.close, file)
    assert path.read_bytes() == b"Jell"
    with path.open("rb") as opened:
        assert call(fs.read, opened, 4) == b"Jell"
    with pytest.raises(OSError) as caught:
        call(fs.close, file)
    assert caught.value.errno == errno.EBADF


def test_what_is_known_of_files(call: Any, tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"12345")
    call(fs.symlink, path, link)
    theirs = path.stat()
    ours = call(fs.stat, link)
    for name in ("st_dev", "st_mode", "st_nlink", "st_uid", "st_gid", "st_ino", "st_size", "st_blocks"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("st_atime_ns", "st_mtime_ns", "st_ctime_ns"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert stat.S_ISLNK(call(fs.lstat, link).st_mode)
    assert call(fs.readlink, link) == str(path) == call(fs.realpath, link)
    assert call(fs.statfs, tmp_path).f_bsize == os.statvfs(tmp_path).f_bsize
    call(fs.utime, path, 1000.5, 2000.25)
    assert (path.stat().st_atime, path.stat().st_mtime) == (1000.5, 2000.25)
    call(fs.lutime, link, 5, 6)
    assert link.lstat().st_mtime == 6 and path.stat().st_mtime == 2000.25
    with path.open("r+") as file:
        call(fs.futime, file, 7, 8)
        assert path.stat().st_mtime == 8
        call(fs.fchmod, file, 0o600)
        call(fs.fchown, file, -1, -1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    call(fs.chmod, path, 0o644)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    if uv.version_number() >= 0x013300:
        call(fs.utime, path, fs.UTIME_OMIT, fs.UTIME_NOW)
        assert path.stat().st_atime == 7 and abs(path.stat().st_mtime - time.time()) < 60
    call(fs.chown, path, os.getuid(), os.getgid())
    call(fs.lchown, link, -1, -1)
    call(fs.access, path)
    call(fs.access, path, os.R_OK | os.W_OK)


def test_names(call: Any, tmp_path: Path) -> None:
    one, two, three = tmp_path / "one", tmp_path / "two", tmp_path / "three"
    one.write_bytes(b"text")
    call(fs.link, one, two)
    assert one.stat().st_nlink == 2
    call(fs.rename, two, three)
    call(fs.copyfile, three, two)
    assert two.read_bytes() == b"text" and two.stat().st_nlink == 1
    with pytest.raises(FileExistsError):
        call(fs.copyfile, one, two, fs.CopyFileFlag.EXCL)
    call(fs.unlink, one)
    assert not one.exists()
    with two.open("rb") as source, one.open("wb") as target:
        assert call(fs.sendfile, target, source, 1, 100) == 3
    assert one.read_bytes() == b"ext"


def test_directories(call: Any, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    call(fs.mkdir, folder, 0o750)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    made = call(fs.mkdtemp, folder / "dir-XXXXXX")
    assert Path(made).is_dir() and made.startswith(str(folder / "dir-"))
    number, name = call(fs.mkstemp, str(folder / "file-XXXXXX"))
    assert os.fstat(number).st_ino == os.stat(name).st_ino
    os.close(number)
    (folder / "ünï").symlink_to("nowhere")
    expected = {
        (os.path.basename(made), fs.DirentType.DIR),
        (os.path.basename(name), fs.DirentType.FILE),
        ("ünï", fs.DirentType.LINK),
    }
    assert set(call(fs.scandir, folder)) == expected
    directory = call(fs.opendir, folder)
    found = []
    while some := call(fs.readdir, directory, 2):
        assert 1 <= len(some) <= 2
        found += some
    assert set(found) == expected and not directory.closed
    call(fs.closedir, directory)
    assert directory.closed
    for function in (fs.readdir, fs.closedir):
        with pytest.raises(ValueError, match="closed directory"):
            call(function, directory)
    with call(fs.opendir, folder) as directory:
        assert set(directory) == expected
    assert directory.closed
    call(fs.rmdir, made)
    with pytest.raises(OSError) as caught:
        call(fs.rmdir, folder)
    assert caught.value.errno == errno.ENOTEMPTY and caught.value.filename == folder


def test_errors_name_the_file(call: Any, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for function, arguments in (
        (fs.open, ()),
        (fs.stat, ()),
        (fs.lstat, ()),
        (fs.statfs, ()),
        (fs.access, ()),
        (fs.unlink, ()),
        (fs.rmdir, ()),
        (fs.scandir, ()),
        (fs.opendir, ()),
        (fs.readlink, ()),
        (fs.realpath, ()),
        (fs.chmod, (0o600,)),
        (fs.utime, (1, 1)),
        (fs.rename, (tmp_path / "other",)),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            call(function, missing, *arguments)
        assert caught.value.filename == missing, function


@pytest.mark.parametrize(
    ("function", "arguments", "kind"),
    [
        (fs.stat, (7,), TypeError),
        (fs.stat, (None,), TypeError),
        (fs.stat, ("a\0b",), ValueError),
        (fs.fstat, ("x",), TypeError),
        (fs.fstat, (-1,), ValueError),
        (fs.read, (0, -1), ValueError),
        (fs.read, (0, "x"), TypeError),
        (fs.write, (1, "text"), TypeError),
        (fs.rename, ("a", 7), TypeError),
        (fs.open, ("a", "r"), TypeError),
        (fs.utime, ("a", "x", 1), TypeError),
    ],
)
def test_wrong_arguments(call: Any, loop: uv.Loop, function: Any, arguments: Any, kind: Any) -> None:
    with pytest.raises(kind):
        call(function, *arguments)
    assert not loop.alive


def test_loop_and_callback_belong_together(loop: uv.Loop) -> None:
    for options in ({"loop": loop}, {"callback": print}):
        for function in (fs.stat, uv.getaddrinfo):
            with pytest.raises(TypeError, match="belong together"):
                function("/", **options)
        with pytest.raises(TypeError, match="belong together"):
            uv.random(8, **options)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="Loop is needed"):
        fs.stat("/", loop=7, callback=print)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="callable"):
        fs.stat("/", loop=loop, callback=7)  # type: ignore[call-overload]


def test_a_directory_in_use(loop: uv.Loop, tmp_path: Path) -> None:
    directory = fs.opendir(tmp_path)
    request = fs.readdir(directory, loop=loop, callback=lambda entries, error: None)
    for function in (fs.readdir, fs.closedir):
        with pytest.raises(RuntimeError, match="under way"):
            function(directory)
    loop.run()
    assert request.done and fs.readdir(directory) == []
    fs.closedir(directory, loop=loop, callback=lambda result, error: None)
    assert directory.closed
    loop.run()


def test_a_dropped_directory(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd") else []
    directory = fs.opendir(tmp_path)
    with pytest.warns(ResourceWarning, match="unclosed directory"):
        del directory
        gc.collect()
    assert not before or os.listdir("/proc/self/fd") == before


def test_the_exception_of_a_callback(loop: uv.Loop) -> None:
    def fail(result: Any, error: Any) -> None:
        raise ZeroDivisionError

    fs.stat("/", loop=loop, callback=fail)
    with pytest.raises(ZeroDivisionError):
        loop.run()


def test_requests_dropped_at_once(loop: uv.Loop, tmp_path: Path) -> None:
    results: list[Any] = []
    file = fs.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    for index in range(50):
        fs.write(file, bytearray(b"%03d" % index), index * 3, loop=loop, callback=lambda *args: results.append(args))
    gc.collect()
    loop.run()
    assert results == [(3, None)] * 50
    assert fs.read(file, 1000, 0) == b"".join(b"%03d" % index for index in range(50))
    fs.close(file)


def test_handles_of_the_system() -> None:
    assert fs.open_osfhandle(fs.get_osfhandle(1)) == 1


# ---------------------------------------------------------------------------------------------------------- watchers


def test_fs_event(loop: uv.Loop, tmp_path: Path) -> None:
    seen: list[Any] = []
    watch = uv.FSEvent(loop)

    def on_event(watch: uv.FSEvent, name: str | None, events: uv.FSEventKind, error: Exception | None) -> None:
        seen.append((name, error))
        if events & uv.FSEventKind.RENAME and name == "ünï":
            watch.close()

    watch.start(on_event, tmp_path)
    assert watch.getpath() == str(tmp_path)
    with pytest.raises(OSError) as caught:
        watch.start(on_event, tmp_path)
    assert caught.value.errno == errno.EINVAL
    (tmp_path / "ünï").write_bytes(b"x")
    loop.run()
    assert ("ünï", None) in seen
    other = uv.FSEvent(loop)
    with pytest.raises(FileNotFoundError) as caught:
        other.start(print, tmp_path / "missing")
    assert caught.value.filename == tmp_path / "missing"
    with pytest.raises(OSError):
        other.getpath()
    other.start(lambda *_: None, tmp_path)
    other.stop()
    assert not other.active


def test_fs_poll(loop: uv.Loop, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    seen: list[Any] = []
    watch = uv.FSPoll(loop)

    def on_poll(watch: uv.FSPoll, previous: fs.Stat, current: fs.Stat, error: Exception | None) -> None:
        seen.append((previous.st_size, current.st_size, error))
        if error is None:
            path.unlink()
        else:
            watch.close()

    watch.start(on_poll, path, 10)
    assert watch.getpath() == str(path)
    with pytest.raises(OSError) as caught:
        watch.start(on_poll, path, 10)
    assert caught.value.errno == errno.EALREADY
    change = uv.Timer(loop)
    # Until it is noticed: what changes before the first look is no change.
    change.start(lambda timer: timer.close() if seen else path.write_bytes(path.read_bytes() + b"y"), 30, 30)
    loop.run()
    assert seen[0][1] > seen[0][0] and isinstance(seen[-1][2], FileNotFoundError)
    with pytest.raises(ValueError, match="interval_ms"):
        uv.FSPoll(loop).start(print, path, -1)


def test_only_opendir_makes_directories() -> None:
    # What cffi takes for a uv_dir_t * was freed as one.
    with pytest.raises(TypeError, match="opendir"):
        fs.Dir([])
    with pytest.raises(TypeError, match="opendir"):
        fs.Dir()
    unopened = fs.Dir.__new__(fs.Dir)
    assert unopened.closed
    with pytest.raises(ValueError, match="closed directory"):
        next(unopened)
