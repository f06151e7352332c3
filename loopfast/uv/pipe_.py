"""libuv's chapter "Pipe handle": unix sockets, named pipes of Windows, and pipes."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import IntFlag
from typing import Any, TypeVar

from loopfast.uv._base import BaseLoop, descriptor, file_path, text_from, whole_number
from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check
from loopfast.uv.handle import HandleType
from loopfast.uv.stream import ConnectRequest, Stream

__all__ = ["Pipe", "PipeFlag", "pipe"]

_ON_CONNECT = ffi.addressof(lib, "loopfast_on_connect")
_Self = TypeVar("_Self", bound="Pipe")


class PipeFlag(IntFlag):
    """Flags of `pipe()`, `Pipe.bind()` and `Pipe.connect()`."""

    #: For `bind()` and `connect()`: refuse a name that is too long, which would otherwise be cut.
    NO_TRUNCATE = lib.UV_PIPE_NO_TRUNCATE
    #: For `pipe()`: a non-blocking end.
    NONBLOCK = lib.UV_NONBLOCK_PIPE


class Pipe(Stream):
    """A unix socket, or an end of a pipe (uv_pipe_t).

    Arguments:
        loop: the loop it belongs to.
        ipc: handles can be sent over it, see `Stream.write()`; both ends must agree.
    """

    _c_type = "uv_pipe_t"

    def __init__(self, loop: BaseLoop, ipc: bool = False) -> None:
        self._create(loop, lib.uv_pipe_init, bool(ipc))

    def _peer(self) -> Any:
        kind = self.pending_type if self.pending_count else HandleType.NAMED_PIPE
        if kind == HandleType.NAMED_PIPE:
            return Pipe(self.loop)
        raise TypeError(f"a {kind.name} handle was received: pass one to accept()")

    def open(self, file: Any) -> None:
        """Take over a descriptor (uv_pipe_open), which is the handle's from now on.

        Raises:
            OSError: EBADF or EINVAL, it cannot be used; EBUSY, the handle has one; EEXIST, another handle has it.
        """
        handle, number = self._use(), descriptor(file)
        self.loop._refuse_taken(number)
        check(lib.uv_pipe_open(handle, number))

    def bind(self, name: Any, flags: PipeFlag | int = PipeFlag.NO_TRUNCATE) -> None:
        """Make a socket file, or an abstract name if `name` begins with a NUL character (uv_pipe_bind2).

        On Linux an empty name lets the system choose an abstract one.

        Raises:
            OSError: EADDRINUSE, the name is taken; EINVAL, it is too long, or the handle has one.
        """
        encoded = _name(name)
        check(lib.uv_pipe_bind2(self._use(), encoded, len(encoded), _flags(flags)), name)

    def connect(
        self: _Self,
        name: Any,
        callback: Callable[[_Self, Exception | None], object] | None = None,
        flags: PipeFlag | int = PipeFlag.NO_TRUNCATE,
    ) -> ConnectRequest:
        """Connect to the socket of that name (uv_pipe_connect2).

        Arguments:
            callback: called as `callback(pipe, error)`.

        Raises:
            OSError: EALREADY, it is connecting; EINVAL, the name is empty or too long. Others go to the callback.
            RuntimeError: the handle is closed.
        """
        encoded, bits = _name(name), _flags(flags)
        return self._begin_connect(
            lib.uv_pipe_connect2, callback, encoded, len(encoded), bits, _ON_CONNECT, keep=encoded
        )

    def getsockname(self) -> str:
        """The name it was bound to, empty if it has none (uv_pipe_getsockname)."""
        handle = self._use()
        return os.fsdecode(text_from(lambda room, size: lib.uv_pipe_getsockname(handle, room, size), check))

    def getpeername(self) -> str:
        """The name the other end was bound to (uv_pipe_getpeername)."""
        handle = self._use()
        return os.fsdecode(text_from(lambda room, size: lib.uv_pipe_getpeername(handle, room, size), check))

    def pending_instances(self, count: int) -> None:
        """How many clients may wait (uv_pipe_pending_instances; Windows)."""
        lib.uv_pipe_pending_instances(self._use(), whole_number(count, "count", 0x7FFFFFFF))

    @property
    def pending_count(self) -> int:
        """How many handles have been received and wait for `accept()` (uv_pipe_pending_count)."""
        return int(lib.uv_pipe_pending_count(self._use()))

    @property
    def pending_type(self) -> HandleType:
        """The type of the next handle that was received (uv_pipe_pending_type); UNKNOWN_HANDLE without one."""
        return HandleType(lib.uv_pipe_pending_type(self._use()))

    def chmod(self, readable: bool = True, writable: bool = True) -> None:
        """Let other users read from and write to a bound pipe (uv_pipe_chmod). It takes no rights away.

        Raises:
            OSError: EBADF, it is not bound; EINVAL, neither right was asked for.
        """
        flags = (lib.UV_READABLE if readable else 0) | (lib.UV_WRITABLE if writable else 0)
        check(lib.uv_pipe_chmod(self._use(), flags))


def pipe(read_flags: PipeFlag | int = 0, write_flags: PipeFlag | int = 0) -> tuple[int, int]:
    """The two ends of a pipe (uv_pipe), to read from and to write to: descriptors that the caller closes.

    Arguments:
        read_flags, write_flags: `PipeFlag.NONBLOCK` for a non-blocking end.
    """
    ends = ffi.new("uv_file[2]")
    check(lib.uv_pipe(ends, int(read_flags), int(write_flags)))
    return int(ends[0]), int(ends[1])


def _name(name: Any) -> bytes:
    encoded = os.fsencode(name)
    if not encoded.startswith(b"\0"):
        return file_path(name)
    return encoded


def _flags(flags: PipeFlag | int) -> int:
    if int(flags) & ~int(PipeFlag.NO_TRUNCATE):
        raise ValueError(f"flags must be 0 or PipeFlag.NO_TRUNCATE, got {flags!r}")
    return int(flags)
