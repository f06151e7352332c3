"""libuv's chapter "TTY handle"."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from loopfast.uv._base import BaseLoop, descriptor
from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check
from loopfast.uv.stream import Stream

__all__ = ["TTY", "TTYMode", "VTermState", "tty_get_vterm_state", "tty_reset_mode", "tty_set_vterm_state"]


class TTYMode(IntEnum):
    """uv_tty_mode_t."""

    #: As it was at first.
    NORMAL = lib.UV_TTY_MODE_NORMAL
    #: Every key is input at once; nothing is echoed, nothing is a signal.
    RAW = lib.UV_TTY_MODE_RAW
    #: Bytes pass unchanged in both directions (not on Windows).
    IO = lib.UV_TTY_MODE_IO
    #: RAW, on Windows with sequences of a virtual terminal.
    RAW_VT = lib.UV_TTY_MODE_RAW_VT


class VTermState(IntEnum):
    """uv_tty_vtermstate_t: whether the console understands sequences of a virtual terminal (Windows)."""

    SUPPORTED = lib.UV_TTY_SUPPORTED
    UNSUPPORTED = lib.UV_TTY_UNSUPPORTED


class TTY(Stream):
    """A terminal (uv_tty_t).

    Arguments:
        loop: the loop it belongs to.
        file: the terminal's descriptor, or an object with fileno(). libuv opens the terminal anew where it can, so that
            the descriptor of the other users stays blocking.

    Raises:
        OSError: EINVAL, it is no terminal.
    """

    _c_type = "uv_tty_t"

    def __init__(self, loop: BaseLoop, file: Any) -> None:
        self._create(loop, lib.uv_tty_init, descriptor(file), 0)

    def set_mode(self, mode: TTYMode | int) -> None:
        """Change the terminal's mode (uv_tty_set_mode). `tty_reset_mode()` puts it back."""
        check(lib.uv_tty_set_mode(self._use(), int(TTYMode(mode))))

    def get_winsize(self) -> tuple[int, int]:
        """Width and height of the window in characters (uv_tty_get_winsize)."""
        width, height = ffi.new("int *"), ffi.new("int *")
        check(lib.uv_tty_get_winsize(self._use(), width, height))
        return int(width[0]), int(height[0])


def tty_reset_mode() -> None:
    """Put the terminal into its first mode (uv_tty_reset_mode), before the process ends.

    Raises:
        OSError: EBUSY, `TTY.set_mode()` is at work in another thread.
    """
    check(lib.uv_tty_reset_mode())


def tty_set_vterm_state(state: VTermState | int) -> None:
    """Say whether the console understands sequences of a virtual terminal (uv_tty_set_vterm_state; Windows)."""
    lib.uv_tty_set_vterm_state(int(VTermState(state)))


def tty_get_vterm_state() -> VTermState:
    """Ask whether it does (uv_tty_get_vterm_state).

    Raises:
        OSError: ENOTSUP, this is not Windows.
    """
    state = ffi.new("uv_tty_vtermstate_t *")
    check(lib.uv_tty_get_vterm_state(state))
    return VTermState(state[0])
