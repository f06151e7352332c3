"""libuv's chapter "FS Event handle"."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import IntFlag
from typing import Any, TypeVar

from loopfast.uv._base import BaseLoop, Cell, checked_callable, file_path, from_libuv, text_from
from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check, error
from loopfast.uv.handle import Handle

__all__ = ["FSEvent", "FSEventFlag", "FSEventKind"]

_ON_FS_EVENT = ffi.addressof(lib, "loopfast_on_fs_event")
_Self = TypeVar("_Self", bound="FSEvent")


class FSEventKind(IntFlag):
    """uv_fs_event: what happened."""

    #: Something appeared, disappeared or got another name.
    RENAME = lib.UV_RENAME
    #: Contents or attributes changed.
    CHANGE = lib.UV_CHANGE


class FSEventFlag(IntFlag):
    """uv_fs_event_flags."""

    #: Not implemented by libuv.
    WATCH_ENTRY = lib.UV_FS_EVENT_WATCH_ENTRY
    #: Not implemented by libuv.
    STAT = lib.UV_FS_EVENT_STAT
    #: Subdirectories, too (macOS and Windows).
    RECURSIVE = lib.UV_FS_EVENT_RECURSIVE


class FSEvent(Handle):
    """Tells of changes of a file, or in a directory, as the system sees them (uv_fs_event_t).

    Arguments:
        loop: the loop it belongs to.
    """

    _c_type = "uv_fs_event_t"

    def __init__(self, loop: BaseLoop) -> None:
        self._create(loop, lib.uv_fs_event_init)

    def start(
        self: _Self,
        callback: Callable[[_Self, str | None, FSEventKind, Exception | None], object],
        path: Any,
        flags: FSEventFlag | int = 0,
    ) -> None:
        """Call `callback(fs_event, filename, events, error)` for changes of `path` (uv_fs_event_start).

        `filename` is relative to the directory, and None where the system does not tell.

        Raises:
            OSError: EINVAL, it is active; FileNotFoundError and what else the system says, with the path.
            RuntimeError: the handle is closed.
        """
        handle = self._use()
        checked_callable(callback)
        check(lib.uv_fs_event_start(handle, _ON_FS_EVENT, file_path(path), int(FSEventFlag(flags))), path)
        self._callback = callback
        self._keep()

    def stop(self) -> None:
        """Watch no more (uv_fs_event_stop)."""
        check(lib.uv_fs_event_stop(self._use()))
        self._unkeep()

    def getpath(self) -> str:
        """What is watched (uv_fs_event_getpath).

        Raises:
            OSError: EINVAL, it is not active.
        """
        handle = self._use()
        return os.fsdecode(text_from(lambda room, size: lib.uv_fs_event_getpath(handle, room, size), check))


@from_libuv
def _py_fs_event(pointer: Any, filename: Any, events: int, status: int) -> None:
    cell: Cell = ffi.from_handle(pointer.data)
    handle = cell.owner()
    if handle is not None:
        name = None if filename == ffi.NULL else os.fsdecode(ffi.string(filename))
        failure = error(status) if status < 0 else None
        cell.loop._call(handle._callback, handle, name, FSEventKind(events), failure)
