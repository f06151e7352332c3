"""libuv's chapter "Prepare handle"."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from loopfast.uv._base import BaseLoop, checked_callable
from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check
from loopfast.uv.handle import Handle

__all__ = ["Prepare"]

_ON_PREPARE = ffi.addressof(lib, "loopfast_on_prepare")
_Self = TypeVar("_Self", bound="Prepare")


class Prepare(Handle):
    """Calls back in every turn of the loop, right before it waits for events (uv_prepare_t).

    Arguments:
        loop: the loop it belongs to.
    """

    _c_type = "uv_prepare_t"

    def __init__(self, loop: BaseLoop) -> None:
        self._create(loop, lib.uv_prepare_init)

    def start(self: _Self, callback: Callable[[_Self], object]) -> None:
        """Call `callback(prepare)` from the next turn on (uv_prepare_start). An active handle gets the new callback.

        Raises:
            TypeError: the callback cannot be called.
            RuntimeError: the handle is closed.
        """
        handle = self._use()
        checked_callable(callback)
        check(lib.uv_prepare_start(handle, _ON_PREPARE))
        self._callback = callback
        self._keep()

    def stop(self) -> None:
        """Call back no more (uv_prepare_stop)."""
        check(lib.uv_prepare_stop(self._use()))
        self._unkeep()
