"""libuv's chapter "Base handle": what handles of every type can do."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, TypeVar

from loopfast.uv._base import BaseLoop, Cell, Unique, callable_or_none
from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check

__all__ = ["Handle", "HandleType", "handle_type_name"]

_Self = TypeVar("_Self", bound="Handle")


class HandleType(IntEnum):
    """uv_handle_type, the kinds of handles; also of descriptors, see `guess_handle()`."""

    UNKNOWN_HANDLE = lib.UV_UNKNOWN_HANDLE
    ASYNC = lib.UV_ASYNC
    CHECK = lib.UV_CHECK
    FS_EVENT = lib.UV_FS_EVENT
    FS_POLL = lib.UV_FS_POLL
    HANDLE = lib.UV_HANDLE
    IDLE = lib.UV_IDLE
    NAMED_PIPE = lib.UV_NAMED_PIPE
    POLL = lib.UV_POLL
    PREPARE = lib.UV_PREPARE
    PROCESS = lib.UV_PROCESS
    STREAM = lib.UV_STREAM
    TCP = lib.UV_TCP
    TIMER = lib.UV_TIMER
    TTY = lib.UV_TTY
    UDP = lib.UV_UDP
    SIGNAL = lib.UV_SIGNAL
    FILE = lib.UV_FILE


def handle_type_name(kind: HandleType | int) -> str | None:
    """libuv's name for a type of handles, such as "tcp" (uv_handle_type_name); None if it has none."""
    name = lib.uv_handle_type_name(int(kind))
    return None if name == ffi.NULL else ffi.string(name).decode("ascii")


class Handle(Unique):
    """Base of all handles (uv_handle_t).

    An active handle is kept alive by its loop. One that nobody refers to and that is not active closes by itself. All
    methods but `closed`, `loop` and `close()` of a closed handle raise RuntimeError once it is closing, and so they do
    in a thread other than the one that runs the loop.
    """

    _c_type = ""
    _cell: Cell | None = None
    _callback: Any = None

    def _create(self, loop: Any, initialise: Callable[..., int], *arguments: Any) -> Cell:
        """Make the C half with libuv's own function."""
        if self._cell is not None:
            raise RuntimeError(f"{self!r} is initialised already")
        if not isinstance(loop, BaseLoop):
            hint = "; of an asyncio loop uv.Loop.of() makes one" if hasattr(loop, "call_soon") else ""
            raise TypeError(f"a loopfast.uv.Loop is needed, got {loop!r}{hint}")
        pointer = loop._enter()
        loop._sweep()
        cell = Cell(loop, self, self._c_type)
        check(initialise(pointer, cell.typed, *arguments))
        self._admit(cell)
        return cell

    def _admit(self, cell: Cell) -> None:
        """libuv has initialised the handle."""
        cell.base.data = cell.token
        cell.loop._cells[cell.address] = cell
        self._cell = cell

    def _use(self) -> Any:
        """The C handle, with libuv's own type for it, where it may be used here and now."""
        cell = self._cell
        if cell is None or cell.closing:
            raise self._refusal()
        cell.loop._enter()
        return cell.typed

    def _refusal(self) -> RuntimeError:
        if self._cell is None:
            return RuntimeError(f"{type(self).__name__}.__init__() was not called")
        return RuntimeError(f"{self!r} was used after close()")

    def _base(self) -> Any:
        self._use()
        assert self._cell is not None
        return self._cell.base

    def _keep(self) -> None:
        """libuv may call back: live without anybody else."""
        assert self._cell is not None
        self._cell.kept = self

    def _unkeep(self) -> None:
        assert self._cell is not None
        if not self._cell.closing:
            self._cell.kept = None

    def __del__(self) -> None:
        cell = self._cell
        if cell is not None and not cell.closing:
            cell.loop._drop(cell)

    def __repr__(self) -> str:
        cell = self._cell
        if cell is None:
            state = "not initialised"
        elif cell.closing:
            state = "closing" if cell.token is not None else "closed"
        else:
            state = "active" if cell.loop._pointer is not None and lib.uv_is_active(cell.base) else "idle"
        return f"<{type(self).__module__}.{type(self).__qualname__} {state} at {id(self):#x}>"

    @property
    def loop(self) -> BaseLoop:
        """The loop this handle was made on."""
        if self._cell is None:
            raise self._refusal()
        return self._cell.loop

    @property
    def type(self) -> HandleType:
        """The type of the handle (uv_handle_get_type)."""
        return HandleType(lib.uv_handle_get_type(self._base()))

    @property
    def active(self) -> bool:
        """Whether it does something: a timer that runs, a stream that reads (uv_is_active). False once it closes."""
        return not self.closing and bool(lib.uv_is_active(self._base()))

    @property
    def closing(self) -> bool:
        """Whether the handle is closing or closed (uv_is_closing)."""
        return self._cell is None or self._cell.closing

    @property
    def closed(self) -> bool:
        """Whether the handle is closed: its close callback has run."""
        return self._cell is None or self._cell.token is None

    def close(self: _Self, callback: Callable[[_Self], object] | None = None) -> None:
        """Close the handle (uv_close). What it waits for is cancelled; the rest happens in the next turn of the loop.

        Closing again does nothing. At the latest, a handle is closed with its loop.

        Arguments:
            callback: called with the handle once it is closed.

        Raises:
            RuntimeError: it is closing already and a callback was given, which would never be called.
        """
        callable_or_none(callback)
        cell = self._cell
        if cell is None:
            raise self._refusal()
        if cell.closing:
            if callback is not None:
                raise RuntimeError(f"{self!r} is closing already: nothing would call {callback!r}")
            return
        cell.loop._enter()
        cell.on_close = callback
        cell.kept = self
        cell.close()

    def ref(self) -> None:
        """Let the loop run as long as this handle is active, which is so from the start (uv_ref)."""
        lib.uv_ref(self._base())

    def unref(self) -> None:
        """Let the loop end although this handle is active (uv_unref)."""
        lib.uv_unref(self._base())

    @property
    def has_ref(self) -> bool:
        """Whether the loop runs as long as this handle is active (uv_has_ref)."""
        return bool(lib.uv_has_ref(self._base()))

    def fileno(self) -> int:
        """The descriptor below (uv_fileno), which stays the handle's. Not for timers and the like.

        Raises:
            OSError: there is none: EBADF before the handle has one, EINVAL for types that never do.
        """
        number = ffi.new("uv_os_fd_t *")
        check(lib.uv_fileno(self._base(), number))
        return int(number[0])

    def send_buffer_size(self, size: int = 0) -> int:
        """Ask for, or set, the size of the kernel's send buffer in bytes (uv_send_buffer_size).

        Arguments:
            size: 0 asks. Linux doubles what is set, and tells the doubled size.

        Returns:
            The size asked for, or `size`.

        Raises:
            OSError: no socket yet, or the system refused.
        """
        return self._buffer_size(lib.uv_send_buffer_size, size)

    def recv_buffer_size(self, size: int = 0) -> int:
        """Ask for, or set, the size of the kernel's receive buffer in bytes (uv_recv_buffer_size).

        Arguments, result and errors are those of `send_buffer_size()`.
        """
        return self._buffer_size(lib.uv_recv_buffer_size, size)

    def _buffer_size(self, function: Any, size: int) -> int:
        value = ffi.new("int *", size)
        check(function(self._base(), value))
        return int(value[0])
