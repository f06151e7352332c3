"""libuv's chapter "FS Poll handle"."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from loopfast.uv._base import BaseLoop, Cell, checked_callable, file_path, from_libuv, text_from, whole_number
from loopfast.uv._stat import Stat, make_stat
from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check, error
from loopfast.uv.handle import Handle

__all__ = ["FSPoll"]

_ON_FS_POLL = ffi.addressof(lib, "loopfast_on_fs_poll")
_Self = TypeVar("_Self", bound="FSPoll")


class FSPoll(Handle):
    """Tells of changes of a file by looking at it now and then, which works on every file system (uv_fs_poll_t).

    Arguments:
        loop: the loop it belongs to.
    """

    _c_type = "uv_fs_poll_t"

    def __init__(self, loop: BaseLoop) -> None:
        self._create(loop, lib.uv_fs_poll_init)

    def start(
        self: _Self,
        callback: Callable[[_Self, Stat, Stat, Exception | None], object],
        path: Any,
        interval_ms: int,
    ) -> None:
        """Look at `path` every `interval_ms` milliseconds (uv_fs_poll_start).

        `callback(fs_poll, previous, current, error)` is called when something has changed, and once for an error, such
        as a file that is gone.

        Raises:
            OSError: EALREADY, it is active.
            RuntimeError: the handle is closed.
        """
        handle = self._use()
        checked_callable(callback)
        interval = whole_number(interval_ms, "interval_ms", 0xFFFFFFFF)
        if self.active:
            raise error(lib.UV_EALREADY)
        check(lib.uv_fs_poll_start(handle, _ON_FS_POLL, file_path(path), interval), path)
        self._callback = callback
        self._keep()

    def stop(self) -> None:
        """Look no more (uv_fs_poll_stop)."""
        check(lib.uv_fs_poll_stop(self._use()))
        self._unkeep()

    def getpath(self) -> str:
        """What is watched (uv_fs_poll_getpath).

        Raises:
            OSError: EINVAL, it is not active.
        """
        handle = self._use()
        return os.fsdecode(text_from(lambda room, size: lib.uv_fs_poll_getpath(handle, room, size), check))


@from_libuv
def _py_fs_poll(pointer: Any, status: int, prev: Any, curr: Any) -> None:
    cell: Cell = ffi.from_handle(pointer.data)
    handle = cell.owner()
    if handle is not None:
        failure = error(status) if status < 0 else None
        cell.loop._call(handle._callback, handle, make_stat(prev), make_stat(curr), failure)
