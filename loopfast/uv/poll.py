"""libuv's chapter "Poll handle"."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import IntFlag
from typing import Any, TypeVar

from loopfast.uv._base import BaseLoop, Cell, checked_callable, descriptor, from_libuv
from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check, error
from loopfast.uv.handle import Handle

__all__ = ["Poll", "PollEvent"]

_ON_POLL = ffi.addressof(lib, "loopfast_on_poll")
_Self = TypeVar("_Self", bound="Poll")


class PollEvent(IntFlag):
    """uv_poll_event: what a descriptor is watched for."""

    READABLE = lib.UV_READABLE
    WRITABLE = lib.UV_WRITABLE
    #: The other end has gone; not every system tells.
    DISCONNECT = lib.UV_DISCONNECT
    #: Out-of-band data.
    PRIORITIZED = lib.UV_PRIORITIZED


_ALL = PollEvent.READABLE | PollEvent.WRITABLE | PollEvent.DISCONNECT | PollEvent.PRIORITIZED


class Poll(Handle):
    """Watches a descriptor that belongs to somebody else (uv_poll_t).

    Close or stop the handle before the descriptor is closed. A descriptor has one such handle at a time. On Windows
    only sockets can be watched.

    Arguments:
        loop: the loop it belongs to.
        file: a descriptor, or an object with fileno(), which the handle then keeps; libuv makes it non-blocking.

    Raises:
        OSError: EBADF, it is not open; EPERM, it is a regular file; EEXIST, the loop watches it already.
    """

    _c_type = "uv_poll_t"

    def __init__(self, loop: BaseLoop, file: Any) -> None:
        number = descriptor(file)
        self._file = file
        self._create(loop, lib.uv_poll_init if os.name != "nt" else lib.uv_poll_init_socket, number)

    def start(
        self: _Self, callback: Callable[[_Self, PollEvent, Exception | None], object], events: PollEvent | int
    ) -> None:
        """Call `callback(poll, events, error)` whenever one of `events` has come (uv_poll_start).

        The events are those that are there: a callback that does not read is called again in the next turn. `error` is
        None, or why the descriptor cannot be watched. A handle that is active gets the new callback and events.

        Raises:
            ValueError: no events, or others than `PollEvent` has.
            OSError: EEXIST, another handle watches the descriptor.
            RuntimeError: the handle is closed.
        """
        poll = self._use()
        checked_callable(callback)
        if not 0 < int(events) <= int(_ALL):
            raise ValueError(f"events must be some of {_ALL!r}, got {events!r}")
        check(lib.uv_poll_start(poll, int(events), _ON_POLL))
        self._callback = callback
        self._keep()

    def stop(self) -> None:
        """Watch no more (uv_poll_stop)."""
        check(lib.uv_poll_stop(self._use()))
        self._unkeep()


@from_libuv
def _py_poll(pointer: Any, status: int, events: int) -> None:
    cell: Cell = ffi.from_handle(pointer.data)
    poll = cell.owner()
    if poll is not None:
        if status < 0 and not cell.closing and not lib.uv_is_active(cell.base):
            cell.kept = None
        cell.loop._call(poll._callback, poll, PollEvent(events), error(status) if status < 0 else None)
