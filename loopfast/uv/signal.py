"""libuv's chapter "Signal handle"."""

from __future__ import annotations

import contextlib
import signal as python_signal
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from loopfast.uv._base import BaseLoop, Cell, checked_callable, from_libuv, whole_number
from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check
from loopfast.uv.handle import Handle

__all__ = ["Signal"]

_ON_SIGNAL = ffi.addressof(lib, "loopfast_on_signal")
_Self = TypeVar("_Self", bound="Signal")
#: How many of our handles wait for each signal, in all loops.
_watched: Counter[int] = Counter()


class Signal(Handle):
    """Calls back when a signal has arrived (uv_signal_t); every handle for it, in every loop.

    While there is one, libuv has the signal and Python's own handler, such as the one that raises KeyboardInterrupt,
    does not see it. When the last one stops in the main thread, Python's handler is in force again.

    Arguments:
        loop: the loop it belongs to.
    """

    _c_type = "uv_signal_t"
    #: What it waits for, None while it is stopped.
    _number: int | None = None
    _once = False

    def __init__(self, loop: BaseLoop) -> None:
        self._create(loop, lib.uv_signal_init)

    def start(self: _Self, callback: Callable[[_Self, int], object], signum: int) -> None:
        """Call `callback(signal, signum)` for each arrival (uv_signal_start). An active handle is started anew.

        Raises:
            OSError: EINVAL, the signal does not exist or cannot be handled.
            RuntimeError: the handle is closed, or was started for one arrival before, which libuv never forgets.
        """
        if self._once:
            raise RuntimeError(f"{self!r} was started for one arrival before: use another handle")
        self._start(lib.uv_signal_start, callback, signum)

    def start_oneshot(self: _Self, callback: Callable[[_Self, int], object], signum: int) -> None:
        """The same for the next arrival only (uv_signal_start_oneshot).

        A handle that was started so once cannot be started otherwise, nor again in the callback.
        """
        self._once = True
        self._start(lib.uv_signal_start_oneshot, callback, signum)

    def stop(self) -> None:
        """Wait no more (uv_signal_stop)."""
        check(lib.uv_signal_stop(self._use()))
        self._stopped()
        self._unkeep()

    @property
    def signum(self) -> int | None:
        """The signal it waits for, None while it is stopped."""
        return self._number

    def close(self: _Self, callback: Callable[[_Self], object] | None = None) -> None:
        """Wait no more and close the handle. See `Handle.close()`."""
        super().close(callback)
        self._stopped()

    def _start(self, function: Any, callback: Any, signum: int) -> None:
        handle = self._use()
        checked_callable(callback)
        number = whole_number(signum, "signum", 0x7FFFFFFF)
        check(function(handle, _ON_SIGNAL, number))
        self._callback = callback
        if self._number != number:
            self._stopped()
            self._number = number
            _watched[number] += 1
        self._keep()

    def _stopped(self) -> None:
        number, self._number = self._number, None
        if number is not None:
            _watched[number] -= 1
            if not _watched[number]:
                give_back(number)


def give_back(number: int) -> None:
    """Put Python's handler in force again: libuv leaves a signal with the system's default."""
    handler = python_signal.getsignal(number)
    if handler is not None:
        with contextlib.suppress(ValueError):  # not the main thread
            python_signal.signal(number, handler)


@from_libuv
def _py_signal(pointer: Any, signum: int) -> None:
    cell: Cell = ffi.from_handle(pointer.data)
    handle = cell.owner()
    if handle is not None:
        callback = handle._callback
        if not handle._once:
            cell.loop._call(callback, handle, signum)
            return
        # libuv stops it after the callback, which must find that the signal is Python's again.
        cell.loop._call(handle.stop)
        cell.loop._call(callback, handle, signum)
        if not cell.closing:
            cell.loop._call(handle.stop)
