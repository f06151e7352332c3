"""libuv's chapter "Async handle"."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from loopfast.uv._base import BaseLoop, callable_or_none
from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check
from loopfast.uv.handle import Handle

__all__ = ["Async"]

_ON_ASYNC = ffi.addressof(lib, "loopfast_on_async")
_Self = TypeVar("_Self", bound="Async")


def _nothing(_: Async) -> None:
    pass


class Async(Handle):
    """Wakes the loop from any thread (uv_async_t). It is active, and keeps the loop running, until it is closed.

    Arguments:
        loop: the loop it belongs to.
        callback: called as `callback(async_)` in the loop's thread after `send()`; None: only wake the loop.
    """

    _c_type = "uv_async_t"

    def __init__(self: _Self, loop: BaseLoop, callback: Callable[[_Self], object] | None = None) -> None:
        callable_or_none(callback)
        self._create(loop, lib.uv_async_init, _ON_ASYNC)
        self._callback = callback or _nothing
        self._keep()

    def send(self) -> None:
        """Have the callback called, soon and once for several calls (uv_async_send). May be called from any thread.

        Raises:
            RuntimeError: the handle is closed.
        """
        cell = self._cell
        if cell is None:
            raise self._refusal()
        # The loop closes under the same lock.
        with cell.loop._lock:
            if cell.closing or cell.loop._pointer is None:
                raise self._refusal()
            check(lib.uv_async_send(cell.typed))
