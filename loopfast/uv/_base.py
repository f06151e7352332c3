"""What loops, handles and requests have in common: who may call into a loop, what is kept alive for how long, and where
an exception raised by a callback goes.

libuv knows no locks and no errors of use: a call from the wrong thread, on a closed handle or on freed memory is
undefined. Everything that would be is refused here, before libuv sees it.
"""

from __future__ import annotations

import atexit
import errno
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from loopfast.uv._uv import ffi, lib

#: Forks between the import of this module and this process.
_forks = 0
_get_ident = threading.get_ident
_loops: weakref.WeakSet[BaseLoop] = weakref.WeakSet()
#: Closed loops of asyncio of which libuv still has something in use.
_lingering: set[BaseLoop] = set()

ON_CLOSE = ffi.addressof(lib, "loopfast_on_close")


def _count_fork() -> None:
    global _forks
    _forks += 1
    lib.loopfast_forget_work()


def _at_exit() -> None:
    """libuv's threads go on while the interpreter is taken down: no Python function may run there, no memory go."""
    lib.loopfast_end_work()
    for loop in list(_loops):
        if loop._requests:
            lib.loopfast_keep_forever(id(loop))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)
atexit.register(_at_exit)


class _Owned(Protocol):
    """What the `data` of libuv's handles and requests refers to: a Cell or a Request."""

    loop: BaseLoop


class Unique:
    """Refuses to be copied: two objects would own the same memory of libuv's."""

    def __reduce__(self) -> Any:
        raise TypeError(f"cannot copy or pickle {type(self).__name__!r} object")


def zeroed(c_type: str) -> Any:
    """Return memory for a *c_type*, all zero.

    Raises:
        ValueError: no C type can have that name. cffi crashes where it cannot encode one.
    """
    if not c_type.isascii():
        raise ValueError(f"no C type is called {c_type!r}")
    return ffi.new(c_type + " *")


class Cell:
    """The C half of a handle. It lives from the initialisation to the close callback, longer than its `Handle` may.

    Its loop holds it all that time. `kept` is the handle while libuv may call back, so that nobody else need hold it.
    """

    __slots__ = (
        "address",
        "base",
        "closing",
        "extra",
        "finish",
        "handle",
        "kept",
        "loop",
        "memory",
        "on_close",
        "token",
        "typed",
    )

    def __init__(self, loop: BaseLoop, handle: Any, c_type: str) -> None:
        self.loop = loop
        self.memory = zeroed(c_type)
        self.typed = self.memory
        self.base = ffi.cast("uv_handle_t *", self.memory)
        self.address = int(ffi.cast("uintptr_t", self.memory))
        self.handle = weakref.ref(handle)
        self.kept: Any = None
        self.closing = False
        self.on_close: Callable[[Any], object] | None = None
        #: More memory that libuv may use as long as the handle.
        self.extra: Any = None
        #: What is to be done when libuv has let go of it, even if the handle is gone by then.
        self.finish: Callable[[], object] | None = None
        self.token = ffi.new_handle(self)

    def owner(self) -> Any:
        """The handle, or None if it is gone."""
        return self.kept or self.handle()

    def close(self) -> None:
        """Hand the memory to libuv, until _py_close(). Once only."""
        if not self.closing:
            self.closing = True
            lib.uv_close(self.base, ON_CLOSE)


class BaseLoop(Unique):
    """What handles and requests need of their loop. Use `Loop`."""

    #: The uv_loop_t, None once the loop is closed.
    _pointer: Any = None
    _forks = 0
    #: The thread that runs the loop.
    _runner: int | None = None

    def _set_up(self, pointer: Any) -> None:
        self._pointer = pointer
        self._forks = _forks
        self._cells: dict[int, Cell] = {}
        #: Requests that libuv has, with all they keep alive.
        self._requests: set[Any] = set()
        #: Handles that were dropped where they could not be closed.
        self._dropped: deque[Cell] = deque()
        #: Against Async.send(), which other threads and signal handlers may call while the loop closes.
        self._lock = threading.RLock()
        _loops.add(self)

    # ------------------------------------------------------------------------------------------------- who may call

    def _enter(self) -> Any:
        """The uv_loop_t *, where the calling thread may use it now."""
        pointer = self._pointer
        runner = self._runner
        if pointer is None or self._forks != _forks or (runner is not None and runner != _get_ident()):
            raise self._refusal()
        return pointer

    def _refusal(self) -> RuntimeError:
        """Why this loop cannot be used here and now."""
        if self._pointer is None:
            return RuntimeError(f"{self!r} is closed")
        if self._forks != _forks:
            return RuntimeError(f"{self!r} was made before a fork: call its fork() in the child before anything else")
        return RuntimeError(
            f"{self!r} runs in thread {self._runner}, and only this thread may use it and its handles; "
            "Async.send() is for the others"
        )

    def _runs_elsewhere(self) -> bool:
        return self._runner is not None and self._runner != _get_ident()

    # ------------------------------------------------------------------------------------------------- errors

    def _call(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Call back from libuv: nothing may be raised into C."""
        try:
            callback(*arguments)
        except BaseException as exc:
            self._fail(exc, callback)

    def _fail(self, exc: BaseException, callback: Callable[..., object] | None) -> None:
        """Keep what a callback raised until it can be raised or reported."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------- handles

    def _drop(self, cell: Cell) -> None:
        """The handle was collected, maybe in another thread."""
        if self._pointer is None or self._forks != _forks:
            return
        if self._runs_elsewhere():
            self._dropped.append(cell)
        else:
            cell.close()

    def _sweep(self) -> None:
        """Close the handles that other threads dropped."""
        while self._dropped:
            self._dropped.popleft().close()

    def _refuse_taken(self, descriptor: int) -> None:
        """OSError if a stream or UDP handle of this loop has the descriptor: both would close it."""
        number = ffi.new("uv_os_fd_t *")
        for cell in self._cells.values():
            if (
                not cell.closing
                and lib.uv_fileno(cell.base, number) == 0
                and number[0] == descriptor
                and lib.uv_handle_get_type(cell.base) != lib.UV_POLL
            ):
                raise OSError(
                    errno.EEXIST, f"{os.strerror(errno.EEXIST)}: {cell.owner()!r} has descriptor {descriptor}"
                )

    def _close_cells(self) -> None:
        """Close every handle and cancel every request."""
        self._sweep()
        for cell in list(self._cells.values()):
            if not cell.closing:
                cell.kept = cell.owner()
                cell.close()
        for request in list(self._requests):
            lib.uv_cancel(request._base)

    def _released(self) -> None:
        """A handle or request is gone from libuv."""
        if self._pointer is None and not self._cells and not self._requests:
            _lingering.discard(self)


def on_error(_: Any, exc: BaseException, traceback: Any) -> None:
    """What was raised around a callback rather than in it: a signal handler may raise anywhere."""
    pointer = traceback.tb_frame.f_locals["pointer"]
    holder: _Owned = ffi.from_handle(pointer.data)
    holder.loop._fail(exc, None)


def from_libuv(function: Callable[..., None]) -> Callable[..., None]:
    """Make `_py_x` the `loopfast_py_x` of _build.py. Its first parameter must be called `pointer`."""
    defined: Callable[..., None] = ffi.def_extern("loopfast" + function.__name__, onerror=on_error)(function)
    return defined


@from_libuv
def _py_close(pointer: Any) -> None:
    cell: Cell = ffi.from_handle(pointer.data)
    loop, handle, callback = cell.loop, cell.owner(), cell.on_close
    _token = cell.token  # alive as long as this frame, for on_error()
    loop._cells.pop(cell.address, None)
    cell.kept = cell.on_close = cell.token = None
    if cell.finish is not None:
        loop._call(cell.finish)
    if callback is not None:
        loop._call(callback, handle)
    loop._released()


@from_libuv
def _py_event(pointer: Any) -> None:
    cell: Cell = ffi.from_handle(pointer.data)
    handle = cell.owner()
    if handle is not None:
        cell.loop._call(handle._callback, handle)
        if not cell.closing and not lib.uv_is_active(cell.base):
            cell.kept = None


@from_libuv
def _py_request(pointer: Any, status: int) -> None:
    request = ffi.from_handle(pointer.data)
    loop = request.loop
    _token = request._token  # alive as long as this frame, for on_error()
    loop._requests.discard(request)
    request._token = None
    request._finish(status)
    loop._released()


def callable_or_none(callback: Any, what: str = "callback") -> Any:
    """Raise TypeError unless `callback` can be called or is None."""
    if callback is not None and not callable(callback):
        raise TypeError(f"{what} must be callable or None, got {callback!r}")
    return callback


def checked_callable(callback: Any, what: str = "callback") -> Any:
    """Raise TypeError unless `callback` can be called."""
    if not callable(callback):
        raise TypeError(f"{what} must be callable, got {callback!r}")
    return callback


def whole_number(value: Any, what: str, most: int) -> int:
    """An int between 0 and `most`: TypeError for what is none, ValueError outside."""
    if not hasattr(value, "__index__"):
        raise TypeError(f"{what} must be an int, got {value!r}")
    number = int(value.__index__())
    if not 0 <= number <= most:
        raise ValueError(f"{what} must be between 0 and {most}, got {value!r}")
    return number


def file_path(path: Any) -> bytes:
    """A path as the system wants it: TypeError for what is none, ValueError for one with a NUL character."""
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise ValueError(f"embedded null byte in {path!r}")
    return encoded


def descriptor(file: Any) -> int:
    """The descriptor `file` is or has: TypeError or ValueError otherwise."""
    number = file if isinstance(file, int) else None
    if number is None:
        method = getattr(file, "fileno", None)
        if method is None:
            raise TypeError(f"a descriptor or an object with fileno() is needed, got {file!r}")
        number = int(method())
    if not 0 <= number < 1 << 31:
        raise ValueError(f"invalid file descriptor: {number} of {file!r}")
    return number


def text_from(function: Callable[[Any, Any], int], check: Callable[..., int], size: int = 256) -> bytes:
    """Call one of libuv's functions that fill a buffer and tell the size it should have had."""
    while True:
        buffer, length = ffi.new("char[]", size), ffi.new("size_t *", size)
        status = function(buffer, length)
        if status != lib.UV_ENOBUFS or size > 1 << 20:
            check(status)
            filled: bytes = ffi.buffer(buffer, length[0])[:]
            return filled
        size = max(size * 2, int(length[0]) + 1)
