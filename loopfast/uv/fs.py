"""libuv's chapter "File system operations".

Each function takes `loop=` and `callback=`: with both it returns an `FSRequest` at once, works in libuv's thread pool,
and calls `callback(result, error)` in the loop; with neither it waits and returns the result, or raises.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from enum import IntEnum, IntFlag
from typing import Any, Generic, NamedTuple, TypeVar, overload

from loopfast.uv._base import BaseLoop, Unique, descriptor, file_path, whole_number
from loopfast.uv._pool import PoolRequest, both_or_none
from loopfast.uv._stat import Stat, make_stat
from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check, error
from loopfast.uv.stream import Data, buffers

__all__ = [
    "CopyFileFlag",
    "Dir",
    "Dirent",
    "DirentType",
    "FSRequest",
    "Stat",
    "StatFS",
    "SymlinkFlag",
    "UTIME_NOW",
    "UTIME_OMIT",
    "access",
    "chmod",
    "chown",
    "close",
    "closedir",
    "copyfile",
    "fchmod",
    "fchown",
    "fdatasync",
    "fstat",
    "fsync",
    "ftruncate",
    "futime",
    "get_osfhandle",
    "lchown",
    "link",
    "lstat",
    "lutime",
    "mkdir",
    "mkdtemp",
    "mkstemp",
    "open",
    "open_osfhandle",
    "opendir",
    "read",
    "readdir",
    "readlink",
    "realpath",
    "rename",
    "rmdir",
    "scandir",
    "sendfile",
    "stat",
    "statfs",
    "symlink",
    "unlink",
    "utime",
    "write",
]

_ON_FS = ffi.addressof(lib, "loopfast_on_fs")
_T = TypeVar("_T")
#: A path: str, bytes or os.PathLike. Paths in results are str.
Path = Any
#: `callback(result, error)`.
Done = Callable[[Any, Any], object]
#: For the times of utime() and its kin: now, and as it is (libuv 1.51).
UTIME_NOW, UTIME_OMIT = math.inf, math.nan


class DirentType(IntEnum):
    """uv_dirent_type_t."""

    UNKNOWN = lib.UV_DIRENT_UNKNOWN
    FILE = lib.UV_DIRENT_FILE
    DIR = lib.UV_DIRENT_DIR
    LINK = lib.UV_DIRENT_LINK
    FIFO = lib.UV_DIRENT_FIFO
    SOCKET = lib.UV_DIRENT_SOCKET
    CHAR = lib.UV_DIRENT_CHAR
    BLOCK = lib.UV_DIRENT_BLOCK


class Dirent(NamedTuple):
    """An entry of a directory (uv_dirent_t)."""

    name: str
    type: DirentType


class StatFS(NamedTuple):
    """What is known of a file system (uv_statfs_t)."""

    f_type: int
    f_bsize: int
    f_blocks: int
    f_bfree: int
    f_bavail: int
    f_files: int
    f_ffree: int


class CopyFileFlag(IntFlag):
    """Flags of `copyfile()`."""

    #: Fail if the target exists.
    EXCL = lib.UV_FS_COPYFILE_EXCL
    #: Share the blocks until one file is changed, if the file system can.
    FICLONE = lib.UV_FS_COPYFILE_FICLONE
    #: Share the blocks, or fail.
    FICLONE_FORCE = lib.UV_FS_COPYFILE_FICLONE_FORCE


class SymlinkFlag(IntFlag):
    """Flags of `symlink()`, for Windows."""

    DIR = lib.UV_FS_SYMLINK_DIR
    JUNCTION = lib.UV_FS_SYMLINK_JUNCTION


class FSRequest(PoolRequest, Generic[_T]):
    """An operation under way (uv_fs_t)."""

    _c_type = "uv_fs_t"
    _filename: Any = None

    @property
    def path(self) -> str | None:
        """The path it is about (uv_fs_get_path), None for operations on descriptors and once it is done."""
        path = ffi.NULL if self.done else lib.uv_fs_get_path(self._memory)
        return None if path == ffi.NULL else os.fsdecode(ffi.string(path))

    def _error(self, status: int) -> Exception:
        return error(status, self._filename)

    def _clean_up(self) -> None:
        lib.uv_fs_req_cleanup(self._memory)


class Dir(Unique):
    """An open directory (uv_dir_t), made by `opendir()`. `closedir()` closes it; until then it may be iterated."""

    _pointer: Any = None
    #: An operation on it is under way.
    _busy = False

    def __init__(self, *arguments: Any) -> None:
        raise TypeError("opendir() makes the objects of this class")

    def _use(self) -> Any:
        if self._pointer is None:
            raise ValueError("operation on a closed directory")
        if self._busy:
            raise RuntimeError("another operation on this directory is under way")
        return self._pointer

    @property
    def closed(self) -> bool:
        """Whether `closedir()` was called."""
        return self._pointer is None

    def __iter__(self) -> Dir:
        return self

    def __next__(self) -> Dirent:
        for entry in readdir(self, 1):
            return entry
        raise StopIteration

    def __enter__(self) -> Dir:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pointer is not None:
            closedir(self)

    def __del__(self) -> None:
        if self._pointer is not None and not self._busy:
            warnings.warn(f"unclosed directory {self!r}", ResourceWarning, stacklevel=1, source=self)
            closedir(self)


def _run(
    loop: BaseLoop | None,
    callback: Done | None,
    convert: Callable[[Any], Any],
    function: Callable[..., int],
    *arguments: Any,
    filename: Any = None,
    keep: Any = None,
    directory: Dir | None = None,
) -> Any:
    """Call one of libuv's functions, now or in the thread pool. `convert` makes the result of the uv_fs_t."""
    if not both_or_none(loop, callback):
        memory = ffi.new("uv_fs_t *")
        status = function(ffi.NULL, memory, *arguments, ffi.NULL)
        try:
            check(status, filename)
            return convert(memory)
        finally:
            lib.uv_fs_req_cleanup(memory)

    request: FSRequest[Any]
    if directory is None:
        request = FSRequest(loop, callback, convert, (arguments, keep))
    else:
        request = _DirRequest(loop, callback, convert, (arguments, keep))
        request._directory = directory
    request._filename = filename
    pointer = request.loop._enter()
    if directory is not None:
        directory._busy = True
    try:
        request._begin(function, pointer, request._memory, *arguments, _ON_FS)
    except BaseException:
        if directory is not None:
            directory._busy = False
        raise
    return request


class _DirRequest(FSRequest[Any]):
    """Locks the directory it is about."""

    _directory: Dir

    def _finish(self, status: int) -> None:
        self._directory._busy = False
        super()._finish(status)


def _none(_: Any) -> None:
    return None


def _number(memory: Any) -> int:
    return int(lib.uv_fs_get_result(memory))


def _path(memory: Any) -> str:
    return os.fsdecode(ffi.string(ffi.cast("char *", lib.uv_fs_get_ptr(memory))))


def _given_path(memory: Any) -> str:
    return os.fsdecode(ffi.string(lib.uv_fs_get_path(memory)))


def _stat(memory: Any) -> Stat:
    return make_stat(lib.uv_fs_get_statbuf(memory))


def _statfs(memory: Any) -> StatFS:
    values = ffi.cast("uv_statfs_t *", lib.uv_fs_get_ptr(memory))
    return StatFS(*(int(getattr(values, name)) for name in StatFS._fields))


def _dirent(entry: Any) -> Dirent:
    return Dirent(os.fsdecode(ffi.string(entry.name)), DirentType(entry.type))


def _entries(memory: Any) -> list[Dirent]:
    entries, entry = [], ffi.new("uv_dirent_t *")
    while (status := lib.uv_fs_scandir_next(memory, entry)) != lib.UV_EOF:
        check(status)
        entries.append(_dirent(entry))
    return entries


def _two(path: Any, new_path: Any) -> tuple[bytes, bytes]:
    return file_path(path), file_path(new_path)


@overload
def close(file: Any, *, loop: None = None, callback: None = None) -> None: ...
@overload
def close(file: Any, *, loop: BaseLoop, callback: Callable[[None, Exception | None], object]) -> FSRequest[None]: ...
def close(file: Any, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """Close a descriptor (uv_fs_close)."""
    return _run(loop, callback, _none, lib.uv_fs_close, descriptor(file))


@overload
def open(
    path: Path, flags: int = os.O_RDONLY, mode: int = 0o666, *, loop: None = None, callback: None = None
) -> int: ...
@overload
def open(
    path: Path,
    flags: int = os.O_RDONLY,
    mode: int = 0o666,
    *,
    loop: BaseLoop,
    callback: Callable[[int | None, Exception | None], object],
) -> FSRequest[int]: ...
def open(
    path: Path,
    flags: int = os.O_RDONLY,
    mode: int = 0o666,
    *,
    loop: BaseLoop | None = None,
    callback: Done | None = None,
) -> Any:
    """Open a file (uv_fs_open); `flags` are those of `os.open()`. Returns a descriptor, which `close()` closes."""
    return _run(loop, callback, _number, lib.uv_fs_open, file_path(path), flags, mode, filename=path)


@overload
def read(file: Any, size: int, offset: int = -1, *, loop: None = None, callback: None = None) -> bytes: ...
@overload
def read(
    file: Any,
    size: int,
    offset: int = -1,
    *,
    loop: BaseLoop,
    callback: Callable[[bytes | None, Exception | None], object],
) -> FSRequest[bytes]: ...
def read(file: Any, size: int, offset: int = -1, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """Read up to `size` bytes (uv_fs_read) from `offset`; -1: from where the descriptor is. Returns b"" at the end."""
    number, length = descriptor(file), whole_number(size, "size", 0x7FFFFFFF)
    room = ffi.new("char[]", max(length, 1))
    buffer = ffi.new("uv_buf_t *", {"base": room, "len": length})

    def data(memory: Any) -> bytes:
        taken: bytes = ffi.buffer(room, lib.uv_fs_get_result(memory))[:]
        return taken

    return _run(loop, callback, data, lib.uv_fs_read, number, buffer, 1, offset, keep=room)


@overload
def unlink(path: Path, *, loop: None = None, callback: None = None) -> None: ...
@overload
def unlink(path: Path, *, loop: BaseLoop, callback: Callable[[None, Exception | None], object]) -> FSRequest[None]: ...
def unlink(path: Path, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """Remove a file (uv_fs_unlink)."""
    return _run(loop, callback, _none, lib.uv_fs_unlink, file_path(path), filename=path)


@overload
def write(
    file: Any, data: Data | Sequence[Data], offset: int = -1, *, loop: None = None, callback: None = None
) -> int: ...
@overload
def write(
    file: Any,
    data: Data | Sequence[Data],
    offset: int = -1,
    *,
    loop: BaseLoop,
    callback: Callable[[int | None, Exception | None], object],
) -> FSRequest[int]: ...
def write(
    file: Any,
    data: Data | Sequence[Data],
    offset: int = -1,
    *,
    loop: BaseLoop | None = None,
    callback: Done | None = None,
) -> Any:
    """Write data (uv_fs_write) at `offset`; -1: where the descriptor is. Returns how many bytes were written.

    `data` is a bytes-like object, or a list or tuple of them. For the thread pool it is not copied, as in
    `Stream.write()`.
    """
    room, count, keep = buffers(data)
    return _run(loop, callback, _number, lib.uv_fs_write, descriptor(file), room, count, offset, keep=keep)


@overload
def mkdir(path: Path, mode: int = 0o777, *, loop: None = None, callback: None = None) -> None: ...
@overload
def mkdir(
    path: Path, mode: int = 0o777, *, loop: BaseLoop, callback: Callable[[None, Exception | None], object]
) -> FSRequest[None]: ...
def mkdir(path: Path, mode: int = 0o777, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """Make a directory (uv_fs_mkdir)."""
    return _run(loop, callback, _none, lib.uv_fs_mkdir, file_path(path), mode, filename=path)


@overload
def mkdtemp(template: Path, *, loop: None = None, callback: None = None) -> str: ...
@overload
def mkdtemp(
    template: Path, *, loop: BaseLoop, callback: Callable[[str | None, Exception | None], object]
) -> FSRequest[str]: ...
def mkdtemp(template: Path, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """Make a directory (uv_fs_mkdtemp): `template` ends with XXXXXX, which is replaced. Returns its path."""
    return _run(loop, callback, _given_path, lib.uv_fs_mkdtemp, file_path(template), filename=template)


@overload
def mkstemp(template: Path, *, loop: None = None, callback: None = None) -> tuple[int, str]: ...
@overload
def mkstemp(
    template: Path, *, loop: BaseLoop, callback: Callable[[tuple[int, str] | None, Exception | None], object]
) -> FSRequest[tuple[int, str]]: ...
def mkstemp(template: Path, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """Make a file in the same way (uv_fs_mkstemp). Returns its descriptor and its path."""

    def made(memory: Any) -> tuple[int, str]:
        return _number(memory), _given_path(memory)

    return _run(loop, callback, made, lib.uv_fs_mkstemp, file_path(template), filename=template)


@overload
def rmdir(path: Path, *, loop: None = None, callback: None = None) -> None: ...
@overload
def rmdir(path: Path, *, loop: BaseLoop, callback: Callable[[None, Exception | None], object]) -> FSRequest[None]: ...
def rmdir(path: Path, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """Remove an empty directory (uv_fs_rmdir)."""
    return _run(loop, callback, _none, lib.uv_fs_rmdir, file_path(path), filename=path)


@overload
def opendir(path: Path, *, loop: None = None, callback: None = None) -> Dir: ...
@overload
def opendir(
    path: Path, *, loop: BaseLoop, callback: Callable[[Dir | None, Exception | None], object]
) -> FSRequest[Dir]: ...
def opendir(path: Path, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """Open a directory (uv_fs_opendir), to be read in pieces."""

    def opened(memory: Any) -> Dir:
        directory = Dir.__new__(Dir)
        directory._pointer = ffi.cast("uv_dir_t *", lib.uv_fs_get_ptr(memory))
        return directory

    return _run(loop, callback, opened, lib.uv_fs_opendir, file_path(path), filename=path)


@overload
def closedir(directory: Dir, *, loop: None = None, callback: None = None) -> None: ...
@overload
def closedir(
    directory: Dir, *, loop: BaseLoop, callback: Callable[[None, Exception | None], object]
) -> FSRequest[None]: ...
def closedir(directory: Dir, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """Close a directory (uv_fs_closedir)."""
    both_or_none(loop, callback)
    pointer = directory._use()
    if loop is not None:
        loop._enter()
    directory._pointer = None
    return _run(loop, callback, _none, lib.uv_fs_closedir, pointer)


@overload
def readdir(directory: Dir, count: int = 64, *, loop: None = None, callback: None = None) -> list[Dirent]: ...
@overload
def readdir(
    directory: Dir,
    count: int = 64,
    *,
    loop: BaseLoop,
    callback: Callable[[list[Dirent] | None, Exception | None], object],
) -> FSRequest[list[Dirent]]: ...
def readdir(directory: Dir, count: int = 64, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """Read up to `count` entries (uv_fs_readdir). Returns an empty list at the end."""
    pointer = directory._use()
    room = ffi.new("uv_dirent_t[]", max(whole_number(count, "count", 1 << 20), 1))
    pointer.dirents, pointer.nentries = room, len(room)

    def some(memory: Any) -> list[Dirent]:
        return [_dirent(room[index]) for index in range(_number(memory))]

    return _run(loop, callback, some, lib.uv_fs_readdir, pointer, keep=(room, directory), directory=directory)


@overload
def scandir(path: Path, *, loop: None = None, callback: None = None) -> list[Dirent]: ...
@overload
def scandir(
    path: Path, *, loop: BaseLoop, callback: Callable[[list[Dirent] | None, Exception | None], object]
) -> FSRequest[list[Dirent]]: ...
def scandir(path: Path, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """All entries of a directory (uv_fs_scandir, uv_fs_scandir_next), sorted by name."""
    return _run(loop, callback, _entries, lib.uv_fs_scandir, file_path(path), 0, filename=path)


@overload
def stat(path: Path, *, loop: None = None, callback: None = None) -> Stat: ...
@overload
def stat(
    path: Path, *, loop: BaseLoop, callback: Callable[[Stat | None, Exception | None], object]
) -> FSRequest[Stat]: ...
def stat(path: Path, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """What is known of a file (uv_fs_stat)."""
    return _run(loop, callback, _stat, lib.uv_fs_stat, file_path(path), filename=path)


@overload
def fstat(file: Any, *, loop: None = None, callback: None = None) -> Stat: ...
@overload
def fstat(
    file: Any, *, loop: BaseLoop, callback: Callable[[Stat | None, Exception | None], object]
) -> FSRequest[Stat]: ...
def fstat(file: Any, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """The same of an open one (uv_fs_fstat)."""
    return _run(loop, callback, _stat, lib.uv_fs_fstat, descriptor(file))


@overload
def lstat(path: Path, *, loop: None = None, callback: None = None) -> Stat: ...
@overload
def lstat(
    path: Path, *, loop: BaseLoop, callback: Callable[[Stat | None, Exception | None], object]
) -> FSRequest[Stat]: ...
def lstat(path: Path, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """The same of a symbolic link itself (uv_fs_lstat)."""
    return _run(loop, callback, _stat, lib.uv_fs_lstat, file_path(path), filename=path)


@overload
def statfs(path: Path, *, loop: None = None, callback: None = None) -> StatFS: ...
@overload
def statfs(
    path: Path, *, loop: BaseLoop, callback: Callable[[StatFS | None, Exception | None], object]
) -> FSRequest[StatFS]: ...
def statfs(path: Path, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """What is known of the file system of `path` (uv_fs_statfs)."""
    return _run(loop, callback, _statfs, lib.uv_fs_statfs, file_path(path), filename=path)


@overload
def rename(path: Path, new_path: Path, *, loop: None = None, callback: None = None) -> None: ...
@overload
def rename(
    path: Path, new_path: Path, *, loop: BaseLoop, callback: Callable[[None, Exception | None], object]
) -> FSRequest[None]: ...
def rename(path: Path, new_path: Path, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """Give a file another name (uv_fs_rename)."""
    return _run(loop, callback, _none, lib.uv_fs_rename, *_two(path, new_path), filename=path)


@overload
def fsync(file: Any, *, loop: None = None, callback: None = None) -> None: ...
@overload
def fsync(file: Any, *, loop: BaseLoop, callback: Callable[[None, Exception | None], object]) -> FSRequest[None]: ...
def fsync(file: Any, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """Write a file to the disk (uv_fs_fsync)."""
    return _run(loop, callback, _none, lib.uv_fs_fsync, descriptor(file))


@overload
def fdatasync(file: Any, *, loop: None = None, callback: None = None) -> None: ...
@overload
def fdatasync(
    file: Any, *, loop: BaseLoop, callback: Callable[[None, Exception | None], object]
) -> FSRequest[None]: ...
def fdatasync(file: Any, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """The same without what is not needed to read it (uv_fs_fdatasync)."""
    return _run(loop, callback, _none, lib.uv_fs_fdatasync, descriptor(file))


@overload
def ftruncate(file: Any, length: int, *, loop: None = None, callback: None = None) -> None: ...
@overload
def ftruncate(
    file: Any, length: int, *, loop: BaseLoop, callback: Callable[[None, Exception | None], object]
) -> FSRequest[None]: ...
def ftruncate(file: Any, length: int, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """Cut or extend a file to `length` bytes (uv_fs_ftruncate)."""
    return _run(loop, callback, _none, lib.uv_fs_ftruncate, descriptor(file), length)


@overload
def copyfile(
    path: Path, new_path: Path, flags: CopyFileFlag | int = 0, *, loop: None = None, callback: None = None
) -> None: ...
@overload
def copyfile(
    path: Path,
    new_path: Path,
    flags: CopyFileFlag | int = 0,
    *,
    loop: BaseLoop,
    callback: Callable[[None, Exception | None], object],
) -> FSRequest[None]: ...
def copyfile(
    path: Path,
    new_path: Path,
    flags: CopyFileFlag | int = 0,
    *,
    loop: BaseLoop | None = None,
    callback: Done | None = None,
) -> Any:
    """Copy a file (uv_fs_copyfile). The target is overwritten unless the flags forbid it."""
    return _run(loop, callback, _none, lib.uv_fs_copyfile, *_two(path, new_path), int(flags), filename=path)


@overload
def sendfile(
    out_file: Any, in_file: Any, in_offset: int, length: int, *, loop: None = None, callback: None = None
) -> int: ...
@overload
def sendfile(
    out_file: Any,
    in_file: Any,
    in_offset: int,
    length: int,
    *,
    loop: BaseLoop,
    callback: Callable[[int | None, Exception | None], object],
) -> FSRequest[int]: ...
def sendfile(
    out_file: Any,
    in_file: Any,
    in_offset: int,
    length: int,
    *,
    loop: BaseLoop | None = None,
    callback: Done | None = None,
) -> Any:
    """Copy from one descriptor to another (uv_fs_sendfile). Returns how many bytes were copied."""
    out, source = descriptor(out_file), descriptor(in_file)
    size = whole_number(length, "length", (1 << 63) - 1)
    return _run(loop, callback, _number, lib.uv_fs_sendfile, out, source, in_offset, size)


@overload
def access(path: Path, mode: int = os.F_OK, *, loop: None = None, callback: None = None) -> None: ...
@overload
def access(
    path: Path, mode: int = os.F_OK, *, loop: BaseLoop, callback: Callable[[None, Exception | None], object]
) -> FSRequest[None]: ...
def access(path: Path, mode: int = os.F_OK, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """Check what may be done with a file (uv_fs_access): `mode` is of os.F_OK, R_OK, W_OK, X_OK. An error says no."""
    return _run(loop, callback, _none, lib.uv_fs_access, file_path(path), mode, filename=path)


@overload
def chmod(path: Path, mode: int, *, loop: None = None, callback: None = None) -> None: ...
@overload
def chmod(
    path: Path, mode: int, *, loop: BaseLoop, callback: Callable[[None, Exception | None], object]
) -> FSRequest[None]: ...
def chmod(path: Path, mode: int, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """Change a file's rights (uv_fs_chmod)."""
    return _run(loop, callback, _none, lib.uv_fs_chmod, file_path(path), mode, filename=path)


@overload
def fchmod(file: Any, mode: int, *, loop: None = None, callback: None = None) -> None: ...
@overload
def fchmod(
    file: Any, mode: int, *, loop: BaseLoop, callback: Callable[[None, Exception | None], object]
) -> FSRequest[None]: ...
def fchmod(file: Any, mode: int, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """The same of an open one (uv_fs_fchmod)."""
    return _run(loop, callback, _none, lib.uv_fs_fchmod, descriptor(file), mode)


@overload
def utime(path: Path, atime: float, mtime: float, *, loop: None = None, callback: None = None) -> None: ...
@overload
def utime(
    path: Path,
    atime: float,
    mtime: float,
    *,
    loop: BaseLoop,
    callback: Callable[[None, Exception | None], object],
) -> FSRequest[None]: ...
def utime(path: Path, atime: float, mtime: float, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """Set the times of last access and change, in seconds since 1970 (uv_fs_utime); see UTIME_NOW, UTIME_OMIT."""
    return _run(loop, callback, _none, lib.uv_fs_utime, file_path(path), atime, mtime, filename=path)


@overload
def futime(file: Any, atime: float, mtime: float, *, loop: None = None, callback: None = None) -> None: ...
@overload
def futime(
    file: Any,
    atime: float,
    mtime: float,
    *,
    loop: BaseLoop,
    callback: Callable[[None, Exception | None], object],
) -> FSRequest[None]: ...
def futime(file: Any, atime: float, mtime: float, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """The same of an open file (uv_fs_futime)."""
    return _run(loop, callback, _none, lib.uv_fs_futime, descriptor(file), atime, mtime)


@overload
def lutime(path: Path, atime: float, mtime: float, *, loop: None = None, callback: None = None) -> None: ...
@overload
def lutime(
    path: Path,
    atime: float,
    mtime: float,
    *,
    loop: BaseLoop,
    callback: Callable[[None, Exception | None], object],
) -> FSRequest[None]: ...
def lutime(
    path: Path, atime: float, mtime: float, *, loop: BaseLoop | None = None, callback: Done | None = None
) -> Any:
    """The same of a symbolic link itself (uv_fs_lutime)."""
    return _run(loop, callback, _none, lib.uv_fs_lutime, file_path(path), atime, mtime, filename=path)


@overload
def link(path: Path, new_path: Path, *, loop: None = None, callback: None = None) -> None: ...
@overload
def link(
    path: Path, new_path: Path, *, loop: BaseLoop, callback: Callable[[None, Exception | None], object]
) -> FSRequest[None]: ...
def link(path: Path, new_path: Path, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """Give a file one more name (uv_fs_link)."""
    return _run(loop, callback, _none, lib.uv_fs_link, *_two(path, new_path), filename=path)


@overload
def symlink(
    path: Path, new_path: Path, flags: SymlinkFlag | int = 0, *, loop: None = None, callback: None = None
) -> None: ...
@overload
def symlink(
    path: Path,
    new_path: Path,
    flags: SymlinkFlag | int = 0,
    *,
    loop: BaseLoop,
    callback: Callable[[None, Exception | None], object],
) -> FSRequest[None]: ...
def symlink(
    path: Path,
    new_path: Path,
    flags: SymlinkFlag | int = 0,
    *,
    loop: BaseLoop | None = None,
    callback: Done | None = None,
) -> Any:
    """Make `new_path` a symbolic link to `path` (uv_fs_symlink)."""
    return _run(loop, callback, _none, lib.uv_fs_symlink, *_two(path, new_path), int(flags), filename=new_path)


@overload
def readlink(path: Path, *, loop: None = None, callback: None = None) -> str: ...
@overload
def readlink(
    path: Path, *, loop: BaseLoop, callback: Callable[[str | None, Exception | None], object]
) -> FSRequest[str]: ...
def readlink(path: Path, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """Where a symbolic link points to (uv_fs_readlink)."""
    return _run(loop, callback, _path, lib.uv_fs_readlink, file_path(path), filename=path)


@overload
def realpath(path: Path, *, loop: None = None, callback: None = None) -> str: ...
@overload
def realpath(
    path: Path, *, loop: BaseLoop, callback: Callable[[str | None, Exception | None], object]
) -> FSRequest[str]: ...
def realpath(path: Path, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """The absolute path without links (uv_fs_realpath)."""
    return _run(loop, callback, _path, lib.uv_fs_realpath, file_path(path), filename=path)


@overload
def chown(path: Path, uid: int, gid: int, *, loop: None = None, callback: None = None) -> None: ...
@overload
def chown(
    path: Path, uid: int, gid: int, *, loop: BaseLoop, callback: Callable[[None, Exception | None], object]
) -> FSRequest[None]: ...
def chown(path: Path, uid: int, gid: int, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """Change a file's owner and group (uv_fs_chown)."""
    return _run(loop, callback, _none, lib.uv_fs_chown, file_path(path), *_owner(uid, gid), filename=path)


@overload
def fchown(file: Any, uid: int, gid: int, *, loop: None = None, callback: None = None) -> None: ...
@overload
def fchown(
    file: Any, uid: int, gid: int, *, loop: BaseLoop, callback: Callable[[None, Exception | None], object]
) -> FSRequest[None]: ...
def fchown(file: Any, uid: int, gid: int, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """The same of an open one (uv_fs_fchown)."""
    return _run(loop, callback, _none, lib.uv_fs_fchown, descriptor(file), *_owner(uid, gid))


@overload
def lchown(path: Path, uid: int, gid: int, *, loop: None = None, callback: None = None) -> None: ...
@overload
def lchown(
    path: Path, uid: int, gid: int, *, loop: BaseLoop, callback: Callable[[None, Exception | None], object]
) -> FSRequest[None]: ...
def lchown(path: Path, uid: int, gid: int, *, loop: BaseLoop | None = None, callback: Done | None = None) -> Any:
    """The same of a symbolic link itself (uv_fs_lchown)."""
    return _run(loop, callback, _none, lib.uv_fs_lchown, file_path(path), *_owner(uid, gid), filename=path)


def get_osfhandle(file: Any) -> int:
    """The system's handle below a descriptor (uv_get_osfhandle): on Windows a HANDLE, elsewhere the descriptor."""
    return int(lib.uv_get_osfhandle(descriptor(file)))


def open_osfhandle(handle: int) -> int:
    """A descriptor for a handle of the system (uv_open_osfhandle): elsewhere than on Windows the same number."""
    return int(lib.uv_open_osfhandle(handle))


def _owner(uid: int, gid: int) -> tuple[int, int]:
    """-1 leaves one of them as it is."""
    return uid & 0xFFFFFFFF, gid & 0xFFFFFFFF
