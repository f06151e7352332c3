"""libuv's chapter "Timer handle"."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from loopfast.uv._base import BaseLoop, checked_callable, whole_number
from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check
from loopfast.uv.handle import Handle

__all__ = ["Timer"]

_ON_TIMER = ffi.addressof(lib, "loopfast_on_timer")
_MOST = (1 << 64) - 1
_Self = TypeVar("_Self", bound="Timer")


class Timer(Handle):
    """Calls back after a time, once or again and again (uv_timer_t). Times are whole milliseconds of the loop's clock.

    Arguments:
        loop: the loop it belongs to.
    """

    _c_type = "uv_timer_t"

    def __init__(self, loop: BaseLoop) -> None:
        self._create(loop, lib.uv_timer_init)

    def start(self: _Self, callback: Callable[[_Self], object], timeout_ms: int, repeat_ms: int = 0) -> None:
        """Call `callback(timer)` after `timeout_ms`, and then every `repeat_ms` unless that is 0 (uv_timer_start).

        The time counts from `loop.now()`, which is the start of this turn. A timer that runs is started anew.

        Raises:
            TypeError, ValueError: the callback cannot be called; a time is no int or is negative.
            RuntimeError: the handle is closed.
        """
        timer = self._use()
        checked_callable(callback)
        timeout, repeat = whole_number(timeout_ms, "timeout_ms", _MOST), whole_number(repeat_ms, "repeat_ms", _MOST)
        check(lib.uv_timer_start(timer, _ON_TIMER, timeout, repeat))
        self._callback = callback
        self._keep()

    def stop(self) -> None:
        """Call back no more (uv_timer_stop)."""
        check(lib.uv_timer_stop(self._use()))
        self._unkeep()

    def again(self) -> None:
        """Start anew with `repeat` as the timeout (uv_timer_again); without a repeat it stops as if it were done.

        Raises:
            OSError: EINVAL, it was never started.
        """
        check(lib.uv_timer_again(self._use()))
        if self.active:
            self._keep()

    @property
    def repeat(self) -> int:
        """The milliseconds between two calls, 0 for a single one (uv_timer_get_repeat, uv_timer_set_repeat).

        What is set is used after the next call.
        """
        return int(lib.uv_timer_get_repeat(self._use()))

    @repeat.setter
    def repeat(self, repeat_ms: int) -> None:
        lib.uv_timer_set_repeat(self._use(), whole_number(repeat_ms, "repeat", _MOST))

    @property
    def due_in(self) -> int:
        """The milliseconds from `loop.now()` until it is due, 0 if it is not running (uv_timer_get_due_in)."""
        return int(lib.uv_timer_get_due_in(self._use()))
