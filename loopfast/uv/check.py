"""libuv's chapter "Check handle"."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from loopfast.uv._base import BaseLoop, checked_callable
from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check
from loopfast.uv.handle import Handle

__all__ = ["Check"]

_ON_CHECK = ffi.addressof(lib, "loopfast_on_check")
_Self = TypeVar("_Self", bound="Check")


class Check(Handle):
    """Calls back in every turn of the loop, right after it has waited for events (uv_check_t).

    Arguments:
        loop: the loop it belongs to.
    """

    _c_type = "uv_check_t"

    def __init__(self, loop: BaseLoop) -> None:
        self._create(loop, lib.uv_check_init)

    def start(self: _Self, callback: Callable[[_Self], object]) -> None:
        """Call `callback(check)` from the next turn on (uv_check_start). An active handle gets the new callback.

        Raises:
            TypeError: the callback cannot be called.
            RuntimeError: the handle is closed.
        """
        handle = self._use()
        checked_callable(callback)
        check(lib.uv_check_start(handle, _ON_CHECK))
        self._callback = callback
        self._keep()

    def stop(self) -> None:
        """Call back no more (uv_check_stop)."""
        check(lib.uv_check_stop(self._use()))
        self._unkeep()
