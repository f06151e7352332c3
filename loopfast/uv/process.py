"""libuv's chapter "Process handle"."""

from __future__ import annotations

import os
import signal as python_signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntFlag
from typing import Any, TypeVar

from loopfast.uv._base import (
    BaseLoop,
    Cell,
    callable_or_none,
    descriptor,
    file_path,
    from_libuv,
    whole_number,
)
from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check, error
from loopfast.uv.handle import Handle
from loopfast.uv.pipe_ import Pipe
from loopfast.uv.signal import give_back
from loopfast.uv.stream import Stream

__all__ = ["Process", "ProcessFlag", "StdioFlag", "disable_stdio_inheritance", "kill"]

_ON_EXIT = ffi.addressof(lib, "loopfast_on_exit")
_Self = TypeVar("_Self", bound="Process")
#: How many children libuv waits for, in all loops; until then it has SIGCHLD.
_children = 0


class ProcessFlag(IntFlag):
    """uv_process_flags. Those for user and group come from `Process()`'s own arguments."""

    WINDOWS_VERBATIM_ARGUMENTS = lib.UV_PROCESS_WINDOWS_VERBATIM_ARGUMENTS
    #: The child leads a session of its own and may outlive this process; `unref()` lets the loop end before it.
    DETACHED = lib.UV_PROCESS_DETACHED
    WINDOWS_HIDE = lib.UV_PROCESS_WINDOWS_HIDE
    WINDOWS_HIDE_CONSOLE = lib.UV_PROCESS_WINDOWS_HIDE_CONSOLE
    WINDOWS_HIDE_GUI = lib.UV_PROCESS_WINDOWS_HIDE_GUI
    WINDOWS_FILE_PATH_EXACT_NAME = lib.UV_PROCESS_WINDOWS_FILE_PATH_EXACT_NAME


_ALL = ProcessFlag(0)
for _flag in ProcessFlag:
    _ALL |= _flag


class StdioFlag(IntFlag):
    """uv_stdio_flags, for a pipe between this process and the child. The directions are the child's."""

    CREATE_PIPE = lib.UV_CREATE_PIPE
    #: The child reads from it.
    READABLE_PIPE = lib.UV_READABLE_PIPE
    #: The child writes to it.
    WRITABLE_PIPE = lib.UV_WRITABLE_PIPE
    #: The child's end does not block.
    NONBLOCK_PIPE = lib.UV_NONBLOCK_PIPE


#: None: /dev/null. A descriptor, an object with fileno() or an open `Stream`: inherited. (Pipe, StdioFlag): a new pipe.
Stdio = Any


class Process(Handle):
    """Starts a child process (uv_process_t, uv_spawn).

    While children are there libuv has SIGCHLD: a Python handler for that signal is not called meanwhile.

    Arguments:
        loop: the loop it belongs to.
        args: the program and its arguments.
        on_exit: called as `on_exit(process, exit_status, term_signal)` when the child has ended.
        file: the program to execute if it is not the first of `args`; without a slash it is looked up in PATH.
        env: the child's environment; by default this process's.
        cwd: the directory it starts in.
        uid, gid: the user and the group it runs as.
        flags: how to start it.
        stdio: what its descriptors 0, 1, 2 ... are; by default /dev/null. Each is None, a descriptor, an object with
            fileno(), an open `Stream`, or a pair of a fresh `Pipe` and `StdioFlag`s with CREATE_PIPE among them.

    Raises:
        OSError: it could not be started: FileNotFoundError, PermissionError ...
        TypeError, ValueError: an argument is of the wrong type, has a null byte, or does not fit the others.
    """

    _c_type = "uv_process_t"
    _exited = False

    def __init__(
        self: _Self,
        loop: BaseLoop,
        args: Sequence[Any],
        *,
        on_exit: Callable[[_Self, int, int], object] | None = None,
        file: Any = None,
        env: Mapping[Any, Any] | None = None,
        cwd: Any = None,
        uid: int | None = None,
        gid: int | None = None,
        flags: ProcessFlag | int = 0,
        stdio: Iterable[Stdio] = (),
    ) -> None:
        if isinstance(args, (str, bytes)) or not args:
            raise TypeError(f"args must be a list of the program and its arguments, got {args!r}")
        if int(flags) & ~int(_ALL):
            raise ValueError(f"flags must be some of {_ALL!r}, got {flags!r}")
        self._callback = callable_or_none(on_exit, "on_exit")
        # What the options point to, until libuv has used them.
        keep: list[Any] = []
        options = ffi.new("uv_process_options_t *")
        options.exit_cb = _ON_EXIT
        options.args = _strings([file_path(argument) for argument in args], keep)
        options.file = _string(file_path(args[0] if file is None else file), keep)
        if env is not None:
            options.env = _strings([_variable(name, value) for name, value in env.items()], keep)
        if cwd is not None:
            options.cwd = _string(file_path(cwd), keep)
        options.flags = int(flags)
        if uid is not None:
            options.uid, options.flags = uid, options.flags | lib.UV_PROCESS_SETUID
        if gid is not None:
            options.gid, options.flags = gid, options.flags | lib.UV_PROCESS_SETGID
        entries = list(stdio)
        containers = ffi.new("uv_stdio_container_t[]", max(len(entries), 1))
        for index, entry in enumerate(entries):
            self._describe(loop, entry, containers + index)
        options.stdio, options.stdio_count = containers, len(entries)
        self._spawn(loop, options)

    @staticmethod
    def _describe(loop: BaseLoop, entry: Any, container: Any) -> None:
        """Fill in what one descriptor of the child's shall be."""
        flags, stream, number = int(lib.UV_IGNORE), ffi.NULL, -1
        if isinstance(entry, tuple):
            if len(entry) != 2 or not isinstance(entry[0], Pipe) or not int(entry[1]) & lib.UV_CREATE_PIPE:
                raise TypeError(f"a pair in stdio is a Pipe and flags with StdioFlag.CREATE_PIPE, got {entry!r}")
            pipe, flags = entry[0], int(StdioFlag(entry[1]))
            if pipe.loop is not loop:
                raise ValueError(f"{pipe!r} in stdio belongs to another loop than {loop!r}")
            stream = ffi.cast("uv_stream_t *", pipe._use())
            if lib.uv_fileno(pipe._base(), ffi.new("uv_os_fd_t *")) == 0:
                raise ValueError(f"{pipe!r} in stdio has a descriptor already")
        elif isinstance(entry, Stream):
            number, flags = entry.fileno(), int(lib.UV_INHERIT_FD)
        elif entry is not None:
            number, flags = descriptor(entry), int(lib.UV_INHERIT_FD)
        lib.loopfast_set_stdio(container, flags, stream, number)

    def _spawn(self, loop: Any, options: Any) -> None:
        global _children
        status = 0

        def spawn(pointer: Any, handle: Any) -> int:
            nonlocal status
            handle.data = ffi.NULL
            status = lib.uv_spawn(pointer, handle, options)
            return 0

        cell = self._create(loop, spawn)
        if status < 0:
            self._undo(cell)
            raise error(status, ffi.string(options.file).decode(errors="surrogateescape"))
        _children += 1
        cell.finish = _child_is_gone
        self._keep()

    def _undo(self, cell: Cell) -> None:
        """The child did not start. libuv leaves the handle in its loop, or has taken it out by itself."""
        loop = cell.loop
        if any(cell.base == pointer for pointer in loop._pointers()):  # type: ignore[attr-defined]
            cell.close()
            return
        del loop._cells[cell.address]
        cell.closing = True
        if lib.uv_is_active(cell.base):
            # The child runs, but without the pipes it should have had, and libuv waits for it. Closing is not possible.
            self._callback = None
            lib.loopfast_keep_forever(id(cell))
        else:
            cell.token = None

    @property
    def pid(self) -> int:
        """The child's process id (uv_process_get_pid)."""
        return int(lib.uv_process_get_pid(self._use()))

    @property
    def exited(self) -> bool:
        """Whether the child has ended and been waited for."""
        return self._exited

    def kill(self, signum: int = python_signal.SIGTERM) -> None:
        """Send the child a signal (uv_process_kill).

        Raises:
            ProcessLookupError: it has ended. The number may be another process's by now, and no signal is sent.
        """
        handle, number = self._use(), whole_number(signum, "signum", 0x7FFFFFFF)
        if self._exited:
            raise error(lib.UV_ESRCH)
        check(lib.uv_process_kill(handle, number))


def _child_is_gone() -> None:
    """libuv has let go of a child's handle, and of SIGCHLD if it was the last one."""
    global _children
    _children -= 1
    if not _children and hasattr(python_signal, "SIGCHLD"):
        give_back(python_signal.SIGCHLD)


@from_libuv
def _py_exit(pointer: Any, exit_status: int, term_signal: int) -> None:
    cell: Cell = ffi.from_handle(pointer.data)
    process = cell.owner()
    if process is not None:
        process._exited = True
        if not cell.closing:
            cell.kept = None
        if process._callback is not None:
            cell.loop._call(process._callback, process, exit_status, term_signal)


def kill(pid: int, signum: int) -> None:
    """Send a signal to any process (uv_kill).

    Raises:
        ProcessLookupError, PermissionError: there is no such process, or it is somebody else's.
    """
    check(lib.uv_kill(pid, signum))


def disable_stdio_inheritance() -> None:
    """Let children not inherit the descriptors this process was started with (uv_disable_stdio_inheritance)."""
    lib.uv_disable_stdio_inheritance()


def _string(encoded: bytes, keep: list[Any]) -> Any:
    keep.append(ffi.new("char[]", encoded))
    return keep[-1]


def _strings(encoded: list[bytes], keep: list[Any]) -> Any:
    """A NULL-terminated `char **`."""
    keep.append(ffi.new("char *[]", [*(_string(text, keep) for text in encoded), ffi.NULL]))
    return keep[-1]


def _variable(name: Any, value: Any) -> bytes:
    key = file_path(name)
    if not key or b"=" in key:
        raise ValueError(f"illegal environment variable name: {os.fsdecode(key)!r}")
    return key + b"=" + file_path(value)
