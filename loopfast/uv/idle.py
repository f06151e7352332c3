"""libuv's chapter "Idle handle"."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from loopfast.uv._base import BaseLoop, checked_callable
from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check
from loopfast.uv.handle import Handle

__all__ = ["Idle"]

_ON_IDLE = ffi.addressof(lib, "loopfast_on_idle")
_Self = TypeVar("_Self", bound="Idle")


class Idle(Handle):
    """Calls back in every turn of the loop, which does not wait for events while this is active (uv_idle_t).

    Arguments:
        loop: the loop it belongs to.
    """

    _c_type = "uv_idle_t"

    def __init__(self, loop: BaseLoop) -> None:
        self._create(loop, lib.uv_idle_init)

    def start(self: _Self, callback: Callable[[_Self], object]) -> None:
        """Call `callback(idle)` from the next turn on (uv_idle_start). An active handle gets the new callback.

        Raises:
            TypeError: the callback cannot be called.
            RuntimeError: the handle is closed.
        """
        handle = self._use()
        checked_callable(callback)
        check(lib.uv_idle_start(handle, _ON_IDLE))
        self._callback = callback
        self._keep()

    def stop(self) -> None:
        """Call back no more (uv_idle_stop)."""
        check(lib.uv_idle_stop(self._use()))
        self._unkeep()
