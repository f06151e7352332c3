"""libuv's chapter "Error handling": status codes as exceptions, by the same table as everywhere else in loopfast."""

from __future__ import annotations

import os
import socket
from typing import Any

from loopfast.uv._uv import ffi, lib

#: Codes without an errno: those of the resolver.
_RESOLVER = {
    lib.UV_EAI_AGAIN: socket.EAI_AGAIN,
    lib.UV_EAI_FAMILY: socket.EAI_FAMILY,
    lib.UV_EAI_FAIL: socket.EAI_FAIL,
    lib.UV_EAI_MEMORY: socket.EAI_MEMORY,
    lib.UV_EAI_NONAME: socket.EAI_NONAME,
    lib.UV_EAI_SERVICE: socket.EAI_SERVICE,
    lib.UV_EAI_SOCKTYPE: socket.EAI_SOCKTYPE,
}
#: libuv's own codes have numbers from here on down, where they are not errno values.
_OWN_CODES = -4000


def err_name(code: int) -> str:
    """The name of a status code, such as "EBADF" (uv_err_name). An unknown code has "Unknown system error N"."""
    return _text(lib.uv_err_name(code))


def strerror(code: int) -> str:
    """libuv's text for a status code, such as "bad file descriptor" (uv_strerror)."""
    return _text(lib.uv_strerror(code))


def translate_sys_error(number: int) -> int:
    """The status code for an errno of the system, on Windows a Win32 error number (uv_translate_sys_error)."""
    code: int = lib.uv_translate_sys_error(number)
    return code


def error(code: int, filename: Any = None) -> Exception:
    """The exception for a negative status code, not raised.

    Arguments:
        code: a negative libuv status.
        filename: what an `OSError` names as the file concerned.

    Returns:
        An `OSError` of the subclass that its errno picks, `socket.gaierror`, `MemoryError`, or `EOFError` for UV_EOF.

    Raises:
        ValueError: `code` is not negative.
    """
    if code >= 0:
        raise ValueError(f"a libuv error code is negative, got {code!r}")
    if code == lib.UV_EOF:
        return EOFError(strerror(code))
    if code == lib.UV_ENOMEM:
        return MemoryError(strerror(code))
    if code in _RESOLVER:
        return socket.gaierror(_RESOLVER[code], strerror(code))
    if code > _OWN_CODES:
        if filename is not None:
            return OSError(-code, os.strerror(-code), filename)
        return OSError(-code, os.strerror(-code))
    return OSError(f"libuv error {err_name(code)} ({code}): {strerror(code)}")


def check(code: int, filename: Any = None) -> int:
    """Return a result that is not negative, raise what `error()` makes of one that is."""
    if code < 0:
        raise error(code, filename)
    return code


def _text(chars: Any) -> str:
    """A NUL-terminated C string of libuv's, which are all ASCII."""
    text: str = ffi.string(chars).decode("ascii")
    return text
