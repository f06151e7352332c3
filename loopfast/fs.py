"""Asynchronous files: ``async with loopfast.fs.open(path) as file`` and the functions of ``os``, with ``await``.

For loopfast's loops only. What may wait for a disk runs in libuv's threads (four; ``UV_THREADPOOL_SIZE`` sets another
number before the first use), and where the environment sets ``UV_USE_IO_URING=1``, plain requests in the kernel's ring.
Paths are text, bytes or ``os.PathLike``, results and errors those of ``os``, with the names in ``filename`` and
``filename2``. A wrong argument is told by the call, everything else by its ``await``.

A cancelled call is not begun if it still waits for a thread; else it runs to its end, unseen.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import stat as _stat
from collections.abc import AsyncIterator, Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from loopfast import fsops
from loopfast._files import BinaryFile, Opening
from loopfast._opening import check_newline, opening, text_encoding, text_errors
from loopfast._tempfiles import NamedTemporaryFile, TemporaryDirectory, TemporaryFile, mkdtemp, mkstemp
from loopfast._textfiles import TextFile
from loopfast.fsops import Descriptor, DirEntry

if TYPE_CHECKING:
    from _typeshed import OpenBinaryMode, OpenTextMode, ReadableBuffer, StrOrBytesPath, StrPath

__all__ = [
    "BinaryFile",
    "DirEntry",
    "NamedTemporaryFile",
    "Opening",
    "ScanDir",
    "TemporaryDirectory",
    "TemporaryFile",
    "TextFile",
    "access",
    "chmod",
    "chown",
    "copyfile",
    "copytree",
    "exists",
    "fdatasync",
    "fsync",
    "isdir",
    "isfile",
    "islink",
    "link",
    "listdir",
    "lstat",
    "makedirs",
    "mkdir",
    "mkdtemp",
    "mkstemp",
    "open",
    "read_bytes",
    "read_text",
    "readlink",
    "realpath",
    "remove",
    "rename",
    "replace",
    "rmdir",
    "rmtree",
    "scandir",
    "sendfile",
    "stat",
    "statvfs",
    "symlink",
    "truncate",
    "unlink",
    "utime",
    "walk",
    "write_bytes",
    "write_text",
]

_T = TypeVar("_T")
_P = TypeVar("_P", str, bytes)


# ---------------------------------------------------------------------------------------------------------- open files


@overload
def open(
    file: StrOrBytesPath | int,
    mode: OpenTextMode = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
) -> Opening[TextFile]: ...
@overload
def open(
    file: StrOrBytesPath | int,
    mode: OpenBinaryMode,
    buffering: int = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
) -> Opening[BinaryFile]: ...
@overload
def open(
    file: StrOrBytesPath | int,
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
) -> Opening[Any]: ...


def open(
    file: StrOrBytesPath | int,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
) -> Opening[Any]:
    """Open a file: ``async with open(path) as file`` or ``file = await open(path)``.

    Args:
        file: the path, or a descriptor.
        mode: ``r``, ``w``, ``x`` or ``a``, with ``+`` to read and write, ``b`` for bytes.
        buffering: bytes of the buffer; 0 none (bytes only), 1 flushes at the ends of lines (text only).
        encoding: of text; that of the locale by default.
        errors: what becomes of text that cannot be encoded or decoded, as in ``codecs``.
        newline: which ends of lines are translated.
        closefd: close the descriptor *file* with the file.

    Returns:
        What gives a `TextFile` or a `BinaryFile` when it is awaited or entered.

    Raises:
        ValueError, TypeError, LookupError: an argument or their combination is wrong.
        OSError: by the ``await``: the file cannot be opened, or is a directory.

    Source: https://docs.python.org/3/library/functions.html#open
    """
    return opening(file, mode, buffering, encoding, errors, newline, closefd)


# --------------------------------------------------------------------------------------------------------- whole files


def read_bytes(path: StrOrBytesPath) -> Coroutine[Any, Any, bytes]:
    """Return what is in the file *path*.

    Raises:
        OSError: it cannot be opened or read.
    """
    return fsops.on_path(fsops.READ_WHOLE, path)


async def read_text(
    path: StrOrBytesPath, encoding: str | None = None, errors: str | None = None, newline: str | None = None
) -> str:
    """Return what is in the file *path* as text. *encoding*, *errors* and *newline* are those of `open`.

    Raises:
        OSError: it cannot be opened or read.
        UnicodeError: it cannot be decoded.
    """
    check_newline(newline)
    name, handler = text_encoding(encoding), text_errors(errors)
    text: str = (await fsops.on_path(fsops.READ_WHOLE, path)).decode(name, handler)
    if newline is None and "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text


def write_bytes(path: StrOrBytesPath, data: ReadableBuffer) -> Coroutine[Any, Any, int]:
    """Make *data* the content of the file *path*, which is made if need be; return the number of bytes.

    *data* must not change meanwhile. Cancelled, it is written wholly or the file is left alone.

    Raises:
        TypeError: *data* is not bytes-like.
        OSError: the file cannot be opened or written.
    """
    if isinstance(data, str):
        raise TypeError("a bytes-like object is required, not 'str'")
    return fsops.writing(fsops.WRITE_WHOLE, path, data, 0, 0o666, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)


async def write_text(
    path: StrOrBytesPath,
    text: str,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
) -> int:
    """Make *text* the content of the file *path*; return the number of characters. The rest is as of `open`.

    Raises:
        TypeError: *text* is no string.
        UnicodeError: it cannot be encoded.
        OSError: the file cannot be opened or written.
    """
    if not isinstance(text, str):
        raise TypeError(f"data must be str, not {type(text).__name__}")
    check_newline(newline)
    ending = os.linesep if newline is None else newline
    size = len(text)
    if ending not in ("", "\n"):
        text = text.replace("\n", ending)
    await write_bytes(path, text.encode(text_encoding(encoding), text_errors(errors)))
    return size


# ------------------------------------------------------------------------------------------------------------- status


def stat(path: StrOrBytesPath | int, *, follow_symlinks: bool = True) -> Coroutine[Any, Any, os.stat_result]:
    """Return the status of a path or descriptor; with *follow_symlinks* that of what a link leads to.

    Raises:
        OSError: there is nothing, or it may not be looked at.

    Source: https://docs.python.org/3/library/os.html#os.stat
    """
    if isinstance(path, int):
        if not follow_symlinks:
            raise ValueError("stat: cannot use fd and follow_symlinks together")
        return fsops.on_file(fsops.FSTAT, path, is_named=True)
    return fsops.on_path(fsops.STAT if follow_symlinks else fsops.LSTAT, path)


def lstat(path: StrOrBytesPath) -> Coroutine[Any, Any, os.stat_result]:
    """Return the status of *path*, of a link its own.

    Raises:
        OSError: there is nothing, or it may not be looked at.
    """
    return fsops.on_path(fsops.LSTAT, path)


async def _mode_of(path: Any, follow_symlinks: bool = True) -> int:
    """The st_mode of *path*, 0 where os.path takes it for nothing."""
    try:
        return (await stat(path, follow_symlinks=follow_symlinks)).st_mode
    except (OSError, ValueError):
        return 0


async def exists(path: StrOrBytesPath | int) -> bool:
    """Return True if *path* leads to something. As ``os.path.exists``."""
    return bool(await _mode_of(path))


async def isfile(path: StrOrBytesPath | int) -> bool:
    """Return True if *path* leads to a regular file. As ``os.path.isfile``."""
    return _stat.S_ISREG(await _mode_of(path))


async def isdir(path: StrOrBytesPath | int) -> bool:
    """Return True if *path* leads to a directory. As ``os.path.isdir``."""
    return _stat.S_ISDIR(await _mode_of(path))


async def islink(path: StrOrBytesPath) -> bool:
    """Return True if *path* is a symbolic link. As ``os.path.islink``."""
    return _stat.S_ISLNK(await _mode_of(path, False))


async def access(path: StrOrBytesPath, mode: int) -> bool:
    """Return True if this process may do with *path* what *mode* says (``os.R_OK`` and so on). As ``os.access``."""
    try:
        await fsops.on_path(fsops.ACCESS, path, mode)
    except OSError:
        return False
    return True


def statvfs(path: StrOrBytesPath | int) -> Coroutine[Any, Any, os.statvfs_result]:
    """Return what the system knows of the file system of a path or descriptor. As ``os.statvfs``.

    Raises:
        OSError: there is nothing, or it may not be looked at.
    """
    if isinstance(path, int):
        return fsops.on_file(fsops.STATVFS, path, is_named=True)
    return fsops.on_path(fsops.STATVFS, path)


def readlink(path: StrOrBytesPath) -> Coroutine[Any, Any, Any]:
    """Return where the symbolic link *path* leads, as text, or as bytes if *path* is.

    Raises:
        OSError: there is nothing, or no link.
    """
    return fsops.on_path(fsops.READLINK, path)


async def realpath(path: StrOrBytesPath, *, strict: bool = False) -> Any:
    """Return *path* without links, and absolute. As ``os.path.realpath``.

    Raises:
        OSError: with *strict*: something on the way does not exist, or links lead in a circle.
    """
    try:
        return await fsops.on_path(fsops.REALPATH, path)
    except OSError:
        if strict:
            raise
    # What is left when something does not exist is a matter of names.
    return await _in_executor(os.path.realpath, path)


async def _in_executor(function: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
    """For what is rare and which the standard library knows best."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, functools.partial(function, *args, **kwargs))


# ------------------------------------------------------------------------------------------------------------- changes


def mkdir(path: StrOrBytesPath, mode: int = 0o777) -> Coroutine[Any, Any, None]:
    """Make a directory.

    Raises:
        FileExistsError: there is something.
        OSError: it cannot be made.
    """
    return fsops.on_path(fsops.MKDIR, path, mode)


async def makedirs(path: StrOrBytesPath, mode: int = 0o777, exist_ok: bool = False) -> None:
    """Make a directory and those above it that are missing. *mode* is for the last one. As ``os.makedirs``.

    Raises:
        FileExistsError: there is something, and no directory or not *exist_ok*.
        OSError: it cannot be made.
    """
    name = os.fspath(path)
    head, tail = os.path.split(name)
    if not tail:
        head, tail = os.path.split(head)
    if head and tail and not await exists(head):
        with contextlib.suppress(FileExistsError):
            await makedirs(head, exist_ok=exist_ok)
        if tail == (b"." if isinstance(tail, bytes) else "."):
            return
    try:
        await mkdir(name, mode)
    except OSError:
        if not exist_ok or not await isdir(name):
            raise


def rmdir(path: StrOrBytesPath) -> Coroutine[Any, Any, None]:
    """Remove an empty directory.

    Raises:
        OSError: there is none, or it cannot be removed.
    """
    return fsops.on_path(fsops.RMDIR, path)


def remove(path: StrOrBytesPath) -> Coroutine[Any, Any, None]:
    """Remove a file or link.

    Raises:
        OSError: there is nothing, or it is a directory, or cannot be removed.
    """
    return fsops.on_path(fsops.UNLINK, path)


unlink = remove


async def rmtree(path: StrOrBytesPath, ignore_errors: bool = False) -> None:
    """Remove a directory with all that is in it: ``shutil.rmtree`` in the loop's executor."""
    await _in_executor(shutil.rmtree, path, ignore_errors)


def rename(src: StrOrBytesPath, dst: StrOrBytesPath) -> Coroutine[Any, Any, None]:
    """Rename *src* to *dst*, in the place of a file of that name.

    Raises:
        OSError: it cannot be done, as across file systems.
    """
    return fsops.on_paths(fsops.RENAME, src, dst)


replace = rename


def link(src: StrOrBytesPath, dst: StrOrBytesPath) -> Coroutine[Any, Any, None]:
    """Make *dst* another name of the file *src*.

    Raises:
        OSError: it cannot be done.
    """
    return fsops.on_paths(fsops.LINK, src, dst)


def symlink(src: StrOrBytesPath, dst: StrOrBytesPath) -> Coroutine[Any, Any, None]:
    """Make *dst* a symbolic link to *src*.

    Raises:
        OSError: it cannot be made.
    """
    return fsops.on_paths(fsops.SYMLINK, src, dst)


def chmod(path: StrOrBytesPath | int, mode: int) -> Coroutine[Any, Any, None]:
    """Set the permissions of a path or descriptor.

    Raises:
        OSError: it cannot be done.
    """
    if isinstance(path, int):
        return fsops.on_file(fsops.FCHMOD, path, mode, is_named=True)
    return fsops.on_path(fsops.CHMOD, path, mode)


def chown(path: StrOrBytesPath | int, uid: int, gid: int, *, follow_symlinks: bool = True) -> Coroutine[Any, Any, None]:
    """Set owner and group of a path or descriptor; -1 leaves one as it is.

    Raises:
        OSError: it cannot be done.
        OverflowError: *uid* or *gid* is no such number.
    """
    if isinstance(path, int):
        if not follow_symlinks:
            raise ValueError("chown: cannot use fd and follow_symlinks together")
        return fsops.on_owner(fsops.FCHOWN, path, uid, gid)
    return fsops.on_owner(fsops.CHOWN if follow_symlinks else fsops.LCHOWN, path, uid, gid)


def utime(
    path: StrOrBytesPath | int,
    times: tuple[float, float] | None = None,
    *,
    ns: tuple[int, int] | None = None,
    follow_symlinks: bool = True,
) -> Coroutine[Any, Any, None]:
    """Set the times of the last access and change of a path or descriptor. As ``os.utime``.

    Args:
        path: the path or descriptor.
        times: both in seconds.
        ns: both in nanoseconds, instead; without either it is now.
        follow_symlinks: False for a link's own.

    Raises:
        OSError: it cannot be done.
        ValueError, TypeError: *times* and *ns* are given both, or not two numbers.
    """
    if times is not None and ns is not None:
        raise ValueError("utime: you may specify either 'times' or 'ns' but not both")
    flags = 0 if follow_symlinks else 2
    pair = times if times is not None else ns
    parts = [0, 0, 0, 0]
    if pair is None:
        flags |= 1
    else:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError(f"utime: {'times' if times is not None else 'ns'} must be a tuple of two numbers")
        for number, value in enumerate(pair):
            if ns is None:
                seconds = int(value // 1)
                nanoseconds = int((value - seconds) * 1_000_000_000)
            else:
                seconds, nanoseconds = divmod(value, 1_000_000_000)  # type: ignore[assignment]
            parts[2 * number : 2 * number + 2] = seconds, nanoseconds
    is_number = isinstance(path, int)
    if is_number and not follow_symlinks:
        raise ValueError("utime: cannot use fd and follow_symlinks together")
    return fsops.on_times(path, not is_number, parts, flags)


def truncate(path: StrOrBytesPath | int, length: int) -> Coroutine[Any, Any, None]:
    """Give the file of a path or descriptor *length* bytes.

    Raises:
        OSError: it cannot be done.
    """
    if isinstance(path, int):
        return fsops.on_file(fsops.FTRUNCATE, path, 0, length, is_named=True)
    return fsops.on_size(path, length)


# --------------------------------------------------------------------------------------------------------- descriptors


def _number(file: Any) -> Any:
    """The descriptor of *file*: an open file of ours, what has a fileno(), or a number."""
    if isinstance(file, TextFile):
        file = file.buffer
    if isinstance(file, BinaryFile):
        file.fileno()
        return file._fd
    return file if isinstance(file, int) else file.fileno()


def fsync(fd: Any) -> Coroutine[Any, Any, None]:
    """Have the system write the file of a descriptor, and what it knows of it, to the device.

    Raises:
        OSError: it failed.
    """
    return fsops.on_file(fsops.FSYNC, _number(fd))


def fdatasync(fd: Any) -> Coroutine[Any, Any, None]:
    """Have the system write the file of a descriptor to the device, and of what it knows only what reading needs.

    Raises:
        OSError: it failed.
    """
    return fsops.on_file(fsops.FDATASYNC, _number(fd))


def sendfile(out_fd: Any, in_fd: Any, offset: int, count: int) -> Coroutine[Any, Any, int]:
    """Copy up to *count* bytes, from *offset* of one descriptor to another, within the kernel; return how many.

    Raises:
        OSError: it failed.
        ValueError: *offset* or *count* is negative.

    Source: https://docs.python.org/3/library/os.html#os.sendfile
    """
    if offset < 0 or count < 0:
        raise ValueError(f"sendfile: offset and count must not be negative, got {offset!r}, {count!r}")
    target = _number(out_fd)
    number = target.number if isinstance(target, Descriptor) else target
    return fsops.on_file(fsops.SENDFILE, _number(in_fd), number, offset, count)


# ------------------------------------------------------------------------------------------------------------- copies


def copyfile(
    src: StrOrBytesPath, dst: StrOrBytesPath, *, exclusive: bool = False, copy_mode: bool = False
) -> Coroutine[Any, Any, None]:
    """Make the content of *src* that of *dst*, in the kernel where it can. Links are followed.

    Args:
        src: the file to copy.
        dst: the path of the copy.
        exclusive: refuse to overwrite a file.
        copy_mode: give *dst* the permissions of *src*, too.

    Raises:
        shutil.SameFileError: both are one file.
        shutil.SpecialFileError: one is a named pipe.
        OSError: one cannot be opened, read or written.
    """
    return fsops.on_paths(fsops.COPY, src, dst, int(copy_mode), os.O_EXCL if exclusive else 0)


async def copytree(src: StrPath, dst: StrPath, *, dirs_exist_ok: bool = False) -> str:
    """Copy the directory *src* with all that is in it to *dst*; return that.

    Files get the permissions of the originals, symbolic links are copied as such, pipes and devices left out. Several
    files are copied at once.

    Raises:
        FileExistsError: *dst* exists, and not *dirs_exist_ok*.
        OSError: something cannot be copied; what was copied by then stays.
    """
    # Enough for every thread, few enough not to fill the queue of the threads for others.
    slots = asyncio.Semaphore(32)

    async def copy(entry: DirEntry[str], target: str) -> None:
        async with slots:
            if entry.is_symlink():
                await symlink(await readlink(entry.path), target)
            elif entry.is_file():
                await copyfile(entry.path, target, copy_mode=True)

    async def copy_folder(source: str, target: str) -> None:
        async with slots:
            info = await stat(source)
            try:
                # The owner must be able to write while it is filled.
                await mkdir(target, _stat.S_IMODE(info.st_mode) | 0o700)
            except FileExistsError:
                if not dirs_exist_ok:
                    raise
            entries = await fsops.on_path(fsops.SCAN, source, 1)
        async with asyncio.TaskGroup() as group:
            for entry in entries:
                goal = os.path.join(target, entry.name)
                is_folder = entry.is_dir(follow_symlinks=False)
                group.create_task(copy_folder(entry.path, goal) if is_folder else copy(entry, goal))
        await chmod(target, _stat.S_IMODE(info.st_mode))

    goal = os.fspath(dst)
    try:
        await copy_folder(os.fspath(src), goal)
    except BaseExceptionGroup as group:
        failure: BaseException = group
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        raise failure from None
    return goal


# ------------------------------------------------------------------------------------------------------------- folders


class ScanDir(Generic[_P]):
    """What `scandir` returns: an asynchronous iterator of `DirEntry`, and an asynchronous context manager."""

    def __init__(self, path: Any) -> None:
        self._path = path
        self._entries: Any = None
        self._is_closed = False

    def __aiter__(self) -> ScanDir[_P]:
        return self

    async def __anext__(self) -> DirEntry[_P]:
        if self._entries is None and not self._is_closed:
            self._entries = iter(await fsops.on_path(fsops.SCAN, self._path, 1))
        for entry in self._entries or ():
            return entry  # type: ignore[no-any-return]
        raise StopAsyncIteration

    async def __aenter__(self) -> ScanDir[_P]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closed, self._entries = True, None

    async def aclose(self) -> None:
        """Forget the entries that are left. Idempotent."""
        self._is_closed, self._entries = True, None


@overload
def scandir(path: str | os.PathLike[str] = ".") -> ScanDir[str]: ...
@overload
def scandir(path: bytes | os.PathLike[bytes]) -> ScanDir[bytes]: ...


def scandir(path: Any = ".") -> Any:
    """Iterate over what is in a directory: ``async for entry in scandir(path)``; nothing stays open.

    All of it is read by the first step, in the order of the system, without ``.`` and ``..``.

    Raises:
        OSError: in the first step: there is no such directory, or it may not be read.

    Source: https://docs.python.org/3/library/os.html#os.scandir
    """
    os.fspath(path)
    return ScanDir(path)


@overload
def listdir(path: str | os.PathLike[str] = ".") -> Coroutine[Any, Any, list[str]]: ...
@overload
def listdir(path: bytes | os.PathLike[bytes]) -> Coroutine[Any, Any, list[bytes]]: ...


def listdir(path: Any = ".") -> Any:
    """Return the names in a directory, in the order of the system, without ``.`` and ``..``.

    Raises:
        OSError: there is no such directory, or it may not be read.
    """
    return fsops.on_path(fsops.SCAN, path, 0)


async def walk(
    top: Any, topdown: bool = True, onerror: Callable[[OSError], object] | None = None, followlinks: bool = False
) -> AsyncIterator[tuple[Any, list[Any], list[Any]]]:
    """Iterate over a directory and all below it: ``async for folder, folders, files in walk(top)``.

    As ``os.walk`` (https://docs.python.org/3/library/os.html#os.walk): *topdown*, *folders* may be changed to say where
    to go; directories that cannot be read are left out, after a call of *onerror*.
    """
    pending: list[Any] = [os.fspath(top)]
    while pending:
        folder = pending.pop()
        if isinstance(folder, tuple):
            yield folder
            continue
        try:
            entries = await fsops.on_path(fsops.SCAN, folder, 1)
        except OSError as exc:
            if onerror is not None:
                onerror(exc)
            continue
        folders = [entry.name for entry in entries if entry.is_dir()]
        files = [entry.name for entry in entries if not entry.is_dir()]
        links = {entry.name for entry in entries if entry.is_symlink()}
        if topdown:
            yield folder, folders, files
        else:
            pending.append((folder, folders, files))
        for name in reversed(folders):
            path = os.path.join(folder, name)
            # With *topdown* the names may be somebody else's by now.
            if followlinks or not (await islink(path) if topdown and name not in links else name in links):
                pending.append(path)
