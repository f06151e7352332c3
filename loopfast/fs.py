"""Asynchronous files: ``async with loopfast.fs.open(path) as file`` and the functions of ``os``, with ``await``.

For loopfast's loops only. What is done runs in libuv's threads (four; ``UV_THREADPOOL_SIZE`` sets another number before the
first use), never in the loop's, and where the environment sets ``UV_USE_IO_URING=1``, plain requests in the kernel's ring.
Paths are text, bytes or ``os.PathLike``, results and errors those of ``os``, with the names in ``filename`` and
``filename2``. A wrong argument is told by the call, everything else by its ``await``.

A cancelled call is not begun if it still waits for a thread; else it runs to its end, unseen.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import errno
import functools
import io
import locale
import os
import shutil
import stat as _stat
import tempfile
import warnings
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from loopfast import fsops
from loopfast._files import BUFFER_SIZE, BinaryFile, Opening, TextFile, as_bytes
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

#: Names that are tried for a temporary file, as in tempfile.
_TRIES = 10_000


# ---------------------------------------------------------------------------------------------------------- open files


def _parse_mode(mode: str) -> tuple[int, bool]:
    """Return the flags for the system and whether this is about bytes; raise what builtins.open() raises."""
    if not isinstance(mode, str):
        raise TypeError(f"open() argument 'mode' must be str, not {type(mode).__name__}")
    letters = set(mode)
    if letters - set("rwxa+bt") or len(mode) > len(letters):
        raise ValueError(f"invalid mode: {mode!r}")
    if len(letters & set("rwxa")) != 1:
        raise ValueError(f"must have exactly one of create/read/write/append mode: {mode!r}")
    if letters >= {"b", "t"}:
        raise ValueError(f"can't have text and binary mode at once: {mode!r}")
    flags = os.O_RDWR if "+" in letters else os.O_RDONLY if "r" in letters else os.O_WRONLY
    if "w" in letters:
        flags |= os.O_CREAT | os.O_TRUNC
    elif "x" in letters:
        flags |= os.O_CREAT | os.O_EXCL
    elif "a" in letters:
        flags |= os.O_CREAT | os.O_APPEND
    return flags, "b" in letters


def _text_encoding(encoding: str | None) -> str:
    """The name of the encoding, which must be one of text."""
    if encoding is None or encoding == "locale":
        encoding = io.text_encoding(encoding, 3)
        if encoding == "locale":
            encoding = locale.getencoding()
    elif not isinstance(encoding, str):
        raise TypeError(f"open() argument 'encoding' must be str or None, not {type(encoding).__name__}")
    if not getattr(codecs.lookup(encoding), "_is_text_encoding", True):
        raise LookupError(f"{encoding!r} is not a text encoding; use codecs.open() to handle arbitrary codecs")
    return encoding


def _text_errors(errors: str | None) -> str:
    if errors is None:
        return "strict"
    codecs.lookup_error(errors)
    return errors


def _check_newline(newline: str | None) -> None:
    if newline is not None and not isinstance(newline, str):
        raise TypeError(f"open() argument 'newline' must be str or None, not {type(newline).__name__}")
    if newline not in (None, "", "\n", "\r", "\r\n"):
        raise ValueError(f"illegal newline value: {newline!r}")


async def _open(
    request: Awaitable[Any],
    name: Any,
    mode: str,
    buffering: int,
    text: tuple[str, str, str | None] | None,
    closes: bool | None,
) -> Any:
    """Make the file of an open request. *closes*: of a descriptor that was given, whether the file owns it."""
    descriptor, kind, size, position, is_terminal = await request
    if _stat.S_ISCHR(kind):
        # Where a terminal stands means nothing.
        position = -1 if is_terminal else position
    if closes:
        descriptor.is_owned = True
    buffer_size = buffering if buffering > 1 or buffering == 0 else BUFFER_SIZE
    file = BinaryFile(descriptor, name, mode, buffer_size, position, size, closes is not None)
    if text is None:
        return file
    return TextFile(file, *text, buffering == 1 or (buffering < 0 and is_terminal), mode)


def _opening(
    file: Any,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    closefd: bool,
) -> Opening[Any]:
    flags, is_binary = _parse_mode(mode)
    text = None
    if is_binary:
        for name, value in (("encoding", encoding), ("errors", errors), ("newline", newline)):
            if value is not None:
                raise ValueError(f"binary mode doesn't take {name!r}, got {value!r}")
    else:
        _check_newline(newline)
        if buffering == 0:
            raise ValueError("can't have unbuffered text I/O")
        text = _text_encoding(encoding), _text_errors(errors), newline
    if isinstance(file, int):
        if file < 0:
            raise ValueError(f"negative file descriptor: {file!r}")

        def open_number() -> Any:
            descriptor = Descriptor(file, False)
            request = fsops.on_file(fsops.OPEN, descriptor, 0, flags=flags)
            return _open(request, file, mode, buffering, text, closefd)

        return Opening(open_number)
    if not closefd:
        raise ValueError(f"Cannot use closefd=False with file name {file!r}")
    path = os.fspath(file)
    if (b"\0" if isinstance(path, bytes) else "\0") in path:
        raise ValueError(f"embedded null byte in {path!r}")

    def open_path() -> Any:
        return _open(fsops.on_path(fsops.OPEN, path, 0o666, flags), path, mode, buffering, text, None)

    return Opening(open_path)


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
    return _opening(file, mode, buffering, encoding, errors, newline, closefd)


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
    _check_newline(newline)
    name, handler = _text_encoding(encoding), _text_errors(errors)
    text = (await fsops.on_path(fsops.READ_WHOLE, path)).decode(name, handler)
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
    _check_newline(newline)
    ending = os.linesep if newline is None else newline
    size = len(text)
    if ending not in ("", "\n"):
        text = text.replace("\n", ending)
    await write_bytes(path, text.encode(_text_encoding(encoding), _text_errors(errors)))
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


def chown(
    path: StrOrBytesPath | int, uid: int, gid: int, *, follow_symlinks: bool = True
) -> Coroutine[Any, Any, None]:
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


# ---------------------------------------------------------------------------------------------------- temporary files


def _temporary_names(suffix: Any, prefix: Any, dir: Any) -> tuple[Any, Callable[[], Any]]:
    """The directory for temporary files, and what makes names in it; text or bytes as the arguments say."""
    parts = [part if part is None or isinstance(part, (str, bytes)) else os.fspath(part) for part in (suffix, prefix, dir)]
    is_bytes = any(isinstance(part, bytes) for part in parts)
    if is_bytes and any(isinstance(part, str) for part in parts):
        raise TypeError("Can't mix bytes and non-bytes in path components.")
    suffix, prefix, dir = parts
    if dir is None:
        dir = tempfile.gettempdirb() if is_bytes else tempfile.gettempdir()
    suffix = suffix if suffix is not None else b"" if is_bytes else ""
    prefix = prefix if prefix is not None else tempfile.gettempprefixb() if is_bytes else tempfile.gettempprefix()
    folder = os.path.abspath(dir)

    def make() -> Any:
        text = os.urandom(6).hex()
        return os.path.join(folder, prefix + (text.encode() if is_bytes else text) + suffix)

    return folder, make


async def _made(request: fsops.Request[_T], undo: Callable[[Any], None], path: Any) -> _T:
    """Run a request that makes *path* to its end; if this task is cancelled meanwhile, *undo* it then."""

    async def end() -> None:
        if not request.done:
            await request.wait()
        with contextlib.suppress(OSError):
            request.outcome()
            undo(path)

    request.start()
    if not request.done:
        try:
            await request.wait()
        except BaseException:
            task = asyncio.ensure_future(end())
            _endings.add(task)
            task.add_done_callback(_endings.discard)
            raise
    return request.outcome()


#: Tasks that clean up.
_endings: set[asyncio.Task[None]] = set()

_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)


async def _open_temporary(suffix: Any, prefix: Any, dir: Any) -> tuple[tuple[Any, ...], Any]:
    """Return the outcome of an open request for a new file, and its path."""
    _, make = _temporary_names(suffix, prefix, dir)
    for _ in range(_TRIES):
        path = make()
        try:
            return await _made(fsops.on_path(fsops.OPEN, path, 0o600, _NEW_FILE), os.unlink, path), path
        except FileExistsError:
            continue
    raise FileExistsError(errno.EEXIST, "No usable temporary file name found")


async def mkstemp(suffix: Any = None, prefix: Any = None, dir: Any = None) -> tuple[int, Any]:
    """Make a file that only this user may use; return its descriptor, which is the caller's, and its path.

    Raises:
        OSError: it cannot be made.

    Source: https://docs.python.org/3/library/tempfile.html#tempfile.mkstemp
    """
    opened, path = await _open_temporary(suffix, prefix, dir)
    return opened[0].give(), path


async def mkdtemp(suffix: Any = None, prefix: Any = None, dir: Any = None) -> Any:
    """Make a directory that only this user may use; return its path.

    Raises:
        OSError: it cannot be made.

    Source: https://docs.python.org/3/library/tempfile.html#tempfile.mkdtemp
    """
    _, make = _temporary_names(suffix, prefix, dir)
    for _ in range(_TRIES):
        path = make()
        try:
            await _made(fsops.on_path(fsops.MKDIR, path, 0o700), os.rmdir, path)
        except FileExistsError:
            continue
        return path
    raise FileExistsError(errno.EEXIST, "No usable temporary directory name found")


async def _done(outcome: Any) -> Any:
    return outcome


def _temporary(
    mode: str,
    buffering: int,
    encoding: str | None,
    newline: str | None,
    errors: str | None,
    suffix: Any,
    prefix: Any,
    dir: Any,
    delete: bool,
    is_named: bool,
) -> Opening[Any]:
    # The checks of open(), of which nothing is opened.
    _opening("", mode, buffering, encoding, errors, newline, True)
    is_binary = "b" in mode
    text = None if is_binary else (_text_encoding(encoding), _text_errors(errors), newline)

    async def open_it() -> Any:
        opened, path = await _open_temporary(suffix, prefix, dir)
        if not is_named or delete:
            removal = functools.partial(_remove_quietly, path)
            if not is_named:
                removal()
        file = await _open(_done(opened), path if is_named else opened[0].number, mode, buffering, text, None)
        if is_named and delete:
            binary = file if is_binary else file.buffer
            binary._on_close = weakref.finalize(binary, removal)
        return file

    return Opening(open_it)


def _remove_quietly(path: Any) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def TemporaryFile(
    mode: str = "w+b",
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: Any = None,
    prefix: Any = None,
    dir: Any = None,
    *,
    errors: str | None = None,
) -> Opening[Any]:
    """Open a file without a name, which is gone when it is closed. The arguments are those of `open` and `mkstemp`.

    Source: https://docs.python.org/3/library/tempfile.html#tempfile.TemporaryFile
    """
    return _temporary(mode, buffering, encoding, newline, errors, suffix, prefix, dir, True, False)


def NamedTemporaryFile(
    mode: str = "w+b",
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: Any = None,
    prefix: Any = None,
    dir: Any = None,
    delete: bool = True,
    *,
    errors: str | None = None,
) -> Opening[Any]:
    """Open a file whose ``name`` is its path, which is removed when it is closed, unless *delete* is False.

    Source: https://docs.python.org/3/library/tempfile.html#tempfile.NamedTemporaryFile
    """
    return _temporary(mode, buffering, encoding, newline, errors, suffix, prefix, dir, delete, True)


class TemporaryDirectory:
    """A directory that is removed with all that is in it: ``async with TemporaryDirectory() as path``.

    Args:
        suffix: what its name ends with.
        prefix: what it begins with.
        dir: where it is made.
        ignore_cleanup_errors: do not say that something in it could not be removed.
        delete: remove it.

    Source: https://docs.python.org/3/library/tempfile.html#tempfile.TemporaryDirectory
    """

    def __init__(
        self,
        suffix: Any = None,
        prefix: Any = None,
        dir: Any = None,
        ignore_cleanup_errors: bool = False,
        *,
        delete: bool = True,
    ) -> None:
        self._names = suffix, prefix, dir
        self._ignores = ignore_cleanup_errors
        self._deletes = delete
        #: The path, once it is made.
        self.name: Any = None
        self._finalizer: Any = None

    def __await__(self) -> Any:
        return self._make().__await__()

    async def _make(self) -> TemporaryDirectory:
        if self.name is not None:
            raise RuntimeError(f"this directory was made already: {self.name!r}")
        self.name = await mkdtemp(*self._names)
        if self._deletes:
            self._finalizer = weakref.finalize(self, _remove_dropped, self.name, repr(self))
        return self

    def __repr__(self) -> str:
        return f"<loopfast.fs.TemporaryDirectory {self.name!r}>"

    async def __aenter__(self) -> Any:
        await self._make()
        return self.name

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._deletes:
            await self.cleanup()

    async def cleanup(self) -> None:
        """Remove the directory. Idempotent."""
        if self._finalizer is not None:
            self._finalizer.detach()
        if self.name is not None and await exists(self.name):
            await rmtree(self.name, self._ignores)


def _remove_dropped(path: Any, text: str) -> None:
    shutil.rmtree(path, ignore_errors=True)
    warnings.warn(f"implicitly cleaning up {text}", ResourceWarning, stacklevel=2)
